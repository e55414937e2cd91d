"""Route texts and routes of a recording, in the order and at the times at which they came.

Each t0 gets what was known when its anchor frame was recorded, as on the vehicle. The texts come
from a topic of the bag or from a file. Infers nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ..bags.reader import Bag
from ..context.navigation import NavigationInput
from ..data_types import NANOSECONDS, Context, Navigation, Rejection
from ..errors import BadInput
from ..files import read_text
from ..json_types import Line
from ..ros.inputs import to_route
from .record import reason_line

TYPES = ('std_msgs/msg/String', 'nav_msgs/msg/Path')


class RecordedNavigation:
    """Feeds what was recorded to a NavigationInput, as far as an anchor frame's log time.

    refused: a line for each message that cannot be used.
    """

    def __init__(self, navigation: NavigationInput) -> None:
        self.refused: list[Line] = []
        self._navigation = navigation
        self._events: deque[tuple[int, partial[None]]] = deque()

    def read_topic(self, bag: Bag, topic: str) -> None:
        """Take the messages of a topic of a type in TYPES; raises BadInput for another topic."""
        bag.require({topic: TYPES})
        for _, log_ns, payload in bag.messages([topic]):
            try:
                message = bag.decode(topic, payload)
                if bag.topics[topic] == TYPES[0]:
                    self._add_text(log_ns, message.data)
                else:
                    add = self._navigation.add_route
                    self._events.append((log_ns, partial(add, *to_route(message))))
            except ValueError as error:
                line = reason_line(log_ns, 'rejected', 'bad_message', str(error), topic)
                self.refused.append(line)

    def read_file(self, path: Path, start_ns: int) -> None:
        """Take lines `SECONDS TEXT`, seconds since the start of the bag; raises BadInput.

        A line without a text takes the text before it away. Empty lines and lines that begin with
        '#' are left out.
        """
        for number, row in _read_rows(path):
            seconds, text = [*row.split(maxsplit=1), ''][:2]
            try:
                at_ns = start_ns + round(float(seconds) * NANOSECONDS)
                self._add_text(at_ns, text.strip())
            except (ValueError, OverflowError) as error:
                expected = 'expected SECONDS TEXT, in the order of the seconds'
                raise BadInput(f'{path}: line {number}: {error}; {expected}') from None
            if len(self._events) > 1 and self._events[-2][0] > at_ns:
                raise BadInput(f'{path}: line {number}: earlier than the line before it')

    def apply(self, context: Context, log_ns: int) -> Context | Rejection:
        """The context with its route text, or a Rejection; log_ns: of its anchor frame."""
        while self._events and self._events[0][0] <= log_ns:
            self._events.popleft()[1]()
        return self._navigation.apply(context, log_ns)

    def _add_text(self, at_ns: int, text: str) -> None:
        if text:
            Navigation(text)  # ValueError for one that cannot stand in a prompt
        self._events.append((at_ns, partial(self._navigation.add_text, text, at_ns)))


def _read_rows(path: Path) -> Iterator[tuple[int, str]]:
    for number, row in enumerate(read_text(path).splitlines(), 1):
        if row.strip() and not row.startswith('#'):
            yield number, row.strip()
