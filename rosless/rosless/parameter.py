"""rclpy.parameter: a named value of one of ten types, and its messages. Knows no node."""

import array
from enum import Enum
from typing import Any

from rosless.messages import get_message_class

PARAMETER_SEPARATOR_STRING = '.'


class Parameter:
    """Name, type and value; the type is found from the value when it is not given.

    Raises:
        TypeError: no parameter type holds the value.
        ValueError: the given type does not hold the value.
    """

    class Type(Enum):
        """Types, with the numbers of rcl_interfaces/msg/ParameterType."""

        NOT_SET = 0
        BOOL = 1
        INTEGER = 2
        DOUBLE = 3
        STRING = 4
        BYTE_ARRAY = 5
        BOOL_ARRAY = 6
        INTEGER_ARRAY = 7
        DOUBLE_ARRAY = 8
        STRING_ARRAY = 9

        @classmethod
        def from_parameter_value(cls, value) -> 'Parameter.Type':
            """Type of a Python value; an empty list is a BYTE_ARRAY.

            Raises:
                TypeError: no parameter type holds the value.
            """
            for type_ in cls:
                if type_.check(value):
                    return type_
            raise TypeError(f'{value!r} is not of a type that a parameter can have')

        def check(self, value) -> bool:
            """Whether this type holds a value."""
            item = ITEM_TYPES[self.value]
            if self.value in FIELDS and self.value >= 5:
                if not isinstance(value, list | tuple | array.array):
                    return False
                return all(_is(each, item) for each in value)
            return _is(value, item)

    def __init__(self, name: str, type_: 'Parameter.Type | None' = None, value: Any = None):
        if type_ is None:
            type_ = Parameter.Type.from_parameter_value(value)
        if not isinstance(type_, Parameter.Type):
            raise TypeError(f'{type_!r} is not a Parameter.Type')
        if not type_.check(value):
            raise ValueError(f"Type '{type_}' and value '{value}' do not agree")
        self._name = name
        self._type = type_
        self._value = value

    @property
    def name(self) -> str:
        """Name, its parts joined by dots."""
        return self._name

    @property
    def type_(self) -> 'Parameter.Type':
        """Type."""
        return self._type

    @property
    def value(self) -> Any:
        """Value, None if it is not set."""
        return self._value

    def __repr__(self):
        return f'Parameter({self._name!r}, {self._type}, {self._value!r})'

    def get_parameter_value(self):
        """rcl_interfaces/msg/ParameterValue of it."""
        message = get_message_class('rcl_interfaces/msg/ParameterValue')(type=self._type.value)
        if self._type != Parameter.Type.NOT_SET:
            setattr(message, FIELDS[self._type.value], self._value)
        return message

    def to_parameter_msg(self):
        """rcl_interfaces/msg/Parameter of it."""
        cls = get_message_class('rcl_interfaces/msg/Parameter')
        return cls(name=self._name, value=self.get_parameter_value())

    @classmethod
    def from_parameter_msg(cls, message) -> 'Parameter':
        """Parameter of an rcl_interfaces/msg/Parameter."""
        type_ = Parameter.Type(message.value.type)
        return cls(message.name, type_, parameter_value_to_python(message.value))


# type number -> type of the value or of its items
ITEM_TYPES = (type(None), bool, int, float, str, bytes, bool, int, float, str)
# type number -> field of rcl_interfaces/msg/ParameterValue
FIELDS = {
    1: 'bool_value',
    2: 'integer_value',
    3: 'double_value',
    4: 'string_value',
    5: 'byte_array_value',
    6: 'bool_array_value',
    7: 'integer_array_value',
    8: 'double_array_value',
    9: 'string_array_value',
}


def _is(value, type_: type) -> bool:
    return isinstance(value, type_) and not (type_ is int and isinstance(value, bool))


def parameter_value_to_python(message) -> Any:
    """Python value of an rcl_interfaces/msg/ParameterValue, None if it is not set."""
    if message.type == Parameter.Type.NOT_SET.value:
        return None
    value = getattr(message, FIELDS[message.type])
    # a received numeric array is a numpy view
    return value.tolist() if hasattr(value, 'tolist') else value
