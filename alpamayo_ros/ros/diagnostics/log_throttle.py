"""Log lines limited by reason: a line of one kind does not silence the others.

rclpy throttles by the line of code, so one frequent warning would hide all that share its call.
"""

from __future__ import annotations

from collections.abc import Callable
import time
from typing import Any

PERIOD_S = 5.0


class LogThrottle:
    """Passes on one line per reason in PERIOD_S; log(severity, text) writes it."""

    def __init__(
        self, log: Callable[[str, str], Any], now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._log, self._now_s = log, now_s
        self._written_s: dict[str, float] = {}

    def warn(self, reason: str, text: str) -> None:
        """Log a warning."""
        self._write('warning', reason, text)

    def report_error(self, reason: str, text: str) -> None:
        """Log an error."""
        self._write('error', reason, text)

    def _write(self, severity: str, reason: str, text: str) -> None:
        now_s = self._now_s()
        if now_s - self._written_s.get(reason, -PERIOD_S) >= PERIOD_S:
            self._written_s[reason] = now_s
            self._log(severity, text)
