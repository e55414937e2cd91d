"""The kinds of input of the fuzz job: how each is changed, run, and compared with a plain twin.

A kind makes its valid input once (`prepare`) and runs one changed copy per seed (`run`). A run
returns 'served' or 'refused', or raises: an AssertionError means a wrong success.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
import json
from pathlib import Path
import random
import shutil
import struct

import cv2
from fuzz_changes import change_bytes, change_fields, change_files, change_lines, change_tree
import numpy as np
from safetensors.torch import load_file
import small_bag
import torch
import yaml

from alpamayo_ros import images
from alpamayo_ros.bags.messages import TYPESTORE
from alpamayo_ros.bags.reader import Bag
from alpamayo_ros.cli import replay as replay_command
from alpamayo_ros.context.buffer import ContextBuffer
from alpamayo_ros.data_types import GRID_NS, Context, Rejection, SamplingOptions, VideoPacket
from alpamayo_ros.errors import BadInput
from alpamayo_ros.model.small.untrained import write_small_checkpoint
from alpamayo_ros.replay.replay import Replay, Schedule, require_topics
from alpamayo_ros.rig import load_rig
from alpamayo_ros.ros.inputs import read_pose, to_image, to_pose
from alpamayo_ros.runtime.constant_velocity import ConstantVelocityEngine
from alpamayo_ros.runtime.engine import AlpamayoEngine
from alpamayo_ros.video.decoder import VideoDecoder

SERVED, REFUSED = 'served', 'refused'
SPEED_MPS, SECONDS = 10.0, 3.0
YAW = 0.6  # of small_bag.drive
OFF_M, OFF_MPS = 1.0, 1.0  # what is served of the straight drive is nearer to it
STORAGES = (('mcap', 'none'), ('mcap', 'storage'), ('sqlite3', 'none'), ('sqlite3', 'message'))


class RigFiles:
    """Rig files: YAML text and its values."""

    def prepare(self, folder: Path) -> None:
        """Read the shipped rigs and that of the small bag."""
        shipped = Path(__file__).parents[1] / 'config/rigs'
        self.texts = [path.read_text('utf-8') for path in sorted(shipped.glob('*.yaml'))]
        self.texts += [small_bag.RIG] * 2

    def run(self, rng: random.Random, folder: Path) -> str:
        """Load a changed rig; cameras and topics are those that plain YAML gives."""
        text, path = rng.choice(self.texts), folder / 'rig.yaml'
        if rng.random() < 0.5:
            path.write_bytes(change_lines(rng, text))
        else:
            tree = change_tree(rng, yaml.safe_load(text))
            path.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding='utf-8')
        try:
            rig = load_rig(str(path))
        except BadInput as error:
            return require_line(error)
        plain = yaml.safe_load(path.read_text('utf-8'))
        ours = {(c.name, c.index, c.topic.lstrip('/')) for c in rig.cameras}
        assert ours == {(c['name'], c['index'], c['topic'].lstrip('/')) for c in plain['cameras']}
        assert rig.anchor == plain['anchor']
        assert rig.odometry_topic.lstrip('/') == plain['odometry_topic'].lstrip('/')
        ContextBuffer(rig)
        return SERVED


class Images:
    """Messages of cameras, compressed and raw."""

    def prepare(self, folder: Path) -> None:
        """Make one message of each encoding."""
        picture = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
        self.messages = [
            small_bag.compressed(
                small_bag.START_NS, cv2.imencode(f'.{codec}', image)[1].ravel(), codec
            )
            for codec in ('jpeg', 'png')
            for image in (picture, picture[..., 0])
        ]
        for encoding, (size, _) in images.RAW_ENCODINGS.items():
            pixels = np.random.default_rng(1).integers(0, 256, 24 * 40 * size, np.uint8)
            self.messages.append(
                small_bag.make(
                    'sensor_msgs/msg/Image',
                    header=small_bag.header(small_bag.START_NS),
                    height=24,
                    width=40,
                    encoding=encoding,
                    step=40 * size,
                    data=pixels,
                )
            )

    def run(self, rng: random.Random, folder: Path) -> str:
        """Decode a changed message; the pixels are those that OpenCV or a copy gives."""
        message = rng.choice(self.messages)
        for _ in range(rng.randint(1, 2)):
            message = change_field(rng, message)
        if rng.random() < 0.3:
            message = damage_serialized(rng, message)
            if message is None:
                return REFUSED
        try:
            frame = to_image(message)
            if isinstance(frame, VideoPacket):
                frames = VideoDecoder().decode(frame)
                assert isinstance(frames, Rejection), 'a picture, of all things'
                return REFUSED
            pixels = images.decode(frame)
        except ValueError as error:
            return require_line(error)
        images.is_dark(pixels)
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and len(pixels) == 3
        data = np.asarray(message.data)
        if hasattr(message, 'format'):
            flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
            twin = cv2.imdecode(data, flags)[..., ::-1].transpose(2, 0, 1)
            assert np.array_equal(pixels, twin)
        elif message.encoding in ('rgb8', 'bgr8'):
            rows = data[: message.height * message.step].reshape(message.height, message.step)
            twin = rows[:, : 3 * message.width].reshape(message.height, message.width, 3)
            twin = twin if message.encoding == 'rgb8' else twin[..., ::-1]
            assert np.array_equal(pixels, twin.transpose(2, 0, 1))
        else:
            assert pixels.shape[1:] == (message.height, message.width)
        return SERVED


class Odometries:
    """Messages of odometry, as objects and as bytes."""

    def prepare(self, folder: Path) -> None:
        """Make one message."""
        self.message = small_bag.odometry(small_bag.START_NS, small_bag.ORIGIN_M, 0.6, 10.0)

    def run(self, rng: random.Random, folder: Path) -> str:
        """Convert changed bytes directly and through a message: both refuse, or give one pose."""
        message = change_field(rng, self.message)
        data = serialize(message)
        if rng.random() < 0.7:
            data = change_bytes(rng, data)
        ours = twin = None
        try:
            ours = read_pose(data)
        except ValueError as error:
            require_line(error)
        try:
            twin = to_pose(TYPESTORE.deserialize_cdr(data, message.__msgtype__))
        except Exception:  # noqa: BLE001  whatever the twin raises, it gives no pose
            return REFUSED if ours is None else SERVED
        if ours is None:
            return REFUSED
        for name, value in vars(ours).items():
            other = getattr(twin, name)
            same = np.array_equal(value, other, equal_nan=isinstance(value, (float, np.ndarray)))
            assert same, f'{name}: {value} from bytes, {other} from the message'
        return SERVED


class Streams:
    """Frames and poses on their way into the context buffer."""

    def prepare(self, folder: Path) -> None:
        """Convert a straight drive."""
        rig = small_bag.write_rig(folder)
        self.rig = load_rig(str(rig))
        names = {camera.topic: camera.name for camera in self.rig.cameras}
        self.messages = [
            (names.get(topic, ''), to_image(m) if topic in names else to_pose(m))
            for _, topic, m in small_bag.drive(SECONDS, SPEED_MPS)
        ]

    def run(self, rng: random.Random, folder: Path) -> str:
        """Ask for every anchor's context; frames and history are those of a plain search."""
        messages = change_order(rng, self.messages, change_stamp)
        buffer, poses, outcome = ContextBuffer(self.rig), [], Counter()
        epoch = 0
        for name, item in messages:
            refused = buffer.add_frame(name, item) if name else buffer.add_pose(item)
            if buffer.epoch != epoch:
                epoch, poses = buffer.epoch, []
            if not name and refused is None:
                poses.append(item)
            if name == self.rig.anchor:
                result = buffer.newest()
                outcome[type(result).__name__] += 1
                if isinstance(result, Context):
                    check_context(result, poses, self.rig)
        return SERVED if outcome['Context'] else REFUSED


