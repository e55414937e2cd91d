"""The topics that a rig names, with their message types."""

from __future__ import annotations

from ..rig import CameraRig

ODOMETRY, TWIST = 'odometry', 'twist'  # names of the inputs that are no cameras

NAVIGATION, NAVIGATION_TYPE = 'input/navigation', 'std_msgs/msg/String'  # below the node's name
ROUTE, ROUTE_TYPE = 'input/route', 'nav_msgs/msg/Path'
TF_TYPE, STATIC_TOPIC = 'tf2_msgs/msg/TFMessage', '/tf_static'
LANELET_ROUTE_TYPE = 'autoware_planning_msgs/msg/LaneletRoute'  # where there is a map for it


def list_input_topics(rig: CameraRig) -> dict[str, tuple[str, str]]:
    """Inputs by name: topic and message type; the cameras, then what tells the motion."""
    cameras = {camera.name: (camera.topic, camera.message_type) for camera in rig.cameras}
    return {**cameras, **list_ego_topics(rig)}


def list_ego_topics(rig: CameraRig) -> dict[str, tuple[str, str]]:
    """Inputs that tell the motion of the vehicle, by name: topic and message type."""
    topics = {ODOMETRY: (rig.odometry_topic, rig.ego.type)}
    if rig.ego.twist_topic:
        topics[TWIST] = rig.ego.twist_topic, rig.ego.twist_type
    return topics
