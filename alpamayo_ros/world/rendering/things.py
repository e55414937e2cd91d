"""Meshes for large pictures: cars, people, plants, houses, posts, lamps.

The origin of a car is on the ground below its rear axle, that of everything else at its foot.
"""

from __future__ import annotations

import functools

import numpy as np

from .mesh import Array, Colour, Mesh, ball, box, extrude, inset, join, polygons, pyramid

_GLASS: Colour = (66, 56, 48)
_TYRE: Colour = (34, 33, 33)
_TRUNK: Colour = (58, 78, 98)
_PLANTS = {  # height m, radius as a share of it, green, its shades
    'tree': (6.0, 10.0, (0.24, 0.32), (46.0, 118.0, 84.0), (0.75, 1.12)),
    'conifer': (7.0, 12.0, (0.2, 0.22), (58.0, 88.0, 50.0), (0.75, 1.1)),
    'bush': (0.9, 1.4, (0.7, 0.9), (50.0, 112.0, 80.0), (0.7, 1.1)),
}
_WHEELBASE_M = 2.75
_WHEEL_RADIUS_M = 0.33


@functools.cache
def car(colour: Colour, braking: bool, lamps: bool = False) -> Mesh:
    """Passenger car, 4.6 m long and 1.84 m wide; its lamps shine when it brakes or are on."""
    profile = [(-0.95, 0.32), (-0.95, 0.86), (-0.86, 0.97), (2.5, 0.97), (3.42, 0.8), (3.65, 0.62),
               (3.65, 0.3)]  # fmt: skip
    cabin_profile = [(-0.82, 0.95), (-0.28, 1.46), (1.35, 1.49), (2.45, 0.95)]
    body = extrude(profile, 0.91, colour)
    cabin = extrude(cabin_profile, (0.84, 0.64, 0.64, 0.84), colour)
    chassis = box((-0.8, -0.8, 0.16), (3.4, 0.8, 0.36), (30, 30, 30))
    return join(chassis, *_tyres(), body, *_wheels(), cabin, _windows(cabin),
                _lights(braking, lamps))  # fmt: skip


def _tyres() -> list[Mesh]:
    """The parts of the tyres below the body, visible from the front and from behind."""
    return [
        box((x - 0.2, y - 0.1, 0.0), (x + 0.2, y + 0.1, 0.4), _TYRE)
        for x in (0.0, _WHEELBASE_M)
        for y in (-0.76, 0.76)
    ]


def _wheels() -> list[Mesh]:
    angle = np.arange(8) / 8 * 2 * np.pi
    wheels = []
    for x in (0.0, _WHEELBASE_M):
        for radius, colour in ((_WHEEL_RADIUS_M, _TYRE), (0.19, (150, 148, 145))):
            circle = np.stack([x + radius * np.cos(angle), np.full(8, -0.92),
                               _WHEEL_RADIUS_M + radius * np.sin(angle)], axis=1)  # fmt: skip
            wheels.append(polygons([circle, circle[::-1] * (1.0, -1.0, 1.0)], colour))
    return wheels


def _windows(cabin: Mesh) -> Mesh:
    left, right, rear, _, front = cabin.faces[:5, :4]
    panes = [
        inset(rear, (0.16, 0.9), (0.08, 0.92)),
        inset(front, (0.06, 0.9), (0.06, 0.94)),
        # first edge of the left side climbs the rear pillar
        inset(left, (0.14, 0.86), (0.14, 0.5)),
        inset(left, (0.14, 0.86), (0.54, 0.86)),
        inset(right[[1, 0, 3, 2]], (0.14, 0.86), (0.14, 0.5))[::-1],
        inset(right[[1, 0, 3, 2]], (0.14, 0.86), (0.54, 0.86))[::-1],
    ]
    return polygons(panes, _GLASS)


