"""Meshes of traffic lights, speed limit signs and arrow boards, shared by both renderers.

They consist of quadrilaterals that face -x; y is left.
"""

from __future__ import annotations

from collections.abc import Sequence
import functools

import numpy as np

from .mesh import Colour, Mesh, box, join, polygons

LIT: dict[str, Colour] = {  # more than 255 shines by itself
    'red': (60, 60, 520), 'amber': (40, 330, 520), 'green': (150, 520, 60)
}  # fmt: skip
_DARK: Colour = (34, 34, 34)
_BRIGHT: Colour = (258, 258, 258)  # boards reflect the headlamps
_BOARDS: dict[int, Colour] = {30: (40, 215, 258), 50: _BRIGHT, 70: (258, 210, 150)}
_LAMPS = {'red': 3.95, 'amber': 3.3, 'green': 2.65}
_COUNTED_S = 10.0  # time that a full bar shows
_SEGMENTS = {'0': 'abcdef', '3': 'abcdg', '5': 'acdfg', '7': 'abc'}


def make_facing_quad(
    low: tuple[float, float], high: tuple[float, float], x_m: float
) -> np.ndarray:
    """Rectangle (4, 3) that faces -x, between two corners (y, z)."""
    return np.array([(x_m, low[0], low[1]), (x_m, low[0], high[1]), (x_m, high[0], high[1]),
                     (x_m, high[0], low[1])])  # fmt: skip


def make_traffic_light(phase: str, seconds: float) -> Mesh:
    """Traffic light with a bar that shows the rest of its phase, at most 10 s."""
    # steps of 0.5 s: cameras do not resolve less, and the cache stays small
    return _make_traffic_light(phase, round(2 * min(seconds, _COUNTED_S)) / 2)


@functools.cache
def _make_traffic_light(phase: str, seconds: float) -> Mesh:
    lit = {'red_amber': ('red', 'amber')}.get(phase, (phase,))
    bar = LIT['green' if phase == 'green' else 'red']
    top = 2.3 + 2.0 * seconds / _COUNTED_S
    lamps = [
        polygons([make_facing_quad((-0.3, z - 0.3), (0.3, z + 0.3), -0.12)],
                 LIT[name] if name in lit else _DARK)
        for name, z in _LAMPS.items()
    ]  # fmt: skip
    return join(
        box((-0.08, -0.08, 0.0), (0.08, 0.08, 2.2), (130, 130, 128)),
        box((-0.1, -0.5, 2.2), (0.1, 1.05, 4.4), _DARK),
        *lamps,
        polygons([make_facing_quad((0.6, 2.3), (0.95, max(top, 2.32)), -0.12)], bar),
    )


@functools.cache
def make_speed_sign(limit_kmh: int) -> Mesh:
    """Speed limit sign; the colour of its board shows the limit in small pictures too."""
    digits = [quad for number, digit in enumerate(str(limit_kmh))
              for quad in _make_digit(digit, 0.42 - 0.48 * number)]  # fmt: skip
    return join(
        box((-0.05, -0.05, 0.0), (0.05, 0.05, 1.9), (150, 150, 148)),
        box((-0.04, -0.85, 1.75), (0.04, 0.85, 3.45), (40, 40, 258)),
        polygons([make_facing_quad((-0.65, 1.95), (0.65, 3.25), -0.06)], _BOARDS[limit_kmh]),
        polygons(digits, (20, 20, 20)),
    )


def _make_digit(digit: str, left_y: float) -> list[np.ndarray]:
    """Seven-segment digit 0.36 m wide and 0.9 m high; y falls from left to right."""
    low, middle, high, width, thick = 2.15, 2.6, 3.05, 0.36, 0.13
    right = left_y - width
    bars = {
        'a': ((right, high - thick), (left_y, high)),
        'b': ((right, middle), (right + thick, high)),
        'c': ((right, low), (right + thick, middle)),
        'd': ((right, low), (left_y, low + thick)),
        'e': ((left_y - thick, low), (left_y, middle)),
        'f': ((left_y - thick, middle), (left_y, high)),
        'g': ((right, middle - thick / 2), (left_y, middle + thick / 2)),
    }
    return [make_facing_quad(*bars[name], x_m=-0.08) for name in _SEGMENTS[digit]]


@functools.cache
def make_arrow_board(side: int) -> Mesh:
    """Blue board with a white arrow; side +1 points to the left."""

    def part(corners: Sequence[tuple[float, float]]) -> np.ndarray:
        quad = np.array([(-0.06, side * y, z) for y, z in corners])
        return quad if side > 0 else quad[::-1]

    return join(
        box((-0.04, -1.5, 0.5), (0.04, 1.5, 2.1), (258, 110, 30)),
        polygons([
            part([(-1.2, 1.1), (-1.2, 1.5), (0.7, 1.5), (0.7, 1.1)]),
            part([(1.25, 1.3), (0.6, 0.65), (0.25, 0.65), (0.9, 1.3)]),
            part([(0.9, 1.3), (0.25, 1.95), (0.6, 1.95), (1.25, 1.3)]),
        ], _BRIGHT),
    )  # fmt: skip
