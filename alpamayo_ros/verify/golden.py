"""Comparison with reference tensors: the stages that need no complete model, and their files.

The folder's layout and the tolerances are those of test/golden/README.md. A file that is absent
is a failed row; a field that is absent is not checked, and the row says so. Sizes come from the
files. Knows no command line; the model's stages are in golden_model.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ..errors import BadInput
from ..files import read_json
from .comparison import ComparisonRow
from .golden_actions import (
    compare_action_projection,
    compare_action_space,
    compare_flow_matching,
    compare_future_tokenizer,
    compare_history_tokenizer,
)
from .golden_recording import compare_frame_picking, compare_metrics, compare_t0_frame
from .golden_tables import compare_names, compare_tables, compare_vocabulary

# Each file of the layout and the stage that reads it.
STAGES: tuple[tuple[str, tuple[str, ...], Callable[[Path], Iterator[ComparisonRow]]], ...] = (
    ('action space', ('action_space.npz',), compare_action_space),
    (
        'history tokenizer',
        ('delta_tokenizer.npz', 'delta_tokenizer_variants.json'),
        compare_history_tokenizer,
    ),
    ('future tokenizer', ('discrete_tokenizer.npz', 'action_space.npz'), compare_future_tokenizer),
    ('flow matching', ('flow_matching.npz',), compare_flow_matching),
    ('action projection', ('action_in_proj.safetensors',), compare_action_projection),
    (
        'preprocessing',
        ('smart_resize.json', 'config_10b.json', 'text_extract.json', 'replace_padding.json'),
        compare_tables,
    ),
    ('metrics', ('metrics.npz',), compare_metrics),
    ('t0 frame', ('t0_frame.npz',), compare_t0_frame),
    ('frame picking', ('t0_frame.npz',), compare_frame_picking),
    ('state dict', ('state_dict_10b.json', 'config_10b.json'), compare_names),
    ('vocabulary', ('token_ids_10b.json', 'config_10b.json'), compare_vocabulary),
)


# Stages that the reference set of a version lacks: 1.5's repository has no metric, and the ids at
# the full vocabulary came with 1.5.
NOT_IN_VERSION = {'alpamayo_r1': ('vocabulary',), 'alpamayo1_5': ('metrics',)}


def run_stage(
    stage: str,
    folder: Path,
    files: tuple[str, ...],
    run: Callable[[Path], Iterator[ComparisonRow]],
) -> Iterator[ComparisonRow]:
    """The rows of a stage; an absent or unusable file is one failed row.

    A stage that the reference set of the version cannot have gives no row.
    """
    absent = [name for name in files if not (folder / name).is_file()]
    if absent and stage in NOT_IN_VERSION.get(_read_version(folder), ()):
        return
    if absent:
        yield ComparisonRow(stage, ', '.join(absent), np.inf, 0.0, 'expected file is absent')
        return
    try:
        yield from run(folder)
    except BadInput as error:
        yield ComparisonRow(stage, files[0], np.inf, 0.0, str(error))
    except KeyError as error:
        yield ComparisonRow(stage, files[0], np.inf, 0.0, f'the file lacks the input {error}')


def _read_version(folder: Path) -> str:
    """model_type of the folder's full-size config; '' when there is none."""
    path = folder / 'config_10b.json'
    return str(read_json(path).get('model_type', '')) if path.is_file() else ''
