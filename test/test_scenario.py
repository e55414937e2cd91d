"""The synthetic drives: splits, motion, rules of the road, causes and their words."""

import numpy as np
import pytest

from alpamayo_ros.world import reasons
from alpamayo_ros.world.bodies import has_collision, is_off_lane
from alpamayo_ros.world.moments import CAR_FRONT_M, CAR_REAR_M, SIMULATION_STEP_S, State
from alpamayo_ros.world.road import LEFT_EDGE_M, RIGHT_EDGE_M
from alpamayo_ros.world.scenario import make_rng, make_scenario
from alpamayo_ros.world.shapes import do_overlap, make_rectangle
from alpamayo_ros.world.simulation import MARGIN_S
from alpamayo_ros.world.towns import SPLITS

SEEDS = range(24)
TIMES = np.arange(0.0, 60.0, 0.1)


@pytest.fixture(scope='module')
def drives():
    return [make_scenario('train', seed) for seed in SEEDS]


@pytest.fixture(scope='module')
def states(drives):
    """Expert states every 0.1 s of each drive."""
    return [[drive.expert.ego(t) for t in TIMES] for drive in drives]


def moved(state, offset_m, yaw_rad=0.0):
    return State(
        state.s_m, state.x_m - offset_m * np.sin(state.yaw_rad),
        state.y_m + offset_m * np.cos(state.yaw_rad), state.yaw_rad + yaw_rad, state.speed_mps,
        state.acceleration_mps2, state.curvature,
    )  # fmt: skip


def test_no_split_shares_a_drive_with_another():
    starts = [make_rng(split, seed, 0).integers(2**62) for split in SPLITS for seed in range(50)]
    assert len(set(starts)) == len(SPLITS) * 50
    ends = [make_scenario(split, 1, 5.0).expert.ego(5.0) for split in SPLITS]
    assert len(set(ends)) == len(SPLITS)


def test_a_drive_is_a_function_of_its_seed_and_a_longer_one_begins_as_the_shorter(drives):
    again, short = make_scenario('train', 3), make_scenario('train', 3, 12.0)
    assert again.expert.steps == drives[3].expert.steps
    for ours, longer in zip(short.expert.steps[:-1], drives[3].expert.steps, strict=False):
        assert (ours.ego, ours.lead) == (longer.ego, longer.lead)
    assert short.moment(9.0).cars[0] == drives[3].moment(9.0).cars[0]


def test_speed_and_accelerations_stay_within_comfort(states):
    for drive in states:
        speed = np.array([s.speed_mps for s in drive])
        acceleration = np.array([s.acceleration_mps2 for s in drive])
        assert speed.min() >= 0.0 and speed.max() < 19.6
        assert acceleration.max() <= 1.61 and np.percentile(acceleration, 1) > -3.0
        assert np.abs(speed**2 * [s.curvature for s in drive]).max() < 2.5


def test_ego_motion_is_a_unicycle_integrated(drives):
    trace = drives[2].expert
    dt = SIMULATION_STEP_S / 10
    x, y, yaw = trace.ego(0.0).x_m, trace.ego(0.0).y_m, trace.ego(0.0).yaw_rad
    for t in np.arange(0.0, 20.0, dt):
        middle = trace.ego(t + dt / 2)
        x += middle.speed_mps * dt * np.cos(middle.yaw_rad)
        y += middle.speed_mps * dt * np.sin(middle.yaw_rad)
        yaw += middle.speed_mps * middle.curvature * dt
    end = trace.ego(20.0)
    assert np.hypot(x - end.x_m, y - end.y_m) < 0.01
    assert yaw == pytest.approx(end.yaw_rad, abs=1e-4)


def test_the_expert_never_leaves_its_lane_and_never_touches_anything(drives, states):
    for drive, driven in zip(drives, states, strict=True):
        assert not any(is_off_lane(drive.expert_simulation, state) for state in driven[::4])
        assert not any(
            has_collision(drive.expert_simulation, s, t)
            for t, s in zip(TIMES[::4], driven[::4], strict=True)
        )


def test_the_expert_keeps_the_limits_and_stops_at_red(drives, states):
    stops = 0
    for drive, driven in zip(drives, states, strict=True):
        for before, after, t in zip(driven[:-1], driven[1:], TIMES[:-1], strict=True):
            limit = drive.route.limit_kmh(after.s_m) / 3.6
            assert after.speed_mps < limit + 0.4
            for light in drive.route.lights:
                if before.s_m + CAR_FRONT_M < light.stop_m + 1.0 <= after.s_m + CAR_FRONT_M:
                    stops += 1
                    assert light.phase(t)[0] in ('green', 'amber')
    assert stops > 5


