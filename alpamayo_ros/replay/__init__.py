"""Makes a record from one recording: replayed through the node's code, or a live run."""
