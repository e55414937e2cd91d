"""The rollout: shared prompts, sampling, health, bf16. Reference values are in test_verify."""

from pathlib import Path

import numpy as np
import pytest
import torch

from alpamayo_ros.data_types import SamplingOptions
from alpamayo_ros.model.prefill import compute_prompt_positions
from alpamayo_ros.model.prompt.tokens import TokenIds
from alpamayo_ros.model.reasoning.generation import generate_reasoning, pad_behind, summarise
from alpamayo_ros.model.reasoning.sampling import _running_sums, sample_token
from alpamayo_ros.quantization.scheme import SCHEMES
from alpamayo_ros.runtime.load import load_model

MODEL = Path(__file__).parent / 'golden/model'
IDS = TokenIds(
    image=519,
    history=4548,
    future_start=4545,
    eos=509,
    pad=507,
    discrete_start=533,
    discrete_end=4533,
    history_offset=3533,
)
GREEDY = SamplingOptions(greedy=True, max_tokens=40)


@pytest.fixture(scope='module')
def model():
    return load_model(MODEL)


@pytest.fixture(scope='module', params=SCHEMES, ids=lambda bits: f'{bits:g} bits')
def model_of_a_width(request):
    return load_model(MODEL, bits=request.param)


@pytest.fixture(scope='module')
def inputs():
    fields = np.load(MODEL / 'inputs.npz')
    ids = torch.from_numpy(fields['fused_input_ids']).long()
    patches = torch.from_numpy(fields['pixel_values'])
    grids = [(int(h), int(w)) for _, h, w in fields['image_grid_thw']]
    return ids, patches, grids


@pytest.fixture(scope='module')
def reference():
    return {k: torch.from_numpy(v) for k, v in np.load(MODEL / 'case_sampled.npz').items()}


def prefilled(model, inputs, samples, scenes=1):
    ids, patches, grids = inputs
    with torch.inference_mode():
        vision = model.encode_images(patches.repeat(scenes, 1), grids * scenes)
        cache = model.allocate_cache(scenes, ids.shape[1], samples, 40)
        return model.prefill(ids.repeat(scenes, 1), vision, grids * scenes, cache)


@torch.inference_mode()
def forced(model, inputs, rows, scenes=1):
    """Prompt and reasoning with the given generated rows (B, K, N) in the cache."""
    prompt = prefilled(model, inputs, rows.shape[1], scenes)
    logits = [model.decode_step(prompt, rows[..., i]) for i in range(rows.shape[-1] - 1)]
    return prompt, summarise(rows, IDS, prompt.length, complete=False), torch.stack(logits, 2)


@torch.inference_mode()
def first_velocity(model, prompt, reasoning, noise):
    window, positions = model.prepare_expert(prompt, reasoning)
    return model.predict_velocity(
        noise, torch.zeros(len(noise), 1, 1), prompt.cache, window, positions
    )


def rows_of_six(reference):
    """Six different reasonings of one length: the reference's two, and four cut short by eos."""
    rows = reference['raw_sequences'][:, 223:].long()
    more = [rows[i % 2].clone() for i in range(4)]
    for i, row in enumerate(more):
        row[3 + i] = IDS.future_start
    return torch.cat([rows, torch.stack(more)])


def test_six_samples_with_a_shared_prompt_equal_six_separate_runs(
    model_of_a_width, inputs, reference
):
    model = model_of_a_width
    rows = rows_of_six(reference)
    noise = torch.randn(6, 64, 2, generator=torch.Generator().manual_seed(5))
    prompt, reasoning, logits = forced(model, inputs, rows.unsqueeze(0))
    together = first_velocity(model, prompt, reasoning, noise)
    for r in range(6):
        one = forced(model, inputs, rows[None, r : r + 1])
        alone = first_velocity(model, one[0], one[1], noise[r : r + 1])
        assert (together[r] - alone[0]).abs().max() < 1e-5
        assert (logits[0, r] - one[2][0, 0]).abs().max() < 2e-4


