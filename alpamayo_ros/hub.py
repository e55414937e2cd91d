"""Finds the folder of a checkpoint: by path, by the name of a shipped one, or by hub id.

Only a hub id needs a network. Only data files are fetched: safetensors, JSON, text and templates,
never code or pickles.
"""

from __future__ import annotations

from collections.abc import Sequence
import os
from pathlib import Path
import re
from typing import Any

from .errors import BadInput
from .shipped import find_shipped

TOKENIZER_FILES = (
    'config.json',
    'tokenizer*.json',
    'vocab.json',
    'merges.txt',
    'chat_template.*',
    '*preprocessor_config.json',
)
CHECKPOINT_FILES = ('*.safetensors', '*.json', 'merges.txt', 'chat_template.*', 'vlm/*')
_HUB_ID = re.compile(r'[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*')


def resolve_checkpoint(name: str | Path) -> Path:
    """Folder of a checkpoint by path, by its name in checkpoints/, or by hub id.

    A folder wins over a name, a name over a hub id. Raises BadInput when it is none of them, or
    when the hub cannot be reached and its cache does not hold the files.
    """
    own = find_shipped('checkpoints', '/config.json')
    if str(name) in own and not Path(name).is_dir():
        return own[str(name)].parent
    return _find_or_download(
        name, CHECKPOINT_FILES, f'not one of {", ".join(own)}, ' if own else ''
    )


def resolve_vlm(name: str | Path) -> Path:
    """Folder of a VLM's tokenizer, templates and config by path or by hub id; else BadInput."""
    return _find_or_download(name, TOKENIZER_FILES)


def _require_config(folder: Path) -> None:
    """Raise BadInput for a folder around that of a model, such as the hub keeps in its cache."""
    if os.path.lexists(folder / 'config.json'):
        return
    inside = [*folder.glob('snapshots/*/config.json'), *folder.glob('*/config.json')]
    if inside := sorted(path.parent for path in inside if path.parent.name != 'vlm'):
        raise BadInput(f'{folder}: no config.json in it; did you mean {inside[-1]}?')


def _find_or_download(name: str | Path, files: Sequence[str], also: str = '') -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        _require_config(path)
        return path
    if not _HUB_ID.fullmatch(str(name)):
        raise BadInput(f'{name}: no such folder, {also}and not a hub id (organisation/name)')
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    # the bases are those of the installed HTTP library, requests or httpx; RuntimeError: hf_xet
    failures: Any = (OSError, ValueError, RuntimeError, *HfHubHTTPError.__bases__)
    try:
        return Path(snapshot_download(str(name), allow_patterns=list(files)))
    except failures as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise BadInput(f'{name}: no such folder, and the hub does not give it: {reason}') from None
