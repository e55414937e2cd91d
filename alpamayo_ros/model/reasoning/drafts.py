"""Proposes the next tokens of a reasoning from earlier texts.

A draft costs nothing when it is wrong but a longer pass of the model, which verifies it: see
speculation.py. Knows no model and no tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

LONGEST = 8  # tokens of a phrase that the next token depends on
MOST_PHRASES = 100_000  # some hundred texts; then those of the start serve again
START = -1  # stands before the first token of a text


class PhraseTrie:
    """The phrases of texts, and the token that followed each of them last.

    texts: tokens of texts that are known from the start.
    """

    def __init__(self, texts: Iterable[Sequence[int]] = ()) -> None:
        self._first = [list(text) for text in texts]
        self._next: dict[tuple[int, ...], int] = {}
        self._add_all(self._first)

    def add(self, text: Sequence[int]) -> None:
        """Learn the tokens of a text."""
        if len(self._next) > MOST_PHRASES:
            self._next.clear()
            self._add_all(self._first)
        self._add_all([text])

    def propose(self, text: Sequence[int], count: int) -> list[int]:
        """Up to `count` tokens that may follow the tokens of an unfinished text.

        Each is the one that followed the longest phrase last; none where no phrase is known.
        """
        row = [START, *text]
        for _ in range(count):
            longest = range(min(LONGEST, len(row)), 0, -1)
            found = (self._next.get(tuple(row[-size:])) for size in longest)
            token = next((x for x in found if x is not None), None)
            if token is None:
                break
            row.append(token)
        return row[1 + len(text) :]

    def _add_all(self, texts: Iterable[Sequence[int]]) -> None:
        for text in texts:
            row = [START, *text]
            for end in range(1, len(row)):
                for size in range(1, min(LONGEST, end) + 1):
                    self._next[tuple(row[end - size : end])] = row[end]
