"""Painter of small pictures on a CPU: loops over quadrilaterals, compiled by Numba.

Its functions are passed to raster.render; the plain twins of the same names are in raster.py. The
arithmetic is float32 in the same order, so that pictures are equal to the bit. The loops release
the interpreter's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .raster import RasterScene, render

try:
    import numba
except ImportError:  # installed by an extra
    numba = None

_ZERO, _HALF, _ONE = (
    np.float32(0.0),
    np.float32(0.5),
    np.float32(1.0),
)  # Python's floats are double
Small = NDArray[np.float32]


def render_on_cpu(scenes: RasterScene, noise: Small) -> NDArray[np.uint8]:
    """As `raster.render` with NumPy; compiled if Numba is installed."""
    ways = () if numba is None else (compute_cover, paint_faces, blend_background)
    drawn = []
    for i in range(len(noise)):  # several samples at once do not fit into the processor's cache
        part = itemgetter(slice(i, i + 1))
        drawn.append(render(np, scenes.map(part), part(noise), *ways))
    return np.concatenate(drawn)


def compute_cover(xp: Any, lines: Small, seen: Any, box: Any, u: Small, v: Small) -> Small:
    """Fast twin of `raster.compute_cover`."""
    total = np.zeros((*seen.shape[:3], len(v), len(u)), np.float32)
    _add_cover(_flatten_views(total), *_flatten_faces(lines, seen, box), u, v[:, 0])
    return total.clip(0.0, 1.0)


def paint_faces(
    xp: Any, canvas: Small, lines: Small, seen: Any, box: Any, colours: Small, u: Small, v: Small
) -> Small:
    """Fast twin of `raster.paint_faces`."""
    canvas = np.ascontiguousarray(canvas)
    _paint_views(
        _flatten_views(canvas),
        *_flatten_faces(lines, seen, box),
        _flatten_views(colours),
        u,
        v[:, 0],
    )
    return canvas


def blend_background(
    xp: Any, colours: Any, shares: Sequence[Small], ambient: Small, cloudy: Small
) -> Small:
    """Fast twin of `raster.blend_background`."""
    batch, *shape, height, width = shares[0].shape
    canvas = np.empty((batch, *shape, 3, height, width), np.float32)
    flat = tuple(_flatten_views(share).reshape(-1, height * width) for share in shares)
    single = tuple(tuple(np.float32(number) for number in channel) for channel in colours)
    lights = [np.broadcast_to(a[..., 0, 0], (batch, *shape)).ravel() for a in (ambient, cloudy)]
    _blend_views(canvas.reshape(-1, 3, height * width), single, flat, *lights)
    return canvas


def _flatten_views(array: Any) -> Any:
    """(B, C, F, ...) as (B * C * F, ...), the same memory where it is contiguous."""
    return np.ascontiguousarray(array).reshape(-1, *array.shape[3:])


def _flatten_faces(lines: Small, seen: Any, box: Any) -> tuple[Any, ...]:
    return (
        _flatten_views(lines),
        _flatten_views(seen),
        _flatten_views(box[0]),
        _flatten_views(box[1]),
    )


def _compile(loops: Callable[..., Any]) -> Callable[..., Any]:
    if numba is None:
        return loops
    try:
        return numba.njit(cache=True, nogil=True)(loops)
    except RuntimeError:  # no cache folder: every process compiles, for seconds
        return numba.njit(nogil=True)(loops)


@_compile
def _clip(value, least, most):
    return min(max(value, least), most)


@_compile
def _find_range(low, high, many):
    """First pixel from `low` on, and the one after the last pixel up to `high`."""
    first, end = _clip(np.ceil(low), 0, many), _clip(np.floor(high) + 1, 0, many)
    return int(first), int(end)


@_compile
def _find_box(low, high, u, v):
    """Ranges of columns and of rows between two corners (x, y)."""
    columns = _find_range(low[0], high[0], len(u))
    return columns, _find_range(low[1], high[1], len(v))


@_compile
def _cover_strip(first, second):
    """Share of a pixel between two opposite edges, from its distances to them."""
    both = _clip(first, _ZERO, _ONE) + _clip(second, _ZERO, _ONE)
    return max(both - _ONE, _ZERO)


@_compile
def _cover_row(cover, edges, u, v):
    """Share of the pixels of a row that a quadrilateral covers."""
    a, b, c, d = edges[0, 0], edges[1, 0], edges[2, 0], edges[3, 0]
    at_a = edges[0, 1] * v + (edges[0, 2] + _HALF)
    at_b = edges[1, 1] * v + (edges[1, 2] + _HALF)
    at_c = edges[2, 1] * v + (edges[2, 2] + _HALF)
    at_d = edges[3, 1] * v + (edges[3, 2] + _HALF)
    for i in range(len(u)):
        along = _cover_strip(a * u[i] + at_a, c * u[i] + at_c)
        cover[i] = along * _cover_strip(b * u[i] + at_b, d * u[i] + at_d)


@_compile
def _add_cover(total, lines, seen, low, high, u, v):
    """Cover of all faces of each view."""
    cover = np.empty_like(u)
    for view in range(len(seen)):
        for face in np.flatnonzero(seen[view]):
            (left, right), rows = _find_box(low[view, face], high[view, face], u, v)
            for row in range(*rows):
                _cover_row(cover, lines[view, face], u[left:right], v[row])
                line = total[view, row, left:right]  # the loop over a slice is vectorized
                for i in range(len(line)):
                    line[i] += cover[i]


@_compile
def _paint_views(canvas, lines, seen, low, high, colours, u, v):
    """All faces of each view, one over the other."""
    cover = np.empty_like(u)
    for view in range(len(seen)):
        for face in np.flatnonzero(seen[view]):
            (left, right), rows = _find_box(low[view, face], high[view, face], u, v)
            paint = colours[view, face]
            for row in range(*rows):
                _cover_row(cover, lines[view, face], u[left:right], v[row])
                for channel in range(3):
                    line = canvas[view, channel, row, left:right]
                    colour = paint[channel]
                    for i in range(len(line)):
                        line[i] += cover[i] * (colour - line[i])


@_compile
def _blend_views(canvas, colours, shares, ambient, cloudy):
    """Sky and ground of each view and channel."""
    pattern, verge, asphalt, white, lit, clear, thin, hills, below = shares
    for view in range(len(canvas)):
        for channel in range(3):
            meadow, gravel, tar, paint, haze, zenith, ridge, cloud = colours[channel]
            dim, grey, free = haze * ambient[view], cloud * cloudy[view], _ONE - cloudy[view]
            line = canvas[view, channel]
            for i in range(len(line)):
                colour = meadow * (_ONE + pattern[view, i])
                colour = colour + verge[view, i] * (gravel - colour)
                colour = colour + asphalt[view, i] * (tar - colour)
                colour = colour + white[view, i] * (paint - colour)
                colour = colour * lit[view, i] + dim * (_ONE - clear[view, i])
                sky = haze * thin[view, i] + zenith * (_ONE - thin[view, i])
                sky = sky + hills[view, i] * (ridge - sky)
                sky = (sky * free + grey) * ambient[view]
                line[i] = sky + below[view, i] * (colour - sky)
