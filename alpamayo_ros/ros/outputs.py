"""Prediction to messages: one pure function and one row of OUTPUTS per topic.

Imports no message package: messages come from a factory `make(type_name, **fields)`, which fills
in what is not named and adapts numpy arrays. The live node passes a factory over the installed
message classes, offline evaluation one over those of rosbags. Knows no clock: the time of
publication is an argument. Contract: ros-node.md section 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import geometry
from ..data_types import GRID_NS, NANOSECONDS, WAYPOINTS, EgoPose, Prediction
from .cdr import write_path

Make = Callable[..., Any]

FRAMES = ('odometry', 'base_link')
HORIZON_NS = WAYPOINTS * GRID_NS
MIN_LIFETIME_NS = NANOSECONDS  # a path published after its end still shows up in RViz
# Outline of a passenger car around the rear axle, for drawing only: x, y m.
FOOTPRINT_M = ((3.8, 0.9), (3.8, -0.9), (-1.0, -0.9), (-1.0, 0.9), (3.8, 0.9))
SLOW_MPS, FAST_MPS = 0.0, 25.0
SAMPLE_COLOR = (0.75, 0.75, 0.75, 0.35)
FOOTPRINT_COLOR = (1.0, 1.0, 1.0, 0.9)


@dataclass(frozen=True)
class StampedPrediction:
    """A prediction and where it belongs: what the messages of one t0 are made from.

    odom_from_t0 is the pose interpolated at exactly t0, never a later one. output_frame is one of
    FRAMES. first: waypoints before this index are left out (a path that is partly in the past).
    now_ns: time of publication, on the clock of t0. dropped: contexts since the start that a newer
    one or max_rate_hz left out.
    """

    prediction: Prediction
    odom_from_t0: EgoPose
    now_ns: int
    output_frame: str = 'odometry'
    first: int = 0
    dropped: int = 0

    @property
    def frame_id(self) -> str:
        """Frame of every message: that of the odometry, or the vehicle's."""
        odom = self.odom_from_t0
        return odom.frame_id if self.output_frame == 'odometry' else odom.child_frame_id

    @property
    def samples(self) -> NDArray[np.float64]:
        """(K, 64 - first, 4): x, y, yaw, speed of each sample, t0 frame."""
        return np.asarray(self.prediction.samples, np.float64)[:, self.first :]

    def place(
        self, xyz: NDArray[np.float64], yaw: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Poses of the t0 frame in the output frame: positions (N, 3) and quaternions (N, 4).

        In the odometry frame p_t0 + R_t0 p and q_t0 * q_yaw, float64.
        """
        if self.output_frame == 'base_link':
            return xyz, geometry.yaw_quaternion(yaw)
        odom = self.odom_from_t0
        return geometry.to_world(odom.position_m, odom.quaternion_xyzw, xyz, yaw)

    def points(self, xy: NDArray[np.float64], z_m: float = 0.0) -> NDArray[np.float64]:
        """Points (N, 3) in the output frame of the columns x, y of (N, >=2) in the t0 frame."""
        return self.place(_flat(xy, z_m), np.zeros(len(xy)))[0]


def path(plan: StampedPrediction, make: Make) -> Any:
    """nav_msgs/Path: header stamp t0, pose k stamped t0 + (k + 1) * 0.1 s."""
    t0_ns = plan.prediction.t0_ns
    positions, quaternions = _chosen_poses(plan)
    poses = [
        make(
            'geometry_msgs/msg/PoseStamped',
            header=_header(make, t0_ns + (k + 1) * GRID_NS, plan.frame_id),
            pose=_pose(make, position, quaternion),
        )
        for k, (position, quaternion) in enumerate(
            zip(positions, quaternions, strict=True), start=plan.first
        )
    ]
    return make('nav_msgs/msg/Path', header=_header(make, t0_ns, plan.frame_id), poses=poses)


def path_bytes(plan: StampedPrediction) -> bytes:
    """As `path`, serialized."""
    t0_ns = plan.prediction.t0_ns
    positions, quaternions = _chosen_poses(plan)
    stamps_ns = t0_ns + GRID_NS * np.arange(plan.first + 1, plan.first + 1 + len(positions))
    return write_path(t0_ns, plan.frame_id, stamps_ns, positions, quaternions)


def trajectory(plan: StampedPrediction, make: Make) -> Any:
    """MultiDOFJointTrajectory: the poses of the path with speed, yaw rate and acceleration.

    Speeds are those of the action space, so the first is not lost and reverse keeps its sign; the
    yaw rate is curvature * speed.
    """
    prediction = plan.prediction
    speeds = plan.samples[prediction.chosen, :, 3]
    actions = np.asarray(prediction.actions[prediction.chosen, plan.first :], np.float64)
    points = []
    for k, (position, quaternion) in enumerate(zip(*_chosen_poses(plan), strict=True)):
        transform = make(
            'geometry_msgs/msg/Transform',
            translation=_xyz(make, 'Vector3', position),
            rotation=_quaternion(make, quaternion),
        )
        velocity = make(
            'geometry_msgs/msg/Twist',
            linear=_xyz(make, 'Vector3', (speeds[k], 0.0, 0.0)),
            angular=_xyz(make, 'Vector3', (0.0, 0.0, actions[k, 1] * speeds[k])),
        )
        acceleration = make(
            'geometry_msgs/msg/Twist', linear=_xyz(make, 'Vector3', (actions[k, 0], 0.0, 0.0))
        )
        points.append(
            make(
                'trajectory_msgs/msg/MultiDOFJointTrajectoryPoint',
                transforms=[transform],
                velocities=[velocity],
                accelerations=[acceleration],
                time_from_start=_duration(make, (plan.first + k + 1) * GRID_NS),
            )
        )
    return make(
        'trajectory_msgs/msg/MultiDOFJointTrajectory',
        header=_header(make, prediction.t0_ns, plan.frame_id),
        joint_names=[plan.odom_from_t0.child_frame_id],
        points=points,
    )


def reasoning(plan: StampedPrediction, make: Make) -> Any:
    """std_msgs/String: the text of the chosen sample, '' when it never ended."""
    return make('std_msgs/msg/String', data=plan.prediction.texts[plan.prediction.chosen])


def markers(plan: StampedPrediction, make: Make) -> Any:
    """MarkerArray: path coloured by speed, other samples faint, footprint at t0 and the text.

    Frame and stamp are those of the path, so an old path does not ride along with the vehicle;
    they disappear when the path ends.
    """
    prediction = plan.prediction
    found = []
    for k, sample in enumerate(plan.samples):
        if k != prediction.chosen:
            line = plan.points(sample)
            found.append(_line(plan, make, 'samples', k, line, [SAMPLE_COLOR], 0.08))
    chosen = plan.samples[prediction.chosen]
    colors = [speed_color(speed) for speed in chosen[:, 3]]
    found.append(_line(plan, make, 'path', 0, plan.points(chosen, z_m=0.02), colors, 0.35))
    outline = plan.points(np.array(FOOTPRINT_M))
    found.append(_line(plan, make, 'footprint', 0, outline, [FOOTPRINT_COLOR], 0.08))
    text = prediction.texts[prediction.chosen]
    if text:
        found.append(_text(plan, make, text))
    return make('visualization_msgs/msg/MarkerArray', markers=found)


def clear_markers(make: Make, stamp_ns: int, frame_id: str) -> Any:
    """MarkerArray that removes every marker published before (after a reset or clock jump)."""
    marker = make(
        'visualization_msgs/msg/Marker', header=_header(make, stamp_ns, frame_id), action=3
    )
    return make('visualization_msgs/msg/MarkerArray', markers=[marker])


def actions(plan: StampedPrediction, make: Make) -> Any:
    """Float32MultiArray (64, 2): acceleration m/s^2 and curvature 1/m of the chosen sample."""
    return _array(make, plan.prediction.actions[plan.prediction.chosen], ('waypoint', 'action'))


def samples(plan: StampedPrediction, make: Make) -> Any:
    """Float32MultiArray (K, 64, 4): x, y m, yaw rad, speed m/s of every sample, t0 frame."""
    return _array(make, plan.prediction.samples, ('sample', 'waypoint', 'state'))


def path_age_ms(plan: StampedPrediction, make: Make) -> Any:
    """std_msgs/Float64: time of publication less t0."""
    age_ns = plan.now_ns - plan.prediction.t0_ns
    return make('std_msgs/msg/Float64', data=age_ns / 1e6)


def processing_time_ms(plan: StampedPrediction, make: Make) -> Any:
    """std_msgs/Float64: the whole inference, or its stages where nothing timed the whole."""
    timing_ms = plan.prediction.timing_ms
    return make(
        'std_msgs/msg/Float64', data=float(timing_ms.get('total', sum(timing_ms.values())))
    )


def dropped_contexts(plan: StampedPrediction, make: Make) -> Any:
    """std_msgs/UInt32: contexts since the start that a newer one or max_rate_hz left out."""
    return make('std_msgs/msg/UInt32', data=plan.dropped)


def autoware_trajectory(plan: StampedPrediction, make: Make) -> Any:
    """autoware_planning_msgs/Trajectory: the points of `trajectory` in Autoware's form."""
    prediction = plan.prediction
    speeds = plan.samples[prediction.chosen, :, 3]
    actions = np.asarray(prediction.actions[prediction.chosen, plan.first :], np.float64)
    points = [
        make(
            'autoware_planning_msgs/msg/TrajectoryPoint',
            time_from_start=_duration(make, (plan.first + k + 1) * GRID_NS),
            pose=_pose(make, position, quaternion),
            longitudinal_velocity_mps=float(speeds[k]),
            acceleration_mps2=float(actions[k, 0]),
            heading_rate_rps=float(actions[k, 1] * speeds[k]),
        )
        for k, (position, quaternion) in enumerate(zip(*_chosen_poses(plan), strict=True))
    ]
    header = _header(make, prediction.t0_ns, plan.frame_id)
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
    Output('output/path', 'nav_msgs/msg/Path', path, path_bytes),
    Output('output/trajectory', 'trajectory_msgs/msg/MultiDOFJointTrajectory', trajectory),
    Output('output/reasoning', 'std_msgs/msg/String', reasoning),
    Output('output/markers', 'visualization_msgs/msg/MarkerArray', markers),
    Output('debug/actions', 'std_msgs/msg/Float32MultiArray', actions),
    Output('debug/samples', 'std_msgs/msg/Float32MultiArray', samples),
    Output('debug/path', 'nav_msgs/msg/Path', path, path_bytes),
    Output('debug/path_age_ms', 'std_msgs/msg/Float64', path_age_ms),
    Output('debug/processing_time_ms', 'std_msgs/msg/Float64', processing_time_ms),
    Output('debug/dropped_contexts', 'std_msgs/msg/UInt32', dropped_contexts),
)
# Only with the parameter autoware_trajectory: its package is not part of ROS 2.
AUTOWARE = Output(
    'output/autoware_trajectory', 'autoware_planning_msgs/msg/Trajectory', autoware_trajectory
)


