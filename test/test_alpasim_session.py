"""A rollout of AlpaSim without its wire: contexts by stamps, local paths, refusals."""

from dataclasses import replace

import numpy as np
import pytest
from small_bag import PICTURE

from alpamayo_ros import geometry
from alpamayo_ros.alpasim.session import Session, make_session_rig
from alpamayo_ros.errors import BadInput
from alpamayo_ros.images import ImageError
from alpamayo_ros.limits import ContextLimits
from alpamayo_ros.rig import DATASET_NAMES, R1_CAMERAS
from alpamayo_ros.runtime.constant_velocity import ConstantVelocityEngine

CAMERAS = [DATASET_NAMES[name] for name in R1_CAMERAS]
WIDE = DATASET_NAMES['front_wide']
STEP_US = 100_000
YAW, SPEED_MPS = 0.7, 2.0
START_M = np.array([3.0, -4.0, 0.5])
JPEG = PICTURE.tobytes()
ENGINE = ConstantVelocityEngine()


def make_session(cameras=CAMERAS, seed=7):
    return Session(make_session_rig(cameras, (), ContextLimits()), seed)


def place(time_us):
    return START_M + SPEED_MPS * time_us * 1e-6 * np.array([np.cos(YAW), np.sin(YAW), 0.0])


def feed(session, steps, skip=(), early_us=0):
    """Images and poses of some steps; skip: (camera, step) that do not come."""
    for step in steps:
        time_us = step * STEP_US
        for camera in CAMERAS:
            if (camera, step) not in skip:
                session.add_image(camera, time_us - early_us, JPEG)
        session.add_pose(
            time_us, place(time_us), geometry.yaw_quaternion(YAW).tolist(), SPEED_MPS, 0.0
        )


def drive(session, step, infer=ENGINE.infer):
    return session.plan(step * STEP_US, infer)


def test_a_constant_velocity_gives_the_closed_form():
    session = make_session()
    feed(session, range(31))
    plan = drive(session, 30)
    xy = SPEED_MPS * 0.1 * np.arange(16)[:, None] * [1.0, 0.0]
    v0 = geometry.fit_speeds(xy, np.zeros(16))[-1]  # 2 m/s, but for the ridge of the fit
    assert v0 == pytest.approx(SPEED_MPS, abs=1e-3)
    along = v0 * 0.1 * np.arange(1, 65)[:, None] * [np.cos(YAW), np.sin(YAW), 0.0]
    assert plan.stamps_us == tuple(3_000_000 + STEP_US * k for k in range(1, 65))
    np.testing.assert_allclose(plan.positions_m, place(3_000_000) + along, atol=1e-6)
    np.testing.assert_allclose(
        plan.quaternions, np.tile(geometry.yaw_quaternion(YAW), (64, 1)), atol=1e-9
    )


def test_frames_that_end_before_now_give_a_path_from_now_on():
    session = make_session()
    feed(session, range(31), early_us=40_000)
    plan = drive(session, 30)
    assert plan.health['age_s'] == pytest.approx(0.04)
    assert (plan.stamps_us[0], len(plan.stamps_us)) == (3_100_000, 63)
    np.testing.assert_allclose(plan.positions_m[:, :2], [place(t)[:2] for t in plan.stamps_us],
                               atol=0.01)  # fmt: skip


def test_a_path_lies_in_the_plane_of_the_vehicle():
    session = make_session()
    pitch = [0.0, np.sin(-0.05), 0.0, np.cos(-0.05)]  # nose up
    for step in range(31):
        for camera in CAMERAS:
            session.add_image(camera, step * STEP_US, JPEG)
        along = SPEED_MPS * step * 0.1 * np.array([np.cos(0.1), 0.0, np.sin(0.1)])
        session.add_pose(step * STEP_US, along, pitch, SPEED_MPS, 0.0)
    plan = drive(session, 30)
    rise = plan.positions_m[-1] - plan.positions_m[0]
    assert np.arctan2(rise[2], rise[0]) == pytest.approx(0.1, abs=1e-6)
    np.testing.assert_allclose(plan.quaternions[-1], pitch, atol=1e-9)


def test_too_little_input_is_an_empty_plan_with_its_reason():
    session = make_session()
    assert drive(session, 0).reason == 'stale_input'
    feed(session, range(4))
    plan = drive(session, 3)
    assert (plan.reason, plan.stamps_us) == ('history_short', ())
    assert plan.health == {'served': 0.0, 'refused': 0.0, 'reason_history_short': 1.0}
    feed(session, range(4, 21))
    assert drive(session, 20).health['served'] == 1.0
    assert session.outcomes == {'stale_input': 1, 'history_short': 1, '': 1}


def test_the_seed_is_that_of_the_session_and_the_number_of_the_call():
    seeds = []

    def note(context, seed):
        seeds.append(seed)
        return ENGINE.infer(context, seed)

    session = make_session(seed=40)
    drive(session, 0, note)
    for last in (20, 21, 22):
        feed(session, range(21) if last == 20 else [last])
        drive(session, last, note)
    assert seeds == [41, 42, 43]