def test_two_scenes_in_a_batch_equal_two_separate_runs(model, inputs, reference):
    rows = rows_of_six(reference)[:4].view(2, 2, -1)
    noise = torch.randn(4, 64, 2, generator=torch.Generator().manual_seed(6))
    prompt, reasoning, _ = forced(model, inputs, rows, scenes=2)
    together = first_velocity(model, prompt, reasoning, noise)
    for scene in range(2):
        one = forced(model, inputs, rows[scene : scene + 1])
        part = slice(2 * scene, 2 * scene + 2)
        alone = first_velocity(model, one[0], one[1], noise[part])
        assert (together[part] - alone).abs().max() < 1e-5


def test_what_stands_behind_the_marker_is_not_seen(model, inputs, reference):
    rows = reference['raw_sequences'][1:, 223:].long().unsqueeze(0)
    noise = torch.randn(1, 64, 2, generator=torch.Generator().manual_seed(7))
    other = rows.clone()
    other[0, 0, 9:] = 7  # behind the marker at index 8
    velocities = []
    for variant in (rows, other):
        prompt, reasoning, _ = forced(model, inputs, variant)
        velocities.append(first_velocity(model, prompt, reasoning, noise))
    assert torch.equal(*velocities)


def test_sampled_reasoning_of_two_rows_ends_at_both_markers(model, inputs):
    options = SamplingOptions(num_samples=2, max_tokens=40)
    with torch.inference_mode():
        prompt = prefilled(model, inputs, 2)
        reasoning = generate_reasoning(
            model.decode_step, prompt, IDS, options, torch.Generator().manual_seed(0)
        )
    assert reasoning.end == [['marker', 'marker']]
    last = int(reasoning.marker.max())
    assert reasoning.tokens.shape[-1] == last + 1
    # the marker itself is in the cache, the token behind it is not
    assert prompt.cache.length == prompt.length + 2 * (last + 1)
    assert reasoning.length == prompt.length + last + 2


def test_same_seed_gives_the_same_reasoning_whatever_ran_before(model, inputs):
    options = SamplingOptions(num_samples=3, max_tokens=40, temperature=3.0)
    runs = []
    with torch.inference_mode():
        for seed in (1, 2, 1):
            generator = torch.Generator().manual_seed(seed)
            prompt = prefilled(model, inputs, 3)
            runs.append(
                generate_reasoning(model.decode_step, prompt, IDS, options, generator).tokens
            )
    assert torch.equal(runs[0], runs[2])
    assert runs[0].shape != runs[1].shape or not torch.equal(runs[0], runs[1])


@pytest.mark.parametrize(
    ('budget', 'end', 'marker', 'slots'),
    [(5, 'budget', -1, 4), (12, 'marker', 11, 12)],  # a marker on the last token is fed, too
)
def test_token_budget_ends_a_reasoning(model, inputs, budget, end, marker, slots):
    options = SamplingOptions(greedy=True, max_tokens=budget)
    with torch.inference_mode():
        prompt = prefilled(model, inputs, 1)
        reasoning = generate_reasoning(model.decode_step, prompt, IDS, options)
    assert reasoning.end == [[end]]
    assert reasoning.marker.tolist() == [[marker]]
    assert reasoning.length == prompt.length + slots + 1
    assert prompt.cache.length == prompt.length + slots


def test_eos_ends_a_row_without_marker():
    tokens = torch.tensor([[[3, IDS.eos, IDS.pad], [3, 4, IDS.future_start]]])
    reasoning = summarise(tokens, IDS, 10, complete=True)
    assert reasoning.end == [['eos', 'marker']]
    assert reasoning.marker.tolist() == [[-1, 2]]
    assert reasoning.length == 14


def test_first_marker_counts_when_there_are_two():
    rows, first = pad_behind(torch.tensor([[1, 9, 2, 9, 3], [1, 2, 3, 4, 5]]), 9, 0)
    assert rows.tolist() == [[1, 9, 0, 0, 0], [1, 2, 3, 4, 5]]
    assert first.tolist() == [1, -1]


def test_discrete_trajectory_tokens_are_never_sampled():
    logits = torch.zeros(1, 4, 4561)
    logits[..., IDS.discrete_start : IDS.discrete_end] = 50
    generator = torch.Generator().manual_seed(0)
    for options in (SamplingOptions(), SamplingOptions(greedy=True)):
        for _ in range(20):
            tokens = sample_token(logits, IDS, options, generator)
            assert not ((tokens >= IDS.discrete_start) & (tokens < IDS.discrete_end)).any()


