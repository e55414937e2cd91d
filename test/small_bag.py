"""A small recorded drive for tests: four cameras with tiny JPEGs, odometry on an arc.

Messages are a plain list of (log time, topic, message), so a test can drop, change or add some
before the bag is written.
"""

from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from alpamayo_ros.bags.messages import TYPESTORE, message_factory

START_NS = 1_700_000_000_000_000_000
CAMERAS = ('cross_left', 'front_wide', 'cross_right', 'front_tele')
INDICES = (0, 1, 2, 6)
ODOMETRY = '/odometry'
ORIGIN_M = np.array([4.5e5, 5.4e6, 100.0])
make = message_factory()


def image_topic(camera):
    return f'/camera/{camera}/compressed'


def header(stamp_ns, frame_id='odom'):
    sec, nanosec = divmod(int(stamp_ns), 10**9)
    stamp = make('builtin_interfaces/msg/Time', sec=sec, nanosec=nanosec)
    return make('std_msgs/msg/Header', stamp=stamp, frame_id=frame_id)


def jpeg(width=64, height=48):
    picture = np.full((height, width, 3), 90, np.uint8)
    cv2.line(picture, (0, height), (width, 0), (40, 200, 80), 3)
    return cv2.imencode('.jpg', picture)[1].ravel()


PICTURE = jpeg()


def compressed(stamp_ns, data=PICTURE, codec='jpeg'):
    return make(
        'sensor_msgs/msg/CompressedImage', header=header(stamp_ns), format=codec, data=data
    )


def odometry(stamp_ns, position, yaw, speed, frame_id='odom'):
    pose = make(
        'geometry_msgs/msg/Pose',
        position=make('geometry_msgs/msg/Point', **dict(zip('xyz', position, strict=True))),
        orientation=make('geometry_msgs/msg/Quaternion', z=np.sin(yaw / 2), w=np.cos(yaw / 2)),
    )
    linear = make('geometry_msgs/msg/Vector3', x=float(speed))
    return make(
        'nav_msgs/msg/Odometry',
        header=header(stamp_ns, frame_id),
        child_frame_id='base_link',
        pose=make('geometry_msgs/msg/PoseWithCovariance', pose=pose),
        twist=make(
            'geometry_msgs/msg/TwistWithCovariance',
            twist=make('geometry_msgs/msg/Twist', linear=linear),
        ),
    )


def drive(seconds=4.0, speed=10.0, curvature=0.0, yaw0=0.6):
    """(log_ns, topic, message) of a drive at constant speed and curvature, by log time."""
    found = []
    for tick in range(round(seconds * 10) + 1):
        stamp = START_NS + tick * 100_000_000
        for camera in CAMERAS:
            found.append((stamp + 20_000_000, image_topic(camera), compressed(stamp)))
    for tick in range(round(seconds * 50) + 1):
        t = tick / 50
        turned = curvature * speed * t
        local = np.array([speed * t * np.sinc(turned / np.pi), 0.0])
        if turned:
            local[1] = (1 - np.cos(turned)) / curvature
        cos, sin = np.cos(yaw0), np.sin(yaw0)
        offset = [cos * local[0] - sin * local[1], sin * local[0] + cos * local[1], 0.0]
        stamp = START_NS + tick * 20_000_000
        pose = odometry(stamp, ORIGIN_M + offset, yaw0 + turned, speed)
        found.append((stamp + 3_000_000, ODOMETRY, pose))
    return sorted(found, key=lambda message: message[0])


def write(path, messages, storage='mcap', compression='none'):
    """Write a rosbag2 folder."""
    writer = Writer(path, version=8, storage_plugin=StoragePlugin[storage.upper()])
    writer.set_compression(CompressionMode[compression.upper()], CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for log_ns, topic, message in messages:
            kind = message.__msgtype__
            if (topic, kind) not in connections:
                connections[topic, kind] = writer.add_connection(topic, kind, typestore=TYPESTORE)
            data = TYPESTORE.serialize_cdr(message, kind)
            writer.write(connections[topic, kind], log_ns, data)
    return path


RIG = '\n'.join(
    ['anchor: front_wide', f'odometry_topic: {ODOMETRY}', 'cameras:']
    + [
        line
        for name, index in zip(CAMERAS, INDICES, strict=True)
        for line in (
            f'  - name: {name}',
            f'    index: {index}',
            f'    topic: {image_topic(name)}',
            *(
                [
                    '    calibration:',
                    '      {width: 64, height: 48, fx: 40.0, fy: 40.0, cx: 31.5, cy: 23.5,',
                    '       distortion: [], base_from_camera: {position_m: [1.5, 0.0, 1.5],',
                    '       quaternion_xyzw: [-0.5, 0.5, -0.5, 0.5]}}',
                ]
                if name == 'front_wide'
                else []
            ),
        )
    ]
)


def write_rig(folder: Path) -> Path:
    path = folder / 'small.yaml'
    path.write_text(RIG)
    return path
