"""One field of a ROS message: its default, what may be assigned, and its form for the serialiser.

Knows no DDS and no message class beyond the one a nested field names. In Python a field is what
rclpy makes of it (bytes of length 1 for `byte`, array.array for an unbounded numeric sequence,
numpy for a fixed one); the serialiser of rosbags wants int and numpy. A received numeric sequence
stays the numpy view of the sample that rosbags makes.
"""

import array
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
import math
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype

ARRAY_CODES = {
    'int8': 'b',
    'uint8': 'B',
    'char': 'B',
    'int16': 'h',
    'uint16': 'H',
    'int32': 'i',
    'uint32': 'I',
    'int64': 'q',
    'uint64': 'Q',
    'float32': 'f',
    'float64': 'd',
}
FLOAT32_MAX = float(np.finfo(np.float32).max)
ROS_NAMES = {
    'bool': 'boolean',
    'byte': 'octet',
    'char': 'uint8',
    'float32': 'float',
    'float64': 'double',
}


@dataclass(frozen=True)
class Field:
    """How one field behaves; None instead of a function means that the value stays as it is."""

    ros_type: str  # as in get_fields_and_field_types()
    default: Callable[[], Any]
    accept: Callable[[Any], Any] | None = None  # assigned value -> stored value
    from_wire: Callable[[Any], Any] | None = None  # value of rosbags -> stored value
    to_wire: Callable[[Any], Any] | None = None  # stored value -> value for rosbags


def make_field(desc, message_class: Callable[[str], Any]) -> Field:
    """Field for a field description of rosbags; `message_class` finds nested classes."""
    kind, content = desc
    if kind == Nodetype.NAME:
        cls = message_class(content)
        return Field(_name_ros_type(desc), cls, to_wire=cls._to_wire)
    if kind == Nodetype.BASE:
        return _make_scalar(content[0], _name_ros_type(desc))
    element, size = content
    fixed = size if kind == Nodetype.ARRAY else None
    if element[0] == Nodetype.BASE and element[1][0] in ARRAY_CODES:
        return _make_numeric_array(element[1][0], fixed, _name_ros_type(desc))
    return _list(make_field(element, message_class), element, fixed, _name_ros_type(desc))


def _make_scalar(base: str, ros_type: str) -> Field:
    if base == 'byte':
        # rosbags reads and writes byte as int8
        return Field(
            ros_type,
            lambda: b'\x00',
            accept=_to_byte,
            from_wire=lambda value: bytes([value & 255]),
            to_wire=lambda value: int.from_bytes(value, 'little', signed=True),
        )
    zero = {'string': '', 'bool': False, 'float32': 0.0, 'float64': 0.0}.get(base, 0)
    return Field(ros_type, lambda: zero)


def _to_byte(value) -> bytes:
    return bytes([value]) if isinstance(value, int) else bytes(value)


def _make_numeric_array(base: str, size: int | None, ros_type: str) -> Field:
    code = ARRAY_CODES[base]
    dtype = np.dtype(code)

    def accept_fixed(value):
        stored = np.array(value, dtype)
        if stored.shape != (size,):
            raise AssertionError(f'expected {size} numbers, got shape {stored.shape}')
        return stored

    def accept(value):
        if isinstance(value, np.ndarray):
            return value.astype(dtype, casting='same_kind', copy=False)
        if isinstance(value, array.array) and value.typecode == code:
            return value
        if code == 'B' and isinstance(value, bytes | bytearray | memoryview):
            stored = array.array('B')
            stored.frombytes(value)
            return stored
        return array.array(code, value)

    def to_wire(value):
        return np.ascontiguousarray(value, dtype)

    if size is None:
        return Field(ros_type, lambda: array.array(code), accept, to_wire=to_wire)
    return Field(ros_type, lambda: np.zeros(size, dtype), accept_fixed, to_wire=to_wire)


def _list(element: Field, desc, size: int | None, ros_type: str) -> Field:
    """List of strings, messages, bytes or bools; rosbags has the last two as numpy arrays."""
    base = desc[1][0] if desc[0] == Nodetype.BASE else ''
    accept: Callable[[Any], Any] | None = None
    from_wire: Callable[[Any], Any] | None = None
    to_wire: Callable[[Any], Any] | None = None
    if base == 'byte':

        def accept(values):
            return [_to_byte(value) for value in values]

        def from_wire(values):
            return [bytes([value]) for value in values.tobytes()]

        def to_wire(values):
            return np.frombuffer(b''.join(values), np.uint8)
    elif base == 'bool':
        from_wire = np.ndarray.tolist

        def to_wire(values):
            return np.array(values, np.bool_)
    elif element.to_wire is not None:
        convert = element.to_wire

        def to_wire(values):
            return [convert(value) for value in values]

    def default():
        return [element.default() for _ in range(size or 0)]

    return Field(ros_type, default, accept, from_wire, to_wire)


def _name_ros_type(desc) -> str:
    kind, content = desc
    if kind == Nodetype.NAME:
        return content.replace('/msg/', '/')
    if kind == Nodetype.BASE:
        base, bound = content
        return f'{base}<{bound}>' if bound else ROS_NAMES.get(base, base)
    element, size = content
    if kind == Nodetype.ARRAY:
        return f'{_name_ros_type(element)}[{size}]'
    return f'sequence<{_name_ros_type(element)}{f", {size}" if size else ""}>'


def check(value, desc, message_class: Callable[[str], type]) -> None:
    """Refuse what rclpy refuses with ROS_PYTHON_CHECK_FIELDS=1.

    Raises:
        AssertionError: the value is not of the type that the field description asks for.
    """
    if not _fits(value, desc, message_class):
        raise AssertionError(f'{value!r} is not a {_name_ros_type(desc)}')


def _fits(value, desc, message_class) -> bool:
    kind, content = desc
    if kind == Nodetype.NAME:
        return isinstance(value, message_class(content))
    if kind == Nodetype.BASE:
        return _scalar_fits(value, *content)
    element, size = content
    base = element[1][0] if element[0] == Nodetype.BASE else ''
    bounded = len(value) == size if kind == Nodetype.ARRAY else not size or len(value) <= size
    if isinstance(value, np.ndarray):
        typed = value.dtype == np.dtype(ARRAY_CODES.get(base, 'O'))
        return kind == Nodetype.ARRAY and typed and bounded
    if isinstance(value, array.array):
        return value.typecode == ARRAY_CODES.get(base) and bounded
    if isinstance(value, str) or not isinstance(value, Sequence | Set):
        return False
    return bounded and all(_fits(item, element, message_class) for item in value)


def _scalar_fits(value, base: str, bound: int) -> bool:
    if base == 'string':
        return isinstance(value, str) and (not bound or len(value) <= bound)
    if base == 'bool':
        return isinstance(value, bool)
    if base == 'byte':
        return isinstance(value, bytes | bytearray) and len(value) == 1
    if base in ('float32', 'float64'):
        in_range = base == 'float64' or not math.isfinite(value) or abs(value) <= FLOAT32_MAX
        return isinstance(value, float) and in_range
    limits = np.iinfo(np.dtype(ARRAY_CODES[base]))
    return isinstance(value, int) and int(limits.min) <= value <= int(limits.max)
