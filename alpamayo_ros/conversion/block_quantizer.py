"""One block to few bits: error feedback towards the 16-bit outputs, then training of its scales.

The block reads what the quantized blocks before it produce, and shall give what the 16-bit model
gives. Knows no files and no order of blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..quantization.feedback import inverse_factor, quantize_with_feedback
from ..quantization.scheme import Rules, find_rule
from .learned_weight import LearnedLinear

Run = Callable[[nn.Module, int], tuple[Tensor, ...]]  # a block on the lesson of that number

PASSES = 3  # of the training, over all lessons
BATCH = 4  # lessons of a training step
RATE = 2e-3  # of scales and shifts, relative to the scale
PLAIN_RATE = 2e-4  # of norms and biases


@dataclass(frozen=True)
class BlockRuns:
    """How to run the block on each lesson: with the quantized input, with the 16-bit input.

    plain: the block in 16 bits. learned and held_out: numbers of the lessons.
    """

    quantized_input: Run
    plain_input: Run
    plain: nn.Module
    learned: Sequence[int]
    held_out: Sequence[int]


def quantize_block(module: nn.Module, prefix: str, rules: Rules, runs: BlockRuns) -> nn.Module:
    """Quantize all linear layers of a block under the rules, and return the block.

    prefix: name of the block in the model. Layers that read the same input are solved together,
    one group after the other, so that each sees the errors of those before it.
    """
    for names in list_layer_groups(module, prefix, rules, runs):
        moments = measure_moments(module, names, runs)
        for name in names:
            layer = module.get_submodule(name)
            assert isinstance(layer, nn.Linear)
            rule = find_rule(f'{prefix}.{name}'.rstrip('.'), rules)
            own, drift = moments[name]
            wanted = follow_drift(layer.weight, own, drift)
            stored, _ = quantize_with_feedback(wanted, rule, own, wanted.device)
            module = replace_submodule(module, name, LearnedLinear(layer, rule, stored))
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
) -> dict[str, tuple[Tensor, Tensor]]:
    """Measure means over all learned lessons, (K, K) float32 each, of the inputs of some layers.

    The first is that of x x^T of the quantized input, the second that of (y - x) x^T, where y is
    the 16-bit input.
    """
    totals: dict[str, tuple[Tensor, Tensor]] = {}
    count = dict.fromkeys(names, 0)
    for number in runs.learned:
        with _record_inputs(runs.plain) as plain:
            runs.plain_input(runs.plain, number)
        with _record_inputs(module) as quantized:
            runs.quantized_input(module, number)
        for name in names:
            x, y = (of[name].to(torch.float32).flatten(0, -2) for of in (quantized, plain))
            own, drift = x.T @ x, (y - x).T @ x
            if name in totals:
                totals[name][0].add_(own)
                totals[name][1].add_(drift)
            else:
                totals[name] = own, drift
            count[name] += len(x)
    return {name: (a / count[name], b / count[name]) for name, (a, b) in totals.items()}


def follow_drift(weight: Tensor, own: Tensor, drift: Tensor) -> Tensor:
    """Return the matrix whose outputs of the quantized input come closest to the 16-bit outputs.

    Least squares: W + W E[(y - x) x^T] E[x x^T]^-1, with the moments damped.
    """
    upper = inverse_factor(own)
    wide = weight.detach().to(torch.float32)
    return wide + (wide @ drift) @ (upper.T @ upper)


def train_block(module: nn.Module, runs: BlockRuns, seed: int) -> tuple[float, float]:
    """Train scales, shifts, norms and biases of a quantized block towards the 16-bit outputs.

    Returns the relative errors of the held-out outputs before and after. A training that does not
    lower it is undone.
    """
    targets = {i: runs.plain_input(runs.plain, i) for i in (*runs.learned, *runs.held_out)}
    before = measure_error(module, runs, targets)
    kept = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    groups = list_parameters(module)
    if groups[0]['params']:
        random = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
        steps = PASSES * -(-len(runs.learned) // BATCH)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
        for _ in range(PASSES):
            order = torch.randperm(len(runs.learned), generator=random).tolist()
            for start in range(0, len(order), BATCH):
                numbers = [runs.learned[i] for i in order[start : start + BATCH]]
                optimizer.zero_grad()
                for number in numbers:
                    with torch.enable_grad():
                        outputs = runs.quantized_input(module, number)
                        loss = _relative_error(outputs, targets[number]) / len(numbers)
                        loss.backward()
                optimizer.step()
                schedule.step()
    after = measure_error(module, runs, targets)
    if after >= before:
        module.load_state_dict(kept)
        after = before
    return before, after


@torch.no_grad()
def measure_error(
    module: nn.Module, runs: BlockRuns, targets: dict[int, tuple[Tensor, ...]]
) -> float:
    """Measure the relative error of the block's outputs on the held-out lessons."""
    errors = [_relative_error(runs.quantized_input(module, i), targets[i]) for i in runs.held_out]
    return float(torch.stack(errors).mean().sqrt())


def list_parameters(module: nn.Module, rate: float = RATE) -> list[dict[str, object]]:
    """Return what is trained, as optimizers take it: scales and shifts first, then the others.

    Embeddings stay. Everything else gets gradients or loses them accordingly.
    """
    scales, plain = [], []
    for part in module.modules():
        own = list(part.parameters(recurse=False))
        for parameter in own:
            parameter.requires_grad_(not isinstance(part, nn.Embedding))
        if isinstance(part, LearnedLinear):
            scales += [p for p in (part.stretch, part.move) if p is not None]
            plain += [] if part.bias is None else [part.bias]
        elif not isinstance(part, nn.Embedding):
            plain += own
    share = PLAIN_RATE / RATE
    return [{'params': scales, 'lr': rate}, {'params': plain, 'lr': rate * share}]


def replace_submodule(module: nn.Module, name: str, new: nn.Module) -> nn.Module:
    """Put a module in the place of a part of another; '' is the module itself, which is returned."""
    if not name:
        return new
    path, _, leaf = name.rpartition('.')
    setattr(module.get_submodule(path), leaf, new)
    return module


def _relative_error(outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Mean over the outputs of squared error over squared target."""
    errors = [
        (x.to(torch.float32) - y).square().mean() / y.to(torch.float32).square().mean()
        for x, y in zip(outputs, targets, strict=True)
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
