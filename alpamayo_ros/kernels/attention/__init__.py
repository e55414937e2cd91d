"""Attention of few queries over a long cache, and of prompts."""
