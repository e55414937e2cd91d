"""Rebuilds summary.json, results.csv, prediction/ and report.html from a record.

Only images and the driven path come from the input bag. Each file is replaced as a whole, so an
older one stays when writing fails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import math

import numpy as np

from ..bags.calibrations import complete_calibrations
from ..bags.predictions import write_prediction_bag
from ..bags.reader import Bag
from ..data_types import NANOSECONDS
from ..files import write_atomically
from ..json_types import HorizonMetrics, Line, Summary
from ..report import plots
from ..report.overlay import draw_paths, to_jpeg
from ..report.replay_page import CaseView, render
from ..rig import CameraRig, RigCamera
from ..ros.publishing.policy import place_path
from ..ros.receiving.field_of_view import describe_wrong_views
from ..runtime.constant_velocity import make_straight_path
from .driven_path import DrivenPath
from .record import ReplayRecord, read_run, to_pose, to_stamped_prediction
from .recorded_pictures import read_picture
from .summary import summarise, to_csv
from .tally import measure_error

MAX_CASES = 12  # about 250 kB each
MIN_DISTANCE_NS = NANOSECONDS  # cases that are nearer look alike
MAX_PATHS = 300  # on the map of the drive


def rebuild(
    record: ReplayRecord,
    bag: Bag,
    rig: CameraRig,
    driven: DrivenPath,
    limits: Mapping[str, float | None],
) -> Summary:
    """Write all results of a record beside it and return the summary."""
    run = read_run(record.folder)
    lines = sorted(map(_drop_arrays, record.lines()), key=lambda line: line['t0_ns'])
    rig, notes = complete_calibrations(bag, rig)
    notes = [*bag.notes, *notes, *describe_wrong_views(rig.cameras)]
    summary = summarise(lines, run, limits, driven, notes)
    write_atomically(record.folder / 'summary.json', json.dumps(summary, indent=2))
    write_atomically(record.folder / 'results.csv', to_csv(lines))
    predictions = (to_stamped_prediction(x) for x in record.lines() if x['status'] == 'ok')
    write_prediction_bag(record.folder / 'prediction', predictions)
    start_ns = int(driven.stamps_ns[0]) if len(driven.stamps_ns) else 0
    worst = _find_worst(lines)
    full = {x['t0_ns']: x for x in record.lines() if 'topic' not in x and x['t0_ns'] in worst}
    cases = [draw_case(full[t0_ns], bag, rig, driven) for t0_ns in worst]
    overview = _draw_overview(lines, start_ns, record, driven, summary)
    page = render(summary, overview, cases, _find_details(lines))
    write_atomically(record.folder / 'report.html', page)
    return summary


def _place_chosen(line: Line) -> plots.Floats:
    """Path of the chosen sample in the odometry frame."""
    assert line['samples'] is not None, 'a line with status ok'
    return place_path(to_pose(line), line['samples'][line['chosen']])


def _drop_arrays(line: Line) -> Line:
    """Copy of a line without samples and actions, which are most of its size."""
    light = line.copy()
    light.pop('samples', None)
    light.pop('actions', None)
    return light


def _find_details(lines: Sequence[Line]) -> dict[str, str]:
    """The first sentence of each reason, and of each `topic: reason` of refused messages."""
    details: dict[str, str] = {}
    for line in lines:
        if detail := line.get('detail'):
            name = f'{line["topic"]}: {line["reason"]}' if 'topic' in line else line['reason']
            details.setdefault(name, detail)
    return details


def _find_worst(lines: Sequence[Line]) -> list[int]:
    """t0 of the cases to show: largest ADE first, over the longest horizon that truth reaches."""
    worst: list[int] = []
    valid = [line for line in lines if line['status'] == 'ok']
    for line in sorted(valid, key=measure_error, reverse=True):
        t0_ns = line['t0_ns']
        if len(worst) < MAX_CASES and all(abs(t0_ns - x) >= MIN_DISTANCE_NS for x in worst):
            worst.append(t0_ns)
    return worst


def draw_case(line: Line, bag: Bag, rig: CameraRig, driven: DrivenPath) -> CaseView:
    """Draw the front image and the plots of a line that has a prediction."""
    odom = to_pose(line)
    start_ns = int(driven.stamps_ns[0])
    anchor = next(camera for camera in rig.cameras if camera.name == rig.anchor)
    future = driven.truth(odom).path
    case = plots.PlotCase(
        samples=np.array(line['samples']),
        actions=np.array(line['actions']),
        chosen=line['chosen'],
        baseline=make_straight_path(line['v0_mps']).astype(np.float64),
        history=driven.history(odom),
        driven=future,
        driven_speeds=driven.speeds(odom, np.arange(1, len(future) + 1)),
    )
    jpeg, note = _draw_front_image(line, case, bag, anchor, rig.ground_z_m)
    return CaseView(
        line=line,
        seconds=(line['t0_ns'] - start_ns) / NANOSECONDS,
        image_jpeg=jpeg,
        image_note=note,
        above_png=plots.plot_from_above(case),
        dynamics_png=plots.plot_dynamics(case),
    )


def _draw_front_image(
    line: Line, case: plots.PlotCase, bag: Bag, camera: RigCamera, ground_z_m: float
) -> tuple[bytes | None, str]:
    """JPEG of the anchor frame with the paths, and a remark on what is missing in it."""
    try:
        pixels = read_picture(bag, camera.topic, line['t0_ns'], line['log_ns'])
    except ValueError as error:
        return None, f'The image cannot be decoded: {error}'
    if pixels is None:
        return None, 'The image is no longer in the bag.'
    if camera.calibration is None:
        return to_jpeg(
            pixels
        ), 'Neither rig nor bag has a calibration of this camera: nothing is drawn.'
    others = [x for k, x in enumerate(case.samples) if k != case.chosen]
    drawn = draw_paths(
        pixels, camera.calibration, ground_z_m, case.samples[case.chosen], others, case.driven
    )
    return to_jpeg(drawn), ''


def _draw_overview(
    lines: Sequence[Line],
    start_ns: int,
    record: ReplayRecord,
    driven: DrivenPath,
    summary: Summary,
) -> dict[str, bytes]:
    """Pictures of the whole drive by caption."""
    anchors = [line for line in lines if 'topic' not in line]
    valid = [line for line in anchors if line['status'] == 'ok']
    if not valid:
        return {}
    stride = math.ceil(len(valid) / MAX_PATHS)
    shown = {line['t0_ns'] for line in valid[::stride]}
    paths = [
        _place_chosen(line)
        for line in record.lines()
        if line['status'] == 'ok' and line['t0_ns'] in shown
    ]
    pictures = {'The drive from above': plots.plot_map(driven.positions_m[:, :2], paths)}
    if summary['longest_horizon_s'] is not None:
        horizon = f'{summary["longest_horizon_s"]:.1f}'
        series = {
            'chosen': _list_metric([x.get('horizons') for x in anchors], horizon, 'ade_m'),
            'best': _list_metric([x.get('horizons') for x in anchors], horizon, 'min_ade_m'),
            'baseline': _list_metric([x.get('baseline') for x in anchors], horizon, 'ade_m'),
        }
        seconds = np.array([(x['t0_ns'] - start_ns) / NANOSECONDS for x in anchors])
        is_missing = np.array([x['status'] != 'ok' for x in anchors])
        pictures[f'ADE over {horizon} s'] = plots.plot_errors_over_time(
            seconds, series, seconds[is_missing], 'ADE [m]'
        )
    pictures['Time per context'] = plots.plot_latencies(
        np.array([line['ms']['total'] for line in valid])
    )
    return pictures


def _list_metric(
    found: Sequence[HorizonMetrics | None], horizon: str, metric: str
) -> plots.Floats:
    """A metric of each anchor at a horizon; NaN where there is none."""
    values = [(horizons or {}).get(horizon) for horizons in found]
    return np.array([value[metric] if value else np.nan for value in values])
