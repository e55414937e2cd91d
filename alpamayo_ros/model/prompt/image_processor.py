"""Converts uint8 images to patches of the vision tower, on any device, without torchvision.

Steps: docs/model.md, section 2. Knows no cameras and no prompt.
"""

from __future__ import annotations

from functools import lru_cache
import math

from einops import repeat
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

    The reference resizes uint8 images; a float resize differs by up to 17 levels. Torch has it for
    a CPU; on other devices `resize_bicubic_plain` computes the same integers.
    """
    if tuple(images.shape[-2:]) == (height, width):
        return images
    if images.device.type == 'cpu':
        return F.interpolate(images, (height, width), mode='bicubic', antialias=True)
    return resize_bicubic_plain(images, height, width)


def resize_bicubic_plain(images: Tensor, height: int, width: int) -> Tensor:
    """Compute the same integers as `resize_bicubic`, one tap of the filter at a time.

    All sums fit into 32 bits. A GPU needs no float64 for it, of which an Orin has next to none.
    """
    x = images.to(torch.int32)
    for dim, size in ((-1, width), (-2, height)):
        if x.shape[dim] != size:
            x = _resample(x, dim, size)
    return x.to(torch.uint8)


def _resample(x: Tensor, dim: int, size: int) -> Tensor:
    """Filter an int32 tensor along a dimension (-1 or -2) to another size, 0 to 255."""
    last = x.shape[dim] - 1
    starts, taps, precision = _fixed_point_taps(x.shape[dim], size)
    shape = (-1,) if dim == -1 else (-1, 1)
    start = torch.tensor(starts, device=x.device)
    total = torch.tensor(1 << precision >> 1, dtype=torch.int32, device=x.device)
    for k, tap in enumerate(taps):
        weight = torch.tensor(tap, dtype=torch.int32, device=x.device).view(shape)
        total = total + x.index_select(dim, (start + k).clamp(max=last)) * weight
    return (total >> precision).clamp_(0, 255)


@lru_cache(maxsize=16)
def _fixed_point_taps(
    size_in: int, size_out: int
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...], int]:
    """First input of each output, its taps (taps, size_out) in fixed point, and fraction bits.

    The weights have 16 bits, as in torch's resize of uint8 images.
    """
    scale = size_in / size_out
    support = 2.0 * max(scale, 1.0)
    inverse = 1.0 / max(scale, 1.0)
    starts, rows = [], []
    for i in range(size_out):
        center = scale * (i + 0.5)
        first = max(int(center - support + 0.5), 0)
        last = min(int(center + support + 0.5), size_in)
        row = [_cubic((j - center + 0.5) * inverse) for j in range(first, last)]
        total = sum(row)
        starts.append(first)
        rows.append([tap / total for tap in row])
    largest, precision = max(map(max, rows)), 0
    while precision < 22 and largest * 2 ** (precision + 1) + 0.5 < 2**15:
        precision += 1
    count = max(map(len, rows))
    fixed = [
        [math.trunc(tap * 2**precision + math.copysign(0.5, tap)) for tap in row]
        + [0] * (count - len(row))
        for row in rows
    ]
    return tuple(starts), tuple(zip(*fixed, strict=True)), precision


def _cubic(x: float, a: float = -0.5) -> float:
    """Keys' cubic convolution kernel."""
    x = abs(x)
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


def to_patches(images: Tensor, patch: int = 16, temporal: int = 2, merge: int = 2) -> Tensor:
    """Patches (N * h * w, 3 * temporal * patch * patch) float32 of uint8 (N, 3, H, W).

    Values are (x / 255 - 0.5) / 0.5. A temporal pair holds the frame twice. Order: merged
    row, merged column, inner row, inner column; inside a patch [channel, temporal, row, column].
    """
    x = (images.to(torch.float32) / 255 - MEAN) / STD
    return repeat(
        x,
        'n c (h r y) (w s x) -> (n h w r s) (c t y x)',
        **dict.fromkeys('rs', merge),
        **dict.fromkeys('xy', patch),
        t=temporal,
    )
