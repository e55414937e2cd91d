"""Recorded steps: the static form on a CPU, the CUDA graphs where there is a GPU."""

from pathlib import Path

import numpy as np
import pytest
import torch

from alpamayo_ros.model.flow_matching import guide_field
from alpamayo_ros.model.processor import Processor
from alpamayo_ros.model.prompt.batching import build_guided_prompts, stack_prompts
from alpamayo_ros.model.reasoning.generation import summarise
from alpamayo_ros.quantization.embedding import HostEmbedding
from alpamayo_ros.runtime.graphs.known_rows import KnownRows
from alpamayo_ros.runtime.graphs.recorder import GraphRecorder, RecordedVision
from alpamayo_ros.runtime.graphs.steps import StaticSteps
from alpamayo_ros.runtime.load import load_model

MODEL = Path(__file__).parent / 'golden/model'


def scene(device):
    fields = np.load(MODEL / 'inputs.npz')
    ids = torch.from_numpy(fields['fused_input_ids']).long().to(device)
    patches = torch.from_numpy(fields['pixel_values']).to(device)
    return ids, patches, [(int(h), int(w)) for _, h, w in fields['image_grid_thw']]


def ids_of(model):
    return Processor(model.config, MODEL).ids


def run(model, steps, cache, tokens, noise):
    """Logits of each decode step and the action behind them."""
    ids, patches, grids = scene(tokens.device)
    vision = model.encode_images(patches, grids)
    prompt = model.prefill(ids, vision, grids, cache, chunk=100, steps=steps)
    logits = [steps.decode_step(prompt, tokens[..., i]).clone() for i in range(tokens.shape[-1])]
    reasoning = summarise(tokens, ids_of(model), prompt.length, complete=True)
    return torch.stack(logits), model.flow.sample(
        noise, steps.make_velocity_field(prompt, reasoning)
    )


@torch.inference_mode()
def both(device, samples=2, known=0, **recording):
    """Plain steps, static ones, and the reference; known: rows, with the embedding on the host."""
    model = load_model(MODEL, device)
    language = model.vlm.model.language_model
    if known:
        host = HostEmbedding.from_pretrained(language.embed_tokens.weight.cpu())
        language.embed_tokens = host
        recording['known'] = KnownRows(host, torch.device(device), torch.float32, known)
    case = np.load(MODEL / 'case_sampled.npz')
    tokens = torch.from_numpy(case['raw_sequences'][None, :, 223:-1]).long().to(device)
    tokens, noise = tokens[:, :samples], torch.from_numpy(case['noise'])[:samples].to(device)
    plain = run(model, model, model.allocate_cache(1, 223, samples, 40), tokens, noise)
    cache = model.allocate_cache(1, 223 + 50, samples, 40)  # more room than needed
    steps = StaticSteps(model, cache, samples, **recording)
    run(model, steps, cache, tokens.roll(3, -1), noise)  # leaves other values in the cache
    cache.clear()
    action = torch.from_numpy(case['action'])[:samples]
    return plain, run(model, steps, cache, tokens, noise), action


def check(plain, static, reference):
    assert (plain[0] - static[0]).abs().max() < 2e-4
    assert (plain[1] - static[1]).abs().max() < 1e-4
    assert (static[1].cpu() - reference).abs().max() < 1e-3


@pytest.mark.parametrize('samples', [1, 2])
def test_static_steps_equal_the_plain_ones(samples):
    check(*both('cpu', samples))


@pytest.mark.parametrize('known', [3, 1000])
def test_static_steps_with_known_rows_equal_the_plain_ones(known):
    check(*both('cpu', known=known))


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('known', [0, 3, 1000])
def test_recorded_graphs_equal_the_plain_steps(known):
    check(*both('cuda', known=known, record=GraphRecorder().record))


def test_rows_of_the_host_are_copied_once_and_forgotten_when_full():
    embed, read = torch.nn.Embedding(20, 4), []
    embed.register_forward_hook(lambda _, ids, rows: read.append(ids[0].tolist()))
    rows = KnownRows(embed, torch.device('cpu'), torch.float32, count=4)
    with torch.no_grad():
        assert rows.learn([7, 3, 7])
        assert not rows.learn([3, 7])
        assert rows.learn([3, 5])
        assert rows.learn([3, 8, 9])  # five do not fit: 3 is copied again
        assert read == [[7, 3], [5], [3, 8, 9]]
        tokens = torch.tensor([[9, 3], [8, 8]])
        assert torch.equal(rows.read(tokens), embed.weight[tokens])
        assert rows.learn([7])
        rows.forget()
        assert rows.learn([7])


