"""Calibration: all blocks of a checkpoint to few bits, one after the other, then all together.

Finished blocks lie in files, from which a later run with the same arguments continues. Knows no
bags and no checkpoint folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import copy
from dataclasses import asdict, dataclass
import json
from pathlib import Path

from safetensors.torch import load_file, save_file
import torch
from torch import Tensor, nn

from ..model.alpamayo import AlpamayoModel
from ..quantization.matrix import quantize_matrix
from ..quantization.scheme import Rules, find_rule
from .block_quantizer import BlockRuns, quantize_block, replace_submodule, train_block
from .block_walk import Block, State, begin, list_blocks, run_block, run_model, store_outputs
from .finetune import Figures, finetune, measure_figures
from .learned_weight import LearnedLinear
from .lessons import Lesson, split_lessons

EMBEDDING = 'vlm.model.language_model.embed_tokens'
Advance = Callable[[str, int], object]  # what was done, and how many of `count_steps` it was


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
    """Tensors of the checkpoint by name, and figures: of each block, before and after the end."""

    tensors: dict[str, Tensor]
    blocks: list[BlockFigures]
    before: Figures
    after: Figures


def calibrate(
    plain: AlpamayoModel,
    rules: Rules,
    lessons: Sequence[Lesson],
    folder: Path,
    seed: int,
    advance: Advance,
) -> Calibration:
    """Quantize a model under rules so that it gives the 16-bit answers to the lessons.

    plain: in 16 bits, on the device of the lessons. folder: for finished blocks.
    """
    folder.mkdir(exist_ok=True)
    model = copy.deepcopy(plain)
    _round_embedding(model, rules)
    learned, held_out = split_lessons(lessons)
    everything = [*learned, *held_out]
    blocks = list(list_blocks(plain.config))
    figures = []
    with torch.no_grad():
        walk = _Walk([begin(plain, x) for x in everything], [begin(model, x) for x in everything])
        for i, block in enumerate(blocks):
            runs = walk.make_runs(block, plain, model, len(learned))
            file = folder / f'{i:03d}-{block.path}.safetensors'
            known = _load_block(model, block, rules, file)
            if known is None:
                module = model.get_submodule(block.path)
                module = quantize_block(module, block.path, rules, runs)
                replace_submodule(model, block.path, module)
                errors = train_block(module, runs, seed + i)
                rest = [copy.copy(x) for x in walk.quantized[len(learned) :]]
                for x in rest:
                    x.levels = list(x.levels)
                    run_model(model, x.lesson, blocks[i:], x)
                found = measure_figures(
                    rest, [_finish(plain, x, blocks[i:]) for x in walk.plain[len(learned) :]]
                )
                known = BlockFigures(block.path, *errors, found.kl, found.velocity_error)
                _save_block(module, block, known, file)
            figures.append(known)
            walk.move(block, plain, model)
            advance(block.path, 1)
    targets = walk.plain
    before = measure_figures(walk.quantized[len(learned) :], targets[len(learned) :])
    after = finetune(model, blocks, targets, len(learned), seed, advance)
    return Calibration(_collect(model), figures, before, after)


def count_steps(plain: AlpamayoModel) -> int:
    """Count what `calibrate` reports to `advance` before the training of the whole model."""
    return len(list(list_blocks(plain.config)))


@dataclass
class _Walk:
    """All lessons on their way through the 16-bit model and through the quantized one."""

    plain: list[State]
    quantized: list[State]

    def make_runs(
        self, block: Block, plain: AlpamayoModel, model: AlpamayoModel, learned: int
    ) -> BlockRuns:
        """Return how to run the next block on each lesson."""
        return BlockRuns(
            lambda module, i: run_block(block, module, model, self.quantized[i]),
            lambda module, i: run_block(block, module, plain, self.plain[i]),
            plain.get_submodule(block.path),
            range(learned),
            range(learned, len(self.plain)),
        )

    def move(self, block: Block, plain: AlpamayoModel, model: AlpamayoModel) -> None:
        """Let all lessons pass the block."""
        for states, own in ((self.plain, plain), (self.quantized, model)):
            module = own.get_submodule(block.path)
            for state in states:
                store_outputs(block, state, run_block(block, module, own, state))


def _finish(model: AlpamayoModel, state: State, blocks: list[Block]) -> State:
    """Run a copy of a state to the end."""
    own = copy.copy(state)
    own.levels = list(state.levels)
    return run_model(model, own.lesson, blocks, own)


def _round_embedding(model: AlpamayoModel, rules: Rules) -> None:
    """Give the embedding the values of its quantized form; it has no inputs to calibrate on."""
    rule = find_rule(EMBEDDING, rules)
    table = model.get_submodule(EMBEDDING)
    if rule.scheme.levels and isinstance(table, nn.Embedding):
        rows, columns = table.weight.shape
        like = nn.Linear(columns, rows, bias=False, device='meta', dtype=table.weight.dtype)
        stored, _ = quantize_matrix(table.weight, rule, device=table.weight.device)
        dense = LearnedLinear(like, rule, stored).compute_weight()
        table.weight = nn.Parameter(dense.detach(), requires_grad=False)


def _save_block(module: nn.Module, block: Block, figures: BlockFigures, file: Path) -> None:
    """Write what a block has become, and its figures."""
    tensors = {f'{block.path}{name}': x.contiguous() for name, x in _collect_module(module)}
    partial = file.with_suffix('.unfinished')
    save_file(tensors, partial, {'figures': json.dumps(asdict(figures))})
    partial.rename(file)


def _load_block(
    model: AlpamayoModel, block: Block, rules: Rules, file: Path
) -> BlockFigures | None:
    """Put a finished block into the model and return its figures; None without a file."""
    if not file.is_file():
        return None
    from safetensors import safe_open

    with safe_open(file, framework='pt') as opened:
        figures = BlockFigures(**json.loads(opened.metadata()['figures']))
    device = next(iter(model.parameters())).device
    tensors = {name: x.to(device) for name, x in load_file(file).items()}
    module = model.get_submodule(block.path)
    for name, layer in list(module.named_modules()):
        path = f'{block.path}.{name}'.rstrip('.')
        rule = find_rule(path, rules)
        if isinstance(layer, nn.Linear) and rule.scheme.levels:
            start = f'{path}.weight'
            stored = {k.removeprefix(start): x for k, x in tensors.items() if k.startswith(start)}
            module = replace_submodule(module, name, LearnedLinear(layer, rule, stored))
    replace_submodule(model, block.path, module)
    for name, parameter in module.named_parameters():
        if (known := tensors.get(f'{block.path}.{name}')) is not None:
            parameter.data.copy_(known)
    return figures


def _collect(model: AlpamayoModel) -> dict[str, Tensor]:
    """All tensors of the checkpoint but those of the embedding, on the host, by name."""
    return {
        name[1:]: tensor.detach().cpu().contiguous()
        for name, tensor in _collect_module(model)
        if not name[1:].startswith(EMBEDDING)
    }


def _collect_module(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Tensors that a checkpoint stores for a module, each name with a dot before it."""
    found: list[tuple[str, Tensor]] = []
    for name, part in module.named_modules():
        dotted = f'.{name}' if name else ''
        if isinstance(part, LearnedLinear):
            found += [(dotted + ending, x) for ending, x in part.collect_tensors().items()]
        elif not dotted.rpartition('.weight')[1] and not name.endswith(('packed', '_data')):
            found += [
                (f'{dotted}.{leaf}', x.detach())
                for leaf, x in part.named_parameters(recurse=False)
            ]
    return found
