"""Declared parameters: types, ranges, read-only, overrides, callbacks, services and events."""

import array

import pytest
from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    ParameterEvent,
    SetParametersResult,
)
from rcl_interfaces.msg import Parameter as ParameterMsg
from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    GetParameterTypes,
    ListParameters,
    SetParameters,
    SetParametersAtomically,
)
import rclpy
from rclpy import Parameter, exceptions
from rclpy.qos import qos_profile_parameter_events

FLOAT_1_TO_5 = ParameterDescriptor(
    floating_point_range=[FloatingPointRange(from_value=1.0, to_value=5.0)]
)


def reason_of(node, *parameters):
    """Reason of the refusal of an atomic set, '' when it was done."""
    result = node.set_parameters_atomically(list(parameters))
    assert result.successful == (not result.reason)
    return result.reason


@pytest.mark.parametrize(
    ('value', 'type_'),
    [
        (True, 'BOOL'),
        (1, 'INTEGER'),
        (1.0, 'DOUBLE'),
        ('a', 'STRING'),
        ([], 'BYTE_ARRAY'),
        ([b'a'], 'BYTE_ARRAY'),
        ([True], 'BOOL_ARRAY'),
        ((1, 2), 'INTEGER_ARRAY'),
        (array.array('q', [1]), 'INTEGER_ARRAY'),
        ([1.0], 'DOUBLE_ARRAY'),
        (['a'], 'STRING_ARRAY'),
    ],
)
def test_the_type_follows_from_the_default(node, value, type_):
    declared = node.declare_parameter('x', value)
    assert declared.type_ == Parameter.Type[type_]
    assert node.get_parameter('x').value == value


def test_a_list_of_two_types_is_no_parameter(node):
    with pytest.raises(TypeError):
        node.declare_parameter('x', [1, 2.0])


def test_a_parameter_is_declared_once(node):
    node.declare_parameter('x', 1)
    with pytest.raises(exceptions.ParameterAlreadyDeclaredException):
        node.declare_parameter('x', 2)


def test_an_undeclared_parameter_is_an_error(node):
    assert not node.has_parameter('x')
    with pytest.raises(exceptions.ParameterNotDeclaredException):
        node.get_parameter('x')
    with pytest.raises(exceptions.ParameterNotDeclaredException):
        node.set_parameters([Parameter('x', value=1)])


def test_a_typed_parameter_without_a_value_is_uninitialized(node):
    node.declare_parameter('x', Parameter.Type.DOUBLE)
    with pytest.raises(exceptions.ParameterUninitializedException):
        node.get_parameter('x')
    assert node.get_parameter_or('x', Parameter('x', value=3.0)).value == 3.0
    assert reason_of(node, Parameter('x', value=1.0)) == ''
    assert node.get_parameter('x').value == 1.0


def test_a_static_type_stays(node):
    node.declare_parameter('x', 1.0)
    assert reason_of(node, Parameter('x', value=1)) == (
        "Wrong parameter type, expected 'Type.DOUBLE' got 'Type.INTEGER'"
    )


def test_a_dynamic_type_changes(node):
    node.declare_parameter('x', 1.0, ParameterDescriptor(dynamic_typing=True))
    assert reason_of(node, Parameter('x', value='a')) == ''
    assert node.describe_parameter('x').type == Parameter.Type.STRING.value


def test_a_value_out_of_range_is_refused(node):
    node.declare_parameter('f', 2.0, FLOAT_1_TO_5)
    assert reason_of(node, Parameter('f', value=6.0)) == (
        'Parameter f out of range Min: 1.0, Max: 5.0, value: 6.0'
    )
    assert node.get_parameter('f').value == 2.0
    assert reason_of(node, Parameter('f', value=5.0)) == ''


def test_a_value_between_steps_is_refused(node):
    limits = IntegerRange(from_value=0, to_value=10, step=5)
    node.declare_parameter('i', 5, ParameterDescriptor(integer_range=[limits]))
    assert 'step' in reason_of(node, Parameter('i', value=4))
    assert reason_of(node, Parameter('i', value=10)) == ''


def test_a_default_out_of_range_is_an_error(node):
    with pytest.raises(exceptions.InvalidParameterValueException):
        node.declare_parameter('f', 0.5, FLOAT_1_TO_5)
    assert not node.has_parameter('f')


def test_a_read_only_parameter_keeps_its_value(node):
    node.declare_parameter('ro', 1, ParameterDescriptor(read_only=True))
    assert reason_of(node, Parameter('ro', value=2)) == (
        'Trying to set a read-only parameter: ro.'
    )
    with pytest.raises(exceptions.ParameterImmutableException):
        node.undeclare_parameter('ro')


def test_an_atomic_set_changes_all_or_nothing(node):
    node.declare_parameters('', [('a', 1), ('b', 2.0, FLOAT_1_TO_5)])
    assert reason_of(node, Parameter('a', value=7), Parameter('b', value=9.0))
    assert node.get_parameter('a').value == 1
    results = node.set_parameters([Parameter('a', value=7), Parameter('b', value=9.0)])
    assert [result.successful for result in results] == [True, False]
    assert node.get_parameter('a').value == 7


