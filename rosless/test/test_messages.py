"""Message classes behave as those of rclpy."""

import array
import copy

from builtin_interfaces.msg import Duration, Time
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from geometry_msgs.msg import PoseStamped, PoseWithCovariance, Quaternion
from nav_msgs.msg import Path
import numpy as np
import pytest
from rcl_interfaces.msg import ParameterValue
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, NavSatStatus
from std_msgs.msg import ByteMultiArray, Empty, Float32MultiArray, Header, String, UInt64
from std_srvs.srv import SetBool, Trigger

from rosless.definitions import load_typestore
from rosless.fields import check
from rosless.messages import get_message_class


def sent(message):
    """The message after its way over the wire."""
    return deserialize_message(serialize_message(message), type(message))


@pytest.mark.parametrize('name', sorted(load_typestore().fielddefs))
def test_every_type_of_the_distribution_makes_the_round_trip(name):
    message = get_message_class(name)()
    assert sent(message) == message


def test_fields_have_defaults_and_take_keywords():
    header = Header(frame_id='map')
    assert header.frame_id == 'map' and header.stamp == Time(sec=0, nanosec=0)
    assert PoseStamped().pose.position.x == 0.0


def test_defaults_of_the_definition_are_kept():
    assert Quaternion().w == 1.0
    assert NavSatStatus().status == NavSatStatus.STATUS_UNKNOWN == -2


def test_nested_defaults_are_not_shared():
    first, second = Path(), Path()
    first.poses.append(PoseStamped())
    first.header.frame_id = 'map'
    assert second.poses == [] and second.header.frame_id == ''


@pytest.mark.parametrize('wrong', ['datum', 'structure_needs_at_least_one_member'])
def test_an_unknown_field_is_refused(wrong):
    with pytest.raises(AssertionError):
        String(**{wrong: 'x'})
    with pytest.raises(AttributeError):
        setattr(String(), wrong, 'x')


def test_messages_compare_by_their_fields():
    assert Time(sec=1) == Time(sec=1) != Time(sec=2)
    assert Time() != Duration()
    with pytest.raises(TypeError):
        hash(Time())


def test_repr_names_type_and_fields():
    assert repr(Time(sec=1, nanosec=2)) == 'builtin_interfaces.msg.Time(sec=1, nanosec=2)'


def test_field_types_are_told():
    assert Header.get_fields_and_field_types() == {
        'stamp': 'builtin_interfaces/Time',
        'frame_id': 'string',
    }
    types = PoseWithCovariance.get_fields_and_field_types()
    assert types['covariance'] == 'double[36]'
    assert CompressedImage.get_fields_and_field_types()['data'] == 'sequence<uint8>'
    assert DiagnosticStatus.get_fields_and_field_types()['level'] == 'octet'


def test_constants_are_class_attributes_of_the_type_of_their_field():
    assert DiagnosticStatus.WARN == b'\x01'
    assert SetBool.Request is not SetBool.Response
    status = DiagnosticStatus(level=DiagnosticStatus.ERROR)
    assert sent(status).level == b'\x02'


def test_byte_takes_an_int_and_hands_out_bytes():
    assert sent(DiagnosticStatus(level=200)).level == b'\xc8'
    assert sent(ByteMultiArray(data=[b'\x00', 255])).data == [b'\x00', b'\xff']


@pytest.mark.parametrize(
    'value',
    [b'\x01\x02', bytearray(b'\x01\x02'), [1, 2], (1, 2), array.array('B', [1, 2])]
    + [np.array([1, 2], np.uint8), memoryview(b'\x01\x02')],
    ids=lambda value: type(value).__name__,
)
def test_numeric_sequences_take_what_python_has(value):
    received = sent(CompressedImage(data=value)).data
    assert isinstance(received, np.ndarray) and received.tolist() == [1, 2]


def test_an_unbounded_numeric_sequence_is_an_array_that_grows():
    message = Float32MultiArray()
    message.data.append(1.5)
    message.data.extend([2.5])
    assert sent(message).data.tolist() == [1.5, 2.5]
    assert sent(message).data.dtype == np.float32


def test_received_numbers_are_a_view_of_the_sample():
    data = serialize_message(CompressedImage(data=bytes(1000)))
    received = deserialize_message(data, CompressedImage)
    assert np.shares_memory(received.data, np.frombuffer(data, np.uint8))


def test_a_fixed_array_is_numpy_and_keeps_its_length():
    pose = PoseWithCovariance()
    pose.covariance[7] = 2.0
    assert sent(pose).covariance[7] == 2.0
    with pytest.raises(AssertionError, match='36'):
        pose.covariance = [1.0, 2.0]


def test_numbers_that_do_not_fit_are_refused():
    with pytest.raises(TypeError):
        CompressedImage(data=np.array([0.5]))
    with pytest.raises(OverflowError):
        CompressedImage(data=[256])


def test_lists_of_bools_and_messages():
    value = ParameterValue(bool_array_value=[True, False], integer_array_value=[-1])
    assert sent(value).bool_array_value == [True, False]
    status = DiagnosticStatus(values=[KeyValue(key='a', value='b')])
    assert sent(status).values == [KeyValue(key='a', value='b')]


def test_messages_are_copied():
    path = Path(poses=[PoseStamped()])
    other = copy.deepcopy(path)
    other.poses[0].pose.position.x = 1.0
    assert path.poses[0].pose.position.x == 0.0 and other != path


def test_an_empty_message_has_one_byte_on_the_wire():
    assert serialize_message(Empty()) == b'\x00\x01\x00\x00\x00'
    assert serialize_message(Trigger.Request()) == b'\x00\x01\x00\x00\x00'
    assert Empty.get_fields_and_field_types() == {}


def test_eight_byte_numbers_align_to_eight():
    assert serialize_message(UInt64(data=1)) == b'\x00\x01\x00\x00' + b'\x01' + bytes(7)


@pytest.mark.parametrize(
    ('message', 'field', 'value'),
    [
        (Time(), 'sec', 2.0),
        (Time(), 'sec', 2**31),
        (Quaternion(), 'w', 1),
        (Header(), 'frame_id', b'map'),
        (Header(), 'stamp', Duration()),
        (DiagnosticStatus(), 'level', 1),
        (CompressedImage(), 'data', np.zeros(2, np.uint8)),
        (CompressedImage(), 'data', [256]),
        (PoseWithCovariance(), 'covariance', [0.0] * 35),
        (Path(), 'poses', [Header()]),
    ],
)
def test_field_checks_refuse_what_rclpy_refuses(message, field, value):
    desc = dict(load_typestore().fielddefs[message._type][1])[field]
    check(getattr(message, field), desc, get_message_class)
    with pytest.raises(AssertionError):
        check(value, desc, get_message_class)
