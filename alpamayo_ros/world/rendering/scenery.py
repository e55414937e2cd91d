"""Static objects beside the road, by seed, shaded by the sun.

The faces of a whole drive are one array, so that a picture only selects from it.
"""

from __future__ import annotations

from dataclasses import dataclass
import math
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from ..road import BEHIND_M, LEFT_EDGE_M, RIGHT_EDGE_M, Array
from ..route import TURN_RADIUS_M, Route
from . import things
from .furniture import make_arrow_board, make_speed_sign
from .markings import list_crossing_roads
from .mesh import CORNERS, Mesh, join

SUN = np.array([-0.42, 0.62, 0.66]) / np.linalg.norm([-0.42, 0.62, 0.66])  # towards the sun
_DELINEATOR_M = 25.0
_VARIANTS = 16
_EMPTY = Mesh(np.zeros((0, CORNERS, 3)), np.zeros((0, 3)))
_SIDES = ((RIGHT_EDGE_M, -1.0), (LEFT_EDGE_M, 1.0))


def shade_faces(mesh: Mesh, normals: Array) -> Array:
    """Colours (F, 3) of the faces in sun and sky light; colours above 255 glow and stay."""
    light = 0.52 + 0.1 * normals[:, 2:] + 0.42 * np.maximum(normals @ SUN, 0.0)[:, None]
    glows = mesh.colours.max(axis=1, keepdims=True) > 255.0
    return np.where(glows, mesh.colours, np.minimum(mesh.colours * light, 255.0))


@dataclass(frozen=True)
class Scenery:
    """Faces of all objects: (F, CORNERS, 3) m, normals, shaded colours, owner (F,) object number.

    centres: (O, 2) m. meshes: the objects themselves, placed.
    """

    faces: Array
    normals: Array
    colours: Array
    owner: NDArray[np.int64]
    centres: Array
    meshes: tuple[Mesh, ...]


def collect(objects: list[tuple[Mesh, Array]]) -> Scenery:
    """Collect placed meshes with their centres (2,) into one scenery."""
    meshes = tuple(mesh for mesh, _ in objects)
    whole = join(_EMPTY, *meshes)
    normals = whole.normals()
    return Scenery(
        whole.faces,
        normals,
        shade_faces(whole, normals),
        np.repeat(np.arange(len(objects)), [len(mesh.faces) for mesh in meshes]).astype(np.int64),
        np.array([centre for _, centre in objects]).reshape(-1, 2),
        meshes,
    )


def make_scenery(
    rng: np.random.Generator, route: Route, shapes: ModuleType = things, first_variant: int = 0
) -> Scenery:
    """Place signs, houses, lamps, posts, trees and bushes along the route.

    shapes: module of the meshes, things or coarse; positions are the same with both.
    first_variant: of plants and houses, see Town.
    """
    place = _Placer(route, first_variant)
    seeds = rng.integers(
        2**32, size=3
    ).tolist()  # separate streams: a longer route keeps its first part
    for zone, following in zip(route.zones, (*route.zones[1:], None), strict=True):
        start = max(zone.start_m, -BEHIND_M)
        end = following.start_m if following else float(route.road.s_m[-1])
        if zone.start_m > 0:
            place(make_speed_sign(zone.limit_kmh), start, RIGHT_EDGE_M - 1.6, 0.0, 0.0)
        _line_zone(seeds[2], place, shapes, zone.limit_kmh, start, end)
    for turn in route.turns:
        x, y, yaw, _ = route.road.at(turn.start_m)
        way = TURN_RADIUS_M[turn.side] + 3.0 + LEFT_EDGE_M + 3.0
        at = np.array([x + way * math.cos(yaw), y + way * math.sin(yaw)])
        board = make_arrow_board(turn.side).place(at[0], at[1], yaw)
        place.objects.append((board, at))
    for number, (edge, side) in enumerate(_SIDES):
        s = -BEHIND_M
        stream = np.random.default_rng(seeds[number])
        while s < route.road.s_m[-1]:
            s += stream.uniform(2.5, 9.0)
            _plant(stream, place, shapes, s, edge, side)
    return collect(place.objects)


