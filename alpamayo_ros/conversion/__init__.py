"""A checkpoint folder to a quantized one: what is planned, and each tensor in turn."""
