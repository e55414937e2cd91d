"""The generated parts of the documents: one function per mark, each returns Markdown.

Parameters, topics, services, commands and encodings come from the code, every measured figure
from a file in docs/results. Knows no document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import fields
from functools import partial
from importlib.metadata import entry_points
from io import StringIO
import json
import os
from pathlib import Path
import re
from typing import Any
from unittest.mock import patch

from alpamayo_ros.images import COMPRESSED, RAW_ENCODINGS, SEMI_PLANAR_ENCODINGS
from alpamayo_ros.profiles import PROFILES, Profile
from alpamayo_ros.rig import ODOMETRY_TYPES, TWIST_TYPES
from alpamayo_ros.ros.diagnostics import t0_status
from alpamayo_ros.ros.diagnostics.status import ARRAY_TYPE
from alpamayo_ros.ros.parameter_tables import format_markdown_table
from alpamayo_ros.ros.publishing.outputs import AUTOWARE, OUTPUTS
from quantization_study.page import TABLES, render

from .driving import list_closed_rows, list_open_rows

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / 'docs/results'

TOPICS = {
    'output/path': '64 poses, 0.1 s apart, the first at t0 + 0.1 s',
    'output/trajectory': 'the poses of the path with speed, yaw rate and acceleration',
    'output/reasoning': 'the reasoning text of the path',
    'output/markers': 'for RViz, in the frame of the vehicle at t0: path by speed, other samples, '
    'outline of the vehicle, text',
    'debug/samples': 'x, y, z (m), yaw (rad), speed (m/s), acceleration (m/s^2) and curvature '
    '(1/m) of every sample: K rows of 64 points, in the frame of the vehicle at t0',
    'debug/path': 'every path, also one that a policy holds back',
    'output/trusted_speed': 'm/s up to which paths that come so late can be trusted: '
    '`trusted_distance_m` over age and time to the next path',
    'debug/path_age_ms': 'time of publication less t0',
    'debug/processing_time_ms': 'duration of the inference',
    'debug/dropped_contexts': 'contexts since the start that a newer one or the rate left out',
    'output/status': 'what became of each t0 and why, stamped t0; a heartbeat without one',
    'output/autoware_trajectory': 'the same for Autoware; parameter `autoware_trajectory`',
}
# name: type, text
SERVICES = {
    'enable': ('std_srvs/SetBool', 'activate, or deactivate'),
    'infer_once': ('std_srvs/Trigger', 'infers one context while inference is paused'),
    'reset': ('std_srvs/Trigger', 'clears the buffered inputs and the last path; no transition'),
    'ask': ('diagnostic_msgs/AddDiagnostics', 'a question to Alpamayo 1.5, and its answer'),
    'load': ('std_srvs/SetBool', 'unconfigured, configure and activate; or back to unconfigured'),
}
# key of a run: heading and digits after the point
SPEED_COLUMNS = {
    'images': ('images, ms', 1),
    'vision': ('vision, ms', 1),
    'prefill': ('prefill, ms', 1),
    'token': ('token, ms', 2),
    'flow_step': ('flow step, ms', 2),
    'end_to_end': ('end to end, ms', 1),
    'frames_to_trajectory': ('frames to trajectory, ms', 1),
    'weights_gb': ('weights, GB', 3),
    'peak_gb': ('peak, GB', 3),
}
H200 = 'nvidia-h200-2-bits-'
SLICE = 'nvidia-h200-slice-8-2-bits-mixed-host-embedding'
NANO = 'Orin Nano 8 GB, 25 W'
RUNS = (*PROFILES, 'fast-drafts')
# file in docs/results, weights, case
SPEED_ROWS = (
    ('mixed', '2 bits mixed', 'recorded K=6'),
    ('mixed-exact', '2 bits mixed', 'recorded K=1'),
    ('mixed-fast', '2 bits mixed', 'recorded K=1'),
    ('mixed-host-embedding', '2 bits mixed', 'recorded K=6'),
    ('mixed-host-embedding-exact', '2 bits mixed', 'recorded K=1'),
    ('mixed-host-embedding-fast', '2 bits mixed', 'recorded K=1'),
    ('mixed-host-embedding-fast-drafts', '2 bits mixed', 'recorded K=1'),
    ('mixed-host-embedding-drive', '2 bits mixed', 'recorded K=1'),
    ('mixed-host-embedding-fast', '16 bits', 'recorded K=1'),
    ('mixed_attention4', '2 bits mixed_attention4', 'recorded K=1'),
    ('mixed_attention4', '2 bits mixed_attention4', 'recorded K=6'),
    ('mixed', '16 bits', 'recorded K=1'),
    ('mixed', '16 bits', 'eager K=1'),
    ('mixed', 'optimum-quanto qint2', 'eager K=1'),
)


def parameters() -> str:
    """Every ROS parameter of the node."""
    return format_markdown_table()


def topics() -> str:
    """Every topic that the node publishes; KeyError for one without a text here."""
    rows = []
    types = {output.topic: output.type_name for output in (*OUTPUTS, AUTOWARE)}
    for topic, type_name in {t0_status.TOPIC: ARRAY_TYPE, **types}.items():
        rows.append([f'`~/{topic}`', f'`{type_name.replace("/msg/", "/")}`', TOPICS[topic]])
    return _table(['topic', 'type', 'content'], rows)


def services() -> str:
    """Every service of the node; KeyError for one without a text here."""
    code = (ROOT / 'alpamayo_ros/ros/node.py').read_text(encoding='utf-8')
    rows = []
    for name in re.findall(r"create_service\(\w+, '~/(\w+)'", code):
        type_name, text = SERVICES[name]
        rows.append([f'`~/{name}`', f'`{type_name}`', text])
    return _table(['service', 'type', 'what it does'], rows)


def commands() -> str:
    """Every installed command with the first sentence of its help."""
    rows = []
    for entry in sorted(entry_points(group='console_scripts'), key=lambda entry: entry.name):
        if entry.value.startswith('alpamayo_ros.'):
            rows.append([f'`{entry.name}`', _describe(entry.name, entry.load())])
    return _table(['command', 'what it does'], rows)


def profiles() -> str:
    """Table of the profiles: choices, measured and estimated time."""
    names = [row.name for row in fields(Profile)]
    rows = []
    for name, row in PROFILES.items():
        run = _result(f'{H200}mixed-host-embedding-{name}')['2 bits mixed']['recorded K=1']
        nano = _result(f'{SLICE}-{name}')['boards'][NANO]
        cells = [str(value or '-') for value in vars(row).values()]
        cells += [f'{run["end_to_end"]:.0f}', f'{nano["in_all"] / 1e3:.1f}']
        rows.append([f'`{name}`', *cells])
    headings = ['profile', *(f'`{name}`' for name in names)]
    headings += ['H200, patches to path, ms', 'Orin Nano at 25 W, s (estimate)']
    return _table(headings, rows)


def encodings() -> str:
    """Encodings of images that the node and a replay decode, as one sentence."""
    raw = ', '.join(f'`{name}`' for name in (*RAW_ENCODINGS, *SEMI_PLANAR_ENCODINGS))
    compressed = ' or '.join(name.upper() for name in COMPRESSED)
    return f'A `CompressedImage` is {compressed}. The encoding of an `Image` is one of {raw}.'


def ego_sources() -> str:
    """What may tell the motion of the vehicle: keys of a rig file and their message types."""
    rows = [
        [f'`{key}`', ', '.join(f'`{name.replace("/msg/", "/")}`' for name in types)]
        for key, types in (('odometry_type', ODOMETRY_TYPES), ('twist_type', TWIST_TYPES))
    ]
    return _table(['key', 'one of; the first where it is left out'], rows)


def speed() -> str:
    """Milliseconds and GB of each stage on an H200, and the commands that measured them.

    A column that no run has is left out; a run without it has an empty cell.
    """
    files = {name: _result(f'{H200}{name}') for name, _, _ in SPEED_ROWS}
    runs = [files[name][weights][case] for name, weights, case in SPEED_ROWS]
    columns = {key: x for key, x in SPEED_COLUMNS.items() if any(key in run for run in runs)}
    rows = []
    for (name, weights, case), run in zip(SPEED_ROWS, runs, strict=True):
        is_dense = weights == '16 bits'
        host = ', embedding on the host' if 'host-embedding' in name and not is_dense else ''
        profile = re.sub('^mixed(-host-embedding)?-?', '', name)
        if profile in RUNS:
            host += f', {"in the run of" if is_dense else "profile"} {profile}'
        cells = [f'{run[k]:.{digits}f}' if k in run else '' for k, (_, digits) in columns.items()]
        rows.append([f'{weights}{host}, {case}', *cells])
    headings = ['case', *(heading for heading, _ in columns.values())]
    sources = [f'- {_cite(f"{H200}{name}")}' for name in files]
    return '\n'.join([_table(headings, rows), '', *sources])


def orin() -> str:
    """Estimated, not measured, milliseconds on boards with an Orin."""
    rows = []
    for profile in PROFILES:
        result = _result(f'{SLICE}-{profile}')
        for board, figures in result['boards'].items():
            if board == 'assumptions' or (profile != 'exact' and 'Nano' not in board):
                continue
            words = figures.get('token', figures.get('draft_pass', 0))
            stages = [figures['images'], figures['vision'], figures['prefill'], words]
            cells = [f'{x:.0f}' for x in (*stages, figures['flow_step'], figures['in_all'])]
            rows.append([f'`{profile}`', board, *cells])
    headings = ['profile', 'board (2 bits mixed, ms)', 'images', 'vision', 'prefill']
    headings += ['token or pass', 'flow step', 'one inference']
    assumptions = _result(f'{SLICE}-exact')['boards']['assumptions']
    return '\n'.join([_table(headings, rows), '', assumptions])


def evaluation() -> str:
    """How well the small checkpoint drives, beside baselines and ablations."""
    table = _result('small-evaluation')
    rows = []
    for row in table['rows']:
        opened, late = row['open'], row['closed'].get('0.5')
        rows.append(
            [
                row['name'],
                _interval(opened['all']['min_ade_m_6.4s'], 2),
                _interval(opened['ratio'] and opened['ratio']['min_ade_m_6.4s'], 2),
                _interval(opened['all']['text'], 1, 100),
                _interval(late and late['clean'], 0, 100),
            ]
        )
    headings = ['row', 'minADE_6, m', 'of 16 bits', 'names the cause, %']
    headings += ['closed loop without a fault, 0.5 s late, %']
    return '\n'.join([_table(headings, rows), '', _made_from(table)])


def latencies() -> str:
    """How late a plan may come: the closed loop of the small checkpoint and of the expert."""
    table = _result('small-latencies')
    closed = {row['name']: row['closed'] for row in table['rows']}
    rows = []
    for late, model in closed['16 bits'].items():
        expert = closed['expert'][late]
        rows.append(
            [
                late,
                _interval(model['clean'], 0, 100),
                _interval(model['time_s'], 1),
                _interval(expert['clean'], 0, 100),
                f'{100 * model["without_path"]["mean"]:.0f}',
            ]
        )
    headings = ['late, s', 'without a fault, %', 'a minute lasts, s']
    headings += ['expert: without a fault, %', 'without a path, %']
    return '\n'.join([_table(headings, rows), '', _made_from(table)])


def driving(list_rows: Callable[[Mapping[str, Any]], list[list[str]]]) -> str:
    """How two states of small15 drive, in one of the loops."""
    headings, *rows = list_rows(_result('small15-validation'))
    return _table(headings, rows)


def two_bit_study() -> str:
    """What each width, recipe and method costs the small checkpoint."""
    tables = [_result(path.stem) for path in TABLES]
    return render(tables).rstrip('\n')


def status_keys() -> str:
    """Return what the keys of ~/output/status mean."""
    return _table(('key', 'value'), ((f'`{row.key}`', row.description) for row in t0_status.KEYS))


PARTS: Mapping[str, Callable[[], str]] = {
    'parameters': parameters,
    'topics': topics,
    'services': services,
    'status-keys': status_keys,
    'commands': commands,
    'encodings': encodings,
    'ego-sources': ego_sources,
    'profiles': profiles,
    'speed': speed,
    'orin': orin,
    'evaluation': evaluation,
    'latencies': latencies,
    'driving-open': partial(driving, list_open_rows),
    'driving-closed': partial(driving, list_closed_rows),
    'two-bit-study': two_bit_study,
}


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ['---'] * len(headings), *rows]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)


def _result(name: str) -> Any:
    return json.loads((RESULTS / f'{name}.json').read_text(encoding='utf-8'))


def _cite(name: str) -> str:
    run = _result(name)
    versions = ', '.join(f'{tool} {run["versions"][tool]}' for tool in ('torch', 'triton'))
    return f'[{name}.json](results/{name}.json): {run["device"]}, {versions}, `{run["command"]}`'


def _made_from(table: Mapping[str, Any]) -> str:
    """What an evaluation ran on; `world` is the hash of the code that made the drives."""
    reference = next(row['planner'] for row in table['rows'] if row['kind'] == 'reference')
    loops = [
        f'{loop["drives"]} drives ({kind} loop, K = {loop["samples"]}, seed {loop["seed"]})'
        for kind, loop in sorted(table['loops'].items(), reverse=True)
    ]
    return (
        f'Split {table["loops"]["open"]["split"]}, {", ".join(loops)}, device '
        f'{reference["device"]}, checkpoint `{reference["checkpoint_sha256"][:12]}`, world '
        f'`{table["world_sha256"][:12]}`. In brackets: 95 % intervals of a bootstrap over drives.'
    )


def _interval(figure: Mapping[str, float] | None, digits: int, factor: float = 1.0) -> str:
    """Mean and interval, or '' where nothing was measured."""
    if figure is None:
        return ''
    mean, low, high = (f'{factor * figure[key]:.{digits}f}' for key in ('mean', 'low', 'high'))
    return f'{mean} ({low} to {high})'


def _describe(name: str, main: Callable[[list[str]], int]) -> str:
    """First sentence of the help of a command."""
    text = StringIO()
    wide = patch.dict(os.environ, {'COLUMNS': '10000'})
    with wide, redirect_stdout(text), suppress(SystemExit):
        main(['--help'])
    description = text.getvalue().split('\n\n')[1]
    sentence = re.split(r'(?<=\.)\s', description.replace('\n', ' '))[0]
    return sentence.removeprefix(f'{name}: ').rstrip('.')
