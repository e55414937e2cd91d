"""Recorded motion: states of the ego and of everything else that moves, at any time of a drive.

The simulation appends steps to a trace; readers interpolate between them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
import math

from .road import LEFT_EDGE_M, RIGHT_EDGE_M
from .route import Crossing, Route

SIMULATION_RATE_HZ = 20
SIMULATION_STEP_S = 1 / SIMULATION_RATE_HZ
WALKING_MPS = 1.4
CAR_FRONT_M, CAR_REAR_M, CAR_HALF_WIDTH_M = 3.65, -0.96, 0.92  # from the rear axle


@dataclass(frozen=True)
class State:
    """Pose of a rear axle in the world frame and its motion; s_m along the road."""

    s_m: float
    x_m: float
    y_m: float
    yaw_rad: float
    speed_mps: float
    acceleration_mps2: float
    curvature: float

    def after(self, seconds: float) -> State:
        """The state later, at constant acceleration and curvature; a stopped car stays."""
        speed = max(self.speed_mps + self.acceleration_mps2 * seconds, 0.0)
        way = (self.speed_mps + speed) / 2 * seconds
        turn = self.curvature * way
        chord = way * (1 - turn * turn / 24)  # chord of an arc, to the fourth order in the turn
        heading = self.yaw_rad + turn / 2
        return State(
            self.s_m + way, self.x_m + chord * math.cos(heading),
            self.y_m + chord * math.sin(heading), self.yaw_rad + turn, speed,
            self.acceleration_mps2, self.curvature,
        )  # fmt: skip


@dataclass(frozen=True)
class Car:
    """Another car at one moment; colour is an index of the renderer's paints."""

    x_m: float
    y_m: float
    yaw_rad: float
    colour: int
    braking: bool = False


@dataclass(frozen=True)
class Walker:
    """A pedestrian at one moment; stride from -1 to 1."""

    x_m: float
    y_m: float
    yaw_rad: float
    stride: float


@dataclass(frozen=True)
class Moment:
    """Everything that moves or changes at one time.

    lights: (phase, seconds) of each light of the route, see Light.phase.
    """

    t_s: float
    ego: State
    cars: tuple[Car, ...]
    walkers: tuple[Walker, ...]
    lights: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class TraceStep:
    """One step of a simulation.

    lead: s, speed and acceleration of the rear axle of the vehicle ahead. walked_m: distance that
    the pedestrian of each crossing has walked. cause: reason of the expert's driving at this step.
    """

    ego: State
    lead: tuple[float, float, float] | None
    walked_m: tuple[float, ...]
    cause: str


def get_kerb_offsets(crossing: Crossing) -> tuple[float, float]:
    """Offsets m of the kerbs at which the pedestrian of a crossing starts and ends."""
    right, left = RIGHT_EDGE_M - 1.0, LEFT_EDGE_M + 1.0
    return (right, left) if crossing.side < 0 else (left, right)


@dataclass
class Trace:
    """Steps every STEP_S from `start_s` on."""

    route: Route
    start_s: float
    steps: list[TraceStep] = field(default_factory=list)

    @property
    def end_s(self) -> float:
        """Time of the last step."""
        return self.start_s + (len(self.steps) - 1) * SIMULATION_STEP_S

    def at(self, t_s: float) -> TraceStep:
        """The last step up to a time."""
        return self._at(t_s)[0]

    def _at(self, t_s: float) -> tuple[TraceStep, float]:
        index = math.floor((t_s - self.start_s) * SIMULATION_RATE_HZ + 1e-9)
        if not 0 <= index < len(self.steps) or t_s > self.end_s + 1e-9:
            raise ValueError(f't = {t_s:g} s is not within {self.start_s:g} to {self.end_s:g} s')
        return self.steps[index], max(t_s - self.start_s - index * SIMULATION_STEP_S, 0.0)

    def ego(self, t_s: float) -> State:
        """State of the ego vehicle."""
        step, rest = self._at(t_s)
        return step.ego.after(rest)

    def cause(self, t_s: float) -> str:
        """Reason of the expert's driving; a name of `reasons.CAUSES`."""
        return self._at(t_s)[0].cause

    def causes(self, t_s: float, within_s: float = 0.5) -> frozenset[str]:
        """All causes within `within_s` before and after: a cause has no sharp beginning."""
        low, high = max(t_s - within_s, self.start_s), min(t_s + within_s, self.end_s)
        count = round((high - low) * SIMULATION_RATE_HZ) + 1
        return frozenset(self.cause(min(low + i * SIMULATION_STEP_S, high)) for i in range(count))

    def lead(self, t_s: float) -> State | None:
        """State of the vehicle ahead on the same route, if there is one."""
        step, rest = self._at(t_s)
        if step.lead is None:
            return None
        s, speed, acceleration = step.lead
        x, y, yaw, curvature = self.route.road.at(s)
        return State(s, x, y, yaw, speed, acceleration, curvature).after(rest)

    def walkers(self, t_s: float, near_m: float) -> tuple[Walker, ...]:
        """Pedestrians at crossings within 200 m of s."""
        step, rest = self._at(t_s)
        found = []
        for crossing, walked in zip(self.route.crossings, step.walked_m, strict=True):
            if crossing.side == 0 or abs(crossing.middle_m - near_m) > 200.0:
                continue
            start, end = get_kerb_offsets(crossing)
            way = min(walked + (rest * WALKING_MPS if walked > 0 else 0.0), abs(end - start))
            sign = math.copysign(1.0, end - start)
            x, y = self.route.road.points(crossing.middle_m, start + sign * way).tolist()
            yaw = self.route.road.at(crossing.middle_m)[2] + sign * math.pi / 2
            found.append(Walker(x, y, yaw, math.sin(2 * math.pi * way / 1.5)))
        return tuple(found)
