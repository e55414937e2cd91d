"""Contexts spread evenly over recorded drives, as the replay serves them.

For the calibration of a quantized checkpoint. Writes no record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from ..bags.reader import Bag
from ..data_types import Context, Prediction
from ..errors import BadInput
from ..rig import CameraRig
from ..runtime.constant_velocity import ConstantVelocityEngine
from .replay import WARM_UP_NS, Replay, Schedule, require_topics


def draw_contexts(
    drives: Sequence[Path],
    rig: CameraRig,
    count: int,
    advance: Callable[[int], object] = lambda decided: None,
) -> list[Context]:
    """Draw about `count` contexts from drives, in proportion to their lengths.

    advance is called with the number of anchors that were decided. Raises BadInput for a drive
    whose topics are not the rig's, and for one without a valid context.
    """
    spans_ns = []
    for drive in drives:
        with Bag(drive) as bag:
            require_topics(bag, rig)
            spans_ns.append(max(bag.end_ns - bag.start_ns - WARM_UP_NS, 1))
    period_ns = max(sum(spans_ns) // count, 1)
    return [context for drive in drives for context in _draw(drive, rig, period_ns, advance)]


class _ContextKeeper(ConstantVelocityEngine):
    """Keeps the contexts that a replay shows it."""

    def __init__(self) -> None:
        super().__init__()
        self.contexts: list[Context] = []

    def infer(self, context: Context, seed: int) -> Prediction:
        self.contexts.append(context)
        return super().infer(context, seed)


def _draw(
    drive: Path, rig: CameraRig, period_ns: int, advance: Callable[[int], object]
) -> list[Context]:
    keeper, refused = _ContextKeeper(), Counter[tuple[str, str]]()
    with Bag(drive) as bag:
        for line in Replay(bag, rig, keeper, Schedule(period_ns)).lines():
            if line['status'] != 'ok':
                refused[line['reason'], line['detail']] += 1
            if 'topic' not in line:
                advance(1)
    if not keeper.contexts:
        refused = refused or Counter([('no_anchor', 'no frame')])
        (reason, detail), times = refused.most_common(1)[0]
        raise BadInput(
            f'{drive}: no valid context for the rig {rig.name}; most often {reason}, {times} '
            f'times ({detail})'
        )
    return keeper.contexts
