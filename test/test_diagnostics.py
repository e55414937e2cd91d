"""Figures to statuses: levels, sentences, and the message."""

from dataclasses import replace

import pytest
from test_outputs import T0_NS, context_without_frames, prediction
from test_policy import Listener

from alpamayo_ros.bags.messages import TYPESTORE, message_factory
from alpamayo_ros.data_types import Rejection
from alpamayo_ros.limits import ContextLimits
from alpamayo_ros.rig import load_rig
from alpamayo_ros.ros.anchors import Anchors
from alpamayo_ros.ros.diagnostics import node_statuses, t0_status
from alpamayo_ros.ros.diagnostics.input_monitor import InputMonitor, describe_input
from alpamayo_ros.ros.diagnostics.node_statuses import Served
from alpamayo_ros.ros.diagnostics.status import (
    ARRAY_TYPE,
    ERROR,
    OK,
    STALE,
    WARN,
    Status,
    build_diagnostic_array,
)
from alpamayo_ros.ros.diagnostics.t0_status import T0Report, T0StatusPublisher, describe_t0
from alpamayo_ros.ros.publishing.policy import STATES, Decision

IMAGE = 'sensor_msgs/msg/Image'
SECOND = 1_000_000_000


@pytest.fixture
def anchors():
    return Anchors(load_rig('synthetic'), ContextLimits(), 10.0)


def context(*checks):
    return context_without_frames(v0_mps=9.5, skew_s=0.004, checks=checks)


def served(**changes):
    return Served(context(), replace(prediction(), **changes), age_ms=250.0)


def monitor(rate_hz=10, seconds=2.0, delay_ms=30):
    found = InputMonitor('/camera', IMAGE)
    for k in range(round(seconds * rate_hz)):
        stamp_ns = T0_NS + k * SECOND // rate_hz
        found.note_arrival(k / rate_hz, stamp_ns + delay_ms * 1_000_000, stamp_ns, '')
    return found


def test_an_input_tells_rate_delay_and_age():
    found = monitor()
    now_ns = found.newest_ns + SECOND // 10
    status = describe_input('tele', found, now_ns, 1.9, 0.5, {})
    assert (status.level, status.name, status.message) == (OK, 'input/tele', '10.0 Hz')
    assert (status.values['delay ms'], status.values['age s']) == (30.0, 0.1)


@pytest.mark.parametrize('together', [1, 5, 40])
def test_the_rate_of_messages_that_are_fetched_together_is_that_of_the_messages(together):
    found = InputMonitor('/odometry', 'nav_msgs/msg/Odometry')
    for k in range(400):
        taken_s = k // together * together / 100
        found.note_arrival(taken_s, T0_NS, T0_NS - 5_000_000, '')
        if k % together == together - 1 and k > 200:
            assert found.measure_rate_hz(taken_s) == pytest.approx(100, rel=0.01)
    assert found.delay_ms == 5.0


def test_a_stale_input_is_an_error_that_names_it_and_its_rate_falls():
    found = monitor()
    status = describe_input('tele', found, found.newest_ns + 1_800_000_000, 3.7, 0.5, {})
    assert (status.level, status.message) == (ERROR, 'tele: 1.8 s old')
    assert status.values['rate Hz'] < 10


def test_an_input_from_the_future_is_an_error():
    found = monitor()
    status = describe_input('tele', found, found.newest_ns - 3 * SECOND, 2.0, 0.5, {})
    assert (status.level, status.message) == (ERROR, 'tele: stamped 3.0 s in the future')


def test_an_input_that_never_came_says_so_and_what_is_there_in_its_place():
    other = {'/camera': [IMAGE, 'sensor_msgs/msg/CompressedImage']}
    status = describe_input('tele', InputMonitor('/camera', IMAGE), 0, 0.0, 0.5, other)
    assert status.message == (
        'tele: no sensor_msgs/msg/Image on /camera, which is a sensor_msgs/msg/CompressedImage'
    )
    found = InputMonitor('/camera', IMAGE)
    found.note_arrival(0.0, T0_NS, None, 'tele: image without data')
    status = describe_input('tele', found, 0, 0.0, 0.5, {})
    assert status.message == 'tele: image without data'


