"""Training of a quantized model as a whole: scales, shifts, norms, whatever is no code.

It learns the 16-bit logits and velocities of the lessons. Activations are recomputed block by
block, so memory does not grow with the depth. Knows no files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import math

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..model.alpamayo import AlpamayoModel
from .block_quantizer import list_parameters
from .block_walk import Block, State, begin, run_block, store_outputs

PASSES = 12  # over all learned lessons
BATCH = 8  # lessons of a step
RATE = 2e-3  # of scales and shifts, relative to the scale
PATH_WEIGHT, KL_WEIGHT = 0.3, 0.3  # beside the velocity, as in training
MEASURED_AFTER = 3  # passes


@dataclass(frozen=True)
class Figures:
    """Mean divergence of the words' logits in nats, and RMS velocity error relative to 16 bits."""

    kl: float
    velocity_error: float

    @property
    def harm(self) -> float:
        """Both as one number, weighed as in the training."""
        return self.velocity_error**2 + KL_WEIGHT * self.kl


def measure_figures(states: Sequence[State], targets: Sequence[State]) -> Figures:
    """Compare finished states with those of the 16-bit model."""
    divergences, errors, whole = [], [], []
    for state, target in zip(states, targets, strict=True):
        divergences.append(_divergence(state, target))
        velocity, wanted = state.velocity, target.velocity
        assert velocity is not None and wanted is not None
        errors.append((velocity - wanted).square().mean())
        whole.append(wanted.square().mean())
    relative = (torch.stack(errors).mean() / torch.stack(whole).mean()).sqrt()
    return Figures(float(torch.cat(divergences).mean()), float(relative))


def finetune(
    model: AlpamayoModel,
    blocks: list[Block],
    targets: Sequence[State],
    learned: int,
    seed: int,
    advance: Callable[[str, int], object],
) -> Figures:
    """Train towards the targets; the first `learned` are learned from, the others measured on.

    Keeps the parameters that measured best and returns their figures.
    """
    random = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(list_parameters(model, RATE), betas=(0.9, 0.95))
    steps = PASSES * -(-learned // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (1 + math.cos(math.pi * min(step / steps, 1.0))) / 2
    )
    best, kept = _measure(model, blocks, targets[learned:]), _copy_parameters(model)
    for number in range(1, PASSES + 1):
        order = torch.randperm(learned, generator=random).tolist()
        for start in range(0, learned, BATCH):
            chosen = [targets[i] for i in order[start : start + BATCH]]
            optimizer.zero_grad()
            for target in chosen:
                with torch.enable_grad():
                    loss = _compute_loss(_run(model, blocks, target), target) / len(chosen)
                    loss.backward()
            optimizer.step()
            schedule.step()
        if number % MEASURED_AFTER == 0 or number == PASSES:
            found = _measure(model, blocks, targets[learned:])
            if found.harm < best.harm:
                best, kept = found, _copy_parameters(model)
        advance(f'all blocks, KL {best.kl:.4f}, velocity {best.velocity_error:.3f}', 1)
    for name, parameter in model.named_parameters():
        parameter.data.copy_(kept[name])
    return best


def _run(model: AlpamayoModel, blocks: list[Block], target: State) -> State:
    """Run a lesson through all blocks; their activations are recomputed for the gradients."""
    state = begin(model, target.lesson)
    for block in blocks:
        module = model.get_submodule(block.path)
        outputs = checkpoint(run_block, block, module, model, state, use_reentrant=False)
        state = _copy_state(state)
        store_outputs(block, state, outputs)
    return state


def _copy_state(state: State) -> State:
    """A state of its own: the recomputation of a block needs the one before it as it was."""
    import copy

    own = copy.copy(state)
    own.levels = list(state.levels)
    return own


def _compute_loss(state: State, target: State) -> Tensor:
    assert state.velocity is not None and target.velocity is not None
    error = state.velocity - target.velocity
    count = torch.arange(1, error.shape[-2] + 1, device=error.device).unsqueeze(-1)
    path = (error.cumsum(-2).square() / count).mean()
    kl = _divergence(state, target).mean()
    return error.square().mean() + PATH_WEIGHT * path + KL_WEIGHT * kl


def _divergence(state: State, target: State) -> Tensor:
    """Kullback-Leibler divergence (words,) of the next token, in nats."""
    assert state.logits is not None and target.logits is not None
    own, wanted = (x.log_softmax(-1).flatten(0, 1) for x in (state.logits, target.logits))
    return (wanted.exp() * (wanted - own)).sum(-1)


@torch.no_grad()
def _measure(model: AlpamayoModel, blocks: list[Block], targets: Sequence[State]) -> Figures:
    return measure_figures([_run(model, blocks, target) for target in targets], targets)


def _copy_parameters(model: AlpamayoModel) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}
