"""ROS time of a node: with the parameter use_sim_time its clock follows /clock."""

from rosless.clock import ROSClock
from rosless.messages import get_message_class
from rosless.parameter import Parameter
from rosless.qos import QoSProfile, ReliabilityPolicy
from rosless.time import Time

USE_SIM_TIME = 'use_sim_time'


class TimeSource:
    """Sets the clock of one node from /clock while use_sim_time is true."""

    def __init__(self, node, clock: ROSClock):
        self._node = node
        self._clock = clock
        self._subscription = None
        if not node.has_parameter(USE_SIM_TIME):
            node.declare_parameter(USE_SIM_TIME, False)
        self._follow(node.get_parameter(USE_SIM_TIME).value is True)
        node.add_on_set_parameters_callback(self._on_set_parameters)

    def _follow(self, enabled: bool) -> None:
        self._clock._set_ros_time_is_active(enabled)
        if enabled and self._subscription is None:
            # best effort, as the players publish: a reliable reader would get nothing
            self._subscription = self._node.create_subscription(
                get_message_class('rosgraph_msgs/msg/Clock'),
                '/clock',
                self._on_clock,
                QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT),
            )
        elif not enabled and self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def _on_clock(self, message) -> None:
        self._clock.set_ros_time_override(Time.from_msg(message.clock))

    def _on_set_parameters(self, parameters: list[Parameter]):
        result = get_message_class('rcl_interfaces/msg/SetParametersResult')
        for parameter in parameters:
            if parameter.name == USE_SIM_TIME:
                if parameter.type_ != Parameter.Type.BOOL:
                    return result(successful=False, reason=f'{USE_SIM_TIME} is a bool')
                self._follow(parameter.value)
        return result(successful=True)
