"""Reasoning, guidance, cameras and pixels as choices of an engine, for R1 and 1.5."""

from dataclasses import replace
from pathlib import Path

import golden_scene
import numpy as np
import pytest
import torch

from alpamayo_ros.data_types import Navigation, SamplingOptions
from alpamayo_ros.errors import BadInput
from alpamayo_ros.model.reasoning.generation import summarise
from alpamayo_ros.runtime.batch import infer_batch
from alpamayo_ros.runtime.engine import AlpamayoEngine
from alpamayo_ros.validity import average_near

R1, ALPAMAYO15 = (Path(__file__).parent / name / 'model' for name in ('golden', 'golden15'))
OPTIONS = SamplingOptions(num_samples=2, greedy=True, max_tokens=40)
LEFT, RIGHT = Navigation('Turn left in 11m'), Navigation('Turn right onto Main Street in 40m', 0.5)


@pytest.fixture(scope='module')
def context():
    """The context of the reference of 1.5, with a route text."""
    return replace(golden_scene.context(ALPAMAYO15), navigation=LEFT)


@pytest.fixture(scope='module')
def engine():
    return AlpamayoEngine(ALPAMAYO15, options=OPTIONS)


@pytest.fixture
def infer(engine, context, monkeypatch):
    """A function: prediction of the context, or of another one, with other options."""

    def run(seen=context, noise=None, seed=3, **changes):
        monkeypatch.setattr(engine, 'options', replace(OPTIONS, **changes))
        return engine.infer(seen, seed, noise)

    return run


def test_short_is_full_where_the_budget_is_large_enough(infer):
    full, short = infer(), infer(reasoning='short')
    assert np.array_equal(full.samples, short.samples)
    assert short.end == full.end == ('marker', 'marker')


def test_short_ends_with_the_marker_in_place_of_the_last_word(engine, infer, context):
    full, short = infer(num_samples=1), infer(num_samples=1, reasoning='short', max_tokens=5)
    assert (short.end, short.tokens, short.texts) == (('cut',), (4,), ('',))
    assert full.texts[0].startswith(short.partial_texts[0]) and short.partial_texts[0]
    assert not {'marker_missing', 'budget'} & set(short.checks)
    noise = torch.randn(1, 64, 2, generator=torch.Generator().manual_seed(3))
    words = engine.processor.tokenizer(short.partial_texts[0])['input_ids']
    tokens = torch.tensor([[[*words, engine.processor.ids.future_start]]])
    assert np.abs(force(engine, context, tokens, noise) - short.actions).max() < 1e-4


@torch.inference_mode()
def force(engine, context, tokens, noise):
    """Actions behind given tokens (1, 1, N)."""
    model, slots = engine.model, engine._vision.find_slots(context)
    vision = engine._vision.encode_slots(slots)
    grids = [slot.grids[c] for c in range(4) for slot in slots]
    prompts = engine.write_prompts([context], grids, OPTIONS)
    cache = model.allocate_cache(1, prompts.ids.shape[1], 1, 40)
    prompt = model.prefill(prompts.ids, vision, grids, cache)
    for token in tokens[0, 0]:
        model.decode_step(prompt, token.view(1, 1))
    reasoning = summarise(tokens, engine.processor.ids, prompt.length, complete=True)
    action = model.flow.sample(noise, model.make_velocity_field(prompt, reasoning))
    return model.action_space.denormalise(action).numpy()


def test_short_keeps_a_marker_that_the_model_says_in_the_last_place(infer):
    length = infer(num_samples=1).tokens[0]
    assert infer(num_samples=1, reasoning='short', max_tokens=length).end == ('marker',)
    cut = infer(num_samples=1, reasoning='short', max_tokens=length - 1)
    assert (cut.end, cut.tokens) == (('cut',), (length - 2,))