def speed_color(speed_mps: float) -> tuple[float, float, float, float]:
    """RGBA of a speed: blue when standing, green, then red at FAST_MPS and above."""
    share = min(max((speed_mps - SLOW_MPS) / (FAST_MPS - SLOW_MPS), 0.0), 1.0)
    return (max(2 * share - 1, 0.0), 1 - abs(2 * share - 1), max(1 - 2 * share, 0.0), 0.9)


def _chosen_poses(plan: StampedPrediction) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    chosen = plan.samples[plan.prediction.chosen]
    return plan.place(_flat(chosen), chosen[:, 2])


def _flat(xy: NDArray[np.float64], z_m: float = 0.0) -> NDArray[np.float64]:
    return np.column_stack([xy[:, :2], np.full(len(xy), z_m)])


def _line(
    plan: StampedPrediction,
    make: Make,
    namespace: str,
    number: int,
    points: NDArray[np.float64],
    colors: Sequence[tuple[float, float, float, float]],
    width_m: float,
) -> Any:
    return _marker(
        plan,
        make,
        ns=namespace,
        id=number,
        type=4,  # LINE_STRIP
        pose=make('geometry_msgs/msg/Pose'),
        scale=_xyz(make, 'Vector3', (width_m, 0.0, 0.0)),
        color=_color(make, colors[0]),
        points=[_xyz(make, 'Point', point) for point in points],
        colors=[_color(make, color) for color in colors] if len(colors) > 1 else [],
    )


