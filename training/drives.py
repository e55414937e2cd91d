"""Training drives as tensors: scenes to paint, actions and reasonings to learn.

A drive is a function of split and number, so the data needs no files. This runs in worker
processes: no tokenizer, no device.
"""

from __future__ import annotations

from collections.abc import Sequence
import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from alpamayo_ros.data_types import FRAMES_PER_CAMERA
from alpamayo_ros.model.action_space import UnicycleAccelCurvatureActionSpace
from alpamayo_ros.model.versions import VERSIONS
from alpamayo_ros.world.camera import CAMERAS
from alpamayo_ros.world.moments import SIMULATION_STEP_S, Moment
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
from alpamayo_ros.world.scenario import Scenario, make_scenario
from alpamayo_ros.world.simulation import Simulation

from .edits import change_sample, is_drivable
from .routes import take_other_way, write_route
from .settings import ImageSettings, TrainingSettings

if TYPE_CHECKING:
    from .demo_pictures import DemoPainter

_PAINTED = 0.4  # share of the samples with the demo's pictures, in a drive that has any


@dataclass(frozen=True)
class TrainingDrive:
    """B samples of a drive. scenes: float32 tensors with leading axis B.

    history_xyz (B, 16, 3) m, history_rot (B, 16, 3, 3), future_xyz (B, 64, 3) m: t0 frame. actions
    (B, 64, 2): normalized. texts: the reasonings, None where none is asked for. routes: route
    texts, None for none. causes: every cause that a reasoning may name. is_painted (B,): samples
    whose pictures (P, C, F, 3, H, W) uint8 come with the drive, from the demo's renderer.
    """

    scenes: RasterScene
    history_xyz: Tensor
    history_rot: Tensor
    future_xyz: Tensor
    actions: Tensor
    texts: tuple[str | None, ...]
    routes: tuple[str | None, ...]
    causes: tuple[frozenset[str], ...]
    is_painted: Tensor
    pictures: Tensor


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
        painter, pictures = self._make_painter(scenario, rng), []
        samples, routes, texts, scenes, is_painted = [], [], [], [], []
        for t0_s in times:
            start = simulation.branch(t0_s)
            changed = change_sample(start, rng, data['changed_shares'])
            shown, driven, route = self._drive(changed, rng)
            if not is_drivable(driven, t0_s):  # a change that came too late
                shown, driven, route = self._drive(start, rng)
            scenes.append(stage.scene(shown))
            is_painted.append(painter is not None and rng.random() < _PAINTED)
            if painter is not None and is_painted[-1]:
                pictures.append(painter.paint(shown))
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
            is_painted=torch.tensor(is_painted),
            pictures=torch.from_numpy(np.stack(pictures)) if pictures else _make_none(image),
        )

    def _make_painter(self, scenario: Scenario, rng: np.random.Generator) -> DemoPainter | None:
        """Return the demo's renderer for this drive, or None; preparing it takes a second."""
        image = self._settings.image
        if rng.random() >= self._settings.data['demo_share'] / _PAINTED:
            return None
        from .demo_pictures import DemoPainter  # training otherwise needs no OpenCV

        return DemoPainter(scenario, image['height'], image['width'])

    def _drive(
        self, start: Simulation, rng: np.random.Generator
    ) -> tuple[Sequence[Moment], Simulation, str | None]:
        """Displace a start at t0 and let the expert drive on; what is seen, and its route text."""
        data, seen = self._settings.data, displace_sample(start, rng)
        shown, route, driven = list_frame_moments(seen, seen.time_s), None, seen
        if self._has_routes and rng.random() < data['route_share']:
            if rng.random() < data['other_way_share']:
                driven = take_other_way(seen) or seen
            route = write_route(driven, rng)
        driven.run(start.time_s + HORIZON_S + 2 * SIMULATION_STEP_S)
        return shown, driven, route

    def _compute_actions(self, samples: list[Sample]) -> Tensor:
        names = ('history_xyz', 'history_rot', 'future_xyz', 'future_rot')
        poses = [_stack_field(samples, name).to(torch.float64) for name in names]
        return self._space.traj_to_action(*poses)[0].to(torch.float32)


def _make_none(image: ImageSettings) -> Tensor:
    """Return pictures (0, C, F, 3, H, W)."""
    size = 3, image['height'], image['width']
    return torch.zeros((0, len(CAMERAS), FRAMES_PER_CAMERA, *size), dtype=torch.uint8)


def _stack_field(samples: list[Sample], name: str) -> Tensor:
    return torch.from_numpy(np.stack([getattr(s, name) for s in samples]))
