"""The buffer: one rule per test. Stamps in the tests are milliseconds after START_NS."""

from dataclasses import replace

import numpy as np
import pytest

from alpamayo_ros import geometry
from alpamayo_ros.context.buffer import ContextBuffer
from alpamayo_ros.data_types import Context, EgoPose, Frame, Rejection
from alpamayo_ros.errors import BadInput
from alpamayo_ros.limits import ContextLimits
from alpamayo_ros.rig import CameraRig, RigCamera

START_NS = 1_700_000_000_000_000_000
MS = 1_000_000
NAMES = {'cross_left': 0, 'front_wide': 1, 'cross_right': 2, 'front_tele': 6}
UTM_M = np.array([4.0e6, 4.0e6, 100.0])


def rig(*names, tolerance_s=0.05):
    """A rig with front_wide as anchor and the named cameras; the rest of the four is absent."""
    names = sorted({'front_wide', *names}, key=NAMES.__getitem__)
    cameras = tuple(RigCamera(name, NAMES[name], f'/{name}', tolerance_s, None) for name in names)
    absent = tuple(name for name in NAMES if name not in names)
    return CameraRig('test', 'front_wide', '/odometry', tolerance_s, cameras, absent)


def ns(milliseconds):
    return START_NS + round(milliseconds * MS)


def frame(milliseconds, width=0, height=0):
    return Frame(ns(milliseconds), 'jpeg', np.zeros(1, np.uint8), height, width)


def straight(milliseconds, v_mps=10.0, twist_mps=None, **names):
    """Pose of a vehicle that drives along x at constant speed."""
    position = np.array([v_mps * milliseconds / 1e3, 0.0, 0.0])
    speed = v_mps if twist_mps is None else twist_mps
    return EgoPose(ns(milliseconds), position, np.array([0, 0, 0, 1.0]), speed, **names)


def curved(stamp_ns):
    """Pose on a winding road at 8 to 12 m/s, accelerations up to 3 m/s^2, in closed form."""
    t = (np.asarray(stamp_ns, np.int64) - START_NS) / 1e9
    amplitude, pulse = np.array([1.9, 2.3]), np.array([2.6, 1.9])  # m/s^2, rad/s
    x = 10 * t - amplitude[0] / pulse[0] ** 2 * np.sin(pulse[0] * t)
    y = -amplitude[1] / pulse[1] ** 2 * np.sin(pulse[1] * t)
    velocity = np.stack(
        [
            10 - amplitude[0] / pulse[0] * np.cos(pulse[0] * t),
            -amplitude[1] / pulse[1] * np.cos(pulse[1] * t),
        ],
        -1,
    )
    heading = np.arctan2(velocity[..., 1], velocity[..., 0])
    return geometry.to_world(
        UTM_M,
        geometry.yaw_quaternion(2.2),
        np.stack([x, y, 0 * x], -1),
        heading,
    ), np.linalg.norm(velocity, axis=-1)


def winding(stamps_ns):
    (positions, quaternions), speeds = curved(stamps_ns)
    rows = zip(stamps_ns, positions, quaternions, speeds, strict=True)
    return [EgoPose(int(stamp), p, q, float(v)) for stamp, p, q, v in rows]


def expected_history(t0_ns):
    """Closed form of what the buffer interpolates: (16, 3) m in the t0 frame."""
    (positions, quaternions), _ = curved(t0_ns + np.arange(-15, 1) * 100 * MS)
    return geometry.to_local(positions[-1], quaternions[-1], positions, quaternions)


def fill(buffer, frames=None, poses=None):
    """Feed frames (camera to milliseconds) and poses; by default 10 Hz and 50 Hz up to 2 s."""
    for name in [camera.name for camera in buffer.rig.cameras]:
        for stamp in (frames or {}).get(name, range(0, 2001, 100)):
            assert buffer.add_frame(name, frame(stamp)) is None
    for pose in [straight(t) for t in range(0, 2001, 20)] if poses is None else poses:
        assert buffer.add_pose(pose) is None
    return buffer


def stamps(context, camera):
    """Milliseconds relative to t0 of the frames of one camera."""
    return [(picked.stamp_ns - context.t0_ns) / MS for picked in context.frames[camera]]


def rejection(buffer, milliseconds, **options):
    result = buffer.context_at(ns(milliseconds), **options)
    assert isinstance(result, Rejection)
    return result.reason, result.detail


def play(buffer, messages):
    """Every anchor's first answer, asked after each message: t0 to (answer, messages seen)."""
    answers, waiting = {}, []
    for count, (topic, item) in enumerate(messages):
        if topic == 'odometry':
            buffer.add_pose(item)
        else:
            buffer.add_frame(topic, item)
        if topic == buffer.rig.anchor:
            waiting.append(item.stamp_ns)
        for t0_ns in list(waiting):
            answer = buffer.context_at(t0_ns)
            if answer is not None:
                answers[t0_ns] = answer, count
                waiting.remove(t0_ns)
    answers.update({t0_ns: (buffer.context_at(t0_ns, final=True), None) for t0_ns in waiting})
    return answers


def recording(seconds, camera_hz, pose_hz, jitter_ms, seed):
    """(topic, item) in the order of stamps; cameras and odometry jittered on their own."""
    rng = np.random.default_rng(seed)
    messages = []
    for name in NAMES:
        grid = np.arange(0, seconds, 1 / camera_hz) * 1e3
        for stamp in grid + rng.uniform(-jitter_ms, jitter_ms, len(grid)) + 10:
            messages.append((name, frame(stamp)))
    grid = np.arange(0, seconds, 1 / pose_hz) * 1e9
    jitter = rng.uniform(-0.2, 0.2, len(grid)) * 1e9 / pose_hz
    for pose in winding(START_NS + (grid + jitter).astype(np.int64) + 10 * MS):
        messages.append(('odometry', pose))
    return sorted(messages, key=lambda message: message[1].stamp_ns)