@pytest.mark.parametrize('rows', [1, 6, 40])
def test_draws_are_those_of_torch(rows):
    weights = torch.rand(1, rows, 500, generator=torch.Generator().manual_seed(1))
    generators = [torch.Generator().manual_seed(2) for _ in range(2)]
    drawn = sample_token(
        weights.log(), IDS, SamplingOptions(temperature=1, top_p=1), generators[0]
    )
    assert torch.equal(drawn[0], torch.multinomial(weights[0], 1, generator=generators[1])[:, 0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('rows', [1, 6, 40])
def test_running_sums_on_the_gpu_are_those_of_torch(rows):
    weights = torch.rand(1, rows, 155697, generator=torch.Generator().manual_seed(1))
    want = weights.double().cumsum(-1)
    assert ((_running_sums(weights.cuda()).cpu() - want).abs() / want).max() < 1e-5


@torch.inference_mode()
def test_a_step_whose_logits_are_no_numbers_ends_the_reasoning(model, inputs):
    prompt = prefilled(model, inputs, 1)

    def decode_step(prompt, tokens):
        return torch.full((*tokens.shape, prompt.logits.shape[-1]), torch.nan)

    with pytest.raises(RuntimeError, match='not finite'):
        generate_reasoning(decode_step, prompt, IDS, SamplingOptions(greedy=True, max_tokens=2))


@torch.inference_mode()
def test_a_prompt_whose_logits_are_no_numbers_costs_no_token(model, inputs):
    """The whole budget was generated before the error was raised."""
    prompt = prefilled(model, inputs, 1)
    prompt.logits.fill_(torch.nan)
    steps = []
    with pytest.raises(RuntimeError, match='not finite'):
        generate_reasoning(
            lambda *step: steps.append(step), prompt, IDS, SamplingOptions(max_tokens=50)
        )
    assert steps == []


def frequencies(logits, options, draws=4000):
    generator = torch.Generator().manual_seed(0)
    rows = logits.expand(1, draws, -1)
    tokens = sample_token(rows, IDS, options, generator)
    return torch.bincount(tokens.flatten(), minlength=4).float()[:4] / draws


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    logits = torch.full((4561,), -1e9)
    logits[:4] = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    share = frequencies(logits, SamplingOptions(temperature=1.0, top_p=0.7))
    assert share[2] == share[3] == 0
    assert share[0] == pytest.approx(0.625, abs=0.03)


def test_temperature_sharpens_and_top_k_cuts():
    logits = torch.full((4561,), -1e9)
    logits[:4] = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    sharp = torch.tensor([0.5, 0.3, 0.15, 0.05]) ** 2
    share = frequencies(logits, SamplingOptions(temperature=0.5, top_p=1.0))
    assert torch.allclose(share, sharp / sharp.sum(), atol=0.03)
    share = frequencies(logits, SamplingOptions(temperature=1.0, top_p=1.0, top_k=2))
    assert share[0] == pytest.approx(0.625, abs=0.03)
    assert share[2] == 0


def test_positions_restart_behind_an_image_at_its_longer_side():
    row = [False, False, *[True] * 6, False, False]
    positions, delta = compute_prompt_positions(torch.tensor([row]), [(4, 6)], 2)
    assert positions[0, 0].tolist() == [0, 1, 2, 2, 2, 2, 2, 2, 5, 6]
    assert positions[1, 0].tolist() == [0, 1, 2, 2, 2, 3, 3, 3, 5, 6]
    assert positions[2, 0].tolist() == [0, 1, 2, 3, 4, 2, 3, 4, 5, 6]
    assert delta.tolist() == [-3]


def test_bf16_velocities_stay_near_the_float32_reference(inputs, reference):
    model = load_model(MODEL).to(torch.bfloat16)
    rows = reference['raw_sequences'][:, 223:].long().unsqueeze(0)
    prompt, reasoning, _ = forced(model, inputs, rows)
    with torch.inference_mode():
        window, positions = model.prepare_expert(prompt, reasoning)
        for i in range(reference['x_steps'].shape[1]):
            x, t = reference['x_steps'][:, i], reference['t_steps'][:, i]
            v = model.predict_velocity(x, t, prompt.cache, window, positions)
            assert (v.float() - reference['v_steps'][:, i]).abs().max() < 0.1
