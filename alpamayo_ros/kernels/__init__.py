"""Triton kernels, each beside a plain twin in PyTorch. Knows no model."""
