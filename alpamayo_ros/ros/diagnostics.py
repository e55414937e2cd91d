"""What /diagnostics says: figures of the node to statuses, and statuses to a message.

Pure functions of figures that the node hands over; no rclpy, no clock, no thread. A status is a
level, a name, one sentence and key-value pairs; the sentence says what is wrong first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..data_types import NANOSECONDS, Context, Prediction, Rejection
from .anchors import FATES, Anchors
from .outputs import HORIZON_NS, Make
from .policy import UNHEALTHY, Decision

OK, WARN, ERROR, STALE = range(4)
WINDOW_S, MOST_ARRIVALS = 2.0, 2000
INTERVALS = 9  # the median of so many is the usual one
UNUSUAL = {  # checks of a context that is served all the same
    'camera_subset': 'cameras are missing from the prompt',
    'v0_mismatch': 'history and twist disagree by more than 0.5 m/s',
    'history_saturated': 'the history is faster than its tokens can say',
}


@dataclass(frozen=True)
class Status:
    """One line of diagnostics; level is OK, WARN, ERROR or STALE."""

    level: int
    name: str
    message: str
    values: Mapping[str, object] = field(default_factory=dict)


class InputMonitor:
    """Arrivals of one input: rate and delay of the newest, how many were refused and why last.

    dropped: how many are missing where a gap in the stamps is wider than usual, wherever they
    were lost; after a gap of WINDOW_S an input was silent, which its age tells. Rate and delay are
    of the last WINDOW_S, or of two messages, by the time of arrival: when the node takes
    a message, which for odometry is with the next frame and at least four times a second.
    """

    def __init__(self, topic: str, type_name: str) -> None:
        self.topic, self.type_name = topic, type_name
        self.received = self.refused = self.dropped = 0
        self.newest_ns: int | None = None
        self.last_refusal = ''
        self._arrivals: deque[tuple[float, int]] = deque(maxlen=MOST_ARRIVALS)
        self._intervals_ns: deque[int] = deque(maxlen=INTERVALS)

    def arrived(self, steady_s: float, now_ns: int, stamp_ns: int | None, refusal: str) -> None:
        """Note a message: when by a steady clock, when by the node's, its stamp, why refused."""
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

    def rate_hz(self, steady_s: float) -> float:
        """Messages per second; falls while none arrives, 0 with fewer than two."""
        if len(self._arrivals) < 2:
            return 0.0
        first = self._arrivals[0][0]
        span = max(self._arrivals[-1][0], steady_s - 1.0) - first
        later = sum(at > first for at, _ in self._arrivals)  # than what was fetched first
        return later / span if span > 0 else 0.0

    @property
    def delay_ms(self) -> float:
        """Mean time from stamp to arrival."""
        delays = [delay_ns for _, delay_ns in self._arrivals]
        return sum(delays) / len(delays) / 1e6 if delays else 0.0


@dataclass(frozen=True)
class Served:
    """The last prediction, and how old it was when it was decided about."""

    context: Context
    prediction: Prediction
    age_ms: float


def input_status(
    name: str,
    monitor: InputMonitor,
    now_ns: int,
    steady_s: float,
    max_age_s: float,
    published: Mapping[str, Iterable[str]],
) -> Status:
    """Status of one input; `published`: topics of the graph with their types."""
    values: dict[str, object] = {
        'topic': monitor.topic,
        'received': monitor.received,
        'refused': monitor.refused,
        'last refusal': monitor.last_refusal,
        'dropped': monitor.dropped,
        'rate Hz': round(monitor.rate_hz(steady_s), 2),
        'delay ms': round(monitor.delay_ms, 1),
    }
    if monitor.newest_ns is None:
        others = set(published.get(monitor.topic, ())) - {monitor.type_name}
        text = f'{name}: no {monitor.type_name} on {monitor.topic}'
        text += f', which is a {" and ".join(sorted(others))}' if others else ''
        return Status(ERROR, f'input/{name}', monitor.last_refusal or text, values)
    age_s = (now_ns - monitor.newest_ns) / NANOSECONDS
    values['age s'] = round(age_s, 3)
    if abs(age_s) > max_age_s:
        text = f'{age_s:.1f} s old' if age_s > 0 else f'stamped {-age_s:.1f} s in the future'
        text += f'; last refused: {monitor.last_refusal}' if monitor.last_refusal else ''
        return Status(ERROR, f'input/{name}', f'{name}: {text}', values)
    return Status(OK, f'input/{name}', f'{values["rate Hz"]} Hz', values)


def model_status(
    state: str, error: str, enabled: bool, load_s: float, about: Mapping[str, Any]
) -> Status:
    """Status of the model: its state, and what it was loaded from."""
    values = {'state': state, 'enabled': enabled, 'load s': round(load_s, 1), **about}
    if state == 'error':
        return Status(ERROR, 'model', error, values)
    if state != 'ready':
        return Status(WARN, 'model', state, values)
    return Status(OK if enabled else WARN, 'model', 'ready' if enabled else 'paused', values)


def context_status(anchors: Anchors, context: Context | None, no_clock: bool) -> Status:
    """Whether the newest anchor was served, else why not; counts of rejections by reason."""
    values: dict[str, object] = {
        **{f'rejected: {reason}': count for reason, count in sorted(anchors.rejections.items())},
        'epoch': anchors.epoch,
    }
    if context is not None:
        values['v0 m/s'] = round(context.v0_mps, 2)
        values['twist m/s'] = round(context.odom_from_t0.speed_mps, 2)
        values['skew ms'] = round(context.skew_s * 1e3, 1)
    if no_clock:
        return Status(ERROR, 'context', 'use_sim_time is set, but there is no /clock', values)
    if anchors.last is not None:
        return Status(_severity(anchors.last), 'context', anchors.last.detail, values)
    if context is None:
        return Status(STALE, 'context', 'no context yet', values)
    unusual = [text for name, text in UNUSUAL.items() if name in context.checks]
    return Status(WARN if unusual else OK, 'context', '; '.join(unusual) or 'ready', values)


