"""What is said of a trained checkpoint: card and picture of the losses. Knows no weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .settings import Settings

_LIMITS = (
    'Trained on a synthetic world only; knows no real camera, road or vehicle.',
    'Not for a vehicle: it is there to test and to demonstrate software.',
)
Row = Mapping[str, Any]
LOSSES = ('language', 'flow', 'path')  # see losses.py


def card(settings: Settings, step: int, rows: Sequence[Row], parameters: int) -> dict[str, Any]:
    """Facts of a run that ended at `step`; rows: its losses."""
    chunks = -(-step // settings.chunk_steps)
    drives = chunks * settings.data['drives_per_chunk']
    last = rows[-10:]
    return {
        'parameters': parameters,
        'limits': list(_LIMITS),
        'data': {
            'split': 'train',
            'drives': drives,
            'seeds': [0, drives - 1],
            'samples': drives * settings.data['samples_per_drive'],
        },
        'steps': step,
        'scenes_seen': step * settings.batch,
        'losses': {name: round(sum(row[name] for row in last) / len(last), 5) for name in LOSSES},
        'devices': sorted({row['device'] for row in rows}),
        'settings': asdict(settings),
    }


def draw_losses(rows: Sequence[Row], file: Path) -> None:
    """Loss curves as a PNG."""
    from matplotlib.figure import Figure  # where a run is trained there may be none

    figure = Figure(figsize=(11, 3.5), layout='constrained')
    steps = [row['step'] for row in rows]
    for place, name in enumerate(LOSSES):
        axes = figure.add_subplot(1, len(LOSSES), place + 1)
        axes.plot(steps, [row[name] for row in rows], linewidth=1)
        axes.set(title=f'{name} loss', xlabel='step', yscale='log')
        axes.grid(alpha=0.3)
    figure.savefig(file, dpi=110)