def _lights(braking: bool, lamps: bool) -> Mesh:
    def behind(y: float, width: float, low: float, high: float) -> np.ndarray:
        return np.array([(-0.96, y - width, low), (-0.96, y - width, high),
                         (-0.96, y + width, high), (-0.96, y + width, low)])  # fmt: skip

    def ahead(y: float, width: float, low: float, high: float) -> np.ndarray:
        return behind(y, width, low, high)[::-1] * (-1, 1, 1) + (2.7, 0, 0)

    # colours above 255 glow
    lamp: Colour = (90, 90, 520) if braking else ((50, 45, 300) if lamps else (32, 30, 128))
    high_lamp: Colour = (100, 100, 520) if braking else (40, 38, 70)
    front: Colour = (480, 520, 520) if lamps else (225, 240, 245)
    return join(
        polygons([behind(0.0, 0.8, 0.36, 0.44)], (45, 45, 45)),
        polygons([behind(0.0, 0.26, 0.5, 0.61)], (225, 228, 230)),
        polygons([behind(y, 0.19, 0.66, 0.82) for y in (-0.68, 0.68)], lamp),
        polygons([behind(0.0, 0.22, 0.87, 0.91) + (0.03, 0.0, 0.0)], high_lamp),
        polygons([ahead(y, 0.2, 0.5, 0.61) for y in (-0.66, 0.66)], front),
        polygons([ahead(0.0, 0.36, 0.4, 0.56)], (40, 40, 40)),
    )


def pedestrian(colour: Colour, stride: float) -> Mesh:
    """Person walking towards +x; stride from -1 to 1 sets the distance of the feet."""
    reach = 0.24 * stride
    return join(
        box((reach - 0.08, -0.17, 0.0), (reach + 0.08, -0.02, 0.85), (90, 62, 48)),
        box((-reach - 0.08, 0.02, 0.0), (-reach + 0.08, 0.17, 0.85), (80, 56, 44)),
        box((-0.13, -0.22, 0.8), (0.13, 0.22, 1.42), colour),
        ball((0.0, 0.0, 1.6), (0.12, 0.11, 0.15), (130, 160, 205)),
    )


def plant_size(kind: str, variant: int) -> tuple[float, float, Array]:
    """Height m, radius m and green of a plant."""
    low, high, share, green, shades = _PLANTS[kind]
    rng = np.random.default_rng([len(kind), variant])
    height = rng.uniform(low, high)
    colour = np.array(green) * rng.uniform(*shades)
    return height, height * rng.uniform(*share), colour + rng.uniform(-8.0, 8.0, 3)


@functools.cache
def tree(variant: int) -> Mesh:
    """Broad-leaved tree, 6 to 10 m high."""
    height, radius, green = plant_size('tree', variant)
    rng = np.random.default_rng(variant)
    low, high = height * 0.5, height * 0.74
    side = rng.uniform(-0.3, 0.3, 2) * radius
    return join(
        box((-0.14, -0.14, 0.0), (0.14, 0.14, low), _TRUNK),
        ball((0, 0, low), (radius, radius, radius * 0.72), tuple(green * 0.93),
             rng.uniform(0.86, 1.14, 12)),
        ball((*side, high), (radius * 0.74, radius * 0.74, radius * 0.72), tuple(green),
             rng.uniform(0.86, 1.14, 12)),
    )  # fmt: skip


@functools.cache
def conifer(variant: int) -> Mesh:
    """Conifer, 7 to 12 m high."""
    height, _, colour = plant_size('conifer', variant)
    green = tuple(colour)
    return join(
        box((-0.13, -0.13, 0.0), (0.13, 0.13, height * 0.2), _TRUNK),
        pyramid(height * 0.21, height * 0.14, height * 0.62, 7, green),
        pyramid(height * 0.16, height * 0.4, height * 0.82, 7, green),
        pyramid(height * 0.11, height * 0.64, height, 7, green),
    )


