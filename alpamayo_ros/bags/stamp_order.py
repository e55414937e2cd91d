"""Orders recorded messages by their stamps, whatever their order in the file.

Arrays of one topic, (N,) int64 ns in the order of the log: log times and stamps. Knows no files.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

Stamps = NDArray[np.int64]

WINDOW = 41  # messages that a wrong stamp is compared with
OFF_NS = 10_000_000_000  # a stamp this far from its neighbours in the log is wrong
SPREADS = 10  # and this many times farther than they are from one another
SLICE = 10_000  # messages at a time, to bound the memory
RESET_NS = 500_000_000  # stamps that go back further begin a new pass, if they come again
LATE = 3  # messages that may come late without a new pass
CLOCK_LIMIT_NS = 5_000_000_000  # stamps this far from the log times are another clock's


def find_outliers(log_ns: Stamps, stamps_ns: Stamps) -> NDArray[np.bool_]:
    """Stamps (N,) bool that are far from those around them in the log.

    A receiver before its first fix sends such stamps. A lasting step of the clock is no outlier.
    """
    count = len(stamps_ns)
    delays = log_ns - stamps_ns
    result = np.zeros(count, bool)
    if count < 3 or np.abs(delays - int(np.median(delays))).max() <= OFF_NS:
        return result
    width = min(WINDOW, count)
    windows = np.lib.stride_tricks.sliding_window_view(delays, width)
    at = np.clip(np.arange(count) - width // 2, 0, count - width)
    for start in range(0, count, SLICE):
        part = slice(start, start + SLICE)
        rows = windows[at[part]]
        medians = np.median(rows, axis=1)
        spreads = np.median(np.abs(rows - medians[:, None]), axis=1)
        far = np.abs(delays[part] - medians)
        result[part] = far > np.maximum(OFF_NS, SPREADS * spreads)
    return result


def number_passes(stamps_ns: Stamps) -> NDArray[np.int64]:
    """Number (N,) of the pass of each message: a drive that is recorded twice has two.

    A new pass begins where stamps go back by more than RESET_NS to where an earlier block of the
    pass has been. Blocks in the wrong order, which share no time, and single late messages belong
    to one pass.
    """
    count = len(stamps_ns)
    is_back = np.diff(stamps_ns, prepend=stamps_ns[:1]) < -RESET_NS
    starts = np.flatnonzero(is_back)
    if not len(starts):
        return np.zeros(count, np.int64)
    numbers = np.zeros(count, np.int64)
    spans: list[tuple[int, int]] = []  # where the blocks of this pass have been, sorted
    number = 0
    for block in np.split(np.arange(count), starts):
        stamps = np.sort(stamps_ns[block])
        first = max(bisect_left(spans, (int(stamps[0]), 0)) - 1, 0)
        last = bisect_left(spans, (int(stamps[-1]), 0))
        inside = sum(_count_inside(stamps, span) for span in spans[first:last])
        if inside > LATE:
            number, spans = number + 1, []
        for part in np.split(stamps, np.flatnonzero(np.diff(stamps) > RESET_NS) + 1):
            _insert_span(spans, int(part[0]), int(part[-1]))
        numbers[block] = number
    return numbers


def _insert_span(spans: list[tuple[int, int]], start: int, end: int) -> None:
    """Add a span to sorted ones that lie apart, and join those that are within RESET_NS of it."""
    first = bisect_left(spans, (start, start))
    if first and spans[first - 1][1] + RESET_NS >= start:
        first -= 1
    last = bisect_left(spans, (end + RESET_NS, 0))
    joined = spans[first:last]
    low = min([start, *(x for x, _ in joined[:1])])
    spans[first:last] = [(low, max([end, *(x for _, x in joined[-1:])]))]


def _count_inside(stamps_ns: Stamps, span: tuple[int, int]) -> int:
    """How many sorted stamps lie in a span, not counting its last RESET_NS."""
    start, end = np.searchsorted(stamps_ns, [span[0], max(span[1] - RESET_NS, span[0])])
    return int(end - start)


def place_outliers(stamps_ns: Stamps, is_outlier: NDArray[np.bool_]) -> Stamps:
    """Stamps in which an outlier has that of the last message before it that is none."""
    right = np.flatnonzero(~is_outlier)
    if not len(right) or not is_outlier.any():
        return stamps_ns
    at = np.searchsorted(right, np.arange(len(stamps_ns)), 'right') - 1
    return stamps_ns[right[np.maximum(at, 0)]]


def merge_by_stamp(
    log_ns: Mapping[str, Stamps], stamps_ns: Mapping[str, Stamps]
) -> Iterator[tuple[str, int]]:
    """Topic and index of every message in the order in which a vehicle would have sent them.

    stamps_ns: without outliers (`place_outliers`). Passes follow one another; within one, stamps
    decide, then log times.
    """
    passes = {topic: number_passes(stamps) for topic, stamps in stamps_ns.items()}
    counts = {int(x[-1]) if len(x) else 0 for x in passes.values()}
    if len(counts) > 1:  # the clock of some sensors was set back: by the log times of those
        last = max(counts)
        leader = next(topic for topic, x in passes.items() if len(x) and x[-1] == last)
        first = np.searchsorted(passes[leader], np.arange(1, last + 1))
        limits = log_ns[leader][first]
        for topic, numbers in passes.items():
            if len(numbers) and numbers[-1] != last:
                passes[topic] = np.searchsorted(limits, log_ns[topic], 'right')
    topics = [topic for topic, stamps in stamps_ns.items() if len(stamps)]
    if not topics:
        return
    sources = np.concatenate([np.full(len(stamps_ns[t]), k) for k, t in enumerate(topics)])
    places = np.concatenate([np.arange(len(stamps_ns[t])) for t in topics])
    logs = np.concatenate([log_ns[t] for t in topics])
    order = np.lexsort(
        (
            logs,
            np.concatenate([stamps_ns[t] for t in topics]),
            np.concatenate([passes[t] for t in topics]),
        )
    )
    for k in order:
        yield topics[sources[k]], int(places[k])


def measure_clock_offset(log_ns: Stamps, stamps_ns: Stamps) -> int | None:
    """Log time minus stamp, in ns, where the two are of different clocks; None where they agree.

    The log times of a conversion may pass at another pace, so the farthest tenth decides.
    """
    delays = log_ns - stamps_ns
    if not len(delays) or np.percentile(np.abs(delays), 90) <= CLOCK_LIMIT_NS:
        return None
    return int(np.median(delays))