class Bags:
    """Recordings: their messages, their bytes, their metadata, their files."""

    def prepare(self, folder: Path) -> None:
        """Write the straight drive in each storage."""
        self.rig_path = small_bag.write_rig(folder)
        self.rig = load_rig(str(self.rig_path))
        self.messages = small_bag.drive(SECONDS, SPEED_MPS)
        self.folders = []
        for storage, compression in STORAGES:
            path = folder / f'{storage}_{compression}'
            small_bag.write(path, self.messages, storage, compression)
            self.folders.append(path)
        self.payloads = Counter(
            (topic, bytes(TYPESTORE.serialize_cdr(m, m.__msgtype__)))
            for _, topic, m in self.messages
        )

    def run(self, rng: random.Random, folder: Path) -> str:
        """Replay a changed bag: its messages come back, and what is served fits the drive."""
        path = folder / 'bag'
        way = rng.choice(('messages', 'messages', 'bytes', 'metadata', 'files'))
        if way == 'messages':
            changed = change_order(rng, self.messages, change_message)
            storage, compression = rng.choice(STORAGES)
            small_bag.write(path, changed, storage, compression)
        else:
            shutil.copytree(rng.choice(self.folders), path)
            way = self._damage(rng, path, way)
        if rng.random() < 0.1:
            return self._replay_by_command(path, folder / 'out')
        try:
            with Bag(path) as bag:
                require_topics(bag, self.rig)
                if way in ('metadata', 'files'):
                    self._check_messages(bag)
                engine = ConstantVelocityEngine()
                lines = list(Replay(bag, self.rig, engine, Schedule(300_000_000)).lines())
        except BadInput as error:
            return require_line(error)
        for line in lines:
            json.dumps(line)
        return self._check_lines(lines, is_wrong_visible=way != 'bytes')

    def _damage(self, rng, path, way):
        """Damage a bag; return the way, 'bytes' where payloads may have changed unseen."""
        if way == 'bytes':
            storage = next(x for x in sorted(path.iterdir()) if x.suffix != '.yaml')
            storage.write_bytes(change_bytes(rng, storage.read_bytes()))
        elif way == 'metadata':
            metadata = path / 'metadata.yaml'
            metadata.write_bytes(change_lines(rng, metadata.read_text('utf-8')))
        elif change_files(rng, path).startswith('bytes'):
            return 'bytes'
        return way

    def _replay_by_command(self, path, out):
        arguments = ['--rig', str(self.rig_path), '--engine', 'constant_velocity']
        said = StringIO()
        with redirect_stderr(said), redirect_stdout(StringIO()):
            code = replay_command.main([str(path), *arguments, '--out', str(out)])
        assert code in (0, 1, 2)
        assert code != 2 or said.getvalue().count('\n') <= 1 or 'error: ' in said.getvalue()
        assert code != 0 or (out / 'summary.json').is_file()
        return REFUSED if code == 2 else SERVED

    def _check_messages(self, bag):
        topics = [*(camera.topic for camera in self.rig.cameras), self.rig.odometry_topic]
        found = Counter((m[0], m[2]) for m in bag.messages(topics))
        if found != self.payloads:
            lost = (self.payloads - found).total()
            assert bag.notes, f'{lost} messages are lost without a note'

    def _check_lines(self, lines, is_wrong_visible):
        served = [line for line in lines if line['status'] == 'ok']
        for line in served if is_wrong_visible else ():
            driven_m = SPEED_MPS * (line['t0_ns'] - small_bag.START_NS) / 1e9
            position = np.array(line['odom_from_t0']['position_m']) - small_bag.ORIGIN_M
            off_m = np.linalg.norm(position - driven_m * np.array([np.cos(YAW), np.sin(YAW), 0.0]))
            speed_off = abs(line['v0_mps'] - SPEED_MPS)
            is_right = off_m < OFF_M and speed_off < OFF_MPS
            assert is_right or line['checks'], f'pose {off_m:.2f} m, v0 {speed_off:.2f} m/s off'
        return SERVED if served else REFUSED


