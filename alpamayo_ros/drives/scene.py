"""A scene: the world at one time of a drive, and the Context that a planner gets of it.

The clock of a drive starts at START_NS, so that every stamp is positive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import functools

import numpy as np
from numpy.typing import NDArray

from .. import geometry
from ..context.route_text import describe_route
from ..data_types import (
    GRID_NS,
    HISTORY_POSES,
    NANOSECONDS,
    WAYPOINTS,
    Context,
    EgoPose,
    Frame,
    Navigation,
)
from ..world.camera import CAMERAS
from ..world.moments import Moment
from ..world.rendering.raster import render, stack
from ..world.rendering.stage import Stage
from ..world.samples import express_motion, list_frame_moments
from ..world.scenario import Scenario, make_scenario
from ..world.simulation import Simulation
from .edits import edit_moment

START_NS = 100 * NANOSECONDS
Pictures = NDArray[np.uint8]
PictureChange = Callable[[Pictures, np.random.Generator], Pictures]


@dataclass(frozen=True)
class EvaluationDrive:
    """A drive of some length by split and seed, and the size of its pictures."""

    split: str
    seed: int
    seconds: float
    size: tuple[int, int]

    @functools.cached_property
    def scenario(self) -> Scenario:
        """The drive in the world."""
        return make_scenario(self.split, self.seed, self.seconds)

    @functools.cached_property
    def stage(self) -> Stage:
        """The drive set up for pictures."""
        return Stage(self.scenario, *self.size)


@dataclass(frozen=True)
class Scene:
    """A drive at t0: its world, which the expert or a planner has driven so far.

    edit: what the cameras do not show, see edits.py.
    """

    drive: EvaluationDrive
    simulation: Simulation
    t0_s: float
    edit: str | None = None

    @property
    def t0_ns(self) -> int:
        """Stamp of t0."""
        return START_NS + round(self.t0_s * NANOSECONDS)

    def list_moments(self) -> list[Moment]:
        """The moments that the cameras show, oldest first."""
        moments = list_frame_moments(self.simulation, self.t0_s)
        return [x if self.edit is None else edit_moment(x, self.edit) for x in moments]

    def context(self, pictures: Pictures | None = None) -> Context:
        """Context of the scene; pictures (C, F, 3, H, W) RGB, None for no cameras."""
        steps = np.arange(1 - HISTORY_POSES, 1)
        xyz, rot = express_motion(self.simulation.trace, self.t0_s, steps)
        frames = {}
        for camera, shots in zip(CAMERAS, () if pictures is None else pictures, strict=False):
            count = len(shots)
            frames[camera.name] = tuple(
                _make_frame(self.t0_ns - (count - 1 - k) * GRID_NS, shot)
                for k, shot in enumerate(shots)
            )
        return Context(
            t0_ns=self.t0_ns,
            frames=frames,
            camera_indices=tuple(camera.index for camera in CAMERAS if camera.name in frames),
            history_xyz_m=xyz.astype(np.float32),
            history_rot=rot.astype(np.float32),
            odom_from_t0=self.pose(),
            v0_mps=float(geometry.fit_speeds(xyz[:, :2], np.unwrap(geometry.yaw(rot)))[-1]),
            skew_s=0.0,
        )

    def navigation(self) -> Navigation | None:
        """Where the route of the drive goes, in words; None where it is not on the route."""
        road, ego = self.simulation.route.road, self.simulation.trace.ego(self.t0_s)
        points = np.column_stack([road.x_m, road.y_m])
        text = describe_route(points, (ego.x_m, ego.y_m), ego.yaw_rad).text
        return Navigation(text) if text else None

    def pose(self) -> EgoPose:
        """Pose at t0 in the frame of the world."""
        ego = self.simulation.trace.ego(self.t0_s)
        position = np.array([ego.x_m, ego.y_m, 0.0])
        return EgoPose(
            self.t0_ns, position, geometry.yaw_quaternion(ego.yaw_rad), ego.speed_mps, 'world'
        )


def get_future(scene: Scene, simulation: Simulation) -> NDArray[np.float64]:
    """Motion (64, 4) after t0: x, y m, yaw rad in the t0 frame, speed m/s."""
    steps = np.arange(1, WAYPOINTS + 1)
    xyz, rot = express_motion(simulation.trace, scene.t0_s, steps)
    times = scene.t0_s + steps * GRID_NS / NANOSECONDS
    speeds = [simulation.trace.ego(t_s).speed_mps for t_s in times.tolist()]
    return np.column_stack([xyz[:, :2], np.unwrap(geometry.yaw(rot)), speeds])


def make_contexts(
    scenes: Sequence[Scene],
    change: PictureChange,
    rngs: Sequence[np.random.Generator],
    device: str = 'cpu',
    shown: Sequence[Scene] | None = None,
) -> list[Context]:
    """Contexts of scenes with pictures that are drawn on the device and then changed.

    shown: scenes whose pictures are drawn, where these are not the scenes themselves.
    """
    pictured = scenes if shown is None else shown
    drawn = _draw_on_cpu(pictured) if device == 'cpu' else _draw_on_device(pictured, device)
    return [
        scene.context(change(pictures, rng))
        for scene, pictures, rng in zip(scenes, drawn, rngs, strict=True)
    ]


def keep_pictures(pictures: Pictures, rng: np.random.Generator) -> Pictures:
    """Leave the pictures as they are."""
    return pictures


def shuffle_cameras(pictures: Pictures, rng: np.random.Generator) -> Pictures:
    """Pictures (C, F, 3, H, W) under the names of other cameras: none keeps its own."""
    count = len(pictures)
    while True:
        order = rng.permutation(count)
        if (order != np.arange(count)).all():
            return pictures[order]


def blacken(pictures: Pictures, rng: np.random.Generator) -> Pictures:
    """Black pictures of the same shape."""
    return np.zeros_like(pictures)


def _draw_on_cpu(scenes: Sequence[Scene]) -> list[Pictures]:
    return [scene.drive.stage.pictures(scene.list_moments()) for scene in scenes]


def _draw_on_device(scenes: Sequence[Scene], device: str) -> Pictures:
    """Pictures (B, C, F, 3, H, W) by the same formulas, all scenes at once, painted by kernels."""
    import torch

    from ..world.rendering.paint_triton import compute_cover, paint_faces

    moments = [scene.list_moments() for scene in scenes]
    stages = [scene.drive.stage for scene in scenes]
    pairs = list(zip(stages, moments, strict=True))
    parts = stack([stage.scene(shown) for stage, shown in pairs])
    noise = np.stack([stage.noise(shown) for stage, shown in pairs])
    on_device = parts.map(lambda array: torch.from_numpy(array).to(device))
    drawn = render(
        torch, on_device, torch.from_numpy(noise).to(device), compute_cover, paint_faces
    )
    return np.asarray(drawn.cpu().numpy())


def _make_frame(stamp_ns: int, picture: Pictures) -> Frame:
    """Picture (3, H, W) as a raw image."""
    _, height, width = picture.shape
    rows = np.ascontiguousarray(picture.transpose(1, 2, 0)).reshape(-1)
    return Frame(stamp_ns, 'rgb8', rows, height, width, 3 * width)
