"""rclpy's API subset for machines without ROS 2, on the ROS 2 wire, over Cyclone DDS.

Start a program with `python -m rosless MODULE --ros-args ...`, or call `install()` before the
first `import rclpy`. Nothing is replaced where the real rclpy can be imported.
"""

from rosless.importer import install

__all__ = ['install']
