"""The memory budget of an inference, by purpose, estimated before anything is allocated.

It is an upper bound from the config: images of all four cameras, and a prompt of their size.
"""

from __future__ import annotations

import torch

from ..data_types import FRAMES_PER_CAMERA, SamplingOptions
from ..model.alpamayo import AlpamayoModel
from ..model.config import AlpamayoConfig
from ..model.text import KVCache
from .load import LoadPlan
from .memory import is_unified
from .pictures import count_threads

CAMERAS = 4
TEXT_TOKENS = 256  # of a prompt: all tokens but those of its images
FRAME_PIXELS = 1920 * 1080  # of a camera's frame before it is resized
DECODED_COPIES = 2  # of a frame: OpenCV decodes to BGR and converts to RGB
FLOAT32_BYTES = 4
# activations of a prompt's chunk, scratch for unpacked weights, workspaces, compiled kernels
RESERVE_BYTES = 400_000_000


def estimate_inference_bytes(
    model: AlpamayoModel,
    dtype: torch.dtype,
    options: SamplingOptions,
    device: str = 'cpu',
    kv_bits: int = 16,
) -> dict[str, int]:
    """Estimate the memory of an inference on a device beside the weights, by purpose."""
    config, vision = model.config, model.config.vision
    pixels = (vision.patch_size * vision.spatial_merge_size) ** 2
    image_tokens = CAMERAS * FRAMES_PER_CAMERA * (config.max_pixels // pixels)
    prompt = image_tokens + TEXT_TOKENS
    capacity = model.cache_capacity(prompt, options.num_samples, options.max_tokens)
    cache = KVCache(config.text, 1, capacity, dtype, 'meta', kv_bits)
    levels = 1 + len(vision.deepstack_visual_indexes)
    features = image_tokens * levels * config.text.hidden_size * dtype.itemsize
    return {
        'images': _estimate_picture_bytes(config, device),
        'image features': 2 * features,  # the engine keeps those of the last context
        'keys and values': cache.nbytes,
        # what each waypoint sees: a new one is written into that of the recorded steps
        'masks': 2 * options.num_samples * model.waypoints * capacity,
        'activations and workspace': RESERVE_BYTES,
    }


def _estimate_picture_bytes(config: AlpamayoConfig, device: str) -> int:
    """Estimate frames while they are decoded (on the host), resized pictures and patches."""
    vision, pictures = config.vision, CAMERAS * FRAMES_PER_CAMERA
    patch_values = 3 * vision.temporal_patch_size * vision.patch_size**2
    patches = pictures * (config.max_pixels // vision.patch_size**2) * patch_values * FLOAT32_BYTES
    resized = pictures * 3 * config.max_pixels
    is_host_memory = device == 'cpu' or is_unified(device)
    decoded = count_threads() * DECODED_COPIES * 3 * FRAME_PIXELS if is_host_memory else 0
    return decoded + resized + patches


def estimate_needed_bytes(
    plan: LoadPlan, options: SamplingOptions, kv_bits: int = 16
) -> dict[str, int]:
    """Estimate the memory of the weights that a plan will load, and of an inference with them."""
    inference = estimate_inference_bytes(plan.model, plan.dtype, options, plan.device, kv_bits)
    return {'weights': plan.weight_bytes} | inference
