"""Bit widths and recipes as data: how a weight is stored, and which module takes which width.

A new width is a row of SCHEMES, a new recipe a row of RECIPES. Knows no solver and no file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
import math
from typing import Any

from ..errors import BadInput
from ..kernels.packing import count_digits

GROUP = 128  # quanto's largest group; it is lowered by 32 until it divides K
_METADATA_BYTES = 2  # of a scale or a shift in bfloat16
TABLES = ('*embed_tokens', '*pos_embed')  # two-dimensional weights that are not linear layers


@dataclass(frozen=True)
class QuantScheme:
    """One width. `levels` is 0 for weights that are not quantized.

    grouped: every group of a row has a scale, instead of every row. shifted: each scale has a
    shift, weight = scale * code - shift; without one the levels are symmetric about zero. layout:
    name of the byte format in config.json; 'quanto' is that of optimum-quanto.
    """

    bits: float
    levels: int
    grouped: bool
    shifted: bool
    layout: str

    def group_size(self, columns: int, largest: int = GROUP) -> int:
        """Weights of a row that share a scale, by quanto's rule: all of a row of 4304."""
        if not self.grouped or columns <= largest:
            return columns
        for size in range(largest, 31, -32):
            if columns % size == 0:
                return size
        return columns

    def pad(self, rows: int, multiple: int = 1) -> int:
        """Rows that are stored: they fill whole bytes, except in quanto's format."""
        if self.layout != 'quanto' and self.levels:
            multiple = math.lcm(multiple, count_digits(self.levels))
        return -(-rows // multiple) * multiple

    def list_shapes(self, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
        """Endings behind 'module.weight' and shapes of the tensors that store a weight."""
        if not self.levels:
            return {'': (rows, columns)}
        if self.levels == 256:
            return {'._data': (rows, columns), '._scale': (rows, 1)}
        group = self.group_size(columns)
        count = rows * columns // group
        shapes: dict[str, tuple[int, ...]] = {
            '._data._data': (-(-count // count_digits(self.levels)), group),
            '._scale': (count, 1),
        }
        return shapes | ({'._shift': (count, 1)} if self.shifted else {})

    def count_bytes(self, rows: int, columns: int) -> int:
        """Bytes of a stored weight of that shape, with scales and shifts in bfloat16."""
        shapes = self.list_shapes(rows, columns)
        return sum(
            math.prod(shape) * (1 if name.endswith('_data') else _METADATA_BYTES)
            for name, shape in shapes.items()
        )


SCHEMES = {
    scheme.bits: scheme
    for scheme in (
        QuantScheme(16, 0, grouped=False, shifted=False, layout='plain'),
        QuantScheme(8, 256, grouped=False, shifted=False, layout='quanto'),
        QuantScheme(4, 16, grouped=True, shifted=True, layout='quanto'),
        QuantScheme(2, 4, grouped=True, shifted=True, layout='quanto'),
        QuantScheme(1.58, 3, grouped=True, shifted=False, layout='base3'),
    )
}


@dataclass(frozen=True)
class Rule:
    """Width of the modules whose names match a pattern; their rows are padded to a multiple."""

    pattern: str
    bits: float
    row_multiple: int = 1

    @property
    def scheme(self) -> QuantScheme:
        """The row of SCHEMES."""
        return SCHEMES[self.bits]

    def pad(self, rows: int) -> int:
        """Rows that are stored of a weight with so many rows."""
        return self.scheme.pad(rows, self.row_multiple)

    def to_json(self) -> dict[str, Any]:
        """The rule's entry in config.json."""
        return {
            'bits': self.bits,
            'group': GROUP if self.scheme.grouped else 'row',
            'layout': self.scheme.layout,
            'padded_rows': self.row_multiple,
        }


Rules = tuple[Rule, ...]
_KEPT = Rule('*', 16)


def _uniform(bits: float) -> Rules:
    """One width for every linear layer; optimum-quanto loads the result at 8, 4 and 2 bits."""
    # at 4 bits quanto itself fails on heights that 16 does not divide
    left_out = ('vlm.lm_head', 'action_out_proj') if bits == 4 else ()
    return (*(Rule(name, 16) for name in (*TABLES, *left_out)), Rule('*', bits))


def _mixed(bits: float, expert: float | None = None) -> Rules:
    """Heads at 4 bits and the vision tower at 8, as few bits hurt these most; actions at 16."""
    return (
        Rule('*pos_embed', 16),
        Rule('vlm.model.visual.*', 8),
        # 155,697 is odd: padded, each digit of a byte begins with a row
        Rule('vlm.lm_head', 4, row_multiple=128),
        Rule('vlm.model.language_model.embed_tokens', 4, row_multiple=128),
        Rule('vlm.model.language_model.*', bits),
        Rule('expert.*', bits if expert is None else expert),
        _KEPT,
    )


# 8 bits where 4304 inputs of the tower share one scale at full size, which no small model can try.
_VISION4 = (
    Rule('vlm.model.visual.blocks.*.mlp.linear_fc2', 8),
    Rule('vlm.model.visual.blocks.*', 4),
    Rule('vlm.model.visual.*merger*', 4),
)


def _mixed_attention4(bits: float) -> Rules:
    """Attention at 4 bits: what a search found for 3.0 bits per weight of the full size.

    The search gave the vision tower as few bits as the rest; here it has more, and the expert pays
    for that.
    """
    return (*_VISION4, Rule('*.self_attn.*', 4), *_mixed(bits))


def _mixed_path4(bits: float) -> Rules:
    """What the path is made from at 4 bits: the expert, and the keys and values that it reads.

    The expert's gates and the vision tower pay for that: 3.0 bits per weight of the full size.
    """
    return (
        *_VISION4,
        Rule('expert.*.mlp.gate_proj', bits),
        Rule('*.language_model.*.self_attn.[kv]_proj', 4),
        *_mixed(bits, expert=4),
    )


RECIPES: dict[str, Callable[[float], Rules]] = {
    'uniform': _uniform,
    'mixed': _mixed,
    'mixed_expert4': lambda bits: _mixed(bits, expert=4),
    'mixed_attention4': _mixed_attention4,
    'mixed_path4': _mixed_path4,
}


FITTED = 'fitted'  # widths measured on a checkpoint, so no row of RECIPES


def choose_recipe(bits: float, is_calibrated: bool = False) -> str:
    """Choose the recipe where the user names none: the one that drives the small checkpoint best.

    At 2 bits and within 3 bits per weight that is 'mixed_path4' after a calibration, and 'mixed'
    without one (docs/two-bit-study.md).
    """
    return 'mixed_path4' if bits == 2 and is_calibrated else 'mixed'


def make_rules(recipe: str, bits: float) -> Rules:
    """Make the rules of a recipe, most of whose layers have `bits`, an int or a float.

    Raises BadInput for what the tables do not hold.
    """
    if recipe not in RECIPES:
        raise BadInput(f'recipe {recipe!r} is not one of: {", ".join(RECIPES)}')
    if bits not in SCHEMES:
        raise BadInput(f'bits={bits:g} is not one of: {", ".join(f"{b:g}" for b in SCHEMES)}')
    return RECIPES[recipe](SCHEMES[bits].bits)


def parse_rules(modules: Mapping[str, Mapping[str, Any]], where: str) -> Rules:
    """Parse the rules that `to_json` wrote, in order; BadInput for what the tables do not hold."""
    rules = []
    for pattern, entry in modules.items():
        bits, multiple = entry.get('bits'), entry.get('padded_rows', 1)
        if bits not in SCHEMES or not isinstance(multiple, int) or multiple < 1:
            raise BadInput(f'{where}: {pattern!r}: no scheme for {dict(entry)}')
        rule = Rule(pattern, SCHEMES[bits].bits, multiple)
        if dict(entry) != rule.to_json():
            raise BadInput(f'{where}: {pattern!r} is {dict(entry)}, expected {rule.to_json()}')
        rules.append(rule)
    return tuple(rules)


def find_rule(module: str, rules: Sequence[Rule]) -> Rule:
    """Find the first rule whose pattern matches the module's name."""
    return next((rule for rule in rules if fnmatchcase(module, rule.pattern)), _KEPT)


def find_tensor_rule(name: str, shape: Sequence[int], rules: Sequence[Rule]) -> Rule:
    """Find the rule of a tensor of a release: only matrices called `weight` are quantized."""
    if len(shape) != 2 or not name.endswith('.weight'):
        return _KEPT
    return find_rule(name.removesuffix('.weight'), rules)


def count_bytes(
    rules: Sequence[Rule], shapes: Iterable[tuple[str, Sequence[int]]], padded: bool = True
) -> dict[str, int]:
    """Count the stored bytes of each tensor of a bfloat16 release, from names and shapes."""
    return dict(_count_tensor_bytes(rules, shapes, padded))


def _count_tensor_bytes(
    rules: Sequence[Rule], shapes: Iterable[tuple[str, Sequence[int]]], padded: bool
) -> Iterator[tuple[str, int]]:
    for name, shape in shapes:
        rule = find_tensor_rule(name, shape, rules)
        if rule.scheme.levels:
            rows = rule.pad(shape[0]) if padded else shape[0]
            yield name, rule.scheme.count_bytes(rows, shape[1])
        else:
            yield name, _METADATA_BYTES * math.prod(shape)
