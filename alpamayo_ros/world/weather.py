"""Light and weather of a drive: daylight, haze, rain, noise, camera shake, and basic colours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

HAZE = np.array([226.0, 216.0, 206.0])  # BGR of distant haze at noon
MEADOW, ZENITH = np.array([60.0, 122.0, 98.0]), np.array([212.0, 158.0, 104.0])
ASPHALT, VERGE = np.array([104.0, 101.0, 99.0]), np.array([112.0, 132.0, 136.0])
WHITE = np.array([236.0, 238.0, 238.0])  # of the markings
LAMPS_BELOW = 0.8  # daylight below which cars have their lights on
SUN_SHARE = {'day': 1.0, 'dusk': 0.5, 'rain': 0.2, 'night': 0.0, 'wet_night': 0.0,
             'fog': 0.0, 'twilight': 0.3}  # fmt: skip
Array = NDArray[np.float64]
_AMBIENT = {'day': 1.0, 'dusk': 0.55, 'rain': 0.75, 'night': 0.14, 'wet_night': 0.12,
            'fog': 0.85, 'twilight': 0.32}  # fmt: skip
_HAZE_M = {'rain': (110.0, 200.0), 'wet_night': (110.0, 200.0), 'fog': (70.0, 100.0)}


@dataclass(frozen=True)
class Weather:
    """Light, weather and camera errors of a drive.

    ambient: daylight, 1 at noon. haze_m: distance at which 1/e of the contrast is left. rain:
    strength of the streaks. noise: standard deviation of a pixel (0-255). gain: exposure.
    mount_rad: constant error of the cameras' roll, pitch and yaw; shake_rad: deviation per frame.
    """

    kind: str
    ambient: float
    haze_m: float
    rain: float
    noise: float
    gain: float
    mount_rad: tuple[float, float, float]
    shake_rad: float


CLEAR = Weather('day', 1.0, 330.0, 0.0, 0.0, 1.0, (0.0, 0.0, 0.0), 0.0)


def make_weather(rng: np.random.Generator, shares: Mapping[str, float]) -> Weather:
    """Draw the weather of a drive; shares: of its kinds."""
    kind = str(rng.choice(list(shares), p=list(shares.values())))
    wet = kind in ('rain', 'wet_night')
    mount = tuple(rng.normal(0.0, 0.003, 3).tolist())
    return Weather(
        kind,
        _AMBIENT[kind] * float(rng.uniform(0.9, 1.1)),
        float(rng.uniform(*_HAZE_M.get(kind, (260.0, 400.0)))),
        float(rng.uniform(0.5, 1.0)) if wet else 0.0,
        float(rng.uniform(1.0, 5.0) if _AMBIENT[kind] > 0.3 else rng.uniform(4.0, 9.0)),
        float(rng.uniform(0.9, 1.1)),
        mount,
        float(rng.uniform(0.0, 0.002)),
    )


def compute_illumination(ambient: float | Any, ahead: Any, left: Any) -> Any:
    """Light at points ahead and left of the ego (m): daylight and the ego's headlamps.

    ahead and left are NumPy arrays or PyTorch tensors; so is the result.
    """
    reach = (1.15 - ahead / 55.0).clip(0.0, 1.0) * (ahead - 1.5).clip(0.0, 1.0)
    beam = (1.4 - abs(left) / (2.0 + 0.4 * ahead.clip(0.0, 1e3))).clip(0.0, 1.0)
    return ambient + 0.8 * (1.0 - ambient) * reach * beam


def make_grain(noise: Any, deviation: float | Any, rain: float | Any) -> Any:
    """Sensor noise and rain streaks (..., H, W) from white noise of deviation 1.

    The streaks are bright and vertical. Takes NumPy arrays or PyTorch tensors.
    """
    length = max(3, noise.shape[-2] // 16)
    smeared = sum(noise[..., i : noise.shape[-2] - length + i, :] for i in range(length))
    streaks = (smeared / length**0.5 - 1.9).clip(0.0, 1.5) * 60.0 * rain
    added = deviation * noise
    added[..., length // 2 : noise.shape[-2] - length + length // 2, :] += streaks
    return added


def light_colours(colours: Array, away_m: Array, yaw_rad: float, weather: Weather) -> Array:
    """Colours (N, 3) of objects at (N, 2) m from the ego, as lit and seen through the haze."""
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    ahead, left = away_m @ np.array([cos, sin]), away_m @ np.array([-sin, cos])
    ambient = min(weather.ambient, 1.0)
    clear = np.exp(-np.hypot(ahead, left) / weather.haze_m)[:, None]
    glows = colours.max(axis=1, keepdims=True) > 255.0
    light = np.where(glows, 1.0, compute_illumination(ambient, ahead, left)[:, None])
    haze = np.where(glows, 0.3, 1.0) * (1 - clear)  # lamps shine through haze
    return np.minimum(colours * light, 255.0) * (1 - haze) + HAZE * ambient * haze
