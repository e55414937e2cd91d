"""Writes files whole or not at all; explains in one line a file that cannot be read.

Knows nothing of what checkpoints and bags hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import fcntl
import json
import os
from pathlib import Path
import re
import tempfile
from typing import Any

from .errors import BadInput

_LFS_START = b'version https://git-lfs.github.com/spec/'
_ARCHIVES = {
    b'\x1f\x8b\x08': 'gzip',
    b'PK\x03\x04': 'zip',
    b'BZh': 'bzip2',
    b'\xfd7zXZ\0': 'xz',
    b"7z\xbc\xaf'\x1c": '7z',
}
_TAR, _TAR_AT = b'ustar', 257
HEAD_BYTES = 1024  # of a file, enough for `describe_stand_in`
# What the tools of hubs, browsers and download managers call a file that is not complete.
_UNFINISHED = ('.incomplete', '.part', '.partial', '.crdownload', '.download', '.aria2', '.tmp')


def refuse_existing(path: Path) -> None:
    """Raise BadInput when there is anything at `path`."""
    if os.path.lexists(path):
        raise BadInput(f'{path}: exists already, expected the name of a new folder')


@contextmanager
def create_folder(path: Path) -> Iterator[Path]:
    """Yield a path to create a folder at, and move that folder to `path` at the end.

    The yielded path does not exist yet and lies beside `path`; an exception or Ctrl-C removes it.
    Raises BadInput when `path` exists, OSError when nothing can be written there.
    """
    refuse_existing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f'.{path.name}-') as unfinished:
        place = Path(unfinished) / path.name
        yield place
        place.rename(path)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file; an older one stays until the new one is complete."""
    partial = path.with_name(f'.{path.name}.partial')
    try:
        partial.write_text(text, encoding='utf-8')
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Wait until no other process holds the lock file `path`, and hold it; removed at the end."""
    with path.open('w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    path.unlink(missing_ok=True)


def require_file(path: Path) -> None:
    """Raise BadInput unless there is a file at `path` that is what its name says.

    Recognised are: an absent file, with the unfinished download beside it if there is one; a link
    to nothing; a folder; what `describe_stand_in` knows.
    """
    if path.is_dir():
        raise BadInput(f'{path}: a folder, expected a file')
    if not path.is_file():
        is_link = path.is_symlink()
        what = f'a link to {path.readlink()}, which is not there' if is_link else 'no such file'
        unfinished = _find_unfinished(path)
        hint = f', but an unfinished download of it ({unfinished}): download it again'
        raise BadInput(f'{path}: {what}{hint if unfinished else ""}')
    with path.open('rb') as stream:
        start = stream.read(HEAD_BYTES)
    if stand_in := describe_stand_in(start):
        raise BadInput(f'{path}: {stand_in}')


def describe_stand_in(start: bytes) -> str:
    """What a file with this start is in the place of another one; '' when it is none of these.

    An empty file; a Git LFS pointer or a hub's stand-in text; a web page; zeros; an archive.
    """
    text = start.lstrip(b'\xef\xbb\xbf \r\n\t')
    if not start:
        return 'an empty file, expected its content: download it again'
    if text.startswith(_LFS_START):
        size = re.search(rb'size (\d+)', text)
        real = f' of a file of {int(size[1]):,} bytes' if size else ''
        return (
            f'a Git LFS pointer{real}, expected the file itself: '
            'run "git lfs pull" in its repository, or download it again'
        )
    if re.match(rb'(?i)<!doctype html|<html|<\?xml|entry not found|access denied', text):
        return 'a web page or an error message of a server, expected the file itself'
    if not start.strip(b'\0'):
        return 'filled with zeros, expected its content: the copy or the download was cut short'
    kinds = [kind for magic, kind in _ARCHIVES.items() if start.startswith(magic)]
    if kinds or start[_TAR_AT:].startswith(_TAR):
        kind = kinds[0] if kinds else 'tar'
        return f'a {kind} archive, expected the file that is in it: unpack it'
    return ''


def _find_unfinished(path: Path) -> str:
    """Name of an unfinished download of a file, '' when there is none."""
    places = [path, *([path.parent / path.readlink()] if path.is_symlink() else [])]
    for place in places:  # the cache of a hub holds links to files that it calls by their hash
        for ending in _UNFINISHED:
            if place.with_name(place.name + ending).exists():
                return place.name + ending
    # where huggingface_hub keeps what it has so far of a folder it fills
    cached = path.parent / '.cache/huggingface/download'
    found = sorted(cached.glob(f'{path.name}*.incomplete')) if cached.is_dir() else []
    return str(found[0].relative_to(path.parent)) if found else ''


def read_text(path: Path) -> str:
    """Text of a UTF-8 file, without a byte order mark; BadInput when it cannot be read."""
    require_file(path)
    try:
        return path.read_text(encoding='utf-8-sig')
    except UnicodeDecodeError as error:
        raise BadInput(f'{path}: not UTF-8 text (byte {error.start}), expected UTF-8') from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; BadInput names the file when it is absent or no JSON object."""
    try:
        value = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadInput(f'{path}: not readable as JSON: {error}{_find_cut(path)}') from None
    if not isinstance(value, dict):
        raise BadInput(f'{path}: expected a JSON object, found {type(value).__name__}')
    return value


def _find_cut(path: Path) -> str:
    """A hint when a JSON file of an object does not end like one."""
    text = path.read_text(encoding='utf-8-sig').strip()
    cut = text.startswith('{') and not text.endswith('}')
    return '; the file ends in the middle: download it again' if cut else ''
