"""Message and service classes that behave as rclpy's, made from the definitions at run time.

Knows no DDS and no transport: a message becomes CDR bytes and back by `serialize` and
`deserialize`. Fields are assigned without a type check, as in Jazzy, unless
ROS_PYTHON_CHECK_FIELDS=1 is set, which asks for the checks of Humble.
"""

from collections.abc import Callable
from functools import cache
import os
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from rosbags.typesys.base import normalize_fieldname
from rosbags.typesys.store import Typestore

from rosless.definitions import DEFAULTS, PLACEHOLDER, SERVICES, load_typestore
from rosless.fields import Field, check, make_field

CHECK_FIELDS = os.environ.get('ROS_PYTHON_CHECK_FIELDS') == '1'


class Message:
    """Base of every message class: one slot and one Field per field of the definition."""

    __slots__ = ()
    _type: ClassVar[str] = ''  # 'pkg/msg/Name'
    _fields: ClassVar[dict[str, Field]] = {}
    # one (name, setter of the slot, assigned value -> stored value or None, default) per field
    _steps: ClassVar[tuple[tuple[str, Callable, Callable | None, Callable], ...]] = ()
    _accepts: ClassVar[dict[str, Callable | None]] = {}

    def __init__(self, **values):
        for name, assign, accept, default in self._steps:
            if name in values:
                value = values.pop(name)
                assign(self, value if accept is None else accept(value))
            else:
                assign(self, default())
        if values:
            raise AssertionError(f'{type(self).__name__} has no field {sorted(values)}')

    def __setattr__(self, name, value):
        accept = self._accepts.get(name)
        object.__setattr__(self, name, value if accept is None else accept(value))

    def __eq__(self, other):
        if type(self) is not type(other):
            return NotImplemented
        return all(_are_equal(getattr(self, name), getattr(other, name)) for name in self._fields)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self):
        values = ', '.join(f'{name}={getattr(self, name)!r}' for name in self._fields)
        return f'{type(self).__module__}.{type(self).__name__}({values})'

    @classmethod
    def get_fields_and_field_types(cls) -> dict[str, str]:
        """Field names and their ROS types, e.g. {'data': 'sequence<uint8>'}."""
        return {name: field.ros_type for name, field in cls._fields.items()}

    _to_wire: ClassVar[Any] = None  # message -> object for the serialiser; None: as it is


def _are_equal(one, other) -> bool:
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    return one == other


@cache
def get_message_class(name: str) -> Any:
    """Class for a ROS type such as 'std_msgs/msg/String': a Message with the fields of the type.

    Raises:
        KeyError: the distribution's definitions have no such type.
    """
    constants, descriptions = load_typestore().fielddefs[name]
    descs = {normalize_fieldname(n): desc for n, desc in descriptions if n != PLACEHOLDER}
    fields = {n: make_field(desc, get_message_class) for n, desc in descs.items()}
    package, kind, short = name.split('/')
    namespace: dict[str, Any] = {
        '__slots__': tuple(fields),
        '__module__': f'{package}.{kind}',
        '_type': name,
        '_fields': fields,
    }
    for constant, base, value in constants:
        # bytes, as the fields that take such a constant
        namespace[constant] = bytes((int(value),)) if base == 'byte' else value
    cls: Any = type(short, (Message,), namespace)
    cls._accepts = {n: _accept(field, descs[n]) for n, field in fields.items()}
    cls._steps = tuple(
        (
            n,
            cls.__dict__[n].__set__,
            cls._accepts[n],
            _make_default(field, DEFAULTS.get(name, {}), n),
        )
        for n, field in fields.items()
    )
    if not fields:
        cls._to_wire = lambda message: SimpleNamespace(**{PLACEHOLDER: 0})
    elif any(field.to_wire for field in fields.values()):
        cls._to_wire = _to_wire_form
    return cls


def _accept(field: Field, desc) -> Callable | None:
    if not CHECK_FIELDS:
        return field.accept

    def checked(value):
        check(value, desc=desc, message_class=get_message_class)
        return value if field.accept is None else field.accept(value)

    return checked


def _make_default(field: Field, declared: dict[str, Any], name: str) -> Callable[[], Any]:
    return (lambda: declared[name]) if name in declared else field.default


def _to_wire_form(message: Message) -> SimpleNamespace:
    values = {}
    for name, field in message._fields.items():
        value = getattr(message, name)
        values[name] = value if field.to_wire is None else field.to_wire(value)
    return SimpleNamespace(**values)


@cache
def get_service_class(name: str) -> type:
    """Class for a service such as 'std_srvs/srv/SetBool', with its Request and Response."""
    package, kind, short = name.split('/')
    halves = {h: get_message_class(f'{name}_{h}') for h in ('Request', 'Response')}
    return type(short, (), {'__module__': f'{package}.{kind}', '_type': name, **halves})


@cache
def list_names(package: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the messages and of the services of a package, both empty if it is unknown."""
    messages = (n for n in load_typestore().fielddefs if n.startswith(f'{package}/msg/'))
    services = (n for n in SERVICES if n.startswith(f'{package}/srv/'))
    return tuple(sorted(messages)), tuple(sorted(services))


class _Constructors(dict):
    """Type name -> function that makes our message of the field values, in order."""

    def __missing__(self, name: str):
        cls = get_message_class(name)
        slots = [cls.__dict__[field].__set__ for field in cls._fields]
        converters = [field.from_wire for field in cls._fields.values()]
        steps = tuple(zip(slots, converters, strict=True))

        def construct(*values):
            message = object.__new__(cls)
            # an empty message has no step for its placeholder
            for (assign, convert), value in zip(steps, values, strict=False):
                assign(message, value if convert is None else convert(value))
            return message

        self[name] = construct
        return construct


@cache
def _load_serialiser() -> Typestore:
    """Typestore with the definitions of the distribution and our classes."""
    store = Typestore()
    store.fielddefs = load_typestore().fielddefs
    store.types = _Constructors()
    return store


def serialize(message: Message) -> bytes:
    """CDR of a message, with the 4 bytes of encapsulation header."""
    plain = type(message)._to_wire
    wire = message if plain is None else plain(message)
    return bytes(_load_serialiser().serialize_cdr(wire, message._type, little_endian=True))


def deserialize(data, name: str) -> Any:
    """Message of CDR bytes (header included); its numeric arrays are views of `data`.

    Raises:
        rosbags.serde.SerdeError: the bytes are not a message of this type.
    """
    # a memoryview, since rosbags slices the header off: slicing bytes would copy the sample
    return _load_serialiser().deserialize_cdr(memoryview(data), name)
