"""Nodes in this process and in others, all traffic on loopback in a DDS domain of its own."""

from dataclasses import dataclass
import itertools
import os
from pathlib import Path
import queue
import shlex
import signal
import subprocess
import sys
import threading
import time

import pytest

from rosless.benchmark import LOOPBACK
from rosless.importer import install

os.environ['CYCLONEDDS_URI'] = LOOPBACK
os.environ['ROS_DOMAIN_ID'] = str(1 + os.getpid() % 99)  # two runs on one machine keep apart
os.environ.pop('ROS_DISTRO', None)
install()
# A shell ignores SIGINT for its background jobs, and what they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

import rclpy  # noqa: E402 - importable from here on
import rclpy.executors  # noqa: E402

LIMIT_S = 10.0
FOLDER = Path(__file__).parent
# setup.bash of a real ROS 2: the programs then run on it, while this process stays with rosless
PEER_SETUP = os.environ.get('PEER_SETUP', '')


@dataclass
class Program:
    """A function of programs.py in a process of its own."""

    process: subprocess.Popen

    def __post_init__(self):
        self._lines: queue.Queue[str] = queue.Queue()
        self.seen: list[str] = []
        self._threads = [
            threading.Thread(target=self._read, args=(stream,), daemon=True)
            for stream in (self.process.stdout, self.process.stderr)
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, stream) -> None:
        for line in stream:
            self._lines.put(line.rstrip('\n'))

    def line(self, text: str, limit_s: float = LIMIT_S) -> str:
        """Next line with a text in it; fails if the program says none within the limit."""
        end_s = time.monotonic() + limit_s
        while True:
            try:
                found = self._lines.get(timeout=max(end_s - time.monotonic(), 0))
            except queue.Empty:
                pytest.fail(f'no {text!r} among {self.seen}')
            self.seen.append(found)
            if text in found:
                return found

    def rest(self) -> list[str]:
        """All lines that were not yet asked for, of a program that has ended."""
        for thread in self._threads:
            thread.join(LIMIT_S)
        return list(self._lines.queue)

    def end(self, number: int = signal.SIGINT) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(LIMIT_S)


@pytest.fixture
def program():
    """Start a function of programs.py with arguments; ended with the test."""
    started = []

    def start(name: str, *arguments: str, **environment: str) -> Program:
        command = [sys.executable, '-u', '-m', 'rosless', f'programs:{name}', *arguments]
        if PEER_SETUP:
            script = f'source {shlex.quote(PEER_SETUP)} && exec {shlex.join(command)}'
            command = ['bash', '-c', script]
        process = subprocess.Popen(
            command,
            cwd=FOLDER,
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return Program(process)

    yield start
    for process in started:  # killed readers would hold up reliable writers for 10 s
        process.terminate()
    for process in started:
        try:
            process.wait(1)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def node():
    """Node of this process, in its own context."""
    rclpy.init(args=[], signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
    made = rclpy.create_node('tester')
    yield made
    made.destroy_node()
    rclpy.try_shutdown()


@pytest.fixture
def spin_until(node):
    """Spin the node until a condition holds; fails if it does not within the limit."""
    executor = rclpy.executors.SingleThreadedExecutor()
    executor.add_node(node)

    def spin(condition, limit_s: float = LIMIT_S) -> None:
        end_s = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < end_s, 'the condition did not come true'
            executor.spin_once(timeout_sec=0.05)

    spin.executor = executor
    yield spin
    executor.shutdown()


@pytest.fixture
def call(node, spin_until):
    """Call a service of another process and return its response."""

    def send(srv_type, name: str, **fields):
        client = node.create_client(srv_type, name)
        assert client.wait_for_service(timeout_sec=LIMIT_S)
        future = client.call_async(srv_type.Request(**fields))
        spin_until(future.done)
        node.destroy_client(client)
        return future.result()

    return send


@pytest.fixture
def topic():
    """Name of a topic that no other test uses."""
    return f'/topic_{next(_numbers)}'


_numbers = itertools.count()
