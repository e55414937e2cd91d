"""Names to folders: a path as it stands, or a hub id, the only thing that needs a network.

Only data files are fetched: safetensors, JSON, text and templates; never code or pickles.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
import re

from ..errors import BadInput

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


def resolve(name: str | Path, files: Sequence[str] = CHECKPOINT_FILES) -> Path:
    """Folder of a checkpoint or VLM given by path or by hub id ('organisation/name').

    A folder wins over a hub id of the same spelling. Raises BadInput when the name is neither, or
    when the hub cannot be reached and its cache does not hold the files.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if not _HUB_ID.fullmatch(str(name)):
        raise BadInput(f'{name}: no such folder, and not a hub id (organisation/name)')
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(str(name), allow_patterns=list(files)))
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BadInput(
            f'{name}: no such folder, and not to be had from the hub: {reason}'
        ) from None
