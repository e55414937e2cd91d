"""Tokens that Alpamayo adds to the vocabulary: their names, their order and their ids.

Order: docs/model.md, section 3. Knows no tokenizer library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..config import AlpamayoConfig

IM_END = '<|im_end|>'
PAD = '<|endoftext|>'
IMAGE_PAD = '<|image_pad|>'
VISION_START, VISION_END, TURN_START = '<|vision_start|>', '<|vision_end|>', '<|im_start|>'

# Their order defines their ids. image_pad exists in the base vocabulary, so it gets no new id.
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
# With add_special_tokens false only these are added, in this order.
MARKER_NAMES = (
    'traj_history',
    'traj_future',
    'traj_history_start',
    'traj_future_start',
    'traj_history_end',
    'traj_future_end',
)


def format_special(name: str) -> str:
    """Written form of a special token."""
    return f'<|{name}|>'


def list_discrete_tokens(config: AlpamayoConfig) -> list[str]:
    """Ordinary tokens <i0> ... for the bins of trajectories."""
    return [f'<i{i}>' for i in range(config.traj_vocab_size)]


def list_special_tokens(config: AlpamayoConfig) -> list[str]:
    """Special tokens in the order that defines their ids."""
    if not config.add_special_tokens:
        return [format_special(name) for name in MARKER_NAMES]
    padding = {name: f'_padding_{i}' for i, name in enumerate(config.version.renamed_tokens)}
    return [format_special(padding.get(name, name)) for name in SPECIAL_NAMES]


@dataclass(frozen=True)
class TokenIds:
    """Ids that rollouts need, and the half-open range of discrete trajectory tokens.

    -1 stands for a token that the vocabulary lacks.
    """

    image: int
    history: int
    future_start: int
    eos: int
    pad: int
    discrete_start: int
    discrete_end: int
    history_offset: int
    route_start: int = -1
    route_end: int = -1
    answer_end: int = -1


def collect_token_ids(
    config: AlpamayoConfig, find_id: Callable[[str], int], history_offset: int
) -> TokenIds:
    """Ids of a checkpoint. find_id: id of a written token, -1 when the vocabulary lacks it.

    history_offset: the first history bin, counted from the first discrete token.
    """
    start = config.traj_token_start_idx
    return TokenIds(
        image=config.image_token_id,
        history=config.traj_token_ids['history'],
        future_start=config.traj_token_ids['future_start'],
        eos=find_id(IM_END),
        pad=find_id(PAD),
        discrete_start=start,
        discrete_end=start + config.traj_vocab_size,
        history_offset=start + history_offset,
        route_start=find_id(format_special('route_start')),
        route_end=find_id(format_special('route_end')),
        answer_end=find_id(format_special('answer_end')),
    )
