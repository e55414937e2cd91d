"""Trains a quantized model as a whole: scales, shifts and norms, but not the codes.

It learns the 16-bit logits and velocities of the lessons. Activations are recomputed block by
block, so memory does not grow with the depth. Knows no files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
import math

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..model.alpamayo import AlpamayoModel
from .block_quantizer import list_parameters
from .block_walk import Block, HiddenState, advance_state, begin, map_state, run_block
from .lessons import Lessons

STEPS = 130  # about: all learned lessons are gone through equally often
RATE = 1e-3  # of scales and shifts, relative to the scale
PATH_WEIGHT, KL_WEIGHT = 0.3, 0.3  # beside the velocity, as in training


@dataclass(frozen=True)
class Figures:
    """Mean divergence of the words' logits in nats, and RMS velocity error relative to 16 bits."""

    kl: float
    velocity_error: float

    @property
    def harm(self) -> float:
        """Both as one number, weighed as in the training."""
        return self.velocity_error**2 + KL_WEIGHT * self.kl


def count_passes(learned: int) -> int:
    """Count how often a training goes through so many chunks."""
    return max(1, round(STEPS / learned))


@torch.no_grad()
def measure_figures(
    states: Sequence[HiddenState], targets: Sequence[HiddenState], lessons: Sequence[Lessons]
) -> Figures:
    """Compare finished states with those of the 16-bit model, all on the host."""
    divergences, errors, whole = [], [], []
    for state, target, own in zip(states, targets, lessons, strict=True):
        divergences.append(_compute_divergence(state, target, own))
        velocity, wanted = state.velocity, target.velocity
        assert velocity is not None and wanted is not None
        errors.append((velocity - wanted).square().flatten())
        whole.append(wanted.square().flatten())
    relative = (torch.cat(errors).mean() / torch.cat(whole).mean()).sqrt()
    return Figures(float(torch.cat(divergences).mean()), float(relative))


@dataclass
class TrainingProgress:
    """Where a training stands behind some passes.

    tensors: by 'now.', 'best.', 'mean.' and 'square.' and the name of a parameter: its value, the
    one that measured best, and Adam's means. figures: of the best.
    """

    passes: int
    figures: Figures
    tensors: dict[str, Tensor]


def finetune(
    model: AlpamayoModel,
    blocks: Sequence[Block],
    lessons: Sequence[Lessons],
    targets: Sequence[HiddenState],
    held_out: int,
    seed: int,
    advance: Callable[[str], object],
    keep: Callable[[TrainingProgress], object] = lambda progress: None,
    known: TrainingProgress | None = None,
) -> Figures:
    """Train towards the targets; the first `held_out` chunks are not learned from.

    model: with all blocks on one device. Keeps the parameters of the pass that measured best on
    these chunks, and returns its figures. keep is called behind each pass; known: what an
    earlier run kept last, from which this one goes on.
    """
    given = list(zip(lessons, targets, strict=True))
    measured, given = given[:held_out], given[held_out:]
    optimizer = torch.optim.Adam(list_parameters(model, RATE), betas=(0.9, 0.95))
    names = {name: own for name, own in model.named_parameters() if own.requires_grad}
    if known is None:
        figures = _measure(model, blocks, measured)
        best = {f'best.{name}': own.detach().clone() for name, own in names.items()}
        progress = TrainingProgress(0, figures, best)
    else:
        progress = known
        _restore(names, optimizer, progress, known.passes * len(given))
        for _ in range(known.passes * len(given)):
            advance('known')
    passes = count_passes(len(given))
    steps = passes * len(given)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (1 + math.cos(math.pi * step / steps)) / 2
    )
    for _ in range(progress.passes * len(given)):
        schedule.step()
    for number in range(progress.passes, passes):
        random = torch.Generator().manual_seed((seed << 8) + number)
        for at in torch.randperm(len(given), generator=random).tolist():
            own, target = given[at]
            optimizer.zero_grad()
            with torch.enable_grad():
                _compute_loss(model, blocks, own, target).backward()
            optimizer.step()
            schedule.step()
            best_now = progress.figures
            advance(f'all blocks: KL {best_now.kl:.4f}, velocity {best_now.velocity_error:.3f}')
        found = _measure(model, blocks, measured)
        progress = _store(names, optimizer, progress, found)
        keep(progress)
    for name, own in names.items():
        own.data.copy_(progress.tensors[f'best.{name}'])
    return progress.figures


