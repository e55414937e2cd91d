"""Inference of many contexts in one batch, for evaluations.

Contexts of one rig and image size have prompts of equal length and so share a batch. Every scene
has its own generator, so its samples do not depend on the other scenes. A batch uses no recorded
steps and keeps no images. This module knows no ROS and no drives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from ..data_types import Context, Prediction, SamplingOptions
from ..errors import BadInput
from ..model.reasoning import generate_reasoning
from .engine import AlpamayoEngine
from .load import select_device
from .memory import guard, release_cached
from .stopwatch import Stopwatch


def infer_batch(
    engine: AlpamayoEngine,
    contexts: Sequence[Context],
    seeds: Sequence[int],
    options: SamplingOptions,
) -> list[Prediction]:
    """Predict for contexts with images of one size, each with its own seed.

    `timing_ms` is that of the whole batch. Raises BadInput when memory is too small for so many
    contexts, and images.ImageError when a frame cannot be decoded.
    """

    def make_error(message: str) -> BadInput:
        release_cached()
        return BadInput(f'out of memory with batches of {len(contexts)} scenes ({message})')

    return guard(lambda: _infer(engine, contexts, seeds, options), make_error)


@torch.inference_mode()
def _infer(
    engine: AlpamayoEngine,
    contexts: Sequence[Context],
    seeds: Sequence[int],
    options: SamplingOptions,
) -> list[Prediction]:
    select_device(engine.device)
    watch, model = Stopwatch(engine.device), engine.model
    samples, scenes, device = options.num_samples, len(contexts), engine.device
    generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
    shape = (samples, model.waypoints, 2)
    noise = torch.cat([torch.randn(shape, generator=g, device=device) for g in generators])
    history = [
        torch.from_numpy(np.stack([getattr(context, name) for context in contexts])).to(device)
        for name in ('history_xyz_m', 'history_rot')
    ]
    with watch.stage('images'):
        ids, patches, grids = _inputs(engine, contexts)
    with watch.stage('vision'):
        vision = model.encode_images(patches, grids)
    with watch.stage('prefill'):
        cache = model.allocate_cache(scenes, ids.shape[1], samples, options.max_tokens)
        prompt = model.prefill(ids, vision, grids, cache)
    with watch.stage('reasoning'):
        reasoning = generate_reasoning(
            model.decode_step, prompt, engine.processor.ids, options, generators
        )
    with watch.stage('action'):
        field = model.make_velocity_field(prompt, reasoning)
        action = model.flow.sample(noise, field, options.flow_steps)
        v0 = model.action_space.v0(*history)
        xy, yaw, speed = model.action_space.integrate(action, v0.repeat_interleave(samples))
        paths = torch.cat([xy, yaw.unsqueeze(-1), speed.unsqueeze(-1)], -1).cpu().numpy()
        actions = model.action_space.denormalise(action).cpu().numpy()
    predictions = []
    for i, (context, seed) in enumerate(zip(contexts, seeds, strict=True)):
        own = slice(i * samples, (i + 1) * samples)
        scene_reasoning = replace(
            reasoning,
            tokens=reasoning.tokens[i : i + 1],
            marker=reasoning.marker[i : i + 1],
            eos=reasoning.eos[i : i + 1],
        )
        parts = (paths[own], actions[own], float(v0[i]), scene_reasoning, watch.milliseconds)
        predictions.append(engine.make_prediction(context, seed, *parts))
    return predictions


def _inputs(
    engine: AlpamayoEngine, contexts: Sequence[Context]
) -> tuple[torch.Tensor, torch.Tensor, list[tuple[int, int]]]:
    """Return prompt ids (B, P) on the host, and patches and grids of all images, by scene."""
    processor = engine.processor
    frames = [frame for context in contexts for row in context.frames.values() for frame in row]
    parts = engine.pictures.read(frames)
    grids = [grid for _, grid in parts]
    count = len(grids) // len(contexts)
    ids = [
        processor.build_input_ids(
            grids[i * count : (i + 1) * count],
            context.camera_indices,
            torch.from_numpy(context.history_xyz_m),
            torch.from_numpy(context.history_rot),
        )
        for i, context in enumerate(contexts)
    ]
    patches = torch.cat([patches for patches, _ in parts])
    return torch.cat(ids), patches, grids
