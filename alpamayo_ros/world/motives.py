"""The cause that a passenger would name for the current driving of the ego vehicle.

Causes that limit the speed come first, then those that shape the path, then the plain ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from .driver import DrivingPlan
from .route import Route

_PULLING_MPS2 = 0.35


@dataclass(frozen=True)
class Situation:
    """The ego at one step: place, motion, and the cause that limits its speed ('' for none).

    lead: gap m and speed m/s of the vehicle ahead, if one is near. green: a green light is near.
    """

    s_m: float
    speed_mps: float
    acceleration_mps2: float
    setter: str
    lead: tuple[float, float] | None
    green: bool


def name_cause(route: Route, plan: DrivingPlan, now: Situation) -> str:
    """Name of the cause, one of `reasons.CAUSES`."""
    speed = now.speed_mps
    if now.setter == 'lead' and now.lead is not None:
        pulling = now.acceleration_mps2 > _PULLING_MPS2 and now.lead[1] > speed
        if pulling:
            return 'lead_pulls_away'
        return 'lead_stopped' if now.lead[1] < 0.5 else 'lead_slower'
    if now.setter in ('red_light', 'pedestrian'):
        return now.setter
    for turn in route.turns:
        if turn.start_m - max(2.0 * speed, 6.0) < now.s_m < turn.end_m - 6.0:
            return 'turn_left' if turn.side > 0 else 'turn_right'
    if now.setter:
        return now.setter
    if any(abs(plan.path_at(now.s_m + ahead * speed)[0]) > 0.12 for ahead in (0.0, 0.8, 1.6)):
        return 'parked_car'
    if now.acceleration_mps2 > _PULLING_MPS2 and speed < 0.85 * plan.at(now.s_m)[0]:
        if now.green:
            return 'green_light'
        if now.lead is not None and now.lead[0] < 25.0 and now.lead[1] > speed:
            return 'lead_pulls_away'
        return 'speed_up'
    bend = float(route.road.at(now.s_m + 1.2 * speed)[3])
    if abs(bend) > 1 / 260:
        return 'curve_left' if bend > 0 else 'curve_right'
    return 'keep_lane'
