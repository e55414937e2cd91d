"""Alpamayo as modules of PyTorch, and its checkpoints. Knows no quantization and no ROS."""
