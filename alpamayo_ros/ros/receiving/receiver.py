"""Takes the messages of all inputs: converts, decodes videos, and hands on to the anchors.

The live twin of what Replay does with a bag, where videos are decoded at once. Knows no rclpy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
import time
from typing import Any

from ...data_types import EgoPose, Frame, Rejection, VideoPacket
from ...video.decoder_thread import Decoded, DecoderThread
from ..anchors import Anchors
from ..diagnostics.input_monitor import InputMonitor
from ..diagnostics.log_throttle import LogThrottle
from ..input_topics import ODOMETRY
from ..inputs import read_pose, to_image


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
        self._anchors, self._monitors, self._log = anchors, monitors, log
        self._now_ns, self._post, self._on_taken = now_ns, post, on_taken
        self._videos: dict[str, DecoderThread] = {}

    def receive(self, name: str, *messages: Any) -> None:
        """Take messages of a camera, or CDR bytes of Odometry; a video's packets follow later."""
        start, now_ns = time.perf_counter(), self._now_ns()
        for message in messages:
            item = _convert(name, message)
            if not isinstance(item, VideoPacket):
                self._take(name, item, start, now_ns)
            elif refused := self._begin_decoding(name, item):
                self._take(name, refused, start, now_ns)
        self._on_taken(now_ns, start)

    def _begin_decoding(self, name: str, packet: VideoPacket) -> Rejection | None:
        video = self._videos.setdefault(name, DecoderThread())
        return video.submit(packet, partial(self._post, self._take_decoded, name))

    def _take_decoded(self, name: str, decoded: Decoded) -> None:
        start, now_ns = time.perf_counter(), self._now_ns()
        try:
            found = decoded.result()
        except ValueError as error:
            found = Rejection(0, 'bad_message', str(error))
        for item in [found] if isinstance(found, Rejection) else found:
            self._take(name, item, start, now_ns)
        self._on_taken(now_ns, start)

    def _take(
        self, name: str, item: EgoPose | Frame | Rejection, start: float, now_ns: int
    ) -> None:
        """Hand an item to the anchors, and note its arrival or why it is refused."""
        stamp_ns, refused = None, None
        if isinstance(item, Rejection):
            item = refused = replace(item, detail=f'{name}: {item.detail}')
            self._anchors.refuse(name, item)
        else:
            stamp_ns, refused = item.stamp_ns, self._add(name, item)
        detail = refused.detail if refused else ''
        self._monitors[name].note_arrival(start, now_ns, stamp_ns, detail)
        if refused:
            self._log.warn(f'{name}: {refused.reason}', detail)

    def _add(self, name: str, item: EgoPose | Frame) -> Rejection | None:
        if isinstance(item, Frame):
            return self._anchors.add_frame(name, item)
        refused = self._anchors.add_pose(item)
        if not refused and (self.vehicle is None or item.stamp_ns > self.vehicle.stamp_ns):
            self.vehicle = item
        return refused


def _convert(name: str, message: Any) -> EgoPose | Frame | VideoPacket | Rejection:
    try:
        return read_pose(message) if name == ODOMETRY else to_image(message)
    except ValueError as error:
        return Rejection(0, 'bad_message', str(error))
