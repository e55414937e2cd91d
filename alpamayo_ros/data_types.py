"""Records that flow between the parts: frozen dataclasses of numpy arrays.

Knows no torch, no ROS, no file formats. Stamps are int64 nanoseconds of the sensor's clock, metres
and radians elsewhere. Frames of reference: *odom* is the frame of the odometry, *base* the vehicle
(x forward, y left, z up), *t0* the base frame at the stamp of the context.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
import hashlib
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

NANOSECONDS = 1_000_000_000
WAYPOINTS = 64
HISTORY_POSES = 16
FRAMES_PER_CAMERA = 4
GRID_NS = 100_000_000  # 10 Hz: frames, history and waypoints share it
GRID_S = GRID_NS / NANOSECONDS
REASONING = ('full', 'short', 'none')
SAMPLE_CHOICES = ('medoid', 'mean', 'first')  # which of K paths is published, see validity.py
# with the token before it 16 rows, the most of the packed products of few rows
LONGEST_DRAFT = 15
LONGEST_ROUTE_TEXT = 200


@dataclass(frozen=True)
class Frame:
    """One camera image as it arrived, still encoded.

    encoding: 'jpeg' or 'png' with `data` the compressed bytes (height and width are those of the
    file's header, 0 when it has none; step is 0), or a raw encoding of sensor_msgs/Image ('rgb8',
    'bgr8', 'mono8', ...) with `data` the rows of `step` bytes. frame_id: what the header names.
    bit_depth: significant low bits of each channel of 16 bits; 0 means all of them.
    """

    stamp_ns: int
    encoding: str
    data: NDArray[np.uint8]
    height: int = 0
    width: int = 0
    step: int = 0
    frame_id: str = ''
    bit_depth: int = 0


@dataclass(frozen=True)
class VideoPacket:
    """One packet of a camera's video as it arrived: the bytes of one picture.

    codec: 'h264' or 'hevc'. data: a byte stream with start codes (Annex B). frame_id: what the
    header names.
    """

    stamp_ns: int
    codec: str
    data: NDArray[np.uint8]
    frame_id: str = ''


@dataclass(frozen=True)
class EgoPose:
    """Pose of the vehicle in the odometry frame, float64, with its twist.

    position_m (3,), quaternion_xyzw (4,) of unit norm (odom_from_base). speed_mps and
    yaw_rate_radps: twist.linear.x and twist.angular.z; NaN where the sender states none. checks:
    names of what is unusual in the message, such as 'frame_id_slash'.
    """

    stamp_ns: int
    position_m: NDArray[np.float64]
    quaternion_xyzw: NDArray[np.float64]
    speed_mps: float
    frame_id: str = 'odom'
    child_frame_id: str = 'base_link'
    yaw_rate_radps: float = math.nan
    checks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Navigation:
    """A route text for the model, such as 'Turn left in 30m', and its age at t0 in seconds.

    ValueError for a text that cannot stand in a prompt: empty, longer than LONGEST_ROUTE_TEXT, or
    with control characters or angle brackets, which the tokens of the model have.
    """

    text: str
    age_s: float = 0.0

    def __post_init__(self) -> None:
        is_plain = self.text.isprintable() and not set('<>') & set(self.text)
        if not (is_plain and 0 < len(self.text.strip()) <= len(self.text) <= LONGEST_ROUTE_TEXT):
            raise ValueError(
                f'route text {self.text[:LONGEST_ROUTE_TEXT]!r}: expected 1 to '
                f"{LONGEST_ROUTE_TEXT} printable characters without '<' and '>'"
            )


@dataclass(frozen=True)
class Context:
    """Everything one inference sees, aligned to the 10 Hz grid that ends at t0.

    frames: camera name to FRAMES_PER_CAMERA frames, oldest first; cameras by ascending model
    index. camera_indices: model index of each camera, same order as `frames`. history_xyz_m (16,
    3) and history_rot (16, 3, 3): float32, t0 frame, t0-1.5 s ... t0; the last row is exactly zero
    and identity. odom_from_t0: the float64 pose interpolated at exactly t0. v0_mps: speed fitted
    to the history; skew_s: largest spread of the cameras inside one grid slot. checks: names of
    what is unusual but served, such as 'camera_subset' or 'v0_mismatch'. navigation: where the
    vehicle is to go, None where nobody says.
    """

    t0_ns: int
    frames: Mapping[str, tuple[Frame, ...]]
    camera_indices: tuple[int, ...]
    history_xyz_m: NDArray[np.float32]
    history_rot: NDArray[np.float32]
    odom_from_t0: EgoPose
    v0_mps: float
    skew_s: float
    checks: tuple[str, ...] = ()
    navigation: Navigation | None = None


@dataclass(frozen=True)
class Rejection:
    """Why there is no context (or no prediction) at t0.

    reason: a short fixed name to count by, such as 'odometry_gap'. detail: a sentence that names
    the camera or topic, the time and the tolerance, such as 'front_tele: no frame within 50 ms of
    t0-0.2 s'.
    """

    t0_ns: int
    reason: str
    detail: str


@dataclass(frozen=True)
class SamplingOptions:
    """How reasoning is sampled and the flow integrated; the defaults are the reference's.

    flow_steps None means the checkpoint's own count; top_k 0 means off; greedy means argmax.
    reasoning: one of REASONING. With 'short', a text that reaches max_tokens gets the trajectory
    marker as its last token; with 'none', the prompt asks for the trajectory only.
    guidance_weight: of the route text, where the context has one; 1 means off. noise_temperature:
    factor of the initial noise. sample_choice: one of SAMPLE_CHOICES. draft_tokens: most tokens of
    a draft of the reasoning, which one pass verifies; 0 means no drafts. With and without them the
    tokens are the same.
    """

    num_samples: int = 1
    temperature: float = 0.6
    top_p: float = 0.98
    top_k: int = 0
    greedy: bool = False
    max_tokens: int = 256
    flow_steps: int | None = None
    reasoning: str = 'full'
    guidance_weight: float = 1.0
    noise_temperature: float = 1.0
    sample_choice: str = 'medoid'
    draft_tokens: int = 0

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> SamplingOptions:
        """Options from values by name, among others; flow_steps of 0 is the checkpoint's count."""
        known = {row.name: values[row.name] for row in fields(cls) if row.name in values}
        return cls(**{**known, 'flow_steps': values['flow_steps'] or None})


