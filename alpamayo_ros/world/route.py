"""Route of a drive, by seed: bends, junctions, speed limits, lights, crossings, parked cars.

The route is laid piece by piece in the direction of travel, so that a longer route begins as the
shorter one. Turns alternate left and right, so that a route never crosses itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
import math

import numpy as np

from .road import RIGHT_EDGE_M, Road, make_road
from .towns import HOME, Town

VIEW_M = 450.0  # the road goes on this far behind the end of the drive
AMBER_S, RED_AMBER_S = 3.0, 2.0
PARKED_M = RIGHT_EDGE_M  # offset of parked cars: half on the lane
JUNCTION_HALF_M = 5.5  # from the middle of a crossing road to where its asphalt ends
TURN_RADIUS_M = {1: 12.5, -1: 10.0}  # by side; +1 is left
_SHARES = {30: 0.35, 50: 0.45, 70: 0.2}

# Speed limits in km/h: weights of the pieces, length in m of the ramps of bends.
PIECES = ('straight', 'bend', 's_bend', 'turn', 'junction', 'zebra', 'row')
_STYLE = {
    30: ((0.10, 0.17, 0.08, 0.16, 0.16, 0.20, 0.15), 16.0),
    50: ((0.10, 0.20, 0.11, 0.12, 0.16, 0.17, 0.14), 28.0),
    70: ((0.35, 0.40, 0.25, 0.0, 0.0, 0.0, 0.0), 40.0),
}


@dataclass(frozen=True)
class Zone:
    """A speed limit from `start_m` on."""

    start_m: float
    limit_kmh: int

    @property
    def limit_mps(self) -> float:
        """The limit in m/s."""
        return self.limit_kmh / 3.6


@dataclass(frozen=True)
class Turn:
    """A junction where the ego's road ends; an arrow board shows the way. side: +1 is left.

    has_arm: whether the crossing road goes on to the other side.
    """

    start_m: float
    end_m: float
    side: int
    has_arm: bool


@dataclass(frozen=True)
class Light:
    """Traffic lights at a crossing road; a vehicle stops with its front at `stop_m`."""

    middle_m: float
    green_s: float
    red_s: float
    offset_s: float

    @property
    def stop_m(self) -> float:
        """Place s of the front of the first waiting vehicle, 1 m before the line."""
        return self.middle_m - JUNCTION_HALF_M - 3.0

    def phase(self, t_s: float) -> tuple[str, float]:
        """'green', 'amber', 'red' or 'red_amber', and the seconds until green ends or begins."""
        red = self.red_s + RED_AMBER_S
        rest = (t_s + self.offset_s) % (self.green_s + AMBER_S + red)
        if rest < self.green_s:
            return 'green', self.green_s - rest
        rest -= self.green_s
        if rest < AMBER_S:
            return 'amber', AMBER_S - rest + red
        rest -= AMBER_S
        return ('red' if rest < self.red_s else 'red_amber'), red - rest


@dataclass(frozen=True)
class Crossing:
    """A zebra crossing; side: where its pedestrian waits, +1 left, -1 right, 0 nobody."""

    middle_m: float
    side: int

    @property
    def stop_m(self) -> float:
        """Place s of the front of a waiting vehicle."""
        return self.middle_m - 3.6


@dataclass(frozen=True)
class Route:
    """The road with everything on it that does not move, in the order of s.

    parked_m: s of the rear axles of parked cars.
    """

    road: Road
    zones: tuple[Zone, ...]
    turns: tuple[Turn, ...]
    lights: tuple[Light, ...]
    crossings: tuple[Crossing, ...]
    parked_m: tuple[float, ...]

    def limit_kmh(self, s_m: float) -> int:
        """The speed limit at s."""
        return next(zone for zone in reversed(self.zones) if zone.start_m <= s_m).limit_kmh


def make_route(rng: np.random.Generator, length_m: float, town: Town = HOME) -> Route:
    """Route through a town to s = length_m + VIEW_M."""
    layer = _Layer(rng, town)
    while layer.s < length_m + VIEW_M:
        layer.lay()
    end = length_m + VIEW_M
    return Route(
        make_road(layer.knots_s, layer.knots, end),
        tuple(layer.zones),
        tuple(turn for turn in layer.turns if turn.end_m < end),
        tuple(light for light in layer.lights if light.middle_m < end - 30.0),
        tuple(crossing for crossing in layer.crossings if crossing.middle_m < end - 30.0),
        tuple(s for s in layer.parked if s < end - 30.0),
    )


@dataclass
class _Layer:
    """A route in the making: the knots and features laid so far, and the end of the road."""

    rng: np.random.Generator
    town: Town
    s: float = 0.0
    drift: float = 0.0  # heading against the axis between two turns
    turned: bool = False
    zone_end: float = 0.0
    knots_s: list[float] = field(default_factory=lambda: [0.0])
    knots: list[float] = field(default_factory=lambda: [0.0])
    zones: list[Zone] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    lights: list[Light] = field(default_factory=list)
    crossings: list[Crossing] = field(default_factory=list)
    parked: list[float] = field(default_factory=list)
    before: str = ''
    limit: int = 0

    def __post_init__(self) -> None:
        self.first_side = int(self.rng.choice([-1, 1]))
        self.new_zone()
        self.straight(self.rng.uniform(5.0, 50.0))

    def new_zone(self) -> None:
        nearby = {0: (30, 50, 70), 30: (50,), 50: (30, 70), 70: (50,)}[self.limit]
        shares = np.array([_SHARES[limit] for limit in nearby])
        self.limit = int(self.rng.choice(nearby, p=shares / shares.sum()))
        self.zones.append(Zone(self.s if self.zones else -math.inf, self.limit))
        self.zone_end = self.s + self.rng.uniform(3.2, 6.5) * self.limit

    def lay(self) -> None:
        """Lay one more piece, and a new zone before it where the old one ends."""
        if self.s > self.zone_end:
            self.straight(25.0)
            self.new_zone()
            self.straight(20.0)
        weights = np.array(_STYLE[self.limit][0])
        if self.before in PIECES[3:]:  # no junction right after another
            weights[PIECES.index(self.before)] = 0.0
        self.before = str(self.rng.choice(PIECES, p=weights / weights.sum()))
        getattr(self, self.before)(*_DRAWS.get(self.before, lambda _: ())(self.rng))

    def ramp(self, length_m: float, curvature: float) -> None:
        self.s += length_m
        self.knots_s.append(self.s)
        self.knots.append(curvature)

    def straight(self, length_m: float) -> None:
        self.ramp(length_m, 0.0)

    def arc(self, side: int, radius_m: float, angle: float, ramp_m: float) -> None:
        """A bend of an angle; half of each ramp counts as bent."""
        curvature = side / radius_m
        hold = max(angle * radius_m - ramp_m, 1.0)
        self.ramp(ramp_m, curvature)
        self.ramp(hold, curvature)
        self.ramp(ramp_m, 0.0)
        self.drift += curvature * (hold + ramp_m)

    def bend(self, gap_m: float = 10.0) -> None:
        radii, ramp = self.town.radii_m[self.limit], _STYLE[self.limit][1]
        side = int(self.rng.choice([-1, 1]))
        if abs(self.drift) > self.town.max_drift_rad / 4:
            side = -int(np.sign(self.drift))
        room = self.town.max_drift_rad - side * self.drift
        radius = self.rng.uniform(*radii)
        self.arc(side, radius, self.rng.uniform(0.55, 1.0) * room, ramp)
        self.straight(gap_m * self.rng.uniform(0.8, 3.0))

    def s_bend(self) -> None:
        self.bend(0.5)
        self.bend()

    def turn(self) -> None:
        """A quarter turn; it begins and ends along the axes between turns."""
        self.straight(self.limit * self.rng.uniform(0.9, 1.3))
        side = self.first_side * (-1 if self.turned else 1)
        start = self.s
        self.arc(side, TURN_RADIUS_M[side], np.pi / 2 - side * self.drift, 6.0)
        self.turns.append(Turn(start, self.s, side, bool(self.rng.random() < 0.5)))
        self.turned, self.drift = not self.turned, 0.0
        self.straight(self.rng.uniform(20.0, 40.0))

    def junction(self, green_s: float, red_s: float, offset_s: float) -> None:
        self.straight(self.limit * self.rng.uniform(0.8, 1.2))
        self.lights.append(Light(self.s, green_s, red_s, offset_s))
        self.straight(self.rng.uniform(18.0, 40.0))

    def zebra(self, side: int) -> None:
        self.straight(self.limit * self.rng.uniform(0.7, 1.1))
        self.crossings.append(Crossing(self.s, side))
        self.straight(self.rng.uniform(14.0, 40.0))

    def row(self, count: int) -> None:
        self.straight(42.0)
        for _ in range(count):
            self.parked.append(self.s)
            self.straight(self.rng.uniform(6.0, 7.0))
        self.straight(28.0)


_DRAWS = {
    'straight': lambda rng: (rng.uniform(20.0, 70.0),),
    'junction': lambda rng: (rng.uniform(8, 15), rng.uniform(7, 13), rng.uniform(0, 40)),
    'zebra': lambda rng: (int(rng.choice([-1, 1, 1, 0])),),
    'row': lambda rng: (int(rng.integers(1, 4)),),
}
