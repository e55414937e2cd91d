"""The metrics of an evaluation's table: key, title, unit and kind of each."""

from __future__ import annotations

from dataclasses import dataclass

from .displacement import HORIZONS_S

SHOWN_S = HORIZONS_S[1:]
HORIZONS = tuple(f'{horizon_s:.1f}' for horizon_s in SHOWN_S)
LONGEST_HORIZON = HORIZONS[-1]


@dataclass(frozen=True)
class Metric:
    """A figure of the table: its key, title and unit, and the digits to show.

    percent: a proportion, shown in %. of_k: it depends on the number of samples, so that rows with
    another number are not compared.
    """

    key: str
    title: str
    unit: str = ''
    digits: int = 2
    percent: bool = False
    of_k: bool = False


def _share(key: str, title: str) -> Metric:
    return Metric(key, title, '%', 1, percent=True)


DISTANCE_METRICS = tuple(
    Metric(f'{key}_{horizon}s', f'{title} at {float(horizon):g} s', 'm', of_k=of_k)
    for key, title, of_k in (
        ('min_ade_m', 'minADE_K', True),
        ('min_ade_1_m', 'minADE_1', False),
        ('min_fde_m', 'minFDE_K', True),
        ('whole_best_ade_m', 'ADE of the sample that is best over 6.4 s', True),
        ('ade_m', 'ADE of the chosen sample', True),
        ('fde_m', 'FDE of the chosen sample', True),
    )
    for horizon in HORIZONS
)
OTHER_METRICS = (
    Metric('corner_distance_m', 'corner distance, best sample', 'm', of_k=True),
    Metric('acceleration_mps2', 'acceleration, RMS', 'm/s²'),
    Metric('jerk_mps3', 'jerk, RMS', 'm/s³'),
    Metric('curvature_rate', 'curvature rate, RMS', '1/(m s)', 4),
    _share('off_lane', 'leaves the lane'),
    _share('off_lane_bend', 'leaves the lane, in bends and turns'),
    _share('collision', 'touches something'),
    _share('text', 'sentence names the true cause'),
    _share('marker', 'reasoning ends with its marker'),
    _share('finite', 'finite'),
)
OPEN_LOOP_METRICS = (*DISTANCE_METRICS, *OTHER_METRICS)
SCORE = Metric('score', 'score, mean of all drives', '', 1)
CLOSED_LOOP_METRICS = (
    SCORE,
    _share('clean', 'drives with all multipliers at 1'),
    _share('no_collision', '× no collision caused'),
    _share('on_road', '× stays on the road'),
    Metric('own_lane', '× stays in the own lane', '%', 1, percent=True),
    _share('red_light', '× no red light run'),
    _share('yields', '× yields to pedestrians'),
    _share('makes_progress', '× makes progress'),
    Metric('progress', '5 · progress along the expert', '', 3),
    _share('time_to_collision', '5 · time to collision in bounds'),
    Metric('speed_limit', '4 · speed limit', '', 3),
    _share('comfort', '2 · comfort in bounds'),
    Metric('time_s', 'time driven', 's', 1),
    Metric('distance_m', 'distance driven', 'm', 0),
    Metric('without_path', 'share of the time without a path', '', 3),
)
# Rules with occasions: keys of what was met and broken, and their title.
OCCASIONS = (
    ('red_lights', 'red_lights_run', 'red lights run, of those met'),
    ('pedestrians', 'pedestrians_ignored', 'pedestrians not yielded to, of those met'),
)
DEMANDS = ('red_light', 'pedestrian', 'lead', 'turn')  # groups of drives, by what the expert meets
COUNTERFACTUAL_METRICS = (
    _share('follows', "plans that change as the expert's"),
    _share('names', 'sentences that name the cause before'),
    _share('still_names', 'sentences that still name it when it is gone'),
)
