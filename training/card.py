"""The card of a trained checkpoint and the plot of its losses. Knows no tensors.

`python -m training.card CHECKPOINT EVALUATION_JSON` adds the figures of an evaluation to the card.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
import json
from pathlib import Path
import sys
from typing import Any, Literal, TypedDict

from alpamayo_ros.cli.entry import command
from alpamayo_ros.errors import BadInput
from alpamayo_ros.files import read_json
from alpamayo_ros.model.checkpoint import hash_checkpoint
from alpamayo_ros.model.config import CARD
from alpamayo_ros.model.small.vlm_files import write_json

from .settings import TrainingSettings

_LIMITS = (
    'Trained on a synthetic world only; knows no real camera, road or vehicle.',
    'Not for a vehicle: it is there to test and to demonstrate software.',
)


class LossRow(TypedDict):
    """A line of losses.jsonl: means since the line before; learning rate and time at `step`."""

    step: int
    language: float
    flow: float
    path: float
    gradient_norm: float
    learning_rate: float
    seconds: float
    device: str


Run = tuple[TrainingSettings, Sequence[LossRow]]
LOSSES: tuple[Literal['language', 'flow', 'path'], ...]
LOSSES = ('language', 'flow', 'path')  # see losses.py


def make_card(runs: Sequence[Run], parameters: int) -> dict[str, Any]:
    """Return the facts of a checkpoint. runs: in order; each began with the weights before it."""
    return {
        'parameters': parameters,
        'limits': list(_LIMITS),
        'scenes_seen': sum(rows[-1]['step'] * settings.batch for settings, rows in runs),
        'runs': [_describe_run(settings, rows) for settings, rows in runs],
    }


def _describe_run(settings: TrainingSettings, rows: Sequence[LossRow]) -> dict[str, Any]:
    step, last = rows[-1]['step'], rows[-10:]
    chunks = -(-step // settings.chunk_steps)
    drives, first = chunks * settings.data['drives_per_chunk'], settings.data['first_drive']
    return {
        'data': {
            'split': 'train',
            'drives': drives,
            'seeds': [first, first + drives - 1],
            'samples': drives * settings.data['samples_per_drive'],
        },
        'steps': step,
        'scenes_seen': step * settings.batch,
        'losses': {name: round(sum(row[name] for row in last) / len(last), 5) for name in LOSSES},
        'devices': sorted({row['device'] for row in rows}),
        'settings': asdict(settings),
    }


_MIN_ADE, _LATENCY_S = 'min_ade_m_6.4s', '0.5'  # keys in evaluation.json
_SINGLE = 'min_ade_1_m_6.4s'  # the baseline has one sample: no best of K
_CLOSED = ('score', 'clean', 'progress', 'time_s', 'distance_m', 'without_path')


def select_metrics(table: Mapping[str, Any], sha256: str) -> dict[str, Any]:
    """Return the main figures of evaluation.json for the checkpoint of that hash in 16 bits.

    Raises BadInput when the table lacks this row, the baseline or the closed loop 0.5 s late.
    """
    try:
        rows = [r for r in table['rows'] if r['planner'].get('checkpoint_sha256') == sha256]
        row = next((r for r in rows if r['kind'] == 'reference'), None)
        turning = next((r for r in table['rows'] if r['name'] == 'constant turn rate'), None)
        if row is None or turning is None or _LATENCY_S not in row['closed']:
            raise BadInput(
                f'expected rows of 16 bits for sha256 {sha256[:12]}... and of constant turn rate, '
                f'and a closed loop {_LATENCY_S} s late'
            )
        opened, closed = table['loops']['open'], table['loops']['closed']
        found, late = row['open']['all'], row['closed'][_LATENCY_S]
        inverse = turning['open']['ratio'][_SINGLE]  # of the baseline to the checkpoint
        return {
            'split': opened['split'],
            'drives': opened['drives'],
            'seeds': [0, opened['drives'] - 1],
            'seconds': opened['seconds'],
            'moments_per_drive': opened['moments'],
            'sampling_seed': opened['seed'],
            'world_sha256': table['world_sha256'],
            f'min_ade_{opened["samples"]}_m': _round_figure(found[_MIN_ADE]),
            'ratio_to_constant_turn_rate': _round_figure(
                {'mean': 1 / inverse['mean'], 'n': inverse['n']}
                | {'low': _invert(inverse['high']), 'high': _invert(inverse['low'])}
            ),
            'marker': _round_figure(found['marker']),
            'cause': _round_figure(found['text']),
            'closed_loop': {
                'latency_s': float(_LATENCY_S),
                'drives': closed['drives'],
                'samples': closed['samples'],
                **{key: _round_figure(late[key]) for key in _CLOSED},
            },
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise BadInput(f'not a table of alpamayo_evaluate: {error!r}') from None


def _invert(bound: float | None) -> float | None:
    return None if bound is None else 1 / bound


def _round_figure(figure: Mapping[str, Any]) -> dict[str, Any]:
    return {k: round(v, 5) if isinstance(v, float) else v for k, v in figure.items()}


def draw_losses(runs: Sequence[Run], file: Path) -> None:
    """Write a PNG of the losses over the number of scenes seen."""
    from matplotlib.figure import Figure  # a machine that only trains may lack it

    figure = Figure(figsize=(11, 3.5), layout='constrained')
    for place, name in enumerate(LOSSES):
        axes = figure.add_subplot(1, len(LOSSES), place + 1)
        seen = 0
        for settings, rows in runs:
            scenes = [seen + row['step'] * settings.batch for row in rows]
            axes.plot(scenes, [row[name] for row in rows], linewidth=1)
            seen = scenes[-1]
        axes.set(title=f'{name} loss', xlabel='scenes', yscale='log')
        axes.grid(alpha=0.3)
    figure.savefig(file, dpi=110)


@command
def main(argv: list[str] | None = None) -> int:
    """Add the main figures of an evaluation to the card of a checkpoint."""
    parser = argparse.ArgumentParser(description=main.__doc__, prog='python -m training.card')
    parser.add_argument('checkpoint', type=Path, help='folder with a card.json')
    parser.add_argument('evaluation', type=Path, help='evaluation.json of alpamayo_evaluate')
    arguments = parser.parse_args(argv)
    card_file = arguments.checkpoint / CARD
    facts, table = read_json(card_file), read_json(arguments.evaluation)
    try:
        found = select_metrics(table, hash_checkpoint(arguments.checkpoint))
    except BadInput as error:
        raise BadInput(f'{arguments.evaluation}: {error}') from None
    write_json(card_file, facts | {'metrics': found})
    print(json.dumps(found))
    return 0


if __name__ == '__main__':
    sys.exit(main())
