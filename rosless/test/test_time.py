"""Times, durations, clocks with jumps, timers, and simulated time from /clock."""

import time

from builtin_interfaces.msg import Time as TimeMsg
import pytest
import rclpy
from rclpy import Parameter
from rclpy.clock import Clock, ClockChange, ClockType, JumpThreshold, ROSClock
from rclpy.duration import Duration
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from rosgraph_msgs.msg import Clock as ClockMsg

SENSOR = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


def test_durations_and_times_calculate():
    time_ = Time(seconds=10, nanoseconds=5)
    assert (time_ + Duration(seconds=1.5)).nanoseconds == 11_500_000_005
    assert (time_ - Time(seconds=11)) == Duration(nanoseconds=-999_999_995)
    assert time_.seconds_nanoseconds() == (10, 5)
    assert Duration(seconds=2) > Duration(seconds=1)
    with pytest.raises(ValueError):
        _ = time_ - Duration(seconds=11)


def test_times_convert_to_messages_and_back():
    assert Time(seconds=3, nanoseconds=7).to_msg() == TimeMsg(sec=3, nanosec=7)
    back = Time.from_msg(TimeMsg(sec=3, nanosec=7))
    assert back == Time(seconds=3, nanoseconds=7, clock_type=ClockType.ROS_TIME)
    message = Duration(nanoseconds=-1).to_msg()
    assert (message.sec, message.nanosec) == (-1, 999_999_999)
    assert Duration.from_msg(message) == Duration(nanoseconds=-1)


def test_times_of_different_clocks_do_not_compare():
    with pytest.raises(TypeError):
        _ = Time(seconds=1) < Time(seconds=2, clock_type=ClockType.ROS_TIME)


def test_clocks_tell_the_time_of_their_type():
    assert abs(Clock().now().nanoseconds - time.time_ns()) < 10**9
    steady = Clock(clock_type=ClockType.STEADY_TIME).now()
    assert abs(steady.nanoseconds - time.monotonic_ns()) < 10**9
    assert steady.clock_type == ClockType.STEADY_TIME
    assert isinstance(Clock(clock_type=ClockType.ROS_TIME), ROSClock)


def ros_time(seconds):
    return Time(seconds=seconds, clock_type=ClockType.ROS_TIME)


@pytest.fixture
def clock():
    """ROS clock that stands at 10 s."""
    made = ROSClock()
    made.set_ros_time_override(ros_time(10))
    made._set_ros_time_is_active(True)
    return made


def test_ros_time_is_what_the_source_sets(clock):
    assert clock.now() == ros_time(10)
    clock.set_ros_time_override(ros_time(11))
    assert clock.now() == ros_time(11)


def test_jump_callbacks_get_jumps_beyond_their_threshold(clock):
    jumps = []
    threshold = JumpThreshold(
        min_forward=Duration(seconds=2), min_backward=Duration(seconds=-1), on_clock_change=False
    )
    handle = clock.create_jump_callback(
        threshold,
        pre_callback=lambda: jumps.append(clock.now().nanoseconds / 1e9),
        post_callback=lambda jump: jumps.append(jump.delta.nanoseconds / 1e9),
    )
    for seconds in (11.0, 13.0, 12.5, 3.0):
        clock.set_ros_time_override(ros_time(seconds))
    assert jumps == [11.0, 2.0, 12.5, -9.5]
    handle.unregister()
    clock.set_ros_time_override(ros_time(0))
    assert len(jumps) == 4


def test_a_change_of_the_source_is_a_jump(clock):
    changes = []
    handle = clock.create_jump_callback(  # rclpy crashes when it is not kept
        JumpThreshold(min_forward=None, min_backward=None),
        post_callback=lambda jump: changes.append(jump.clock_change),
    )
    clock._set_ros_time_is_active(False)
    clock._set_ros_time_is_active(True)
    assert changes == [ClockChange.ROS_TIME_DEACTIVATED, ClockChange.ROS_TIME_ACTIVATED]
    handle.unregister()


def test_a_timer_fires_at_its_period(node, spin_until):
    calls = []
    timer = node.create_timer(0.02, lambda: calls.append(time.monotonic()))
    start = time.monotonic()
    spin_until(lambda: len(calls) == 5)
    assert time.monotonic() - start >= 0.1
    timer.cancel()
    assert timer.is_canceled() and timer.time_until_next_call() is None
    spin_until.executor.spin_once(timeout_sec=0.05)
    assert len(calls) == 5
    timer.reset()
    spin_until(lambda: len(calls) == 6)


def test_a_timer_that_missed_calls_fires_once(node, spin_until):
    calls = []
    node.create_timer(0.01, lambda: calls.append(1))
    time.sleep(0.1)
    spin_until.executor.spin_once(timeout_sec=0)
    spin_until.executor.spin_once(timeout_sec=0)
    assert len(calls) == 1


@pytest.fixture
def simulated(node, spin_until):
    """Node on simulated time, its timer calls in ms, and a function that publishes /clock."""
    node.set_parameters([Parameter('use_sim_time', value=True)])
    player = rclpy.create_node('player')
    publisher = player.create_publisher(ClockMsg, '/clock', SENSOR)
    spin_until(lambda: publisher.get_subscription_count() == 1)
    calls_ms = []
    node.create_timer(1.0, lambda: calls_ms.append(node.get_clock().now().nanoseconds // 10**6))

    def play(*seconds: float) -> list[int]:
        """Play times one after the other and return the timer calls that they caused."""
        calls_ms.clear()
        for stamp in seconds:
            wanted = Time(seconds=stamp)
            publisher.publish(ClockMsg(clock=wanted.to_msg()))
            spin_until(lambda at=wanted: node.get_clock().now().nanoseconds == at.nanoseconds)
            for _ in range(3):
                spin_until.executor.spin_once(timeout_sec=0)
        return list(calls_ms)

    yield play
    player.destroy_node()


def test_simulated_time_is_zero_and_stands_before_the_first_message(node, simulated, spin_until):
    assert node.get_clock().now().nanoseconds == 0
    spin_until.executor.spin_once(timeout_sec=0.05)
    assert simulated() == []


def test_timers_follow_simulated_time(simulated):
    simulated(100.0)
    assert simulated(100.4, 101.0, 101.5, 102.0, 102.4) == [101000, 102000]


def test_a_jump_forward_fires_once(simulated):
    simulated(100.0)
    assert simulated(104.5, 104.6) == [104500]


def test_timers_restart_after_a_jump_back(simulated):
    simulated(100.0)
    assert simulated(50.0, 50.9, 51.0, 51.9, 52.0) == [51000, 52000]


def test_steady_timers_ignore_simulated_time(node, simulated, spin_until):
    calls = []
    steady = Clock(clock_type=ClockType.STEADY_TIME)
    node.create_timer(0.01, lambda: calls.append(1), clock=steady)
    spin_until(lambda: len(calls) == 3)


def test_real_time_returns_with_the_parameter(node, simulated):
    simulated(100.0)
    node.set_parameters([Parameter('use_sim_time', value=False)])
    assert abs(node.get_clock().now().nanoseconds - time.time_ns()) < 10**9
    assert node.count_subscribers('/clock') == 0
