"""Figures of one checkpoint of the study: weights, logits, velocities, paths, bytes.

Paths are those of alpamayo_evaluate's open loop: same drives, seeds and batches. Models are
unpacked first, so figures are those of the weights and not of a kernel. Knows no table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alpamayo_ros.data_types import Context, SamplingOptions
from alpamayo_ros.drives import open_loop, parts
from alpamayo_ros.drives.evaluation import hash_world
from alpamayo_ros.drives.open_loop import OpenLoop
from alpamayo_ros.drives.planners import derive_scene_seed
from alpamayo_ros.drives.scene import Scene, keep_pictures, make_contexts
from alpamayo_ros.model.alpamayo import AlpamayoModel
from alpamayo_ros.model.checkpoint import hash_checkpoint, list_shard_files
from alpamayo_ros.runtime.batch import infer_batch
from alpamayo_ros.runtime.engine import AlpamayoEngine
from quantization_study.dense import unpack
from quantization_study.forced import (
    Lesson,
    choose_picture_size,
    choose_settings,
    compare,
    generate_lessons,
)

SAMPLES, SCENES = 6, 16  # of a prediction; that share a forward pass
HELD_OUT = 'validation'  # split of the lessons; paths are those of the test drives
_LESSON_BATCHES, _LESSON_BATCH, _LESSON_PER_DRIVE = 4, 32, 4
Record = dict[str, Any]


@dataclass
class Bench:
    """What every checkpoint is measured on, made once: plain model, drives, held-out lessons."""

    source: Path
    loop: OpenLoop
    device: str
    _scenes: dict[int, list[tuple[Scene, Context]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Load the plain model and draw the lessons."""
        self.plain = AlpamayoEngine(self.source, self.device, None, 16)
        self.size = choose_picture_size(self.plain.config)
        self.lessons = draw_held_out_lessons(self.plain.model, self.source, self.device)

    def load(self, folder: Path) -> AlpamayoEngine:
        """Load a checkpoint and unpack it."""
        engine = AlpamayoEngine(folder, self.device)
        unpack(engine.model)
        return engine

    def records(
        self, name: str, engine: AlpamayoEngine, folder: Path, advance: Callable[[int], object]
    ) -> list[Record]:
        """Make the records of the open loop below a folder; those that are there are kept."""
        about = {'checkpoint_sha256': hash_checkpoint(engine.checkpoint), 'device': self.device}
        loop = {'kind': 'open'} | asdict(self.loop) | {'samples': SAMPLES}
        made_from = {'row': name.replace('/', ''), 'kind': 'model', 'planner': about,
                     'loop': loop, 'world': hash_world()}  # fmt: skip
        parts.require_same_settings(folder, [made_from])
        advance(parts.count_known_drives(folder, made_from) * self.loop.moments)

        def measure(groups: Iterable[Sequence[int]]) -> Iterator[list[Record]]:
            for drives in groups:
                found = self._measure(engine, drives)
                advance(len(found))
                yield found

        parts.complete_part(folder, made_from, max(SCENES // self.loop.moments, 1), measure)
        row = made_from['row']
        return next(p.records for p in parts.read_parts(folder) if p.made_from['row'] == row)

    def _measure(self, engine: AlpamayoEngine, drives: Sequence[int]) -> list[Record]:
        pairs = [pair for number in drives for pair in self._draw_scenes(number)]
        seeds = [derive_scene_seed(self.loop.seed, scene) for scene, _ in pairs]
        options = SamplingOptions(num_samples=SAMPLES)
        made = infer_batch(engine, [context for _, context in pairs], seeds, options)
        return [open_loop.make_record(pair[0], own) for pair, own in zip(pairs, made, strict=True)]

    def _draw_scenes(self, number: int) -> list[tuple[Scene, Context]]:
        """Draw the scenes of a drive with their pictures."""
        if number not in self._scenes:
            scenes = self.loop.scenes(number, self.size)
            rngs = [np.random.default_rng() for _ in scenes]  # `as_they_are` draws nothing
            kind = torch.device(self.device).type
            self._scenes[number] = list(
                zip(scenes, make_contexts(scenes, keep_pictures, rngs, kind), strict=True)
            )
        return self._scenes[number]


def draw_held_out_lessons(model: AlpamayoModel, folder: Path, device: str) -> list[Lesson]:
    """Draw held-out lessons with the answers of the plain model."""
    drives = _LESSON_BATCHES * _LESSON_BATCH // _LESSON_PER_DRIVE
    settings = choose_settings(model, _LESSON_BATCH, _LESSON_BATCHES, 1, _LESSON_PER_DRIVE, drives)
    return list(generate_lessons(model, folder, HELD_OUT, settings, device))


def measure_weight_error(plain: AlpamayoModel, other: AlpamayoModel) -> float:
    """Measure the Frobenius norm of the difference of all matrices that differ, over theirs."""
    rest, whole = 0.0, 0.0
    found = dict(other.named_parameters())
    for name, weight in plain.named_parameters():
        if weight.dim() == 2:
            difference = float((found[name].double() - weight.double()).square().sum())
            rest += difference
            whole += float(weight.double().square().sum()) if difference else 0.0
    return (rest / whole) ** 0.5 if whole else 0.0


def measure_forced(bench: Bench, model: AlpamayoModel) -> dict[str, float]:
    """Measure divergence and velocity error on the lessons, and the error of the weights."""
    return compare(model, bench.lessons) | {
        'weight_error': measure_weight_error(bench.plain.model, model)
    }


def count_file_bytes(folder: Path) -> int:
    """Count the bytes of the safetensors files of a checkpoint."""
    return sum(file.stat().st_size for file in list_shard_files(folder))
