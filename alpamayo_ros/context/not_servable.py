"""Why a t0 cannot be served, and how times relative to t0 are written in that reason."""

from __future__ import annotations

from ..data_types import NANOSECONDS


class NotServable(Exception):
    """There is no context at this t0.

    reason, detail: as in Rejection. may_come: input that is still missing could change that.
    """

    def __init__(self, reason: str, detail: str, may_come: bool = False) -> None:
        super().__init__(detail)
        self.reason, self.detail, self.may_come = reason, detail, may_come


def format_age(age_ns: int) -> str:
    """Format a time before t0: 't0-0.2 s', and 't0' for none."""
    return f't0-{age_ns / NANOSECONDS:.1f} s' if age_ns else 't0'
