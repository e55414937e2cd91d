"""Rigid motion in float64: the t0 frame, interpolation, fitted speeds, the reference's picking."""

import numpy as np
import pytest

from alpamayo_ros import geometry

UTM_M = np.array([4.1e6, 5.2e6, 300.0])


@pytest.fixture(scope='module')
def t0_frame(root):
    return dict(np.load(root / 'test/golden/t0_frame.npz'))


@pytest.fixture(scope='module')
def action_space(root):
    return dict(np.load(root / 'test/golden/action_space.npz'))


def about_z(yaw_rad):
    return geometry.yaw_quaternion(np.asarray(yaw_rad))


@pytest.mark.parametrize('part', ['hist', 'fut'])
def test_local_poses_equal_the_reference(t0_frame, part):
    position, quaternion = t0_frame['world_xyz'], t0_frame['world_quat_xyzw']
    t0 = int(t0_frame['t0_index'])
    rows = slice(0, t0 + 1) if part == 'hist' else slice(t0 + 1, None)
    xyz, rot = geometry.to_local(position[t0], quaternion[t0], position[rows], quaternion[rows])
    np.testing.assert_allclose(xyz, t0_frame[f'{part}_xyz'], rtol=0, atol=1e-4)
    np.testing.assert_allclose(rot, t0_frame[f'{part}_rot'], rtol=0, atol=1e-6)


def test_picking_of_the_reference_is_the_latest_frame_at_or_before(t0_frame):
    stamps = t0_frame['camera_frame_timestamps']
    picked = geometry.find_latest_at_or_before(stamps, t0_frame['image_timestamps'])
    np.testing.assert_array_equal(picked, t0_frame['picked_frame_index'])
    np.testing.assert_array_equal(stamps[picked], t0_frame['picked_timestamps'])


def test_picking_takes_a_frame_exactly_at_the_time():
    assert geometry.find_latest_at_or_before([10, 20, 30], [20, 29, 30]).tolist() == [1, 1, 2]


@pytest.mark.parametrize(('stamps', 'requested'), [([10, 20], [9]), ([10, 20], [21]), ([], [1])])
def test_picking_outside_the_frames_is_an_error(stamps, requested):
    with pytest.raises(ValueError, match='outside'):
        geometry.find_latest_at_or_before(stamps, requested)


def test_fitted_speed_equals_the_reference(action_space):
    histories = zip(action_space['hist_xyz'], action_space['hist_rot'], strict=True)
    fitted = [geometry.fit_speeds(xyz[:, :2], geometry.yaw(rot))[-1] for xyz, rot in histories]
    np.testing.assert_allclose(fitted, action_space['v0_f64'], rtol=0, atol=1e-6)


def test_fitted_speed_of_10_mps_is_9_999():
    x = np.arange(-15, 1) * 1.0
    speeds = geometry.fit_speeds(np.stack([x, 0 * x], -1), 0 * x)
    assert speeds.shape == (16,)
    assert speeds[-1] == pytest.approx(9.999, abs=1e-3)


def test_yaw_of_a_rotation_matrix_is_counter_clockwise():
    angles = np.array([-3.1, -0.4, 0.0, 1.2, 3.1])
    np.testing.assert_allclose(geometry.yaw(geometry.rotation_matrix(about_z(angles))), angles)


def test_quarter_turn_maps_x_to_y():
    matrix = geometry.rotation_matrix(about_z(np.pi / 2))
    np.testing.assert_allclose(matrix @ [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], atol=1e-15)


def test_product_of_quaternions_is_the_product_of_matrices():
    a, b = np.random.default_rng(1).normal(size=(2, 5, 4))
    a, b = (q / np.linalg.norm(q, axis=-1, keepdims=True) for q in (a, b))
    expected = geometry.rotation_matrix(a) @ geometry.rotation_matrix(b)
    np.testing.assert_allclose(
        geometry.rotation_matrix(geometry.multiply(a, b)), expected, atol=1e-14
    )
    identity = geometry.multiply(a, geometry.conjugate(a))
    np.testing.assert_allclose(identity, [[0, 0, 0, 1]] * 5, atol=1e-14)


def test_rotation_vectors_and_quaternions_are_inverse():
    vectors = np.array([[0, 0, 0], [1e-14, 0, 0], [0.3, -0.2, 1.0], [0, 0, 3.14]])
    quaternions = geometry.exponential(vectors)
    np.testing.assert_allclose(np.linalg.norm(quaternions, axis=-1), 1.0, atol=1e-15)
    np.testing.assert_allclose(geometry.rotation_vector(quaternions), vectors, atol=1e-15)
    np.testing.assert_allclose(geometry.rotation_vector(-quaternions), vectors, atol=1e-15)