def test_a_silent_input_names_the_publisher_whose_qos_does_not_fit():
    found = InputMonitor('/camera', IMAGE)
    assert found.is_silent(0.0)
    found.misfit = '/driver publishes /camera with a QoS that does not fit'
    assert describe_input('tele', found, 0, 0.0, 0.5, {}).message == found.misfit
    heard = monitor()
    assert not heard.is_silent(2.0) and heard.is_silent(4.0)
    heard.misfit = found.misfit
    status = describe_input('tele', heard, heard.newest_ns + 1_800_000_000, 3.7, 0.5, {})
    assert status.message == f'tele: 1.8 s old; {found.misfit}'


@pytest.mark.parametrize(
    'state, error, level, message',
    [
        ('active', '', OK, 'ready'),
        ('inactive', '', WARN, 'paused'),
        ('loading', '', WARN, 'loading'),
        ('loading', 'SIGKILL; restart 3', WARN, 'loading: SIGKILL; restart 3'),
        ('unloaded', '', WARN, 'unloaded'),
        ('failed', 'no weights', ERROR, 'no weights'),
    ],
)
def test_every_state_of_the_model_has_its_level(state, error, level, message):
    status = node_statuses.describe_model(state, error, 2.04, 77, 3, {'device': 'cpu'})
    assert (status.level, status.message) == (level, message)
    assert (status.values['load s'], status.values['device']) == (2.0, 'cpu')
    assert (status.values['process'], status.values['restarts']) == (77, 3)


def test_several_publishers_of_an_input_are_a_warning_that_names_them():
    heard = monitor()
    heard.publishers = ('/bag_player', '/localisation')
    status = describe_input('odometry', heard, heard.newest_ns, 1.9, 0.5, {})
    assert (status.level, status.message) == (
        WARN,
        'odometry: 2 publishers on /camera, expected one: /bag_player, /localisation',
    )


@pytest.mark.parametrize('reason, level', [('odometry_gap', WARN), ('frame_missing', ERROR)])
def test_a_rejected_anchor_is_told_with_its_detail_and_counted(anchors, reason, level):
    anchors.reject(Rejection(T0_NS, reason, 'the sentence'))
    status = node_statuses.describe_context(anchors, None, no_clock=False)
    assert (status.level, status.message) == (level, 'the sentence')
    assert status.values[f'rejected: {reason}'] == 1


def test_an_unusual_context_is_a_warning_and_a_silent_clock_an_error(anchors):
    status = node_statuses.describe_context(anchors, context('v0_mismatch'), no_clock=False)
    assert (status.level, 'twist disagree' in status.message) == (WARN, True)
    assert status.values['v0 m/s'] == 9.5 and status.values['skew ms'] == 4.0
    assert node_statuses.describe_context(anchors, context(), no_clock=False).level == OK
    assert node_statuses.describe_context(anchors, None, no_clock=False).level == STALE
    status = node_statuses.describe_context(anchors, None, no_clock=True)
    assert (status.level, '/clock' in status.message) == (ERROR, True)


def test_a_long_inference_is_an_error_and_counts_are_shown_by_fate(anchors):
    anchors.seen = 5
    anchors.settle('inferred')
    anchors.settle('dropped', 'overtaken')
    anchors.settle('dropped', 'rate_limit')
    status = node_statuses.describe_inference(anchors, 2, 61.0, 60.0, [0.4, 0.6, 2.0], None)
    assert status.level == ERROR
    assert status.message == 'inference has been running for 61.0 s, limit 60 s'
    shown = {key: status.values[key] for key in ('seen', 'inferred', 'dropped', 'pending')}
    assert shown == {'seen': 5, 'inferred': 1, 'dropped': 2, 'pending': 2}
    assert status.values['dropped: rate_limit'] == 1
    assert (status.values['submit ms'], status.values['submit p99 ms']) == (0.6, 1.972)
    assert node_statuses.describe_inference(anchors, 0, 0.0, 60.0, [], None).level == OK


def output(decision, later_s=0.25, failure='', found=True, state='active', last=None):
    """Status of the output some time after t0."""
    last = last or (served() if found else None)
    t0_ns = served().prediction.t0_ns
    return node_statuses.describe_output(
        state, last, decision, {'published': 3}, failure, t0_ns + round(later_s * 1e9)
    )


