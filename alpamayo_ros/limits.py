"""How late, sparse or scattered the inputs of a context may be.

Knows no ROS and no command line: the node's parameters and the commands' options have the names of
these fields.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from .errors import BadInput


@dataclass(frozen=True)
class ContextLimits:
    """Limits in seconds. Raises BadInput for a value that makes no sense.

    max_input_age_s: the buffer waits this long for missing input. odometry_max_gap_s: longest
    time between two poses of a history. max_skew_s: largest spread of the cameras at one grid
    time. frame_lead_s: how much later than t0 a frame may be stamped, for cameras of one trigger.
    """

    max_input_age_s: float = 0.5
    odometry_max_gap_s: float = 0.2
    max_skew_s: float = 0.05
    frame_lead_s: float = 0.01

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if not 0 <= value <= 10:
                raise BadInput(f'{name}={value} is not in 0 ... 10 s')
        if self.odometry_max_gap_s > 0.5:  # the cubic needs four samples in 1.5 s
            raise BadInput(f'odometry_max_gap_s={self.odometry_max_gap_s} is above 0.5 s')