def same(a, b):
    """Whether two answers are equal bit for bit."""
    if not isinstance(a, Context) or not isinstance(b, Context):
        return a == b
    arrays = [
        (context.history_xyz_m, context.history_rot, context.odom_from_t0.position_m)
        + (context.odom_from_t0.quaternion_xyzw,)
        for context in (a, b)
    ]
    frames = [
        {name: [id(picked) for picked in row] for name, row in context.frames.items()}
        for context in (a, b)
    ]
    scalars = [
        (c.t0_ns, c.camera_indices, c.odom_from_t0.speed_mps, c.v0_mps, c.skew_s, c.checks)
        for c in (a, b)
    ]
    equal = all(x.tobytes() == y.tobytes() for x, y in zip(*arrays, strict=True))
    return equal and frames[0] == frames[1] and scalars[0] == scalars[1]


# What a context holds


def test_context_holds_four_frames_per_camera_in_index_order():
    context = fill(ContextBuffer(rig(*NAMES))).context_at(ns(2000))
    assert list(context.frames) == ['cross_left', 'front_wide', 'cross_right', 'front_tele']
    assert context.camera_indices == (0, 1, 2, 6)
    assert stamps(context, 'front_tele') == [-300, -200, -100, 0]
    assert context.checks == ()


def test_absent_cameras_are_left_out_and_named_by_a_check():
    context = fill(ContextBuffer(rig('front_tele'))).context_at(ns(2000))
    assert list(context.frames) == ['front_wide', 'front_tele']
    assert context.camera_indices == (1, 6)
    assert context.checks == ('camera_subset',)


def test_last_history_row_is_exactly_the_origin():
    buffer = fill(ContextBuffer(rig()), poses=winding(ns(0) + np.arange(0, 2021, 20) * MS))
    context = buffer.context_at(ns(2000))
    assert context.history_xyz_m[-1].tolist() == [0, 0, 0]
    assert context.history_rot[-1].tolist() == np.eye(3).tolist()
    assert context.history_xyz_m.dtype == context.history_rot.dtype == np.float32


def test_pose_at_t0_is_interpolated_at_exactly_t0():
    poses = winding(ns(0) + np.arange(7, 2030, 20) * MS)
    pose = fill(ContextBuffer(rig()), poses=poses).context_at(ns(2000)).odom_from_t0
    (position, _), speed = curved(np.array([ns(2000)]))
    assert pose.stamp_ns == ns(2000)
    np.testing.assert_allclose(pose.position_m, position[0], rtol=0, atol=1e-5)
    assert pose.speed_mps == pytest.approx(speed[0], abs=1e-3)


@pytest.mark.parametrize('pose_hz', [10, 20, 30, 50, 100, 200])
def test_history_is_the_same_within_a_millimetre_at_every_odometry_rate(pose_hz):
    """Jittered stamps, 3 m/s^2, turning, at coordinates of 4e6 m."""
    rng = np.random.default_rng(pose_hz)
    worst = 0.0
    for _ in range(10):
        grid = (
            np.arange(0, 2.3, 1 / pose_hz) + rng.uniform(-0.2, 0.2, round(2.3 * pose_hz)) / pose_hz
        )
        start_ns = ns(rng.uniform(0, 3000))
        poses = winding(start_ns + ((grid - 2.05) * 1e9).astype(np.int64))
        buffer = ContextBuffer(rig())
        for age in (300, 200, 100, 0):
            buffer.add_frame('front_wide', replace(frame(0), stamp_ns=start_ns - age * MS))
        for pose in poses:
            buffer.add_pose(pose)
        context = buffer.context_at(start_ns)
        xyz, rotations = expected_history(start_ns)
        worst = max(worst, np.linalg.norm(context.history_xyz_m - xyz, axis=1).max())
        np.testing.assert_allclose(context.history_rot, rotations, rtol=0, atol=1e-4)
    assert worst < 1e-3


def test_onset_of_braking_stays_within_a_millimetre_at_20_hz():
    rng = np.random.default_rng(4)
    for onset_ms in rng.uniform(400, 1990, 20):
        stamps_ms = np.arange(0, 2100, 50) + rng.uniform(-10, 10, 42)

        def motion(t_ms, onset_ms=onset_ms):
            t, braking = t_ms / 1e3, np.maximum(t_ms - onset_ms, 0.0) / 1e3
            return 4e6 + 10 * t - 3.0 * braking**2 / 2, 10 - 3.0 * braking

        stamps_ms = np.round(stamps_ms * MS) / MS
        poses = [
            replace(straight(t), position_m=np.array([x, 0, 0]), speed_mps=v)
            for t, x, v in zip(stamps_ms, *motion(stamps_ms), strict=True)
        ]
        context = fill(ContextBuffer(rig()), poses=poses).context_at(ns(2000))
        grid, _ = motion(np.arange(500, 2001, 100))
        np.testing.assert_allclose(context.history_xyz_m[:, 0], grid - grid[-1], rtol=0, atol=1e-3)


def test_speed_of_the_history_is_the_fitted_one():
    assert fill(ContextBuffer(rig())).context_at(ns(2000)).v0_mps == pytest.approx(9.999, abs=1e-3)


