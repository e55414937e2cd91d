"""Subscriptions of CameraInfo for cameras that the rig has no calibration of, until it is known.

They are read once a second, so that messages which nobody needs wake nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rclpy.node import Node

from ...rig import CameraRig
from ...transform_tree import TransformTree
from ..endpoints import create_input
from .calibrations import INFO_TYPE, LiveCalibrations
from .polled import OnDemand, take_messages


class CalibrationInputs:
    """Brings the calibrations of a node's cameras what they lack.

    image_topics: of the cameras, as the node has resolved them. tree: what is known of TF.
    """

    def __init__(
        self, node: Node, rig: CameraRig, image_topics: Mapping[str, str], tree: TransformTree
    ) -> None:
        self._node = node
        self._calibrations = calibrations = LiveCalibrations(rig.cameras, image_topics, tree)
        self.describe = calibrations.describe
        never = OnDemand(lambda: False)
        self._subscriptions = {
            name: [
                create_input(node, topic, INFO_TYPE, _ignore, 1, callback_group=never)
                for topic in topics
            ]
            for name, topics in calibrations.wanted.items()
        }

    def update(self, base: str, warn: Callable[[str], Any]) -> None:
        """Read what has come; a camera that is known now has no subscriptions any more.

        base: frame of the rear axle. warn(text) is called for a view that is not that of its name.
        """
        for name, subscriptions in list(self._subscriptions.items()):
            for message in [x for s in subscriptions for x in take_messages(s, 1)]:
                if text := self._calibrations.add_info(name, message, base):
                    warn(text)
            if name not in self._calibrations.wanted:
                for subscription in self._subscriptions.pop(name):
                    self._node.destroy_subscription(subscription)


def _ignore(message: Any) -> None:
    """Take the place of a callback: nobody waits for these messages."""
