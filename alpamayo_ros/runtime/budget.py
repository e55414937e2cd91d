"""The memory budget of an inference, by purpose, estimated before anything is allocated.

It is an upper bound from config and choices: the images of all cameras that are used, and a
prompt of their size. With guidance, cache and activations hold two prompts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..data_types import FRAMES_PER_CAMERA, SamplingOptions
from ..model.alpamayo import PREFILL_CHUNK, AlpamayoModel
from ..model.config import AlpamayoConfig
from ..model.kv_cache import KVCache
from .load import LoadPlan
from .memory import is_unified
from .pictures import count_threads

CAMERAS = 4  # where no choice names them
TEXT_TOKENS = 256  # of a prompt: all tokens but those of its images
FRAME_PIXELS = 1920 * 1080  # of a camera's frame before it is resized
DECODED_COPIES = 2  # of a frame: OpenCV decodes to BGR and converts to RGB
FLOAT32_BYTES = 4
HIDDEN_STATES = 6  # of a prompt's chunk that are alive in a layer, beside those inside the MLP
# activations of a prompt's chunk, scratch for unpacked weights, workspaces, compiled kernels
RESERVE_BYTES = 400_000_000


class InferenceSizes(NamedTuple):
    """The choices of an engine that set what an inference takes.

    kv_bits: of keys and values. cameras: how many are used. pixels: most of an image, 0 for the
    checkpoint's own number.
    """

    kv_bits: int = 16
    cameras: int = CAMERAS
    pixels: int = 0


USUAL = InferenceSizes()


def estimate_inference_bytes(
    model: AlpamayoModel,
    dtype: torch.dtype,
    options: SamplingOptions,
    device: str = 'cpu',
    sizes: InferenceSizes = USUAL,
) -> dict[str, int]:
    """Estimate the memory of an inference on a device beside the weights, by purpose."""
    config, vision = model.config, model.config.vision
    most = sizes.pixels or config.max_pixels
    pixels = (vision.patch_size * vision.spatial_merge_size) ** 2
    pictures = sizes.cameras * FRAMES_PER_CAMERA
    image_tokens = pictures * (most // pixels)
    prompts = 1 if options.guidance_weight == 1 else 2
    prompt = image_tokens + TEXT_TOKENS
    capacity = model.cache_capacity(prompt, options.num_samples, options.max_tokens)
    cache = KVCache(config.text, prompts, capacity, dtype, 'meta', sizes.kv_bits)
    levels = 1 + len(vision.deepstack_visual_indexes)
    features = image_tokens * levels * config.text.hidden_size * dtype.itemsize
    chunk = min(prompt, PREFILL_CHUNK) * dtype.itemsize
    states = chunk * (config.text.intermediate_size + HIDDEN_STATES * config.text.hidden_size)
    return {
        'images': _estimate_picture_bytes(config, pictures, most, device),
        'image features': 2 * features,  # the engine keeps those of the last context
        'keys and values': cache.nbytes,
        # what each waypoint sees: a new one is written into that of the recorded steps
        'masks': 2 * prompts * options.num_samples * model.waypoints * capacity,
        'activations and workspace': RESERVE_BYTES + (prompts - 1) * states,
    }


def _estimate_picture_bytes(
    config: AlpamayoConfig, pictures: int, pixels: int, device: str
) -> int:
    """Estimate frames while they are decoded (on the host), resized pictures and patches."""
    vision = config.vision
    patch_values = 3 * vision.temporal_patch_size * vision.patch_size**2
    patches = pictures * (pixels // vision.patch_size**2) * patch_values * FLOAT32_BYTES
    resized = pictures * 3 * pixels
    is_host_memory = device == 'cpu' or is_unified(device)
    decoded = count_threads() * DECODED_COPIES * 3 * FRAME_PIXELS if is_host_memory else 0
    return decoded + resized + patches


def estimate_needed_bytes(
    plan: LoadPlan, options: SamplingOptions, sizes: InferenceSizes = USUAL
) -> dict[str, int]:
    """Estimate the memory of the weights that a plan will load, and of an inference with them."""
    inference = estimate_inference_bytes(plan.model, plan.dtype, options, plan.device, sizes)
    return {'weights': plan.weight_bytes} | inference
