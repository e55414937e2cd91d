"""Painter of small pictures on a GPU: a Triton kernel that loops over quadrilaterals.

Its functions are passed to raster.render; the plain twins of the same names are in raster.py. A
program paints a tile of one view and skips the faces that do not reach into the tile.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # CPU builds of torch come without it
    triton = None

_ROWS, _COLUMNS = 16, 32  # of a tile


def compute_cover(xp: Any, lines: Tensor, seen: Tensor, box: Any, u: Tensor, v: Tensor) -> Tensor:
    """Fast twin of `raster.compute_cover`."""
    canvas = lines.new_zeros(*seen.shape[:3], 1, len(v), len(u))
    _launch(canvas, lines, seen, box, None)
    return canvas[..., 0, :, :].clip_(0.0, 1.0)


def paint_faces(
    xp: Any,
    canvas: Tensor,
    lines: Tensor,
    seen: Tensor,
    box: Any,
    colours: Tensor,
    u: Tensor,
    v: Tensor,
) -> Tensor:
    """Fast twin of `raster.paint_faces`."""
    canvas = canvas.contiguous()
    _launch(canvas, lines, seen, box, colours)
    return canvas


def _launch(canvas: Tensor, lines: Tensor, seen: Tensor, box: Any, colours: Tensor | None) -> None:
    height, width = canvas.shape[-2:]
    views, faces = seen.shape[:3].numel(), seen.shape[3]
    tiles = triton.cdiv(height, _ROWS) * triton.cdiv(width, _COLUMNS)
    low, high = (corner.contiguous() for corner in box)
    lines, seen = lines.contiguous(), seen.to(torch.uint8).contiguous()
    paint = (
        lines if colours is None else colours.contiguous()
    )  # the kernel does not read this pointer
    _paint_kernel[(views, tiles)](
        canvas, lines, seen, low, high, paint, faces, height, width,
        ADD=colours is None, ROWS=_ROWS, COLUMNS=_COLUMNS, num_warps=4,
    )  # fmt: skip


if triton is not None:

    @triton.jit
    def _inside(lines_ptr, u, v):
        """Distance of pixels to the inside of an edge, clipped to 0 ... 1."""
        a, b, c = tl.load(lines_ptr), tl.load(lines_ptr + 1), tl.load(lines_ptr + 2)
        return tl.minimum(tl.maximum(a * u + (b * v + (c + 0.5)), 0.0), 1.0)

    @triton.jit
    def _paint_kernel(
        canvas_ptr,
        lines_ptr,
        seen_ptr,
        low_ptr,
        high_ptr,
        colours_ptr,
        faces,
        height,
        width,
        ADD: tl.constexpr,
        ROWS: tl.constexpr,
        COLUMNS: tl.constexpr,
    ):
        """Paint all quadrilaterals into one tile of one view; ADD: sum their cover instead."""
        view = tl.program_id(0).to(tl.int64)
        across = tl.cdiv(width, COLUMNS)
        top, left = tl.program_id(1) // across * ROWS, tl.program_id(1) % across * COLUMNS
        row, column = top + tl.arange(0, ROWS)[:, None], left + tl.arange(0, COLUMNS)[None, :]
        u, v = column.to(tl.float32), row.to(tl.float32)
        on = (row < height) & (column < width)
        plane = height * width
        at = canvas_ptr + view * plane * (1 if ADD else 3) + row * width + column
        first = tl.load(at, on, other=0.0)
        second, third = first, first
        if not ADD:
            second = tl.load(at + plane, on, other=0.0)
            third = tl.load(at + 2 * plane, on, other=0.0)
        for number in range(faces):
            face = view * faces + number
            if tl.load(seen_ptr + face) != 0:
                left_u, low_v = tl.load(low_ptr + 2 * face), tl.load(low_ptr + 2 * face + 1)
                right_u, high_v = tl.load(high_ptr + 2 * face), tl.load(high_ptr + 2 * face + 1)
                reaches = (left_u <= left + COLUMNS - 1) & (right_u >= left)
                if reaches & (low_v <= top + ROWS - 1) & (high_v >= top):
                    edge = lines_ptr + 12 * face
                    along = _inside(edge, u, v) + _inside(edge + 6, u, v) - 1.0
                    aside = _inside(edge + 3, u, v) + _inside(edge + 9, u, v) - 1.0
                    cover = tl.maximum(along, 0.0) * tl.maximum(aside, 0.0)
                    within = (u >= left_u) & (v >= low_v) & (u <= right_u) & (v <= high_v)
                    cover = tl.where(within, cover, 0.0)
                    if ADD:
                        first += cover
                    else:
                        first += cover * (tl.load(colours_ptr + 3 * face) - first)
                        second += cover * (tl.load(colours_ptr + 3 * face + 1) - second)
                        third += cover * (tl.load(colours_ptr + 3 * face + 2) - third)
        tl.store(at, first, on)
        if not ADD:
            tl.store(at + plane, second, on)
            tl.store(at + 2 * plane, third, on)
