"""Severities, filters per call site, lines on stderr and /rosout."""

import re

import pytest
from rcl_interfaces.msg import Log
from rclpy.logging import LoggingSeverity, get_logger, set_logger_level
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import String

ROSOUT = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def test_a_line_has_severity_stamp_name_and_text(capfd):
    assert get_logger('a.b').warning('watch out')
    (line,) = capfd.readouterr().err.splitlines()
    assert re.fullmatch(r'\[WARN\] \[\d+\.\d{9}\] \[a\.b\]: watch out', line)


def test_levels_hold_for_the_loggers_below(capfd):
    set_logger_level('level_test', LoggingSeverity.ERROR)
    below = get_logger('level_test').get_child('below')
    assert below.name == 'level_test.below'
    assert not below.warn('no') and below.error('yes')
    below.set_level(LoggingSeverity.DEBUG)
    assert below.debug('yes') and below.get_effective_level() == LoggingSeverity.DEBUG
    assert not get_logger('level_tests').debug('no')
    assert 'no' not in capfd.readouterr().err


def test_filters_keep_their_state_per_call_site():
    logger = get_logger('filters')

    def log(**filters):
        return [logger.info('x', **filters) for _ in range(3)]

    assert [logger.info('x', once=True) for _ in range(3)] == [True, False, False]
    assert [logger.info('x', skip_first=True) for _ in range(3)] == [False, True, True]
    assert [logger.info('x', throttle_duration_sec=60.0) for _ in range(3)] == [True, False, False]
    assert log(throttle_duration_sec=1e-9) == [True, True, True]


def test_other_filters_or_severity_at_one_call_site_are_errors():
    logger = get_logger('strict')
    with pytest.raises(ValueError, match='severity'):
        for severity in (LoggingSeverity.INFO, LoggingSeverity.WARN):
            logger.log('x', severity)
    with pytest.raises(ValueError, match='filters'):
        for once in (True, False):
            logger.info('x', once=once)
    with pytest.raises(TypeError, match='sometimes'):
        logger.info('x', sometimes=True)


def test_the_log_of_a_node_is_on_rosout_also_for_late_listeners(program, node, spin_until):
    program('robot', '--ros-args', '-r', '__ns:=/fleet').line('ready')
    records = []
    node.create_subscription(Log, '/rosout', records.append, ROSOUT)
    spin_until(lambda: [r for r in records if r.name == 'fleet.robot'])
    (record,) = [r for r in records if r.name == 'fleet.robot']
    assert (record.msg, record.level) == ('robot is up', 20)
    assert record.file.endswith('programs.py') and record.function == '__init__'


def test_a_child_logger_reaches_the_rosout_of_its_node(node, spin_until):
    records = []
    node.create_subscription(Log, '/rosout', records.append, ROSOUT)
    node.get_logger().get_child('part').error('broken')
    spin_until(lambda: records)
    assert (records[0].name, records[0].msg, records[0].level) == ('tester.part', 'broken', 40)


@pytest.mark.parametrize(
    ('arguments', 'is_written'), [((), False), (('--log-level', 'debug'), True)]
)
def test_the_log_level_of_the_command_line(program, arguments, is_written):
    robot = program('robot', '--ros-args', *arguments)
    robot.line('ready')
    robot.end()
    lines = [*robot.seen, *robot.rest()]
    assert any('a detail' in line for line in lines) == is_written


def test_a_message_that_is_no_utf8_is_logged_and_dropped(node, spin_until, topic, capfd):
    received = []
    node.create_subscription(String, topic, received.append, 10)
    publisher = node.create_publisher(String, topic, 10)
    publisher.publish(b'\x00\x01\x00\x00\x02\x00\x00\x00\xff\x00')
    publisher.publish(String(data='x'))
    spin_until(lambda: received)
    assert [message.data for message in received] == ['x']
    assert f'dropped a message of {topic}' in capfd.readouterr().err
