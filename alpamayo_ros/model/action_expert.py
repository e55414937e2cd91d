"""Action expert: turns 64 noisy waypoints into velocities, given the cache of the language model.

Formulas: docs/model.md, section 8. Knows no images and no text.
"""

from __future__ import annotations

import math

from einops import rearrange, repeat
import torch
from torch import Tensor, nn

from .kv_cache import Window
from .text import RMSNorm

NORM_EPS = 1e-5


class FourierEncoder(nn.Module):
    """sqrt(2) * [sin(2 pi z f), cos(2 pi z f)] with log-spaced f from 1 to max_freq.

    The frequencies are a buffer because they come from the checkpoint: a bf16 release holds
    rounded ones, and exact ones would change the embedding by O(1).
    """

    def __init__(self, dim: int, max_freq: float) -> None:
        super().__init__()
        self.dim, self.max_freq = dim, max_freq
        self.freqs: Tensor
        self.register_buffer('freqs', self.make_buffers()['freqs'].to(torch.get_default_device()))

    def make_buffers(self) -> dict[str, Tensor]:
        """Frequencies (1, dim / 2) for a checkpoint that leaves the buffer out."""
        half = self.dim // 2
        powers = torch.arange(half, dtype=torch.float32, device='cpu') / max(half - 1, 1)
        return {'freqs': (self.max_freq**powers).unsqueeze(0)}

    def forward(self, z: Tensor) -> Tensor:
        """Features (..., dim) of z (...); float32 input keeps the result float32."""
        angle = z.unsqueeze(-1) * self.freqs[0] * (2 * math.pi)
        return torch.cat([angle.sin(), angle.cos()], -1) * math.sqrt(2)


class FourierMLP(nn.Module):
    """Linear, SiLU, then linear layers with a norm before and a SiLU between them."""

    def __init__(self, in_dim: int, hidden_size: int, num_enc_layers: int, out_dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(in_dim, hidden_size), nn.SiLU()]
        for i in range(num_enc_layers):
            last = i == num_enc_layers - 1
            layers.append(RMSNorm(hidden_size, NORM_EPS))
            layers.append(nn.Linear(hidden_size, out_dim if last else hidden_size))
            layers += [] if last else [nn.SiLU()]
        self.trunk = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_dim) to (..., out_dim), in the dtype of the weights."""
        return self.trunk(x.to(next(self.trunk.parameters()).dtype))


class PerWaypointActionInProjV2(nn.Module):
    """One embedding per waypoint, made of its noisy action and the flow time."""

    def __init__(
        self,
        out_dim: int,
        in_dims: int = 2,
        hidden_size: int = 512,
        num_enc_layers: int = 2,
        max_freq: float = 100.0,
        num_fourier_feats: int = 20,
    ) -> None:
        super().__init__()
        self.sinus = nn.ModuleList(
            FourierEncoder(num_fourier_feats, max_freq) for _ in range(in_dims)
        )
        self.timestep_fourier_encoder = FourierEncoder(num_fourier_feats, max_freq)
        features = num_fourier_feats * (in_dims + 1)
        self.encoder = FourierMLP(features, hidden_size, num_enc_layers, out_dim)
        self.norm = nn.LayerNorm(out_dim, eps=NORM_EPS)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Embeddings (R, T, out_dim) of x (R, T, in_dims) float32 at time t (R, 1, 1)."""
        parts = [encode(x[..., i]) for i, encode in enumerate(self.sinus)]
        parts.append(self.timestep_fourier_encoder(t.expand(*x.shape[:2], 1)[..., 0]))
        return self.norm(self.encoder(torch.cat(parts, -1)))


def compute_expert_positions(rope_delta: Tensor, offset: Tensor, waypoints: int) -> Tensor:
    """Positions (3, R, T): 0..T-1 behind the marker on all axes; rope_delta and offset (R)."""
    steps = torch.arange(waypoints, device=offset.device)
    first = rearrange(rope_delta + offset, 'r -> r 1')
    return repeat(first + steps, 'r t -> axes r t', axes=3)


def build_expert_window(
    visible: Tensor,
    prompt: int | Tensor,
    used: int | Tensor,
    waypoints: int,
    span: int,
    lengths: Tensor | None = None,
) -> Window:
    """Window of the K * T waypoints of each scene, sample-major behind `used` slots.

    A waypoint sees the prompt, the first `visible` (S, K) reasoning tokens of its own sample (up
    to the marker), and all waypoints of its own sample, also later ones. Slots are those of
    `kv_cache.KVCache`, lengths (S) those of `Prompt`: padding is hidden. The mask is bool
    (S, 1, K * T, span). A single sample of a single scene needs none, which makes attention
    twice as fast: its waypoints stand directly behind the tokens that they see.
    """
    samples, device = visible.shape[1], visible.device
    if visible.numel() == 1 and lengths is None:
        slots = torch.arange(waypoints, device=device) + (prompt + visible[0])
        return Window(slots, span, count=slots[-1] + 1)
    slot = torch.arange(span, device=device)
    sample = torch.arange(samples, device=device).unsqueeze(-1)
    behind = slot - prompt
    own = (behind % samples == sample) & (behind // samples < rearrange(visible, 's k -> s k 1'))
    in_prompt = slot < (prompt if lengths is None else rearrange(lengths, 's -> s 1 1'))
    seen = (in_prompt | (own & (slot >= prompt))) & (slot < used)  # (S, K, span)
    mates = (slot - used) // waypoints == sample  # floor division: slots before `used` are < 0
    mask = repeat(seen | mates, 's k span -> s 1 (k t) span', t=waypoints)
    return Window(torch.arange(samples * waypoints, device=device) + used, span, mask)


def place_waypoints(
    waypoints: int,
    rope_delta: Tensor,
    marker: Tensor,
    prompt: int | Tensor,
    used: int | Tensor,
    length: int | Tensor,
    span: int,
    lengths: Tensor | None = None,
) -> tuple[Window, Tensor]:
    """Window and positions (3, S, K * T) of the waypoints behind a prompt and its reasoning.

    rope_delta, prompt (its length) and lengths: of the Prompt. marker and length: of the
    Reasoning. used: filled slots of the cache. prompt, used and length may be 0-d tensors, with
    `span` the cache's capacity: see kv_cache.Window. With guidance, rope_delta (S) has twice the
    scenes of marker (B, K): both halves have the same markers. Without a marker the pass with
    the route does not see the last token of the budget and the pass without the route does, as
    in the reference.
    """
    copies, samples = len(rope_delta) // len(marker), marker.shape[1]
    found = marker >= 0
    visible = torch.where(found, marker + 1, length - prompt - 1)
    if copies == 2:
        unguided = torch.where(found, marker + 1, (used - prompt) // samples)
        visible = torch.cat([visible, unguided])
    offset = torch.where(found, prompt + marker + 1, length).repeat(copies, 1)
    rope = rope_delta.unsqueeze(-1).expand_as(offset)
    positions = compute_expert_positions(rope.flatten(), offset.flatten(), waypoints)
    window = build_expert_window(visible, prompt, used, waypoints, span, lengths)
    return window, rearrange(positions, 'axes (s k) t -> axes s (k t)', k=samples)
