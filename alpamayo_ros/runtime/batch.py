"""Inference of scenes in one batch: from prompts and image features to actions and predictions.

Contexts with images of one size share a batch, also where their prompts differ in length. Every
scene has its own generator, so its samples do not depend on the other scenes. `infer_batch` uses
no recorded steps, no drafts, and keeps no images. This module knows no ROS and no drives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..data_types import Context, Prediction, SamplingOptions
from ..errors import BadInput
from ..model.alpamayo import AlpamayoModel
from ..model.flow_matching import guide_field
from ..model.kv_cache import KVCache
from ..model.prompt.batching import PromptBatch
from ..model.prompt.tokens import TokenIds
from ..model.reasoning.drafts import PhraseTrie
from ..model.reasoning.generation import Reasoning, feed_marker, generate_reasoning
from ..model.reasoning.sampling import Generators
from ..model.reasoning.speculation import speculate_reasoning
from .graphs.steps import StaticSteps
from .load import select_device
from .memory import guard, release_cached
from .stopwatch import Stopwatch

if TYPE_CHECKING:
    from .engine import AlpamayoEngine

Grid = tuple[int, int]
Steps = tuple[KVCache, AlpamayoModel | StaticSteps]  # an empty cache, and the steps over it


def infer_batch(
    engine: AlpamayoEngine,
    contexts: Sequence[Context],
    seeds: Sequence[int],
    options: SamplingOptions,
) -> list[Prediction]:
    """Predict for contexts with images of one size, each with its own seed.

    `timing_ms` is that of the whole batch; with guidance, contexts without a route text are a
    batch of their own. Raises BadInput when memory is too small for so many contexts, and
    images.ImageError when a frame cannot be decoded.
    """

    def make_error(message: str) -> BadInput:
        release_cached()
        return BadInput(f'out of memory with batches of {len(contexts)} scenes ({message})')

    found: dict[int, Prediction] = {}
    seen = [engine.select_cameras(context) for context in contexts]
    for is_guided in (False, True):
        own = [i for i, x in enumerate(seen) if engine.is_guided(x, options) == is_guided]
        if own:
            scenes, drawn = [seen[i] for i in own], [seeds[i] for i in own]
            made = guard(partial(_infer, engine, scenes, drawn, options), make_error)
            found.update(zip(own, made, strict=True))
    return [found[i] for i in range(len(contexts))]


def draw_noise(generators: Sequence[torch.Generator], samples: int, waypoints: int) -> Tensor:
    """Noise (S * K, T, 2) of scenes. It is drawn before any word, whose number may differ."""
    shape = (samples, waypoints, 2)
    return torch.cat([torch.randn(shape, generator=g, device=g.device) for g in generators])


def roll_out(
    model: AlpamayoModel,
    ids: TokenIds,
    prompts: PromptBatch,
    vision: tuple[Tensor, list[Tensor]],
    grids: Sequence[Grid],
    options: SamplingOptions,
    noise: Tensor,
    generators: Generators,
    prepare: Callable[[], Steps],
    watch: Stopwatch,
    phrases: PhraseTrie | None = None,
) -> tuple[Reasoning, Tensor]:
    """Reasoning and normalised actions (S * K, T, 2) of scenes: prefill, reasoning, flow matching.

    noise (S * K, T, 2); the other arguments are those of the model's methods. phrases: what drafts
    come from, where the options ask for drafts.
    """
    with watch.stage('prefill'):
        cache, steps = prepare()
        prompt = model.prefill(
            prompts.ids, vision, grids, cache,
            steps=steps, lengths=prompts.lengths, is_guided=prompts.is_guided,
        )  # fmt: skip
    with watch.stage('reasoning'):
        if options.reasoning == 'none':
            reasoning = feed_marker(steps.decode_step, prompt, ids, options.num_samples)
        elif phrases is not None and options.draft_tokens:
            reasoning = speculate_reasoning(steps, prompt, ids, options, generators, phrases)
        else:
            reasoning = generate_reasoning(steps.decode_step, prompt, ids, options, generators)
    with watch.stage('action'):
        field = steps.make_velocity_field(prompt, reasoning)
        if prompts.is_guided:
            field = guide_field(field, options.guidance_weight)
        temperature = options.noise_temperature
        return reasoning, model.flow.sample(noise, field, options.flow_steps, temperature)


@torch.inference_mode()
def _infer(
    engine: AlpamayoEngine,
    contexts: Sequence[Context],
    seeds: Sequence[int],
    options: SamplingOptions,
) -> list[Prediction]:
    select_device(engine.device)
    watch, model = Stopwatch(engine.device), engine.model
    generators = [torch.Generator(engine.device).manual_seed(seed) for seed in seeds]
    noise = draw_noise(generators, options.num_samples, model.waypoints)
    with watch.stage('images'):
        frames = [
            frame for context in contexts for row in context.frames.values() for frame in row
        ]
        parts = engine.pictures.read(frames)
        grids = [grid for _, grid in parts]
        patches = torch.cat([patches for patches, _ in parts])
        count = len(grids) // len(contexts)
        prompts = engine.write_prompts(contexts, grids[:count], options)
    with watch.stage('vision'):
        vision = model.encode_images(patches, grids)

    def prepare() -> Steps:
        scenes, length = prompts.ids.shape
        sizes = scenes, length, options.num_samples, options.max_tokens
        return model.allocate_cache(*sizes, engine.kv_bits), model

    ids = engine.processor.ids
    reasoning, action = roll_out(
        model, ids, prompts, vision, grids, options, noise, generators, prepare, watch
    )
    with watch.stage('action'):
        paths, actions, v0 = engine.integrate(contexts, action, options)
    return [
        engine.make_prediction(
            context, seed, paths[i], actions[i], float(v0[i]), reasoning.select(i),
            watch.milliseconds, options,
        )
        for i, (context, seed) in enumerate(zip(contexts, seeds, strict=True))
    ]  # fmt: skip
