"""Everything that is rebuilt from a record: summary.json, results.csv, prediction/, report.html.

The input bag is only needed for images and for the driven path. Each file is replaced as a whole,
so an older one stays when writing fails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import math

import numpy as np

from .. import images
from ..bags.predictions import write_prediction_bag
from ..bags.reader import Bag
from ..data_types import NANOSECONDS
from ..files import write_atomically
from ..json_types import Line, Summary
from ..metrics.displacement import HORIZONS_S
from ..report import plots
from ..report.overlay import draw_paths, to_jpeg
from ..report.replay_page import CaseView, render
from ..rig import CameraRig, RigCamera
from ..ros.inputs import to_frame
from ..ros.policy import placed
from ..runtime.constant_velocity import straight
from .driven_path import DrivenPath
from .record import ReplayRecord, read_run, to_plan, to_pose
from .summary import summarise, to_csv

MAX_CASES = 12  # about 250 kB each
APART_NS = NANOSECONDS  # neighbours look alike
MAX_PATHS = 300  # on the map of the drive
ARRAYS = ('samples', 'actions')


def rebuild(
    record: ReplayRecord,
    bag: Bag,
    rig: CameraRig,
    driven: DrivenPath,
    thresholds: Mapping[str, float | None],
) -> Summary:
    """Write all results of a record beside it and return the summary."""
    run = read_run(record.folder)
    lines = sorted(map(_light, record.lines()), key=lambda line: line['t0_ns'])
    summary = summarise(lines, run, thresholds)
    write_atomically(record.folder / 'summary.json', json.dumps(summary, indent=2))
    write_atomically(record.folder / 'results.csv', to_csv(lines))
    plans = (to_plan(line) for line in record.lines() if line['status'] == 'ok')
    write_prediction_bag(record.folder / 'prediction', plans)
    start_ns = int(driven.stamps_ns[0]) if len(driven.stamps_ns) else 0
    worst = _worst(lines)
    full = {x['t0_ns']: x for x in record.lines() if 'topic' not in x and x['t0_ns'] in worst}
    anchor = next(camera for camera in rig.cameras if camera.name == rig.anchor)
    cases = [_view(full[t0_ns], start_ns, bag, anchor, rig.ground_z_m, driven) for t0_ns in worst]
    details = {x['reason']: x['detail'] for x in reversed(lines) if x.get('detail')}
    details |= {
        f'{x["topic"]}: {x["reason"]}': x['detail'] for x in reversed(lines) if 'topic' in x
    }
    overview = _overview(lines, start_ns, record, driven, summary)
    write_atomically(record.folder / 'report.html', render(summary, overview, cases, details))
    return summary


def last_plan(record: ReplayRecord) -> tuple[int, plots.Floats] | None:
    """t0 and placed path of the last prediction in a record, None when there is none."""
    last = None
    for line in record.lines():
        if line['status'] == 'ok':
            last = line
    if last is None:
        return None
    return last['t0_ns'], placed(to_pose(last), last['samples'][last['chosen']])


def _light(line: Line) -> Line:
    return {key: value for key, value in line.items() if key not in ARRAYS}


def _worst(lines: Sequence[Line]) -> list[int]:
    """t0 of the cases to show: largest ADE over the longest horizon that truth reaches first."""

    def error(line: Line) -> float:
        reached = [values for values in line['horizons'].values() if values]
        return reached[-1]['ade_m'] if reached else -1.0

    shown: list[int] = []
    valid = [line for line in lines if line['status'] == 'ok']
    for line in sorted(valid, key=error, reverse=True):
        t0_ns = line['t0_ns']
        if len(shown) < MAX_CASES and all(abs(t0_ns - x) >= APART_NS for x in shown):
            shown.append(t0_ns)
    return shown


def _view(
    line: Line, start_ns: int, bag: Bag, camera: RigCamera, ground_z_m: float, driven: DrivenPath
) -> CaseView:
    odom = to_pose(line)
    future = driven.future(odom)
    case = plots.PlotCase(
        samples=np.array(line['samples']),
        actions=np.array(line['actions']),
        chosen=line['chosen'],
        baseline=straight(line['v0_mps']).astype(np.float64),
        history=driven.history(odom),
        driven=future,
        driven_speeds=driven.speeds(odom, np.arange(1, len(future) + 1)),
    )
    jpeg, note = _front_image(line, case, bag, camera, ground_z_m)
    return CaseView(
        line=line,
        seconds=(line['t0_ns'] - start_ns) / NANOSECONDS,
        image_jpeg=jpeg,
        image_note=note,
        above_png=plots.birds_eye(case),
        dynamics_png=plots.dynamics(case),
    )


def _front_image(
    line: Line, case: plots.PlotCase, bag: Bag, camera: RigCamera, ground_z_m: float
) -> tuple[bytes | None, str]:
    """JPEG of the anchor frame with the paths, and what is to be said about it."""
    log_ns = line['log_ns']
    try:
        for topic, _, payload in bag.messages([camera.topic], log_ns, log_ns + 1):
            frame = to_frame(bag.decode(topic, payload))
            if frame.stamp_ns == line['t0_ns']:
                pixels = np.ascontiguousarray(images.decode(frame).transpose(1, 2, 0))
                break
        else:
            return None, 'the image is no longer in the bag'
    except ValueError as error:
        return None, f'the image cannot be decoded: {error}'
    if camera.calibration is None:
        return to_jpeg(pixels), 'The rig has no calibration of this camera: nothing is drawn.'
    others = [x for k, x in enumerate(case.samples) if k != case.chosen]
    drawn = draw_paths(
        pixels, camera.calibration, ground_z_m, case.samples[case.chosen], others, case.driven
    )
    return to_jpeg(drawn), ''


def _overview(
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
    every = math.ceil(len(valid) / MAX_PATHS)
    shown = {line['t0_ns'] for line in valid[::every]}
    paths = [
        placed(to_pose(line), line['samples'][line['chosen']])
        for line in record.lines()
        if line['status'] == 'ok' and line['t0_ns'] in shown
    ]
    found = {'The drive from above': plots.drive_map(driven.positions_m[:, :2], paths)}
    horizon = f'{summary["longest_horizon_s"] or HORIZONS_S[0]:.1f}'
    if summary['longest_horizon_s'] is not None:
        series = {
            'chosen': _series(anchors, 'horizons', horizon, 'ade_m'),
            'best': _series(anchors, 'horizons', horizon, 'min_ade_m'),
            'baseline': _series(anchors, 'baseline', horizon, 'ade_m'),
        }
        seconds = np.array([(x['t0_ns'] - start_ns) / NANOSECONDS for x in anchors])
        missing = np.array([x['status'] != 'ok' for x in anchors])
        found[f'ADE over {horizon} s'] = plots.errors_over_time(
            seconds, series, seconds[missing], 'ADE [m]'
        )
    found['Time per context'] = plots.latency_histogram(
        np.array([line['ms']['total'] for line in valid])
    )
    return found


def _series(lines: Sequence[Line], source: str, horizon: str, metric: str) -> plots.Floats:
    values = [(line.get(source) or {}).get(horizon) for line in lines]
    return np.array([value[metric] if value else np.nan for value in values])
