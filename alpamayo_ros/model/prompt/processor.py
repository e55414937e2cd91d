"""Images and history to patches and prompt ids; generated ids back to text.

Uses transformers for the tokenizer and its chat template only. Knows no weights.
Prompt: alpamayo-r1 specification, sections 3, 5, 9 and 12.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import BadInput
from ..config import AlpamayoConfig, build_block, read_json, find_vlm_folder, resolve_hub_vlm
from .image_processor import resize_bicubic, smart_resize, to_patches
from .tokens import (
    CAMERA_TEXT,
    IM_END,
    IMAGE_PAD,
    INSTRUCTION,
    PAD,
    SYSTEM,
    TokenIds,
    list_discrete_tokens,
    format_special,
    list_special_tokens,
    collect_token_ids,
)

NGRAM = 8  # a repetition is the same 8 tokens three times
NGRAM_TIMES = 3


@dataclass(frozen=True)
class ModelInputs:
    """One scene for the model: input_ids (1, P) int64 with history written in, patches, grids."""

    input_ids: Tensor
    patches: Tensor
    grids: tuple[tuple[int, int], ...]


class Processor:
    """Tokenizer, chat template and image settings of one checkpoint."""

    def __init__(self, config: AlpamayoConfig, folder: Path) -> None:
        self.config = config
        name = config.vlm_name_or_path
        vlm = find_vlm_folder(name, folder) or resolve_hub_vlm(name, folder)
        self.tokenizer = _load_tokenizer(vlm)
        self.chat_template = _chat_template(vlm, self.tokenizer)
        self.tokenizer.add_tokens(list_discrete_tokens(config))
        self.tokenizer.add_tokens(list_special_tokens(config), special_tokens=True)
        self.history_tokenizer, self.ids = self._trajectory_tokens()

    def _trajectory_tokens(self) -> tuple[Any, TokenIds]:
        """The history tokenizer and all ids, checked against the config's."""
        blocks = self.config.blocks
        future = build_block(blocks['traj_tokenizer_cfg'])
        separate = blocks.get('hist_traj_tokenizer_cfg')
        history = build_block(separate) if separate else future
        eos, pad = (self.tokenizer.convert_tokens_to_ids(t) for t in (IM_END, PAD))
        ids = collect_token_ids(self.config, eos, pad, future.vocab_size if separate else 0)
        first = self.tokenizer.convert_tokens_to_ids('<i0>')
        marker = self.tokenizer.convert_tokens_to_ids(format_special('traj_future_start'))
        if (first, marker) != (ids.discrete_start, ids.future_start):
            raise BadInput(
                f'tokenizer and config.json disagree: <i0> is {first} against '
                f'traj_token_start_idx {ids.discrete_start}, <|traj_future_start|> is {marker} '
                f'against {ids.future_start}'
            )
        return history, ids

    def render_prompt(self, camera_indices: Sequence[int], frames: int) -> str:
        """The prompt before image tokens are repeated; cameras by ascending model index."""
        content: list[dict[str, str]] = []
        for camera in camera_indices:
            for k in range(frames):
                label = f'{CAMERA_TEXT[camera]}: ' if k == 0 else ''
                text = label if self.config.include_camera_ids else ''
                text += f'frame {k} ' if self.config.include_frame_nums else ''
                content += [{'type': 'text', 'text': text}] if text else []
                content.append({'type': 'image'})
        history = format_special('traj_history') * self.config.tokens_per_history_traj
        wrapped = format_special('traj_history_start') + history + format_special('traj_history_end')
        content.append({'type': 'text', 'text': wrapped + INSTRUCTION})
        messages = [
            {'role': 'system', 'content': [{'type': 'text', 'text': SYSTEM}]},
            {'role': 'user', 'content': content},
            {'role': 'assistant', 'content': [{'type': 'text', 'text': format_special('cot_start')}]},
        ]
        return self.tokenizer.apply_chat_template(
            messages,
            chat_template=self.chat_template,
            tokenize=False,
            continue_final_message=True,
        )

    def tokenize_prompt(self, text: str, grids: Sequence[tuple[int, int]]) -> Tensor:
        """Ids (1, P) int64; each image token is repeated for its grid's merged patches."""
        merge = self.config.vision.spatial_merge_size**2
        parts = text.split(IMAGE_PAD)
        if len(parts) != len(grids) + 1:
            raise ValueError(f'prompt with {len(parts) - 1} images, {len(grids)} given')
        expanded = parts[0]
        for (h, w), part in zip(grids, parts[1:], strict=True):
            expanded += IMAGE_PAD * (h * w // merge) + part
        ids = self.tokenizer(expanded, add_special_tokens=False)['input_ids']
        return torch.tensor([ids], dtype=torch.int64)

    def write_history(self, input_ids: Tensor, xyz: Tensor, rot: Tensor) -> Tensor:
        """A copy of ids (B, P) with history (B, 16, 3), (B, 16, 3, 3) in its placeholders."""
        tokens = self.history_tokenizer.encode(xyz, rot) + self.ids.history_offset
        where = input_ids == self.ids.history
        if int(where.sum()) != tokens.numel():
            raise ValueError(
                f'{int(where.sum())} history placeholders for {tokens.numel()} history tokens'
            )
        fused = input_ids.clone()
        fused[where] = tokens.flatten().to(fused)
        return fused

    def resize_image(self, image: Tensor) -> Tensor:
        """Resize a uint8 image (3, H, W) to the size (3, h, w) that the vision tower takes."""
        vision, limits = self.config.vision, (self.config.min_pixels, self.config.max_pixels)
        unit = vision.patch_size * vision.spatial_merge_size
        size = smart_resize(image.shape[1], image.shape[2], *limits, unit)
        return resize_bicubic(image.unsqueeze(0), *size)[0]

    def extract_patches(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Patches of one uint8 image (3, H, W) on its device, and its grid (h, w)."""
        vision, resized = self.config.vision, self.resize_image(image)
        patch, merge = vision.patch_size, vision.spatial_merge_size
        patches = to_patches(resized.unsqueeze(0), patch, vision.temporal_patch_size, merge)
        return patches, (resized.shape[1] // patch, resized.shape[2] // patch)

    def __call__(
        self,
        images: Sequence[Tensor],
        camera_indices: Sequence[int],
        history_xyz: Tensor,
        history_rot: Tensor,
    ) -> ModelInputs:
        """Inputs of one scene: images uint8 (3, H, W) by camera index, oldest frame first.

        history (16, 3) and (16, 3, 3) float32 in the t0 frame.
        """
        parts = [self.extract_patches(image) for image in images]
        grids = tuple(grid for _, grid in parts)
        ids = self.input_ids(grids, camera_indices, history_xyz, history_rot)
        return ModelInputs(ids, torch.cat([patches for patches, _ in parts]), grids)

    def input_ids(
        self,
        grids: Sequence[tuple[int, int]],
        camera_indices: Sequence[int],
        history_xyz: Tensor,
        history_rot: Tensor,
    ) -> Tensor:
        """Ids (1, P) of a scene whose images have these grids; history as in a call."""
        text = self.render_prompt(camera_indices, len(grids) // len(camera_indices))
        ids = self.tokenize_prompt(text, grids)
        return self.write_history(ids, history_xyz.unsqueeze(0), history_rot.unsqueeze(0))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids with special tokens kept, as the extraction below needs it."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=False)


def extract_text(decoded: str, name: str) -> str:
    """Text of a block ('cot', 'meta_action', 'answer') that ended; '' when its end never came.

    Cut at the first <|name_end|>; what follows the last <|name_start|> before it, stripped.
    """
    before, end, _ = decoded.partition(format_special(f'{name}_end'))
    if not end:
        return ''
    return before.rpartition(format_special(f'{name}_start'))[2].strip()


def extract_unfinished_text(decoded: str) -> str:
    """What was said so far of a reasoning that never ended."""
    return decoded.partition(format_special('cot_end'))[0].strip()


def trim_tokens(tokens: Sequence[int], ids: TokenIds) -> list[int]:
    """Generated ids up to and with the trajectory marker or the end of the turn."""
    for i, token in enumerate(tokens):
        if token in (ids.future_start, ids.eos):
            return list(tokens[: i + 1])
    return list(tokens)


def check_reasoning(tokens: Sequence[int], end: str) -> tuple[str, ...]:
    """Names of what is wrong with a reasoning of these ids that ended so; empty when healthy."""
    grams = Counter(tuple(tokens[i : i + NGRAM]) for i in range(len(tokens) - NGRAM + 1))
    checks = [] if end == 'marker' else ['marker_missing']
    checks += ['budget'] if end == 'budget' else []
    checks += ['repetition'] if any(n >= NGRAM_TIMES for n in grams.values()) else []
    return tuple(checks)


def _load_tokenizer(folder: Path) -> Any:
    """Fast Qwen2 tokenizer of a folder; nothing in the folder can name code or a network."""
    from transformers import Qwen2TokenizerFast  # type: ignore[attr-defined]  # lazy export

    try:
        return Qwen2TokenizerFast.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BadInput(f'{folder}: no usable tokenizer: {error}') from None


def _chat_template(folder: Path, tokenizer: Any) -> str:
    jinja = folder / 'chat_template.jinja'
    if jinja.is_file():
        return jinja.read_text(encoding='utf-8')
    if (folder / 'chat_template.json').is_file():
        return str(read_json(folder / 'chat_template.json')['chat_template'])
    if not tokenizer.chat_template:
        raise BadInput(
            f'{folder}: no chat_template.jinja, chat_template.json or tokenizer template'
        )
    return str(tokenizer.chat_template)
