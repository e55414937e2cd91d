"""Loads safetensors into modules: checks shards and names, then loads one tensor at a time.

Knows no quantization. Opens safetensors only, and an index can name files of its own folder only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
import torch
from torch import Tensor, nn

from ..errors import BadInput
from ..files import read_json, require_file

INDEX = 'model.safetensors.index.json'
SINGLE = 'model.safetensors'
FLOATS = ('F64', 'F32', 'F16', 'BF16')
OTHER_WEIGHTS = ('.safetensors', '.bin', '.pt', '.pth', '.ckpt', '.gguf', '.onnx')
LARGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors library
# Buffers that 1.5 leaves out. They are rebuilt from the config.
OPTIONAL = ('action_space.', 'action_in_proj.sinus.', 'action_in_proj.timestep_fourier_encoder.')


def list_shard_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint folder, by its index or the single file."""
    if not folder.is_dir():
        raise BadInput(f'{folder}: no such checkpoint folder')
    index = folder / INDEX
    if os.path.lexists(index):
        mapping = read_json(index).get('weight_map')
        if not isinstance(mapping, dict) or not mapping:
            raise BadInput(f'{index}: expected a weight_map of tensor names to files')
        files = []
        for name in sorted({str(value) for value in mapping.values()}):
            if Path(name).name != name or not name.endswith('.safetensors'):
                raise BadInput(f'{index}: {name!r} is not a safetensors file of this folder')
            files.append(folder / name)
    else:
        files = [folder / SINGLE]
        others = sorted(x.name for x in folder.iterdir() if x.suffix in OTHER_WEIGHTS)
        if others and not os.path.lexists(files[0]):
            raise BadInput(f'{files[0]}: no such file, but {others[0]}: expected that name')
    for file in files:
        require_file(file)
    return files


def read_tensor_shapes(folder: Path) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """File and shape of every tensor.

    Raises BadInput for a truncated file, a name in two files, and a tensor that is not floating
    point of 16 bits or more, unless its last name begins with `_`: parts of packed weights do.
    """
    found: dict[str, tuple[Path, tuple[int, ...]]] = {}
    for file in list_shard_files(folder):
        try:
            with safe_open(file, framework='pt') as shard:
                for name in shard.keys():  # noqa: SIM118  not a dict
                    if name in found:
                        raise BadInput(f'{file}: tensor {name} is also in {found[name][0].name}')
                    tensor = shard.get_slice(name)
                    dtype = tensor.get_dtype()
                    if dtype not in FLOATS and not name.rpartition('.')[2].startswith('_'):
                        raise BadInput(
                            f'{file}: {name} is {dtype}, expected one of {", ".join(FLOATS)}: '
                            'another tool has quantized it'
                        )
                    found[name] = (file, tuple(tensor.get_shape()))
        except (SafetensorError, OSError) as error:
            what = describe_cut(file) or f'not a readable safetensors file: {error}'
            raise BadInput(f'{file}: {what}') from None
    return found


def describe_cut(file: Path) -> str:
    """How much of a safetensors file is there when its end is missing; '' otherwise."""
    size = file.stat().st_size
    with file.open('rb') as stream:
        start = stream.read(8)
        length = int.from_bytes(start, 'little')
        if len(start) < 8 or length > LARGEST_HEADER:
            return ''
        header = stream.read(length)
    try:
        entries = json.loads(header) if len(header) == length else {}
        ends = [e['data_offsets'][1] for key, e in entries.items() if key != '__metadata__']
        expected = 8 + length + max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return ''
    if size >= expected:
        return ''
    return f'{size:,} of {expected:,} bytes: the download or copy was cut short, do it again'


def stream_tensors(folder: Path) -> Iterator[tuple[Path, str, Tensor]]:
    """File, name and tensor in turn; a tensor is mapped from its file: nothing is copied."""
    for file in list_shard_files(folder):
        with safe_open(file, framework='pt') as shard:
            for name in shard.keys():  # noqa: SIM118  not a dict
                yield file, name, shard.get_tensor(name)


def check_names(module: nn.Module, shapes: Mapping[str, tuple[int, ...]], where: str) -> list[str]:
    """Raise BadInput unless names and shapes are exactly the module's; returns rebuilt buffers."""
    wanted = {name: tuple(t.shape) for name, t in module.state_dict().items()}
    absent = sorted(set(wanted) - set(shapes))
    rebuilt = [name for name in absent if name.startswith(OPTIONAL) and _is_buffer(module, name)]
    missing = [name for name in absent if name not in rebuilt]
    extra = sorted(set(shapes) - set(wanted))
    wrong = [n for n in sorted(set(wanted) & set(shapes)) if wanted[n] != tuple(shapes[n])]
    problems = [
        f'{len(names)} {kind} ({names[0]}{", ..." if len(names) > 1 else ""})'
        for kind, names in (('missing', missing), ('unexpected', extra))
        if names
    ]
    if wrong:
        name = wrong[0]
        problems.append(
            f'{len(wrong)} of another shape ({name} is {list(shapes[name])}, '
            f'expected {list(wanted[name])})'
        )
    if problems:
        raise BadInput(f'{where}: tensors do not fit the config: ' + '; '.join(problems))
    return rebuilt


