"""Painter of large pictures: projects polygons, clips them at the near plane, fills them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ..camera import Array, PinholeCamera
from .backdrop import Picture

_NEAR_M = 0.2
_SUBPIXEL_BITS = 4


@dataclass(frozen=True)
class View:
    """Pose of a camera in the world frame at one moment."""

    camera: PinholeCamera
    position_m: Array
    world_from_optical: Array

    def optical(self, points_m: Array) -> Array:
        """Points (..., 3) m of the world in the optical frame."""
        return (points_m - self.position_m) @ self.world_from_optical


def draw(
    image: Picture,
    view: View,
    polygons: Array,
    colours: Array,
    below: Array | None = None,
) -> None:
    """Fill convex polygons (N, K, 3) m in list order.

    below: colour under the polygons; those thinner than a pixel are blended with it, because the
    filled polygon is at least a pixel wide.
    """
    optical = view.optical(polygons)
    front = optical[..., 2] > _NEAR_M
    whole = np.all(front, axis=1)
    with np.errstate(divide='ignore', invalid='ignore'):
        pixels = view.camera.project(optical)
    outside = _is_outside(pixels, view.camera) & whole
    if below is not None:
        cover = _measure_thickness_px(pixels)[:, None].clip(0.0, 1.0)
        colours = np.where(whole[:, None], colours * cover + below * (1 - cover), colours)
    fixed = _to_fixed_point(np.where(whole[:, None, None], pixels, 0.0))
    shades = colours.tolist()
    for number in np.flatnonzero(np.any(front, axis=1) & ~outside).tolist():
        corners = fixed[number]
        if not whole[number]:
            corners = _to_fixed_point(view.camera.project(clip_at_near_plane(optical[number])))
        cv2.fillConvexPoly(image, corners, shades[number], cv2.LINE_AA, _SUBPIXEL_BITS)


def fill(
    image: Picture, view: View, outline_m: Array, colour: tuple[float, float, float] | int
) -> None:
    """Fill one polygon (N, 3) m, not necessarily convex."""
    optical = clip_at_near_plane(view.optical(outline_m))
    if len(optical) > 2:
        corners = _to_fixed_point(view.camera.project(optical))
        cv2.fillPoly(image, [corners], colour, cv2.LINE_AA, _SUBPIXEL_BITS)


def clip_at_near_plane(polygon: Array) -> Array:
    """Clip a polygon (N, 3) at the near plane (Sutherland and Hodgman 1974)."""
    following = np.roll(polygon, -1, axis=0)
    inside = polygon[:, 2] > _NEAR_M
    crossing = inside != np.roll(inside, -1)
    corners: list[Array] = []
    for number in np.flatnonzero(inside | crossing):
        start, end = polygon[number], following[number]
        if inside[number]:
            corners.append(start)
        if crossing[number]:
            share = (_NEAR_M - start[2]) / (end[2] - start[2])
            corners.append(start + share * (end - start))
    return np.array(corners).reshape(-1, 3)


def _to_fixed_point(pixels: Array) -> NDArray[np.int32]:
    return np.round(pixels.clip(-1e6, 1e6) * 2**_SUBPIXEL_BITS).astype(np.int32)


def _is_outside(pixels: Array, camera: PinholeCamera) -> NDArray[np.bool_]:
    low, high = pixels.min(axis=1), pixels.max(axis=1)
    size = np.array([camera.width, camera.height])
    return ((high < 0) | (low > size)).any(axis=1)


def _measure_thickness_px(quads: Array) -> Array:
    """Area over length of quadrilaterals (N, 4, 2)."""
    first, second = quads[:, 2] - quads[:, 0], quads[:, 3] - quads[:, 1]
    area = np.abs(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]) / 2
    length = np.maximum(np.hypot(*first.T), np.hypot(*second.T))
    return area / np.maximum(length, 1e-9)
