"""A prediction with the pose at t0: everything that the messages of one t0 are made from.

Knows no message and no clock: the time of publication is a field.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import NDArray

from ... import geometry
from ...data_types import GRID_NS, WAYPOINTS, EgoPose, Prediction

FRAMES = ('odometry', 'base_link')
HORIZON_NS = WAYPOINTS * GRID_NS


@dataclass(frozen=True)
class StampedPrediction:
    """A prediction, where it belongs and when it is published.

    odom_from_t0 is the pose interpolated at exactly t0, never a later one. output_frame is one of
    FRAMES. Waypoints before the index `first` are left out, because they are in the past. now_ns:
    time of publication, on the clock of t0. dropped: contexts since the start that gave way to a
    newer one or to max_rate_hz. trusted_mps: the speed that paths can be trusted at now.
    """

    prediction: Prediction
    odom_from_t0: EgoPose
    now_ns: int
    output_frame: str = 'odometry'
    first: int = 0
    dropped: int = 0
    trusted_mps: float = math.inf

    @property
    def frame_id(self) -> str:
        """Frame of the path: that of the odometry, or the vehicle's."""
        odom = self.odom_from_t0
        return odom.frame_id if self.output_frame == 'odometry' else odom.child_frame_id

    @property
    def waypoint_stamps_ns(self) -> NDArray[np.int64]:
        """Stamps (64 - first,) of the poses of the path.

        In the vehicle's frame every pose has the stamp t0: to tf2 a later stamp in that frame
        means another place.
        """
        numbers = np.arange(self.first + 1, WAYPOINTS + 1)
        moves_on = self.output_frame == 'odometry'
        return np.asarray(self.prediction.t0_ns + GRID_NS * moves_on * numbers, np.int64)

    @property
    def samples(self) -> NDArray[np.float64]:
        """(K, 64 - first, 4): x, y in m, yaw in rad, speed in m/s of each sample, t0 frame."""
        return np.asarray(self.prediction.samples, np.float64)[:, self.first :]

    @property
    def chosen_actions(self) -> NDArray[np.float64]:
        """(64 - first, 2): acceleration in m/s^2 and curvature in 1/m of the chosen sample."""
        prediction = self.prediction
        return np.asarray(prediction.actions[prediction.chosen, self.first :], np.float64)

    @property
    def inference_ms(self) -> float:
        """Duration of the inference: the whole, or its stages where nothing timed the whole."""
        timing_ms = self.prediction.timing_ms
        return float(timing_ms.get('total', sum(timing_ms.values())))

    def place_chosen(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The chosen sample's poses in the output frame: positions (N, 3), quaternions (N, 4).

        In the odometry frame p_t0 + R_t0 p and q_t0 * q_yaw, float64.
        """
        chosen = self.samples[self.prediction.chosen]
        xyz, yaw = np.insert(chosen[:, :2], 2, 0.0, axis=1), chosen[:, 2]
        if self.output_frame == 'base_link':
            return xyz, geometry.yaw_quaternion(yaw)
        odom = self.odom_from_t0
        return geometry.to_world(odom.position_m, odom.quaternion_xyzw, xyz, yaw)
