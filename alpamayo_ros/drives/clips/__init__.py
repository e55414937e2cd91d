"""Clips of the makers' data set in the open loop of an evaluation."""
