"""Soak test of the node: driving at five times real time, with a fault in every second.

`python test/soak.py [--seconds 600] [--seed 0] [--engine mixed]` prints how it goes and a last
line of JSON; the exit status is 1 when a rule is broken. The rules:

- the node does not crash and ends with 0 on SIGINT; every service call is answered
- its memory grows by less than 20 MB after the first minute
- every published path has the stamp of an anchor frame that was sent, is later than the one before
  in its epoch, is finite and not expired, and no prediction that is invalid or unhealthy
- nothing is published while paused, without a model or while the engine fails, by the time of
  publication: a held path neither
- every path begins where the vehicle was at that time, within 0.3 m and 2 degrees
- at all times seen = inferred + failed + dropped + rejected + discarded + pending, and in the end
  nothing is pending

The seed chooses faults and policies. The engine is constant velocity, or mixed: by turns that and
the small checkpoint, one load after the other.
"""

import argparse
from collections import Counter
import json
import os
from pathlib import Path
import sys
import tempfile
import time

import numpy as np
from small_bag import ODOMETRY, START_NS, write_rig
from soak_faults import ANCHOR, FAULTS, IMAGES, MS, OTHER_ODOMETRY, SECOND, drive, stamp_of
from soak_rules import GRACE_S, Halt, Rules
from wire import BEST_EFFORT, LIMIT_S, Process, arguments

import rclpy  # isort: skip - importable once wire is imported
from rclpy.executors import SingleThreadedExecutor  # isort: skip
from rclpy.parameter import Parameter  # isort: skip
from rclpy.qos import QoSProfile, ReliabilityPolicy  # isort: skip
from rclpy.signals import SignalHandlerOptions  # isort: skip

from alpamayo_ros.bags.messages import TYPESTORE
from alpamayo_ros.benchmark.node import resident_bytes
from alpamayo_ros.ros.anchors import FATES
from alpamayo_ros.ros.diagnostics import t0_status
from alpamayo_ros.ros.diagnostics.status import ARRAY_TYPE
from alpamayo_ros.ros.messages import import_interface, make
from alpamayo_ros.ros.publishing.outputs import OUTPUTS

RATE, BURST_RATE = 5.0, 20.0
FAULT_S = 1.0  # of real time
WARM_UP_S = 60.0  # after which memory may not grow
GROWTH_LIMIT_MB = 20.0
CLOCK_NS = 20 * MS
UNDECIDED_NS = SECOND // 2  # anchors that old have a fate: max_input_age_s
LEAP_NS = 60 * SECOND
HANG_LIMIT_S = 3.0
POLICIES = (
    {'on_invalid': 'stop', 'expired_path': 'drop'},
    {'on_invalid': 'hold', 'expired_path': 'trim'},
)
SERVICES = {
    'enable': 'std_srvs/srv/SetBool',
    'load': 'std_srvs/srv/SetBool',
    'reset': 'std_srvs/srv/Trigger',
    'infer_once': 'std_srvs/srv/Trigger',
    'change_state': 'lifecycle_msgs/srv/ChangeState',
    'set_parameters': 'rcl_interfaces/srv/SetParameters',
}
REPORT_S = 10.0
# domains that no other test uses and whose ports are no one else's
DOMAIN = 215 + os.getpid() % 9