@pytest.mark.parametrize(
    'state, level, message',
    [
        ('inactive', WARN, 'paused'),
        ('loading', WARN, 'the model is loading'),
        ('unloaded', WARN, 'the model is unloaded'),
        ('failed', ERROR, 'the model is failed'),
    ],
)
def test_a_node_that_may_not_publish_is_no_error_of_the_output(state, level, message):
    status = output(Decision('publish'), later_s=60.0, state=state)
    assert (status.level, status.message) == (level, message)


def test_the_output_says_what_was_done_and_why():
    good = output(Decision('publish'))
    assert (good.level, good.values['age ms'], good.values['remaining s']) == (OK, 250.0, 6.15)
    flagged = output(Decision('publish', ('jump',)))
    assert (flagged.level, flagged.message) == (ERROR, 'published: jump')
    back = output(Decision('nothing', ('expired',)))
    assert (back.level, back.message) == (ERROR, 'held back: expired')
    failed = output(Decision('publish'), failure='inference failed: x')
    assert (failed.level, failed.message) == (ERROR, 'inference failed: x')


def test_a_vehicle_too_fast_for_late_paths_is_a_warning_of_the_output():
    good = served()
    checked = replace(good.prediction, checks=('too_fast',))
    fast = output(Decision('publish'), last=replace(good, prediction=checked, trusted_mps=6.25))
    message = 'faster than paths can be trusted at: 6.2 m/s'
    assert (fast.level, fast.message, fast.values['trusted m/s']) == (WARN, message, 6.25)
    assert output(Decision('publish'), last=replace(good, trusted_mps=6.25)).level == OK


def test_the_output_is_an_error_once_its_last_path_is_over():
    assert output(Decision('publish'), later_s=6.3).level == OK
    over = output(Decision('publish'), later_s=7.4)
    assert (over.level, over.message) == (ERROR, 'the last path has been over for 1.0 s')
    assert over.values['remaining s'] == -1.0


def test_an_output_without_a_path_so_far_says_what_it_waits_for():
    status = output(Decision('nothing', ('frame_missing',)), found=False)
    assert (status.level, status.message) == (STALE, 'no path yet: frame_missing')
    assert output(None, found=False).message == 'no path yet'


def test_gaps_in_the_stamps_are_dropped_messages_and_silence_is_not():
    heard = InputMonitor('/x', 'nav_msgs/msg/Odometry')
    stamps = [i * 100_000_000 for i in range(1, 40) if i not in (20, 30, 31)]
    for stamp_ns in [*stamps, stamps[-1] + 5_000_000_000]:
        heard.note_arrival(stamp_ns / 1e9, stamp_ns, stamp_ns, '')
    assert heard.dropped == 3
    status = describe_input('x', heard, stamps[-1], 9.0, 10.0, {})
    assert status.values['dropped'] == 3


def test_reasoning_without_its_end_is_a_warning_with_what_was_said():
    found = served(
        checks=('marker_missing',),
        partial_texts=('Keep the', ''),
    )
    status = node_statuses.describe_reasoning(found)
    assert (status.level, status.message) == (WARN, 'marker_missing')
    assert status.values['partial text'] == 'Keep the'
    assert node_statuses.describe_reasoning(served()).level == OK


def make_message(type_name, **fields):
    """Message of rosbags, in which `byte` is a number; in rclpy it is bytes."""
    if 'level' in fields:
        fields['level'] = fields['level'][0]
    return message_factory()(type_name, **fields)


def test_statuses_become_a_message_that_serialises():
    statuses = [Status(ERROR, 'model', 'gone', {'state': 'failed'})]
    message = build_diagnostic_array(statuses, make_message, T0_NS, '/car/alpamayo', 'r1')
    again = TYPESTORE.deserialize_cdr(TYPESTORE.serialize_cdr(message, ARRAY_TYPE), ARRAY_TYPE)
    (status,) = again.status
    assert (status.level, status.name, status.hardware_id) == (2, '/car/alpamayo: model', 'r1')
    assert (status.values[0].key, status.values[0].value) == ('state', 'failed')
    assert again.header.stamp.sec == T0_NS // SECOND


