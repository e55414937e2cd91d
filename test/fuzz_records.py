"""Kinds of the fuzz job that change a format by its parts: MCAP records, tensors, parameters.

Bytes changed at random seldom pass a checksum or a header's lengths; these inputs always do.
"""

from collections import Counter
from dataclasses import fields
import json
from pathlib import Path
import random
import shutil
import struct

from fuzz_changes import ODD, change_bytes, change_tree
from fuzz_kinds import REFUSED, SERVED, Bags, require_line
from safetensors.torch import load_file
from small_mcap import chunk, record, text
import torch

from alpamayo_ros.bags.messages import TYPESTORE
from alpamayo_ros.bags.reader import Bag
from alpamayo_ros.conversion.plan import plan_quantization
from alpamayo_ros.conversion.quantize import quantize_checkpoint
from alpamayo_ros.errors import BadInput
from alpamayo_ros.model.small.untrained import write_small_checkpoint
from alpamayo_ros.replay.replay import Replay, Schedule, require_topics
from alpamayo_ros.ros.parameters import NodeParameters
from alpamayo_ros.runtime.constant_velocity import ConstantVelocityEngine
from alpamayo_ros.runtime.load import load_model

MAGIC = b'\x89MCAP0\r\n'
SCHEMA, CHANNEL, MESSAGE, STATISTICS = 0x03, 0x04, 0x05, 0x0B
WHOLE_NUMBERS = (0, 1, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


class Recordings(Bags):
    """MCAP files whose records are dropped, repeated, swapped or changed, with right checksums."""

    def prepare(self, folder: Path) -> None:
        """Keep the straight drive as records: opcode and content."""
        super().prepare(folder)
        numbers: dict[str, int] = {}
        self.records: list[tuple[int, bytes]] = []
        for count, (log_ns, topic, message) in enumerate(self.messages):
            kind = message.__msgtype__
            if topic not in numbers:
                numbers[topic] = len(numbers) + 1
                key = struct.pack('<H', numbers[topic])
                self.records.append((SCHEMA, key + text(kind) + text('ros2msg') + text('')))
                self.records.append((CHANNEL, 2 * key + text(topic) + text('cdr') + b'\0' * 4))
            head = struct.pack('<HIQQ', numbers[topic], count, log_ns, log_ns)
            self.records.append((MESSAGE, head + bytes(TYPESTORE.serialize_cdr(message, kind))))

    def run(self, rng: random.Random, folder: Path) -> str:
        """Replay changed records; messages that are whole come back, or a note says why."""
        records, is_plain = self._change(rng, list(self.records))
        path = folder / 'a.mcap'
        path.write_bytes(self._join(rng, records))
        try:
            with Bag(path) as bag:
                require_topics(bag, self.rig)
                if is_plain:
                    wanted = Counter(content[22:] for code, content in records if code == MESSAGE)
                    found = Counter(payload for _, _, payload in bag.messages(bag.topics))
                    assert found == wanted or bag.notes, f'{(wanted - found).total()} are lost'
                engine = ConstantVelocityEngine()
                lines = list(Replay(bag, self.rig, engine, Schedule(300_000_000)).lines())
        except BadInput as error:
            return require_line(error)
        return self._check_lines(lines, is_wrong_visible=is_plain)

    def _change(self, rng, records):
        """Change records; also whether only whole messages were dropped, repeated or moved."""
        is_plain = rng.random() < 0.5
        for _ in range(rng.randint(1, 4)):
            heads = not is_plain and rng.random() < 0.6  # of messages there are many more
            places = [k for k, (code, _) in enumerate(records) if (code != MESSAGE) == heads]
            at, other = rng.choice(places), rng.choice(places)
            kind = rng.randrange(3 if is_plain else 6)
            if kind == 0:
                del records[at]
            elif kind == 1:
                records.insert(max(other, at), records[at])
            elif kind == 2:
                records[at], records[other] = records[other], records[at]
            else:
                records[at] = self._change_record(rng, *records[at])
        return records, is_plain

    @staticmethod
    def _change_record(rng, code, content):
        """One number of the head, some bytes, or the opcode."""
        if rng.random() < 0.15:
            return rng.randrange(1, 16), content
        if rng.random() < 0.4:
            return code, change_bytes(rng, content)
        form, at = rng.choice((('<H', 0), ('<H', 2), ('<I', 2), ('<Q', 6), ('<Q', 14)))
        size = struct.calcsize(form)
        number = struct.pack(form, rng.choice(WHOLE_NUMBERS) % (1 << 8 * size))
        return code, content[:at] + number + content[at + size :]

    @staticmethod
    def _join(rng, records):
        """Whole file: in chunks of some size and compression, or without; with an end or not."""
        parts = [record(code, content) for code, content in records]
        data = [MAGIC, record(0x01, text('ros2') + text('other'))]
        if size := rng.choice((0, 7, 60, 10_000)):
            kinds = ('', 'zstd', 'lz4')
            for k in range(0, len(parts), size):
                data.append(chunk(b''.join(parts[k : k + size]), rng.choice(kinds)))
        else:
            data += parts
        if rng.random() < 0.3:  # statistics that may be wrong
            head = struct.pack(
                '<QHIIIIQQ', len(parts), 2, 2, 0, 0, 1, 0, rng.choice(WHOLE_NUMBERS)
            )
            pairs = struct.pack('<HQHQ', 1, rng.choice(WHOLE_NUMBERS), 2, 5)
            data.append(record(STATISTICS, head + struct.pack('<I', len(pairs)) + pairs))
        if rng.random() < 0.7:
            data += [record(0x0F, b'\0' * 4), record(0x02, b'\0' * 20), MAGIC]
        return b''.join(data)


class Tensors:
    """Headers of safetensors and their index, of a plain and of a quantized checkpoint."""

    def prepare(self, folder: Path) -> None:
        """Write an untrained checkpoint, and one of 8 bits made of it."""
        plain, packed = folder / 'plain', folder / 'packed'
        write_small_checkpoint(plain, seed=0)
        job = plan_quantization(plain, packed, 'uniform', 8.0)
        quantize_checkpoint(job, plain / 'vlm', lambda what, size: None)
        self.folders = [plain, packed]

    def run(self, rng: random.Random, folder: Path) -> str:
        """Load or plan to quantize a folder with changed headers: its tensors are the file's."""
        copy = folder / 'checkpoint'
        shutil.copytree(rng.choice(self.folders), copy)
        (path,) = copy.glob('*.safetensors')
        self._change_header(rng, path)
        index = copy / 'model.safetensors.index.json'
        if index.exists() and rng.random() < 0.3:
            index.write_text(json.dumps(change_tree(rng, json.loads(index.read_text()))))
        try:
            if rng.random() < 0.3:
                plan_quantization(copy, folder / 'out', 'uniform', rng.choice((2.0, 4.0, 8.0)))
                return SERVED
            state = load_model(copy).state_dict()
        except BadInput as error:
            return require_line(error)
        for name, tensor in load_file(path).items():
            if not name.endswith(('.input_scale', '.output_scale')):
                assert not tensor.is_floating_point() or tensor.isfinite().all(), name
                same = torch.equal(state[name], tensor.to(state[name].dtype))
                assert same, f'{name} differs'
        return SERVED

    @staticmethod
    def _change_header(rng, path):
        """Change names, dtypes, shapes and offsets; the lengths stay right."""
        data = path.read_bytes()
        size = 8 + int.from_bytes(data[:8], 'little')
        header = json.loads(data[8:size])
        names = [name for name in header if name != '__metadata__']
        for _ in range(rng.choice((0, 1, 1, 2))):
            name, other = rng.choice(names), rng.choice(names)
            entry, kind = header[name], rng.randrange(6)
            if kind == 0:
                dtypes = ('F16', 'F32', 'U8', 'I8', 'BOOL', 'F8_E4M3', 'I64', 'C64')
                entry['dtype'] = rng.choice(dtypes)
            elif kind == 1:
                entry['shape'] = entry['shape'][::-1]
            elif kind == 2:
                header[name], header[other] = header[other], header[name]
            elif kind == 3:
                header[name + rng.choice(('', '._data', '.absmax', '_scale'))] = header.pop(name)
                names = [key for key in header if key != '__metadata__']
            elif kind == 4:
                header = change_tree(rng, header)
                break
            else:
                entry['data_offsets'] = header[other]['data_offsets']
        text_of_header = json.dumps(header).encode()
        length = len(text_of_header).to_bytes(8, 'little')
        path.write_bytes(length + text_of_header + data[size:])


class Parameters:
    """Values of the node's parameters."""

    def prepare(self, folder: Path) -> None:
        """Nothing is needed."""
        self.rows = fields(NodeParameters)

    def run(self, rng: random.Random, folder: Path) -> str:
        """Set some parameters; what is taken lies within the documented ranges and choices."""
        values = {'rig': 'r1', 'checkpoint': 'small'}
        for row in rng.sample(self.rows, rng.randint(1, 4)):
            near = [
                row.default,
                row.metadata['low'],
                row.metadata['high'],
                *row.metadata['choices'],
            ]
            value = rng.choice([x for x in near if x is not None] + list(ODD))
            kinds = {'float': (int, float), 'int': int, 'bool': bool, 'str': str}
            if isinstance(value, kinds[row.type]):  # ROS 2 refuses other types before the node
                values[row.name] = value
        try:
            start = NodeParameters(rig='r1', checkpoint='small')
            parameters = start.with_changes(values)
            parameters.load_rig()
            for name in ('sampling', 'limits', 'policies', 'choice'):
                getattr(parameters, name)
        except BadInput as error:
            return require_line(error)
        for row in self.rows:
            value, facts = getattr(parameters, row.name), row.metadata
            assert not facts['choices'] or value in facts['choices'], f'{row.name} is {value}'
            if facts['low'] is not None:
                assert facts['low'] <= value <= facts['high'], f'{row.name} is {value}'
        return SERVED if parameters.rig == 'r1' else REFUSED


KINDS = {'recording': Recordings, 'tensor': Tensors, 'parameter': Parameters}
