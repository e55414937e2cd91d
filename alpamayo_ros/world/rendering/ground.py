"""The ground of large pictures: textured meadow, road surfaces and markings.

Surfaces and markings are outlines in the world frame at z = 0; the meadow is looked up per pixel
in a periodic tile.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from ..moments import State
from ..road import BEHIND_M, LEFT_EDGE_M, RIGHT_EDGE_M, Array
from ..route import Route
from ..weather import ASPHALT, HAZE, VERGE, WHITE, Weather, compute_illumination
from .backdrop import TILE_PX, Picture
from .markings import MARGIN_M, VERGE_M, list_crossing_roads, list_white_markings
from .mesh import Colour

_MEADOW_PX_PER_M, _GRAIN_PX_PER_M = 14.0, 30.0
_FAR_M = 900.0
Weight = NDArray[np.float32]
_AHEAD_M, _BEHIND_M = 430.0, 90.0


def lift(ground_m: Array) -> Array:
    """World positions (..., 3) m of ground positions (..., 2) m."""
    return np.concatenate([ground_m, np.zeros((*ground_m.shape[:-1], 1))], axis=-1)


class GroundMap:
    """Ground points of the pixels below the horizon of one camera, in the base frame."""

    def __init__(
        self,
        rays: Array,
        position_m: tuple[float, float, float],
        meadow: Picture,
        grain: NDArray[np.float32],
        weather: Weather,
    ):
        self._top = int(np.count_nonzero(rays[:, 0, 2] >= 0))
        rays = rays[self._top :]
        level = np.hypot(rays[..., 0], rays[..., 1])
        reach = np.minimum(-position_m[2] / rays[..., 2], _FAR_M / level)
        self._x = (position_m[0] + reach * rays[..., 0]).astype(np.float32)
        self._y = (position_m[1] + reach * rays[..., 1]).astype(np.float32)
        distance = reach * level
        # detail finer than the footprint of a pixel would flicker
        covered_m = np.abs(np.gradient(distance, axis=0))
        self._fine = np.exp(-((covered_m / 0.12) ** 2)).astype(np.float32)
        self._coarse = (1 - self._fine) * np.exp(-((covered_m / 1.5) ** 2)).astype(np.float32)
        self._clear = np.exp(-distance / weather.haze_m).astype(np.float32)
        light = compute_illumination(min(weather.ambient, 1.0), self._x, self._y).astype(
            np.float32
        )
        self._lit = self._clear * light
        haze = (HAZE * min(weather.ambient, 1.0)).astype(np.uint8)
        self._haze = np.broadcast_to(haze, (*distance.shape, 3)).copy()
        self._meadow, self._grain = meadow, grain

    def texture(self, ego: State) -> NDArray[np.float32]:
        """Grain (rows, columns) of the ground as this camera sees it, deviation at most 1."""
        fine, coarse = cv2.split(self._lookup(self._grain, ego, _GRAIN_PX_PER_M))
        return np.asarray(fine * self._fine + coarse * self._coarse)

    def paint_meadow(self, image: Picture, ego: State, texture: NDArray[np.float32]) -> None:
        """Grass everywhere below the horizon."""
        meadow = self._lookup(self._meadow, ego, _MEADOW_PX_PER_M)
        image[self._top :] = cv2.multiply(meadow, _to_factor(0.12 * texture), scale=1 / 128)

    def finish(self, image: Picture, texture: NDArray[np.float32], light: Picture) -> None:
        """Put grain, shade (height, width) and haze over the painted ground."""
        below = image[self._top :]
        shade = cv2.multiply(
            _to_factor(0.05 * texture), cv2.merge([light[self._top :]] * 3), scale=1 / 255
        )
        below[:] = cv2.multiply(below, shade, scale=1 / 128)
        below[:] = _blend(below, self._haze, self._lit, 1 - self._clear)

    def _lookup(self, tile: np.ndarray, ego: State, pixels_per_m: float) -> np.ndarray:
        cos, sin = np.cos(ego.yaw_rad) * pixels_per_m, np.sin(ego.yaw_rad) * pixels_per_m
        x, y = np.array([ego.x_m, ego.y_m]) * pixels_per_m % TILE_PX
        map_x = np.float32(cos) * self._x - np.float32(sin) * self._y + np.float32(x)
        map_y = np.float32(sin) * self._x + np.float32(cos) * self._y + np.float32(y)
        return cv2.remap(tile, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def _blend(first: Picture, second: Picture, weight: Weight, other: Weight) -> Picture:
    """Weighted sum; unlike in cv2.blendLinear the weights need not add up to 1."""
    total = first * weight[..., None] + second * other[..., None]
    return np.asarray(total, dtype=np.uint8)


def _to_factor(deviation: NDArray[np.float32]) -> Picture:
    """Factor 1 + deviation for each colour, in 1/128."""
    grey = cv2.convertScaleAbs(deviation, alpha=128, beta=128)
    return np.asarray(cv2.merge([grey, grey, grey]), dtype=np.uint8)


def list_surfaces(route: Route, s_m: float) -> Iterator[tuple[Array, Colour]]:
    """List outlines (N, 2) m of shoulder and asphalt around s, in painting order."""
    s = list_stations(s_m)
    crossing = list_crossing_roads(route, s[0], s[-1])
    for margin, colour in ((VERGE_M, tuple(VERGE)), (MARGIN_M, tuple(ASPHALT))):
        for quad in crossing:
            middle = quad.mean(axis=0)
            away = quad - middle
            yield quad + away / np.hypot(*away.T)[:, None] * (margin - MARGIN_M), colour
        left = route.road.points(s, LEFT_EDGE_M + margin)
        right = route.road.points(s[::-1], RIGHT_EDGE_M - margin)
        yield np.concatenate([left, right]), colour


def list_markings(route: Route, s_m: float) -> tuple[Array, Array]:
    """White quadrilaterals (N, 4, 2) m around s with their colours (N, 3)."""
    quads = list_white_markings(route, list_stations(s_m))
    return quads, np.broadcast_to(WHITE, (len(quads), 3))


def list_stations(s_m: float) -> Array:
    """Places along the road around s, denser near the camera."""
    behind = max(s_m - _BEHIND_M, -BEHIND_M)
    start = np.floor(s_m / 2.0) * 2.0
    return np.concatenate([
        np.arange(behind, start, 2.0), np.arange(start, start + 60.0, 2.0),
        np.arange(start + 60.0, start + 160.0, 4.0),
        np.arange(start + 160.0, start + _AHEAD_M, 9.0),
    ])  # fmt: skip
