"""What stands beside the road, by seed, and how the sun falls on it.

One array of shaded faces for the whole drive, so that a picture only has to select from it. Knows
no cameras and nothing that moves.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from . import things
from .mesh import Mesh
from .road import BEHIND_M, LEFT_EDGE_M, RIGHT_EDGE_M, Array, Road
from .scenario import Crossing

SUN = np.array([-0.42, 0.62, 0.66]) / np.linalg.norm([-0.42, 0.62, 0.66])  # towards the sun
_DELINEATOR_M = 25.0
_SIDES = ((RIGHT_EDGE_M, -1.0), (LEFT_EDGE_M, 1.0))


def shaded(mesh: Mesh) -> Array:
    """Colours (F, 3) of the faces in sun and sky light."""
    normals = mesh.normals()
    light = 0.52 + 0.1 * normals[:, 2:] + 0.42 * np.maximum(normals @ SUN, 0.0)[:, None]
    return np.minimum(mesh.colours * light, 255.0)


def shadow(mesh: Mesh) -> Array:
    """Outline (N, 2) of the shadow on the ground, convex."""
    corners = mesh.faces.reshape(-1, 3)
    ground = corners[:, :2] - corners[:, 2:] * SUN[:2] / SUN[2]
    return cv2.convexHull(ground.astype(np.float32))[:, 0].astype(float)


@dataclass(frozen=True)
class Scenery:
    """Faces of all objects: (F, CORNERS, 3) m, normals, shaded colours, owner (F,) object number.

    Per object: centres (O, 2) m and its shadow outline.
    """

    faces: Array
    normals: Array
    colours: Array
    owner: NDArray[np.int64]
    centres: Array
    shadows: tuple[Array, ...]


def collect(objects: list[tuple[Mesh, Array]]) -> Scenery:
    """Scenery of placed meshes with their centres (2,)."""
    counts = [len(mesh.faces) for mesh, _ in objects]
    return Scenery(
        np.concatenate([mesh.faces for mesh, _ in objects]),
        np.concatenate([mesh.normals() for mesh, _ in objects]),
        np.concatenate([shaded(mesh) for mesh, _ in objects]),
        np.repeat(np.arange(len(objects)), counts),
        np.stack([centre for _, centre in objects]),
        tuple(shadow(mesh) for mesh, _ in objects),
    )


def make_scenery(seed: int, road: Road, crossings: tuple[Crossing, ...]) -> Scenery:
    """Houses around the crossings, trees and bushes, posts along the edges of the road."""
    place = _Placer(road)
    end = float(road.s_m[-1])
    for number, crossing in enumerate(crossings):
        if crossing.s_m < end:
            _village(np.random.default_rng([seed, 2, 0, number]), place, crossing.s_m)
    for s in np.arange(-BEHIND_M, end, _DELINEATOR_M):
        for edge, side in _SIDES:
            place(things.delineator(), s, edge + side * 1.1, 0.0, clearance_m=0.0)
    for number, (edge, side) in enumerate(_SIDES):
        rng = np.random.default_rng([seed, 2, 1, number])
        s = -BEHIND_M
        while s < end:
            s += rng.uniform(2.0, 7.0)
            _plant(rng, place, s, edge, side)
    return collect(place.objects)


class _Placer:
    """Puts meshes beside the road and keeps them off it and out of each other."""

    def __init__(self, road: Road):
        self.objects: list[tuple[Mesh, Array]] = []
        self._road = road
        self._middle = road.points(road.s_m[::40], (RIGHT_EDGE_M + LEFT_EDGE_M) / 2)
        self._houses: list[Array] = []

    def __call__(
        self, mesh: Mesh, s_m: float, offset_m: float, yaw_rad: float, clearance_m: float
    ) -> None:
        at = self._road.points(s_m, offset_m)
        reach = clearance_m + LEFT_EDGE_M - RIGHT_EDGE_M
        if clearance_m and np.hypot(*(self._middle - at).T).min() < reach / 2 + clearance_m:
            return
        if any(np.hypot(*(house - at)) < clearance_m + 9.0 for house in self._houses):
            return
        yaw = float(self._road.yaw_at(s_m)) + yaw_rad
        self.objects.append((mesh.placed(at[0], at[1], yaw), at))

    def house(self, mesh: Mesh, s_m: float, offset_m: float, yaw_rad: float) -> None:
        placed = len(self.objects)
        self(mesh, s_m, offset_m, yaw_rad, clearance_m=4.0)
        self._houses += [centre for _, centre in self.objects[placed:]]


def _village(rng: np.random.Generator, place: _Placer, s_m: float) -> None:
    for edge, side in _SIDES:
        for s in np.arange(-48.0, 49.0, 24.0) + rng.uniform(-4.0, 4.0, 5):
            offset = edge + side * rng.uniform(10.0, 15.0)
            place.house(things.house(rng), s_m + s, offset, rng.normal(0.0, 0.08))
        for s in (-30.0, 6.0, 34.0):
            yaw = 0.0 if side < 0 else np.pi  # the arm reaches over the road
            place(things.lamp_post(), s_m + s, edge + side * 1.8, yaw, clearance_m=0.0)
        yaw = 0.0 if side < 0 else np.pi  # each faces its own traffic
        place(things.crossing_sign(), s_m - 2.8 * -side, edge + side * 1.0, yaw, clearance_m=0.0)


def _plant(
    rng: np.random.Generator, place: _Placer, s_m: float, edge_m: float, side: float
) -> None:
    turn = rng.uniform(-np.pi, np.pi)
    kind = rng.random()
    if kind < 0.22:
        place(things.bush(rng), s_m, edge_m + side * rng.uniform(2.6, 9.0), turn, 1.3)
    elif kind < 0.72:
        place(things.tree(rng), s_m, edge_m + side * rng.uniform(4.5, 34.0), turn, 2.5)
    else:
        place(things.conifer(rng), s_m, edge_m + side * rng.uniform(6.0, 46.0), turn, 2.5)
