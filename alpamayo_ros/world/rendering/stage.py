"""Small pictures of a drive: selects what the four cameras see and passes it to the rasterizer.

Scenery is made once per drive; a scene selects from it and moves it into the base frame. Pictures
have the geometry of the large ones resized, and the camera shake of the weather.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..camera import CAMERAS, PinholeCamera
from ..moments import Moment, State
from ..road import BEHIND_M, Array
from ..scenario import Scenario
from ..shapes import make_rectangle
from ..weather import LAMPS_BELOW, SUN_SHARE, light_colours
from . import coarse
from .markings import (
    MARGIN_M,
    VERGE_M,
    list_crossing_roads,
    list_white_markings,
    make_lane_surface,
)
from .movers import place_movers
from .raster import RasterScene, stack
from .raster_compiled import render_on_cpu
from .scenery import Scenery, collect, make_scenery

_BEHIND_M, _AHEAD_M, _ASIDE_M = 14.0, 150.0, 70.0
_NOISE_SHARE = 0.5  # a small pixel averages several large ones
_EYE_M = np.array([1.9, 0.0, 1.35])  # centre of the cameras
_EYES_M = 1.2  # largest distance of a camera from the centre
Small = NDArray[np.float32]


class Stage:
    """Small pictures (height x width) of one scenario."""

    def __init__(
        self,
        scenario: Scenario,
        height: int,
        width: int,
        cameras: Sequence[PinholeCamera] = CAMERAS,
    ):
        self._scenario, self._cameras = scenario, tuple(cameras)
        self._scenery = make_scenery(
            scenario.rng(4), scenario.route, coarse, scenario.town.first_variant
        )
        scale = np.array([(width / c.width, height / c.height) for c in self._cameras])
        centres = np.array([c.centre_px for c in self._cameras])
        self._focal = np.array([c.focal_px for c in self._cameras])[:, None] * scale
        self._centre = (centres + 0.5) * scale - 0.5
        self._columns, self._rows = np.arange(width), np.arange(height)

    def scene(self, moments: Sequence[Moment]) -> RasterScene:
        """Scene of the cameras at these moments, oldest first; the last one selects the ground."""
        egos = [moment.ego for moment in moments]
        verge, asphalt, paint = self._ground(egos[-1].s_m)
        parts = [self._objects(moment) for moment in moments]
        weather = self._scenario.weather
        sun = SUN_SHARE[weather.kind]
        figures = (min(weather.ambient, 1.0), weather.haze_m, weather.rain,
                   _NOISE_SHARE * weather.noise, weather.gain, sun)  # fmt: skip
        scene = RasterScene(
            faces=_stack_padded([faces for faces, _, _ in parts]),
            colours=_stack_padded([colours for _, colours, _ in parts]),
            verge=np.stack([_lift_to_base(verge, ego) for ego in egos]),
            asphalt=np.stack([_lift_to_base(asphalt, ego) for ego in egos]),
            white=np.stack([_lift_to_base(paint, ego) for ego in egos]),
            dark=_stack_padded([_lift_to_base(shade, m.ego) for (_, _, shade), m
                          in zip(parts, moments, strict=True)]),
            place=np.array([(e.x_m, e.y_m, np.cos(e.yaw_rad), np.sin(e.yaw_rad)) for e in egos]),
            to_optical=self._rotations(moments),
            mount=np.array([camera.position_m for camera in self._cameras]),
            focal=self._focal,
            centre=self._centre,
            weather=np.array(figures),
            columns=self._columns,
            rows=self._rows,
        )  # fmt: skip
        return scene.map(lambda array: np.asarray(array, dtype=np.float32))

    def noise(self, moments: Sequence[Moment]) -> Small:
        """White noise (C, F, H, W) of the pictures, a function of the moments' times."""
        shape = (len(self._cameras), len(self._rows), len(self._columns))
        fields = [self._rng(9, moment).standard_normal(shape, np.float32) for moment in moments]
        return np.stack(fields, axis=1)

    def pictures(self, moments: Sequence[Moment]) -> NDArray[np.uint8]:
        """Pictures (C, F, 3, H, W) RGB at these moments; each is independent of the others."""
        return render_on_cpu(stack([self.scene(moments)]), self.noise(moments)[None])[0]

    def _rng(self, purpose: int, moment: Moment) -> np.random.Generator:
        return self._scenario.rng(purpose, round((moment.t_s + 100.0) * 1e3))

    def _ground(self, s_m: float) -> tuple[Array, Array, Array]:
        """Verge, asphalt and white paint around s, (N, 4, 2) m in the world frame."""
        route = self._scenario.route
        start = max(s_m - 30.0, -BEHIND_M)
        places = np.concatenate([
            np.arange(start, s_m + 34.0, 2.5), np.arange(s_m + 34.0, s_m + 70.0, 5.0),
            np.arange(s_m + 70.0, s_m + _AHEAD_M + 1.0, 10.0),
        ])  # fmt: skip
        verge, lanes = (make_lane_surface(route.road, places, m) for m in (VERGE_M, MARGIN_M))
        crossing = list_crossing_roads(route, places[0], places[-1])
        return verge, np.concatenate([lanes, crossing]), list_white_markings(route, places)

    def _objects(self, moment: Moment) -> tuple[Array, Array, Array]:
        """Faces (N, 4, 3) m in base, far ones first, their colours, and shadows (M, 4, 2) m."""
        ego, weather = moment.ego, self._scenario.weather
        lamps = weather.ambient < LAMPS_BELOW
        moving = collect(place_movers(moment, self._scenario.route, coarse, lamps, _AHEAD_M))
        faces, colours, distances = [], [], []
        for scenery in (self._scenery, moving):
            chosen = _select_near(scenery, ego)
            away = scenery.centres[scenery.owner[chosen]] - (ego.x_m, ego.y_m)
            faces.append(_to_base(scenery.faces[chosen, :4], ego))
            colours.append(light_colours(scenery.colours[chosen], away, ego.yaw_rad, weather))
            distances.append(np.hypot(*away.T))
        order = np.argsort(-np.concatenate(distances), kind='stable')
        shadows = [make_rectangle(c.x_m, c.y_m, c.yaw_rad, 3.8, -1.1, 1.0) for c in moment.cars]
        own = make_rectangle(ego.x_m, ego.y_m, ego.yaw_rad, 3.8, -1.1, 1.0)
        return (
            np.concatenate(faces)[order],
            np.concatenate(colours)[order],
            np.array([own, *shadows]),
        )

    def _rotations(self, moments: Sequence[Moment]) -> Array:
        """Rotations (C, F, 3, 3) from base to the optical frames; all cameras shake alike."""
        weather = self._scenario.weather
        shaken = []
        for moment in moments:
            shake = self._rng(6, moment).normal(0.0, weather.shake_rad, 3)
            roll, pitch, yaw = np.array(weather.mount_rad) + shake
            shaken.append([[1.0, -yaw, pitch], [yaw, 1.0, -roll], [-pitch, roll, 1.0]])
        fixed = np.array([camera.base_from_optical.T for camera in self._cameras])
        return fixed[:, None] @ np.array(shaken)[None]


