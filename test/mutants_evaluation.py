"""Breaks metrics, course, closed loop, table and report in 25 places; tells which tests notice.

Run: python test/mutants_evaluation.py. Each mutant is made in a temporary copy of the package; the
exit status is 1 if more than one survives, or if a mutant's text is no longer in its file.
"""

from __future__ import annotations

import os
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile

ROOT = Path(__file__).parents[1]
SCORE, TABLE, METRICS = 'test_driving_score.py', 'test_evaluation_table.py', 'test_metrics.py'
BOOTSTRAP, COURSE, EDITS = 'test_bootstrap.py', 'test_course.py', 'test_counterfactual.py'
FOLLOWER = 'test_closed_loop.py'

# File below alpamayo_ros/, text, its replacement, tests that should fail (and a filter of them).
MUTANTS = (
    ('metrics/driving_score.py', 'LEAST_PROGRESS = 0.2', 'LEAST_PROGRESS = 0.1', SCORE, ''),
    ('metrics/driving_score.py', 'OVERSPEED_MPS = 2.23', 'OVERSPEED_MPS = 4.46', SCORE, ''),
    ('metrics/driving_score.py', 'max(distance_m, 0.1) / max(expert_m, 0.1)',
     'max(expert_m, 0.1) / max(distance_m, 0.1)', SCORE, ''),
    ('metrics/driving_score.py', 'WRONG_LANE_M = (2.0, 6.0)', 'WRONG_LANE_M = (4.0, 12.0)', SCORE,
     ''),
    ('metrics/driving_score.py', "'time_to_collision': 5.0", "'time_to_collision': 2.0", SCORE,
     ''),
    ('metrics/driving_score.py', 'JERK_MPS3, JERK_MAGNITUDE_MPS3 = 4.89, 4.13, 8.37',
     'JERK_MPS3, JERK_MAGNITUDE_MPS3 = 4.89, 8.26, 8.37', SCORE, ''),
    ('metrics/driving_score.py', 'not course.pedestrians_ignored', 'True', SCORE, ''),
    ('metrics/displacement.py', 'return distance[..., :waypoints].mean(axis=-1).min(axis=-1)',
     'return 2 * distance[..., :waypoints].mean(axis=-1).min(axis=-1)', METRICS, ''),
    ('metrics/displacement.py', 'return distance[..., :waypoints][..., -1].min(axis=-1)',
     'return distance[..., :waypoints][..., -1].max(axis=-1)', METRICS, ''),
    ('metrics/displacement.py', 'is_whole = count >= WAYPOINTS - 1', 'is_whole = count > 0',
     METRICS, ''),
    ('metrics/bootstrap.py', 'FEWEST_DRIVES = 30', 'FEWEST_DRIVES = 3', BOOTSTRAP, ''),
    ('metrics/bootstrap.py', '_Z**2 / (2 * size)', '_Z**2 / size', BOOTSTRAP, ''),
    ('metrics/bootstrap.py', '[50 * (1 - LEVEL), 50 * (1 + LEVEL)]', '[40, 60]', BOOTSTRAP, ''),
    ('world/bodies.py', 'BODY_TOLERANCE_M = 0.3', 'BODY_TOLERANCE_M = 0.6', COURSE, ''),
    ('world/bodies.py', '> CAR_REAR_M\n', '> -9.0\n', COURSE, ''),
    ('world/bodies.py', 'times = (distance_m - reach_m)', 'times = (distance_m + reach_m)', COURSE,
     ''),
    ('world/traffic.py', 'return 0.0 < gap < _LET_GO_M', 'return 0.0 < gap < 2 * _LET_GO_M',
     COURSE, ''),
    ('drives/course.py', "return phase in ('red', 'red_amber')", "return phase != 'green'", COURSE,
     ''),
    ('drives/course.py', 'run = all(', 'run = any(', COURSE, ''),
    ('drives/trajectories.py', 'states = [step.ego for step in trace.steps[first + 1 :]]',
     'states = [step.ego for step in trace.steps[first:]]', COURSE, ''),
    ('drives/counterfactual.py', '_SHARE = 0.5', '_SHARE = 0.1', EDITS, ''),
    ('drives/counterfactual.py', 'change_m * np.sign(wanted_m)', 'abs(change_m)', EDITS, ''),
    ('drives/table.py', 'lowest = min(known', 'lowest = max(known', TABLE, ''),
    ('drives/table.py', 'if is_comparable or not metric.of_k', 'if True', TABLE, ''),
    ('drives/follower.py', 'curvature - back', 'curvature + back', FOLLOWER, 'beside_its_path'),
)  # fmt: skip


def main() -> int:
    """Make every mutant, run its tests, and print which are caught."""
    survivors = []
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        for folder in ('alpamayo_ros', 'test', 'config'):
            ignored = shutil.ignore_patterns('__pycache__', '.pytest_cache')
            shutil.copytree(ROOT / folder, copy / folder, ignore=ignored)
        shutil.copy(ROOT / 'setup.cfg', copy)
        for number, (file, text, other, tests, keyword) in enumerate(MUTANTS, start=1):
            path = copy / 'alpamayo_ros' / file
            source = path.read_text(encoding='utf-8')
            if source.count(text) != 1:
                print(f'{file}: expected once: {text}', file=sys.stderr)
                return 1
            path.write_text(source.replace(text, other), encoding='utf-8')
            is_caught = _run(copy, tests, keyword) == 1
            path.write_text(source, encoding='utf-8')
            print(f'{number:2} {"caught  " if is_caught else "SURVIVED"} {file}: {other.strip()}',
                  flush=True)  # fmt: skip
            if not is_caught:
                survivors.append(number)
    print(f'{len(MUTANTS) - len(survivors)} of {len(MUTANTS)} caught')
    return int(len(survivors) > 1)


def _run(copy: Path, tests: str, keyword: str) -> int:
    """Exit status of pytest on one file of tests: 1 if a test failed."""
    options = ['-q', '-x', '--noconftest', '-p', 'no:cacheprovider']
    command = [sys.executable, '-m', 'pytest', *options, f'test/{tests}']
    if keyword:
        command += ['-k', keyword]
    environment = {**os.environ, 'PYTHONPATH': str(copy), 'PYTHONDONTWRITEBYTECODE': '1'}
    return subprocess.run(
        command, cwd=copy, env=environment, capture_output=True, check=False
    ).returncode


if __name__ == '__main__':
    sys.exit(main())
