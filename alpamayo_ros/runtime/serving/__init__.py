"""Where the engine of a live node runs: in a thread of the node, or in a process of its own."""
