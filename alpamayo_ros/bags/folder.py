"""The storage files of a bag: a folder of rosbag2 or one file, with or without metadata.yaml.

The first bytes of a file tell its kind. metadata.yaml only says which files belong to the bag, and
which type a topic without a schema has.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath
import tempfile
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ..errors import BadInput
from ..files import HEAD_BYTES, describe_stand_in, require_file
from .compression import decompress_file, is_compressed
from .mcap_storage import MAGIC as MCAP_MAGIC
from .mcap_storage import McapStorage
from .sqlite_storage import MAGIC as SQLITE_MAGIC
from .sqlite_storage import SqliteStorage
from .storage import Storage, normalize_topic, normalize_type

METADATA = 'metadata.yaml'
PACKED_ENDINGS = ('.zstd', '.zst', '.lz4')
ENDINGS = tuple(x + y for x in ('.mcap', '.db3') for y in ('', *PACKED_ENDINGS))
ROS1_MAGIC = b'#ROSBAG V'


@dataclass
class BagFiles:
    """Files of a bag, what metadata.yaml says of its topics, and what is missing (`notes`)."""

    paths: list[Path]
    types: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def find_files(path: Path) -> BagFiles:
    """Find the storage files of a bag; raises BadInput where there are none."""
    if not path.exists():
        raise BadInput(f'{path}: no such bag')
    if path.is_file():
        return BagFiles([path])
    there = sorted(x for x in path.iterdir() if x.name.endswith(ENDINGS) and x.is_file())
    # a player leaves the plain file beside the packed one
    there = [x for x in there if x.suffix not in PACKED_ENDINGS or x.with_suffix('') not in there]
    files = BagFiles(there)
    metadata = _read_metadata(path / METADATA, files)
    names = (PurePath(str(x)).name for x in _list(metadata, 'relative_file_paths'))
    listed = [path / name for name in dict.fromkeys(names)]
    if listed:
        files.paths = [x for x in listed if x.exists()]
        if missing := [x.name for x in listed if not x.exists()]:
            files.notes.append(f'{len(missing)} of {len(listed)} files are missing: {missing[0]}')
        if not files.paths:
            if not there:
                require_file(listed[0])  # it says what is there in its place
            files.paths, listed = there, there
        if others := [x.name for x in there if x not in listed]:
            files.notes.append(f'{others[0]} is not in {METADATA} and is left out')
    if not files.paths:
        inside = sorted(x.parent for x in path.glob(f'*/{METADATA}'))
        inside += sorted(x for ending in ENDINGS for x in path.glob(f'*/*{ending}'))
        hint = f'; did you mean {inside[0]}?' if inside else ''
        raise BadInput(
            f'{path}: not a rosbag2 folder: expected {METADATA} or a file .mcap or .db3{hint}'
        )
    return files


@contextmanager
def open_storages(paths: list[Path]) -> Iterator[tuple[list[Storage], list[str]]]:
    """Open files; yields the storages, and notes on files that cannot be read.

    Raises BadInput when none of them can be read.
    """
    storages: list[Storage] = []
    notes: list[str] = []
    errors: list[BadInput] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for number, path in enumerate(paths):
                try:
                    plain = _decompress(path, Path(folder) / str(number), notes)
                    storages.append(_open_storage(plain, path))
                except BadInput as error:
                    errors.append(error)
            if not storages:
                raise errors[0]
            notes += [str(error) for error in errors]
            yield storages, notes
        finally:
            for storage in storages:
                storage.close()


def _decompress(path: Path, target: Path, notes: list[str]) -> Path:
    """The file itself, or its content at `target` when it is compressed as a whole."""
    if not is_compressed(_read_head(path)):
        return path
    if text := decompress_file(path, target):
        if not target.stat().st_size:
            raise BadInput(f'{path}: {text}')
        notes.append(f'{path}: {text}')
    return target


def _open_storage(plain: Path, path: Path) -> Storage:
    """Open a file by its first bytes; `path` is its name in messages."""
    head = _read_head(plain)
    try:
        if head.startswith(MCAP_MAGIC):
            return McapStorage(plain)
        if head.startswith(SQLITE_MAGIC):
            return SqliteStorage(plain)
    except BadInput as error:
        raise BadInput(str(error).replace(str(plain), str(path))) from None
    if head.startswith(ROS1_MAGIC):
        raise BadInput(
            f'{path}: a bag of ROS 1, expected one of ROS 2: convert it with '
            f'`rosbags-convert --src {path.name} --dst {path.stem}`'
        )
    if stand_in := describe_stand_in(head):
        raise BadInput(f'{path}: {stand_in}')
    raise BadInput(
        f'{path}: not a file of a bag: it begins with {head[:8]!r}, expected MCAP or SQLite'
    )


def _read_head(path: Path) -> bytes:
    try:
        with path.open('rb') as file:
            return file.read(HEAD_BYTES)
    except OSError as error:  # a folder of that name, or no permission
        raise BadInput(f'{path}: {error.strerror}') from None


def _read_metadata(path: Path, files: BagFiles) -> dict[str, Any]:
    """Content of metadata.yaml; takes types and counts from it, or notes that it is unreadable."""
    if not path.exists():
        files.notes.append(f'there is no {METADATA}: all files of the folder are read')
        return {}
    try:
        document = YAML(typ='safe').load(path.read_text(encoding='utf-8', errors='replace'))
        metadata = document['rosbag2_bagfile_information']
        for topic in _list(metadata, 'topics_with_message_count'):
            facts = topic['topic_metadata']
            name = normalize_topic(str(facts['name']))
            files.types[name] = normalize_type(str(facts.get('type') or ''))
            files.counts[name] = int(topic.get('message_count') or 0)
    except (YAMLError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        text = ' '.join(str(error).split()) or type(error).__name__
        files.notes.append(f'{METADATA} cannot be read and is left out: {text[:80]}')
        return {}
    return dict(metadata)


def _list(mapping: dict[str, Any], key: str) -> list[Any]:
    values = mapping.get(key)
    return values if isinstance(values, list) else []