def test_a_seed_of_64_bits_wraps():
    session = make_session(seed=(1 << 64) - 1)
    feed(session, range(21))
    session.plan(2_000_000, lambda context, seed: (seed < 1 << 63) and ENGINE.infer(context, seed))
    assert session.outcomes == {'': 1}


def test_observations_of_a_step_may_come_in_any_order():
    in_order, mixed = make_session(), make_session()
    feed(in_order, range(31))
    feed(mixed, np.random.default_rng(0).permutation(31).tolist())
    a, b = drive(in_order, 30), drive(mixed, 30)
    np.testing.assert_array_equal(a.positions_m, b.positions_m)
    assert not mixed.refusals


def test_an_image_from_before_the_last_call_is_refused_and_nothing_is_forgotten():
    session = make_session()
    feed(session, range(30), skip=[(WIDE, 10)])
    drive(session, 29)
    session.add_image(WIDE, 10 * STEP_US, JPEG)
    feed(session, [30])
    assert drive(session, 30).reason == ''
    assert session.refusals == {'front_wide: late': 1}


def test_one_lost_image_costs_no_plan_and_a_lost_camera_does():
    tele = DATASET_NAMES['front_tele']
    session = make_session()
    feed(session, range(21))
    ages = []
    for step in range(21, 27):
        feed(session, [step], skip=[(tele, 21)])
        ages.append(round(drive(session, step).health['age_s'], 3))
    assert ages == [0.1, 0.2, 0.3, 0.4, 0.0, 0.0]
    for step in range(27, 40):
        feed(session, [step], skip=[(tele, step)])
        plan = drive(session, step)
    assert plan.reason == 'frame_missing' and plan.detail.startswith('front_tele: ')
    feed(session, range(40, 44))
    assert drive(session, 43).reason == ''


def test_a_route_becomes_the_text_of_the_prompt():
    texts = []

    def note(context, seed):
        texts.append(context.navigation and context.navigation.text)
        return ENGINE.infer(context, seed)

    session = make_session()
    feed(session, range(21))
    drive(session, 20, note)
    here, ahead = place(2_000_000), np.array([np.cos(YAW), np.sin(YAW), 0.0])
    left = np.array([-ahead[1], ahead[0], 0.0])
    session.add_route([here, here + 30 * ahead, here + 30 * ahead + 40 * left])
    drive(session, 20, note)
    session.add_route(np.zeros((0, 3)))
    drive(session, 20, note)
    assert texts == [None, 'Turn left in 30m', None]


def test_what_cannot_be_followed_is_no_path():
    def break_image(context, seed):
        raise ImageError('front_wide: cut')

    def break_path(context, seed):
        found = ENGINE.infer(context, seed)
        return replace(found, samples=np.full_like(found.samples, np.nan))

    session = make_session()
    feed(session, range(21))
    assert drive(session, 20, break_image).reason == 'bad_image'
    assert drive(session, 20, break_path).reason == 'non_finite'


def test_broken_messages_are_counted():
    session = make_session()
    session.add_image(WIDE, 0, b'BM no such codec')
    session.add_image(DATASET_NAMES['rear_left'], 0, b'of a camera that is not used')
    session.add_pose(0, [np.nan, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], 0.0, 0.0)
    assert session.refusals == {'front_wide: bad_message': 1, 'odometry: bad_message': 1}


def test_the_rig_of_a_session_has_its_cameras_by_index():
    rig = make_session_rig(CAMERAS[::-1], (), ContextLimits(max_skew_s=0.02))
    assert [(camera.name, camera.index, camera.topic) for camera in rig.cameras] == [
        ('cross_left', 0, 'camera_cross_left_120fov'),
        ('front_wide', 1, 'camera_front_wide_120fov'),
        ('cross_right', 2, 'camera_cross_right_120fov'),
        ('front_tele', 6, 'camera_front_tele_30fov'),
    ]
    assert (rig.absent, rig.limits.max_skew_s) == ((), 0.02)
    rig = make_session_rig(DATASET_NAMES.values(), ('rear_tele', 'front_wide'), ContextLimits())
    assert [camera.name for camera in rig.cameras] == ['front_wide', 'rear_tele']
    assert rig.absent == ('cross_left', 'cross_right', 'front_tele')


def test_a_session_without_a_side_camera_plans_and_says_so():
    session = make_session(CAMERAS[1:])
    feed(session, range(21))
    assert drive(session, 20).health['check_camera_subset'] == 1.0


@pytest.mark.parametrize(
    ('cameras', 'names', 'line'),
    [
        (CAMERAS[:1], (), 'the session has no camera camera_front_wide_120fov, but '),
        ([], (), 'the session has no camera camera_front_wide_120fov, but none'),
        (CAMERAS, ('front_wide', 'rear_left'), 'the session has no camera camera_rear_left_70fov'),
        (CAMERAS, ('front_tele',), 'cameras: expected front_wide among them'),
        (CAMERAS, ('front_wide', 'roof'), "cameras: 'roof' is not one of cross_left, "),
    ],
)  # fmt: skip
def test_a_session_without_the_cameras_is_one_line(cameras, names, line):
    with pytest.raises(BadInput, match=f'^{line}'):
        make_session_rig(cameras, names, ContextLimits())
