"""ROS names and types as DDS has them, and samples that stay CDR bytes in Python.

Knows no node, no QoS and no message class. The C layer checks each received sample against the
type built here, so the type must be right although Python never decodes with it.
"""

from functools import cache
from typing import Any

from cyclonedds.idl import IdlStruct, make_idl_struct, types
from rosbags.interfaces import Nodetype

from rosless.definitions import load_typestore

SERVICE_HEADER_BYTES = 16  # uint64 client id, int64 sequence number

BASE_TYPES: dict[str, Any] = {
    'string': str,
    'bool': bool,
    'byte': types.uint8,
    'char': types.uint8,
    'int8': types.int8,
    'uint8': types.uint8,
    'int16': types.int16,
    'uint16': types.uint16,
    'int32': types.int32,
    'uint32': types.uint32,
    'int64': types.int64,
    'uint64': types.uint64,
    'float32': types.float32,
    'float64': types.float64,
}


def make_topic_name(name: str) -> str:
    """DDS topic of a fully qualified ROS topic."""
    return f'rt{name}'


def make_service_topics(service: str) -> tuple[str, str]:
    """DDS topics of the requests and the replies of a fully qualified service."""
    return f'rq{service}Request', f'rr{service}Reply'


def to_dds_type_name(name: str) -> str:
    """DDS name of a ROS type: 'std_msgs/msg/String' -> 'std_msgs::msg::dds_::String_'."""
    package, kind, short = name.split('/')
    return f'{package}::{kind}::dds_::{short}_'


def to_ros_type_name(dds_name: str) -> str | None:
    """ROS name of a DDS type, None if it is no ROS type."""
    package, _, rest = dds_name.partition('::')
    kind, mark, short = rest.partition('::dds_::')
    return f'{package}/{kind}/{short[:-1]}' if mark and short.endswith('_') else None


def make_sample_type(name: str, *, service: bool = False) -> type:
    """DDS type of a ROS type whose samples carry serialised CDR in `.data`, header included.

    With `service`, the type starts with the client id and the sequence number of a request.
    """
    fields = _list_idl_fields(name)
    if service:
        fields = {'client_id': types.uint64, 'sequence_number': types.int64} | fields
    return _keep_bytes(_make_struct(name, fields))


@cache
def _make_nested(name: str) -> type[IdlStruct]:
    return _make_struct(name, _list_idl_fields(name))


def _make_struct(name: str, fields: dict[str, Any]) -> type[IdlStruct]:
    return make_idl_struct(
        name.rsplit('/', 1)[1], to_dds_type_name(name), fields, dataclassify=False
    )


def _list_idl_fields(name: str) -> dict[str, Any]:
    return {field: _find_idl_type(desc) for field, desc in load_typestore().fielddefs[name][1]}


def _find_idl_type(desc) -> Any:
    kind, content = desc
    if kind == Nodetype.NAME:
        return _make_nested(content)
    if kind == Nodetype.BASE:
        base, bound = content
        return types.bounded_str[bound] if base == 'string' and bound else BASE_TYPES[base]
    element, size = content
    if kind == Nodetype.ARRAY:
        return types.array[_find_idl_type(element), size]
    return types.sequence[(_find_idl_type(element), size) if size else (_find_idl_type(element),)]


def _keep_bytes(cls: Any) -> type:
    """Replace (de)serialisation by the bytes themselves; the nested types need no such thing."""

    def init(self, data):
        self.data = data

    cls.__init__ = init
    cls.serialize = lambda self, buffer=None, endianness=None, use_version_2=None: self.data
    cls.deserialize = classmethod(lambda c, data, has_header=True, use_version_2=None: c(data))
    cls.deserialize_key = cls.deserialize
    return cls
