"""Calibration: all blocks of a checkpoint to few bits, one after the other, then all together.

Finished blocks lie in files, from which a later run with the same arguments continues. Knows no
bags and no checkpoint folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
import torch
from torch import Tensor, nn

from ..errors import BadInput
from ..model.alpamayo import AlpamayoModel
from ..quantization.scheme import Rules, find_rule
from ..runtime.load import EMBEDDING
from .block_quantizer import BlockRuns, quantize_block, replace_submodule, train_block
from .block_walk import Block, HiddenState, list_blocks
from .finetune import PASSES, Figures, TrainingProgress, finetune, measure_figures
from .learned_weight import LearnedLinear
from .lessons import HELD_OUT, MIXES, Lessons, mix_pictures
from .streams import Streams, begin_streams, split_chunks, to_host

_FINISHED = 'calibrated.safetensors'
_PASSED = 'training.safetensors'  # of all blocks: where it stands behind its last pass
_MEASURED = 8  # held-out lessons that a block is measured on

Advance = Callable[[str], object]  # what was done: a block, or a step of the training at the end


@dataclass(frozen=True)
class BlockFigures:
    """What a block's quantization cost on the held-out lessons.

    feedback_error and trained_error: relative error of its outputs behind each phase. kl and
    velocity_error: of the model with all blocks behind this one still in 16 bits.
    """

    block: str
    feedback_error: float
    trained_error: float
    kl: float
    velocity_error: float


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


def count_steps(source: AlpamayoModel, lessons: Lessons) -> int:
    """Count how often `calibrate` calls `advance`."""
    learned, _ = split_lessons(lessons)
    return len(list(list_blocks(source.config))) + PASSES * len(learned)


def split_lessons(lessons: Lessons) -> tuple[list[Lessons], list[Lessons]]:
    """Return chunks of the lessons to learn from, and of the held-out ones: every eighth."""
    held_out = range(HELD_OUT // 2, len(lessons), HELD_OUT)
    learned = [number for number in range(len(lessons)) if number not in held_out]
    # neighbours are alike: each chunk gets moments of all drives
    order = torch.randperm(len(learned), generator=torch.Generator().manual_seed(0)).tolist()
    own = mix_pictures(lessons.take([learned[at] for at in order]), MIXES)
    return list(split_chunks(own)), list(split_chunks(lessons.take(list(held_out))))


def calibrate(
    source: AlpamayoModel,
    rules: Rules,
    lessons: Lessons,
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
    learned, held_out = split_lessons(lessons)
    blocks = list(list_blocks(source.config))
    files = [folder / f'{i:03d}-{block.path}.safetensors' for i, block in enumerate(blocks)]
    with torch.no_grad():
        streams = begin_streams(source, rules, [*learned, *held_out], device)
        walk = _Walk(streams, rules, len(learned), list(_count_measured(held_out, len(learned))))
        walk.answers = streams.finish(streams.plain_states, walk.measured, blocks)
        figures = []
        for i, block in enumerate(blocks):
            figures.append(walk.pass_block(block, blocks[i + 1 :], files[i], seed + i))
            found = figures[-1]
            advance(f'{block.path}: KL {found.kl:.4f}, velocity {found.velocity_error:.3f}')
        states, targets = streams.quantized_states, streams.plain_states
        before = measure_figures(states[len(learned) :], targets[len(learned) :], held_out)
        for block, place in zip(blocks, files, strict=True):
            module, _ = _load_block(streams.take_block(block), block.path, rules, place)
            replace_submodule(streams.quantized, block.path, module)
    model = streams.quantized
    passed = folder / _PASSED
    known = _read_progress(passed) if passed.is_file() else None
    after = finetune(
        model,
        blocks,
        streams.lessons,
        targets,
        len(learned),
        seed,
        advance,
        lambda progress: _save_progress(progress, passed),
        known,
    )
    calibration = Calibration(file, figures, before, after)
    # the embedding is not trained: it is quantized as it is without calibration
    tensors = {name: x for name, x in _collect(model) if not name.startswith(EMBEDDING)}
    save_tensors(tensors, file, calibration.to_json())
    return calibration


def _count_measured(held_out: Sequence[Lessons], first: int) -> Iterator[int]:
    """Yield the numbers of the held-out chunks that every block is measured on."""
    count = 0
    for number, own in enumerate(held_out, first):
        if count < _MEASURED:
            yield number
            count += len(own)


@dataclass
class _Walk:
    """What all blocks share. answers: of 16 bits at the end, for the measured chunks."""

    streams: Streams
    rules: Rules
    learned: int
    measured: list[int]
    answers: list[HiddenState] = field(default_factory=list)

    def pass_block(
        self, block: Block, rest: Sequence[Block], file: Path, seed: int
    ) -> BlockFigures:
        """Quantize a block, or load the finished one, and let the lessons pass it."""
        streams = self.streams
        chunks, plain = range(len(streams.lessons)), streams.take_block(block)
        targets = [to_host(streams.run_plain(block, plain, chunk)) for chunk in chunks]
        if file.is_file():
            module, known = _load_block(plain, block.path, self.rules, file)
            streams.move(block, module, targets)
            return BlockFigures(**known)
        runs = BlockRuns(
            lambda module, chunk: streams.run_quantized(block, module, chunk),
            lambda module, chunk: streams.run_plain(block, module, chunk),
            plain,
            targets,
            chunks[: self.learned],
            chunks[self.learned :],
        )
        module = quantize_block(streams.take_block(block), block.path, self.rules, runs)
        errors = train_block(module, runs, seed)
        streams.move(block, module, targets)
        states = streams.finish(streams.quantized_states, self.measured, rest)
        lessons = [streams.lessons[chunk] for chunk in self.measured]
        found = measure_figures(states, self.answers, lessons)
        figures = BlockFigures(block.path, *errors, found.kl, found.velocity_error)
        save_tensors(dict(_collect(module, block.path)), file, asdict(figures))
        return figures


def _load_block(
    module: nn.Module, path: str, rules: Rules, file: Path
) -> tuple[nn.Module, dict[str, Any]]:
    """Return a block in 16 bits as the finished one of a file, and what the file says of it."""
    found, device = _read_metadata(file), next(module.parameters()).device
    tensors = {name: x.to(device) for name, x in load_file(file).items()}
    for name, layer in list(module.named_modules()):
        whole = f'{path}.{name}'.rstrip('.')
        rule = find_rule(whole, rules)
        if isinstance(layer, nn.Linear) and rule.scheme.levels:
            start = f'{whole}.weight'
            stored = {k.removeprefix(start): x for k, x in tensors.items() if k.startswith(start)}
            module = replace_submodule(module, name, LearnedLinear(layer, rule, stored))
    for name, parameter in module.named_parameters():
        if (known := tensors.get(f'{path}.{name}')) is not None:
            parameter.data.copy_(known)
    return module, found


def _collect(module: nn.Module, path: str = '') -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that a checkpoint stores for a module but its buffers, on the host."""
    for name, part in module.named_modules():
        start = '.'.join(filter(None, (path, name)))
        if isinstance(part, LearnedLinear):
            for ending, x in part.collect_tensors().items():
                yield f'{start}{ending}', x.to('cpu').contiguous()
        else:
            for leaf, x in part.named_parameters(recurse=False):
                yield f'{start}.{leaf}', x.detach().to('cpu').contiguous()


