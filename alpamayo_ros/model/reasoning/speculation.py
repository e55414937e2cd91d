"""Exact speculation: drafts of a reasoning are verified in one pass of several tokens.

The pass gives the logits behind each token of a draft. Tokens are then drawn one by one, with the
random numbers that they would have had, until one differs from the draft. So the tokens are those
of `generate_reasoning`. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ...data_types import SamplingOptions
from ..prefill import Prompt
from ..prompt.tokens import TokenIds
from .drafts import PhraseTrie
from .generation import (
    Reasoning,
    ReasoningRows,
    check_finite,
    feed,
    repeat_logits,
    summarise,
)
from .sampling import Generators


class VerifySteps(Protocol):
    """The two passes that speculation runs: methods of AlpamayoModel, or recorded forms."""

    def decode_step(self, prompt: Prompt, tokens: Tensor) -> Tensor:
        """See AlpamayoModel."""

    def verify_step(self, prompt: Prompt, tokens: Tensor) -> Tensor:
        """See AlpamayoModel."""


def speculate_reasoning(
    steps: VerifySteps,
    prompt: Prompt,
    ids: TokenIds,
    options: SamplingOptions,
    generator: Generators | None,
    phrases: PhraseTrie,
) -> Reasoning:
    """As `generate_reasoning`, with drafts of up to options.draft_tokens tokens.

    Rows go on in step: a pass keeps as many tokens as every unfinished row has drafted right. The
    texts are added to `phrases`.
    """
    check_finite(prompt.logits)
    rows, seen = ReasoningRows(ids, options, prompt), prompt.logits
    rows.draw(repeat_logits(prompt, options.num_samples), generator)
    generated = _read(rows, 0)
    while not rows.is_full and not _are_finished(generated, ids):
        drafts = _propose(generated, ids, phrases, min(options.draft_tokens, rows.room - 1))
        logits, count = _verify(steps, rows, prompt, drafts), len(generated[0])
        states: list[list[Tensor]] = []
        for place in range(logits.shape[2]):
            states.append(_get_states(generator))
            rows.draw(logits[:, :, place], generator)
        drawn = _read(rows, count)
        right = _count_right(generated, drawn, drafts, ids)
        # what was drawn behind the tokens that are right is kept as well, unless all have ended
        generated = [row + new[:right] for row, new in zip(generated, drawn, strict=True)]
        kept = right
        if not _are_finished(generated, ids):
            generated = [row + [new[right]] for row, new in zip(generated, drawn, strict=True)]
            kept += 1
        if kept < len(states):
            rows.keep(count + kept)
            _set_states(generator, states[kept])
        prompt.cache.length -= (len(drafts[0]) - right) * options.num_samples
        seen = logits[:, :, :kept]
    check_finite(seen)
    finished = _are_finished(generated, ids)
    cached = prompt.length + len(rows.columns) * options.num_samples
    if (finished or prompt.is_guided) and prompt.cache.length < cached:
        feed(steps.decode_step, prompt, rows.columns[-1])
    for row in generated:
        phrases.add(_trim(row, ids))
    return summarise(torch.stack(rows.columns, -1), ids, prompt.length, finished, rows.is_cut)


def _propose(
    generated: list[list[int]], ids: TokenIds, phrases: PhraseTrie, most: int
) -> list[list[int]]:
    """Drafts of all rows, of one length; pads for rows that have ended."""
    found = [None if _has_ended(row, ids) else phrases.propose(row, most) for row in generated]
    length = min(len(draft) for draft in found if draft is not None)
    return [[ids.pad] * length if draft is None else draft[:length] for draft in found]


def _verify(
    steps: VerifySteps, rows: ReasoningRows, prompt: Prompt, drafts: list[list[int]]
) -> Tensor:
    """Logits (B, K, L, vocab) behind the last token of each row, and behind its draft's tokens."""
    last = rows.columns[-1]
    if not drafts[0]:
        return feed(steps.decode_step, prompt, last).unsqueeze(2)
    drafted = torch.tensor(drafts, device=last.device).view(*last.shape, -1)
    return feed(steps.verify_step, prompt, torch.cat([last.unsqueeze(-1), drafted], -1))


def _count_right(
    generated: list[list[int]], drawn: list[list[int]], drafts: list[list[int]], ids: TokenIds
) -> int:
    """Count the tokens of the drafts that were drawn in every row, up to the end of all rows."""
    right = 0
    for tokens in zip(zip(*drafts, strict=True), zip(*drawn, strict=True), strict=False):
        rows = [row + new[:right] for row, new in zip(generated, drawn, strict=True)]
        if tokens[0] != tokens[1] or _are_finished(rows, ids):
            break
        right += 1
    return right


def _read(rows: ReasoningRows, start: int) -> list[list[int]]:
    """Tokens of each row from column `start` on. Waits for the device."""
    return torch.stack(rows.columns[start:], -1).flatten(0, 1).tolist()


def _has_ended(row: Sequence[int], ids: TokenIds) -> bool:
    return ids.future_start in row or ids.eos in row


def _are_finished(rows: Sequence[Sequence[int]], ids: TokenIds) -> bool:
    return all(_has_ended(row, ids) for row in rows)


def _trim(row: list[int], ids: TokenIds) -> list[int]:
    """Cut pads off, which stand behind the end of a row."""
    ends = [row.index(end) for end in (ids.future_start, ids.eos) if end in row]
    return row[: min(ends) + 1] if ends else row


def _get_states(generator: Generators | None) -> list[Tensor]:
    if generator is None:
        return []
    each = generator if isinstance(generator, Sequence) else [generator]
    return [g.get_state() for g in each]


def _set_states(generator: Generators | None, states: list[Tensor]) -> None:
    if generator is not None:
        each = generator if isinstance(generator, Sequence) else [generator]
        for g, state in zip(each, states, strict=True):
            g.set_state(state)
