"""Qwen3-VL vision tower: patches of one or more images to language-model embeddings.

Attention stays inside one image. Images are therefore encoded in chunks, and cached features of an
image are exact. Knows no prompt and no tokenizer. Grids are (height, width) in patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from einops import rearrange
import torch
from torch import Tensor, nn
import torch.nn.functional as F

from ..kernels.int8.norms import add_layer_norm_int8
from ..kernels.int8.rows import Int8Rows
from ..kernels.norm import add_layer_norm
from ..kernels.rotary import rotate_heads
from .config import VisionConfig
from .text import takes_int8

NORM_EPS = 1e-6
ROPE_THETA = 10000.0
CHUNK_IMAGES = 4  # bounds the activations: 4 images of 720 patches are 25 MB a layer in bf16


class PatchEmbed(nn.Module):
    """Convolution whose stride equals its kernel. It runs as a linear layer on flat patches."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        kernel = (config.temporal_patch_size, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(3, config.hidden_size, kernel, stride=kernel)

    def forward(self, patches: Tensor) -> Tensor:
        """(..., 3 * temporal * patch * patch) to (..., hidden)."""
        weight = self.proj.weight
        return F.linear(patches.to(weight.dtype), weight.flatten(1), self.proj.bias)


class VisionAttention(nn.Module):
    """Full attention inside each image; one matrix for q, k and v, 2-D rotary positions."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor | Int8Rows, cos: Tensor, sin: Tensor) -> Tensor:
        """(images, patches, hidden) to the same; cos and sin (patches, head_dim) float32."""
        heads = self.qkv(x).unflatten(-1, (3 * self.num_heads, -1))
        turned = rotate_heads(heads[:, :, : 2 * self.num_heads], cos, sin)
        parts = (*turned.chunk(2, 2), heads[:, :, 2 * self.num_heads :])
        # views: attention keeps the layout in memory
        q, k, v = (rearrange(part, 'images p heads d -> images heads p d') for part in parts)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(rearrange(out, 'images heads p d -> images p (heads d)'))


def multiply_gelu(layer: nn.Module, x: Tensor | Int8Rows, approximate: str) -> Tensor:
    """GELU of a layer's output for x, in the layer's own way where it has one."""
    own = getattr(layer, 'multiply_gelu', None)
    y: Tensor = own(x, approximate) if own else F.gelu(layer(x), approximate=approximate)
    return y


class VisionMLP(nn.Module):
    """Two linear layers with tanh-GELU."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.linear_fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.linear_fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor | Int8Rows) -> Tensor:
        """(images, patches, hidden) to the same."""
        y: Tensor = self.linear_fc2(multiply_gelu(self.linear_fc1, x, 'tanh'))
        return y


class VisionBlock(nn.Module):
    """Pre-norm attention and MLP with residuals."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=NORM_EPS)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=NORM_EPS)
        self.attn = VisionAttention(config)
        self.mlp = VisionMLP(config)

    def forward(
        self, x: Tensor, branch: Tensor | None, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The sum so far and the branch that is not yet added, (images, patches, hidden) each.

        branch: the branch that the block before left. The next norm adds it in the same kernel.
        """
        x, normed = _add_and_norm(x, branch, self.norm1, self.attn.qkv)
        branch = self.attn(normed, cos, sin)
        x, normed = _add_and_norm(x, branch, self.norm2, self.mlp.linear_fc1)
        return x, self.mlp(normed)


def _add_and_norm(
    x: Tensor, branch: Tensor | None, norm: nn.LayerNorm, reader: nn.Module
) -> tuple[Tensor, Tensor | Int8Rows]:
    """Add a branch, if any, to x; returns the sum and its norm for the layer behind."""
    if branch is None or torch.is_grad_enabled():  # the fused ops have no gradient
        x = x if branch is None else x + branch
        return x, norm(x)
    if takes_int8(reader, x):
        own = norm.weight, norm.bias, norm.eps
        total, values, scale = add_layer_norm_int8(x, branch, *own)
        return total, Int8Rows(values, scale, total)
    total, normed = add_layer_norm(x, branch, norm.weight, norm.bias, norm.eps)
    return total, normed


