"""Tests over the wire: the node as a process of its own, and a peer that feeds and hears it.

Where ROS 2 is sourced the same tests run on its rclpy. With PEER_SETUP=/opt/ros/jazzy/setup.bash
only the node does, and this process stays with rosless. All traffic stays on loopback, in a DDS
domain of its own.
"""

from contextlib import contextmanager
import os
from pathlib import Path
import queue
import shlex
import signal
import subprocess
import sys
import threading
import time

from rosless.benchmark import LOOPBACK
from rosless.importer import install
from small_bag import ODOMETRY, image_topic

from alpamayo_ros.bags.messages import TYPESTORE
from alpamayo_ros.data_types import NANOSECONDS

os.environ['CYCLONEDDS_URI'] = LOOPBACK
os.environ['ROS_DOMAIN_ID'] = str(1 + os.getpid() % 100)  # test runs side by side do not meet
install()

import rclpy  # noqa: E402 - importable from here on
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy  # noqa: E402
from rclpy.signals import SignalHandlerOptions  # noqa: E402

from alpamayo_ros.ros.diagnostics import t0_status  # noqa: E402
from alpamayo_ros.ros.diagnostics.status import ARRAY_TYPE  # noqa: E402
from alpamayo_ros.ros.messages import import_interface, make  # noqa: E402
from alpamayo_ros.ros.publishing.outputs import OUTPUTS  # noqa: E402

LIMIT_S = 60.0  # of what takes a second on an idle machine
ATTEMPTS = 3  # a busy machine may lose a message, or all but the newest context
PEER_SETUP = os.environ.get('PEER_SETUP', '')
FOLDER = Path(__file__).parent
NODE = 'alpamayo_ros.ros.node'
TYPES = {output.topic: output.type_name for output in OUTPUTS} | {t0_status.TOPIC: ARRAY_TYPE}
BEST_EFFORT = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def arguments(**parameters):
    """Command-line arguments of a node with these parameters."""
    found = ['--ros-args']
    for name, value in parameters.items():
        shown = str(value).lower() if isinstance(value, bool) else str(value)
        found += ['-p', f'{name}:={shown}']
    return found


