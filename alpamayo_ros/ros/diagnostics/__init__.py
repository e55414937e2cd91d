"""Diagnostics of the node: /diagnostics once a second, and ~/output/status per t0."""
