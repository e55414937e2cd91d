"""Generated ids and text: where a row ends, the reasoning or answer in it, and its health."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .tokens import TokenIds, format_special

NGRAM = 8  # a repetition is the same 8 tokens three times
NGRAM_TIMES = 3


def extract_text(decoded: str, name: str) -> str:
    """Text of a block ('cot', 'meta_action', 'answer'); '' when the block never ended.

    The text is cut at the first <|name_end|>, then behind the last <|name_start|> before it, and
    stripped.
    """
    before, end, _ = decoded.partition(format_special(f'{name}_end'))
    if not end:
        return ''
    return before.rpartition(format_special(f'{name}_start'))[2].strip()


def extract_unfinished_text(decoded: str) -> str:
    """Text of a reasoning that never ended."""
    return decoded.partition(format_special('cot_end'))[0].strip()


def trim_tokens(tokens: Sequence[int], ids: TokenIds) -> list[int]:
    """Cut generated ids behind the trajectory marker or the end of the turn."""
    for i, token in enumerate(tokens):
        if token in (ids.future_start, ids.eos):
            return list(tokens[: i + 1])
    return list(tokens)


def check_reasoning(tokens: Sequence[int], end: str) -> tuple[str, ...]:
    """Names of the faults of a reasoning. end: see Prediction."""
    grams = Counter(tuple(tokens[i : i + NGRAM]) for i in range(len(tokens) - NGRAM + 1))
    checks = ['marker_missing'] if end in ('eos', 'budget') else []
    checks += ['budget'] if end == 'budget' else []
    checks += ['repetition'] if any(n >= NGRAM_TIMES for n in grams.values()) else []
    return tuple(checks)
