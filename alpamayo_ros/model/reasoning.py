"""Generates reasoning: samples tokens step by step, and finds where each row of them ended.

Knows no model: a decode step is a function of a prompt and one more token (S, K) of each sample
that returns logits (S, K, vocab) float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from einops import rearrange, repeat
import torch
from torch import Tensor

from ..data_types import SamplingOptions
from .prefill import Prompt
from .prompt.tokens import TokenIds
from .transfers import read_flag_later

FEW_ROWS = 16  # a GPU sums the rows of a draw one by one up to this number

Generators = torch.Generator | Sequence[torch.Generator]
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
    the others generating. With short reasoning the last token of the budget is the marker in
    every row that has not ended. RuntimeError if logits are not finite.
    """
    samples, scenes = options.num_samples, prompt.sampled_scenes
    # before the first draw: a draw from NaN ends the process on a GPU
    _check_finite(prompt.logits)
    logits = repeat(prompt.logits[:scenes], 'b vocab -> b k vocab', k=samples)
    done = torch.zeros(scenes, samples, dtype=torch.bool, device=logits.device)
    is_cut = done
    columns: list[Tensor] = []
    while len(columns) < options.max_tokens:
        token = sample_token(logits, ids, options, generator)
        token = torch.where(done, torch.full_like(token, ids.pad), token)
        if options.reasoning == 'short' and len(columns) + 1 == options.max_tokens:
            is_cut = ~done & (token != ids.future_start) & (token != ids.eos)
            token = torch.where(is_cut, torch.full_like(token, ids.future_start), token)
        columns.append(token)
        done = done | (token == ids.future_start) | (token == ids.eos)
        is_finished = read_flag_later(done.all())
        if is_within := len(columns) < options.max_tokens:
            logits = _feed(decode_step, prompt, token)
        if finished := is_finished():
            if not is_within:
                _feed(decode_step, prompt, token)
            break
    if prompt.is_guided and not finished:
        _feed(decode_step, prompt, token)  # the pass without a route reads all tokens
    # a NaN or infinity of any step spreads through the cache to the last logits
    _check_finite(logits)
    return summarise(torch.stack(columns, -1), ids, prompt.length, finished, is_cut)


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
    _feed(decode_step, prompt, token)
    tokens = rearrange(token, 'b k -> b k 1')
    return summarise(tokens, ids, prompt.length, complete=True, is_fed=token > -1)


def _feed(decode_step: DecodeStep, prompt: Prompt, token: Tensor) -> Tensor:
    """Feed one token (B, K) of each sample; logits (B, K, vocab) of the sampled scenes."""
    if not prompt.is_guided:
        return decode_step(prompt, token)
    return decode_step(prompt, token.repeat(2, 1))[: len(token)]


def _check_finite(logits: Tensor) -> None:
    """Raise RuntimeError if logits hold a NaN or positive infinity. Waits for the device."""
    if not bool(logits.amax().isfinite()):
        raise RuntimeError('the language model gave logits that are not finite')


def sample_token(
    logits: Tensor,
    ids: TokenIds,
    options: SamplingOptions,
    generator: Generators | None = None,
    hide_discrete: bool = True,
) -> Tensor:
    """Next tokens (B, K) from logits (B, K, vocab): mask, temperature, top-k, top-p, draw.

    hide_discrete: never draw discrete trajectory tokens; the reference hides them in reasoning,
    not in answers. Greedy means argmax. generator: one for all scenes, or one for each scene, so
    that its draws do not depend on the others. Logits that are not finite give meaningless draws;
    generate_reasoning raises for them.
    """
    logits = logits.to(torch.float32).clone()
    if hide_discrete:
        logits[..., ids.discrete_start : ids.discrete_end] = -torch.inf
    if options.greedy:
        return logits.argmax(-1)
    logits = logits / options.temperature
    if options.top_k > 0:
        floor = logits.topk(min(options.top_k, logits.shape[-1])).values[..., -1:]
        logits = logits.masked_fill(logits < floor, -torch.inf)
    # weights in proportion to the probabilities are enough for a draw: a softmax over one row of
    # the whole vocabulary leaves most of a GPU idle
    weights = (logits - logits.amax(-1, keepdim=True)).exp()
    if options.top_p < 1:
        ordered, order = weights.sort()
        sums = _running_sums(ordered)
        below = sums <= (1 - options.top_p) * sums[..., -1:]
        below[..., -1] = False  # the likeliest token always stays
        weights = weights.masked_fill(below.scatter(-1, order, below), 0.0)
    if isinstance(generator, Sequence):
        return torch.stack([_draw(w, g) for w, g in zip(weights, generator, strict=True)])
    return _draw(weights, generator)


def _running_sums(x: Tensor) -> Tensor:
    """Cumulative sums (..., n) of x."""
    if not x.is_cuda or x.numel() > FEW_ROWS * x.shape[-1]:
        return x.cumsum(-1)
    sums = torch.empty_like(x)  # a GPU sums six rows 40 times as slowly as one alone
    for row, out in zip(x.flatten(0, -2), sums.flatten(0, -2), strict=True):
        torch.cumsum(row, 0, out=out)
    return sums


def _draw(weights: Tensor, generator: torch.Generator | None) -> Tensor:
    """Indices (...) drawn in proportion to weights (..., n), as torch.multinomial draws them.

    torch.multinomial also checks its input: that takes as long as the draw, and a check that fails
    ends the context of a GPU.
    """
    return (weights / torch.empty_like(weights).exponential_(generator=generator)).argmax(-1)


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
