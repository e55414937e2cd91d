"""Checks a checkpoint without a reference: fast paths against plain ones, finite outputs.

Runs one small scene of random images through the model. Knows no reference tensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from ..data_types import FRAMES_PER_CAMERA, HISTORY_POSES, SamplingOptions
from ..model.alpamayo import AlpamayoModel
from ..model.processor import ModelInputs, Processor
from ..model.prompt.image_processor import resize_bicubic, resize_bicubic_plain
from ..model.reasoning.generation import generate_reasoning
from ..runtime.load import load_model
from .comparison import ComparisonRow, compare_exactly

CAMERAS = (0, 1, 2, 6)
SPEED_MPS = 8.0
MAX_TOKENS = 16
# bf16 and fp16 round at every layer; the same figures as for reference tensors in bf16
TOLERANCES = {torch.float32: 1e-4}
ROUNDED_TOLERANCE = 0.1


@torch.inference_mode()
def check_checkpoint(folder: Path, device: str = 'cpu') -> Iterator[ComparisonRow]:
    """Strict load, then each fast path against its plain twin."""
    model = load_model(folder, device)
    processor = Processor(model.config, folder)
    yield compare_exactly('checkpoint', 'strict load', True)
    generator = torch.Generator().manual_seed(0)
    shape = (len(CAMERAS) * FRAMES_PER_CAMERA, 3, 360, 640)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    fast = resize_bicubic(images[:1].to(device), 128, 224).cpu()
    plain = resize_bicubic_plain(images[:1], 128, 224)
    error = float((fast.int() - plain.int()).abs().max())
    yield ComparisonRow('preprocessing', 'resize against plain', error, 0.0)
    inputs = _inputs(processor, images, device)
    yield from _vision_and_prefill(model, inputs)
    yield from _shared_prefix(model, processor, inputs, generator)


def _inputs(processor: Processor, images: torch.Tensor, device: str) -> ModelInputs:
    """A scene of random images and a straight history at constant speed."""
    x = torch.arange(1 - HISTORY_POSES, 1) * SPEED_MPS * 0.1
    xyz = torch.stack([x, torch.zeros_like(x), torch.zeros_like(x)], -1)
    rot = torch.eye(3).expand(HISTORY_POSES, 3, 3)
    inputs = processor(list(images.to(device)), CAMERAS, xyz, rot)
    return ModelInputs(inputs.input_ids.to(device), inputs.patches, inputs.grids)


def _vision_and_prefill(model: AlpamayoModel, inputs: ModelInputs) -> Iterator[ComparisonRow]:
    tolerance = _tolerance(model)
    chunked = model.encode_images(inputs.patches, inputs.grids)
    single = model.encode_images(inputs.patches, inputs.grids, chunk_images=1)
    error = float((chunked[0] - single[0]).abs().max())
    yield ComparisonRow('vision', 'chunks against single images', error, tolerance)
    length = inputs.input_ids.shape[1]
    logits = []
    for chunk in (length, 100):
        cache = model.allocate_cache(1, length, 1, MAX_TOKENS)
        logits.append(model.prefill(inputs.input_ids, chunked, inputs.grids, cache, chunk).logits)
    error = float((logits[0] - logits[1]).abs().max())
    scale = max(1.0, float(logits[0].abs().max()))
    yield ComparisonRow('prefill', 'chunks against whole', error / scale, tolerance)
    yield compare_exactly('prefill', 'finite', bool(torch.isfinite(logits[0]).all()), 'not finite')


def _shared_prefix(
    model: AlpamayoModel, processor: Processor, inputs: ModelInputs, generator: torch.Generator
) -> Iterator[ComparisonRow]:
    """Two samples with a shared prompt against two runs of one sample."""
    noise = torch.randn(2, model.waypoints, 2, generator=generator).to(inputs.patches.device)
    vision = model.encode_images(inputs.patches, inputs.grids)
    length = inputs.input_ids.shape[1]

    def velocity(rows: torch.Tensor) -> torch.Tensor:
        options = SamplingOptions(num_samples=len(rows), greedy=True, max_tokens=MAX_TOKENS)
        cache = model.allocate_cache(1, length, len(rows), MAX_TOKENS)
        prompt = model.prefill(inputs.input_ids, vision, inputs.grids, cache)
        reasoning = generate_reasoning(model.decode_step, prompt, processor.ids, options)
        window, positions = model.prepare_expert(prompt, reasoning)
        t = torch.zeros(len(rows), 1, 1, device=rows.device)
        return model.predict_velocity(rows, t, prompt.cache, window, positions)

    together = velocity(noise)
    apart = torch.cat([velocity(noise[:1]), velocity(noise[1:])])
    error = float((together - apart).abs().max())
    yield ComparisonRow('expert', 'shared prompt against separate runs', error, _tolerance(model))
    finite = bool(np.isfinite(together.float().cpu().numpy()).all())
    yield compare_exactly('expert', 'finite', finite, 'not finite')


def _tolerance(model: AlpamayoModel) -> float:
    return TOLERANCES.get(model.vlm.lm_head.weight.dtype, ROUNDED_TOLERANCE)
