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


def test_no_frame_serves_two_grid_times():
    frames = {'front_wide': [1700, 1830, 2000]}  # 1830 is nearest to t0-0.2 s and to t0-0.1 s
    buffer = fill(ContextBuffer(rig(tolerance_s=0.1)), frames=frames)
    reason, detail = rejection(buffer, 2000)
    assert (reason, detail[:11]) == ('frame_repeated', 'front_wide:')


def test_frame_on_the_border_of_two_slots_is_not_used_twice():
    tele = [1700, 1750, 1900, 2000]  # 1750 is within 50 ms of both, 1700 is nearer to the first
    buffer = fill(ContextBuffer(rig('front_tele')), frames={'front_tele': tele})
    assert stamps(buffer.context_at(ns(2000)), 'front_tele') == [-300, -250, -100, 0]
    buffer = fill(ContextBuffer(rig('front_tele')), frames={'front_tele': tele[1:]})
    assert rejection(buffer, 2000)[0] == 'frame_repeated'


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


def test_late_frames_and_poses_are_sorted_in():
    order = [stamp for stamp in range(0, 2001, 100)]
    order[15:18] = [1600, 1700, 1500]
    late = fill(ContextBuffer(rig()), frames={'front_wide': order})
    poses = [straight(t) for t in range(0, 2001, 20)]
    poses[90], poses[92] = poses[92], poses[90]
    late_poses = fill(ContextBuffer(rig()), poses=poses)
    usual = fill(ContextBuffer(rig())).context_at(ns(2000))
    for buffer in (late, late_poses):
        context = buffer.context_at(ns(2000))
        assert stamps(context, 'front_wide') == [-300, -200, -100, 0]
        assert context.history_xyz_m.tobytes() == usual.history_xyz_m.tobytes()


def test_stamp_that_comes_twice_is_refused():
    buffer = fill(ContextBuffer(rig()))
    again = buffer.add_frame('front_wide', frame(1900))
    assert (again.t0_ns, again.reason) == (ns(1900), 'duplicate_stamp')
    assert buffer.add_pose(straight(1900.4)).reason == 'duplicate_stamp'
    assert buffer.anchors().count(ns(1900)) == 1


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


def test_a_loop_shorter_than_inputs_may_be_late_is_a_jump_too():
    buffer = fill(ContextBuffer(rig(), ContextLimits(max_input_age_s=10.0)))
    for stamp_ms, epoch in ((1501, 0), (1400, 1)):
        buffer.add_pose(straight(stamp_ms))
        assert buffer.epoch == epoch


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
        'odometry: history moves at 10.00 m/s, twist says 12.10 m/s, limit 2.0 m/s',
    )


def test_steps_beyond_the_history_tokens_are_a_check():
    fast = [straight(t, v_mps=41.0) for t in range(0, 2001, 20)]
    context = fill(ContextBuffer(rig(*NAMES)), poses=fast).context_at(ns(2000))
    assert context.checks == ('history_saturated',)


# What the live node asks


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
        ({'odometry_max_gap_s': 0.6}, 'odometry_max_gap_s=0.6 is above 0.5 s'),
        ({'max_skew_s': -0.1}, 'max_skew_s=-0.1 is not in'),
        ({'max_input_age_s': float('nan')}, 'max_input_age_s=nan is not in'),
    ],
)
def test_limits_that_make_no_sense_are_refused(limits, text):
    with pytest.raises(BadInput, match=text):
        ContextLimits(**limits)