Change = Callable[[Path, str, Tensor], Mapping[str, Tensor]]


def load_weights(
    module: nn.Module,
    folder: Path,
    place: Callable[[str], str],
    dtype: torch.dtype,
    rebuilt: Sequence[str] = (),
    change: Change | None = None,
) -> None:
    """Load a checkpoint into a module on the meta device, whose names were checked.

    place: gives the device of a tensor; on the CPU it stays mapped from its file. Every floating
    tensor becomes `dtype`, buffers included, as in the reference. rebuilt: buffers that the
    checkpoint leaves out (1.5); they come from the config. change: replaces a tensor of a file by
    those of the module. Raises BadInput for whole numbers in the place of floating-point ones, or
    the reverse.
    """
    wanted = {name: tensor.dtype for name, tensor in module.state_dict().items()}
    for file, source, mapped in stream_tensors(folder):
        _require_kind(file, source, mapped.dtype, wanted.get(source))
        for name, tensor in (change(file, source, mapped) if change else {source: mapped}).items():
            kind = dtype if tensor.is_floating_point() else tensor.dtype
            set_tensor(module, name, tensor.to(place(name), kind))
    for name in rebuilt:
        path, _, leaf = name.rpartition('.')
        owner: Any = module.get_submodule(path)
        set_tensor(module, name, owner.make_buffers()[leaf].to(place(name), dtype))


def _require_kind(file: Path, name: str, found: torch.dtype, expected: torch.dtype | None) -> None:
    """Raise BadInput for a tensor whose kind of number is not that of the module's (None: any)."""
    if expected is None or found == expected:
        return
    if not (found.is_floating_point and expected.is_floating_point) or found.itemsize < 2:
        raise BadInput(f'{file}: {name} is {found}, expected {expected}')


def set_tensor(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Replace the parameter or buffer of a dotted name by a tensor."""
    path, _, leaf = name.rpartition('.')
    owner = module.get_submodule(path)
    if leaf in owner._buffers:
        owner._buffers[leaf] = tensor
    else:
        owner._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)


def hash_checkpoint(folder: Path, progress: Callable[[int], object] | None = None) -> str:
    """Hash config.json and all shards: the name of the weights that make a result.

    progress is called with the number of bytes that were read since the last call.
    """
    return _hash_files(folder, progress or (lambda count: None))[0]


def hash_file(file: Path) -> str:
    """Hash of one file."""
    digest = hashlib.sha256()
    for block in _blocks(file):
        digest.update(block)
    return digest.hexdigest()


def check_hashes(folder: Path) -> None:
    """Raise BadInput when a file has another sha256 than the index says, if it says one."""
    index = folder / INDEX
    metadata = read_json(index).get('metadata') if index.is_file() else None
    hashes = metadata.get('sha256') if isinstance(metadata, dict) else None
    digests = _hash_files(folder, lambda count: None)[1]
    if not isinstance(hashes, dict):
        return
    for file in list_shard_files(folder):
        wanted, found = hashes.get(file.name), digests[file.name]
        if wanted != found:
            raise BadInput(f'{file}: its sha256 is {found}, the index expects {wanted}')


_hashed: dict[tuple[tuple[str, int, int], ...], tuple[str, dict[str, str]]] = {}


def _hash_files(folder: Path, progress: Callable[[int], object]) -> tuple[str, dict[str, str]]:
    """Hash of a checkpoint and of each of its files, read once while the files do not change."""
    files = [folder / 'config.json', *list_shard_files(folder)]
    stats = [(file, file.stat()) for file in files]
    key = tuple((str(file.resolve()), stat.st_size, stat.st_mtime_ns) for file, stat in stats)
    if key in _hashed:
        progress(sum(stat.st_size for _, stat in stats))
        return _hashed[key]
    whole, digests = hashlib.sha256(), {}
    for file, stat in stats:
        whole.update(json.dumps([file.name, stat.st_size]).encode())
        own = hashlib.sha256()
        for block in _blocks(file):
            whole.update(block)
            own.update(block)
            progress(len(block))
        digests[file.name] = own.hexdigest()
    _hashed[key] = whole.hexdigest(), digests
    return _hashed[key]


def _blocks(file: Path) -> Iterator[bytes]:
    with file.open('rb') as stream:
        while block := stream.read(1 << 22):
            yield block


def _is_buffer(module: nn.Module, name: str) -> bool:
    path, _, leaf = name.rpartition('.')
    return leaf in module.get_submodule(path)._buffers
