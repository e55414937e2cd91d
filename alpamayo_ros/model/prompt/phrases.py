"""Reads phrases.txt of a checkpoint: frequent reasonings, one a line.

Drafts of the first texts of a drive come from them. A line that is never said costs nothing but
its place. Knows no tokenizer.
"""

from __future__ import annotations

from pathlib import Path

from ...errors import BadInput
from .tokens import format_special

PHRASES = 'phrases.txt'
MOST_BYTES = 1 << 20


def read_phrases(folder: Path) -> list[str]:
    """The lines of phrases.txt as the model writes them, up to the marker; none without a file.

    Raises BadInput for a file that is no UTF-8 text or larger than 1 MB.
    """
    file = folder / PHRASES
    if not file.is_file():
        return []
    if (size := file.stat().st_size) > MOST_BYTES:
        raise BadInput(f'{file}: {size} bytes, expected at most {MOST_BYTES}')
    try:
        lines = file.read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f'{file}: expected UTF-8 text, one sentence a line: {error}') from None
    end = format_special('cot_end') + format_special('traj_future_start')
    return [line.strip() + end for line in lines if line.strip()]