def test_everything_that_the_world_can_do_happens(drives):
    causes = {drive.expert.cause(t) for drive in drives for t in TIMES[::5]}
    assert causes == set(reasons.CAUSES)


def test_a_pushed_ego_finds_back_to_its_lane():
    drive = make_scenario('train', 1)
    simulation = drive.simulate()
    simulation.run(1.0)
    while simulation.time_s < 3.0:
        simulation.step(push=(0.0, 0.004))
    aside = simulation.offset_from_path_m()
    trace = simulation.run(10.0)
    assert aside > 0.3 and abs(simulation.offset_from_path_m()) < 0.1
    ego = trace.ego(3.0)
    assert drive.route.road.locate(ego.x_m, ego.y_m, ego.s_m)[1] == pytest.approx(aside, abs=0.3)


def test_a_pedestrian_walks_for_who_stops_and_before_who_does_not_brake(drives):
    """The expert who stops is let go after the crossing; a vehicle at speed has to yield."""
    drive = next(d for d in drives if d.traffic.lead_m is None
                 and 'pedestrian' in {d.expert.cause(t) for t in TIMES[::5]})  # fmt: skip
    crossing = next(n for n, c in enumerate(drive.route.crossings) if c.side)
    walked = [step.walked_m[crossing] for step in drive.expert.steps]
    assert walked[0] == 0.0 and walked[-1] > 8.0
    simulation = drive.simulate()
    state = simulation.trace.steps[0].ego
    while state.s_m < drive.route.crossings[crossing].middle_m + 20.0:
        x, y, yaw, _ = drive.route.road.at(state.s_m + 9.0 * SIMULATION_STEP_S)
        state = State(state.s_m + 9.0 * SIMULATION_STEP_S, x, y, yaw, 9.0, 0.0, 0.0)
        simulation.step(state)
    assert simulation.trace.steps[-1].walked_m[crossing] > 1.0


def test_the_world_goes_on_along_an_ego_driven_by_somebody_else():
    drive = make_scenario('validation', 2)
    simulation = drive.simulate()
    for step in drive.expert.steps[1:200]:
        simulation.step(step.ego)
    assert simulation.time_s == pytest.approx(-MARGIN_S + 199 * SIMULATION_STEP_S)
    assert simulation.moment(5.0).cars == drive.moment(5.0).cars
    assert simulation.trace.ego(5.0).x_m == pytest.approx(drive.expert.ego(5.0).x_m, abs=1e-3)


def test_bodies_outside_the_lane_and_on_other_cars_are_found(drives):
    drive = drives[1]
    ego = drive.expert.ego(10.0)
    assert is_off_lane(drive.expert_simulation, moved(ego, 1.8)) and is_off_lane(
        drive.expert_simulation, moved(ego, -1.5)
    )
    assert not is_off_lane(drive.expert_simulation, moved(ego, 0.5))
    leads = (d for d in drives if d.traffic.lead_m is not None)
    led = next(leads)
    lead = led.expert.lead(10.0)
    assert has_collision(led.expert_simulation, moved(lead, 0.5), 10.0)
    assert not has_collision(led.expert_simulation, lead.after(-0.0), 0.0)


def test_rectangles_touch_when_no_edge_separates_them():
    first = make_rectangle(0.0, 0.0, 0.0)
    assert do_overlap(first, make_rectangle(CAR_FRONT_M - CAR_REAR_M - 0.01, 0.0, 0.0))
    assert not do_overlap(first, make_rectangle(CAR_FRONT_M - CAR_REAR_M + 0.01, 0.0, 0.0))
    assert not do_overlap(first, make_rectangle(3.5, 2.9, np.pi / 4))  # bounding boxes do touch


def test_a_position_beside_the_road_is_located(drives):
    road = drives[0].route.road
    for s, offset in ((3.0, 0.5), (120.0, -1.2), (333.0, 3.0)):
        x, y = road.points(s, offset)
        found = road.locate(x, y, s + 6.0)
        assert found[:2] == pytest.approx((s, offset), abs=5e-3)


def test_lanes_lie_on_both_sides_of_the_centre_line():
    assert (RIGHT_EDGE_M, LEFT_EDGE_M) == (-1.75, 5.25)


@pytest.mark.parametrize('cause', reasons.CAUSES)
def test_every_wording_names_its_own_cause_and_no_other(cause):
    wordings = reasons.REASONS[cause].wordings
    assert len(wordings) >= 3
    for wording in wordings:
        assert reasons.find_causes(wording) == {cause}
        assert 1 <= wording.count('.') <= 2 and wording[0].isupper()


def test_a_sentence_without_a_cause_names_none():
    assert reasons.find_causes('The weather is fine.') == frozenset()
