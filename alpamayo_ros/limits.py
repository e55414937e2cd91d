"""Limits of the inputs of a context: how late, sparse or scattered they may be.

Node parameters, options of the commands and keys of a rig file carry the names of these fields.
Knows no ROS, no command line and no file format.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from .errors import BadInput


def _limit(default: float, low: float, high: float, description: str) -> Any:
    """Field of one limit with its range; the default lies inside."""
    return field(default=default, metadata={'description': description, 'low': low, 'high': high})


@dataclass(frozen=True)
class ContextLimits:
    """Limits in seconds; raises BadInput for a value outside its range.

    The metadata of each field hold `description`, `low` and `high`.
    """

    max_input_age_s: float = _limit(
        0.5,
        0.05,
        10.0,
        'Oldest context that is inferred, s.',
    )
    # the cubic through the poses needs four of them in 1.5 s
    odometry_max_gap_s: float = _limit(
        0.2, 0.01, 0.5, 'Longest gap between two odometry messages, s.'
    )
    max_skew_s: float = _limit(
        0.05, 0.0, 0.1, 'Largest spread of the cameras at one grid time, s.'
    )
    frame_lead_s: float = _limit(
        0.01, 0.0, 0.05, 'How much later than t0 a camera frame may be stamped, s.'
    )

    def __post_init__(self) -> None:
        for row in fields(self):
            value, low, high = getattr(self, row.name), row.metadata['low'], row.metadata['high']
            if not low <= value <= high:
                raise BadInput(f'{row.name}: {value} is not in {low} ... {high}')
