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
from alpamayo_ros.model.versions import VERSIONS
from alpamayo_ros.world.moments import SIMULATION_STEP_S
from alpamayo_ros.world.rendering.raster import RasterScene, stack
from alpamayo_ros.world.rendering.stage import Stage
from alpamayo_ros.world.samples import (
    HORIZON_S,
    Sample,
    choose_times,
    displace_sample,
    list_frame_moments,
    make_sample,
    make_training_drive,
)
from alpamayo_ros.world.scenario import make_scenario
from alpamayo_ros.world.simulation import Simulation

from .edits import change_sample, is_drivable
from .routes import take_other_way, write_route
from .settings import TrainingSettings


@dataclass(frozen=True)
class TrainingDrive:
    """B samples of a drive. scenes: float32 tensors with leading axis B.

    history_xyz (B, 16, 3) m, history_rot (B, 16, 3, 3), future_xyz (B, 64, 3) m: t0 frame. actions
    (B, 64, 2): normalized. texts: the reasonings, None where none is asked for. routes: route
    texts, None for none. causes: every cause that a reasoning may name.
    """

    scenes: RasterScene
    history_xyz: Tensor
    history_rot: Tensor
    future_xyz: Tensor
    actions: Tensor
    texts: tuple[str | None, ...]
    routes: tuple[str | None, ...]
    causes: tuple[frozenset[str], ...]


class Drives(Dataset[TrainingDrive]):
    """The drives of a split ('train', 'validation', 'test') by number.

    space: the model's action space; its statistics normalize the actions.
    """

    def __init__(
        self, split: str, settings: TrainingSettings, space: UnicycleAccelCurvatureActionSpace
    ) -> None:
        self._split, self._settings = split, settings
        self._has_routes = VERSIONS[settings.model_type].has_routes
        self._space = copy.deepcopy(space)  # stays on the CPU when the model moves

    def __getitem__(self, number: int) -> TrainingDrive:
        data, image = self._settings.data, self._settings.image
        scenario = make_scenario(self._split, number, data['seconds'])
        simulation, times = make_training_drive(scenario)
        rng = scenario.rng(20)
        times = choose_times(simulation.trace, times, data['samples_per_drive'], rng)
        stage = Stage(scenario, image['height'], image['width'])
        samples, routes, texts, scenes = [], [], [], []
        for t0_s in times:
            start = simulation.branch(t0_s)
            changed = change_sample(start, rng, data['changed_shares'])
            scene, driven, route = self._drive(stage, changed, rng)
            if not is_drivable(driven, t0_s):  # a change that came too late
                scene, driven, route = self._drive(stage, start, rng)
            scenes.append(scene)
            samples.append(make_sample(driven.trace, t0_s, rng))
            routes.append(route)
            is_silent = self._has_routes and rng.random() < data['silent_share']
            texts.append(None if is_silent else samples[-1].text)
        return TrainingDrive(
            scenes=stack(scenes).map(torch.from_numpy),
            history_xyz=_stack_field(samples, 'history_xyz'),
            history_rot=_stack_field(samples, 'history_rot'),
            future_xyz=_stack_field(samples, 'future_xyz'),
            actions=self._compute_actions(samples),
            texts=tuple(texts),
            routes=tuple(routes),
            causes=tuple(s.causes for s in samples),
        )

    def _drive(
        self, stage: Stage, start: Simulation, rng: np.random.Generator
    ) -> tuple[RasterScene, Simulation, str | None]:
        """Displace a start at t0 and let the expert drive on; its pictures, and its route text."""
        data, seen = self._settings.data, displace_sample(start, rng)
        scene, route, driven = stage.scene(list_frame_moments(seen, seen.time_s)), None, seen
        if self._has_routes and rng.random() < data['route_share']:
            if rng.random() < data['other_way_share']:
                driven = take_other_way(seen) or seen
            route = write_route(driven, rng)
        driven.run(start.time_s + HORIZON_S + 2 * SIMULATION_STEP_S)
        return scene, driven, route

    def _compute_actions(self, samples: list[Sample]) -> Tensor:
        names = ('history_xyz', 'history_rot', 'future_xyz', 'future_rot')
        poses = [_stack_field(samples, name).to(torch.float64) for name in names]
        return self._space.traj_to_action(*poses)[0].to(torch.float32)


def _stack_field(samples: list[Sample], name: str) -> Tensor:
    return torch.from_numpy(np.stack([getattr(s, name) for s in samples]))
