"""What a drive did in the world: lights, pedestrians, collisions, lanes, and the kept controls."""

from dataclasses import replace
import math

import pytest

from alpamayo_ros.drives.course import (
    count_pedestrians,
    count_red_lights,
    list_demands,
    measure_course,
)
from alpamayo_ros.drives.trajectories import encode_controls, simulate_again
from alpamayo_ros.world import bodies
from alpamayo_ros.world.moments import CAR_FRONT_M, CAR_REAR_M, SIMULATION_STEP_S, State
from alpamayo_ros.world.scenario import make_scenario
from alpamayo_ros.world.simulation import MARGIN_S


def with_route(scenario, **changes):
    """The scenario with other lights, crossings or parked cars, and no vehicle ahead."""
    route = replace(scenario.route, **changes)
    traffic = replace(scenario.traffic, lead_m=None, oncoming_s=())
    return replace(scenario, route=route, traffic=traffic)


@pytest.fixture(scope='module')
def scenario():
    return make_scenario('test', 1, 20.0)


def drive_along(simulation, speed_mps, until_m, offset_m=0.0):
    """Move the ego along the road at a speed, beside the middle of its lane; at most 20 s."""
    road, s = simulation.route.road, simulation.trace.steps[-1].ego.s_m
    for _ in range(400):
        if s >= until_m:
            break
        s += speed_mps * SIMULATION_STEP_S
        _, _, yaw, curvature = road.at(s)
        x, y = road.points(s, offset_m).tolist()
        simulation.step(State(s, x, y, yaw, speed_mps, 0.0, curvature))
    return simulation


def light_at(scenario, red_from_s):
    """Scenario whose only light is red from a time on, 60 m ahead."""
    light = scenario.route.lights[0] if scenario.route.lights else None
    if light is None:
        light = next(
            x for seed in range(2, 20) for x in make_scenario('test', seed, 20.0).route.lights
        )
    cycle_s = 1e4
    light = replace(light, middle_m=60.0, green_s=cycle_s, red_s=cycle_s,
                    offset_s=cycle_s + 3.0 - red_from_s)  # fmt: skip
    return with_route(scenario, lights=(light,), crossings=(), parked_m=()), light


@pytest.mark.parametrize(
    ('red_from_s', 'met', 'broken'), [(-5.0, 1, 1), (30.0, 0, 0), (4.0, 0, 0)]
)
def test_a_light_is_run_when_it_is_red_at_the_line_and_at_the_junction(
    scenario, red_from_s, met, broken
):
    """From t = 0 the front needs some 2 s to the line: in the last case the light is amber."""
    drive, light = light_at(scenario, red_from_s)
    assert light.phase(red_from_s + 0.01)[0] == 'red'
    assert light.phase(red_from_s - 0.01)[0] == 'amber'
    simulation = drive.simulate()
    simulation.run(0.0)
    start = simulation.trace.steps[-1].ego.s_m
    drive_along(simulation, 10.0, start + 75.0)
    found = count_red_lights(simulation, 0.0)
    assert (found.met, found.broken) == (met, broken)
    passed = next(x for x in simulation.trace.steps if x.ego.s_m + CAR_FRONT_M > light.stop_m + 1)
    assert 1.2 < simulation.trace.steps.index(passed) * SIMULATION_STEP_S - MARGIN_S < 3.5


def test_who_stops_over_the_line_has_not_run_the_light(scenario):
    drive, light = light_at(scenario, -5.0)
    simulation = drive.simulate()
    drive_along(simulation, 5.0, light.stop_m + 2.0 - CAR_FRONT_M)
    found = count_red_lights(simulation, -MARGIN_S)
    assert (found.met, found.broken) == (1, 0)


def crossing_at(scenario, side):
    crossing = next(
        x for seed in range(20) for x in make_scenario('test', seed, 20.0).route.crossings
    )
    crossing = replace(crossing, middle_m=60.0, side=side)
    return with_route(scenario, lights=(), crossings=(crossing,), parked_m=())


@pytest.mark.parametrize(('side', 'met', 'broken'), [(1, 1, 1), (-1, 1, 1), (0, 0, 0)])
def test_driving_over_a_zebra_ignores_whoever_waits(scenario, side, met, broken):
    simulation = drive_along(crossing_at(scenario, side).simulate(), 9.0, 80.0)
    found = count_pedestrians(simulation, -MARGIN_S)
    assert (found.met, found.broken) == (met, broken)


def test_the_expert_yields(scenario):
    simulation = crossing_at(scenario, -1).simulate()
    simulation.run(25.0)
    assert simulation.trace.steps[-1].ego.s_m > 70.0
    found = count_pedestrians(simulation, -MARGIN_S)
    assert (found.met, found.broken) == (1, 0)
    assert 'pedestrian' in list_demands(simulation.trace, 0.0, 20.0)