def report(**changes):
    """Report of a path that went out a quarter of a second after t0."""
    values = {
        't0_ns': T0_NS,
        'now_ns': T0_NS + SECOND // 4,
        'state': 'active',
        'fate': 'inferred',
        'decision': Decision('publish'),
        'path_stamp_ns': T0_NS,
        'served': served(texts=('Keep the lane.',) * 2, chosen=1),
        'dropped': 3,
    }
    return T0Report(**{**values, **changes})


def test_the_status_of_a_path_has_every_fact_of_its_t0():
    status = describe_t0(report())
    assert (status.level, status.message) == (OK, 'published')
    expected = {
        'state': 'active',
        'fate': 'inferred',
        'decision': 'publish',
        'path stamp ns': T0_NS,
        'first waypoint': 0,
        'age ms': 250.0,
        'dropped contexts': 3,
        'chosen': 1,
        'spread m': 6.4,
        'v0 m/s': 10.0,
        'twist m/s': 10.0,
        'skew ms': 4.0,
        'end': 'marker',
        'text': 'Keep the lane.',
    }
    assert expected.items() <= status.values.items()
    assert set(status.values) <= {row.key for row in t0_status.KEYS}


@pytest.mark.parametrize(
    'changes, level, message, values',
    [
        (
            {'decision': Decision('publish', ('jump',))},
            ERROR,
            'published: jump',
            {'decision': 'publish', 'reason': 'jump'},
        ),
        (
            {'decision': Decision('flag', ('backward',)), 'path_stamp_ns': None},
            ERROR,
            'flagged: backward',
            {'decision': 'flag', 'reason': 'backward'},
        ),
        (
            {'decision': Decision('hold', ('jump',)), 'path_stamp_ns': T0_NS - SECOND},
            ERROR,
            'last valid path held: jump',
            {'decision': 'hold', 'path stamp ns': T0_NS - SECOND},
        ),
        (
            {'fate': 'rejected', 'reason': 'odometry_gap', 'detail': 'gap of 0.3 s'},
            ERROR,
            'rejected: gap of 0.3 s',
            {'fate': 'rejected', 'reason': 'odometry_gap'},
        ),
        (
            {'fate': 'failed', 'reason': 'engine_error', 'detail': 'KeyError'},
            ERROR,
            'failed: KeyError',
            {'reason': 'engine_error'},
        ),
        ({'fate': 'dropped', 'reason': 'overtaken'}, OK, 'dropped: overtaken', {}),
        (
            {'fate': 'discarded', 'reason': 'paused', 'state': 'inactive'},
            WARN,
            'discarded: paused',
            {'state': 'inactive'},
        ),
    ],
)
def test_the_status_says_what_became_of_a_t0_and_why(changes, level, message, values):
    status = describe_t0(report(**changes))
    assert (status.level, status.message) == (level, message)
    assert values.items() <= status.values.items()


@pytest.mark.parametrize('state', STATES)
def test_a_heartbeat_without_a_t0_comes_only_where_no_t0_had_a_status(state):
    topic = Listener()
    publisher = T0StatusPublisher(topic, make_message, '/alpamayo', 'r1')
    publisher.beat(T0Report(0, T0_NS, state, detail='no frame of front_wide'))
    (beat,) = topic.messages
    assert (beat.header.stamp.sec, beat.header.stamp.nanosec) == (0, 0)
    values = {pair.key: pair.value for pair in beat.status[0].values}
    assert values == {'state': state, 'detail': 'no frame of front_wide'}
    publisher.publish(report())
    publisher.beat(T0Report(0, T0_NS, state))
    assert len(topic.messages) == 2
    assert topic.messages[1].header.stamp.sec == T0_NS // SECOND
    publisher.beat(T0Report(0, T0_NS, state))
    assert len(topic.messages) == 3


def test_no_status_is_built_where_nobody_listens():
    topic = Listener(count=0)
    T0StatusPublisher(topic, make_message, '/alpamayo', 'r1').publish(report())
    assert topic.messages == []


def test_no_two_values_of_the_status_have_one_key():
    keys = [row.key for row in t0_status.KEYS]
    assert len(keys) == len(set(keys))
