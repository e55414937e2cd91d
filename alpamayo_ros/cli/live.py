"""alpamayo_live: play a recorded drive to the live node, record what it publishes, and report.

Player, node and recorder are processes of their own, and none of them outlives this one. They run
on the ROS 2 that is sourced, or on whatever stand-in for rclpy this process was started with.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, replace
import json
import math
from pathlib import Path
import re
import signal
import sys
import time
from typing import Any

from ..bags.reader import Bag
from ..errors import BadInput
from ..json_types import Run, Summary
from ..profiles import split_names
from ..replay.driven_path import DrivenPath
from ..replay.live_recording import LiveMessages, RecordedNode, count_fates, make_lines
from ..replay.provenance import describe_run
from ..replay.rebuild import rebuild
from ..replay.record import ReplayRecord
from ..replay.replay import require_topics
from ..rig import CameraRig, load_rig, select_cameras
from ..ros.parameters import NodeParameters
from .engine_arguments import LIMITS, add_node_parameters, read_node_parameters, require
from .entry import command
from .processes.launcher import ChildProcess
from .processes.play import require_node_types
from .recordings.printing import print_summary

NODE = '/alpamayo'
RECORDING = 'recording'
PARAMETERS = tuple(row.name for row in fields(NodeParameters) if row.name != 'rig')
ROS_PARAMETER = re.compile(r'(?P<name>[a-z]\S*?):=(?P<value>.*)', re.DOTALL)
QOS = 'qos_overrides.'  # what the names of these parameters start with


@command
def main(argv: list[str] | None = None) -> int:
    """Play, record and report; 0 done, 1 no path or a process has failed, 2 bad input."""
    arguments = parse(argv)
    rig = load_rig(arguments.rig)
    record = ReplayRecord(arguments.out)
    _handle_signals(signal.default_int_handler)
    with Bag(arguments.bag) as bag:
        require_topics(bag, rig)
        require_node_types(bag, rig, arguments.rig)
        for note in bag.notes:
            print(f'note     {note}', flush=True)
        record.claim(resume=False)
        try:
            failures = _run_graph(arguments)
        except KeyboardInterrupt:
            print(f'{arguments.out / RECORDING}: what was recorded until now', file=sys.stderr)
            raise
        for text in failures:
            print(f'alpamayo_live: {text}', file=sys.stderr)
        _require_recording(arguments.out / RECORDING)
        summary = _report(arguments, record, bag, rig)
    _print_fates(summary)
    print_summary(summary, arguments.out)
    if arguments.json:
        print(json.dumps(summary))
    return 1 if failures or not summary['pass'] else 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Arguments of the command, checked; `parameters`: those of the node that are set, by name."""
    parser = argparse.ArgumentParser(
        prog='alpamayo_live', description=__doc__, epilog=main.__doc__, allow_abbrev=False
    )
    parser.add_argument('bag', type=Path, metavar='BAG', help='rosbag2 folder, .mcap or .db3')
    parser.add_argument('--rig', required=True, metavar='NAME', help='rig file, by name or path')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='new folder')
    parser.add_argument(
        '--rate', type=float, default=1.0, help='speed of the drive; 1 is real time (default)'
    )
    parser.add_argument(
        '--finish',
        type=float,
        default=2.0,
        metavar='S',
        help='time to wait for the last inference after the drive (default 2)',
    )
    parser.add_argument('--json', action='store_true', help='print the summary as the last line')
    add_node_parameters(parser, 'parameters of the node', PARAMETERS)
    parser.add_argument(
        'others',
        nargs='*',
        metavar='NAME:=VALUE',
        help='parameters in the spelling of ROS 2, as in qos_overrides./tf.subscription.depth:=1',
    )
    options, others = _split_ros_parameters(sys.argv[1:] if argv is None else argv)
    arguments = parser.parse_intermixed_args([*options, *others])
    require(0 < arguments.rate < math.inf, '--rate', arguments.rate, 'more than 0, finite')
    require(0 <= arguments.finish <= 3600, '--finish', arguments.finish, '0 to 3600 seconds')
    own = read_node_parameters(arguments, PARAMETERS)
    arguments.parameters = {**own, **_read_others(arguments.others)}
    NodeParameters(rig=arguments.rig, **own)  # raises BadInput before anything is started
    return arguments


def _split_ros_parameters(argv: Iterable[str]) -> tuple[list[str], list[str]]:
    """Arguments with NAME:=VALUE as --NAME=VALUE where there is such an option; and the rest."""
    options: list[str] = []
    others: list[str] = []
    for text in argv:
        match = ROS_PARAMETER.fullmatch(text)
        if match and match['name'] in PARAMETERS:
            options.append(f'--{match["name"].replace("_", "-")}={match["value"]}')
        else:
            (others if match else options).append(text)
    return options, others


