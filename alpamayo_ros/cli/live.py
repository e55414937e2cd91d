"""A recorded drive through the live node: player, node and recorder as processes, then a report.

The processes are started as this one was: `python -m alpamayo_ros.cli.live` starts them on the
ROS 2 that is sourced; what runs this module in another way runs them in the same way.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
import json
from pathlib import Path
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from ..errors import BadInput
from ..evaluation.bag import Bag
from ..evaluation.driven import DrivenPath
from ..evaluation.provenance import describe_run
from ..evaluation.record import Record
from ..evaluation.recording import Heard, Node, lines
from ..evaluation.replay import require_topics
from ..evaluation.report import rebuild
from ..rig import CameraRig, load_rig
from ..ros.parameters import NodeParameters
from .entry import command
from .launcher import launcher
from .replay import print_summary

NODE = '/alpamayo'
RECORDING = 'recording'
END_LIMIT_S = 5.0


class Child:
    """A program of this package in a process of its own; its lines get its name in front."""

    def __init__(self, program: str, *options: str) -> None:
        self.name = program.rpartition('.')[2]
        self.ready = threading.Event()
        self.failure = ''
        self.process = subprocess.Popen(
            [*launcher(), f'alpamayo_ros.{program}', *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl-C is for this process, which ends the others in order
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

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
            if self.process.poll() is not None:
                raise BadInput(f'{self.name}: ended with status {self.process.returncode}')
        if self.failure:
            raise BadInput(f'{self.name}: {self.failure}')

    def end(self) -> int:
        """Interrupt it, and kill it if that does not help; exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(END_LIMIT_S)
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
    rig = load_rig(arguments.rig)
    record = Record(arguments.out)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Bag(arguments.bag) as bag:
        require_topics(bag, rig)
        record.claim(resume=False)
        statuses = _drive(arguments)
        summary = _report(arguments, record, bag, rig)
    print_summary(summary, arguments.out)
    failed = [f'{name} ended with status {status}' for name, status in statuses.items() if status]
    for text in failed:
        print(f'alpamayo_live: {text}', file=sys.stderr)
    if arguments.json:
        print(json.dumps(summary))
    return 1 if failed or not summary['ok'] else 0


def _drive(arguments: argparse.Namespace) -> dict[str, int]:
    """Start everything, play the drive and end everything; exit statuses by name."""
    values = {'rig': arguments.rig, 'use_sim_time': 'true'}
    values |= dict(_assignment(text) for text in arguments.parameters)
    parameters = [x for name, value in values.items() for x in ('-p', f'{name}:={value}')]
    children: list[Child] = []
    try:
        children.append(Child('ros.node', '--ros-args', *parameters))
        out = str(arguments.out / RECORDING)
        children.append(Child('cli.record', out, '--node', NODE))
        for child in children:
            child.wait_until_ready()
        rate = str(arguments.rate)
        player = Child('cli.play', str(arguments.bag), '--rig', arguments.rig, '--rate', rate)
        children.append(player)
        while player.process.poll() is None:
            _check(children[:-1])
            time.sleep(0.1)
        time.sleep(arguments.finish)
        _check(children[:-1])
    finally:
        statuses = {child.name: child.end() for child in reversed(children)}
    return statuses


def _assignment(text: str) -> tuple[str, str]:
    name, sign, value = text.partition(':=')
    if not sign:
        raise BadInput(f'{text}: expected NAME:=VALUE, a parameter of the node')
    return name, value


def _check(children: Sequence[Child]) -> None:
    for child in children:
        if child.process.poll() is not None:
            raise BadInput(f'{child.name}: ended with status {child.process.returncode}')


def _report(
    arguments: argparse.Namespace, record: Record, drive: Bag, rig: CameraRig
) -> dict[str, object]:
    """Record and report of what was recorded."""
    driven = DrivenPath(drive, rig.odometry_topic)
    with Bag(arguments.out / RECORDING) as bag:
        heard = Heard(bag, NODE)
    values: dict[str, Any] = {row.name: row.default for row in fields(NodeParameters)}
    values |= dict(_assignment(text) for text in arguments.parameters)
    parameters = {**values, 'samples': int(values['num_samples']), 'rate': arguments.rate}
    record.begin(describe_run(drive, rig, Node(heard), parameters))
    for line in lines(heard, drive, rig, driven):
        record.append(line)
    return rebuild(record, drive, rig, driven, {})


if __name__ == '__main__':
    sys.exit(main())