class Vehicle:
    """The node's counterpart: inputs and /clock out, paths and diagnostics in.

    The other outputs are subscribed to by a node that is never spun: they are made and sent, and
    cost nothing here.
    """

    def __init__(self):
        self.context = rclpy.Context()
        rclpy.init(
            args=[],
            context=self.context,
            domain_id=DOMAIN,
            signal_handler_options=SignalHandlerOptions.NO,
        )
        self.node = rclpy.create_node('vehicle', context=self.context)
        self.deaf = rclpy.create_node('deaf', context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.paths, self.statuses = [], {}
        types = {output.topic: output.type_name for output in OUTPUTS}
        for name, type_name in {**types, t0_status.TOPIC: ARRAY_TYPE}.items():
            kind, topic = import_interface(type_name), f'/alpamayo/{name}'
            if name == 'output/path':
                self.node.create_subscription(kind, topic, self.paths.append, QoSProfile(depth=50))
            else:
                self.deaf.create_subscription(kind, topic, lambda _: None, QoSProfile(depth=1))
        kind = import_interface('diagnostic_msgs/msg/DiagnosticArray')
        self.node.create_subscription(kind, '/diagnostics', self._on_diagnostics, 10)
        self.types = dict.fromkeys(IMAGES, 'sensor_msgs/msg/CompressedImage')
        self.types[ODOMETRY] = 'nav_msgs/msg/Odometry'
        self.inputs = {topic: self._publisher(topic) for topic in self.types}
        self.other = rclpy.create_node('other', context=self.context)
        self.types[OTHER_ODOMETRY] = self.types[ODOMETRY]
        self.inputs[OTHER_ODOMETRY] = self.other.create_publisher(
            import_interface(self.types[ODOMETRY]), ODOMETRY, BEST_EFFORT
        )
        self.clock = self.node.create_publisher(
            import_interface('rosgraph_msgs/msg/Clock'),
            '/clock',
            QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT),
        )
        self.clients = {
            name: self.node.create_client(import_interface(kind), f'/alpamayo/{name}')
            for name, kind in SERVICES.items()
        }

    def _publisher(self, topic):
        return self.node.create_publisher(import_interface(self.types[topic]), topic, BEST_EFFORT)

    def _on_diagnostics(self, message):
        for status in message.status:
            values = {pair.key: pair.value for pair in status.values}
            self.statuses[status.name.split(': ', 1)[1]] = status.message, values

    def restart_publisher(self, topic):
        """Leave a topic and come back."""
        self.node.destroy_publisher(self.inputs[topic])
        self.inputs[topic] = self._publisher(topic)

    def publish(self, topic, message):
        """Send a message of rosbags."""
        self.inputs[topic].publish(bytes(TYPESTORE.serialize_cdr(message, self.types[topic])))

    def tell_time(self, now_ns):
        """Publish /clock."""
        sec, nanosec = divmod(int(now_ns), SECOND)
        stamp = make('builtin_interfaces/msg/Time', sec=sec, nanosec=nanosec)
        self.clock.publish(make('rosgraph_msgs/msg/Clock', clock=stamp))

    def is_matched(self):
        """Whether the node is there with all that is used of it."""
        return (
            all(x.get_subscription_count() for x in self.inputs.values())
            and all(x.service_is_ready() for x in self.clients.values())
            and self.statuses.get('model', ('',))[0] == 'ready'
        )

    def close(self):
        """Leave the graph."""
        self.executor.shutdown()
        self.node.destroy_node()
        self.deaf.destroy_node()
        self.other.destroy_node()
        rclpy.shutdown(context=self.context)


