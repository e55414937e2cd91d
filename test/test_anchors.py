"""Anchor frames on their way to the engine, and what the buffer still holds for them."""

import numpy as np

from alpamayo_ros.data_types import Context, EgoPose, Frame
from alpamayo_ros.limits import ContextLimits
from alpamayo_ros.rig import load_rig
from alpamayo_ros.ros.anchors import Anchors

MS = 1_000_000
START_NS = 1_700_000_000_000_000_000


def run(seconds, has_odometry=True):
    """Four cameras at 30 Hz, odometry at 60 Hz; returns contexts and the most frames kept."""
    rig = load_rig('r1')
    anchors = Anchors(rig, ContextLimits(), max_rate_hz=10.0)
    taken, most = [], 0
    for k in range(seconds * 30):
        now_ns = START_NS + k * 1000 * MS // 30
        for camera in rig.cameras:
            anchors.add_frame(camera.name, Frame(now_ns, 'jpeg', np.zeros(1, np.uint8)))
        for half in (0, 1000 * MS // 60) if has_odometry else ():
            x_m = (now_ns + half - START_NS) / 1e8
            attitude = np.array([0, 0, 0, 1.0])
            anchors.add_pose(EgoPose(now_ns + half, np.array([x_m, 0, 0]), attitude, 10.0))
        taken.append(anchors.take(now_ns + 20 * MS))
        streams = anchors.buffer._frames.values()
        most = max(most, sum(len(stream.items) for stream in streams))
    return [context for context in taken if isinstance(context, Context)], most


def test_the_buffer_holds_the_frames_of_one_history():
    """It held those of max_input_age_s more: 120 frames, 0.75 GB of raw 1080p images."""
    served, most = run(4)
    assert len(served) == 25  # 10 Hz from 1.5 s on
    assert most == 48  # 12 of each camera: 0.35 s, and one more


def test_frames_are_kept_while_an_anchor_waits_for_odometry():
    served, most = run(3, has_odometry=False)
    assert served == []
    assert 100 < most <= 120


def feed_poses(anchors, first_ns, last_ns):
    """Odometry at 50 Hz, straight on."""
    for stamp_ns in range(first_ns, last_ns, 20 * MS):
        x_m = (stamp_ns - START_NS) / 1e8
        pose = EgoPose(stamp_ns, np.array([x_m, 0, 0]), np.array([0, 0, 0, 1.0]), 10.0)
        anchors.add_pose(pose)


def take_each(anchors, stamps_ns):
    """Stamps of the contexts that are taken when each anchor is looked at on its arrival."""
    taken = []
    for stamp_ns in stamps_ns:
        for camera in anchors.rig.cameras:
            anchors.add_frame(camera.name, Frame(stamp_ns, 'jpeg', np.zeros(1, np.uint8)))
        found = anchors.take(stamp_ns + 30 * MS)
        taken += [found.t0_ns] if isinstance(found, Context) else []
    return taken


def test_anchors_that_wait_when_a_newer_one_is_taken_are_overtaken():
    anchors = Anchors(load_rig('r1'), ContextLimits(), max_rate_hz=10.0)
    stamps = [START_NS + k * 100 * MS for k in range(6)]
    for stamp_ns in stamps:
        for camera in anchors.rig.cameras:
            anchors.add_frame(camera.name, Frame(stamp_ns, 'jpeg', np.zeros(1, np.uint8)))
    feed_poses(anchors, START_NS - 1600 * MS, stamps[-1] + 40 * MS)
    assert anchors.take(stamps[-1] + 30 * MS).t0_ns == stamps[-1]
    assert dict(anchors.fates) == {('dropped', 'overtaken'): 5}
    assert [fate.t0_ns for fate in anchors.drain_decided()] == stamps[:-1]


def test_the_rate_allows_a_quarter_of_a_period_of_jitter_and_begins_anew_after_a_jump():
    anchors = Anchors(load_rig('r1'), ContextLimits(), max_rate_hz=10.0)
    stamps = [START_NS + (k * 100 + 15 * (k % 2)) * MS for k in range(12)]
    for again in range(2):
        feed_poses(anchors, START_NS - 1600 * MS, stamps[-1] + 40 * MS)
        taken = take_each(anchors, stamps)
        assert taken == stamps[-len(taken) :] and len(taken) >= 8
        assert anchors.fates['dropped', 'rate_limit'] == 0
        assert anchors.epoch == again
