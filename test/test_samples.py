"""Samples of synthetic drives: frames, rates, disturbances and words."""

import numpy as np
import pytest
import torch

from alpamayo_ros.model.action_space import UnicycleAccelCurvatureActionSpace
from alpamayo_ros.world import reasons, samples
from alpamayo_ros.world.bodies import has_collision, is_off_lane
from alpamayo_ros.world.samples import (
    HORIZON_S,
    choose_times,
    displace_sample,
    list_frame_moments,
    list_sample_times,
    make_sample,
    make_training_drive,
)
from alpamayo_ros.world.scenario import make_scenario
from alpamayo_ros.world.simulation import Displacement


@pytest.fixture(scope='module')
def drive():
    return make_scenario('train', 2, 30.0)


def test_history_ends_at_the_origin_and_the_future_begins_where_it_ends(drive):
    for t0 in list_sample_times(drive.expert, 2.5):
        found = make_sample(drive.expert, t0, np.random.default_rng(0))
        assert found.history_xyz.shape == (16, 3) and found.future_xyz.shape == (64, 3)
        assert np.array_equal(found.history_xyz[-1], np.zeros(3))
        assert np.array_equal(found.history_rot[-1], np.eye(3))
        speed = drive.ego(t0).speed_mps
        assert found.future_xyz[0] == pytest.approx([0.1 * speed, 0.0, 0.0], abs=0.05)
        assert found.history_xyz[-2] == pytest.approx([-0.1 * speed, 0.0, 0.0], abs=0.05)


def test_the_future_is_the_drive_of_the_expert(drive):
    found = make_sample(drive.expert, 4.0, np.random.default_rng(0))
    now, later = drive.ego(4.0), drive.ego(10.4)
    assert np.hypot(*found.future_xyz[-1, :2]) == pytest.approx(
        np.hypot(later.x_m - now.x_m, later.y_m - now.y_m), abs=1e-3
    )
    heading = np.arctan2(found.future_rot[-1, 1, 0], found.future_rot[-1, 0, 0])
    assert heading == pytest.approx(later.yaw_rad - now.yaw_rad, abs=1e-5)


def test_actions_of_the_model_can_drive_the_futures(drive):
    """The action space turns the future into actions and back within a few centimetres."""
    space = UnicycleAccelCurvatureActionSpace().double()
    for t0 in list_sample_times(drive.expert, 3.0):
        found = make_sample(drive.expert, t0, np.random.default_rng(0))
        parts = (found.history_xyz, found.history_rot, found.future_xyz, found.future_rot)
        history, turned, future, turns = (torch.from_numpy(part).double() for part in parts)
        action, _ = space.traj_to_action(history, turned, future, turns)
        path, _ = space.action_to_traj(action, history, turned)
        assert (path - future).norm(dim=-1).max() < 0.1


def test_words_name_the_cause(drive):
    for t0 in list_sample_times(drive.expert, 1.0):
        found = make_sample(drive.expert, t0, np.random.default_rng(1))
        assert reasons.find_causes(found.text) == {found.cause} and found.cause in found.causes


def test_a_disturbed_drive_shows_how_to_find_back():
    """At t0 the ego is off its path and not along it; what follows is smooth and ends on it."""
    scenario = make_scenario('train', 5, 60.0)
    simulation, times = make_training_drive(scenario)
    assert len(times) >= 32 and make_training_drive(scenario)[1] == times
    road, aside = scenario.route.road, []
    for t0 in times:
        found = make_sample(simulation.trace, t0, np.random.default_rng(0))
        path = np.concatenate([found.history_xyz, found.future_xyz])[:, :2]
        assert np.abs(np.diff(path, n=2, axis=0)).max() < 0.09  # 9 m/s^2
        states = simulation.trace.ego(t0), simulation.trace.ego(t0 + 4.0)
        offsets = [
            road.locate(e.x_m, e.y_m, e.s_m)[1] - simulation.plan.path_at(e.s_m)[0] for e in states
        ]
        aside.append(np.abs(offsets))
    aside = np.array(aside)
    assert aside[:, 0].mean() > 0.1 and aside[:, 0].max() < 0.9
    assert aside[:, 1].mean() < 0.3 * aside[:, 0].mean()
    assert simulation.trace.steps != scenario.expert.steps


