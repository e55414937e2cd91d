"""The parameters of a node: declaring, reading, setting, and the callbacks that may refuse.

Knows no service and no publisher: `tell_changes` gets what is new, changed and deleted.
"""

from collections.abc import Callable, Sequence
from typing import Any
import warnings

from rosless.descriptors import explain_refusal
from rosless.exceptions import (
    InvalidParameterException,
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterAlreadyDeclaredException,
    ParameterImmutableException,
    ParameterNotDeclaredException,
    ParameterUninitializedException,
)
from rosless.messages import get_message_class
from rosless.parameter import PARAMETER_SEPARATOR_STRING, Parameter

NOT_SET = Parameter.Type.NOT_SET


def _make_descriptor(**fields):
    return get_message_class('rcl_interfaces/msg/ParameterDescriptor')(**fields)


def _make_result(reason: str):
    result = get_message_class('rcl_interfaces/msg/SetParametersResult')
    return result(successful=not reason, reason=reason)


class DeclaredParameters:
    """Base of Node with everything about its parameters."""

    def __init__(
        self,
        overrides: dict[str, Parameter],
        allow_undeclared: bool,
        tell_changes: Callable[[list[Parameter], list[Parameter], list[Parameter]], None],
    ):
        self.__tell_changes = tell_changes
        self._parameter_overrides = overrides
        self._allow_undeclared_parameters = allow_undeclared
        self._parameters: dict[str, Parameter] = {}
        self._descriptors: dict[str, Any] = {}
        self._on_set_parameters_callbacks: list[Callable] = []

    def declare_parameter(
        self, name: str, value: Any = None, descriptor=None, ignore_override: bool = False
    ) -> Parameter:
        """Declare a parameter with a default value, or with a Parameter.Type and no value.

        Raises:
            ParameterAlreadyDeclaredException: declared before.
            InvalidParameterException: the name is empty.
            InvalidParameterTypeException, InvalidParameterValueException: the value, or the
                override of the command line or a file, is refused.
        """
        bare = value is None and descriptor is None
        declaration = (name,) if bare else (name, value, descriptor or _make_descriptor())
        return self.declare_parameters('', [declaration], ignore_override)[0]

    def declare_parameters(
        self, namespace: str, parameters: Sequence[tuple], ignore_override: bool = False
    ) -> list[Parameter]:
        """Declare several: tuples of name, value and descriptor, the last two optional."""
        declarations = []
        for name, *rest in parameters:
            full = f'{namespace}{PARAMETER_SEPARATOR_STRING}{name}' if namespace else name
            if not full:
                raise InvalidParameterException(full)
            value, descriptor = _type_declaration(full, *rest)
            if not ignore_override and full in self._parameter_overrides:
                value = self._parameter_overrides[full].value
            declarations.append((Parameter(full, value=value), descriptor))
        if known := [p.name for p, _ in declarations if p.name in self._parameters]:
            raise ParameterAlreadyDeclaredException(known)
        for parameter, descriptor in declarations:
            self.__declare(parameter, descriptor)
        return [self._parameters[parameter.name] for parameter, _ in declarations]

    def __declare(self, parameter: Parameter, descriptor) -> None:
        descriptor.name = parameter.name
        reason = explain_refusal(parameter, descriptor, declaring=True)
        if reason.startswith('Wrong parameter type'):
            expected = Parameter.Type(descriptor.type).name
            raise InvalidParameterTypeException(parameter, expected)
        reason = reason or self.__refused_by_callbacks([parameter])
        if reason:
            raise InvalidParameterValueException(parameter.name, parameter.value, reason)
        self._descriptors[parameter.name] = descriptor
        self.__store(parameter)
        self.__tell_changes([parameter], [], [])

    def __store(self, parameter: Parameter) -> None:
        descriptor = self._descriptors[parameter.name]
        if descriptor.dynamic_typing:
            descriptor.type = parameter.type_.value
        self._parameters[parameter.name] = parameter

    def __refused_by_callbacks(self, parameters: list[Parameter]) -> str:
        for callback in self._on_set_parameters_callbacks:
            result = callback(parameters)
            if not result.successful:
                return result.reason or 'refused by a callback'
        return ''

    def undeclare_parameter(self, name: str) -> None:
        """Forget a parameter, unless it is read-only."""
        if self.describe_parameter(name).read_only:
            raise ParameterImmutableException(name)
        if not self.has_parameter(name):
            raise ParameterNotDeclaredException(name)
        del self._parameters[name], self._descriptors[name]

    def has_parameter(self, name: str) -> bool:
        """Whether it is declared."""
        return name in self._parameters

    def get_parameter(self, name: str) -> Parameter:
        """Parameter of a name.

        Raises:
            ParameterNotDeclaredException: unknown, unless undeclared parameters are allowed.
            ParameterUninitializedException: declared by type only, and nothing gave a value.
        """
        if name not in self._parameters:
            self.__require_undeclared_allowed(name)
            return Parameter(name, NOT_SET)
        parameter = self._parameters[name]
        if parameter.type_ == NOT_SET and not self._descriptors[name].dynamic_typing:
            raise ParameterUninitializedException(name)
        return parameter

    def __require_undeclared_allowed(self, names) -> None:
        if not self._allow_undeclared_parameters:
            raise ParameterNotDeclaredException(names)

    def get_parameters(self, names: list[str]) -> list[Parameter]:
        """Parameters of several names, as get_parameter."""
        return [self.get_parameter(name) for name in names]

    def get_parameter_or(self, name: str, alternative_value=None) -> Parameter:
        """Parameter of a name, or the alternative if it has no value."""
        found = self._parameters.get(name)
        if found is None or found.type_ == NOT_SET:
            return alternative_value or Parameter(name, NOT_SET)
        return found

    def get_parameter_type(self, name: str) -> Parameter.Type:
        """Type of the present value."""
        if name not in self._parameters:
            self.__require_undeclared_allowed(name)
            return NOT_SET
        return self._parameters[name].type_

    def get_parameters_by_prefix(self, prefix: str) -> dict[str, Parameter]:
        """Parameters below a prefix, by the rest of their names."""
        start = f'{prefix}{PARAMETER_SEPARATOR_STRING}' if prefix else ''
        return {n[len(start) :]: p for n, p in self._parameters.items() if n.startswith(start)}

    def describe_parameter(self, name: str):
        """rcl_interfaces/msg/ParameterDescriptor of a parameter."""
        if name not in self._descriptors:
            self.__require_undeclared_allowed(name)
            return _make_descriptor()
        return self._descriptors[name]

    def describe_parameters(self, names: list[str]) -> list:
        """Descriptors of several parameters."""
        return [self.describe_parameter(name) for name in names]

    def list_parameters(self, prefixes: list[str], depth: int):
        """rcl_interfaces/msg/ListParametersResult of the names below any of the prefixes.

        A depth of 0 means all levels; else names of at most that many parts after the prefix.
        """
        result = get_message_class('rcl_interfaces/msg/ListParametersResult')()
        for name in self._parameters:
            if _is_listed(name, prefixes, depth):
                result.names.append(name)
                prefix = name.rpartition(PARAMETER_SEPARATOR_STRING)[0]
                if prefix and prefix not in result.prefixes:
                    result.prefixes.append(prefix)
        return result

    def set_parameters(self, parameter_list: list[Parameter]) -> list:
        """Set each parameter for itself; returns an rcl_interfaces/msg/SetParametersResult each.

        Raises:
            ParameterNotDeclaredException: unknown, unless undeclared parameters are allowed.
        """
        return [self.set_parameters_atomically([parameter]) for parameter in parameter_list]

    def set_parameters_atomically(self, parameter_list: list[Parameter]):
        """Set all or none; returns one rcl_interfaces/msg/SetParametersResult."""
        undeclared = [p.name for p in parameter_list if p.name not in self._parameters]
        if undeclared:
            self.__require_undeclared_allowed(undeclared)
        descriptors = {n: _make_descriptor(name=n, dynamic_typing=True) for n in undeclared}
        for parameter in parameter_list:
            descriptor = descriptors.get(parameter.name) or self._descriptors[parameter.name]
            if reason := explain_refusal(parameter, descriptor, declaring=False):
                return _make_result(reason)
        if reason := self.__refused_by_callbacks(parameter_list):
            return _make_result(reason)
        self._descriptors.update(descriptors)
        new: list[Parameter] = []
        changed: list[Parameter] = []
        deleted: list[Parameter] = []
        for parameter in parameter_list:
            if parameter.type_ == NOT_SET:
                self._parameters.pop(parameter.name, None)
                self._descriptors.pop(parameter.name, None)
                deleted.append(parameter)
                continue
            known = self._parameters.get(parameter.name)
            (new if known is None or known.type_ == NOT_SET else changed).append(parameter)
            self.__store(parameter)
        self.__tell_changes(new, changed, deleted)
        return _make_result('')

    def add_on_set_parameters_callback(self, callback: Callable) -> None:
        """Ask a function before parameters are set or declared; the newest is asked first.

        It gets the list of parameters and returns an rcl_interfaces/msg/SetParametersResult.
        """
        self._on_set_parameters_callbacks.insert(0, callback)

    def remove_on_set_parameters_callback(self, callback: Callable) -> None:
        """Ask a function no more."""
        self._on_set_parameters_callbacks.remove(callback)


