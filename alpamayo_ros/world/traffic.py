"""The other road users of a drive: who is there, and the rules by which pedestrians cross."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .moments import CAR_FRONT_M, get_kerb_offsets
from .road import CENTRE_LINE_M, RIGHT_EDGE_M, Array
from .route import Crossing

_OVER_M, _CREPT_OVER_M, _CREEPING_MPS = 1.0, 2.5, 2.0
_STANDING_MPS = 0.8
_LET_GO_M = 15.0  # a planner that stands this near lets the pedestrian go
_TAKEN_MPS2 = 3.5  # a pedestrian takes the right of way from who must brake harder than this


@dataclass(frozen=True)
class Traffic:
    """The other vehicles of a drive.

    lead_m: s of the rear axle of the vehicle ahead at the start, None for no such vehicle;
    lead_factor: its share of the allowed speed. ego_factor: that of the ego at the start.
    oncoming_s: time at which each oncoming car passes s = 0, see `OncomingMotion`.
    """

    lead_m: float | None
    lead_factor: float
    ego_factor: float
    oncoming_s: tuple[float, ...]


@dataclass(frozen=True)
class OncomingMotion:
    """Motion of an oncoming car: s by the seconds that it needs from there to s = 0."""

    s_m: Array
    seconds: Array

    def place(self, seconds: float) -> float | None:
        """Place s of a car that reaches s = 0 in so many seconds; None beyond the road."""
        position = (seconds - self.seconds[0]) / (self.seconds[1] - self.seconds[0])
        index = int(position)
        if position < 0 or index + 1 >= len(self.s_m):
            return None
        low, high = self.s_m[index], self.s_m[index + 1]
        return float(low + (high - low) * (position - index))


def is_lane_clear(crossing: Crossing, walked_m: float) -> bool:
    """Whether the pedestrian has left the ego lane, or there is none."""
    if crossing.side == 0:
        return True
    start, _ = get_kerb_offsets(crossing)
    far = CENTRE_LINE_M + 0.7 if crossing.side < 0 else RIGHT_EDGE_M - 0.5
    return walked_m > abs(far - start)


def is_let_go(crossing: Crossing, vehicles: Sequence[tuple[float, float]]) -> bool:
    """Whether the pedestrian of a crossing starts because a vehicle stands before it.

    vehicles: s of the rear axle and speed m/s.
    """
    if crossing.side == 0:
        return False
    return any(
        -get_overshoot_m(speed) < _get_gap(crossing, s_m) < 4.0 and speed < _STANDING_MPS
        for s_m, speed in vehicles
    )


def takes_right_of_way(crossing: Crossing, s_m: float, speed: float) -> bool:
    """Whether the pedestrian of a crossing starts although no vehicle stands at its line.

    s_m, speed: of a vehicle that a planner drives. The pedestrian goes when the vehicle stands
    further away, and when it would have to brake harder than the expert ever does: a planner that
    drives on meets the pedestrian, one that stands far off is not waited for.
    """
    gap = _get_gap(crossing, s_m)
    if crossing.side == 0:
        return False
    if speed < _STANDING_MPS:
        return 0.0 < gap < _LET_GO_M
    return speed > _CREEPING_MPS and gap > -_OVER_M and speed**2 > 2 * _TAKEN_MPS2 * gap


def _get_gap(crossing: Crossing, s_m: float) -> float:
    """Way m from the front of a vehicle to where it should stop."""
    return crossing.stop_m - s_m - CAR_FRONT_M


def get_overshoot_m(speed: float) -> float:
    """Distance over a line up to which a vehicle still stops for it; larger for a creeping one."""
    return _CREPT_OVER_M if speed < _CREEPING_MPS else _OVER_M
