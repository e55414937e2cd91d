"""A checkpoint folder to a model on a device: plain, quantized, or quantized while it is loaded.

Tensors go to the device one by one, and what stays on the host stays in its file. Knows no
tokenizer and no context.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import os
from pathlib import Path
import re

import torch
from torch import Tensor

from ..errors import BadInput
from ..model.alpamayo import AlpamayoR1
from ..model.checkpoint import (
    check_hashes,
    check_names,
    load_weights,
    shard_files,
    tensor_shapes,
)
from ..model.config import AlpamayoConfig, load_config, read_json
from ..quantization.linear import HostEmbedding, replace_linears
from ..quantization.matrix import quantize_matrix
from ..quantization.record import PLAIN_BITS, check_asked, quantization_of
from ..quantization.scheme import Rules, rule_of, rule_of_tensor, rules_of

DTYPES = {'float32': torch.float32, 'float16': torch.float16, 'bfloat16': torch.bfloat16}
EMBEDDING = 'vlm.model.language_model.embed_tokens'
LARGEST_BYTES = 500_000_000  # of one tensor on a GPU: a Jetson may not find more in one piece


def load_model(
    folder: Path,
    device: str = 'cpu',
    bits: float | None = None,
    recipe: str | None = None,
    host_embedding: bool = False,
) -> AlpamayoR1:
    """The model of a checkpoint folder on a device, in the checkpoint's dtype, loaded strictly.

    bits and recipe: expected of a quantized checkpoint; a plain one is quantized to them while it
    is loaded ('mixed' if no recipe is given, 16 bits are plain). host_embedding: the embedding
    stays mapped from its file, as one larger than LARGEST_BYTES always does with few bits.
    Raises BadInput for a device that is absent, a config, tensors or hashes that do not fit.
    """
    check_device(device)
    config, where = load_config(folder), f'{folder}/config.json'
    dtype = DTYPES.get(config.dtype)
    if dtype is None:
        raise BadInput(f'{where}: dtype {config.dtype!r} is not one of {list(DTYPES)}')
    quantization = quantization_of(read_json(folder / 'config.json'), where)
    check_asked(quantization, bits, recipe, where)
    shapes = {name: shape for name, (_, shape) in tensor_shapes(folder).items()}
    check_hashes(folder)
    model, rules = build_on_meta(config), quantization.rules if quantization else ()
    change = None
    if quantization is None and bits not in (None, PLAIN_BITS):
        rebuilt = check_names(model, shapes, str(folder))  # before its names change
        rules = rules_of(recipe or 'mixed', bits)
        change = quantize_on(device, rules)
    replace_linears(model, rules)
    if change is None:
        rebuilt = check_names(model, shapes, str(folder))
    host_embedding = host_embedding or _is_too_large(model, rules, dtype)
    if host_embedding:
        _keep_on_host(model)

    def place(name: str) -> str:
        return 'cpu' if host_embedding and name.startswith(EMBEDDING) else device

    load_weights(model, folder, place, dtype, rebuilt, change)
    if device != 'cpu':
        drop_pages(folder)
    return model.eval()


def build_on_meta(config: AlpamayoConfig) -> AlpamayoR1:
    """The module tree without memory behind it; loading brings the tensors."""
    with torch.device('meta'):
        return AlpamayoR1(config)


def quantize_on(device: str, rules: Rules) -> Callable[[str, Tensor], Mapping[str, Tensor]]:
    """What each tensor of a plain checkpoint becomes under the rules; solved on the device."""

    def change(name: str, tensor: Tensor) -> Mapping[str, Tensor]:
        rule = rule_of_tensor(name, tensor.shape, rules)
        if not rule.scheme.levels:
            return {name: tensor}
        stored, _ = quantize_matrix(tensor, rule, device=device)
        return {name + ending: part for ending, part in stored.items()}

    return change


def drop_pages(folder: Path) -> None:
    """Let the system forget file pages that nothing maps: a Jetson's GPU has the same memory."""
    for file in shard_files(folder):
        with file.open('rb') as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def check_device(device: str) -> None:
    """Raise BadInput unless this torch can use `device`."""
    kind = device.partition(':')[0]
    if not re.fullmatch(r'cpu|cuda(:\d+)?', device):
        raise BadInput(f'device {device!r} is not one of: cpu, cuda, cuda:N')
    if kind == 'cuda' and not torch.cuda.is_available():
        raise BadInput(f'device {device!r}: this torch ({torch.__version__}) sees no CUDA device')
    index = device.partition(':')[2]
    if index and int(index) >= torch.cuda.device_count():
        raise BadInput(f'device {device!r}: there are {torch.cuda.device_count()} CUDA devices')


def _is_too_large(model: AlpamayoR1, rules: Rules, dtype: torch.dtype) -> bool:
    """Whether the embedding of a model with rules is plain and no piece for a Jetson."""
    shape = model.config.vocab_size, model.config.text.hidden_size
    plain = not rule_of(EMBEDDING, rules).scheme.levels
    return bool(rules) and plain and shape[0] * shape[1] * dtype.itemsize > LARGEST_BYTES


def _keep_on_host(model: AlpamayoR1) -> None:
    """Let a plain embedding take ids of another device; a packed one does."""
    language = model.vlm.model.language_model
    if isinstance(language.embed_tokens, torch.nn.Embedding):
        rows, columns = language.embed_tokens.weight.shape
        language.embed_tokens = HostEmbedding(rows, columns, device='meta')
