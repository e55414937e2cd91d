"""Every name of ROS 2 that the package uses is there in Humble and in Jazzy.

The tables hold the part of the public API that both have, read from the branches humble and jazzy
of ros2/rclpy, ros2/launch, ros2/launch_ros and ros2/rosbag2. What Jazzy alone has, as
autostart of create_timer or wait_for_node, is not in them. They are not complete: who needs more
looks it up in both branches and adds it.
"""

import ast
from pathlib import Path
import re

import pytest
from rosbags.typesys import Stores, get_typestore

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*(ROOT / 'alpamayo_ros').rglob('*.py'), *(ROOT / 'launch').glob('*.py')])
BASE = ROOT / 'alpamayo_ros/ros/lifecycle.py'  # of the node's class
PACKAGES = ('rclpy', 'launch', 'launch_ros')

# Names that may be imported, with the keywords that a call may use.
PUBLISHING = 'callback_group event_callbacks qos_overriding_options'
NODE = (
    'context cli_args namespace use_global_arguments enable_rosout start_parameter_services '
    'parameter_overrides allow_undeclared_parameters '
    'automatically_declare_parameters_from_overrides'
)
IMPORTS = {
    'rclpy.Context': '',
    'rclpy.create_node': NODE,
    'rclpy.init': 'args context domain_id signal_handler_options',
    'rclpy.ok': 'context',
    'rclpy.shutdown': 'context uninstall_handlers',
    'rclpy.spin': 'executor',
    'rclpy.try_shutdown': 'context',
    'rclpy.callback_groups.MutuallyExclusiveCallbackGroup': '',
    'rclpy.clock.Clock': 'clock_type',
    'rclpy.clock.ClockType': '',
    'rclpy.clock.JumpThreshold': 'min_forward min_backward on_clock_change',
    'rclpy.event_handler.PublisherEventCallbacks': 'use_default_callbacks',  # of Jazzy
    'rclpy.event_handler.SubscriptionEventCallbacks': 'use_default_callbacks',
    'rclpy.qos_event.PublisherEventCallbacks': 'use_default_callbacks',  # the same in Humble
    'rclpy.qos_event.SubscriptionEventCallbacks': 'use_default_callbacks',
    'rclpy.exceptions.NameValidationException': '',
    'rclpy.exceptions.ParameterException': '',
    'rclpy.duration.Duration': 'seconds nanoseconds',
    'rclpy.executors.ExternalShutdownException': '',
    'rclpy.executors.SingleThreadedExecutor': 'context',
    'rclpy.lifecycle.LifecycleNode': f'enable_communication_interface {NODE}',
    'rclpy.lifecycle.LifecycleState': '',
    'rclpy.lifecycle.TransitionCallbackReturn': '',
    'rclpy.node.Node': NODE,
    'rclpy.parameter.Parameter': 'name type_ value',
    'rclpy.qos.DurabilityPolicy': '',
    'rclpy.qos.QoSCompatibility': '',
    'rclpy.qos.QoSPolicyKind': '',
    'rclpy.qos.QoSProfile': 'history depth reliability durability lifespan deadline liveliness '
    'liveliness_lease_duration avoid_ros_namespace_conventions',
    'rclpy.qos.ReliabilityPolicy': '',
    'rclpy.qos.qos_check_compatible': '',
    'rclpy.qos_overriding_options.InvalidQosOverridesError': '',
    'rclpy.qos_overriding_options.QoSOverridingOptions': 'policy_kinds callback entity_id',
    'rclpy.serialization.deserialize_message': '',
    'rclpy.signals.SignalHandlerOptions': '',
    'rclpy.task.Future': 'executor',
    'launch.LaunchDescription': '',
    'launch.actions.DeclareLaunchArgument': 'default_value description choices',
    'launch.actions.ExecuteProcess': 'cmd prefix name cwd env additional_env output shell on_exit '
    'sigterm_timeout sigkill_timeout emulate_tty respawn respawn_delay condition',
    'launch.actions.IncludeLaunchDescription': 'launch_arguments condition',
    'launch.actions.OpaqueFunction': 'function args kwargs condition',
    'launch.actions.RegisterEventHandler': 'condition',
    'launch.actions.Shutdown': 'reason condition',
    'launch.actions.TimerAction': 'period actions cancel_on_shutdown condition',
    'launch.conditions.IfCondition': '',
    'launch.event_handlers.OnProcessExit': 'target_action on_exit',
    'launch.event_handlers.OnProcessIO': 'target_action on_stdin on_stdout on_stderr',
    'launch.substitutions.LaunchConfiguration': 'default',
    'launch.substitutions.PathJoinSubstitution': '',
    'launch_ros.actions.Node': 'package executable name namespace exec_name parameters remappings '
    'ros_arguments arguments output respawn respawn_delay condition',
    'launch_ros.actions.SetParametersFromFile': 'filename condition',
    'launch_ros.parameter_descriptions.ParameterValue': 'value_type',
    'launch_ros.substitutions.FindPackageShare': '',
}
# Methods of nodes and executors, likewise.
METHODS = {
    'add_on_set_parameters_callback': '',
    'count_publishers': '',
    'create_client': 'qos_profile callback_group',
    'create_publisher': f'{PUBLISHING} publisher_class',
    'create_service': 'qos_profile callback_group',
    'create_subscription': f'{PUBLISHING} raw',
    'create_timer': 'callback_group clock',
    'declare_parameter': 'descriptor ignore_override',
    'destroy_node': '',
    'destroy_subscription': '',
    'get_clock': '',
    'get_fully_qualified_name': '',
    'get_logger': '',
    'get_namespace': '',
    'get_parameter': '',
    'get_publishers_info_by_topic': 'no_mangle',
    'has_parameter': '',
    'get_topic_names_and_types': 'no_demangle',
    'resolve_topic_name': 'only_expand',
    'trigger_activate': '',
    'trigger_cleanup': '',
    'trigger_configure': '',
    'trigger_deactivate': '',
    'add_node': '',
    'create_task': '',
    'remove_node': '',
    'shutdown': 'timeout_sec',
    'spin': '',
    'spin_once': 'timeout_sec',
    'spin_until_future_complete': 'timeout_sec',
}
# Methods of what those return; a logger takes the keywords of its filters.
LOGGED = 'throttle_duration_sec throttle_time_source_type skip_first once'
RETURNED = {
    'get_clock': {'now': '', 'create_jump_callback': 'pre_callback post_callback'},
    'get_logger': dict.fromkeys(('debug', 'info', 'warning', 'error', 'fatal'), LOGGED),
}
# Options of `ros2 bag` that the launch files use.
BAG_OPTIONS = {
    'play': {'--clock', '--rate', '--loop', '--disable-keyboard-controls'},
    'record': {'--use-sim-time', '--regex', '--output'},
}
INTERFACE = re.compile(r"'([a-z]+_\w+/msg/\w+)'")
NOT_OF_ROS = {
    'autoware_planning_msgs',
    'autoware_vehicle_msgs',
    'ffmpeg_image_transport_msgs',
    'foxglove_msgs',
}


