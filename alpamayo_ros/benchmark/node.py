"""Measures what the node costs without a model, as a process fed in real time.

Four cameras of JPEG images and odometry; the engine is constant_velocity, which looks at no
image, in a process of its own, and both processes are measured. Knows no command line, and rclpy
only as the counterpart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
import os
from pathlib import Path
import signal
import subprocess
import threading
import time
from typing import Any

import numpy as np

from ..bags.messages import TYPESTORE, message_factory
from ..data_types import NANOSECONDS
from ..errors import BadInput
from ..ros.peers.counterpart import Counterpart
from .jpeg import encode_jpeg

NODE = 'alpamayo_ros.ros.node'
NAME = 'alpamayo_benchmarked'
FOLDER = f'/{NAME}/input'  # topics that no vehicle has
CAMERAS = {'cross_left': 0, 'front_wide': 1, 'cross_right': 2, 'front_tele': 6}
CAMERA_HZ, ODOMETRY_HZ = 10, 100
SIZE = (1280, 720)
SPEED_MPS = 10.0
WARM_UP_S = 3.0  # a context needs 1.5 s of history
START_LIMIT_S, END_LIMIT_S = 20.0, 5.0
IMAGE, ODOMETRY = 'sensor_msgs/msg/CompressedImage', 'nav_msgs/msg/Odometry'
TARGETS = {'cpu_percent_of_a_core': 10.0, 'submit_p50_ms': 5.0}

make = message_factory()


@dataclass
class NodeOutputs:
    """What the node published: ages of its paths, last inference status, engine's process."""

    paths: int = 0
    ages_ms: list[float] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    engine_pid: int = 0
    states: dict[str, str] = field(default_factory=dict)

    def on_path(self, message: Any) -> None:
        """Count a path."""
        self.paths += 1

    def on_age(self, message: Any) -> None:
        """Note the time from a stamp to its path."""
        self.ages_ms.append(message.data)

    def on_diagnostics(self, message: Any) -> None:
        """Keep the statuses of the node."""
        for status in message.status:
            node, _, name = status.name.partition(': ')
            if node == f'/{NAME}':
                self.states[name] = status.message
                values = {pair.key: pair.value for pair in status.values}
                if name == 'inference':
                    self.values = values
                elif name == 'model' and values['process'].isdigit():
                    self.engine_pid = int(values['process'])


def measure(launcher: Sequence[str], folder: Path, seconds: Iterable[Any]) -> dict[str, Any]:
    """Measure one run.

    launcher: the start of a command line; a module's name follows it. seconds: an item for each
    second to measure. Writes a rig file into `folder`. Raises BadInput when the node does not
    come up.
    """
    heard = NodeOutputs()
    fed = {f'{FOLDER}/{name}/compressed': IMAGE for name in CAMERAS} | {
        f'{FOLDER}/odometry': ODOMETRY
    }
    listened = {
        f'/{NAME}/output/path': ('nav_msgs/msg/Path', heard.on_path),
        f'/{NAME}/debug/path_age_ms': ('std_msgs/msg/Float64', heard.on_age),
        '/diagnostics': ('diagnostic_msgs/msg/DiagnosticArray', heard.on_diagnostics),
    }
    rig = write_rig(folder / 'benchmark.yaml')
    counterpart = Counterpart(fed, listened)
    try:
        with _run_node(launcher, rig) as node, _feed_in_background(counterpart, node, heard):
            counterpart.spin(WARM_UP_S)
            heard.paths = 0
            heard.ages_ms.clear()
            pids = node.pid, heard.engine_pid
            start_s, start_cpu_s = time.monotonic(), [cpu_s(pid) for pid in pids]
            for _ in seconds:
                counterpart.spin(1.0)
            elapsed_s = time.monotonic() - start_s
            used_s = [
                cpu_s(pid) - before_s for pid, before_s in zip(pids, start_cpu_s, strict=True)
            ]
            figures = _summarise(heard, elapsed_s, used_s, pids)
            return {'started_by': ' '.join(launcher[1:]), **figures}
    finally:
        counterpart.close()


