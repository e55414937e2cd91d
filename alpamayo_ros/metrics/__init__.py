"""Computes numbers only: displacement errors, driving score, intervals. Knows no files."""
