"""The topics that a rig names, with their message types."""

from __future__ import annotations

from ..rig import CameraRig

ODOMETRY = 'odometry'  # name of the input that is no camera
ODOMETRY_TYPE = 'nav_msgs/msg/Odometry'


def list_input_topics(rig: CameraRig) -> dict[str, tuple[str, str]]:
    """Inputs by name: topic and message type.

    A camera topic that ends in 'compressed' is a CompressedImage, as image_transport names them.
    """
    cameras = {
        camera.name: (
            camera.topic,
            'sensor_msgs/msg/CompressedImage'
            if camera.topic.endswith('compressed')
            else 'sensor_msgs/msg/Image',
        )
        for camera in rig.cameras
    }
    return {**cameras, ODOMETRY: (rig.odometry_topic, ODOMETRY_TYPE)}
