"""Save and load the state of a run as safetensors files that many hosts accept.

A file has at most 16 MiB, the state at most 64 MiB. Knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
import shutil

from safetensors import safe_open
from safetensors.torch import save_file
import torch
from torch import Tensor

from alpamayo_ros.errors import BadInput
from alpamayo_ros.files import create_folder

FILE_BYTES, TOTAL_BYTES = 16 << 20, 64 << 20
_HEADER_BYTES = 4096  # more than the header of a file with one tensor


def save_state(folder: Path, step: int, vectors: Mapping[str, Tensor]) -> None:
    """Write one-dimensional tensors and the step; replace an older state at `folder`.

    Raises BadInput if they need more than TOTAL_BYTES.
    """
    total = sum(vector.nbytes + _HEADER_BYTES for vector in vectors.values())
    if total > TOTAL_BYTES:
        raise BadInput(f'{folder}: a state of {total} bytes, expected at most {TOTAL_BYTES}')
    newer = _name_newer(folder)
    shutil.rmtree(newer, ignore_errors=True)
    with create_folder(newer) as place:
        place.mkdir()
        for name, vector in vectors.items():
            size = (FILE_BYTES - _HEADER_BYTES) // vector.element_size()
            for number, piece in enumerate(vector.detach().cpu().split(size)):
                file = place / f'{name}-{number:02d}.safetensors'
                save_file({name: piece.contiguous()}, file, metadata={'step': str(step)})
    shutil.rmtree(folder, ignore_errors=True)
    newer.rename(folder)


def has_state(folder: Path) -> bool:
    """Return whether there is a state; finish a replacement that was interrupted at its end."""
    if not folder.is_dir() and _name_newer(folder).is_dir():
        _name_newer(folder).rename(folder)
    return folder.is_dir()


def load_state(folder: Path, vectors: Mapping[str, Tensor]) -> int:
    """Fill the named tensors from a folder; return the step at which they were saved.

    Raises BadInput if a file is missing, has another size or comes from another step.
    """
    steps = set()
    for name, vector in vectors.items():
        pieces = []
        for file in sorted(folder.glob(f'{name}-*.safetensors')):
            with safe_open(file, framework='pt') as opened:
                steps.add(int(opened.metadata()['step']))
                pieces.append(opened.get_tensor(name))
        count = sum(piece.numel() for piece in pieces)
        if count != vector.numel():
            raise BadInput(f'{folder}: {name} has {count} values, expected {vector.numel()}')
        vector.copy_(torch.cat(pieces))
    if len(steps) != 1:
        raise BadInput(f'{folder}: files of different steps {sorted(steps)}')
    return steps.pop()


def _name_newer(folder: Path) -> Path:
    return folder.with_name(f'{folder.name}.new')
