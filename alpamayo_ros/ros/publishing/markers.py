"""A prediction as RViz markers: path, other samples, outline of the vehicle and reasoning text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...data_types import NANOSECONDS
from ..messages import Make, make_color, make_duration, make_header, make_pose, make_xyz
from .stamped_prediction import HORIZON_NS, StampedPrediction

MIN_LIFETIME_NS = NANOSECONDS  # a path published after its end still shows up in RViz
# Outline of a passenger car around the rear axle, for drawing only: x, y m.
FOOTPRINT_M = ((3.8, 0.9), (3.8, -0.9), (-1.0, -0.9), (-1.0, 0.9), (3.8, 0.9))
SLOW_MPS, FAST_MPS = 0.0, 25.0
SAMPLE_COLOR = (0.75, 0.75, 0.75, 0.35)
FOOTPRINT_COLOR = (1.0, 1.0, 1.0, 0.9)
# Constants of visualization_msgs/Marker.
LINE_STRIP, TEXT_VIEW_FACING, ADD, DELETEALL = 4, 9, 0, 3


def build_markers(plan: StampedPrediction, make: Make) -> Any:
    """MarkerArray: path coloured by speed, other samples faint, footprint at t0 and the texts.

    The points are in the vehicle's frame at t0, whatever output_frame says: RViz computes in
    float32, which resolves 0.5 m in a frame with the coordinates of a map. The stamp is t0, so an
    old path does not ride along with the vehicle. The markers disappear when the path ends.
    """
    prediction = plan.prediction
    markers = []
    for k, sample in enumerate(plan.samples):
        if k != prediction.chosen:
            line = _to_points(sample)
            markers.append(_make_line(plan, make, 'samples', k, line, [SAMPLE_COLOR], 0.08))
    chosen = plan.samples[prediction.chosen]
    colors = [color_speed(speed) for speed in chosen[:, 3]]
    line = _to_points(chosen, z_m=0.02)
    markers.append(_make_line(plan, make, 'path', 0, line, colors, 0.35))
    outline = _to_points(np.array(FOOTPRINT_M))
    markers.append(_make_line(plan, make, 'footprint', 0, outline, [FOOTPRINT_COLOR], 0.08))
    texts = (prediction.navigation, prediction.texts[prediction.chosen])
    if text := '\n'.join(filter(None, texts)):
        markers.append(_make_text(plan, make, text))
    return make('visualization_msgs/msg/MarkerArray', markers=markers)


def build_marker_deletion(make: Make, stamp_ns: int, frame_id: str) -> Any:
    """MarkerArray that removes every marker published before (after a reset or clock jump)."""
    marker = make(
        'visualization_msgs/msg/Marker',
        header=make_header(make, stamp_ns, frame_id),
        action=DELETEALL,
    )
    return make('visualization_msgs/msg/MarkerArray', markers=[marker])


def color_speed(speed_mps: float) -> tuple[float, float, float, float]:
    """RGBA of a speed: blue when standing, green, then red at FAST_MPS and above."""
    share = min(max((speed_mps - SLOW_MPS) / (FAST_MPS - SLOW_MPS), 0.0), 1.0)
    return (max(2 * share - 1, 0.0), 1 - abs(2 * share - 1), max(1 - 2 * share, 0.0), 0.9)


def _make_line(
    plan: StampedPrediction,
    make: Make,
    namespace: str,
    number: int,
    points: NDArray[np.float64],
    colors: Sequence[tuple[float, float, float, float]],
    width_m: float,
) -> Any:
    return _make_marker(
        plan,
        make,
        ns=namespace,
        id=number,
        type=LINE_STRIP,
        pose=make('geometry_msgs/msg/Pose'),
        scale=make_xyz(make, 'Vector3', (width_m, 0.0, 0.0)),
        color=make_color(make, colors[0]),
        points=[make_xyz(make, 'Point', point) for point in points],
        colors=[make_color(make, color) for color in colors] if len(colors) > 1 else [],
    )


def _make_text(plan: StampedPrediction, make: Make, text: str) -> Any:
    above = _to_points(np.array([[1.5, 0.0]]), z_m=3.0)[0]
    return _make_marker(
        plan,
        make,
        ns='text',
        id=0,
        type=TEXT_VIEW_FACING,
        pose=make_pose(make, above, (0.0, 0.0, 0.0, 1.0)),
        scale=make_xyz(make, 'Vector3', (0.0, 0.0, 0.8)),
        color=make_color(make, FOOTPRINT_COLOR),
        text=text,
    )


def _make_marker(plan: StampedPrediction, make: Make, **fields: Any) -> Any:
    frame_id = plan.odom_from_t0.child_frame_id
    left_ns = plan.prediction.t0_ns + HORIZON_NS - plan.now_ns
    return make(
        'visualization_msgs/msg/Marker',
        header=make_header(make, plan.prediction.t0_ns, frame_id),
        action=ADD,
        lifetime=make_duration(make, max(left_ns, MIN_LIFETIME_NS)),
        frame_locked=False,
        **fields,
    )


def _to_points(xy: NDArray[np.float64], z_m: float = 0.0) -> NDArray[np.float64]:
    """Points (N, 3) at the height z_m, from the columns x, y of (N, >=2)."""
    return np.column_stack([xy[:, :2], np.full(len(xy), z_m)])
