"""One reference case: its inputs, and a run of the model over the reference's tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..model.alpamayo import AlpamayoModel
from ..model.prefill import Prompt
from ..model.processor import Processor
from ..model.prompt.batching import build_guided_prompts, stack_prompts
from ..model.reasoning.generation import Reasoning, summarise
from .comparison import Fields, read_fields, tensors
from .golden_layout import ReferenceLayout


@dataclass(frozen=True)
class GoldenScene:
    """Images and history that cases share."""

    model: AlpamayoModel
    processor: Processor
    fields: Fields
    vision: tuple[Tensor, list[Tensor]]
    grids: list[tuple[int, int]]


@dataclass(frozen=True)
class GoldenCase:
    """One case: its prompts, and the reference's tokens as rows (B, K, N)."""

    name: str
    fields: Fields
    parameters: Mapping[str, Any]
    prompts: list[Tensor]
    generated: Tensor

    @property
    def samples(self) -> int:
        """Rows of a scene."""
        return self.generated.shape[1]

    @property
    def is_guided(self) -> bool:
        """Whether the reference ran a second pass without the route."""
        return 'unguided_input_ids' in self.fields

    @property
    def weight(self) -> float:
        """Guidance weight."""
        weight = self.parameters.get('guidance_weight')
        return 1.0 if weight is None else float(weight)

    @property
    def temperature(self) -> float:
        """Factor on the noise."""
        return float(self.parameters.get('noise_temperature', 1.0))


def read_case(name: str, path: Path, parameters: Mapping[str, Any], device: str) -> GoldenCase:
    """A case file; the prompts come without the pads in front of them."""
    fields = read_fields(path)
    fused, raw = tensors(fields, 'fused_input_ids', 'raw_sequences')
    scenes, width = int(parameters.get('scenes', 1)), fused.shape[1]
    kept = torch.ones_like(fused)
    if 'attention_mask' in fields:
        (kept,) = tensors(fields, 'attention_mask')
    ids = fused.to(device, torch.int64)
    prompts = [ids[i : i + 1, kept[i].bool().to(device)] for i in range(scenes)]
    generated = raw[:, width:].to(device, torch.int64).view(scenes, -1, raw.shape[1] - width)
    return GoldenCase(name, fields, parameters, prompts, generated)


@dataclass(frozen=True)
class ForcedRun:
    """The reference's tokens in our cache, and the logits (R, N - 1, vocab) behind them."""

    prompt: Prompt
    reasoning: Reasoning
    logits: Tensor
    layouts: tuple[ReferenceLayout, ...]


def prefill_case(scene: GoldenScene, case: GoldenCase, chunk: int, budget: int) -> Prompt:
    """Prefilled prompts of a case, with their twins without a route where it is guided."""
    model, ids = scene.model, scene.processor.ids
    rows, lengths = stack_prompts(case.prompts, ids.pad)
    if case.is_guided:
        rows, lengths = build_guided_prompts(rows.cpu(), ids, lengths)
    cache = model.allocate_cache(len(rows), rows.shape[1], case.samples, budget)
    return model.prefill(
        rows,
        scene.vision,
        scene.grids,
        cache,
        chunk,
        lengths=lengths,
        is_guided=case.is_guided,
    )


def run_forced(scene: GoldenScene, case: GoldenCase) -> ForcedRun:
    """Feed the reference's tokens."""
    model, steps = scene.model, case.generated.shape[-1]
    prompt = prefill_case(scene, case, 3072, steps)
    logits = []
    # the last token is fed to the pass without a route only: the other one does not see it
    for i in range(steps if case.is_guided else steps - 1):
        tokens = case.generated[..., i]
        behind = model.decode_step(prompt, tokens.repeat(2, 1) if case.is_guided else tokens)
        logits.append(behind[: len(tokens)].flatten(0, 1))
    reasoning = summarise(case.generated, scene.processor.ids, prompt.length, complete=False)
    vocab = prompt.logits.shape[-1]
    none = prompt.logits.new_empty(case.generated[..., 0].numel(), 0, vocab)
    stacked = torch.stack(logits[: steps - 1], 1) if steps > 1 else none
    return ForcedRun(prompt, reasoning, stacked, _lay_out(case, prompt, steps))


def _lay_out(case: GoldenCase, prompt: Prompt, steps: int) -> tuple[ReferenceLayout, ...]:
    """Layouts of the pass with the route and of the one without."""
    scenes = len(case.prompts)
    own = [prompt.length] * scenes if prompt.lengths is None else prompt.lengths.tolist()
    width = max(own[:scenes])
    first = ReferenceLayout(prompt, range(scenes), own[:scenes], case.samples, steps - 1, width)
    if not case.is_guided:
        return (first,)
    twins = range(scenes, 2 * scenes)
    width = case.fields['unguided_input_ids'].shape[1]
    return (first, ReferenceLayout(prompt, twins, own[scenes:], case.samples, steps, width))


def make_trajectory(scene: GoldenScene, case: GoldenCase, action: Tensor) -> tuple[Tensor, Tensor]:
    """Positions (B, 1, K, T, 3) and rotations of normalised actions (B * K, T, 2)."""
    own = case.fields if 'ego_history_xyz' in case.fields else scene.fields
    scenes = len(case.prompts)
    history = [
        x[:, 0].to(action.device).repeat_interleave(len(action) // len(x), 0)
        for x in tensors(own, 'ego_history_xyz', 'ego_history_rot')
    ]
    xyz, rot = scene.model.action_space.action_to_traj(action, *history)
    shape = (scenes, 1, case.samples)
    return xyz.unflatten(0, shape), rot.unflatten(0, shape)
