"""A recorded drive through the live node: player, node and recorder as processes, then a report.

The processes are started as this one was: `python -m alpamayo_ros.cli.live` starts them on the
ROS 2 that is sourced; what runs this module in another way runs them in the same way. None of
them outlives this one.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import fields
import json
import math
from pathlib import Path
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from ..bags.reader import Bag
from ..errors import BadInput
from ..replay.driven_path import DrivenPath
from ..replay.live_recording import LiveMessages, Node, counts, lines
from ..replay.provenance import describe_run
from ..replay.rebuild import rebuild
from ..replay.record import ReplayRecord
from ..replay.replay import require_topics
from ..rig import CameraRig, load_rig
from ..ros.parameters import NodeParameters
from .engine_arguments import require
from .entry import command
from .launcher import launcher
from .replay import print_summary

NODE = '/alpamayo'
RECORDING = 'recording'
QOS = 'qos_overrides.'  # what the names of these parameters start with
END_LIMIT_S = 5.0


class Child:
    """A program of this package in a process of its own; its lines get its name in front."""

    def __init__(self, program: str, *options: str) -> None:
        self.name = program.rpartition('.')[2]
        self.ready = threading.Event()
        self.failure = ''
        self.process = subprocess.Popen(
            # should this process be killed, the kernel interrupts that one (Linux)
            ['setpriv', '--pdeathsig', 'INT', *launcher(), f'alpamayo_ros.{program}', *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl-C is for this process, which ends the others in order
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def runs(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.poll() is None

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            print(f'[{self.name}] {line}', end='', flush=True)
            if 'model error: ' in line:
                self.failure = line.split('model error: ')[1].strip()
            if self.failure or 'model ready' in line or line == 'recording\n':
                self.ready.set()

    def wait_until_ready(self) -> None:
        """Wait for its first sign; BadInput when it ends or fails instead."""
        while not self.ready.wait(0.1):
            if not self.runs:
                raise BadInput(f'{self.name}: ended with status {self.process.returncode}')
        if self.failure:
            raise BadInput(f'{self.name}: {self.failure}')

    def interrupt(self) -> None:
        """Ask it to end."""
        self.process.send_signal(signal.SIGINT)

    def end(self) -> int:
        """Wait for its end, and kill it if that takes too long; exit status."""
        try:
            status = self.process.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self._reader.join()
        return status


@command
def main(argv: list[str] | None = None) -> int:
    """Drive, record and report; 0 done, 1 no path or a process has failed, 2 bad input."""
    parser = argparse.ArgumentParser(
        prog='alpamayo_live',
        description=__doc__,
    )
    parser.add_argument('bag', type=Path, metavar='BAG', help='rosbag2 folder, .mcap or .db3')
    parser.add_argument('parameters', nargs='*', metavar='NAME:=VALUE', help='of the node')
    parser.add_argument('--rig', required=True, metavar='NAME', help='rig file, by name or path')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='new folder')
    parser.add_argument('--rate', type=float, default=1.0, help='1 is real time (default)')
    parser.add_argument(
        '--finish', type=float, default=2.0, metavar='S', help='for the last inference (2)'
    )
    parser.add_argument('--json', action='store_true', help='print the summary as the last line')
    arguments = parser.parse_intermixed_args(argv)
    require(0 < arguments.rate < math.inf, '--rate', arguments.rate, 'more than 0, finite')
    require(0 <= arguments.finish <= 3600, '--finish', arguments.finish, '0 to 3600 seconds')
    arguments.parameters = _parameters(arguments.parameters)
    rig = load_rig(arguments.rig)
    record = ReplayRecord(arguments.out)
    _on_signals(signal.default_int_handler)
    with Bag(arguments.bag) as bag:
        require_topics(bag, rig)
        record.claim(resume=False)
        try:
            failures = _drive(arguments)
        except KeyboardInterrupt:
            print(f'{arguments.out / RECORDING}: what was recorded until now', file=sys.stderr)
            raise
        for text in failures:
            print(f'alpamayo_live: {text}', file=sys.stderr)
        summary = _report(arguments, record, bag, rig)
    _print_live(summary)
    print_summary(summary, arguments.out)
    if arguments.json:
        print(json.dumps(summary))
    return 1 if failures or not summary['ok'] else 0


def _drive(arguments: argparse.Namespace) -> list[str]:
    """Start everything, play the drive and end everything; what went wrong, as sentences."""
    values = {'rig': arguments.rig, 'use_sim_time': 'true', **arguments.parameters}
    parameters = [x for name, value in values.items() for x in ('-p', f'{name}:={value}')]
    children: list[Child] = []
    early: list[Child] = []
    try:
        out = str(arguments.out / RECORDING)
        children.append(Child('cli.record', out, '--node', NODE))
        children.append(Child('cli.node', '--ros-args', *parameters))
        for child in children:
            child.wait_until_ready()
        rate = str(arguments.rate)
        player = Child('cli.play', str(arguments.bag), '--rig', arguments.rig, '--rate', rate)
        served = tuple(children)
        children.append(player)
        while player.runs and all(child.runs for child in served):
            time.sleep(0.1)
        if not player.runs:
            time.sleep(arguments.finish)
        early = [child for child in served if not child.runs]
    finally:
        statuses = _end(children)
    return [
        f'{child.name} ended with status {status}{" before its time" if child in early else ""}'
        for child, status in statuses.items()
        if status or child in early
    ]


def _end(children: list[Child]) -> dict[Child, int]:
    """End them, all at the same time; their exit statuses."""
    _on_signals(signal.SIG_IGN)  # a second Ctrl-C would not make it faster
    for child in reversed(children):
        child.interrupt()
    statuses = {child: child.end() for child in children}
    _on_signals(signal.default_int_handler)
    return statuses


def _on_signals(handler: Any) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def _parameters(texts: Iterable[str]) -> dict[str, str | int]:
    """Values by name, numbers only where the report needs them; BadInput for an unknown name."""
    known = [row.name for row in fields(NodeParameters)] + ['use_sim_time']
    values: dict[str, str | int] = {}
    for text in texts:
        name, sign, value = text.partition(':=')
        if not sign:
            raise BadInput(f'{text}: expected NAME:=VALUE, a parameter of the node')
        if name not in known and not name.startswith(QOS):
            expected = ', '.join([*known, f'{QOS}...'])
            raise BadInput(f'{text}: the node has no such parameter: expected one of {expected}')
        values[name] = _whole(text, value) if name in ('num_samples', 'seed') else value
    return values


def _whole(text: str, value: str) -> int:
    """An integer as the node reads it: 0x10 is 16."""
    try:
        return int(value, 0)
    except ValueError:
        raise BadInput(f'{text}: expected an integer') from None


def _report(
    arguments: argparse.Namespace, record: ReplayRecord, drive: Bag, rig: CameraRig
) -> dict[str, Any]:
    """Record and report of what was recorded."""
    driven = DrivenPath(drive, rig.odometry_topic)
    with Bag(arguments.out / RECORDING) as bag:
        heard = LiveMessages(bag, NODE)
    values: dict[str, Any] = {row.name: row.default for row in fields(NodeParameters)}
    values |= {'rig': arguments.rig, **arguments.parameters}
    parameters = {**values, 'samples': values['num_samples'], 'rate': arguments.rate}
    run = describe_run(drive, rig, Node(heard), parameters)
    record.begin({**run, 'anchors': counts(heard)})
    for line in lines(heard, drive, rig, driven, values['seed']):
        record.append(line)
    return rebuild(record, drive, rig, driven, {})


def _print_live(summary: Mapping[str, Any]) -> None:
    """Print one line: what became of the anchor frames, and how old the paths were."""
    found = summary['provenance']['anchors']
    age = summary['ms'].get('age')
    text = ', '.join(f'{count} {name}' for name, count in found.items() if count)
    if age:
        text += f'; age p50 {age["p50"]:.0f}, p90 {age["p90"]:.0f}, at most {age["max"]:.0f} ms'
    print(f'live     {text or "no diagnostics were heard"}')


if __name__ == '__main__':
    sys.exit(main())
