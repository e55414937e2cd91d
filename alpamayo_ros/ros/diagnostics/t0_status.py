"""~/output/status: one status for each anchor frame, stamped with its t0, in every state.

Every fact about one t0 is a value here, so a subscriber joins the topics of a t0 by the stamp.
Where no anchor frame comes, a heartbeat without a t0 (stamp zero) says so once a second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...data_types import Prediction
from ..messages import Make
from ..publishing.policy import Decision
from .node_statuses import SENTENCES, Served
from .status import ERROR, OK, WARN, Status, build_diagnostic_array

TOPIC = 'output/status'
NAME = 't0'


@dataclass(frozen=True)
class T0Report:
    """What became of the anchor frame at t0; t0_ns is 0 and `fate` is '' in a heartbeat.

    fate: one of anchors.FATES; reason: short names; detail: a sentence. decision: what went out,
    path_stamp_ns: the header stamp of that path. now_ns: time of the decision.
    """

    t0_ns: int
    now_ns: int
    state: str
    fate: str = ''
    reason: str = ''
    detail: str = ''
    decision: Decision | None = None
    path_stamp_ns: int | None = None
    served: Served | None = None
    dropped: int = 0


@dataclass(frozen=True)
class StatusKey:
    """One key of the status; `read` gives its value, None where the key is left out."""

    key: str
    description: str
    read: Callable[[T0Report], object]


def _of_prediction(read: Callable[[Prediction], object]) -> Callable[[T0Report], object]:
    return lambda report: read(report.served.prediction) if report.served else None


def _of_served(read: Callable[[Served], object]) -> Callable[[T0Report], object]:
    return lambda report: read(report.served) if report.served else None


KEYS = (
    StatusKey(
        'state',
        'unloaded, loading, inactive (paused), active or failed',
        lambda report: report.state,
    ),
    StatusKey(
        'fate',
        'what became of the anchor frame: inferred, failed, dropped, rejected or discarded',
        lambda report: report.fate or None,
    ),
    StatusKey(
        'reason',
        'short names of what is wrong, such as odometry_gap, engine_error or jump',
        lambda report: ', '.join(_list_reasons(report)) or None,
    ),
    StatusKey('detail', 'the reason as a sentence', lambda report: report.detail or None),
    StatusKey(
        'decision',
        'what went out on ~/output/path: publish, hold (an older path), flag or nothing',
        lambda report: report.decision.action if report.decision else None,
    ),
    StatusKey(
        'path stamp ns',
        'header stamp of the path that went out: t0, or that of the held path',
        lambda report: report.path_stamp_ns,
    ),
    StatusKey(
        'first waypoint',
        'number of the first waypoint that went out; above 0 in a trimmed path',
        lambda report: (
            report.decision.first
            if report.decision and report.decision.action == 'publish'
            else None
        ),
    ),
    StatusKey(
        'age ms',
        'time of this decision less t0',
        lambda report: round((report.now_ns - report.t0_ns) / 1e6, 3) if report.t0_ns else None,
    ),
    StatusKey(
        'dropped contexts',
        'contexts since the start that gave way to a newer one or to max_rate_hz',
        lambda report: report.dropped if report.t0_ns else None,
    ),
    StatusKey(
        'checks',
        'failed checks of path and reasoning, and what is unusual about the context',
        _of_prediction(lambda prediction: ', '.join(prediction.checks)),
    ),
    StatusKey(
        'trusted m/s',
        'speed that paths can be trusted at, by how late they come',
        _of_served(lambda x: round(x.trusted_mps, 3)),
    ),
    StatusKey('inference ms', 'duration of the inference', _of_served(lambda x: x.inference_ms)),
    StatusKey('samples', 'number of samples', _of_prediction(lambda x: len(x.samples))),
    StatusKey(
        'chosen', 'row of ~/debug/samples that is the path', _of_prediction(lambda x: x.chosen)
    ),
    StatusKey(
        'spread m',
        'mean distance of the path to the other samples at 6.4 s',
        _of_prediction(lambda x: round(x.spread_m, 3)),
    ),
    StatusKey('seed', 'seed of this inference', _of_prediction(lambda x: x.seed)),
    StatusKey(
        'v0 m/s', 'speed from the history of poses', _of_prediction(lambda x: round(x.v0_mps, 4))
    ),
    StatusKey(
        'twist m/s',
        'speed that the odometry message states',
        _of_served(lambda x: round(x.context.odom_from_t0.speed_mps, 4)),
    ),
    StatusKey(
        'skew ms',
        'largest spread of the cameras at one grid time',
        _of_served(lambda x: round(x.context.skew_s * 1e3, 3)),
    ),
    StatusKey(
        'end',
        'how the reasoning ended: marker, eos, budget, cut (by reasoning: short) or none',
        _of_prediction(lambda x: x.end[x.chosen]),
    ),
    StatusKey('tokens', 'tokens of the reasoning', _of_prediction(lambda x: x.tokens[x.chosen])),
    StatusKey(
        'navigation',
        'route text in the prompt, where there is one',
        _of_prediction(lambda x: x.navigation or None),
    ),
    StatusKey(
        'navigation age s',
        'age of the route text at t0',
        _of_served(lambda x: x.context.navigation and round(x.context.navigation.age_s, 3)),
    ),
    StatusKey('text', 'reasoning of the path', _of_prediction(lambda x: x.texts[x.chosen])),
    StatusKey(
        'partial text',
        'reasoning that did not end',
        _of_prediction(lambda x: x.partial_texts[x.chosen] or None),
    ),
)
_LEVELS = {'dropped': OK, 'discarded': WARN, 'failed': ERROR, 'rejected': ERROR}


def describe_t0(report: T0Report) -> Status:
    """Status of one t0, or the heartbeat."""
    values: Mapping[str, object] = {
        row.key: value for row in KEYS if (value := row.read(report)) is not None
    }
    reasons = ', '.join(_list_reasons(report))
    if not report.fate:
        level = ERROR if report.state == 'failed' else WARN
        return Status(level, NAME, report.detail, values)
    if report.fate == 'inferred' and report.decision:
        text = SENTENCES[report.decision.action]
        return Status(
            ERROR if reasons else OK, NAME, f'{text}: {reasons}' if reasons else text, values
        )
    text = f'{report.fate}: {report.detail or reasons}'
    return Status(_LEVELS[report.fate], NAME, text, values)


class T0StatusPublisher:
    """Publishes one status per t0, and a heartbeat when none was due since the last `beat`."""

    def __init__(self, publisher: Any, make: Make, node_name: str, hardware: str) -> None:
        self._publisher, self._make = publisher, make
        self._node_name, self._hardware = node_name, hardware
        self._is_silent = True

    def publish(self, report: T0Report) -> None:
        """Publish the status of a report, where somebody listens."""
        self._is_silent = self._is_silent and not report.t0_ns
        if self._publisher.get_subscription_count():
            status = describe_t0(report)
            self._publisher.publish(
                build_diagnostic_array(
                    [status], self._make, report.t0_ns, self._node_name, self._hardware
                )
            )

    def beat(self, report: T0Report) -> None:
        """Publish a heartbeat, a report without a t0, if no t0 had a status since the last one."""
        if self._is_silent:
            self.publish(report)
        self._is_silent = True


def _list_reasons(report: T0Report) -> tuple[str, ...]:
    if report.fate == 'inferred' and report.decision:
        return report.decision.reasons
    return (report.reason,) if report.reason else ()
