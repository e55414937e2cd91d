"""Makes the messages of a synthetic drive, and a rosbag2 folder that holds them.

Topics and frames as a vehicle would record them; config/rigs/synthetic.yaml names the same ones.
Knows no model and no context.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.interfaces import Connection, Qos, QosDurability
from rosbags.rosbag2 import StoragePlugin, Writer

from ..data_types import NANOSECONDS
from ..geometry import yaw_quaternion
from ..world.camera import CAMERAS, PinholeCamera
from ..world.moments import State
from ..world.rendering.backdrop import Picture
from ..world.rendering.render import Renderer, make_world
from ..world.scenario import make_scenario
from .messages import RELIABLE, TYPESTORE, message_factory

START_NS = 1_760_000_000 * NANOSECONDS
DRIVE_SPLIT = 'test'  # what training has not seen
ODOMETRY_TOPIC = '/odometry'
IMAGE_RATE_HZ, ODOMETRY_RATE_HZ = 10, 50
_IMAGE_JITTER_S, _ODOMETRY_JITTER_S = 0.003, 0.001
_IMAGE_DELAY_S, _ODOMETRY_DELAY_S = (0.020, 0.040), (0.002, 0.005)  # exposure to recorder
_JPEG_QUALITY = 85
_IMAGE = 'sensor_msgs/msg/CompressedImage'
_make = message_factory()


@dataclass(frozen=True)
class RecordedMessage:
    """One message as recorded: when it arrived, and where."""

    log_ns: int
    topic: str
    type_name: str
    content: Any


def image_topic(camera: PinholeCamera) -> str:
    """Topic of the compressed images of a camera."""
    return f'/camera/{camera.name}/image_raw/compressed'


def info_topic(camera: PinholeCamera) -> str:
    """Topic of the calibration of a camera."""
    return f'/camera/{camera.name}/camera_info'


def optical_frame(camera: PinholeCamera) -> str:
    """Name of the optical frame of a camera."""
    return f'camera_{camera.name}_optical_frame'


def message_count(seconds: float) -> int:
    """How many messages `drive_messages` yields."""
    per_image, per_pose = 2 * len(CAMERAS), 2  # with calibration, with transform
    images, poses = _ticks(seconds, IMAGE_RATE_HZ), _ticks(seconds, ODOMETRY_RATE_HZ)
    return images * per_image + poses * per_pose + 1


def drive_messages(seed: int, seconds: float) -> Iterator[RecordedMessage]:
    """Messages of a drive in the order of their arrival; a function of seed and seconds.

    Stamps jitter; every picture shows the world at its stamp.
    """
    world = make_world(make_scenario(DRIVE_SPLIT, seed, seconds))
    odometry = _Odometry(np.random.default_rng([seed, 4]))
    renderers = [Renderer(world, camera) for camera in CAMERAS]
    yield RecordedMessage(START_NS, '/tf_static', 'tf2_msgs/msg/TFMessage', _static_transforms())
    for log_ns, source, stamp_ns in _schedule(seed, seconds):
        t_s = (stamp_ns - START_NS) / NANOSECONDS
        if source < len(CAMERAS):
            camera = CAMERAS[source]
            image = _image(camera, stamp_ns, renderers[source].image(t_s))
            info = _info(camera, stamp_ns)
            yield RecordedMessage(log_ns, image_topic(camera), _IMAGE, image)
            yield RecordedMessage(log_ns, info_topic(camera), 'sensor_msgs/msg/CameraInfo', info)
        else:
            pose, transform = odometry.messages(stamp_ns, world.scenario.ego(t_s))
            yield RecordedMessage(log_ns, ODOMETRY_TOPIC, 'nav_msgs/msg/Odometry', pose)
            yield RecordedMessage(log_ns, '/tf', 'tf2_msgs/msg/TFMessage', transform)


def write_bag(folder: Path, messages: Iterable[RecordedMessage]) -> Counter[str]:
    """Make `folder` a rosbag2 folder (mcap); return messages per topic."""
    counts: Counter[str] = Counter()
    with Writer(folder, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        connections: dict[str, Connection] = {}
        for message in messages:
            if message.topic not in connections:
                connections[message.topic] = writer.add_connection(
                    message.topic,
                    message.type_name,
                    typestore=TYPESTORE,
                    offered_qos_profiles=[_qos(latched=message.topic == '/tf_static')],
                )
            data = TYPESTORE.serialize_cdr(message.content, message.type_name)
            writer.write(connections[message.topic], message.log_ns, data)
            counts[message.topic] += 1
    return counts


def _ticks(seconds: float, rate_hz: int) -> int:
    return int(seconds * rate_hz + 1e-6)  # 2.3 s at 10 Hz are 23, whatever floats say


def _schedule(seed: int, seconds: float) -> list[tuple[int, int, int]]:
    """(log_ns, source, stamp_ns) in log order; source is a camera number or their count."""
    rates = [IMAGE_RATE_HZ] * len(CAMERAS) + [ODOMETRY_RATE_HZ]
    events = []
    for source, rate_hz in enumerate(rates):
        rng = np.random.default_rng([seed, 5, source])
        is_camera = source < len(CAMERAS)
        jitter_s = _IMAGE_JITTER_S if is_camera else _ODOMETRY_JITTER_S
        delay_s = _IMAGE_DELAY_S if is_camera else _ODOMETRY_DELAY_S
        for number in range(_ticks(seconds, rate_hz)):
            nominal = START_NS + (2 * number + 1) * NANOSECONDS // (2 * rate_hz)
            stamp = nominal + round(rng.uniform(-jitter_s, jitter_s) * NANOSECONDS)
            events.append((stamp + round(rng.uniform(*delay_s) * NANOSECONDS), source, stamp))
    return sorted(events)


class _Odometry:
    """Where the world lies in the odometry frame: UTM-sized coordinates, any heading."""

    def __init__(self, rng: np.random.Generator):
        self._yaw_rad = float(rng.uniform(0.4, 1.2))
        self._origin_m = rng.uniform((4.4e5, 5.39e6, 80.0), (4.6e5, 5.41e6, 140.0))

    def messages(self, stamp_ns: int, ego: State) -> tuple[Any, Any]:
        """Odometry and the transform odom -> base_link of one moment."""
        cos, sin = np.cos(self._yaw_rad), np.sin(self._yaw_rad)
        offset = np.array([cos * ego.x_m - sin * ego.y_m, sin * ego.x_m + cos * ego.y_m, 0.0])
        position = self._origin_m + offset
        quaternion = yaw_quaternion(self._yaw_rad + ego.yaw_rad)
        odometry = _make(
            'nav_msgs/msg/Odometry', header=_header(stamp_ns, 'odom'), child_frame_id='base_link'
        )
        odometry.pose.pose.position = _fields('geometry_msgs/msg/Point', position)
        odometry.pose.pose.orientation = _fields('geometry_msgs/msg/Quaternion', quaternion)
        odometry.twist.twist.linear.x = ego.speed_mps
        odometry.twist.twist.angular.z = ego.speed_mps * ego.curvature
        transform = _transform(stamp_ns, 'odom', 'base_link', position, quaternion)
        return odometry, _make('tf2_msgs/msg/TFMessage', transforms=[transform])


def _image(camera: PinholeCamera, stamp_ns: int, picture: Picture) -> Any:
    _, data = cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    header = _header(stamp_ns, optical_frame(camera))
    return _make(_IMAGE, header=header, format='jpeg', data=data.ravel())


def _info(camera: PinholeCamera, stamp_ns: int) -> Any:
    focal, (centre_x, centre_y) = camera.focal_px, camera.centre_px
    intrinsics = np.array([focal, 0.0, centre_x, 0.0, focal, centre_y, 0.0, 0.0, 1.0])
    return _make(
        'sensor_msgs/msg/CameraInfo',
        header=_header(stamp_ns, optical_frame(camera)),
        height=camera.height,
        width=camera.width,
        distortion_model='plumb_bob',
        d=np.zeros(5),
        k=intrinsics,
        r=np.eye(3).ravel(),
        p=np.insert(intrinsics, (3, 6, 9), 0.0),
    )


def _static_transforms() -> Any:
    transforms = [
        _transform(
            START_NS, 'base_link', optical_frame(camera), camera.position_m, camera.quaternion_xyzw
        )
        for camera in CAMERAS
    ]
    return _make('tf2_msgs/msg/TFMessage', transforms=transforms)


def _transform(
    stamp_ns: int, frame: str, child: str, position_m: Iterable[float], xyzw: Iterable[float]
) -> Any:
    transform = _make(
        'geometry_msgs/msg/TransformStamped', header=_header(stamp_ns, frame), child_frame_id=child
    )
    transform.transform.translation = _fields('geometry_msgs/msg/Vector3', position_m)
    transform.transform.rotation = _fields('geometry_msgs/msg/Quaternion', xyzw)
    return transform


def _header(stamp_ns: int, frame: str) -> Any:
    sec, nanosec = divmod(stamp_ns, NANOSECONDS)
    stamp = _make('builtin_interfaces/msg/Time', sec=sec, nanosec=nanosec)
    return _make('std_msgs/msg/Header', stamp=stamp, frame_id=frame)


def _fields(type_name: str, values: Iterable[float]) -> Any:
    return _make(type_name, **dict(zip('xyzw', map(float, values), strict=False)))


def _qos(latched: bool) -> Qos:
    """Reliable, so that every subscriber of `ros2 bag play` matches; /tf_static also latched."""
    durability = QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE
    return RELIABLE._replace(depth=10, durability=durability)
