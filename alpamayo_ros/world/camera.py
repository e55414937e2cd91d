"""The four cameras of the synthetic vehicle: mounting poses and pinhole projection.

Pinhole model without distortion. The optical frame has z along the view, x to the
right and y down; *base* is the rear axle on the ground, x forward, y left, z up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..geometry import multiply, yaw_quaternion

Array = NDArray[np.float64]
_BASE_FROM_LEVEL_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


@dataclass(frozen=True)
class PinholeCamera:
    """One camera: model index, horizontal field of view, pose in base_link.

    yaw_rad is positive to the left, pitch_rad positive downwards.
    """

    name: str
    index: int
    fov_deg: float
    position_m: tuple[float, float, float]
    yaw_rad: float
    pitch_rad: float
    width: int = 640
    height: int = 360

    @property
    def focal_px(self) -> float:
        """Focal length in pixels, equal in x and y."""
        return self.width / 2 / float(np.tan(np.radians(self.fov_deg) / 2))

    @property
    def centre_px(self) -> tuple[float, float]:
        """Principal point; pixel (0, 0) is the middle of the first pixel."""
        return (self.width - 1) / 2, (self.height - 1) / 2

    @property
    def base_from_optical(self) -> Array:
        """Rotation (3, 3) from the optical frame to base."""
        cos_y, sin_y = np.cos(self.yaw_rad), np.sin(self.yaw_rad)
        cos_p, sin_p = np.cos(self.pitch_rad), np.sin(self.pitch_rad)
        yaw = np.array([[cos_y, -sin_y, 0.0], [sin_y, cos_y, 0.0], [0.0, 0.0, 1.0]])
        pitch = np.array([[cos_p, 0.0, sin_p], [0.0, 1.0, 0.0], [-sin_p, 0.0, cos_p]])
        return yaw @ pitch @ _BASE_FROM_LEVEL_OPTICAL

    @property
    def quaternion_xyzw(self) -> Array:
        """Rotation base_from_optical as a unit quaternion (4,)."""
        pitch = np.array([0.0, np.sin(self.pitch_rad / 2), 0.0, np.cos(self.pitch_rad / 2)])
        level = np.array([-0.5, 0.5, -0.5, 0.5])  # _BASE_FROM_LEVEL_OPTICAL
        return multiply(yaw_quaternion(self.yaw_rad), multiply(pitch, level))

    def project(self, optical_m: Array) -> Array:
        """Pixels (..., 2) of points (..., 3) m of the optical frame with positive z."""
        return optical_m[..., :2] / optical_m[..., 2:] * self.focal_px + np.array(self.centre_px)

    def rays(self) -> Array:
        """View direction in base of every pixel, (height, width, 3), 1 along the optical axis."""
        u = (np.arange(self.width) - self.centre_px[0]) / self.focal_px
        v = (np.arange(self.height) - self.centre_px[1]) / self.focal_px
        u, v = np.meshgrid(u, v)
        return np.stack([u, v, np.ones_like(u)], axis=-1) @ self.base_from_optical.T


CAMERAS = (
    PinholeCamera('cross_left', 0, 120.0, (2.2, 0.95, 1.15), np.radians(60.0), np.radians(6.0)),
    PinholeCamera('front_wide', 1, 120.0, (1.75, 0.0, 1.45), 0.0, np.radians(6.0)),
    PinholeCamera('cross_right', 2, 120.0, (2.2, -0.95, 1.15), np.radians(-60.0), np.radians(6.0)),
    PinholeCamera('front_tele', 6, 30.0, (1.75, 0.12, 1.45), 0.0, np.radians(1.0)),
)
