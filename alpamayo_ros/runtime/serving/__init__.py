"""Runs the engine of a live node: in a thread of the node, or in a process of its own."""
