"""The entry of a quantized checkpoint in its config.json: written and parsed. Knows no tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import BadInput
from .scheme import FITTED, RECIPES, SCHEMES, Rules, make_rules, parse_rules

KEY = 'quantization_config'
OLDER_KEY = 'compression_config'  # of compressed-tensors
# Endings of the tensors that a tool stores beside or in place of a weight.
PACKED = {
    '.weight._data': 'quanto',
    '.weight._data._data': 'quanto',
    '.qweight': 'GPTQ or AWQ',
    '.weight_packed': 'compressed-tensors',
    '.absmax': 'bitsandbytes',
    '.SCB': 'bitsandbytes',
    '.weight_scale_2': 'modelopt',
    '.weight_scale_inv': 'a tool for FP8',
    '.weight_scale': 'compressed-tensors, modelopt or another tool',
}
FORMAT_VERSION = 1
PLAIN_BITS = 16.0


@dataclass(frozen=True)
class Quantization:
    """How a checkpoint was quantized, and from which source.

    solver: 'quanto' where optimum-quanto made all codes, 'none' at 16 bits. calibration_sha256: of
    the contexts that it was calibrated on, '' without them. exceptions: the first so many rules
    are not the recipe's; they keep what the source of optimum-quanto had.
    """

    recipe: str
    rules: Rules
    solver: str
    source_sha256: str
    calibration_sha256: str = ''
    exceptions: int = 0

    @property
    def bits(self) -> float:
        """The width of most layers of the recipe; the smallest of fitted widths."""
        own = self.rules[self.exceptions :]
        if self.recipe == FITTED:
            return min(rule.bits for rule in own)
        return next(bits for bits in SCHEMES if make_rules(self.recipe, bits) == own)

    def to_json(self) -> dict[str, Any]:
        """The object under KEY in config.json."""
        entry = {
            'format_version': FORMAT_VERSION,
            'recipe': self.recipe,
            'modules': {rule.pattern: rule.to_json() for rule in self.rules[self.exceptions :]},
            'solver': self.solver,
            'source_sha256': self.source_sha256,
        }
        if self.calibration_sha256:
            entry['calibration_sha256'] = self.calibration_sha256
        if self.exceptions:
            # apart from the modules: a recipe may have a rule for the same pattern
            own = self.rules[: self.exceptions]
            entry['exceptions'] = {rule.pattern: rule.to_json() for rule in own}
        return entry


def parse_quantization(config: Mapping[str, Any], where: str) -> Quantization | None:
    """Parse the entry of a checkpoint's config; None if the checkpoint is plain.

    Raises BadInput for another version or another tool, and for modules that belong to no recipe
    of this package.
    """
    if method := read_method(config):
        raise BadInput(f'{where}: {describe_foreign(method, where)}')
    raw = config.get(KEY)
    if raw is None:
        return None
    try:
        version, recipe, modules = raw['format_version'], str(raw['recipe']), raw['modules']
        solver, source = str(raw['solver']), str(raw['source_sha256'])
        calibration = str(raw.get('calibration_sha256', ''))
        exceptions = parse_rules(raw.get('exceptions', {}), where)
        rules = parse_rules(modules, where)
    except (AttributeError, KeyError, TypeError):
        raise BadInput(f'{where}: {KEY} is not one that alpamayo_quantize writes') from None
    if version != FORMAT_VERSION:
        raise BadInput(f'{where}: format_version {version!r}, expected {FORMAT_VERSION}')
    if recipe not in (*RECIPES, FITTED):
        raise BadInput(f'{where}: recipe {recipe!r} is not one of: {", ".join(RECIPES)}')
    if recipe != FITTED and not any(make_rules(recipe, bits) == rules for bits in SCHEMES):
        raise BadInput(f'{where}: its modules are not those of the recipe {recipe!r}')
    return Quantization(recipe, exceptions + rules, solver, source, calibration, len(exceptions))


def read_method(config: Mapping[str, Any]) -> str:
    """Name of the other tool whose quantization config.json records; '' for none or ours."""
    raw = config.get(KEY) or config.get(OLDER_KEY)
    return str(raw.get('quant_method') or '') if isinstance(raw, Mapping) else ''


def find_packing_tool(names: Iterable[str]) -> str:
    """Name of the tool that packed the tensors of these names; '' for weights as they are."""
    endings = {ending for name in names for ending in PACKED if name.endswith(ending)}
    return next((tool for ending, tool in PACKED.items() if ending in endings), '')


def describe_foreign(method: str, where: str) -> str:
    """What a user does with a checkpoint that another tool quantized."""
    folder = where.removesuffix('/config.json')
    if method == 'quanto':
        return (
            'packed by optimum-quanto, expected a release or a folder of alpamayo_quantize: '
            f'convert it first: alpamayo_quantize {folder} OUT --recipe uniform --bits N'
        )
    return (
        f'quantized by {method}, expected a release in full precision, or a folder of '
        'alpamayo_quantize or optimum-quanto'
    )


def check_requested(
    found: Quantization | None, bits: float | None, recipe: str | None, where: str
) -> None:
    """Raise BadInput if a checkpoint has another width or recipe than requested; None: any.

    A plain checkpoint serves every width: loading quantizes it.
    """
    if bits is not None or recipe is not None:
        known = 'uniform' if recipe in (None, FITTED) else recipe
        make_rules(known, PLAIN_BITS if bits is None else bits)
    if found is None:
        if recipe == FITTED:
            raise BadInput(f'{where}: not quantized; only alpamayo_quantize fits widths')
        if recipe is not None and bits is None:
            raise BadInput(f'{where}: not quantized; recipe={recipe!r} needs bits as well')
        return
    if bits is not None and bits != found.bits:
        raise BadInput(f'{where}: quantized to {found.bits:g} bits, bits={bits:g} was asked for')
    if recipe is not None and recipe != found.recipe:
        raise BadInput(f'{where}: its recipe is {found.recipe!r}, {recipe!r} was asked for')