class Process:
    """A program under `python -m rosless`; its output is kept as lines."""

    def __init__(self, program, *options, **environment):
        self.lines, self._new = [], queue.Queue()
        command = [sys.executable, '-u', '-m', 'rosless', program, *options]
        if PEER_SETUP:
            script = f'source {shlex.quote(PEER_SETUP)} && exec {shlex.join(map(str, command))}'
            command = ['bash', '-c', script]
        self.process = subprocess.Popen(
            command,
            cwd=FOLDER,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line.rstrip('\n'))
            self._new.put(line)

    def wait_for_line(self, text, limit_s=LIMIT_S):
        """Wait for a line with a text in it."""
        end_s = time.monotonic() + limit_s
        while not any(text in line for line in self.lines):
            left_s = end_s - time.monotonic()
            assert left_s > 0, f'no {text!r} among {self.lines}'
            try:
                self._new.get(timeout=left_s)
            except queue.Empty:
                continue

    def end(self, number=signal.SIGINT, limit_s=LIMIT_S):
        """Send a signal; return the exit status and the seconds that it took."""
        start_s = time.monotonic()
        self.process.send_signal(number)
        status = self.process.wait(limit_s)
        self._reader.join(LIMIT_S)
        return status, time.monotonic() - start_s

    def wait(self, limit_s=LIMIT_S):
        """Exit status of a program that ends by itself."""
        status = self.process.wait(limit_s)
        self._reader.join(LIMIT_S)
        return status

    def kill(self):
        """End it, whatever it does."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(2)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Peer:
    """A node that plays the vehicle: publishes inputs and /clock, keeps all that it hears."""

    def __init__(self, rig):
        self.context = rclpy.Context()
        rclpy.init(args=[], context=self.context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node('vehicle', context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.heard = {topic: [] for topic in TYPES}
        self.statuses = {}
        for topic, type_name in TYPES.items():
            self.node.create_subscription(
                import_interface(type_name),
                f'/alpamayo/{topic}',
                self.heard[topic].append,
                QoSProfile(depth=50),
            )
        kind = import_interface('diagnostic_msgs/msg/DiagnosticArray')
        self.node.create_subscription(kind, '/diagnostics', self._on_diagnostics, 10)
        images = [camera.topic for camera in rig.cameras]
        image, odometry = 'sensor_msgs/msg/CompressedImage', 'nav_msgs/msg/Odometry'
        self.types = dict.fromkeys(images, image) | {rig.odometry_topic: odometry}
        self.inputs = {
            topic: self.node.create_publisher(import_interface(kind), topic, BEST_EFFORT)
            for topic, kind in self.types.items()
        }
        self.clock = self.node.create_publisher(
            import_interface('rosgraph_msgs/msg/Clock'),
            '/clock',
            QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT),
        )

    def close(self):
        """Leave the graph."""
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def _on_diagnostics(self, message):
        for status in message.status:
            values = {pair.key: pair.value for pair in status.values}
            level = status.level[0] if isinstance(status.level, bytes) else status.level
            self.statuses[status.name.split(': ', 1)[1]] = (level, status.message, values)

    def spin(self, seconds):
        """Hear for some time."""
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            self.executor.spin_once(timeout_sec=left_s)

    def until(self, condition, what, limit_s=LIMIT_S):
        """Hear until a condition holds."""
        end_s = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < end_s, f'{what}: {self.statuses}'
            self.executor.spin_once(timeout_sec=0.05)

    def status(self, name):
        """Level, sentence and values of a status, heard from now on."""
        self.statuses.pop(name, None)
        self.until(lambda: name in self.statuses, f'no status {name}')
        return self.statuses[name]

    def wait_for_node(self, state='ready'):
        """Wait until the node listens and its model is in a state."""

        def met():
            matched = all(x.get_subscription_count() for x in self.inputs.values())
            outputs = [f'/alpamayo/{topic}' for topic in TYPES]
            matched = matched and all(map(self.node.count_publishers, outputs))
            return matched and self.statuses.get('model', (0, ''))[1] == state

        self.statuses.clear()
        self.until(met, f'the node is not {state}')

    def forget(self):
        """Drop what was heard."""
        for messages in self.heard.values():
            messages.clear()

    def tell_time(self, now_ns):
        """Publish /clock."""
        sec, nanosec = divmod(int(now_ns), NANOSECONDS)
        stamp = make('builtin_interfaces/msg/Time', sec=sec, nanosec=nanosec)
        self.clock.publish(make('rosgraph_msgs/msg/Clock', clock=stamp))

    def play(self, messages, rate=5.0):
        """Publish (log_ns, topic, message) at a multiple of real time, and /clock every 10 ms."""
        first_ns, start_s = messages[0][0], time.monotonic()
        told_ns = 0
        for log_ns, topic, message in messages:
            due_s = start_s + (log_ns - first_ns) / NANOSECONDS / rate
            if (left_s := due_s - time.monotonic()) > 0:
                self.spin(left_s)
            if abs(log_ns - told_ns) >= 10_000_000:
                told_ns = log_ns
                self.tell_time(log_ns)
            payload = TYPESTORE.serialize_cdr(message, self.types[topic])
            self.inputs[topic].publish(bytes(payload))
        self.spin(0.2)

    def play_until(self, condition, messages, rate=5.0, seen=0):
        """Play, and again more slowly, until a condition of the counts holds; returns them."""
        for attempt in range(1, ATTEMPTS + 1):
            self.play(messages, rate / attempt)
            counts = self.settled(seen)
            if condition(counts):
                break
        return counts

    def settled(self, seen):
        """Wait until so many anchors have arrived and all have a fate; returns the counts.

        Ask for less than was sent: a busy machine drops what is best effort.
        """

        def values():
            return self.statuses.get('inference', (0, '', {}))[2]

        def met():
            found = values()
            return int(found.get('seen', -1)) >= seen and found['pending'] == '0'

        self.statuses.clear()
        self.until(met, f'fewer than {seen} anchors settled')
        self.spin(0.1)  # nothing orders what different writers send
        fates = ('inferred', 'failed', 'dropped', 'rejected', 'discarded')
        counts = {fate: int(values()[fate]) for fate in fates}
        assert int(values()['seen']) == sum(counts.values())
        return counts

    def call(self, kind, name, **fields):
        """Response of a service of the node."""
        service = import_interface(kind)
        client = self.node.create_client(service, f'/alpamayo/{name}')
        self.until(client.service_is_ready, f'no service {name}')
        future = client.call_async(service.Request(**fields))
        self.until(future.done, f'no answer of {name}')
        self.node.destroy_client(client)
        return future.result()

    def set_parameter(self, name, value):
        """Result of setting one parameter of the node."""
        message = Parameter(name, value=value).to_parameter_msg()
        kind = 'rcl_interfaces/srv/SetParameters'
        return self.call(kind, 'set_parameters', parameters=[message]).results[0]


@contextmanager
def running(program, *options, **environment):
    """A program that is ended with the block."""
    process = Process(program, *options, **environment)
    try:
        yield process
    finally:
        process.kill()


def stamp_ns(message):
    """Header stamp of a message."""
    return message.header.stamp.sec * NANOSECONDS + message.header.stamp.nanosec


TOPICS = {
    'odometry': ODOMETRY,
    'tele': image_topic('front_tele'),
    'wide': image_topic('front_wide'),
}
