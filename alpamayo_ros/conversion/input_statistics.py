"""Stores statistics of the inputs that linear layers saw on drives, to weigh errors.

One tensor for each layer, under its name: mean squares (K) of its inputs, or their second moments
(K, K), whose diagonal these are. Knows no solver and no drives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import BadInput
from ..model.checkpoint import hash_file


@dataclass(frozen=True)
class InputStatistics:
    """The tensors of a file and its hash."""

    path: Path
    sha256: str
    tensors: Mapping[str, Tensor]

    def mean_square(self, module: str) -> Tensor | None:
        """Mean square (K) of each input of a layer; None for what is not one."""
        found = self.tensors.get(module)
        return found if found is None or found.dim() == 1 else found.diagonal()

    def second_moments(self, module: str) -> Tensor | None:
        """Moments (K, K) of the inputs of a layer; None for what is not one.

        Raises BadInput when the file has mean squares only.
        """
        found = self.tensors.get(module)
        if found is not None and found.dim() == 1:
            raise BadInput(f'{self.path}: {module}: mean squares alone, expected second moments')
        return found


def linear_inputs(model: nn.Module) -> dict[str, int]:
    """Number of inputs of every linear layer, by name."""
    return {n: m.in_features for n, m in model.named_modules() if isinstance(m, nn.Linear)}


def read_input_statistics(path: Path, model: nn.Module) -> InputStatistics:
    """Read a file; BadInput unless it has finite tensors for exactly the layers of the model."""
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadInput(f'{path}: not a readable safetensors file: {error}') from None
    wanted = linear_inputs(model)
    if other := sorted(wanted.keys() ^ tensors.keys()):
        what = 'no statistics of' if other[0] in wanted else 'statistics of what is no layer:'
        raise BadInput(f'{path}: {what} {other[0]} ({len(other)} names differ from the model)')
    for name, tensor in tensors.items():
        shapes = [(wanted[name],), (wanted[name],) * 2]
        if tuple(tensor.shape) not in shapes or not tensor.isfinite().all():
            raise BadInput(
                f'{path}: {name} is {list(tensor.shape)}, expected finite {list(shapes[0])} or '
                f'{list(shapes[1])}'
            )
    return InputStatistics(path, hash_file(path), tensors)
