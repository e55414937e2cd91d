"""Ops with a fast path on a GPU: each has a plain twin in torch and a kernel in Triton."""
