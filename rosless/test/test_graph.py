"""What a node knows of the other processes, and how processes end."""

from pathlib import Path
import signal
import subprocess
import sys
import time

import pytest
import rclpy
from std_msgs.msg import String


def names(node):
    return node.get_node_names()


def test_nodes_topics_and_services_of_other_processes(program, node, spin_until):
    program('robot', '--ros-args', '-r', '__ns:=/fleet').line('ready')
    spin_until(lambda: ('robot', '/fleet') in node.get_node_names_and_namespaces())
    assert ('tester', '/') in node.get_node_names_and_namespaces()
    assert ('/fleet/echo', ['std_msgs/msg/String']) in node.get_topic_names_and_types()
    services = dict(node.get_service_names_and_types())
    assert services['/fleet/robot/switch'] == ['std_srvs/srv/SetBool']
    assert services['/fleet/robot/set_parameters'] == ['rcl_interfaces/srv/SetParameters']


def test_publishers_and_subscriptions_are_counted(node, topic):
    assert (node.count_publishers(topic), node.count_subscribers(topic)) == (0, 0)
    publisher = node.create_publisher(String, topic, 1)
    node.create_subscription(String, topic, print, 1)
    assert (node.count_publishers(topic), node.count_subscribers(topic)) == (1, 1)
    node.destroy_publisher(publisher)
    assert (node.count_publishers(topic), node.count_subscribers(topic)) == (0, 1)


def test_publishers_of_a_topic_are_named_with_their_nodes(program, node, spin_until):
    program('robot', '--ros-args', '-r', '__ns:=/fleet').line('ready')
    node.create_publisher(String, '/fleet/echo', 1)
    spin_until(lambda: len(node.get_publishers_info_by_topic('/fleet/echo')) == 2)
    spin_until(lambda: ('robot', '/fleet') in node.get_node_names_and_namespaces())
    infos = node.get_publishers_info_by_topic('/fleet/echo')
    assert {(x.node_namespace, x.node_name, x.topic_type) for x in infos} == {
        ('/fleet', 'robot', 'std_msgs/msg/String'),
        ('/', 'tester', 'std_msgs/msg/String'),
    }
    assert node.get_publishers_info_by_topic('/fleet/nothing') == []


def test_nodes_of_one_process_are_told_apart(node):
    other = rclpy.create_node('other', namespace='a')
    assert other.get_fully_qualified_name() == '/a/other'
    assert set(node.get_node_names_and_namespaces()) == {('tester', '/'), ('other', '/a')}
    other.destroy_node()
    other.destroy_node()
    assert node.get_node_names() == ['tester']


@pytest.mark.parametrize(
    ('number', 'wanted'),
    [(signal.SIGINT, 'interrupted ok=False'), (signal.SIGTERM, 'terminated ok=False')],
)
def test_a_signal_ends_spin_and_the_node_leaves_at_once(program, node, spin_until, number, wanted):
    robot = program('robot')
    robot.line('ready')
    spin_until(lambda: 'robot' in names(node))
    started = time.monotonic()
    assert robot.end(number) == 0
    spin_until(lambda: 'robot' not in names(node), limit_s=2.0)
    assert time.monotonic() - started < 2.0
    assert any(wanted in line for line in robot.rest())


def test_what_tests_start_has_default_signals_also_in_a_background_job():
    code = 'import conftest, signal; print(signal.getsignal(signal.SIGINT))'
    script = f"trap '' INT; exec {sys.executable} -c '{code}'"
    done = subprocess.run(
        ['sh', '-c', script], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    assert 'default_int_handler' in done.stdout, done.stderr


@pytest.mark.parametrize(('number', 'status'), [(signal.SIGINT, -2), (signal.SIGTERM, 1)])
def test_a_program_that_catches_nothing_dies_of_the_signal_and_leaves_too(
    program, node, spin_until, number, status
):
    careless = program('careless')
    careless.line('ready')
    spin_until(lambda: 'careless' in names(node))
    time.sleep(0.2)  # it waits in spin now, which is where a signal raises
    assert careless.end(number) == status
    spin_until(lambda: 'careless' not in names(node), limit_s=2.0)


def test_sigterm_lets_a_multithreaded_executor_return(program):
    multithreaded = program('multithreaded')
    multithreaded.line('ready')
    assert multithreaded.end(signal.SIGTERM) == 0
    assert any('returned' in line for line in multithreaded.rest())


def test_the_end_of_a_program_without_shutdown_is_told_too(program, node, spin_until):
    forgetful = program('forgetful')
    forgetful.line('ready')
    spin_until(lambda: 'forgetful' in names(node))
    forgetful.process.stdin.close()
    assert forgetful.process.wait(5) == 3
    spin_until(lambda: 'forgetful' not in names(node), limit_s=2.0)


def test_sigint_interrupts_a_callback(program):
    blocked = program('blocked')
    blocked.line('blocking')
    assert blocked.end(signal.SIGINT) == -2


@pytest.mark.parametrize('tenths', range(5))
def test_sigint_interrupts_a_look_at_the_graph_and_a_message_that_is_taken(program, tenths):
    looking = program('looking')
    looking.line('ready')
    time.sleep(0.1 * tenths)
    assert looking.end(signal.SIGINT) == 0, looking.rest()
    assert any('interrupted' in line for line in looking.rest())


def test_an_ignored_sigint_ends_the_context_only(program):
    robot = program('ignoring')
    robot.line('ready')
    assert robot.end(signal.SIGINT) == 0, robot.rest()
    assert any('terminated ok=False' in line for line in robot.rest())
