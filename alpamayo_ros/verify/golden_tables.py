"""Comparison with the JSON tables of the reference: image sizes, texts, names, token ids.

Rules: see golden.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from ..files import read_json
from ..model.alpamayo import AlpamayoModel
from ..model.blocks import build_block
from ..model.checkpoint import OPTIONAL
from ..model.config import parse_config
from ..model.prompt.generated_text import extract_text
from ..model.prompt.image_processor import smart_resize
from ..model.prompt.tokens import IMAGE_PAD, format_special, list_special_tokens
from ..model.reasoning.generation import pad_behind
from .comparison import ComparisonRow, compare_exactly, read_table


def compare_tables(folder: Path) -> Iterator[ComparisonRow]:
    """Image sizes, text extraction and padding, from their JSON tables."""
    limits = read_table(folder / 'config_10b.json')
    for row in read_table(folder / 'smart_resize.json'):
        size = smart_resize(row['h'], row['w'], limits['min_pixels'], limits['max_pixels'])
        tokens = size[0] * size[1] // 1024
        have = [*size, 1, size[0] // 16, size[1] // 16, tokens]
        same = have == [row['out_h'], row['out_w'], *row['grid'], row['tokens']]
        yield compare_exactly('preprocessing', f'size of {row["w"]}x{row["h"]}', same, f'{have}')
    for i, row in enumerate(read_table(folder / 'text_extract.json')):
        blocks = {name: extract_text(row['text'], name) for name in row if name != 'text'}
        want = {name: text for name, text in row.items() if name != 'text'}
        yield compare_exactly('text extraction', f'text {i}', blocks == want, f'{blocks}')
    row = read_table(folder / 'replace_padding.json')
    padded, _ = pad_behind(torch.tensor(row['seq']), row['eos'], row['pad'])
    yield compare_exactly(
        'text extraction', 'padding', padded.tolist() == row['out'], f'{padded.tolist()}'
    )


def compare_names(folder: Path) -> Iterator[ComparisonRow]:
    """Names and shapes of the full-size model, built on the meta device."""
    stage, want = 'state dict', read_table(folder / 'state_dict_10b.json')
    config = parse_config(read_json(folder / 'config_10b.json'))
    with torch.device('meta'):
        model = AlpamayoModel(config)
    have = {name: list(t.shape) for name, t in model.state_dict().items()}
    shapes = {name: entry['shape'] for name, entry in want['tensors'].items()}
    rebuilt = {name for name, _ in model.named_buffers() if name.startswith(OPTIONAL)}
    differ = sorted((set(have) ^ set(shapes)) - (rebuilt - set(shapes)))
    yield compare_exactly(stage, 'names', not differ, ', '.join(differ[:3]))
    differ = sorted(name for name in set(have) & set(shapes) if have[name] != shapes[name])
    yield compare_exactly(stage, 'shapes', not differ, ', '.join(differ[:3]))
    count = sum(p.numel() for p in model.parameters())
    yield compare_exactly(stage, 'parameters', count == want['total_parameters'], str(count))


def compare_vocabulary(folder: Path) -> Iterator[ComparisonRow]:
    """Ids of the added tokens at the full size of the base vocabulary."""
    stage, want = 'vocabulary', read_table(folder / 'token_ids_10b.json')
    config = parse_config(read_json(folder / 'config_10b.json'))
    start = int(want['traj_token_start_idx'])
    names = [name for name in list_special_tokens(config) if name != IMAGE_PAD]
    first = start + config.traj_vocab_size
    ids = {name: first + i for i, name in enumerate(names)} | {IMAGE_PAD: config.image_token_id}
    given = {format_special(name): i for name, i in want['special_token_ids'].items()}
    yield compare_exactly(stage, 'special tokens', ids == given, f'{ids}')
    markers = {k: ids[format_special(f'traj_{k}')] for k in want['traj_token_ids']}
    yield compare_exactly(stage, 'markers', markers == want['traj_token_ids'], f'{markers}')
    same = config.traj_token_ids == want['traj_token_ids']
    yield compare_exactly(stage, 'markers of the config', same, f'{config.traj_token_ids}')
    future = build_block(config.blocks['traj_tokenizer_cfg'])
    have = [start + future.vocab_size, start, first + len(names)]
    keys = ('hist_token_start_idx', 'future_token_start_idx', 'vocab_size')
    yield compare_exactly(stage, 'ranges', have == [want[key] for key in keys], f'{have}')
