"""Who moves how, by seed: the ego vehicle, the lead vehicle that brakes, others on the road.

The lead vehicle drives a speed plan with stops; the ego follows it as in Newell's model (Newell
2002, "A simplified car-following theory"): the same motion some time and some distance later. Both
rear axles follow the reference line of the road, so the motion is a unicycle's. Times are seconds
since the start of the drive. Knows no cameras, no stamps, no colours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .road import STEP_M, Array, Road, make_road

RATE_HZ = 200.0  # speed is piecewise linear, acceleration piecewise constant at this rate
MARGIN_S = 1.0  # motion is known this long before the start and after the end
VIEW_M = 450.0  # the road goes on this far after the end of the drive
MAX_LATERAL_MPS2 = 2.2
MAX_SPEED_MPS = 14.0
REACTION_S = 1.3
_STANDSTILL_GAP_M = 9.5  # between rear axles; 4.9 m between the bumpers
_SMOOTHING_S = 0.8  # Hann window over the speed: no jumps of the acceleration


@dataclass(frozen=True)
class State:
    """Pose of a rear axle in the world frame and its motion."""

    s_m: float
    x_m: float
    y_m: float
    yaw_rad: float
    speed_mps: float
    acceleration_mps2: float
    curvature: float


@dataclass(frozen=True)
class Motion:
    """Motion along the road from `start_s` on, sampled at RATE_HZ; shapes (N,)."""

    start_s: float
    s_m: Array
    speed_mps: Array

    def along(self, t_s: float) -> tuple[float, float, float]:
        """Distance m, speed m/s and acceleration m/s^2 at a time within the samples."""
        index = int((t_s - self.start_s) * RATE_HZ)
        rest = t_s - self.start_s - index / RATE_HZ
        speed = float(self.speed_mps[index])
        acceleration = float(self.speed_mps[index + 1] - speed) * RATE_HZ
        s = float(self.s_m[index]) + (speed + acceleration * rest / 2) * rest
        return s, speed + acceleration * rest, acceleration

    def first_at(self, s_m: float) -> float:
        """First time at or beyond s; infinity when the samples end before."""
        index = int(np.searchsorted(self.s_m, s_m))
        return self.start_s + index / RATE_HZ if index < len(self.s_m) else float('inf')


@dataclass(frozen=True)
class Oncoming:
    """A car in the other lane at constant speed; at the start it is at `start_m`."""

    start_m: float
    speed_mps: float


@dataclass(frozen=True)
class Crossing:
    """A zebra crossing: its middle, and when the lead vehicle begins to wait there."""

    s_m: float
    wait_from_s: float


@dataclass(frozen=True)
class Scenario:
    """One drive: the road, the vehicles and the crossings where the lead vehicle stops."""

    seconds: float
    road: Road
    ego_motion: Motion
    lead_motion: Motion
    oncoming: tuple[Oncoming, ...]
    crossings: tuple[Crossing, ...]

    def ego(self, t_s: float) -> State:
        """State of the ego vehicle; -MARGIN_S <= t_s <= seconds + MARGIN_S."""
        return self._state(self.ego_motion, t_s)

    def lead(self, t_s: float) -> State:
        """State of the lead vehicle, same times."""
        return self._state(self.lead_motion, t_s)

    def _state(self, motion: Motion, t_s: float) -> State:
        s, speed, acceleration = motion.along(t_s)
        x, y = self.road.points(s)
        yaw, curvature = self.road.yaw_at(s), self.road.curvature_at(s)
        return State(s, float(x), float(y), float(yaw), speed, acceleration, float(curvature))


def make_scenario(seed: int, seconds: float) -> Scenario:
    """Drive of the given length; with an equal seed a longer one begins as the shorter one."""
    rngs = [np.random.default_rng([seed, 1, purpose]) for purpose in range(4)]
    road = make_road(rngs[0], MAX_SPEED_MPS * (seconds + 10.0) + VIEW_M)
    end = float(road.s_m[-1])
    cruise = rngs[1].uniform(10.0, 12.5)
    braking, starting = rngs[1].uniform(1.9, 2.4), rngs[1].uniform(1.5, 1.9)
    stops, waits = _stops(rngs[2], end)
    speed = _speed_plan(road, cruise, stops, braking, starting)
    lead = _drive(road, speed, stops, waits, seconds)
    ego = Motion(lead.start_s + REACTION_S, lead.s_m - _STANDSTILL_GAP_M, lead.speed_mps)
    crossings = tuple(Crossing(stop + 7.2, lead.first_at(stop - 0.1)) for stop in stops)
    first, spacing = rngs[3].uniform(58.0, 70.0), rngs[3].uniform(180.0, 200.0)
    places = np.arange(first, end + MAX_SPEED_MPS * seconds, spacing)
    oncoming = tuple(Oncoming(float(s), float(rngs[3].uniform(8.5, 9.5))) for s in places)
    return Scenario(seconds, road, ego, lead, oncoming, crossings)


def _stops(rng: np.random.Generator, length_m: float) -> tuple[list[float], list[float]]:
    """Where the lead vehicle comes to rest, and for how long it waits."""
    stops = [float(rng.uniform(72.0, 84.0))]
    waits = [float(rng.uniform(3.0, 3.6))]
    while stops[-1] < length_m:
        stops.append(stops[-1] + float(rng.uniform(160.0, 240.0)))
        waits.append(float(rng.uniform(3.0, 4.5)))
    return stops, waits


def _speed_plan(
    road: Road, cruise_mps: float, stops: list[float], braking: float, starting: float
) -> Array:
    """Fastest speed per road sample that keeps every limit: a forward and a backward pass."""
    sharpest = np.abs(road.curvature)
    window = int(_STANDSTILL_GAP_M / STEP_M)  # the follower is this far behind at equal speed
    padded = np.pad(sharpest, window, mode='edge')
    sharpest = np.lib.stride_tricks.sliding_window_view(padded, 2 * window + 1).max(axis=1)
    squared = np.minimum(cruise_mps**2, MAX_LATERAL_MPS2 / np.maximum(sharpest, 1e-6))
    squared[np.searchsorted(road.s_m, [s for s in stops if s < road.s_m[-1]])] = 0.0
    # v^2 changes by at most 2*a*step: a running minimum after taking out that slope
    forward = 2 * starting * road.s_m
    squared = np.minimum.accumulate(squared - forward) + forward
    backward = 2 * braking * road.s_m
    squared = np.minimum.accumulate((squared + backward)[::-1])[::-1] - backward
    return np.sqrt(np.maximum(squared, 0.0))


def _drive(
    road: Road, speed: Array, stops: list[float], waits: list[float], seconds: float
) -> Motion:
    """Motion over time of a vehicle that follows the speed plan and waits at the stops."""
    steps = 2 * STEP_M / np.maximum(speed[1:] + speed[:-1], 1e-3)
    arrival = np.concatenate([[0.0], np.cumsum(steps)])
    s_m = road.s_m
    for stop, wait in zip(stops, waits, strict=True):
        index = int(np.searchsorted(s_m, stop))
        if index < len(s_m):  # the same place twice: arriving and leaving
            arrival = np.insert(arrival, index, arrival[index])
            arrival[index + 1 :] += wait
            s_m = np.insert(s_m, index, s_m[index])
    arrival -= np.interp(_STANDSTILL_GAP_M, s_m, arrival) + REACTION_S  # ego: s = 0 at t = 0
    start = -MARGIN_S - REACTION_S
    half = round(_SMOOTHING_S / 2 * RATE_HZ)
    count = round((seconds + 2 * MARGIN_S + REACTION_S) * RATE_HZ) + 3 + 2 * half
    times = start + (np.arange(count) - half) / RATE_HZ
    rough = np.diff(np.interp(times, arrival, s_m)) * RATE_HZ
    window = np.hanning(2 * half + 1)
    smooth = np.convolve(rough, window / window.sum(), mode='valid')
    smooth[smooth < 1e-4] = 0.0  # at rest exactly: rounding must not creep
    distance = np.concatenate([[0.0], np.cumsum((smooth[1:] + smooth[:-1]) / 2 / RATE_HZ)])
    first = np.interp(start, arrival, s_m)
    return Motion(start, first + distance, smooth)
