"""Counts the bytes of a recipe on the shapes of Alpamayo-R1-10B. Knows no weights."""

from __future__ import annotations

from collections.abc import Sequence
import functools
import json
from pathlib import Path

from alpamayo_ros.quantization.scheme import Rule, count_bytes

SHAPES = Path(__file__).parents[1] / 'test/golden/state_dict_10b.json'


@functools.cache
def _shapes() -> tuple[tuple[tuple[str, tuple[int, ...]], ...], int]:
    """Name and shape of every tensor, and the number of parameters."""
    raw = json.loads(SHAPES.read_text(encoding='utf-8'))
    shapes = tuple((name, tuple(about['shape'])) for name, about in raw['tensors'].items())
    return shapes, int(raw['total_parameters'])


def stored_bytes(rules: Sequence[Rule]) -> dict[str, int]:
    """Bytes of every tensor of the release under the rules; padding counts."""
    return count_bytes(rules, _shapes()[0])


def bits_per_weight(rules: Sequence[Rule]) -> float:
    """Stored bits over the number of parameters."""
    return 8 * sum(stored_bytes(rules).values()) / _shapes()[1]
