"""Comparison with one reference case, stage by stage: prefill, decoding, cache, expert, path.

Generated tokens, noise and flow states of the reference are fed, so each stage is compared for
itself (teacher forcing); then the model runs freely from the same noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..data_types import SamplingOptions
from ..model.flow_matching import VelocityField, guide_field
from ..model.prompt.batching import build_guided_prompts, stack_prompts
from ..model.prompt.generated_text import extract_text
from ..model.reasoning.generation import Reasoning, generate_reasoning, summarise
from .comparison import ComparisonRow, compare, compare_exactly, tensors
from .golden_case import (
    ForcedRun,
    GoldenCase,
    GoldenScene,
    make_trajectory,
    prefill_case,
    run_forced,
)
from .golden_layout import ReferenceLayout


def compare_case(scene: GoldenScene, case: GoldenCase) -> Iterator[ComparisonRow]:
    """Every row of a case."""
    name, fields = case.name, case.fields
    rows = len(case.prompts) * case.samples
    embeds, levels = scene.vision
    yield compare(name, 'vision', embeds.repeat(rows, 1), fields, 'image_embeds', 1e-4)
    for i, level in enumerate(levels):
        key = f'deepstack.{i}'
        yield compare(name, f'vision, {key}', level.repeat(rows, 1), fields, key, 1e-4)
    run = run_forced(scene, case)
    first = run.layouts[0].repeat_rows(run.prompt.logits)
    yield compare(name, 'prefill', first, fields, 'prefill_last_logits', 5e-4)
    yield compare(name, 'decode', run.logits, fields, 'decode_logits', 5e-4)
    for layout, prefix in zip(run.layouts, ('', 'unguided_'), strict=False):
        yield from _compare_positions(scene, case, run, layout, prefix)
        yield from _compare_cache(case, layout, prefix)
    padded = run.reasoning.tokens.flatten(0, 1)
    prompts = run.layouts[0].repeat_rows(_restore_pads(scene, case))
    whole = torch.cat([prompts, padded], 1)
    yield compare(name, 'tokens, padded', whole, fields, 'sequences', 0)
    if case.is_guided:
        yield compare(name, 'tokens, without route', padded, fields, 'unguided_fed_ids', 0)
    yield from _compare_expert(scene, case, run)
    yield from _run_freely(scene, case)
    yield from _compare_texts(scene, case, run.reasoning)


def _restore_pads(scene: GoldenScene, case: GoldenCase) -> Tensor:
    """Prompts (B, P) with pads in front, as in the reference."""
    width, pad = max(ids.shape[1] for ids in case.prompts), scene.processor.ids.pad
    return torch.cat(
        [
            torch.nn.functional.pad(ids, (width - ids.shape[1], 0), value=pad)
            for ids in case.prompts
        ]
    )


def _compare_positions(
    scene: GoldenScene, case: GoldenCase, run: ForcedRun, layout: ReferenceLayout, prefix: str
) -> Iterator[ComparisonRow]:
    """Rotary positions of the prompts, and of the tokens fed behind them."""
    name, fields, prompt = case.name, case.fields, run.prompt
    rows, lengths = stack_prompts(case.prompts, scene.processor.ids.pad)
    if case.is_guided:
        rows, lengths = build_guided_prompts(rows.cpu(), scene.processor.ids, lengths)
    placed = scene.model.lay_out(rows, scene.vision, scene.grids, lengths).positions
    positions = layout.pad_in_front(placed, 1)  # of pads: 1, as in the reference
    delta = (prompt.rope_delta + layout.missing).unsqueeze(-1)
    if not prefix:
        positions = positions.repeat_interleave(case.samples, 1)
        delta = layout.repeat_rows(delta)
    else:
        delta = delta[layout.scenes.start :]
    what = 'without route, ' if prefix else ''
    key = f'{prefix}prefill_position_ids'
    yield compare(name, f'{what}prefill positions', positions, fields, key, 0)
    yield compare(name, f'{what}rope delta', delta, fields, f'{prefix}rope_deltas', 0)
    if prefix:
        ids = layout.pad_in_front(rows, scene.processor.ids.pad)
        yield compare(name, f'{what}prompt', ids, fields, 'unguided_input_ids', 0)
        steps = torch.arange(layout.steps, device=delta.device)
        fed = (layout.repeat_rows(prompt.rope_delta) + prompt.length).unsqueeze(-1) + steps
        fed = fed.expand(3, -1, -1)
        key = 'unguided_fed_position_ids'
        marker = run.reasoning.marker.flatten().unsqueeze(-1)
        real = ((marker < 0) | (steps <= marker)).expand_as(fed).cpu().numpy()
        known = {key: fields[key] * real} if key in fields else {}
        fed = fed.cpu() * torch.from_numpy(real)
        yield compare(name, f'{what}positions of fed tokens', fed, known, key, 0)


def _compare_cache(
    case: GoldenCase, layout: ReferenceLayout, prefix: str
) -> Iterator[ComparisonRow]:
    """Keys and values of every layer, without the columns of pads."""
    cache, what = layout.prompt.cache, 'without route, ' if prefix else ''
    hidden = None
    if prefix and 'unguided_expert_attention_mask' in case.fields:
        hidden = case.fields['unguided_expert_attention_mask'][:, :, 0] != 0  # (R, 1, columns)
    for letter, store in (('k', cache.keys), ('v', cache.values)):
        for i, layer in enumerate(store):
            key = f'{prefix}cache_{letter}.{i}'
            known: dict[str, Any] = {}
            rows, real = layout.gather_cache(layer)
            if key in case.fields:
                if hidden is not None:
                    seen = torch.from_numpy(~hidden[:, :, : rows.shape[2]]).to(real.device)
                    real &= seen.unsqueeze(-1)
                known = {key: case.fields[key] * real.cpu().numpy()}
            name = f'{what}cache, cache_{letter}.{i}'
            yield compare(case.name, name, rows * real, known, key, 1e-4)


def _compare_expert(
    scene: GoldenScene, case: GoldenCase, run: ForcedRun
) -> Iterator[ComparisonRow]:
    """Positions, mask and each flow step from the reference's own states."""
    name, fields, model = case.name, case.fields, scene.model
    window, positions = model.prepare_expert(run.prompt, run.reasoning)
    points, device = model.waypoints, window.slots.device
    by_row = positions.unflatten(-1, (-1, points)).flatten(1, 2)  # (3, S * K, T)
    for half, layout in enumerate(run.layouts):
        prefix, what = ('unguided_', 'without route, ') if half else ('', '')
        count = len(case.prompts) * case.samples
        own = by_row[:, half * count : (half + 1) * count]
        key = f'{prefix}expert_position_ids'
        yield compare(name, f'{what}expert positions', own, fields, key, 0)
        offset = own[0, :, 0] - layout.repeat_rows(run.prompt.rope_delta) - layout.missing
        if f'{prefix}offset' in fields:  # from 1.5 on
            yield compare(name, f'{what}offset', offset, fields, f'{prefix}offset', 0)
        rows, strangers = layout.gather_mask(window, points)
        key = f'{prefix}expert_attention_mask'
        yield compare(name, f'{what}expert mask', rows, fields, key, 0)
        yield compare_exactly(name, f'{what}expert mask, other samples hidden', not strangers)
    states, times = (x.to(device) for x in tensors(fields, 'x_steps', 't_steps'))
    embeds = model.action_in_proj(states[:, 0], times[:, 0])
    yield compare(name, 'expert inputs', embeds, fields, 'expert_inputs_embeds_step0', 1e-4)
    field = model.make_velocity_field(run.prompt, run.reasoning)
    yield from _compare_velocities(case, field, states, times)
    (noise,) = tensors(fields, 'noise')
    guided = guide_field(field, case.weight) if case.is_guided else field
    action = model.flow.sample(noise.to(device), guided, states.shape[1], case.temperature)
    yield compare(name, 'action', action, fields, 'action', 1e-3)
    xyz, rot = make_trajectory(scene, case, action)
    yield compare(name, 'trajectory', xyz, fields, 'pred_xyz', 2e-3)
    yield compare(name, 'trajectory rotation', rot, fields, 'pred_rot', 1e-3)