class Soak:
    """Plays drives with faults; what faults call has the names that they use."""

    def __init__(self, vehicle, rules, process):
        self.vehicle, self.rules, self.process = vehicle, rules, process
        self.clock_runs = True
        self.now_ns, self.told_ns = START_NS, 0
        self.calls = []  # (name, future, what to do when it is answered)
        self.counts = {}
        self.steps = self.reopened = self.restarts = 0

    # What faults use

    def call(self, name, value=None, done=None):
        """Call a service of the node; `done` is called when it has answered."""
        client = self.vehicle.clients[name]
        request = (
            client.srv_type.Request() if value is None else client.srv_type.Request(data=value)
        )
        self.calls.append((name, client.call_async(request), done, time.monotonic()))

    def change_state(self, label='', number=0, done=None):
        """Ask for a transition of the lifecycle; `done` is called with the answer."""
        client = self.vehicle.clients['change_state']
        asked = make('lifecycle_msgs/msg/Transition', label=label, id=number)
        future = client.call_async(client.srv_type.Request(transition=asked))
        self.calls.append((label or str(number), future, done, time.monotonic()))

    def set_parameter(self, name, value, accepted=True, done=None):
        """Set a parameter of the node, which must accept or refuse it."""
        client = self.vehicle.clients['set_parameters']
        message = Parameter(name, value=value).to_parameter_msg()

        def answered(response):
            if response.results[0].successful != accepted:
                self.rules.breach(f'{name}={value}: {response.results[0]}')
            if done:
                done()

        request = client.srv_type.Request(parameters=[message])
        self.calls.append((name, client.call_async(request), answered, time.monotonic()))

    def closing(self):
        """Return what to do when a halt is answered: from then on no path is due.

        An answer that comes when paths are due again says nothing.
        """
        begun = self.reopened

        def close(response=None):
            if self.reopened == begun:
                self.rules.halts.append(Halt(self.rules.newest_ns))

        return close

    def silencing(self):
        """Return what to do when a pause is answered: from then on no path is due at all."""
        begun = self.reopened

        def silence(response=None):
            if self.reopened == begun:
                self.rules.silence()

        return silence

    def infer_once(self):
        """One path is due none the less, while the pause is known to have begun."""
        if self.rules.silent_from_s < float('inf'):
            self.rules.requested += 1
            self.call('infer_once')

    def reopen(self, service):
        """Paths are due again, of anchors that are undecided now and of later ones."""
        self.reopened += 1
        self.rules.end_silence()
        for halt in self.rules.halts:
            if halt.end_ns is None:
                halt.end_ns = self.rules.newest_ns - UNDECIDED_NS
        if service:
            self.call(service, True)

    def restart_publisher(self, topic):
        """Leave a topic and come back."""
        self.vehicle.restart_publisher(topic)

    # The play

    def play(self, items, rate):
        """Publish items at a multiple of real time, do their actions, and hear."""
        origin_ns, start_s = items[0][0], time.monotonic()
        for log_ns, topic, message in items:
            while True:
                left_s = (log_ns - origin_ns) / SECOND / rate - (time.monotonic() - start_s)
                self._tell(log_ns - round(max(left_s, 0.0) * rate * SECOND))
                self._hear(min(max(left_s, 0.0), CLOCK_NS / SECOND / rate))
                if left_s <= CLOCK_NS / SECOND / rate:
                    break
            if topic is None:
                message(self)
                continue
            if topic == ANCHOR:
                self.rules.sending(stamp_of(message))
                self.steps += 1
            self.vehicle.publish(topic, message)

    def _tell(self, now_ns):
        self.now_ns = now_ns
        if self.clock_runs and abs(now_ns - self.told_ns) >= CLOCK_NS:
            self.told_ns = now_ns
            self.vehicle.tell_time(now_ns)

    def _hear(self, seconds):
        """Hear for some time, at least once."""
        end_s = time.monotonic() + seconds
        while True:
            self.vehicle.executor.spin_once(timeout_sec=max(end_s - time.monotonic(), 0))
            self._check()
            if time.monotonic() >= end_s:
                return

    def _check(self):
        paths = self.vehicle.paths
        while paths:
            self.rules.path(paths.pop(0), self.now_ns)
        model = self.vehicle.statuses.get('model')
        self.restarts = int(model[1]['restarts']) if model else self.restarts
        found = self.vehicle.statuses.pop('inference', None)
        if found:
            self.counts = found[1]
            self.rules.counters(self.counts)
        for call in [x for x in self.calls if x[1].done()]:
            self.calls.remove(call)
            if call[2]:
                call[2](call[1].result())

    def check_node(self):
        """Check that the node lives and answers; its memory in MB."""
        status = self.process.process.poll()
        if status is not None:
            self.rules.breach(f'the node ended with {status}: {self.process.lines[-20:]}')
            return 0.0
        late = [name for name, _, _, since_s in self.calls if time.monotonic() - since_s > LIMIT_S]
        if late:
            self.rules.breach(f'no answer of {late}')
        return resident_bytes(self.process.process.pid) / 1e6

    def settle(self):
        """Wait until every anchor frame has a fate and every call is answered."""
        end_s, self.counts = time.monotonic() + LIMIT_S, {}
        while self.calls or self.counts.get('pending') != '0':
            if time.monotonic() > end_s:
                self.rules.breach(f'not settled: {self.counts}, {self.calls}')
                return
            self._tell(self.now_ns + CLOCK_NS)
            self._hear(0.02)


def soak(seconds, seed=0, engine='constant_velocity', tell=print):
    """Run the test; the figures, with the broken rules."""
    rng = np.random.default_rng(seed)
    policies = POLICIES[seed % len(POLICIES)]
    with tempfile.TemporaryDirectory() as folder:
        values = {'rig': write_rig(Path(folder)), 'engine': 'constant_velocity'}
        if engine == 'mixed':
            values |= {'checkpoint': small_checkpoint(Path(folder)), 'device': 'cpu', 'bits': 16}
        values |= {'use_sim_time': True, 'max_input_age_s': 0.5, **policies}
        values |= {'inference_timeout_s': HANG_LIMIT_S}
        # threads that wait for each other in loops stall where other programs run
        environment = {'ROS_DOMAIN_ID': str(DOMAIN), 'OMP_NUM_THREADS': '1'}
        process = Process('soak_engine:serve', *arguments(**values), **environment)
        vehicle = Vehicle()
        rules = Rules(policies['expired_path'] == 'trim', RATE)
        try:
            return _soak(Soak(vehicle, rules, process), seconds, rng, engine, tell) | {
                'seed': seed,
                'engine': engine,
                'policies': policies,
            }
        finally:
            process.kill()
            vehicle.close()


def small_checkpoint(folder):
    """A small checkpoint on the spot."""
    from alpamayo_ros.model.small.untrained import (
        write_small_checkpoint,
    )  # torch takes seconds to import

    write_small_checkpoint(folder / 'small', seed=0)
    return folder / 'small'


