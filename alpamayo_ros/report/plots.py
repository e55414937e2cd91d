"""Plots of the report as PNG files with a transparent ground, legible on light and dark pages.

Knows no bag, no files and no HTML: arrays in, bytes out. Paths are x, y m in the t0 frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
import io
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
import numpy as np
from numpy.typing import NDArray

from ..data_types import GRID_S, WAYPOINTS

Floats = NDArray[np.float64]

CHOSEN, DRIVEN, BASELINE, SAMPLE, HISTORY = '#3b82f6', '#10b981', '#f59e0b', '#94a3b8', '#a78bfa'
INK, BAD = '#808a9a', '#ef4444'
DPI = 144
SECONDS = np.arange(1, WAYPOINTS + 1) * GRID_S
STYLE: dict[Any, Any] = {
    'font.size': 8,
    'axes.edgecolor': INK,
    'axes.labelcolor': INK,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'axes.titlesize': 8,
    'axes.titlecolor': INK,
    'axes.titlelocation': 'left',
    'grid.color': INK,
    'grid.alpha': 0.2,
    'xtick.color': INK,
    'ytick.color': INK,
    'text.color': INK,
    'legend.frameon': False,
    'legend.fontsize': 7,
}


@dataclass(frozen=True)
class PlotCase:
    """One prediction and what is known about the truth: all rows on the 10 Hz grid.

    samples (K, 64, 4) and actions (K, 64, 2) as in Prediction; baseline (64, 4): constant
    velocity; history (M, 3) and driven (N, 3): x, y, yaw up to t0 and after it; driven_speeds
    (N,) m/s.
    """

    samples: Floats
    actions: Floats
    chosen: int
    baseline: Floats
    history: Floats
    driven: Floats
    driven_speeds: Floats


def plot_from_above(case: PlotCase) -> bytes:
    """History, driven path, constant velocity and all samples from above: x up, y to the left."""
    with open_figure(3.4, 4.3, 1) as (figure, (axes,)):
        for k, sample in enumerate(case.samples):
            if k != case.chosen:
                _draw_path(axes, sample, color=SAMPLE, lw=0.9, alpha=0.6)
        _draw_path(axes, case.baseline, color=BASELINE, lw=1.2, ls='--')
        _draw_path(axes, case.history, color=HISTORY, lw=2.0, origin=False)
        _draw_path(axes, case.driven, color=DRIVEN, lw=2.4)
        _draw_path(axes, case.samples[case.chosen], color=CHOSEN, lw=2.0)
        for second in range(1, 7):  # one dot per second
            axes.plot(*case.samples[case.chosen][second * 10 - 1, 1::-1], '.', color=CHOSEN, ms=5)
            if len(case.driven) >= second * 10:
                axes.plot(*case.driven[second * 10 - 1, 1::-1], '.', color=DRIVEN, ms=5)
        axes.plot([0], [0], marker='^', color=INK, ms=6)
        axes.set(xlabel='left  ←  y [m]  →  right', ylabel='x [m]')
        axes.set_aspect('equal', adjustable='datalim')
        axes.margins(0.06)
        axes.invert_xaxis()
        return to_png(figure)


def plot_dynamics(case: PlotCase) -> bytes:
    """Speed, acceleration and curvature over the 6.4 s, driven ones beside the predicted ones."""
    with open_figure(7.6, 1.9, 3) as (figure, (speed, acceleration, curvature)):
        for k, (sample, action) in enumerate(zip(case.samples, case.actions, strict=True)):
            chosen = k == case.chosen
            style: Any = {'color': CHOSEN, 'lw': 1.8} if chosen else {'color': SAMPLE, 'lw': 0.8}
            layer = 3 if chosen else 1
            speed.plot(SECONDS, sample[:, 3], zorder=layer, **style)
            acceleration.plot(SECONDS, action[:, 0], zorder=layer, **style)
            curvature.plot(SECONDS, action[:, 1], zorder=layer, **style)
        speed.plot(SECONDS, case.baseline[:, 3], color=BASELINE, lw=1.1, ls='--')
        if len(case.driven) > 2:
            seconds, driven = SECONDS[: len(case.driven)], case.driven_speeds
            speed.plot(seconds, driven, color=DRIVEN, lw=1.6)
            acceleration.plot(seconds, np.gradient(driven, GRID_S), color=DRIVEN, lw=1.2)
            rate = np.gradient(np.unwrap(case.driven[:, 2]), GRID_S)
            moving = np.where(np.abs(driven) > 1.0, driven, np.nan)
            curvature.plot(seconds, rate / moving, color=DRIVEN, lw=1.2)
        for axes, title in (
            (speed, 'speed [m/s]'),
            (acceleration, 'acceleration [m/s²]'),
            (curvature, 'curvature [1/m]'),
        ):
            axes.set(title=title, xlim=(0, SECONDS[-1]), xlabel='s after t0')
        _widen(speed, 2.0)
        _widen(acceleration, 2.0)
        _widen(curvature, 0.02)
        return to_png(figure)


def plot_map(driven_xy: Floats, paths: Sequence[Floats]) -> bytes:
    """The whole drive from above, odometry frame, with the chosen path of every t0."""
    with open_figure(4.4, 3.0, 1) as (figure, (axes,)):
        origin = driven_xy[0] if len(driven_xy) else np.zeros(2)
        for path in paths:
            axes.plot(*(path[:, :2] - origin).T, color=CHOSEN, lw=0.7, alpha=0.35)
        axes.plot(*(driven_xy - origin).T, color=DRIVEN, lw=1.8)
        axes.set(xlabel='x [m] from the start', ylabel='y [m]')
        axes.set_aspect('equal', adjustable='datalim')
        return to_png(figure)


def plot_errors_over_time(
    seconds: Floats, series: Mapping[str, Floats], rejected_s: Floats, label: str
) -> bytes:
    """ADE of each t0 over the drive by row name ('chosen', 'best', 'baseline'); NaN: no truth."""
    colors = {'chosen': CHOSEN, 'best': SAMPLE, 'baseline': BASELINE}
    with open_figure(4.4, 3.0, 1) as (figure, (axes,)):
        marker = '.' if len(seconds) - len(rejected_s) <= 120 else ''  # a point may be alone
        for name, values in series.items():
            axes.plot(seconds, values, color=colors[name], lw=1.2, marker=marker, ms=4, label=name)
        if len(rejected_s):
            edge = np.full(len(rejected_s), 0.96)  # of the height: errors near 0 stay in sight
            axes.plot(
                rejected_s, edge, '|', color=BAD, ms=6, label='no prediction',
                transform=axes.get_xaxis_transform(),
            )  # fmt: skip
        axes.set(xlabel='s from the start', ylabel=label)
        axes.margins(y=0.12)
        axes.set_ylim(bottom=0)
        axes.legend(ncols=4, loc='lower right', bbox_to_anchor=(1, 1))
        return to_png(figure)


def plot_latencies(total_ms: Floats) -> bytes:
    """How long inferences took, with median and 90th percentile."""
    with open_figure(4.4, 3.0, 1) as (figure, (axes,)):
        axes.hist(total_ms, bins=min(max(len(total_ms) // 3, 8), 40), color=CHOSEN, alpha=0.75)
        for percent, style in ((50, '-'), (90, '--')):
            value = float(np.percentile(total_ms, percent))
            axes.axvline(
                value, color=BASELINE, ls=style, lw=1.3, label=f'p{percent} {value:.4g} ms'
            )
        axes.set(xlabel='ms per context', ylabel='contexts')
        axes.legend(ncols=2, loc='lower right', bbox_to_anchor=(1, 1))
        return to_png(figure)


@contextmanager
def open_figure(width: float, height: float, columns: int) -> Iterator[tuple[Figure, list[Axes]]]:
    """Figure of a size in inches, with its axes side by side; STYLE holds inside the body."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=DPI)
        FigureCanvasAgg(figure)
        # fixed margins in inches: a layout engine would draw every plot twice
        figure.subplots_adjust(
            left=0.5 / width,
            right=1 - 0.1 / width,
            bottom=0.4 / height,
            top=1 - 0.25 / height,
            wspace=0.25,
        )
        yield figure, list(np.atleast_1d(figure.subplots(1, columns)))


def _draw_path(axes: Axes, path: Floats, origin: bool = True, **style: Any) -> None:
    xy = np.vstack([np.zeros((int(origin), 2)), path[:, :2]])
    axes.plot(xy[:, 1], xy[:, 0], solid_capstyle='round', **style)


def _widen(axes: Axes, span: float) -> None:
    """Widen the y axis to `span`, so that noise around a constant does not fill the plot."""
    low, high = axes.get_ylim()
    if high - low < span:
        middle = (low + high) / 2
        axes.set_ylim(middle - span / 2, middle + span / 2)


def to_png(figure: Figure) -> bytes:
    """The file of a figure."""
    file = io.BytesIO()
    figure.savefig(file, format='png', transparent=True)
    return file.getvalue()
