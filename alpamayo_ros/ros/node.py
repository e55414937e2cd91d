"""The node on the vehicle: topics, services, parameters and timers, wired to a Pipeline.

The executor's thread owns everything here; the engine's thread reports through
executor.create_task. Runs on the rclpy of Humble and of Jazzy.
"""

from __future__ import annotations

from functools import partial
import os
import signal
import sys
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

from ..errors import BadInput
from ..rig import CameraRig, load_rig
from ..runtime.start import start_engine
from .diagnostics import diagnostic_array
from .messages import interface, make
from .outputs import AUTOWARE, OUTPUTS, Output
from .parameters import declare
from .pipeline import ODOMETRY, Pipeline, input_topics
from .polled import OnDemand, fetched
from .session import session, starting

NAME = 'alpamayo'
DIAGNOSTICS_PERIOD_S = 1.0
FETCH_PERIOD_S = 0.25  # of odometry, which is fetched before every frame anyhow
STOP_LIMIT_S = 0.3  # for what is being inferred; an exit is due within 2 s
CAMERA_DEPTH, ODOMETRY_DEPTH = 10, 200
LOG_PERIOD_S = 5.0


class AlpamayoNode(Node):
    """Subscribes to a rig's cameras and odometry and publishes what the engine predicts.

    Its engine is not loaded yet: a signal in here would leave a thread that nobody can stop.
    Raises BadInput for parameters and rig files that cannot be used.
    """

    def __init__(self, executor: Any) -> None:
        super().__init__(NAME)
        parameters = declare(self, make)
        rig = load_rig(parameters.rig)
        self.pipeline = Pipeline(
            parameters,
            rig,
            self._create_outputs(
                (*OUTPUTS, AUTOWARE) if parameters.autoware_trajectory else OUTPUTS
            ),
            make,
            now_ns=self._now_ns,
            post=executor.create_task,
            start_engine=start_engine,
            warn=self._warn,
        )
        self._told = ''
        kind = interface('diagnostic_msgs/msg/DiagnosticArray')
        self._diagnostics = self.create_publisher(kind, '/diagnostics', 10)
        self._create_inputs(rig)
        self._create_services()
        self.add_on_set_parameters_callback(self._on_parameters)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # ROS time may stand still
        self.create_timer(DIAGNOSTICS_PERIOD_S, self._on_timer, clock=steady)
        self.create_timer(FETCH_PERIOD_S, self._fetch_odometry, clock=steady)

    def _create_outputs(self, outputs: tuple[Output, ...]) -> dict[Output, Any]:
        # rclpy's executor waits anew for every event of a publisher with every message that comes,
        # which was a third of the node's work; subscribers still tell of QoS that does not fit
        silent = PublisherEventCallbacks(use_default_callbacks=False)
        return {
            output: self.create_publisher(
                interface(output.type_name),
                f'~/{output.topic}',
                QoSProfile(depth=1),
                event_callbacks=silent,
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
            for output in outputs
        }

    def _create_inputs(self, rig: CameraRig) -> None:
        topics = input_topics(rig)
        wanted = OnDemand(lambda: self.pipeline.anchors.waiting > 0)
        self._odometry = self._subscribe(
            *topics.pop(ODOMETRY),
            partial(self.pipeline.receive, ODOMETRY),
            ODOMETRY_DEPTH,
            raw=True,
            callback_group=wanted,
        )
        for name, topic in topics.items():
            self._subscribe(*topic, partial(self._on_frame, name), CAMERA_DEPTH)
        for monitor in self.pipeline.monitors.values():
            monitor.topic = self.resolve_topic_name(monitor.topic)

    def _subscribe(
        self, topic: str, type_name: str, receive: Any, depth: int, **options: Any
    ) -> Any:
        return self.create_subscription(
            interface(type_name),
            topic,
            receive,
            QoSProfile(depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT),
            # as with the outputs; what asks for so little fits every publisher
            event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            **options,
        )

    def _fetch_odometry(self) -> None:
        self.pipeline.receive(ODOMETRY, *fetched(self._odometry, ODOMETRY_DEPTH))

    def _on_frame(self, name: str, message: Any) -> None:
        self._fetch_odometry()
        self.pipeline.receive(name, message)

    def _create_services(self) -> None:
        switch, trigger = interface('std_srvs/srv/SetBool'), interface('std_srvs/srv/Trigger')
        self.create_service(switch, '~/enable', self._on_enable)
        self.create_service(trigger, '~/infer_once', self._on_infer_once)
        self.create_service(trigger, '~/reset', self._on_reset)
        self.create_service(switch, '~/load', self._on_load)

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _warn(self, text: str) -> None:
        self.get_logger().warning(text, throttle_duration_sec=LOG_PERIOD_S)

    def _on_timer(self) -> None:
        self.pipeline.tick()
        worker = self.pipeline.worker
        state = f'{worker.state}: {worker.error}' if worker.error else worker.state
        if state != self._told:
            self._told = state
            if worker.state == 'error':  # two calls: rclpy lets one have one severity only
                self.get_logger().error(f'model {state}')
            else:
                self.get_logger().info(f'model {state}')
                if limits := worker.provenance.get('limits'):
                    self.get_logger().warning(limits)
        if self._diagnostics.get_subscription_count():
            now_ns = self._now_ns()
            silent = self.pipeline.has_silent_inputs  # the graph takes milliseconds to read
            topics = dict(self.get_topic_names_and_types()) if silent else {}
            statuses = self.pipeline.statuses(topics, self.get_parameter('use_sim_time').value)
            name, rig = self.get_fully_qualified_name(), self.pipeline.rig.name
            self._diagnostics.publish(diagnostic_array(statuses, make, now_ns, name, rig))

    def _on_parameters(self, changes: list[Any]) -> Any:
        reason = ''
        try:
            values = {change.name: change.value for change in changes}
            self.pipeline.parameters = self.pipeline.parameters.changed(values)
        except BadInput as error:
            reason = str(error)
        kind = 'rcl_interfaces/msg/SetParametersResult'
        return make(kind, successful=not reason, reason=reason)

    def _on_enable(self, request: Any, response: Any) -> Any:
        self.pipeline.enabled = request.data
        return _answer(response, 'enabled' if request.data else 'paused')

    def _on_infer_once(self, request: Any, response: Any) -> Any:
        state = self.pipeline.worker.state
        if state != 'ready':
            return _answer(response, f'the model is {state}', success=False)
        self.pipeline.infer_once()
        return _answer(response, 'accepted')

    def _on_reset(self, request: Any, response: Any) -> Any:
        self.pipeline.reset()
        return _answer(response, 'reset')

    def _on_load(self, request: Any, response: Any) -> Any:
        if request.data:
            self.pipeline.load()
        else:
            self.pipeline.worker.unload()
        return _answer(response, self.pipeline.worker.state)


def _answer(response: Any, message: str, success: bool = True) -> Any:
    response.success, response.message = success, message
    return response


def _serve(args: list[str] | None) -> bool:
    """Run the node until a signal; whether its engine's thread has ended by then."""
    node, idle = None, True
    with session(args):
        try:
            executor = SingleThreadedExecutor()
            with starting():
                node = AlpamayoNode(executor)
            executor.add_node(node)
            node.pipeline.load()
            executor.spin()
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one would end the clean-up
            if node is not None:
                idle = node.pipeline.worker.stop(STOP_LIMIT_S)
                node.destroy_node()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # rclpy has put back what was before
    return idle


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; 0 then, 2 for parameters that cannot be used."""
    try:
        idle = _serve(args)
    except BadInput as error:
        print(f'alpamayo_node: error: {" ".join(str(error).split())}', file=sys.stderr)
        return 2
    if not idle:  # an inference cannot be interrupted, and exit would wait for its thread
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0


if __name__ == '__main__':
    sys.exit(main())
