"""Turns figures of the node into the statuses of /diagnostics, one function each.

Pure functions of figures that the node hands over; no rclpy, no clock, no thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import math
from typing import Any

import numpy as np

from ...context.checks import CONTEXT_CHECKS
from ...data_types import NANOSECONDS, Context, Prediction, Rejection
from ..anchors import FATES, Anchors
from ..publishing.policy import TOO_FAST, UNHEALTHY, Decision
from ..publishing.stamped_prediction import HORIZON_NS
from .status import ERROR, OK, STALE, WARN, Status

SENTENCES = {
    'publish': 'published',
    'hold': 'last valid path held',
    'flag': 'flagged',
    'nothing': 'held back',
}


@dataclass(frozen=True)
class Served:
    """The last prediction, its age when it came, how long it took, and the speed trusted then."""

    context: Context
    prediction: Prediction
    age_ms: float
    inference_ms: float = 0.0
    trusted_mps: float = math.inf


def describe_model(
    state: str,
    error: str,
    load_s: float,
    pid: int | None,
    restarts: int,
    about: Mapping[str, Any],
) -> Status:
    """Status of the model: the node's state, its process, and what the model was loaded from.

    restarts: how often a lost engine was loaded again; `error` says why while it loads.
    """
    values = {
        'state': state,
        'load s': round(load_s, 1),
        'restarts': restarts,
        'process': pid,
        **about,
    }
    if state == 'failed':
        return Status(ERROR, 'model', error, values)
    message = {'active': 'ready', 'inactive': 'paused'}.get(state, state)
    message += f': {error}' if error else ''
    return Status(OK if state == 'active' else WARN, 'model', message, values)


def describe_context(anchors: Anchors, context: Context | None, no_clock: bool) -> Status:
    """Whether the newest anchor was served, else why not; counts of rejections by reason."""
    values: dict[str, object] = {
        **{f'rejected: {reason}': count for reason, count in sorted(anchors.rejections.items())},
        'epoch': anchors.epoch,
    }
    if context is not None:
        values['v0 m/s'] = round(context.v0_mps, 2)
        values['twist m/s'] = round(context.odom_from_t0.speed_mps, 2)
        values['skew ms'] = round(context.skew_s * 1e3, 1)
    if no_clock:
        return Status(ERROR, 'context', 'use_sim_time is set, but there is no /clock', values)
    if anchors.last is not None:
        return Status(rate_rejection(anchors.last), 'context', anchors.last.detail, values)
    if context is None:
        return Status(STALE, 'context', 'no context yet', values)
    unusual = [CONTEXT_CHECKS.get(name, name) for name in context.checks]
    return Status(WARN if unusual else OK, 'context', '; '.join(unusual) or 'ready', values)


def describe_inference(
    anchors: Anchors,
    pending: int,
    busy_s: float,
    limit_s: float,
    submit_ms: Sequence[float],
    served: Served | None,
) -> Status:
    """Counts of anchor frames by fate, which add up, and the times of the last inference.

    submit_ms: times from the input that completed a context to its submission.
    """
    values: dict[str, object] = {'seen': anchors.seen}
    values.update({fate: anchors.total(fate) for fate in FATES})
    values['pending'] = anchors.waiting + pending
    values.update(
        {
            f'{fate}: {reason}': count
            for (fate, reason), count in sorted(anchors.fates.items())
            if reason and count
        }
    )
    if submit_ms:
        median, p99 = np.percentile(submit_ms, [50, 99])
        values |= {'submit ms': round(float(median), 3), 'submit p99 ms': round(float(p99), 3)}
    if served is not None:
        stages = served.prediction.timing_ms
        values.update({f'{stage} ms': round(ms, 2) for stage, ms in stages.items()})
        values['seed'] = served.prediction.seed
    if busy_s > limit_s:
        text = f'inference has been running for {busy_s:.1f} s, limit {limit_s:g} s'
        return Status(ERROR, 'inference', text, values)
    return Status(OK, 'inference', 'running' if busy_s else 'idle', values)


def describe_output(
    state: str,
    served: Served | None,
    decision: Decision | None,
    counts: Mapping[str, int],
    failure: str,
    now_ns: int,
) -> Status:
    """What the node did last, with or without a path, and why; counts by action and reason.

    The age of a path is that of its publication, its rest that of now. A node that is paused or
    has no model publishes nothing: that is a warning.
    """
    values: dict[str, object] = dict(sorted(counts.items()))
    reasons = ', '.join(decision.reasons) if decision else ''
    if served is not None:
        remaining_s = (served.prediction.t0_ns + HORIZON_NS - now_ns) / NANOSECONDS
        values.update(
            {
                'age ms': round(served.age_ms, 1),
                'remaining s': round(remaining_s, 2),
                'trusted m/s': round(served.trusted_mps, 2),
                'checks': ', '.join(served.prediction.checks),
                'spread m': round(served.prediction.spread_m, 2),
                'samples': len(served.prediction.samples),
            }
        )
    if state != 'active':
        text = 'paused' if state == 'inactive' else f'the model is {state}'
        return Status(ERROR if state == 'failed' else WARN, 'output', text, values)
    if failure:
        return Status(ERROR, 'output', failure, values)
    if served is None:
        text = f'no path yet: {reasons}' if reasons else 'no path yet'
        return Status(STALE, 'output', text, values)
    if decision is not None and reasons:
        return Status(ERROR, 'output', f'{SENTENCES[decision.action]}: {reasons}', values)
    if remaining_s <= 0:
        text = f'the last path has been over for {-remaining_s:.1f} s'
        return Status(ERROR, 'output', text, values)
    if TOO_FAST in served.prediction.checks:
        text = f'faster than paths can be trusted at: {served.trusted_mps:.1f} m/s'
        return Status(WARN, 'output', text, values)
    return Status(OK, 'output', 'published', values)


def describe_reasoning(served: Served | None) -> Status:
    """How the reasoning ended; the partial text when it did not."""
    if served is None:
        return Status(STALE, 'reasoning', 'no prediction yet')
    prediction = served.prediction
    k = prediction.chosen
    values = {
        'end': prediction.end[k],
        'tokens': prediction.tokens[k],
        'partial text': prediction.partial_texts[k],
    }
    faults = [name for name in UNHEALTHY if name in prediction.checks]
    return Status(WARN if faults else OK, 'reasoning', ', '.join(faults) or 'ended', values)


def describe_memory(
    available_bytes: int,
    resident_bytes: int,
    peak_bytes: int,
    engine_bytes: int,
    gpu_peak_bytes: int = 0,
) -> Status:
    """Memory of the machine, of this process and of the engine's; the last on a GPU, 0 without."""
    values = {
        'available MB': round(available_bytes / 1e6),
        'resident MB': round(resident_bytes / 1e6, 1),
        'peak MB': round(peak_bytes / 1e6, 1),
        'engine MB': round(engine_bytes / 1e6, 1),
    }
    if gpu_peak_bytes:
        values['GPU peak MB'] = round(gpu_peak_bytes / 1e6, 1)
    return Status(OK, 'memory', f'{values["available MB"]} MB available', values)


def rate_rejection(rejection: Rejection) -> int:
    """Level of a rejection: a gap or a clock jump passes by itself, what is missing does not."""
    passing = {'odometry_gap', 'odometry_late', 'history_short', 'clock_jump', 'too_old'}
    passing |= {'no_key_frame', 'decoder_behind'}
    return WARN if rejection.reason in passing else ERROR
