"""Errors that rclpy raises from its C layer; catch them as RuntimeError."""


class RCLError(RuntimeError):
    """An operation on something that is shut down or destroyed, or that DDS refused."""


class UnknownROSArgsError(RCLError):
    """An argument after --ros-args is not one that ROS 2 knows."""


class RCLInvalidROSArgsError(RCLError):
    """An argument after --ros-args has no valid value."""
