"""The topics that a rig names, with their message types."""

from __future__ import annotations

from ..rig import CameraRig

ODOMETRY = 'odometry'  # name of the input that is no camera
ODOMETRY_TYPE = 'nav_msgs/msg/Odometry'

NAVIGATION, NAVIGATION_TYPE = 'input/navigation', 'std_msgs/msg/String'  # below the node's name
ROUTE, ROUTE_TYPE = 'input/route', 'nav_msgs/msg/Path'


def list_input_topics(rig: CameraRig) -> dict[str, tuple[str, str]]:
    """Inputs by name: topic and message type."""
    cameras = {camera.name: (camera.topic, camera.message_type) for camera in rig.cameras}
    return {**cameras, ODOMETRY: (rig.odometry_topic, ODOMETRY_TYPE)}
