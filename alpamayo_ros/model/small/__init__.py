"""A small untrained checkpoint, written on the spot for demos and tests."""
