"""Replays a bag through the code of the live node: one line of the record per t0.

Anchors are decided in the order of their stamps; none is dropped because an inference is slow,
and every inference has its own seed, so two runs agree. Writes no file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
import time
from typing import Any

import numpy as np

from .. import images
from ..bags.reader import Bag, StampedMessage
from ..context.buffer import ContextBuffer
from ..data_types import (
    NANOSECONDS,
    Context,
    Frame,
    Prediction,
    Rejection,
    VideoPacket,
    derive_seed,
)
from ..json_types import Line
from ..metrics.displacement import measure_horizons
from ..rig import IMAGE_TYPES, CameraRig
from ..ros.input_topics import STATIC_TOPIC, TF_TYPE, list_ego_topics, list_input_topics
from ..ros.inputs import find_stamp, to_image
from ..runtime.constant_velocity import make_straight_path
from ..runtime.serving.jobs import Engine
from ..video.decoder import VideoDecoder
from .driven_path import DrivenPath, DrivenTruth, make_ego_reader
from .record import Key, line_key, ok_line, reason_line
from .recorded_navigation import RecordedNavigation

WARM_UP_NS = 1_600_000_000  # the history, and one grid step for the frames around it
# What is read before a span: its warm-up, and what the buffer keeps beside it.
LEAD_NS, LEAD_MESSAGES = 4_000_000_000, 12


@dataclass(frozen=True)
class Schedule:
    """Which anchors are looked at: one per period (0: all), or the single one at t0_ns.

    Periods are counted from WARM_UP_NS after the first anchor frame, and again from there after a
    clock jump; the first anchor at or after the start of a period is taken.

    start_ns, stop_ns: only what is in a span of the bag, from its start, which begins a period, on
    and before its stop. Spans give the lines of the whole bag to the bit where it has one clock.
    """

    period_ns: int = NANOSECONDS
    t0_ns: int | None = None
    start_ns: int | None = None
    stop_ns: int | None = None


def require_topics(bag: Bag, rig: CameraRig) -> None:
    """Raise BadInput unless the bag has the rig's topics, with messages of the right types."""
    types = {x.topic: (x.type,) if x.type else IMAGE_TYPES for x in rig.cameras}
    types |= {topic: (kind,) for topic, kind in list_ego_topics(rig).values()}
    if rig.ego.needs_static_transforms:
        types[STATIC_TOPIC] = (TF_TYPE,)
    bag.require(types)


def list_topics(rig: CameraRig) -> list[str]:
    """The topics that a rig reads: those of the cameras, then the odometry and its twist."""
    return [topic for topic, _ in list_input_topics(rig).values()]


