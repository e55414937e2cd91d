"""What an evaluation measures: key, title and unit of every metric of its table."""

from __future__ import annotations

from dataclasses import dataclass

from .displacement import HORIZONS_S

SHOWN_S = HORIZONS_S[1:]
HORIZONS = tuple(f'{horizon_s:.1f}' for horizon_s in SHOWN_S)
LONGEST_HORIZON = HORIZONS[-1]


@dataclass(frozen=True)
class Metric:
    """A figure of the table: its key, title and unit, and the digits to show."""

    key: str
    title: str
    unit: str = ''
    digits: int = 2
    percent: bool = False


DISTANCE_METRICS = tuple(
    Metric(f'{key}_{horizon}s', f'{title} at {float(horizon):g} s', 'm')
    for key, title in (
        ('min_ade_m', 'minADE_K'),
        ('min_ade_1_m', 'minADE_1'),
        ('ade_m', 'ADE of the chosen sample'),
        ('fde_m', 'FDE of the chosen sample'),
        ('min_fde_m', 'FDE of the best sample'),
    )
    for horizon in HORIZONS
)
OTHER_METRICS = (
    Metric('acceleration_mps2', 'acceleration, RMS', 'm/s²'),
    Metric('jerk_mps3', 'jerk, RMS', 'm/s³'),
    Metric('curvature_rate', 'curvature rate, RMS', '1/(m s)', 4),
    Metric('off_lane', 'leaves the lane', '%', 1, percent=True),
    Metric('collision', 'touches something', '%', 1, percent=True),
    Metric('text', 'sentence names the true cause', '%', 1, percent=True),
    Metric('marker', 'reasoning ends with its marker', '%', 1, percent=True),
    Metric('finite', 'finite', '%', 1, percent=True),
)
OPEN_LOOP_METRICS = (*DISTANCE_METRICS, *OTHER_METRICS)
CLOSED_LOOP_METRICS = (
    Metric('clean', 'drives without a fault', '%', 1, percent=True),
    Metric('off_lane', 'left the lane', '%', 1, percent=True),
    Metric('collision', 'hit something', '%', 1, percent=True),
    Metric('time_s', 'time driven', 's', 1),
    Metric('distance_m', 'distance driven', 'm', 0),
    Metric('progress', 'of the distance of the expert', '%', 1, percent=True),
    Metric('without_path', 'time without a path', '%', 1, percent=True),
)
