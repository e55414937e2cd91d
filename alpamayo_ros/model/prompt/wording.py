"""Chat messages of a prompt: images with labels, history, route and instruction, or a question.

Wording: docs/model.md, section 5. Knows no tokenizer and no chat template.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
import re
from typing import Any

from ...errors import BadInput
from ..config import AlpamayoConfig
from .tokens import format_special

SYSTEM = 'You are a driving assistant that generates safe and accurate actions.'
INSTRUCTION = (
    'output the chain-of-thought reasoning of the driving process, '
    'then output the future trajectory.'
)
TRAJECTORY_INSTRUCTION = 'output the future trajectory.'
CAMERA_NAMES = (
    'Front left camera',
    'Front camera',
    'Front right camera',
    'Rear left camera',
    'Rear camera',
    'Rear right camera',
    'Front telephoto camera',
)
_ADDED_TOKEN = re.compile(r'<\|[^|]*\|>|<i\d+>')

Message = dict[str, Any]


def write_drive_messages(
    config: AlpamayoConfig,
    camera_indices: Sequence[int],
    frames: int,
    route: str | None = None,
    with_reasoning: bool = True,
) -> list[Message]:
    """Messages that ask for a trajectory. route: a text such as 'Turn left in 11m'.

    Raises BadInput for a route that the model's version does not know, or that holds tokens.
    """
    history = format_special('traj_history') * config.tokens_per_history_traj
    text = format_special('traj_history_start') + history + format_special('traj_history_end')
    if route is not None:
        text += format_special('route_start') + _check_text('route', route, config)
        text += format_special('route_end')
    text += INSTRUCTION if with_reasoning else TRAJECTORY_INSTRUCTION
    return _write_messages(config, camera_indices, frames, text, format_special('cot_start'))


def write_question_messages(
    config: AlpamayoConfig, camera_indices: Sequence[int], frames: int, question: str
) -> list[Message]:
    """Messages that ask a question about the images; the answer is text only."""
    text = format_special('question_start') + _check_text('question', question, config)
    text += format_special('question_end')
    return _write_messages(config, camera_indices, frames, text, format_special('answer_start'))


def _write_messages(
    config: AlpamayoConfig, camera_indices: Sequence[int], frames: int, text: str, answer: str
) -> list[Message]:
    """System, user and the start of the assistant's turn."""
    content = [
        *_write_images(config, camera_indices, frames),
        {'type': 'text', 'text': text},
    ]
    return [
        {'role': 'system', 'content': [{'type': 'text', 'text': SYSTEM}]},
        {'role': 'user', 'content': content},
        {'role': 'assistant', 'content': [{'type': 'text', 'text': answer}]},
    ]


def _write_images(
    config: AlpamayoConfig, camera_indices: Sequence[int], frames: int
) -> list[dict[str, str]]:
    """Images camera by camera; a camera's name stands before its first frame."""
    content: list[dict[str, str]] = []
    counts: Counter[int] = Counter()
    for camera in camera_indices:
        known = 0 <= camera < len(CAMERA_NAMES)
        name = CAMERA_NAMES[camera] if known else f'Camera {camera}'
        for _ in range(frames):
            label = f'{name}: ' if config.include_camera_ids and not counts[camera] else ''
            label += f'frame {counts[camera]} ' if config.include_frame_nums else ''
            content += [{'type': 'text', 'text': label}] if label else []
            content.append({'type': 'image'})
            counts[camera] += 1
    return content


def _check_text(what: str, text: str, config: AlpamayoConfig) -> str:
    """The text of a route or question; BadInput when it cannot stand in a prompt."""
    if not config.version.has_routes:
        raise BadInput(f'{what} {text!r}: the model is {config.model_type}, which knows none')
    if found := _ADDED_TOKEN.search(text):
        raise BadInput(f'{what} {text!r}: {found[0]} is a token of the model, expected plain text')
    return text
