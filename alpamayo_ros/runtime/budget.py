"""What an inference with a checkpoint takes in memory, by what it is for, before any is taken.

An upper bound from the config: the images of all four cameras, and a prompt of their size.
"""

from __future__ import annotations

import torch

from ..data_types import FRAMES_PER_CAMERA, SamplingOptions
from ..model.alpamayo import AlpamayoR1
from ..model.text import KVCache
from .load import LoadPlan

CAMERAS = 4
TEXT_TOKENS = 256  # of a prompt: everything but its images
# activations of a prompt's chunk, scratch for unpacked weights, workspaces, compiled kernels
RESERVE_BYTES = 400_000_000


def working_bytes(
    model: AlpamayoR1, dtype: torch.dtype, options: SamplingOptions
) -> dict[str, int]:
    """Of an inference, beside the weights."""
    config, vision = model.config, model.config.vision
    pixels = (vision.patch_size * vision.spatial_merge_size) ** 2
    image_tokens = CAMERAS * FRAMES_PER_CAMERA * (config.max_pixels // pixels)
    prompt = image_tokens + TEXT_TOKENS
    capacity = model.cache_capacity(prompt, options.num_samples, options.max_tokens)
    keys = KVCache(config.text, 1, capacity, dtype, 'meta').keys
    levels = 1 + len(vision.deepstack_visual_indexes)
    features = image_tokens * levels * config.text.hidden_size * dtype.itemsize
    return {
        'keys and values': 2 * keys.nbytes,
        'images': 2 * features,  # those of the last context are kept
        'activations and workspace': RESERVE_BYTES,
    }


def needed_bytes(plan: LoadPlan, options: SamplingOptions) -> dict[str, int]:
    """Of the weights that a plan will load, and of an inference with them."""
    return {'weights': plan.weight_bytes} | working_bytes(plan.model, plan.dtype, options)
