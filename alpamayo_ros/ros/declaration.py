"""Declares the parameters on a node, and finds values that files and arguments set in vain.

Knows rclpy only as a node that is passed in, and messages only through a factory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import Field, asdict, fields
import difflib
import fnmatch
from pathlib import Path
from typing import Any

import yaml

from ..rig import load_rig
from .messages import Make
from .parameters import NodeParameters, convert


def declare(node: Any, make: Make) -> NodeParameters:
    """Declare every parameter on a node and return what files and arguments set them to.

    The limits of the rig are the defaults of the parameters of the same names. Raises BadInput;
    rclpy raises its ParameterException for a wrong type or range.
    """
    values: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    for row in fields(NodeParameters):
        described = make_descriptor(row, make)
        default = defaults.get(row.name, row.default)
        value = node.declare_parameter(row.name, default, described).value
        values[row.name] = convert(row, value)
        if row.name == 'rig' and value:  # the first row
            defaults = asdict(load_rig(value).limits)
    return NodeParameters(**values)


def find_unknown(overrides: Iterable[str], is_declared: Callable[[str], bool]) -> Iterable[str]:
    """A sentence for each name that files or arguments set and the node does not have."""
    names = [row.name for row in fields(NodeParameters)]
    for name in overrides:
        if not is_declared(name):
            near = difflib.get_close_matches(name, names, n=1)
            hint = f'; did you mean {near[0]}?' if near else ''
            yield f'{name}: the node has no such parameter, its value is ignored{hint}'


def find_files_of_others(arguments: Sequence[str], node_name: str) -> Iterable[str]:
    """A sentence for each parameter file among ROS arguments that has nothing for this node.

    node_name: with its namespace, '/ns/name'. rclpy takes such a file without a word. A file that
    cannot be read is left to rclpy, which refuses it.
    """
    for option, path in zip(arguments, arguments[1:], strict=False):
        if option != '--params-file' or not Path(path).is_file():
            continue
        document = yaml.safe_load(Path(path).read_text(encoding='utf-8'))
        names = [str(name) for name in document] if isinstance(document, dict) else []
        if names and not any(_matches(node_name, name) for name in names):
            yield f'{path}: it has parameters of {", ".join(names)}, none of {node_name}'


def _matches(node_name: str, name: str) -> bool:
    """Whether a name of a parameter file means a node; * is any one part of it, ** any."""
    pattern = '/' + name.strip('/')
    if '**' in pattern:
        return fnmatch.fnmatch(node_name, pattern.replace('/**', '*'))
    parts, wanted = node_name.split('/'), pattern.split('/')
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatch, parts, wanted))


def make_descriptor(row: Field[Any], make: Make) -> Any:
    """rcl_interfaces/ParameterDescriptor of a field."""
    low, high = row.metadata['low'], row.metadata['high']
    kind = 'integer' if row.type == 'int' else 'floating_point'
    ranges = {}
    if low is not None:
        name = 'IntegerRange' if row.type == 'int' else 'FloatingPointRange'
        bounds = make(f'rcl_interfaces/msg/{name}', from_value=low, to_value=high)
        ranges[f'{kind}_range'] = [bounds]
    allowed = ', '.join(str(choice) for choice in row.metadata['choices'])
    return make(
        'rcl_interfaces/msg/ParameterDescriptor',
        description=row.metadata['description'],
        additional_constraints=f'one of: {allowed}' if allowed else '',
        read_only=not row.metadata['live'],
        dynamic_typing=row.type == 'float',  # -p bits:=2 is an integer
        **ranges,
    )
