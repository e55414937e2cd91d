"""Renderer of small pictures from quadrilaterals, with one set of formulas for NumPy and PyTorch.

The functions take `xp`, the module numpy or torch, and arrays of that kind, so that torch is not
imported here. Edges are planes through the camera (Olano and Greer 1997, "Triangle scan conversion
using 2D homogeneous coordinates"), which needs no near plane. The cover of a pixel is that of the
strips between opposite edges, which is exact for strips thinner than a pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ..weather import ASPHALT, HAZE, MEADOW, VERGE, WHITE, ZENITH, compute_illumination, make_grain

_NEAR_M = 0.05
_LEAST_PX2 = 0.1  # smaller faces are left out
_HILLS = np.array([150.0, 152.0, 128.0])
_COLOURS = np.stack(  # rows are channels, as `blend_background` takes them
    [MEADOW, VERGE, ASPHALT, WHITE, HAZE, ZENITH, _HILLS, HAZE * 0.9], axis=1
).tolist()
_SHADE = 0.41  # share of the light that a shadow takes away at noon


@dataclass(frozen=True)
class RasterScene:
    """Content of the pictures of C cameras at F times; float32, with a leading axis B if stacked.

    faces (F, N, 4, 3) m in the base frame of each time, far ones first, counter-clockwise seen
    from outside; colours (F, N, 3) BGR as they appear. verge, asphalt, white, dark (F, M, 4, 3)
    m: what lies on the ground. place (F, 4): x, y m, cosine and sine of the heading, for texture.
    to_optical (C, F, 3, 3): rotation from base; mount (C, 3) m; focal (C, 2) and centre (C, 2) px.
    weather (6,): ambient, haze_m, rain, noise, gain, sun. columns (W,), rows (H,): their numbers.
    """

    faces: Any
    colours: Any
    verge: Any
    asphalt: Any
    white: Any
    dark: Any
    place: Any
    to_optical: Any
    mount: Any
    focal: Any
    centre: Any
    weather: Any
    columns: Any
    rows: Any

    def map(self, change: Callable[[Any], Any]) -> RasterScene:
        """Apply a function to every array, such as a copy to a device."""
        return RasterScene(*(change(getattr(self, field.name)) for field in fields(self)))


def stack(scenes: list[RasterScene]) -> RasterScene:
    """Stack scenes along a new axis B; missing quadrilaterals are zero and never seen."""
    stacked = []
    for field in fields(RasterScene):
        arrays = [getattr(scene, field.name) for scene in scenes]
        if arrays[0].ndim > 2 and field.name != 'to_optical':
            most = max(array.shape[1] for array in arrays)
            arrays = [
                np.pad(array, [(0, 0), (0, most - array.shape[1])] + [(0, 0)] * (array.ndim - 2))
                for array in arrays
            ]
        stacked.append(np.stack(arrays))
    return RasterScene(*stacked)


def compute_cover(xp: Any, lines: Any, seen: Any, box: Any, u: Any, v: Any) -> Any:
    """Share (B, C, F, H, W) of each pixel that disjoint quadrilaterals cover together.

    lines (B, C, F, N, 4, 3), seen (B, C, F, N) and box, two of (B, C, F, N, 2): see `_edges`. u
    (W,) and v (H, 1): coordinates of the pixels.
    """
    if xp is np:
        total = np.zeros((*seen.shape[:3], len(v), len(u)), np.float32)
        for view, _, part, cover in _iterate_patches(lines, seen, box, u, v):
            total[view][part] += cover
        return total.clip(0.0, 1.0)
    parts = _pack_seen(xp, seen, seen, lines, *box)
    total = seen.sum(-1)[..., None, None] * (u + v) * 0.0
    for slot in range(parts[0].shape[-1]):
        total = total + _cover_slot(parts, slot, u, v)
    return total.clip(0.0, 1.0)


def paint_faces(
    xp: Any, canvas: Any, lines: Any, seen: Any, box: Any, colours: Any, u: Any, v: Any
) -> Any:
    """Paint quadrilaterals over a canvas (B, C, F, 3, H, W), one after the other.

    colours (B, C, F, N, 3); the rest as for `compute_cover`.
    """
    if xp is np:
        for view, number, part, cover in _iterate_patches(lines, seen, box, u, v):
            patch = canvas[view][:, part[0], part[1]]
            patch += cover * (colours[view][number][:, None, None] - patch)
        return canvas
    *parts, colours = _pack_seen(xp, seen, seen, lines, *box, colours)
    for slot in range(colours.shape[-2]):
        colour = colours[..., slot, :, None, None]
        canvas = canvas + _cover_slot(parts, slot, u, v)[..., None, :, :] * (colour - canvas)
    return canvas


def blend_background(
    xp: Any, colours: Any, shares: Sequence[Any], ambient: Any, cloudy: Any
) -> Any:
    """Sky and ground (B, C, F, 3, H, W) of colours (3, 8), one row for each channel.

    shares, nine of (B, C, F, H, W): where which colour is seen, and in what light; ambient, cloudy
    (B, 1, 1, 1, 1): see `_background`.
    """
    pattern, verge, asphalt, white, lit, clear, thin, hills, below = shares
    channels = []
    for meadow, gravel, tar, paint, haze, zenith, ridge, cloud in colours:
        colour = meadow * (1.0 + pattern)
        colour = colour + verge * (gravel - colour)
        colour = colour + asphalt * (tar - colour)
        colour = colour + white * (paint - colour)
        colour = colour * lit + haze * ambient * (1.0 - clear)
        sky = haze * thin + zenith * (1.0 - thin)
        sky = sky + hills * (ridge - sky)
        sky = (sky * (1.0 - cloudy) + cloud * cloudy) * ambient
        channels.append(sky + below * (colour - sky))
    return xp.stack(channels, -3)


def render(
    xp: Any,
    scenes: RasterScene,
    noise: Any,
    compute_cover: Callable[..., Any] = compute_cover,
    paint_faces: Callable[..., Any] = paint_faces,
    blend_background: Callable[..., Any] = blend_background,
) -> Any:
    """Pictures (B, C, F, 3, H, W) uint8 RGB of stacked scenes.

    noise: (B, C, F, H, W) float32 of deviation 1. compute_cover, paint_faces, blend_background:
    the functions of these names, or faster twins of them.
    """
    u, v = scenes.columns[0], scenes.rows[0][:, None]
    layers = [
        compute_cover(xp, *_project_edges(xp, scenes, quads, two_sided=True), u, v)
        for quads in (scenes.verge, scenes.asphalt, scenes.white, scenes.dark)
    ]
    canvas = blend_background(xp, _COLOURS, *_compute_shares(xp, scenes, layers, u, v))
    lines, seen, box = _project_edges(xp, scenes, scenes.faces, two_sided=False)
    colours = xp.broadcast_to(scenes.colours[:, None], (*seen.shape, 3))
    canvas = paint_faces(xp, canvas, lines, seen, box, colours, u, v)
    _, _, rain, deviation, gain, _ = _split_weather(scenes)
    canvas = canvas * gain[..., None, :, :] + make_grain(noise, deviation, rain)[..., None, :, :]
    return xp.asarray(canvas.clip(0.0, 255.0), dtype=xp.uint8)[..., [2, 1, 0], :, :]


def _split_weather(scenes: RasterScene) -> tuple[Any, ...]:
    """Ambient, haze, rain, noise, gain and sun, each with axes (B, 1, 1, 1, 1)."""
    return tuple(scenes.weather[:, i, None, None, None, None] for i in range(6))


def _compute_shares(
    xp: Any, scenes: RasterScene, layers: list[Any], u: Any, v: Any
) -> tuple[tuple[Any, ...], Any, Any]:
    """Shares (B, C, F, H, W) of the colours of sky and ground; daylight; cloudiness."""
    verge, asphalt, white, dark = layers
    ambient, haze_m, rain, _, _, sun = _split_weather(scenes)
    rx, ry, rz = _compute_rays(scenes, u, v)
    level = (rx * rx + ry * ry) ** 0.5
    focal = scenes.focal[:, :, None, None, None]
    height = scenes.mount[:, :, None, None, None, 2]
    below = (0.5 - rz / level * focal[..., 1]).clip(0.0, 1.0)
    reach = height / (-rz).clip(0.0015)
    ahead = scenes.mount[:, :, None, None, None, 0] + reach * rx
    left = scenes.mount[:, :, None, None, None, 1] + reach * ry
    distance = reach * level
    clear = xp.exp(-distance / haze_m)
    lit = compute_illumination(ambient, ahead, left) * (1.0 - _SHADE * sun * dark) * clear
    pattern = _compute_pattern(xp, scenes, ahead, left) * xp.exp(-distance / 14.0)
    elevation = xp.arctan(rz / level)
    thin = (1.0 - (elevation / 1.1).clip(0.0, 1.0)) ** 3
    hills = 0.6 * (1.2 - abs(elevation) / 0.02).clip(0.0, 1.0)
    cloudy = 0.8 * xp.sign(rain)
    shares = (pattern, verge, asphalt, white, lit, clear, thin, hills, below)
    return shares, ambient, cloudy


def _compute_rays(scenes: RasterScene, u: Any, v: Any) -> tuple[Any, Any, Any]:
    """View directions in the base frame, three of (B, C, F, H, W)."""
    focal, centre = scenes.focal[:, :, None, None, None], scenes.centre[:, :, None, None, None]
    across = (u - centre[..., 0]) / focal[..., 0]
    down = (v - centre[..., 1]) / focal[..., 1]
    rows = scenes.to_optical[..., None, None]  # its columns are the axes of base
    x, y, z = (
        rows[..., 0, i, :, :] * across + rows[..., 1, i, :, :] * down + rows[..., 2, i, :, :]
        for i in range(3)
    )
    return x, y, z


def _compute_pattern(xp: Any, scenes: RasterScene, ahead: Any, left: Any) -> Any:
    """Patches of the meadow, fixed in the world."""
    x, y, cos, sin = (scenes.place[:, None, :, i, None, None] for i in range(4))
    east, north = x + cos * ahead - sin * left, y + sin * ahead + cos * left
    return 0.1 * xp.sin(1.1 * east + 0.6 * north) * xp.sin(0.7 * east - 1.3 * north)


def _project_edges(
    xp: Any, scenes: RasterScene, quads: Any, two_sided: bool
) -> tuple[Any, Any, Any]:
    """Lines (B, C, F, N, 4, 3), whether a face may be seen (B, C, F, N), and its bounding box.

    A line gives the distance in pixels of (u, v, 1) from an edge, positive inside. The box is two
    corners (B, C, F, N, 2) in pixels.
    """
    away = quads[:, None] - scenes.mount[:, :, None, None, None]  # (B, C, F, N, 4, 3)
    turn = scenes.to_optical[:, :, :, None, None]
    x, y, z = (  # no matrix product: on a GPU it may run in less than float32
        away[..., 0] * turn[..., i, 0] + away[..., 1] * turn[..., i, 1]
        + away[..., 2] * turn[..., i, 2]
        for i in range(3)
    )  # fmt: skip
    after = [1, 2, 3, 0]
    nx = y * z[..., after] - z * y[..., after]
    ny = z * x[..., after] - x * z[..., after]
    nz = x * y[..., after] - y * x[..., after]
    # negative when the face looks at the camera
    volume = x[..., 0] * nx[..., 1] + y[..., 0] * ny[..., 1] + z[..., 0] * nz[..., 1]
    sign = xp.sign(volume)[..., None]
    focal = scenes.focal[:, :, None, None, None]  # (B, C, 1, 1, 1, 2)
    centre = scenes.centre[:, :, None, None, None]
    a, b = nx / focal[..., 0], ny / focal[..., 1]
    c = nz - a * centre[..., 0] - b * centre[..., 1]
    scale = sign / ((a * a + b * b) ** 0.5 + 1e-9)
    front = z > _NEAR_M
    depth = z.clip(_NEAR_M)
    column = focal[..., 0] * x / depth + centre[..., 0]
    row = focal[..., 1] * y / depth + centre[..., 1]
    whole = front.all(-1)
    everywhere = xp.where(whole, 0.0, 1e6)  # a face that reaches behind the camera may be anywhere
    low, high = (xp.stack([extreme(column, -1), extreme(row, -1)], -1)
                 for extreme in (xp.amin, xp.amax))  # fmt: skip
    extent = (high - low)[..., 0] * (high - low)[..., 1] + everywhere
    box = (low - everywhere[..., None] - 0.5, high + everywhere[..., None] + 0.5)
    size = xp.stack([scenes.columns[0, -1] + 1.0, scenes.rows[0, -1] + 1.0])
    near = ((box[1] > 0.0) & (box[0] < size)).all(-1) & (extent > _LEAST_PX2)
    seen = near & front.any(-1) & (abs(volume) > 1e-7)
    if not two_sided:
        seen = seen & (volume < 0)
    return xp.stack([a * scale, b * scale, c * scale], -1), seen, box


def _cover_pixels(lines: Any, u: Any, v: Any) -> Any:
    """Share (..., h, w) of each pixel that quadrilaterals with lines (..., 4, 3) cover."""
    lines = lines[..., None, None]
    inside = lines[..., 0, :, :] * u + (lines[..., 1, :, :] * v + (lines[..., 2, :, :] + 0.5))
    inside = inside.clip(0.0, 1.0)  # (..., 4, h, w)
    strips = (inside[..., :2, :, :] + inside[..., 2:, :, :] - 1.0).clip(0.0)
    return strips[..., 0, :, :] * strips[..., 1, :, :]


def _cover_slot(parts: Sequence[Any], slot: int, u: Any, v: Any) -> Any:
    """Cover (B, C, F, H, W) of quadrilateral number `slot` of each view."""
    seen, lines, low, high = parts
    at = [edge[..., slot, axis, None, None] for edge in (low, high) for axis in (0, 1)]
    inside = (u >= at[0]) & (v >= at[1]) & (u <= at[2]) & (v <= at[3])
    return _cover_pixels(lines[..., slot, :, :], u, v) * (inside & seen[..., slot, None, None])


def _iterate_patches(
    lines: Any, seen: Any, box: Any, u: Any, v: Any
) -> Iterator[tuple[tuple[int, ...], int, tuple[slice, slice], Any]]:
    """Iterate over seen faces: view, number, part of the picture, cover; NumPy only."""
    low = np.clip(np.ceil(box[0]), 0, (len(u), len(v))).astype(int)
    high = np.clip(np.floor(box[1]) + 1, 0, (len(u), len(v))).astype(int)
    for *view, number in zip(*np.nonzero(seen), strict=True):
        at = (*view, number)
        (left, top), (right, bottom) = low[at].tolist(), high[at].tolist()
        part = (slice(top, bottom), slice(left, right))
        yield tuple(view), number, part, _cover_pixels(lines[at], u[part[1]], v[part[0]])


def _pack_seen(xp: Any, seen: Any, *arrays: Any) -> tuple[Any, ...]:
    """Arrays (B, C, F, N, ...) with the seen faces first, in order, cut after the last one."""
    order = xp.argsort(xp.asarray(~seen, dtype=xp.uint8), dim=-1, stable=True)
    order = order[..., : int(seen.sum(-1).max()) if seen.shape[-1] else 0]
    picked = []
    for array in arrays:
        index = order.reshape(*order.shape, *(1,) * (array.ndim - 4))
        index = xp.broadcast_to(index, (*order.shape, *array.shape[4:]))
        picked.append(xp.take_along_dim(array, index, 3))
    return tuple(picked)
