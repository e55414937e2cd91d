"""A checkpoint folder to a quantized one: a plan, a calibration on drives, each tensor in turn."""
