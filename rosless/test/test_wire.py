"""What other DDS programs see: names, types, representation, user data, announcements.

The observer is a bare Cyclone DDS participant with types written here by hand. Real ROS nodes
send no type information; programs on one binding compare theirs, names of fields included.
"""

from dataclasses import dataclass
import os
import struct
import time
import uuid

from cyclonedds.builtin import (
    BuiltinDataReader,
    BuiltinTopicDcpsParticipant,
    BuiltinTopicDcpsPublication,
    BuiltinTopicDcpsSubscription,
)
from cyclonedds.core import DDSException, Policy, Qos
from cyclonedds.domain import DomainParticipant
from cyclonedds.idl import IdlStruct
from cyclonedds.idl.types import array, bounded_str, int64, sequence, uint8, uint64
from cyclonedds.pub import DataWriter
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic
from cyclonedds.util import duration
import pytest

from rosless import wire
from rosless.definitions import compute_type_hash

XCDR1 = Policy.DataRepresentation(use_cdrv0_representation=True)
RELIABLE = Policy.Reliability.Reliable(duration(seconds=0.1))
LATCHED = Qos(XCDR1, RELIABLE, Policy.Durability.TransientLocal, Policy.History.KeepAll)
# from an installation of ROS 2 Jazzy
STRING_HASH = 'RIHS01_df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18'


@dataclass
class String(IdlStruct, typename='std_msgs::msg::dds_::String_'):
    """std_msgs/msg/String."""

    data: str


@dataclass
class SwitchRequest(IdlStruct, typename='std_srvs::srv::dds_::SetBool_Request_'):
    """Request of std_srvs/srv/SetBool, as rmw_cyclonedds has it."""

    client_id: uint64
    sequence_number: int64
    data: bool


@dataclass
class SwitchReply(IdlStruct, typename='std_srvs::srv::dds_::SetBool_Response_'):
    """Response of std_srvs/srv/SetBool, as rmw_cyclonedds has it."""

    client_id: uint64
    sequence_number: int64
    success: bool
    message: str


@dataclass
class Gid(IdlStruct, typename='rmw_dds_common::msg::dds_::Gid_'):
    """Id of a participant or an endpoint."""

    data: array[uint8, 16]


@dataclass
class NodeEntities(IdlStruct, typename='rmw_dds_common::msg::dds_::NodeEntitiesInfo_'):
    """A node and its endpoints."""

    node_namespace: bounded_str[256]
    node_name: bounded_str[256]
    reader_gid_seq: sequence[Gid]
    writer_gid_seq: sequence[Gid]


@dataclass
class Announcement(IdlStruct, typename='rmw_dds_common::msg::dds_::ParticipantEntitiesInfo_'):
    """The nodes of a participant."""

    gid: Gid
    node_entities_info_seq: sequence[NodeEntities]


@pytest.fixture
def observer():
    """DDS participant that knows no ROS."""
    return DomainParticipant(int(os.environ['ROS_DOMAIN_ID']))


def take(reader, count=1, limit_s=10.0):
    """Samples as they come, until there are so many."""
    taken = []
    end_s = time.monotonic() + limit_s
    while len(taken) < count:
        assert time.monotonic() < end_s, f'{len(taken)} of {count} samples'
        taken += [sample for sample in reader.take(10) if hasattr(sample, '__dataclass_fields__')]
        time.sleep(0.01)
    return taken


def until(condition, limit_s=10.0):
    """Wait until a condition returns something true, and return that."""
    end_s = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < end_s
        time.sleep(0.02)
    return found


def endpoint(observer, builtin_topic, topic):
    reader = BuiltinDataReader(observer, builtin_topic)
    return until(lambda: [e for e in reader.read(500) if e.topic_name == topic])[0]


def user_data(entry):
    """Keys and values of the user data of an endpoint."""
    text = entry.qos[Policy.Userdata].data.decode()
    return dict(pair.split('=') for pair in text.rstrip(';').split(';'))


def test_names_of_topics_services_and_types():
    assert wire.make_topic_name('/a/b') == 'rt/a/b'
    assert wire.make_service_topics('/a/b') == ('rq/a/bRequest', 'rr/a/bReply')
    assert wire.to_dds_type_name('std_msgs/msg/String') == 'std_msgs::msg::dds_::String_'
    assert wire.to_ros_type_name('std_msgs::msg::dds_::String_') == 'std_msgs/msg/String'
    assert wire.to_ros_type_name('HelloWorld') is None


def test_hashes_are_those_of_ros():
    assert compute_type_hash('std_msgs/msg/String') == STRING_HASH


def test_a_publisher_is_what_a_ros_node_would_make(program, observer):
    program('robot').line('ready')
    found = endpoint(observer, BuiltinTopicDcpsPublication, 'rt/echo')
    assert found.type_name == 'std_msgs::msg::dds_::String_'
    assert user_data(found) == {'typehash': STRING_HASH}
    assert Policy.Reliability.Reliable in found.qos
    assert Policy.Durability.Volatile in found.qos
    assert XCDR1 in found.qos
    assert Policy.WriterDataLifecycle(autodispose=False) in found.qos


