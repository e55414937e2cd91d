"""The node on the vehicle: topics, services, parameters and timers, wired to a Pipeline.

The executor's thread owns everything here; the engine's thread reports through
executor.create_task. Runs on the rclpy of Humble and of Jazzy.
"""

from __future__ import annotations

from functools import partial
from itertools import cycle
import os
import signal
import sys
import time
import traceback
from types import TracebackType
from typing import Any, NoReturn

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.task import Future

from ..context.buffer import LATE_NS
from ..errors import BadInput
from ..rig import ODOMETRY_TYPES, CameraRig
from .declaration import declare, find_files_of_others, find_unknown
from .diagnostics import t0_status
from .diagnostics.status import ARRAY_TYPE, build_diagnostic_array
from .endpoints import (
    create_input,
    create_latched_input,
    create_output,
    describe_misfit,
    name_node,
)
from .input_topics import (
    LANELET_ROUTE_TYPE,
    NAVIGATION,
    NAVIGATION_TYPE,
    ODOMETRY,
    ROUTE,
    ROUTE_TYPE,
    STATIC_TOPIC,
    TF_TYPE,
    TWIST,
    list_input_topics,
)
from .lifecycle import ManagedNode
from .messages import import_interface, make
from .pipeline import Pipeline
from .publishing.outputs import AUTOWARE, OUTPUTS, Output
from .receiving.calibration_inputs import CalibrationInputs
from .receiving.cv_bridge_images import start_engine
from .receiving.field_of_view import describe_wrong_views
from .receiving.polled import OnDemand, take_messages
from .session import blame_inputs_while_starting, session
from .systemd import ALIVE, READY, notify

NAME = 'alpamayo'
DIAGNOSTICS_PERIOD_S = 1.0
FETCH_PERIOD_S = 0.25  # of odometry, which is fetched before every frame anyhow
STOP_LIMIT_S = 0.3  # for the running inference; an exit is due within 2 s
CAMERA_DEPTH, ODOMETRY_DEPTH = 10, 200
STATIC_DEPTH = 100  # each of many publishers sends all of its transforms in one message
STATUS_DEPTH = 50  # several t0 may be decided at once
STATUS_DEADLINE_S = 2.0  # the heartbeat comes once a second


