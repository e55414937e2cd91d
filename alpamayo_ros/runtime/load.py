"""A checkpoint folder to a model on a device: plain, quantized, or quantized while it is loaded.

Tensors go to the device one by one, and what stays on the host stays in its file. Knows no
tokenizer and no context.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
import os
from pathlib import Path
import re
from typing import Any

import torch
from torch import Tensor
from torch.nn import Embedding, Module

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
from ..quantization.linear import HostEmbedding, RowParts, join, replace_linears
from ..quantization.matrix import quantize_matrix
from ..quantization.record import PLAIN_BITS, check_asked, quantization_of
from ..quantization.scheme import Rules, default_recipe, rule_of, rule_of_tensor, rules_of
from .memory import require_memory

DTYPES = {'float32': torch.float32, 'float16': torch.float16, 'bfloat16': torch.bfloat16}
EMBEDDING = 'vlm.model.language_model.embed_tokens'
HEAD = 'vlm.lm_head'
LARGEST_BYTES = 500_000_000  # of one tensor on a GPU: a Jetson may not find more in one piece


@dataclass(frozen=True)
class LoadPlan:
    """What a load will bring, checked against the headers of the files; none of it is read.

    model: on the meta device until `load` fills it. bits and recipe: of the weights in memory, ''
    for plain ones. on_the_fly: the checkpoint is plain and the weights will not be.
    """

    folder: Path
    device: str
    model: AlpamayoR1
    dtype: torch.dtype
    bits: float
    recipe: str
    rules: Rules
    on_the_fly: bool
    host_embedding: bool
    rebuilt: tuple[str, ...]

    @property
    def weight_bytes(self) -> int:
        """Memory of the weights, without an embedding that stays in its file."""
        packed = self.on_the_fly and rule_of(EMBEDDING, self.rules).scheme.levels
        mapped = self.host_embedding and not packed
        return sum(
            size
            for name, size in tensor_bytes(self.model, self.dtype).items()
            if not (mapped and name.startswith(EMBEDDING))
        )

    def place(self, name: str) -> str:
        """Device of a tensor."""
        return 'cpu' if self.host_embedding and name.startswith(EMBEDDING) else self.device


def load_model(
    folder: Path,
    device: str = 'cpu',
    bits: float | None = None,
    recipe: str | None = None,
    host_embedding: bool = False,
) -> AlpamayoR1:
    """The model of a checkpoint folder on a device; see plan_load and load.

    Raises BadInput before loading where its weights alone would not fit.
    """
    plan = plan_load(folder, device, bits, recipe, host_embedding)
    require_memory(folder, {'weights': plan.weight_bytes}, device)
    return load(plan)


def plan_load(
    folder: Path,
    device: str = 'cpu',
    bits: float | None = None,
    recipe: str | None = None,
    host_embedding: bool = False,
) -> LoadPlan:
    """Check a checkpoint folder and how it shall be loaded, in the checkpoint's dtype.

    bits and recipe: expected of a quantized checkpoint; a plain one is quantized to them while it
    is loaded (by default_recipe if none is given, 16 bits alone are plain). host_embedding: the
    embedding stays mapped from its file, as one larger than LARGEST_BYTES always does with few
    bits. Raises BadInput for a device that is absent, a config or tensors that do not fit.
    """
    check_device(device)
    config, where = load_config(folder), f'{folder}/config.json'
    dtype = DTYPES.get(config.dtype)
    if dtype is None:
        raise BadInput(f'{where}: dtype {config.dtype!r} is not one of {list(DTYPES)}')
    found = quantization_of(read_json(folder / 'config.json'), where)
    check_asked(found, bits, recipe, where)
    shapes = {name: shape for name, (_, shape) in tensor_shapes(folder).items()}
    model, rules = build_on_meta(config), found.rules if found else ()
    if found is not None:
        bits, recipe = found.bits, found.recipe
        replace_linears(model, rules)
    rebuilt = check_names(model, shapes, str(folder))
    on_the_fly = found is None and bits is not None and (bits != PLAIN_BITS or bool(recipe))
    if on_the_fly and bits is not None:
        recipe = recipe or default_recipe(bits)
        rules = rules_of(recipe, bits)
        replace_linears(model, rules)
    if rules:
        host_embedding = bound_tensors(model, rules, dtype) or host_embedding
    if host_embedding:
        _keep_on_host(model)
    return LoadPlan(
        folder,
        device,
        model,
        dtype,
        bits or PLAIN_BITS,
        recipe or '',
        rules,
        on_the_fly,
        host_embedding,
        tuple(rebuilt),
    )


def load(plan: LoadPlan) -> AlpamayoR1:
    """Fill the plan's model, strictly. Raises BadInput for a file with another hash."""
    check_hashes(plan.folder)
    change = _change(plan)
    load_weights(plan.model, plan.folder, plan.place, plan.dtype, plan.rebuilt, change)
    if plan.device != 'cpu':
        drop_pages(plan.folder)
    join_products(plan.model)
    return plan.model.eval()