def _text(plan: StampedPrediction, make: Make, text: str) -> Any:
    above = plan.points(np.array([[1.5, 0.0]]), z_m=3.0)[0]
    return _marker(
        plan,
        make,
        ns='text',
        id=0,
        type=9,  # TEXT_VIEW_FACING
        pose=_pose(make, above, (0.0, 0.0, 0.0, 1.0)),
        scale=_xyz(make, 'Vector3', (0.0, 0.0, 0.8)),
        color=_color(make, FOOTPRINT_COLOR),
        text=text,
    )


def _marker(plan: StampedPrediction, make: Make, **fields: Any) -> Any:
    left_ns = plan.prediction.t0_ns + HORIZON_NS - plan.now_ns
    return make(
        'visualization_msgs/msg/Marker',
        header=_header(make, plan.prediction.t0_ns, plan.frame_id),
        action=0,  # ADD
        lifetime=_duration(make, max(left_ns, MIN_LIFETIME_NS)),
        frame_locked=False,
        **fields,
    )


def _header(make: Make, stamp_ns: int, frame_id: str) -> Any:
    sec, nanosec = divmod(int(stamp_ns), NANOSECONDS)
    stamp = make('builtin_interfaces/msg/Time', sec=sec, nanosec=nanosec)
    return make('std_msgs/msg/Header', stamp=stamp, frame_id=frame_id)