def save_tensors(tensors: dict[str, Tensor], file: Path, figures: dict[str, Any]) -> None:
    """Write tensors and figures; the file is there whole or not at all."""
    partial = file.with_suffix('.unfinished')
    try:
        save_file(tensors, partial, {'figures': json.dumps(figures)})
    except SafetensorError as error:  # a full disk too: it is no OSError
        raise BadInput(f'{partial}: cannot be written: {error}') from None
    partial.rename(file)


def _read_metadata(file: Path) -> dict[str, Any]:
    with safe_open(file, framework='pt') as opened:
        found: dict[str, Any] = json.loads(opened.metadata()['figures'])
    return found


def _save_progress(progress: TrainingProgress, file: Path) -> None:
    tensors = {name: x.to('cpu').contiguous() for name, x in progress.tensors.items()}
    save_tensors(tensors, file, {'passes': progress.passes, 'best': asdict(progress.figures)})


def _read_progress(file: Path) -> TrainingProgress:
    found = _read_metadata(file)
    return TrainingProgress(found['passes'], Figures(**found['best']), load_file(file))


def _read_calibration(file: Path) -> Calibration:
    found = _read_metadata(file)
    return Calibration(
        file,
        [BlockFigures(**block) for block in found['blocks']],
        Figures(**found['before_training']),
        Figures(**found['after_training']),
    )
