"""Action expert: a velocity for 64 noisy waypoints, read off the prompt's and reasoning's cache.

Formulas: alpamayo-r1 specification, section 8. Knows no images and no text.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .text import RMSNorm, Window

NORM_EPS = 1e-5


class FourierEncoder(nn.Module):
    """sqrt(2) * [sin(2 pi z f), cos(2 pi z f)] with log-spaced f from 1 to max_freq.

    The frequencies are a buffer because they come from the checkpoint: a bf16 release rounds
    them, which changes the embedding by O(1).
    """

    def __init__(self, dim: int, max_freq: float) -> None:
        super().__init__()
        self.dim, self.max_freq = dim, max_freq
        self.freqs: Tensor
        self.register_buffer(
            'freqs', self.make_buffers()['freqs'].to(torch.get_default_device())
        )

    def make_buffers(self) -> dict[str, Tensor]:
        """The frequencies (1, dim / 2), for a checkpoint that leaves the buffer out."""
        half = self.dim // 2
        powers = torch.arange(half, dtype=torch.float32, device='cpu') / max(half - 1, 1)
        return {'freqs': (self.max_freq**powers).unsqueeze(0)}

    def forward(self, z: Tensor) -> Tensor:
        """Features (..., dim) of z (...); float32 input keeps the result float32."""
        angle = z.unsqueeze(-1) * self.freqs[0] * (2 * math.pi)
        return torch.cat([angle.sin(), angle.cos()], -1) * math.sqrt(2)


class FourierMLP(nn.Module):
    """Linear, SiLU, then normalised linear layers; SiLU between, none at the end."""

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
    """One embedding per waypoint from its noisy action and the flow time."""

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
    return (steps + (rope_delta + offset).unsqueeze(-1)).expand(3, -1, -1)


def build_expert_window(
    visible: Tensor, prompt: int | Tensor, used: int | Tensor, waypoints: int, span: int
) -> Window:
    """Where the K * T waypoints of each scene go, sample-major behind `used`, and what they see.

    The prompt; of the reasoning their own sample's tokens up to the marker: the first `visible`
    (B, K) of them; and all waypoints of their own sample, also later ones. Slots as in
    `text.KVCache`; the mask is bool (B, 1, K * T, span).
    """
    samples, device = visible.shape[1], visible.device
    slot = torch.arange(span, device=device)
    sample = torch.arange(samples, device=device).unsqueeze(-1)
    behind = slot - prompt
    own = (behind % samples == sample) & (behind // samples < visible.unsqueeze(-1))
    seen = ((slot < prompt) | own) & (slot < used)  # (B, K, span)
    mates = (slot - used) // waypoints == sample  # floor division: slots before `used` are < 0
    mask = (seen | mates).repeat_interleave(waypoints, 1).unsqueeze(1)
    return Window(torch.arange(samples * waypoints, device=device) + used, span, mask)
