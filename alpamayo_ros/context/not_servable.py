"""The error that says why a t0 cannot be served, and the text of times relative to t0."""

from __future__ import annotations

from ..data_types import NANOSECONDS, EgoPose, Frame
from .stream import Stream


class NotServable(Exception):
    """There is no context at this t0.

    reason, detail: as in Rejection. waits_for: the stream whose next message could change that.
    """

    def __init__(
        self,
        reason: str,
        detail: str,
        waits_for: Stream[Frame] | Stream[EgoPose] | None = None,
    ) -> None:
        super().__init__(detail)
        self.reason, self.detail, self.waits_for = reason, detail, waits_for


def format_age(age_ns: int) -> str:
    """Format a time before t0: 't0-0.2 s', and 't0' for none."""
    return f't0-{age_ns / NANOSECONDS:.1f} s' if age_ns else 't0'
