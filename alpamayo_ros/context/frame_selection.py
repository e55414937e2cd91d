"""Selects the four frames of a camera for a t0; measures how far the cameras are apart.

A frame is picked by its stamp: the one nearest to each time of the 10 Hz grid. It is final once no
stamp that its camera can still send (stream.py) is nearer. At 10 Hz that is at once for frames up
to 25 ms early, and for t0 itself up to 40 ms; for others it is when the next frame comes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from itertools import pairwise

from ..data_types import FRAMES_PER_CAMERA, GRID_NS, Frame
from .not_servable import NotServable, format_age
from .stream import Stream

GRID_AGES_NS = tuple(GRID_NS * k for k in reversed(range(FRAMES_PER_CAMERA)))


def select_frames(
    stream: Stream[Frame], t0_ns: int, tolerance_ns: int, lead_ns: int
) -> tuple[Frame, ...]:
    """Pick FRAMES_PER_CAMERA frames of one camera, oldest first.

    A frame may be tolerance_ns off its grid time and lead_ns later than t0. Where one frame is the
    nearest of two grid times, the later one keeps it and the earlier one takes the next older
    frame. Raises NotServable when a grid time has no frame or no final one, and when the sizes
    differ.
    """
    slots = [(t0_ns - age_ns, age_ns) for age_ns in GRID_AGES_NS]
    frames = [_select_frame(stream, slot, tolerance_ns, t0_ns + lead_ns) for slot in slots]
    if any(b.stamp_ns <= a.stamp_ns for a, b in pairwise(frames)):
        try:
            for i in reversed(range(len(slots) - 1)):
                high_ns = frames[i + 1].stamp_ns - 1
                frames[i] = _select_frame(stream, slots[i], tolerance_ns, high_ns)
        except NotServable as error:
            detail = f'{stream.name}: one frame for two grid times'
            raise NotServable('frame_repeated', detail, error.waits_for) from error
    sizes = {(frame.width, frame.height) for frame in frames if frame.width}
    if len(sizes) > 1:
        text = ' and '.join(f'{width}x{height}' for width, height in sorted(sizes))
        raise NotServable('image_size', f'{stream.name}: sizes {text} in one context')
    return tuple(frames)


def has_changed(stream: Stream[Frame], frames: tuple[Frame, ...]) -> bool:
    """Whether frame_id or size changes between the first and the last of the selected frames.

    Two cameras on one topic do that, though the selected frames may all be of one of them.
    """
    first = bisect_left(stream.stamps, frames[0].stamp_ns)
    last = bisect_right(stream.stamps, frames[-1].stamp_ns)
    kinds = {(item.frame_id, item.width, item.height) for item in stream.items[first:last]}
    return len(kinds) > 1


def measure_skew(frames: Mapping[str, tuple[Frame, ...]], max_skew_ns: int) -> int:
    """Largest spread in ns of the cameras' stamps at one grid time.

    Raises NotServable when it is above max_skew_ns.
    """
    spreads = []
    for slot, age_ns in enumerate(GRID_AGES_NS):
        stamps = {name: picked[slot].stamp_ns for name, picked in frames.items()}
        first, last = min(stamps, key=stamps.__getitem__), max(stamps, key=stamps.__getitem__)
        spreads.append(stamps[last] - stamps[first])
        if spreads[-1] > max_skew_ns:
            raise NotServable(
                'camera_skew',
                f'{last} is {spreads[-1] / 1e6:.1f} ms after {first} at {format_age(age_ns)}, '
                f'limit {max_skew_ns / 1e6:.0f} ms',
            )
    return max(spreads)


def _select_frame(
    stream: Stream[Frame], slot: tuple[int, int], tolerance_ns: int, high_ns: int
) -> Frame:
    """The final frame of a slot, a grid time and its age, among those up to high_ns."""
    grid_ns, age_ns = slot
    low, high = grid_ns - tolerance_ns, min(grid_ns + tolerance_ns, high_ns)
    if low <= stream.dropped_ns:
        raise NotServable('too_old', f'{stream.name}: {format_age(age_ns)} is no longer kept')
    frame = _find_nearest(stream, grid_ns, low, high)
    nearer = high if frame is None else min(high, 2 * grid_ns - frame.stamp_ns - 1)
    if frame is None or stream.next_ns <= nearer:
        raise NotServable(
            'frame_missing',
            f'{stream.name}: no {"" if frame is None else "final "}frame within '
            f'{tolerance_ns / 1e6:.0f} ms of {format_age(age_ns)}',
            waits_for=stream if stream.next_ns <= nearer else None,
        )
    return frame


def _find_nearest(stream: Stream[Frame], grid_ns: int, low: int, high: int) -> Frame | None:
    """The frame nearest to a grid time among those in [low, high]; the older one on a tie."""
    at = bisect_right(stream.stamps, min(grid_ns, high))
    near = [i for i in (at - 1, at) if 0 <= i < len(stream.stamps)]
    near = [i for i in near if low <= stream.stamps[i] <= high]
    return stream.items[min(near, key=lambda i: abs(stream.stamps[i] - grid_ns))] if near else None
