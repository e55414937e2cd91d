"""Widths by measured harm: each layer gets 2, 4 or 8 bits within a budget of bytes.

The harm of a layer at a width is the error that its rounding causes in logits and velocities, to
first order: squared gradient times squared rounding error, as in the diagonal of the Fisher
information (HAWQ: Dong et al. 2019). Knows no files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import BadInput
from ..model.alpamayo import AlpamayoModel
from ..quantization.codes import dequantize
from ..quantization.matrix import quantize_matrix
from ..quantization.scheme import SCHEMES, Rule, Rules, count_bytes
from ..runtime.load import EMBEDDING, HEAD
from .block_walk import HiddenState, list_blocks
from .finetune import KL_WEIGHT, run_blocks
from .lessons import Lessons

WIDTHS = (2.0, 4.0, 8.0)
_GROUP = SCHEMES[WIDTHS[0]]  # whose groups both factors are summed over

Harms = Mapping[str, Mapping[float, float]]  # of each layer at each width


@dataclass(frozen=True)
class _Layer:
    """Squared rounding errors (N, G) at each width, and the sum of squared gradients (N, G)."""

    errors: Mapping[float, Tensor]
    gradients: Tensor


def fit_rules(
    shapes: Mapping[str, Sequence[int]], harms: Harms, bits_per_weight: float, where: str
) -> Rules:
    """Return rules with the widths that do least harm within a budget.

    shapes: of all tensors of the release. bits_per_weight: stored bits of everything over the
    number of weights. Steps are taken in the order of harm saved per byte; one that does not fit
    is left out for others that do. Raises BadInput when not even the fewest bits fit.
    """
    given = list(shapes.items())
    total = sum(torch.Size(shape).numel() for shape in shapes.values())
    sizes = {bits: count_bytes(_make_rules(dict.fromkeys(harms, bits)), given) for bits in WIDTHS}
    widths = dict.fromkeys(harms, WIDTHS[0])
    left = bits_per_weight * total / 8 - sum(sizes[WIDTHS[0]].values())
    if left < 0:
        least = 8 * sum(sizes[WIDTHS[0]].values()) / total
        raise BadInput(
            f'--bits-per-weight {bits_per_weight:g}: {where} has {least:.2f} with '
            f'{WIDTHS[0]:g} bits in each layer, expected that or more'
        )
    while True:
        steps = [
            ((harms[name][now] - harms[name][more]) / cost, name, more, cost)
            for name, now in widths.items()
            for more in WIDTHS[WIDTHS.index(now) + 1 :]
            if 0 < (cost := _cost(sizes, name, now, more)) <= left
            and harms[name][now] > harms[name][more]
        ]
        if not steps:
            return _make_rules(widths)
        _, name, more, cost = max(steps)
        widths[name] = more
        left -= cost


def _cost(sizes: Mapping[float, Mapping[str, int]], name: str, now: float, more: float) -> int:
    return sizes[more][f'{name}.weight'] - sizes[now][f'{name}.weight']


def _make_rules(widths: Mapping[str, float]) -> Rules:
    """Rules of each layer; the embedding has 4 bits, as its rows are read and not multiplied."""
    layers = (Rule(name, bits, 128 if name == HEAD else 1) for name, bits in widths.items())
    return (*layers, Rule(EMBEDDING, 4, 128), Rule('*', 16))


def measure_harms(
    model: AlpamayoModel, lessons: Sequence[Lessons], seed: int, advance: Callable[[int], object]
) -> dict[str, dict[float, float]]:
    """Return the harm of every linear layer inside the blocks but the last at each of WIDTHS.

    model: in 16 bits on the device of the work. A random direction of the answers stands for all
    of them (Hutchinson): its gradient's square is in expectation that of all answers.
    """
    blocks = list(list_blocks(model.config))
    layers = {
        '.'.join(filter(None, (block.path, name))): layer
        for block in blocks[:-1]
        for name, layer in model.get_submodule(block.path).named_modules()
        if isinstance(layer, nn.Linear)
    }
    found = {name: _measure_rounding(layer) for name, layer in layers.items()}
    handles = [
        layer.weight.requires_grad_().register_post_accumulate_grad_hook(_collect(found[name]))
        for name, layer in layers.items()
    ]
    device = model.expert.norm.weight.device
    random = torch.Generator(device).manual_seed(seed)
    for own in lessons:
        moved = own.to(device)
        with torch.enable_grad():
            _draw_answer(run_blocks(model, blocks, moved), moved, random).backward()
        advance(len(own))
    for handle in handles:
        handle.remove()
    for layer in layers.values():
        layer.weight.requires_grad_(False)
    return {
        name: {bits: float((own.gradients * error).sum()) for bits, error in own.errors.items()}
        for name, own in found.items()
    }


def _measure_rounding(layer: nn.Linear) -> _Layer:
    """Round a matrix to each width, with least squares."""
    errors = {}
    rows, columns = layer.weight.shape
    group = _GROUP.group_size(columns)
    for bits in WIDTHS:
        stored, _ = quantize_matrix(layer.weight, Rule('*', bits), device=layer.weight.device)
        difference = dequantize(stored, Rule('*', bits), rows, columns) - layer.weight
        errors[bits] = difference.float().square().view(rows, -1, group).mean(-1)
    return _Layer(errors, torch.zeros_like(errors[WIDTHS[0]]))


def _collect(layer: _Layer) -> Callable[[Tensor], None]:
    """Return what adds a gradient to a layer's sum, and frees it."""

    def add(weight: Tensor) -> None:
        assert weight.grad is not None
        squares = weight.grad.float().square()
        layer.gradients.add_(squares.view(*layer.gradients.shape, -1).sum(-1))
        weight.grad = None

    return add


def _draw_answer(state: HiddenState, lessons: Lessons, random: torch.Generator) -> Tensor:
    """Return a random direction of velocities and words, weighed as the training weighs them.

    A word's share is the log probability of a token drawn from the model's own distribution, with
    a random sign: half its squared error is the divergence.
    """
    assert state.velocity is not None and state.logits is not None
    device = state.velocity.device
    direction = torch.randn(state.velocity.shape, generator=random, device=device)
    velocity = (direction * state.velocity).sum() / state.velocity.numel() ** 0.5
    logs = state.logits[lessons.batch.written].log_softmax(-1)
    drawn = torch.multinomial(logs.detach().exp(), 1, generator=random)
    sign = torch.randint(0, 2, drawn.shape, generator=random, device=device) * 2 - 1
    words = (sign * logs.gather(-1, drawn)).sum() * (KL_WEIGHT / 2 / len(drawn)) ** 0.5
    return velocity + words
