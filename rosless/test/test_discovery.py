"""Environment variables of ROS 2 that say who finds whom, and peers that die."""

import time
import xml.etree.ElementTree as ElementTree

import pytest
import rclpy
from std_msgs.msg import String

from rosless.discovery import make_configuration

LOOPBACK_WITHOUT_MULTICAST = (
    '<CycloneDDS><Domain Id="any"><General><Interfaces><NetworkInterface name="lo"/>'
    '</Interfaces></General></Domain></CycloneDDS>'
)


def settings(**environment):
    """Settings of the configuration by their paths."""
    domain = ElementTree.fromstring(make_configuration(environment)).find('Domain')
    return {
        'multicast': domain.findtext('General/AllowMulticast'),
        'index': domain.findtext('Discovery/ParticipantIndex'),
        'peers': [peer.get('Address') for peer in domain.iterfind('Discovery/Peers/Peer')],
        'interfaces': [x.get('address') for x in domain.iterfind('General/Interfaces/*')],
    }


def test_the_subnet_is_the_default_range():
    assert settings() == {'multicast': None, 'index': 'auto', 'peers': [], 'interfaces': []}
    assert settings() == settings(ROS_AUTOMATIC_DISCOVERY_RANGE='SUBNET')


def test_localhost_asks_this_machine_without_multicast():
    found = settings(ROS_AUTOMATIC_DISCOVERY_RANGE='LOCALHOST', ROS_STATIC_PEERS='a;b')
    assert (found['multicast'], found['peers']) == ('false', ['localhost', 'a', 'b'])


@pytest.mark.parametrize(
    'others, interfaces',
    [
        ({}, ['127.0.0.1']),
        ({'ROS_STATIC_PEERS': 'a'}, []),
        ({'CYCLONEDDS_URI': '<CycloneDDS/>'}, []),
    ],
)
def test_localhost_hears_on_loopback_unless_others_are_named(others, interfaces):
    found = settings(ROS_AUTOMATIC_DISCOVERY_RANGE='LOCALHOST', **others)
    assert found['interfaces'] == interfaces


def test_the_system_default_sets_nothing():
    found = settings(ROS_AUTOMATIC_DISCOVERY_RANGE='SYSTEM_DEFAULT')
    assert found == {'multicast': None, 'index': None, 'peers': [], 'interfaces': []}


def test_another_range_is_refused(monkeypatch):
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'OFF')
    with pytest.raises(RuntimeError, match='OFF is not one of SUBNET'):
        rclpy.init(args=[])
    assert not rclpy.ok()


@pytest.mark.parametrize('wrong', ['x', '233', '-1'])
def test_a_domain_that_is_none_is_refused(monkeypatch, wrong):
    monkeypatch.setenv('ROS_DOMAIN_ID', wrong)
    with pytest.raises(RuntimeError, match=wrong):
        rclpy.init(args=[])


@pytest.mark.parametrize('own', ['', LOOPBACK_WITHOUT_MULTICAST])
def test_processes_find_each_other_without_multicast(program, own):
    environment = {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST', 'CYCLONEDDS_URI': own}
    program('robot', **environment).line('ready')
    caller = program('caller', CALLS='1', **environment)
    assert caller.process.wait(15) == 0
    assert 'answer on' in caller.rest()


def test_a_killed_subscriber_does_not_hold_up_the_end(program, node, spin_until):
    """Deleting a writer whose reader is gone took 1 s, for one writer after the other."""
    listener = program('listener')
    listener.line('ready')
    publishers = [node.create_publisher(String, f'/say_{i}', 1) for i in range(8)]
    spin_until(lambda: all(p.get_subscription_count() for p in publishers))
    listener.process.kill()
    listener.process.wait()
    for publisher in publishers:
        publisher.publish(String(data='nobody hears'))
    started = time.monotonic()
    node.destroy_node()
    rclpy.try_shutdown()
    assert time.monotonic() - started < 2
