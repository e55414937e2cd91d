"""Clips of nvidia/PhysicalAI-Autonomous-Vehicles, read from a plain folder. Knows no model."""
