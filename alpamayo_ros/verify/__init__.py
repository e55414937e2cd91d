"""Comparison with reference tensors, and checks of a checkpoint by itself."""
