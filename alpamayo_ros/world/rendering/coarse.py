"""Meshes of few quadrilaterals for small pictures: the simple twins of things.py.

Names, sizes and variants are those of things.py.
"""

from __future__ import annotations

import functools

import numpy as np

from .furniture import make_facing_quad
from .mesh import Colour, Mesh, box, join, polygons
from .things import delineator, house_size, lamp_post, plant_size

__all__ = ['bush', 'car', 'conifer', 'delineator', 'house', 'lamp_post', 'pedestrian', 'tree']
_TRUNK: Colour = (58, 78, 98)
_GLASS: Colour = (74, 64, 56)


@functools.cache
def car(colour: Colour, braking: bool, lamps: bool = False) -> Mesh:
    """Passenger car; its lamps shine when it brakes or lamps are on."""
    rear: Colour = (90, 90, 520) if braking else ((50, 45, 300) if lamps else (32, 30, 128))
    front: Colour = (480, 520, 520) if lamps else (225, 240, 245)
    ahead = [make_facing_quad((y - 0.2, 0.48), (y + 0.2, 0.64), 0.0)[::-1] + (3.67, 0, 0)
             for y in (-0.66, 0.66)]  # fmt: skip
    return join(
        box((-0.8, -0.86, 0.0), (3.4, 0.86, 0.36), (32, 31, 31)),
        box((-0.95, -0.91, 0.32), (3.65, 0.91, 0.92), colour),
        box((-0.7, -0.74, 0.92), (2.1, 0.74, 1.42), _GLASS),
        box((-0.5, -0.7, 1.42), (1.7, 0.7, 1.48), colour),
        polygons(
            [make_facing_quad((y - 0.21, 0.64), (y + 0.21, 0.84), -0.97) for y in (-0.68, 0.68)],
            rear,
        ),
        polygons(ahead, front),
    )


def pedestrian(colour: Colour, stride: float) -> Mesh:
    """Person walking towards +x."""
    reach = 0.24 * abs(stride)
    return join(
        box((-reach - 0.08, -0.17, 0.0), (reach + 0.08, 0.17, 0.85), (85, 60, 46)),
        box((-0.13, -0.22, 0.8), (0.13, 0.22, 1.42), colour),
        box((-0.1, -0.1, 1.42), (0.1, 0.1, 1.72), (130, 160, 205)),
    )


@functools.cache
def tree(variant: int) -> Mesh:
    """Broad-leaved tree: a crown of two boxes."""
    height, radius, green = plant_size('tree', variant)
    return join(
        box((-0.14, -0.14, 0.0), (0.14, 0.14, 0.4 * height), _TRUNK),
        _crown(0.8 * radius, 0.3 * height, 0.72 * height, green),
        _crown(0.55 * radius, 0.68 * height, 0.92 * height, green),
    )


@functools.cache
def conifer(variant: int) -> Mesh:
    """Conifer: three boxes, narrower upwards."""
    height, _, green = plant_size('conifer', variant)
    return join(
        _crown(height * 0.15, height * 0.12, height * 0.45, green),
        _crown(height * 0.1, height * 0.45, height * 0.75, green),
        _crown(height * 0.04, height * 0.75, height * 0.97, green),
    )


@functools.cache
def bush(variant: int) -> Mesh:
    """Bush, about 1 m high."""
    _, radius, green = plant_size('bush', variant)
    return _crown(0.75 * radius, 0.0, 1.0, green)


@functools.cache
def house(variant: int) -> Mesh:
    """House: walls, and a roof of two steps."""
    length, depth, wall, colour, roof = house_size(variant)
    x, y = length / 2, depth / 2
    return join(
        box((-x, -y, 0.0), (x, y, wall), colour),
        box((-x - 0.4, -0.75 * y, wall), (x + 0.4, 0.75 * y, wall + 0.22 * depth), roof),
        box((-x - 0.4, -0.3 * y, wall + 0.22 * depth), (x + 0.4, 0.3 * y, wall + 0.4 * depth),
            roof),
    )  # fmt: skip


def _crown(radius: float, low: float, high: float, green: np.ndarray) -> Mesh:
    return box((-radius, -radius, low), (radius, radius, high), tuple(green))
