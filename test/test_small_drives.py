"""The shipped checkpoints drive: a few moments and a short closed loop, within a minute.

A broken colour of the painter, a wrong camera or a wrong prompt shows here.
"""

from dataclasses import replace
import functools

import numpy as np
import pytest

from alpamayo_ros.data_types import Navigation, SamplingOptions
from alpamayo_ros.drives import closed_loop, counterfactual, open_loop
from alpamayo_ros.drives.closed_loop import ClosedLoop
from alpamayo_ros.drives.counterfactual import Counterfactuals
from alpamayo_ros.drives.open_loop import OpenLoop
from alpamayo_ros.drives.rows import make_rows
from alpamayo_ros.drives.scene import EvaluationDrive, Scene
from alpamayo_ros.drives.settings import EvaluationSettings
from alpamayo_ros.ros.publishing.policy import Policies
from alpamayo_ros.runtime.batch import infer_batch

SAMPLES = 2
DRIVES = (0, 5)
LIT_DRIVE, JUNCTION_DRIVE = 4, 8


@pytest.fixture(scope='module')
def make_row():
    """Return a function that makes the row of a checkpoint; its weights are loaded once."""

    @functools.cache
    def make(checkpoint):
        settings = EvaluationSettings(
            checkpoint, samples=SAMPLES, closed_samples=1, ablations=False, counterfactuals=False
        )
        return next(row for row in make_rows(settings) if row.name == '16 bits')

    return make


@pytest.fixture(params=['small', 'small15'])
def row(make_row, request):
    return make_row(request.param)


def measure_moments(planner, row):
    """Mean minADE_1 and share of sentences that name the true cause, of four moments."""
    loop = OpenLoop('test', 200, 30.0, 2, 0)
    records = open_loop.measure(planner, loop, DRIVES, row.size)
    assert {(record['marker'], record['finite']) for record in records} == {(1.0, 1.0)}
    return (np.mean([record[key] for record in records]) for key in ('min_ade_1_m_6.4s', 'text'))


@pytest.mark.parametrize(('checkpoint', 'most_m'), [('small', 0.3), ('small15', 0.7)])
def test_plans_are_near_the_experts(make_row, checkpoint, most_m):
    row = make_row(checkpoint)
    error_m, share = measure_moments(row.planner, row)
    assert error_m < most_m and share == 1.0


def test_swapped_colours_are_seen(make_row):
    """So that a wrong order of the channels cannot pass the test above."""
    row = make_row('small')
    swapped = replace(row.planner, change=lambda pictures, rng: pictures[:, :, ::-1])
    error_m, _ = measure_moments(swapped, row)
    assert error_m > 0.6


def test_plans_of_its_own_drive_a_checkpoint(row):
    loop = ClosedLoop('test', 200, 5.0, 1.0, Policies(), 0)
    (record,) = closed_loop.measure(row.closed, loop, [0], row.size, lambda seconds: None)
    assert (record['end'], record['clean'], record['without_path']) == ('done', 1.0, 0.0)
    assert record['progress'] > 0.7 and record['score'] > 70.0


def test_small15_looks(make_row):
    """A red light that is green in all pictures: the plan drives on, the text forgets it."""
    row, loop = make_row('small15'), Counterfactuals('test', 32, 60.0, 0)
    scenes = [x for x in loop.scenes(LIT_DRIVE, row.size) if x.edit == 'green lights']
    before = row.planner.plan([replace(x, edit=None) for x in scenes], 0)
    (record,) = map(counterfactual.make_record, scenes, before, row.planner.plan(scenes, 0))
    assert (record['follows'], record['names'], record['still_names']) == (1.0, 1.0, 0.0)


def test_small15_turns_as_its_route_text_says(make_row):
    """At a junction with an arm on the other side, 10 m before the turn."""
    row, drive = make_row('small15'), EvaluationDrive('test', JUNCTION_DRIVE, 60.0, (64, 160))
    simulation = drive.scenario.expert_simulation
    turn = next(x for x in drive.scenario.route.turns if x.has_arm)
    times = np.arange(0.0, 50.0, 0.1).tolist()
    t0_s = next(t for t in times if simulation.trace.ego(t).s_m > turn.start_m - 10.0)
    scene = Scene(drive, simulation, t0_s)
    context = scene.context(drive.stage.pictures(scene.list_moments()))
    texts = [Navigation(f'Turn {side} in 20m') for side in ('left', 'right')]
    left, right = infer_batch(
        row.planner.load(), [replace(context, navigation=x) for x in texts], [0, 0],
        SamplingOptions(),
    )  # fmt: skip
    assert left.samples[0, -1, 2] > 0.5 and right.samples[0, -1, 2] < -0.5
