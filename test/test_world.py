"""The synthetic world: motion that physics allows, and pictures that agree with the cameras."""

import numpy as np
import pytest

from alpamayo_ros.geometry import rotation_matrix
from alpamayo_ros.world.camera import CAMERAS
from alpamayo_ros.world.mesh import ball, box, pyramid
from alpamayo_ros.world.paint import View, clipped
from alpamayo_ros.world.render import Renderer, make_world
from alpamayo_ros.world.road import LANE_WIDTH_M, LEFT_EDGE_M, RIGHT_EDGE_M
from alpamayo_ros.world.scenario import make_scenario

CAMERA = {camera.name: camera for camera in CAMERAS}
WIDE = CAMERA['front_wide']
CAR_LENGTH_M = 4.6


@pytest.fixture(scope='module')
def world():
    return make_world(seed=0, seconds=20.0)


def ego_states(scenario, step_s=0.01):
    return [scenario.ego(t) for t in np.arange(0.0, scenario.seconds, step_s)]


def pixel_of(camera, point_base_m):
    """Column and row of a point in the base frame, from the rotation alone."""
    optical = (np.array(point_base_m) - camera.position_m) @ camera.base_from_optical
    return np.round(camera.project(optical)).astype(int)


@pytest.mark.parametrize('seed', range(6))
def test_speed_and_accelerations_stay_within_what_drivers_do(seed):
    scenario = make_scenario(seed, 40.0)
    states = ego_states(scenario) + [scenario.lead(t) for t in np.arange(0.0, 40.0, 0.01)]
    speed = np.array([state.speed_mps for state in states])
    lateral = speed**2 * [state.curvature for state in states]
    assert speed.min() >= 0.0 and 9.0 < speed.max() <= 14.0
    assert max(abs(state.acceleration_mps2) for state in states) < 3.0
    assert np.abs(lateral).max() < 2.5


def test_ego_motion_is_a_unicycle_integrated():
    states = ego_states(make_scenario(3, 20.0), step_s=0.002)
    x, y, yaw, speed = states[0].x_m, states[0].y_m, states[0].yaw_rad, states[0].speed_mps
    for now, after in zip(states[:-1], states[1:], strict=True):
        middle = speed + now.acceleration_mps2 * 0.001
        turn = (now.curvature + after.curvature) / 2 * middle * 0.002
        x += middle * 0.002 * np.cos(yaw + turn / 2)
        y += middle * 0.002 * np.sin(yaw + turn / 2)
        yaw, speed = yaw + turn, after.speed_mps
    end = states[-1]
    assert np.hypot(x - end.x_m, y - end.y_m) < 0.01
    assert yaw == pytest.approx(end.yaw_rad, abs=1e-4)


@pytest.mark.parametrize('seed', range(6))
def test_ego_comes_to_rest_behind_the_lead_vehicle_and_drives_off_again(seed):
    scenario = make_scenario(seed, 20.0)
    times = np.arange(0.0, 20.0, 0.01)
    ego = [scenario.ego(t) for t in times]
    lead = [scenario.lead(t) for t in times]
    at_rest = np.array([state.speed_mps for state in ego]) == 0.0
    assert 1.0 < at_rest.sum() * 0.01 < 5.0
    assert ego[-1].speed_mps > 5.0
    assert lead[int(np.argmax(at_rest))].speed_mps == 0.0
    assert min(a.s_m - b.s_m for a, b in zip(lead, ego, strict=True)) > CAR_LENGTH_M + 4.0


def test_the_road_bends_both_ways():
    curvature = make_scenario(0, 60.0).road.curvature
    assert curvature.min() < -1 / 130 and curvature.max() > 1 / 130


def test_seeds_differ_and_a_longer_drive_begins_as_the_shorter_one(world):
    short, other = make_world(seed=0, seconds=3.0), make_world(seed=1, seconds=3.0)
    assert short.scenario.ego(2.5) == world.scenario.ego(2.5)
    assert short.scenario.ego(2.5) != other.scenario.ego(2.5)
    pictures = [Renderer(one, WIDE).image(2.5) for one in (short, world, other)]
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])


@pytest.mark.parametrize('camera', CAMERAS, ids=lambda camera: camera.name)
def test_quaternion_and_rotation_of_a_camera_agree(camera):
    rotation = rotation_matrix(camera.quaternion_xyzw)
    assert rotation == pytest.approx(camera.base_from_optical, abs=1e-12)


@pytest.mark.parametrize('camera', CAMERAS, ids=lambda camera: camera.name)
def test_field_of_view_ends_at_the_edges_of_the_picture(camera):
    half = np.radians(camera.fov_deg) / 2
    at_edge = np.array([np.sin(half), 0.0, np.cos(half)])
    # the middle of the first pixel is 0, so the right edge of the last one is width - 0.5
    assert camera.project(at_edge)[0] == pytest.approx(camera.width - 0.5)