def _select_near(scenery: Scenery, ego: State) -> NDArray[np.int64]:
    """Indices of the faces that a camera may see."""
    cos, sin = np.cos(ego.yaw_rad), np.sin(ego.yaw_rad)
    away = scenery.centres - (ego.x_m, ego.y_m)
    ahead, left = away @ np.array([cos, sin]), away @ np.array([-sin, cos])
    seen = (ahead > -_BEHIND_M) & (ahead < _AHEAD_M) & (abs(left) < _ASIDE_M)
    chosen = np.flatnonzero(seen[scenery.owner])
    eye = np.array([ego.x_m + cos * _EYE_M[0], ego.y_m + sin * _EYE_M[0], _EYE_M[2]])
    towards = ((eye - scenery.faces[chosen, 0]) * scenery.normals[chosen]).sum(axis=1)
    return chosen[towards > -_EYES_M]


def _to_base(points_m: Array, ego: State) -> Array:
    """World points (..., 3) in the base frame."""
    cos, sin = np.cos(ego.yaw_rad), np.sin(ego.yaw_rad)
    turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    return (points_m - (ego.x_m, ego.y_m, 0.0)) @ turn


def _lift_to_base(quads_m: Array, ego: State) -> Array:
    """Quadrilaterals (N, 4, 2) of the world as (N, 4, 3) in the base frame."""
    return _to_base(np.concatenate([quads_m, np.zeros((*quads_m.shape[:2], 1))], axis=2), ego)


def _stack_padded(parts: list[Array]) -> Array:
    """Stack arrays of different length; shorter ones are padded with zeros."""
    most = max(len(part) for part in parts)
    return np.stack([
        np.concatenate([part, np.zeros((most - len(part), *part.shape[1:]))]) for part in parts
    ])  # fmt: skip
