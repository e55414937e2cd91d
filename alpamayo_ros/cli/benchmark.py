"""alpamayo_benchmark: how fast a part is on this machine, as a table and a last line of JSON.

Each benchmark imports what it measures, so that figures of memory are its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
import importlib.metadata
from itertools import islice
import json
import os
from pathlib import Path
import platform
import resource
import sys
import tempfile
import time
from typing import Any

import numpy as np
from tqdm import tqdm

from ..context.buffer import ContextBuffer
from ..data_types import GRID_NS, NANOSECONDS, Context, EgoPose, Frame
from ..errors import BadInput
from ..json_types import Line
from ..rig import CameraRig, load_rig
from .benchmark_engine import add_engine, add_kernels, add_quantize
from .engine_arguments import add_engine_arguments, check_engine_arguments, make_engine
from .entry import command
from .processes.launcher import launcher, require_rclpy

CAMERA_JITTER_NS = 3_000_000
POSE_NS = NANOSECONDS // 100
SPEED_MPS = 10.0
WARM_UP = 20  # contexts left out of the figures
WARM_UP_LINES = 3  # the same for whole inferences
SYNTHETIC_S = 8


@command
def main(argv: list[str] | None = None) -> int:
    """Run one benchmark."""
    parser = argparse.ArgumentParser(prog='alpamayo_benchmark', description=__doc__)
    parts = parser.add_subparsers(dest='part', required=True, metavar='PART')
    _add_context(parts)
    _add_replay(parts)
    add_engine(parts)
    add_quantize(parts)
    add_kernels(parts)
    _add_node(parts)
    arguments = parser.parse_args(argv)
    arguments.card = {'benchmark': arguments.part, **_card(arguments.packages)}
    figures = arguments.run(arguments)
    report({**arguments.card, **figures})
    return 1 if figures.get('failed') else 0


def _add_context(parts: Any) -> None:
    text = 'building contexts from a synthetic stream, without decoding images'
    part = parts.add_parser('context', help=text, description=text)
    part.add_argument('--contexts', type=int, default=2000, help='how many (default: 2000)')
    part.add_argument('--rig', default='r1', help='name or path of the rig (default: r1)')
    part.set_defaults(run=benchmark_context, packages=('numpy',))


def benchmark_context(arguments: argparse.Namespace) -> dict[str, Any]:
    """One core: every message is added, and the waiting anchor asked for, as in the live node."""
    if arguments.contexts < 1:
        raise BadInput(f'--contexts {arguments.contexts}: expected 1 or more')
    rig = load_rig(arguments.rig)
    count = arguments.contexts + WARM_UP
    messages = synthetic_messages(rig, count)
    buffer, t0_ns, start = ContextBuffer(rig), None, 0.0
    serving_ms: list[float] = []
    for topic, message in tqdm(messages, desc='messages', dynamic_ncols=True):
        if len(serving_ms) == WARM_UP and not start:
            start = time.perf_counter()
        if isinstance(message, EgoPose):
            buffer.add_pose(message)
        else:
            buffer.add_frame(topic, message)
            t0_ns = message.stamp_ns if topic == rig.anchor else t0_ns
        asked = time.perf_counter()
        answer = buffer.context_at(t0_ns) if t0_ns else None
        t0_ns = None if answer else t0_ns
        if isinstance(answer, Context):
            serving_ms.append((time.perf_counter() - asked) * 1e3)
            if len(serving_ms) == count:
                break
    seconds = time.perf_counter() - start
    served = serving_ms[WARM_UP:]
    return {
        'n': len(served),
        'contexts_per_s': round(len(served) / seconds, 1),
        'context_ms': spread(served),
        'cameras': len(rig.cameras),
        'odometry_hz': NANOSECONDS // POSE_NS,
    }


def _add_replay(parts: Any) -> None:
    text = 'replaying a bag through a checkpoint, without writing results'
    part = parts.add_parser('replay', help=text, description=text)
    part.add_argument('bag', type=Path, nargs='?', metavar='BAG', help='default: a synthetic one')
    part.add_argument('--rig', default='synthetic', help='name or path (default: synthetic)')
    part.add_argument('--contexts', type=int, default=40, help='how many (default: 40)')
    add_engine_arguments(part)
    packages = ('numpy', 'torch', 'transformers', 'rosbags')
    part.set_defaults(run=benchmark_replay, packages=packages)


def benchmark_replay(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every anchor in turn, from the bytes of the bag to the finished line of the record."""
    from ..bags.reader import Bag
    from ..bags.synthetic_drive import drive_messages, write_bag
    from ..replay.replay import Replay, Schedule, require_topics

    if arguments.contexts < 1:
        raise BadInput(f'--contexts {arguments.contexts}: expected 1 or more')
    with tempfile.TemporaryDirectory() as folder:
        if arguments.bag is None:
            arguments.bag = Path(folder) / 'drive'
            write_bag(arguments.bag, drive_messages(seed=0, seconds=SYNTHETIC_S))
        if arguments.engine == 'alpamayo' and arguments.checkpoint is None:
            from ..model.small.untrained import (
                write_small_checkpoint,  # torch takes seconds to import
            )

            arguments.checkpoint = Path(folder) / 'checkpoint'
            write_small_checkpoint(arguments.checkpoint, seed=0)
        check_engine_arguments(arguments)
        rig, engine = load_rig(arguments.rig), make_engine(arguments)
        with Bag(arguments.bag) as bag:
            require_topics(bag, rig)
            lines = Replay(bag, rig, engine, Schedule(period_ns=0), arguments.seed).lines()
            served = (line for line in lines if line['status'] == 'ok')
            return _replay_figures(served, arguments)


