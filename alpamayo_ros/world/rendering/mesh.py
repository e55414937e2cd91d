"""Meshes of flat-coloured polygons, and the basic shapes: box, extrusion, pyramid, ball.

Shapes stand at the origin, x forward, z up, in metres. Colours are BGR, 0-255; higher ones glow.
Every convex part lists its faces counter-clockwise seen from outside. Faces are drawn in list
order, so windows and lamps follow the face that they lie on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

CORNERS = 8  # corners per face; faces with fewer repeat their last one
Array = NDArray[np.float64]
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Mesh:
    """faces: (F, CORNERS, 3) m; colours: (F, 3) BGR."""

    faces: Array
    colours: Array

    def place(self, x_m: float, y_m: float, yaw_rad: float, scale: float = 1.0) -> Mesh:
        """A copy that is scaled, turned about z and moved."""
        cos, sin = scale * np.cos(yaw_rad), scale * np.sin(yaw_rad)
        turn = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, scale]])
        return Mesh(self.faces @ turn + np.array([x_m, y_m, 0.0]), self.colours)

    def normals(self) -> Array:
        """Unit normals (F, 3) out of the faces."""
        faces = self.faces
        # Newell's sum: exact also where the first corners lie on one line
        normal = np.cross(faces, np.roll(faces, -1, axis=1)).sum(axis=1)
        return normal / np.linalg.norm(normal, axis=1, keepdims=True)


def join(*meshes: Mesh) -> Mesh:
    """Join meshes to one that is drawn in this order."""
    return Mesh(
        np.concatenate([m.faces for m in meshes]), np.concatenate([m.colours for m in meshes])
    )


def polygons(corners: Sequence[ArrayLike], colour: Colour) -> Mesh:
    """Mesh of convex polygons of up to CORNERS corners each, in one colour."""
    faces = []
    for polygon in corners:
        points = np.asarray(polygon, dtype=float)
        faces.append(np.concatenate([points, np.repeat(points[-1:], CORNERS - len(points), 0)]))
    return Mesh(np.stack(faces), np.tile(np.array(colour, dtype=float), (len(faces), 1)))


def extrude(
    profile_xz: ArrayLike, half_width: float | Sequence[float], colour: Colour, y_m: float = 0.0
) -> Mesh:
    """Convex profile (N, 2), clockwise seen from the right (-y), extruded across y.

    half_width may differ per corner, which tapers the part.
    """
    profile = np.asarray(profile_xz, dtype=float)
    half = np.broadcast_to(half_width, len(profile))
    left = np.stack([profile[:, 0], y_m + half, profile[:, 1]], axis=1)
    right = np.stack([profile[:, 0], y_m - half, profile[:, 1]], axis=1)
    following = np.roll(np.arange(len(profile)), -1)
    strips = [
        np.stack([right[i], right[j], left[j], left[i]])
        for i, j in zip(range(len(profile)), following, strict=True)
    ]
    return polygons([left, right[::-1], *strips], colour)


def box(low: Sequence[float], high: Sequence[float], colour: Colour) -> Mesh:
    """Axis-aligned box between two corners."""
    profile = [(low[0], low[2]), (low[0], high[2]), (high[0], high[2]), (high[0], low[2])]
    half = (high[1] - low[1]) / 2
    return extrude(profile, half, colour, y_m=(high[1] + low[1]) / 2)


def inset(face: ArrayLike, x: tuple[float, float], y: tuple[float, float]) -> Array:
    """Part (4, 3) of a quadrilateral face (4, 3): x, y from 0 to 1 along its first two edges."""
    a, b, c, d = np.asarray(face, dtype=float)
    return np.stack(
        [
            (a * (1 - u) + b * u) * (1 - v) + (d * (1 - u) + c * u) * v
            for u, v in ((x[0], y[0]), (x[1], y[0]), (x[1], y[1]), (x[0], y[1]))
        ]
    )


def pyramid(radius: float, low: float, high: float, sides: int, colour: Colour) -> Mesh:
    """Cone with flat sides, the crown of a conifer."""
    angle = np.arange(sides) / sides * 2 * np.pi
    ring = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.full(sides, low)], axis=1)
    top = np.array([0.0, 0.0, high])
    return polygons([np.stack([ring[i - 1], ring[i], top]) for i in range(sides)], colour)


def ball(
    centre: ArrayLike, radii: ArrayLike, colour: Colour, rough: ArrayLike | None = None
) -> Mesh:
    """Icosahedron stretched to three radii; `rough` (12,) scales its corners."""
    golden = (1 + 5**0.5) / 2
    corners = np.array(
        [(-1, golden, 0), (1, golden, 0), (-1, -golden, 0), (1, -golden, 0),
         (0, -1, golden), (0, 1, golden), (0, -1, -golden), (0, 1, -golden),
         (golden, 0, -1), (golden, 0, 1), (-golden, 0, -1), (-golden, 0, 1)]
    ) / np.hypot(1, golden)  # fmt: skip
    if rough is not None:
        corners = corners * np.asarray(rough)[:, None]
    corners = corners * np.asarray(radii) + np.asarray(centre)
    triangles = [
        (0, 11, 5), (0, 5, 1), (0, 1, 7), (0, 7, 10), (0, 10, 11),
        (1, 5, 9), (5, 11, 4), (11, 10, 2), (10, 7, 6), (7, 1, 8),
        (3, 9, 4), (3, 4, 2), (3, 2, 6), (3, 6, 8), (3, 8, 9),
        (4, 9, 5), (2, 4, 11), (6, 2, 10), (8, 6, 7), (9, 8, 1),
    ]  # fmt: skip
    return polygons([corners[list(t)] for t in triangles], colour)
