"""An MCAP file by hand, as writers other than rosbag2 make them."""

import struct
import zlib

from backports.zstd import compress
import lz4.frame

from alpamayo_ros.bags.messages import TYPESTORE

MAGIC = b'\x89MCAP0\r\n'
COMPRESS = {'': bytes, 'zstd': compress, 'lz4': lz4.frame.compress}


def text(value):
    return struct.pack('<I', len(value)) + value.encode()


def record(opcode, content):
    return struct.pack('<BQ', opcode, len(content)) + content


def chunk(records, compression):
    packed = COMPRESS[compression](records)
    head = struct.pack('<QQQI', 0, 2**63, len(records), zlib.crc32(records)) + text(compression)
    return record(0x06, head + struct.pack('<Q', len(packed)) + packed)


def write_mcap(
    path, messages, *, profile='ros2', names=None, compression='zstd', per_chunk=50,
    is_finished=True, extra=(), has_schemas=True,
):  # fmt: skip
    """Write (log_ns, topic, message); per_chunk 0: no chunks; extra: topic, encoding, payload."""
    parts, numbers, data = [], {}, [MAGIC, record(0x01, text(profile) + text('other'))]
    for topic, encoding, payload in extra:
        schema = struct.pack('<H', 900) + text('any.Thing') + text('jsonschema') + text('{}')
        channel = struct.pack('<HH', 900, 900) + text(topic) + text(encoding) + b'\0' * 4
        head = struct.pack('<HIQQ', 900, 0, messages[0][0], 0)
        parts += [record(0x03, schema), record(0x04, channel), record(0x05, head + payload)]
    for number, (log_ns, topic, message) in enumerate(messages):
        kind = message.__msgtype__
        if topic not in numbers:
            numbers[topic] = key = len(numbers) + 1
            name = (names or {}).get(kind, kind)
            if has_schemas:
                schema = struct.pack('<H', key) + text(name) + text('ros2msg') + text('')
                parts.append(record(0x03, schema))
            channel = struct.pack('<HH', key, key if has_schemas else 0)
            parts.append(record(0x04, channel + text(topic) + text('cdr') + b'\0' * 4))
        head = struct.pack('<HIQQ', numbers[topic], number, log_ns, log_ns)
        parts.append(record(0x05, head + bytes(TYPESTORE.serialize_cdr(message, kind))))
    if per_chunk:
        pieces = [parts[k : k + per_chunk] for k in range(0, len(parts), per_chunk)]
        data += [chunk(b''.join(piece), compression) for piece in pieces]
    else:
        data += parts
    if is_finished:
        data += [record(0x0F, b'\0' * 4), record(0x02, b'\0' * 20), MAGIC]
    path.write_bytes(b''.join(data))
    return path
