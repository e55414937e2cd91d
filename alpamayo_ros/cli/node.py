"""`alpamayo_node`: the node on the vehicle, where a ROS 2 installation is sourced."""

from __future__ import annotations

import argparse
import sys

from ..ros.parameter_tables import format_help
from .entry import command
from .processes.launcher import require_rclpy


@command
def main(argv: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(
        prog='alpamayo_node',
        usage='alpamayo_node --ros-args -p rig:=NAME -p checkpoint:=DIR [-p NAME:=VALUE ...]',
        description='Subscribes to cameras and odometry and publishes the predicted path.\n'
        'Arguments are those of any ROS 2 node; in a package, use ros2 launch or ros2 run.',
        epilog=f'parameters:\n{format_help()}',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.parse_known_args(argv)  # answers --help; the rest is for rclpy
    require_rclpy()
    from ..ros.node import main as run

    return run(argv)


if __name__ == '__main__':
    sys.exit(main())
