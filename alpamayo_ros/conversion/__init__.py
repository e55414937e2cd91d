"""Quantizes a checkpoint folder: plans a step for every tensor, then converts one by one."""