def test_without_reasoning_no_word_is_said(infer):
    found = infer(reasoning='none')
    assert (found.end, found.tokens) == (('none', 'none'), (0, 0))
    assert found.texts == found.partial_texts == ('', '')
    assert not {'out_of_training', 'marker_missing'} & set(found.checks)
    assert np.abs(found.samples - infer().samples).max() > 1e-3


def test_r1_without_reasoning_is_said_to_be_out_of_training_and_takes_no_route(context):
    engine = AlpamayoEngine(R1, options=replace(OPTIONS, reasoning='none'))
    seen = replace(golden_scene.context(), navigation=LEFT)
    found = engine.infer(seen, 0)
    assert {'out_of_training', 'navigation_unused', 'camera_subset'} <= set(found.checks)
    assert found.navigation == ''
    engine.options = OPTIONS
    assert 'out_of_training' not in engine.infer(seen, 0).checks
    with pytest.raises(BadInput, match=r'guidance_weight 1\.5: .* alpamayo_r1, which knows no'):
        AlpamayoEngine(R1, options=replace(OPTIONS, guidance_weight=1.5))


def test_route_text_steers_and_is_in_the_result(infer, context):
    left, right = infer(), infer(replace(context, navigation=RIGHT))
    assert (left.navigation, right.navigation) == (LEFT.text, RIGHT.text)
    assert np.abs(left.samples - right.samples).max() > 1e-3
    assert infer(replace(context, navigation=None)).navigation == ''


def test_guided_samples_equal_single_guided_runs(infer):
    noise = torch.randn(2, 64, 2, generator=torch.Generator().manual_seed(1))
    together = infer(noise=noise, guidance_weight=1.5)
    for k in range(2):
        alone = infer(noise=noise[k : k + 1], guidance_weight=1.5, num_samples=1)
        assert np.abs(alone.actions[0] - together.actions[k]).max() < 1e-5
        assert alone.texts[0] == together.texts[k]


def test_weight_zero_plans_without_the_route_and_weight_one_with_it(infer, context):
    plain, bare = infer(), infer(replace(context, navigation=None))
    least = infer(guidance_weight=1e-9)  # not 1, so both passes run
    more = infer(guidance_weight=1.5)
    assert least.texts == plain.texts  # the reasoning is that of the pass with the route
    tenth = infer(guidance_weight=0.999999)
    assert np.abs(tenth.actions - plain.actions).max() < 1e-4
    assert np.abs(more.actions - plain.actions).max() > 1e-3
    assert np.abs(bare.actions - plain.actions).max() > 1e-3


def test_guidance_without_a_route_is_a_plain_inference_that_says_so(infer, context):
    bare = replace(context, navigation=None)
    found, plain = infer(bare, guidance_weight=1.5), infer(bare)
    assert np.array_equal(found.samples, plain.samples)
    assert 'unguided' in found.checks and 'unguided' not in plain.checks
    assert 'unguided' not in infer(guidance_weight=1.5).checks


@pytest.mark.parametrize('changes', [{}, {'reasoning': 'none'}, {'guidance_weight': 1.5}])
def test_a_batch_of_routes_of_different_lengths_is_what_the_engine_makes_of_each(
    engine, infer, context, changes
):
    routes = (LEFT, None, RIGHT, LEFT)
    seen = [
        replace(golden_scene.later(context, k), navigation=route)
        for k, route in enumerate(routes[:3])
    ]
    options = replace(OPTIONS, **changes)
    together = infer_batch(engine, seen, (5, 6, 7), options)
    for one, seed, found in zip(seen, (5, 6, 7), together, strict=True):
        alone = infer(one, seed=seed, **changes)
        assert (found.texts, found.end, found.checks) == (alone.texts, alone.end, alone.checks)
        assert (found.navigation, found.t0_ns) == (alone.navigation, alone.t0_ns)
        assert np.abs(found.actions - alone.actions).max() < 1e-4


