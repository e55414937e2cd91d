"""Comparison with reference files of Alpamayo 1.5 beside the cases: an answer, bf16 runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..data_types import SamplingOptions
from ..model.flow_matching import guide_field
from ..model.prompt.generated_text import extract_text
from ..model.reasoning.generation import generate_answer
from .comparison import ComparisonRow, compare, compare_exactly, read_fields, tensors
from .golden_case import GoldenScene, make_trajectory, read_case, run_forced

BF16_VELOCITY, BF16_XYZ_M = 0.1, 0.5  # tolerances of the reference between bf16 and float32


def compare_answer(
    home: Path, meta: Mapping[str, Any], scenes: Mapping[str, GoldenScene]
) -> Iterator[ComparisonRow]:
    """The greedy answer to a question: logits with the reference's tokens fed, then our own."""
    path, parameters = home / 'vqa.npz', meta.get('vqa')
    if not path.is_file() or not parameters:
        return
    scene, fields = scenes[parameters.get('inputs', 'inputs.npz')], read_fields(path)
    model, processor = scene.model, scene.processor
    prompt_ids, raw = (x.to(torch.int64) for x in tensors(fields, 'input_ids', 'raw_sequences'))
    generated = raw[:, prompt_ids.shape[1] :]
    budget = int(parameters['max_new_tokens'])
    cache = model.allocate_cache(1, prompt_ids.shape[1], 1, budget)
    prompt = model.prefill(prompt_ids, scene.vision, scene.grids, cache)
    yield compare('question', 'prefill', prompt.logits, fields, 'prefill_last_logits', 5e-4)
    fed = generated.to(prompt.logits.device)
    steps = [model.decode_step(prompt, fed[:, i : i + 1])[0] for i in range(fed.shape[1] - 1)]
    yield compare('question', 'decode', torch.stack(steps, 1), fields, 'decode_logits', 5e-4)
    cache.clear()
    prompt = model.prefill(prompt_ids, scene.vision, scene.grids, cache)
    options = replace(SamplingOptions(), greedy=True, max_tokens=budget)
    tokens = generate_answer(model.decode_step, prompt, processor.ids, options)[0, 0].tolist()
    text = extract_text(processor.decode(tokens), 'answer')
    same = text == parameters['answer'][0][0]
    yield compare_exactly('question', 'answer', same, f'{text!r}')


def compare_rounded(
    home: Path, meta: Mapping[str, Any], scenes: Mapping[str, GoldenScene]
) -> Iterator[ComparisonRow]:
    """The same model in bf16: velocities at the reference's states, the path and the buffers."""
    paths = sorted(home.glob('bf16_*.npz'))
    rounded = copy.deepcopy(next(iter(scenes.values())).model).bfloat16() if paths else None
    for path in paths:
        label = path.stem.removeprefix('bf16_')
        parameters = meta['meta'].get(meta.get('bf16', {}).get(label, {}).get('case', label))
        if rounded is None or parameters is None:
            continue
        scene = scenes[parameters.get('inputs', 'inputs.npz')]
        embeds, levels = scene.vision
        vision = embeds.bfloat16(), [level.bfloat16() for level in levels]
        scene = replace(scene, model=rounded, vision=vision)
        device = str(embeds.device)
        plain = read_case(label, home / f'case_{label}.npz', parameters, device)
        own = read_fields(path)
        case = replace(plain, name=path.stem, fields={**plain.fields, **own})
        run = run_forced(scene, case)
        states, times = (x.to(device) for x in tensors(own, 'x_steps', 't_steps'))
        field = rounded.make_velocity_field(run.prompt, run.reasoning)
        field = guide_field(field, case.weight) if case.is_guided else field
        velocities = [field(states[:, i], times[:, i]).float() for i in range(states.shape[1])]
        v = torch.stack(velocities, 1)
        yield compare(path.stem, 'expert velocities', v, own, 'v_steps', BF16_VELOCITY)
        (noise,) = tensors(own, 'noise')
        action = rounded.flow.sample(noise.to(device), field, states.shape[1], case.temperature)
        xyz, _ = make_trajectory(scene, case, action)
        yield compare(path.stem, 'trajectory', xyz, own, 'pred_xyz', BF16_XYZ_M)
        buffers = dict(rounded.named_buffers())
        for key in sorted(k for k in own if k.startswith('buffer.')):
            name = key.removeprefix('buffer.')
            yield compare(path.stem, name, buffers[name].float(), own, key, 0)
