"""The engine: a loaded checkpoint that turns a Context into a Prediction.

It composes processor, model and checks, and knows no ROS and no bags. Every inference has its own
seed and noise, so a result does not depend on earlier ones. One thread owns an engine.
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
from ..errors import BadInput
from ..hub import resolve_checkpoint
from ..model.alpamayo import AlpamayoModel
from ..model.checkpoint import hash_checkpoint
from ..model.config import read_card_limits
from ..model.processor import Processor
from ..model.prompt.generated_text import (
    check_reasoning,
    extract_text,
    extract_unfinished_text,
    trim_tokens,
)
from ..model.reasoning import Reasoning, generate_reasoning
from ..model.text import KVCache
from .budget import estimate_inference_bytes, estimate_needed_bytes
from .graphs import GraphRecorder, RecordedVision, StaticSteps
from .load import check_device, load, plan_load, select_device
from .memory import (
    OutOfMemory,
    compare_with_available,
    guard,
    is_unified,
    limit_allocator,
    release_cached,
    require_memory,
)
from .pictures import PictureReader
from .stopwatch import Stopwatch
from .vision_cache import VisionCache, order_grids_by_camera


class AlpamayoEngine:
    """Alpamayo behind the interface that replay and the node use.

    checkpoint: see hub.resolve. bits, recipe and host_embedding: see load.plan_load. On a GPU that
    shares the machine's memory the embedding always stays in its file. Raises BadInput for a
    checkpoint that cannot be loaded, and before loading when memory is too small.
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
        self.checkpoint = resolve_checkpoint(checkpoint)
        check_device(device)
        host_embedding = host_embedding or is_unified(device)
        self.options = options or SamplingOptions()
        self.plan = plan_load(self.checkpoint, device, bits, recipe, host_embedding)
        require_memory(self.checkpoint, estimate_needed_bytes(self.plan, self.options), device)
        self.config, self.device = self.plan.model.config, torch.device(device)
        self.processor = Processor(self.config, self.checkpoint)
        limit_allocator(device)
        self.model = guard(lambda: load(self.plan), self._make_load_error)
        encode = self.model.encode_images
        self._recorder = GraphRecorder() if self.device.type == 'cuda' else None
        self._encode = RecordedVision(encode, self._recorder) if self._recorder else encode
        self.pictures = PictureReader(self.processor, self.device)
        self._vision = VisionCache(self.pictures.read, self._encode)
        self._recorded: StaticSteps | None = None

    def provenance(self) -> dict[str, Any]:
        """Name the weights and numerics that make the results, for records."""
        limits = read_card_limits(self.checkpoint)
        return {
            'engine': self.name,
            'checkpoint': self.checkpoint.resolve().name,
            'checkpoint_sha256': hash_checkpoint(self.checkpoint),
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

        Raises images.ImageError when a frame cannot be decoded. Raises memory.OutOfMemory after
        it has freed the recorded steps and the kept images.
        """
        return guard(lambda: self._infer(context, seed, noise), self._recover_from_out_of_memory)

    def _infer(self, context: Context, seed: int, noise: Tensor | None) -> Prediction:
        select_device(self.device)
        watch, model = Stopwatch(self.device), self.model
        generator = torch.Generator(self.device).manual_seed(seed)
        samples = self.options.num_samples
        if noise is None:  # before any word, so that it does not depend on how many there are
            shape = (samples, model.waypoints, 2)
            noise = torch.randn(shape, generator=generator, device=self.device)
        with watch.stage('images'):
            slots = self._vision.find_slots(context)
            grids = order_grids_by_camera(slots)
            history = [torch.from_numpy(x) for x in (context.history_xyz_m, context.history_rot)]
            input_ids = self.processor.build_input_ids(grids, context.camera_indices, *history)
        with watch.stage('vision'):
            vision = self._vision.encode_slots(slots)
        with watch.stage('prefill'):
            cache, steps = self._prepare_steps(input_ids.shape[1])
            prompt = model.prefill(input_ids, vision, grids, cache, steps=steps)
        with watch.stage('reasoning'):
            reasoning = generate_reasoning(
                steps.decode_step, prompt, self.processor.ids, self.options, generator
            )
        with watch.stage('action'):
            field = steps.make_velocity_field(prompt, reasoning)
            action = model.flow.sample(noise.to(self.device), field, self.options.flow_steps)
            v0 = model.action_space.v0(*(x.to(self.device) for x in history))
            xy, yaw, speed = model.action_space.integrate(action, v0.expand(samples))
            path = torch.cat([xy, yaw.unsqueeze(-1), speed.unsqueeze(-1)], -1).cpu().numpy()
            actions = model.action_space.denormalise(action).cpu().numpy()
        return self.make_prediction(
            context, seed, path, actions, float(v0), reasoning, watch.milliseconds
        )

    def _prepare_steps(self, length: int) -> tuple[KVCache, AlpamayoModel | StaticSteps]:
        """Return an empty cache for a prompt of `length` tokens, and the steps that run over it.

        On a GPU the engine keeps cache and recorded steps. It makes new ones for a longer prompt
        and for another number of samples.
        """
        model, options = self.model, self.options
        if self._recorder is None:
            return model.allocate_cache(1, length, options.num_samples, options.max_tokens), model
        needed = model.cache_capacity(length, options.num_samples, options.max_tokens)
        recorded = self._recorded
        if (
            recorded is None
            or recorded.samples != options.num_samples
            or recorded.cache.capacity < needed
        ):
            recorded = self._recorded = None  # frees the old cache before the new one is there
            cache = model.allocate_cache(1, length, options.num_samples, options.max_tokens)
            record = self._recorder.record
            recorded = self._recorded = StaticSteps(model, cache, options.num_samples, record)
        recorded.cache.clear()
        return recorded.cache, recorded

    def _make_load_error(self, message: str) -> BadInput:
        """Free what a failed load had loaded, and return the error with both figures."""
        self.plan.model.to('meta')
        release_cached()
        _, text = compare_with_available(
            estimate_needed_bytes(self.plan, self.options), str(self.device)
        )
        return BadInput(f'{self.checkpoint}: out of memory while loading: {text} ({message})')

    def _recover_from_out_of_memory(self, message: str) -> OutOfMemory:
        """Free everything but the weights, and return the error with both figures."""
        self._recorded = None
        self._vision.clear()
        if isinstance(self._encode, RecordedVision):
            self._encode.clear()
        release_cached()
        needed = estimate_inference_bytes(
            self.model, self.plan.dtype, self.options, str(self.device)
        )
        samples, (_, text) = (
            self.options.num_samples,
            compare_with_available(needed, str(self.device)),
        )
        hint = '; a reboot clears fragmentation' if is_unified(str(self.device)) else ''
        return OutOfMemory(
            f'out of memory: an inference of {samples} samples {text} ({message}){hint}'
        )

    def make_prediction(
        self,
        context: Context,
        seed: int,
        samples: np.ndarray,
        actions: np.ndarray,
        v0_mps: float,
        reasoning: Reasoning,
        timing_ms: Mapping[str, float],
    ) -> Prediction:
        """Compose the prediction of one scene from samples (K, 64, 4) and actions (K, 64, 2)."""
        space = self.model.action_space
        chosen, spread_m = validity.find_medoid(samples)
        rows = [trim_tokens(row, self.processor.ids) for row in reasoning.tokens[0].tolist()]
        decoded = [self.processor.decode(row) for row in rows]
        # Alpamayo 1.5 was trained with any set of cameras
        expected = {'camera_subset'} if self.config.version.any_cameras else set()
        checks = (
            *(check for check in context.checks if check not in expected),
            *images.check_brightness(context),
            *check_reasoning(rows[chosen], reasoning.end[0][chosen]),
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
            partial_texts=tuple(extract_unfinished_text(text) for text in decoded),
            end=tuple(reasoning.end[0]),
            tokens=tuple(len(row) for row in rows),
            checks=checks,
            timing_ms=timing_ms,
        )
