"""Alpamayo 1.5: guidance, prompts of different lengths, questions, prompts without reasoning."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from alpamayo_ros.data_types import SamplingOptions
from alpamayo_ros.errors import BadInput
from alpamayo_ros.model.config import load_config
from alpamayo_ros.model.flow_matching import FlowMatching, guide_field
from alpamayo_ros.model.processor import Processor
from alpamayo_ros.model.prompt.batching import build_guided_prompts, remove_route, stack_prompts
from alpamayo_ros.model.reasoning.generation import (
    feed_marker,
    generate_answer,
    generate_reasoning,
    summarise,
)
from alpamayo_ros.runtime.load import load_model
from alpamayo_ros.verify.golden import STAGES, run_stage
from alpamayo_ros.verify.golden_model import compare_model

GOLDEN = Path(__file__).parent / 'golden15'
MODEL = GOLDEN / 'model'
LEFT, RIGHT = 'Turn left in 11m', 'Turn right onto De La Cruz Boulevard in 40m'


@pytest.fixture(scope='module')
def model():
    return load_model(MODEL)


@pytest.fixture(scope='module')
def processor():
    return Processor(load_config(MODEL), MODEL)


@pytest.fixture(scope='module')
def images(model):
    """Vision features and grids of the reference's images."""
    fields = np.load(MODEL / 'inputs.npz')
    grids = [(int(h), int(w)) for _, h, w in fields['image_grid_thw']]
    with torch.inference_mode():
        return model.encode_images(torch.from_numpy(fields['pixel_values']), grids), grids


@pytest.fixture(scope='module')
def history():
    fields = np.load(MODEL / 'inputs.npz')
    return [torch.from_numpy(fields[f'ego_history_{k}'][0, 0]) for k in ('xyz', 'rot')]


@pytest.fixture(scope='module')
def rows():
    """Two reasonings of different lengths: the tokens of the reference's guided pair."""
    text = np.load(MODEL / 'case_nav_n2.npz')
    tokens = torch.from_numpy(text['raw_sequences'][:, text['input_ids'].shape[1] :]).long()
    tokens = tokens.clone()
    tokens[1, 4:] = tokens[1, 7]  # the marker stands three tokens earlier
    return tokens


