"""Renderer of large pictures: sky and meadow, then the road, then objects from far to near.

There is no depth buffer: of each object only the faces that look at the camera are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ..camera import Array, PinholeCamera
from ..moments import Moment, State
from ..scenario import Scenario
from ..weather import ASPHALT, HAZE, LAMPS_BELOW, SUN_SHARE, Weather, light_colours, make_grain
from . import backdrop, ground, things
from .backdrop import Picture
from .mesh import Mesh
from .movers import place_movers
from .paint import View, draw, fill
from .scenery import SUN, Scenery, collect, make_scenery

_RANGE_M = 320.0  # haze hides objects further away
_SHADOW_RANGE_M = 90.0
_SHADOW = 105  # light (of 255) that a shadow takes away
_EGO_COLOUR = (128.0, 128.0, 128.0)


@dataclass(frozen=True)
class World:
    """Everything that the pictures of all cameras of a drive share."""

    scenario: Scenario
    scenery: Scenery
    shadows: tuple[Array, ...]
    panorama: Picture
    meadow: Picture
    grain: NDArray[np.float32]


def make_world(scenario: Scenario) -> World:
    """Make the world of a drive; a longer drive has the same world and more of it."""
    rng = scenario.rng(3)
    scenery = make_scenery(
        scenario.rng(4), scenario.route, first_variant=scenario.town.first_variant
    )
    return World(
        scenario,
        scenery,
        tuple(_outline_shadow(mesh) for mesh in scenery.meshes),
        backdrop.make_panorama(rng),
        backdrop.make_meadow_tile(rng),
        backdrop.make_grain_tile(rng),
    )


class Renderer:
    """Renderer of one camera; everything that depends only on the camera is prepared once."""

    def __init__(self, world: World, camera: PinholeCamera):
        self._world = world
        self._camera = camera
        self._weather = world.scenario.weather
        rays = camera.rays()
        self._sky = _SkyMap(rays)
        self._ground = ground.GroundMap(
            rays, camera.position_m, world.meadow, world.grain, self._weather
        )

    def image(self, t_s: float) -> Picture:
        """Picture (height, width, 3) uint8 BGR at a time of the expert's drive."""
        return self.picture(self._world.scenario.moment(t_s))

    def picture(self, moment: Moment) -> Picture:
        """Picture (height, width, 3) uint8 BGR of a moment."""
        route, ego = self._world.scenario.route, moment.ego
        view = _make_view(self._camera, ego)
        lamps = self._weather.ambient < LAMPS_BELOW
        moving = collect(place_movers(moment, route, things, lamps, _RANGE_M))
        image = np.empty((self._camera.height, self._camera.width, 3), np.uint8)
        self._sky.paint(image, self._world.panorama, ego.yaw_rad, self._weather)
        texture = self._ground.texture(ego)
        self._ground.paint_meadow(image, ego, texture)
        for outline, colour in ground.list_surfaces(route, ego.s_m):
            fill(image, view, ground.lift(outline), colour)
        quads, colours = ground.list_markings(route, ego.s_m)
        draw(image, view, ground.lift(quads), colours, ASPHALT)
        self._ground.finish(image, texture, self._shade(view, ego, moving))
        _draw_objects(image, view, ego, (self._world.scenery, moving), self._weather)
        return self._expose(image, moment)

    def _shade(self, view: View, ego: State, moving: Scenery) -> Picture:
        """Light (height, width) that reaches the ground, 255 in the sun."""
        light = np.full((self._camera.height, self._camera.width), 255, np.uint8)
        dark = 255 - round(_SHADOW * SUN_SHARE[self._weather.kind])
        own = _outline_shadow(things.car(_EGO_COLOUR, False).place(ego.x_m, ego.y_m, ego.yaw_rad))
        fill(light, view, ground.lift(own), dark)
        scenery = self._world.scenery
        for number in _select_in_view(view, scenery, _SHADOW_RANGE_M):
            fill(light, view, ground.lift(self._world.shadows[number]), dark)
        for number in _select_in_view(view, moving, _SHADOW_RANGE_M):
            fill(light, view, ground.lift(_outline_shadow(moving.meshes[number])), dark)
        return light

    def _expose(self, image: Picture, moment: Moment) -> Picture:
        """Add exposure, rain and noise of the weather; a function of the time."""
        weather = self._weather
        if weather.noise == 0.0 and weather.rain == 0.0 and weather.gain == 1.0:
            return image
        stamp = round((moment.t_s + 100.0) * 1e6)
        rng = self._world.scenario.rng(5, self._camera.index, stamp)
        noise = rng.standard_normal(image.shape[:2], dtype=np.float32)
        added = make_grain(noise, weather.noise, weather.rain)[..., None]
        return np.clip(image * np.float32(weather.gain) + added, 0, 255).astype(np.uint8)


