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
from ..data_types import Context, Frame, Prediction, SamplingOptions
from ..errors import BadInput
from ..hub import resolve
from ..model.alpamayo import AlpamayoR1
from ..model.checkpoint import checkpoint_sha256
from ..model.config import card_limits
from ..model.processor import (
    Processor,
    extract_text,
    partial_text,
    reasoning_checks,
    said,
)
from ..model.reasoning import Reasoning
from ..model.text import KVCache
from .budget import needed_bytes, working_bytes
from .graphs import GraphRecorder, RecordedVision, StaticSteps
from .load import check_device, load, plan_load
from .memory import (
    OutOfMemory,
    compare,
    guard,
    is_unified,
    limit_allocator,
    release_cached,
    require_memory,
)
from .stopwatch import Stopwatch
from .vision_cache import VisionCache, camera_by_camera


class AlpamayoEngine:
    """Alpamayo behind the interface that replay and the node use.

    checkpoint: see hub.resolve. bits, recipe and host_embedding: see load.plan_load; on a GPU that
    shares the machine's memory the embedding stays in its file anyhow. Raises BadInput for what
    cannot be loaded, and before loading when memory is too small.
    """

    name = 'alpamayo'

    def __init__(
        self,
        checkpoint: str | Path,
        device: str = 'cpu',
        options: SamplingOptions | None = None,
        bits: float | None = None,
        recipe: str | None = None,
        host_embedding: bool = False,
    ) -> None:
        self.checkpoint = resolve(checkpoint)
        check_device(device)
        host_embedding = host_embedding or is_unified(device)
        self.options = options or SamplingOptions()
        self.plan = plan_load(self.checkpoint, device, bits, recipe, host_embedding)
        require_memory(self.checkpoint, needed_bytes(self.plan, self.options), device)
        self.config, self.device = self.plan.model.config, torch.device(device)
        self.processor = Processor(self.config, self.checkpoint)
        limit_allocator(device)
        self.model = guard(lambda: load(self.plan), self._tell_load)
        encode = self.model.encode_images
        self._recorder = GraphRecorder() if self.device.type == 'cuda' else None
        self._encode = RecordedVision(encode, self._recorder) if self._recorder else encode
        self._vision = VisionCache(self._read, self._encode)
        self._recorded: StaticSteps | None = None

    def provenance(self) -> dict[str, Any]:
        """Which weights and numerics made a result."""
        limits = card_limits(self.checkpoint)
        return {
            'engine': self.name,
            'checkpoint': self.checkpoint.resolve().name,
            'checkpoint_sha256': checkpoint_sha256(self.checkpoint),
            'model_type': self.config.model_type,
            'dtype': self.config.dtype,
            'bits': self.plan.bits,
            'recipe': self.plan.recipe,
            'device': str(self.device),
            'threads': torch.get_num_threads(),
            'torch': torch.__version__,
            'untrained': self.config.untrained,
            **({'limits': limits} if limits else {}),
        }

    @torch.inference_mode()
    def infer(self, context: Context, seed: int, noise: Tensor | None = None) -> Prediction:
        """Sample K trajectories; noise (K, 64, 2) is drawn from `seed` when not given.

        Raises images.ImageError when a frame cannot be decoded, and memory.OutOfMemory: then
        recorded steps and kept images are gone and their memory is free again.
        """
        return guard(lambda: self._infer(context, seed, noise), self._tell_inference)

    def _infer(self, context: Context, seed: int, noise: Tensor | None) -> Prediction:
        watch = Stopwatch(self.device)
        generator = torch.Generator(self.device).manual_seed(seed)
        samples, model = self.options.num_samples, self.model
        with watch.stage('images'):
            slots = self._vision.slots(context)
            grids = camera_by_camera(slots)
            history = [torch.from_numpy(x) for x in (context.history_xyz_m, context.history_rot)]
            input_ids = self.processor.input_ids(grids, context.camera_indices, *history)
        with watch.stage('vision'):
            vision = self._vision.features(slots)
        with watch.stage('prefill'):
            cache, steps = self._prepare(input_ids.shape[1])
            prompt = model.prefill(input_ids, vision, grids, cache, reader=steps)
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
            v0 = model.action_space.v0(*(x.to(self.device) for x in history))
            xy, yaw, speed = model.action_space.integrate(action, v0.expand(samples))
            path = torch.cat([xy, yaw.unsqueeze(-1), speed.unsqueeze(-1)], -1).cpu().numpy()
            actions = model.action_space.denormalise(action).cpu().numpy()
        return self.prediction(
            context, seed, path, actions, float(v0), reasoning, watch.milliseconds
        )

    def _prepare(self, length: int) -> tuple[KVCache, AlpamayoR1 | StaticSteps]:
        """An empty cache for a prompt of `length` tokens, and the steps that run over it.

        On a GPU cache and recorded steps are kept; a longer prompt or another number of samples
        makes new ones.
        """
        model, options = self.model, self.options
        if self._recorder is None:
            return model.new_cache(1, length, options.num_samples, options.max_tokens), model
        needed = model.cache_capacity(length, options.num_samples, options.max_tokens)
        recorded = self._recorded
        if (
            recorded is None
            or recorded.samples != options.num_samples
            or recorded.cache.capacity < needed
        ):
            recorded = self._recorded = None  # frees the old cache before the new one is there
            cache = model.new_cache(1, length, options.num_samples, options.max_tokens)
            record = self._recorder.record
            recorded = self._recorded = StaticSteps(model, cache, options.num_samples, record)
        recorded.cache.clear()
        return recorded.cache, recorded

    def _read(self, frame: Frame) -> tuple[Tensor, tuple[int, int]]:
        """Patches and grid of a frame, on the device."""
        return self.processor.image_patches(torch.from_numpy(images.decode(frame)).to(self.device))

    def _tell_load(self, said: str) -> BadInput:
        """Error of a load that ran out of memory; what it had loaded is gone."""
        self.plan.model.to('meta')
        release_cached()
        _, text = compare(needed_bytes(self.plan, self.options), str(self.device))
        return BadInput(f'{self.checkpoint}: out of memory while loading: {text} ({said})')

    def _tell_inference(self, said: str) -> OutOfMemory:
        """Error of an inference that ran out of memory; what it had beside the weights is gone."""
        self._recorded = None
        self._vision.clear()
        if isinstance(self._encode, RecordedVision):
            self._encode.clear()
        release_cached()
        needed = working_bytes(self.model, self.plan.dtype, self.options)
        samples, (_, text) = self.options.num_samples, compare(needed, str(self.device))
        hint = '; a reboot clears fragmentation' if is_unified(str(self.device)) else ''
        return OutOfMemory(
            f'out of memory: an inference of {samples} samples {text} ({said}){hint}'
        )

    def prediction(
        self,
        context: Context,
        seed: int,
        samples: np.ndarray,
        actions: np.ndarray,
        v0_mps: float,
        reasoning: Reasoning,
        timing_ms: Mapping[str, float],
    ) -> Prediction:
        """Prediction of one scene: samples (K, 64, 4), actions (K, 64, 2) and its reasoning."""
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
