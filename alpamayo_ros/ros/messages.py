"""Message factory over the installed message classes, and the parts that many messages share.

`make(type_name, **fields)` is the live counterpart of `bags/messages.py`: rclpy fills in fields
that are not named, and numpy arrays become array.array, which all versions of rclpy take. A class
is found by its name, so its package is imported with the first message of that type.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from functools import cache
import importlib
from typing import Any

import numpy as np

from ..data_types import NANOSECONDS
from ..errors import BadInput

Make = Callable[..., Any]


@cache
def import_interface(type_name: str) -> Any:
    """Class of 'package/msg/Name' or 'package/srv/Name'; BadInput when it is not installed."""
    package, kind, name = type_name.split('/')
    try:
        return getattr(importlib.import_module(f'{package}.{kind}'), name)
    except (ImportError, AttributeError):
        raise BadInput(f'{type_name}: the package {package} is not installed') from None


def make(type_name: str, **fields: Any) -> Any:
    """Message of a type with these fields."""
    for name, value in fields.items():
        if isinstance(value, np.ndarray):
            fields[name] = array(value.dtype.char, value.tobytes())
    return import_interface(type_name)(**fields)


def make_time(make: Make, stamp_ns: int) -> Any:
    """builtin_interfaces/Time."""
    sec, nanosec = divmod(int(stamp_ns), NANOSECONDS)
    return make('builtin_interfaces/msg/Time', sec=sec, nanosec=nanosec)


def make_duration(make: Make, duration_ns: int) -> Any:
    """builtin_interfaces/Duration."""
    sec, nanosec = divmod(int(duration_ns), NANOSECONDS)
    return make('builtin_interfaces/msg/Duration', sec=sec, nanosec=nanosec)


def make_header(make: Make, stamp_ns: int, frame_id: str) -> Any:
    """std_msgs/Header."""
    return make('std_msgs/msg/Header', stamp=make_time(make, stamp_ns), frame_id=frame_id)


def make_pose(make: Make, position: Iterable[float], quaternion: Iterable[float]) -> Any:
    """geometry_msgs/Pose of x, y, z in m and a quaternion x, y, z, w."""
    return make(
        'geometry_msgs/msg/Pose',
        position=make_xyz(make, 'Point', position),
        orientation=make_quaternion(make, quaternion),
    )


def make_xyz(make: Make, name: str, values: Iterable[float]) -> Any:
    """A type of geometry_msgs with the fields x, y, z, such as Point."""
    x, y, z = map(float, values)
    return make(f'geometry_msgs/msg/{name}', x=x, y=y, z=z)


def make_quaternion(make: Make, xyzw: Iterable[float]) -> Any:
    """geometry_msgs/Quaternion."""
    x, y, z, w = map(float, xyzw)
    return make('geometry_msgs/msg/Quaternion', x=x, y=y, z=z, w=w)


def make_color(make: Make, rgba: tuple[float, float, float, float]) -> Any:
    """std_msgs/ColorRGBA."""
    r, g, b, a = map(float, rgba)
    return make('std_msgs/msg/ColorRGBA', r=r, g=g, b=b, a=a)
