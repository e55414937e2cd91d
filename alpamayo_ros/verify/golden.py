"""Comparison with reference tensors, stage by stage: the parts that need no complete model.

The folder's layout and the tolerances are those of test/golden/README.md. A file that is absent
is a failed row; a field that is absent is not checked, and the row says so. Sizes come from the
files. Knows no command line; the model's stages are in golden_model.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
import torch
from torch import Tensor

from ..data_types import GRID_S
from ..errors import BadInput
from ..files import read_json
from ..geometry import find_latest_at_or_before, to_local
from ..metrics import displacement as metrics
from ..model.action_expert import PerWaypointActionInProjV2
from ..model.action_space import UnicycleAccelCurvatureActionSpace
from ..model.flow_matching import (
    FlowMatching,
    VelocityField,
    guide_field,
    make_training_pair,
)
from ..model.prompt.trajectory_tokenizer import (
    DeltaTrajectoryTokenizer,
    DiscreteTrajectoryTokenizer,
)
from .comparison import ComparisonRow, Fields, compare, read_fields, read_table, tensors
from .golden_tables import compare_names, compare_tables, compare_vocabulary

STANDING_STEP_M = 0.01  # a heading fitted to shorter steps is noise
# Statistics and bounds of R1; the reference trajectories use them whatever model/config.json says.
R1_ACTIONS: dict[str, Any] = {
    'accel_mean': 0.02902694707164455,
    'accel_std': 0.6810426736454882,
    'curvature_mean': 0.0002692167976330542,
    'curvature_std': 0.026148280660833106,
    'curvature_bounds': (-0.33, 0.33),
}


def compare_action_space(folder: Path) -> Iterator[ComparisonRow]:
    """Trajectories to actions and back, in float32 and float64."""
    stage, fields = 'action space', read_fields(folder / 'action_space.npz')
    space = UnicycleAccelCurvatureActionSpace(**R1_ACTIONS)
    history = tensors(fields, 'hist_xyz', 'hist_rot')
    future = tensors(fields, 'fut_xyz', 'fut_rot')
    yield compare(stage, 'v0', space.v0(*history), fields, 'v0', 1e-4)
    action, states = space.traj_to_action(*history, *future)
    yield compare(stage, 'trajectory to action', action, fields, 'action_from_traj', 2e-3)
    yield compare(stage, 'fitted states', states, fields, 'states_v_accel_theta', 2e-3)
    if 'action_from_traj' in fields:
        (given,) = tensors(fields, 'action_from_traj')
        inside = space.is_within_bounds(given)
        yield compare(stage, 'within bounds', inside, fields, 'within_bounds', 0)
        xyz, rot = space.action_to_traj(given, *history)
        yield compare(stage, 'round trip xyz', xyz, fields, 'roundtrip_xyz', 1e-3)
        yield compare(stage, 'round trip rotation', rot, fields, 'roundtrip_rot', 1e-4)
    if 'random_action' in fields:
        (given,) = tensors(fields, 'random_action')
        for suffix, rounded in (('', space), ('_bf16stats', _rounded(space))):
            xyz, rot = rounded.action_to_traj(given, *history)
            yield compare(stage, f'integration{suffix}', xyz, fields, f'random_xyz{suffix}', 1e-3)
            key = f'random_rot{suffix}'
            yield compare(stage, f'integration rotation{suffix}', rot, fields, key, 1e-4)
    wide = space.double()
    wide.load_state_dict({k: torch.tensor(R1_ACTIONS[k]).double() for k in wide.state_dict()})
    history, future = [x.double() for x in history], [x.double() for x in future]
    yield compare(stage, 'v0, float64', wide.v0(*history), fields, 'v0_f64', 1e-6)
    action, _ = wide.traj_to_action(*history, *future)
    key = 'action_from_traj_f64'
    yield compare(stage, 'trajectory to action, float64', action, fields, key, 1e-6)


def compare_action_projection(folder: Path) -> Iterator[ComparisonRow]:
    """The in-projection of noisy actions, with exact and rounded frequencies."""
    stage, path = 'action projection', folder / 'action_in_proj.safetensors'
    try:
        with safe_open(path, framework='pt') as file:
            cases = json.loads((file.metadata() or {}).get('cfg', '[]'))
            found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInput(f'{path}: not a readable safetensors file: {error}') from None
    for i, arguments in enumerate(cases):
        module = PerWaypointActionInProjV2(**arguments)
        prefix = f'{i}.weights.'
        module.load_state_dict(
            {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}
        )
        fields = {k: v.numpy() for k, v in found.items()}
        y = module(found[f'{i}.x'], found[f'{i}.t'])
        yield compare(stage, f'module {i}', y, fields, f'{i}.y', 1e-5)
        for name, buffer in module.named_buffers():
            if name.endswith('freqs'):
                buffer.copy_(buffer.bfloat16().float())
        y = module(found[f'{i}.x'], found[f'{i}.t'])
        yield compare(stage, f'module {i}, bf16 freqs', y, fields, f'{i}.y_freqs_bf16', 1e-5)


def compare_flow_matching(folder: Path) -> Iterator[ComparisonRow]:
    """Euler integration of the closed-form field, and the training pair."""
    stage, fields = 'flow matching', read_fields(folder / 'flow_matching.npz')
    a, noise = tensors(fields, 'A', 'noise')
    w = torch.linspace(0, 1, noise.shape[1]).view(1, -1, 1)

    def field(x: Tensor, t: Tensor) -> Tensor:
        return (x @ a.T) * (1 - t) + torch.sin(3 * t + w) - 0.1 * x**2 * t

    flow = FlowMatching()
    counts = sorted(int(k.partition('.')[2]) for k in fields if k.startswith('final.'))
    for count in counts:
        final = flow.sample(noise, field, count)
        every = torch.stack(
            [x for x, _, _ in flow.iterate_steps(noise, field, count)] + [final], 1
        )
        yield compare(
            stage, f'times, {count}', flow.list_times(count), fields, f'times.{count}', 1e-6
        )
        yield compare(stage, f'states, {count}', every, fields, f'all_steps.{count}', 1e-5)
        yield compare(stage, f'result, {count}', final, fields, f'final.{count}', 1e-5)
    yield from _compare_temperatures(fields, field, noise)
    if 'B' in fields:
        yield from _compare_guidance(fields, field, noise)
    if 'train.t' in fields:
        x, start, t = tensors(fields, 'train.x', 'train.noise', 'train.t')
        noisy, _ = make_training_pair(x, start, t)
        yield compare(stage, 'training pair', noisy, fields, 'train.noisy_x', 0)


def _run_flow(noise: Tensor, field: VelocityField, count: int, temperature: float = 1.0) -> Tensor:
    """All states (R, steps + 1, T, 2) of an integration."""
    flow = FlowMatching()
    states = [x for x, _, _ in flow.iterate_steps(noise, field, count, temperature)]
    return torch.stack([*states, flow.sample(noise, field, count, temperature)], 1)


def _compare_temperatures(
    fields: Fields, field: VelocityField, noise: Tensor
) -> Iterator[ComparisonRow]:
    """States for each temperature of the noise; keys end in STEPS.TEMPERATURE."""
    prefix = 'temperature.all_steps.'
    for key in sorted(k for k in fields if k.startswith(prefix)):
        count, _, temperature = key.removeprefix(prefix).partition('.')
        states = _run_flow(noise, field, int(count), float(temperature))
        yield compare('flow matching', f'temperature {temperature}', states, fields, key, 1e-5)


def _compare_guidance(
    fields: Fields, field: VelocityField, noise: Tensor
) -> Iterator[ComparisonRow]:
    """States for each guidance weight; keys end in STEPS.WEIGHT."""
    (b,) = tensors(fields, 'B')
    w = torch.linspace(0, 1, noise.shape[1]).view(1, -1, 1)

    def both(x: Tensor, t: Tensor) -> Tensor:
        (x, other), (t, _) = x.chunk(2), t.chunk(2)
        without = (other @ b.T) * (1 - t) + torch.cos(2 * t + w) - 0.05 * other**2 * t
        return torch.cat([field(x, t), without])

    prefix = 'guided.all_steps.'
    for key in sorted(k for k in fields if k.startswith(prefix)):
        count, _, weight = key.removeprefix(prefix).partition('.')
        states = _run_flow(noise, guide_field(both, float(weight)), int(count))
        yield compare('flow matching', f'guidance weight {weight}', states, fields, key, 1e-5)


def compare_history_tokenizer(folder: Path) -> Iterator[ComparisonRow]:
    """History positions to indices and back, in all variants."""
    stage, fields = 'history tokenizer', read_fields(folder / 'delta_tokenizer.npz')
    variants = read_table(folder / 'delta_tokenizer_variants.json')
    xyz, rot = tensors(fields, 'hist_xyz', 'hist_rot')
    for name, arguments in variants.items():
        tokenizer = DeltaTrajectoryTokenizer(**arguments)
        ids = tokenizer.encode(xyz, rot)
        yield compare(stage, f'{name} ids', ids, fields, f'{name}.ids', 0)
        back, turned = tokenizer.decode(ids)
        yield compare(stage, f'{name} positions', back, fields, f'{name}.decoded_xyz', 1e-4)
        moving = _moving(back)
        key = f'{name}.decoded_rot'
        known = {key: fields[key][moving]} if key in fields else {}
        yield compare(stage, f'{name} rotations', turned[moving], known, key, 1e-3)
    if 'clamped.hist_xyz' in fields:
        (far,) = tensors(fields, 'clamped.hist_xyz')
        ids = DeltaTrajectoryTokenizer().encode(far, rot[: len(far)])
        yield compare(stage, 'saturated ids', ids, fields, 'clamped.ids', 0)


def compare_future_tokenizer(folder: Path) -> Iterator[ComparisonRow]:
    """Future trajectories to indices and back; a float32 solve may move an index by one."""
    stage, fields = 'future tokenizer', read_fields(folder / 'discrete_tokenizer.npz')
    trajectories = read_fields(folder / 'action_space.npz')
    history = tensors(trajectories, 'hist_xyz', 'hist_rot')
    future = tensors(trajectories, 'fut_xyz', 'fut_rot')
    tokenizer = DiscreteTrajectoryTokenizer(UnicycleAccelCurvatureActionSpace(**R1_ACTIONS))
    ids = tokenizer.encode(*history, *future)
    yield compare(stage, 'ids, largest step', ids, fields, 'ids', 1)
    if 'ids' in fields and fields['ids'].shape == tuple(ids.shape):
        share = float((ids.numpy() != fields['ids']).mean())
        yield ComparisonRow(stage, 'ids, share that differs', share, 0.005)
        (given,) = tensors(fields, 'ids')
        xyz, rot = tokenizer.decode(history[0], history[1], given)
        yield compare(stage, 'positions', xyz, fields, 'decoded_xyz', 0.05)
        yield compare(stage, 'rotations', rot, fields, 'decoded_rot', 0.05)


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


# Each file of the layout and the stage that reads it.
STAGES: tuple[tuple[str, tuple[str, ...], Callable[[Path], Iterator[ComparisonRow]]], ...] = (
    ('action space', ('action_space.npz',), compare_action_space),
    (
        'history tokenizer',
        ('delta_tokenizer.npz', 'delta_tokenizer_variants.json'),
        compare_history_tokenizer,
    ),
    ('future tokenizer', ('discrete_tokenizer.npz', 'action_space.npz'), compare_future_tokenizer),
    ('flow matching', ('flow_matching.npz',), compare_flow_matching),
    ('action projection', ('action_in_proj.safetensors',), compare_action_projection),
    (
        'preprocessing',
        ('smart_resize.json', 'config_10b.json', 'text_extract.json', 'replace_padding.json'),
        compare_tables,
    ),
    ('metrics', ('metrics.npz',), compare_metrics),
    ('t0 frame', ('t0_frame.npz',), compare_t0_frame),
    ('frame picking', ('t0_frame.npz',), compare_frame_picking),
    ('state dict', ('state_dict_10b.json', 'config_10b.json'), compare_names),
    ('vocabulary', ('token_ids_10b.json', 'config_10b.json'), compare_vocabulary),
)


# Stages that the reference set of a version lacks: 1.5's repository has no metric, and the ids at
# the full vocabulary came with 1.5.
NOT_IN_VERSION = {'alpamayo_r1': ('vocabulary',), 'alpamayo1_5': ('metrics',)}


def run_stage(
    stage: str,
    folder: Path,
    files: tuple[str, ...],
    run: Callable[[Path], Iterator[ComparisonRow]],
) -> Iterator[ComparisonRow]:
    """The rows of a stage; an absent or unusable file is one failed row.

    A stage that the reference set of the version cannot have gives no row.
    """
    absent = [name for name in files if not (folder / name).is_file()]
    if absent and stage in NOT_IN_VERSION.get(_read_version(folder), ()):
        return
    if absent:
        yield ComparisonRow(stage, ', '.join(absent), np.inf, 0.0, 'expected file is absent')
        return
    try:
        yield from run(folder)
    except BadInput as error:
        yield ComparisonRow(stage, files[0], np.inf, 0.0, str(error))
    except KeyError as error:
        yield ComparisonRow(stage, files[0], np.inf, 0.0, f'the file lacks the input {error}')


def _read_version(folder: Path) -> str:
    """model_type of the folder's full-size config; '' when there is none."""
    path = folder / 'config_10b.json'
    return str(read_json(path).get('model_type', '')) if path.is_file() else ''


def _rounded(space: UnicycleAccelCurvatureActionSpace) -> UnicycleAccelCurvatureActionSpace:
    """The same action space with its statistics as a bf16 release holds them."""
    rounded = UnicycleAccelCurvatureActionSpace(**R1_ACTIONS)
    rounded.load_state_dict({k: v.bfloat16().float() for k, v in space.state_dict().items()})
    return rounded


def _moving(xyz: Tensor) -> Tensor:
    """Bool (B, N): whether a position and its neighbours are at least a centimetre apart."""
    step = (xyz[:, 1:, :2] - xyz[:, :-1, :2]).norm(dim=-1) >= STANDING_STEP_M
    edge = torch.ones_like(step[:, :1])
    return torch.cat([edge, step], 1) & torch.cat([step, edge], 1)
