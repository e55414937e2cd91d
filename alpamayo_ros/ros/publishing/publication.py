"""Publishes predictions: applies the policies, sends rows of OUTPUTS, holds the last path.

Knows publishers as objects with `publish` and `get_subscription_count`, messages through a factory
and the time as an argument. Rows below debug/ get every prediction, those below output/ what the
policies let through. Every message passes `_send`, which asks for the state of the node: nothing
goes out while it is paused or has no model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ...data_types import Context, EgoPose, Prediction
from ..diagnostics.node_statuses import Served
from ..messages import Make
from .markers import build_marker_deletion
from .outputs import Output
from .policy import (
    Decision,
    Policies,
    check_speed,
    check_takeover,
    decide,
    decide_missing,
    find_first_waypoint,
    is_ahead,
    may_publish,
    time_path,
)
from .stamped_prediction import HORIZON_NS, StampedPrediction
from .trusted_speed import LateTimes

MARKERS = 'output/markers'


class Publication:
    """Publishes one prediction after the other.

    get_state: one of policy.STATES, now. counts: what was done, by action and reason. decision:
    what was done last, None at first. path_stamp_ns: stamp of the path that went out with it.
    """

    def __init__(
        self,
        publishers: Mapping[Output, Any],
        make: Make,
        output_frame: str,
        policies: Policies,
        get_state: Callable[[], str],
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.decision: Decision | None = None
        self.path_stamp_ns: int | None = None
        self._publishers, self._make = publishers, make
        self._output_frame, self._policies = output_frame, policies
        self._get_state = get_state
        self._held: StampedPrediction | None = None
        self._times = LateTimes()

    @property
    def state(self) -> str:
        """State of the node, one of policy.STATES."""
        return self._get_state()

    def publish(
        self,
        context: Context,
        prediction: Prediction,
        now_ns: int,
        vehicle: EgoPose | None = None,
        dropped: int = 0,
        is_requested: bool = False,
    ) -> Served:
        """Publish a prediction as the policies say; return it with all checks.

        vehicle: the newest pose of the odometry. is_requested: somebody asked for this one, so it
        goes out although inference is paused.
        """
        pose = context.odom_from_t0
        self._times.note(prediction.t0_ns, now_ns)
        trusted_mps = self._times.compute_trusted_speed(self._policies.trusted_distance_m)
        prediction = check_takeover(prediction, pose, vehicle)
        prediction = check_speed(prediction, vehicle, trusted_mps)
        decision = decide(prediction, now_ns, self._policies)
        plan = StampedPrediction(
            prediction,
            pose,
            now_ns,
            self._output_frame,
            dropped=dropped,
            trusted_mps=trusted_mps,
        )
        self._send('debug/', plan, is_requested)
        self.path_stamp_ns = None
        if decision.action == 'publish':
            timed = time_path(prediction, pose, vehicle, self._policies, trusted_mps)
            plan = replace(plan, prediction=timed)
            if self._send('output/', replace(plan, first=decision.first), is_requested):
                self._held, self.path_stamp_ns = plan, prediction.t0_ns
            else:
                decision = replace(decision, action='nothing')
        self._carry_out(decision, now_ns)
        age_ms = (now_ns - prediction.t0_ns) / 1e6
        return Served(context, prediction, age_ms, plan.inference_ms, trusted_mps)

    def publish_missing(self, reason: str, now_ns: int) -> Decision:
        """Do what the policies say where there is no prediction at a t0; return what was done."""
        self.path_stamp_ns = None
        return self._carry_out(decide_missing(self._policies, (reason,)), now_ns)

    def reset(self, now_ns: int) -> None:
        """Forget the last path, and have its markers removed."""
        held, self._held, self.decision = self._held, None, None
        self._times = LateTimes()
        if held is not None and may_publish(self.state, is_requested=False):
            message = build_marker_deletion(self._make, now_ns, held.frame_id)
            for output, publisher in self._publishers.items():
                if output.topic == MARKERS:
                    publisher.publish(message)

    def _carry_out(self, decision: Decision, now_ns: int) -> Decision:
        if decision.action == 'hold' and not self._repeat(now_ns):
            decision = replace(decision, action='nothing')
        self.decision, action = decision, decision.action
        if action == 'publish':
            action = 'published invalid' if decision.reasons else 'published'
        self.counts[action] += 1
        for reason in decision.reasons:
            self.counts[f'{action}: {reason}'] += 1
        return decision

    def _repeat(self, now_ns: int) -> bool:
        """Send the last valid path again, with its old stamp; False when there is none of now."""
        held = self._held
        if held is None or now_ns >= held.prediction.t0_ns + HORIZON_NS:
            return False
        if is_ahead(held.prediction.t0_ns, now_ns):
            return False
        first = find_first_waypoint(held.prediction.t0_ns, now_ns, self._policies)
        if first is None or not self._send('output/', replace(held, now_ns=now_ns, first=first)):
            return False
        self.path_stamp_ns = held.prediction.t0_ns
        return True

    def _send(self, prefix: str, plan: StampedPrediction, is_requested: bool = False) -> bool:
        """Publish the rows whose topics start so, where somebody listens; False if nothing may."""
        if not may_publish(self.state, is_requested):
            return False
        for output, publisher in self._publishers.items():
            if output.topic.startswith(prefix) and publisher.get_subscription_count():
                serialize = output.serialize
                publisher.publish(serialize(plan) if serialize else output.build(plan, self._make))
        return True