def imports_of(tree):
    """Local name to dotted name, of all that is imported from the packages of ROS 2."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                found[alias.asname or alias.name] = f'{node.module}.{alias.name}'
    return {k: name for k, name in found.items() if name.split('.')[0] in PACKAGES}


def keywords_of(call):
    """Names of the keyword arguments of a call."""
    return {keyword.arg for keyword in call.keywords if keyword.arg}


def own_names(tree):
    """Names of the functions that a module defines and of the attributes that it sets."""
    nodes = list(ast.walk(tree))
    functions = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    attributes = (node for node in nodes if isinstance(node, ast.Attribute))
    return functions | {node.attr for node in attributes if isinstance(node.ctx, ast.Store)}


def is_node(value, tree):
    """Whether an expression is a node or an executor, by its name."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    bases = {ast.unparse(base) for node in classes for base in node.bases}
    name = getattr(value, 'id', getattr(value, 'attr', ''))
    is_class = any(base.endswith('Node') for base in bases)
    return name.endswith(('node', 'executor')) or (name == 'self' and is_class)


def faults_of(source):
    """Lines about what is not in the tables."""
    tree = ast.parse(source)
    imported, own = imports_of(tree), own_names(tree) | own_names(ast.parse(BASE.read_text()))
    faults = [name for name in imported.values() if name not in {*IMPORTS, *PACKAGES}]
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        allowed, name = None, ast.unparse(call.func)
        if isinstance(call.func, ast.Name):
            allowed = IMPORTS.get(imported.get(name, ''))
        elif isinstance(call.func, ast.Attribute):
            receiver, method = call.func.value, call.func.attr
            source_of = getattr(getattr(receiver, 'func', None), 'attr', '')
            if imported.get(ast.unparse(receiver)) in PACKAGES:
                allowed = IMPORTS.get(name)
                faults += [] if name in IMPORTS else [name]
            elif source_of in RETURNED:
                allowed = RETURNED[source_of].get(method)
                faults += [] if allowed is not None else [name]
            elif imported and is_node(receiver, tree) and method not in own:
                allowed = METHODS.get(method)
                faults += [] if allowed is not None else [name]
        if allowed is not None:
            faults += [f'{name}({k}=)' for k in sorted(keywords_of(call) - {*allowed.split()})]
    return faults


