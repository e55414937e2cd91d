"""From a route to the text that the model reads: the next turn and the way to it.

The makers publish no rule; this one is derived from their example texts. Along the route, a turn
is a change of its heading by more than TURN_RAD within WITHIN_M, and stands where the change
exceeds TURN_RAD: half way through a right angle. The next turn ahead of the vehicle gives its side
and the distance in whole metres; none within FARTHEST_M gives 'Continue straight'. Knows no ROS.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

TURN_RAD = math.radians(45)
WITHIN_M = 25.0
FARTHEST_M = 600.0
OFF_ROUTE_M = 20.0  # of the vehicle from the route: wider than a road, narrower than a block
STEP_M = 1.0
BENDING_RAD = math.radians(0.5)  # a turn goes on while the heading changes by more in one step
STRAIGHT = 'Continue straight'

Array = NDArray[np.float64]


class RouteText(NamedTuple):
    """A text, or '' and the reason as a sentence why there is none."""

    text: str
    reason: str = ''


def describe_route(points_m: ArrayLike, position_m: ArrayLike, yaw_rad: float) -> RouteText:
    """Text for a vehicle at a position (2,) with a heading, on a route of points (N, >= 2).

    All in one frame, in m. A route that leads the other way where it is nearest, one that is over
    and one that is more than OFF_ROUTE_M away have no text.
    """
    points = np.asarray(points_m, np.float64).reshape(len(np.asarray(points_m)), -1)[:, :2]
    if len(points) and not np.isfinite(points).all():
        return RouteText('', 'the route has points that are not finite')
    points = points[np.append(True, np.linalg.norm(np.diff(points, axis=0), axis=1) > 1e-6)]
    if len(points) < 2:
        return RouteText('', 'the route has fewer than two points')
    at_m, away_m = _project(points, np.asarray(position_m, np.float64)[:2], yaw_rad)
    if away_m > OFF_ROUTE_M:
        return RouteText('', f'the vehicle is {away_m:.0f} m off the route')
    lengths = np.linalg.norm(np.diff(points, axis=0), axis=1)
    if at_m > lengths.sum() - STEP_M:
        return RouteText('', 'the route ends here')
    for turn_m, side in _find_turns(points, lengths, at_m):
        if turn_m > at_m:
            return RouteText(f'Turn {side} in {max(round(turn_m - at_m), 1)}m')
    return RouteText(STRAIGHT)


def _project(points: Array, position: Array, yaw_rad: float) -> tuple[float, float]:
    """Way along the route to the nearest point that leads on, and the distance of it.

    The distance is infinite where the route leads the other way everywhere.
    """
    steps = np.diff(points, axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    share = np.clip(((position - points[:-1]) * steps).sum(1) / lengths**2, 0.0, 1.0)
    away = np.linalg.norm(points[:-1] + share[:, None] * steps - position, axis=1)
    leads_on = steps @ np.array([math.cos(yaw_rad), math.sin(yaw_rad)]) > 0
    away = np.where(leads_on, away, np.inf)
    nearest = int(away.argmin())
    return float(lengths[:nearest].sum() + share[nearest] * lengths[nearest]), float(away[nearest])


def _find_turns(points: Array, lengths: Array, at_m: float) -> list[tuple[float, str]]:
    """Way along the route to each turn around and ahead of the vehicle, with its side."""
    ends = np.cumsum(lengths)
    last_m = min(float(ends[-1]), at_m + FARTHEST_M)
    # from so far behind that a turn in which the vehicle is begins where it really does
    ways = np.arange(max(at_m - 2 * WITHIN_M, 0.0), last_m, STEP_M)
    steps = np.diff(points, axis=0)
    segment = np.minimum(np.searchsorted(ends, ways, side='right'), len(lengths) - 1)
    headings = np.unwrap(np.arctan2(steps[:, 1], steps[:, 0]))[segment]
    window = round(WITHIN_M / STEP_M)
    turns: list[tuple[float, str]] = []
    first = i = 0  # the window begins behind the last turn
    while i < len(ways):
        changes = headings[i] - headings[max(first, i - window) : i + 1]
        change = float(changes[np.abs(changes).argmax()])
        if abs(change) > TURN_RAD:
            turns.append((float(ways[i]), 'left' if change > 0 else 'right'))
            while i + 1 < len(ways) and (headings[i + 1] - headings[i]) * change > 0:
                if abs(headings[i + 1] - headings[i]) < BENDING_RAD:
                    break
                i += 1
            first = i
        i += 1
    return turns