def inference_status(
    anchors: Anchors,
    pending: int,
    busy_s: float,
    limit_s: float,
    submit_ms: Sequence[float],
    served: Served | None,
) -> Status:
    """Counts of anchor frames by fate, which add up, and the times of the last inference.

    submit_ms: times from the input that completed a context to its submission.
    """
    values: dict[str, object] = {'seen': anchors.seen}
    values.update({fate: anchors.total(fate) for fate in FATES})
    values['pending'] = anchors.waiting + pending
    values.update(
        {
            f'{fate}: {reason}': count
            for (fate, reason), count in sorted(anchors.fates.items())
            if reason and count
        }
    )
    if submit_ms:
        median, p95 = np.percentile(submit_ms, [50, 95])
        values |= {'submit ms': round(float(median), 3), 'submit p95 ms': round(float(p95), 3)}
    if served is not None:
        stages = served.prediction.timing_ms
        values.update({f'{stage} ms': round(ms, 2) for stage, ms in stages.items()})
        values['seed'] = served.prediction.seed
    if busy_s > limit_s:
        text = f'inference has been running for {busy_s:.1f} s, limit {limit_s:g} s'
        return Status(ERROR, 'inference', text, values)
    return Status(OK, 'inference', 'running' if busy_s else 'idle', values)


def output_status(
    served: Served | None,
    decision: Decision | None,
    counts: Mapping[str, int],
    failure: str,
    now_ns: int,
) -> Status:
    """What was done last, with a path or for want of one, and why; counts by action and reason.

    The age of a path is that of its publication, what remains of it that of now.
    """
    values: dict[str, object] = dict(sorted(counts.items()))
    reasons = ', '.join(decision.reasons) if decision else ''
    if served is not None:
        remaining_s = (served.prediction.t0_ns + HORIZON_NS - now_ns) / NANOSECONDS
        values.update(
            {
                'age ms': round(served.age_ms, 1),
                'remaining s': round(remaining_s, 2),
                'checks': ', '.join(served.prediction.checks),
                'spread m': round(served.prediction.spread_m, 2),
                'samples': len(served.prediction.samples),
            }
        )
    if failure:
        return Status(ERROR, 'output', failure, values)
    if served is None:
        text = f'no path yet: {reasons}' if reasons else 'no path yet'
        return Status(STALE, 'output', text, values)
    if decision is not None and reasons:
        said = {'publish': 'published', 'hold': 'last valid path held', 'nothing': 'held back'}
        return Status(ERROR, 'output', f'{said[decision.action]}: {reasons}', values)
    if remaining_s <= 0:
        text = f'the last path has been over for {-remaining_s:.1f} s'
        return Status(ERROR, 'output', text, values)
    return Status(OK, 'output', 'published', values)


def reasoning_status(served: Served | None) -> Status:
    """How the reasoning ended; the partial text when it did not."""
    if served is None:
        return Status(STALE, 'reasoning', 'no prediction yet')
    prediction = served.prediction
    k = prediction.chosen
    values = {
        'end': prediction.end[k],
        'tokens': prediction.tokens[k],
        'partial text': prediction.partial_texts[k],
    }
    found = [name for name in UNHEALTHY if name in prediction.checks]
    return Status(WARN if found else OK, 'reasoning', ', '.join(found) or 'ended', values)


def memory_status(
    available_bytes: int, resident_bytes: int, peak_bytes: int, gpu_peak_bytes: int = 0
) -> Status:
    """Memory of the machine and of this process; the last on a GPU, 0 without one."""
    values = {
        'available MB': round(available_bytes / 1e6),
        'resident MB': round(resident_bytes / 1e6, 1),
        'peak MB': round(peak_bytes / 1e6, 1),
    }
    if gpu_peak_bytes:
        values['GPU peak MB'] = round(gpu_peak_bytes / 1e6, 1)
    return Status(OK, 'memory', f'{values["available MB"]} MB available', values)


def diagnostic_array(
    statuses: Iterable[Status], make: Make, stamp_ns: int, node_name: str, hardware: str
) -> Any:
    """diagnostic_msgs/DiagnosticArray; every status is named after the node."""
    sec, nanosec = divmod(stamp_ns, NANOSECONDS)
    stamp = make('builtin_interfaces/msg/Time', sec=sec, nanosec=nanosec)
    return make(
        'diagnostic_msgs/msg/DiagnosticArray',
        header=make('std_msgs/msg/Header', stamp=stamp),
        status=[
            make(
                'diagnostic_msgs/msg/DiagnosticStatus',
                level=bytes([status.level]),
                name=f'{node_name}: {status.name}',
                message=status.message,
                hardware_id=hardware,
                values=[
                    make('diagnostic_msgs/msg/KeyValue', key=key, value=str(value))
                    for key, value in status.values.items()
                ],
            )
            for status in statuses
        ],
    )


def _severity(rejection: Rejection) -> int:
    """A gap or a clock that jumped passes by itself; what is missing or wrong does not."""
    passing = ('odometry_gap', 'odometry_late', 'history_short', 'clock_jump', 'too_old')
    return WARN if rejection.reason in passing else ERROR
