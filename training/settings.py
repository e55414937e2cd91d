"""Settings of a training run, from its one YAML file. Knows no tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
import yaml

from alpamayo_ros.errors import BadInput

EARLIER = 'earlier'  # folder in a run: the run whose weights it began with


@dataclass(frozen=True)
class TrainingSettings:
    """The keys of the file; training/small.yaml says what they mean."""

    seed: int
    model: Mapping[str, Any]
    image: Mapping[str, int]
    actions: Mapping[str, float]
    data: Mapping[str, Any]
    cameras: tuple[Mapping[str, Any], ...]
    batch: int
    flow_draws: int
    language_weight: float
    path_weight: float
    steps: int
    warmup: int
    learning_rate: float
    weight_decay: float
    clip: float
    log_every: int

    @property
    def chunk_steps(self) -> int:
        """Steps that one chunk of drives serves."""
        samples = self.data['drives_per_chunk'] * self.data['samples_per_drive']
        return int(samples // self.batch * self.data['passes'])


def load_settings(path: Path) -> TrainingSettings:
    """Settings of a file; BadInput names the file and the key that is wrong."""
    try:
        raw = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInput(f'{path}: not readable as YAML: {error}') from None
    names = {field.name for field in fields(TrainingSettings)}
    if not isinstance(raw, dict) or set(raw) != names:
        wrong = sorted(names ^ set(raw)) if isinstance(raw, dict) else 'no mapping'
        raise BadInput(f'{path}: expected exactly the keys {sorted(names)}; wrong: {wrong}')
    settings = TrainingSettings(**(raw | {'cameras': tuple(raw['cameras'])}))
    if settings.chunk_steps < 1:
        raise BadInput(f'{path}: batch {settings.batch} is larger than a chunk of drives')
    return settings


def change_settings(path: Path, changes: Sequence[str]) -> None:
    """Write other values, as KEY=VALUE, into a file of settings; BadInput for an unknown key."""
    raw = OmegaConf.load(path)
    OmegaConf.set_struct(raw, True)
    try:
        raw.merge_with_dotlist(list(changes))
    except (OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise BadInput(f'--set {" ".join(changes)}: {str(error).splitlines()[0]}') from None
    OmegaConf.save(raw, path)