def require_line(error: Exception) -> str:
    """Return 'refused' for an error with a text of one line."""
    text = str(error)
    assert text and len(text) < 3000, f'a text of {len(text)} characters'
    return REFUSED


def serialize(message):
    """Return the CDR bytes of a message."""
    return bytes(TYPESTORE.serialize_cdr(message, message.__msgtype__))


def change_field(rng, message):
    """Change one field to a value that fits its type on the wire."""
    while True:
        changed = change_fields(rng, message)
        try:
            serialize(changed)
        except struct.error:
            continue
        return changed


def damage_serialized(rng, message):
    """Change the bytes of a message; None where they are no message any more."""
    data = change_bytes(rng, serialize(message))
    try:
        return TYPESTORE.deserialize_cdr(data, message.__msgtype__)
    except Exception:  # noqa: BLE001  rosbags raises many kinds; Bag.decode is what maps them
        return None


def change_order(rng, messages, change):
    """Drop, repeat, swap, delay or change some of a list of messages."""
    messages = list(messages)
    for _ in range(rng.randint(1, 5)):
        at, other = rng.randrange(len(messages)), rng.randrange(len(messages))
        near = max(0, min(len(messages) - 1, at + rng.randint(-6, 6)))
        kind = rng.randrange(6)
        if kind == 0:
            del messages[at : at + rng.choice((1, 1, 3, 30))]
        elif kind == 1:
            messages.insert(near, messages[at])
        elif kind == 2:
            messages[at], messages[near] = messages[near], messages[at]
        elif kind == 3:
            messages[at], messages[other] = messages[other], messages[at]
        else:
            messages[at] = change(rng, messages[at])
        if not messages:
            break
    return messages


def change_message(rng, row):
    """Change the log time or a field of a row of small_bag.drive."""
    log_ns, topic, message = row
    if rng.random() < 0.2:
        return max(0, log_ns + rng.choice((-1, 1)) * 10 ** rng.randint(6, 18)), topic, message
    return log_ns, topic, change_field(rng, message)


