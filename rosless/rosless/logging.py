"""rclpy.logging: severities per logger, lines on stderr, filters per call site, /rosout sinks.

Knows no publisher: a node registers a function that takes its log records.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
import sys
import time
from typing import Any

from rosless.duration import S_TO_NS

SEPARATOR = '.'


class LoggingSeverity(IntEnum):
    """Severity of a record, and least severity that a logger lets through."""

    UNSET = 0
    DEBUG = 10
    INFO = 20
    WARN = 30
    ERROR = 40
    FATAL = 50


@dataclass(frozen=True)
class LogRecord:
    """One line of the log, with the place in the code that wrote it."""

    stamp_ns: int
    severity: LoggingSeverity
    name: str
    message: str
    file: str
    function: str
    line: int


_levels: dict[str, LoggingSeverity] = {}  # '' is the default of all
_sinks: dict[str, Callable[[LogRecord], None]] = {}  # logger name of a node -> its /rosout


def set_logger_level(name: str, level: int) -> None:
    """Set the least severity of a logger and of those below it; '' is the default of all."""
    _levels[name] = LoggingSeverity(level)


def get_logger_effective_level(name: str) -> LoggingSeverity:
    """Level of the nearest logger above that has one, INFO if none has."""
    return _find_nearest(_levels, name) or LoggingSeverity.INFO


def add_sink(name: str, sink: Callable[[LogRecord], None]) -> None:
    """Hand the records of a logger and of those below it to a function."""
    _sinks[name] = sink


def remove_sink(name: str) -> None:
    """Undo add_sink."""
    _sinks.pop(name, None)


def get_logger(name: str) -> 'Logger':
    """Logger of a name, such as 'ns.node'."""
    return Logger(name)


def _find_nearest(table: dict[str, Any], name: str) -> Any:
    while name and name not in table:
        name = name.rpartition(SEPARATOR)[0]
    return table.get(name)


def _make_writer(severity: LoggingSeverity):
    def write(self, message: str, **filters) -> bool:
        """Write a record of this severity, unless a filter prevents it; returns whether."""
        return self._log(message, severity, filters)

    return write


class Logger:
    """Writes records. Filters keep their state per call site, and a call site keeps its filters:
    another severity or other filters there raise ValueError, as in rclpy.
    """

    def __init__(self, name: str):
        self.name = name
        self._sites: dict[tuple[str, int, int], _CallSite] = {}

    def get_child(self, name: str) -> 'Logger':
        """Logger below this one."""
        if not name:
            raise ValueError('the name of a child logger is not empty')
        return Logger(f'{self.name}{SEPARATOR}{name}' if self.name else name)

    def set_level(self, level: int) -> None:
        """Set the least severity."""
        set_logger_level(self.name, level)

    def get_effective_level(self) -> LoggingSeverity:
        """Least severity that is written."""
        return get_logger_effective_level(self.name)

    def is_enabled_for(self, severity: int) -> bool:
        """Whether a record of a severity would be written."""
        return severity >= self.get_effective_level()

    def log(self, message: str, severity: int, **filters) -> bool:
        """Write a record, unless its severity or a filter prevents it; returns whether."""
        return self._log(message, LoggingSeverity(severity), filters)

    debug = _make_writer(LoggingSeverity.DEBUG)
    info = _make_writer(LoggingSeverity.INFO)
    warning = _make_writer(LoggingSeverity.WARN)
    warn = warning  # its old name
    error = _make_writer(LoggingSeverity.ERROR)
    fatal = _make_writer(LoggingSeverity.FATAL)

    def _log(self, message: str, severity: LoggingSeverity, filters: dict[str, Any]) -> bool:
        if not self.is_enabled_for(severity):
            return False
        frame = sys._getframe(2)  # the caller of info() and its like
        code = frame.f_code
        key = code.co_filename, frame.f_lineno, frame.f_lasti
        site = self._sites.get(key)
        if site is None:
            site = self._sites[key] = _CallSite(severity, filters)
        if not site.lets_through(severity, filters):
            return False
        record = LogRecord(
            time.time_ns(),
            severity,
            self.name,
            str(message),
            code.co_filename,
            code.co_name,
            frame.f_lineno,
        )
        _write(record)
        return True


class _CallSite:
    """State of the filters of one logging call in the code."""

    OPTIONS = ('throttle_duration_sec', 'throttle_time_source_type', 'skip_first', 'once')

    def __init__(self, severity: LoggingSeverity, filters: dict[str, Any]):
        if unknown := [name for name in filters if name not in self.OPTIONS]:
            raise TypeError(f'{unknown} are not among the logging options {self.OPTIONS}')
        if 'throttle_time_source_type' in filters and 'throttle_duration_sec' not in filters:
            raise TypeError('throttle_time_source_type needs throttle_duration_sec')
        self.severity = severity
        self.filters = filters
        self._calls = 0
        self._next_ns = 0

    def lets_through(self, severity: LoggingSeverity, filters: dict[str, Any]) -> bool:
        """Whether this call is written; the state goes on with every call."""
        if severity != self.severity:
            raise ValueError('the severity of a logging call cannot change between calls')
        if filters != self.filters:
            raise ValueError('the filters of a logging call cannot change between calls')
        if filters.get('throttle_duration_sec'):
            clock = filters.get('throttle_time_source_type')
            now_ns = clock.now().nanoseconds if clock else time.time_ns()
            if now_ns < self._next_ns:
                return False
            self._next_ns = now_ns + int(filters['throttle_duration_sec'] * S_TO_NS)
        self._calls += 1
        if filters.get('skip_first') and self._calls == 1:
            return False
        first = 2 if filters.get('skip_first') else 1
        return not filters.get('once') or self._calls == first


def _write(record: LogRecord) -> None:
    seconds, nanoseconds = divmod(record.stamp_ns, S_TO_NS)
    print(
        f'[{record.severity.name}] [{seconds}.{nanoseconds:09d}] [{record.name}]: '
        f'{record.message}',
        file=sys.stderr,
        flush=True,
    )
    if sink := _find_nearest(_sinks, record.name):
        sink(record)
