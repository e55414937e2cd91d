"""Connects converters, anchors, worker and publication: from messages to published paths.

The node without ROS: the clock, the publishers, the logger and the way back from the engine's
thread are passed in. All methods are for the thread that owns the node.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
import time
from typing import Any

from ..context.lanelet_map import LaneletMap
from ..context.navigation import NavigationInput
from ..data_types import NANOSECONDS, Context, Rejection, derive_seed
from ..rig import CameraRig
from ..runtime import memory
from ..runtime.serving.engine_process import EngineProcess
from ..runtime.serving.jobs import Engine, EngineHere, InferenceJob, Result
from ..runtime.start import EngineChoice
from ..runtime.worker import Worker
from .anchors import Anchors
from .diagnostics import node_statuses
from .diagnostics.input_monitor import InputMonitor, describe_input, describe_publishers
from .diagnostics.log_throttle import LogThrottle
from .diagnostics.status import Status
from .diagnostics.t0_status import T0StatusPublisher
from .input_topics import TF_TYPE, list_input_topics
from .inputs import to_lanelets, to_route
from .messages import Make
from .parameters import NodeParameters
from .publishing.outputs import Output
from .publishing.policy import Decision
from .publishing.publication import Publication
from .publishing.questions import Answer, Questions
from .publishing.results import Results
from .receiving.receiver import Receiver

SUBMITS = 1000  # how many times of submission the figures are made of


class Pipeline:
    """One vehicle's inputs to its outputs.

    now_ns: time of the node's clock, 0 while a simulated one has not begun. post(function,
    *arguments) calls a function soon on the owner's thread. start_engine is called on the engine's
    thread, or in its process, which imports it by its name. log(severity, text) writes 'error' or
    'warning' to the log. status: publishes ~/output/status.
    """

    def __init__(
        self,
        parameters: NodeParameters,
        rig: CameraRig,
        publishers: Mapping[Output, Any],
        make: Make,
        now_ns: Callable[[], int],
        post: Callable[..., Any],
        start_engine: Callable[[EngineChoice, CameraRig], Engine],
        log: Callable[[str, str], Any],
        status: T0StatusPublisher,
    ) -> None:
        self.parameters, self.rig = parameters, rig
        self.monitors = {name: InputMonitor(*at) for name, at in list_input_topics(rig).items()}
        self.anchors = Anchors(rig, parameters.limits, parameters.max_rate_hz)
        self.worker = Worker(post, self._on_result, parameters.max_failures, self._find_staleness)
        self._now_ns, self._start_engine, self._log = now_ns, start_engine, LogThrottle(log)
        publication = Publication(
            publishers, make, parameters.output_frame, parameters.policies, lambda: self.state
        )
        self.results = Results(self.anchors, publication, status, self._log, now_ns)
        self.receiver = Receiver(
            self.anchors, self.monitors, now_ns, post, self._log, self._follow_input
        )
        path = parameters.lanelet_map
        self._lanelets = LaneletMap(path) if path else None
        self._navigation = NavigationInput(
            parameters.navigation_max_age_s, parameters.on_missing_navigation
        )
        self.questions = Questions()
        self._is_active, self._infers_next = False, False
        self._done: Decision | None = None  # what went out in the last tick for want of a t0
        self._epoch = self.anchors.epoch
        self._context: Context | None = None
        self._submit_ms: deque[float] = deque(maxlen=SUBMITS)

    @property
    def has_silent_inputs(self) -> bool:
        """Whether an input has brought nothing yet: the statuses then look for its topic."""
        return any(monitor.newest_ns is None for monitor in self.monitors.values())

    @property
    def base_frame(self) -> str:
        """Frame of the rear axle, '' while no odometry has named it."""
        ego, vehicle = self.rig.ego, self.receiver.vehicle
        if ego.rear_axle:
            return ego.rear_axle.frame
        return vehicle.child_frame_id if vehicle else ''

    @property
    def state(self) -> str:
        """One of policy.STATES."""
        if self.worker.state == 'ready':
            return 'active' if self._is_active else 'inactive'
        return self.worker.state

    def load(self) -> None:
        """Start the engine that the parameters ask for; a present one is freed first."""
        self.results.reset(self._now_ns())
        start = partial(self._start_engine, self.parameters.choice, self.rig)
        if self.parameters.engine_process:
            limit_s = self.parameters.inference_timeout_s
            self.worker.load(partial(EngineProcess, start, limit_s))
        else:
            self.worker.load(partial(EngineHere, start))

    def unload(self) -> None:
        """Free the engine and its memory."""
        self._infers_next = False
        self.results.reset(self._now_ns())
        self.worker.unload()
        self.questions.refuse('the model is unloaded')

    def activate(self) -> None:
        """Infer and publish, as soon as there is an engine."""
        self._is_active, self._infers_next = True, False

    def deactivate(self) -> None:
        """Pause: drop the context that waits and the result of the inference that runs."""
        self._is_active, self._infers_next = False, False
        self.results.reset(self._now_ns())
        self.worker.discard('paused')

    def receive(self, name: str, *messages: Any) -> None:
        """Take messages of a camera, or CDR bytes of Odometry; submit what they complete."""
        self.receiver.receive(name, *messages)

    def receive_static(self, message: Any) -> None:
        """Take a TFMessage of /tf_static."""
        self.receiver.receive_static(message)

    def receive_navigation(self, message: Any) -> None:
        """Take a route text (std_msgs/String) or a route (nav_msgs/Path, or LaneletRoute)."""
        try:
            if hasattr(message, 'data'):
                self._navigation.add_text(message.data, self._now_ns())
            elif self._lanelets is not None:
                numbers, frame_id = to_lanelets(message)
                self._navigation.add_route(self._lanelets.trace(numbers), frame_id)
            else:
                self._navigation.add_route(*to_route(message))
        except ValueError as error:
            self._log.warn('navigation: bad_message', f'navigation: {error}')

    def note_publishers(self, name: str, publishers: Sequence[str], misfit: str = '') -> None:
        """Note the nodes that publish an input: several mix two vehicles or two clocks.

        TF is made to be published by several. misfit: publishers whose QoS does not fit.
        """
        monitor = self.monitors[name]
        is_wrong = len(publishers) > 1 and monitor.type_name != TF_TYPE
        monitor.publishers = publishers if is_wrong else ()
        if monitor.publishers:
            self._log.warn(f'{name}: publishers', f'{name}: {describe_publishers(monitor)}')
        monitor.misfit = misfit
        if misfit:
            self._log.warn(f'{name}: misfit', f'{name}: {misfit}')

    def tick(self) -> None:
        """Decide anchors for which no more input has come; follow the policy where none comes.

        Notice an engine whose process has ended.
        """
        self.worker.check()
        now_ns = self._now_ns()
        last = self.anchors.last
        self.questions.check(last.detail if last else f'no frame of {self.rig.anchor}')
        self._submit_newest(now_ns, time.perf_counter())
        name = self.rig.anchor
        newest_ns = self.monitors[name].newest_ns or now_ns
        age_s = (now_ns - newest_ns) / NANOSECONDS
        self._done = None
        if self.state == 'active' and age_s > self.parameters.limits.max_input_age_s:
            self._done = self.results.report_missing(
                Rejection(newest_ns, 'stale_input', f'{name}: {age_s:.1f} s old'), now_ns
            )

    def beat(self) -> None:
        """Publish a heartbeat, if no t0 had a status since the last call."""
        anchor = self.rig.anchor
        refusal = self.monitors[anchor].last_refusal
        missing = f'no frame of {anchor}' + (f'; last refused: {refusal}' if refusal else '')
        texts = {'active': missing, 'inactive': 'paused'}
        text = texts.get(self.state, f'the model is {self.state}')
        self.results.beat(self.worker.error or text, self._done)

    def infer_once(self) -> None:
        """Infer the next context even while paused."""
        self._infers_next = True

    def ask(self, question: str, answer: Answer) -> None:
        """Ask the model in words about the next context, where that delays no path."""
        refusal = '' if self.state in ('active', 'inactive') else f'the model is {self.state}'
        if self.state == 'active' and not self.parameters.answer_while_active:
            refusal = 'the node is active and a question would delay its paths: deactivate it, or '
            refusal += 'set answer_while_active'
        self.questions.ask(question, refusal, answer)

    def reset(self) -> None:
        """Forget input, plans and what is being inferred."""
        self.anchors.reset()
        self._follow_epoch(self._now_ns())

    def describe_all(self, published: Mapping[str, Iterable[str]], sim_time: bool) -> list[Status]:
        """All statuses of /diagnostics.

        published: topics of the graph with their types; of use while an input is silent.
        """
        now_ns, steady_s = self._now_ns(), time.perf_counter()
        worker, limits = self.worker, self.parameters
        inputs = (
            describe_input(name, monitor, now_ns, steady_s, limits.max_input_age_s, published)
            for name, monitor in self.monitors.items()
        )
        return [
            node_statuses.describe_model(
                self.state,
                worker.error,
                worker.load_s,
                worker.engine_pid,
                worker.restarts,
                worker.provenance,
            ),
            *inputs,
            node_statuses.describe_context(
                self.anchors, self._context, no_clock=sim_time and now_ns == 0
            ),
            node_statuses.describe_inference(
                self.anchors,
                worker.pending,
                worker.busy_s,
                limits.inference_timeout_s,
                self._submit_ms,
                self.results.served,
            ),
            node_statuses.describe_output(
                self.state,
                self.results.served,
                self.results.publication.decision,
                self.results.publication.counts,
                self.results.failure,
                now_ns,
            ),
            node_statuses.describe_reasoning(self.results.served),
            node_statuses.describe_memory(
                memory.read_available_bytes(),
                *memory.read_resident_bytes(),
                memory.read_resident_bytes(worker.engine_pid)[0] if worker.engine_pid else 0,
                worker.gpu_peak_bytes,
            ),
        ]

    def _follow_input(self, now_ns: int, start: float) -> None:
        """Submit what new input completes."""
        self._follow_epoch(now_ns)
        self._submit_newest(now_ns, start)

    def _find_staleness(self, context: Context) -> str:
        """Say why a context is too old to be inferred, '' when it is not."""
        age_s = (self._now_ns() - context.t0_ns) / NANOSECONDS
        limit_s = self.parameters.limits.max_input_age_s
        is_stale = abs(age_s) > limit_s
        return f't0 is {age_s:.3g} s old, limit {limit_s:g} s' if is_stale else ''

    def _submit_newest(self, now_ns: int, start: float) -> None:
        """Submit the newest context that can be served, if there is one."""
        is_wanted = self._is_active or self._infers_next or self.questions.waiting
        refusal = '' if is_wanted else 'paused'
        if self.worker.state != 'ready':
            refusal = 'not_ready'
        found = self.anchors.take(now_ns, refusal)
        if isinstance(found, Context) and not self.questions.waiting:
            found = self._navigation.apply(found, now_ns)
            if isinstance(found, Rejection):
                self.anchors.reject(found)
        if isinstance(found, Rejection):
            done = self.results.report_missing(found, now_ns)
            self.results.report_decided(now_ns, found.t0_ns, done)
            return
        if found is not None:
            self._submit(found)
            self._submit_ms.append((time.perf_counter() - start) * 1e3)
        self.results.report_decided(now_ns)

    def _submit(self, context: Context) -> None:
        self._context = context
        seed = derive_seed(self.parameters.seed, context.t0_ns)
        is_requested, question = self._infers_next and not self._is_active, self.questions.take()
        self._infers_next = self._infers_next and bool(question)  # the path comes next
        job = InferenceJob(context, seed, self.parameters.sampling, is_requested, question)
        dropped = self.worker.submit(job)
        if dropped is not None:
            reason = 'question' if dropped is job else 'newer_context'
            self.results.settle(dropped, 'dropped', reason)

    def _follow_epoch(self, now_ns: int) -> None:
        """After a clock jump or a reset, forget what came from the input before."""
        if self._epoch == self.anchors.epoch:
            return
        self._epoch, self._context, self.receiver.vehicle = self.anchors.epoch, None, None
        self._navigation.forget_text()
        self.worker.discard('reset')
        self.results.reset(now_ns)

    def _on_result(self, result: Result) -> None:
        if result.job.question:
            self.results.settle(result.job, 'discarded', 'question')
            self.questions.report(result)
            return
        self.results.report(result, self.receiver.vehicle)
