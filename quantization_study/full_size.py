"""Counts the bytes of a recipe on the shapes of Alpamayo-R1-10B. Knows no weights."""

from __future__ import annotations

from collections.abc import Sequence
import functools
import json
from pathlib import Path

from alpamayo_ros.quantization.scheme import Rule, count_bytes

SHAPES = Path(__file__).parents[1] / 'test/golden/state_dict_10b.json'


@functools.cache
def _read_shapes() -> tuple[tuple[tuple[str, tuple[int, ...]], ...], int]:
    """Read name and shape of every tensor, and the number of parameters."""
    raw = json.loads(SHAPES.read_text(encoding='utf-8'))
    shapes = tuple((name, tuple(about['shape'])) for name, about in raw['tensors'].items())
    return shapes, int(raw['total_parameters'])


def count_stored_bytes(rules: Sequence[Rule]) -> dict[str, int]:
    """Count the bytes of every tensor of the release under the rules; padding counts."""
    return count_bytes(rules, _read_shapes()[0])


def count_bits_per_weight(rules: Sequence[Rule]) -> float:
    """Divide the stored bits by the number of parameters."""
    return 8 * sum(count_stored_bytes(rules).values()) / _read_shapes()[1]