class PatchMerger(nn.Module):
    """Four neighbouring patches to one embedding; exact GELU.

    The final merger normalises each patch. The deepstack mergers normalise four patches as one.
    """

    def __init__(self, config: VisionConfig, after_concatenation: bool) -> None:
        super().__init__()
        self.rows = config.spatial_merge_size**2
        self.merged = config.hidden_size * self.rows
        norm = self.merged if after_concatenation else config.hidden_size
        self.after_concatenation = after_concatenation
        self.norm = nn.LayerNorm(norm, eps=NORM_EPS)
        self.linear_fc1 = nn.Linear(self.merged, self.merged)
        self.linear_fc2 = nn.Linear(self.merged, config.out_hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(images, patches, V) in merge order to (images, patches / 4, H)."""
        if not self.after_concatenation:
            x = self.norm(x)
        x = rearrange(x, 'images (tokens four) v -> images tokens (four v)', four=self.rows)
        if self.after_concatenation:
            x = self.norm(x)
        y: Tensor = self.linear_fc2(multiply_gelu(self.linear_fc1, x, 'none'))
        return y


class VisionTower(nn.Module):
    """Patches to merged embeddings and deepstack features."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.pos_embed = nn.Embedding(config.num_position_embeddings, config.hidden_size)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.depth))
        self.merger = PatchMerger(config, after_concatenation=False)
        self.deepstack_merger_list = nn.ModuleList(
            PatchMerger(config, after_concatenation=True) for _ in config.deepstack_visual_indexes
        )

    def forward(
        self,
        patches: Tensor,
        grids: Sequence[tuple[int, int]],
        chunk_images: int = CHUNK_IMAGES,
    ) -> tuple[Tensor, list[Tensor]]:
        """Embeddings (tokens, H) and per deepstack level (tokens, H) of all images in order.

        patches (sum of h * w, 1536) in merge order, grids one (h, w) per image. Images of one
        grid go through in chunks of at most `chunk_images`.
        """
        parts: list[tuple[Tensor, list[Tensor]]] = []
        start = 0
        for grid, same in groupby(grids):
            size, count = grid[0] * grid[1], len(list(same))
            group = patches[start : start + count * size].unflatten(0, (count, size))
            parts += [self._encode(chunk, grid) for chunk in group.split(chunk_images)]
            start += count * size
        by_level = zip(*(levels for _, levels in parts), strict=True)
        return torch.cat([x for x, _ in parts]), [torch.cat(level) for level in by_level]

    def _encode(self, patches: Tensor, grid: tuple[int, int]) -> tuple[Tensor, list[Tensor]]:
        """One chunk (images, h * w, 1536) of equal grids."""
        x = self.patch_embed(patches)
        positions, cos, sin = self.compute_positions(grid)
        x = x + positions.to(x.dtype)
        levels: list[Tensor] = []
        branch: Tensor | None = None
        for i, block in enumerate(self.blocks):
            x, branch = block(x, branch, cos, sin)
            if i in self.config.deepstack_visual_indexes:
                x, branch = x + branch, None
                merger = self.deepstack_merger_list[len(levels)]
                levels.append(merger(x).flatten(0, 1))
        x = x if branch is None else x + branch
        return self.merger(x).flatten(0, 1), levels

    def compute_positions(self, grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Positions of a grid's patches in merge order.

        Returns learned embeddings (h * w, V), which are added to those of the patches, and cosine
        and sine (h * w, head_dim) float32 of the rotation in every block.
        """
        return self._interpolate_positions(grid), *self._compute_rotary(
            grid, self.pos_embed.weight.device
        )

    def _interpolate_positions(self, grid: tuple[int, int]) -> Tensor:
        """The learned square table sampled bilinearly at h x w points; (h * w, V), merge order."""
        table = self.pos_embed.weight
        side = int(self.config.num_position_embeddings**0.5)
        low, high, part = [], [], []
        for n in grid:
            at = torch.linspace(0, side - 1, n, device=table.device)
            floor = at.to(torch.int64)
            low.append(floor)
            high.append((floor + 1).clamp(max=side - 1))
            part.append(at - floor)
        ph, pw = part[0].unsqueeze(-1), part[1].unsqueeze(0)
        out = torch.zeros(*grid, table.shape[1], device=table.device, dtype=table.dtype)
        for rows, wh in ((low[0], 1 - ph), (high[0], ph)):
            for columns, ww in ((low[1], 1 - pw), (high[1], pw)):
                index = rows.unsqueeze(-1) * side + columns.unsqueeze(0)
                out += table[index] * (wh * ww).unsqueeze(-1).to(table.dtype)
        return _to_merge_order(out, self.config.spatial_merge_size)

    def _compute_rotary(
        self, grid: tuple[int, int], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Cosine and sine (h * w, head_dim) float32 of [row * f, column * f], merge order."""
        dim = self.config.hidden_size // self.config.num_heads // 2
        index = torch.arange(0, dim, 2, dtype=torch.float32, device=device)
        frequency = 1.0 / ROPE_THETA ** (index / dim)
        rows, columns = (torch.arange(n, device=device, dtype=torch.float32) for n in grid)
        place = torch.stack(torch.meshgrid(rows, columns, indexing='ij'), -1)
        place = _to_merge_order(place, self.config.spatial_merge_size)
        angle = (place.unsqueeze(-1) * frequency).flatten(1)
        angle = torch.cat([angle, angle], -1)
        return angle.cos(), angle.sin()


def _to_merge_order(x: Tensor, merge: int) -> Tensor:
    """(h, w, C) to (h * w, C): merged row, merged column, inner row, inner column."""
    return rearrange(x, '(h r) (w c) channels -> (h w r c) channels', r=merge, c=merge)