# Which frames


def test_nearest_frame_is_picked_and_the_older_one_on_a_tie():
    buffer = fill(
        ContextBuffer(rig('front_tele')),
        frames={'front_tele': [1650, 1690, 1720, 1760, 1840, 1870, 1905, 2000]},
    )
    context = buffer.context_at(ns(2000))
    assert stamps(context, 'front_tele') == [-310, -240, -95, 0]


def test_no_frame_later_than_the_lead_is_picked():
    tele = [1700, 1800, 1900, 1960, 2011]
    buffer = fill(ContextBuffer(rig('front_tele')), frames={'front_tele': tele})
    assert stamps(buffer.context_at(ns(2000)), 'front_tele')[-1] == -40
    tele[-1] = 2010
    buffer = fill(ContextBuffer(rig('front_tele')), frames={'front_tele': tele})
    assert stamps(buffer.context_at(ns(2000)), 'front_tele')[-1] == 10


@pytest.mark.parametrize(('offset_ms', 'served'), [(50, True), (51, False)])
def test_frame_within_the_tolerance_is_served(offset_ms, served):
    tele = [1700, 1800 - offset_ms, 1900, 2000, 2100]
    buffer = fill(ContextBuffer(rig('front_tele')), frames={'front_tele': tele})
    if served:
        assert stamps(buffer.context_at(ns(2000)), 'front_tele')[1] == -offset_ms - 200
    else:
        assert rejection(buffer, 2000) == (
            'frame_missing',
            'front_tele: no frame within 50 ms of t0-0.2 s',
        )


def test_next_older_frame_serves_where_the_nearest_is_taken():
    """A camera that runs freely: each of its frames is nearest to two grid times or to none."""
    tele = [1633, 1733, 1833, 1933]  # with the lead of 10 ms the next frame is no candidate
    buffer = fill(ContextBuffer(rig('front_tele', tolerance_s=0.1)), frames={'front_tele': tele})
    assert buffer.context_at(ns(2000)) is None  # 1983 could come
    buffer.add_frame('front_tele', frame(2033))
    assert rejection(buffer, 2000)[0] == 'camera_skew'
    limits = ContextLimits(max_skew_s=0.1)
    buffer = ContextBuffer(rig('front_tele', tolerance_s=0.1), limits)
    fill(buffer, frames={'front_tele': [*tele, 2033]})
    assert stamps(buffer.context_at(ns(2000)), 'front_tele') == [-367, -267, -167, -67]


def test_no_frame_serves_two_grid_times():
    frames = {'front_wide': [1700, 1830, 2000]}  # 1830 is nearest to t0-0.2 s and to t0-0.1 s
    buffer = fill(ContextBuffer(rig(tolerance_s=0.1)), frames=frames)
    assert rejection(buffer, 2000) == (
        'frame_repeated',
        'front_wide: one frame for two grid times',
    )


def test_frame_on_the_border_of_two_slots_is_not_used_twice():
    tele = [1700, 1750, 1900, 2000]  # 1750 is within 50 ms of both, 1700 is nearer to the first
    buffer = fill(ContextBuffer(rig('front_tele')), frames={'front_tele': tele})
    assert stamps(buffer.context_at(ns(2000)), 'front_tele') == [-300, -250, -100, 0]
    buffer = fill(ContextBuffer(rig('front_tele')), frames={'front_tele': tele[1:]})
    assert rejection(buffer, 2000)[0] == 'frame_repeated'
    tele = [1660, 1750, 1900, 2000]  # 1750 is nearest to both
    buffer = fill(ContextBuffer(rig('front_tele')), frames={'front_tele': tele})
    assert stamps(buffer.context_at(ns(2000)), 'front_tele') == [-340, -250, -100, 0]


@pytest.mark.parametrize('change', [{'frame_id': 'camera_rear'}, {'width': 64, 'height': 48}])
def test_two_cameras_on_one_topic_are_a_check(change):
    buffer = ContextBuffer(rig(*NAMES))
    other = {t: replace(frame(t, 640, 480), **change) for t in range(30, 2001, 100)}
    for name in NAMES:
        for t in range(0, 2001, 10):
            if t % 100 == 0:
                buffer.add_frame(name, frame(t, 640, 480))
            elif name == 'front_tele' and t in other:
                buffer.add_frame(name, other[t])
    for t in range(0, 2001, 20):
        buffer.add_pose(straight(t))
    context = buffer.context_at(ns(2000))
    assert stamps(context, 'front_tele') == [-300, -200, -100, 0]
    assert context.checks == ('camera_changed',)


def test_frame_id_that_changed_before_the_first_frame_is_no_check():
    buffer = ContextBuffer(rig(*NAMES))
    for name in NAMES:
        for t in range(0, 2001, 100):
            buffer.add_frame(name, replace(frame(t), frame_id='new' if t >= 1700 else 'old'))
    for t in range(0, 2001, 20):
        buffer.add_pose(straight(t))
    assert buffer.context_at(ns(2000)).checks == ()


def test_frames_carry_the_bit_depth_of_the_rig():
    deep = rig('front_tele')
    cameras = tuple(replace(camera, bit_depth=12 * (camera.index == 6)) for camera in deep.cameras)
    context = fill(ContextBuffer(replace(deep, cameras=cameras))).context_at(ns(2000))
    depths = {name: {f.bit_depth for f in row} for name, row in context.frames.items()}
    assert depths == {'front_wide': {0}, 'front_tele': {12}}