def _replay_figures(served: Iterator[Line], arguments: argparse.Namespace) -> dict[str, Any]:
    """Take WARM_UP_LINES, then time the wanted number of lines."""
    warm_up = list(islice(served, WARM_UP_LINES))
    start = time.perf_counter()
    wanted = islice(served, arguments.contexts)
    lines = list(tqdm(wanted, desc='t0', total=arguments.contexts, dynamic_ncols=True))
    seconds = time.perf_counter() - start
    if not lines:
        raise BadInput(f'{arguments.bag}: only {len(warm_up)} contexts, expected more')
    return {
        'n': len(lines),
        'contexts_per_s': round(len(lines) / seconds, 2),
        **{f'{stage}_ms': spread(line['ms'][stage] for line in lines) for stage in lines[0]['ms']},
        'engine': arguments.engine,
        'samples': arguments.samples,
        'device': arguments.device,
    }


def _add_node(parts: Any) -> None:
    """Add the part `node`."""
    text = 'what the live node costs without a model: a process of its own, fed over the wire'
    part = parts.add_parser('node', help=text, description=text)
    part.add_argument('--seconds', type=int, default=20, help='how long (default: 20)')
    part.set_defaults(run=benchmark_node, packages=('numpy',))


def benchmark_node(arguments: argparse.Namespace) -> dict[str, Any]:
    """In real time; the node is started as this process was."""
    if arguments.seconds < 1:
        raise BadInput(f'--seconds {arguments.seconds}: expected 1 or more')
    require_rclpy()
    from ..benchmark import node as node_benchmark  # imports rclpy

    with tempfile.TemporaryDirectory() as folder:
        seconds = tqdm(range(arguments.seconds), desc='seconds', dynamic_ncols=True)
        return node_benchmark.measure(launcher(), Path(folder), seconds)


def synthetic_messages(rig: CameraRig, contexts: int) -> list[tuple[str, Frame | EgoPose]]:
    """(camera or 'odometry', message) by stamp: jittered 10 Hz frames, poses on a straight."""
    rng = np.random.default_rng(0)
    first_ns = 1_700_000_000 * NANOSECONDS
    image = np.zeros(100_000, np.uint8)
    rotation = np.array([0.0, 0.0, 0.0, 1.0])
    span_ns = (contexts + 18) * GRID_NS  # the first 1.5 s serve nothing
    messages: list[tuple[str, Frame | EgoPose]] = []
    for camera in rig.cameras:
        for age_ns in range(GRID_NS, span_ns, GRID_NS):
            stamp_ns = first_ns + age_ns + int(rng.integers(-CAMERA_JITTER_NS, CAMERA_JITTER_NS))
            messages.append((camera.name, Frame(stamp_ns, 'jpeg', image)))
    for age_ns in range(0, span_ns, POSE_NS):
        position = np.array([4e6 + SPEED_MPS * age_ns / NANOSECONDS, 5e6, 0.0])
        messages.append(('odometry', EgoPose(first_ns + age_ns, position, rotation, SPEED_MPS)))
    return sorted(messages, key=lambda message: message[1].stamp_ns)


def spread(values_ms: Iterable[float]) -> dict[str, float]:
    """Median, 90th percentile and maximum, rounded to microseconds."""
    p50, p90, highest = np.percentile(list(values_ms), [50, 90, 100]).round(3)
    return {'p50': float(p50), 'p90': float(p90), 'max': float(highest)}


def report(document: dict[str, Any]) -> None:
    """Print the card of this machine, a table of the figures, and everything as one JSON line."""
    document['peak_rss_mb'] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    for key, value in document.items():
        shown = value.items() if isinstance(value, dict) else [('', value)]
        for name, entry in shown:
            if isinstance(entry, dict):
                continue  # shown as a table
            print(f'{f"{key} {name}".strip():<28} {entry}')
    print(json.dumps(document))


def _card(packages: Iterable[str]) -> dict[str, Any]:
    """What the figures depend on: processor and versions."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path('/proc/cpuinfo')
    if cpuinfo.is_file():
        rows = (line.partition(':') for line in cpuinfo.read_text(encoding='utf-8').splitlines())
        model = next((v.strip() for key, _, v in rows if key.strip() == 'model name'), model)
    installed = {entry.metadata['Name'] for entry in importlib.metadata.distributions()}
    versions = {x: importlib.metadata.version(x) for x in packages if x in installed}
    return {
        'machine': model,
        'cores': os.cpu_count(),
        'versions': {'python': platform.python_version(), **versions},
    }


if __name__ == '__main__':
    sys.exit(main())
