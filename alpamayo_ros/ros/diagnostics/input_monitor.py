"""Monitors the arrivals of one input, and describes them as a status."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from ...data_types import NANOSECONDS
from .status import ERROR, OK, WARN, Status

WINDOW_S, MOST_ARRIVALS = 2.0, 2000
INTERVALS = 9  # the median of so many is the usual one


class InputMonitor:
    """Counts the messages of one input and measures their rate and delay.

    A gap in the stamps that is wider than usual adds to `dropped` as many messages as are missing,
    wherever they were lost; a gap of WINDOW_S or more is silence, which the age shows. Rate and
    delay are means over the last WINDOW_S, or over two messages. A message counts as arrived when
    the node reads it. To save CPU, odometry is read in batches: with every camera frame, and at
    least every 0.25 s, so its delay includes up to 0.25 s of batching. publishers: full names of
    the nodes that publish the topic, where they are more than one. misfit: a sentence about a
    publisher whose QoS does not fit.
    """

    def __init__(self, topic: str, type_name: str) -> None:
        self.topic, self.type_name = topic, type_name
        self.received = self.refused = self.dropped = 0
        self.newest_ns: int | None = None
        self.last_refusal = ''
        self.publishers: Sequence[str] = ()
        self.misfit = ''
        self._arrivals: deque[tuple[float, int]] = deque(maxlen=MOST_ARRIVALS)
        self._intervals_ns: deque[int] = deque(maxlen=INTERVALS)

    def note_arrival(
        self, steady_s: float, now_ns: int, stamp_ns: int | None, refusal: str
    ) -> None:
        """Note a message: its time by a steady clock and by the node's, its stamp, why refused."""
        self.received += 1
        if refusal:
            self.refused += 1
            self.last_refusal = refusal
        if stamp_ns is not None:
            self._note_interval(stamp_ns - (self.newest_ns or stamp_ns))
            self.newest_ns = stamp_ns
            self._arrivals.append((steady_s, now_ns - stamp_ns))
            while len(self._arrivals) > 2 and self._arrivals[0][0] < steady_s - WINDOW_S:
                self._arrivals.popleft()

    def _note_interval(self, interval_ns: int) -> None:
        if not 0 < interval_ns < WINDOW_S * NANOSECONDS:
            return
        if len(self._intervals_ns) == INTERVALS:
            usual_ns = sorted(self._intervals_ns)[INTERVALS // 2]
            self.dropped += max(round(interval_ns / usual_ns) - 1, 0)
        self._intervals_ns.append(interval_ns)

    def is_silent(self, steady_s: float) -> bool:
        """Whether nothing has arrived for WINDOW_S."""
        return not self._arrivals or self._arrivals[-1][0] < steady_s - WINDOW_S

    def measure_rate_hz(self, steady_s: float) -> float:
        """Messages per second; falls while none arrives, 0 with fewer than two."""
        if len(self._arrivals) < 2:
            return 0.0
        first = self._arrivals[0][0]
        span = max(self._arrivals[-1][0], steady_s - 1.0) - first
        later = sum(at > first for at, _ in self._arrivals)  # a batch has one time of arrival
        return later / span if span > 0 else 0.0

    @property
    def delay_ms(self) -> float:
        """Mean time from stamp to arrival."""
        delays = [delay_ns for _, delay_ns in self._arrivals]
        return sum(delays) / len(delays) / 1e6 if delays else 0.0


def describe_input(
    name: str,
    monitor: InputMonitor,
    now_ns: int,
    steady_s: float,
    max_age_s: float,
    published: Mapping[str, Iterable[str]],
) -> Status:
    """Status of one input.

    published: topics of the graph with their types, to name what a silent topic has instead.
    """
    values: dict[str, object] = {
        'topic': monitor.topic,
        'received': monitor.received,
        'refused': monitor.refused,
        'last refusal': monitor.last_refusal,
        'dropped': monitor.dropped,
        'rate Hz': round(monitor.measure_rate_hz(steady_s), 2),
        'delay ms': round(monitor.delay_ms, 1),
    }
    if monitor.newest_ns is None:
        others = set(published.get(monitor.topic, ())) - {monitor.type_name}
        text = f'{name}: no {monitor.type_name} on {monitor.topic}'
        text += f', which is a {" and ".join(sorted(others))}' if others else ''
        text = monitor.last_refusal or monitor.misfit or text
        return Status(ERROR, f'input/{name}', text, values)
    age_s = (now_ns - monitor.newest_ns) / NANOSECONDS
    values['age s'] = round(age_s, 3)
    if abs(age_s) > max_age_s:
        text = f'{age_s:.1f} s old' if age_s > 0 else f'stamped {-age_s:.1f} s in the future'
        text += f'; last refused: {monitor.last_refusal}' if monitor.last_refusal else ''
        text += f'; {monitor.misfit}' if monitor.misfit else ''
        return Status(ERROR, f'input/{name}', f'{name}: {text}', values)
    if monitor.publishers:
        text = f'{name}: {describe_publishers(monitor)}'
        return Status(WARN, f'input/{name}', text, values)
    return Status(OK, f'input/{name}', f'{values["rate Hz"]} Hz', values)


def describe_publishers(monitor: InputMonitor) -> str:
    """Sentence about a topic that several nodes publish, with their names."""
    names = ', '.join(monitor.publishers)
    return f'{len(monitor.publishers)} publishers on {monitor.topic}, expected one: {names}'
