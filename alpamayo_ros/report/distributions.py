"""Plots the distributions of figures over many recordings, in the style of plots.py."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from ..json_types import ItemRow
from .plots import BAD, BASELINE, CHOSEN, DRIVEN, open_figure, to_png

_LABELS = {
    'ade_m': ('chosen sample', CHOSEN),
    'min_ade_m': ('best sample', DRIVEN),
    'baseline_ade_m': ('constant velocity', BASELINE),
}


def plot_item_errors(rows: Sequence[Mapping[str, Any]], unit: str = 'items') -> bytes:
    """Share of the items whose mean ADE is at most x, for the samples and constant velocity.

    rows: with the keys of an ItemRow that _LABELS names.
    """
    with open_figure(4.4, 3.0, 1) as (figure, (axes,)):
        for key, (label, colour) in _LABELS.items():
            values = np.sort([x for row in rows if (x := row[key]) is not None])
            shares = 100 * np.arange(1, len(values) + 1) / len(values)
            axes.step(values, shares, where='post', color=colour, lw=1.6, label=label)
        axes.set(xlabel='mean ADE [m]', ylabel=f'{unit} [%]', ylim=(0, 102))
        axes.set_xlim(left=0)
        axes.legend(loc='lower right')
        return to_png(figure)


def plot_changes(changes_m: Collection[float], unit: str = 'items') -> bytes:
    """How many items have which change of their error against another run; worse is red."""
    values = np.array(list(changes_m))
    most = max(float(np.abs(values).max()), 1e-3)
    edges = np.linspace(-most, most, 31).tolist()
    with open_figure(4.4, 3.0, 1) as (figure, (axes,)):
        for found, colour, label in (
            (values[values <= 0], CHOSEN, 'not worse'),
            (values[values > 0], BAD, 'worse'),
        ):
            axes.hist(found, bins=edges, color=colour, alpha=0.75, label=f'{label} ({len(found)})')
        axes.set(xlabel='change of the error [m]', ylabel=unit)
        axes.legend(loc='upper left')
        return to_png(figure)


def plot_shares(rows: Sequence[ItemRow]) -> bytes:
    """How many items have which share of their t0 with a prediction."""
    shares = [100 * row['ok'] / row['anchors'] if row['anchors'] else 0.0 for row in rows]
    with open_figure(4.4, 3.0, 1) as (figure, (axes,)):
        axes.hist(shares, bins=20, range=(0, 100), color=CHOSEN, alpha=0.75)
        axes.set(xlabel='t0 with a prediction [%]', ylabel='items')
        return to_png(figure)
