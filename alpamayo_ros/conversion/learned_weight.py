"""A packed matrix whose scales, shifts and codes are learned.

Used by the training behind error feedback. Knows no data and no losses.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from ..quantization.codes import data_name, read_codes, store_codes
from ..quantization.scheme import Rule

PIECE = (
    1 << 27
)  # weights that are dense at a time, in float32: only the head of a release has more
EDGE = 0.45  # how far from its code a place may begin: at 0.5 the code would be another one


class LearnedLinear(nn.Module):
    """A linear layer over a packed matrix.

    stretch and move (N, G, 1): what training changes, relative to the scale; the scale becomes
    scale * (1 + stretch), the shift becomes shift + scale * move. Both are rounded to bfloat16, as
    they will be stored. place (N, G, g): where the weights lie between the levels; codes are the
    nearest ones. Gradients pass the rounding (straight-through: Bengio et al. 2013).
    """

    data: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, like: nn.Linear, rule: Rule, stored: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.in_features, self.out_features = like.in_features, like.out_features
        self.rows, self.scheme = rule.pad(like.out_features), rule.scheme
        self.dtype, self.bias = like.weight.dtype, like.bias
        scale = stored['._scale'].to(torch.float32).view(self.rows, -1, 1)
        shift = stored.get('._shift')
        shift = scale * (self.scheme.levels // 2) if shift is None else shift.to(torch.float32)
        self.register_buffer('data', stored[data_name(self.scheme)])
        self.register_buffer('scale', scale)
        self.register_buffer('shift', shift.view(scale.shape))
        self.stretch = nn.Parameter(torch.zeros_like(scale))
        self.move = nn.Parameter(torch.zeros_like(scale)) if self.scheme.shifted else None
        self.place: nn.Parameter | None = None

    def compute_scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Return scale and shift (N, G, 1) float32; codes count from 0."""
        scale = _round_to_bfloat16(self.scale * (1 + self.stretch))
        if self.move is None:
            return scale, scale * (self.scheme.levels // 2)
        return scale, _round_to_bfloat16(self.shift + self.scale * self.move)

    def compute_codes(self, rows: slice = slice(None)) -> Tensor:
        """Return codes (N, G, g) float32, from 0 on, of some rows."""
        if self.place is None:
            return read_codes(self.data, self.scheme, self.rows, self.in_features, rows)
        lowest = 1 if self.scheme.levels == 256 else 0
        place = self.place[rows].clamp(lowest, self.scheme.levels - 1)
        return place + (place.round() - place).detach()

    def compute_weight(self, rows: slice = slice(None)) -> Tensor:
        """Return the matrix (out_features, in_features), or some rows, in the layer's dtype."""
        scale, shift = self.compute_scale_and_shift()
        dense = scale[rows] * self.compute_codes(rows) - shift[rows]
        return dense.flatten(1)[: self.out_features].to(self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features); a large matrix goes by in pieces."""
        height = PIECE // self.in_features
        if self.out_features <= height:
            return F.linear(x, self.compute_weight(), self.bias)
        starts = range(0, self.out_features, height)
        parts = [slice(at, min(at + height, self.out_features)) for at in starts]
        run = partial(checkpoint, self._multiply, use_reentrant=False)
        y = torch.cat([run(x, part) for part in parts], -1)
        return y if self.bias is None else y + self.bias

    def _multiply(self, x: Tensor, rows: slice) -> Tensor:
        return F.linear(x, self.compute_weight(rows))

    @torch.no_grad()
    def free_codes(self, wanted: Tensor) -> None:
        """Let the codes be learned: places begin where a wanted matrix (N, K) lies."""
        scale, shift = self.compute_scale_and_shift()
        codes = self.compute_codes()
        rows = F.pad(wanted.to(torch.float32), (0, 0, 0, self.rows - len(wanted)))
        offset = (rows.view_as(codes) + shift) / scale - codes
        self.place = nn.Parameter(codes + offset.clamp(-EDGE, EDGE))

    @torch.no_grad()
    def fix_codes(self) -> None:
        """Keep the codes of now; only scales and shifts are learned from here on."""
        if self.place is not None:
            self.data = store_codes(self.compute_codes(), self.scheme)
            self.place = None

    @torch.no_grad()
    def collect_tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint stores, by the endings that follow the layer's name."""
        scale, shift = self.compute_scale_and_shift()
        found = {f'.weight{data_name(self.scheme)}': self.data}
        found['.weight._scale'] = scale.to(torch.bfloat16).view(-1, 1)
        if self.scheme.shifted:
            found['.weight._shift'] = shift.to(torch.bfloat16).view(-1, 1)
        return found | ({} if self.bias is None else {'.bias': self.bias.detach()})


def _round_to_bfloat16(x: Tensor) -> Tensor:
    """Return the values that bfloat16 holds; gradients pass unchanged."""
    return x + (x.to(torch.bfloat16).to(torch.float32) - x).detach()
