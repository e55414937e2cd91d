"""Errors that a user can act on. Knows no numpy, no torch, no ROS."""


class BadInput(ValueError):
    """Something the user gave cannot be used: one line that says what, where and what was
    expected.

    Commands print it and end with exit code 2; the node reports it in diagnostics.
    """