def test_both_halves_of_a_service_carry_its_id(program, observer):
    program('robot').line('ready')
    request = endpoint(observer, BuiltinTopicDcpsSubscription, 'rq/robot/switchRequest')
    reply = endpoint(observer, BuiltinTopicDcpsPublication, 'rr/robot/switchReply')
    assert request.type_name == 'std_srvs::srv::dds_::SetBool_Request_'
    assert reply.type_name == 'std_srvs::srv::dds_::SetBool_Response_'
    first, second = user_data(request), user_data(reply)
    assert first['serviceid'] == second['serviceid']
    assert first['typehash'] != second['typehash']
    id_bytes = bytes(int(part, 16) for part in first['serviceid'].split('.'))
    assert len(id_bytes) == 16 and id_bytes[:12] == request.participant_key.bytes[:12]


def test_plain_dds_talks_to_a_node(program, observer):
    program('robot').line('ready')
    qos = Qos(XCDR1, RELIABLE, Policy.History.KeepAll)
    echo = DataReader(observer, Topic(observer, 'rt/echo', String), qos)
    say = DataWriter(observer, Topic(observer, 'rt/say', String), qos)
    until(lambda: say.get_matched_subscriptions() and echo.get_matched_publications())
    say.write(String('hi'))
    assert take(echo) == [String('none: hi')]


def test_a_reply_carries_the_header_of_its_request(program, observer):
    program('robot').line('ready')
    qos = Qos(XCDR1, RELIABLE, Policy.History.KeepAll)
    topic = Topic(observer, 'rr/robot/switchReply', SwitchReply)
    replies = DataReader(observer, topic, qos)
    topic = Topic(observer, 'rq/robot/switchRequest', SwitchRequest)
    requests = DataWriter(observer, topic, qos)
    until(lambda: requests.get_matched_subscriptions() and replies.get_matched_publications())
    requests.write(SwitchRequest(2**63 + 5, -3, True))
    assert take(replies) == [SwitchReply(2**63 + 5, -3, True, 'on')]


def test_the_announcement_names_nodes_with_their_endpoints(program, observer):
    program('robot', '--ros-args', '-r', '__ns:=/fleet').line('ready')
    topic = Topic(observer, 'ros_discovery_info', Announcement)
    announcements = DataReader(observer, topic, LATCHED)
    echo = endpoint(observer, BuiltinTopicDcpsPublication, 'rt/fleet/echo')
    say = endpoint(observer, BuiltinTopicDcpsSubscription, 'rt/fleet/say')
    (last,) = take(announcements)[-1:]
    (node,) = last.node_entities_info_seq
    assert (node.node_namespace, node.node_name) == ('/fleet', 'robot')
    assert list(echo.key.bytes) in [list(gid.data) for gid in node.writer_gid_seq]
    assert list(say.key.bytes) in [list(gid.data) for gid in node.reader_gid_seq]
    assert uuid.UUID(bytes=bytes(last.gid.data)) == echo.participant_key


def test_the_participant_names_its_enclave(program, observer):
    program('robot', '--ros-args', '-e', '/safe').line('ready')
    reader = BuiltinDataReader(observer, BuiltinTopicDcpsParticipant)
    until(lambda: [p for p in reader.read(50) if _enclave(p) == b'enclave=/safe;'])


def _enclave(participant):
    if Policy.Userdata not in participant.qos:
        return None
    return participant.qos[Policy.Userdata].data


def test_leaving_empties_the_announcement_and_deletes_the_participant(program, observer):
    robot = program('robot')
    robot.line('ready')
    topic = Topic(observer, 'ros_discovery_info', Announcement)
    announcements = DataReader(observer, topic, LATCHED)
    found = endpoint(observer, BuiltinTopicDcpsPublication, 'rt/echo')
    assert take(announcements)[-1].node_entities_info_seq
    robot.end()
    until(lambda: [a for a in take(announcements) if not a.node_entities_info_seq])
    # at once, and not when the lease ends after 10 s
    until(lambda: not _alive(observer, found.participant_key), limit_s=2.0)


def _alive(observer, key):
    alive = 16  # instance state
    reader = BuiltinDataReader(observer, BuiltinTopicDcpsParticipant)
    states = [p.sample_info.instance_state for p in reader.read(50) if p.key == key]
    return alive in states


@pytest.mark.parametrize(
    'name', ['geometry_msgs/msg/PoseWithCovarianceStamped', 'sensor_msgs/msg/Imu']
)
def test_the_binding_decodes_what_is_written(observer, name):
    """The DDS type agrees with the bytes: the C layer takes the sample."""
    from rosless.messages import get_message_class, serialize

    cls = wire.make_sample_type(name)
    topic = Topic(observer, 'rt/check', cls)
    qos = Qos(XCDR1, RELIABLE)
    reader, writer = DataReader(observer, topic, qos), DataWriter(observer, topic, qos)
    data = serialize(get_message_class(name)())
    writer.write(cls(data))
    (sample,) = until(lambda: reader.take(1))
    assert sample.data[: len(data)] == data
    with pytest.raises(DDSException):
        writer.write(cls(data[:-8]))
    assert struct.unpack_from('<H', data)[0] == 0x100
