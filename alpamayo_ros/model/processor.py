"""Converts images, history and route to patches and prompt ids, and generated ids to text.

Uses transformers for the tokenizer and its chat template only. Knows no weights.
Prompt: docs/model.md, sections 2 to 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from einops import rearrange
import torch
from torch import Tensor

from ..data_types import HISTORY_POSES
from ..errors import BadInput
from .blocks import build_block
from .config import AlpamayoConfig
from .prompt.image_processor import resize_bicubic, smart_resize, to_patches
from .prompt.tokenizer_files import load_chat_template, load_tokenizer
from .prompt.tokens import (
    IMAGE_PAD,
    TURN_START,
    VISION_END,
    VISION_START,
    TokenIds,
    collect_token_ids,
    format_special,
    list_discrete_tokens,
    list_special_tokens,
)
from .prompt.trajectory_tokenizer import DeltaTrajectoryTokenizer, DiscreteTrajectoryTokenizer
from .prompt.vlm_folder import find_vlm_folder, resolve_hub_vlm
from .prompt.wording import SYSTEM, Message, write_drive_messages, write_question_messages


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
        self.tokenizer = load_tokenizer(vlm)
        self.chat_template, template_file = load_chat_template(vlm)
        self.tokenizer.add_tokens(list_discrete_tokens(config))
        self.tokenizer.add_tokens(list_special_tokens(config), special_tokens=True)
        self.history_tokenizer, self.ids = self._collect_trajectory_tokens(vlm)
        self._check_chat_template(template_file)

    def _collect_trajectory_tokens(self, vlm: Path) -> tuple[Any, TokenIds]:
        """The history tokenizer and all ids, checked against config.json."""
        blocks = self.config.blocks
        kinds = DiscreteTrajectoryTokenizer, DeltaTrajectoryTokenizer
        future = build_block(blocks['traj_tokenizer_cfg'], kinds)
        separate = blocks.get('hist_traj_tokenizer_cfg')
        history = build_block(separate or blocks['traj_tokenizer_cfg'], DeltaTrajectoryTokenizer)
        ids = collect_token_ids(self.config, self._find_id, future.vocab_size if separate else 0)
        names = ('<i0>', format_special('traj_history'), format_special('traj_future_start'))
        found = [*map(self._find_id, names), self._find_id(IMAGE_PAD)]
        expected = [ids.discrete_start, ids.history, ids.future_start, ids.image]
        if found != expected or min(ids.eos, ids.pad) < 0:
            raise BadInput(
                f'{vlm}: tokenizer and config.json disagree: <i0>, {names[1]}, {names[2]} and '
                f'{IMAGE_PAD} have the ids {found} in the tokenizer, config.json has {expected} '
                '(traj_token_start_idx, traj_token_ids, image_token_id); expected the tokenizer '
                'of the Qwen3-VL that the checkpoint was trained with'
            )
        if separate:
            poses = torch.zeros(1, HISTORY_POSES, 3), torch.eye(3).expand(1, HISTORY_POSES, 3, 3)
            count = history.encode(*poses).shape[1]
            if count != self.config.tokens_per_history_traj:
                raise BadInput(
                    'config.json: tokens_per_history_traj is '
                    f'{self.config.tokens_per_history_traj}, but {HISTORY_POSES} poses are '
                    f'{count} tokens of hist_traj_tokenizer_cfg'
                )
        return history, ids

    def _find_id(self, token: str) -> int:
        """Id of a written token, -1 when the vocabulary lacks it."""
        return int(self.tokenizer.get_vocab().get(token, -1))

    def _check_chat_template(self, file: Path) -> None:
        """Raise BadInput unless the template renders a drive prompt with all its parts."""
        history = format_special('traj_history')
        try:
            text = self.prompt_text([1], 2)
        except Exception as error:  # noqa: BLE001  an expression of a template raises anything
            reason = ' '.join(str(error).split()) or type(error).__name__
            raise BadInput(
                f'{file}: the chat template cannot be rendered: {reason}; expected the template '
                'of Qwen3-VL'
            ) from None
        expected = {IMAGE_PAD: 2, VISION_START: 2, VISION_END: 2, TURN_START: 3, SYSTEM: 1}
        expected |= {history: self.config.tokens_per_history_traj}
        for part, count in expected.items():
            if text.count(part) != count:
                raise BadInput(
                    f'{file}: the chat template writes {part!r} {text.count(part)} times for a '
                    f'prompt of 2 images, expected {count}: it is not the template of Qwen3-VL'
                )

    def prompt_text(
        self,
        camera_indices: Sequence[int],
        frames: int,
        route: str | None = None,
        with_reasoning: bool = True,
    ) -> str:
        """Prompt for a trajectory, before image tokens are repeated; see write_drive_messages.

        Without reasoning the assistant's turn is empty: the caller feeds the trajectory marker.
        """
        messages = write_drive_messages(self.config, camera_indices, frames, route, with_reasoning)
        text = self._render(messages)
        return text if with_reasoning else text.removesuffix(format_special('cot_start'))

    def question_text(self, camera_indices: Sequence[int], frames: int, question: str) -> str:
        """Prompt for a question, before image tokens are repeated."""
        messages = write_question_messages(self.config, camera_indices, frames, question)
        return self._render(messages)

    def _render(self, messages: list[Message]) -> str:
        text: str = self.tokenizer.apply_chat_template(
            messages,
            chat_template=self.chat_template,
            tokenize=False,
            continue_final_message=True,
        )
        return text

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
        # a batch of one of pixels whose channels lie side by side: torch resizes it as it is
        batch = image.movedim(0, -1).unsqueeze(0).movedim(-1, 1)
        return resize_bicubic(batch, *size)[0]

    def extract_patches(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Patches of one uint8 image (3, H, W) on its device, and its grid (h, w)."""
        return self.cut_patches(self.resize_image(image).unsqueeze(0))[0]

    def cut_patches(self, pictures: Tensor) -> list[tuple[Tensor, tuple[int, int]]]:
        """Patches and grid of each of some resized images (N, 3, h, w)."""
        vision, (height, width) = self.config.vision, pictures.shape[2:]
        patch, merge = vision.patch_size, vision.spatial_merge_size
        patches = to_patches(pictures, patch, vision.temporal_patch_size, merge)
        grid = height // patch, width // patch
        return [(part, grid) for part in patches.chunk(len(pictures))]

    def __call__(
        self,
        images: Sequence[Tensor],
        camera_indices: Sequence[int],
        history_xyz: Tensor,
        history_rot: Tensor,
        *,
        route: str | None = None,
    ) -> ModelInputs:
        """Inputs of one scene: images uint8 (3, H, W) by camera index, oldest frame first.

        history (16, 3) and (16, 3, 3) float32 in the t0 frame; route: see write_drive_messages.
        """
        parts = [self.extract_patches(image) for image in images]
        grids = tuple(grid for _, grid in parts)
        ids = self.build_input_ids(grids, camera_indices, history_xyz, history_rot, route=route)
        return ModelInputs(ids, torch.cat([patches for patches, _ in parts]), grids)

    def build_input_ids(
        self,
        grids: Sequence[tuple[int, int]],
        camera_indices: Sequence[int],
        history_xyz: Tensor,
        history_rot: Tensor,
        *,
        route: str | None = None,
        with_reasoning: bool = True,
    ) -> Tensor:
        """Ids (1, P) of a scene whose images have these grids; other arguments as in a call."""
        frames = len(grids) // len(camera_indices)
        text = self.prompt_text(camera_indices, frames, route, with_reasoning)
        ids = self.tokenize_prompt(text, grids)
        xyz = rearrange(history_xyz, 'poses axes -> 1 poses axes')
        return self.write_history(ids, xyz, rearrange(history_rot, 'poses i j -> 1 poses i j'))

    def tokenize_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, special tokens in it included."""
        encode = self.tokenizer
        return [list(encode(text, add_special_tokens=False)['input_ids']) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids. It keeps special tokens, because generated_text.py looks for them."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=False)
        return text