def test_cameras_too_far_apart_in_one_slot_are_refused():
    frames = {
        'cross_left': [1700, 1800, 1930, 2000],
        'front_tele': [1700, 1800, 1870, 2000],
    }
    buffer = fill(ContextBuffer(rig('cross_left', 'front_tele')), frames=frames)
    assert rejection(buffer, 2000) == (
        'camera_skew',
        'cross_left is 60.0 ms after front_tele at t0-0.1 s, limit 50 ms',
    )
    frames['cross_left'][2] = 1915
    buffer = fill(ContextBuffer(rig('cross_left', 'front_tele')), frames=frames)
    assert buffer.context_at(ns(2000)).skew_s == pytest.approx(0.045)


def test_dropped_frame_refuses_the_anchors_that_need_it_and_no_others():
    tele = [stamp for stamp in range(0, 2501, 100) if stamp != 1800]
    wide = range(0, 2501, 100)
    poses = [straight(t) for t in range(0, 2501, 20)]
    messages = sorted(
        [('front_tele', frame(t)) for t in tele]
        + [('front_wide', frame(t)) for t in wide]
        + [('odometry', pose) for pose in poses],
        key=lambda message: message[1].stamp_ns,
    )
    answers = play(ContextBuffer(rig('front_tele')), messages)
    refused = [t for t in range(1500, 2501, 100) if isinstance(answers[ns(t)][0], Rejection)]
    assert refused == [1800, 1900, 2000, 2100]
    assert answers[ns(2000)][0].detail == 'front_tele: no frame within 50 ms of t0-0.2 s'


def test_image_size_that_changes_is_refused_until_the_old_size_is_gone():
    buffer = ContextBuffer(rig())
    for stamp in range(0, 2201, 100):
        size = (640, 480) if stamp < 1900 else (1280, 720)
        buffer.add_frame('front_wide', frame(stamp, *size))
    for stamp in range(0, 2201, 20):
        buffer.add_pose(straight(stamp))
    assert isinstance(buffer.context_at(ns(1800)), Context)
    expected = ('image_size', 'front_wide: sizes 640x480 and 1280x720 in one context')
    assert [rejection(buffer, stamp) for stamp in (1900, 2000, 2100)] == [expected] * 3
    assert isinstance(buffer.context_at(ns(2200)), Context)


# When a context is final


@pytest.mark.parametrize('seed', range(3))
def test_anchor_is_served_with_the_last_message_that_it_needs(seed):
    """10 Hz cameras jittered by 3 ms: no waiting for the frame after."""
    messages = recording(4.0, 10, 100, 3.0, seed)
    answers = play(ContextBuffer(rig(*NAMES)), messages)
    served = {t0: at for t0, (answer, at) in answers.items() if isinstance(answer, Context)}
    assert len(served) >= 23  # of the 24 after the first 1.6 s, the last may stay open
    for t0_ns, at in served.items():
        context, _ = answers[t0_ns]
        used = [picked.stamp_ns for row in context.frames.values() for picked in row]
        poses = [item.stamp_ns for topic, item in messages if topic == 'odometry']
        first_after = min(stamp for stamp in poses if stamp >= t0_ns)
        assert messages[at][1].stamp_ns == max(*used, first_after)


def test_early_frame_waits_until_no_nearer_one_can_come():
    tele = [1655, 1755, 1855, 1955]  # 10 Hz, 45 ms early: a frame 5 ms behind t0 is possible
    buffer = fill(ContextBuffer(rig('front_tele')), frames={'front_tele': tele})
    assert buffer.context_at(ns(2000)) is None
    buffer.add_frame('front_tele', frame(2055))
    assert stamps(buffer.context_at(ns(2000)), 'front_tele') == [-345, -245, -145, -45]


def test_nearer_frame_that_comes_later_is_picked():
    tele = [1700, 1733, 1767, 1800, 1833, 1867, 1900, 1933, 1967]  # 30 Hz
    buffer = fill(ContextBuffer(rig('front_tele')), frames={'front_tele': tele})
    assert buffer.context_at(ns(2000)) is None
    buffer.add_frame('front_tele', frame(2000))
    assert stamps(buffer.context_at(ns(2000)), 'front_tele')[-1] == 0


def test_frame_that_comes_too_soon_is_refused_because_it_could_replace_a_final_one():
    buffer = fill(ContextBuffer(rig('front_tele')), frames={'front_tele': range(0, 1981, 90)})
    before = buffer.context_at(ns(2000))
    refused = buffer.add_frame('front_tele', frame(2001))
    assert refused.reason == 'irregular_stamp'
    assert refused.detail == ('front_tele: 21.0 ms after the one before, expected 45.0 ms or more')
    assert same(before, buffer.context_at(ns(2000)))


def test_camera_that_becomes_faster_loses_one_frame():
    buffer = ContextBuffer(rig())
    steps = [*range(0, 501, 100), *range(533, 700, 33)]
    refused = [stamp for stamp in steps if buffer.add_frame('front_wide', frame(stamp))]
    assert refused == [533]


def test_missing_input_is_no_answer_until_the_topics_are_too_far_ahead():
    buffer = fill(ContextBuffer(rig('front_tele')), frames={'front_tele': range(0, 1901, 100)})
    assert buffer.context_at(ns(2000)) is None
    detail = 'front_tele: no frame within 50 ms of t0'
    assert rejection(buffer, 2000, final=True) == ('frame_missing', detail)
    for stamp in (2100, 2200, 2300, 2400, 2500):
        buffer.add_frame('front_wide', frame(stamp))
    assert buffer.context_at(ns(2000)) is None
    buffer.add_frame('front_wide', frame(2600))
    assert rejection(buffer, 2000) == ('frame_missing', detail)


