"""Pictures of training samples from the renderer of the demo, which draws finer and costs more.

The renderer draws pictures of twice the model's size, a quarter of what the demo's cameras have;
both are resized to the model's. Needs OpenCV.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from alpamayo_ros.world.camera import CAMERAS, PinholeCamera
from alpamayo_ros.world.moments import Moment
from alpamayo_ros.world.rendering.render import Renderer, make_world
from alpamayo_ros.world.scenario import Scenario

_FINER = 2  # pixels that are drawn for a pixel's width


class DemoPainter:
    """Paints pictures (height x width) of one scenario."""

    def __init__(self, scenario: Scenario, height: int, width: int) -> None:
        cv2.setNumThreads(1)  # every core has a process that makes drives
        world = make_world(scenario)
        self._renderers = [Renderer(world, _shrink(camera, width)) for camera in CAMERAS]
        self._size = width, height

    def paint(self, moments: Sequence[Moment]) -> NDArray[np.uint8]:
        """Return pictures (C, F, 3, H, W) RGB at these moments."""
        return np.stack([
            np.stack([self._shoot(renderer, moment) for moment in moments])
            for renderer in self._renderers
        ])  # fmt: skip

    def _shoot(self, renderer: Renderer, moment: Moment) -> NDArray[np.uint8]:
        picture = cv2.resize(renderer.picture(moment), self._size, interpolation=cv2.INTER_AREA)
        return np.ascontiguousarray(picture[..., ::-1].transpose(2, 0, 1))


def _shrink(camera: PinholeCamera, width: int) -> PinholeCamera:
    """Return the camera with pictures of the same angle, but fewer pixels."""
    wide = _FINER * width
    return replace(camera, width=wide, height=round(wide * camera.height / camera.width))
