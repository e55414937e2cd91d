"""Pictures of training samples: painted from their scenes, some with random textures over them.

The demo's pictures have clouds, patches of grass and grain that the painter of small pictures
lacks. Random textures teach that such patterns mean nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
import functools

import torch
from torch import Tensor
import torch.nn.functional as F

from alpamayo_ros.world.rendering.paint_triton import compute_cover, paint_faces
from alpamayo_ros.world.rendering.raster import RasterScene, render
from alpamayo_ros.world.rendering.raster_compiled import render_on_cpu

from .drives import TrainingDrive

_PATCHES = ((3, 5), (6, 8), (12, 20), (32, 40))  # rows and columns of the textures' values
_DEEPEST = 14.0  # standard deviation of the darkest texture, of 255
_TINT = 0.5  # of the colours beside the common brightness
_GAIN = 0.06  # standard deviation of the brightness of a channel


def paint_pictures(
    drives: Sequence[TrainingDrive], device: str, random: torch.Generator
) -> Tensor:
    """Return pictures (B, C, F, 3, H, W) uint8 of drives; kernels paint them on a GPU."""
    scenes = join_scenes([drive.scenes for drive in drives])
    shape = (*scenes.to_optical.shape[:3], scenes.rows.shape[1], scenes.columns.shape[1])
    noise = torch.randn(shape, generator=random, device=device)
    if torch.device(device).type == 'cpu':
        pictures = torch.from_numpy(render_on_cpu(scenes.map(Tensor.numpy), noise.numpy()))
    else:
        on_device = scenes.map(lambda array: array.to(device, non_blocking=True))
        pictures = render(torch, on_device, noise, compute_cover, paint_faces)
    places = torch.cat([drive.is_painted for drive in drives]).nonzero()[:, 0].to(device)
    pictures[places] = torch.cat([drive.pictures for drive in drives]).to(device)
    return pictures


def join_scenes(scenes: Sequence[RasterScene]) -> RasterScene:
    """Concatenate scenes along their first axis; padding quadrilaterals are zero and invisible."""
    parts = []
    for field in fields(RasterScene):
        arrays = [getattr(scene, field.name) for scene in scenes]
        if field.name in ('faces', 'colours', 'verge', 'asphalt', 'white', 'dark'):
            most = max(array.shape[2] for array in arrays)
            behind = (0, 0) * (arrays[0].dim() - 3)
            arrays = [F.pad(array, (*behind, 0, most - array.shape[2])) for array in arrays]
        parts.append(torch.cat(arrays))
    return RasterScene(*parts)


def lay_textures(pictures: Tensor, share: float, random: torch.Generator) -> Tensor:
    """Return pictures (B, C, F, 3, H, W) uint8 with textures over this share of the samples.

    A texture is smooth noise of several sizes; it is equal in all frames of a camera.
    """
    samples, cameras, _, _, height, width = pictures.shape
    device = pictures.device

    def draw(*shape: int) -> Tensor:
        return torch.randn((samples, *shape), generator=random, device=device)

    total = torch.zeros((samples, cameras, 3, height, width), device=device)
    for rows, columns in _PATCHES:
        noise = draw(cameras, 1, rows, columns) + _TINT * draw(cameras, 3, rows, columns)
        noise = noise * draw(1, 1, 1, 1).abs()
        down, across = make_bicubic(rows, height, device), make_bicubic(columns, width, device)
        total += down @ noise @ across.T
    uniform = torch.rand((2, samples, 1, 1, 1, 1, 1), generator=random, device=device)
    is_textured = uniform[0] < share
    depth = _DEEPEST * uniform[1] / len(_PATCHES) ** 0.5
    gain = 1.0 + _GAIN * draw(1, 1, 3, 1, 1)
    changed = pictures * gain + total.unsqueeze(2) * depth
    return torch.where(is_textured, changed, pictures).clamp(0.0, 255.0).to(torch.uint8)


@functools.cache
def make_bicubic(values: int, size: int, device: torch.device) -> Tensor:
    """Return the matrix (size, values) of bicubic interpolation along one axis.

    Two products are faster than F.interpolate: textures of 256 samples take 3.5 ms, not 13.6, on
    an H200.
    """
    unit = torch.eye(values, device=device)[:, None, :, None]
    return F.interpolate(unit, (size, 1), mode='bicubic')[:, 0, :, 0].T.contiguous()
