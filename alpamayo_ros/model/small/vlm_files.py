"""Writes the `vlm/` folder of a small checkpoint: tokenizer, chat template, VLM config.

It has the files and special tokens of a Qwen3-VL folder, with a vocabulary of bytes and a few
words. Nothing is trained and nothing is fetched. Knows no weights.
"""

from __future__ import annotations

from collections.abc import Sequence
import json
from pathlib import Path
import re
from typing import Any

from ..prompt.tokens import IM_END, IMAGE_PAD, PAD

# Qwen's added tokens, in the order of their ids; the first 14 are special.
ADDED_TOKENS = (
    *(PAD, '<|im_start|>', IM_END, '<|object_ref_start|>', '<|object_ref_end|>'),
    *('<|box_start|>', '<|box_end|>', '<|quad_start|>', '<|quad_end|>'),
    *('<|vision_start|>', '<|vision_end|>', '<|vision_pad|>', IMAGE_PAD, '<|video_pad|>'),
    *('<tool_call>', '</tool_call>', '<|fim_prefix|>', '<|fim_middle|>', '<|fim_suffix|>'),
    *('<|fim_pad|>', '<|repo_name|>', '<|file_sep|>', '<tool_response>', '</tool_response>'),
    *('<think>', '</think>'),
)
_SPECIAL = 14
# Qwen cuts text before the merges: contractions, words with one sign before them, digits, rest.
_CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r'|\s*[\r\n]+|\s+(?!\S)|\s+'
)
_BYTES = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]  # stand for themselves
_SPACE = '\u0120'  # stands for the space in a byte-level vocabulary
_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- for part in message.content %}
{{- '<|vision_start|><|image_pad|><|vision_end|>' if part.type == 'image' else part.text }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"""


def vocabulary(text: str) -> tuple[list[str], list[list[str]]]:
    """Tokens by id and merges of a byte-level BPE that has each word of `text` as one token."""
    others = [chr(0x100 + i) for i in range(256 - len(_BYTES))]
    tokens = dict.fromkeys([*map(chr, _BYTES), *others])
    merges = []
    for word in re.findall(r' ?[A-Za-z]+', text):
        written = word.replace(' ', _SPACE)
        for end in range(2, len(written) + 1):
            if written[:end] not in tokens:
                tokens[written[:end]] = None
                merges.append([written[: end - 1], written[end - 1]])
    return list(tokens), merges


def write_vlm(folder: Path, text: str, geometry: dict[str, Any]) -> int:
    """Write the folder for the words of `text`; returns the size of the vocabulary.

    geometry: text_config and vision_config with the sizes of the model.
    """
    tokens, merges = vocabulary(text)
    ids = {token: len(tokens) + i for i, token in enumerate(ADDED_TOKENS)}
    size = len(tokens) + len(ids)
    text_config = geometry['text_config'] | {
        'model_type': 'qwen3_vl_text',
        'bos_token_id': ids[PAD],
        'eos_token_id': ids[IM_END],
        'vocab_size': size,
    }
    config = {
        'architectures': ['Qwen3VLForConditionalGeneration'],
        'model_type': 'qwen3_vl',
        'image_token_id': ids[IMAGE_PAD],
        'video_token_id': ids['<|video_pad|>'],
        'vision_start_token_id': ids['<|vision_start|>'],
        'vision_end_token_id': ids['<|vision_end|>'],
        'tie_word_embeddings': False,
        'text_config': text_config,
        'vision_config': geometry['vision_config'],
    }
    folder.mkdir()
    write_json(folder / 'config.json', config)
    write_json(folder / 'tokenizer.json', _tokenizer(tokens, merges, ids))
    write_json(folder / 'tokenizer_config.json', _tokenizer_config(ids))
    write_json(folder / 'preprocessor_config.json', _preprocessor(geometry['vision_config']))
    write_json(folder / 'chat_template.json', {'chat_template': _TEMPLATE})
    return size


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write indented JSON, keys in their order."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')


def _tokenizer(
    tokens: Sequence[str], merges: list[list[str]], ids: dict[str, int]
) -> dict[str, Any]:
    cut = {'type': 'Split', 'pattern': {'Regex': _CUT}, 'behavior': 'Isolated', 'invert': False}
    as_bytes = {'type': 'ByteLevel', 'add_prefix_space': False, 'trim_offsets': False}
    model = {
        'type': 'BPE',
        'dropout': None,
        'unk_token': None,
        'continuing_subword_prefix': None,
        'end_of_word_suffix': None,
        'fuse_unk': False,
        'byte_fallback': False,
        'vocab': {token: i for i, token in enumerate(tokens)},
        'merges': [' '.join(merge) for merge in merges],
    }
    return {
        'version': '1.0',
        'truncation': None,
        'padding': None,
        'added_tokens': [{'id': i} | _added(token) for token, i in ids.items()],
        'normalizer': {'type': 'NFC'},
        'pre_tokenizer': {
            'type': 'Sequence',
            'pretokenizers': [cut, as_bytes | {'use_regex': False}],
        },
        'post_processor': as_bytes | {'use_regex': False},
        'decoder': as_bytes | {'use_regex': False},
        'model': model,
    }


def _tokenizer_config(ids: dict[str, int]) -> dict[str, Any]:
    return {
        'tokenizer_class': 'Qwen2Tokenizer',
        'added_tokens_decoder': {str(i): _added(token) for token, i in ids.items()},
        'add_bos_token': False,
        'add_prefix_space': False,
        'bos_token': None,
        'eos_token': IM_END,
        'pad_token': PAD,
        'unk_token': None,
        'clean_up_tokenization_spaces': False,
        'model_max_length': 262144,
    }


def _added(token: str) -> dict[str, Any]:
    flags = dict.fromkeys(('single_word', 'lstrip', 'rstrip', 'normalized'), False)
    return {'content': token, **flags, 'special': token in ADDED_TOKENS[:_SPECIAL]}


def _preprocessor(vision: dict[str, Any]) -> dict[str, Any]:
    return {
        'image_processor_type': 'Qwen2VLImageProcessorFast',
        'processor_class': 'Qwen3VLProcessor',
        'patch_size': vision['patch_size'],
        'temporal_patch_size': vision['temporal_patch_size'],
        'merge_size': vision['spatial_merge_size'],
        'size': {'shortest_edge': 65536, 'longest_edge': 16777216},
        'image_mean': [0.5, 0.5, 0.5],
        'image_std': [0.5, 0.5, 0.5],
    }