def change_stamp(rng, row):
    """Change the stamp of a frame or pose."""
    name, item = row
    step_ns = rng.choice((-1, 1)) * rng.choice((1, 10**5, 10**6, 10**7, 10**8, 10**9, 10**15))
    return name, replace(item, stamp_ns=max(1, item.stamp_ns + step_ns))


def check_context(context, poses, rig):
    """Compare a context with a plain search over everything that was taken."""
    tolerances = {camera.name: camera.tolerance_s for camera in rig.cameras}
    for name, frames in context.frames.items():
        stamps = [frame.stamp_ns for frame in frames]
        grid = context.t0_ns + GRID_NS * np.arange(-3, 1)
        assert sorted(set(stamps)) == stamps, f'{name}: frames {stamps}'
        off_s = np.abs(np.array(stamps) - grid).max() / 1e9
        assert off_s <= tolerances[name] + 1e-9, f'{name}: a frame is {off_s} s off the grid'
        assert stamps[-1] <= context.t0_ns + 50_000_000
    ordered = sorted(poses, key=lambda pose: pose.stamp_ns)
    stamps = [pose.stamp_ns - context.t0_ns for pose in ordered]
    first = max(bisect_right(stamps, -15 * GRID_NS) - 2, 0)
    last = bisect_left(stamps, 0)
    used = slice(first, last + 1)
    points = np.array([pose.position_m for pose in ordered[used]]) - small_bag.ORIGIN_M
    plain = [
        interpolate_cubic(np.array(stamps[used]) / 1e9, points, k / 10) for k in range(-15, 1)
    ]
    steps = np.linalg.norm(np.diff(plain, axis=0), axis=1)
    ours = np.linalg.norm(np.diff(context.history_xyz_m.astype(float), axis=0), axis=1)
    assert np.abs(steps - ours).max() < 1e-3, f'steps of {ours} m, plain {steps} m'


def interpolate_cubic(seconds, points, time_s):
    """Return the value at a time of the cubic through two points before it and two after it."""
    before = min(bisect_right(seconds, time_s) - 1, len(seconds) - 2)
    first = min(max(before - 1, 0), len(seconds) - 4)
    near = slice(first, first + 4)
    return np.linalg.solve(np.vander(seconds[near] - time_s), points[near])[-1]


class Checkpoints:
    """Folders of a small checkpoint: JSON files, templates, weights, files that are absent."""

    def prepare(self, folder: Path) -> None:
        """Write an untrained checkpoint."""
        self.folder = folder / 'checkpoint'
        write_small_checkpoint(self.folder, seed=0)

    def run(self, rng: random.Random, folder: Path) -> str:
        """Load a changed folder; its tensors are those of the file, and it predicts numbers."""
        copy = folder / 'checkpoint'
        shutil.copytree(self.folder, copy)
        for _ in range(rng.choice((1, 1, 2))):
            self._damage(rng, copy)
        try:
            engine = AlpamayoEngine(copy, options=SamplingOptions(max_tokens=4))
        except BadInput as error:
            return require_line(error)
        plain = load_file(copy / 'model.safetensors')
        state = engine.model.state_dict()
        for name, tensor in plain.items():
            if tensor.is_floating_point():
                ours, other = state[name], tensor.to(state[name].dtype)
                # by bytes: damage makes NaN, which no number equals
                same = torch.equal(*(t.flatten().view(torch.uint8) for t in (ours, other)))
                assert same and ours.shape == other.shape, f'{name} differs'
        return SERVED

    def _damage(self, rng, copy):
        files = [path for path in sorted(copy.rglob('*.json')) if path.is_file()]
        weights = copy / 'model.safetensors'
        kind = rng.random()
        if kind < 0.5 and files:
            path = rng.choice(files)
            try:
                tree = json.loads(path.read_bytes())
            except ValueError:
                return
            text = json.dumps(change_tree(rng, tree))
            is_damaged = rng.random() < 0.2
            path.write_bytes(change_bytes(rng, text.encode()) if is_damaged else text.encode())
        elif kind < 0.7 and weights.is_file():
            data = weights.read_bytes()
            size = min(len(data), 8 + int.from_bytes(data[:8], 'little'))
            head = rng.random() < 0.7
            cut = size if head else len(data)
            weights.write_bytes(change_bytes(rng, data[:cut]) + data[cut:])
        else:
            change_files(rng, copy)


KINDS = {
    'rig': RigFiles,
    'image': Images,
    'odometry': Odometries,
    'stream': Streams,
    'bag': Bags,
    'checkpoint': Checkpoints,
}
