"""rclpy.node: a node with its names, parameters, clock and logger. Knows no thread."""

from rosless import arguments, logging, names, parameter_files
from rosless.clock import Clock
from rosless.context import Context, get_default_context
from rosless.duration import S_TO_NS, Duration
from rosless.exceptions import NotInitializedException
from rosless.graph import TopicEndpointInfo
from rosless.messages import get_message_class
from rosless.node_endpoints import NodeEndpoints
from rosless.node_parameters import DeclaredParameters
from rosless.parameter import Parameter
from rosless.parameter_service import ParameterService
from rosless.qos import DurabilityPolicy, QoSProfile, qos_profile_parameter_events
from rosless.time_source import TimeSource
from rosless.wire import make_topic_name

ROSOUT_PROFILE = QoSProfile(
    depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL, lifespan=Duration(seconds=10)
)


class Node(NodeEndpoints, DeclaredParameters):
    """A node in the graph. The arguments are rclpy's; `cli_args` come before the global ones."""

    def __init__(
        self,
        node_name: str,
        *,
        context: Context | None = None,
        cli_args: list[str] | None = None,
        namespace: str | None = None,
        use_global_arguments: bool = True,
        enable_rosout: bool = True,
        start_parameter_services: bool = True,
        parameter_overrides: list[Parameter] | None = None,
        allow_undeclared_parameters: bool = False,
        automatically_declare_parameters_from_overrides: bool = False,
    ):
        context = get_default_context() if context is None else context
        if not context.ok():
            raise NotInitializedException('cannot create a node')
        sources = [arguments.parse(cli_args)] if cli_args else []
        if use_global_arguments:
            sources.append(context.arguments)
        remaps = [rule for source in sources for rule in source.remaps]
        name, space = names.remap_node(
            node_name, names.make_absolute_namespace(namespace or ''), remaps
        )
        full_name = names.join_name(name, space)
        logger = logging.get_logger(full_name[1:].replace('/', '.'))
        NodeEndpoints.__init__(self, context, name, space, remaps, logger)
        overrides = _overrides(sources, full_name, parameter_overrides or [])
        DeclaredParameters.__init__(
            self, overrides, allow_undeclared_parameters, self.__publish_changes
        )
        if enable_rosout:
            self.__start_rosout()
        self._parameter_event_publisher = self.create_publisher(
            get_message_class('rcl_interfaces/msg/ParameterEvent'),
            '/parameter_events',
            qos_profile_parameter_events,
        )
        if automatically_declare_parameters_from_overrides:
            for name, parameter in self._parameter_overrides.items():
                self.declare_parameter(name, parameter.value)
        self._time_source = TimeSource(self, self._clock)
        if start_parameter_services:
            self._parameter_service = ParameterService(self)

    def __start_rosout(self) -> None:
        cls = get_message_class('rcl_interfaces/msg/Log')
        publisher = self.create_publisher(cls, '/rosout', ROSOUT_PROFILE)

        def publish(record: logging.LogRecord) -> None:
            if not self._context.ok():
                return
            message = cls(
                level=int(record.severity),
                name=record.name,
                msg=record.message,
                file=record.file,
                function=record.function,
                line=record.line,
            )
            message.stamp.sec, message.stamp.nanosec = divmod(record.stamp_ns, S_TO_NS)
            publisher.publish(message)

        logging.add_sink(self._logger.name, publish)

    def __publish_changes(self, new, changed, deleted) -> None:
        if not self._context.ok():
            return
        event = get_message_class('rcl_interfaces/msg/ParameterEvent')(
            stamp=self._clock.now().to_msg(),
            node=self.get_fully_qualified_name(),
            new_parameters=[parameter.to_parameter_msg() for parameter in new],
            changed_parameters=[parameter.to_parameter_msg() for parameter in changed],
            deleted_parameters=[parameter.to_parameter_msg() for parameter in deleted],
        )
        self._parameter_event_publisher.publish(event)

    @property
    def context(self) -> Context:
        """Context of the node."""
        return self._context

    def get_clock(self) -> Clock:
        """ROS clock: it follows /clock with use_sim_time."""
        return self._clock

    def get_logger(self) -> logging.Logger:
        """Logger named as the node, with dots."""
        return self._logger

    def destroy_node(self) -> None:
        """Delete the node with all that belongs to it; once."""
        logging.remove_sink(self._logger.name)
        super().destroy_node()

    def get_node_names(self) -> list[str]:
        """Names of all nodes of the domain."""
        return [name for name, _ in self._context.graph.nodes()]

    def get_node_names_and_namespaces(self) -> list[tuple[str, str]]:
        """Names and namespaces of all nodes of the domain."""
        return self._context.graph.nodes()

    def get_topic_names_and_types(self) -> list[tuple[str, list[str]]]:
        """Topics of the domain with their types."""
        return self._context.graph.topics()

    def get_service_names_and_types(self) -> list[tuple[str, list[str]]]:
        """Services of the domain with their types."""
        return self._context.graph.services()

    def count_publishers(self, topic: str) -> int:
        """Publishers of a topic in the domain."""
        return self._context.graph.publisher_count(make_topic_name(self.resolve_topic_name(topic)))

    def get_publishers_info_by_topic(self, topic_name: str) -> list[TopicEndpointInfo]:
        """Publishers of a topic in the domain, each with the names of its node."""
        return self._context.graph.publishers(make_topic_name(self.resolve_topic_name(topic_name)))

    def count_subscribers(self, topic: str) -> int:
        """Subscriptions of a topic in the domain."""
        return self._context.graph.subscription_count(
            make_topic_name(self.resolve_topic_name(topic))
        )


def _overrides(sources, full_name: str, given: list[Parameter]) -> dict[str, Parameter]:
    """Initial values from the arguments, the node's own before the global ones, and from code."""
    found = {}
    for source in reversed(sources):
        for key, value in parameter_files.select_for_node(source.overrides, full_name).items():
            found[key] = Parameter(key, value=value)
    return found | {parameter.name: parameter for parameter in given}
