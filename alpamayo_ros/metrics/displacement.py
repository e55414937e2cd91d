"""Displacement errors: distances of predicted paths from the driven one.

Definitions: docs/model.md section 9, docs/ros-contract.md section 5. Arrays end in (waypoint,
axis); every leading axis is kept, so one call serves one path or a batch of sets of samples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..data_types import GRID_S, WAYPOINTS

HORIZONS_S = (0.5, 1.0, 3.0, 5.0, WAYPOINTS * GRID_S)
BOX_M = (4.0, 3.0, 2.0)  # length, width, height of the box whose corners are compared

Horizons = dict[str, dict[str, float] | None]


def ade(pred_xy: ArrayLike, gt_xy: ArrayLike) -> NDArray[np.float64]:
    """Average displacement: mean over T of the distance of (..., T, 2) to (..., T, 2), in m."""
    return _distance(pred_xy, gt_xy).mean(axis=-1)


def fde(pred_xy: ArrayLike, gt_xy: ArrayLike) -> NDArray[np.float64]:
    """Final displacement: distance at the last of the T waypoints, in m."""
    return _distance(pred_xy, gt_xy)[..., -1]


def select_best_sample(pred_xy: ArrayLike, gt_xy: ArrayLike) -> NDArray[np.int64]:
    """Index of the sample with the smallest ADE over all T waypoints; (..., K, T, 2) to (...)."""
    return ade(pred_xy, np.expand_dims(gt_xy, -3)).argmin(axis=-1)


def min_ade(
    pred_xy: ArrayLike, gt_xy: ArrayLike, waypoints: int | None = None
) -> NDArray[np.float64]:
    """Smallest ADE of K samples over the first `waypoints` (None: all), chosen anew per horizon.

    pred_xy (..., K, T, 2), gt_xy (..., T, 2). The definition of nuScenes and of Waymo's motion
    benchmark. Argoverse 2 takes the ADE of the sample with the smallest final displacement.
    """
    distance = _distance(pred_xy, np.expand_dims(gt_xy, -3))
    return distance[..., :waypoints].mean(axis=-1).min(axis=-1)


def min_fde(
    pred_xy: ArrayLike, gt_xy: ArrayLike, waypoints: int | None = None
) -> NDArray[np.float64]:
    """Smallest displacement of K samples at the last of the first `waypoints` (None: all).

    pred_xy (..., K, T, 2), gt_xy (..., T, 2). nuScenes, Argoverse 2 and Waymo agree on it.
    """
    distance = _distance(pred_xy, np.expand_dims(gt_xy, -3))
    return distance[..., :waypoints][..., -1].min(axis=-1)


def ade_of_whole_best(
    pred_xy: ArrayLike, gt_xy: ArrayLike, waypoints: int | None = None
) -> NDArray[np.float64]:
    """ADE over the first `waypoints` (None: all) of the sample that is best over all T.

    pred_xy (..., K, T, 2), gt_xy (..., T, 2). The definition of the makers of Alpamayo: the sample
    is chosen once, over the whole horizon, and kept for the shorter ones.
    """
    distance = _distance(pred_xy, np.expand_dims(gt_xy, -3))
    index = distance.mean(axis=-1).argmin(axis=-1)[..., None, None]
    return np.take_along_axis(distance, index, axis=-2)[..., 0, :waypoints].mean(axis=-1)


def corner_distance(
    pred_xyz: ArrayLike,
    pred_rot: ArrayLike,
    gt_xyz: ArrayLike,
    gt_rot: ArrayLike,
    size_m: tuple[float, float, float] = BOX_M,
) -> NDArray[np.float64]:
    """Mean distance of the corners of a box carried along both paths, in m.

    pred_xyz (..., K, T, 3), pred_rot (..., K, T, 3, 3), gt_xyz (..., T, 3), gt_rot (..., T, 3, 3).
    The nearest sample is taken for each corner and waypoint before the mean.
    """
    predicted = _place_corners(pred_xyz, pred_rot, size_m)  # (..., K, T, 8, 3)
    true = np.expand_dims(_place_corners(gt_xyz, gt_rot, size_m), -4)
    return np.linalg.norm(predicted - true, axis=-1).min(axis=-3).mean(axis=(-2, -1))


def measure_horizons(samples: ArrayLike, chosen: int, truth: ArrayLike) -> Horizons:
    """Every metric of one t0 by horizon ('0.5' ... '6.4' s); None where truth ends earlier.

    samples (K, 64, >=3) and truth (M, 3): x, y m and yaw rad in the t0 frame, row k at t0 + (k+1)
    * 0.1 s, M <= 64. A horizon counts when truth reaches it within one step; it then ends at the
    last waypoint that truth has. lat_m (left of the driven pose is positive), lon_m (ahead) and
    heading_rad are those of the chosen sample at the horizon; lat^2 + lon^2 = fde^2.
    whole_best_ade_m and whole_best_fde_m are of the sample that is best over the whole horizon,
    and are there only if truth reaches its end. Samples that are not finite count as vehicles that
    stay at t0.
    """
    paths, driven = replace_failed(samples), np.asarray(truth, np.float64)
    count = len(driven)
    is_whole = count >= WAYPOINTS - 1
    best = int(select_best_sample(paths[:, :count, :2], driven[:, :2])) if is_whole else None
    result: Horizons = {}
    for horizon_s in HORIZONS_S:
        end = round(horizon_s / GRID_S)
        length = min(end, count)
        known = length >= end - 1
        result[f'{horizon_s:.1f}'] = (
            _measure_at(paths[:, :length], chosen, best, driven[:length]) if known else None
        )
    return result


def replace_failed(samples: ArrayLike) -> NDArray[np.float64]:
    """Samples (K, 64, >= 3) with those that are not finite replaced by zeros: they stay at t0."""
    paths = np.array(samples, np.float64)
    paths[~np.isfinite(paths).all(axis=(1, 2))] = 0.0
    return paths


def _measure_at(
    samples: NDArray[np.float64], chosen: int, best: int | None, truth: NDArray[np.float64]
) -> dict[str, float]:
    path, true_xy = samples[chosen], truth[:, :2]
    error = path[-1, :3] - truth[-1]
    cos, sin = np.cos(truth[-1, 2]), np.sin(truth[-1, 2])
    found = {
        'ade_m': float(ade(path[:, :2], true_xy)),
        'fde_m': float(fde(path[:, :2], true_xy)),
        'lat_m': float(cos * error[1] - sin * error[0]),
        'lon_m': float(cos * error[0] + sin * error[1]),
        'heading_rad': float(np.arctan2(np.sin(error[2]), np.cos(error[2]))),
        'min_ade_m': float(min_ade(samples[..., :2], true_xy)),
        'min_fde_m': float(min_fde(samples[..., :2], true_xy)),
    }
    if best is not None:
        found['whole_best_ade_m'] = float(ade(samples[best, :, :2], true_xy))
        found['whole_best_fde_m'] = float(fde(samples[best, :, :2], true_xy))
    return found


def _distance(pred_xy: ArrayLike, gt_xy: ArrayLike) -> NDArray[np.float64]:
    difference = np.asarray(pred_xy, np.float64) - np.asarray(gt_xy, np.float64)
    return np.linalg.norm(difference, axis=-1)


def _place_corners(
    xyz: ArrayLike, rot: ArrayLike, size_m: tuple[float, float, float]
) -> NDArray[np.float64]:
    signs = np.stack(np.meshgrid(*[(-0.5, 0.5)] * 3, indexing='ij'), axis=-1).reshape(8, 3)
    offsets = np.einsum('...ij,cj->...ci', np.asarray(rot, np.float64), signs * np.array(size_m))
    return np.asarray(xyz, np.float64)[..., None, :] + offsets  # (..., 8, 3)
