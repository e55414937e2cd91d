"""Calibration: all blocks of a checkpoint to few bits, one after the other, then all together.

Finished blocks lie in files, from which a later run with the same arguments continues. Knows no
bags and no checkpoint folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
import math
from pathlib import Path
from typing import Any

import torch

from ..model.alpamayo import AlpamayoModel
from ..quantization.scheme import Rules
from ..runtime.load import EMBEDDING
from .block_quantizer import BlockRuns, quantize_block, replace_submodule, train_block
from .block_walk import Block, HiddenState, list_blocks
from .calibration_files import (
    collect_tensors,
    load_block,
    read_metadata,
    read_progress,
    save_progress,
    save_tensors,
)
from .finetune import Figures, count_passes, finetune, measure_figures
from .lessons import Curriculum, Lessons
from .streams import Streams, begin_streams, split_chunks

_FINISHED = 'calibrated.safetensors'
_PASSED = 'training.safetensors'  # of all blocks: where it stands behind its last pass
WALKED = 112  # learned lessons that blocks are quantized on, one by one; the end learns from all
_MEASURED = 8  # held-out lessons that a block is measured on
_MEASUREMENTS = 20  # about, of the whole model: each runs through all blocks that follow

Advance = Callable[[str], object]  # what was done: a block, or a step of the training at the end


@dataclass(frozen=True)
class BlockFigures:
    """What a block's quantization cost on the held-out lessons.

    feedback_error and trained_error: relative error of its outputs behind each phase. kl and
    velocity_error: of the model with all blocks behind this one still in 16 bits; None where that
    was not measured.
    """

    block: str
    feedback_error: float
    trained_error: float
    kl: float | None
    velocity_error: float | None


@dataclass(frozen=True)
class Calibration:
    """File of the calibrated tensors, and figures: of each block, before and after the end."""

    file: Path
    blocks: list[BlockFigures]
    before: Figures
    after: Figures

    def to_json(self) -> dict[str, Any]:
        """Return the figures as the report has them."""
        return {
            'blocks': [asdict(block) for block in self.blocks],
            'before_training': asdict(self.before),
            'after_training': asdict(self.after),
        }


def count_steps(source: AlpamayoModel, lessons: Curriculum) -> int:
    """Count how often `calibrate` calls `advance`."""
    learned = len(list(split_chunks(lessons.learned)))
    return len(list(list_blocks(source.config))) + count_passes(learned) * learned


def calibrate(
    source: AlpamayoModel,
    rules: Rules,
    lessons: Curriculum,
    folder: Path,
    device: str,
    seed: int,
    advance: Advance,
) -> Calibration:
    """Quantize a model under rules so that it gives the 16-bit answers to the lessons.

    source: in 16 bits on the host; its blocks go to the device one by one. folder: for finished
    blocks. Raises BadInput where a file cannot be written.
    """
    folder.mkdir(exist_ok=True)
    if (file := folder / _FINISHED).is_file():
        return _read_calibration(file)
    learned, held_out = (list(split_chunks(x)) for x in (lessons.learned, lessons.held_out))
    blocks = list(list_blocks(source.config))
    files = [folder / f'{i:03d}-{block.path}.safetensors' for i, block in enumerate(blocks)]
    with torch.no_grad():
        followed = len(held_out) + _count_chunks(learned, WALKED)
        streams = begin_streams(source, rules, [*held_out, *learned], followed, device, folder)
        walk = _Walk(streams, rules, len(held_out), _count_chunks(held_out, _MEASURED))
        walk.answers = streams.finish(streams.plain_states, range(walk.measured), blocks)
        figures, every = [], math.ceil(len(blocks) / _MEASUREMENTS)
        for i, block in enumerate(blocks):
            rest = blocks[i + 1 :] if len(blocks[i + 1 :]) % every == 0 else None
            figures.append(walk.pass_block(block, rest, files[i], seed + i))
            advance(_describe(figures))
        states, targets = streams.quantized_states, streams.plain_states
        before = measure_figures(states[: len(held_out)], targets[: len(held_out)], held_out)
        for block, place in zip(blocks, files, strict=True):
            module, _ = load_block(streams.take_block(block), block.path, rules, place)
            replace_submodule(streams.quantized, block.path, module)
    model = streams.quantized
    passed = folder / _PASSED
    known = read_progress(passed) if passed.is_file() else None
    after = finetune(
        model,
        blocks,
        streams.lessons,
        targets,
        len(held_out),
        seed,
        advance,
        lambda progress: save_progress(progress, passed),
        known,
    )
    calibration = Calibration(file, figures, before, after)
    # the embedding is not trained: it is quantized as it is without calibration
    tensors = {name: x for name, x in collect_tensors(model) if not name.startswith(EMBEDDING)}
    save_tensors(tensors, file, calibration.to_json())
    return calibration


def _count_chunks(chunks: Sequence[Lessons], lessons: int) -> int:
    """Count the first chunks that have so many lessons, or all chunks."""
    before = accumulate(map(len, chunks), initial=0)
    return sum(count < lessons for count, _ in zip(before, chunks, strict=False))


def _describe(figures: Sequence[BlockFigures]) -> str:
    """Name the last block, with the figures of the last one that was measured."""
    known = [own for own in figures if own.kl is not None]
    text = f': KL {known[-1].kl:.4f}, velocity {known[-1].velocity_error:.3f}' if known else ''
    return figures[-1].block + text


@dataclass
class _Walk:
    """What all blocks share.

    held_out: number of the first chunks, which are not learned; each measurement takes the first
    `measured`. answers: of 16 bits at the end, for these.
    """

    streams: Streams
    rules: Rules
    held_out: int
    measured: int
    answers: list[HiddenState] = field(default_factory=list)

    def pass_block(
        self, block: Block, rest: Sequence[Block] | None, file: Path, seed: int
    ) -> BlockFigures:
        """Quantize a block, or load the finished one, and let the lessons pass it.

        rest: the blocks behind it, through which the model is measured; None for no measurement.
        """
        streams, plain = self.streams, self.streams.take_block(block)
        targets = [
            streams.to_host(streams.run_plain(block, plain, chunk))
            for chunk in range(len(streams.lessons))
        ]
        if file.is_file():
            module, known = load_block(plain, block.path, self.rules, file)
            streams.move(block, module, targets)
            return BlockFigures(**known)
        runs = BlockRuns(
            lambda module, chunk: streams.run_quantized(block, module, chunk),
            lambda module, chunk: streams.run_plain(block, module, chunk),
            plain,
            targets,
            range(self.held_out, len(streams.quantized_states)),
            range(self.held_out),
        )
        module = quantize_block(streams.take_block(block), block.path, self.rules, runs)
        errors = train_block(module, runs, seed)
        streams.move(block, module, targets)
        found = None
        if rest is not None:
            states = streams.finish(streams.quantized_states, range(self.measured), rest)
            found = measure_figures(states, self.answers, streams.lessons[: self.measured])
        harm = (None, None) if found is None else (found.kl, found.velocity_error)
        figures = BlockFigures(block.path, *errors, *harm)
        save_tensors(dict(collect_tensors(module, block.path)), file, asdict(figures))
        return figures


def _read_calibration(file: Path) -> Calibration:
    found = read_metadata(file)
    return Calibration(
        file,
        [BlockFigures(**block) for block in found['blocks']],
        Figures(**found['before_training']),
        Figures(**found['after_training']),
    )
