"""Textures of sky, hills and ground, made once per drive from value noise.

Arrays are BGR uint8. All textures repeat without a seam.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from ..weather import HAZE, MEADOW, ZENITH

PANORAMA_WIDTH = 4096
PANORAMA_LOW_RAD, PANORAMA_HIGH_RAD = np.radians(-1.0), np.radians(58.0)
TILE_PX = 1024
Picture = NDArray[np.uint8]
Array = NDArray[np.float64]


def make_value_noise(
    rng: np.random.Generator, size: int, cells: tuple[int, ...], falloff: float
) -> Array:
    """Periodic noise (size, size) with mean 0 and deviation 1.

    cells: number of cells of each octave; each divides `size`. falloff: ratio of amplitudes.
    """
    total = np.zeros((size, size))
    for octave, count in enumerate(cells):
        coarse = _wrap(rng.standard_normal((count, count)), 2)
        cell = size // count
        fine = cv2.resize(coarse, None, fx=cell, fy=cell, interpolation=cv2.INTER_CUBIC)
        total += falloff**octave * fine[2 * cell : -2 * cell, 2 * cell : -2 * cell]
    return (total - total.mean()) / total.std()


def _wrap(tile: Array, border: int) -> Array:
    """Pad a tile periodically, so that filters see no seam."""
    return np.pad(tile, border, mode='wrap')


def make_meadow_tile(rng: np.random.Generator) -> Picture:
    """Colour of the meadow (TILE_PX, TILE_PX, 3), with drier patches."""
    patches = make_value_noise(rng, TILE_PX, (4, 16, 32, 64), 0.6)[..., None]
    green = MEADOW + patches * np.array([3.0, 6.0, 10.0])
    return np.clip(green, 0, 255).astype(np.uint8)


def make_grain_tile(rng: np.random.Generator) -> NDArray[np.float32]:
    """Grain of the ground (TILE_PX, TILE_PX, 2), deviation 1: sharp, and blurred."""
    grain = make_value_noise(rng, TILE_PX, (8, 32, 128, 256, 512), 0.95)
    border = 32
    coarse = cv2.GaussianBlur(_wrap(grain, border), (0, 0), 9.0)[border:-border, border:-border]
    return np.stack([grain, coarse], axis=-1).astype(np.float32)


def make_panorama(rng: np.random.Generator) -> Picture:
    """Sky with clouds, hills and woods at infinity.

    Columns are azimuth 0 ... 2 pi, rows elevation from PANORAMA_HIGH_RAD down to _LOW_RAD, at
    equal scale.
    """
    scale = PANORAMA_WIDTH / (2 * np.pi)
    rows = round((PANORAMA_HIGH_RAD - PANORAMA_LOW_RAD) * scale)
    azimuth = np.arange(PANORAMA_WIDTH) / scale
    elevation = PANORAMA_HIGH_RAD - np.arange(rows)[:, None] / scale
    height = np.clip(elevation / 1.1, 0.0, 1.0)[..., None]
    sky = HAZE * (1 - height) ** 3 + ZENITH * (1 - (1 - height) ** 3)
    sky = sky + np.zeros((rows, PANORAMA_WIDTH, 1))
    cover = _make_clouds(rng, azimuth, elevation)[..., None]
    sky = sky * (1 - cover) + np.array([250.0, 248.0, 246.0]) * cover
    layers = (
        (3.4, 1.2, (5, 8, 13), np.array([206.0, 188.0, 164.0])),
        (1.7, 0.7, (7, 12, 19), np.array([182.0, 170.0, 142.0])),
        (0.8, 0.22, (11, 29, 83, 190, 410), np.array([140.0, 150.0, 124.0])),
    )
    for base_deg, swing_deg, waves, colour in layers:
        ridge = sum(
            np.cos(wave * azimuth + rng.uniform(0, 2 * np.pi)) / (1 + i)
            for i, wave in enumerate(waves)
        )
        top = np.radians(base_deg + swing_deg * ridge)
        depth = np.clip((top - elevation) * scale, 0.0, 1.0)[..., None]  # soft by one pixel
        fade = np.clip(elevation / np.radians(base_deg), 0.0, 1.0)[..., None]
        sky = (
            sky * (1 - depth) + (colour * fade + (0.5 * colour + 0.5 * HAZE) * (1 - fade)) * depth
        )
    return np.clip(sky, 0, 255).astype(np.uint8)


def _make_clouds(rng: np.random.Generator, azimuth: Array, elevation: Array) -> Array:
    """Cover 0 ... 1 by a flat layer of clouds, thinner towards the horizon."""
    noise = make_value_noise(rng, 512, (4, 8, 16, 32, 64), 0.55).astype(np.float32)
    distance = 150.0 / np.tan(np.maximum(elevation, 0.0) + 0.06)
    map_x = (distance * np.cos(azimuth)).astype(np.float32)
    map_y = (distance * np.sin(azimuth)).astype(np.float32)
    layer = cv2.remap(noise, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    cover = np.clip((layer - 0.15) / 1.6, 0.0, 1.0)
    return 0.85 * cover * np.clip(elevation / 0.25, 0.15, 1.0)
