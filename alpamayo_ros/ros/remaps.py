"""Names of topics in launch files: which one an input or output has after the user's remaps.

Knows no launch and no rclpy; the rules are those of ROS 2: both sides of FROM:=TO are expanded
before they are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
import re

from ..errors import BadInput
from ..rig import load_rig
from .input_topics import list_input_topics

# Topics of the system that belong to a recording: poses, health and changes of parameters.
OF_SYSTEM = ('/tf', '/tf_static', '/clock', '/diagnostics', '/parameter_events', '/rosout')
OWN = '(input|output|debug)/.+|transition_event'  # below the node's name


def read_remaps(text: str) -> dict[str, str]:
    """Names by name of a text `FROM:=TO FROM:=TO`; raises BadInput for anything else."""
    pairs = [pair.split(':=') for pair in text.split()]
    for pair in pairs:
        if len(pair) != 2 or not all(pair):
            raise BadInput(f"remaps: expected FROM:=TO, got '{':='.join(pair)}'")
    return dict(pairs)


def remap(name: str, node: str, remaps: Mapping[str, str]) -> str:
    """Full name of a topic; node: the node's full name, '/ns/name'."""
    full = expand(name, node)
    targets = (to for source, to in remaps.items() if expand(source, node) == full)
    return expand(next(targets, full), node)


def expand(name: str, node: str) -> str:
    """Full name of a topic without remaps: '/x' as it is, 'x' in the namespace, '~/x' below."""
    if name.startswith('/'):
        return name
    return f'{node}/{name[2:]}' if name.startswith('~/') else f'{node.rpartition("/")[0]}/{name}'


def make_recorded_pattern(rig: str, node: str, remaps: Mapping[str, str]) -> str:
    """Regular expression of the topics that tell what a node did and why.

    Inputs of the rig, inputs and outputs of the node, those of OF_SYSTEM. Raises BadInput for a
    rig that cannot be read.
    """
    namespace = node.rpartition('/')[0]
    inputs = [topic for topic, _ in list_input_topics(load_rig(rig, namespace)).values()]
    names = {remap(name, node, remaps) for name in (*inputs, *remaps)} | {*OF_SYSTEM}
    return f'^({"|".join(map(re.escape, sorted(names)))}|{re.escape(node)}/({OWN}))$'
