"""Files of a calibration: finished blocks, and where the training of all blocks stands.

A file is there whole or not at all. Knows no order of blocks and no training.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import BadInput
from ..quantization.scheme import Rules, find_rule
from .block_quantizer import replace_submodule
from .finetune import Figures, TrainingProgress
from .learned_weight import LearnedLinear


def load_block(
    module: nn.Module, path: str, rules: Rules, file: Path
) -> tuple[nn.Module, dict[str, Any]]:
    """Return a block in 16 bits as the finished one of a file, and what the file says of it."""
    found, device = read_metadata(file), next(module.parameters()).device
    tensors = {name: x.to(device) for name, x in load_file(file).items()}
    for name, layer in list(module.named_modules()):
        whole = f'{path}.{name}'.rstrip('.')
        rule = find_rule(whole, rules)
        if isinstance(layer, nn.Linear) and rule.scheme.levels:
            start = f'{whole}.weight'
            stored = {k.removeprefix(start): x for k, x in tensors.items() if k.startswith(start)}
            module = replace_submodule(module, name, LearnedLinear(layer, rule, stored))
    for name, parameter in module.named_parameters():
        if (known := tensors.get(f'{path}.{name}')) is not None:
            parameter.data.copy_(known)
    return module, found


def collect_tensors(module: nn.Module, path: str = '') -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that a checkpoint stores for a module but its buffers, on the host."""
    for name, part in module.named_modules():
        start = '.'.join(filter(None, (path, name)))
        if isinstance(part, LearnedLinear):
            for ending, x in part.collect_tensors().items():
                yield f'{start}{ending}', x.to('cpu').contiguous()
        else:
            for leaf, x in part.named_parameters(recurse=False):
                yield f'{start}.{leaf}', x.detach().to('cpu').contiguous()


def save_tensors(tensors: dict[str, Tensor], file: Path, figures: dict[str, Any]) -> None:
    """Write tensors and figures. Raises BadInput where the file cannot be written."""
    partial = file.with_suffix('.unfinished')
    try:
        save_file(tensors, partial, {'figures': json.dumps(figures)})
    except SafetensorError as error:  # a full disk too: it is no OSError
        raise BadInput(f'{partial}: cannot be written: {error}') from None
    partial.rename(file)


def read_metadata(file: Path) -> dict[str, Any]:
    """Read the figures of `save_tensors`."""
    with safe_open(file, framework='pt') as opened:
        found: dict[str, Any] = json.loads(opened.metadata()['figures'])
    return found


def save_progress(progress: TrainingProgress, file: Path) -> None:
    """Write where the training of all blocks stands."""
    tensors = {name: x.to('cpu').contiguous() for name, x in progress.tensors.items()}
    save_tensors(tensors, file, {'passes': progress.passes, 'best': asdict(progress.figures)})


def read_progress(file: Path) -> TrainingProgress:
    """Read where the training of all blocks stood."""
    found = read_metadata(file)
    return TrainingProgress(found['passes'], Figures(**found['best']), load_file(file))
