"""The sensors of a vehicle: config/rigs/<rig>.yaml, read and checked.

Knows no ROS, no images and no buffers. Every mistake in a file is a BadInput of one line that
names the file and the key.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
import math
from pathlib import Path
import re

from .checked_yaml import YamlSection, load_yaml, shorten
from .errors import BadInput
from .limits import ContextLimits
from .shipped import find_shipped

CAMERA_INDEX = {  # model index of each camera: docs/model.md section 5
    'cross_left': 0,
    'front_wide': 1,
    'cross_right': 2,
    'rear_left': 3,
    'rear_tele': 4,
    'rear_right': 5,
    'front_tele': 6,
}
DATASET_NAMES = {  # of each camera in the makers' data set and in their simulator
    'cross_left': 'camera_cross_left_120fov',
    'front_wide': 'camera_front_wide_120fov',
    'cross_right': 'camera_cross_right_120fov',
    'rear_left': 'camera_rear_left_70fov',
    'rear_tele': 'camera_rear_tele_30fov',
    'rear_right': 'camera_rear_right_70fov',
    'front_tele': 'camera_front_tele_30fov',
}
R1_CAMERAS = ('cross_left', 'front_wide', 'cross_right', 'front_tele')
MAX_TOLERANCE_S = 0.1  # one grid step; above half of it the buffer's check of repeats decides
UPRIGHT = 0.5  # a camera may lean by up to 60 degrees, or hang upside down
DISTORTION_LENGTHS = (0, 4, 5, 8, 12, 14)  # OpenCV's distortion models
IMAGE_TYPES = (
    'sensor_msgs/msg/Image',
    'sensor_msgs/msg/CompressedImage',
    'ffmpeg_image_transport_msgs/msg/FFMPEGPacket',
    'foxglove_msgs/msg/CompressedVideo',
)
TRANSPORTS = {'compressed': IMAGE_TYPES[1], 'ffmpeg': IMAGE_TYPES[2]}  # by the end of a topic
ODOMETRY_TYPES = (
    'nav_msgs/msg/Odometry',
    'geometry_msgs/msg/PoseWithCovarianceStamped',
    'geometry_msgs/msg/PoseStamped',
    'tf2_msgs/msg/TFMessage',
)
TWIST_TYPES = (
    'geometry_msgs/msg/TwistWithCovarianceStamped',
    'geometry_msgs/msg/TwistStamped',
    'autoware_vehicle_msgs/msg/VelocityReport',
)
TWIST_USES = ('use', 'ignore')
_TOPIC = re.compile(r'/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*', re.ASCII)  # a name of ROS 2


@dataclass(frozen=True)
class CameraCalibration:
    """Pinhole intrinsics in pixels of a width x height image, and where the camera sits.

    distortion: OpenCV's coefficients. position_m and quaternion_xyzw: base_from_camera of the
    optical frame (x right, y down, z forward).
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...]
    position_m: tuple[float, ...]
    quaternion_xyzw: tuple[float, ...]


@dataclass(frozen=True)
class RigCamera:
    """One camera: name and index in the model, topic, how far a frame may be off the grid.

    type: message type of the topic, one of IMAGE_TYPES, or '' where the file names none.
    bit_depth: significant low bits of each channel in images of 16 bits; 0 means all 16.
    """

    name: str
    index: int
    topic: str
    tolerance_s: float
    calibration: CameraCalibration | None
    type: str = ''
    bit_depth: int = 0

    @property
    def message_type(self) -> str:
        """The type of the file; without one, the type that image_transport gives such a name."""
        named = (kind for end, kind in TRANSPORTS.items() if self.topic.endswith(end))
        return self.type or next(named, IMAGE_TYPES[0])


