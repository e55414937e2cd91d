"""Many contexts through the model of an engine at once, for evaluations.

Contexts of one rig and image size have prompts of equal length and so share a batch. What one of
them draws does not depend on its company: every scene has its own generator, and its noise comes
first. Without recorded steps and kept images; knows no ROS and no drives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from .. import images
from ..data_types import Context, Prediction, SamplingOptions
from ..errors import BadInput
from .engine import AlpamayoEngine
from .memory import guard, release_cached
from .stopwatch import Stopwatch


def infer_batch(
    engine: AlpamayoEngine,
    contexts: Sequence[Context],
    seeds: Sequence[int],
    options: SamplingOptions,
) -> list[Prediction]:
    """Predictions of contexts with images of one size, each with a seed of its own.

    `timing_ms` is that of the whole batch. Raises BadInput when the memory is too small for so
    many, images.ImageError when a frame cannot be decoded.
    """

    def tell(said: str) -> BadInput:
        release_cached()
        return BadInput(f'out of memory with batches of {len(contexts)} scenes ({said})')

    return guard(lambda: _infer(engine, contexts, seeds, options), tell)


@torch.inference_mode()
def _infer(
    engine: AlpamayoEngine,
    contexts: Sequence[Context],
    seeds: Sequence[int],
    options: SamplingOptions,
) -> list[Prediction]:
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
        cache = model.new_cache(scenes, ids.shape[1], samples, options.max_tokens)
        prompt = model.prefill(ids, vision, grids, cache)
    with watch.stage('reasoning'):
        reasoning = model.reason(prompt, engine.processor.ids, options, generators)
    with watch.stage('action'):
        field = model.velocity_field(prompt, reasoning)
        action = model.act(noise, field, options.flow_steps)
        v0 = model.action_space.v0(*history)
        xy, yaw, speed = model.action_space.integrate(action, v0.repeat_interleave(samples))
        paths = torch.cat([xy, yaw.unsqueeze(-1), speed.unsqueeze(-1)], -1).cpu().numpy()
        actions = model.action_space.denormalise(action).cpu().numpy()
    found = []
    for i, (context, seed) in enumerate(zip(contexts, seeds, strict=True)):
        own = slice(i * samples, (i + 1) * samples)
        said = replace(
            reasoning,
            tokens=reasoning.tokens[i : i + 1],
            marker=reasoning.marker[i : i + 1],
            eos=reasoning.eos[i : i + 1],
        )
        parts = (paths[own], actions[own], float(v0[i]), said, watch.milliseconds)
        found.append(engine.prediction(context, seed, *parts))
    return found


def _inputs(
    engine: AlpamayoEngine, contexts: Sequence[Context]
) -> tuple[torch.Tensor, torch.Tensor, list[tuple[int, int]]]:
    """Prompt ids (B, P) on the host, patches and grids of all images, scene by scene."""
    processor = engine.processor
    decoded = [
        images.decode(frame)
        for context in contexts
        for frames in context.frames.values()
        for frame in frames
    ]
    pictures = torch.from_numpy(np.stack(decoded)).to(engine.device)
    parts = [processor.image_patches(picture) for picture in pictures]
    grids = [grid for _, grid in parts]
    count = len(grids) // len(contexts)
    ids = [
        processor.input_ids(
            grids[i * count : (i + 1) * count],
            context.camera_indices,
            torch.from_numpy(context.history_xyz_m),
            torch.from_numpy(context.history_rot),
        )
        for i, context in enumerate(contexts)
    ]
    patches = torch.cat([patches for patches, _ in parts])
    return torch.cat(ids), patches, grids
