"""Load a checkpoint folder onto a device: plain, quantized, or quantized while it is loaded.

Tensors go to the device one by one; a tensor that stays on the host stays mapped from its file.
This module knows no tokenizer and no context.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import os
from pathlib import Path
import re
from typing import Any

import torch
from torch import Tensor
from torch.nn import Embedding, Module

from ..errors import BadInput
from ..files import read_json
from ..model.alpamayo import AlpamayoModel
from ..model.checkpoint import (
    Change,
    check_hashes,
    check_names,
    list_shard_files,
    load_weights,
    read_tensor_shapes,
)
from ..model.config import AlpamayoConfig, load_config
from ..quantization.embedding import HostEmbedding
from ..quantization.int8 import use_int8
from ..quantization.linear import RowParts, join, replace_linears
from ..quantization.matrix import quantize_matrix
from ..quantization.record import (
    PLAIN_BITS,
    check_requested,
    describe_foreign,
    find_packing_tool,
    parse_quantization,
)
from ..quantization.scheme import Rules, choose_recipe, find_rule, find_tensor_rule, make_rules
from .memory import require_memory
from .weight_values import require_sound_values

DTYPES = {'float32': torch.float32, 'float16': torch.float16, 'bfloat16': torch.bfloat16}
EMBEDDING = 'vlm.model.language_model.embed_tokens'
HEAD = 'vlm.lm_head'
LARGEST_BYTES = 500_000_000  # of one tensor: a Jetson may have no larger block of memory


@dataclass(frozen=True)
class LoadPlan:
    """What `load` will do, checked against the headers of the files before any tensor is read.

    model: on the meta device until `load` fills it. bits and recipe: of the weights in memory;
    recipe is '' for plain ones. on_the_fly: `load` quantizes a plain checkpoint.
    """

    folder: Path
    device: str
    model: AlpamayoModel
    dtype: torch.dtype
    bits: float
    recipe: str
    rules: Rules
    on_the_fly: bool
    host_embedding: bool
    rebuilt: tuple[str, ...]

    @property
    def weight_bytes(self) -> int:
        """Memory of the weights; an embedding that stays in its file does not count."""
        packed = self.on_the_fly and find_rule(EMBEDDING, self.rules).scheme.levels
        mapped = self.host_embedding and not packed
        return sum(
            size
            for name, size in count_tensor_bytes(self.model, self.dtype).items()
            if not (mapped and name.startswith(EMBEDDING))
        )

    def find_device(self, name: str) -> str:
        """Device on which a tensor is to be."""
        return 'cpu' if self.host_embedding and name.startswith(EMBEDDING) else self.device


def load_model(
    folder: Path, device: str = 'cpu', bits: float | None = None, recipe: str | None = None
) -> AlpamayoModel:
    """Load the model of a checkpoint folder; see plan_load and load.

    Raises BadInput before loading where the weights alone would not fit.
    """
    plan = plan_load(folder, device, bits, recipe)
    require_memory(folder, {'weights': plan.weight_bytes}, device)
    return load(plan)


def plan_load(
    folder: Path,
    device: str = 'cpu',
    bits: float | None = None,
    recipe: str | None = None,
    host_embedding: bool = False,
) -> LoadPlan:
    """Check a checkpoint folder and plan how to load it, in the checkpoint's dtype.

    bits and recipe: a quantized checkpoint must have them; a plain one is quantized to them while
    it is loaded (recipe None: choose_recipe; 16 bits without a recipe: plain). host_embedding:
    the embedding stays mapped from its file. In a quantized model one of more than LARGEST_BYTES
    always does. Raises BadInput for an absent device, and for a config or tensors that do not fit.
    """
    check_device(device)
    config, where = load_config(folder), f'{folder}/config.json'
    dtype = DTYPES.get(config.dtype)
    if dtype is None:
        raise BadInput(f'{where}: dtype {config.dtype!r} is not one of {list(DTYPES)}')
    found = parse_quantization(read_json(folder / 'config.json'), where)
    check_requested(found, bits, recipe, where)
    shapes = {name: shape for name, (_, shape) in read_tensor_shapes(folder).items()}
    if found is None and (tool := find_packing_tool(shapes)):
        raise BadInput(f'{folder}: {describe_foreign(tool, str(folder))}')
    model, rules = build_on_meta(config), found.rules if found else ()
    if found is not None:
        bits, recipe = found.bits, found.recipe
        replace_linears(model, rules)
    rebuilt = check_names(model, shapes, str(folder))
    on_the_fly = found is None and bits is not None and (bits != PLAIN_BITS or bool(recipe))
    if on_the_fly and bits is not None:
        recipe = recipe or choose_recipe(bits)
        rules = make_rules(recipe, bits)
        replace_linears(model, rules)
    if rules:
        host_embedding = split_large_head(model, rules, dtype) or host_embedding
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


def load(plan: LoadPlan, activations: int = 16) -> AlpamayoModel:
    """Fill the plan's model, strictly.

    Raises BadInput for a file whose hash differs, and for values that no weight has.

    activations: bits of the inputs of products, see `use_int8_activations`.
    """
    select_device(torch.device(plan.device))
    check_hashes(plan.folder)
    convert = _make_converter(plan)
    load_weights(plan.model, plan.folder, plan.find_device, plan.dtype, plan.rebuilt, convert)
    if plan.device != 'cpu':
        drop_pages(plan.folder)
    join_products(plan.model)
    if activations == 8:
        use_int8_activations(plan.model)
    return plan.model.eval()


def build_on_meta(config: AlpamayoConfig) -> AlpamayoModel:
    """Build the module tree without memory behind it; loading assigns the tensors.

    Raises BadInput for sizes whose product no tensor has.
    """
    try:
        with torch.device('meta'):
            return AlpamayoModel(config)
    except RuntimeError as error:  # of torch, which counts bytes on meta too
        reason = str(error).splitlines()[0]
        raise BadInput(f'config.json: sizes that are too large for a tensor: {reason}') from None


def count_tensor_bytes(model: AlpamayoModel, dtype: torch.dtype) -> dict[str, int]:
    """Count the bytes of each tensor of a model, its floating-point ones in that dtype."""
    return {
        name: tensor.numel() * (dtype if tensor.is_floating_point() else tensor.dtype).itemsize
        for name, tensor in model.state_dict().items()
    }


def split_large_head(model: AlpamayoModel, rules: Rules, dtype: torch.dtype) -> bool:
    """Split an output head above LARGEST_BYTES; return whether the embedding is above it too.

    For a model on the meta device with packed modules. All other tensors of the release are far
    smaller, and so is a head of 4 bits or less.
    """
    sizes, rule = count_tensor_bytes(model, dtype), find_rule(HEAD, rules)
    count = -(-max(sizes[name] for name in sizes if name.startswith(HEAD)) // LARGEST_BYTES)
    if count > 1 and rule.bits >= 8:
        parts: Any = RowParts(model.vlm.lm_head, count, rule)
        model.vlm.lm_head = parts
    return any(size > LARGEST_BYTES for name, size in sizes.items() if name.startswith(EMBEDDING))


def drop_pages(folder: Path) -> None:
    """Drop unmapped pages of the files from the page cache: a Jetson's GPU shares that memory."""
    for file in list_shard_files(folder):
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


