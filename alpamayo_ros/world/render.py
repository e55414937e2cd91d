"""Pictures of the world: sky and meadow, the road painted on it, then everything that stands.

No depth buffer: the ground is drawn first, then objects from far to near, each with the faces that
look at the camera. Knows no stamps, no encodings, no ROS.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from . import backdrop, ground, things
from .backdrop import HAZE, Picture
from .camera import Array, Camera
from .mesh import Mesh
from .paint import View, draw, fill
from .road import LEFT_EDGE_M, ONCOMING_M, RIGHT_EDGE_M
from .scenario import Crossing, Scenario, State, make_scenario
from .scenery import Scenery, collect, make_scenery, shadow

_RANGE_M = 320.0  # objects further away are lost in the haze
_HAZE_M = 330.0
_SHADOW_RANGE_M = 90.0
_SHADOW = 150  # of 255: light that is left in the shade
_WALKING_MPS = 1.4
_LEAD_COLOUR = (168, 66, 40)
_ONCOMING_COLOURS = ((60, 60, 176), (206, 206, 204), (70, 70, 72), (110, 140, 90))
_EGO_COLOUR = (128.0, 128.0, 128.0)


@dataclass(frozen=True)
class World:
    """Everything a picture is made of, the same for all cameras."""

    scenario: Scenario
    scenery: Scenery
    panorama: Picture
    meadow: Picture
    grain: NDArray[np.float32]


def make_world(seed: int, seconds: float) -> World:
    """World of one drive; a function of the seed, longer drives only add to it."""
    scenario = make_scenario(seed, seconds)
    rng = np.random.default_rng([seed, 3])
    return World(
        scenario,
        make_scenery(seed, scenario.road, scenario.crossings),
        backdrop.panorama(rng),
        backdrop.meadow_tile(rng),
        backdrop.grain_tile(rng),
    )


class Renderer:
    """Pictures of one camera; what depends only on the camera is prepared once."""

    def __init__(self, world: World, camera: Camera):
        self._world = world
        self._camera = camera
        rays = camera.rays()
        self._sky = _SkyMap(rays)
        self._ground = ground.GroundMap(rays, camera.position_m, world.meadow, world.grain)

    def image(self, t_s: float) -> Picture:
        """Picture (height, width, 3) uint8 BGR at a time of the scenario."""
        ego = self._world.scenario.ego(t_s)
        view = _view(self._camera, ego)
        objects = (self._world.scenery, _movers(self._world.scenario, ego.s_m, t_s))
        image = np.empty((self._camera.height, self._camera.width, 3), np.uint8)
        self._sky.paint(image, self._world.panorama, ego.yaw_rad)
        texture = self._ground.texture(ego)
        self._ground.paint_meadow(image, ego, texture)
        for outline, colour in ground.surfaces(self._world.scenario.road, ego.s_m):
            fill(image, view, ground.lifted(outline), colour)
        quads, colours = ground.markings(self._world.scenario, ego.s_m)
        draw(image, view, ground.lifted(quads), colours, ground.ASPHALT)
        self._ground.finish(image, texture, self._shade(view, ego, objects))
        _draw_objects(image, view, objects)
        return image

    def _shade(self, view: View, ego: State, objects: tuple[Scenery, ...]) -> Picture:
        """Light (height, width) that reaches the ground, 255 in the sun."""
        light = np.full((self._camera.height, self._camera.width), 255, np.uint8)
        own = shadow(things.car(_EGO_COLOUR, False).placed(ego.x_m, ego.y_m, ego.yaw_rad))
        fill(light, view, ground.lifted(own), _SHADOW)
        for scenery in objects:
            for number in _in_view(view, scenery, _SHADOW_RANGE_M):
                fill(light, view, ground.lifted(scenery.shadows[number]), _SHADOW)
        return light


class _SkyMap:
    """Looks the panorama up for the pixels above the horizon."""

    def __init__(self, rays: Array):
        scale = backdrop.PANORAMA_WIDTH / (2 * np.pi)
        self._rows = int(np.count_nonzero(rays[:, 0, 2] > 0)) + 1
        rays = rays[: self._rows]
        # rows run downwards, columns with the azimuth: to the left
        self._x = (np.arctan2(rays[..., 1], rays[..., 0]) * scale).astype(np.float32)
        elevation = np.arctan2(rays[..., 2], np.hypot(rays[..., 0], rays[..., 1]))
        self._y = ((backdrop.PANORAMA_HIGH_RAD - elevation) * scale).astype(np.float32)
        self._scale = scale

    def paint(self, image: Picture, panorama: Picture, yaw_rad: float) -> None:
        shift = np.float32((yaw_rad * self._scale) % backdrop.PANORAMA_WIDTH)
        image[: self._rows] = cv2.remap(
            panorama, self._x + shift, self._y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
        )


def _view(camera: Camera, ego: State) -> View:
    cos, sin = np.cos(ego.yaw_rad), np.sin(ego.yaw_rad)
    world_from_base = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    position = np.array([ego.x_m, ego.y_m, 0.0]) + world_from_base @ np.array(camera.position_m)
    return View(camera, position, world_from_base @ camera.base_from_optical)


def _movers(scenario: Scenario, ego_s_m: float, t_s: float) -> Scenery:
    """The lead vehicle, and the oncoming cars and pedestrians near the ego, at one moment."""
    lead = scenario.lead(t_s)
    braking = lead.acceleration_mps2 < -0.4 or lead.speed_mps < 0.1
    objects = [(things.car(_LEAD_COLOUR, braking), lead.s_m, 0.0, 0.0)]
    for number, other in enumerate(scenario.oncoming):
        colour = _ONCOMING_COLOURS[number % len(_ONCOMING_COLOURS)]
        s = other.start_m - other.speed_mps * t_s
        objects.append((things.car(colour, False), s, ONCOMING_M, np.pi))
    objects += [_pedestrian(crossing, t_s) for crossing in scenario.crossings]
    placed = []
    for mesh, s, offset, turn in objects:
        if abs(s - ego_s_m) > _RANGE_M:
            continue
        at = scenario.road.points(s, offset)
        mesh = mesh.placed(at[0], at[1], float(scenario.road.yaw_at(s)) + turn)
        placed.append((mesh, mesh.faces[..., :2].mean(axis=(0, 1))))
    return collect(placed)


def _pedestrian(crossing: Crossing, t_s: float) -> tuple[Mesh, float, float, float]:
    """Walks over from the right as soon as the lead vehicle is about to stand."""
    kerb, far_kerb = RIGHT_EDGE_M - 1.0, LEFT_EDGE_M + 1.5
    walked = float(np.clip((t_s - crossing.wait_from_s) * _WALKING_MPS, 0.0, far_kerb - kerb))
    stride = float(np.sin(2 * np.pi * walked / 1.5))
    return things.pedestrian((46, 120, 200), stride), crossing.s_m, kerb + walked, np.pi / 2


def _in_view(view: View, scenery: Scenery, range_m: float) -> NDArray[np.int64]:
    """Numbers of the objects that may be in the picture, far ones first."""
    offset = scenery.centres - view.position_m[:2]
    ahead = view.world_from_optical[:2, 2]
    depth = offset @ ahead / np.hypot(*ahead)
    aside = np.abs(offset @ np.array([-ahead[1], ahead[0]])) / np.hypot(*ahead)
    tangent = np.tan(np.radians(view.camera.fov_deg) / 2)
    distance = np.hypot(*offset.T)
    seen = (distance < range_m) & (depth > -12.0) & (aside < (depth + 12.0) * tangent + 14.0)
    numbers = np.flatnonzero(seen)
    return numbers[np.argsort(-distance[numbers], kind='stable')]


def _draw_objects(image: Picture, view: View, objects: tuple[Scenery, ...]) -> None:
    """Draw what stands, far objects first, with the haze between them and the camera."""
    faces, colours, distances = [], [], []
    for scenery in objects:
        seen = np.zeros(len(scenery.centres), dtype=bool)
        seen[_in_view(view, scenery, _RANGE_M)] = True
        chosen = np.flatnonzero(seen[scenery.owner])
        to_face = scenery.faces[chosen, 0] - view.position_m
        chosen = chosen[(to_face * scenery.normals[chosen]).sum(axis=1) < 0]
        owner = scenery.owner[chosen]
        faces.append(scenery.faces[chosen])
        colours.append(scenery.colours[chosen])
        distances.append(np.hypot(*(scenery.centres[owner] - view.position_m[:2]).T))
    distance = np.concatenate(distances)
    order = np.argsort(-distance, kind='stable')
    clear = np.exp(-distance[order] / _HAZE_M)[:, None]
    shade = np.concatenate(colours)[order] * clear + HAZE * (1 - clear)
    draw(image, view, np.concatenate(faces)[order], shade)