def test_the_choice_among_samples_is_the_first_or_a_mean_near_the_medoid(infer):
    plain, first, mean = (infer(sample_choice=name) for name in ('medoid', 'first', 'mean'))
    assert (first.chosen, first.spread_m) == (0, pytest.approx(plain.spread_m))  # of two samples
    assert np.array_equal(first.samples, plain.samples)
    wanted, actions = average_near(plain.samples, plain.actions, plain.chosen)
    assert mean.chosen == plain.chosen and np.array_equal(mean.samples, wanted)
    assert np.array_equal(mean.actions, actions)


def test_noise_temperature_scales_the_noise(infer):
    noise = torch.randn(2, 64, 2, generator=torch.Generator().manual_seed(1))
    cool, scaled = infer(noise=noise, noise_temperature=0.5), infer(noise=noise * 0.5)
    assert np.array_equal(cool.samples, scaled.samples)


def test_cameras_that_are_left_out_are_in_the_result_and_not_in_the_prompt(infer, context):
    names = ('front_wide', 'front_tele')
    seen = replace(context, checks=())
    engine = AlpamayoEngine(ALPAMAYO15, options=OPTIONS, cameras=names)
    found = engine.infer(seen, 3)
    subset = replace(
        seen, camera_indices=(1, 6), frames={name: seen.frames[name] for name in names}
    )
    alone = infer(subset)
    assert np.array_equal(found.samples, alone.samples)
    assert 'camera_subset' in found.checks  # and not of a vehicle that has no others
    assert 'camera_subset' not in infer(replace(subset, checks=('camera_subset',))).checks
    assert engine.provenance()['cameras'] == 'front_wide,front_tele'
    (batched,) = infer_batch(engine, [seen], [3], OPTIONS)
    assert np.abs(batched.samples - found.samples).max() < 1e-3
    assert 'camera_subset' in batched.checks


def test_pixels_bound_the_size_of_an_image(context):
    for pixels, grid in ((0, (4, 6)), (2048, (2, 2))):
        engine = AlpamayoEngine(ALPAMAYO15, options=OPTIONS, pixels=pixels)
        slots = engine._vision.find_slots(context)
        assert {found for slot in slots for found in slot.grids} == {grid}
    assert len(engine.infer(context, 0).samples) == 2


@pytest.mark.parametrize(
    ('choices', 'text'),
    [
        ({'activations': 4}, 'activations 4: expected 16 or 8'),
        ({'kv_bits': 32}, 'kv_bits 32: expected 16 or 8'),
        ({'cameras': ('front',)}, 'cameras front: expected names of cross_left, front_wide'),
        ({'pixels': 100}, r'pixels 100: expected 1024 to \d+, or 0'),
        ({'pixels': 10**8}, r'pixels 100000000: expected 1024 to \d+, or 0'),
    ],
)
def test_choice_that_is_not_there_is_refused(choices, text):
    with pytest.raises(BadInput, match=text):
        AlpamayoEngine(ALPAMAYO15, **choices)


@pytest.mark.parametrize('text', ['', '  ', 'a' * 201, 'left\n', 'go <i7>', '<|route_end|>'])
def test_text_that_cannot_stand_in_a_prompt_is_no_navigation(text):
    with pytest.raises(ValueError, match='expected 1 to 200 printable characters'):
        Navigation(text)


def test_an_answer_ends_or_says_that_it_did_not_and_changes_no_path(engine, infer, context):
    before = infer()
    assert engine.answer(context, 'Describe the scene.', 0) == (
        'A red truck is parked ahead.', True,
    )  # fmt: skip
    assert np.array_equal(infer().samples, before.samples)
    infer(max_tokens=3)
    text, has_ended = engine.answer(context, 'Describe the scene.', 0)
    assert 'A red truck is parked ahead.'.startswith(text) and text and not has_ended
    with pytest.raises(BadInput, match='which knows none'):
        AlpamayoEngine(R1).answer(golden_scene.context(), 'Describe the scene.', 0)
