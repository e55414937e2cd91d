"""A predicted path drawn onto the road of a camera image. Knows no bag and no report."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from .. import geometry
from ..rig import CameraCalibration

Color = tuple[int, int, int]
Floats = NDArray[np.float64]
Picture = NDArray[np.uint8]

CHOSEN, DRIVEN, SAMPLE = (64, 140, 255), (40, 210, 130), (255, 255, 255)  # RGB
WIDTH_PX = 960  # smaller images are enlarged, so that lines are smooth
HALF_WIDTH_M = 0.95
NEAR_M = 0.5  # points nearer to the image plane are cut off
STEP_M = 0.25
SHIFT = 4  # fractional bits of a drawn pixel
JPEG_QUALITY = 82


def draw_paths(
    image: Picture,
    calibration: CameraCalibration,
    ground_z_m: float,
    chosen: Floats,
    others: Sequence[Floats],
    driven: Floats,
) -> Picture:
    """Image (H, W, 3) RGB with the chosen path as a band, the others and the driven one as lines.

    Paths are (N, >=2) x, y m in the t0 frame and start at the vehicle; the road is taken as flat.
    """
    picture = _enlarge(image)
    camera = _Camera(calibration, ground_z_m, picture.shape[1] / calibration.width)
    for other in others:
        _draw_line(picture, camera.project(_resample(other)), SAMPLE, 1, 0.45)
    dense = _resample(chosen)
    left, right = (camera.project(dense + side) for side in _find_sides(dense))
    _draw_band(picture, left, right)
    _draw_line(picture, camera.project(_resample(driven)), DRIVEN, 3, 0.95)
    return picture


def to_jpeg(image: Picture) -> bytes:
    """JPEG file of an RGB image, enlarged as in `draw_paths`."""
    bgr = cv2.cvtColor(_enlarge(image), cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return data.tobytes()


class _Camera:
    """From the road in the t0 frame to pixels of an image that is scaled by `scale`."""

    def __init__(self, calibration: CameraCalibration, ground_z_m: float, scale: float) -> None:
        c = calibration
        self.position_m = np.array(c.position_m)
        self.base_from_camera = geometry.rotation_matrix(c.quaternion_xyzw)
        self.ground_z_m = ground_z_m
        center = ((c.cx + 0.5) * scale - 0.5, (c.cy + 0.5) * scale - 0.5)
        self.matrix = np.array(
            [[c.fx * scale, 0, center[0]], [0, c.fy * scale, center[1]], [0, 0, 1]]
        )
        self.distortion = np.array(c.distortion or (0.0,) * 4)
        corners = np.array([[0, 0], [c.width, 0], [0, c.height], [c.width, c.height]], np.float64)
        rays = cv2.undistortPoints(corners[None] * scale, self.matrix, self.distortion)
        # a little outside the image a distortion model folds over, a pinhole never does
        self.reach = float(np.abs(rays).max()) * (1.2 if any(c.distortion) else 4.0)

    def project(self, xy: Floats) -> Floats:
        """Pixels (N, 2) of points on the road; NaN where the camera cannot see."""
        road = np.column_stack([xy[:, :2], np.full(len(xy), self.ground_z_m)])
        points = (road - self.position_m) @ self.base_from_camera
        ahead = points[:, 2] > NEAR_M
        rays = points[:, :2] / np.where(ahead, points[:, 2], np.inf)[:, None]
        seen = ahead & (np.abs(rays).max(axis=1, initial=0.0) < self.reach)
        pixels = np.full((len(xy), 2), np.nan)
        if seen.any():
            zero = np.zeros(3)
            found, _ = cv2.projectPoints(points[seen], zero, zero, self.matrix, self.distortion)
            pixels[seen] = found[:, 0]
        return pixels


def _enlarge(image: Picture) -> Picture:
    factor = max(WIDTH_PX / image.shape[1], 1.0)
    size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.uint8)


def _resample(path: Floats) -> Floats:
    """Points (N, 2) every STEP_M along a path, from the vehicle on."""
    xy = np.vstack([np.zeros((1, 2)), path[:, :2]])
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(xy, axis=0), axis=1))])
    at = np.linspace(0.0, along[-1], max(int(along[-1] / STEP_M), 1) + 1)
    return np.column_stack([np.interp(at, along, xy[:, axis]) for axis in (0, 1)])


def _find_sides(path: Floats) -> tuple[Floats, Floats]:
    """Offsets (N, 2) from the points of a resampled path to its left and right edge."""
    tangent = np.gradient(path, axis=0)
    length = np.linalg.norm(tangent, axis=1, keepdims=True)
    tangent = np.where(length > 1e-6, tangent / np.maximum(length, 1e-6), [1.0, 0.0])
    normal = np.column_stack([-tangent[:, 1], tangent[:, 0]]) * HALF_WIDTH_M
    return normal, -normal


def _draw_band(picture: Picture, left: Floats, right: Floats) -> None:
    """Fill between the edges, half transparent, and trace them."""
    mask = np.zeros(picture.shape[:2], np.uint8)
    quads = np.stack([left[:-1], left[1:], right[1:], right[:-1]], axis=1)  # (N - 1, 4, 2)
    for quad in quads[np.isfinite(quads).all(axis=(1, 2))]:
        cv2.fillConvexPoly(mask, _to_fixed_point(quad), 255, cv2.LINE_AA, SHIFT)
    _blend(picture, mask, CHOSEN, 0.45)
    for edge in (left, right):
        _draw_line(picture, edge, CHOSEN, 2, 0.9)


def _draw_line(picture: Picture, pixels: Floats, color: Color, width: int, alpha: float) -> None:
    mask = np.zeros(picture.shape[:2], np.uint8)
    for start, end in zip(pixels, pixels[1:], strict=False):
        if np.isfinite(start).all() and np.isfinite(end).all():
            ends = _to_fixed_point(np.stack([start, end]))
            cv2.line(mask, ends[0], ends[1], 255, width, cv2.LINE_AA, SHIFT)
    _blend(picture, mask, color, alpha)


def _to_fixed_point(pixels: Floats) -> NDArray[np.int32]:
    """OpenCV's fixed-point pixels, bounded so that they cannot overflow."""
    return np.clip(np.round(pixels * 2**SHIFT), -(2**24), 2**24).astype(np.int32)


def _blend(picture: Picture, mask: Picture, color: Color, alpha: float) -> None:
    share = mask[..., None] * (alpha / 255)
    picture[...] = np.round(picture * (1 - share) + np.array(color) * share)
