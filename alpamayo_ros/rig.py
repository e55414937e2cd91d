"""The cameras of a vehicle: config/rigs/<rig>.yaml, read and checked.

Knows no ROS, no images and no buffers. Every mistake in a file is a BadInput of one line that
names the file and the key.
"""

from __future__ import annotations

from dataclasses import dataclass
import math
from pathlib import Path
import re
import sys
from typing import Any

import yaml

from .errors import BadInput
from .shipped import find_shipped

CAMERA_INDEX = {  # model index of each camera: docs/model.md section 2
    'cross_left': 0,
    'front_wide': 1,
    'cross_right': 2,
    'rear_left': 3,
    'rear_tele': 4,
    'rear_right': 5,
    'front_tele': 6,
}
R1_CAMERAS = ('cross_left', 'front_wide', 'cross_right', 'front_tele')
MAX_TOLERANCE_S = 0.1  # one grid step; above half of it the buffer's check of repeats decides
DISTORTION_LENGTHS = (0, 4, 5, 8, 12, 14)  # OpenCV's distortion models
_TOPIC = re.compile(r'(/[A-Za-z_]\w*)+', re.ASCII)  # a full name of ROS 2


@dataclass(frozen=True)
class Calibration:
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
    """One camera: its name and index in the model, its topic, how far a frame may be off grid."""

    name: str
    index: int
    topic: str
    tolerance_s: float
    calibration: Calibration | None


@dataclass(frozen=True)
class CameraRig:
    """Cameras by ascending model index; `anchor` is the one whose stamps are t0.

    absent: cameras of the R1 set that this vehicle does not have; the prompt leaves them out.
    ground_z_m: height of the road in base_link, for drawing only.
    """

    name: str
    anchor: str
    odometry_topic: str
    tolerance_s: float
    cameras: tuple[RigCamera, ...]
    absent: tuple[str, ...]
    ground_z_m: float = 0.0


def list_rigs() -> tuple[str, ...]:
    """Names of the rigs that come with the package."""
    return tuple(sorted(_find_rig_files()))


def load_rig(name_or_path: str | Path) -> CameraRig:
    """Read a rig by the name of a file in config/rigs or by path (with '/' or ending in .yaml)."""
    text = str(name_or_path)
    if '/' in text or text.endswith('.yaml'):
        path = Path(text)
    else:
        files = _find_rig_files()
        if text not in files:
            raise BadInput(f"rig '{text}' is not one of {', '.join(list_rigs())}")
        path = files[text]
    try:
        document = yaml.load(path.read_text(encoding='utf-8'), _Loader)  # noqa: S506 safe loader
    except OSError as error:
        raise BadInput(f'{path}: {error.strerror}') from error
    except (ValueError, AttributeError, yaml.YAMLError) as error:  # of values of a wrong form too
        raise BadInput(f'{path}: not YAML: {" ".join(str(error).split())}') from error
    return _rig(_Section(document, path, ''), path.stem)


def _is_finite(value: float) -> bool:
    """Whether a number is one that a float can hold; a whole one may have any size."""
    return abs(value) <= sys.float_info.max


def _find_rig_files() -> dict[str, Path]:
    return find_shipped('config/rigs', '.yaml')


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key given twice is an error, not the second value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key '{key}' is there twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


