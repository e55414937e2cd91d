"""How programs that need rclpy are started, with and without a ROS 2 installation.

What stands in for rclpy where there is none starts a program as `python -m STANDIN MODULE`; a
process that was started so starts others in the same way.
"""

from __future__ import annotations

import importlib.util
import sys

from ..errors import BadInput


def launcher() -> list[str]:
    """Command line of this process up to the name of its module; `python -m` for a script."""
    spec = sys.modules['__main__'].__spec__
    argv = sys.orig_argv
    return argv[: argv.index(spec.name)] if spec and spec.name in argv else [sys.executable, '-m']


def require_rclpy() -> None:
    """Raise BadInput where rclpy cannot be imported."""
    if importlib.util.find_spec('rclpy') is None:
        raise BadInput(
            'rclpy is not there: source a ROS 2 installation first, '
            'as in `source /opt/ros/jazzy/setup.bash`'
        )
