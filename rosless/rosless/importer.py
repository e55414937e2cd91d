"""Makes `rclpy` and message packages importable where ROS 2 is not installed.

The finder stands last in sys.meta_path, so it never shadows an installed rclpy. The modules have
only names that rclpy has as well: a program that imports here also imports there.
"""

from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
import sys
from types import ModuleType

from rosless import messages

# module below rclpy ('' is rclpy itself) -> the names it has, from the module of that name here
NAMES = {
    '': """Context Future Parameter SignalHandlerOptions create_node get_default_context
        get_global_executor get_rmw_implementation_identifier init install_signal_handlers ok
        shutdown spin spin_once spin_until_future_complete try_shutdown
        uninstall_signal_handlers""",
    '_rclpy_pybind11': 'RCLError RCLInvalidROSArgsError UnknownROSArgsError',
    'callback_groups': 'CallbackGroup MutuallyExclusiveCallbackGroup ReentrantCallbackGroup',
    'client': 'Client',
    'clock': """Clock ClockChange ClockType Duration JumpHandle JumpThreshold ROSClock Time
        TimeJump""",
    'clock_type': 'ClockType',
    'context': 'Context',
    'duration': 'Duration Infinite',
    'event_handler': 'EventHandler PublisherEventCallbacks SubscriptionEventCallbacks',
    'exceptions': """InvalidHandle InvalidNamespaceException InvalidNodeNameException
        InvalidParameterException InvalidParameterTypeException InvalidParameterValueException
        InvalidServiceNameException InvalidTopicNameException NameValidationException
        NotInitializedException ParameterAlreadyDeclaredException ParameterException
        ParameterImmutableException ParameterNotDeclaredException
        ParameterUninitializedException ROSInterruptException""",
    'executors': """Executor ExternalShutdownException MultiThreadedExecutor
        SingleThreadedExecutor""",
    'lifecycle': 'LifecycleNode LifecycleState TransitionCallbackReturn',
    'logging': 'LoggingSeverity get_logger get_logger_effective_level set_logger_level',
    'node': 'Node',
    'parameter': 'PARAMETER_SEPARATOR_STRING Parameter parameter_value_to_python',
    'publisher': 'Publisher',
    'qos': """DurabilityPolicy HistoryPolicy InvalidQoSProfileException LivelinessPolicy
        QoSDurabilityPolicy QoSHistoryPolicy QoSLivelinessPolicy QoSPolicyKind QoSPresetProfiles
        QoSCompatibility QoSProfile QoSReliabilityPolicy ReliabilityPolicy qos_check_compatible
        qos_profile_default qos_profile_parameter_events qos_profile_parameters
        qos_profile_sensor_data qos_profile_services_default qos_profile_system_default""",
    'qos_overriding_options': 'InvalidQosOverridesError QoSOverridingOptions QosCallbackResult',
    'serialization': 'deserialize_message serialize_message',
    'service': 'Service',
    'signals': """SignalHandlerOptions get_current_signal_handlers_options
        install_signal_handlers uninstall_signal_handlers""",
    'subscription': 'Subscription',
    'task': 'Future Task',
    'time': 'Time',
    'timer': 'Timer',
    'utilities': """get_default_context get_rmw_implementation_identifier ok remove_ros_args
        shutdown try_shutdown""",
}
SOURCES = {'': 'api', '_rclpy_pybind11': 'rcl_error', 'clock_type': 'time'}
# what `import rclpy` and `import rclpy.node` import besides
AT_ONCE = ('_rclpy_pybind11', 'context', 'exceptions', 'parameter', 'signals', 'task', 'utilities')
WITH_NODE = tuple(NAMES.keys() - {'', 'node', 'lifecycle', 'serialization', *AT_ONCE})


class Finder(MetaPathFinder, Loader):
    """Finds and fills the modules of rclpy and of the message packages."""

    def find_spec(self, fullname, path=None, target=None):
        """Spec of a module that rosless offers, else None."""
        package, _, rest = fullname.partition('.')
        if package == 'rclpy':
            return ModuleSpec(fullname, self, is_package=not rest) if rest in NAMES else None
        offered_messages, services = messages.list_names(package)
        offered = {'': offered_messages or services, 'msg': offered_messages, 'srv': services}
        return ModuleSpec(fullname, self, is_package=not rest) if offered.get(rest) else None

    def exec_module(self, module: ModuleType) -> None:
        """Fill a module with its names."""
        package, _, rest = module.__name__.partition('.')
        if package == 'rclpy':
            source = import_module(f'rosless.{SOURCES.get(rest, rest)}')
            for name in NAMES[rest].split():
                setattr(module, name, getattr(source, name))
            for other in {'': AT_ONCE, 'node': WITH_NODE}.get(rest, ()):
                import_module(f'rclpy.{other}')
        elif rest:
            of_messages, of_services = messages.list_names(package)
            make = messages.get_message_class if rest == 'msg' else messages.get_service_class
            for full in of_messages if rest == 'msg' else of_services:
                setattr(module, full.rsplit('/', 1)[1], make(full))


def install() -> str:
    """Make `rclpy` importable, unless it is; returns one line that says which one it is."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        found = find_spec('rclpy')
        if found is not None:
            return f'rosless: the installed rclpy is used: {found.origin}'
        sys.meta_path.append(Finder())
    return 'rosless: there is no ROS 2 here, rosless stands in for rclpy'
