"""Takes the messages of all inputs: converts, decodes videos, and hands on to the anchors.

The live twin of what Replay does with a bag, where videos are decoded at once. Knows no rclpy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
import time
from typing import Any

from ...data_types import EgoPose, Frame, Rejection
from ...transform_tree import TransformTree
from ...video.decoder_thread import Decoded, DecoderThread
from ..anchors import Anchors
from ..diagnostics.input_monitor import InputMonitor
from ..diagnostics.log_throttle import LogThrottle
from ..input_topics import ODOMETRY, TWIST
from ..inputs import to_image
from .ego import EgoReader


class Receiver:
    """The inputs of one vehicle; all methods are for the thread that owns the node.

    post: as in Pipeline. on_taken(now_ns, start) is called whenever input was taken, with the
    node's time and that of time.perf_counter(). vehicle: the newest pose of the odometry.
    """

    def __init__(
        self,
        anchors: Anchors,
        monitors: Mapping[str, InputMonitor],
        now_ns: Callable[[], int],
        post: Callable[..., Any],
        log: LogThrottle,
        on_taken: Callable[[int, float], Any],
    ) -> None:
        self.vehicle: EgoPose | None = None
        self._ego = EgoReader(anchors.rig.ego)
        self._anchors, self._monitors, self._log = anchors, monitors, log
        self._now_ns, self._post, self._on_taken = now_ns, post, on_taken
        self._videos: dict[str, DecoderThread] = {}

    def receive(self, name: str, *messages: Any) -> None:
        """Take messages of an input, or CDR bytes of Odometry; a video's packets follow later."""
        start, now_ns = time.perf_counter(), self._now_ns()
        for message in messages:
            try:
                if name in (ODOMETRY, TWIST):
                    self._take_poses(name, message, start, now_ns)
                else:
                    self._take_image(name, message, start, now_ns)
            except ValueError as error:
                self._take(name, Rejection(0, 'bad_message', str(error)), start, now_ns)
        self._on_taken(now_ns, start)

    def receive_static(self, message: Any) -> None:
        """Take a TFMessage of /tf_static."""
        self._ego.add_static(message)

    @property
    def tree(self) -> TransformTree:
        """What is known of TF."""
        return self._ego.tree

    def _take_poses(self, name: str, message: Any, start: float, now_ns: int) -> None:
        read = self._ego.read_poses if name == ODOMETRY else self._ego.read_twist
        stamp_ns, poses = read(message)
        refused = [self._add_pose(pose) for pose in poses]
        if stamp_ns is not None:
            self._note(name, stamp_ns, next(filter(None, refused), None), start, now_ns)

    def _take_image(self, name: str, message: Any, start: float, now_ns: int) -> None:
        image = to_image(message)
        if isinstance(image, Frame):
            self._take(name, image, start, now_ns)
            return
        video = self._videos.setdefault(name, DecoderThread())
        post = partial(self._post, self._take_decoded, name)
        if refused := video.submit(image, post):
            self._take(name, refused, start, now_ns)

    def _take_decoded(self, name: str, decoded: Decoded) -> None:
        start, now_ns = time.perf_counter(), self._now_ns()
        try:
            found = decoded.result()
        except ValueError as error:
            found = Rejection(0, 'bad_message', str(error))
        for item in [found] if isinstance(found, Rejection) else found:
            self._take(name, item, start, now_ns)
        self._on_taken(now_ns, start)

    def _take(self, name: str, item: Frame | Rejection, start: float, now_ns: int) -> None:
        """Hand a frame to the anchors, or tell them what is refused; note either."""
        if isinstance(item, Frame):
            refused = self._anchors.add_frame(name, item)
            self._note(name, item.stamp_ns, refused, start, now_ns)
        else:
            item = replace(item, detail=f'{name}: {item.detail}')
            self._anchors.refuse(name, item)
            self._note(name, None, item, start, now_ns)

    def _add_pose(self, pose: EgoPose) -> Rejection | None:
        refused = self._anchors.add_pose(pose)
        if not refused and (self.vehicle is None or pose.stamp_ns > self.vehicle.stamp_ns):
            self.vehicle = pose
        return refused

    def _note(
        self, name: str, stamp_ns: int | None, refused: Rejection | None, start: float, now_ns: int
    ) -> None:
        detail = refused.detail if refused else ''
        self._monitors[name].note_arrival(start, now_ns, stamp_ns, detail)
        if refused:
            self._log.warn(f'{name}: {refused.reason}', detail)
