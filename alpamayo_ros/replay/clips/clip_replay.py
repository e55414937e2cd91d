"""Replays clips of the makers' data set: one line of the record per clip, at one t0.

Writes no file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
import time

from ... import images
from ...clips.clip import NS_PER_US
from ...clips.context import T0_US, make_clip_rig, measure_corners, read_context
from ...clips.dataset import ClipError, ClipFolder
from ...json_types import Facts, Line
from ...metrics.displacement import measure_horizons
from ...rig import CameraRig
from ...runtime.constant_velocity import make_straight_path
from ...runtime.serving.jobs import Engine
from ..record import ok_line, reason_line


def begin_clips(
    make_engine: Callable[[], Engine], path: Path, seed: int, t0_us: int = T0_US
) -> Callable[[str], tuple[Facts, Line]]:
    """Load the engine; returns the function from a clip id to facts of the engine and a line.

    Every clip gets the same seed, as in the makers' evaluation.
    """
    engine, folder, rig = make_engine(), ClipFolder(path), make_clip_rig()
    facts = engine.provenance()

    def replay(clip_id: str) -> tuple[Facts, Line]:
        line = _replay_clip(folder, clip_id, rig, engine, seed, t0_us)
        return facts, {**line, 'clip': clip_id}

    return replay


def make_lost_line(clip_id: str, t0_us: int, detail: str) -> Line:
    """Line of a clip that no worker has lived to replay."""
    line = reason_line(t0_us * NS_PER_US, 'failed', 'worker_lost', detail)
    return {**line, 'clip': clip_id}


def _replay_clip(
    folder: ClipFolder, clip_id: str, rig: CameraRig, engine: Engine, seed: int, t0_us: int
) -> Line:
    t0_ns, start = t0_us * NS_PER_US, time.perf_counter()
    try:
        context, truth = read_context(folder, clip_id, rig, t0_us)
    except ClipError as error:
        return reason_line(t0_ns, 'rejected', error.reason, error.detail)
    context_ms = (time.perf_counter() - start) * 1e3
    start = time.perf_counter()
    try:
        prediction = engine.infer(context, seed)
    except images.ImageError as error:
        return reason_line(t0_ns, 'rejected', 'bad_image', str(error))
    except RuntimeError as error:  # out of memory, or a kernel that a device lacks
        return reason_line(t0_ns, 'failed', 'engine_error', str(error))
    total_ms = context_ms + (time.perf_counter() - start) * 1e3
    line = ok_line(
        context,
        prediction,
        measure_horizons(prediction.samples, prediction.chosen, truth.future),
        measure_horizons(make_straight_path(context.v0_mps)[None], 0, truth.future),
        {'context': context_ms, **prediction.timing_ms, 'total': total_ms},
    )
    return {**line, 'corner_distance_m': measure_corners(prediction.samples, truth)}
