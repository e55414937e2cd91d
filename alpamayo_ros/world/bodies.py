"""Bodies beside and in the way of the ego: collisions, lanes, and time to collision.

Time to collision is computed in road coordinates, as in nuPlan at constant speed and direction.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

from .moments import (
    CAR_FRONT_M,
    CAR_HALF_WIDTH_M,
    CAR_REAR_M,
    WALKING_MPS,
    State,
    get_kerb_offsets,
)
from .road import CENTRE_LINE_M, LEFT_EDGE_M, ONCOMING_M, RIGHT_EDGE_M
from .route import PARKED_M
from .shapes import do_overlap, make_rectangle
from .simulation import Simulation

BODY_TOLERANCE_M = 0.3  # a body may reach this far over the lines of its lane (nuPlan: 0.3 m)
_STANDING_MPS = 0.05
_WALKER_HALF_M = 0.25
_NEAR_M = 60.0
_CAR_MIDDLE_M, _CAR_HALF_M = (CAR_FRONT_M + CAR_REAR_M) / 2, (CAR_FRONT_M - CAR_REAR_M) / 2


@dataclass(frozen=True)
class Body:
    """A box in road coordinates: place and velocity along and across the road, half its size."""

    s_m: float
    offset_m: float
    along_mps: float
    across_mps: float
    half_length_m: float
    half_width_m: float


def find_reach(simulation: Simulation, pose: State) -> tuple[float, float]:
    """Smallest and largest offset m of the corners of a car; pose.s_m: within some 20 m."""
    road = simulation.route.road
    corners = make_rectangle(pose.x_m, pose.y_m, pose.yaw_rad).tolist()
    offsets = [road.locate(x, y, pose.s_m)[1] for x, y in corners]
    return min(offsets), max(offsets)


def is_off_lane(simulation: Simulation, pose: State) -> bool:
    """Whether a car at this pose reaches out of the ego lane."""
    right, left = find_reach(simulation, pose)
    low, high = RIGHT_EDGE_M - BODY_TOLERANCE_M, CENTRE_LINE_M + BODY_TOLERANCE_M
    return right < low or left > high


def is_off_road(reach: tuple[float, float]) -> bool:
    """Whether a car with this reach leaves the two lanes of the road."""
    return reach[0] < RIGHT_EDGE_M - BODY_TOLERANCE_M or reach[1] > LEFT_EDGE_M + BODY_TOLERANCE_M


def is_in_wrong_lane(reach: tuple[float, float]) -> bool:
    """Whether a car with this reach stands over the centre line."""
    return reach[1] > CENTRE_LINE_M + BODY_TOLERANCE_M


def has_collision(simulation: Simulation, pose: State, t_s: float) -> bool:
    """Whether a car at this pose overlaps another car or a pedestrian."""
    return bool(_find_collisions(simulation, pose, t_s))


def is_at_fault(simulation: Simulation, pose: State, t_s: float) -> bool:
    """Whether a car at this pose has a collision that it caused.

    As in nuPlan, a standing car causes none, and none is caused by a car that is hit from behind.
    """
    if pose.speed_mps < _STANDING_MPS:
        return False
    cos, sin = math.cos(pose.yaw_rad), math.sin(pose.yaw_rad)
    return any(
        cos * (x - pose.x_m) + sin * (y - pose.y_m) > CAR_REAR_M
        for x, y in _find_collisions(simulation, pose, t_s)
    )


def _find_collisions(simulation: Simulation, pose: State, t_s: float) -> list[tuple[float, float]]:
    """Middles (x, y) of the bodies that a car at this pose overlaps."""
    moment = simulation.moment(t_s)
    body = make_rectangle(pose.x_m, pose.y_m, pose.yaw_rad)
    half = _WALKER_HALF_M
    others = [make_rectangle(car.x_m, car.y_m, car.yaw_rad) for car in moment.cars] + [
        make_rectangle(walker.x_m, walker.y_m, walker.yaw_rad, half, -half, half)
        for walker in moment.walkers
    ]
    middles = [other.mean(axis=0).tolist() for other in others if do_overlap(body, other)]
    return [(x, y) for x, y in middles]


def list_bodies(simulation: Simulation, t_s: float, near_m: float) -> list[Body]:
    """List the bodies within 60 m of s = near_m, in road coordinates."""
    lead, bodies = simulation.trace.lead(t_s), []
    size = _CAR_HALF_M, CAR_HALF_WIDTH_M
    if lead is not None:
        offset, slope, _ = simulation.plan.path_at(lead.s_m)
        speeds = lead.speed_mps, lead.speed_mps * slope
        bodies.append(Body(lead.s_m + _CAR_MIDDLE_M, offset, *speeds, *size))
    for s in simulation.route.parked_m:
        bodies.append(Body(s + _CAR_MIDDLE_M, PARKED_M, 0.0, 0.0, *size))
    for s, speed, _ in simulation.list_oncoming(t_s):
        bodies.append(Body(s - _CAR_MIDDLE_M, ONCOMING_M, speed, 0.0, *size))
    walked = simulation.trace.at(t_s).walked_m
    for crossing, way in zip(simulation.route.crossings, walked, strict=True):
        if crossing.side:
            start, end = get_kerb_offsets(crossing)
            sign, whole = math.copysign(1.0, end - start), abs(end - start)
            pace = sign * WALKING_MPS if 0.0 < way < whole else 0.0
            offset = start + sign * min(way, whole)
            half = _WALKER_HALF_M
            bodies.append(Body(crossing.middle_m, offset, 0.0, pace, half, half))
    return [body for body in bodies if abs(body.s_m - near_m) < _NEAR_M]


def find_time_to_collision(
    simulation: Simulation, ego: State, t_s: float, horizon_s: float
) -> float:
    """Seconds until the ego touches a body ahead if all go on as now; infinity after horizon_s.

    Oncoming cars count only while the ego stands over the centre line: their lane bends with the
    road. A standing ego has no time to collision.
    """
    if ego.speed_mps < _STANDING_MPS:
        return math.inf
    s, offset, yaw = simulation.route.road.locate(ego.x_m, ego.y_m, ego.s_m)
    heading = math.remainder(ego.yaw_rad - yaw, 2 * math.pi)
    along, across = ego.speed_mps * math.cos(heading), ego.speed_mps * math.sin(heading)
    middle = s + _CAR_MIDDLE_M * math.cos(heading), offset + _CAR_MIDDLE_M * math.sin(heading)
    in_wrong_lane = offset + CAR_HALF_WIDTH_M > CENTRE_LINE_M
    found = math.inf
    for body in list_bodies(simulation, t_s, s):
        is_oncoming = body.along_mps < 0.0
        if body.s_m < middle[0] or (is_oncoming and not in_wrong_lane):
            continue
        enters, leaves = 0.0, horizon_s
        for distance, speed, reach in (
            (body.s_m - middle[0], along - body.along_mps, _CAR_HALF_M + body.half_length_m),
            (body.offset_m - middle[1], across - body.across_mps,
             CAR_HALF_WIDTH_M + body.half_width_m),
        ):  # fmt: skip
            low, high = _find_overlap(distance, speed, reach)
            enters, leaves = max(enters, low), min(leaves, high)
        if enters <= leaves:
            found = min(found, enters)
    return found


def _find_overlap(distance_m: float, speed_mps: float, reach_m: float) -> tuple[float, float]:
    """Times between which two intervals overlap that close a distance at a speed."""
    if abs(speed_mps) < 1e-9:
        return (0.0, math.inf) if abs(distance_m) <= reach_m else (math.inf, -math.inf)
    times = (distance_m - reach_m) / speed_mps, (distance_m + reach_m) / speed_mps
    return min(times), max(times)
