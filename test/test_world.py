"""The synthetic world: pictures that agree with the cameras."""

from dataclasses import replace

import numpy as np
import pytest

from alpamayo_ros.geometry import rotation_matrix
from alpamayo_ros.world.camera import CAMERAS
from alpamayo_ros.world.rendering.mesh import ball, box, pyramid
from alpamayo_ros.world.rendering.paint import View, clip_at_near_plane
from alpamayo_ros.world.rendering.render import Renderer, make_world
from alpamayo_ros.world.road import LEFT_EDGE_M, RIGHT_EDGE_M
from alpamayo_ros.world.scenario import make_scenario
from alpamayo_ros.world.weather import CLEAR

CAMERA = {camera.name: camera for camera in CAMERAS}
WIDE = CAMERA['front_wide']
SEED = 40


def clear_world(seed, seconds, weather=CLEAR):
    return make_world(replace(make_scenario('train', seed, seconds), weather=weather))


@pytest.fixture(scope='module')
def world():
    """A clear day behind a vehicle that brakes to a stop."""
    return clear_world(SEED, 40.0)


def pixel_of(camera, point_base_m):
    """Column and row of a point in the base frame, from the rotation alone."""
    optical = (np.array(point_base_m) - camera.position_m) @ camera.base_from_optical
    return np.round(camera.project(optical)).astype(int)


def test_seeds_differ_and_a_longer_drive_begins_as_the_shorter_one(world):
    short, other = clear_world(SEED, 3.0), clear_world(SEED + 1, 3.0)
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
        point = world.scenario.route.road.points(ego.s_m + ahead_m, offset) - (ego.x_m, ego.y_m)
        column, row = pixel_of(camera, (*(view_from_world @ point), 0.0))
        if 0 <= column < camera.width:
            assert (picture[row, column].min() > 170) == is_white, (offset, picture[row, column])


def lead_times(scenario):
    """Times at which the lead vehicle, straight ahead and near, brakes and does not."""
    found = {}
    for t in np.arange(1.0, 39.0, 0.1):
        lead, ego = scenario.expert.lead(t), scenario.ego(t)
        if 10.0 < lead.s_m - ego.s_m < 30.0 and abs(lead.yaw_rad - ego.yaw_rad) < 0.03:
            found[lead.acceleration_mps2 < -0.6] = t
    return found[True], found[False]


def test_brake_lamps_are_bright_only_while_the_lead_vehicle_brakes(world):
    renderer = Renderer(world, CAMERA['front_tele'])

    def red_at_lamp(t_s):
        ego, lead = world.scenario.ego(t_s), world.scenario.expert.lead(t_s)
        cos, sin = np.cos(lead.yaw_rad), np.sin(lead.yaw_rad)
        x, y = (lead.x_m - 0.96 * cos - 0.68 * sin, lead.y_m - 0.96 * sin + 0.68 * cos)
        dx, dy = x - ego.x_m, y - ego.y_m
        cos, sin = np.cos(ego.yaw_rad), np.sin(ego.yaw_rad)
        column, row = pixel_of(
            CAMERA['front_tele'], (cos * dx + sin * dy, cos * dy - sin * dx, 0.74)
        )
        return int(renderer.image(t_s)[row, column, 2])

    braking, driving = lead_times(world.scenario)
    assert red_at_lamp(braking) > red_at_lamp(driving) + 100


def test_horizon_separates_sky_and_meadow(world):
    picture = Renderer(world, CAMERA['cross_right']).image(0.0)
    blue, green, red = np.median(picture[:20], axis=(0, 1))
    assert blue > green > red
    blue, green, red = np.median(picture[250:300, 400:], axis=(0, 1))
    assert green > blue and green > red


def test_pictures_at_rest_stay_and_on_the_move_change(world):
    renderer = Renderer(world, CAMERA['cross_right'])
    rest = next(t for t in np.arange(0, 38, 0.1) if world.scenario.ego(t).speed_mps == 0.0)
    ground = [renderer.image(t)[-60:].astype(int) for t in (rest + 0.5, rest + 1.0, 1.0, 1.1)]
    assert np.array_equal(ground[0], ground[1])
    assert np.abs(ground[2] - ground[3]).mean() > 2.0


def test_polygons_are_cut_at_the_near_plane():
    triangle = np.array([[0.0, 1.0, -2.0], [1.0, 1.0, 4.0], [-1.0, 1.0, 4.0]])
    cut = clip_at_near_plane(triangle)
    assert len(cut) == 4 and cut[:, 2].min() == pytest.approx(0.2)
    assert len(clip_at_near_plane(triangle - (0.0, 0.0, 5.0))) == 0


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
