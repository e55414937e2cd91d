"""The checkpoints of the study: every width, recipe and method as a folder, made when missing.

Knows no figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alpamayo_ros.conversion.calibrate import Calibration
from alpamayo_ros.conversion.calibrate_release import (
    calibrate_release,
    hash_contexts,
    keep_lessons,
    load_source,
    speak,
)
from alpamayo_ros.conversion.plan import QuantizationPlan, plan_quantization
from alpamayo_ros.conversion.quantize import quantize_checkpoint
from alpamayo_ros.data_types import Context
from alpamayo_ros.drives.open_loop import OpenLoop
from alpamayo_ros.drives.scene import keep_pictures, make_contexts
from alpamayo_ros.model.config import load_config
from alpamayo_ros.quantization.scheme import RECIPES, SCHEMES, Rules, make_rules
from quantization_study.forced import choose_picture_size

SOLVED = {'min/max': 'minmax', 'HQQ': 'hqq', 'MSE': 'mse'}  # method: solver of alpamayo_quantize
CALIBRATED = 'calibrated'
DRIVES, SECONDS, MOMENTS = (1001, 1002, 1003), 60.0, 32  # of a calibration; none is measured on


@dataclass(frozen=True)
class Variant:
    """A row of the study. The plain checkpoint has no recipe and no method."""

    bits: float = 16.0
    recipe: str = ''
    method: str = ''

    @property
    def name(self) -> str:
        """Name of the row."""
        return ' '.join(f'{self.bits:g} bits {self.recipe} {self.method}'.split())

    @property
    def rules(self) -> Rules:
        """Rules for its tensors; none for the plain checkpoint."""
        return make_rules(self.recipe, self.bits) if self.recipe else ()


def list_variants() -> Iterator[Variant]:
    """Yield all rows: the plain checkpoint, then from many bits to few."""
    yield Variant()
    for bits in (bits for bits, scheme in SCHEMES.items() if scheme.levels):
        for recipe in RECIPES:
            for method in (*SOLVED, CALIBRATED):
                yield Variant(bits, recipe, method)


@dataclass(frozen=True)
class Checkpoints:
    """Folders of one source below `work`."""

    source: Path
    work: Path
    device: str

    def folder(self, variant: Variant) -> Path:
        """Find the folder of a row, and make it when it is missing."""
        if not variant.recipe:
            return self.source
        target = self.work / 'checkpoints' / variant.name.replace(' ', '_').replace('/', '')
        if not target.is_dir():
            self._make(variant, target)
        return target

    def _make(self, variant: Variant, target: Path) -> None:
        contexts = self._draw_contexts() if variant.method == CALIBRATED else []
        job = plan_quantization(
            self.source,
            target,
            variant.recipe,
            variant.bits,
            SOLVED.get(variant.method, 'mse'),
            self.device,
            calibration_sha256=hash_contexts(contexts) if contexts else '',
        )
        calibration = calibrate_plan(job, contexts) if contexts else None
        quantize_checkpoint(job, None, lambda what, size: None, calibration)

    def _draw_contexts(self) -> list[Context]:
        """Draw the moments of the calibration, with pictures as the cameras take them."""
        loop, size = (
            OpenLoop('test', 0, SECONDS, MOMENTS, 0),
            choose_picture_size(load_config(self.source)),
        )
        contexts = []
        for drive in DRIVES:
            scenes = loop.scenes(drive, size)
            rngs = [np.random.default_rng() for _ in scenes]  # `keep_pictures` draws nothing
            contexts += make_contexts(scenes, keep_pictures, rngs, self.device.partition(':')[0])
        return contexts


def calibrate_plan(job: QuantizationPlan, contexts: list[Context]) -> Calibration:
    """Calibrate as alpamayo_quantize does."""
    lessons = keep_lessons(
        job, None, lambda: speak(job.source, job.device, contexts, lambda count: None)
    )
    source, _ = load_source(job, lessons)
    return calibrate_release(job, source, lessons, lambda what: None)
