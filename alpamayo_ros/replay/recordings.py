"""Finds the bags of many recordings, makes work items of them, and replays an item."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
import os
from pathlib import Path
import time

from ..bags.folder import ENDINGS, METADATA
from ..bags.reader import Bag
from ..errors import BadInput
from ..files import read_text
from ..json_types import Facts, Line
from ..rig import CameraRig
from ..ros.inputs import to_image
from ..runtime.serving.jobs import Engine
from .recorded_navigation import RecordedNavigation
from .recorded_pictures import has_video
from .replay import WARM_UP_NS, Replay, Schedule, list_topics, require_topics

LONGEST_GAP_NS = 1_000_000_000  # between stamps of any topics; a longer one may clear the buffer


@dataclass(frozen=True)
class BagItem:
    """A work item: the t0s of a bag from start_ns on and before stop_ns; None: the bag's own ends.

    name: path of the bag below the folder that all bags lie in, and the number of the span.
    """

    name: str
    path: Path
    start_ns: int | None = None
    stop_ns: int | None = None


def is_bag(path: Path) -> bool:
    """Whether a path is a file, or a folder with files of one bag in it."""
    if not path.is_dir():
        return True
    return any(x.name == METADATA or x.name.endswith(ENDINGS) for x in path.iterdir())


def find_bags(paths: Iterable[Path]) -> list[BagItem]:
    """One item per bag: `paths` are bags, or folders with bags at any depth; sorted by name.

    Raises BadInput for a path that is not there and for a folder without a bag.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.exists():
            raise BadInput(f'{path}: no such bag')
        inside = [x.resolve() for x in _walk(path)]
        if not inside:
            raise BadInput(f'{path}: no bag in it, expected folders with {METADATA}')
        found |= dict.fromkeys(inside)
    base = Path(os.path.commonpath([path.parent for path in found]))
    items = [BagItem(path.relative_to(base).as_posix(), path) for path in found]
    return sorted(items, key=lambda item: item.name)


def read_list(path: Path) -> list[Path]:
    """Paths of a text file, one a line; raises BadInput when it has none."""
    lines = read_text(path).splitlines()
    if not (found := [Path(line.strip()) for line in lines if line.strip()]):
        raise BadInput(f'{path}: an empty list, expected a bag a line')
    return found


def split_bags(
    items: Sequence[BagItem], rig: CameraRig, period_ns: int, length_ns: int
) -> list[BagItem]:
    """Each bag in spans of `length_ns`, a whole number of periods.

    A bag whose clock jumps stays whole, as its periods begin anew; so does one with a video, where
    a span would begin without a key frame, and one that cannot be read, which its own item will
    tell.
    """
    if period_ns:
        length_ns = max(length_ns // period_ns, 1) * period_ns
    return [part for item in items for part in _split(item, rig, length_ns)]


def _split(item: BagItem, rig: CameraRig, length_ns: int) -> Iterator[BagItem]:
    try:
        with Bag(item.path) as bag:
            require_topics(bag, rig)
            first_ns, last_ns = _find_anchor_span(bag, rig)
            is_whole = not bag.has_one_clock(list_topics(rig), LONGEST_GAP_NS)
            is_whole = is_whole or has_video(bag, rig)
    except BadInput:
        is_whole = True
    if is_whole or last_ns - first_ns <= WARM_UP_NS + length_ns:
        yield item
        return
    ends = list(range(first_ns + WARM_UP_NS + length_ns, last_ns, length_ns))
    for number, (start, stop) in enumerate(zip([None, *ends], [*ends, None], strict=True)):
        yield BagItem(f'{item.name}#{number:04d}', item.path, start, stop)


def _find_anchor_span(bag: Bag, rig: CameraRig) -> tuple[int, int]:
    """Stamps of the first anchor frame that can be read and of the last one; 0, 0 without any."""
    topic = next(camera.topic for camera in rig.cameras if camera.name == rig.anchor)
    for message in bag.messages_by_stamp([topic]):
        try:
            frame = to_image(bag.decode(topic, message.payload))
        except ValueError:
            continue  # the replay of the item writes a line about it
        if frame.stamp_ns > 0:
            return frame.stamp_ns, int(bag.stamps(topic)[1].max())
    return 0, 0


def _walk(path: Path) -> Iterator[Path]:
    """The bags in a folder at any depth, by name; nothing inside a bag is another one."""
    if is_bag(path):
        yield path
        return
    for inside in sorted(x for x in path.iterdir() if x.is_dir()):
        yield from _walk(inside)


@dataclass(frozen=True)
class BagResult:
    """Lines of an item by rising t0, and facts of its bag and of the engine.

    error: why there are no lines. seconds: that the item took.
    """

    engine: Facts
    lines: list[Line] = field(default_factory=list)
    bag: Facts = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    error: str = ''
    seconds: float = 0.0


def begin_replays(
    make_engine: Callable[[], Engine],
    rig: CameraRig,
    schedule: Schedule,
    seed: int,
    read_navigation: Callable[[Bag], RecordedNavigation | None] = lambda bag: None,
) -> Callable[[BagItem], BagResult]:
    """Load the engine; returns the function that replays items.

    A bag that cannot be replayed is a result with the reason, so that the others go on.
    """
    engine = make_engine()
    facts = engine.provenance()

    def perform(item: BagItem) -> BagResult:
        start = time.perf_counter()
        span = replace(schedule, start_ns=item.start_ns, stop_ns=item.stop_ns)
        try:
            with Bag(item.path) as bag:
                require_topics(bag, rig)
                replay = Replay(bag, rig, engine, span, seed, read_navigation(bag))
                lines = list(replay.lines())
                lines.sort(key=lambda line: line['t0_ns'])
                found = BagResult(facts, lines, bag.fingerprint(), bag.notes)
        except (BadInput, OSError) as error:
            found = BagResult(facts, error=str(error))
        return replace(found, seconds=round(time.perf_counter() - start, 3))

    return perform
