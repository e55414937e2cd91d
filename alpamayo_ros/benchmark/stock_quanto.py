"""The model as optimum-quanto 0.2.7 runs it: qint2 linear layers, made dense at each call.

For comparison only. quanto compiles its unpacking kernel with nvcc at the first call, which takes
minutes; a Triton kernel with the same memory traffic stands in for it. Knows no clock.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadInput
from ..model.alpamayo import AlpamayoModel
from ..model.checkpoint import set_tensor
from ..model.config import AlpamayoConfig
from ..quantization.scheme import SCHEMES
from ..runtime.load import build_on_meta
from .full_size import WEIGHT_STD, draw_plain_tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # then there is no GPU to run on either
    triton = None

BLOCK = 1024


def stock_model(config: AlpamayoConfig, device: str, dtype: torch.dtype) -> AlpamayoModel:
    """Random bytes in quanto's own tensors under plain nn.Linear; all else as `random_model`.

    Raises BadInput where optimum-quanto is not installed.
    """
    try:
        from optimum import quanto
        from optimum.quanto.library.extensions import get_extension
        from optimum.quanto.tensor.packed import PackedTensor
    except ImportError as error:
        raise BadInput(f'optimum-quanto is needed for this comparison: {error}') from None
    for name in ('quanto_cuda', 'quanto_cpp'):
        if name == 'quanto_cpp' or torch.cuda.is_available():
            get_extension(name)._lib = SimpleNamespace(unpack=unpack)
    model = build_on_meta(config)
    generator = torch.Generator(device).manual_seed(0)
    scheme = SCHEMES[2]
    linears = {f'{n}.weight' for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    for name, tensor in model.state_dict().items():
        value: Any
        if name in linears:
            rows, columns = tensor.shape
            group = scheme.group_size(columns)
            count, width = (rows * columns // group, group) if group < columns else tensor.shape
            shape = (-(-count // 4), width)
            data = torch.randint(
                0, 256, shape, generator=generator, device=device, dtype=torch.uint8
            )
            scale = torch.full((count, 1), WEIGHT_STD / 1.118, device=device, dtype=dtype)
            value = quanto.WeightQBitsTensor(
                quanto.qint2,
                0,
                group if group < columns else None,
                tensor.size(),
                tensor.stride(),
                PackedTensor(data, 2, torch.Size((count, width)), (width, 1)),
                scale,
                1.5 * scale,
            )
        else:
            value = draw_plain_tensor(model, name, dtype, generator)
        set_tensor(model, name, value)
    return model.eval()


def unpack(packed: Tensor, bits: int) -> Tensor:
    """Codes (8 / bits * P, g) of bytes (P, g), in quanto's order."""
    if not packed.is_cuda:
        mask = 2**bits - 1
        return torch.cat([packed >> shift & mask for shift in range(0, 8, bits)])
    parts = 8 // bits
    out = packed.new_empty(parts * packed.shape[0], *packed.shape[1:])
    _unpack_kernel[(triton.cdiv(packed.numel(), BLOCK),)](
        packed, out, packed.numel(), BITS=bits, PARTS=parts, BLOCK=BLOCK
    )
    return out


if triton is not None:

    @triton.jit
    def _unpack_kernel(
        packed_ptr, out_ptr, count, BITS: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr
    ):
        at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        packed = tl.load(packed_ptr + at, at < count)
        for part in tl.static_range(PARTS):
            code = packed >> (part * BITS) & (2**BITS - 1)
            tl.store(out_ptr + part * count + at, code, at < count)
