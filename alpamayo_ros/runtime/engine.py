"""The engine: a loaded checkpoint that turns a Context into a Prediction.

It composes processor, model and checks, and knows no ROS and no bags. Every inference has its own
seed and noise, so a result does not depend on earlier ones. One thread owns an engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import images, validity
from ..data_types import Context, Prediction, SamplingOptions
from ..errors import BadInput
from ..hub import resolve_checkpoint
from ..model.checkpoint import hash_checkpoint
from ..model.config import read_card_limits
from ..model.processor import Processor
from ..model.prompt.batching import PromptBatch, batch_prompts
from ..model.prompt.generated_text import (
    check_reasoning,
    extract_text,
    extract_unfinished_text,
    trim_tokens,
)
from ..model.prompt.phrases import read_phrases
from ..model.prompt.tokens import IM_END
from ..model.reasoning.drafts import PhraseTrie
from ..model.reasoning.generation import Reasoning, generate_answer
from ..rig import CAMERA_INDEX
from .batch import Steps, draw_noise, roll_out
from .budget import (
    CAMERAS,
    InferenceSizes,
    estimate_inference_bytes,
    estimate_needed_bytes,
)
from .graphs.recorder import IMAGES_AT_ONCE, GraphRecorder, RecordedVision
from .graphs.steps import StaticSteps
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
    shares the machine's memory the embedding always stays in its file. activations and kv_bits:
    width of the products' inputs and of keys and values, 16 or 8. cameras: names of those that are
    used, empty for all of a context. pixels: most of an image, 0 for the checkpoint's own number.
    Raises BadInput for a checkpoint that cannot be loaded, for a choice that it or the device has
    not, and before loading when memory is too small.
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
        activations: int = 16,
        kv_bits: int = 16,
        cameras: Sequence[str] = (),
        pixels: int = 0,
    ) -> None:
        self.checkpoint = resolve_checkpoint(checkpoint)
        check_device(device)
        host_embedding = host_embedding or is_unified(device)
        self.options = options or SamplingOptions()
        self.activations, self.kv_bits = activations, kv_bits
        self.cameras, self.pixels = tuple(cameras), pixels
        self.plan = plan_load(self.checkpoint, device, bits, recipe, host_embedding)
        self.config, self.device = self.plan.model.config, torch.device(device)
        self._require_choices()
        self._sizes = InferenceSizes(kv_bits, len(self.cameras) or CAMERAS, pixels)
        needed = estimate_needed_bytes(self.plan, self.options, self._sizes)
        require_memory(self.checkpoint, needed, device)
        most = pixels or self.config.max_pixels
        sized = replace(self.config, min_pixels=min(self.config.min_pixels, most), max_pixels=most)
        self.processor = Processor(sized, self.checkpoint)
        limit_allocator(device)
        self.model = guard(lambda: load(self.plan, activations), self._make_load_error)
        encode = self.model.encode_images
        self._recorder = GraphRecorder() if self.device.type == 'cuda' else None
        self._encode: Any = encode
        if self._recorder:
            self._encode = RecordedVision(encode, self._recorder, self.plan.dtype)
        self.pictures = PictureReader(self.processor, self.device)
        at_once = IMAGES_AT_ONCE if self._recorder else 0
        self._vision = VisionCache(self.pictures.read, self._encode, at_once)
        self._recorded: StaticSteps | None = None
        known = self.processor.tokenize_texts(read_phrases(self.checkpoint))
        self._phrases = PhraseTrie(known)  # of drafts, where the options ask for them

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
            'torch': str(torch.__version__),  # whose type would bring torch to other processes
            'untrained': self.config.untrained,
            **self._list_choices(),
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
        watch, options = Stopwatch(self.device), self.options
        context = self.select_cameras(context)
        generator = torch.Generator(self.device).manual_seed(seed)
        if noise is None:
            noise = draw_noise([generator], options.num_samples, self.model.waypoints)
        with watch.stage('images'):
            slots = self._vision.find_slots(context)
            grids = order_grids_by_camera(slots)
            prompts = self.write_prompts([context], grids, options)
        with watch.stage('vision'):
            vision = self._vision.encode_slots(slots)
        reasoning, action = roll_out(
            self.model, self.processor.ids, prompts, vision, grids, options,
            noise.to(self.device), generator, lambda: self._prepare_steps(prompts), watch,
            self._phrases,
        )  # fmt: skip
        with watch.stage('action'):
            paths, actions, v0 = self.integrate([context], action, options)
        return self.make_prediction(
            context, seed, paths[0], actions[0], float(v0[0]), reasoning, watch.milliseconds,
            options,
        )  # fmt: skip

    @torch.inference_mode()
    def answer(self, context: Context, question: str, seed: int) -> tuple[str, bool]:
        """Answer a question about the images of a context; the text, and whether it has ended.

        It uses no recorded steps, so that those of the paths stay as they are. Raises BadInput for
        a model that knows no questions, images.ImageError and memory.OutOfMemory as `infer`.
        """
        ask = partial(self._answer, self.select_cameras(context), question, seed)
        return guard(ask, self._recover_from_out_of_memory)

    def _answer(self, context: Context, question: str, seed: int) -> tuple[str, bool]:
        select_device(self.device)
        model, options = self.model, replace(self.options, num_samples=1)
        frames = len(next(iter(context.frames.values())))
        text = self.processor.question_text(context.camera_indices, frames, question)
        slots = self._vision.find_slots(context)
        grids = order_grids_by_camera(slots)
        ids = self.processor.tokenize_prompt(text, grids)
        cache = model.allocate_cache(1, ids.shape[1], 1, options.max_tokens, self.kv_bits)
        prompt = model.prefill(ids, self._vision.encode_slots(slots), grids, cache)
        generator = torch.Generator(self.device).manual_seed(seed)
        tokens = generate_answer(model.decode_step, prompt, self.processor.ids, options, generator)
        decoded = self.processor.decode(tokens[0, 0].tolist())
        if answer := extract_text(decoded, 'answer'):
            return answer, True
        return decoded.partition(IM_END)[0].strip(), IM_END in decoded

    def select_cameras(self, context: Context) -> Context:
        """The context with the cameras that this engine uses, and the check that says so."""
        if not self.cameras:
            return context
        if absent := [name for name in self.cameras if name not in context.frames]:
            raise RuntimeError(f'the context has no camera {", ".join(absent)}')
        kept = [
            (index, name)
            for index, name in zip(context.camera_indices, context.frames, strict=True)
            if name in self.cameras
        ]
        return replace(
            context,
            camera_indices=tuple(index for index, _ in kept),
            frames={name: context.frames[name] for _, name in kept},
        )

    def is_guided(self, context: Context, options: SamplingOptions) -> bool:
        """Whether a context is inferred with and without its route text."""
        return options.guidance_weight != 1 and self._find_route(context) is not None

    def write_prompts(
        self,
        contexts: Sequence[Context],
        grids: Sequence[tuple[int, int]],
        options: SamplingOptions,
    ) -> PromptBatch:
        """Prompts of contexts whose images have these grids; all are guided, or none."""
        prompts = [
            self.processor.build_input_ids(
                grids,
                context.camera_indices,
                torch.from_numpy(context.history_xyz_m),
                torch.from_numpy(context.history_rot),
                route=self._find_route(context),
                with_reasoning=options.reasoning != 'none',
            )
            for context in contexts
        ]
        return batch_prompts(prompts, self.processor.ids, self.is_guided(contexts[0], options))

    def integrate(
        self, contexts: Sequence[Context], action: Tensor, options: SamplingOptions
    ) -> tuple[np.ndarray, np.ndarray, Tensor]:
        """Paths (S, K, 64, 4), actions (S, K, 64, 2) and v0 (S) of normalised actions (S * K)."""
        space, samples = self.model.action_space, options.num_samples
        history = [
            torch.from_numpy(np.stack([getattr(context, name) for context in contexts]))
            for name in ('history_xyz_m', 'history_rot')
        ]
        v0 = space.v0(*(x.to(self.device) for x in history))
        xy, yaw, speed = space.integrate(action, v0.repeat_interleave(samples))
        paths = torch.cat([xy, yaw.unsqueeze(-1), speed.unsqueeze(-1)], -1)
        paths, actions = (
            x.unflatten(0, (-1, samples)).cpu().numpy() for x in (paths, space.denormalise(action))
        )
        return paths, actions, v0

    def _find_route(self, context: Context) -> str | None:
        navigation = context.navigation
        return navigation.text if navigation and self.config.version.has_routes else None

    def _prepare_steps(self, prompts: PromptBatch) -> Steps:
        """Return an empty cache for a batch of prompts, and the steps that run over it.

        On a GPU the engine keeps cache and recorded steps. It makes new ones for a longer prompt,
        for another number of samples, and when guidance begins or ends.
        """
        model, options, (scenes, length) = self.model, self.options, prompts.ids.shape
        samples, tokens = options.num_samples, options.max_tokens
        if self._recorder is None:
            return model.allocate_cache(scenes, length, samples, tokens, self.kv_bits), model
        needed = model.cache_capacity(length, samples, tokens)
        recorded = self._recorded
        if (
            recorded is None
            or (recorded.samples, recorded.is_guided) != (samples, prompts.is_guided)
            or recorded.cache.capacity < needed
        ):
            recorded = self._recorded = None  # frees the old cache before the new one is there
            cache = model.allocate_cache(scenes, length, samples, tokens, self.kv_bits)
            recorded = self._recorded = StaticSteps(
                model, cache, samples, self._recorder.record, prompts.is_guided,
                options.draft_tokens,
            )  # fmt: skip
        recorded.cache.clear()
        return recorded.cache, recorded

    def _list_choices(self) -> dict[str, Any]:
        """The choices of this engine that are not the checkpoint's own, for records."""
        choices = {
            'activations': self.activations % 16,
            'kv_bits': self.kv_bits % 16,
            'cameras': ','.join(self.cameras),
            'pixels': self.pixels,
        }
        return {name: value for name, value in choices.items() if value}

    def _require_choices(self) -> None:
        """Raise BadInput for a choice that the checkpoint or the device has not."""
        for name in ('activations', 'kv_bits'):
            if (bits := getattr(self, name)) not in (16, 8):
                raise BadInput(f'{name} {bits}: expected 16 or 8')
        if unknown := [name for name in self.cameras if name not in CAMERA_INDEX]:
            raise BadInput(f'cameras {unknown[0]}: expected names of {", ".join(CAMERA_INDEX)}')
        smallest = (self.config.vision.patch_size * self.config.vision.spatial_merge_size) ** 2
        most = self.config.max_pixels
        if self.pixels and not smallest <= self.pixels <= most:
            raise BadInput(f'pixels {self.pixels}: expected {smallest} to {most}, or 0')
        if not self.config.version.has_routes and self.options.guidance_weight != 1:
            raise BadInput(
                f'guidance_weight {self.options.guidance_weight:g}: the model is '
                f'{self.config.model_type}, which knows no route texts'
            )

    def _make_load_error(self, message: str) -> BadInput:
        """Free what a failed load had loaded, and return the error with both figures."""
        self.plan.model.to('meta')
        release_cached()
        _, text = compare_with_available(
            estimate_needed_bytes(self.plan, self.options, self._sizes), str(self.device)
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
            self.model, self.plan.dtype, self.options, str(self.device), self._sizes
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
        options: SamplingOptions,
    ) -> Prediction:
        """Compose the prediction of one scene from samples (K, 64, 4) and actions (K, 64, 2)."""
        space = self.model.action_space
        chosen, spread_m = validity.find_medoid(samples)
        if options.sample_choice == 'first':
            chosen, spread_m = 0, validity.measure_spread(samples, 0)
        elif options.sample_choice == 'mean':
            samples, actions = validity.average_near(samples, actions, chosen)
        (ends,) = reasoning.end
        rows = [trim_tokens(row, self.processor.ids) for row in reasoning.tokens[0].tolist()]
        # a marker that the caller fed is no word of the model
        rows = [
            row[:-1] if end in ('cut', 'none') else row
            for row, end in zip(rows, ends, strict=True)
        ]
        decoded = [self.processor.decode(row) for row in rows]
        checks = (
            *self._check_context(context, options),
            *images.check_brightness(context),
            *check_reasoning(rows[chosen], ends[chosen]),
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
            end=tuple(ends),
            tokens=tuple(len(row) for row in rows),
            checks=checks,
            timing_ms=timing_ms,
            navigation=self._find_route(context) or '',
        )

    def _check_context(self, context: Context, options: SamplingOptions) -> tuple[str, ...]:
        """Names of what is unusual about the context for this model and these options."""
        version = self.config.version
        # a version that was trained with any cameras misses none that the vehicle does not have
        known = {'camera_subset'} if version.any_cameras else set()
        found = [name for name in context.checks if name not in known]
        is_unused = context.navigation is not None and not version.has_routes
        added = {
            'camera_subset': bool(self.cameras),
            'out_of_training': options.reasoning == 'none' and not version.has_routes,
            'navigation_unused': is_unused,
            'unguided': options.guidance_weight != 1 and not self.is_guided(context, options),
        }
        return tuple(dict.fromkeys([*found, *(name for name, is_so in added.items() if is_so)]))
