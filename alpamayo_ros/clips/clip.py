"""One clip: its poses, and the frames of its cameras at given times, by the makers' rules.

Times are microseconds from the start of the clip. The frame of a time is the last one at or before
it, which is not the rule of the live buffer (docs/model.md section 9). Knows no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
import io

import av
import numpy as np
from numpy.typing import NDArray

from .. import geometry
from ..data_types import Frame
from ..rig import DATASET_NAMES
from .dataset import ClipError, ClipFolder, read_table

_POSE_COLUMNS = ('timestamp', 'x', 'y', 'z', 'qx', 'qy', 'qz', 'qw')
NS_PER_US = 1_000


@dataclass(frozen=True)
class EgoMotion:
    """Poses of the rig: stamps (N,) int64 us, positions (N, 3) m, quaternions (N, 4) xyzw."""

    stamps_us: NDArray[np.int64]
    positions_m: NDArray[np.float64]
    quaternions: NDArray[np.float64]

    def at(self, times_us: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Positions (T, 3) and quaternions (T, 4) at times (T,) us.

        Raises ClipError for a time that the poses do not cover.
        """
        first, last = self.stamps_us[0], self.stamps_us[-1]
        if times_us.min() < first or times_us.max() > last:
            detail = (
                f'egomotion covers {first / 1e6:.3f} to {last / 1e6:.3f} s, '
                f'needed {times_us.min() / 1e6:.3f} to {times_us.max() / 1e6:.3f} s'
            )
            raise ClipError('egomotion_short', detail)
        return geometry.interpolate_poses(
            self.stamps_us * NS_PER_US, self.positions_m, self.quaternions, times_us * NS_PER_US
        )


def read_egomotion(folder: ClipFolder, clip_id: str) -> EgoMotion:
    """Poses of a clip by rising stamps; raises ClipError when there are fewer than four."""
    data = folder.read_member(clip_id, 'egomotion', 'egomotion')
    columns = read_table(data, _POSE_COLUMNS, f'{clip_id}: egomotion')
    stamps, order = np.unique(columns['timestamp'].astype(np.int64), return_index=True)
    values = {name: columns[name].astype(np.float64)[order] for name in _POSE_COLUMNS[1:]}
    positions = np.stack([values[name] for name in ('x', 'y', 'z')], axis=-1)
    quaternions = np.stack([values[name] for name in ('qx', 'qy', 'qz', 'qw')], axis=-1)
    norms = np.linalg.norm(quaternions, axis=-1, keepdims=True)
    if len(stamps) < 4 or not np.isfinite(positions).all() or not (norms > 0.5).all():
        detail = 'egomotion: expected four finite poses or more with unit quaternions'
        raise ClipError('egomotion_broken', detail)
    return EgoMotion(stamps, positions, quaternions / norms)


def read_frames(
    folder: ClipFolder, clip_id: str, camera: str, times_us: Sequence[int]
) -> tuple[Frame, ...]:
    """RGB frames of a camera at rising times: for each, the last frame at or before it.

    Raises ClipError when the camera is not in the folder, a time lies before its first or behind
    its last frame, or the video ends before a frame.
    """
    stamps = _read_stamps(folder, clip_id, camera)
    if not len(stamps) or times_us[0] < stamps[0] or times_us[-1] > stamps[-1]:
        span = f'{stamps[0] / 1e6:.3f} to {stamps[-1] / 1e6:.3f} s' if len(stamps) else 'nothing'
        needed = f'{times_us[0] / 1e6:.3f} to {times_us[-1] / 1e6:.3f} s'
        raise ClipError('frame_missing', f'{camera}: frames cover {span}, needed {needed}')
    indices = geometry.find_latest_at_or_before(stamps, times_us)
    video = folder.read_member(clip_id, DATASET_NAMES[camera], 'video')
    pictures = _decode_frames(video, indices.tolist(), f'{clip_id}: video of {camera}')
    return tuple(
        _to_frame(int(stamps[index]) * NS_PER_US, pictures[index]) for index in indices.tolist()
    )


def iterate_frames(folder: ClipFolder, clip_id: str, camera: str) -> Iterator[Frame]:
    """Every RGB frame of a camera, one at a time; raises ClipError as `read_frames` does."""
    stamps = _read_stamps(folder, clip_id, camera)
    name = f'{clip_id}: video of {camera}'
    video = folder.read_member(clip_id, DATASET_NAMES[camera], 'video')
    count = 0
    try:
        with av.open(io.BytesIO(video)) as container:
            for picture in container.decode(video=0):
                if count < len(stamps):
                    data = picture.to_ndarray(format='rgb24')
                    yield _to_frame(int(stamps[count]) * NS_PER_US, data)
                count += 1
    except (av.FFmpegError, IndexError) as error:
        raise ClipError('video_broken', f'{name}: cannot be decoded: {error}') from error
    if count != len(stamps):
        detail = f'{name}: {count} frames, timestamps for {len(stamps)}'
        raise ClipError('video_short', detail)


def _read_stamps(folder: ClipFolder, clip_id: str, camera: str) -> NDArray[np.int64]:
    """Stamps us of the frames of a camera; raises ClipError when the camera is not there."""
    feature = DATASET_NAMES[camera]
    if not folder.has_feature(clip_id, feature):
        raise ClipError('camera_missing', f'{camera}: the folder has no chunk of {feature}')
    table = folder.read_member(clip_id, feature, 'frame_timestamps')
    columns = read_table(table, ('timestamp',), f'{clip_id}: timestamps of {camera}')
    return columns['timestamp'].astype(np.int64)


def _decode_frames(
    video: bytes, indices: Sequence[int], name: str
) -> dict[int, NDArray[np.uint8]]:
    """Frames of a video by their number in the order of display, (height, width, 3) RGB.

    Decoding starts at the key frame before the first wanted one.
    """
    wanted, pictures = set(indices), {}
    try:
        with av.open(io.BytesIO(video)) as container:
            stream = container.streams.video[0]
            shown = sorted(p.pts for p in container.demux(stream) if p.pts is not None)
            if max(wanted) >= len(shown):
                detail = f'{name}: {len(shown)} frames, needed number {max(wanted) + 1}'
                raise ClipError('video_short', detail)
            numbers = {pts: number for number, pts in enumerate(shown)}
            container.seek(shown[min(wanted)], stream=stream, backward=True)
            for frame in container.decode(stream):
                number = numbers.get(frame.pts, -1)
                if number in wanted:
                    pictures[number] = frame.to_ndarray(format='rgb24')
                if number >= max(wanted):
                    break
    except (av.FFmpegError, IndexError) as error:
        raise ClipError('video_broken', f'{name}: cannot be decoded: {error}') from error
    if missing := wanted - set(pictures):
        raise ClipError('video_broken', f'{name}: frame {min(missing) + 1} cannot be decoded')
    return pictures


def _to_frame(stamp_ns: int, picture: NDArray[np.uint8]) -> Frame:
    height, width, _ = picture.shape
    return Frame(stamp_ns, 'rgb8', picture.reshape(-1), height, width, 3 * width)