def _load_each_engine(run):
    """Load until every kind of engine was there once: the first of a kind imports libraries."""
    for _ in range(2):
        answers = []
        run.call('load', True, done=answers.append)
        end_s = time.monotonic() + LIMIT_S
        while not answers or run.vehicle.statuses.get('model', ('',))[0] != 'ready':
            assert time.monotonic() < end_s, f'not loaded: {run.process.lines}'
            run._hear(0.1)
            if not answers:
                run.vehicle.statuses.pop('model', None)


def _soak(run, seconds, rng, engine, tell):
    vehicle, rules = run.vehicle, run.rules
    end_s = time.monotonic() + LIMIT_S
    while not vehicle.is_matched():
        assert time.monotonic() < end_s, f'the node is not ready: {run.process.lines}'
        vehicle.executor.spin_once(timeout_sec=0.1)
    if engine == 'mixed':
        _load_each_engine(run)
    nodes = vehicle.node.count_publishers('/alpamayo/output/path')
    assert nodes == 1, f'{nodes} nodes in domain {DOMAIN}'
    start_s, faults, memory = time.monotonic(), Counter(), []
    at_ns, simulated_ns, queue = START_NS, 0, []
    while (passed_s := time.monotonic() - start_s) < seconds and not rules.broken:
        queue = queue or list(rng.permutation(len(FAULTS)))
        fault = FAULTS[queue.pop()]
        faults[fault.__name__] += 1
        if fault.__name__ == 'clock_begins_again':
            run._hear(GRACE_S / 2)
            at_ns = START_NS
            rules.begin_again()
        elif fault.__name__ == 'clock_leaps':
            run._hear(GRACE_S / 2)
            rules.leap()
            at_ns += LEAP_NS
        length_s = FAULT_S * RATE
        rate = BURST_RATE if fault.__name__ == 'burst' else RATE
        run.play(fault(drive(at_ns, length_s), rng), rate)
        at_ns += round(length_s * SECOND)
        simulated_ns += round(length_s * SECOND)
        memory.append((passed_s, run.check_node()))
        if sum(faults.values()) % round(REPORT_S / FAULT_S) == 0:
            tell(
                f'{passed_s:5.0f} s: {sum(faults.values())} faults, {rules.paths} paths, '
                f'{run.counts.get("seen")} anchors, {memory[-1][1]:.1f} MB'
            )
    elapsed_s = time.monotonic() - start_s
    run.settle()
    grown_mb = _growth_mb(memory, seconds)
    if grown_mb >= GROWTH_LIMIT_MB:
        rules.breach(f'memory grew by {grown_mb:.1f} MB')
    if not rules.paths:
        rules.breach('no path was published')
    if int(run.counts.get('seen', 0)) > run.steps:
        rules.breach(f'{run.counts["seen"]} anchors seen of {run.steps} sent')
    status, end_s = run.process.end()
    if status or any('Traceback' in line for line in run.process.lines):
        rules.breach(f'the node ended with {status}: {run.process.lines[-20:]}')
    return {
        'seconds': round(elapsed_s, 1),
        'rate': round(simulated_ns / SECOND / elapsed_s, 2),
        'faults': sum(faults.values()),
        'kinds_of_faults': len(faults),
        'paths': rules.paths,
        'anchors_sent': run.steps,
        'restarts': run.restarts,
        **{key: int(run.counts.get(key, -1)) for key in ('seen', *FATES, 'pending')},
        'reasons': {key: int(n) for key, n in run.counts.items() if ': ' in key},
        'resident_mb': [round(mb, 1) for _, mb in memory[:: max(len(memory) // 10, 1)]],
        'growth_mb': round(grown_mb, 1),
        'exit_status': status,
        'exit_s': round(end_s, 2),
        'broken': rules.broken,
    }


def _growth_mb(memory, seconds):
    """How much more was held after the first minute than ever in it (a third of a shorter run).

    Both are maxima: a decoded image and a second engine while it loads come and go.
    """
    until_s = min(WARM_UP_S, seconds / 3)
    before = [mb for passed_s, mb in memory if passed_s < until_s]
    after = [mb for passed_s, mb in memory if passed_s >= until_s]
    return max(after) - max(before) if before and after else 0.0


def main():
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seconds', type=float, default=600.0, help='default: 600')
    parser.add_argument('--seed', type=int, default=0, help='of faults and policies (0)')
    parser.add_argument('--engine', choices=('mixed', 'constant_velocity'), default='mixed')
    options = parser.parse_args()
    figures = soak(options.seconds, options.seed, options.engine)
    for key, value in figures.items():
        print(f'{key:<18} {value}')
    print(json.dumps(figures))
    return 1 if figures['broken'] else 0


if __name__ == '__main__':
    sys.exit(main())
