"""Values of a JSON object, each read with its kind checked: a mistake is a BadInput that names it.

`where` in all functions: the file, for the message. Knows no config.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import BadInput

MOST = 10**8  # of a whole number: no size, count or id of a model is larger


def check_facts(
    raw: Mapping[str, Any], facts: Mapping[str, tuple[object, ...]], where: str
) -> None:
    """Raise BadInput where a key of `facts` has another value than one of its tuple, or null."""
    for key, allowed in facts.items():
        if raw.get(key) not in (None, *allowed):
            raise BadInput(f'{where}: {key} is {raw[key]!r:.80}, expected {allowed[0]!r}')


def read_value(raw: Mapping[str, Any], key: str, where: str) -> Any:
    """Read a value of any kind; the key must be there."""
    if key not in raw:
        raise BadInput(f'{where}: the key {key!r} is missing')
    return raw[key]


def read_table(raw: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    """Read an object."""
    table: Mapping[str, Any] = _read_kind(raw, key, where, Mapping, 'an object')
    return table


def read_flag(raw: Mapping[str, Any], key: str, where: str) -> bool:
    """Read true or false."""
    return bool(_read_kind(raw, key, where, bool, 'true or false'))


def read_number(raw: Mapping[str, Any], key: str, where: str) -> float:
    """Read a number, which JSON may also state as NaN or Infinity."""
    value = read_value(raw, key, where)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadInput(f'{where}: {key} is {value!r:.80}, expected a number')
    try:
        return float(value)
    except OverflowError:
        raise BadInput(f'{where}: {key} has {len(str(value))} digits, expected a number') from None


def read_numbers(raw: Mapping[str, Any], key: str, where: str) -> tuple[float, ...]:
    """Read a list of numbers."""
    values = _read_kind(raw, key, where, (list, tuple), 'a list of numbers')
    return tuple(read_number({key: value}, key, where) for value in values)


def read_integer(raw: Mapping[str, Any], key: str, where: str) -> int:
    """Read a whole number from 0 to MOST."""
    value = read_number(raw, key, where)
    if not value.is_integer() or not 0 <= value <= MOST:
        raise BadInput(
            f'{where}: {key} is {raw[key]!r:.80}, expected a whole number up to {MOST:,}'
        )
    return int(value)


def read_size(raw: Mapping[str, Any], key: str, where: str) -> int:
    """Read a whole number from 1 to MOST."""
    size = read_integer(raw, key, where)
    if size < 1:
        raise BadInput(f'{where}: {key} is {size}, expected at least 1')
    return size


def read_integers(
    raw: Mapping[str, Any], key: str, where: str, count: int | None = None
) -> tuple[int, ...]:
    """Read a list of `count` whole numbers, of any length without it."""
    values = read_value(raw, key, where)
    if not isinstance(values, (list, tuple)) or len(values) != (count or len(values)):
        raise BadInput(
            f'{where}: {key} is {values!r:.80}, expected a list of {count or "whole"} numbers'
        )
    return tuple(read_integer({key: value}, key, where) for value in values)


def _read_kind(
    raw: Mapping[str, Any], key: str, where: str, kind: type | tuple[type, ...], expected: str
) -> Any:
    value = read_value(raw, key, where)
    if not isinstance(value, kind):
        raise BadInput(f'{where}: {key} is {value!r:.80}, expected {expected}')
    return value
