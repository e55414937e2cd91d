"""Parameter values written as text: types of YAML scalars, parameter files, which block applies.

Knows no node and no message: a value is a Python bool, int, float, str or a list of one of them.
"""

import math
import re
from typing import Any

import yaml

TRUE = {'y', 'Y', 'yes', 'Yes', 'YES', 'true', 'True', 'TRUE', 'on', 'On', 'ON'}
FALSE = {'n', 'N', 'no', 'No', 'NO', 'false', 'False', 'FALSE', 'off', 'Off', 'OFF'}
INTEGER = re.compile(r'[-+]?(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9]\d*)')
FLOAT = re.compile(r'[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?')
SPECIAL_FLOATS = {
    '.inf': math.inf,
    'inf': math.inf,
    'infinity': math.inf,
    '.nan': math.nan,
    'nan': math.nan,
}
PARAMETERS_KEY = 'ros__parameters'

# node pattern such as '/ns/node', '/*/node' or '/**' -> parameter name -> value
Overrides = dict[str, dict[str, Any]]


class ParameterTextError(ValueError):
    """A parameter value or file is not what ROS 2 accepts."""


def parse_value(text: str) -> Any:
    """Value of the text after `:=` of a `-p` argument.

    Raises:
        ParameterTextError: it is no YAML, or no value a parameter can have.
    """
    try:
        node = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ParameterTextError(f'{text!r} is not YAML: {_join_lines(error)}') from error
    return '' if node is None else _read_value(node, text)


def parse_file(path: str) -> Overrides:
    """Overrides of a parameter file, its patterns in the order of the file.

    Raises:
        ParameterTextError: it cannot be read, or does not have the form of a parameter file.
    """
    try:
        with open(path, encoding='utf-8') as file:
            root = yaml.compose(file, yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParameterTextError(f'{path}: {_join_lines(error)}') from error
    if not isinstance(root, yaml.MappingNode):
        raise ParameterTextError(f'{path}: expected a mapping of node names')
    found: Overrides = {}
    _read_nodes(root, '', path, found)
    return found


def _join_lines(error: Exception) -> str:
    return ' '.join(str(error).split())


def _read_nodes(mapping: yaml.MappingNode, prefix: str, path: str, found: Overrides) -> None:
    for key, value in mapping.value:
        name = key.value
        if not isinstance(value, yaml.MappingNode):
            raise ParameterTextError(f'{path}: {name} has no {PARAMETERS_KEY}')
        if name == PARAMETERS_KEY:
            if not prefix:
                raise ParameterTextError(f'{path}: {PARAMETERS_KEY} stands below no node name')
            _read_parameters(value, '', path, found.setdefault(prefix, {}))
        else:
            _read_nodes(value, f'{prefix}/{name.strip("/")}', path, found)


def _read_parameters(mapping: yaml.MappingNode, prefix: str, path: str, into: dict) -> None:
    for key, value in mapping.value:
        name = f'{prefix}{key.value}'
        if isinstance(value, yaml.MappingNode):
            _read_parameters(value, f'{name}.', path, into)
        else:
            into[name] = _read_value(value, f'{path}: {name}')


def _read_value(node: yaml.Node, where: str) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return _read_scalar(node)
    if not isinstance(node, yaml.SequenceNode):
        raise ParameterTextError(f'{where}: a parameter is a scalar or a list')
    items = []
    for item in node.value:
        if not isinstance(item, yaml.ScalarNode):
            raise ParameterTextError(f'{where}: a list holds scalars only')
        items.append(_read_scalar(item))
    if len({type(item) for item in items}) > 1:
        raise ParameterTextError(f'{where}: a list holds values of one type, not {items}')
    return items


def _read_scalar(node: yaml.ScalarNode) -> Any:
    text = node.value
    if node.style is not None:  # quoted or a block: a string whatever it looks like
        return text
    if text in TRUE or text in FALSE:
        return text in TRUE
    if match := INTEGER.fullmatch(text):
        octal = match.group(1)[0] == '0' and match.group(1)[1:2] not in ('x', 'X')
        return int(text, 8 if octal else 0)
    if FLOAT.fullmatch(text):
        return float(text)
    unsigned = text.removeprefix('-').removeprefix('+').lower()
    if unsigned in SPECIAL_FLOATS:
        return -SPECIAL_FLOATS[unsigned] if text[0] == '-' else SPECIAL_FLOATS[unsigned]
    return text


def merge_overrides(into: Overrides, overrides: Overrides) -> None:
    """Add overrides; a pattern keeps the place of its first appearance, which decides later."""
    for pattern, values in overrides.items():
        into.setdefault(pattern, {}).update(values)


def select_for_node(overrides: Overrides, fully_qualified_name: str) -> dict[str, Any]:
    """Values for one node: the last matching pattern wins, not the most exact one."""
    values: dict[str, Any] = {}
    for pattern, block in overrides.items():
        if _matches(pattern, fully_qualified_name):
            values.update(block)
    return values


def _matches(pattern: str, fully_qualified_name: str) -> bool:
    # '/**' as a prefix may stand for no level at all
    parts = re.split(r'(/\*\*|/\*)', pattern)
    wild = {'/**': r'(/[^/]+)*', '/*': r'/[^/]+'}
    return bool(
        re.fullmatch(''.join(wild.get(p, re.escape(p)) for p in parts), fully_qualified_name)
    )
