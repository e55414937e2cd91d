"""Reads which modules optimum-quanto packed in a checkpoint, and at which width.

A conversion keeps the choices of the author: packed modules keep their width, and layers in full
precision stay so. Knows no solver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from ..errors import BadInput
from ..quantization.scheme import TABLES, Rule, Rules, find_rule, find_tensor_rule

CODES = ('.weight._data', '.weight._data._data')  # endings of quanto's codes
ZERO_POINT = '._zeropoint'


def read_widths(names: Iterable[str], read_tensor: Callable[[str], Tensor]) -> dict[str, float]:
    """Width of every module that quanto packed; {} for a source in full precision.

    Raises BadInput for codes of another kind than integers of 8, 4 or 2 bits.
    """
    widths: dict[str, float] = {}
    unclear: list[str] = []
    for name in sorted(name for name in names if name.endswith(CODES)):
        module, codes = name.partition('.weight.')[0], read_tensor(name)
        expected = torch.uint8 if name.endswith(CODES[1]) else torch.int8
        if codes.dtype != expected:
            raise BadInput(
                f'{name}: codes of optimum-quanto in {codes.dtype}, expected {expected}: only '
                'qint8, qint4 and qint2 can be converted; quantize the release instead'
            )
        scale = read_tensor(f'{module}.weight._scale')
        if not scale.is_floating_point():
            raise BadInput(f'{module}.weight._scale is {scale.dtype}, expected floating point')
        if expected == torch.int8:
            widths[module] = 8.0
        elif scale.numel() > 2:  # a scale per group: the scales per byte row are codes of a byte
            widths[module] = 8.0 / max(1, round(scale.numel() / len(codes)))
        else:
            unclear.append(module)  # one byte row holds two groups at 4 and at 2 bits
    usual = max(set(widths.values()), key=list(widths.values()).count, default=4.0)
    return widths | dict.fromkeys(unclear, usual)


def list_exceptions(
    shapes: Mapping[str, tuple[int, ...]], widths: Mapping[str, float], rules: Rules, source: str
) -> Rules:
    """Rules for the modules of a packed source that differ from a recipe's: they come first.

    Raises BadInput when most packed modules have another width than the recipe gives them.
    """
    exceptions = {m: bits for m, bits in widths.items() if find_rule(m, rules).bits != bits}
    if 2 * len(exceptions) > len(widths):
        usual = max(set(widths.values()), key=list(widths.values()).count)
        raise BadInput(
            f'{source}: optimum-quanto packed most layers at {usual:g} bits, and the recipe has '
            f'another width for {len(exceptions)} of {len(widths)}: expected '
            f'--recipe uniform --bits {usual:g}'
        )
    for name, shape in shapes.items():
        module = name.removesuffix('.weight')
        is_table = any(fnmatchcase(module, pattern) for pattern in TABLES)
        if widths and not is_table and find_tensor_rule(name, shape, rules).scheme.levels:
            exceptions[module] = 16
    return tuple(Rule(module, exceptions[module]) for module in sorted(exceptions))
