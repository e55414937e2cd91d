"""Rebuilds from a record of clips: summary, table, bags of the predictions, report.

The summary has the makers' metrics beside figures that others published, with their sources.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
import json
import shutil

import cv2
import numpy as np

from ... import images
from ...bags.predictions import write_prediction_bag
from ...clips.clip import NS_PER_US
from ...clips.context import make_clip_rig, read_context
from ...clips.dataset import ClipError, ClipFolder
from ...files import write_atomically
from ...json_types import ClipMetrics, Line, Summary
from ...metrics.displacement import HORIZONS_S
from ...metrics.paired import compare_pairs
from ...report import plots
from ...report.distributions import plot_changes, plot_item_errors
from ...report.items_table import ItemsTable
from ...report.overlay import to_jpeg
from ...report.replay_page import CaseView, render
from ...runtime.constant_velocity import make_straight_path
from ..record import ReplayRecord, read_run, to_stamped_prediction
from ..summary import describe_change, summarise, to_csv
from ..tally import describe

MAX_CASES = 12
COLUMNS = (  # of the table of clips: title, digits of a number
    ('clip', None),
    ('minADE, m', 2),
    ('ADE, m', 2),
    ('FDE, m', 2),
    ('corner distance, m', 2),
    ('constant velocity ADE, m', 2),
    ('change of minADE, m', 3),
    ('ms', 0),
    ('reasoning', None),
    ('remarks', None),
)
CHANGE_COLUMN = 6
_LONGEST = f'{HORIZONS_S[-1]:.1f}'
FRAME_RULE = 'the last frame at or before each grid time (the rule of the makers)'
PUBLISHED = (  # what others report; their clips and options differ, so these are no targets
    'Alpamayo-R1-10B in bf16: minADE_6 0.780 m, 4-bit weights +0.053 m; 500 clips '
    '(deep-overflow/alpamayo-model-compression)',
    'Alpamayo 1.5: minADE_6 0.77 to 0.83 m; 644 public clips (several public measurements)',
)


def rebuild_clips(
    record: ReplayRecord,
    folder: ClipFolder,
    limits: Mapping[str, float | None],
    earlier: ReplayRecord | None = None,
) -> Summary:
    """Write all results of a record of clips beside it and return the summary.

    Raises BadInput when no clip has been measured in an `earlier` run too.
    """
    run = read_run(record.folder)
    lines = sorted(record.lines(), key=lambda line: line['clip'])
    summary = summarise(lines, run, limits)
    summary['clips'] = _measure_clips(lines)
    summary['notes'] += [f'Frames: {FRAME_RULE}.', *(f'Published: {text}.' for text in PUBLISHED)]
    changes: dict[str, float] = {}
    if earlier is not None:
        found = compare_pairs(_list_min_ades(lines), _list_min_ades(earlier.lines()))
        summary['against'] = describe_change(earlier.folder, 'min_ade_m', found)
        changes = found.changes
    write_atomically(record.folder / 'summary.json', json.dumps(summary, indent=2))
    write_atomically(record.folder / 'results.csv', to_csv(lines))
    valid = [line for line in lines if line['status'] == 'ok']
    shutil.rmtree(record.folder / 'prediction', ignore_errors=True)
    for line in valid:
        bag = record.folder / 'prediction' / line['clip']
        write_prediction_bag(bag, [to_stamped_prediction(line)])
    if changes:
        worst = sorted(valid, key=lambda line: changes.get(line['clip'], -np.inf), reverse=True)
    else:
        worst = sorted(valid, key=_min_ade, reverse=True)
    cases = [_draw_case(line, folder) for line in worst[:MAX_CASES]]
    details = {line['reason']: line['detail'] for line in reversed(lines) if 'detail' in line}
    overview = {}
    if valid:
        times = np.array([line['ms']['total'] for line in valid])
        overview['Time per clip'] = plots.plot_latencies(times)
        overview['Errors of the clips'] = plot_item_errors(list(map(_list_errors, valid)), 'clips')
    if changes:
        overview['Change of minADE'] = plot_changes(changes.values(), 'clips')
    shown = {case.line['clip'] for case in cases}
    page = render(summary, overview, cases, details, _tabulate(lines, changes, shown))
    write_atomically(record.folder / 'report.html', page)
    return summary


def _measure_clips(lines: list[Line]) -> ClipMetrics:
    """The makers' metrics over the clips that have a prediction.

    min_ade_m: by horizon, of the sample that is best over the whole 6.4 s.
    """
    valid = [line for line in lines if line['status'] == 'ok']
    names = [f'{horizon_s:.1f}' for horizon_s in HORIZONS_S]
    return {
        'clips': len(lines),
        'measured': len(valid),
        'frame_rule': FRAME_RULE,
        'min_ade_m': {
            name: describe(
                [x['whole_best_ade_m'] for line in valid if (x := line['horizons'][name])]
            )
            for name in names
        },
        'corner_distance_m': describe([line['corner_distance_m'] for line in valid]),
        'published': list(PUBLISHED),
    }


def _list_min_ades(lines: Iterable[Line]) -> dict[str, float | None]:
    return {line['clip']: _min_ade(line) for line in lines if line['status'] == 'ok'}


def _list_errors(line: Line) -> dict[str, float | None]:
    """Errors of a clip under the names of an ItemRow."""
    errors, straight = (line[key].get(_LONGEST) or {} for key in ('horizons', 'baseline'))
    return {
        'ade_m': errors.get('ade_m'),
        'min_ade_m': errors.get('min_ade_m'),
        'baseline_ade_m': straight.get('ade_m'),
    }


def _tabulate(
    lines: list[Line], changes: Mapping[str, float], shown: Collection[str]
) -> ItemsTable:
    """All clips, those with the largest regression or minADE first; shown: those drawn below."""
    rows = []
    for line in lines:
        errors = (line.get('horizons') or {}).get(_LONGEST) or {}
        straight = (line.get('baseline') or {}).get(_LONGEST) or {}
        rows.append(
            [
                f'#{line["clip"]}' if line['clip'] in shown else '',
                line['clip'],
                *(errors.get(key) for key in ('min_ade_m', 'ade_m', 'fde_m')),
                line.get('corner_distance_m'),
                straight.get('ade_m'),
                changes.get(line['clip']),
                line.get('ms', {}).get('total'),
                line.get('text', ''),
                ' '.join(filter(None, [line['reason'], *line.get('checks', ())])),
            ]
        )
    return ItemsTable(COLUMNS, rows, CHANGE_COLUMN if changes else 1)


def _min_ade(line: Line) -> float:
    values = line['horizons'][_LONGEST]
    return values['min_ade_m'] if values else -1.0


def _draw_case(line: Line, folder: ClipFolder) -> CaseView:
    """Front image and plots of a clip; its files are read again."""
    t0_us = line['t0_ns'] // NS_PER_US
    jpeg, note, truth = None, '', None
    try:
        context, truth = read_context(folder, line['clip'], make_clip_rig(), t0_us)
        pixels = images.decode(context.frames['front_wide'][-1]).transpose(1, 2, 0)
        small = cv2.resize(np.ascontiguousarray(pixels), None, fx=0.5, fy=0.5).astype(np.uint8)
        jpeg, note = to_jpeg(small), f'{line["clip"]}: the path is not drawn, f-theta cameras.'
    except (ClipError, images.ImageError) as error:
        note = f'{line["clip"]}: {error}'
    future = truth.future if truth else np.zeros((0, 3))
    steps = np.diff(np.vstack([np.zeros(2), future[:, :2]]), axis=0)
    case = plots.PlotCase(
        samples=np.array(line['samples']),
        actions=np.array(line['actions']),
        chosen=line['chosen'],
        baseline=make_straight_path(line['v0_mps']).astype(np.float64),
        history=truth.history if truth else np.zeros((0, 3)),
        driven=future,
        driven_speeds=np.linalg.norm(steps, axis=-1) / 0.1,
    )
    return CaseView(
        line=line,
        seconds=t0_us / 1e6,
        image_jpeg=jpeg,
        image_note=note,
        above_png=plots.plot_from_above(case),
        dynamics_png=plots.plot_dynamics(case),
    )