class Replay:
    """One pass over a bag."""

    def __init__(
        self,
        bag: Bag,
        rig: CameraRig,
        engine: Engine,
        schedule: Schedule | None = None,
        seed: int = 0,
        navigation: RecordedNavigation | None = None,
    ) -> None:
        self.bag, self.rig, self.engine = bag, rig, engine
        self._navigation = navigation
        self.schedule, self.seed = schedule or Schedule(), seed
        self.driven = DrivenPath(bag, rig)
        self._buffer = ContextBuffer(rig)
        self._cameras = {camera.topic: camera.name for camera in rig.cameras}
        self._ego = make_ego_reader(bag, rig)
        self._videos: dict[str, VideoDecoder] = {}  # by topic
        self._anchor_topic = next(c.topic for c in rig.cameras if c.name == rig.anchor)
        self._waiting: dict[int, int] = {}  # t0 to log time of the anchor frame
        self._next_ns = self.schedule.start_ns
        self._epoch = self._buffer.epoch
        self._looked_at = False

    @property
    def expected(self) -> int:
        """About how many anchors will be looked at."""
        if self.schedule.t0_ns is not None:
            return 1
        anchors = self.bag.count(self._anchor_topic)
        span_ns = self.bag.end_ns - self.bag.start_ns
        left_ns = max(span_ns - WARM_UP_NS, 0)
        if not self.schedule.period_ns:
            return round(anchors * left_ns / span_ns) if span_ns else anchors
        return min(left_ns // self.schedule.period_ns + 1, anchors)

    def lines(self, done: Collection[Key] = ()) -> Iterator[Line]:
        """Decide every anchor and yield its line, and one for each message that is refused.

        Nothing is inferred for the keys in `done`, which an earlier run has recorded.
        """
        seen = set(done)
        for line in self._all(seen):
            if line_key(line) not in seen:
                seen.add(line_key(line))
                yield line

    def _all(self, seen: Collection[Key]) -> Iterator[Line]:
        if self._navigation is not None and self.schedule.start_ns is None:
            yield from self._navigation.refused
        topics = list_topics(self.rig)
        for message in self.bag.messages_by_stamp(topics, self._find_start(topics)):
            refused = self._feed(message)
            if refused and self._is_inside(message.order_ns):
                yield refused
            yield from self._decide(seen)
            if self._looked_at and self.schedule.t0_ns is not None:
                return
            if self._is_behind(message.order_ns) and not self._waiting:
                return
        if not self._looked_at and not self._waiting:  # say why there is nothing
            if self.schedule.start_ns is not None or self.schedule.stop_ns is not None:
                return
            if (t0_ns := self.schedule.t0_ns) is not None:
                detail = f'{self.rig.anchor}: no frame at {t0_ns}'
                line = reason_line(t0_ns, 'rejected', 'no_anchor', detail)
                yield {**line, 'log_ns': self.bag.end_ns}
                return
            self._waiting = dict.fromkeys(self._buffer.anchors()[-1:], self.bag.end_ns)
        yield from self._decide(seen, final=True)

    def _find_start(self, topics: Collection[str]) -> int | None:
        """Stamp from which messages are read, so that the buffer knows what it would know."""
        start_ns = self.schedule.start_ns
        if start_ns is None:
            return None
        since_ns = [start_ns - LEAD_NS]
        for topic in topics:
            stamps = np.sort(self.bag.stamps(topic)[1])
            before = stamps[: np.searchsorted(stamps, start_ns - WARM_UP_NS)]
            since_ns += before[-LEAD_MESSAGES:][:1].tolist()
        return min(since_ns)

    def _is_inside(self, stamp_ns: int) -> bool:
        """Whether a stamp is in the span."""
        start_ns = self.schedule.start_ns
        return (start_ns is None or stamp_ns >= start_ns) and not self._is_behind(stamp_ns)

    def _is_behind(self, stamp_ns: int) -> bool:
        return self.schedule.stop_ns is not None and stamp_ns >= self.schedule.stop_ns

    def _feed(self, recorded: StampedMessage) -> Line | None:
        """Put one message into the buffer; a line when it is refused."""
        topic, log_ns = recorded.topic, recorded.log_ns
        camera = self._cameras.get(topic)
        try:
            message = self.bag.decode(topic, recorded.payload)
            if recorded.is_outlier and (stamp := find_stamp(message)).sec > 0:
                text = f'stamp {stamp.sec}.{stamp.nanosec:09} s is far from those around it'
                return reason_line(log_ns, 'rejected', 'stamp_outlier', text, topic)
            if camera is None:
                refused = self._add_poses(topic, message)
            else:
                refused, frame = self._add_image(topic, camera, to_image(message))
        except ValueError as error:
            return reason_line(log_ns, 'rejected', 'bad_message', str(error), topic)
        if self._buffer.epoch != self._epoch:
            self._epoch, self._next_ns = self._buffer.epoch, None
        if refused:
            return reason_line(log_ns, 'rejected', refused.reason, refused.detail, topic)
        if topic == self._anchor_topic and frame is not None and self._is_due(frame.stamp_ns):
            self._waiting[frame.stamp_ns] = log_ns
        return None

    def _add_poses(self, topic: str, message: Any) -> Rejection | None:
        """Put the poses that a message completes into the buffer; why one is refused."""
        is_odometry = topic == self.rig.odometry_topic
        read = self._ego.read_poses if is_odometry else self._ego.read_twist
        refused = [self._buffer.add_pose(pose) for pose in read(message)[1]]
        return next(filter(None, refused), None)

    def _add_image(
        self, topic: str, camera: str, image: Frame | VideoPacket
    ) -> tuple[Rejection | None, Frame | None]:
        """Put an image into the buffer; why it is refused, and the frame that was decoded.

        Packets come in the order of their stamps, so that one packet gives one frame at most.
        """
        if isinstance(image, Frame):
            return self._buffer.add_frame(camera, image), image
        decoded = self._videos.setdefault(topic, VideoDecoder()).decode(image)
        if isinstance(decoded, Rejection):
            return decoded, None
        refused = [self._buffer.add_frame(camera, frame) for frame in decoded]
        return next(filter(None, refused), None), decoded[-1] if decoded else None

    def _is_due(self, t0_ns: int) -> bool:
        """Whether this anchor is to be looked at; moves on to the next period if so."""
        if self.schedule.t0_ns is not None:
            return t0_ns == self.schedule.t0_ns
        if self._next_ns is None:
            self._next_ns = t0_ns + WARM_UP_NS
        if t0_ns < self._next_ns or self._is_behind(t0_ns):
            return False
        if period_ns := self.schedule.period_ns:
            self._next_ns += ((t0_ns - self._next_ns) // period_ns + 1) * period_ns
        return True

    def _decide(self, seen: Collection[Key], final: bool = False) -> Iterator[Line]:
        """Lines of the waiting anchors that can be decided now, in the order of their stamps."""
        for t0_ns in sorted(self._waiting):
            start = time.perf_counter()
            result = self._buffer.context_at(t0_ns, final)
            context_ms = (time.perf_counter() - start) * 1e3
            if result is None:
                return
            log_ns = self._waiting.pop(t0_ns)
            self._looked_at = True
            if isinstance(result, Context) and self._navigation is not None:
                result = self._navigation.apply(result, log_ns)
            if ('', t0_ns) not in seen:
                yield {**self._line(result, context_ms), 'log_ns': log_ns}

    def _line(self, context: Context | Rejection, context_ms: float) -> Line:
        if isinstance(context, Rejection):
            return reason_line(context.t0_ns, 'rejected', context.reason, context.detail)
        start = time.perf_counter()
        try:
            prediction = self.engine.infer(context, derive_seed(self.seed, context.t0_ns))
        except images.ImageError as error:
            detail = images.find_broken_frame(context) or str(error)
            return reason_line(context.t0_ns, 'rejected', 'bad_image', detail)
        except RuntimeError as error:  # out of memory, or a kernel that a device lacks
            return reason_line(context.t0_ns, 'failed', 'engine_error', str(error))
        total_ms = context_ms + (time.perf_counter() - start) * 1e3
        truth = self.driven.truth(context.odom_from_t0)
        timing_ms = {'context': context_ms, **prediction.timing_ms, 'total': total_ms}
        return measure_line(context, prediction, truth, timing_ms)


def measure_line(
    context: Context, prediction: Prediction, truth: DrivenTruth, timing_ms: Mapping[str, float]
) -> Line:
    """Line of a prediction with its errors and those of constant velocity."""
    straight = make_straight_path(context.v0_mps)[None]
    line = ok_line(
        context,
        prediction,
        measure_horizons(prediction.samples, prediction.chosen, truth.path),
        measure_horizons(straight, 0, truth.path),
        timing_ms,
    )
    if truth.reason:
        line |= {'truth_reason': truth.reason, 'truth_detail': truth.detail}
    return line
