"""ROS names: which are valid, how they expand, and how remap rules change them.

Knows no DDS and no node object: a node is its name and namespace here.
"""

from collections.abc import Iterable
from dataclasses import dataclass
import re

from rosless.exceptions import (
    InvalidNamespaceException,
    InvalidNodeNameException,
    InvalidServiceNameException,
    InvalidTopicNameException,
)

TOKEN = r'[A-Za-z_][A-Za-z0-9_]*'
NODE_NAME = re.compile(TOKEN)
NAMESPACE = re.compile(rf'/|(/{TOKEN})+')
# a substitution such as {node} may stand for a token
TOPIC = re.compile(rf'(~(?=/|$)|/?(?:{TOKEN}|{{\w+}}))(/?(?:\w|{{\w+}})+)*')
MAX_NODE_NAME = 255


@dataclass(frozen=True)
class RemapRule:
    """`[node:]from:=to`; a rule without a node applies to every node."""

    node: str | None
    source: str
    target: str


def validate_node_name(name: str) -> None:
    """Raise InvalidNodeNameException unless the name is letters, digits and underscores."""
    if not NODE_NAME.fullmatch(name) or len(name) > MAX_NODE_NAME:
        raise InvalidNodeNameException(
            name, 'letters, digits and underscores, not starting with a digit, were expected'
        )


def make_absolute_namespace(namespace: str) -> str:
    """Absolute form of a namespace: '' -> '/', 'a/b' -> '/a/b'.

    Raises:
        InvalidNamespaceException: it is not made of valid tokens.
    """
    absolute = namespace if namespace.startswith('/') else f'/{namespace}'
    if not NAMESPACE.fullmatch(absolute):
        raise InvalidNamespaceException(namespace, 'tokens joined by single slashes were expected')
    return absolute


def join_name(node: str, namespace: str) -> str:
    """'/ns/node' of a node name and an absolute namespace."""
    return f'{namespace.rstrip("/")}/{node}'


def expand_name(name: str, node: str, namespace: str, *, service: bool = False) -> str:
    """Absolute name of a topic or service as a node means it; remap rules are not applied.

    Raises:
        InvalidTopicNameException, InvalidServiceNameException: the name breaks the rules.
    """
    error = InvalidServiceNameException if service else InvalidTopicNameException
    valid = TOPIC.fullmatch(name) and '//' not in name
    if not valid or re.search(r'/\d', name):
        raise error(name, 'tokens joined by single slashes were expected')
    known = {'{node}': node, '{ns}': namespace, '{namespace}': namespace}
    for placeholder in re.findall(r'{\w+}', name):
        if placeholder not in known:
            raise error(name, f'{placeholder} is not one of {", ".join(known)}')
        name = name.replace(placeholder, known[placeholder])
    if name.startswith('~'):
        return join_name(node, namespace) + name[1:]
    return name if name.startswith('/') else join_name(name, namespace)


def remap_name(
    name: str, rules: Iterable[RemapRule], node: str, namespace: str, *, service: bool = False
) -> str:
    """Absolute name after the first rule whose source means the same absolute name."""
    absolute = expand_name(name, node, namespace, service=service)
    for rule in rules:
        if rule.node not in (None, node) or rule.source in ('__node', '__name', '__ns'):
            continue
        if expand_name(rule.source, node, namespace, service=service) == absolute:
            return expand_name(rule.target, node, namespace, service=service)
    return absolute


def remap_node(name: str, namespace: str, rules: Iterable[RemapRule]) -> tuple[str, str]:
    """Name and absolute namespace of a node after `__node:=` and `__ns:=`.

    Raises:
        InvalidNodeNameException, InvalidNamespaceException: what they ask for breaks the rules.
    """
    new_name, new_namespace = None, None
    for rule in rules:
        if rule.node not in (None, name):
            continue
        if rule.source in ('__node', '__name') and new_name is None:
            new_name = rule.target
        elif rule.source == '__ns' and new_namespace is None:
            new_namespace = rule.target
    name = name if new_name is None else new_name
    validate_node_name(name)
    return name, make_absolute_namespace(namespace if new_namespace is None else new_namespace)