def select_device(device: torch.device) -> None:
    """Let this thread launch kernels, graphs and events on `device`: by default it is GPU 0."""
    if device.type == 'cuda' and device.index is not None:  # torch refuses a plain 'cuda'
        torch.cuda.set_device(device)


def _make_converter(plan: LoadPlan) -> Change:
    """Return the function from a tensor of a file to the model's: checked, split, then packed.

    Scales are solved on the device.
    """

    def convert(file: Path, name: str, tensor: Tensor) -> Mapping[str, Tensor]:
        require_sound_values(file, name, tensor, plan.dtype)
        rule = find_tensor_rule(name, tensor.shape, plan.rules)
        converted: dict[str, Tensor] = {}
        for own, part in _split_head(plan.model.vlm.lm_head, name, tensor).items():
            if plan.on_the_fly and rule.scheme.levels:
                stored, _ = quantize_matrix(part, rule, device=plan.device)
                converted |= {own + ending: piece for ending, piece in stored.items()}
            else:
                converted[own] = part
        return converted

    return convert


def _split_head(head: Module, name: str, tensor: Tensor) -> Mapping[str, Tensor]:
    """Map a tensor to its names in the model: several where the output head is in parts."""
    if not isinstance(head, RowParts) or not name.startswith(HEAD):
        return {name: tensor}
    leaf = name.removeprefix(HEAD)
    return {f'{HEAD}.{i}{leaf}': rows for i, rows in enumerate(tensor.split(head.rows))}


def join_products(model: AlpamayoModel) -> None:
    """Let packed layers that read the same input run as one product each."""
    for layer in (*model.vlm.model.language_model.layers, *model.expert.layers):
        attention, mlp = layer.self_attn, layer.mlp
        join([attention.q_proj, attention.k_proj, attention.v_proj])
        join([mlp.gate_proj, mlp.up_proj])


def use_int8_activations(model: AlpamayoModel) -> None:
    """Let vision tower, prompt and flow steps multiply int8. Call it after `join_products`.

    The tower's layers get int8 weights. So do plain layers of language model and expert, for
    tokens as well; packed ones keep their bytes.
    """
    use_int8(model.vlm.model.visual, keep_packed=False)
    for part in (model.vlm.model.language_model.layers, model.expert.layers):
        use_int8(part, keep_packed=True)


def _keep_on_host(model: AlpamayoModel) -> None:
    """Let a plain embedding take ids of another device; a packed one does."""
    language = model.vlm.model.language_model
    if isinstance(language.embed_tokens, Embedding):
        rows, columns = language.embed_tokens.weight.shape
        language.embed_tokens = HostEmbedding(rows, columns, device='meta')
