"""What config.json says of a quantized checkpoint, written and read. Knows no tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import BadInput
from .scheme import RECIPES, SCHEMES, Rules, rules_from_config, rules_of

KEY = 'quantization_config'
FORMAT_VERSION = 1
PLAIN_BITS = 16.0


@dataclass(frozen=True)
class Quantization:
    """How a checkpoint was quantized, and from what.

    solver: 'quanto' when that made all codes, 'none' without any (16 bits).
    importance_sha256: of the statistics of inputs that weighed errors, '' without.
    """

    recipe: str
    rules: Rules
    solver: str
    source_sha256: str
    importance_sha256: str = ''

    @property
    def bits(self) -> float:
        """The width that the recipe was asked for."""
        return next(bits for bits in SCHEMES if rules_of(self.recipe, bits) == self.rules)

    def entry(self) -> dict[str, Any]:
        """The object under KEY in config.json."""
        entry = {
            'format_version': FORMAT_VERSION,
            'recipe': self.recipe,
            'modules': {rule.pattern: rule.entry() for rule in self.rules},
            'solver': self.solver,
            'source_sha256': self.source_sha256,
        }
        weighed = {'importance_sha256': self.importance_sha256}
        return entry | (weighed if self.importance_sha256 else {})


def quantization_of(config: Mapping[str, Any], where: str) -> Quantization | None:
    """Read it from parsed JSON; None if the checkpoint is plain.

    Raises BadInput for another version, or for modules that are not those of a recipe here.
    """
    raw = config.get(KEY)
    if raw is None:
        return None
    try:
        version, recipe, modules = raw['format_version'], str(raw['recipe']), raw['modules']
        solver, source = str(raw['solver']), str(raw['source_sha256'])
        importance = str(raw.get('importance_sha256', ''))
        rules = rules_from_config(modules, where)
    except (AttributeError, KeyError, TypeError):
        raise BadInput(f'{where}: {KEY} is not one that alpamayo_quantize writes') from None
    if version != FORMAT_VERSION:
        raise BadInput(f'{where}: format_version {version!r}, expected {FORMAT_VERSION}')
    if recipe not in RECIPES:
        raise BadInput(f'{where}: recipe {recipe!r} is not one of: {", ".join(RECIPES)}')
    if not any(rules_of(recipe, bits) == rules for bits in SCHEMES):
        raise BadInput(f'{where}: its modules are not those of the recipe {recipe!r}')
    return Quantization(recipe, rules, solver, source, importance)


def check_asked(
    found: Quantization | None, bits: float | None, recipe: str | None, where: str
) -> None:
    """Raise BadInput when a checkpoint has another width or recipe than asked for; None: any.

    A plain checkpoint serves every width: it is quantized while it is loaded.
    """
    if bits is not None or recipe is not None:
        rules_of(recipe or 'uniform', PLAIN_BITS if bits is None else bits)
    if found is None:
        if recipe is not None and bits is None:
            raise BadInput(f'{where}: not quantized; recipe={recipe!r} needs bits as well')
        return
    if bits is not None and bits != found.bits:
        raise BadInput(f'{where}: quantized to {found.bits:g} bits, bits={bits:g} was asked for')
    if recipe is not None and recipe != found.recipe:
        raise BadInput(f'{where}: its recipe is {found.recipe!r}, {recipe!r} was asked for')
