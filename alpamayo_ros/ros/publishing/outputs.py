"""Converts a prediction to messages: one pure function and one row of OUTPUTS per topic.

Imports no message package: messages come from a factory `make(type_name, **fields)`, which fills
in what is not named and adapts numpy arrays. The live node passes a factory over the installed
message classes, offline evaluation one over those of rosbags. Contract: docs/ros-contract.md
section 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...data_types import GRID_NS
from ..cdr import write_path
from ..messages import (
    Make,
    make_duration,
    make_header,
    make_pose,
    make_quaternion,
    make_xyz,
)
from .markers import build_markers
from .stamped_prediction import StampedPrediction

# Fields of a point of ~/debug/samples, all float32: m, rad, m/s, m/s^2 and 1/m.
SAMPLE_FIELDS = ('x', 'y', 'z', 'yaw', 'speed', 'acceleration', 'curvature')
FLOAT32 = 7  # of sensor_msgs/PointField


def build_path(plan: StampedPrediction, make: Make) -> Any:
    """nav_msgs/Path: header stamp t0; pose k has the stamp t0 + (k + 1) * 0.1 s in odometry."""
    poses = [
        make(
            'geometry_msgs/msg/PoseStamped',
            header=make_header(make, stamp_ns, plan.frame_id),
            pose=make_pose(make, position, quaternion),
        )
        for stamp_ns, position, quaternion in zip(
            plan.waypoint_stamps_ns, *plan.place_chosen(), strict=True
        )
    ]
    header = make_header(make, plan.prediction.t0_ns, plan.frame_id)
    return make('nav_msgs/msg/Path', header=header, poses=poses)


def serialize_path(plan: StampedPrediction) -> bytes:
    """As `build_path`, as CDR bytes."""
    positions, quaternions = plan.place_chosen()
    return write_path(
        plan.prediction.t0_ns, plan.frame_id, plan.waypoint_stamps_ns, positions, quaternions
    )


def build_trajectory(plan: StampedPrediction, make: Make) -> Any:
    """MultiDOFJointTrajectory: the poses of the path with speed, yaw rate and acceleration.

    Speeds are those of the action space, so the first is not lost and reverse keeps its sign; the
    yaw rate is curvature * speed.
    """
    prediction = plan.prediction
    speeds = plan.samples[prediction.chosen, :, 3]
    actions = plan.chosen_actions
    points = []
    for k, (position, quaternion) in enumerate(zip(*plan.place_chosen(), strict=True)):
        transform = make(
            'geometry_msgs/msg/Transform',
            translation=make_xyz(make, 'Vector3', position),
            rotation=make_quaternion(make, quaternion),
        )
        velocity = make(
            'geometry_msgs/msg/Twist',
            linear=make_xyz(make, 'Vector3', (speeds[k], 0.0, 0.0)),
            angular=make_xyz(make, 'Vector3', (0.0, 0.0, actions[k, 1] * speeds[k])),
        )
        acceleration = make(
            'geometry_msgs/msg/Twist', linear=make_xyz(make, 'Vector3', (actions[k, 0], 0.0, 0.0))
        )
        points.append(
            make(
                'trajectory_msgs/msg/MultiDOFJointTrajectoryPoint',
                transforms=[transform],
                velocities=[velocity],
                accelerations=[acceleration],
                time_from_start=make_duration(make, (plan.first + k + 1) * GRID_NS),
            )
        )
    return make(
        'trajectory_msgs/msg/MultiDOFJointTrajectory',
        header=make_header(make, prediction.t0_ns, plan.frame_id),
        joint_names=[plan.odom_from_t0.child_frame_id],
        points=points,
    )


def build_reasoning(plan: StampedPrediction, make: Make) -> Any:
    """std_msgs/String: the text of the chosen sample, '' when it never ended."""
    return make('std_msgs/msg/String', data=plan.prediction.texts[plan.prediction.chosen])


def build_samples(plan: StampedPrediction, make: Make) -> Any:
    """PointCloud2 of K rows with 64 points: every sample with its actions, stamp t0.

    The points are in the vehicle's frame at t0, whatever output_frame says.
    """
    prediction = plan.prediction
    states = np.asarray(prediction.samples, np.float32)  # (K, 64, 4): x, y, yaw, speed
    columns = (
        states[..., :2],
        np.zeros((*states.shape[:2], 1)),
        states[..., 2:],
        prediction.actions,
    )
    points = np.concatenate(columns, axis=-1, dtype=np.float32)  # (K, 64, 7)
    count, width, number = points.shape
    step = 4 * number
    fields = [
        make('sensor_msgs/msg/PointField', name=name, offset=4 * k, datatype=FLOAT32, count=1)
        for k, name in enumerate(SAMPLE_FIELDS)
    ]
    return make(
        'sensor_msgs/msg/PointCloud2',
        header=make_header(make, prediction.t0_ns, plan.odom_from_t0.child_frame_id),
        height=count,
        width=width,
        fields=fields,
        is_bigendian=False,
        point_step=step,
        row_step=step * width,
        data=np.frombuffer(points.astype('<f4').tobytes(), np.uint8),
        is_dense=bool(np.isfinite(points).all()),
    )


def read_samples(message: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Samples (K, 64, 4) and actions (K, 64, 2) of a message of `build_samples`."""
    values = np.frombuffer(message.data, '<f4')
    points = values.reshape(message.height, message.width, len(SAMPLE_FIELDS)).astype(np.float32)
    return points[..., [0, 1, 3, 4]], points[..., 5:]