@pytest.mark.parametrize(('camera_hz', 'jitter_ms'), [(10, 3), (10, 20), (15, 10), (30, 12)])
def test_order_between_topics_does_not_change_a_bit(camera_hz, jitter_ms):
    """Each topic is delayed on its own by up to 0.25 s, as transports do."""
    messages = recording(4.0, camera_hz, 50, jitter_ms, seed=camera_hz + jitter_ms)
    expected = play(ContextBuffer(rig(*NAMES)), messages)
    assert sum(isinstance(answer, Context) for answer, _ in expected.values()) >= 5
    rng = np.random.default_rng(7)
    for _ in range(6):
        delay = {name: rng.uniform(0, 250 * MS, len(messages)) for name in (*NAMES, 'odometry')}
        arrival, last = [], dict.fromkeys(delay, 0)
        for i, (topic, item) in enumerate(messages):
            last[topic] = max(last[topic], item.stamp_ns + round(delay[topic][i]))
            arrival.append((last[topic], i))  # a topic keeps its own order
        answers = play(ContextBuffer(rig(*NAMES)), [messages[i] for _, i in sorted(arrival)])
        assert answers.keys() == expected.keys()
        # The end of the recording cuts off what is still open.
        decided = [t0 for t0 in answers if None not in (answers[t0][1], expected[t0][1])]
        assert len(decided) >= len(answers) - 3
        assert all(same(answers[t0][0], expected[t0][0]) for t0 in decided)


def test_later_messages_do_not_change_a_context():
    messages = recording(4.0, 10, 100, 3.0, seed=5)
    buffer = ContextBuffer(rig(*NAMES))
    answers = play(buffer, messages)
    kept = [t0_ns for t0_ns in buffer.anchors() if messages[-1][1].stamp_ns - t0_ns < 500 * MS]
    assert len(kept) == 5
    for t0_ns in kept:
        assert same(answers[t0_ns][0], buffer.context_at(t0_ns, final=True))


# Stamps


def test_poses_a_few_milliseconds_late_are_sorted_in():
    poses = [straight(t) for t in range(0, 2001, 4)]
    poses[300], poses[301] = poses[301], poses[300]
    usual = fill(ContextBuffer(rig()), poses=[straight(t) for t in range(0, 2001, 4)])
    late = fill(ContextBuffer(rig()), poses=poses)
    expected = usual.context_at(ns(2000)).history_xyz_m
    assert late.context_at(ns(2000)).history_xyz_m.tobytes() == expected.tobytes()


def test_message_that_comes_twice_is_refused():
    buffer = fill(ContextBuffer(rig()))
    again = buffer.add_frame('front_wide', frame(1900))
    assert (again.t0_ns, again.reason) == (ns(1900), 'duplicate_stamp')
    assert buffer.add_pose(straight(1900)).reason == 'duplicate_stamp'
    assert buffer.add_pose(straight(2000.4)).reason == 'duplicate_stamp'
    assert (buffer.epoch, buffer.anchors().count(ns(1900))) == (0, 1)


def test_old_stamp_with_other_content_is_a_step_of_the_clock():
    buffer = fill(ContextBuffer(rig()))
    buffer.add_pose(straight(1900, v_mps=11.0))
    assert buffer.epoch == 1


def test_stamp_zero_is_refused_and_clears_nothing():
    buffer = fill(ContextBuffer(rig()))
    refused = buffer.add_frame('front_wide', replace(frame(0), stamp_ns=0))
    assert (refused.reason, refused.detail) == ('zero_stamp', 'front_wide: stamp is zero')
    assert isinstance(buffer.context_at(ns(2000)), Context)


def test_backward_jump_clears_and_counts_an_epoch():
    buffer = fill(ContextBuffer(rig()))
    buffer.add_pose(straight(0))
    assert (buffer.epoch, buffer.anchors()) == (1, ())
    assert rejection(buffer, 2000) == ('clock_jump', 'stamps of odometry jumped by -2 s')


@pytest.mark.parametrize('limits', [ContextLimits(), ContextLimits(max_input_age_s=10.0)])
def test_stamp_behind_its_topic_is_a_step_of_the_clock(limits):
    buffer = fill(ContextBuffer(rig(), limits), poses=[straight(t) for t in range(1, 2001, 3)])
    for stamp_ms, epoch in ((1995, 0), (1991, 1)):  # the newest is 1999
        buffer.add_pose(straight(stamp_ms))
        assert buffer.epoch == epoch
    assert rejection(buffer, 2000) == ('clock_jump', 'stamps of odometry jumped by -0.008 s')


