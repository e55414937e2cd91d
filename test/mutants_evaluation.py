"""Breaks metrics, course, closed loop, table and report in 25 places; tells which tests notice.

Run: python test/mutants_evaluation.py [FIRST LAST], numbers of mutants. The exit status is 1 if
more than one survives, or if a mutant's text is no longer in its file.
"""

from __future__ import annotations

import sys

from mutants import run_mutants

MOST_SURVIVORS = 1
SCORE, TABLE, METRICS = 'test_driving_score.py', 'test_evaluation_table.py', 'test_metrics.py'
BOOTSTRAP, COURSE, EDITS = 'test_bootstrap.py', 'test_course.py', 'test_counterfactual.py'
FOLLOWER = 'test_closed_loop.py'

# File below alpamayo_ros/, text, its replacement, tests that should fail (and a filter of them).
MUTANTS = (
    ('metrics/driving_score.py', 'LEAST_PROGRESS = 0.2', 'LEAST_PROGRESS = 0.1', SCORE),
    ('metrics/driving_score.py', 'OVERSPEED_MPS = 2.23', 'OVERSPEED_MPS = 4.46', SCORE),
    ('metrics/driving_score.py', 'max(distance_m, 0.1) / max(expert_m, 0.1)',
     'max(expert_m, 0.1) / max(distance_m, 0.1)', SCORE),
    ('metrics/driving_score.py', 'WRONG_LANE_M = (2.0, 6.0)', 'WRONG_LANE_M = (4.0, 12.0)', SCORE),
    ('metrics/driving_score.py', "'time_to_collision': 5.0", "'time_to_collision': 2.0", SCORE),
    ('metrics/driving_score.py', 'JERK_MPS3, JERK_MAGNITUDE_MPS3 = 4.89, 4.13, 8.37',
     'JERK_MPS3, JERK_MAGNITUDE_MPS3 = 4.89, 8.26, 8.37', SCORE),
    ('metrics/driving_score.py', 'not course.pedestrians_ignored', 'True', SCORE),
    ('metrics/displacement.py', 'return distance[..., :waypoints].mean(axis=-1).min(axis=-1)',
     'return 2 * distance[..., :waypoints].mean(axis=-1).min(axis=-1)', METRICS),
    ('metrics/displacement.py', 'return distance[..., :waypoints][..., -1].min(axis=-1)',
     'return distance[..., :waypoints][..., -1].max(axis=-1)', METRICS),
    ('metrics/displacement.py', 'is_whole = count >= WAYPOINTS - 1', 'is_whole = count > 0',
     METRICS),
    ('metrics/bootstrap.py', 'FEWEST_DRIVES = 30', 'FEWEST_DRIVES = 3', BOOTSTRAP),
    ('metrics/bootstrap.py', '_Z**2 / (2 * size)', '_Z**2 / size', BOOTSTRAP),
    ('metrics/bootstrap.py', '[50 * (1 - LEVEL), 50 * (1 + LEVEL)]', '[40, 60]', BOOTSTRAP),
    ('world/bodies.py', 'BODY_TOLERANCE_M = 0.3', 'BODY_TOLERANCE_M = 0.6', COURSE),
    ('world/bodies.py', '> CAR_REAR_M\n', '> -9.0\n', COURSE),
    ('world/bodies.py', 'times = (distance_m - reach_m)', 'times = (distance_m + reach_m)',
     COURSE),
    ('world/traffic.py', 'return 0.0 < gap < _LET_GO_M', 'return 0.0 < gap < 2 * _LET_GO_M',
     COURSE),
    ('drives/course.py', "return phase in ('red', 'red_amber')", "return phase != 'green'",
     COURSE),
    ('drives/course.py', 'run = all(', 'run = any(', COURSE),
    ('drives/trajectories.py', 'states = [step.ego for step in trace.steps[first + 1 :]]',
     'states = [step.ego for step in trace.steps[first:]]', COURSE),
    ('drives/counterfactual.py', '_SHARE = 0.5', '_SHARE = 0.1', EDITS),
    ('drives/counterfactual.py', 'change_m * np.sign(wanted_m)', 'abs(change_m)', EDITS),
    ('drives/table.py', 'lowest = min(known', 'lowest = max(known', TABLE),
    ('drives/table.py', 'if is_comparable or not metric.of_k', 'if True', TABLE),
    ('drives/follower.py', 'curvature - back', 'curvature + back', FOLLOWER, 'beside_its_path'),
)  # fmt: skip


if __name__ == '__main__':
    sys.exit(run_mutants(MUTANTS, MOST_SURVIVORS))