def build_on_meta(config: AlpamayoConfig) -> AlpamayoR1:
    """The module tree without memory behind it; loading brings the tensors."""
    with torch.device('meta'):
        return AlpamayoR1(config)


def tensor_bytes(model: AlpamayoR1, dtype: torch.dtype) -> dict[str, int]:
    """Bytes of each tensor of a model once its floating ones are of that dtype."""
    return {
        name: tensor.numel() * (dtype if tensor.is_floating_point() else tensor.dtype).itemsize
        for name, tensor in model.state_dict().items()
    }


def bound_tensors(model: AlpamayoR1, rules: Rules, dtype: torch.dtype) -> bool:
    """Cut an output head above LARGEST_BYTES into parts; whether the embedding is above it too.

    For a model on the meta device with packed modules. All other tensors of the release are far
    below, and a head of few bits is.
    """
    sizes, rule = tensor_bytes(model, dtype), rule_of(HEAD, rules)
    count = -(-max(sizes[name] for name in sizes if name.startswith(HEAD)) // LARGEST_BYTES)
    if count > 1 and rule.bits >= 8:
        parts: Any = RowParts(model.vlm.lm_head, count, rule)
        model.vlm.lm_head = parts
    return any(size > LARGEST_BYTES for name, size in sizes.items() if name.startswith(EMBEDDING))


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


def _change(plan: LoadPlan) -> Callable[[str, Tensor], Mapping[str, Tensor]]:
    """What each tensor of the checkpoint becomes: cut where the head is, packed under the rules.

    Scales are solved on the device.
    """

    def change(name: str, tensor: Tensor) -> Mapping[str, Tensor]:
        rule = rule_of_tensor(name, tensor.shape, plan.rules)
        made: dict[str, Tensor] = {}
        for own, part in _cut(plan.model.vlm.lm_head, name, tensor).items():
            if plan.on_the_fly and rule.scheme.levels:
                stored, _ = quantize_matrix(part, rule, device=plan.device)
                made |= {own + ending: piece for ending, piece in stored.items()}
            else:
                made[own] = part
        return made

    return change


def _cut(head: Module, name: str, tensor: Tensor) -> Mapping[str, Tensor]:
    """A tensor by its name in the model: several where the output head is in parts."""
    if not isinstance(head, RowParts) or not name.startswith(HEAD):
        return {name: tensor}
    leaf = name.removeprefix(HEAD)
    return {f'{HEAD}.{i}{leaf}': rows for i, rows in enumerate(tensor.split(head.rows))}


def join_products(model: AlpamayoR1) -> None:
    """Let packed layers that read the same input run as one product each."""
    for layer in (*model.vlm.model.language_model.layers, *model.expert.layers):
        attention, mlp = layer.self_attn, layer.mlp
        join([attention.q_proj, attention.k_proj, attention.v_proj])
        join([mlp.gate_proj, mlp.up_proj])


def _keep_on_host(model: AlpamayoR1) -> None:
    """Let a plain embedding take ids of another device; a packed one does."""
    language = model.vlm.model.language_model
    if isinstance(language.embed_tokens, Embedding):
        rows, columns = language.embed_tokens.weight.shape
        language.embed_tokens = HostEmbedding(rows, columns, device='meta')
