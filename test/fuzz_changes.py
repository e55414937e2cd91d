"""Random changes of bytes, lines, JSON trees, messages and folders, each a function of a Random.

Knows none of the formats that the product reads.
"""

import dataclasses
import json
import math
from pathlib import Path
import random
import shutil

import numpy as np

LFS_POINTER = (
    b'version https://git-lfs.github.com/spec/v1\noid sha256:' + b'0' * 64 + b'\nsize 12345\n'
)
NUMBERS = (
    0,
    -1,
    1,
    2,
    7,
    0.5,
    -0.0,
    1e-300,
    1e6,
    1e308,
    math.nan,
    math.inf,
    -math.inf,
    2**31,
    2**63,
)
TEXTS = (
    '',
    ' ',
    '/',
    'a',
    '1',
    'true',
    '/odometry',
    'base_link',
    '//',
    'ä',
    '\0',
    'x' * 300,
    '{}',
)
ODD = (None, True, False, [], {}, [[]], [0], {'a': 1}, *NUMBERS, *TEXTS)


def change_bytes(rng: random.Random, data: bytes, count: int = 4) -> bytes:
    """Flip, overwrite, cut, insert or repeat bytes, up to `count` times."""
    data = bytearray(data)
    for _ in range(rng.randint(1, count)):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.choice((1, 1, 2, 4, 8, 64, 1024)))
        kind = rng.randrange(7)
        if kind == 0 and start < len(data):
            data[start] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[start:end] = rng.randbytes(end - start)
        elif kind == 2:
            del data[start:end]
        elif kind == 3:
            data[start:start] = rng.randbytes(end - start)
        elif kind == 4:
            data[start:start] = data[start:end]
        elif kind == 5:
            data[start:end] = rng.choice((b'\0', b'\xff')) * (end - start)
        elif rng.random() < 0.3:
            del data[start:]
    return bytes(data)


def change_lines(rng: random.Random, text: str) -> bytes:
    """Drop, repeat, swap or indent lines, replace values, or change bytes."""
    lines = text.split('\n')
    for _ in range(rng.randint(1, 3)):
        at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        kind = rng.randrange(6)
        if kind == 0 and len(lines) > 1:
            del lines[at]
        elif kind == 1:
            lines.insert(other, lines[at])
        elif kind == 2:
            lines[at], lines[other] = lines[other], lines[at]
        elif kind == 3:
            lines[at] = rng.choice(('  ', ' ', '\t', '- ', '#')) + lines[at]
        elif kind == 4:
            key, colon, _ = lines[at].partition(':')
            lines[at] = key + colon + ' ' + str(rng.choice(ODD))
        else:
            return change_bytes(rng, '\n'.join(lines).encode())
    return '\n'.join(lines).encode()


def change_tree(rng: random.Random, tree: object) -> object:
    """Replace, drop, rename or copy values of a JSON tree, up to three."""
    tree = json.loads(json.dumps(tree))
    for _ in range(rng.randint(1, 3)):
        places = list(_list_places(tree))
        if not places:
            return rng.choice(ODD)
        parent, key = rng.choice(places)
        kind = rng.randrange(6)
        if kind < 3:
            parent[key] = rng.choice(ODD)
        elif kind == 3:
            del parent[key]
        elif kind == 4:
            other, other_key = rng.choice(places)
            parent[key] = (
                json.loads(json.dumps(other[other_key])) if other_key in _keys(other) else 0
            )
        elif isinstance(parent, dict):
            parent[rng.choice((f'{key}s', str(key).upper(), ''))] = parent.pop(key)
        else:
            parent.append(parent[key])
    return tree


def change_fields(rng: random.Random, message: object) -> object:
    """Return a copy of a message dataclass with one field changed to a value of its kind."""
    names = [field.name for field in dataclasses.fields(message) if field.name != '__msgtype__']
    name = rng.choice(names)
    value = getattr(message, name)
    if dataclasses.is_dataclass(value):
        return dataclasses.replace(message, **{name: change_fields(rng, value)})
    return dataclasses.replace(message, **{name: _change_value(rng, value)})


def change_files(rng: random.Random, folder: Path) -> str:
    """Damage one file of a folder; return what was done."""
    files = sorted(path for path in folder.rglob('*') if path.is_file())
    path = rng.choice(files)
    kind = rng.choice(
        ('delete', 'empty', 'cut', 'pointer', 'folder', 'rename', 'swap', 'copy', 'bytes', 'zeros')
    )
    data = path.read_bytes()
    if kind == 'delete':
        path.unlink()
    elif kind == 'empty':
        path.write_bytes(b'')
    elif kind == 'cut':
        path.write_bytes(data[: rng.randrange(len(data) + 1)])
    elif kind == 'pointer':
        path.write_bytes(LFS_POINTER)
    elif kind == 'folder':
        path.unlink()
        path.mkdir()
    elif kind == 'rename':
        path.rename(path.with_name(rng.choice(('x', f'{path.name}.part', f'a{path.name}'))))
    elif kind == 'swap':
        other = rng.choice(files)
        other_data = other.read_bytes()
        other.write_bytes(data)
        path.write_bytes(other_data)
    elif kind == 'copy':
        shutil.copy(path, path.with_name(f'b{path.name}'))
    elif kind == 'zeros':
        path.write_bytes(bytes(len(data)))
    else:
        path.write_bytes(change_bytes(rng, data))
    return f'{kind} {path.name}'


def _list_places(tree):
    keys = _keys(tree)
    for key in keys:
        yield tree, key
        yield from _list_places(tree[key])


def _keys(tree):
    if isinstance(tree, dict):
        return list(tree)
    return list(range(len(tree))) if isinstance(tree, list) else []


def _change_value(rng, value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return rng.choice(TEXTS + (value + ' ', '/' + value, value.upper()))
    if isinstance(value, np.ndarray):
        if value.dtype != np.uint8:
            return value
        return np.frombuffer(change_bytes(rng, value.tobytes()), np.uint8)
    if isinstance(value, int):
        return rng.choice((0, 1, value + 1, 2 * value, 255, 2**31 - 1)) if value >= 0 else value
    if isinstance(value, float):
        near = (value + rng.gauss(0, 1), value * 2, -value)
        return float(rng.choice((*near, *(float(x) for x in NUMBERS))))
    return value
