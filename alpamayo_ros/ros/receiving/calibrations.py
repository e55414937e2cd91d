"""Calibrations of cameras for which the rig has none: intrinsics of CameraInfo, places of TF.

For node and replay alike. The model sees no calibration: pictures are drawn with it, and it tells
whether a camera sees what its name stands for. Knows no rclpy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ...rig import DISTORTION_LENGTHS, CameraCalibration, RigCamera
from ...transform_tree import NoTransform, TransformTree
from ..diagnostics.status import OK, WARN, Status
from ..input_topics import STATIC_TOPIC
from .field_of_view import describe_wrong_views, measure_view

INFO_TYPE = 'sensor_msgs/msg/CameraInfo'
TRANSPORTS = ('compressed', 'ffmpeg', 'video', 'h264', 'foxglove')  # last words of image topics
PINHOLE_MODELS = ('', 'plumb_bob', 'rational_polynomial')


class LiveCalibrations:
    """What is known of the cameras' calibrations while the node runs.

    image_topics: by camera, as the node has resolved them. wanted: topics of CameraInfo that are
    still waited for, by camera.
    """

    def __init__(
        self, cameras: Iterable[RigCamera], image_topics: Mapping[str, str], tree: TransformTree
    ) -> None:
        self._cameras = {camera.name: camera for camera in cameras}
        self._image_topics, self._tree = image_topics, tree
        topics = list_info_topics(image_topics)
        self.wanted = {
            name: topics[name] for name, x in self._cameras.items() if x.calibration is None
        }
        self._faults = {
            name: f'no {INFO_TYPE} on {" or ".join(topics[name]) or "a topic of its own"}'
            for name in self.wanted
        }

    def add_info(self, name: str, info: Any, base: str) -> str:
        """Take the CameraInfo of a camera; returns a warning where the view does not fit its name.

        base: frame of the rear axle, '' while no odometry has named it. A camera is wanted until
        all that its calibration needs has come; then nothing more is taken.
        """
        if name not in self.wanted:
            return ''
        try:
            if not base:
                raise ValueError('no odometry has named the frame of the rear axle')
            calibration = read_calibration(info, self._image_topics[name], self._tree, base)
        except ValueError as error:
            self._faults[name] = str(error)
            return ''
        camera = self._cameras[name] = replace(self._cameras[name], calibration=calibration)
        del self.wanted[name], self._faults[name]
        return ''.join(describe_wrong_views([camera]))

    def describe(self) -> Status:
        """Status of /diagnostics: the view of every camera, or why it is not known."""
        values = dict(self._faults)
        for name, camera in self._cameras.items():
            if camera.calibration is not None:
                values[name] = f'{measure_view(camera.calibration):.0f} degrees'
        faults = [f'{name}: {text}' for name, text in self._faults.items()]
        faults += describe_wrong_views(self._cameras.values())
        return Status(WARN if faults else OK, 'calibration', '; '.join(faults) or 'known', values)


def list_info_topics(image_topics: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Where the CameraInfo of each camera may be, from the topics of the images.

    Below the base topic of the image, or beside it, as image_transport names it. One that is
    beside several cameras is of none of them.
    """
    found = {}
    for camera, topic in image_topics.items():
        base, _, last = topic.rpartition('/')
        image = base if last in TRANSPORTS else topic
        found[camera] = f'{image}/camera_info', f'{image.rpartition("/")[0]}/camera_info'
    counts = Counter(topic for topics in found.values() for topic in topics)
    return {name: tuple(x for x in topics if counts[x] == 1) for name, topics in found.items()}


def read_calibration(
    info: Any, image_topic: str, tree: TransformTree, base: str
) -> CameraCalibration:
    """Calibration by a CameraInfo and the static transforms from its frame to `base`.

    Raises ValueError for intrinsics that cannot be used and where a transform is missing.
    """
    intrinsics = _read_intrinsics(info, is_rectified='rect' in image_topic)
    frame = info.header.frame_id.lstrip('/')
    if not frame:
        raise ValueError('its CameraInfo has no frame_id')
    try:
        position, quaternion = tree.find(base, frame)
    except NoTransform as error:
        raise ValueError(f'{STATIC_TOPIC}: {error}') from error
    place = tuple(position.tolist()), tuple(quaternion.tolist())
    return replace(intrinsics, position_m=place[0], quaternion_xyzw=place[1])


def _read_intrinsics(info: Any, is_rectified: bool) -> CameraCalibration:
    """Intrinsics of a CameraInfo, at the origin; is_rectified: matrix P, without distortion."""
    k, row = (info.p, 4) if is_rectified else (info.k, 3)
    fx, cx, fy, cy = (float(k[at]) for at in (0, 2, row + 1, row + 2))
    distortion = () if is_rectified else tuple(map(float, info.d))
    if not (fx > 0 and fy > 0 and info.width and info.height):
        raise ValueError('its CameraInfo is that of a camera without calibration')
    is_pinhole = info.distortion_model in PINHOLE_MODELS and len(distortion) in DISTORTION_LENGTHS
    if distortion and not is_pinhole:
        raise ValueError(
            f'distortion model {info.distortion_model!r} with {len(distortion)} coefficients'
        )
    size = int(info.width), int(info.height)
    return CameraCalibration(*size, fx, fy, cx, cy, distortion, (0.0,) * 3, (0.0, 0.0, 0.0, 1.0))
