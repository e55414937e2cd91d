"""`--ros-args`: remap rules, parameter overrides, log levels and what is left for the program."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rosless.names import RemapRule
from rosless.parameter_files import (
    Overrides,
    ParameterTextError,
    merge_overrides,
    parse_file,
    parse_value,
)
from rosless.rcl_error import RCLInvalidROSArgsError, UnknownROSArgsError

LOG_LEVELS = {'debug': 10, 'info': 20, 'warn': 30, 'error': 40, 'fatal': 50}
IGNORED_WITH_VALUE = ('--log-config-file',)
IGNORED = tuple(
    f'--{switch}-{what}'
    for switch in ('enable', 'disable')
    for what in ('rosout-logs', 'stdout-logs', 'external-lib-logs')
)


@dataclass
class RosArguments:
    """What the arguments of a process, or of one node, ask for."""

    remaps: list[RemapRule] = field(default_factory=list)
    overrides: Overrides = field(default_factory=dict)
    log_levels: dict[str, int] = field(default_factory=dict)  # '' is the default level
    enclave: str = '/'
    rest: list[str] = field(default_factory=list)  # what is not between --ros-args and --


def parse(arguments: Sequence[str]) -> RosArguments:
    """Parse a command line, the program's own arguments included.

    Raises:
        UnknownROSArgsError: an unknown flag after --ros-args.
        RCLInvalidROSArgsError: a flag without a value, or with one that is not of its form.
    """
    parsed = RosArguments()
    inside = False
    waiting = iter(arguments)
    for argument in waiting:
        if argument == '--ros-args':
            inside = True
        elif not inside:
            parsed.rest.append(argument)
        elif argument == '--':
            inside = False
        elif argument not in IGNORED:
            _parse_flag(argument, waiting, parsed)
    return parsed


def _parse_flag(flag: str, waiting, parsed: RosArguments) -> None:
    readers = {
        ('-p', '--param'): _take_parameter,
        ('-r', '--remap'): _take_remap,
        ('--params-file',): _take_params_file,
        ('--log-level',): _take_log_level,
        ('-e', '--enclave'): _take_enclave,
        IGNORED_WITH_VALUE: lambda value, parsed: None,
    }
    for flags, read in readers.items():
        if flag in flags:
            value = next(waiting, None)
            if value is None:
                raise RCLInvalidROSArgsError(f'{flag} needs a value')
            try:
                read(value, parsed)
            except ValueError as error:
                raise RCLInvalidROSArgsError(f'{flag} {value}: {error}') from error
            return
    raise UnknownROSArgsError(f'unknown ROS argument: {flag}')


def _split(value: str) -> tuple[str, str]:
    left, mark, right = value.partition(':=')
    if not mark or not left:
        raise ParameterTextError('expected NAME:=VALUE')
    return left, right


def _take_parameter(value: str, parsed: RosArguments) -> None:
    name, text = _split(value)
    node, mark, bare = name.partition(':')
    pattern = f'/{node}' if mark else '/**'
    merge_overrides(parsed.overrides, {pattern: {bare if mark else name: parse_value(text)}})


def _take_params_file(value: str, parsed: RosArguments) -> None:
    merge_overrides(parsed.overrides, parse_file(value))


def _take_remap(value: str, parsed: RosArguments) -> None:
    source, target = _split(value)
    node, mark, name = source.partition(':')
    if not target:
        raise ParameterTextError('expected FROM:=TO')
    parsed.remaps.append(RemapRule(node if mark else None, name if mark else source, target))


def _take_log_level(value: str, parsed: RosArguments) -> None:
    name, mark, level = value.rpartition(':=')
    if level.lower() not in LOG_LEVELS:
        raise ParameterTextError(f'{level} is not one of {", ".join(LOG_LEVELS)}')
    parsed.log_levels[name if mark else ''] = LOG_LEVELS[level.lower()]


def _take_enclave(value: str, parsed: RosArguments) -> None:
    parsed.enclave = value
