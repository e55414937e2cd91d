"""Bit widths and recipes as data: how a weight is stored, and which module takes which width.

Adding a width is a row of SCHEMES, adding a recipe a row of RECIPES. Knows no solver and no file.
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
_TABLES = ('*embed_tokens', '*pos_embed')  # two-dimensional weights that are not linear layers


@dataclass(frozen=True)
class QuantScheme:
    """One width. `levels` 0: kept as it is.

    grouped: a scale for every group of a row instead of one a row. shifted: a shift beside each
    scale, w = scale * code - shift; without one the levels are symmetric about zero. layout: the
    byte format's name in config.json; 'quanto' is that of optimum-quanto.
    """

    bits: float
    levels: int
    grouped: bool
    shifted: bool
    layout: str

    def group(self, columns: int, largest: int = GROUP) -> int:
        """Weights of a row that share a scale: quanto's rule, where 4304 gives the whole row."""
        if not self.grouped or columns <= largest:
            return columns
        for size in range(largest, 31, -32):
            if columns % size == 0:
                return size
        return columns

    def padded(self, rows: int, multiple: int = 1) -> int:
        """Rows that are stored: whole bytes where quanto's format does not say otherwise."""
        if self.layout != 'quanto' and self.levels:
            multiple = math.lcm(multiple, count_digits(self.levels))
        return -(-rows // multiple) * multiple

    def tensors(self, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
        """Names behind 'module.weight' and shapes of what stands for a weight (rows, columns)."""
        if not self.levels:
            return {'': (rows, columns)}
        if self.levels == 256:
            return {'._data': (rows, columns), '._scale': (rows, 1)}
        group = self.group(columns)
        count = rows * columns // group
        shapes: dict[str, tuple[int, ...]] = {
            '._data._data': (-(-count // count_digits(self.levels)), group),
            '._scale': (count, 1),
        }
        return shapes | ({'._shift': (count, 1)} if self.shifted else {})

    def bytes(self, rows: int, columns: int) -> int:
        """What a weight of that shape takes, with metadata in bfloat16."""
        shapes = self.tensors(rows, columns)
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
    """The width of the modules whose names match a pattern; rows are padded to a multiple."""

    pattern: str
    bits: float
    row_multiple: int = 1

    @property
    def scheme(self) -> QuantScheme:
        """The row of SCHEMES."""
        return SCHEMES[self.bits]

    def rows(self, rows: int) -> int:
        """Rows that are stored of a weight with `rows` ones."""
        return self.scheme.padded(rows, self.row_multiple)

    def entry(self) -> dict[str, Any]:
        """What config.json says of it."""
        return {
            'bits': self.bits,
            'group': GROUP if self.scheme.grouped else 'row',
            'layout': self.scheme.layout,
            'padded_rows': self.row_multiple,
        }


Rules = tuple[Rule, ...]
_KEPT = Rule('*', 16)


def _uniform(bits: float) -> Rules:
    """What optimum-quanto makes of every linear layer; loadable there at 8, 4 and 2 bits."""
    # at 4 bits quanto itself fails on heights that 16 does not divide
    left_out = ('vlm.lm_head', 'action_out_proj') if bits == 4 else ()
    return (*(Rule(name, 16) for name in (*_TABLES, *left_out)), Rule('*', bits))


def _mixed(bits: float, expert: float | None = None) -> Rules:
    """Heads at 4 bits and the vision tower at 8, which few bits hurt most; actions untouched."""
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


def _mixed_attention4(bits: float) -> Rules:
    """What a search for 3.0 bits per weight of the full size found, but for the vision tower.

    It gave that as few bits as the rest. At full size 4304 inputs share one scale there, which no
    small model can try: 8 bits for them and 4 for the others, paid for by the expert.
    """
    return (
        Rule('vlm.model.visual.blocks.*.mlp.linear_fc2', 8),
        Rule('vlm.model.visual.blocks.*', 4),
        Rule('vlm.model.visual.*merger*', 4),
        Rule('*.self_attn.*', 4),
        *_mixed(bits),
    )


RECIPES: dict[str, Callable[[float], Rules]] = {
    'uniform': _uniform,
    'mixed': _mixed,
    'mixed_expert4': lambda bits: _mixed(bits, expert=4),
    'mixed_attention4': _mixed_attention4,
}


def default_recipe(bits: float) -> str:
    """The recipe where none is told: at 2 bits the one that drives best within 3 a weight.

    Once it is taught or errors are fed back, that is; by least squares 'mixed' drives better.
    """
    return 'mixed_attention4' if bits == 2 else 'mixed'


def rules_of(recipe: str, bits: float) -> Rules:
    """The rules of a recipe; `bits` are those of most of its layers. BadInput if not in the table.

    A whole number of bits may be given as int.
    """
    if recipe not in RECIPES:
        raise BadInput(f'recipe {recipe!r} is not one of: {", ".join(RECIPES)}')
    if bits not in SCHEMES:
        raise BadInput(f'bits={bits:g} is not one of: {", ".join(f"{b:g}" for b in SCHEMES)}')
    return RECIPES[recipe](SCHEMES[bits].bits)


def rules_from_config(modules: Mapping[str, Mapping[str, Any]], where: str) -> Rules:
    """The rules that `entry` wrote, in their order; BadInput for what this table does not hold."""
    rules = []
    for pattern, entry in modules.items():
        bits, multiple = entry.get('bits'), entry.get('padded_rows', 1)
        if bits not in SCHEMES or not isinstance(multiple, int) or multiple < 1:
            raise BadInput(f'{where}: {pattern!r}: no scheme for {dict(entry)}')
        rule = Rule(pattern, SCHEMES[bits].bits, multiple)
        if dict(entry) != rule.entry():
            raise BadInput(f'{where}: {pattern!r} is {dict(entry)}, expected {rule.entry()}')
        rules.append(rule)
    return tuple(rules)


def rule_of(module: str, rules: Sequence[Rule]) -> Rule:
    """The first rule whose pattern the module's name matches."""
    return next((rule for rule in rules if fnmatchcase(module, rule.pattern)), _KEPT)


def rule_of_tensor(name: str, shape: Sequence[int], rules: Sequence[Rule]) -> Rule:
    """The rule of a tensor of a release: only matrices called `weight` are quantized."""
    if len(shape) != 2 or not name.endswith('.weight'):
        return _KEPT
    return rule_of(name.removesuffix('.weight'), rules)


def bytes_of(
    rules: Sequence[Rule], shapes: Iterable[tuple[str, Sequence[int]]], padded: bool = True
) -> dict[str, int]:
    """Stored bytes of each tensor of a bfloat16 release, from names and shapes alone."""
    return dict(_bytes_of(rules, shapes, padded))


def _bytes_of(
    rules: Sequence[Rule], shapes: Iterable[tuple[str, Sequence[int]]], padded: bool
) -> Iterator[tuple[str, int]]:
    for name, shape in shapes:
        rule = rule_of_tensor(name, shape, rules)
        if rule.scheme.levels:
            rows = rule.rows(shape[0]) if padded else shape[0]
            yield name, rule.scheme.bytes(rows, shape[1])
        else:
            yield name, _METADATA_BYTES * math.prod(shape)
