"""A small folder in the layout of the makers' data set: `python test/clip_folder.py FOLDER`.

Two chunks with two clips each: a good one; one whose clip_is_valid is false; one without
front_tele whose zip lacks the member; one whose poses start too late. `break_video` cuts a video.
"""

import csv
import io
import json
from pathlib import Path
import sys
import zipfile

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CAMERAS = (
    'camera_cross_left_120fov',
    'camera_front_wide_120fov',
    'camera_cross_right_120fov',
    'camera_front_tele_30fov',
)
GOOD, INVALID, NO_TELE, LATE = (f'0000000{k}-aaaa-bbbb-cccc-dddddddddddd' for k in range(4))
CLIPS = {GOOD: (7, True), INVALID: (7, False), NO_TELE: (12, True), LATE: (12, True)}
HEIGHT, WIDTH, FPS, SECONDS = 48, 64, 30, 20.0


def drive(t_s):
    """Position (3,) m and quaternion xyzw of the vehicle: a circle that climbs, 10 m/s."""
    yaw = 0.02 * 10.0 * t_s
    position = (np.sin(yaw) / 0.02, (1 - np.cos(yaw)) / 0.02, 0.3 * np.sin(0.5 * t_s))
    return np.array(position), np.array([0.0, 0.0, np.sin(yaw / 2), np.cos(yaw / 2)])


def frame_stamps(camera):
    """Stamps us of the frames of a camera: 30 fps with jitter, the first one above 0."""
    rng = np.random.default_rng(CAMERAS.index(camera))
    count = int(SECONDS * FPS)
    nominal = 20_000 + np.arange(count) * 1e6 / FPS
    return (nominal + rng.integers(-2_000, 2_000, count)).astype(np.int64)


def shade(number):
    """Grey level of frame `number`: neighbours differ by 16 levels, so that coding keeps them."""
    return 16 * (number % 15) + 8


def write_clip_folder(folder):
    """Write the folder; returns it."""
    folder.mkdir(parents=True)
    patterns = {name: f'camera/{name}/{name}.chunk_{{chunk_id:04d}}.zip' for name in CAMERAS}
    rows = [
        (name, 'camera', patterns[name], json.dumps({
            'video': f'{{clip_id}}.{name}.mp4',
            'frame_timestamps': f'{{clip_id}}.{name}.timestamps.parquet',
        }))
        for name in CAMERAS
    ]  # fmt: skip
    ego = 'labels/egomotion/egomotion.chunk_{chunk_id:04d}.zip'
    rows.append(
        ('egomotion', 'labels', ego, json.dumps({'egomotion': '{clip_id}.egomotion.parquet'}))
    )
    with (folder / 'features.csv').open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(('feature', 'directory', 'chunk_path', 'clip_files_in_zip'))
        writer.writerows(rows)
    index = {
        'clip_id': list(CLIPS),
        'chunk': [chunk for chunk, _ in CLIPS.values()],
        'split': ['test', 'test', 'test', 'train'],
        'clip_is_valid': [valid for _, valid in CLIPS.values()],
    }
    pq.write_table(pa.table(index), folder / 'clip_index.parquet')
    videos = {name: encode_video(name) for name in CAMERAS}
    for chunk in {chunk for chunk, _ in CLIPS.values()}:
        clips = [clip for clip, (number, _) in CLIPS.items() if number == chunk]
        write_zip(
            folder / ego.format(chunk_id=chunk),
            {f'{clip}.egomotion.parquet': encode_egomotion(clip == LATE) for clip in clips},
        )
        for name in CAMERAS:
            members = {}
            for clip in clips:
                if (clip, name) == (NO_TELE, 'camera_front_tele_30fov'):
                    continue
                table = pa.table({'timestamp': frame_stamps(name)})
                members[f'{clip}.{name}.mp4'] = videos[name]
                members[f'{clip}.{name}.timestamps.parquet'] = to_parquet(table)
            write_zip(folder / patterns[name].format(chunk_id=chunk), members)
    return folder


def encode_egomotion(is_late):
    """Parquet bytes of the poses: 100 Hz from -0.1 to 20.1 s, or from 4.5 s on."""
    times = np.arange(4_500_000 if is_late else -100_000, 20_100_001, 10_000)
    poses = [drive(t * 1e-6) for t in times]
    columns = {'timestamp': times}
    columns |= {name: [p[k] for p, _ in poses] for k, name in enumerate('xyz')}
    columns |= {name: [q[k] for _, q in poses] for k, name in enumerate(('qx', 'qy', 'qz', 'qw'))}
    return to_parquet(pa.table(columns))


def encode_video(camera):
    """mp4 bytes: frame k is grey of `shade(k)`."""
    file = io.BytesIO()
    with av.open(file, 'w', format='mp4') as container:
        stream = container.add_stream('libx264', rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, 'yuv420p'
        stream.options = {'g': '30', 'bf': '2', 'crf': '10'}
        for number in range(len(frame_stamps(camera))):
            picture = np.full((HEIGHT, WIDTH, 3), shade(number), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format='rgb24')))
        container.mux(stream.encode())
    return file.getvalue()


def break_video(folder, camera, clip, keep):
    """Cut the video of a clip: only the share `keep` of its bytes stays."""
    path = folder / f'camera/{camera}/{camera}.chunk_{CLIPS[clip][0]:04d}.zip'
    with zipfile.ZipFile(path) as chunk:
        members = {name: chunk.read(name) for name in chunk.namelist()}
    name = f'{clip}.{camera}.mp4'
    members[name] = members[name][: int(len(members[name]) * keep)]
    write_zip(path, members)


def to_parquet(table):
    """Bytes of a table as a parquet file."""
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


def write_zip(path, members):
    """Write a zip file of members: name to bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, 'w') as file:
        for name, data in members.items():
            file.writestr(name, data)


if __name__ == '__main__':
    write_clip_folder(Path(sys.argv[1]))
