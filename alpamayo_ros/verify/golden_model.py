"""Comparison with reference tensors: preprocessing, prompt and every stage of a complete model.

Cases are all model/case_*.npz, their parameters stand in meta.json under 'meta'. Generated tokens,
noise and flow states of the reference are fed, so each stage is compared for itself (teacher
forcing); then the model runs freely from the same noise. See golden.py for the rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..data_types import SamplingOptions
from ..errors import BadInput
from ..model.alpamayo import AlpamayoModel
from ..model.prefill import Prompt, compute_prompt_positions
from ..model.prompt.generated_text import extract_text
from ..model.processor import Processor
from ..model.reasoning import Reasoning, summarise
from ..runtime.load import load_model
from .golden import (
    ComparisonRow,
    Fields,
    compare,
    compare_exactly,
    read_fields,
    read_table,
    tensors,
)

R1_CAMERAS = (0, 1, 2, 6)


@dataclass(frozen=True)
class GoldenInputs:
    """The inputs that all cases share."""

    model: AlpamayoModel
    processor: Processor
    fields: Fields
    vision: tuple[Tensor, list[Tensor]]
    grids: list[tuple[int, int]]


@dataclass(frozen=True)
class GoldenCase:
    """One case file with its parameters, and its reference tokens as rows (1, K, N)."""

    name: str
    fields: Fields
    parameters: Mapping[str, Any]
    fused: Tensor
    generated: Tensor

    @property
    def samples(self) -> int:
        """Rows of the case."""
        return self.generated.shape[1]


@torch.inference_mode()
def compare_model(folder: Path, device: str = 'cpu') -> Iterator[ComparisonRow]:
    """Every row of the folder's model/."""
    home = folder / 'model'
    needed = ('config.json', 'inputs.npz', 'meta.json', 'prompt.txt')
    absent = [name for name in needed if not (home / name).is_file()]
    names = sorted(path.name for path in home.glob('case_*.npz'))
    if absent or not names:
        what = ', '.join(absent) or 'case_*.npz'
        yield ComparisonRow('model', f'model/{what}', np.inf, 0.0, 'expected file is absent')
        return
    try:
        model = load_model(home, device)
        processor = Processor(model.config, home)
    except BadInput as error:
        yield ComparisonRow('model', 'strict load', np.inf, 0.0, str(error))
        return
    yield compare_exactly('model', 'strict load', True)
    fields = read_fields(home / 'inputs.npz')
    meta = read_table(home / 'meta.json')
    yield from _processing(processor, fields, (home / 'prompt.txt').read_text(encoding='utf-8'))
    grids = [(int(h), int(w)) for _, h, w in fields['image_grid_thw']]
    (patches,) = tensors(fields, 'pixel_values')
    vision = model.encode_images(patches.to(device), grids)
    scene = GoldenInputs(model, processor, fields, vision, grids)
    for name in names:
        label = name.removeprefix('case_').removesuffix('.npz')
        if label not in meta['meta']:
            yield ComparisonRow(
                label, name, np.inf, 0.0, f'meta.json has no parameters of {label}'
            )
            continue
        try:
            yield from _case(scene, _read_case(label, home / name, meta['meta'][label], device))
        except KeyError as error:
            yield ComparisonRow(label, name, np.inf, 0.0, f'the file lacks the input {error}')


def _processing(processor: Processor, fields: Fields, prompt: str) -> Iterator[ComparisonRow]:
    """Images, prompt text and ids."""
    images, xyz, rot = tensors(fields, 'images', 'ego_history_xyz', 'ego_history_rot')
    count, frames = images.shape[:2]
    cameras = R1_CAMERAS if count == len(R1_CAMERAS) else tuple(range(count))
    text = processor.render_prompt(cameras, frames)
    yield compare_exactly('prompt', 'text', text == prompt, 'the text differs')
    inputs = processor(list(images.flatten(0, 1)), cameras, xyz[0, 0], rot[0, 0])
    grids = np.array([(1, h, w) for h, w in inputs.grids])
    yield compare('preprocessing', 'patches', inputs.patches, fields, 'pixel_values', 1e-5)
    yield compare('preprocessing', 'grids', grids, fields, 'image_grid_thw', 0)
    ids = processor.tokenize_prompt(text, inputs.grids)
    yield compare('prompt', 'ids', ids, fields, 'input_ids', 0)
    yield compare('prompt', 'ids with history', inputs.input_ids, fields, 'fused_input_ids', 0)


def _read_case(name: str, path: Path, parameters: Mapping[str, Any], device: str) -> GoldenCase:
    fields = read_fields(path)
    fused, raw = tensors(fields, 'fused_input_ids', 'raw_sequences')
    fused = fused[:1].to(device, torch.int64)
    generated = raw[:, fused.shape[1] :].to(device, torch.int64).unsqueeze(0)
    return GoldenCase(name, fields, parameters, fused, generated)