def test_a_displaced_sample_has_the_same_history_and_shows_how_to_find_back(drive):
    """Only pictures tell where: up to t0 the ego did the same in its own frame, but for a pace."""
    rng, road, aside, ahead = np.random.default_rng(0), drive.route.road, [], []
    for t0 in list_sample_times(drive.expert, 0.5):
        moved = displace_sample(drive.expert_simulation.branch(t0), rng)
        moved.run(t0 + HORIZON_S + 0.1)
        there, here = (
            make_sample(trace, t0, np.random.default_rng(0))
            for trace in (moved.trace, drive.expert)
        )
        pace = there.history_xyz[0, 0] / min(here.history_xyz[0, 0], -1e-6)
        assert 0.7 < pace < 1.4 or here.history_xyz[0, 0] > -0.1
        assert there.history_xyz == pytest.approx(pace * here.history_xyz, abs=1e-4)
        assert there.history_rot == pytest.approx(here.history_rot, abs=1e-6)
        assert not is_off_lane(moved, moved.trace.ego(t0))
        egos = [moved.trace.ego(t0 + later_s) for later_s in (0.0, 5.0)]
        offsets = [
            road.locate(e.x_m, e.y_m, e.s_m)[1] - moved.plan.path_at(e.s_m)[0] for e in egos
        ]
        aside.append(np.abs(offsets))
        ahead.append(egos[0].s_m - drive.expert.ego(t0).s_m)
    aside = np.array(aside)
    assert min(ahead) < -0.5 and max(ahead) > 0.5
    assert 0.3 < (aside[:, 0] > 0.05).mean() < 0.7
    assert aside[:, 0].max() > 0.4 and aside[:, 1].mean() < 0.3 * aside[:, 0].mean()


@pytest.fixture
def waiting():
    """The expert stands for a pedestrian, who needs three seconds more."""
    return make_scenario('validation', 25, 30.0).expert_simulation.branch(8.0)


def test_who_came_to_stand_over_the_line_still_waits(waiting):
    line = waiting.trace.steps[-1].ego
    waiting.displace(Displacement(ahead_m=1.5), 1.5)
    waiting.run(11.0)
    there = waiting.trace.steps[-1].ego
    assert (there.s_m - line.s_m, there.speed_mps) == (pytest.approx(1.5), 0.0)
    waiting.run(16.0)
    times = np.arange(8.0, 16.0, 0.1)
    assert waiting.trace.steps[-1].ego.s_m > line.s_m + 10.0
    assert not any(has_collision(waiting, waiting.trace.ego(t_s), t_s) for t_s in times)


def test_a_push_lets_who_stands_start_and_see_that_it_must_not(waiting):
    start = waiting.trace.steps[-1].ego
    samples._push(waiting, np.random.default_rng(0))
    waiting.run(waiting.time_s + 0.5)
    speeds = [step.ego.speed_mps for step in waiting.trace.steps]
    assert max(speeds[-80:]) > 0.3 and speeds[-1] == 0.0
    assert 0.2 < waiting.trace.steps[-1].ego.s_m - start.s_m < 2.5
    assert waiting.trace.cause(waiting.time_s) == 'pedestrian'


def test_every_other_drive_is_the_undisturbed_expert():
    found = [make_training_drive(make_scenario('train', seed, 30.0))[0] for seed in (4, 5, 6, 7)]
    undisturbed = [
        simulation.trace.steps == make_scenario('train', seed, 30.0).expert.steps
        for seed, simulation in zip((4, 5, 6, 7), found, strict=True)
    ]
    assert undisturbed == [True, False, True, False]


def test_frames_are_those_of_the_history(drive):
    moments = list_frame_moments(drive.expert_simulation, 6.0)
    assert [moment.t_s for moment in moments] == pytest.approx([5.7, 5.8, 5.9, 6.0])
    assert moments[-1].ego == drive.ego(6.0)


def test_rare_causes_are_chosen_more_often_than_they_come(drive):
    times = list_sample_times(drive.expert, 0.1)
    causes = [drive.expert.cause(t) for t in times]
    straight = {cause for cause in causes if not cause.startswith(('curve', 'turn'))}
    common = max(straight, key=causes.count)
    picked = choose_times(drive.expert, times, 60, np.random.default_rng(0))
    assert len(set(picked)) == 60 and set(picked) <= set(times)
    share = sum(drive.expert.cause(t) == common for t in picked) / 60
    assert share < 0.8 * causes.count(common) / len(causes)
    assert len(choose_times(drive.expert, times[:7], 60, np.random.default_rng(0))) == 7
