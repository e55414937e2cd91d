"""Open loop over clips: one prediction of a row at the makers' t0 of each, one record each.

Its imports need the extra `clips`, so that it is imported where clips are asked for alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import hashlib
from pathlib import Path
from typing import Any

from ...clips.context import T0_US, Truth, make_clip_rig, measure_corners, read_context
from ...clips.dataset import ClipError, ClipFolder, read_clip_list
from ...data_types import Context, Prediction
from ..open_loop import describe_prediction
from ..parts import Record
from ..planners import ContextPlanner


@dataclass(frozen=True)
class ClipLoop:
    """Which clips of a folder; every inference has the same seed, as in the makers' evaluation."""

    folder: Path
    clip_ids: tuple[str, ...]
    seed: int

    @property
    def drives(self) -> int:
        """How many clips there are."""
        return len(self.clip_ids)

    def describe(self) -> dict[str, Any]:
        """What the figures depend on, wherever the folder lies."""
        names = hashlib.sha256('\n'.join(self.clip_ids).encode()).hexdigest()
        return {'drives': self.drives, 'clips': names, 't0_us': T0_US, 'seed': self.seed}


def choose_clips(folder: Path, clip_list: Path | None, seed: int) -> ClipLoop:
    """All clips of a folder, or those of a list; raises BadInput when there is none."""
    clip_ids = ClipFolder(folder).select(None, read_clip_list(clip_list) if clip_list else None)
    return ClipLoop(folder, tuple(clip_ids), seed)


def measure(planner: ContextPlanner, loop: ClipLoop, numbers: Sequence[int]) -> list[Record]:
    """Records of some clips in order, by their numbers; a clip without a context has none."""
    folder, rig = ClipFolder(loop.folder), make_clip_rig()
    found: list[tuple[int, Context, Truth]] = []
    for number in numbers:
        try:
            found.append((number, *read_context(folder, loop.clip_ids[number], rig)))
        except ClipError:
            continue
    predictions = planner.predict([x for _, x, _ in found], [loop.seed] * len(found))
    return [
        _make_record(number, loop.clip_ids[number], prediction, truth)
        for (number, _, truth), prediction in zip(found, predictions, strict=True)
    ]


def _make_record(number: int, clip_id: str, prediction: Prediction, truth: Truth) -> Record:
    return {
        'drive': number,
        'clip': clip_id,
        't0_s': T0_US / 1e6,
        **describe_prediction(prediction, truth.future),
        'corner_distance_m': measure_corners(prediction.samples, truth),
    }
