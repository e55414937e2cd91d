"""Comparison with reference arrays of a recording: metrics, poses at t0, choice of frames."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..data_types import GRID_S
from ..geometry import find_latest_at_or_before, to_local
from ..metrics import displacement as metrics
from .comparison import ComparisonRow, compare, read_fields


def compare_metrics(folder: Path) -> Iterator[ComparisonRow]:
    """ADE, minADE and corner distance; the standard deviation is over sets."""
    stage, fields = 'metrics', read_fields(folder / 'metrics.npz')
    xyz, rot = fields['pred_xyz'], fields['pred_rot']  # (batch, sets, samples, 64, 3 ...)
    true_xyz, true_rot = fields['gt_xyz'][:, None], fields['gt_rot'][:, None]
    one = metrics.ade(xyz[..., :2], true_xyz[:, :, None, :, :2])
    yield compare(stage, 'ADE', one, fields, 'ade', 1e-4)
    values = {
        'corner:corner_distance': metrics.corner_distance(xyz, rot, true_xyz, true_rot),
        'minade:min_ade': metrics.ade_of_whole_best(xyz[..., :2], true_xyz[..., :2]),
    }
    for key in fields:
        horizon = key.partition('by_t=')[2]
        if horizon and not key.endswith('_std'):
            count = round(float(horizon) / GRID_S)
            values[key] = metrics.ade_of_whole_best(xyz[..., :2], true_xyz[..., :2], count)
    for key, per_set in values.items():
        name = key.partition(':')[2]
        yield compare(stage, name, per_set.mean(-1), fields, key, 1e-4)
        yield compare(stage, f'{name}, spread', per_set.std(-1), fields, f'{key}_std', 1e-4)


def compare_t0_frame(folder: Path) -> Iterator[ComparisonRow]:
    """World poses to the t0 frame, and the timestamps around t0."""
    stage, fields = 't0 frame', read_fields(folder / 't0_frame.npz')
    position, quaternion = fields['world_xyz'], fields['world_quat_xyzw']
    t0 = int(fields['t0_index'])
    for name in ('hist', 'fut'):
        count = len(fields[f'{name}_xyz'])
        start = t0 + 1 - (count if name == 'hist' else 0)  # the last history pose is at t0
        part = slice(start, start + count)
        xyz, rot = to_local(position[t0], quaternion[t0], position[part], quaternion[part])
        yield compare(stage, f'{name} positions', xyz, fields, f'{name}_xyz', 1e-4)
        yield compare(stage, f'{name} rotations', rot, fields, f'{name}_rot', 1e-4)
    t0_us = int(fields['t0_us'])
    for name, first in (('history', -1), ('future', 0), ('image', -1)):
        key = f'{name}_timestamps'
        if key in fields:
            count = len(fields[key])
            steps = np.arange(count) - (count - 1) if first else np.arange(1, count + 1)
            yield compare(stage, key.replace('_', ' '), t0_us + steps * 100_000, fields, key, 0)


def compare_frame_picking(folder: Path) -> Iterator[ComparisonRow]:
    """The reference loader's choice of frames: the latest at or before each requested time."""
    stage, fields = 'frame picking', read_fields(folder / 't0_frame.npz')
    stamps = fields['camera_frame_timestamps']
    picked = find_latest_at_or_before(stamps, fields['image_timestamps'])
    yield compare(stage, 'frame index', picked, fields, 'picked_frame_index', 0)
    yield compare(stage, 'frame time', stamps[picked], fields, 'picked_timestamps', 0)
    if 'all_camera_frame_timestamps' not in fields:
        return
    order = np.sort(fields['asked_cameras'])
    yield compare(stage, 'order of the cameras', order, fields, 'camera_indices', 0)
    stamps = fields['all_camera_frame_timestamps']
    rows = [find_latest_at_or_before(own, fields['image_timestamps']) for own in stamps]
    yield compare(stage, 'frame index, all', np.stack(rows), fields, 'all_picked_frame_index', 0)
    times = np.take_along_axis(stamps, np.stack(rows), 1)
    yield compare(stage, 'frame time, all', times, fields, 'all_picked_timestamps', 0)
    relative = (times - times.min()) / 1e6
    yield compare(stage, 'relative times', relative, fields, 'relative_timestamps', 1e-6)
