"""Evaluation in the world: the expert as planner is perfect, baselines are not, late is worse."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from alpamayo_ros.data_types import GRID_S
from alpamayo_ros.drives import closed_loop, open_loop
from alpamayo_ros.drives.closed_loop import LONGEST_LATENCY_S, ClosedLoop
from alpamayo_ros.drives.course import measure_course
from alpamayo_ros.drives.follower import follow, place_path
from alpamayo_ros.drives.open_loop import OpenLoop, measure_comfort
from alpamayo_ros.drives.planners import BaselinePlanner, ExpertPlanner, StandingPlanner
from alpamayo_ros.drives.scene import START_NS, blacken, get_future, shuffle_cameras
from alpamayo_ros.drives.trajectories import decode_paths, simulate_again
from alpamayo_ros.metrics.driving_score import score_drive
from alpamayo_ros.ros.publishing.policy import Policies
from alpamayo_ros.runtime.constant_turn_rate import ConstantTurnRateEngine
from alpamayo_ros.runtime.constant_velocity import ConstantVelocityEngine
from alpamayo_ros.world.moments import SIMULATION_STEP_S, State
from alpamayo_ros.world.samples import make_sample

SIZE = (64, 160)
OPEN = OpenLoop('test', 24, 40.0, 6, 0)
# A drive, what to ignore in it, and the rule that this breaks within 14 s.
RED = (4, 'green lights', 'red_light')
ZEBRA = (35, 'no pedestrians', 'yields')
CURVES = ('curve_left', 'curve_right', 'turn_left', 'turn_right')


class Spoilt:
    """The expert, with one thing of its predictions changed."""

    def __init__(self, **changes):
        self.expert, self.changes = ExpertPlanner(), changes

    def plan(self, scenes, seed):
        """Change every prediction."""
        made = self.expert.plan(scenes, seed)
        return [
            replace(one, **{name: change(one) for name, change in self.changes.items()})
            for one in made
        ]


def driven(planner, latency_s, drives, seconds=30.0, policies=None):
    loop = ClosedLoop('test', 24, seconds, latency_s, policies or Policies(), 0)
    return closed_loop.measure(planner, loop, drives, SIZE, lambda amount: None)


def opened(planner, drives=range(24)):
    return open_loop.measure(planner, OPEN, drives, SIZE)


@pytest.fixture(scope='module')
def by_expert():
    return opened(ExpertPlanner())


@pytest.fixture(scope='module')
def by_constant_velocity():
    return opened(BaselinePlanner(ConstantVelocityEngine()))


def test_the_expert_is_where_it_says_it_will_be(by_expert):
    for record in by_expert:
        assert record['ade_m_6.4s'] < 1e-4 and record['min_ade_1_m_3.0s'] < 1e-4
        assert (record['off_lane'], record['collision'], record['finite']) == (0.0, 0.0, 1.0)
        assert record['k'] == 1
        assert (record['text'], record['marker']) == (1.0, 1.0)


def test_the_kept_paths_are_those_that_were_measured(by_expert):
    record = by_expert[0]
    paths = decode_paths(record['paths'])
    assert paths.shape == (1, 64, 4)
    scene = OPEN.scenes(record['drive'], SIZE)[0]
    future = get_future(scene, scene.simulation)
    assert paths[0, :, :2] == pytest.approx(future[:, :2], abs=1e-3)


def test_constant_velocity_is_wrong_in_curves_and_says_nothing(by_constant_velocity):
    bent = [record for record in by_constant_velocity if record['cause'] in CURVES]
    assert len(bent) > 5
    assert np.mean([record['ade_m_6.4s'] for record in bent]) > 3.0
    assert np.mean([record['off_lane'] for record in bent]) > 0.9
    assert {(record['text'], record['marker']) for record in bent} == {(None, None)}


def test_constant_turn_rate_knows_more_of_curves_than_constant_velocity(by_constant_velocity):
    turning = opened(BaselinePlanner(ConstantTurnRateEngine()))
    pairs = [
        (mine['ade_m_3.0s'], other['ade_m_3.0s'])
        for mine, other in zip(turning, by_constant_velocity, strict=True)
        if mine['cause'] in CURVES
    ]
    mine, other = np.mean(pairs, axis=0)
    assert mine < 0.8 * other


def test_moments_are_of_the_seed_and_spread_over_the_drive():
    first, again = (OPEN.scenes(3, SIZE) for _ in range(2))
    assert [scene.t0_s for scene in first] == [scene.t0_s for scene in again]
    other = replace(OPEN, seed=1).scenes(3, SIZE)
    assert [scene.t0_s for scene in other] != [scene.t0_s for scene in first]
    assert (np.diff([scene.t0_s for scene in first]) > 0).all()
    assert first[0].t0_s < 8.0 and first[-1].t0_s > 25.0


def test_a_context_is_the_sample_that_training_sees():
    scene = OPEN.scenes(5, SIZE)[2]
    context = scene.context()
    found = make_sample(scene.simulation.trace, scene.t0_s, np.random.default_rng(0))
    assert np.array_equal(context.history_xyz_m, found.history_xyz)
    assert np.array_equal(context.history_rot, found.history_rot)
    assert get_future(scene, scene.simulation)[:, :2] == pytest.approx(
        found.future_xyz[:, :2], abs=1e-4
    )
    assert context.v0_mps == pytest.approx(context.odom_from_t0.speed_mps, abs=0.1)
    assert context.t0_ns == START_NS + round(scene.t0_s * 1e9)


def test_a_sentence_must_name_the_true_cause_and_no_other():
    wrong = Spoilt(texts=lambda one: ('The light is red. Stop at the line.',))
    both = Spoilt(texts=lambda one: (one.texts[0] + ' The light is red. A pedestrian.',))
    at_lights = []
    for scene in [scene for number in range(6) for scene in OPEN.scenes(number, SIZE)]:
        (prediction,) = wrong.plan([scene], 0)
        at_lights.append('red_light' in scene.simulation.trace.causes(scene.t0_s))
        assert open_loop.make_record(scene, prediction)['text'] == float(at_lights[-1])
    assert len(set(at_lights)) == 2
    assert {record['text'] for record in opened(both, range(6))} == {0.0}


def test_a_prediction_that_is_not_finite_counts_as_one_that_stays():
    nothing = Spoilt(samples=lambda one: np.full_like(one.samples, np.nan))
    for record in opened(nothing, range(2)):
        assert (record['finite'], record['off_lane']) == (0.0, 1.0)
        scene = next(x for x in OPEN.scenes(record['drive'], SIZE)
                     if round(x.t0_s, 3) == record['t0_s'])  # fmt: skip
        way = np.linalg.norm(get_future(scene, scene.simulation)[:, :2], axis=1)
        assert (
            record['ade_m_6.4s'] == record['min_ade_m_6.4s'] == pytest.approx(way.mean(), abs=1e-5)
        )
        assert record['min_fde_m_3.0s'] == pytest.approx(way[29], abs=1e-5)


def test_comfort_of_known_actions():
    seconds = GRID_S * np.arange(64)
    found = measure_comfort(np.stack([2.0 * seconds, np.where(seconds < 3.0, 0.01, 0.01)], axis=1))
    assert found['jerk_mps3'] == pytest.approx(2.0, abs=1e-6)
    assert found['acceleration_mps2'] == pytest.approx(2.0 * np.sqrt(np.mean(seconds**2)))
    assert found['curvature_rate'] == 0.0


def test_no_camera_keeps_its_pictures_when_they_are_shuffled():
    pictures = np.arange(4, dtype=np.uint8)[:, None, None, None, None] * np.ones(
        (4, 4, 3, 2, 2), np.uint8
    )
    for seed in range(20):
        found = shuffle_cameras(pictures, np.random.default_rng(seed))[:, 0, 0, 0, 0]
        assert sorted(found) == [0, 1, 2, 3] and (found != np.arange(4)).all()
    assert not blacken(pictures, np.random.default_rng(0)).any()


def test_the_expert_drives_to_the_end_without_latency():
    for record in driven(ExpertPlanner(), 0.0, range(6)):
        assert (record['end'], record['time_s'], record['clean']) == ('done', 30.0, 1.0)
        assert record['distance_m'] == pytest.approx(record['expert_m'], abs=3.0)
        assert record['score'] > 97.0
        assert record['plans'] == 60 and record['without_path'] == 0.0


def test_constant_velocity_leaves_the_road_soon():
    ends = driven(BaselinePlanner(ConstantVelocityEngine()), 0.0, range(6), 60.0)
    assert {record['end'] for record in ends} <= {'off_road', 'collision'}
    assert np.mean([record['time_s'] for record in ends]) < 20.0
    assert {record['score'] for record in ends} == {0.0}


def test_a_path_that_comes_late_is_over_before_the_next_one():
    for record in driven(ExpertPlanner(), 5.0, range(4)):
        assert record['plans'] <= 7
        assert record['without_path'] > 0.3  # 1.4 s of every 5 s are left of a path
        assert record['distance_m'] < 0.5 * record['expert_m']


def test_plans_that_the_node_holds_back_are_not_driven():
    unhealthy = Spoilt(checks=lambda one: ('marker_missing',))
    (held,) = driven(unhealthy, 0.0, [0])
    assert held['without_path'] == 1.0 and held['distance_m'] < 30.0
    assert held['held_back']['marker_missing'] == held['plans']
    kept = Policies(on_unhealthy_reasoning='keep')
    (driving,) = driven(unhealthy, 0.0, [0], policies=kept)
    assert driving['end'] == 'done' and driving['without_path'] == 0.0


def test_late_plans_are_driven_no_faster_than_they_can_be_trusted():
    speeds = []
    for name in ('keep', 'slow'):
        policies = Policies(on_too_fast=name, trusted_distance_m=10.0)
        loop = ClosedLoop('test', 24, 14.0, 1.0, policies, 0)
        (record,) = closed_loop.measure(ExpertPlanner(), loop, [1], SIZE, lambda amount: None)
        assert record['end'] == 'done'
        trace = simulate_again(asdict(loop), record, LONGEST_LATENCY_S).trace
        speeds.append(max(trace.ego(t_s).speed_mps for t_s in np.arange(9.0, 14.0, 0.5)))
    assert speeds[0] > 7.0 and speeds[1] == pytest.approx(5.0, abs=0.6)  # 10 m over 2 s


def test_a_displaced_drive_begins_beside_the_middle_and_came_from_there():
    loop, aside = ClosedLoop('test', 24, 12.0, 0.5, Policies(), 0, displaced_m=0.6), []
    for number in range(6):
        simulation = closed_loop.begin_drive(loop, number, SIZE).simulation
        now, before = (simulation.trace.ego(t_s) for t_s in (0.0, -1.4))
        offsets = [simulation.route.road.locate(e.x_m, e.y_m, e.s_m)[1] for e in (now, before)]
        assert offsets[0] == pytest.approx(offsets[1], abs=0.05)
        aside.append(offsets[0])
    assert np.abs(aside) == pytest.approx(0.6, abs=0.05) and {*np.sign(aside)} == {-1.0, 1.0}
    plain = replace(loop, displaced_m=0.0)
    assert closed_loop.begin_drive(plain, 0, SIZE).simulation.trace.ego(0.0).y_m == 0.0


def test_who_stands_makes_no_progress_and_has_no_score():
    for record in driven(StandingPlanner(), 0.5, range(2)):
        assert (record['end'], record['makes_progress'], record['score']) == ('done', 0.0, 0.0)
        assert record['distance_m'] < 60.0


@pytest.mark.parametrize(('number', 'edit', 'rule'), [RED, ZEBRA])
def test_an_expert_that_ignores_a_rule_breaks_it(number, edit, rule):
    (record,) = driven(ExpertPlanner(edit), 0.5, [number], 14.0)
    assert (record[rule], record['score'], record['clean']) == (0.0, 0.0, 0.0)


def test_a_record_has_the_drive_in_it():
    """A new metric needs no planner: the kept controls lead through the same world."""
    loop = ClosedLoop('test', 24, 12.0, 0.5, Policies(), 0)
    planner = BaselinePlanner(ConstantTurnRateEngine())
    (record,) = closed_loop.measure(planner, loop, [3], SIZE, lambda amount: None)
    again = simulate_again(asdict(loop), record, LONGEST_LATENCY_S)
    assert again.time_s - loop.latency_s == pytest.approx(record['time_s'], abs=1e-3)
    course = measure_course(again, loop.latency_s, record['expert_m'])
    found = score_drive(course)
    assert found == pytest.approx({name: record[name] for name in found}, abs=2e-4)


def test_a_path_that_starts_beside_the_vehicle_is_held_back():
    shifted = Spoilt(samples=lambda one: one.samples + np.float32([0.0, 1.5, 0.0, 0.0]))
    (held,) = driven(shifted, 0.5, [0], 4.0)
    assert held['held_back'] == {'jump': held['plans']} and held['without_path'] == 1.0
    near = Spoilt(samples=lambda one: one.samples + np.float32([0.0, 0.5, 0.0, 0.0]))
    assert driven(near, 0.5, [0], 4.0)[0]['held_back'] == {}


def test_drives_do_not_depend_on_their_company():
    planner = BaselinePlanner(ConstantTurnRateEngine())
    assert driven(planner, 0.5, [0, 1, 2, 3])[2] == driven(planner, 0.5, [2])[0]


def straight_path(speed=10.0):
    seconds = GRID_S * np.arange(1, 65)
    sample = np.zeros((64, 4))
    sample[:, 0], sample[:, 3] = speed * seconds, speed
    return place_path(state(speed=speed), 0.0, sample, np.zeros((64, 2)))


def state(x=0.0, y=0.0, yaw=0.0, speed=10.0):
    return State(x, x, y, yaw, speed, 0.0, 0.0)


def steered(start, path, seconds):
    at = start
    for number in range(round(seconds / SIMULATION_STEP_S)):
        at = follow(at, number * SIMULATION_STEP_S, path).after(SIMULATION_STEP_S)
    return at


def test_a_vehicle_on_its_path_is_where_the_plan_is():
    found = steered(state(), straight_path(), 6.0)
    assert (found.x_m, found.y_m, found.speed_mps) == pytest.approx((60.0, 0.0, 10.0), abs=1e-6)


def test_a_vehicle_beside_its_path_comes_back_without_swinging():
    path, at, offsets = straight_path(), state(y=1.0, yaw=0.05), []
    for number in range(120):
        at = follow(at, number * SIMULATION_STEP_S, path).after(SIMULATION_STEP_S)
        offsets.append(at.y_m)
    assert abs(offsets[-1]) < 0.05 and min(offsets) > -0.05


def test_a_vehicle_behind_its_plan_catches_up_gently():
    found = steered(state(x=-4.0), straight_path(), 6.0)
    assert -1.5 < found.x_m - 60.0 < 0.0 and found.speed_mps < 11.01


def test_without_a_path_the_vehicle_brakes_to_rest():
    found = steered(state(speed=9.0), None, 2.0)
    assert found.speed_mps == pytest.approx(3.0, abs=1e-9)
    rest = steered(state(speed=9.0), None, 5.0)
    assert rest.speed_mps == 0.0 and rest.x_m == pytest.approx(13.5, abs=0.3)
    over = follow(state(), 6.5, straight_path())
    assert over.acceleration_mps2 == -3.0
