"""Trains the shipped checkpoint on drives of the synthetic world. Not part of the package."""
