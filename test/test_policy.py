"""Every policy: what is published, flagged, trimmed, held and withheld, and when."""

from dataclasses import replace

import numpy as np
import pytest
from test_outputs import T0_NS, context_without_frames, make, ns, plan, prediction

from alpamayo_ros.bags.messages import TYPESTORE
from alpamayo_ros.ros.publishing.outputs import OUTPUTS
from alpamayo_ros.ros.publishing.policy import (
    INVALID,
    STATES,
    UNHEALTHY,
    Decision,
    Policies,
    check_takeover,
    decide,
    find_first_waypoint,
    may_publish,
)
from alpamayo_ros.ros.publishing.publication import Publication
from alpamayo_ros.ros.publishing.trusted_speed import LateTimes

SECOND = 1_000_000_000


def flawed(*checks):
    return replace(prediction(), checks=checks)


def test_a_good_prediction_is_published_whole():
    assert decide(prediction(), T0_NS + SECOND, Policies()) == Decision('publish', (), 0)


@pytest.mark.parametrize('check', ['camera_subset', 'v0_mismatch', 'history_saturated'])
def test_what_is_unusual_about_a_context_does_not_hold_its_path_back(check):
    assert decide(flawed(check), T0_NS, Policies()).action == 'publish'


@pytest.mark.parametrize('on_invalid, action', [('publish_invalid', 'nothing'), ('hold', 'hold')])
def test_a_path_of_the_future_is_never_published(on_invalid, action):
    policies = Policies(on_invalid=on_invalid, expired_path='publish')
    found = decide(prediction(), T0_NS - SECOND // 2 - 1, policies)
    assert found == Decision(action, ('future',))
    assert decide(prediction(), T0_NS - SECOND // 2, policies).action == 'publish'


@pytest.mark.parametrize('check', INVALID)
@pytest.mark.parametrize(
    'on_invalid, action',
    [('stop', 'nothing'), ('hold', 'hold'), ('flag', 'flag'), ('publish_invalid', 'publish')],
)
def test_an_invalid_path_follows_on_invalid(check, on_invalid, action):
    decision = decide(flawed(check), T0_NS, Policies(on_invalid=on_invalid))
    if check == 'non_finite' and on_invalid == 'publish_invalid':
        action = 'nothing'  # a NaN spreads through every consumer
    assert (decision.action, decision.reasons) == (action, (check,))


@pytest.mark.parametrize('check', UNHEALTHY)
@pytest.mark.parametrize(
    'policies, action',
    [
        (Policies(), 'nothing'),
        (Policies(on_invalid='hold'), 'hold'),
        (Policies(on_invalid='flag'), 'nothing'),
        (Policies(on_unhealthy_reasoning='keep'), 'publish'),
    ],
)
def test_reasoning_that_did_not_end_follows_its_policy(check, policies, action):
    decision = decide(flawed(check), T0_NS, policies)
    assert (decision.action, decision.reasons) == (action, (check,))


@pytest.mark.parametrize(
    'policy, age_s, first',
    [
        ('drop', 6.3, 0),
        ('drop', 6.4, None),
        ('trim', 0.0, 0),
        ('trim', 0.05, 0),
        ('trim', 0.1, 1),  # the pose at t0 + 0.1 s is not later than now
        ('trim', 5.4, 54),
        ('trim', 5.41, None),  # less than min_remaining_s is left
        ('publish', 20.0, 0),
    ],
)
def test_age_follows_expired_path(policy, age_s, first):
    now_ns = T0_NS + round(age_s * SECOND)
    assert find_first_waypoint(T0_NS, now_ns, Policies(expired_path=policy)) == first


@pytest.mark.parametrize(
    'policy, action', [('drop', 'nothing'), ('trim', 'nothing'), ('publish', 'publish')]
)
def test_a_path_that_is_over_is_said_to_be_with_every_policy(policy, action):
    decision = decide(prediction(), T0_NS + 7 * SECOND, Policies(expired_path=policy))
    assert (decision.action, decision.reasons) == (action, ('expired',))


@pytest.mark.parametrize(
    'state, requested, allowed',
    [
        ('unloaded', True, False),
        ('loading', True, False),
        ('failed', True, False),
        ('inactive', False, False),
        ('inactive', True, True),
        ('active', False, True),
    ],
)
def test_only_an_active_node_publishes_or_a_paused_one_that_was_asked(state, requested, allowed):
    assert state in STATES
    assert may_publish(state, requested) is allowed


def vehicle(age_s, left_m=0.0, ahead_m=0.0):
    """Newest pose of a vehicle that drives as predicted, and is displaced."""
    pose = plan().odom_from_t0
    way_m = 10.0 * age_s + ahead_m
    return replace(
        pose,
        stamp_ns=T0_NS + round(age_s * SECOND),
        position_m=pose.position_m + [-left_m, way_m, 0.0],
    )


@pytest.mark.parametrize(
    'left_m, ahead_m, checks',
    [(0.9, 3.9, ()), (1.1, 0.0, ('jump',)), (-1.1, 0.0, ('jump',)), (0.0, -4.1, ('jump',))],
)
def test_a_late_path_is_judged_where_the_vehicle_is_now(left_m, ahead_m, checks):
    pose = plan().odom_from_t0
    for age_s in (0.0, 0.55, 3.0):
        judged = check_takeover(prediction(), pose, vehicle(age_s, left_m, ahead_m))
        assert judged.checks == checks


def test_without_a_pose_or_when_it_is_not_finite_a_path_is_not_judged():
    pose = plan().odom_from_t0
    assert check_takeover(prediction(), pose, None).checks == ()
    broken = replace(prediction(), samples=np.full((2, 64, 4), np.nan, np.float32))
    assert check_takeover(broken, pose, vehicle(0.5, left_m=5.0)) == broken


class Listener:
    """A publisher with one subscription."""

    def __init__(self, count=1):
        self.messages, self.count = [], count

    def get_subscription_count(self):
        """Tell how many listen."""
        return self.count

    def publish(self, message):
        """Keep a message; of one that comes as bytes, what a subscription would make of them."""
        if isinstance(message, bytes):
            message = TYPESTORE.deserialize_cdr(message, 'nav_msgs/msg/Path')
        self.messages.append(message)


class Bench:
    """A Publication with a listener on every row."""

    def __init__(self, **policies):
        self.listeners = {output: Listener() for output in OUTPUTS}
        self.state = 'active'
        self.publication = Publication(
            self.listeners, make, 'odometry', Policies(**policies), lambda: self.state
        )

    def publish(self, found, age_s=0.5, where=None, is_requested=False):
        """Publish a prediction at an age."""
        context = context_without_frames(t0_ns=found.t0_ns)
        now_ns = found.t0_ns + round(age_s * SECOND)
        return self.publication.publish(context, found, now_ns, where, 7, is_requested)

    def sent(self, topic):
        """Messages of a topic."""
        return next(x.messages for output, x in self.listeners.items() if output.topic == topic)


def test_every_row_is_published_once_for_a_good_prediction():
    bench = Bench()
    bench.publish(prediction())
    assert {o.topic: len(x.messages) for o, x in bench.listeners.items()} == dict.fromkeys(
        (o.topic for o in OUTPUTS), 1
    )
    assert bench.sent('debug/path_age_ms')[0].data == 500.0
    assert bench.sent('debug/dropped_contexts')[0].data == 7
    assert bench.publication.counts == {'published': 1}


def test_only_the_debug_rows_get_what_is_held_back():
    bench = Bench()
    bench.publish(flawed('backward'))
    assert bench.sent('output/path') == bench.sent('output/markers') == []
    assert len(bench.sent('debug/path')) == 1
    assert bench.publication.counts == {'nothing': 1, 'nothing: backward': 1}


def test_a_flagged_path_goes_out_on_debug_only_and_an_invalid_one_when_it_is_asked_for():
    bench = Bench(on_invalid='flag')
    bench.publish(flawed('backward'))
    assert (len(bench.sent('output/path')), len(bench.sent('debug/path'))) == (0, 1)
    assert bench.publication.counts == {'flag': 1, 'flag: backward': 1}
    bench = Bench(on_invalid='publish_invalid')
    bench.publish(flawed('backward'))
    assert len(bench.sent('output/path')) == 1
    assert bench.publication.counts == {'published invalid': 1, 'published invalid: backward': 1}


def test_a_path_is_never_judged_by_one_that_was_refused():
    bench = Bench()
    beside = replace(prediction(), samples=prediction().samples + np.float32([0, 3, 0, 0]))
    for found, checks in ((beside, ('jump',)), (prediction(), ()), (beside, ('jump',))):
        assert bench.publish(found, where=vehicle(0.5)).prediction.checks == checks
    assert len(bench.sent('output/path')) == 1


@pytest.mark.parametrize('state', [state for state in STATES if state != 'active'])
def test_nothing_goes_out_unless_the_node_is_active_a_held_path_neither(state):
    bench = Bench(on_invalid='hold')
    bench.publish(prediction())
    before = {output.topic: len(x.messages) for output, x in bench.listeners.items()}
    bench.state = state
    bench.publish(prediction())
    bench.publication.publish_missing('frame_missing', T0_NS + SECOND)
    bench.publication.reset(T0_NS + SECOND)
    assert {output.topic: len(x.messages) for output, x in bench.listeners.items()} == before
    assert bench.publication.counts['published'] == 1
    assert bench.publication.path_stamp_ns is None


@pytest.mark.parametrize('is_retimed', [False, True])
def test_a_path_is_retimed_where_that_is_chosen_and_never_below_debug(is_retimed):
    bench = Bench(retime=is_retimed)
    slow = replace(vehicle(0.5), speed_mps=8.0)
    bench.publish(prediction(), where=slow)
    (out,), (whole,) = bench.sent('output/path'), bench.sent('debug/path')
    assert out.poses[:5] == whole.poses[:5]
    behind_m = whole.poses[-1].pose.position.y - out.poses[-1].pose.position.y
    assert behind_m == pytest.approx(2.0 * (1 - np.exp(-5.9)) if is_retimed else 0.0, abs=1e-3)


def test_a_paused_node_publishes_the_one_that_was_asked_for():
    bench = Bench()
    bench.state = 'inactive'
    bench.publish(prediction(), is_requested=True)
    assert len(bench.sent('output/path')) == 1


def test_hold_repeats_the_last_valid_path_with_its_old_stamp_until_it_is_over():
    bench = Bench(on_invalid='hold')
    bench.publication.publish_missing('odometry_gap', T0_NS)  # nothing to repeat yet
    bench.publish(prediction())
    later = replace(flawed('non_finite'), t0_ns=T0_NS + 2 * SECOND)
    stamps = [bench.publication.path_stamp_ns]
    bench.publish(later)
    stamps.append(bench.publication.path_stamp_ns)
    assert stamps == [T0_NS, T0_NS]
    bench.publication.publish_missing('frame_missing', T0_NS + 6 * SECOND)
    bench.publication.publish_missing('frame_missing', T0_NS + 6_400_000_000)
    assert [ns(path.header.stamp) for path in bench.sent('output/path')] == [T0_NS] * 3
    assert bench.publication.counts['hold'] == 2
    assert bench.publication.counts['nothing: frame_missing'] == 1


@pytest.mark.parametrize('expired_path', ['drop', 'trim', 'publish'])
def test_a_held_path_is_never_repeated_after_its_end(expired_path):
    bench = Bench(on_invalid='hold', expired_path=expired_path)
    bench.publish(prediction())
    bench.publication.publish_missing('frame_missing', T0_NS + 5 * SECOND)
    for age_ns in (6_400_000_000, 60 * SECOND):
        bench.publication.publish_missing('frame_missing', T0_NS + age_ns)
    assert len(bench.sent('output/path')) == 2
    assert bench.publication.counts['nothing: frame_missing'] == 2


def test_stop_repeats_nothing_where_there_is_no_context():
    bench = Bench()
    bench.publish(prediction())
    bench.publication.publish_missing('frame_missing', T0_NS + SECOND)
    assert len(bench.sent('output/path')) == 1


def test_trim_leaves_out_what_is_over_but_only_below_output():
    bench = Bench(expired_path='trim')
    bench.publish(prediction(), age_s=2.0)
    (path,), (whole,) = bench.sent('output/path'), bench.sent('debug/path')
    assert (len(path.poses), len(whole.poses)) == (44, 64)
    assert ns(path.header.stamp) == T0_NS
    assert ns(path.poses[0].header.stamp) == T0_NS + 2_100_000_000
    assert path.poses[0] == whole.poses[20]


def test_a_reset_removes_markers_and_forgets_the_held_path():
    bench = Bench(on_invalid='hold')
    bench.publish(prediction())
    bench.publication.reset(T0_NS + SECOND)
    assert bench.sent('output/markers')[-1].markers[0].action == 3
    bench.publication.publish_missing('frame_missing', T0_NS + SECOND)
    assert len(bench.sent('output/path')) == 1


def test_nothing_is_built_for_a_topic_that_nobody_listens_to():
    bench = Bench()
    for output, listener in bench.listeners.items():
        listener.count = int(output.topic == 'output/path')
    bench.publish(prediction())
    assert [o.topic for o, x in bench.listeners.items() if x.messages] == ['output/path']


def test_the_trusted_speed_is_a_distance_over_age_and_time_to_the_next_path():
    times = LateTimes()
    assert times.compute_trusted_speed(20.0) == np.inf
    times.note(0, round(0.5 * SECOND))
    assert times.compute_trusted_speed(20.0) == pytest.approx(20.0)  # 0.5 s again
    for number in range(1, 101):  # every 1.5 s, 1 s old, and later 0.5 s old
        age_s = 1.0 if number < 51 else 0.5
        now_ns = round((0.5 + 1.5 * number) * SECOND)
        times.note(now_ns - round(age_s * SECOND), now_ns)
    assert times.compute_trusted_speed(20.0) == pytest.approx(20.0 / 2.0)
    assert times.compute_trusted_speed(10.0) == pytest.approx(10.0 / 2.0)


def test_one_late_path_of_many_does_not_lower_the_trusted_speed():
    times = LateTimes()
    for number in range(40):
        now_ns = number * SECOND
        times.note(now_ns - round((3.0 if number == 20 else 1.0) * SECOND), now_ns)
    assert times.compute_trusted_speed(20.0) == pytest.approx(10.0)


@pytest.mark.parametrize('on_too_fast', ['keep', 'slow'])
def test_a_vehicle_too_fast_for_late_paths_is_told_and_slowed_down_where_that_is_chosen(
    on_too_fast,
):
    bench = Bench(retime=True, on_too_fast=on_too_fast, trusted_distance_m=12.0)
    fast = replace(vehicle(1.0), speed_mps=10.0)
    found = bench.publish(prediction(), 1.0, where=fast)  # trusted: 12 m / 2 s
    assert 'too_fast' in found.prediction.checks and found.trusted_mps == pytest.approx(6.0)
    assert bench.sent('output/trusted_speed')[0].data == pytest.approx(6.0)
    sent, plain = (bench.sent(f'{x}/path')[0].poses[-1] for x in ('output', 'debug'))
    behind_m = plain.pose.position.y - sent.pose.position.y
    slowed_m = 4.0 * 2.0 / 2 + 4.0 * 3.4  # 2 s with -2 m/s^2, then 4 m/s slower up to 6.4 s
    assert behind_m == pytest.approx(slowed_m if on_too_fast == 'slow' else 0.0, abs=0.1)
    assert bench.publication.counts == {'published': 1}


def test_a_vehicle_that_is_slow_enough_is_not_too_fast():
    bench = Bench(trusted_distance_m=20.5)
    found = bench.publish(prediction(), 1.0, where=replace(vehicle(1.0), speed_mps=10.0))
    assert 'too_fast' not in found.prediction.checks
    bench.publication.reset(0)
    again = bench.publish(prediction(), 0.5, where=vehicle(0.5))
    assert again.trusted_mps == pytest.approx(20.5)  # what came before is forgotten