class _Section:
    """A mapping of the file whose keys are taken one by one, with checks that name them."""

    def __init__(self, value: object, path: Path, where: str) -> None:
        self._path, self._where = path, where
        if not isinstance(value, dict):
            raise BadInput(f'{path}: {where or "file"}: expected a mapping, got {_short(value)}')
        self._values: dict[object, object] = dict(value)

    def take(self, key: str, default: object = None) -> Any:
        if key not in self._values and default is None:
            raise self.error(key, 'missing')
        return self._values.pop(key, default)

    def section(self, key: str) -> _Section:
        return _Section(self.take(key), self._path, self._name(key))

    def optional_section(self, key: str) -> _Section | None:
        return self.section(key) if key in self._values else None

    def sections(self, key: str) -> list[_Section]:
        values = self.take(key)
        if not isinstance(values, list) or not values:
            raise self.error(key, f'expected a list of mappings, got {_short(values)}')
        name = self._name(key)
        return [_Section(value, self._path, f'{name}[{i}]') for i, value in enumerate(values)]

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """Read a finite number in (low, high]."""
        value = self.take(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.error(key, f'expected a number, got {_short(value)}')
        if not low < value <= high or not _is_finite(value):
            raise self.error(key, f'{value} is not in ({low}, {high}]')
        return float(value)

    def whole(self, key: str, low: int) -> int:
        value = self.take(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise self.error(key, f'expected an integer of {low} or more, got {_short(value)}')
        return value

    def numbers(self, key: str, lengths: tuple[int, ...]) -> tuple[float, ...]:
        values = self.take(key)
        valid = isinstance(values, list) and len(values) in lengths
        if not valid or not all(type(v) in (int, float) and _is_finite(v) for v in values):
            allowed = ' or '.join(map(str, lengths))
            raise self.error(key, f'expected {allowed} finite numbers, got {_short(values)}')
        return tuple(float(value) for value in values)

    def choice(self, key: str, allowed: tuple[str, ...]) -> str:
        value = self.take(key)
        if value not in allowed:
            raise self.error(key, f'{_short(value)} is not one of {", ".join(allowed)}')
        return str(value)

    def topic(self, key: str) -> str:
        value = self.take(key)
        if not isinstance(value, str) or not _TOPIC.fullmatch(value):
            text = "expected a topic that starts with '/', words of a-z, 0-9 and _ behind each"
            raise self.error(key, f'{text}, got {_short(value)}')
        return value

    def end(self) -> None:
        for key in self._values:
            raise self.error(str(key), 'unknown key')

    def error(self, key: str, text: str) -> BadInput:
        return BadInput(f'{self._path}: {self._name(key)}: {text}')

    def _name(self, key: str) -> str:
        return f'{self._where}.{key}' if self._where else key


def _rig(section: _Section, name: str) -> CameraRig:
    tolerance_s = section.number('tolerance_s', 0, MAX_TOLERANCE_S, default=0.05)
    odometry_topic = section.topic('odometry_topic')
    cameras: list[RigCamera] = []
    topics = {odometry_topic: 'odometry_topic'}
    for part in section.sections('cameras'):
        camera = _camera(part, tolerance_s)
        if any(camera.index == other.index for other in cameras):
            raise part.error('index', f'{camera.index} is there twice')
        if camera.topic in topics:
            raise part.error('topic', f'{camera.topic} is also {topics[camera.topic]}')
        if camera.index != CAMERA_INDEX[camera.name]:
            right = CAMERA_INDEX[camera.name]
            raise part.error('index', f'{camera.index} is not {camera.name}, which is {right}')
        topics[camera.topic] = camera.name
        cameras.append(camera)
    names = [camera.name for camera in cameras]
    anchor = section.choice('anchor', tuple(names))
    absent = section.take('absent', [])
    if not isinstance(absent, list) or any(name not in tuple(CAMERA_INDEX) for name in absent):
        raise section.error('absent', f'expected camera names, got {_short(absent)}')
    for camera_name in absent:
        if camera_name in names or absent.count(camera_name) > 1:
            raise section.error('absent', f'{camera_name} is there twice')
    for camera_name in R1_CAMERAS:
        if camera_name not in (*names, *absent):
            raise section.error('cameras', f'{camera_name} is missing: list it there or as absent')
    ground_z_m = section.number('ground_z_m', -10, 10, default=0.0)
    section.end()
    cameras.sort(key=lambda camera: camera.index)
    return CameraRig(
        name, anchor, odometry_topic, tolerance_s, tuple(cameras), tuple(absent), ground_z_m
    )


def _camera(section: _Section, tolerance_s: float) -> RigCamera:
    camera = RigCamera(
        name=section.choice('name', tuple(CAMERA_INDEX)),
        index=section.whole('index', 0),
        topic=section.topic('topic'),
        tolerance_s=section.number('tolerance_s', 0, MAX_TOLERANCE_S, default=tolerance_s),
        calibration=_calibration(section.optional_section('calibration')),
    )
    section.end()
    return camera


def _calibration(section: _Section | None) -> Calibration | None:
    if section is None:
        return None
    pose = section.section('base_from_camera')
    far = math.inf
    calibration = Calibration(
        width=section.whole('width', 1),
        height=section.whole('height', 1),
        fx=section.number('fx', 0, far),
        fy=section.number('fy', 0, far),
        cx=section.number('cx', -far, far),
        cy=section.number('cy', -far, far),
        distortion=section.numbers('distortion', DISTORTION_LENGTHS),
        position_m=pose.numbers('position_m', (3,)),
        quaternion_xyzw=pose.numbers('quaternion_xyzw', (4,)),
    )
    if abs(math.hypot(*calibration.quaternion_xyzw) - 1) > 0.01:
        raise pose.error('quaternion_xyzw', 'expected a norm of 1')
    pose.end()
    section.end()
    return calibration


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + '...'