def test_a_pedestrian_from_the_right_is_hit_by_who_drives_on(scenario):
    """Pedestrians take their right of way: driving on has consequences."""
    simulation = drive_along(crossing_at(scenario, -1).simulate(), 9.0, 80.0)
    course = measure_course(simulation, -MARGIN_S, 80.0)
    assert (course.has_caused_collision, course.pedestrians_ignored) == (True, 1)
    assert course.time_to_collision_s.min() < 0.5


@pytest.mark.parametrize(('gap_m', 'walks'), [(10.0, True), (20.0, False)])
def test_a_pedestrian_does_not_wait_for_who_stands_further_away(scenario, gap_m, walks):
    simulation = crossing_at(scenario, -1).simulate()
    drive_along(simulation, 7.0, 60.0 - 3.6 - CAR_FRONT_M - gap_m)
    ego = simulation.trace.steps[-1].ego
    for _ in range(100):
        simulation.step(replace(ego, speed_mps=0.0))
    assert (simulation.trace.steps[-1].walked_m[0] > 3.0) == walks


def test_a_standing_car_causes_no_collision_nor_one_that_is_hit_from_behind(scenario):
    drive = with_route(scenario, parked_m=(40.0,))
    simulation = drive.simulate()
    simulation.run(0.0)
    x, y = drive.route.road.points(40.0, -1.75).tolist()
    yaw = drive.route.road.at(40.0)[2]
    length = CAR_FRONT_M - CAR_REAR_M

    def at(ahead_m, speed_mps):
        return State(40.0 + ahead_m, x + ahead_m * math.cos(yaw), y + ahead_m * math.sin(yaw),
                     yaw, speed_mps, 0.0, 0.0)  # fmt: skip

    assert bodies.is_at_fault(simulation, at(1.0 - length, 3.0), 0.0)
    assert not bodies.is_at_fault(simulation, at(1.0 - length, 0.0), 0.0)
    assert not bodies.is_at_fault(simulation, at(length - 1.0, 3.0), 0.0)
    assert bodies.has_collision(simulation, at(length - 1.0, 3.0), 0.0)
    assert not bodies.has_collision(simulation, at(length + 0.5, 3.0), 0.0)


@pytest.mark.parametrize(
    ('offset_m', 'is_wrong', 'is_off'),
    [(0.0, False, False), (1.1, False, False), (1.2, True, False), (4.5, True, False),
     (4.7, True, True), (-1.1, False, False), (-1.2, False, True)],
)  # fmt: skip
def test_lanes_end_thirty_centimetres_behind_their_lines(scenario, offset_m, is_wrong, is_off):
    """Of a car 1.84 m wide: the ego lane is 3.5 m wide, the road 7 m."""
    simulation, road = scenario.simulate(), scenario.route.road
    x, y = road.points(2.0, offset_m).tolist()
    pose = State(2.0, x, y, road.at(2.0)[2], 5.0, 0.0, 0.0)
    reach = bodies.find_reach(simulation, pose)
    assert (bodies.is_in_wrong_lane(reach), bodies.is_off_road(reach)) == (is_wrong, is_off)
    assert bodies.is_off_lane(simulation, pose) == (is_wrong or is_off)


@pytest.mark.parametrize(('speed_mps', 'expected'), [(10.0, 0.5), (5.0, 1.0), (4.0, math.inf)])
def test_time_to_collision_with_a_parked_car_ahead(scenario, speed_mps, expected):
    """5 m from bumper to bumper, on a straight road, looked at for 1 s."""
    drive = with_route(scenario, parked_m=(5.0,))
    road = drive.route.road
    s = 5.0 + CAR_REAR_M - 5.0 - CAR_FRONT_M
    x, y, yaw, _ = road.at(s)
    state = State(s, x, y, yaw, speed_mps, 0.0, 0.0)
    found = bodies.find_time_to_collision(drive.simulate(), state, -MARGIN_S, 1.001)
    assert found == pytest.approx(expected, abs=0.02)


def test_a_drive_is_simulated_again_from_its_record_to_the_bit(scenario):
    simulation = scenario.simulate()
    simulation.run(1.0)
    for number in range(120):
        ego = simulation.trace.steps[-1].ego
        state = replace(ego, acceleration_mps2=0.3 * math.sin(number), curvature=1e-3)
        simulation.step(state.after(SIMULATION_STEP_S))
    record = {'drive': 1, 'controls': encode_controls(simulation, 1.0)}
    loop = {'split': 'test', 'seconds': 18.0, 'latency_s': 1.0}
    again = simulate_again(loop, record, 2.0)
    assert again.trace.steps == simulation.trace.steps
