"""A packed matrix whose scales and shifts are learned while its codes stay.

Used by the training behind error feedback. Knows no data and no losses.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
import torch.nn.functional as F

from ..kernels.packing import unpack_codes
from ..quantization.linear import PackedWeight
from ..quantization.scheme import QuantScheme, Rule


class LearnedLinear(nn.Module):
    """A linear layer over a packed matrix; scales and shifts have gradients.

    stretch and move: what training changes, relative to the stored scale: the scale becomes
    scale * (1 + stretch), the shift becomes shift + scale * move. Both are rounded to bfloat16, as
    they will be stored, and gradients pass the rounding.
    """

    def __init__(self, like: nn.Linear, rule: Rule, stored: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.in_features, self.out_features = like.in_features, like.out_features
        self.dtype, self.bias = like.weight.dtype, like.bias
        self.packed = make_packed_weight(like, rule, stored)
        scale = self.packed.stored.scale.to(torch.float32)
        self.stretch = nn.Parameter(torch.zeros_like(scale))
        self.move = nn.Parameter(torch.zeros_like(scale)) if self.packed.shifted else None

    def compute_scale_and_shift(self) -> tuple[Tensor, Tensor | None]:
        """Return scale and shift (groups, 1) float32; no shift where levels are symmetric."""
        stored = self.packed.stored
        before = stored.scale.to(torch.float32)
        scale = _round_to_bfloat16(before * (1 + self.stretch))
        if self.move is None or stored.shift is None:
            return scale, None
        return scale, _round_to_bfloat16(stored.shift.to(torch.float32) + before * self.move)

    def compute_weight(self) -> Tensor:
        """Return the matrix (out_features, in_features) in the layer's dtype."""
        scale, shift = self.compute_scale_and_shift()
        data, levels = self.packed.stored.data, self.packed.levels
        groups = torch.arange(scale.numel(), device=data.device)
        flat = data.view(-1, self.packed.stored.group)
        codes = unpack_codes(flat, levels, groups).to(torch.float32)
        if levels == 3:
            codes = codes - 1
        dense = scale * codes if shift is None else scale * codes - shift
        return dense.view(self.packed.rows, -1)[: self.out_features].to(self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        return F.linear(x, self.compute_weight(), self.bias)

    @torch.no_grad()
    def collect_tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint stores, by the endings that follow the layer's name."""
        scale, shift = self.compute_scale_and_shift()
        endings = dict(self.packed.state_dict(prefix='.weight.'))
        endings['.weight._scale'] = scale.to(torch.bfloat16)
        if shift is not None:
            endings['.weight._shift'] = shift.to(torch.bfloat16)
        return endings | ({} if self.bias is None else {'.bias': self.bias.detach()})


def make_packed_weight(like: nn.Linear, rule: Rule, stored: Mapping[str, Tensor]) -> PackedWeight:
    """Put the stored tensors of a matrix (by the endings behind 'weight') into their module."""
    scheme: QuantScheme = rule.scheme
    with torch.device('meta'):
        packed = PackedWeight(
            rule.pad(like.out_features), like.in_features, scheme, torch.bfloat16
        )
    packed.load_state_dict({name[1:]: part for name, part in stored.items()}, assign=True)
    return packed


def _round_to_bfloat16(x: Tensor) -> Tensor:
    """Return the values that bfloat16 holds; gradients pass unchanged."""
    return x + (x.to(torch.bfloat16).to(torch.float32) - x).detach()
