"""AlpamayoR1: reasoning rollout, then action sampling, as stages that a caller can time.

Order of operations: alpamayo-r1 specification, sections 6 to 8. Knows no files and no text. B
scenes of equal length share a batch; K samples of a scene share its prompt in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ..data_types import SamplingOptions
from .action_expert import compute_expert_positions, build_expert_window
from .config import AlpamayoConfig, build_block
from .flow_matching import VelocityField
from .reasoning import Generators, Reasoning, sample_token, summarise
from .text import (
    Decoder,
    KVCache,
    LanguageModel,
    RotaryTables,
    Window,
    build_decode_window,
    build_prompt_window,
    compute_rotary,
)
from .prompt.tokens import TokenIds
from .vision import CHUNK_IMAGES, VisionTower

# tokens; bounds the MLP's activations. What 16 images of 320x576 make of a prompt goes through at
# once: packed weights are unpacked for every chunk anew.
PREFILL_CHUNK = 3072


class VisionLanguageBody(nn.Module):
    """`vlm.model`: vision tower and language model."""

    def __init__(self, config: AlpamayoConfig) -> None:
        super().__init__()
        self.visual = VisionTower(config.vision)
        self.language_model = LanguageModel(config.text, config.vocab_size)


class VisionLanguageModel(nn.Module):
    """`vlm`: body and untied output head."""

    def __init__(self, config: AlpamayoConfig) -> None:
        super().__init__()
        self.model = VisionLanguageBody(config)
        self.lm_head = nn.Linear(config.text.hidden_size, config.vocab_size, bias=False)


class Reader(Protocol):
    """What `prefill` runs: the methods of AlpamayoModel, or recorded forms of them."""

    def allocate_chunk(self, cache: KVCache, length: int) -> Tensor:
        """See AlpamayoModel."""

    def run_chunk(
        self, x: Tensor, positions: Tensor, deepstack: Iterable[Tensor], cache: KVCache
    ) -> Tensor:
        """See AlpamayoModel."""


@dataclass
class Prompt:
    """A prefilled prompt: the cache holds it, `logits` (B, vocab) float32 follow its last token.

    rope_delta (B): what a text position is ahead of its index (negative behind images).
    """

    cache: KVCache
    length: int
    rope_delta: Tensor
    logits: Tensor


class AlpamayoModel(nn.Module):
    """The whole model; parameter names equal the release's."""

    def __init__(self, config: AlpamayoConfig) -> None:
        super().__init__()
        self.config = config
        blocks = config.blocks
        self.vlm = VisionLanguageModel(config)
        self.expert = Decoder(config.expert)
        self.action_space = build_block(blocks['action_space_cfg'])
        width = config.expert.hidden_size
        self.action_in_proj = build_block(blocks['action_in_proj_cfg'], out_dim=width, in_dims=2)
        self.action_out_proj = build_block(
            blocks['action_out_proj_cfg'], in_features=width, out_features=2
        )
        self.flow = build_block(blocks['diffusion_cfg'])

    @property
    def waypoints(self) -> int:
        """Waypoints of a trajectory."""
        return int(self.action_space.n_waypoints)

    def allocate_cache(self, scenes: int, prompt: int, samples: int, max_tokens: int) -> KVCache:
        """A cache for prompts of `prompt` tokens, their reasoning and one flow step."""
        capacity = self.cache_capacity(prompt, samples, max_tokens)
        norm = self.expert.norm.weight  # never quantized: it tells dtype and device
        return KVCache(self.config.text, scenes, capacity, norm.dtype, norm.device)

    def cache_capacity(self, prompt: int, samples: int, max_tokens: int) -> int:
        """Slots for a prompt, its samples' reasoning and one flow step.

        Rounded up to whole blocks of 64: a GPU reads masks of other lengths byte by byte, which
        made a flow step on an H200 2.5 ms longer.
        """
        return -(-(prompt + samples * (max_tokens + self.waypoints)) // 64) * 64

    def encode_images(
        self, patches: Tensor, grids: Sequence[tuple[int, int]], chunk_images: int = CHUNK_IMAGES
    ) -> tuple[Tensor, list[Tensor]]:
        """Embeddings (tokens, H) and deepstack features of images in order; see VisionTower."""
        return self.vlm.model.visual(patches, grids, chunk_images)

    def prefill(
        self,
        input_ids: Tensor,
        vision: tuple[Tensor, list[Tensor]],
        grids: Sequence[tuple[int, int]],
        cache: KVCache,
        chunk: int = PREFILL_CHUNK,
        reader: Reader | None = None,
    ) -> Prompt:
        """Run ids (B, P) with history written in; vision and grids hold all scenes' images.

        The prompt goes through in chunks, so activations stay bounded; results do not change.
        reader: a recorded form of the methods `room` and `read`.
        """
        reader, device = reader or self, cache.keys.device
        language = self.vlm.model.language_model
        # where everything goes is found out on the host, while the device still encodes images
        ids = input_ids.cpu()
        is_image = ids == self.config.image_token_id
        merge = self.config.vision.spatial_merge_size
        positions, rope_delta = compute_prompt_positions(is_image, grids, merge)
        positions, rope_delta = _to_device(positions, device), _to_device(rope_delta, device)
        number = is_image.flatten().cumsum(0).view_as(is_image) - 1  # of each image token
        embeds, levels = vision
        hidden, table = torch.empty(0), language.embed_tokens.weight.device
        for start in range(0, ids.shape[1], chunk):
            part = slice(start, start + chunk)
            own = is_image[:, part]
            where, text = (_to_device(x.flatten().nonzero()[:, 0], device) for x in (own, ~own))
            rows = _to_device(number[:, part][own], device)
            # images are most of a prompt; a table on the host is read while the device is at work
            said = _to_device(language.embed_tokens(_to_device(ids[:, part][~own], table)), device)
            x = reader.allocate_chunk(cache, own.shape[1])
            x.flatten(0, 1).index_copy_(0, text, said)
            x.flatten(0, 1).index_copy_(0, where, embeds[rows].to(x.dtype))
            added = (_scatter_rows(level[rows], where, x) for level in levels)  # one at a time
            hidden = reader.run_chunk(x, positions[:, :, part], added, cache)
            cache.length += x.shape[1]
        return Prompt(cache, ids.shape[1], rope_delta, self._logits(hidden))

    def allocate_chunk(self, cache: KVCache, length: int) -> Tensor:
        """Where embeddings (B, length, H) of the next prompt tokens are to be put for `read`."""
        return cache.keys.new_empty(cache.keys.shape[1], length, self.config.text.hidden_size)

    def run_chunk(
        self, x: Tensor, positions: Tensor, deepstack: Iterable[Tensor], cache: KVCache
    ) -> Tensor:
        """Last hidden state (B, H) of the next prompt embeddings x (B, L, H), not normalised.

        x comes from `room` and is overwritten. positions (3, B, L); deepstack: as in Decoder. The
        caller advances `cache.length`.
        """
        window = build_prompt_window(x.shape[1], cache.length, x.device)
        language = self.vlm.model.language_model
        hidden: Tensor = language(x, positions, cache, window, deepstack, last_only=True)
        return hidden[:, -1]

    def decode_step(self, prompt: Prompt, tokens: Tensor) -> Tensor:
        """Logits (B, K, vocab) float32 behind one more token (B, K) of each sample."""
        cache, samples = prompt.cache, tokens.shape[1]
        x = self.vlm.model.language_model.embed_tokens(tokens)
        logits = self.decode(
            x, prompt.rope_delta, prompt.length, cache.length, cache, cache.length + samples
        )
        cache.length += samples
        return logits

    def decode(
        self,
        x: Tensor,
        rope_delta: Tensor,
        prompt: int | Tensor,
        used: int | Tensor,
        cache: KVCache,
        span: int,
    ) -> Tensor:
        """Logits (B, K, vocab) float32 of embeddings x (B, K, H) that go behind `used` slots.

        prompt and used may be 0-d tensors, with `span` the cache's capacity: see text.Window.
        """
        places = self.prepare_decode(rope_delta, prompt, used, x.shape[1], span)
        return self.decode_layers(x, places, cache, 0, len(self.vlm.model.language_model.layers))

    def prepare_decode(
        self,
        rope_delta: Tensor,
        prompt: int | Tensor,
        used: int | Tensor,
        samples: int,
        span: int,
    ) -> tuple[RotaryTables, Window]:
        """Where one more token of each sample stands and what it sees; arguments as `decode`."""
        at = (rope_delta + prompt + (used - prompt) // samples).view(1, -1, 1)
        norm = self.expert.norm.weight  # never quantized: it tells dtype and device
        turns = compute_rotary(at.expand(3, -1, samples), self.config.text, norm.dtype)
        return turns, build_decode_window(prompt, used, samples, span, norm.device)

    def decode_layers(
        self, x: Tensor, places: tuple[RotaryTables, Window], cache: KVCache, start: int, stop: int
    ) -> Tensor:
        """Hidden states (B, K, H) behind a decode step's layers from `start` to before `stop`.

        Behind the last layer, the logits of `decode`. x is overwritten.
        """
        language = self.vlm.model.language_model
        turns, window = places
        hidden: Tensor = language.run_layers(x, turns, cache, window, start, stop)
        return self._logits(hidden) if stop == len(language.layers) else hidden

    def generate_reasoning(
        self,
        prompt: Prompt,
        ids: TokenIds,
        options: SamplingOptions,
        generator: Generators | None = None,
        decode_step: Callable[[Prompt, Tensor], Tensor] | None = None,
    ) -> Reasoning:
        """Sample reasoning until every row has its trajectory marker (or eos), or the budget ends.

        decode_step: a recorded form of the method of that name.

        The marker itself is fed to the cache, because the expert reads it there; the token behind
        it is discarded, as in the reference. Unlike there, a row that ended with eos does not keep
        the others generating. RuntimeError if logits are not finite.
        """
        decode_step = decode_step or self.decode_step
        samples = options.num_samples
        scenes = prompt.logits.shape[0]
        logits = prompt.logits.unsqueeze(1).expand(-1, samples, -1)
        done = torch.zeros(scenes, samples, dtype=torch.bool, device=logits.device)
        columns: list[Tensor] = []
        while len(columns) < options.max_tokens:
            token = sample_token(logits, ids, options, generator)
            token = torch.where(done, torch.full_like(token, ids.pad), token)
            columns.append(token)
            done = done | (token == ids.future_start) | (token == ids.eos)
            is_finished = _read_flag_later(done.all())
            if within := len(columns) < options.max_tokens:
                logits = decode_step(prompt, token)
            if finished := is_finished():
                if not within:
                    decode_step(prompt, token)
                break
        # what is not a number spreads through the cache to the last ones
        if not bool(logits.amax().isfinite()):
            raise RuntimeError('the language model gave logits that are not finite')
        return summarise(torch.stack(columns, -1), ids, prompt.length, finished)

    def predict_velocity(
        self, x: Tensor, t: Tensor, cache: KVCache, window: Window, positions: Tensor
    ) -> Tensor:
        """Velocity (R, T, 2) of noisy actions x (R, T, 2) float32 at time t (R, 1, 1).

        window and positions from `prepare_expert`. The waypoints' keys are written behind the
        reasoning and forgotten: `cache.length` does not advance.
        """
        embeds = self.action_in_proj(x, t)
        # (R, T, E) -> (B, K * T, E)
        embeds = embeds.reshape(positions.shape[1], -1, embeds.shape[-1])
        hidden = self.expert(embeds, positions, cache, window)
        v = self.action_out_proj(self.expert.norm(hidden))
        return v.reshape(x.shape)

    def prepare_expert(self, prompt: Prompt, reasoning: Reasoning) -> tuple[Window, Tensor]:
        """Window and positions (3, B, K * T) of all flow steps."""
        used = prompt.cache.length
        span = used + reasoning.marker.shape[1] * self.waypoints
        sizes = prompt.length, used, reasoning.length
        return self.prepare_expert_slots(prompt.rope_delta, reasoning.marker, *sizes, span)

    def prepare_expert_slots(
        self,
        rope_delta: Tensor,
        marker: Tensor,
        prompt: int | Tensor,
        used: int | Tensor,
        length: int | Tensor,
        span: int,
    ) -> tuple[Window, Tensor]:
        """As prepare_expert: of a prompt's length, `used` slots and rows of `length` tokens.

        These may be 0-d tensors, with `span` the cache's capacity: see text.Window.
        """
        scenes, samples = marker.shape
        found = marker >= 0
        visible = torch.where(found, marker + 1, (used - prompt) // samples)
        offset = torch.where(found, prompt + marker + 1, length)
        rope = rope_delta.unsqueeze(-1).expand_as(offset)
        positions = compute_expert_positions(rope.flatten(), offset.flatten(), self.waypoints)
        window = build_expert_window(visible, prompt, used, self.waypoints, span)
        return window, positions.reshape(3, scenes, samples * self.waypoints)

    def make_velocity_field(self, prompt: Prompt, reasoning: Reasoning) -> VelocityField:
        """The velocity as a function of state and time alone."""
        window, positions = self.prepare_expert(prompt, reasoning)
        return lambda x, t: self.predict_velocity(x, t, prompt.cache, window, positions)

    def sample_actions(self, noise: Tensor, field: VelocityField, num_steps: int | None = None) -> Tensor:
        """Normalised actions (R, T, 2) float32 from noise of that shape, rows scene-major."""
        return self.flow.sample(noise, field, num_steps)

    def _logits(self, hidden: Tensor) -> Tensor:
        return self.vlm.lm_head(self.vlm.model.language_model.norm(hidden)).to(torch.float32)


def _scatter_rows(features: Tensor, where: Tensor, like: Tensor) -> Tensor:
    """Features (n, H) at rows `where` (n) of all the batch's, zeros elsewhere, as `like`."""
    placed = torch.zeros_like(like)
    placed.flatten(0, 1).index_copy_(0, where, features.to(like.dtype))
    return placed


def _to_device(x: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device, without waiting for what that still has to do."""
    if device.type == 'cuda' and not x.is_cuda:
        x = x.pin_memory()
    return x.to(device, non_blocking=True)


def _read_flag_later(flag: Tensor) -> Callable[[], bool]:
    """A flag of the device, to be waited for without what is launched after this call."""
    if not flag.is_cuda:
        return lambda: bool(flag)
    there = torch.empty((), dtype=torch.bool, pin_memory=True).copy_(flag, non_blocking=True)
    event = torch.cuda.Event()
    event.record()

    def wait() -> bool:
        event.synchronize()
        return bool(there)

    return wait


def compute_prompt_positions(
    is_image: Tensor, grids: Sequence[tuple[int, int]], merge: int
) -> tuple[Tensor, Tensor]:
    """Positions (3, B, P) of time, height, width and rope_delta (B) of prompts.

    Text advances all three rows. An image of merged grid h x w that starts at p has T = p,
    H = p + row, W = p + column, and what follows continues at p + max(h, w).
    """
    scenes, length = is_image.shape
    positions = torch.empty(3, scenes, length, dtype=torch.int64)
    remaining = iter(grids)
    for scene, row in enumerate(is_image.cpu()):
        images, at, end = row.nonzero()[:, 0].tolist(), 0, 0  # the next position, and its index
        seen = 0
        while seen < len(images):
            h, w = (n // merge for n in next(remaining))
            first = images[seen]
            at += first - end
            positions[:, scene, end:first] = torch.arange(at - (first - end), at)
            places = torch.arange(h).repeat_interleave(w), torch.arange(w).repeat(h)
            end, seen = first + h * w, seen + h * w
            positions[0, scene, first:end] = at
            for axis, place in enumerate(places, 1):
                positions[axis, scene, first:end] = place + at
            at += max(h, w)
        positions[:, scene, end:] = torch.arange(at, at + length - end)
    deltas = positions.amax((0, 2)) + 1 - length
    return positions.to(is_image.device), deltas.to(is_image.device)
