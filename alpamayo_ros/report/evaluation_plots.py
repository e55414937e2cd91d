"""Plots of evaluation.html, in the style of plots.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
import numpy as np

from ..metrics.evaluation import HORIZONS, LONGEST_HORIZON
from .plots import BASELINE, CHOSEN, DRIVEN, HISTORY, INK, SAMPLE, open_figure, to_png

Rows = Sequence[Mapping[str, Any]]
_COLOURS = (CHOSEN, '#ec4899', '#8b5cf6', '#06b6d4', '#84cc16', '#f97316', '#ef4444', '#eab308')
_FIXED = {'constant velocity': BASELINE, 'constant turn rate': SAMPLE, 'expert': DRIVEN}
_HEIGHT = 3.0


def choose_colours(rows: Rows) -> dict[str, str]:
    """A colour for each row, equal in all plots."""
    names = [row['name'] for row in rows if row['name'] not in _FIXED]
    return _FIXED | {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names)}


def plot_errors_by_horizon(rows: Rows) -> bytes:
    """minADE_1 of every row at each horizon, with its interval."""
    with open_figure(4.9, _HEIGHT, 1) as (canvas, (axes,)):
        for row in rows:
            figures = [row['open']['all'][f'min_ade_1_m_{horizon}s'] for horizon in HORIZONS]
            if row['kind'] != 'expert' and all(figures):
                _draw_line(axes, [float(x) for x in HORIZONS], figures, row['name'], rows)
        axes.set(xlabel='horizon [s]', ylabel='minADE_1 [m]', yscale='log')
        axes.legend(fontsize=6, loc='lower right')
        canvas.subplots_adjust(left=0.14)  # exponents are wide
        return to_png(canvas)


def plot_errors_by_group(rows: Rows, group: str) -> bytes:
    """minADE_1 at the longest horizon of some rows, by cause or by weather."""
    names = list(rows[0]['open'][group])
    places, width = np.arange(len(names)), 0.8 / len(rows)
    height = 0.9 + 0.13 * len(names) * max(len(rows), 2)
    with open_figure(4.9, height, 1) as (canvas, (axes,)):
        for number, row in enumerate(rows):
            found = [row['open'][group][name][f'min_ade_1_m_{LONGEST_HORIZON}s'] for name in names]
            known = [k for k, x in enumerate(found) if x]
            at = places[known] + (number - (len(rows) - 1) / 2) * width
            means, spans = _split_intervals([found[k] for k in known])
            colour = choose_colours(rows)[row['name']]
            axes.barh(at, means, width, color=colour, label=row['name'], alpha=0.8)
            axes.errorbar(means, at, xerr=spans, fmt='none', ecolor=INK, lw=0.8)
        counts = [
            rows[0]['open'][group][name][f'min_ade_1_m_{LONGEST_HORIZON}s'] for name in names
        ]
        labels = [f'{n} ({x["n"] if x else 0})' for n, x in zip(names, counts, strict=True)]
        axes.set_yticks(places, [label.replace('_', ' ') for label in labels])
        axes.set(xlabel=f'minADE_1 at {float(LONGEST_HORIZON):g} s [m]')
        axes.invert_yaxis()
        axes.legend(fontsize=6, ncols=3, loc='lower right', bbox_to_anchor=(1, 1))
        canvas.subplots_adjust(left=0.3)
        return to_png(canvas)


def plot_still_driving(row: Mapping[str, Any]) -> bytes:
    """Share of the drives of one row without a fault so far, over time, by latency."""
    with open_figure(4.4, _HEIGHT, 1) as (canvas, (axes,)):
        for number, (latency, figures) in enumerate(row['closed'].items()):
            ended, clean = np.array(figures['ended_s']), np.array(figures['clean_drives'])
            faults = np.sort(ended[~clean])
            times = np.concatenate([[0.0], faults, [ended.max()]])
            share = 1 - np.concatenate([[0], np.arange(1, len(faults) + 1), [len(faults)]]) / len(
                ended
            )
            colour = _COLOURS[number % len(_COLOURS)]
            axes.step(times, 100 * share, where='post', color=colour, label=f'{latency} s', lw=1.6)
        axes.set(xlabel='s driven', ylabel='drives that go on or ended clean [%]', ylim=(-3, 103))
        axes.legend(title='latency', title_fontsize=7, loc='lower left')
        return to_png(canvas)


def plot_by_latency(rows: Rows, key: str, label: str, factor: float = 1.0) -> bytes:
    """A figure of the closed loop over latency, one line for each row."""
    with open_figure(4.4, _HEIGHT, 1) as (canvas, (axes,)):
        for row in rows:
            latencies = [float(latency) for latency in row['closed']]
            figures = [
                {x: None if value is None else factor * value for x, value in found[key].items()}
                for found in row['closed'].values()
            ]
            _draw_line(axes, latencies, figures, row['name'], rows)
        axes.set(xlabel='latency [s]', ylabel=label)
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=6)
        return to_png(canvas)


def _draw_line(
    axes: Axes, x: Sequence[float], figures: Sequence[Mapping[str, Any]], name: str, rows: Rows
) -> None:
    means, spans = _split_intervals(figures)
    colour = choose_colours(rows).get(name, HISTORY)
    axes.errorbar(
        x, means, yerr=spans, color=colour, lw=1.5, marker='.', ms=5, capsize=2, label=name
    )


def _split_intervals(figures: Sequence[Mapping[str, Any]]) -> tuple[Any, Any]:
    """Means (N,), and the lengths of their intervals below and above them (2, N); 0 for none."""
    means, low, high = (
        np.array([f['mean'] if f[x] is None else f[x] for f in figures], float)
        for x in ('mean', 'low', 'high')
    )
    return means, np.maximum([means - low, high - means], 0.0)