# at 20 Hz a step of -50 ms is one stamp that comes twice
@pytest.mark.parametrize(
    ('pose_hz', 'step_ms'),
    [(20, -300), (20, 150), *((hz, step) for hz in (50, 100) for step in (-300, -50, 150))],
)
def test_no_context_mixes_the_times_before_and_after_a_step_of_the_clock(pose_hz, step_ms):
    """10 m/s; the clock of all senders steps at 3 s; transports delay cameras by 60 ms."""
    messages = [(t, 'odometry') for t in np.arange(0, 6000, 1000 / pose_hz)]
    messages += [(t, name) for t in range(0, 6000, 100) for name in NAMES]
    delays = {
        'odometry': 3,
        'cross_left': 60,
        'front_wide': 40,
        'cross_right': 20,
        'front_tele': 50,
    }
    buffer, waiting, served = ContextBuffer(rig(*NAMES)), [], 0
    for true_ms, topic in sorted(messages, key=lambda m: m[0] + delays[m[1]]):
        shown_ms = true_ms + (step_ms if true_ms >= 3000 else 0)
        if topic == 'odometry':
            buffer.add_pose(replace(straight(true_ms), stamp_ns=ns(shown_ms)))
            continue
        # the size tells the true time of a frame
        buffer.add_frame(topic, replace(frame(shown_ms), data=np.zeros(1 + true_ms, np.uint8)))
        waiting.append(ns(shown_ms))
        for answer in map(buffer.context_at, set(waiting)):
            if isinstance(answer, Context):
                waiting.remove(answer.t0_ns)
                served += 1
                grid = np.arange(-15, 1)[:, None] * [1.0, 0, 0]  # 1 m per 0.1 s
                np.testing.assert_allclose(answer.history_xyz_m, grid, rtol=0, atol=0.3)
                for row in answer.frames.values():
                    sizes = [picked.data.size for picked in row]
                    assert np.diff(sizes).tolist() == [100, 100, 100]
    assert served > 20


def test_forward_jump_of_all_topics_clears():
    buffer = fill(ContextBuffer(rig()))
    buffer.add_frame('front_wide', frame(5000))
    assert (buffer.epoch, buffer.anchors()) == (1, (ns(5000),))
    assert rejection(buffer, 2000) == ('clock_jump', 'stamps of front_wide jumped by +3 s')


def test_topic_that_was_silent_is_no_clock_jump():
    buffer = fill(ContextBuffer(rig()), poses=[straight(0)])
    for stamp in range(2100, 6001, 100):
        buffer.add_frame('front_wide', frame(stamp))
    assert buffer.add_pose(straight(6000)) is None
    assert buffer.epoch == 0
    assert rejection(buffer, 6000) == (
        'odometry_gap',
        'odometry: gap of 6.000 s at t0-6.0 s, limit 0.2 s',
    )


def test_same_recording_gives_the_same_results_after_a_loop():
    messages = recording(3.0, 10, 50, 3.0, seed=8)
    buffer = ContextBuffer(rig(*NAMES))
    first, second = play(buffer, messages), play(buffer, messages)
    assert buffer.epoch >= 1
    assert first.keys() == second.keys()
    assert all(same(first[t0][0], second[t0][0]) for t0 in first)


def test_two_clocks_are_the_reason():
    poses = [replace(straight(t), stamp_ns=t * MS + 1) for t in range(0, 2001, 20)]
    buffer = fill(ContextBuffer(rig()), poses=poses)
    assert rejection(buffer, 2000) == (
        'two_clocks',
        'odometry is 1.7e+09 s away from front_wide',
    )


def test_stamp_that_is_no_anchor_is_refused():
    buffer = fill(ContextBuffer(rig()))
    assert rejection(buffer, 1950) == ('no_anchor', f'front_wide: no frame at {ns(1950)}')


def test_input_that_is_no_longer_kept_is_the_reason():
    buffer = fill(ContextBuffer(rig('front_tele')), frames={'front_tele': range(0, 3001, 100)})
    assert rejection(buffer, 2000) == ('too_old', 'front_tele: t0-0.3 s is no longer kept')
    assert rejection(buffer, 200) == ('too_old', 'front_wide: t0 is no longer kept')


def test_memory_is_bounded_by_time():
    buffer = ContextBuffer(rig())
    for stamp in range(1, 20_000):
        buffer.add_pose(straight(stamp))
        buffer.add_frame('front_wide', frame(stamp))
    assert len(buffer.anchors()) < 1000
    assert len(buffer._poses.stamps) < 2500
    assert buffer.add_frame('front_wide', frame(19_999.5)).reason == 'duplicate_stamp'


# Odometry


def test_odometry_gap_above_the_limit_is_refused():
    poses = [straight(t) for t in range(0, 2001, 20) if not 1000 < t < 1220]
    buffer = fill(ContextBuffer(rig()), poses=poses)
    assert rejection(buffer, 2000) == (
        'odometry_gap',
        'odometry: gap of 0.220 s at t0-1.0 s, limit 0.2 s',
    )
    poses = [straight(t) for t in range(0, 2001, 20) if not 1000 < t < 1200]
    assert isinstance(fill(ContextBuffer(rig()), poses=poses).context_at(ns(2000)), Context)


def test_history_is_never_extrapolated():
    short = fill(ContextBuffer(rig()), poses=[straight(t) for t in range(520, 2001, 20)])
    assert rejection(short, 2000) == (
        'history_short',
        'odometry starts 1.480 s before t0, expected 1.5 s',
    )
    behind = fill(ContextBuffer(rig()), poses=[straight(t) for t in range(0, 1990, 20)])
    assert behind.context_at(ns(2000)) is None
    assert rejection(behind, 2000, final=True) == (
        'odometry_late',
        'odometry ends 0.020 s before t0',
    )
    none = fill(ContextBuffer(rig()), poses=[])
    assert rejection(none, 2000, final=True) == ('odometry_late', 'odometry has no pose')


def test_limits_of_the_rig_hold_unless_others_are_given():
    slow = [straight(t) for t in range(0, 2001, 250)]
    assert rejection(fill(ContextBuffer(rig()), poses=slow), 2000)[0] == 'odometry_gap'
    wide = replace(rig(), limits=ContextLimits(odometry_max_gap_s=0.3))
    assert isinstance(fill(ContextBuffer(wide), poses=slow).context_at(ns(2000)), Context)
    given = ContextBuffer(wide, ContextLimits())
    assert rejection(fill(given, poses=slow), 2000)[0] == 'odometry_gap'


