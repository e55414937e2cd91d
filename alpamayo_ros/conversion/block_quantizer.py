"""One block to few bits: error feedback towards the 16-bit outputs, then training.

The block reads what the quantized blocks before it produce, and shall give what the 16-bit model
gives. Knows no files and no order of blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import BadInput
from ..quantization.feedback import DAMPING, inverse_factor, quantize_with_feedback
from ..quantization.scheme import Rules, find_rule
from .learned_weight import LearnedLinear

Run = Callable[[nn.Module, int], tuple[Tensor, ...]]  # a block on the lessons of that chunk

PASSES = 1  # of the training, over all lessons
RATE = 2e-3  # of scales and shifts, relative to the scale
CODE_RATE = 8e-3  # of places between the levels, in levels
PLAIN_RATE = 2e-4  # of norms and biases
TRAINED_BITS = 2  # at most, of a layer of a block that is trained on its own
ROWS_PER_INPUT = 50  # of the inputs that the moments of a layer are taken from
SEQUENTIAL = True
LARGEST_CODES = 1 << 28  # weights of a layer whose codes are trained: 16 bytes each


@dataclass(frozen=True)
class BlockRuns:
    """How to run the block on a chunk of lessons: with the quantized input, with the 16-bit input.

    plain: the block in 16 bits. targets: its outputs of each chunk. learned and held_out: numbers
    of chunks.
    """

    quantized_input: Run
    plain_input: Run
    plain: nn.Module
    targets: Sequence[tuple[Tensor, ...]]
    learned: Sequence[int]
    held_out: Sequence[int]


def quantize_block(module: nn.Module, prefix: str, rules: Rules, runs: BlockRuns) -> nn.Module:
    """Quantize all linear layers of a block under the rules, and return the block.

    prefix: name of the block in the model. Layers that read the same input are solved together,
    one group after the other, so that each sees the errors of those before it.
    """
    groups = list_layer_groups(module, prefix, rules, runs)
    known = {} if SEQUENTIAL else measure_moments(module, [names[0] for names in groups], runs)
    for names in groups:
        if SEQUENTIAL:
            known = measure_moments(module, names[:1], runs)
        moments, drift, rows = known[names[0]]
        for name in names:
            layer = module.get_submodule(name)
            assert isinstance(layer, nn.Linear)
            if not (moments.isfinite().all() and layer.weight.isfinite().all()):
                raise BadInput(f'{prefix}.{name}: weights or inputs are not finite')
            rule = find_rule(f'{prefix}.{name}'.rstrip('.'), rules)
            wanted = follow_drift(layer.weight, moments, drift, rows)
            stored, _ = quantize_with_feedback(wanted, rule, moments, wanted.device)
            learned = LearnedLinear(layer, rule, stored)
            if layer.weight.numel() < LARGEST_CODES:
                learned.free_codes(wanted)
            module = replace_submodule(module, name, learned)
    return module


def list_layer_groups(
    module: nn.Module, prefix: str, rules: Rules, runs: BlockRuns
) -> list[list[str]]:
    """List the linear layers to quantize in the order in which they run, by common input."""
    groups: dict[int, list[str]] = {}
    with _record_inputs(module) as inputs:
        runs.quantized_input(module, runs.learned[0])
        for name, x in inputs.items():
            rule = find_rule(f'{prefix}.{name}'.rstrip('.'), rules)
            if rule.scheme.levels:
                groups.setdefault(x.data_ptr(), []).append(name)
    return list(groups.values())


@torch.no_grad()
def measure_moments(
    module: nn.Module, names: Sequence[str], runs: BlockRuns
) -> dict[str, tuple[Tensor, Tensor, int]]:
    """Measure means, (K, K) float32 each, of the inputs of layers over the learned lessons.

    The first is that of x x^T of the quantized input, the second that of (y - x) x^T, where y is
    the 16-bit input. The third is the number of inputs.
    """
    totals: dict[str, Tensor] = {}
    counts = dict.fromkeys(names, 0)
    for number in runs.learned:
        with _record_inputs(runs.plain) as plain, _record_inputs(module) as quantized:
            runs.plain_input(runs.plain, number)
            runs.quantized_input(module, number)
        for name in names:
            x, y = (of[name].flatten(0, -2) for of in (quantized, plain))
            own = torch.stack([_multiply(x, x), _multiply(y - x, x)])
            totals[name] = totals[name].add_(own) if name in totals else own
            counts[name] += len(x)
        if all(counts[n] >= ROWS_PER_INPUT * len(totals[n][0]) for n in names):
            break
    return {name: (*(own / counts[name]), counts[name]) for name, own in totals.items()}


def _multiply(x: Tensor, y: Tensor) -> Tensor:
    """Return x^T y (K, K) in float32, from factors as they are: TF32 holds all of bfloat16."""
    precise = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = x.dtype == torch.bfloat16
    try:
        return x.to(torch.float32).T @ y.to(torch.float32)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = precise


def follow_drift(weight: Tensor, moments: Tensor, drift: Tensor, rows: int) -> Tensor:
    """Return the matrix whose outputs of the quantized input come closest to the 16-bit outputs.

    Least squares: W + W E[(y - x) x^T] E[x x^T]^-1. The moments of few rows are damped more, by
    the share of the noise in them.
    """
    upper = inverse_factor(moments, DAMPING + len(moments) / rows)
    wide = weight.detach().to(torch.float32)
    return wide + (wide @ drift) @ (upper.T @ upper)


def train_block(module: nn.Module, runs: BlockRuns, seed: int) -> tuple[float, float]:
    """Train a quantized block towards the 16-bit outputs; codes are fixed behind it.

    Returns the relative errors of the held-out outputs before and after. A training that does not
    lower it is undone. A block of more than TRAINED_BITS is left to the training of all blocks.
    """
    before = measure_error(module, runs)
    layers = [part for part in module.modules() if isinstance(part, LearnedLinear)]
    if all(layer.scheme.bits > TRAINED_BITS for layer in layers):
        for layer in layers:
            layer.fix_codes()
        return before, before
    kept = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    groups = list_parameters(module)
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
    random = torch.Generator().manual_seed(seed)
    steps = PASSES * len(runs.learned)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, max(steps, 1))
    for _ in range(PASSES):
        for at in torch.randperm(len(runs.learned), generator=random).tolist():
            number = runs.learned[at]
            optimizer.zero_grad()
            with torch.enable_grad():
                outputs = runs.quantized_input(module, number)
                _relative_error(outputs, runs.targets[number]).backward()
            optimizer.step()
            schedule.step()
    after = measure_error(module, runs)
    if after >= before:
        module.load_state_dict(kept)
        after = before
    for layer in layers:
        layer.fix_codes()
    return before, after


@torch.no_grad()
def measure_error(module: nn.Module, runs: BlockRuns) -> float:
    """Measure the relative error of the block's outputs on the held-out lessons."""
    errors = [
        _relative_error(runs.quantized_input(module, i), runs.targets[i]) for i in runs.held_out
    ]
    return float(torch.stack(errors).mean().sqrt())


