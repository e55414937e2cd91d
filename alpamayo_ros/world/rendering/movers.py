"""Meshes of everything that moves or changes at a moment: cars, pedestrians, traffic lights."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from ..moments import Moment
from ..road import RIGHT_EDGE_M, Array
from ..route import JUNCTION_HALF_M, Route
from .furniture import make_traffic_light
from .mesh import Colour, Mesh

_PAINT: tuple[Colour, ...] = (  # by Car.colour
    *((206, 206, 204), (70, 70, 72), (110, 140, 90), (60, 60, 176), (150, 110, 70)),
    (168, 66, 40),
    *((60, 60, 176), (206, 206, 204), (70, 70, 72), (110, 140, 90)),
)
_JACKET: Colour = (46, 140, 258)  # visible at night
_LIGHT_M = RIGHT_EDGE_M - 1.5  # offset of the light posts


def place_movers(
    moment: Moment, route: Route, shapes: ModuleType, lamps: bool, range_m: float
) -> list[tuple[Mesh, Array]]:
    """Place cars, pedestrians and lights within range_m of the ego; meshes with centres (2,).

    shapes: module of the meshes, things or coarse. lamps: whether cars have their lights on.
    """
    ego = moment.ego
    objects = []
    for car in moment.cars:
        mesh = shapes.car(_PAINT[car.colour], car.braking, lamps)
        objects.append((mesh, car.x_m, car.y_m, car.yaw_rad, 1.35))
    for walker in moment.walkers:
        mesh = shapes.pedestrian(_JACKET, round(walker.stride, 1))
        objects.append((mesh, walker.x_m, walker.y_m, walker.yaw_rad, 0.0))
    for light, (phase, seconds) in zip(route.lights, moment.lights, strict=True):
        for s in (light.stop_m + 1.6, light.middle_m + JUNCTION_HALF_M + 2.0):
            if abs(s - ego.s_m) < range_m:
                x, y = route.road.points(s, _LIGHT_M).tolist()
                objects.append(
                    (make_traffic_light(phase, seconds), x, y, route.road.at(s)[2], 0.0)
                )
    placed = []
    for mesh, x, y, yaw, middle in objects:
        if np.hypot(x - ego.x_m, y - ego.y_m) < range_m:
            centre = np.array([x + middle * np.cos(yaw), y + middle * np.sin(yaw)])
            placed.append((mesh.place(x, y, yaw), centre))
    return placed