@torch.inference_mode()
def guide(device, samples, is_guided=True, **recording):
    """Logits and guided actions of two scenes, in plain steps and in static ones.

    Scenes of 1.5 whose prompts differ in length; without guidance both are sampled.
    """
    folder = MODEL.parents[1] / 'golden15/model'
    model, fields = load_model(folder, device), np.load(folder / 'inputs.npz')
    processor = Processor(model.config, folder)
    grids = [(int(h), int(w)) for _, h, w in fields['image_grid_thw']]
    history = [torch.from_numpy(fields[f'ego_history_{k}'][0, 0]) for k in ('xyz', 'rot')]
    prompts = [
        processor.build_input_ids(grids, (0, 1, 2, 6), *history, route=route)
        for route in ('Turn left in 11m', None)
    ]
    ids, lengths = stack_prompts(prompts, processor.ids.pad)
    if is_guided:
        ids, lengths = build_guided_prompts(ids[:1], processor.ids)
    vision = model.encode_images(torch.from_numpy(fields['pixel_values']).to(device), grids)
    case = np.load(folder / 'case_nav_n2.npz')
    tokens = torch.from_numpy(case['raw_sequences'][:samples, case['input_ids'].shape[1] :])
    tokens = tokens.long().to(device).expand(1 if is_guided else 2, -1, -1)
    noise = torch.randn(len(tokens) * samples, 64, 2, generator=torch.Generator().manual_seed(0))
    noise = noise.to(device)

    def roll_out(steps, cache):
        cache.clear()
        prompt = model.prefill(
            ids, vision, grids, cache, steps=steps, lengths=lengths, is_guided=is_guided
        )
        logits = []
        for i in range(tokens.shape[-1] - 1):
            step = tokens[..., i].repeat(2 if is_guided else 1, 1)
            logits.append(steps.decode_step(prompt, step).clone())
        reasoning = summarise(tokens, processor.ids, prompt.length, complete=False)
        field = steps.make_velocity_field(prompt, reasoning)
        field = guide_field(field, 1.5) if is_guided else field
        return torch.stack(logits), model.flow.sample(noise, field, 3)

    plain = roll_out(model, model.allocate_cache(2, ids.shape[1], samples, 40))
    cache = model.allocate_cache(2, ids.shape[1] + 50, samples, 40)  # more room than needed
    static = roll_out(StaticSteps(model, cache, samples, is_guided=is_guided, **recording), cache)
    for found, want in zip(static, plain, strict=True):
        assert (found - want).abs().max() < 2e-4


@pytest.mark.parametrize('samples', [1, 2])
@pytest.mark.parametrize('is_guided', [True, False])
def test_static_steps_of_two_prompts_of_different_lengths_equal_the_plain_ones(samples, is_guided):
    guide('cpu', samples, is_guided)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('samples', [1, 2])
def test_recorded_guidance_equals_the_plain_one(samples):
    guide('cuda', samples, record=GraphRecorder().record)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@torch.inference_mode()
def test_recorded_vision_equals_the_plain_one_for_every_size():
    model = load_model(MODEL, 'cuda')
    recorded = RecordedVision(model.encode_images, GraphRecorder(), torch.float32)
    for grids in ([(4, 8)], [(8, 4)] * 2, [(4, 8)], [(4, 8), (4, 4)]):
        patches = torch.randn(sum(h * w for h, w in grids), 1536, device='cuda')
        plain, fast = model.encode_images(patches, grids), recorded(patches, grids)
        for a, b in zip((plain[0], *plain[1]), (fast[0], *fast[1]), strict=True):
            assert torch.equal(a, b)


def test_cleared_cache_holds_nothing_that_could_spread():
    model = load_model(MODEL)
    cache = model.allocate_cache(1, 8, 1, 4)
    cache.keys.fill_(torch.nan)
    cache.length = 5
    cache.clear()
    assert cache.length == 0
    assert not torch.isnan(cache.keys).any()


@pytest.mark.parametrize(
    ('prompt', 'samples', 'max_tokens', 'capacity'),
    [(100, 3, 7, 320), (107, 3, 7, 320), (108, 3, 7, 384)],
)
def test_capacity_holds_prompt_reasoning_and_one_flow_step(prompt, samples, max_tokens, capacity):
    # 100 + 3 * 7 + 3 * 64 = 313, in whole blocks of 64
    assert load_model(MODEL).cache_capacity(prompt, samples, max_tokens) == capacity
