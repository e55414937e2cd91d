"""A YAML file read value by value: every mistake is a BadInput that names the file and the key.

Knows no rig.
"""

from __future__ import annotations

from pathlib import Path
import sys
from typing import Any

import yaml

from .errors import BadInput


def load_yaml(path: Path) -> YamlSection:
    """Read a file whose top level is a mapping."""
    try:
        document = yaml.load(path.read_text(encoding='utf-8'), _Loader)  # noqa: S506 safe loader
    except OSError as error:
        raise BadInput(f'{path}: {error.strerror}') from error
    except (ValueError, AttributeError, yaml.YAMLError) as error:  # of values of a wrong form too
        raise BadInput(f'{path}: not YAML: {" ".join(str(error).split())}') from error
    except RecursionError:
        raise BadInput(f'{path}: not YAML: nested too deeply') from None
    return YamlSection(document, path, '')


def shorten(value: object) -> str:
    """Write a value into an error, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + '...'


class YamlSection:
    """A mapping whose keys are taken one by one; `end` refuses the keys that are left."""

    def __init__(self, value: object, path: Path, where: str) -> None:
        self._path, self._where = path, where
        if not isinstance(value, dict):
            raise BadInput(f'{path}: {where or "file"}: expected a mapping, got {shorten(value)}')
        self._values: dict[object, object] = dict(value)

    def has(self, key: str) -> bool:
        """Whether a key is there and was not taken yet."""
        return key in self._values

    def take(self, key: str, default: object = None) -> Any:
        """Take a value of any type; without a default the key must be there."""
        if key not in self._values and default is None:
            raise self.error(key, 'missing')
        return self._values.pop(key, default)

    def section(self, key: str) -> YamlSection:
        """Take a mapping."""
        return YamlSection(self.take(key), self._path, self._name(key))

    def sections(self, key: str) -> list[YamlSection]:
        """Take a list of mappings, one or more."""
        values = self.take(key)
        if not isinstance(values, list) or not values:
            raise self.error(key, f'expected a list of mappings, got {shorten(values)}')
        name = self._name(key)
        return [YamlSection(value, self._path, f'{name}[{i}]') for i, value in enumerate(values)]

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """Take a finite number in (low, high]."""
        value = self.take(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.error(key, f'expected a number, got {shorten(value)}')
        if not low < value <= high or not _is_finite(value):
            raise self.error(key, f'{value} is not in ({low}, {high}]')
        return float(value)

    def whole(
        self, key: str, low: int, high: int | None = None, default: int | None = None
    ) -> int:
        """Take an integer of `low` or more, and of `high` or less."""
        value = self.take(key, default)
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if not is_whole or value < low or (high is not None and value > high):
            allowed = f'{low} or more' if high is None else f'{low} ... {high}'
            raise self.error(key, f'expected an integer of {allowed}, got {shorten(value)}')
        return int(value)

    def numbers(self, key: str, lengths: tuple[int, ...]) -> tuple[float, ...]:
        """Take a list of finite numbers of one of these lengths."""
        values = self.take(key)
        valid = isinstance(values, list) and len(values) in lengths
        if not valid or not all(type(v) in (int, float) and _is_finite(v) for v in values):
            allowed = ' or '.join(map(str, lengths))
            raise self.error(key, f'expected {allowed} finite numbers, got {shorten(values)}')
        return tuple(float(value) for value in values)

    def choice(self, key: str, allowed: tuple[str, ...], default: str | None = None) -> str:
        """Take one of these words."""
        value = self.take(key, default)
        if value not in allowed:
            raise self.error(key, f'{shorten(value)} is not one of {", ".join(allowed)}')
        return str(value)

    def end(self) -> None:
        """Raise BadInput for a key that nothing has taken."""
        for key in self._values:
            raise self.error(str(key), 'unknown key')

    def error(self, key: str, text: str) -> BadInput:
        """Return a BadInput about the value of a key."""
        return BadInput(f'{self._path}: {self._name(key)}: {text}')

    def _name(self, key: str) -> str:
        return f'{self._where}.{key}' if self._where else key


def _is_finite(value: float) -> bool:
    """Whether a float can hold a number; a whole number may have any size."""
    return abs(value) <= sys.float_info.max


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key '{key}' is there twice", node.start_mark
                )
        return super().construct_mapping(node, deep)
