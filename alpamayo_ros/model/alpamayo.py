"""The Alpamayo model: prefill, decode steps, then action sampling, as stages that can be timed.

Order of operations: docs/model.md, sections 6 to 8. Knows no files and no text. K samples of a
scene share its prompt in the cache; S scenes share a batch. Guidance runs the model on twice the
scenes: see flow_matching.guide_field.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from einops import rearrange
import torch
from torch import Tensor, nn

from .action_expert import PerWaypointActionInProjV2, place_waypoints
from .action_space import UnicycleAccelCurvatureActionSpace
from .blocks import build_block
from .config import AlpamayoConfig
from .flow_matching import FlowMatching, VelocityField
from .kv_cache import KVCache, Window, build_decode_window, build_prompt_window
from .prefill import (
    PrefillSteps,
    Prompt,
    PromptLayout,
    embed_chunk,
    keep_last_states,
    lay_out_prompts,
)
from .reasoning.generation import Reasoning
from .text import Decoder, LanguageModel, RotaryTables, compute_rotary
from .transfers import to_device
from .vision import CHUNK_IMAGES, VisionTower

# tokens; bounds the MLP's activations. A prompt with 16 images of 320x576 fits into one chunk:
# packed weights are unpacked again for every chunk.
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


class AlpamayoModel(nn.Module):
    """The whole model, R1 or 1.5. Its parameters have the names of the release."""

    def __init__(self, config: AlpamayoConfig) -> None:
        super().__init__()
        self.config = config
        blocks = config.blocks
        self.vlm = VisionLanguageModel(config)
        self.expert = Decoder(config.expert)
        self.action_space = build_block(
            blocks['action_space_cfg'], UnicycleAccelCurvatureActionSpace
        )
        width = config.expert.hidden_size
        self.action_in_proj = build_block(
            blocks['action_in_proj_cfg'], PerWaypointActionInProjV2, out_dim=width, in_dims=2
        )
        self.action_out_proj = build_block(
            blocks['action_out_proj_cfg'], nn.Linear, in_features=width, out_features=2
        )
        self.flow: FlowMatching = build_block(blocks['diffusion_cfg'], FlowMatching)

    @property
    def waypoints(self) -> int:
        """Waypoints of a trajectory."""
        return int(self.action_space.n_waypoints)

    def allocate_cache(
        self, scenes: int, prompt: int, samples: int, max_tokens: int, bits: int = 16
    ) -> KVCache:
        """An empty cache for prompts of `prompt` tokens, their reasoning and one flow step.

        bits: of keys and values, 16 for those of the model's dtype, or 8.
        """
        capacity = self.cache_capacity(prompt, samples, max_tokens)
        norm = self.expert.norm.weight  # never quantized: it has the model's dtype and device
        return KVCache(self.config.text, scenes, capacity, norm.dtype, norm.device, bits)

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
        steps: PrefillSteps | None = None,
        lengths: Tensor | None = None,
        is_guided: bool = False,
    ) -> Prompt:
        """Run prompts (S, P), with history written in, through the language model.

        vision and grids hold the images of all scenes, or of the first half when the second half
        shows the same. lengths (S): own lengths of prompts that pads fill up to P. The prompts go
        through in chunks, which bounds the activations and does not change results. steps: a
        recorded form of the methods `allocate_chunk` and `run_chunk`.
        """
        steps, device = steps or self, cache.keys.device
        # the layout is computed on the host, while the device still encodes images
        layout = self.lay_out(input_ids, vision, grids, lengths)
        positions = to_device(layout.positions, device)
        rope_delta = to_device(layout.rope_delta, device)
        length, scenes = input_ids.shape[1], input_ids.shape[0] // (2 if is_guided else 1)
        last = None if lengths is None or bool((lengths[:scenes] == length).all()) else lengths - 1
        state = hidden = torch.empty(0)
        for start in range(0, length, chunk):
            part = slice(start, min(start + chunk, length))
            x = steps.allocate_chunk(cache, part.stop - start)
            deepstack = embed_chunk(x, layout, part, vision, self.vlm.model.language_model)
            if last is None:
                state = steps.run_chunk(x, positions[:, :, part], deepstack, cache)
            else:
                hidden = self._run_whole_chunk(x, positions[:, :, part], deepstack, cache)
                state = keep_last_states(state, hidden, last.to(device) - start)
            cache.length += part.stop - start
        own = None if lengths is None else to_device(lengths, device)
        return Prompt(cache, length, rope_delta, self._logits(state), own, is_guided)

    def lay_out(
        self,
        input_ids: Tensor,
        vision: tuple[Tensor, list[Tensor]],
        grids: Sequence[tuple[int, int]],
        lengths: Tensor | None = None,
    ) -> PromptLayout:
        """Layout of prompts (S, P) on the host; arguments as in `prefill`."""
        merge = self.config.vision.spatial_merge_size
        image = self.config.image_token_id
        return lay_out_prompts(input_ids, image, len(vision[0]), grids, merge, lengths)

    def allocate_chunk(self, cache: KVCache, length: int) -> Tensor:
        """Memory (S, length, H) for the next prompt embeddings, which `run_chunk` takes."""
        size = cache.keys.shape[1], length, self.config.text.hidden_size
        return cache.keys.new_empty(size, dtype=cache.dtype)

    def run_chunk(
        self, x: Tensor, positions: Tensor, deepstack: Iterable[Tensor], cache: KVCache
    ) -> Tensor:
        """Last hidden state (S, H) of the next prompt embeddings x (S, L, H), not normalised.

        x comes from `allocate_chunk` and is overwritten. positions (3, S, L); deepstack: as in
        Decoder. The caller advances `cache.length`.
        """
        window = build_prompt_window(x.shape[1], cache.length, x.device)
        language = self.vlm.model.language_model
        hidden: Tensor = language(x, positions, cache, window, deepstack, last_only=True)
        return hidden[:, -1]

    def _run_whole_chunk(
        self, x: Tensor, positions: Tensor, deepstack: Iterable[Tensor], cache: KVCache
    ) -> Tensor:
        """Hidden states (S, L, H) of all embeddings; see `run_chunk`."""
        window = build_prompt_window(x.shape[1], cache.length, x.device)
        hidden: Tensor = self.vlm.model.language_model(x, positions, cache, window, deepstack)
        return hidden

    def decode_step(self, prompt: Prompt, tokens: Tensor) -> Tensor:
        """Logits (S, K, vocab) float32 behind one more token (S, K) of each sample."""
        return self._decode(prompt, tokens, tokens.shape[1])

    def verify_step(self, prompt: Prompt, tokens: Tensor) -> Tensor:
        """Logits (S, K, L, vocab) float32 behind each of L more tokens (S, K, L) of each sample.

        The caller takes from `cache.length` what it does not keep.
        """
        samples = tokens.shape[1]
        logits = self._decode(prompt, rearrange(tokens, 's k l -> s (l k)'), samples)
        return rearrange(logits, 's (l k) vocab -> s k l vocab', k=samples)

    def _decode(self, prompt: Prompt, tokens: Tensor, samples: int) -> Tensor:
        """Logits (S, L * K, vocab) behind tokens (S, L * K), step by step."""
        cache, count = prompt.cache, tokens.shape[1]
        x = self.vlm.model.language_model.embed_tokens(tokens)
        used = cache.length
        tables_and_window = self.prepare_decode(
            prompt.rope_delta,
            prompt.length,
            used,
            samples,
            used + count,
            prompt.lengths,
            count // samples,
        )
        layers = len(self.vlm.model.language_model.layers)
        logits = self.decode_layers(x, tables_and_window, cache, 0, layers)
        cache.length += count
        return logits

    def prepare_decode(
        self,
        rope_delta: Tensor,
        prompt: int | Tensor,
        used: int | Tensor,
        samples: int,
        span: int,
        lengths: Tensor | None = None,
        tokens: int = 1,
    ) -> tuple[RotaryTables, Window]:
        """Rotary tables and window of so many more tokens of each sample behind `used` slots.

        prompt and used may be 0-d tensors, with `span` the cache's capacity: see kv_cache.Window.
        rope_delta and lengths: those of the Prompt.
        """
        at = rearrange(rope_delta + prompt + (used - prompt) // samples, 's -> 1 s 1')
        norm = self.expert.norm.weight  # never quantized: it has the model's dtype and device
        step = torch.arange(tokens * samples, device=at.device) // samples
        tables = compute_rotary((at + step).expand(3, -1, -1), self.config.text, norm.dtype)
        window = build_decode_window(prompt, used, samples, span, norm.device, lengths, tokens)
        return tables, window

    def decode_layers(
        self,
        x: Tensor,
        prepared: tuple[RotaryTables, Window],
        cache: KVCache,
        start: int,
        stop: int,
    ) -> Tensor:
        """Hidden states (S, K, H) behind a decode step's layers from `start` to before `stop`.

        Behind the last layer: logits (S, K, vocab) float32. x is overwritten. prepared: the
        result of `prepare_decode`.
        """
        language = self.vlm.model.language_model
        tables, window = prepared
        hidden: Tensor = language.run_layers(x, tables, cache, window, start, stop)
        return self._logits(hidden) if stop == len(language.layers) else hidden

    def predict_velocity(
        self, x: Tensor, t: Tensor, cache: KVCache, window: Window, positions: Tensor
    ) -> Tensor:
        """Velocity (R, T, 2) of noisy actions x (R, T, 2) float32 at time t (R, 1, 1).

        R = S * K rows, scene-major. window and positions come from `prepare_expert`. The keys of
        the waypoints are written behind the reasoning; `cache.length` does not advance, so the
        next call overwrites them.
        """
        scenes = positions.shape[1]
        embeds = rearrange(self.action_in_proj(x, t), '(s k) t e -> s (k t) e', s=scenes)
        hidden = self.expert(embeds, positions, cache, window)
        v: Tensor = self.action_out_proj(self.expert.norm(hidden))
        return rearrange(v, 's (k t) c -> (s k) t c', t=x.shape[1])

    def prepare_expert(self, prompt: Prompt, reasoning: Reasoning) -> tuple[Window, Tensor]:
        """Window and positions (3, S, K * T) that all flow steps share."""
        used = prompt.cache.length
        span = used + reasoning.marker.shape[1] * self.waypoints
        return place_waypoints(
            self.waypoints,
            prompt.rope_delta,
            reasoning.marker,
            prompt.length,
            used,
            reasoning.length,
            span,
            prompt.lengths,
        )

    def make_velocity_field(self, prompt: Prompt, reasoning: Reasoning) -> VelocityField:
        """The velocity as a function of state and time alone, for all S * K rows of the cache.

        A guided prompt has twice the rows of the noise: see flow_matching.guide_field.
        """
        window, positions = self.prepare_expert(prompt, reasoning)
        return lambda x, t: self.predict_velocity(x, t, prompt.cache, window, positions)

    def _logits(self, hidden: Tensor) -> Tensor:
        return self.vlm.lm_head(self.vlm.model.language_model.norm(hidden)).to(torch.float32)