class _SkyMap:
    """Maps the pixels above the horizon to the panorama."""

    def __init__(self, rays: Array):
        scale = backdrop.PANORAMA_WIDTH / (2 * np.pi)
        self._rows = int(np.count_nonzero(rays[:, 0, 2] > 0)) + 1
        rays = rays[: self._rows]
        # rows run downwards, columns with the azimuth: to the left
        self._x = (np.arctan2(rays[..., 1], rays[..., 0]) * scale).astype(np.float32)
        elevation = np.arctan2(rays[..., 2], np.hypot(rays[..., 0], rays[..., 1]))
        self._y = ((backdrop.PANORAMA_HIGH_RAD - elevation) * scale).astype(np.float32)
        self._scale = scale

    def paint(self, image: Picture, panorama: Picture, yaw_rad: float, weather: Weather) -> None:
        shift = np.float32((yaw_rad * self._scale) % backdrop.PANORAMA_WIDTH)
        sky = cv2.remap(
            panorama, self._x + shift, self._y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
        )
        ambient = min(weather.ambient, 1.0)
        if weather.rain or ambient < 1.0:  # clouds make the sky grey
            share = 0.8 if weather.rain else 0.0
            sky = sky * np.float32(ambient * (1 - share)) + (HAZE * ambient * share * 0.9)
        image[: self._rows] = sky


def _outline_shadow(mesh: Mesh) -> Array:
    """Outline (N, 2) of the shadow on the ground, convex."""
    corners = mesh.faces.reshape(-1, 3)
    outline = corners[:, :2] - corners[:, 2:] * SUN[:2] / SUN[2]
    return cv2.convexHull(outline.astype(np.float32))[:, 0].astype(float)


def _make_view(camera: PinholeCamera, ego: State) -> View:
    cos, sin = np.cos(ego.yaw_rad), np.sin(ego.yaw_rad)
    world_from_base = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    position = np.array([ego.x_m, ego.y_m, 0.0]) + world_from_base @ np.array(camera.position_m)
    return View(camera, position, world_from_base @ camera.base_from_optical)


def _select_in_view(view: View, scenery: Scenery, range_m: float) -> NDArray[np.int64]:
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


def _draw_objects(
    image: Picture, view: View, ego: State, objects: tuple[Scenery, ...], weather: Weather
) -> None:
    """Draw what stands, far objects first, with the haze between them and the camera."""
    faces, colours, centres = [], [], []
    for scenery in objects:
        seen = np.zeros(len(scenery.centres), dtype=bool)
        seen[_select_in_view(view, scenery, _RANGE_M)] = True
        chosen = np.flatnonzero(seen[scenery.owner])
        to_face = scenery.faces[chosen, 0] - view.position_m
        chosen = chosen[(to_face * scenery.normals[chosen]).sum(axis=1) < 0]
        faces.append(scenery.faces[chosen])
        colours.append(scenery.colours[chosen])
        centres.append(scenery.centres[scenery.owner[chosen]])
    away = np.concatenate(centres) - view.position_m[:2]
    distance = np.hypot(*away.T)
    order = np.argsort(-distance, kind='stable')
    shade = light_colours(np.concatenate(colours), away, ego.yaw_rad, weather)
    draw(image, view, np.concatenate(faces)[order], shade[order])
