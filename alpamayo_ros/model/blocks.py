"""Blocks of config.json that name a class: an allow-list maps known names to our classes.

Knows no checkpoint folder and no weights. Nothing is instantiated before its name is checked.
"""

from __future__ import annotations

from collections.abc import Mapping
import importlib
import inspect
from typing import Any

from ..errors import BadInput
from .versions import VERSIONS

_UNICYCLE = 'action_space.UnicycleAccelCurvatureActionSpace'
# `_target_` of a release, less its package prefix -> our class.
_TARGETS = {
    'action_space.UnicycleAccelCurvatureActionSpace': _UNICYCLE,
    'action_space.unicycle_accel_curvature.UnicycleAccelCurvatureActionSpace': _UNICYCLE,
    'action_space.discrete_action_space.DiscreteTrajectoryTokenizer': (
        'prompt.trajectory_tokenizer.DiscreteTrajectoryTokenizer'
    ),
    'models.delta_tokenizer.DeltaTrajectoryTokenizer': (
        'prompt.trajectory_tokenizer.DeltaTrajectoryTokenizer'
    ),
    'models.action_in_proj.PerWaypointActionInProjV2': 'action_expert.PerWaypointActionInProjV2',
    'diffusion.flow_matching.FlowMatching': 'flow_matching.FlowMatching',
}
_OURS = __name__.rpartition('.')[0]
ALLOWED_TARGETS = {
    f'{prefix}.{name}': f'{_OURS}.{ours}' for prefix in VERSIONS for name, ours in _TARGETS.items()
} | {'torch.nn.Linear': 'torch.nn.Linear'}


def check_targets(block: Any, where: str) -> None:
    """Raise BadInput for a `_target_` off the allow-list, however deep it stands in a block."""
    if isinstance(block, Mapping):
        target = block.get('_target_')
        if target is not None and target not in ALLOWED_TARGETS:
            raise BadInput(
                f'{where}: unknown _target_ {target!r}; known: {sorted(ALLOWED_TARGETS)}'
            )
        for value in block.values():
            check_targets(value, where)
    elif isinstance(block, (list, tuple)):
        for value in block:
            check_targets(value, where)
    elif isinstance(block, str) and '${' in block:  # the reference would resolve it, with a shell
        raise BadInput(f'{where}: interpolation {block!r} is not allowed')


def build_block(block: Mapping[str, Any], **given: Any) -> Any:
    """Instantiate our class of a `_target_` block.

    Keys that our class does not take are left out: releases carry extra ones. `given` are
    arguments of the caller; the block's own values win. Raises BadInput for an unknown class and
    for arguments that the class refuses.
    """
    check_targets(block, 'config.json')
    target = block.get('_target_')
    if target is None:
        raise BadInput(f'config.json: a block without _target_: {dict(block)}')
    module, _, name = ALLOWED_TARGETS[target].rpartition('.')
    cls = getattr(importlib.import_module(module), name)
    takes = inspect.signature(cls).parameters
    arguments = given | {k: v for k, v in block.items() if k in takes and v is not None}
    try:
        return cls(**arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f'config.json: {target} cannot be built: {error}') from None