def _store(
    names: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    before: TrainingProgress,
    found: Figures,
) -> TrainingProgress:
    """Return the progress behind one more pass."""
    is_best = found.harm < before.figures.harm
    tensors = {}
    for name, own in names.items():
        now = own.detach().clone()
        tensors[f'now.{name}'] = now
        tensors[f'best.{name}'] = now.clone() if is_best else before.tensors[f'best.{name}']
        if means := optimizer.state.get(own):
            tensors[f'mean.{name}'] = means['exp_avg'].clone()
            tensors[f'square.{name}'] = means['exp_avg_sq'].clone()
    return TrainingProgress(before.passes + 1, found if is_best else before.figures, tensors)


def _restore(
    names: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    known: TrainingProgress,
    steps: int,
) -> None:
    """Put parameters and Adam's means back."""
    for name, own in names.items():
        own.data.copy_(known.tensors[f'now.{name}'])
        if (mean := known.tensors.get(f'mean.{name}')) is not None:
            square = known.tensors[f'square.{name}']
            optimizer.state[own] = {
                'step': torch.tensor(float(steps)),
                'exp_avg': mean.to(own.device),
                'exp_avg_sq': square.to(own.device),
            }


def run_blocks(model: AlpamayoModel, blocks: Sequence[Block], lessons: Lessons) -> HiddenState:
    """Run lessons through all blocks; on a GPU activations are recomputed for the gradients.

    A CPU is for small models, whose activations have room.
    """
    state = begin(model, lessons)
    for block in blocks:
        arguments = block, model.get_submodule(block.path), model, lessons, state
        if lessons.t.is_cuda and torch.is_grad_enabled():
            outputs = checkpoint(run_block, *arguments, use_reentrant=False)
        else:
            outputs = run_block(*arguments)
        state = advance_state(block, state, outputs)
    return state


def _compute_loss(
    model: AlpamayoModel, blocks: Sequence[Block], lessons: Lessons, target: HiddenState
) -> Tensor:
    device = model.expert.norm.weight.device
    state = run_blocks(model, blocks, lessons.to(device))
    assert state.velocity is not None and target.velocity is not None
    error = state.velocity - target.velocity.to(device)
    count = torch.arange(1, error.shape[-2] + 1, device=device).unsqueeze(-1)
    path = (error.cumsum(-2).square() / count).mean()
    kl = _compute_divergence(state, target, lessons).mean()
    return error.square().mean() + PATH_WEIGHT * path + KL_WEIGHT * kl


def _compute_divergence(state: HiddenState, target: HiddenState, lessons: Lessons) -> Tensor:
    """Kullback-Leibler divergence (words,) of the next token, in nats."""
    assert state.logits is not None and target.logits is not None
    device = state.logits.device
    spoken = lessons.batch.written.to(device)
    own, wanted = (x.to(device)[spoken].log_softmax(-1) for x in (state.logits, target.logits))
    return (wanted.exp() * (wanted - own)).sum(-1)


@torch.no_grad()
def _measure(
    model: AlpamayoModel, blocks: Sequence[Block], given: Sequence[tuple[Lessons, HiddenState]]
) -> Figures:
    device = model.expert.norm.weight.device
    states = [
        map_state(run_blocks(model, blocks, own.to(device)), lambda x: x.to('cpu'))
        for own, _ in given
    ]
    return measure_figures(states, [target for _, target in given], [own for own, _ in given])
