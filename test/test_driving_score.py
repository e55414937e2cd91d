"""The score of a drive: every part by hand-computed courses, and how the parts combine."""

from dataclasses import replace

import numpy as np
import pytest

from alpamayo_ros.metrics.driving_score import DriveCourse, score_drive

STEP_S, STEPS = 0.05, 400  # 20 s


@pytest.fixture
def course():
    """Steady and lawful: 10 m/s where 10 m/s are allowed, as far as the expert."""
    full = np.full(STEPS, 10.0)
    return DriveCourse(
        step_s=STEP_S, speed_mps=full, acceleration_mps2=0 * full, curvature=0 * full,
        limit_mps=full, time_to_collision_s=0 * full + np.inf,
        in_wrong_lane=np.zeros(STEPS, bool), distance_m=200.0, expert_m=200.0,
        has_caused_collision=False, has_left_road=False, red_lights_run=0, pedestrians_ignored=0,
    )  # fmt: skip


def first(seconds):
    """Flags (STEPS,) that are true for the first seconds."""
    return np.arange(STEPS) < round(seconds / STEP_S)


def ramp(slope, bounds):
    """Values (STEPS,) that rise at a slope in the middle of the drive, from bound to bound."""
    return np.clip(slope * (STEP_S * np.arange(STEPS) - 10.0), *bounds)


def test_a_perfect_drive_has_a_hundred(course):
    found = score_drive(course)
    assert set(found.values()) == {1.0, 100.0} and found['score'] == 100.0


@pytest.mark.parametrize(
    ('changes', 'name'),
    [
        ({'has_caused_collision': True}, 'no_collision'),
        ({'has_left_road': True}, 'on_road'),
        ({'in_wrong_lane': first(0.65)}, 'own_lane'),
        ({'red_lights_run': 1}, 'red_light'),
        ({'pedestrians_ignored': 1}, 'yields'),
        ({'distance_m': 39.0}, 'makes_progress'),
    ],
)
def test_one_broken_rule_makes_the_score_zero(course, changes, name):
    found = score_drive(replace(course, **changes))
    assert (found[name], found['clean'], found['score']) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ('seconds', 'expected'), [(0.2, 1.0), (0.25, 0.5), (0.6, 0.5), (0.65, 0.0)]
)
def test_the_wrong_lane_counts_by_the_way_within_a_second(course, seconds, expected):
    """At 10 m/s: up to 2 m nothing, up to 6 m half."""
    found = score_drive(replace(course, in_wrong_lane=first(seconds)))
    assert (found['own_lane'], found['score']) == (expected, 100.0 * expected)
    assert found['clean'] == float(expected == 1.0)


def test_short_ways_in_the_wrong_lane_do_not_add_up_over_seconds(course):
    flags = first(0.15) | np.roll(first(0.15), 100) | np.roll(first(0.15), 200)
    assert score_drive(replace(course, in_wrong_lane=flags))['own_lane'] == 1.0


@pytest.mark.parametrize(
    ('changes', 'name', 'part', 'score'),
    [
        ({'distance_m': 100.0}, 'progress', 0.5, 100 * (1 - 0.5 * 5 / 16)),
        ({'distance_m': 40.0}, 'progress', 0.2, 100 * (1 - 0.8 * 5 / 16)),
        ({'distance_m': 400.0}, 'progress', 1.0, 100.0),
        ({'time_to_collision_s': np.r_[np.full(STEPS - 1, 9.0), 0.94]}, 'time_to_collision', 0.0,
         100 * 11 / 16),
        ({'time_to_collision_s': np.full(STEPS, 0.95)}, 'time_to_collision', 1.0, 100.0),
        ({'limit_mps': np.full(STEPS, 10.0 - 1.115)}, 'speed_limit', 0.5, 100 * 14 / 16),
        ({'limit_mps': np.full(STEPS, 5.0)}, 'speed_limit', 0.0, 100 * 12 / 16),
        ({'acceleration_mps2': np.full(STEPS, -4.1)}, 'comfort', 0.0, 100 * 14 / 16),
        ({'acceleration_mps2': np.full(STEPS, 2.45)}, 'comfort', 0.0, 100 * 14 / 16),
        ({'curvature': np.full(STEPS, 0.05)}, 'comfort', 0.0, 100 * 14 / 16),
        ({'curvature': np.full(STEPS, 0.048)}, 'comfort', 1.0, 100.0),
    ],
)  # fmt: skip
def test_weighted_parts(course, changes, name, part, score):
    found = score_drive(replace(course, **changes))
    assert found[name] == pytest.approx(part) and found['score'] == pytest.approx(score)
    assert found['clean'] == 1.0


@pytest.mark.parametrize(
    ('changes', 'expected'),
    [
        ({'acceleration_mps2': ramp(4.2, (-4.0, 2.3))}, 0.0),
        ({'acceleration_mps2': ramp(4.0, (-4.0, 2.3))}, 1.0),
        ({'curvature': ramp(9.0, (-0.045, 0.045))}, 0.0),  # about 9 m/s^3 across
        ({'curvature': ramp(0.06, (-0.045, 0.045))}, 1.0),
        ({'speed_mps': np.full(STEPS, 2.0), 'curvature': np.full(STEPS, 0.48)}, 0.0),  # 0.96 rad/s
        ({'speed_mps': np.full(STEPS, 2.0), 'curvature': np.full(STEPS, 0.47)}, 1.0),
    ],
)
def test_comfort_bounds_jerk_and_yaw(course, changes, expected):
    assert score_drive(replace(course, **changes))['comfort'] == expected


def test_a_standing_expert_asks_for_no_progress(course):
    assert score_drive(replace(course, distance_m=0.0, expert_m=0.0))['progress'] == 1.0