def list_parameters(module: nn.Module, rate: float = RATE) -> list[dict[str, object]]:
    """Return what is trained, as optimizers take it: scales and shifts, codes, norms and biases.

    Embeddings stay. Everything else gets gradients or loses them accordingly.
    """
    scales, places, plain = [], [], []
    for part in module.modules():
        own = list(part.parameters(recurse=False))
        for parameter in own:
            parameter.requires_grad_(not isinstance(part, nn.Embedding))
        if isinstance(part, LearnedLinear):
            scales += [p for p in (part.stretch, part.move) if p is not None]
            places += [] if part.place is None else [part.place]
            plain += [] if part.bias is None else [part.bias]
        elif not isinstance(part, nn.Embedding):
            plain += own
    return [
        {'params': scales, 'lr': rate},
        {'params': places, 'lr': rate * CODE_RATE / RATE},
        {'params': plain, 'lr': rate * PLAIN_RATE / RATE},
    ]


def replace_submodule(module: nn.Module, name: str, new: nn.Module) -> nn.Module:
    """Put a module in the place of a part of another; '' is the module itself, and returned."""
    if not name:
        return new
    path, _, leaf = name.rpartition('.')
    setattr(module.get_submodule(path), leaf, new)
    return module


def _relative_error(outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Mean over the outputs of squared error over squared target."""
    errors = [
        (x.to(torch.float32) - (y := target.to(x.device, torch.float32))).square().mean()
        / y.square().mean()
        for x, target in zip(outputs, targets, strict=True)
    ]
    return torch.stack(errors).mean()


@contextmanager
def _record_inputs(module: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Record the input of every linear layer, by its name in the module, while this lasts."""
    inputs: dict[str, Tensor] = {}
    handles = [
        part.register_forward_pre_hook(
            lambda _, arguments, name=name: inputs.update({name: arguments[0].detach()})
        )
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear | LearnedLinear)
    ]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()
