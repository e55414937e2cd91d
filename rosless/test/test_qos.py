"""Profiles, their effect between processes, overrides, and warnings when they do not fit."""

import pytest
from rcl_interfaces.msg import SetParametersResult
import rclpy
from rclpy.duration import Duration
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    InvalidQoSProfileException,
    LivelinessPolicy,
    QoSCompatibility,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
    qos_profile_sensor_data,
    qos_profile_services_default,
)
from rclpy.qos_overriding_options import InvalidQosOverridesError, QoSOverridingOptions
from std_msgs.msg import String

RELIABLE = QoSProfile(depth=10)
BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=5, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def test_a_profile_needs_a_depth_or_a_history():
    for arguments in ({}, {'history': HistoryPolicy.KEEP_LAST}):
        with pytest.raises(InvalidQoSProfileException):
            QoSProfile(**arguments)
    assert QoSProfile(depth=3).history == HistoryPolicy.KEEP_LAST
    assert QoSProfile(history=HistoryPolicy.KEEP_ALL).reliability == ReliabilityPolicy.RELIABLE


DEADLINE = QoSProfile(depth=1, deadline=Duration(seconds=1))


@pytest.mark.parametrize(
    'offered, wanted, reason',
    [
        (RELIABLE, BEST_EFFORT, ''),
        (LATCHED, RELIABLE, ''),
        (BEST_EFFORT, RELIABLE, 'ERROR: Best effort publisher and reliable subscription;'),
        (RELIABLE, LATCHED, 'ERROR: Volatile publisher and transient local subscription;'),
        (RELIABLE, DEADLINE, 'ERROR: Subscription has a deadline, but publisher does not;'),
        (DEADLINE, DEADLINE, ''),
    ],
)
def test_whether_a_publisher_fits_a_subscription_is_known_from_the_graph(
    node, spin_until, offered, wanted, reason
):
    node.create_publisher(String, 'offered', offered)
    spin_until(lambda: node.get_publishers_info_by_topic('/offered'))
    (info,) = node.get_publishers_info_by_topic('/offered')
    expected = QoSCompatibility.ERROR if reason else QoSCompatibility.OK
    assert qos_check_compatible(info.qos_profile, wanted) == (expected, reason)


def test_the_named_profiles():
    assert qos_profile_sensor_data == QoSProfile(
        depth=5, reliability=ReliabilityPolicy.BEST_EFFORT
    )
    assert qos_profile_services_default == RELIABLE


def test_a_late_subscription_gets_the_history_of_a_latched_topic(program, node, spin_until):
    program('latched').line('ready')
    received = []
    node.create_subscription(String, '/history', lambda m: received.append(m.data), LATCHED)
    spin_until(lambda: len(received) == 5)
    assert received == ['0', '1', '2', '3', '4']


def test_a_volatile_subscription_gets_no_history(program, node, spin_until):
    program('latched').line('ready')
    received = []
    volatile = node.create_subscription(String, '/history', received.append, 10)
    latched = []
    node.create_subscription(String, '/history', latched.append, LATCHED)
    spin_until(lambda: volatile.get_publisher_count() == 1 and len(latched) == 5)
    assert received == []


def test_best_effort_reaches_best_effort_only(program, node, spin_until):
    program('best_effort').line('ready')
    received, refused = [], []
    node.create_subscription(String, '/sensor', refused.append, RELIABLE)
    node.create_subscription(String, '/sensor', received.append, BEST_EFFORT)
    spin_until(lambda: len(received) >= 5)
    assert refused == []


def test_an_incompatible_publisher_is_told_in_the_log(program, node, spin_until, capfd):
    program('best_effort').line('ready')
    node.create_subscription(String, '/sensor', lambda message: None, RELIABLE)
    chunks = []
    spin_until(
        lambda: chunks.append(capfd.readouterr().err) or "topic '/sensor'" in ''.join(chunks)
    )
    text = ''.join(chunks)
    assert 'offering incompatible QoS' in text and 'policy: RELIABILITY' in text


def test_an_incompatible_subscription_is_told_in_the_log(node, spin_until, topic, capfd):
    node.create_publisher(String, topic, 10)
    node.create_subscription(String, topic, lambda message: None, LATCHED)
    chunks = []
    wanted = 'requesting incompatible QoS'
    spin_until(lambda: chunks.append(capfd.readouterr().err) or wanted in ''.join(chunks))
    assert 'policy: DURABILITY' in ''.join(chunks)


