"""Compares each camera's field of view with the one that the model knows under its name.

The widths are those of the makers' data set, whose features carry them in their names, such as
camera_front_tele_30fov. Knows no messages.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ...rig import CameraCalibration, RigCamera

NOMINAL_DEGREES = {
    'cross_left': 120,
    'front_wide': 120,
    'cross_right': 120,
    'rear_left': 70,
    'rear_tele': 30,
    'rear_right': 70,
    'front_tele': 30,
}
TOLERANCE = 0.25  # of the nominal width: lenses and crops of one name differ by less
WIDEST_RAD = 1.5  # of a half: a pinhole with distortion sees no half circle


def describe_wrong_views(cameras: Iterable[RigCamera]) -> list[str]:
    """A sentence for each camera whose calibration has another horizontal width than expected."""
    found = []
    for camera in cameras:
        if camera.calibration is None:
            continue
        degrees, nominal = measure_view(camera.calibration), NOMINAL_DEGREES[camera.name]
        if abs(degrees - nominal) > TOLERANCE * nominal:
            found.append(
                f'{camera.name}: its calibration sees {degrees:.0f} degrees, the model knows '
                f'{camera.name} with {nominal}'
            )
    return found


def measure_view(calibration: CameraCalibration) -> float:
    """Horizontal field of view in degrees, of the row through the principal point.

    Radial distortion as OpenCV defines it (camera calibration, detailed description); tangential
    and prism terms are left out, as they move the edges by less than TOLERANCE.
    """
    angles = np.linspace(0.0, WIDEST_RAD, 1501)
    x2 = np.tan(angles) ** 2
    k1, k2, _, _, k3, k4, k5, k6 = (*calibration.distortion, *(0.0,) * 8)[:8]
    scale = (1 + x2 * (k1 + x2 * (k2 + x2 * k3))) / (1 + x2 * (k4 + x2 * (k5 + x2 * k6)))
    pixels = calibration.fx * np.tan(angles) * scale
    falls = np.flatnonzero(np.diff(pixels) <= 0)  # behind it the model folds over
    end = int(falls[0]) + 1 if len(falls) else len(pixels)
    left, right = calibration.cx + 0.5, calibration.width - 0.5 - calibration.cx
    return float(np.degrees(np.interp([left, right], pixels[:end], angles[:end]).sum()))
