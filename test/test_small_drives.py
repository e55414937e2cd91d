"""The shipped checkpoint `small` drives: a few moments and a short closed loop, within a minute.

A broken colour of the painter, a wrong camera or a wrong prompt shows here.
"""

from dataclasses import replace

import numpy as np
import pytest

from alpamayo_ros.drives import closed_loop, open_loop
from alpamayo_ros.drives.closed_loop import ClosedLoop
from alpamayo_ros.drives.open_loop import OpenLoop
from alpamayo_ros.drives.rows import make_rows
from alpamayo_ros.drives.settings import EvaluationSettings
from alpamayo_ros.ros.publishing.policy import Policies

SAMPLES = 2
DRIVES = (0, 5)


@pytest.fixture(scope='module')
def row():
    settings = EvaluationSettings(
        samples=SAMPLES, closed_samples=1, ablations=False, counterfactuals=False
    )
    return next(row for row in make_rows(settings) if row.name == '16 bits')


def measure_moments(planner, row):
    """Mean minADE_1 and share of sentences that name the true cause, of four moments."""
    loop = OpenLoop('test', 200, 30.0, 2, 0)
    records = open_loop.measure(planner, loop, DRIVES, row.size, lambda count: None)
    assert {(record['marker'], record['finite']) for record in records} == {(1.0, 1.0)}
    return (np.mean([record[key] for record in records]) for key in ('min_ade_1_m_6.4s', 'text'))


def test_small_plans_as_the_expert_does(row):
    error_m, share = measure_moments(row.planner, row)
    assert error_m < 0.3 and share == 1.0


def test_swapped_colours_are_seen(row):
    """So that a wrong order of the channels cannot pass the test above."""
    swapped = replace(row.planner, change=lambda pictures, rng: pictures[:, :, ::-1])
    error_m, _ = measure_moments(swapped, row)
    assert error_m > 0.6


def test_small_drives_by_its_own_plans(row):
    loop = ClosedLoop('test', 200, 5.0, 1.0, Policies(), 0)
    (record,) = closed_loop.measure(row.closed, loop, [0], row.size, lambda seconds: None)
    assert (record['end'], record['clean'], record['without_path']) == ('done', 1.0, 0.0)
    assert record['progress'] > 0.7 and record['score'] > 70.0