def _case(scene: GoldenInputs, case: GoldenCase) -> Iterator[ComparisonRow]:
    name, fields = case.name, case.fields
    samples = case.samples
    embeds, levels = scene.vision
    repeated = (samples, 1)
    yield compare(name, 'vision', embeds.repeat(repeated), fields, 'image_embeds', 1e-4)
    for i, level in enumerate(levels):
        key = f'deepstack.{i}'
        yield compare(name, f'vision, {key}', level.repeat(repeated), fields, key, 1e-4)
    prompt, logits = _forced(scene, case)
    first = prompt.logits.expand(samples, -1)
    yield compare(name, 'prefill', first, fields, 'prefill_last_logits', 5e-4)
    yield compare(name, 'decode', logits, fields, 'decode_logits', 5e-4)
    yield from _positions(scene, case, prompt)
    yield from _cache(case, prompt)
    reasoning = summarise(case.generated, scene.processor.ids, prompt.length, complete=False)
    whole = torch.cat([case.fused.expand(samples, -1), reasoning.tokens[0]], 1)
    yield compare(name, 'tokens, padded', whole, fields, 'sequences', 0)
    yield from _expert(scene, case, prompt, reasoning)
    yield from _free_run(scene, case)
    yield from _texts(scene, case, reasoning)


def _forced(scene: GoldenInputs, case: GoldenCase) -> tuple[Prompt, Tensor]:
    """Prefill, then the reference's tokens; logits (K, steps, vocab) behind each."""
    model = scene.model
    steps = case.generated.shape[-1]
    cache = model.allocate_cache(1, case.fused.shape[1], case.samples, steps)
    prompt = model.prefill(case.fused, scene.vision, scene.grids, cache)
    logits = [model.decode_step(prompt, case.generated[..., i])[0] for i in range(steps - 1)]
    vocab = prompt.logits.shape[-1]
    none = prompt.logits.new_empty(case.samples, 0, vocab)
    return prompt, torch.stack(logits, 1) if logits else none


def _positions(scene: GoldenInputs, case: GoldenCase, prompt: Prompt) -> Iterator[ComparisonRow]:
    config = scene.model.config
    is_image = case.fused == config.image_token_id
    merge = config.vision.spatial_merge_size
    positions, _ = compute_prompt_positions(is_image, scene.grids, merge)
    name, fields, k = case.name, case.fields, case.samples
    positions = positions.expand(3, k, -1)
    yield compare(name, 'prefill positions', positions, fields, 'prefill_position_ids', 0)
    delta = prompt.rope_delta.expand(k).unsqueeze(-1)
    yield compare(name, 'rope delta', delta, fields, 'rope_deltas', 0)


def _rows_of_cache(x: Tensor, prompt: int, samples: int) -> Tensor:
    """Slots (..., used, d) of one scene as the reference's rows (K, ..., S, d)."""
    shared, own = x[..., :prompt, :], x[..., prompt:, :].unflatten(-2, (-1, samples))
    return torch.stack([torch.cat([shared, own[..., r, :]], -2) for r in range(samples)])


def _cache(case: GoldenCase, prompt: Prompt) -> Iterator[ComparisonRow]:
    cache = prompt.cache
    for letter, store in (('k', cache.keys), ('v', cache.values)):
        for i, layer in enumerate(store):
            key = f'cache_{letter}.{i}'
            rows = _rows_of_cache(layer[0, :, : cache.length], prompt.length, case.samples)
            yield compare(case.name, f'cache, {key}', rows, case.fields, key, 1e-4)


def _expert(
    scene: GoldenInputs, case: GoldenCase, prompt: Prompt, reasoning: Reasoning
) -> Iterator[ComparisonRow]:
    """Positions, mask and each flow step from the reference's own states."""
    name, fields, model, k = case.name, case.fields, scene.model, case.samples
    window, positions = model.prepare_expert(prompt, reasoning)
    if window.mask is None:  # a single sample sees the first slots, whose number is given
        seen = torch.arange(window.span, device=positions.device) < cast(Tensor, window.count)
        mask = seen.expand(1, 1, model.waypoints, -1)
    else:
        mask = window.mask
    points = model.waypoints
    by_row = positions.reshape(3, k, points)
    yield compare(name, 'expert positions', by_row, fields, 'expert_position_ids', 0)
    rows, strangers = _rows_of_mask(mask[0, 0], prompt, k, points)
    yield compare(name, 'expert mask', rows, fields, 'expert_attention_mask', 0)
    yield compare_exactly(name, 'expert mask, other samples hidden', not strangers)
    states, times = (x.to(mask.device) for x in tensors(fields, 'x_steps', 't_steps'))
    embeds = model.action_in_proj(states[:, 0], times[:, 0])
    yield compare(name, 'expert inputs', embeds, fields, 'expert_inputs_embeds_step0', 1e-4)
    velocities = [
        model.predict_velocity(states[:, i], times[:, i], prompt.cache, window, positions)
        for i in range(states.shape[1])
    ]
    yield compare(name, 'expert velocities', torch.stack(velocities, 1), fields, 'v_steps', 1e-5)
    (noise,) = tensors(fields, 'noise')
    field = model.make_velocity_field(prompt, reasoning)
    action = model.sample_actions(noise.to(mask.device), field, states.shape[1])
    yield compare(name, 'action', action, fields, 'action', 1e-3)
    xyz, rot = _trajectory(scene, action)
    yield compare(name, 'trajectory', xyz, fields, 'pred_xyz', 2e-3)
    yield compare(name, 'trajectory rotation', rot, fields, 'pred_rot', 1e-3)


