"""Files and folders that appear whole or not at all. Knows nothing of what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import tempfile

from .errors import BadInput


def refuse_existing(path: Path) -> None:
    """Raise BadInput when there is anything at `path`."""
    if os.path.lexists(path):
        raise BadInput(f'{path}: exists already, expected the name of a new folder')


@contextmanager
def create_folder(path: Path) -> Iterator[Path]:
    """Give a place to make a folder of that name in, and move it to `path` at the end.

    The place does not exist yet and lies beside `path`; an exception or Ctrl-C leaves nothing of
    it. Raises BadInput when `path` exists, OSError when nothing can be written there.
    """
    refuse_existing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f'.{path.name}-') as unfinished:
        place = Path(unfinished) / path.name
        yield place
        place.rename(path)


def write_atomically(path: Path, text: str) -> None:
    """Write a file as a whole or not at all: an older one stays until the new one is complete."""
    partial = path.with_name(f'.{path.name}.partial')
    try:
        partial.write_text(text, encoding='utf-8')
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
