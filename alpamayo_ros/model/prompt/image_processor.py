"""uint8 images to the patches of the vision tower, on any device, without torchvision.

Steps: alpamayo-r1 specification, section 5. Knows no cameras and no prompt.
"""

from __future__ import annotations

from functools import lru_cache
import math

import torch
from torch import Tensor
import torch.nn.functional as F

MEAN = 0.5
STD = 0.5


def smart_resize(
    height: int, width: int, min_pixels: int, max_pixels: int, factor: int = 32
) -> tuple[int, int]:
    """Height and width rounded to multiples of `factor` (half to even), area inside the bounds."""
    if height < 1 or width < 1:
        raise ValueError(f'image of {width}x{height} pixels')
    h, w = (max(factor, round(n / factor) * factor) for n in (height, width))
    if h * w > max_pixels:
        scale = math.sqrt(height * width / max_pixels)
        h, w = (max(factor, math.floor(n / scale / factor) * factor) for n in (height, width))
    elif h * w < min_pixels:
        scale = math.sqrt(min_pixels / (height * width))
        h, w = (math.ceil(n * scale / factor) * factor for n in (height, width))
    return h, w


def resize_bicubic(images: Tensor, height: int, width: int) -> Tensor:
    """Antialiased bicubic resize of uint8 (N, 3, H, W), rounded to uint8 between the two passes.

    The resize of the reference runs on uint8; a float one differs by up to 17 levels. On a CPU
    torch has it; elsewhere `resize_bicubic_plain` computes the same integers.
    """
    if tuple(images.shape[-2:]) == (height, width):
        return images
    if images.device.type == 'cpu':
        return F.interpolate(images, (height, width), mode='bicubic', antialias=True)
    return resize_bicubic_plain(images, height, width)


def resize_bicubic_plain(images: Tensor, height: int, width: int) -> Tensor:
    """The same as `resize_bicubic` with two matrix products in fixed-point weights."""
    x = images.to(torch.float64)  # integers far below 2^53: exact on any device
    for dim, size in ((-1, width), (-2, height)):
        if x.shape[dim] != size:
            weights, precision = _bicubic_weights(x.shape[dim], size)
            product = x.transpose(dim, -1) @ weights.to(x.device).T
            x = ((product + 2 ** (precision - 1)) / 2**precision).floor().clamp(0, 255)
            x = x.transpose(dim, -1)
    return x.to(torch.uint8)


@lru_cache(maxsize=16)
def _bicubic_weights(size_in: int, size_out: int) -> tuple[Tensor, int]:
    """Weights (out, in) as 16-bit fixed point in float64, and their number of fraction bits."""
    scale = size_in / size_out
    support = 2.0 * max(scale, 1.0)
    inverse = 1.0 / max(scale, 1.0)
    weights = torch.zeros(size_out, size_in, dtype=torch.float64)
    for i in range(size_out):
        center = scale * (i + 0.5)
        first = max(int(center - support + 0.5), 0)
        last = min(int(center + support + 0.5), size_in)
        taps = torch.tensor([_cubic((j - center + 0.5) * inverse) for j in range(first, last)])
        weights[i, first:last] = taps.to(torch.float64) / taps.sum()
    precision = 0
    while precision < 22 and float(weights.max()) * 2 ** (precision + 1) + 0.5 < 2**15:
        precision += 1
    scaled = weights * 2**precision
    return torch.trunc(scaled + torch.copysign(torch.tensor(0.5), scaled)), precision


def _cubic(x: float, a: float = -0.5) -> float:
    """Keys' cubic convolution kernel."""
    x = abs(x)
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


def to_patches(images: Tensor, patch: int = 16, temporal: int = 2, merge: int = 2) -> Tensor:
    """Patches (N * h * w, 3 * temporal * patch * patch) float32 of uint8 (N, 3, H, W).

    Values are (x / 255 - 0.5) / 0.5; the frame is repeated to the temporal pair. Order: merged
    row, merged column, inner row, inner column; inside a patch [channel, temporal, row, column].
    """
    x = (images.to(torch.float32) / 255 - MEAN) / STD
    n, channels, height, width = x.shape
    h, w = height // patch, width // patch
    x = x.reshape(n, channels, h // merge, merge, patch, w // merge, merge, patch)
    # (n, c, H, mh, p, W, mw, p) -> (n, H, W, mh, mw, c, p, p)
    x = x.permute(0, 2, 5, 3, 6, 1, 4, 7)
    x = x.unsqueeze(6).expand(*x.shape[:6], temporal, patch, patch)
    return x.reshape(n * h * w, channels * temporal * patch * patch)
