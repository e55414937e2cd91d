"""Towns: the bends, weather, plants and houses of a split's drives.

The split `town` is unlike all that training sees: tighter bends, fog and twilight, other meshes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Town:
    """What differs between towns.

    radii_m: of bends, by speed limit in km/h. max_drift_rad: largest angle between the heading and
    the axis between two turns. weather: kinds and their shares. first_variant: of plants and
    houses, 16 from there on.
    """

    radii_m: Mapping[int, tuple[float, float]]
    max_drift_rad: float
    weather: Mapping[str, float]
    first_variant: int


HOME = Town(
    {30: (32.0, 70.0), 50: (50.0, 120.0), 70: (110.0, 240.0)},
    0.42,
    {'day': 0.45, 'dusk': 0.15, 'rain': 0.2, 'night': 0.15, 'wet_night': 0.05},
    0,
)
AWAY = Town(
    {30: (24.0, 34.0), 50: (40.0, 55.0), 70: (85.0, 115.0)},
    0.55,
    {'day': 0.2, 'fog': 0.4, 'twilight': 0.4},
    16,
)
SPLITS = {'train': HOME, 'validation': HOME, 'test': HOME, 'town': AWAY}
