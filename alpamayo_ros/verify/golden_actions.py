"""Comparison with reference tensors: actions, their projection, flow matching, tokenizers."""

from __future__ import annotations

from collections.abc import Iterator
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
import torch
from torch import Tensor

from ..errors import BadInput
from ..model.action_expert import PerWaypointActionInProjV2
from ..model.action_space import UnicycleAccelCurvatureActionSpace
from ..model.flow_matching import FlowMatching, VelocityField, guide_field, make_training_pair
from ..model.prompt.trajectory_tokenizer import (
    DeltaTrajectoryTokenizer,
    DiscreteTrajectoryTokenizer,
)
from .comparison import ComparisonRow, Fields, compare, read_fields, read_table, tensors

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
        for suffix, rounded in (('', space), ('_bf16stats', _round_statistics(space))):
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
        moving = _find_moving(back)
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


def _round_statistics(
    space: UnicycleAccelCurvatureActionSpace,
) -> UnicycleAccelCurvatureActionSpace:
    """The same action space with its statistics as a bf16 release holds them."""
    rounded = UnicycleAccelCurvatureActionSpace(**R1_ACTIONS)
    rounded.load_state_dict({k: v.bfloat16().float() for k, v in space.state_dict().items()})
    return rounded


def _find_moving(xyz: Tensor) -> Tensor:
    """Bool (B, N): whether a position and its neighbours are at least a centimetre apart."""
    step = (xyz[:, 1:, :2] - xyz[:, :-1, :2]).norm(dim=-1) >= STANDING_STEP_M
    edge = torch.ones_like(step[:, :1])
    return torch.cat([edge, step], 1) & torch.cat([step, edge], 1)