@pytest.mark.parametrize('name', ['frame_id', 'child_frame_id'])
def test_changed_frame_refuses_histories_that_span_it_and_goes_on(name):
    buffer = ContextBuffer(rig())
    results = []
    for stamp in range(0, 4001, 20):
        names = {name: 'other'} if stamp >= 2000 else {}
        buffer.add_pose(straight(stamp, **names))
        if stamp % 100 == 0:
            buffer.add_frame('front_wide', frame(stamp))
            answer = buffer.context_at(ns(stamp))
            results.append(getattr(answer, 'reason', 'served'))
    assert results[15:20] == ['served'] * 5
    assert results[20:36] == ['odometry_frame'] * 16
    assert results[36:] == ['served'] * 5


def test_speed_that_contradicts_the_history_is_a_check_then_a_refusal():
    def answer(twist_mps):
        poses = [straight(t, twist_mps=twist_mps) for t in range(0, 2001, 20)]
        return fill(ContextBuffer(rig(*NAMES)), poses=poses).context_at(ns(2000))

    assert answer(10.4).checks == ()
    assert answer(10.6).checks == ('v0_mismatch',)
    assert answer(8.1).checks == ('v0_mismatch',)
    assert (answer(12.1).reason, answer(12.1).detail) == (
        'v0_mismatch',
        "odometry: history moves at 10.00 m/s, twist says 12.10 m/s, limit 2.0 m/s; the rig's "
        'twist: ignore leaves the twist out',
    )


@pytest.mark.parametrize(
    ('v_mps', 'twist_mps', 'check'),
    [(10.0, 0.0, 'twist_zero'), (10.0, np.nan, 'twist_missing'), (-3.0, 3.0, 'twist_unsigned')],
)
def test_twist_that_cannot_be_meant_is_a_check_and_the_speed_is_that_of_the_poses(
    v_mps, twist_mps, check
):
    poses = [straight(t, v_mps, twist_mps) for t in range(0, 2001, 20)]
    context = fill(ContextBuffer(rig(*NAMES)), poses=poses).context_at(ns(2000))
    assert context.checks == (check,)
    assert context.odom_from_t0.speed_mps == context.v0_mps == pytest.approx(v_mps, abs=1e-3)


def test_zero_twist_of_a_vehicle_that_stands_is_no_check():
    poses = [straight(t, 0.0, 0.0) for t in range(0, 2001, 20)]
    assert fill(ContextBuffer(rig(*NAMES)), poses=poses).context_at(ns(2000)).checks == ()


@pytest.mark.parametrize('twist_mps', [0.0, np.nan, -10.0, 36.0])
def test_rig_that_ignores_the_twist_compares_nothing_with_it(twist_mps):
    poses = [straight(t, 10.0, twist_mps) for t in range(0, 2001, 20)]
    buffer = fill(ContextBuffer(replace(rig(*NAMES), uses_twist=False)), poses=poses)
    context = buffer.context_at(ns(2000))
    assert context.checks == ()
    assert context.odom_from_t0.speed_mps == context.v0_mps == pytest.approx(9.999, abs=1e-3)


def test_twist_of_the_wrong_sign_is_refused_when_the_vehicle_drives_forward():
    poses = [straight(t, 10.0, -10.0) for t in range(0, 2001, 20)]
    assert rejection(fill(ContextBuffer(rig()), poses=poses), 2000)[0] == 'v0_mismatch'


def test_twist_that_becomes_zero_on_the_way_is_refused():
    poses = [straight(t, 10.0, 10.0 if t < 1900 else 0.0) for t in range(0, 2001, 20)]
    assert rejection(fill(ContextBuffer(rig()), poses=poses), 2000)[0] == 'v0_mismatch'


def test_small_speeds_that_differ_are_no_twist_without_a_sign():
    poses = [straight(t, 0.5, 1.2) for t in range(0, 2001, 20)]
    context = fill(ContextBuffer(rig(*NAMES)), poses=poses).context_at(ns(2000))
    assert context.checks == ('v0_mismatch',)


def test_checks_of_the_messages_in_a_history_are_those_of_the_context():
    poses = [replace(straight(t), checks=('frame_id_slash',)) for t in range(0, 2001, 20)]
    context = fill(ContextBuffer(rig(*NAMES)), poses=poses).context_at(ns(2000))
    assert context.checks == ('frame_id_slash',)


@pytest.mark.parametrize('jump_m', [(0.0, 0.5, 0.0), (0.0, 3.0, 0.0), (90.0, 0.0, 0.0)])
def test_jump_of_the_odometry_is_refused_until_it_has_left_the_history(jump_m):
    buffer, reasons = ContextBuffer(rig()), {}
    for t in range(0, 5001, 20):
        pose = straight(t)
        moved = np.array(jump_m) if t >= 2050 else 0.0
        buffer.add_pose(replace(pose, position_m=pose.position_m + moved))
        if t % 100 == 0:
            buffer.add_frame('front_wide', frame(t))
            reasons[t] = getattr(buffer.context_at(ns(t)), 'reason', 'served')
    assert {t for t, reason in reasons.items() if reason == 'odometry_jump'} == {
        *range(2100, 3501, 100)
    }
    assert [reasons[t] for t in (2000, 3600, 5000)] == ['served'] * 3