class _Placer:
    """Places meshes beside the road, off every road and out of houses."""

    def __init__(self, route: Route, first_variant: int):
        self.objects: list[tuple[Mesh, Array]] = []
        self._first_variant = first_variant
        self._road = route.road
        middle = route.road.points(route.road.s_m[::20], (RIGHT_EDGE_M + LEFT_EDGE_M) / 2)
        crossing = [
            quad[0] + (quad[1] - quad[0]) / 2 + (quad[3] - quad[0]) * share
            for quad in list_crossing_roads(route, -BEHIND_M, math.inf)
            for share in np.linspace(0.0, 1.0, 24)
        ]
        along = [
            (quad[0] + quad[3]) / 2 + (quad[1] - quad[0]) * share
            for quad in list_crossing_roads(route, -BEHIND_M, math.inf)
            for share in np.linspace(0.0, 1.0, 24)
        ]
        points = [middle, np.array(crossing).reshape(-1, 2), np.array(along).reshape(-1, 2)]
        self._middle = np.concatenate(points)
        self._houses: list[Array] = []

    def draw_variant(self, rng: np.random.Generator) -> int:
        """Draw a variant of a plant or house."""
        return self._first_variant + int(rng.integers(_VARIANTS))

    def __call__(
        self, mesh: Mesh, s_m: float, offset_m: float, yaw_rad: float, clearance_m: float,
        scale: float = 1.0,
    ) -> None:  # fmt: skip
        x, y, yaw, _ = self._road.at(s_m)
        at = np.array([x - offset_m * math.sin(yaw), y + offset_m * math.cos(yaw)])
        reach = (LEFT_EDGE_M - RIGHT_EDGE_M) / 2 + clearance_m + 0.7
        if clearance_m and ((self._middle - at) ** 2).sum(axis=1).min() < reach**2:
            return
        if self._houses and clearance_m:
            beside = np.array(self._houses) - at
            if (beside**2).sum(axis=1).min() < (clearance_m + 8.0) ** 2:
                return
        self.objects.append((mesh.place(x - offset_m * math.sin(yaw),
                                         y + offset_m * math.cos(yaw), yaw + yaw_rad, scale),
                             at))  # fmt: skip

    def house(self, mesh: Mesh, s_m: float, offset_m: float, yaw_rad: float) -> None:
        """Place a house; plants keep away from it."""
        placed = len(self.objects)
        self(mesh, s_m, offset_m, yaw_rad, clearance_m=5.0)
        self._houses += [centre for _, centre in self.objects[placed:]]


def _line_zone(
    seed: int, place: _Placer, shapes: ModuleType, limit_kmh: int, start: float, end: float,
) -> None:  # fmt: skip
    """Line a zone: houses and lamps at 30 km/h, lamps at 50 km/h, posts at 70 km/h."""
    for edge, side in _SIDES:
        rng = np.random.default_rng([seed, round(start + BEHIND_M), int(side > 0)])
        if limit_kmh == 30:
            for s in np.arange(start + 10.0, end, 24.0):
                draws = rng.uniform(-3.0, 3.0), rng.uniform(9.0, 13.0), rng.normal(0.0, 0.08)
                mesh = shapes.house(place.draw_variant(rng))
                place.house(mesh, s + draws[0], edge + side * draws[1], draws[2])
        if limit_kmh == 70:
            for s in np.arange(start, end, _DELINEATOR_M):
                place(shapes.delineator(), s, edge + side * 1.1, 0.0, clearance_m=0.1)
        else:
            yaw = 0.0 if side < 0 else np.pi  # the lamp's arm reaches over the road
            for s in np.arange(start + 14.0, end, 40.0):
                place(shapes.lamp_post(), s, edge + side * 1.8, yaw, clearance_m=0.1)


def _plant(
    rng: np.random.Generator, place: _Placer, shapes: ModuleType, s_m: float, edge_m: float,
    side: float,
) -> None:  # fmt: skip
    kind, turn, away = rng.random(), rng.uniform(-np.pi, np.pi), rng.random()
    variant, scale = place.draw_variant(rng), rng.uniform(0.85, 1.15)
    if kind < 0.22:
        place(shapes.bush(variant), s_m, edge_m + side * (2.6 + 6.4 * away), turn, 1.3, scale)
    elif kind < 0.72:
        place(shapes.tree(variant), s_m, edge_m + side * (4.5 + 29.0 * away), turn, 2.5, scale)
    else:
        place(shapes.conifer(variant), s_m, edge_m + side * (6.0 + 40.0 * away), turn, 2.5, scale)
