"""The checkpoints of the study: every width, recipe and method as a folder, made when missing.

Knows no figures.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file

from alpamayo_ros.conversion.plan import plan_quantization
from alpamayo_ros.conversion.quantize import quantize_checkpoint
from alpamayo_ros.quantization.scheme import RECIPES, SCHEMES, Rules, make_rules
from alpamayo_ros.runtime.engine import AlpamayoEngine
from quantization_study.calibrate import input_moments, picture_size, scenes_of
from quantization_study.distill import distill

# Method: solver of alpamayo_quantize, and whether it weighs errors by the inputs.
SOLVED = {
    'min/max': ('minmax', False),
    'HQQ': ('hqq', False),
    'MSE': ('mse', False),
    'activation-aware': ('mse', True),
    'error feedback': ('feedback', True),
}
# Taught by the 16 bits, starting from the last one above; whether codes move.
TAUGHT = {'distilled': False, 'distilled with codes': True}
_CALIBRATION_DRIVES = 32
_STEPS, _BATCH, _PASSES, _RATE = 400, 32, 4, 0.002  # of what is taught


@dataclass(frozen=True)
class Variant:
    """A row of the study. The plain checkpoint has no recipe and no method."""

    bits: float = 16.0
    recipe: str = ''
    method: str = ''

    @property
    def name(self) -> str:
        """Of the row."""
        return ' '.join(f'{self.bits:g} bits {self.recipe} {self.method}'.split())

    @property
    def rules(self) -> Rules:
        """How its tensors are stored; none for the plain one."""
        return make_rules(self.recipe, self.bits) if self.recipe else ()


def list_variants() -> Iterator[Variant]:
    """All rows: the plain one, then from many bits to few; what is taught has 4 bits or less."""
    yield Variant()
    for bits in (bits for bits, scheme in SCHEMES.items() if scheme.levels):
        for recipe in RECIPES:
            for method in (*SOLVED, *(TAUGHT if bits <= 4 else ())):
                yield Variant(bits, recipe, method)


def add_study_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that all programs of the study take."""
    add = parser.add_argument
    add('checkpoint', type=Path, help='folder in full precision')
    add('--work', type=Path, required=True, help='folder for checkpoints and records of the study')
    add('--out', type=Path, required=True, help='JSON file of the result')
    add('--device', default='cpu', help='cpu (default), cuda or cuda:N')


class Checkpoints:
    """Folders of one source below `work`. taught_steps: of distillation, 0 for the default."""

    def __init__(self, source: Path, work: Path, device: str, taught_steps: int = 0) -> None:
        self.source, self.work, self.device = source, work, device
        self.taught_steps = taught_steps or _STEPS

    def folder(self, variant: Variant) -> Path:
        """The checkpoint of a row."""
        if not variant.recipe:
            return self.source
        name = variant.name.replace(' ', '_').replace('/', '')
        target = self.work / 'checkpoints' / name
        if not target.is_dir():
            self._make(variant, target)
        return target

    def statistics(self) -> Path:
        """Second moments of the inputs of all layers."""
        path = self.work / 'inputs.safetensors'
        if not path.is_file():
            engine = AlpamayoEngine(self.source, self.device, None, 16)
            scenes = list(scenes_of(_CALIBRATION_DRIVES, picture_size(engine.config)))
            moments = input_moments(engine, scenes, lambda count: None)
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix('.partial')
            save_file(moments, partial)
            partial.rename(path)
        return path

    def _make(self, variant: Variant, target: Path) -> None:
        if variant.method in TAUGHT:
            last = Variant(variant.bits, variant.recipe, list(SOLVED)[-1])
            distill(
                self.source, self.folder(last), target, self.device,
                self.taught_steps, _BATCH, _PASSES, _RATE, TAUGHT[variant.method],
            )  # fmt: skip
            return
        solver, weighed = SOLVED[variant.method]
        importance = self.statistics() if weighed else None
        job = plan_quantization(
            self.source, target, variant.recipe, variant.bits, solver, importance=importance
        )
        quantize_checkpoint(job, None, lambda what, size: None)
