"""Starts programs that need rclpy, with and without a ROS 2 installation.

Where there is no ROS 2, a stand-in starts a program as `python -m STANDIN MODULE`; a process that
was started so starts others in the same way.
"""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import threading

from ...errors import BadInput

END_LIMIT_S = 5.0


def launcher() -> list[str]:
    """Command line of this process up to the name of its module; `python -m` for a script."""
    spec = sys.modules['__main__'].__spec__
    argv = sys.orig_argv
    return argv[: argv.index(spec.name)] if spec and spec.name in argv else [sys.executable, '-m']


def require_rclpy() -> None:
    """Raise BadInput where rclpy cannot be imported."""
    if importlib.util.find_spec('rclpy') is None:
        raise BadInput(
            'rclpy is not there: source a ROS 2 installation first, '
            'as in `source /opt/ros/jazzy/setup.bash`'
        )


class ChildProcess:
    """A program of this package in a process of its own; prints its lines with its name in front.

    failure: the error of the model that the program has printed, or ''.
    """

    def __init__(self, program: str, *options: str) -> None:
        self.name = program.rpartition('.')[2]
        self.failure = ''
        self._ready = threading.Event()
        self._process = subprocess.Popen(
            # should this process be killed, the kernel interrupts the child (Linux)
            ['setpriv', '--pdeathsig', 'INT', *launcher(), f'alpamayo_ros.{program}', *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl-C is for this process, which ends the others in order
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended yet."""
        return self._process.poll() is None

    def wait_until_ready(self) -> None:
        """Wait until the program says that it is; raise BadInput when it ends or fails instead."""
        while not self._ready.wait(0.1):
            if not self.is_running:
                raise BadInput(f'{self.name}: ended with status {self._process.returncode}')
        if self.failure:
            raise BadInput(f'{self.name}: {self.failure}')

    def interrupt(self) -> None:
        """Ask the process to end."""
        self._process.send_signal(signal.SIGINT)

    def end(self) -> int:
        """Wait for the end and kill the process if that takes too long; return its status."""
        try:
            status = self._process.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._reader.join()
        return status

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            print(f'[{self.name}] {line}', end='', flush=True)
            if 'model failed: ' in line:
                self.failure = line.split('model failed: ')[1].strip()
            if self.failure or 'model ready' in line or line == 'recording\n':
                self._ready.set()
