"""rclpy.utilities: the default context, and arguments that are not ROS's."""

from collections.abc import Sequence
import sys

from rosless import arguments
from rosless.context import Context, get_default_context

__all__ = [
    'get_default_context',
    'get_rmw_implementation_identifier',
    'ok',
    'remove_ros_args',
    'shutdown',
    'try_shutdown',
]


def remove_ros_args(args: Sequence[str] | None = None) -> list[str]:
    """Arguments (sys.argv when None) less those from --ros-args to --."""
    return arguments.parse(sys.argv if args is None else args).rest


def ok(*, context: Context | None = None) -> bool:
    """Whether a context, the default one when None, is between init and shutdown."""
    return (context or get_default_context()).ok()


def shutdown(*, context: Context | None = None) -> None:
    """End a context; RuntimeError if it has ended already."""
    (context or get_default_context(shutting_down=True)).shutdown()


def try_shutdown(*, context: Context | None = None) -> None:
    """End a context unless it has ended already."""
    (context or get_default_context(shutting_down=True)).try_shutdown()
    # CPython dies of SIGINT at its end when one has interrupted exec of a string, even if it was
    # caught, and rosbags compiles the code for each type so. The next exec makes it forget.
    exec('')


def get_rmw_implementation_identifier() -> str:
    """Name of the middleware that services and parameters work with."""
    return 'rmw_cyclonedds_cpp'