def test_left_and_up_appear_left_and_up():
    ahead, left, up = (pixel_of(WIDE, p) for p in [(20, 0, 1), (20, 2, 1), (20, 0, 3)])
    assert left[0] < ahead[0] and up[1] < ahead[1]
    assert 0 <= pixel_of(CAMERA['cross_left'], (10, 15, 1))[0] < 640
    assert 0 <= pixel_of(CAMERA['cross_right'], (10, -15, 1))[0] < 640


@pytest.mark.parametrize('name, ahead_m', [('front_wide', 7.0), ('front_tele', 24.0)])
def test_lane_markings_are_where_the_calibration_says(world, name, ahead_m):
    camera, t_s = CAMERA[name], 0.0
    picture = Renderer(world, camera).image(t_s)
    ego = world.scenario.ego(t_s)
    view_from_world = np.array([[np.cos(ego.yaw_rad), np.sin(ego.yaw_rad)],
                                [-np.sin(ego.yaw_rad), np.cos(ego.yaw_rad)]])  # fmt: skip
    for offset, is_white in ((RIGHT_EDGE_M, True), (LEFT_EDGE_M, True), (0.6, False)):
        point = world.scenario.road.points(ego.s_m + ahead_m, offset) - (ego.x_m, ego.y_m)
        column, row = pixel_of(camera, (*(view_from_world @ point), 0.0))
        if 0 <= column < camera.width:
            assert (picture[row, column].min() > 170) == is_white, (offset, picture[row, column])


def test_brake_lamps_are_bright_only_while_the_lead_vehicle_brakes(world):
    renderer = Renderer(world, CAMERA['front_tele'])

    def red_at_lamp(t_s):
        ego, lead = world.scenario.ego(t_s), world.scenario.lead(t_s)
        cos, sin = np.cos(lead.yaw_rad), np.sin(lead.yaw_rad)
        x, y = (lead.x_m - 0.96 * cos - 0.68 * sin, lead.y_m - 0.96 * sin + 0.68 * cos)
        dx, dy = x - ego.x_m, y - ego.y_m
        cos, sin = np.cos(ego.yaw_rad), np.sin(ego.yaw_rad)
        column, row = pixel_of(
            CAMERA['front_tele'], (cos * dx + sin * dy, cos * dy - sin * dx, 0.74)
        )
        return int(renderer.image(t_s)[row, column, 2])

    braking = next(t for t in np.arange(2, 20, 0.1) if world.scenario.lead(t).speed_mps < 6)
    assert red_at_lamp(braking) > red_at_lamp(1.0) + 100


def test_horizon_separates_sky_and_meadow(world):
    picture = Renderer(world, CAMERA['cross_right']).image(0.0)
    blue, green, red = np.median(picture[:20], axis=(0, 1))
    assert blue > green > red
    blue, green, red = np.median(picture[250:300, 400:], axis=(0, 1))
    assert green > blue and green > red


def test_pictures_at_rest_stay_and_on_the_move_change(world):
    renderer = Renderer(world, CAMERA['cross_right'])
    rest = next(t for t in np.arange(0, 20, 0.1) if world.scenario.ego(t).speed_mps == 0.0)
    ground = [renderer.image(t)[-60:].astype(int) for t in (rest + 0.5, rest + 1.0, 1.0, 1.1)]
    assert np.array_equal(ground[0], ground[1])
    assert np.abs(ground[2] - ground[3]).mean() > 2.0


def test_polygons_are_cut_at_the_near_plane():
    triangle = np.array([[0.0, 1.0, -2.0], [1.0, 1.0, 4.0], [-1.0, 1.0, 4.0]])
    cut = clipped(triangle)
    assert len(cut) == 4 and cut[:, 2].min() == pytest.approx(0.2)
    assert len(clipped(triangle - (0.0, 0.0, 5.0))) == 0


@pytest.mark.parametrize(
    'mesh', [box((-1, -2, 0), (3, 1, 2), (0, 0, 0)), ball((1, 1, 1), (1, 2, 3), (0, 0, 0))]
)
def test_faces_of_convex_shapes_look_outwards(mesh):
    middle = mesh.faces.mean(axis=(0, 1))
    outwards = mesh.faces.mean(axis=1) - middle
    assert ((outwards * mesh.normals()).sum(axis=1) > 0).all()


def test_cones_have_no_downward_face():
    assert (pyramid(1.0, 1.0, 3.0, 7, (0, 0, 0)).normals()[:, 2] > 0).all()


def test_a_view_turns_with_the_vehicle():
    quarter_turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    view = View(WIDE, np.array([5.0, 5.0, 1.0]), quarter_turn @ WIDE.base_from_optical)
    x, _, z = view.optical(np.array([5.0, 15.0, 1.0]))
    assert x == pytest.approx(0.0) and z == pytest.approx(10 * np.cos(WIDE.pitch_rad))


def test_the_ego_keeps_the_right_lane():
    assert RIGHT_EDGE_M == -LANE_WIDTH_M / 2 and LEFT_EDGE_M - RIGHT_EDGE_M == 2 * LANE_WIDTH_M
