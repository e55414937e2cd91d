"""Processes that talk to the node: the player, the recorder, the feeder of a benchmark."""