@dataclass(frozen=True)
class Prediction:
    """K sampled trajectories of 64 waypoints at t0 + 0.1 ... 6.4 s.

    samples (K, 64, 4) float32: x, y m, yaw rad, speed m/s in the t0 frame. actions (K, 64, 2)
    float32: acceleration m/s^2, curvature 1/m (before any clipping; there is none). chosen: index
    of the path to publish; spread_m: its mean distance to the others at 6.4 s. With the choice
    'mean' the sample at this index is replaced by the mean of those near it. texts: reasoning per
    sample ('' when it never ended; then partial_texts holds what was said). end: how it ended, per
    sample: 'marker', 'eos', 'budget', 'cut' (the budget ended it with the marker in its place), or
    'none' (no reasoning was asked for). checks: names of failed validity and reasoning checks of
    the chosen sample, and the context's own. timing_ms: milliseconds per stage. navigation: the
    route text in the prompt, '' without one.
    """

    t0_ns: int
    seed: int
    samples: NDArray[np.float32]
    actions: NDArray[np.float32]
    chosen: int
    spread_m: float
    v0_mps: float
    texts: tuple[str, ...]
    partial_texts: tuple[str, ...]
    end: tuple[str, ...]
    tokens: tuple[int, ...]
    checks: tuple[str, ...] = ()
    timing_ms: Mapping[str, float] = field(default_factory=dict)
    navigation: str = ''


def derive_seed(seed: int, t0_ns: int) -> int:
    """Seed of the inference at t0, a function of both: earlier inferences change nothing."""
    digest = hashlib.blake2b(f'{seed}:{t0_ns}'.encode(), digest_size=8).digest()
    return int.from_bytes(digest, 'little') >> 1  # below 2**63, as torch.Generator wants it
