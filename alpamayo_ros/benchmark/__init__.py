"""Measures speed and memory of the parts: engine, node, quantizing, kernels."""