def test_angles_wrap_into_half_a_turn_each_way():
    np.testing.assert_allclose(
        geometry.wrap_angle([3.5, -3.5, 6.3]), [-2.78319, 2.78319, 0.01681], atol=1e-5
    )


def test_local_and_world_are_inverse_at_map_coordinates():
    rng = np.random.default_rng(2)
    quaternion = geometry.exponential([0.05, -0.03, 2.5])  # roll and pitch as well
    local, yaw = rng.uniform(-50, 50, (8, 3)), rng.uniform(-3, 3, 8)
    positions, quaternions = geometry.to_world(UTM_M, quaternion, local, yaw)
    xyz, rotations = geometry.to_local(UTM_M, quaternion, positions, quaternions)
    np.testing.assert_allclose(xyz, local, atol=1e-8)
    np.testing.assert_allclose(geometry.yaw(rotations), yaw, atol=1e-12)


def test_interpolation_reproduces_a_cubic_at_map_coordinates():
    seconds = np.cumsum([0.0, 0.02, 0.05, 0.03, 0.06, 0.04, 0.02])
    asked = np.array([0, 7, 33, 61, 110, 150, 219, 220]) * 1_000_000

    def cubic(t):
        t = np.asarray(t)[..., None]
        return UTM_M + np.array([10.0, 2.0, 0.1]) * t + [3.0, -3.0, 0.0] * t**2 + 20 * t**3

    stamps = np.round(seconds * 1e9).astype(np.int64)
    quaternions = np.tile([0, 0, 0, 1.0], (len(stamps), 1))
    positions, _ = geometry.interpolate_poses(stamps, cubic(seconds), quaternions, asked)
    np.testing.assert_allclose(positions, cubic(asked / 1e9), rtol=0, atol=1e-8)


def test_rotation_at_constant_rate_is_exact_through_a_half_turn_and_a_change_of_sign():
    stamps = np.arange(8) * 50_000_000
    yaw = 3.0 + 2.0 * stamps / 1e9  # passes pi, where the yaw wraps
    quaternions = about_z(yaw) * np.where(np.arange(8) % 2, -1.0, 1.0)[:, None]
    asked = np.array([10_000_000, 71_000_000, 200_000_000, 349_000_000])
    _, result = geometry.interpolate_poses(stamps, np.zeros((8, 3)), quaternions, asked)
    heading = geometry.yaw(geometry.rotation_matrix(result))
    error = geometry.wrap_angle(heading - (3.0 + 2.0 * asked / 1e9))
    np.testing.assert_allclose(error, 0.0, atol=1e-12)


def test_rotation_with_changing_rate_is_better_than_slerp():
    stamps = np.arange(12) * 50_000_000
    asked = np.array([225_000_000, 530_000_000])

    def yaw(t_ns):
        return 0.5 * (t_ns / 1e9) ** 2  # 1 rad/s^2: slerp would be 3e-4 rad off in the middle

    _, result = geometry.interpolate_poses(stamps, np.zeros((12, 3)), about_z(yaw(stamps)), asked)
    heading = geometry.yaw(geometry.rotation_matrix(result))
    np.testing.assert_allclose(heading, yaw(asked), rtol=0, atol=1e-9)


def test_samples_outside_the_four_around_a_time_do_not_matter():
    stamps = np.arange(10) * 20_000_000
    rng = np.random.default_rng(3)
    positions, quaternions = rng.normal(size=(10, 3)), np.tile([0, 0, 0, 1.0], (10, 1))
    asked = np.array([95_000_000])  # between samples 4 and 5
    whole, _ = geometry.interpolate_poses(stamps, positions, quaternions, asked)
    part, _ = geometry.interpolate_poses(stamps[3:7], positions[3:7], quaternions[3:7], asked)
    np.testing.assert_array_equal(whole, part)


@pytest.mark.parametrize('asked', [-1, 60_000_001])
def test_nothing_is_extrapolated(asked):
    stamps = np.arange(4) * 20_000_000
    quaternions = np.tile([0, 0, 0, 1.0], (4, 1))
    with pytest.raises(ValueError, match='inside four samples'):
        geometry.interpolate_poses(stamps, np.zeros((4, 3)), quaternions, [asked])


def test_three_samples_are_too_few():
    quaternions = np.tile([0, 0, 0, 1.0], (3, 1))
    with pytest.raises(ValueError, match='four samples'):
        geometry.interpolate_poses([0, 10, 20], np.zeros((3, 3)), quaternions, [5])