def _compare_velocities(
    case: GoldenCase, field: VelocityField, states: Tensor, times: Tensor
) -> Iterator[ComparisonRow]:
    """Velocities (R, steps, T, 2) at the reference's states: combined, and of both passes."""
    passes: dict[str, list[Tensor]] = {'v_steps': []}
    if case.is_guided:
        passes |= {'v_guided_steps': [], 'v_unguided_steps': []}
    for i in range(states.shape[1]):
        x, t = states[:, i], times[:, i]
        if case.is_guided:
            both = field(x.repeat(2, 1, 1), t.repeat(2, 1, 1)).chunk(2)
            passes['v_guided_steps'].append(both[0])
            passes['v_unguided_steps'].append(both[1])
            passes['v_steps'].append(guide_field(field, case.weight)(x, t))
        else:
            passes['v_steps'].append(field(x, t))
    names = ('expert velocities', 'velocities with route', 'velocities without route')
    for (key, steps), what in zip(passes.items(), names, strict=False):
        yield compare(case.name, what, torch.stack(steps, 1), case.fields, key, 1e-5)


def _run_freely(scene: GoldenScene, case: GoldenCase) -> Iterator[ComparisonRow]:
    """Greedy cases: our own generation, up to the first marker of each row, as the live path."""
    parameters = case.parameters
    if parameters.get('top_k') != 1:
        note = 'sampling is not reproduced, the tokens were fed'
        yield ComparisonRow(case.name, 'tokens', None, 0.0, note)
        return
    model, ids = scene.model, scene.processor.ids
    budget = int(parameters.get('max_new_tokens', case.generated.shape[-1]))
    options = replace(SamplingOptions(), num_samples=case.samples, greedy=True, max_tokens=budget)
    prompt = prefill_case(scene, case, 64, budget)
    reasoning = generate_reasoning(model.decode_step, prompt, ids, options)
    want = summarise(case.generated, ids, prompt.length, complete=False)
    same = reasoning.end == want.end
    for ours, theirs, marker in zip(
        reasoning.tokens.flatten(0, 1),
        want.tokens.flatten(0, 1),
        want.marker.flatten().tolist(),
        strict=True,
    ):
        end = marker + 1 if marker >= 0 else len(theirs)
        same &= ours[:end].tolist() == theirs[:end].tolist()
    yield compare_exactly(case.name, 'tokens', same, f'{reasoning.tokens.tolist()}')
    (noise,) = tensors(case.fields, 'noise')
    steps = case.fields['x_steps'].shape[1]
    field = model.make_velocity_field(prompt, reasoning)
    field = guide_field(field, case.weight) if case.is_guided else field
    noise = noise.to(prompt.logits.device)
    action = model.flow.sample(noise, field, steps, case.temperature)
    yield compare(case.name, 'action, free run', action, case.fields, 'action', 1e-3)


def _compare_texts(
    scene: GoldenScene, case: GoldenCase, reasoning: Reasoning
) -> Iterator[ComparisonRow]:
    """Decoded rows and the blocks extracted from them."""
    rows = reasoning.tokens.flatten(0, 1).tolist()
    decoded = [scene.processor.decode(row) for row in rows]
    name, parameters = case.name, case.parameters
    if 'decoded' in parameters:
        yield compare_exactly(name, 'decoded text', decoded == parameters['decoded'], f'{decoded}')
    for block in ('cot', 'meta_action', 'answer'):
        if block in parameters:
            found = [extract_text(text, block) for text in decoded]
            k = case.samples
            texts = [[found[i : i + k]] for i in range(0, len(found), k)]
            yield compare_exactly(name, f'text, {block}', texts == parameters[block], f'{texts}')