def build_path_age_ms(plan: StampedPrediction, make: Make) -> Any:
    """std_msgs/Float64: time of publication less t0."""
    age_ns = plan.now_ns - plan.prediction.t0_ns
    return make('std_msgs/msg/Float64', data=age_ns / 1e6)


def build_processing_time_ms(plan: StampedPrediction, make: Make) -> Any:
    """std_msgs/Float64: duration of the inference."""
    return make('std_msgs/msg/Float64', data=plan.inference_ms)


def build_trusted_speed(plan: StampedPrediction, make: Make) -> Any:
    """std_msgs/Float64: m/s, see trusted_speed.py."""
    return make('std_msgs/msg/Float64', data=plan.trusted_mps)


def build_dropped_contexts(plan: StampedPrediction, make: Make) -> Any:
    """std_msgs/UInt32: contexts since the start that gave way to a newer one or max_rate_hz."""
    return make('std_msgs/msg/UInt32', data=plan.dropped)


def build_autoware_trajectory(plan: StampedPrediction, make: Make) -> Any:
    """autoware_planning_msgs/Trajectory: the points of `build_trajectory` in Autoware's form."""
    prediction = plan.prediction
    speeds = plan.samples[prediction.chosen, :, 3]
    actions = plan.chosen_actions
    points = [
        make(
            'autoware_planning_msgs/msg/TrajectoryPoint',
            time_from_start=make_duration(make, (plan.first + k + 1) * GRID_NS),
            pose=make_pose(make, position, quaternion),
            longitudinal_velocity_mps=float(speeds[k]),
            acceleration_mps2=float(actions[k, 0]),
            heading_rate_rps=float(actions[k, 1] * speeds[k]),
        )
        for k, (position, quaternion) in enumerate(zip(*plan.place_chosen(), strict=True))
    ]
    header = make_header(make, prediction.t0_ns, plan.frame_id)
    return make('autoware_planning_msgs/msg/Trajectory', header=header, points=points)


@dataclass(frozen=True)
class Output:
    """One topic: its name below the node's own, its type, and the function that fills it.

    serialize: the same as CDR bytes, for what is too slow as a message of Python objects.
    """

    topic: str
    type_name: str
    build: Callable[[StampedPrediction, Make], Any]
    serialize: Callable[[StampedPrediction], bytes] | None = None


OUTPUTS = (
    Output('output/path', 'nav_msgs/msg/Path', build_path, serialize_path),
    Output('output/trajectory', 'trajectory_msgs/msg/MultiDOFJointTrajectory', build_trajectory),
    Output('output/reasoning', 'std_msgs/msg/String', build_reasoning),
    Output('output/trusted_speed', 'std_msgs/msg/Float64', build_trusted_speed),
    Output('output/markers', 'visualization_msgs/msg/MarkerArray', build_markers),
    Output('debug/samples', 'sensor_msgs/msg/PointCloud2', build_samples),
    Output('debug/path', 'nav_msgs/msg/Path', build_path, serialize_path),
    Output('debug/path_age_ms', 'std_msgs/msg/Float64', build_path_age_ms),
    Output('debug/processing_time_ms', 'std_msgs/msg/Float64', build_processing_time_ms),
    Output('debug/dropped_contexts', 'std_msgs/msg/UInt32', build_dropped_contexts),
)
# Only with the parameter autoware_trajectory: its package is not part of ROS 2.
AUTOWARE = Output(
    'output/autoware_trajectory',
    'autoware_planning_msgs/msg/Trajectory',
    build_autoware_trajectory,
)