def test_a_callback_refuses_and_the_newest_is_asked_first(node):
    asked = []

    def refuse_large(parameters):
        asked.append('large')
        large = any(p.name == 'a' and p.value > 5 for p in parameters)
        return SetParametersResult(successful=not large, reason='too large' if large else '')

    def accept(parameters):
        asked.append('accept')
        return SetParametersResult(successful=True)

    node.declare_parameter('a', 1)
    node.add_on_set_parameters_callback(refuse_large)
    node.add_on_set_parameters_callback(accept)
    assert reason_of(node, Parameter('a', value=6)) == 'too large'
    assert asked == ['accept', 'large']
    node.remove_on_set_parameters_callback(accept)
    node.declare_parameter('b', 1)
    assert asked == ['accept', 'large', 'large']  # a declaration asks too


def test_names_below_a_prefix(node):
    node.declare_parameters('', [('a', 1), ('p.x', 2), ('p.q.y', 3)])
    assert sorted(node.get_parameters_by_prefix('p')) == ['q.y', 'x']
    assert sorted(node.list_parameters(['p'], 1).names) == ['p.x']
    assert node.list_parameters(['p'], 0).prefixes == ['p', 'p.q']


def make(name='made', **options):
    """Node with command line arguments of its own."""
    return rclpy.create_node(name, **options)


def test_overrides_come_from_the_arguments_and_from_code(node):
    given = [Parameter('a', value=3)]
    made = make(cli_args=['--ros-args', '-p', 'a:=1', '-p', 'b:=2'], parameter_overrides=given)
    assert made.declare_parameter('a', 0).value == 3
    assert made.declare_parameter('b', 0).value == 2
    assert made.declare_parameter('c', 0).value == 0
    made.destroy_node()


def test_an_override_of_another_type_is_an_error(node):
    made = make(cli_args=['--ros-args', '-p', 'f:=1'])
    with pytest.raises(exceptions.InvalidParameterTypeException):
        made.declare_parameter('f', 1.0)
    made.destroy_node()


def test_overrides_can_declare_themselves(node):
    made = make(
        cli_args=['--ros-args', '-p', 'a.b:=x'],
        automatically_declare_parameters_from_overrides=True,
    )
    assert made.get_parameter('a.b').value == 'x'
    made.destroy_node()


def test_undeclared_parameters_can_be_allowed(node):
    made = make(allow_undeclared_parameters=True)
    assert made.get_parameter('x').type_ == Parameter.Type.NOT_SET
    made.set_parameters([Parameter('x', value=1)])
    assert made.get_parameter('x').value == 1
    made.set_parameters([Parameter('x')])
    assert not made.has_parameter('x')
    made.destroy_node()


@pytest.fixture
def robot(program):
    """Robot in another process, with parameters from its command line."""
    started = program('robot', '--ros-args', '-p', 'label:=loud', '-p', 'gain:=4.0')
    started.line('ready')
    return started


def values(response):
    return [rclpy.parameter.parameter_value_to_python(value) for value in response.values]


def test_get_and_types_over_the_wire(robot, call):
    names = ['gain', 'label', 'nested.count', 'use_sim_time']
    response = call(GetParameters, '/robot/get_parameters', names=names)
    assert values(response) == [4.0, 'loud', 3, False]
    response = call(GetParameterTypes, '/robot/get_parameter_types', names=names)
    assert response.types.tolist() == [3, 4, 2, 1]


def test_one_unknown_name_empties_the_reply(robot, call):
    response = call(GetParameters, '/robot/get_parameters', names=['gain', 'unknown'])
    assert response.values == []
    response = call(DescribeParameters, '/robot/describe_parameters', names=['gain', 'unknown'])
    assert response.descriptors == []


def test_describe_over_the_wire(robot, call):
    response = call(DescribeParameters, '/robot/describe_parameters', names=['gain', 'serial'])
    gain, serial = response.descriptors
    assert gain.floating_point_range[0].to_value == 5.0 and not gain.read_only
    assert serial.read_only and serial.name == 'serial'


def test_list_over_the_wire(robot, call):
    listed = call(ListParameters, '/robot/list_parameters', prefixes=[], depth=0).result
    assert {'gain', 'serial', 'label', 'nested.count', 'use_sim_time'} <= set(listed.names)
    assert listed.prefixes == ['nested']


def test_set_over_the_wire_tells_an_event(program, call, node, spin_until):
    events = []
    topic = '/parameter_events'
    subscription = node.create_subscription(
        ParameterEvent, topic, events.append, qos_profile_parameter_events
    )
    wanted = [
        Parameter('gain', value=3.0).to_parameter_msg(),
        Parameter('gain', value=9.0).to_parameter_msg(),
        Parameter('unknown', value=1).to_parameter_msg(),
    ]
    own = subscription.get_publisher_count()
    program('robot').line('ready')
    spin_until(lambda: subscription.get_publisher_count() > own)
    response = call(SetParameters, '/robot/set_parameters', parameters=wanted)
    assert [result.successful for result in response.results] == [True, False, False]
    assert 'out of range' in response.results[1].reason
    spin_until(lambda: [e for e in events if e.changed_parameters])
    (event,) = [e for e in events if e.changed_parameters]
    changed = [(p.name, p.value.double_value) for p in event.changed_parameters]
    assert event.node == '/robot' and changed == [('gain', 3.0)]


def test_set_atomically_over_the_wire(robot, call):
    wanted = [
        Parameter('label', value='quiet').to_parameter_msg(),
        ParameterMsg(name='serial', value=Parameter('serial', value='B2').get_parameter_value()),
    ]
    name = '/robot/set_parameters_atomically'
    response = call(SetParametersAtomically, name, parameters=wanted)
    assert response.result.reason == 'Trying to set a read-only parameter: serial.'
    assert values(call(GetParameters, '/robot/get_parameters', names=['label'])) == ['loud']
