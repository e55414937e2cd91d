"""Generates reasoning: samples tokens step by step, and finds where each row of them ended.

Knows no model: a decode step is a function of a prompt and one more token (S, K) of each sample
that returns logits (S, K, vocab) float32. speculation.py generates the same with drafts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from einops import rearrange, repeat
import torch
from torch import Tensor

from ...data_types import SamplingOptions
from ..prefill import Prompt
from ..prompt.tokens import TokenIds
from ..transfers import read_later
from .sampling import Generators, sample_token

DecodeStep = Callable[[Prompt, Tensor], Tensor]


@dataclass
class Reasoning:
    """Generated tokens (B, K, N), padded behind the marker, and how each row ended.

    marker (B, K): index in N of the trajectory marker, or -1. eos (B, K): whether there is an eos.
    is_fed (B, K): whether the caller put the marker there, which the model did not say. length:
    tokens of a row, with the prompt and with the one discarded token behind the last.
    """

    tokens: Tensor
    marker: Tensor
    eos: Tensor
    is_fed: Tensor
    length: int

    @property
    def end(self) -> list[list[str]]:
        """How each row (B, K) ended, in the words of Prediction. Waits for the device."""
        facts = torch.stack([self.marker, self.eos.long(), self.is_fed.long()], -1).tolist()
        return [[_name_end(*row) for row in rows] for rows in facts]

    def select(self, scene: int) -> Reasoning:
        """The rows of one scene."""
        own = slice(scene, scene + 1)
        parts = self.tokens[own], self.marker[own], self.eos[own], self.is_fed[own]
        return Reasoning(*parts, self.length)


def _name_end(marker: int, eos: int, is_fed: int) -> str:
    if is_fed:
        return 'cut' if marker else 'none'
    return 'marker' if marker >= 0 else 'eos' if eos else 'budget'


class ReasoningRows:
    """The tokens that B * K rows have said so far, and which rows have ended.

    columns: tokens (B, K) of each step, pads in rows that have ended. is_cut (B, K): see
    Reasoning.is_fed.
    """

    def __init__(self, ids: TokenIds, options: SamplingOptions, prompt: Prompt) -> None:
        self._ids, self._options = ids, options
        shape = prompt.sampled_scenes, options.num_samples
        none = torch.zeros(shape, dtype=torch.bool, device=prompt.logits.device)
        self.columns: list[Tensor] = []
        self._done = [none]  # before each column
        self.is_cut = none

    @property
    def has_ended(self) -> Tensor:
        """Which rows (B, K) have ended."""
        return self._done[-1]

    @property
    def room(self) -> int:
        """How many tokens of the budget are left."""
        return self._options.max_tokens - len(self.columns)

    @property
    def is_full(self) -> bool:
        """Whether the budget has ended."""
        return self.room == 0

    def draw(self, logits: Tensor, generator: Generators | None) -> Tensor:
        """Draw the next tokens (B, K) from logits (B, K, vocab).

        With short reasoning the last token of the budget is the marker in every row that has not
        ended.
        """
        ids, done = self._ids, self.has_ended
        token = sample_token(logits, ids, self._options, generator)
        token = torch.where(done, torch.full_like(token, ids.pad), token)
        if self._options.reasoning == 'short' and self.room == 1:
            self.is_cut = ~done & (token != ids.future_start) & (token != ids.eos)
            token = torch.where(self.is_cut, torch.full_like(token, ids.future_start), token)
        self.columns.append(token)
        self._done.append(done | (token == ids.future_start) | (token == ids.eos))
        return token

    def keep(self, count: int) -> None:
        """Forget all but the first `count` columns."""
        if count < len(self.columns):
            self.is_cut = self._done[0]
        del self.columns[count:], self._done[count + 1 :]


def generate_reasoning(
    decode_step: DecodeStep,
    prompt: Prompt,
    ids: TokenIds,
    options: SamplingOptions,
    generator: Generators | None = None,
) -> Reasoning:
    """Sample reasoning until every row has its trajectory marker (or eos), or the budget ends.

    Scenes without a route of a guided prompt read the tokens of their guided twins.

    The marker itself is fed to the cache, because the expert reads it there; the token behind
    it is discarded, as in the reference. Unlike there, a row that ended with eos does not keep
    the others generating. RuntimeError if logits are not finite.
    """
    # before the first draw: a draw from NaN ends the process on a GPU
    check_finite(prompt.logits)
    logits = repeat_logits(prompt, options.num_samples)
    rows = ReasoningRows(ids, options, prompt)
    finished = False
    while not finished and not rows.is_full:
        token = rows.draw(logits, generator)
        is_finished = read_later(rows.has_ended.all())
        if is_within := not rows.is_full:
            logits = feed(decode_step, prompt, token)
        if (finished := bool(is_finished())) and not is_within:
            feed(decode_step, prompt, token)
    if prompt.is_guided and not finished:
        feed(decode_step, prompt, token)  # the pass without a route reads all tokens
    # a NaN or infinity of any step spreads through the cache to the last logits
    check_finite(logits)
    return summarise(torch.stack(rows.columns, -1), ids, prompt.length, finished, rows.is_cut)


def generate_answer(
    decode_step: DecodeStep,
    prompt: Prompt,
    ids: TokenIds,
    options: SamplingOptions,
    generator: Generators | None = None,
) -> Tensor:
    """Sample the answer to a question: tokens (B, K, N) up to its end, eos or the budget.

    As in the reference, discrete trajectory tokens are not hidden.
    """
    logits = repeat(prompt.logits, 'b vocab -> b k vocab', k=options.num_samples)
    done = torch.zeros(logits.shape[:2], dtype=torch.bool, device=logits.device)
    columns: list[Tensor] = []
    while len(columns) < options.max_tokens and not bool(done.all()):
        token = sample_token(logits, ids, options, generator, hide_discrete=False)
        token = torch.where(done, torch.full_like(token, ids.pad), token)
        columns.append(token)
        done = done | (token == ids.answer_end) | (token == ids.eos)
        logits = decode_step(prompt, token)
    return torch.stack(columns, -1)


def feed_marker(decode_step: DecodeStep, prompt: Prompt, ids: TokenIds, samples: int) -> Reasoning:
    """Feed the trajectory marker behind the prompt: a reasoning without a word.

    For prompts that ask for the trajectory only.
    """
    shape = (prompt.sampled_scenes, samples)
    token = torch.full(shape, ids.future_start, device=prompt.logits.device)
    feed(decode_step, prompt, token)
    tokens = rearrange(token, 'b k -> b k 1')
    return summarise(tokens, ids, prompt.length, complete=True, is_fed=token > -1)


def feed(decode_step: DecodeStep, prompt: Prompt, token: Tensor) -> Tensor:
    """Feed tokens (B, K, ...) of each sample; logits (B, K, ..., vocab) of the sampled scenes."""
    if not prompt.is_guided:
        return decode_step(prompt, token)
    return decode_step(prompt, torch.cat([token, token]))[: len(token)]


def repeat_logits(prompt: Prompt, samples: int) -> Tensor:
    """Logits (B, K, vocab) behind the prompts of the sampled scenes."""
    return repeat(prompt.logits[: prompt.sampled_scenes], 'b vocab -> b k vocab', k=samples)


def check_finite(logits: Tensor) -> None:
    """Raise RuntimeError if logits hold a NaN or positive infinity. Waits for the device."""
    if not bool(logits.amax().isfinite()):
        raise RuntimeError('the language model gave logits that are not finite')


def pad_behind(tokens: Tensor, marker: int, pad: int) -> tuple[Tensor, Tensor]:
    """Write `pad` behind the first `marker` of rows (..., N).

    Returns the rows and the index (...) of that marker, -1 where it is absent.
    """
    is_marker = tokens == marker
    found = is_marker.any(-1)
    first = torch.where(found, is_marker.int().argmax(-1), -1)
    index = torch.arange(tokens.shape[-1], device=tokens.device)
    behind = found.unsqueeze(-1) & (index > first.unsqueeze(-1))
    return tokens.masked_fill(behind, pad), first


def summarise(
    tokens: Tensor, ids: TokenIds, prompt: int, complete: bool, is_fed: Tensor | None = None
) -> Reasoning:
    """Reasoning from raw tokens (B, K, N). Pads overwrite the tokens behind each marker.

    complete: every row ended before the budget did. is_fed: see Reasoning; None: in no row.
    """
    tokens, marker = pad_behind(tokens, ids.future_start, ids.pad)
    length = prompt + tokens.shape[-1] + (1 if complete else 0)
    is_fed = torch.zeros_like(marker, dtype=torch.bool) if is_fed is None else is_fed
    return Reasoning(tokens, marker, (tokens == ids.eos).any(-1), is_fed, length)