@functools.cache
def bush(variant: int) -> Mesh:
    """Bush, about 1 m high."""
    _, radius, green = plant_size('bush', variant)
    rough = np.random.default_rng(variant).uniform(0.8, 1.2, 12)
    return ball((0, 0, 0.45), (radius, radius, 0.75), tuple(green), rough)


def house_size(variant: int) -> tuple[float, float, float, Colour, Colour]:
    """Length, depth and height of the walls in m, colours of walls and roof."""
    rng = np.random.default_rng([7, variant])
    length, depth = rng.uniform(9.0, 15.0), rng.uniform(7.0, 9.0)
    wall = 2.8 * int(rng.integers(1, 3)) + 0.5
    paint = [(208, 222, 230), (190, 210, 226), (214, 214, 210), (176, 200, 222), (200, 216, 204)]
    tiles = [(62, 72, 130), (72, 76, 84), (58, 84, 146), (80, 82, 104)]
    return length, depth, wall, paint[rng.integers(len(paint))], tiles[rng.integers(len(tiles))]


@functools.cache
def house(variant: int) -> Mesh:
    """House with a gable roof; its long side faces +y and -y."""
    length, depth, wall, colour, roof = house_size(variant)
    storeys = round((wall - 0.5) / 2.8)
    half_x, half_y, ridge = length / 2, depth / 2, wall + depth * 0.42
    eaves_x, eaves_y, eaves_z = half_x + 0.4, half_y + 0.5, wall - 0.35
    walls = box((-half_x, -half_y, 0.0), (half_x, half_y, wall), colour)
    gables = polygons(
        [[(s * half_x, -s * half_y, wall), (s * half_x, s * half_y, wall), (s * half_x, 0, ridge)]
         for s in (1, -1)], colour)  # fmt: skip
    slopes = polygons(
        [[(-s * eaves_x, s * eaves_y, eaves_z), (-s * eaves_x, 0, ridge + 0.1),
          (s * eaves_x, 0, ridge + 0.1), (s * eaves_x, s * eaves_y, eaves_z)]
         for s in (1, -1)], roof)  # fmt: skip
    return join(walls, _house_windows(half_x, half_y, storeys), gables, slopes)


def _house_windows(half_x: float, half_y: float, storeys: int) -> Mesh:
    panes = []
    for z in np.arange(storeys) * 2.8 + 1.1:
        for x in np.linspace(-half_x, half_x, 5)[1:-1]:
            pane = np.array([(x - 0.6, -half_y - 0.02, z), (x + 0.6, -half_y - 0.02, z),
                             (x + 0.6, -half_y - 0.02, z + 1.4),
                             (x - 0.6, -half_y - 0.02, z + 1.4)])  # fmt: skip
            panes += [pane, pane[::-1] * (1, -1, 1)]
        for y in (-half_y * 0.45, half_y * 0.45):
            pane = np.array([(half_x + 0.02, y - 0.55, z), (half_x + 0.02, y + 0.55, z),
                             (half_x + 0.02, y + 0.55, z + 1.4),
                             (half_x + 0.02, y - 0.55, z + 1.4)])  # fmt: skip
            panes += [pane, pane[::-1] * (-1, 1, 1)]
    return polygons(panes, (104, 88, 76))


@functools.cache
def delineator() -> Mesh:
    """Reflector post at the edge of the road."""
    return join(
        box((-0.06, -0.06, 0.0), (0.06, 0.06, 1.0), (256, 258, 258)),
        box((-0.065, -0.065, 0.68), (0.065, 0.065, 0.86), (40, 40, 40)),
    )


@functools.cache
def lamp_post() -> Mesh:
    """Street lamp with its arm towards +y."""
    grey: Colour = (128, 128, 124)
    return join(
        box((-0.07, -0.07, 0.0), (0.07, 0.07, 6.0), grey),
        box((-0.05, 0.0, 5.9), (0.05, 1.7, 6.0), grey),
        box((-0.12, 1.2, 5.84), (0.12, 1.8, 5.92), (190, 200, 205)),
    )