def noise(count, seed=5):
    return torch.randn(count, 64, 2, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def prefill(model, images, prompts, samples, ids, is_guided=False, chunk=3072):
    inputs, lengths = stack_prompts(prompts, ids.pad)
    if is_guided:
        inputs, lengths = build_guided_prompts(inputs, ids, lengths)
    cache = model.allocate_cache(len(inputs), inputs.shape[1], samples, 40)
    vision, grids = images
    return model.prefill(inputs, vision, grids, cache, chunk, lengths=lengths, is_guided=is_guided)


@torch.inference_mode()
def velocity(model, images, prompts, tokens, x, ids, weight=None, chunk=3072):
    """First velocity with tokens (B, K, N) fed; guided when there is a weight."""
    is_guided = weight is not None
    prompt = prefill(model, images, prompts, tokens.shape[1], ids, is_guided, chunk)
    for i in range(tokens.shape[-1] - 1):
        step = tokens[..., i]
        model.decode_step(prompt, step.repeat(2, 1) if is_guided else step)
    reasoning = summarise(tokens, ids, prompt.length, complete=False)
    field = model.make_velocity_field(prompt, reasoning)
    field = guide_field(field, weight) if is_guided else field
    return field(x, torch.zeros(len(x), 1, 1))


def test_model_holds_and_guided_velocities_are_within_1e_5():
    rows = list(compare_model(GOLDEN))
    assert [row for row in rows if not row.passed] == []
    errors = {row.stage: row.error for row in rows if row.what == 'expert velocities'}
    guided = [errors[case] for case in ('guided', 'guided_truncated', 'padded_guided')]
    assert max(guided) < 1e-5
    assert sum(row.stage == 'prompts' for row in rows) == 22 * 2 + 1


@pytest.mark.parametrize(
    'name', ['flow matching', 'frame picking', 'state dict', 'vocabulary', 'metrics']
)
def test_stage_holds(name):
    (stage,) = [row for row in STAGES if row[0] == name]
    rows = list(run_stage(stage[0], GOLDEN, stage[1], stage[2]))
    assert [row for row in rows if not row.passed or row.error is None] == []
    assert bool(rows) == (name != 'metrics')  # 1.5's repository has no metrics


def test_two_guided_samples_equal_two_guided_runs(model, images, processor, history, rows):
    ids, x = processor.ids, noise(2)
    prompt = processor.build_input_ids(images[1], (0, 1, 2, 6), *history, route=LEFT)
    together = velocity(model, images, [prompt], rows[None], x, ids, 1.5)
    for k in range(2):
        one = rows[None, k : k + 1]
        alone = velocity(model, images, [prompt], one, x[k : k + 1], ids, 1.5)
        assert (together[k] - alone[0]).abs().max() < 1e-5


def test_weight_one_is_the_run_with_the_route_and_weight_zero_the_one_without(
    model, images, processor, history, rows
):
    ids, x, tokens = processor.ids, noise(1), rows[None, :1]
    with_route, without = (
        processor.build_input_ids(images[1], (0, 1, 2, 6), *history, route=route)
        for route in (LEFT, None)
    )
    plain = [velocity(model, images, [p], tokens, x, ids) for p in (with_route, without)]
    guided = [velocity(model, images, [with_route], tokens, x, ids, w) for w in (1.0, 0.0)]
    for found, want in zip(guided, plain, strict=True):
        assert (found - want).abs().max() < 1e-5
    assert (plain[0] - plain[1]).abs().max() > 0.05


@pytest.mark.parametrize('weight', [None, 1.5])
@pytest.mark.parametrize('chunk', [3072, 100])
def test_scenes_with_prompts_of_different_lengths_equal_separate_runs(
    model, images, processor, history, rows, weight, chunk
):
    ids, x = processor.ids, noise(2)
    prompts = [
        processor.build_input_ids(images[1], (0, 1, 2, 6), *history, route=route)
        for route in (LEFT, RIGHT)
    ]
    vision = tuple(
        [torch.cat([level, level]) for level in part]
        if isinstance(part, list)
        else torch.cat([part, part])
        for part in images[0]
    )
    both = (vision, images[1] * 2)
    together = velocity(model, both, prompts, rows[:, None], x, ids, weight, chunk)
    logits = prefill(model, both, prompts, 1, ids, chunk=chunk).logits
    for i in range(2):
        alone = velocity(
            model, images, [prompts[i]], rows[i][None, None], x[i : i + 1], ids, weight
        )
        assert (together[i] - alone[0]).abs().max() < 1e-5
        one = prefill(model, images, [prompts[i]], 1, ids).logits
        assert (logits[i] - one[0]).abs().max() < 2e-4


def test_guided_reasoning_is_that_of_the_prompt_with_the_route(model, images, processor, history):
    ids, options = processor.ids, SamplingOptions(num_samples=2, max_tokens=40)
    prompt = processor.build_input_ids(images[1], (0, 1, 2, 6), *history, route=LEFT)
    found = []
    for is_guided in (False, True):
        run = prefill(model, images, [prompt], 2, ids, is_guided)
        with torch.inference_mode():
            generator = torch.Generator().manual_seed(3)
            found.append(generate_reasoning(model.decode_step, run, ids, options, generator))
    assert torch.equal(found[0].tokens, found[1].tokens)
    assert found[1].end == [['marker', 'marker']]


def test_prompt_without_reasoning_is_followed_by_the_marker(model, images, processor, history):
    ids = processor.ids
    text = processor.prompt_text((1,), 4, with_reasoning=False)
    assert text.endswith(
        '<|traj_history_end|>output the future trajectory.<|im_end|>\n<|im_start|>assistant\n'
    )
    prompt_ids = processor.build_input_ids(images[1], (0, 1, 2, 6), *history, with_reasoning=False)
    prompt = prefill(model, images, [prompt_ids], 2, ids)
    with torch.inference_mode():
        reasoning = feed_marker(model.decode_step, prompt, ids, 2)
        field = model.make_velocity_field(prompt, reasoning)
        found = field(noise(2), torch.zeros(2, 1, 1))
    assert reasoning.end == [['none', 'none']]
    assert prompt.cache.length == prompt_ids.shape[1] + 2
    marker = torch.full((1, 1, 2), ids.future_start)
    for k in range(2):  # a marker and the token behind it, which is discarded
        alone = velocity(model, images, [prompt_ids], marker, noise(2)[k : k + 1], ids)
        assert (found[k] - alone[0]).abs().max() < 1e-5


def test_answer_ends_with_its_end_token_and_may_hold_trajectory_tokens(model, images, processor):
    ids = processor.ids
    text = processor.question_text((0, 1, 2, 6), 4, 'Describe the scene.')
    prompt = prefill(model, images, [processor.tokenize_prompt(text, images[1])], 1, ids)
    options = SamplingOptions(greedy=True, max_tokens=40)
    with torch.inference_mode():
        answer = generate_answer(model.decode_step, prompt, ids, options)[0, 0].tolist()
        prompt = prefill(model, images, [processor.tokenize_prompt(text, images[1])], 1, ids)
        prompt.logits[:, ids.discrete_start] = 1e4
        other = generate_answer(model.decode_step, prompt, ids, replace(options, max_tokens=1))
    assert processor.decode(answer) == 'A red truck is parked ahead.<|answer_end|>'
    assert other.tolist() == [[[ids.discrete_start]]]


def test_temperature_scales_the_initial_noise():
    start = noise(1)
    seen = []
    FlowMatching().sample(start, lambda x, t: seen.append(x) or torch.zeros_like(x), 2, 0.6)
    assert torch.equal(seen[0], start * 0.6)


def test_guidance_without_a_route_is_refused(processor, images, history):
    plain = processor.build_input_ids(images[1], (0, 1, 2, 6), *history)
    with pytest.raises(BadInput, match='one route text'):
        remove_route(plain, processor.ids)
    with pytest.raises(BadInput, match='one route text'):
        build_guided_prompts(plain, processor.ids)


@pytest.mark.parametrize('text', ['left<|route_end|>', 'go <i7>', '<|traj_future_start|>'])
def test_route_or_question_that_holds_tokens_is_refused(processor, text):
    with pytest.raises(BadInput, match='is a token of the model'):
        processor.prompt_text((1,), 4, text)
    with pytest.raises(BadInput, match='is a token of the model'):
        processor.question_text((1,), 4, text)


def test_r1_knows_no_routes_and_no_questions():
    folder = Path(__file__).parent / 'golden/model'
    processor = Processor(load_config(folder), folder)
    with pytest.raises(BadInput, match='alpamayo_r1, which knows none'):
        processor.prompt_text((1,), 4, LEFT)
    with pytest.raises(BadInput, match='alpamayo_r1, which knows none'):
        processor.question_text((1,), 4, 'What is ahead?')