class AlpamayoNode(ManagedNode):
    """Subscribes to a rig's cameras and odometry and publishes what the engine predicts.

    The constructor does not load the engine: a signal during it would leave a thread that nobody
    can stop. Raises BadInput for parameters and rig files that cannot be used.
    """

    def __init__(self, executor: Any) -> None:
        super().__init__(NAME)
        parameters = declare(self, make)
        rig = parameters.load_rig(self.get_namespace())
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
            log=self._log,
            status=self._create_status(rig.name),
        )
        back = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-LATE_NS))
        self._clock_jumps = self.get_clock().create_jump_callback(
            back, post_callback=lambda jump: self.pipeline.reset()
        )
        self._logged_state = ''
        self._inputs_in_turn = cycle(self.pipeline.monitors)
        kind = import_interface(ARRAY_TYPE)
        self._diagnostics = self.create_publisher(kind, '/diagnostics', 10)
        self._create_inputs(rig)
        self._create_services()
        unknown = find_unknown(self._parameter_overrides, self.has_parameter)
        for text in (*unknown, *describe_wrong_views(rig.cameras)):
            self._log('warning', text)
        self.add_on_set_parameters_callback(self._on_parameters)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # ROS time may stand still
        self.create_timer(DIAGNOSTICS_PERIOD_S, self._on_timer, clock=steady)
        self.create_timer(FETCH_PERIOD_S, self._fetch_odometry, clock=steady)

    def _create_outputs(self, outputs: tuple[Output, ...]) -> dict[Output, Any]:
        return {row: create_output(self, row.topic, row.type_name) for row in outputs}

    def _create_status(self, rig_name: str) -> t0_status.T0StatusPublisher:
        publisher = create_output(
            self, t0_status.TOPIC, ARRAY_TYPE, STATUS_DEPTH, STATUS_DEADLINE_S
        )
        name = self.get_fully_qualified_name()
        return t0_status.T0StatusPublisher(publisher, make, name, rig_name)

    def _create_inputs(self, rig: CameraRig) -> None:
        topics = list_input_topics(rig)
        is_waited_for = OnDemand(lambda: self.pipeline.anchors.waiting > 0)
        self._polled = {
            name: create_input(
                self,
                topic,
                type_name,
                partial(self.pipeline.receive, name),
                ODOMETRY_DEPTH,
                raw=type_name == ODOMETRY_TYPES[0],
                callback_group=is_waited_for,
            )
            for name, (topic, type_name) in topics.items()
            if name in (ODOMETRY, TWIST)
        }
        self._inputs = dict(self._polled)
        for name in topics.keys() - self._polled.keys():
            receive = partial(self._on_frame, name)
            self._inputs[name] = create_input(self, *topics[name], receive, CAMERA_DEPTH)
        has_map = self.pipeline.parameters.lanelet_map
        route = ROUTE, LANELET_ROUTE_TYPE if has_map else ROUTE_TYPE
        for own, type_name in ((NAVIGATION, NAVIGATION_TYPE), route):
            create_latched_input(self, f'~/{own}', type_name, self.pipeline.receive_navigation)
        take_static = self.pipeline.receive_static
        create_latched_input(self, STATIC_TOPIC, TF_TYPE, take_static, STATIC_DEPTH)
        for monitor in self.pipeline.monitors.values():
            monitor.topic = self.resolve_topic_name(monitor.topic)
        images = {camera.name: self.pipeline.monitors[camera.name].topic for camera in rig.cameras}
        self._calibrations = CalibrationInputs(self, rig, images, self.pipeline.receiver.tree)

    def _fetch_odometry(self) -> None:
        for name, subscription in self._polled.items():
            self.pipeline.receive(name, *take_messages(subscription, ODOMETRY_DEPTH))

    def _on_frame(self, name: str, message: Any) -> None:
        self._fetch_odometry()
        self.pipeline.receive(name, message)

    def _create_services(self) -> None:
        switch, trigger = (
            import_interface('std_srvs/srv/SetBool'),
            import_interface('std_srvs/srv/Trigger'),
        )
        self.create_service(switch, '~/enable', self._on_enable)
        self.create_service(trigger, '~/infer_once', self._on_infer_once)
        self.create_service(trigger, '~/reset', self._on_reset)
        self.create_service(switch, '~/load', self._on_load)
        words = import_interface('diagnostic_msgs/srv/AddDiagnostics')
        alone = MutuallyExclusiveCallbackGroup()  # it waits while the others go on
        self.create_service(words, '~/ask', self._on_ask, callback_group=alone)

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _log(self, severity: str, text: str) -> None:
        logger = self.get_logger()  # one call per severity: rclpy lets a line have one only
        if severity == 'error':
            logger.error(text)
        elif severity == 'warning':
            logger.warning(text)
        else:
            logger.info(text)

    def _on_timer(self) -> None:
        notify(ALIVE)
        self.pipeline.tick()
        self._log_state()
        self.leave_failed_model()
        self._look_at_publishers()
        self._calibrations.update(self.pipeline.base_frame, partial(self._log, 'warning'))
        self.pipeline.beat()
        if self._diagnostics.get_subscription_count():
            now_ns = self._now_ns()
            silent = self.pipeline.has_silent_inputs  # the graph takes milliseconds to read
            topics = dict(self.get_topic_names_and_types()) if silent else {}
            statuses = self.pipeline.describe_all(topics, self.get_parameter('use_sim_time').value)
            statuses.append(self._calibrations.describe())
            name, rig = self.get_fully_qualified_name(), self.pipeline.rig.name
            self._diagnostics.publish(build_diagnostic_array(statuses, make, now_ns, name, rig))

    def _log_state(self) -> None:
        worker = self.pipeline.worker
        state = f'{worker.state}: {worker.error}' if worker.error else worker.state
        if state == self._logged_state:
            return
        self._logged_state = state
        self._log('error' if worker.state == 'failed' else 'info', f'model {state}')
        notify(f'STATUS=model {state}')
        if limits := worker.provenance.get('limits'):
            self._log('warning', limits)

    def _look_at_publishers(self) -> None:
        """Look at one input in turn: the graph takes milliseconds to read."""
        name = next(self._inputs_in_turn)
        monitor, infos = self.pipeline.monitors[name], []
        count = self.count_publishers(monitor.topic)
        if count > 1 or (count and monitor.is_silent(time.perf_counter())):
            infos = self.get_publishers_info_by_topic(monitor.topic)
        misfit = describe_misfit(monitor.topic, infos, self._inputs[name].qos_profile)
        self.pipeline.note_publishers(name, sorted(map(name_node, infos)), misfit)

    def _on_parameters(self, changes: list[Any]) -> Any:
        reason = ''
        try:
            values = {change.name: change.value for change in changes}
            self.pipeline.parameters = self.pipeline.parameters.with_changes(values)
        except BadInput as error:
            reason = str(error)
        kind = 'rcl_interfaces/msg/SetParametersResult'
        return make(kind, successful=not reason, reason=reason)

    def _on_enable(self, request: Any, response: Any) -> Any:
        is_done = self.enable(request.data)
        done = 'enabled' if request.data else 'paused'
        return _answer(response, done if is_done else f'the node is {self.lifecycle}', is_done)

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
        (self.load if request.data else self.unload)()
        is_done = (self.lifecycle in ('active', 'inactive')) == request.data
        return _answer(response, self.pipeline.worker.state, is_done)

    async def _on_ask(self, request: Any, response: Any) -> Any:
        answered = Future()
        self.pipeline.ask(request.load_namespace, lambda *found: answered.set_result(found))
        success, text = await answered
        return _answer(response, text, success)


def _answer(response: Any, message: str, success: bool = True) -> Any:
    response.success, response.message = success, message
    return response


def _serve(args: list[str] | None) -> bool:
    """Run the node until a signal; return whether its engine's thread has ended by then."""
    node, is_idle = None, True
    with session(args):
        try:
            executor = SingleThreadedExecutor()
            with blame_inputs_while_starting():
                node = AlpamayoNode(executor)
            given = sys.argv if args is None else args
            for text in find_files_of_others(given, node.get_fully_qualified_name()):
                node.get_logger().warning(text)
            executor.add_node(node)
            if node.pipeline.parameters.autostart:
                node.load()
            notify(READY)
            executor.spin()
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one would end the clean-up
            if node is not None:
                is_idle = node.pipeline.worker.stop(STOP_LIMIT_S)
                node.destroy_node()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # rclpy has put back what was before
    return is_idle


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; 0 then, 2 for parameters that cannot be used.

    An exception in a callback ends the process at once with a traceback and status 1, also in the
    middle of an inference, which cannot be interrupted.
    """
    sys.excepthook = _print_and_exit
    try:
        is_idle = _serve(args)
    except BadInput as error:
        print(f'alpamayo_node: error: {" ".join(str(error).split())}', file=sys.stderr)
        return 2
    if not is_idle:
        _exit_at_once(0)
    return 0


def _print_and_exit(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    traceback.print_exception(kind, error, trace)
    _exit_at_once(1)


def _exit_at_once(status: int) -> NoReturn:
    """End the process; a normal exit would wait for the engine's thread."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == '__main__':
    sys.exit(main())