def _type_declaration(name: str, value: Any = None, descriptor=None, *rest) -> tuple[Any, Any]:
    """Default value of a declaration, and its descriptor with the type filled in."""
    if rest:
        raise TypeError(f'a declaration of {name} is a name, a value and a descriptor')
    if descriptor is None:
        descriptor = _make_descriptor()
        if value is None:
            warnings.warn(f'parameter {name} is declared without a value or a type', stacklevel=4)
            descriptor.dynamic_typing = True
    if isinstance(value, Parameter.Type):
        if value == NOT_SET or descriptor.dynamic_typing:
            raise ValueError(f'{name}: a static type is neither NOT_SET nor dynamic')
        descriptor.type = value.value
        return None, descriptor
    if not descriptor.dynamic_typing:
        descriptor.type = Parameter.Type.from_parameter_value(value).value
        if descriptor.type == NOT_SET.value:
            raise ValueError(f'{name}: a statically typed parameter needs a value or a type')
    return value, descriptor


def _is_listed(name: str, prefixes: list[str], depth: int) -> bool:
    def shallow(rest: str) -> bool:
        return depth == 0 or rest.count(PARAMETER_SEPARATOR_STRING) < depth

    if not prefixes:
        return shallow(name)
    for prefix in prefixes:
        start = f'{prefix}{PARAMETER_SEPARATOR_STRING}'
        if name == prefix or (name.startswith(start) and shallow(name[len(start) :])):
            return True
    return False
