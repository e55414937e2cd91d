"""Products of int8 activations with int8 weights: rotation, quantization of rows, product, ops."""
