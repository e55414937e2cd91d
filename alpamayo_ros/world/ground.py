"""The ground: a textured meadow seen from the ego vehicle, and what is painted on it.

Surfaces and markings are outlines in the world frame at z = 0; the meadow is looked up per pixel
in a tile that repeats. Knows nothing that stands, no sky, no time.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from .backdrop import HAZE, TILE_PX, Picture
from .mesh import Colour
from .road import (
    BEHIND_M,
    CENTRE_LINE_M,
    LEFT_EDGE_M,
    RIGHT_EDGE_M,
    Array,
    Road,
)
from .scenario import Scenario, State

ASPHALT = np.array([104.0, 101.0, 99.0])
_WHITE = np.array([236.0, 238.0, 238.0])
_MEADOW_PX_PER_M, _GRAIN_PX_PER_M = 14.0, 30.0
_FAR_M = 900.0
_HAZE_M = 330.0
_AHEAD_M, _BEHIND_M = 430.0, 90.0
_LINE_M = 0.14  # width of the markings
_DASH_M, _PERIOD_M = 4.0, 10.0
_ZEBRA_M, _STRIPE_M = 3.6, 0.5


def lifted(ground_m: Array) -> Array:
    """World positions (..., 3) m of ground positions (..., 2) m."""
    return np.concatenate([ground_m, np.zeros((*ground_m.shape[:-1], 1))], axis=-1)


class GroundMap:
    """Where the pixels below the horizon of one camera meet the ground, in the base frame."""

    def __init__(
        self,
        rays: Array,
        position_m: tuple[float, float, float],
        meadow: Picture,
        grain: NDArray[np.float32],
    ):
        self._top = int(np.count_nonzero(rays[:, 0, 2] >= 0))
        rays = rays[self._top :]
        level = np.hypot(rays[..., 0], rays[..., 1])
        reach = np.minimum(-position_m[2] / rays[..., 2], _FAR_M / level)
        self._x = (position_m[0] + reach * rays[..., 0]).astype(np.float32)
        self._y = (position_m[1] + reach * rays[..., 1]).astype(np.float32)
        distance = reach * level
        # a texture finer than what a pixel covers along the view would flicker
        covered_m = np.abs(np.gradient(distance, axis=0))
        self._fine = np.exp(-((covered_m / 0.12) ** 2)).astype(np.float32)
        self._coarse = (1 - self._fine) * np.exp(-((covered_m / 1.5) ** 2)).astype(np.float32)
        self._clear = np.exp(-distance / _HAZE_M).astype(np.float32)
        self._haze = np.broadcast_to(HAZE.astype(np.uint8), (*distance.shape, 3)).copy()
        self._meadow, self._grain = meadow, grain

    def texture(self, ego: State) -> NDArray[np.float32]:
        """Grain (rows, columns) of the ground as seen from here, deviation 1 or less."""
        fine, coarse = cv2.split(self._lookup(self._grain, ego, _GRAIN_PX_PER_M))
        return np.asarray(fine * self._fine + coarse * self._coarse)

    def paint_meadow(self, image: Picture, ego: State, texture: NDArray[np.float32]) -> None:
        """Grass everywhere below the horizon."""
        meadow = self._lookup(self._meadow, ego, _MEADOW_PX_PER_M)
        image[self._top :] = cv2.multiply(meadow, _factor(0.12 * texture), scale=1 / 128)

    def finish(self, image: Picture, texture: NDArray[np.float32], light: Picture) -> None:
        """Put grain, shade (height, width) and haze over the painted ground."""
        below = image[self._top :]
        shade = cv2.multiply(
            _factor(0.05 * texture), cv2.merge([light[self._top :]] * 3), scale=1 / 255
        )
        below[:] = cv2.multiply(below, shade, scale=1 / 128)
        below[:] = cv2.blendLinear(below, self._haze, self._clear, 1 - self._clear)

    def _lookup(self, tile: np.ndarray, ego: State, pixels_per_m: float) -> np.ndarray:
        cos, sin = np.cos(ego.yaw_rad) * pixels_per_m, np.sin(ego.yaw_rad) * pixels_per_m
        x, y = np.array([ego.x_m, ego.y_m]) * pixels_per_m % TILE_PX
        map_x = np.float32(cos) * self._x - np.float32(sin) * self._y + np.float32(x)
        map_y = np.float32(sin) * self._x + np.float32(cos) * self._y + np.float32(y)
        return cv2.remap(tile, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def _factor(deviation: NDArray[np.float32]) -> Picture:
    """Factor 1 + deviation for each colour, in 1/128."""
    grey = cv2.convertScaleAbs(deviation, alpha=128, beta=128)
    return np.asarray(cv2.merge([grey, grey, grey]), dtype=np.uint8)


def surfaces(road: Road, s_m: float) -> Iterator[tuple[Array, Colour]]:
    """Outlines (N, 2) m of shoulder and asphalt around s, in the order of painting."""
    s = _stations(s_m)
    for margin, colour in ((0.7, (112.0, 132.0, 136.0)), (0.25, tuple(ASPHALT))):
        left = road.points(s, LEFT_EDGE_M + margin)
        right = road.points(s[::-1], RIGHT_EDGE_M - margin)
        yield np.concatenate([left, right]), colour


def markings(scenario: Scenario, s_m: float) -> tuple[Array, Array]:
    """White quadrilaterals (N, 4, 2) m around s with their colours (N, 3)."""
    road = scenario.road
    s = _stations(s_m)
    start = np.ceil((s_m - _BEHIND_M) / _PERIOD_M) * _PERIOD_M
    dashes = np.arange(start, s_m + _AHEAD_M, _PERIOD_M)
    for crossing in scenario.crossings:
        dashes = dashes[np.abs(dashes + _DASH_M / 2 - crossing.s_m) > (_DASH_M + _ZEBRA_M) / 2]
    quads = [
        _strips(road, s[:-1], s[1:], np.array([RIGHT_EDGE_M]), _LINE_M),
        _strips(road, s[:-1], s[1:], np.array([LEFT_EDGE_M]), _LINE_M),
        _strips(road, dashes, dashes + _DASH_M, np.array([CENTRE_LINE_M]), _LINE_M),
    ]
    stripes = np.arange(RIGHT_EDGE_M + 0.5, LEFT_EDGE_M, 2 * _STRIPE_M)
    for crossing in scenario.crossings:
        if -_BEHIND_M < crossing.s_m - s_m < _AHEAD_M:
            ends = np.full(len(stripes), crossing.s_m)
            low, high = ends - _ZEBRA_M / 2, ends + _ZEBRA_M / 2
            quads.append(_strips(road, low, high, stripes, _STRIPE_M))
    joined = np.concatenate(quads)
    return joined, np.broadcast_to(_WHITE, (len(joined), 3))


def _stations(s_m: float) -> Array:
    """Places along the road around s, denser where the camera is near."""
    behind = max(s_m - _BEHIND_M, -BEHIND_M)
    start = np.floor(s_m / 2.0) * 2.0
    return np.concatenate([
        np.arange(behind, start, 2.0), np.arange(start, start + 60.0, 2.0),
        np.arange(start + 60.0, start + 160.0, 4.0),
        np.arange(start + 160.0, start + _AHEAD_M, 9.0),
    ])  # fmt: skip


def _strips(road: Road, low_m: Array, high_m: Array, offset_m: Array, width_m: float) -> Array:
    """Quadrilaterals (N, 4, 2) m of a width around an offset, between two places each."""
    left, right = offset_m + width_m / 2, offset_m - width_m / 2
    return np.stack([road.points(low_m, right), road.points(high_m, right),
                     road.points(high_m, left), road.points(low_m, left)], axis=1)  # fmt: skip
