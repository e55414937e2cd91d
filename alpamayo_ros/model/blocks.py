"""Blocks of config.json that name a class: an allow-list maps known names to our classes.

Knows no checkpoint folder and no weights. Nothing is instantiated before its name is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import importlib
import inspect
from typing import Any

from ..checked_json import read_flag, read_number, read_numbers, read_size, read_value
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

# Annotation of an argument of our classes -> what reads its value.
_READERS: dict[str, Callable[[Mapping[str, Any], str, str], Any]] = {
    'int': read_size,
    'float': read_number,
    'bool': read_flag,
    'Sequence[float]': read_numbers,
}


def check_targets(block: Any, where: str) -> None:
    """Raise BadInput for a `_target_` off the allow-list, however deep it stands in a block."""
    if isinstance(block, Mapping):
        target = block.get('_target_')
        if target is not None and not (isinstance(target, str) and target in ALLOWED_TARGETS):
            raise BadInput(
                f'{where}: unknown _target_ {target!r:.80}; known: {sorted(ALLOWED_TARGETS)}'
            )
        for value in block.values():
            check_targets(value, where)
    elif isinstance(block, (list, tuple)):
        for value in block:
            check_targets(value, where)
    elif isinstance(block, str) and '${' in block:  # the reference would resolve it, with a shell
        raise BadInput(f'{where}: interpolation {block!r:.80} is not allowed')


def build_block(block: Any, kind: type | tuple[type, ...] = object, **given: Any) -> Any:
    """Instantiate our class of a `_target_` block, one of `kind`.

    Keys that our class does not take are left out: releases carry extra ones. `given` are
    arguments of the caller; the block's own values win. Raises BadInput for an unknown class, one
    of another kind, a value of another kind than the class takes, and one that it refuses.
    """
    check_targets(block, 'config.json')
    target = block.get('_target_') if isinstance(block, Mapping) else None
    if target is None:
        raise BadInput(f'config.json: {block!r:.80}, expected a block with _target_')
    module, _, name = ALLOWED_TARGETS[target].rpartition('.')
    cls = getattr(importlib.import_module(module), name)
    if not issubclass(cls, kind):
        kinds = ' or '.join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise BadInput(f'config.json: {target} stands where {kinds} is expected')
    takes = inspect.signature(cls).parameters
    where, arguments = f'config.json: {target}', dict(given)
    for key in takes:
        if block.get(key) is not None:
            wanted = takes[key].annotation
            read = _READERS.get(getattr(wanted, '__name__', wanted), read_value)
            arguments[key] = read(block, key, where)
    try:
        return cls(**arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f'config.json: {target} cannot be built: {error}') from None