def test_turned_axes_are_refused_with_the_frame_and_the_angle():
    poses = [straight(t, twist_mps=0.0, child_frame_id='imu_link') for t in range(0, 2001, 20)]
    across = geometry.yaw_quaternion(np.pi / 2)
    poses = [replace(pose, quaternion_xyzw=across) for pose in poses]
    assert rejection(fill(ContextBuffer(rig()), poses=poses), 2000) == (
        'odometry_axes',
        'odometry: imu_link moves at 90 degrees to its own x axis over 15.0 m, '
        'expected x forward, y left, z up',
    )


def test_vehicle_that_is_upside_down_is_refused():
    over = np.array([1.0, 0.0, 0.0, 0.0])
    poses = [replace(straight(t), quaternion_xyzw=over) for t in range(0, 2001, 20)]
    reason, detail = rejection(fill(ContextBuffer(rig()), poses=poses), 2000)
    assert reason == 'odometry_axes'
    assert 'base_link is upside down: its z axis is 180 degrees off that of odom' in detail


@pytest.mark.parametrize('twist_mps', [0.0, np.nan])
def test_positions_in_millimetres_are_refused_though_no_twist_tells(twist_mps):
    fast = [straight(t, v_mps=10_000.0, twist_mps=twist_mps) for t in range(0, 2001, 20)]
    assert rejection(fill(ContextBuffer(rig()), poses=fast), 2000) == (
        'odometry_speed',
        'odometry: base_link moves at 9999 m/s, expected positions in metres and at most 100 m/s',
    )


def test_steps_beyond_the_history_tokens_are_a_check():
    fast = [straight(t, v_mps=41.0) for t in range(0, 2001, 20)]
    context = fill(ContextBuffer(rig(*NAMES)), poses=fast).context_at(ns(2000))
    assert context.checks == ('history_saturated',)


# What the live node asks


def test_waiting_costs_nothing_while_the_missing_topic_is_silent(monkeypatch):
    """Two seconds of max_input_age_s with silent odometry cost a core."""
    limits = ContextLimits(max_input_age_s=2.0)
    buffer = fill(ContextBuffer(rig(), limits), poses=[straight(t) for t in range(0, 1981, 20)])
    assert buffer.context_at(ns(2000)) is None
    built = []
    build = buffer._build
    monkeypatch.setattr(buffer, '_build', lambda t0_ns: built.append(t0_ns) or build(t0_ns))
    buffer.add_frame('front_wide', frame(2100))
    assert buffer.context_at(ns(2000)) is None
    assert built == []
    assert buffer.context_at(ns(2000), final=True).reason == 'odometry_late'
    buffer.add_pose(straight(1990))
    assert buffer.context_at(ns(2000)) is None
    buffer.add_pose(straight(2000))
    assert isinstance(buffer.context_at(ns(2000)), Context)
    assert built == [ns(2000)] * 3


def test_frames_of_contexts_that_nobody_will_ask_for_are_let_go():
    """30 Hz: a camera keeps the frames of a history, not those of max_input_age_s more."""
    frames = dict.fromkeys(('front_wide', 'front_tele'), np.arange(0, 2001, 100 / 3))
    buffer = fill(ContextBuffer(rig('front_tele')), frames=frames)
    before = buffer.context_at(ns(2000))
    assert len(buffer._frames['front_tele'].items) == 30
    buffer.forget_before(ns(2000))
    assert len(buffer._frames['front_tele'].items) == 12  # 0.35 s and one more
    assert same(before, buffer.context_at(ns(2000)))
    assert rejection(buffer, 1900)[0] == 'too_old'


def test_newest_gives_the_newest_anchor_that_can_be_served():
    buffer = fill(ContextBuffer(rig('front_tele')), frames={'front_tele': range(0, 1901, 100)})
    assert buffer.newest().t0_ns == ns(1900)
    buffer.add_frame('front_tele', frame(2000))
    assert buffer.newest().t0_ns == ns(2000)


def test_newest_gives_the_reason_of_the_newest_when_none_can_be_served():
    buffer = fill(ContextBuffer(rig()), poses=[straight(t) for t in range(1000, 2001, 20)])
    reason = buffer.newest()
    assert (reason.t0_ns, reason.reason) == (ns(2000), 'history_short')


def test_newest_looks_at_no_anchor_that_is_done_or_too_old():
    buffer = fill(ContextBuffer(rig('front_tele')), frames={'front_tele': range(0, 1501, 100)})
    assert buffer.newest().t0_ns == ns(1500)  # half a second behind 2.0 s is just allowed
    assert buffer.newest(after_ns=ns(1500)).reason == 'frame_missing'
    assert buffer.newest(oldest_ns=ns(1600)).reason == 'frame_missing'
    assert buffer.newest(after_ns=ns(2000)) is None
    assert ContextBuffer(rig()).newest() is None
    buffer.add_frame('front_wide', frame(2100))
    assert buffer.newest().reason == 'frame_missing'


@pytest.mark.parametrize(
    ('limits', 'text'),
    [
        ({'odometry_max_gap_s': 0.6}, 'odometry_max_gap_s: 0.6 is not in 0.01 ... 0.5'),
        ({'max_skew_s': -0.1}, 'max_skew_s: -0.1 is not in 0.0 ... 0.1'),
        ({'max_input_age_s': float('nan')}, 'max_input_age_s: nan is not in 0.05 ... 10.0'),
    ],
)
def test_limits_that_make_no_sense_are_refused(limits, text):
    with pytest.raises(BadInput, match=text):
        ContextLimits(**limits)