def _read_others(texts: Iterable[str]) -> dict[str, str]:
    """Parameters that have no option, by name; raise BadInput when the node has no such one."""
    values = {}
    for text in texts:
        match = ROS_PARAMETER.fullmatch(text)
        if not match:
            raise BadInput(f'{text}: expected NAME:=VALUE, a parameter of the node')
        if match['name'] != 'use_sim_time' and not match['name'].startswith(QOS):
            expected = ', '.join(['rig', *PARAMETERS, 'use_sim_time', f'{QOS}...'])
            raise BadInput(f'{text}: the node has no such parameter: expected one of {expected}')
        values[match['name']] = match['value']
    return values


def _run_graph(arguments: argparse.Namespace) -> list[str]:
    """Start all processes, play the drive and end them; a sentence for each that has failed."""
    values = {'rig': arguments.rig, 'use_sim_time': 'true', **arguments.parameters}
    parameters = [x for name, value in values.items() for x in ('-p', _spell(name, value))]
    children: list[ChildProcess] = []
    ended_early: list[ChildProcess] = []
    try:
        out = str(arguments.out / RECORDING)
        children.append(ChildProcess('cli.processes.record', out, '--node', NODE))
        children.append(ChildProcess('cli.node', '--ros-args', *parameters))
        for child in children:
            child.wait_until_ready()
        rate = str(arguments.rate)
        options = (str(arguments.bag), '--rig', arguments.rig, '--rate', rate)
        player = ChildProcess('cli.processes.play', *options)
        listeners = tuple(children)
        children.append(player)
        while player.is_running and all(child.is_running for child in listeners):
            time.sleep(0.1)
        if not player.is_running:
            time.sleep(arguments.finish)
        ended_early = [child for child in listeners if not child.is_running]
    finally:
        statuses = _end(children)
    return [
        f'{child.name} ended with status {status}'
        f'{" before its time" if child in ended_early else ""}'
        for child, status in statuses.items()
        if status or child in ended_early
    ]


def _spell(name: str, value: object) -> str:
    """A parameter as an argument of ROS 2, whose values are YAML."""
    return f'{name}:={str(value).lower() if isinstance(value, bool) else value}'


def _end(children: list[ChildProcess]) -> dict[ChildProcess, int]:
    """End all at the same time; their exit statuses."""
    _handle_signals(signal.SIG_IGN)  # a second Ctrl-C would not make it faster
    for child in reversed(children):
        child.interrupt()
    statuses = {child: child.end() for child in children}
    _handle_signals(signal.default_int_handler)
    return statuses


def _handle_signals(handler: Any) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def _require_recording(folder: Path) -> None:
    """Raise BadInput when the node has published nothing."""
    try:
        Bag(folder).close()
    except BadInput:
        raise BadInput('nothing was recorded: the node published nothing') from None


def _report(
    arguments: argparse.Namespace, record: ReplayRecord, drive: Bag, rig: CameraRig
) -> Summary:
    """Write record and report of the recording."""
    own = arguments.parameters
    limits = {name: own[name] for name in LIMITS if name in own}
    rig = replace(rig, limits=replace(rig.limits, **limits))
    chosen = NodeParameters(
        rig=arguments.rig, **read_node_parameters(arguments, PARAMETERS)
    ).chosen
    rig = select_cameras(rig, split_names(chosen.cameras))
    driven = DrivenPath(drive, rig)
    with Bag(arguments.out / RECORDING) as bag:
        messages = LiveMessages(bag, NODE)
    values: dict[str, Any] = {row.name: row.default for row in fields(NodeParameters)}
    values |= {'rig': arguments.rig, **asdict(rig.limits), **own}
    parameters = {**values, 'samples': values['num_samples'], 'rate': arguments.rate}
    run: Run = describe_run(drive, rig, RecordedNode(messages), parameters)
    run['anchors'] = count_fates(messages)
    record.begin(run)
    for line in make_lines(messages, drive, rig, driven):
        record.append(line)
    return rebuild(record, drive, rig, driven, {})


def _print_fates(summary: Mapping[str, Any]) -> None:
    """Print one line: what became of the anchor frames, and how old the paths were."""
    fates = summary['provenance']['anchors']
    age = summary['ms'].get('age')
    text = ', '.join(f'{count} {name}' for name, count in fates.items() if count)
    if age:
        text += f'; age p50 {age["p50"]:.0f}, p90 {age["p90"]:.0f}, at most {age["max"]:.0f} ms'
    print(f'live     {text or "the node published no diagnostics"}')


if __name__ == '__main__':
    sys.exit(main())
