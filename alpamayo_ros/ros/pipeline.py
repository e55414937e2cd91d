"""From messages to published paths: converters, anchors, worker and publication put together.

The node without ROS: the clock, the publishers, the logger and the way back from the engine's
thread are passed in. All methods are for the thread that owns the node.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
import time
from typing import Any

from ..data_types import NANOSECONDS, Context, Rejection, derive_seed
from ..rig import CameraRig
from ..runtime import memory
from ..runtime.start import EngineChoice
from ..runtime.worker import Engine, InferenceJob, Result, Worker
from . import diagnostics
from .anchors import Anchors
from .inputs import read_pose, to_frame
from .outputs import Make, Output
from .parameters import NodeParameters
from .publication import Publication

ODOMETRY = 'odometry'  # name of the input that is no camera
ODOMETRY_TYPE = 'nav_msgs/msg/Odometry'
SUBMITS = 1000  # how many times of submission the figures are made of


def list_input_topics(rig: CameraRig) -> dict[str, tuple[str, str]]:
    """Inputs by name: topic and message type.

    A camera topic that ends in 'compressed' is a CompressedImage, as image_transport names them.
    """
    cameras = {
        camera.name: (
            camera.topic,
            'sensor_msgs/msg/CompressedImage'
            if camera.topic.endswith('compressed')
            else 'sensor_msgs/msg/Image',
        )
        for camera in rig.cameras
    }
    return {**cameras, ODOMETRY: (rig.odometry_topic, ODOMETRY_TYPE)}


class Pipeline:
    """One vehicle's inputs to its outputs.

    now_ns: time of the node's clock, 0 while a simulated one has not begun. post(function,
    *arguments) calls a function soon on the owner's thread. start_engine is called on the engine's
    thread. warn: says something to the log.
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
        warn: Callable[[str], Any],
    ) -> None:
        self.parameters, self.rig = parameters, rig
        self.enabled, self.once = True, False
        self.monitors = {
            name: diagnostics.InputMonitor(*at) for name, at in list_input_topics(rig).items()
        }
        self.anchors = Anchors(rig, parameters.limits, parameters.max_rate_hz)
        self.worker = Worker(post, self._on_result, parameters.max_failures)
        self.publication = Publication(
            publishers, make, parameters.output_frame, parameters.policies
        )
        self._now_ns, self._start_engine, self._warn = now_ns, start_engine, warn
        self._epoch = self.anchors.epoch
        self._context: Context | None = None
        self._served: diagnostics.Served | None = None
        self._failure = ''
        self._submit_ms: deque[float] = deque(maxlen=SUBMITS)

    @property
    def has_silent_inputs(self) -> bool:
        """Whether an input has brought nothing yet: the statuses then look for its topic."""
        return any(monitor.newest_ns is None for monitor in self.monitors.values())

    def load(self) -> None:
        """Start the engine that the parameters ask for; a present one goes first."""
        self.worker.load(partial(self._start_engine, self.parameters.choice, self.rig))

    def receive(self, name: str, *messages: Any) -> None:
        """Take messages of a camera, or CDR bytes of Odometry; submit what they complete."""
        start, now_ns = time.perf_counter(), self._now_ns()
        for message in messages:
            stamp_ns = None
            try:
                if name == ODOMETRY:
                    pose = read_pose(message)
                    stamp_ns, refused = pose.stamp_ns, self.anchors.add_pose(pose)
                else:
                    frame = to_frame(message)
                    stamp_ns, refused = frame.stamp_ns, self.anchors.add_frame(name, frame)
                refusal = refused.detail if refused else ''
            except ValueError as error:
                self.anchors.refuse(name)
                refusal = f'{name}: {error}'
            self.monitors[name].arrived(start, now_ns, stamp_ns, refusal)
            if refusal:
                self._warn(refusal)
        self._follow_epoch(now_ns)
        self._submit_newest(now_ns, start)

    def tick(self) -> None:
        """Decide anchors for which no more input has come; follow the policy where none comes."""
        now_ns = self._now_ns()
        self._submit_newest(now_ns, time.perf_counter())
        name, serving = self.rig.anchor, self.enabled and self.worker.state == 'ready'
        newest_ns = self.monitors[name].newest_ns or now_ns
        age_s = (now_ns - newest_ns) / NANOSECONDS
        if serving and age_s > self.parameters.limits.max_input_age_s:
            self._report_missing(Rejection(newest_ns, 'stale_input', f'{name}: {age_s:.1f} s old'), now_ns)

    def infer_once(self) -> None:
        """Infer the next context even while paused."""
        self.once = True

    def reset(self) -> None:
        """Forget input, plans and what is being inferred."""
        self.anchors.reset()
        self._follow_epoch(self._now_ns())

    def describe_all(
        self, published: Mapping[str, Iterable[str]], sim_time: bool
    ) -> list[diagnostics.Status]:
        """What /diagnostics says now.

        published: topics of the graph with their types; of use while an input is silent.
        """
        now_ns, steady_s = self._now_ns(), time.perf_counter()
        worker, limits = self.worker, self.parameters
        inputs = (
            diagnostics.describe_input(
                name, monitor, now_ns, steady_s, limits.max_input_age_s, published
            )
            for name, monitor in self.monitors.items()
        )
        return [
            diagnostics.describe_model(
                worker.state, worker.error, self.enabled, worker.load_s, worker.provenance
            ),
            *inputs,
            diagnostics.describe_context(
                self.anchors, self._context, no_clock=sim_time and now_ns == 0
            ),
            diagnostics.describe_inference(
                self.anchors,
                worker.pending,
                worker.busy_s,
                limits.inference_timeout_s,
                self._submit_ms,
                self._served,
            ),
            diagnostics.describe_output(
                self._served,
                self.publication.decision,
                self.publication.counts,
                self._failure,
                now_ns,
            ),
            diagnostics.describe_reasoning(self._served),
            diagnostics.describe_memory(
                memory.read_available_bytes(), *memory.read_resident_bytes(), memory.read_gpu_peak_bytes()
            ),
        ]

    def _submit_newest(self, now_ns: int, start: float) -> None:
        """Submit the newest context that can be served, if there is one."""
        refusal = '' if self.enabled or self.once else 'paused'
        if self.worker.state != 'ready':
            refusal = 'not_ready'
        found = self.anchors.take(now_ns, refusal)
        if isinstance(found, Rejection):
            self._report_missing(found, now_ns)
        elif found is not None:
            self.once, self._context = False, found
            seed = derive_seed(self.parameters.seed, found.t0_ns)
            job = InferenceJob(found, seed, self.parameters.sampling, self.anchors.epoch)
            if self.worker.submit(job) is not None:
                self.anchors.settle('dropped', 'newer_context')
            self._submit_ms.append((time.perf_counter() - start) * 1e3)

    def _report_missing(self, why: Rejection, now_ns: int) -> None:
        """There is nothing to infer from: say so, and do what the policy says."""
        self.anchors.last = why
        self._warn(why.detail)
        self.publication.publish_missing(why.reason, now_ns)

    def _follow_epoch(self, now_ns: int) -> None:
        """After a clock jump or a reset: forget what came from the input before."""
        if self._epoch == self.anchors.epoch:
            return
        self._epoch, self._context, self._served = self.anchors.epoch, None, None
        if self.worker.withdraw() is not None:
            self.anchors.settle('discarded', 'reset')
        self.publication.reset(now_ns)

    def _on_result(self, result: Result) -> None:
        now_ns, t0_ns = self._now_ns(), result.job.context.t0_ns
        if result.job.epoch != self.anchors.epoch:
            self.anchors.settle('discarded', 'reset')
        elif result.reason == 'not_ready':
            self.anchors.settle('discarded', result.reason)
        elif result.prediction is not None:
            self.anchors.settle('inferred')
            self._failure = ''
            self._served = self.publication.publish(
                result.job.context, result.prediction, now_ns, self.anchors.total('dropped')
            )
        else:
            if result.reason == 'bad_image':
                self.anchors.reject(Rejection(t0_ns, result.reason, result.detail))
            else:
                self.anchors.settle('failed', result.reason)
                self._failure = f'inference failed: {result.detail}'
            self._warn(result.detail)
            self.publication.publish_missing(result.reason, now_ns)