def test_events_go_to_their_callbacks(node, spin_until, topic, capfd):
    events = []
    publisher = node.create_publisher(
        String,
        topic,
        10,
        event_callbacks=PublisherEventCallbacks(
            matched=lambda info: events.append(('matched', info.current_count))
        ),
    )
    subscription = node.create_subscription(
        String,
        topic,
        lambda message: None,
        QoSProfile(depth=1, deadline=Duration(seconds=1)),
        event_callbacks=SubscriptionEventCallbacks(
            incompatible_qos=lambda info: events.append(('refused', info.last_policy_kind))
        ),
    )
    spin_until(lambda: events)
    assert events == [('refused', QoSPolicyKind.DEADLINE)]
    assert f"topic '{topic}', offering" not in capfd.readouterr().err
    events.clear()
    node.create_subscription(String, topic, lambda message: None, 10)
    spin_until(lambda: events)
    assert events == [('matched', 1)] and publisher.get_subscription_count() == 1
    assert subscription.get_publisher_count() == 0


def test_a_missed_deadline_is_told(node, spin_until, topic):
    profile = QoSProfile(depth=1, deadline=Duration(seconds=0.05))
    missed = []
    node.create_publisher(String, topic, profile).publish(String(data='only one'))
    node.create_subscription(
        String,
        topic,
        lambda message: None,
        profile,
        event_callbacks=SubscriptionEventCallbacks(deadline=missed.append),
    )
    node.create_publisher(String, topic, profile).publish(String(data='only one'))
    spin_until(lambda: missed)
    assert missed[0].total_count >= 1


def test_an_unknown_event_is_refused():
    with pytest.raises(TypeError, match='sometimes'):
        SubscriptionEventCallbacks(sometimes=print)


def test_lifespan_ends_the_history(node, spin_until, topic):
    profile = QoSProfile(
        depth=5, durability=DurabilityPolicy.TRANSIENT_LOCAL, lifespan=Duration(seconds=0.05)
    )
    publisher = node.create_publisher(String, topic, profile)
    publisher.publish(String(data='old'))
    spin_until.executor.spin_once(timeout_sec=0.2)
    received = []
    node.create_subscription(String, topic, lambda m: received.append(m.data), LATCHED)
    publisher.publish(String(data='new'))
    spin_until(lambda: 'new' in received)
    assert received == ['new']


def test_a_subscription_can_ask_for_liveliness(node, topic):
    asked = QoSProfile(
        depth=1,
        liveliness=LivelinessPolicy.AUTOMATIC,
        liveliness_lease_duration=Duration(seconds=2),
    )
    subscription = node.create_subscription(String, topic, lambda message: None, asked)
    node.create_publisher(String, topic, 1)
    assert subscription.get_publisher_count() == 0
    node.create_publisher(String, topic, asked)
    assert subscription.get_publisher_count() == 1


@pytest.fixture
def overriding(node):
    """Node whose command line asks for best effort on /scan."""
    name = 'qos_overrides./scan.subscription_front.reliability'
    made = rclpy.create_node('overriding', cli_args=['--ros-args', '-p', f'{name}:=best_effort'])
    yield made
    made.destroy_node()


def test_parameters_override_the_policies_that_options_name(overriding):
    options = QoSOverridingOptions.with_default_policies(entity_id='front')
    subscription = overriding.create_subscription(
        String, 'scan', print, QoSProfile(depth=7), qos_overriding_options=options
    )
    assert subscription.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
    depth = 'qos_overrides./scan.subscription_front.depth'
    assert overriding.get_parameter(depth).value == 7
    assert overriding.describe_parameter(depth).read_only
    plain = overriding.create_subscription(String, 'scan', print, 7)
    assert plain.qos_profile.reliability == ReliabilityPolicy.RELIABLE


def test_an_override_can_be_refused(overriding):
    options = QoSOverridingOptions(
        [QoSPolicyKind.RELIABILITY],
        callback=lambda profile: SetParametersResult(
            successful=profile.reliability == ReliabilityPolicy.RELIABLE, reason='too weak'
        ),
        entity_id='front',
    )
    with pytest.raises(InvalidQosOverridesError, match='too weak'):
        overriding.create_subscription(String, 'scan', print, 1, qos_overriding_options=options)


def test_an_override_that_is_no_policy_is_an_error(node):
    name = 'qos_overrides./scan.publisher.history'
    made = rclpy.create_node('wrong', cli_args=['--ros-args', '-p', f'{name}:=keep_some'])
    options = QoSOverridingOptions.with_default_policies()
    with pytest.raises(RuntimeError, match='keep_some'):
        made.create_publisher(String, 'scan', 1, qos_overriding_options=options)
    made.destroy_node()