@dataclass(frozen=True)
class RearAxle:
    """Pose of the rear axle, with the name of its frame, in the frame whose pose is published.

    position_m: None where /tf_static has the pose.
    """

    frame: str
    position_m: tuple[float, ...] | None = None
    quaternion_xyzw: tuple[float, ...] = (0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class EgoSource:
    """What the topic of the odometry holds, and what beside it tells the motion of the vehicle.

    type: one of ODOMETRY_TYPES. twist_topic: of messages of twist_type, one of TWIST_TYPES, for a
    type without a twist; '' where there is none. frame, child_frame: the pair that is taken from
    TF; a pose has no child_frame of its own. rear_axle: None where the pose is that of the axle.
    """

    type: str = ODOMETRY_TYPES[0]
    twist_topic: str = ''
    twist_type: str = TWIST_TYPES[0]
    frame: str = ''
    child_frame: str = 'base_link'
    rear_axle: RearAxle | None = None

    @property
    def has_twist(self) -> bool:
        """Whether speeds are measured, and not derived from the poses."""
        return self.type == ODOMETRY_TYPES[0] or bool(self.twist_topic)

    @property
    def needs_static_transforms(self) -> bool:
        """Whether no pose is known without /tf_static."""
        return self.rear_axle is not None and self.rear_axle.position_m is None


@dataclass(frozen=True)
class CameraRig:
    """Cameras by ascending model index; `anchor` is the one whose stamps are t0.

    odometry_topic: brings the poses, as `ego` says. absent: cameras of the R1 set that this
    vehicle does not have; the prompt leaves them out. ground_z_m: height of the road in base_link,
    for drawing only. uses_twist: whether the twist of the odometry is compared with its poses.
    limits: the defaults, with what the file sets.
    """

    name: str
    anchor: str
    odometry_topic: str
    tolerance_s: float
    cameras: tuple[RigCamera, ...]
    absent: tuple[str, ...]
    ground_z_m: float = 0.0
    uses_twist: bool = True
    limits: ContextLimits = ContextLimits()
    ego: EgoSource = EgoSource()


def select_cameras(rig: CameraRig, names: tuple[str, ...]) -> CameraRig:
    """The rig with these cameras alone, the others as absent; with no name the rig itself.

    Raises BadInput for a camera that the rig has not, and when the anchor is left out.
    """
    own = [camera.name for camera in rig.cameras]
    if unknown := [name for name in names if name not in own]:
        raise BadInput(f'cameras: the rig {rig.name} has no {unknown[0]!r}, but {", ".join(own)}')
    if names and rig.anchor not in names:
        raise BadInput(f'cameras: {rig.anchor} is the anchor of the rig {rig.name} and must stay')
    left_out = [name for name in own if names and name not in names]
    kept = tuple(camera for camera in rig.cameras if camera.name not in left_out)
    return replace(rig, cameras=kept, absent=(*rig.absent, *left_out))


def list_rigs() -> tuple[str, ...]:
    """Names of the rigs that come with the package."""
    return tuple(sorted(_find_rig_files()))


def load_rig(name_or_path: str | Path, namespace: str = '/') -> CameraRig:
    """Read a rig by the name of a file in config/rigs or by path (with '/' or ending in .yaml).

    namespace: where the topics are that the file names without a '/' at the beginning.
    """
    text = str(name_or_path)
    if '/' in text or text.endswith('.yaml'):
        path = Path(text)
    else:
        files = _find_rig_files()
        if text not in files:
            raise BadInput(f"rig '{text}' is not one of {', '.join(list_rigs())}")
        path = files[text]
    return _read_rig(load_yaml(path), path.stem, namespace)


def _find_rig_files() -> dict[str, Path]:
    return find_shipped('config/rigs', '.yaml')


def _read_rig(section: YamlSection, name: str, namespace: str) -> CameraRig:
    tolerance_s = section.number('tolerance_s', 0, MAX_TOLERANCE_S, default=0.05)
    odometry_topic = _read_topic(section, 'odometry_topic', namespace)
    ego = _read_ego(section, namespace)
    if ego.twist_topic == odometry_topic:
        raise section.error('twist_topic', f'{odometry_topic} is also odometry_topic')
    topics = {odometry_topic: 'odometry_topic', ego.twist_topic: 'twist_topic'}
    cameras = _read_cameras(section, tolerance_s, topics, namespace)
    names = [camera.name for camera in cameras]
    rig = CameraRig(
        name=name,
        anchor=section.choice('anchor', tuple(names)),
        odometry_topic=odometry_topic,
        tolerance_s=tolerance_s,
        cameras=tuple(sorted(cameras, key=lambda camera: camera.index)),
        absent=_read_absent(section, names),
        ground_z_m=section.number('ground_z_m', -10, 10, default=0.0),
        uses_twist=section.choice('twist', TWIST_USES, default='use') == 'use' and ego.has_twist,
        limits=_read_limits(section),
        ego=ego,
    )
    section.end()
    return rig


def _read_cameras(
    section: YamlSection, tolerance_s: float, topics: dict[str, str], namespace: str
) -> list[RigCamera]:
    cameras: list[RigCamera] = []
    topics = topics.copy()
    for part in section.sections('cameras'):
        camera = _read_camera(part, tolerance_s, namespace)
        if any(camera.index == other.index for other in cameras):
            raise part.error('index', f'{camera.index} is there twice')
        if camera.topic in topics:
            raise part.error('topic', f'{camera.topic} is also {topics[camera.topic]}')
        if camera.index != CAMERA_INDEX[camera.name]:
            right = CAMERA_INDEX[camera.name]
            raise part.error('index', f'{camera.index} is not {camera.name}, which is {right}')
        topics[camera.topic] = camera.name
        cameras.append(camera)
    return cameras


def _read_ego(section: YamlSection, namespace: str) -> EgoSource:
    plain = EgoSource()
    type_name = section.choice('odometry_type', ODOMETRY_TYPES, default=plain.type)
    source = EgoSource(type_name, rear_axle=_read_rear_axle(section))
    if type_name != plain.type:
        source = replace(source, child_frame=_read_frame(section, 'child_frame', 'base_link'))
    if type_name == 'tf2_msgs/msg/TFMessage':
        source = replace(source, frame=_read_frame(section, 'frame', 'odom'))
    if type_name != plain.type and section.has('twist_topic'):
        topic = _read_topic(section, 'twist_topic', namespace)
        twist_type = section.choice('twist_type', TWIST_TYPES, default=plain.twist_type)
        source = replace(source, twist_topic=topic, twist_type=twist_type)
    return source


def _read_rear_axle(section: YamlSection) -> RearAxle | None:
    if not section.has('rear_axle'):
        return None
    part = section.section('rear_axle')
    axle = RearAxle(_read_frame(part, 'frame'))
    if part.has('position_m'):  # else /tf_static has both
        axle = replace(axle, position_m=part.numbers('position_m', (3,)))
        if part.has('quaternion_xyzw'):
            axle = replace(axle, quaternion_xyzw=_read_quaternion(part))
    part.end()
    return axle


def _read_frame(section: YamlSection, key: str, default: str | None = None) -> str:
    value = section.take(key, default)
    if not isinstance(value, str) or not value.strip('/ '):
        raise section.error(key, f'expected the name of a frame, got {shorten(value)}')
    return value.lstrip('/')


def _read_quaternion(section: YamlSection) -> tuple[float, ...]:
    values = section.numbers('quaternion_xyzw', (4,))
    if abs(math.hypot(*values) - 1) > 0.01:
        raise section.error('quaternion_xyzw', 'expected a norm of 1')
    return values


def _read_absent(section: YamlSection, names: list[str]) -> tuple[str, ...]:
    absent = section.take('absent', [])
    if not isinstance(absent, list) or any(name not in tuple(CAMERA_INDEX) for name in absent):
        raise section.error('absent', f'expected camera names, got {shorten(absent)}')
    for name in absent:
        if name in names or absent.count(name) > 1:
            raise section.error('absent', f'{name} is there twice')
    for name in R1_CAMERAS:
        if name not in (*names, *absent):
            raise section.error('cameras', f'{name} is missing: list it there or as absent')
    return tuple(absent)


def _read_limits(section: YamlSection) -> ContextLimits:
    values: dict[str, float] = {}
    for row in fields(ContextLimits):
        if section.has(row.name):
            values[row.name] = section.number(row.name, -math.inf, math.inf)
            try:
                ContextLimits(**{row.name: values[row.name]})
            except BadInput as error:
                text = str(error).removeprefix(f'{row.name}: ')
                raise section.error(row.name, text) from error
    return ContextLimits(**values)


def _read_camera(section: YamlSection, tolerance_s: float, namespace: str) -> RigCamera:
    camera = RigCamera(
        name=section.choice('name', tuple(CAMERA_INDEX)),
        index=section.whole('index', 0),
        topic=_read_topic(section, 'topic', namespace),
        tolerance_s=section.number('tolerance_s', 0, MAX_TOLERANCE_S, default=tolerance_s),
        calibration=_read_calibration(section),
        type=section.choice('type', IMAGE_TYPES) if section.has('type') else '',
        bit_depth=section.whole('bit_depth', 8, 16) if section.has('bit_depth') else 0,
    )
    section.end()
    return camera


def _read_calibration(section: YamlSection) -> CameraCalibration | None:
    if not section.has('calibration'):
        return None
    part = section.section('calibration')
    pose = part.section('base_from_camera')
    far = math.inf
    calibration = CameraCalibration(
        width=part.whole('width', 1),
        height=part.whole('height', 1),
        fx=part.number('fx', 0, far),
        fy=part.number('fy', 0, far),
        cx=part.number('cx', -far, far),
        cy=part.number('cy', -far, far),
        distortion=part.numbers('distortion', DISTORTION_LENGTHS),
        position_m=pose.numbers('position_m', (3,)),
        quaternion_xyzw=_read_quaternion(pose),
    )
    x, y, z, w = calibration.quaternion_xyzw
    if abs(2 * (y * z + w * x)) < UPRIGHT:  # z of the optical y axis in base_link
        text = 'its y axis lies flat, expected base_link from an optical frame, whose y is down'
        raise pose.error('quaternion_xyzw', text)
    pose.end()
    part.end()
    return calibration


def _read_topic(section: YamlSection, key: str, namespace: str) -> str:
    value = section.take(key)
    if not isinstance(value, str) or not _TOPIC.fullmatch(value):
        text = "expected a topic, words of a-z, 0-9 and _ with a '/' between"
        raise section.error(key, f'{text}, got {shorten(value)}')
    return value if value.startswith('/') else f'{namespace.rstrip("/")}/{value}'
