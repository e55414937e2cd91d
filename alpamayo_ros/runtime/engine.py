"""A checkpoint on a device, ready to infer: Context in, Prediction out.

Composes processor, model and checks; knows no ROS and no bags. Every inference has its own seed
and noise, so results do not depend on the ones before. One thread owns an engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import images, validity
from ..data_types import Context, Prediction, SamplingOptions
from ..model.alpamayo import AlpamayoR1, Reasoning
from ..model.checkpoint import checkpoint_sha256
from ..model.hub import resolve
from ..model.processor import (
    ModelInputs,
    Processor,
    extract_text,
    partial_text,
    reasoning_checks,
    said,
)
from ..model.text import KVCache
from .graphs import StaticSteps, record
from .load import load_model
from .stopwatch import Stopwatch


class AlpamayoEngine:
    """Alpamayo behind the interface that replay and the node use.

    checkpoint: a folder or a hub id. Raises BadInput for what cannot be loaded.
    """

    name = 'alpamayo'

    def __init__(
        self, checkpoint: str | Path, device: str = 'cpu', options: SamplingOptions | None = None
    ) -> None:
        self.checkpoint = resolve(checkpoint)
        self.device = torch.device(device)
        self.options = options or SamplingOptions()
        self.model = load_model(self.checkpoint, device)
        self.config = self.model.config
        self.processor = Processor(self.config, self.checkpoint)
        self._recorded: StaticSteps | None = None

    def provenance(self) -> dict[str, Any]:
        """Which weights and numerics made a result."""
        return {
            'engine': self.name,
            'checkpoint': self.checkpoint.resolve().name,
            'checkpoint_sha256': checkpoint_sha256(self.checkpoint),
            'model_type': self.config.model_type,
            'dtype': self.config.dtype,
            'device': str(self.device),
            'threads': torch.get_num_threads(),
            'torch': torch.__version__,
            'untrained': self.config.untrained,
        }

    @torch.inference_mode()
    def infer(self, context: Context, seed: int, noise: Tensor | None = None) -> Prediction:
        """Sample K trajectories; noise (K, 64, 2) is drawn from `seed` when not given.

        Raises images.ImageError when a frame cannot be decoded.
        """
        watch = Stopwatch(self.device)
        generator = torch.Generator(self.device).manual_seed(seed)
        samples, model = self.options.num_samples, self.model
        with watch.stage('images'):
            inputs = self._inputs(context)
        with watch.stage('vision'):
            vision = model.encode_images(inputs.patches, inputs.grids)
        with watch.stage('prefill'):
            length = inputs.input_ids.shape[1]
            cache, steps = self._prepare(length)
            prompt = model.prefill(inputs.input_ids, vision, inputs.grids, cache)
        with watch.stage('reasoning'):
            reasoning = model.reason(
                prompt, self.processor.ids, self.options, generator, steps.decode_step
            )
        with watch.stage('action'):
            if noise is None:
                shape = (samples, model.waypoints, 2)
                noise = torch.randn(shape, generator=generator, device=self.device)
            field = steps.velocity_field(prompt, reasoning)
            action = model.act(noise.to(self.device), field, self.options.flow_steps)
            history = [
                torch.from_numpy(x).to(self.device)
                for x in (context.history_xyz_m, context.history_rot)
            ]
            v0 = model.action_space.v0(*history)
            xy, yaw, speed = model.action_space.integrate(action, v0.expand(samples))
            path = torch.cat([xy, yaw.unsqueeze(-1), speed.unsqueeze(-1)], -1).cpu().numpy()
            actions = model.action_space.denormalise(action).cpu().numpy()
        return self._prediction(
            context, seed, path, actions, float(v0), reasoning, watch.milliseconds
        )

    def _prepare(self, length: int) -> tuple[KVCache, AlpamayoR1 | StaticSteps]:
        """An empty cache for a prompt of `length` tokens, and the steps that run over it.

        On a GPU cache and recorded steps are kept; a longer prompt makes new ones.
        """
        model, options = self.model, self.options
        if self.device.type != 'cuda':
            return model.new_cache(1, length, options.num_samples, options.max_tokens), model
        needed = model.cache_capacity(length, options.num_samples, options.max_tokens)
        if self._recorded is None or self._recorded.cache.capacity < needed:
            self._recorded = None  # frees the old cache before the new one is there
            cache = model.new_cache(1, length, options.num_samples, options.max_tokens)
            self._recorded = record(StaticSteps(model, cache, options.num_samples))
        self._recorded.cache.clear()
        return self._recorded.cache, self._recorded

    def _inputs(self, context: Context) -> ModelInputs:
        decoded = [
            torch.from_numpy(images.decode(frame)).to(self.device)
            for frames in context.frames.values()
            for frame in frames
        ]
        inputs = self.processor(
            decoded,
            context.camera_indices,
            torch.from_numpy(context.history_xyz_m),
            torch.from_numpy(context.history_rot),
        )
        return ModelInputs(inputs.input_ids.to(self.device), inputs.patches, inputs.grids)

    def _prediction(
        self,
        context: Context,
        seed: int,
        samples: np.ndarray,
        actions: np.ndarray,
        v0_mps: float,
        reasoning: Reasoning,
        timing_ms: Mapping[str, float],
    ) -> Prediction:
        space = self.model.action_space
        chosen, spread_m = validity.medoid(samples)
        rows = [said(row, self.processor.ids) for row in reasoning.tokens[0].tolist()]
        decoded = [self.processor.decode(row) for row in rows]
        checks = (
            *context.checks,
            *reasoning_checks(rows[chosen], reasoning.end[0][chosen]),
            *validity.check_trajectory(
                samples[chosen],
                actions[chosen],
                v0_mps,
                accel_bounds_mps2=space.accel_bounds,
                curvature_bounds_per_m=space.curvature_bounds,
            ),
        )
        return Prediction(
            t0_ns=context.t0_ns,
            seed=seed,
            samples=samples,
            actions=actions,
            chosen=chosen,
            spread_m=spread_m,
            v0_mps=v0_mps,
            texts=tuple(extract_text(text, 'cot') for text in decoded),
            partial_texts=tuple(partial_text(text) for text in decoded),
            end=tuple(reasoning.end[0]),
            tokens=tuple(len(row) for row in rows),
            checks=checks,
            timing_ms=timing_ms,
        )
