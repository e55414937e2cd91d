"""Message factory over the message classes of rosbags: `make(type_name, **fields)`.

The offline counterpart of the factory that the live node builds over the installed message
classes. rosbags wants every field of a message, so fields that are not named get the default
that ROS gives them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from rosbags.interfaces import (
    Nodetype,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

TYPESTORE = get_typestore(Stores.ROS2_JAZZY)
# of packages that are not in the store: fields only, as their .msg files state them
DEFINITIONS = {
    'autoware_vehicle_msgs/msg/VelocityReport': 'std_msgs/Header header\n'
    'float32 longitudinal_velocity\nfloat32 lateral_velocity\nfloat32 heading_rate',
    'ffmpeg_image_transport_msgs/msg/FFMPEGPacket': 'std_msgs/Header header\nint32 width\n'
    'int32 height\nstring encoding\nuint64 pts\nuint8 flags\nbool is_bigendian\nuint8[] data',
    'foxglove_msgs/msg/CompressedVideo': 'builtin_interfaces/Time timestamp\nstring frame_id\n'
    'uint8[] data\nstring format',
}
for _name, _text in DEFINITIONS.items():
    TYPESTORE.register(get_types_from_msg(_text, _name))
UNSPECIFIED = QosTime(0, 0)
RELIABLE = Qos(  # what the live node offers: reliable, depth 1
    history=QosHistory.KEEP_LAST,
    depth=1,
    reliability=QosReliability.RELIABLE,
    durability=QosDurability.VOLATILE,
    deadline=UNSPECIFIED,
    lifespan=UNSPECIFIED,
    liveliness=QosLiveliness.AUTOMATIC,
    liveliness_lease_duration=UNSPECIFIED,
    avoid_ros_namespace_conventions=False,
)
DEFAULTS = {('geometry_msgs/msg/Quaternion', 'w'): 1.0}  # as declared in the .msg file


def message_factory(typestore: Typestore = TYPESTORE) -> Callable[..., Any]:
    """A `make(type_name, **fields)` whose results this typestore can serialise.

    Raises KeyError for an unknown type and TypeError for a field that the type does not have.
    """

    def make(type_name: str, **fields: Any) -> Any:
        for name, node in typestore.fielddefs[type_name][1]:
            if name not in fields:
                default = DEFAULTS.get((type_name, name))
                fields[name] = _default(node) if default is None else default
        return typestore.types[type_name](**fields)

    def _default(node: tuple[Nodetype, Any]) -> Any:
        kind, detail = node
        if kind == Nodetype.NAME:
            return make(detail)
        if kind == Nodetype.BASE:
            name = detail[0]
            return '' if name == 'string' else np.dtype(name).type(0).item()
        element, length = detail
        if element[0] == Nodetype.BASE and element[1][0] != 'string':
            return np.zeros(length if kind == Nodetype.ARRAY else 0, element[1][0])
        count = length if kind == Nodetype.ARRAY else 0
        return [_default(element) for _ in range(count)]

    return make
