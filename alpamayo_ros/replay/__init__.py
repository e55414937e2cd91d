"""One recording to a record: through the code of the live node, or from a live run."""
