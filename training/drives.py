"""Training drives as tensors: scenes to paint, actions and reasonings to learn.

A drive is a function of split and number, so the data needs no files. This runs in worker
processes: no tokenizer, no device.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from alpamayo_ros.model.action_space import UnicycleAccelCurvatureActionSpace
from alpamayo_ros.world.rendering.raster import RasterScene, stack
from alpamayo_ros.world.rendering.stage import Stage
from alpamayo_ros.world.samples import (
    Sample,
    choose_times,
    displace_sample,
    list_frame_moments,
    make_sample,
    make_training_drive,
)
from alpamayo_ros.world.scenario import make_scenario

from .settings import TrainingSettings


@dataclass(frozen=True)
class TrainingDrive:
    """B samples of a drive. scenes: float32 tensors with leading axis B.

    history_xyz (B, 16, 3) m, history_rot (B, 16, 3, 3), future_xyz (B, 64, 3) m: t0 frame. actions
    (B, 64, 2): normalized. texts: the reasonings. causes: every cause that a reasoning may name.
    """

    scenes: RasterScene
    history_xyz: Tensor
    history_rot: Tensor
    future_xyz: Tensor
    actions: Tensor
    texts: tuple[str, ...]
    causes: tuple[frozenset[str], ...]


class Drives(Dataset[TrainingDrive]):
    """The drives of a split ('train', 'validation', 'test') by number.

    space: the model's action space; its statistics normalize the actions.
    """

    def __init__(
        self, split: str, settings: TrainingSettings, space: UnicycleAccelCurvatureActionSpace
    ) -> None:
        self._split, self._settings = split, settings
        self._space = copy.deepcopy(space)  # stays on the CPU when the model moves

    def __getitem__(self, number: int) -> TrainingDrive:
        data, image = self._settings.data, self._settings.image
        scenario = make_scenario(self._split, number, data['seconds'])
        simulation, times = make_training_drive(scenario)
        rng = scenario.rng(20)
        times = choose_times(simulation.trace, times, data['samples_per_drive'], rng)
        driven = [displace_sample(simulation, t0_s, rng) for t0_s in times]
        samples = [make_sample(d.trace, t0_s, rng) for d, t0_s in zip(driven, times, strict=True)]
        stage = Stage(scenario, image['height'], image['width'])
        moments = [list_frame_moments(d, t0_s) for d, t0_s in zip(driven, times, strict=True)]
        scenes = stack([stage.scene(shown) for shown in moments])
        return TrainingDrive(
            scenes=scenes.map(torch.from_numpy),
            history_xyz=_stack_field(samples, 'history_xyz'),
            history_rot=_stack_field(samples, 'history_rot'),
            future_xyz=_stack_field(samples, 'future_xyz'),
            actions=self._compute_actions(samples),
            texts=tuple(s.text for s in samples),
            causes=tuple(s.causes for s in samples),
        )

    def _compute_actions(self, samples: list[Sample]) -> Tensor:
        names = ('history_xyz', 'history_rot', 'future_xyz', 'future_rot')
        poses = [_stack_field(samples, name).to(torch.float64) for name in names]
        return self._space.traj_to_action(*poses)[0].to(torch.float32)


def _stack_field(samples: list[Sample], name: str) -> Tensor:
    return torch.from_numpy(np.stack([getattr(s, name) for s in samples]))
