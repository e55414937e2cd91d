"""Outlines of road surfaces and white markings in the world frame, shared by both renderers."""

from __future__ import annotations

import numpy as np

from ..road import BEHIND_M, CENTRE_LINE_M, LEFT_EDGE_M, RIGHT_EDGE_M, Array, Road
from ..route import JUNCTION_HALF_M, Light, Route, Turn

LINE_M = 0.14  # width of the markings
MARGIN_M = 0.25  # width of the asphalt beside the edge lines
VERGE_M = 0.7  # width of asphalt and gravel beside the edge lines
ARM_M = 45.0  # how far a crossing road is drawn
_DASHES_M = {30: (2.0, 5.0), 50: (4.0, 10.0), 70: (6.0, 15.0)}  # length and period by limit
_ZEBRA_M, _STRIPE_M = 3.6, 0.5


def make_strips(road: Road, low_m: Array, high_m: Array, offset_m: Array, width_m: Array) -> Array:
    """Strips (N, 4, 2) m along the road: from low to high, of a width around an offset."""
    left, right = offset_m + width_m / 2, offset_m - width_m / 2
    return np.stack([road.points(low_m, right), road.points(high_m, right),
                     road.points(high_m, left), road.points(low_m, left)], axis=1)  # fmt: skip


def make_lane_surface(road: Road, stations: Array, margin_m: float) -> Array:
    """Surface of both lanes from station to station, (N - 1, 4, 2) m."""
    middle = np.full(len(stations) - 1, (LEFT_EDGE_M + RIGHT_EDGE_M) / 2)
    width = np.full(len(stations) - 1, LEFT_EDGE_M - RIGHT_EDGE_M + 2 * margin_m)
    return make_strips(road, stations[:-1], stations[1:], middle, width)


def list_crossing_roads(route: Route, low_m: float, high_m: float) -> Array:
    """List the crossing roads between two places of the route, (N, 4, 2) m."""
    found = [_make_crossing_road(route.road, light) for light in route.lights
             if low_m < light.middle_m < high_m]  # fmt: skip
    found += [_make_arm(route.road, turn) for turn in route.turns
              if turn.has_arm and low_m < turn.start_m < high_m]  # fmt: skip
    return np.array(found).reshape(-1, 4, 2)


def _make_crossing_road(road: Road, light: Light) -> Array:
    s, half = light.middle_m, JUNCTION_HALF_M - 1.5
    (x, y), yaw = road.points(s, CENTRE_LINE_M), float(road.yaw_at(s))
    return _make_rectangle(x, y, yaw, (-half, half), (-ARM_M, ARM_M))


def _make_arm(road: Road, turn: Turn) -> Array:
    """Arm of a turn: the new road continued to the other side of the junction."""
    x, y, yaw, _ = road.at(turn.end_m)
    way = (turn.end_m - turn.start_m) / (np.pi / 2) + ARM_M
    sides = (RIGHT_EDGE_M - MARGIN_M, LEFT_EDGE_M + MARGIN_M)
    return _make_rectangle(x, y, yaw, (-way, 0.0), sides)


def _make_rectangle(
    x_m: float, y_m: float, yaw_rad: float, along: tuple[float, float], aside: tuple[float, float]
) -> Array:
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    corners = np.array([(along[0], aside[0]), (along[1], aside[0]), (along[1], aside[1]),
                        (along[0], aside[1])])  # fmt: skip
    return corners @ np.array([[cos, sin], [-sin, cos]]) + (x_m, y_m)


def list_white_markings(route: Route, stations: Array) -> Array:
    """Edge lines, dashes, stop lines and zebra stripes between the stations, (N, 4, 2) m."""
    road, low, high = route.road, stations[0], stations[-1]
    starts, ends = stations[:-1], stations[1:]
    at_light = _touches_gap(starts, ends, [(light.middle_m - JUNCTION_HALF_M,
                                       light.middle_m + JUNCTION_HALF_M)
                                      for light in route.lights])  # fmt: skip
    quads = []
    for edge, side in ((RIGHT_EDGE_M, 1), (LEFT_EDGE_M, -1)):
        # at a left turn the crossing road opens to the right
        open_turns = [(turn.start_m, turn.end_m) for turn in route.turns
                      if turn.has_arm and turn.side == side]  # fmt: skip
        drawn = ~(at_light | _touches_gap(starts, ends, open_turns))
        quads.append(_make_line(road, starts[drawn], ends[drawn], edge, LINE_M))
    dashes, lengths = _list_dashes(route, low, high)
    quads.append(_make_line(road, dashes, dashes + lengths, CENTRE_LINE_M, LINE_M))
    middle = (RIGHT_EDGE_M + CENTRE_LINE_M) / 2
    lines = np.array([light.stop_m + 1.0 for light in route.lights
                      if low < light.stop_m < high])  # fmt: skip
    quads.append(_make_line(road, lines, lines + 0.5, middle, CENTRE_LINE_M - RIGHT_EDGE_M))
    stripes = np.arange(RIGHT_EDGE_M + 0.5, LEFT_EDGE_M, 2 * _STRIPE_M)
    for crossing in route.crossings:
        if low < crossing.middle_m < high:
            at = np.full(len(stripes), crossing.middle_m)
            width = np.full(len(stripes), _STRIPE_M)
            quads.append(make_strips(road, at - _ZEBRA_M / 2, at + _ZEBRA_M / 2, stripes, width))
    return np.concatenate(quads)


def _make_line(road: Road, low_m: Array, high_m: Array, offset_m: float, width_m: float) -> Array:
    return make_strips(
        road, low_m, high_m, np.full(len(low_m), offset_m), np.full(len(low_m), width_m)
    )


def _touches_gap(starts: Array, ends: Array, gaps: list[tuple[float, float]]) -> np.ndarray:
    """Whether each stretch (N,) touches one of the gaps."""
    inside = np.zeros(len(starts), dtype=bool)
    for low, high in gaps:
        inside |= (ends > low) & (starts < high)
    return inside


def _list_dashes(route: Route, low_m: float, high_m: float) -> tuple[Array, Array]:
    """Start and length of the centre line's dashes; there are none at lights and zebras."""
    starts, lengths = [], []
    for number, zone in enumerate(route.zones):
        is_last = number + 1 == len(route.zones)
        end = high_m if is_last else min(route.zones[number + 1].start_m, high_m)
        length, period = _DASHES_M[zone.limit_kmh]
        begin = max(zone.start_m, low_m, -BEHIND_M)
        found = np.arange(np.ceil(begin / period) * period, end, period)
        starts.append(found)
        lengths.append(np.full(len(found), length))
    start, length_m = np.concatenate(starts), np.concatenate(lengths)
    gaps = [(light.middle_m - JUNCTION_HALF_M, light.middle_m + JUNCTION_HALF_M)
            for light in route.lights]  # fmt: skip
    gaps += [(crossing.middle_m - _ZEBRA_M, crossing.middle_m + _ZEBRA_M)
             for crossing in route.crossings]  # fmt: skip
    kept = ~_touches_gap(start, start + length_m, gaps)
    return start[kept], length_m[kept]
