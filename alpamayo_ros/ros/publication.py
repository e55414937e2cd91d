"""Predictions out: policy applied, rows of OUTPUTS sent, the last valid path held.

Knows publishers as objects with `publish` and `get_subscription_count`, messages through a factory
and the time as an argument. Rows below debug/ get every prediction, those below output/ what the
policies let through.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data_types import Context, Prediction
from .diagnostics import Served
from .outputs import HORIZON_NS, Make, Output, StampedPrediction, clear_markers
from .policy import (
    Decision,
    Policies,
    compare_with_previous,
    decide,
    decide_missing,
    first_waypoint,
)

MARKERS = 'output/markers'


class Publication:
    """Publishes one prediction after the other.

    counts: what was done, by action and reason. decision: what was done last, None at first.
    """

    def __init__(
        self,
        publishers: Mapping[Output, Any],
        make: Make,
        output_frame: str,
        policies: Policies,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.decision: Decision | None = None
        self._publishers, self._make = publishers, make
        self._output_frame, self._policies = output_frame, policies
        self._previous: tuple[int, NDArray[np.float64]] | None = None
        self._held: StampedPrediction | None = None

    def publish(
        self, context: Context, prediction: Prediction, now_ns: int, dropped: int
    ) -> Served:
        """Publish a prediction as the policies say; returns it with all checks."""
        pose = context.odom_from_t0
        prediction, self._previous = compare_with_previous(prediction, pose, self._previous)
        decision = decide(prediction, now_ns, self._policies)
        plan = StampedPrediction(prediction, pose, now_ns, self._output_frame, dropped=dropped)
        self._send('debug/', plan)
        if decision.action == 'publish':
            self._held = plan
            self._send('output/', replace(plan, first=decision.first))
        self._carry_out(decision, now_ns)
        return Served(context, prediction, (now_ns - prediction.t0_ns) / 1e6)

    def missing(self, reason: str, now_ns: int) -> None:
        """There is no prediction at a t0: do what the policy says."""
        self._carry_out(decide_missing(self._policies, (reason,)), now_ns)

    def reset(self, now_ns: int) -> None:
        """Forget the plans so far, and have their markers removed."""
        held, self._held, self._previous, self.decision = self._held, None, None, None
        if held is not None:
            message = clear_markers(self._make, now_ns, held.frame_id)
            for output, publisher in self._publishers.items():
                if output.topic == MARKERS:
                    publisher.publish(message)

    def _carry_out(self, decision: Decision, now_ns: int) -> None:
        if decision.action == 'hold' and not self._repeat(now_ns):
            decision = replace(decision, action='nothing')
        self.decision, action = decision, decision.action
        if action == 'publish':
            action = 'flagged' if decision.reasons else 'published'
        self.counts[action] += 1
        for reason in decision.reasons:
            self.counts[f'{action}: {reason}'] += 1

    def _repeat(self, now_ns: int) -> bool:
        """Send the last valid path again, with its old stamp; False when there is none or over."""
        held = self._held
        if held is None or now_ns >= held.prediction.t0_ns + HORIZON_NS:
            return False
        first = first_waypoint(held.prediction.t0_ns, now_ns, self._policies)
        if first is None:
            return False
        self._send('output/', replace(held, now_ns=now_ns, first=first))
        return True

    def _send(self, prefix: str, plan: StampedPrediction) -> None:
        """Fill and publish the rows whose topics start so, where somebody listens."""
        for output, publisher in self._publishers.items():
            if output.topic.startswith(prefix) and publisher.get_subscription_count():
                serialize = output.serialize
                publisher.publish(serialize(plan) if serialize else output.build(plan, self._make))