def _duration(make: Make, duration_ns: int) -> Any:
    sec, nanosec = divmod(int(duration_ns), NANOSECONDS)
    return make('builtin_interfaces/msg/Duration', sec=sec, nanosec=nanosec)


def _pose(make: Make, position: Iterable[float], quaternion: Iterable[float]) -> Any:
    return make(
        'geometry_msgs/msg/Pose',
        position=_xyz(make, 'Point', position),
        orientation=_quaternion(make, quaternion),
    )


def _xyz(make: Make, name: str, values: Iterable[float]) -> Any:
    x, y, z = map(float, values)
    return make(f'geometry_msgs/msg/{name}', x=x, y=y, z=z)


def _quaternion(make: Make, xyzw: Iterable[float]) -> Any:
    x, y, z, w = map(float, xyzw)
    return make('geometry_msgs/msg/Quaternion', x=x, y=y, z=z, w=w)


def _color(make: Make, rgba: tuple[float, float, float, float]) -> Any:
    r, g, b, a = map(float, rgba)
    return make('std_msgs/msg/ColorRGBA', r=r, g=g, b=b, a=a)


def _array(make: Make, values: NDArray[np.float32], labels: tuple[str, ...]) -> Any:
    dimensions = [
        make(
            'std_msgs/msg/MultiArrayDimension',
            label=label,
            size=values.shape[axis],
            stride=int(np.prod(values.shape[axis:])),
        )
        for axis, label in enumerate(labels)
    ]
    return make(
        'std_msgs/msg/Float32MultiArray',
        layout=make('std_msgs/msg/MultiArrayLayout', dim=dimensions, data_offset=0),
        data=np.ascontiguousarray(values, np.float32).ravel(),
    )
