"""Token ids and prompt text: the vocabulary's extension, its ranges, the wording per version.

Order and wording: alpamayo-r1 specification, sections 3, 5 and 12. Knows no tokenizer library.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..config import AlpamayoConfig

IM_END = '<|im_end|>'
PAD = '<|endoftext|>'
IMAGE_PAD = '<|image_pad|>'

# The order defines the ids. image_pad is in the list but exists already, so it adds none.
SPECIAL_NAMES = (
    'prompt_start',
    'prompt_end',
    'image_start',
    'image_pre_tkn',
    'image_end',
    'traj_history_start',
    'traj_history_pre_tkn',
    'traj_history_end',
    'cot_start',
    'cot_end',
    'meta_action_start',
    'meta_action_end',
    'traj_future_start',
    'traj_future_pre_tkn',
    'traj_future_end',
    'traj_history',
    'traj_future',
    'image_pad',
    'vectorized_wm',
    'vectorized_wm_start',
    'vectorized_wm_end',
    'vectorized_wm_pre_tkn',
    'route_start',
    'route_pad',
    'route_end',
    'question_start',
    'question_end',
    'answer_start',
    'answer_end',
)
# Without the special tokens only the six markers are added, in this order.
MARKER_NAMES = (
    'traj_history',
    'traj_future',
    'traj_history_start',
    'traj_future_start',
    'traj_history_end',
    'traj_future_end',
)
# 1.5 renames tokens that it does not use; their ids stay.
RENAMED_IN_1_5 = (
    'image_pre_tkn',
    'traj_history_pre_tkn',
    'meta_action_start',
    'meta_action_end',
    'traj_future_pre_tkn',
    'vectorized_wm',
    'vectorized_wm_start',
    'vectorized_wm_end',
    'vectorized_wm_pre_tkn',
)

SYSTEM = 'You are a driving assistant that generates safe and accurate actions.'
INSTRUCTION = (
    'output the chain-of-thought reasoning of the driving process, '
    'then output the future trajectory.'
)
# Alpamayo 1.5 writes these before the frames; R1 prompts have no camera names.
CAMERA_TEXT = (
    'Front left camera',
    'Front camera',
    'Front right camera',
    'Rear left camera',
    'Rear camera',
    'Rear right camera',
    'Front telephoto camera',
)


def format_special(name: str) -> str:
    """Written form of a special token."""
    return f'<|{name}|>'


def list_discrete_tokens(config: AlpamayoConfig) -> list[str]:
    """The ordinary added tokens <i0> ... that stand for trajectory bins."""
    return [f'<i{i}>' for i in range(config.traj_vocab_size)]


def list_special_tokens(config: AlpamayoConfig) -> list[str]:
    """The special tokens in the order that defines their ids."""
    if not config.add_special_tokens:
        return [format_special(name) for name in MARKER_NAMES]
    if config.model_type == 'alpamayo_r1':
        return [format_special(name) for name in SPECIAL_NAMES]
    padding = {name: f'_padding_{i}' for i, name in enumerate(RENAMED_IN_1_5)}
    return [format_special(padding.get(name, name)) for name in SPECIAL_NAMES]


@dataclass(frozen=True)
class TokenIds:
    """Ids that the rollout needs, and the half-open range of discrete trajectory tokens."""

    image: int
    history: int
    future_start: int
    eos: int
    pad: int
    discrete_start: int
    discrete_end: int
    history_offset: int


def collect_token_ids(config: AlpamayoConfig, eos: int, pad: int, history_offset: int) -> TokenIds:
    """Ids of a checkpoint; `history_offset` counts from the first discrete token."""
    start = config.traj_token_start_idx
    return TokenIds(
        image=config.image_token_id,
        history=config.traj_token_ids['history'],
        future_start=config.traj_token_ids['future_start'],
        eos=eos,
        pad=pad,
        discrete_start=start,
        discrete_end=start + config.traj_vocab_size,
        history_offset=start + history_offset,
    )
