"""Settles each t0: counts what became of it, publishes path and status, logs failures."""

from __future__ import annotations

from collections.abc import Callable

from ...data_types import EgoPose, Rejection
from ...runtime.serving.jobs import InferenceJob, Result
from ..anchors import Anchors
from ..diagnostics.log_throttle import LogThrottle
from ..diagnostics.node_statuses import Served
from ..diagnostics.t0_status import T0Report, T0StatusPublisher
from .policy import Decision
from .publication import Publication

NOTHING = Decision('nothing')


class Results:
    """Reports every t0 once.

    served: the last prediction. failure: a sentence while the last inference has failed.
    """

    def __init__(
        self,
        anchors: Anchors,
        publication: Publication,
        status: T0StatusPublisher,
        log: LogThrottle,
        now_ns: Callable[[], int],
    ) -> None:
        self.publication = publication
        self.served: Served | None = None
        self.failure = ''
        self._anchors, self._status, self._log, self._now_ns = anchors, status, log, now_ns

    def report(self, result: Result, vehicle: EgoPose | None) -> None:
        """Report the result of a job; vehicle: the newest pose of the odometry."""
        if result.is_discarded:
            self.settle(result.job, 'discarded', result.reason)
        elif result.prediction is not None:
            self._publish(result, vehicle)
        else:
            self._report_failure(result)

    def report_missing(self, why: Rejection, now_ns: int) -> Decision:
        """Log why there is nothing to infer from, and do what the policy says."""
        self._anchors.last = why
        self._log.warn(why.reason, why.detail)
        return self.publication.publish_missing(why.reason, now_ns)

    def report_decided(self, now_ns: int, newest_ns: int = 0, done: Decision = NOTHING) -> None:
        """Publish the status of every anchor frame that has got a fate without an inference.

        done: what was done for want of a path at `newest_ns`.
        """
        for t0_ns, fate, reason, detail in self._anchors.drain_decided():
            decision = done if t0_ns == newest_ns else NOTHING
            self._publish_status(t0_ns, now_ns, fate, reason, detail, decision)

    def settle(self, job: InferenceJob, fate: str, reason: str) -> None:
        """Count what became of a job that was not inferred to its end, and publish its status."""
        self._anchors.settle(fate, reason)
        self._publish_status(job.context.t0_ns, self._now_ns(), fate, reason, '', NOTHING)

    def beat(self, text: str, done: Decision | None = None) -> None:
        """Publish a heartbeat, if no t0 had a status since the last call.

        done: what went out without a t0.
        """
        state, stamp_ns = self.publication.state, self._get_stamp(done)
        self._status.beat(T0Report(0, self._now_ns(), state, '', '', text, done, stamp_ns))

    def reset(self, now_ns: int) -> None:
        """Forget the last prediction and path."""
        self.served, self.failure = None, ''
        self.publication.reset(now_ns)

    def _publish(self, result: Result, vehicle: EgoPose | None) -> None:
        assert result.prediction is not None
        now_ns, job = self._now_ns(), result.job
        dropped = self._anchors.total('dropped')
        self._anchors.settle('inferred')
        self.failure = ''
        self.served = self.publication.publish(
            job.context, result.prediction, now_ns, vehicle, dropped, job.is_requested
        )
        decision = self.publication.decision or NOTHING
        self._publish_status(job.context.t0_ns, now_ns, 'inferred', '', '', decision, self.served)

    def _report_failure(self, result: Result) -> None:
        """The inference has failed, or its context turned out to be of no use."""
        now_ns, t0_ns = self._now_ns(), result.job.context.t0_ns
        reason, detail = result.reason, result.detail
        if reason in ('bad_image', 'stale_input'):
            rejection = Rejection(t0_ns, reason, detail)
            self._anchors.reject(rejection)
            self.report_decided(now_ns, t0_ns, self.report_missing(rejection, now_ns))
            return
        self.failure = f'inference failed: {detail}'
        self._log.report_error(reason, self.failure)
        self._anchors.settle('failed', reason)
        decision = self.publication.publish_missing(reason, now_ns)
        self._publish_status(t0_ns, now_ns, 'failed', reason, detail, decision)

    def _publish_status(
        self,
        t0_ns: int,
        now_ns: int,
        fate: str,
        reason: str,
        detail: str,
        decision: Decision,
        served: Served | None = None,
    ) -> None:
        self._status.publish(
            T0Report(
                t0_ns,
                now_ns,
                self.publication.state,
                fate,
                reason,
                detail,
                decision,
                self._get_stamp(decision),
                served,
                self._anchors.total('dropped'),
            )
        )

    def _get_stamp(self, decision: Decision | None) -> int | None:
        """Stamp of the path that went out by a decision."""
        went_out = decision is not None and decision.action in ('publish', 'hold')
        return self.publication.path_stamp_ns if went_out else None
