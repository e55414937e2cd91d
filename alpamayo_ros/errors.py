"""Errors that a user can act on."""


class BadInput(ValueError):
    """The user gave something unusable: one line says what, where and what was expected.

    Commands print it and end with exit code 2; the node reports it in diagnostics.
    """