def test_what_is_used_of_ros_is_in_humble_and_in_jazzy():
    found = {path: faults_of(path.read_text(encoding='utf-8')) for path in SOURCES}
    assert {path.name: faults for path, faults in found.items() if faults} == {}


@pytest.mark.parametrize(
    'source, fault',
    [
        ('from rclpy.experimental import EventsExecutor', 'rclpy.experimental.EventsExecutor'),
        ('import rclpy\nrclpy.init(args=[], colour=1)', 'rclpy.init(colour=)'),
        (
            'from rclpy.node import Node\nclass A(Node):\n'
            '  def f(self):\n    self.create_timer(1.0, self.f, autostart=False)\n',
            'self.create_timer(autostart=)',
        ),
        (
            'from rclpy.node import Node\ndef f(node):\n  node.wait_for_node("a", 1.0)',
            'node.wait_for_node',
        ),
        (
            'from launch.actions import ExecuteProcess\nExecuteProcess(respawn_max_retries=1)',
            'ExecuteProcess(respawn_max_retries=)',
        ),
    ],
)
def test_what_jazzy_alone_has_would_be_found(source, fault):
    assert faults_of(source) == [fault]


def test_ros2_bag_is_called_with_options_that_both_have():
    trees = [ast.parse(path.read_text('utf-8')) for path in (ROOT / 'launch').glob('*.py')]
    commands = [
        [c.value for c in ast.walk(node.value) if isinstance(c, ast.Constant)]
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg == 'cmd'
    ]
    used = {verb: set() for verb in BAG_OPTIONS}
    for words in commands:
        if words[:2] == ['ros2', 'bag']:
            used[words[2]] |= {word for word in words if word.startswith('--')}
    assert used == BAG_OPTIONS


def test_messages_that_are_made_have_the_same_fields_in_humble_and_in_jazzy():
    texts = [path.read_text(encoding='utf-8') for path in SOURCES]
    names = {name for text in texts for name in INTERFACE.findall(text)}
    names = {name for name in names if name.split('/')[0] not in NOT_OF_ROS}
    humble, jazzy = (get_typestore(s) for s in (Stores.ROS2_HUMBLE, Stores.ROS2_JAZZY))
    assert len(names) > 20
    for name in sorted(names):
        assert humble.fielddefs[name][1] == jazzy.fielddefs[name][1], name