def _summarise(
    heard: NodeOutputs, elapsed_s: float, used_s: Sequence[float], pids: Sequence[int]
) -> dict[str, Any]:
    """Figures of a run; used_s and pids are those of the node and of its engine's process."""
    if not heard.ages_ms:
        raise BadInput(f'the node has published nothing: {heard.states}')
    p50, p95 = np.percentile(heard.ages_ms, [50, 95])
    figures: dict[str, Any] = {
        'seconds': round(elapsed_s, 2),
        'cameras': len(CAMERAS),
        'camera_hz': CAMERA_HZ,
        'image_bytes': len(encode_jpeg(SIZE)),
        'odometry_hz': ODOMETRY_HZ,
        'cpu_percent_of_a_core': round(100 * sum(used_s) / elapsed_s, 2),
        'engine_cpu_percent_of_a_core': round(100 * used_s[1] / elapsed_s, 2),
        'submit_p50_ms': float(heard.values['submit ms']),
        'submit_p99_ms': float(heard.values['submit p99 ms']),
        'stamp_to_path_p50_ms': round(float(p50), 3),
        'stamp_to_path_p95_ms': round(float(p95), 3),
        'paths_per_s': round(heard.paths / elapsed_s, 2),
        'anchors': {key: int(heard.values[key]) for key in ('seen', 'inferred', 'dropped')},
        'resident_mb': round(resident_bytes(pids[0]) / 1e6, 1),
        'engine_resident_mb': round(resident_bytes(pids[1]) / 1e6, 1),
    }
    return figures | {'ok': all(figures[name] < limit for name, limit in TARGETS.items())}


@contextmanager
def _run_node(launcher: Sequence[str], rig: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the node in its own process; interrupt it at the end."""
    parameters = {'rig': rig, 'engine': 'constant_velocity'}
    options = [x for name, value in parameters.items() for x in ('-p', f'{name}:={value}')]
    command = [*launcher, NODE, '--ros-args', '-r', f'__node:={NAME}', *options]
    node = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        yield node
    finally:
        node.send_signal(signal.SIGINT)
        try:
            node.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            node.kill()
            node.wait()


@contextmanager
def _feed_in_background(
    counterpart: Counterpart, node: subprocess.Popen[bytes], heard: NodeOutputs
) -> Iterator[None]:
    """Feed the node in a thread as soon as it is ready."""
    end_s = time.monotonic() + START_LIMIT_S
    while not (counterpart.is_matched() and heard.states.get('model') == 'ready'):
        if node.poll() is not None:
            raise BadInput(f'the node ended with status {node.returncode}')
        if time.monotonic() > end_s:
            raise BadInput(f'the node is not ready after {START_LIMIT_S:g} s: {heard.states}')
        counterpart.spin(0.1)
    stop = threading.Event()
    feeder = threading.Thread(target=feed, args=(counterpart, stop))
    feeder.start()
    try:
        yield
    finally:
        stop.set()
        feeder.join()


def feed(counterpart: Counterpart, stop: threading.Event) -> None:
    """Send every message at its stamp, odometry before the images of the same time."""
    image, first_ns = encode_jpeg(SIZE), time.time_ns()
    for tick in count():
        stamp_ns = first_ns + tick * NANOSECONDS // ODOMETRY_HZ
        if stop.wait(max(stamp_ns - time.time_ns(), 0) / NANOSECONDS):
            break
        counterpart.publish(f'{FOLDER}/odometry', build_odometry(stamp_ns, tick / ODOMETRY_HZ))
        if tick % (ODOMETRY_HZ // CAMERA_HZ) == 0:
            payload = build_image(stamp_ns, image)
            for name in CAMERAS:
                counterpart.publish(f'{FOLDER}/{name}/compressed', payload)


def build_image(stamp_ns: int, image: np.ndarray) -> bytes:
    """CDR bytes of a CompressedImage."""
    message = make(IMAGE, header=_build_header(stamp_ns), format='jpeg', data=image)
    return bytes(TYPESTORE.serialize_cdr(message, IMAGE))


def build_odometry(stamp_ns: int, seconds: float) -> bytes:
    """CDR bytes of the odometry of a vehicle that drives straight on."""
    message = make(ODOMETRY, header=_build_header(stamp_ns), child_frame_id='base_link')
    message.pose.pose.position.x = SPEED_MPS * seconds
    message.twist.twist.linear.x = SPEED_MPS
    return bytes(TYPESTORE.serialize_cdr(message, ODOMETRY))


def _build_header(stamp_ns: int) -> Any:
    sec, nanosec = divmod(stamp_ns, NANOSECONDS)
    stamp = make('builtin_interfaces/msg/Time', sec=sec, nanosec=nanosec)
    return make('std_msgs/msg/Header', stamp=stamp, frame_id='odom')


def write_rig(path: Path) -> Path:
    """Write the rig file of the four cameras."""
    lines = ['anchor: front_wide', f'odometry_topic: {FOLDER}/odometry', 'cameras:']
    for name, index in CAMERAS.items():
        topic = f'{FOLDER}/{name}/compressed'
        lines.append(f'  - {{name: {name}, index: {index}, topic: {topic}}}')
    path.write_text('\n'.join(lines), encoding='utf-8')
    return path


def cpu_s(pid: int) -> float:
    """Seconds that all threads of a process have computed, in ticks of 10 ms."""
    fields = Path(f'/proc/{pid}/stat').read_text(encoding='utf-8').rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM."""
    pages = Path(f'/proc/{pid}/statm').read_text(encoding='utf-8').split()[1]
    return int(pages) * os.sysconf('SC_PAGE_SIZE')
