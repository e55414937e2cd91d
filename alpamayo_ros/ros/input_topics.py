"""The topics that a rig names, with their message types."""

from __future__ import annotations

from ..rig import CameraRig

ODOMETRY = 'odometry'  # name of the input that is no camera
ODOMETRY_TYPE = 'nav_msgs/msg/Odometry'


def list_input_topics(rig: CameraRig) -> dict[str, tuple[str, str]]:
    """Inputs by name: topic and message type."""
    cameras = {camera.name: (camera.topic, camera.message_type) for camera in rig.cameras}
    return {**cameras, ODOMETRY: (rig.odometry_topic, ODOMETRY_TYPE)}