def _rows_of_mask(mask: Tensor, prompt: Prompt, k: int, points: int) -> tuple[Tensor, bool]:
    """Our mask as the reference's additive rows (K, 1, T, S + T), and whether anything else shows.

    Ours holds all samples side by side; the reference has one row each.
    """
    used = prompt.cache.length
    slot = torch.arange(mask.shape[1], device=mask.device)
    rows, strangers = [], False
    for r in range(k):
        own = slot < prompt.length
        own |= (slot >= prompt.length) & (slot < used) & ((slot - prompt.length) % k == r)
        own |= (slot >= used) & ((slot - used) // points == r)
        part = mask[r * points : (r + 1) * points]
        strangers |= bool(part[:, ~own].any())
        rows.append(part[:, own])
    visible = torch.stack(rows).unsqueeze(1)
    lowest = torch.finfo(torch.float32).min
    return torch.where(visible, 0.0, lowest), strangers


def _trajectory(scene: GoldenInputs, action: Tensor) -> tuple[Tensor, Tensor]:
    """Positions (1, 1, K, T, 3) and rotations of normalised actions (K, T, 2)."""
    history = [
        x[0].to(action.device).expand(len(action), *x.shape[2:])
        for x in tensors(scene.fields, 'ego_history_xyz', 'ego_history_rot')
    ]
    xyz, rot = scene.model.action_space.action_to_traj(action, *history)
    return xyz[None, None], rot[None, None]


def _free_run(scene: GoldenInputs, case: GoldenCase) -> Iterator[ComparisonRow]:
    """Greedy cases: our own generation, up to the first marker of each row, as the live path."""
    parameters = case.parameters
    if parameters.get('top_k') != 1:
        note = 'sampling is not reproduced, the tokens were fed'
        yield ComparisonRow(case.name, 'tokens', None, 0.0, note)
        return
    model, ids = scene.model, scene.processor.ids
    budget = int(parameters.get('max_new_tokens', case.generated.shape[-1]))
    options = replace(SamplingOptions(), num_samples=case.samples, greedy=True, max_tokens=budget)
    cache = model.allocate_cache(1, case.fused.shape[1], case.samples, budget)
    prompt = model.prefill(case.fused, scene.vision, scene.grids, cache, chunk=64)
    reasoning = model.generate_reasoning(prompt, ids, options)
    want = summarise(case.generated, ids, prompt.length, complete=False)
    same = reasoning.end == want.end
    for ours, theirs, marker in zip(
        reasoning.tokens[0], want.tokens[0], want.marker[0].tolist(), strict=True
    ):
        end = marker + 1 if marker >= 0 else len(theirs)
        same &= ours[:end].tolist() == theirs[:end].tolist()
    yield compare_exactly(case.name, 'tokens', same, f'{reasoning.tokens[0].tolist()}')
    (noise,) = tensors(case.fields, 'noise')
    steps = case.fields['x_steps'].shape[1]
    field = model.make_velocity_field(prompt, reasoning)
    action = model.sample_actions(noise.to(prompt.logits.device), field, steps)
    yield compare(case.name, 'action, free run', action, case.fields, 'action', 1e-3)


def _texts(scene: GoldenInputs, case: GoldenCase, reasoning: Reasoning) -> Iterator[ComparisonRow]:
    """Decoded rows and the blocks extracted from them."""
    decoded = [scene.processor.decode(row) for row in reasoning.tokens[0].tolist()]
    name, parameters = case.name, case.parameters
    if 'decoded' in parameters:
        yield compare_exactly(name, 'decoded text', decoded == parameters['decoded'], f'{decoded}')
    for block in ('cot', 'meta_action', 'answer'):
        if block in parameters:
            texts = [[[extract_text(text, block) for text in decoded]]]
            yield compare_exactly(name, f'text, {block}', texts == parameters[block], f'{texts}')
