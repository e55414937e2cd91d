"""Replays clips of the makers' data set, summarises them, and makes bags of them."""
