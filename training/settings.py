"""The settings of a training run and the YAML file they come from. Knows no tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypedDict

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
import yaml

from alpamayo_ros.errors import BadInput

# Folders in a run: copies of the run, or of the checkpoint, whose weights it began with.
EARLIER, INITIAL = 'earlier', 'initial'


class ImageSettings(TypedDict):
    """Size of the pictures, and the limits that config.json gives the image processor."""

    height: int
    width: int
    min_pixels: int
    max_pixels: int


class DataSettings(TypedDict):
    """How drives become samples and chunks."""

    seconds: float
    first_drive: int
    samples_per_drive: int
    drives_per_chunk: int
    kept_chunks: int
    passes: int
    changed_shares: Mapping[str, float]
    route_share: float
    other_way_share: float
    silent_share: float
    textured_share: float
    demo_share: float


class CameraSet(TypedDict):
    """Model indices of cameras, and the share of the batches that has them."""

    indices: list[int]
    share: float


@dataclass(frozen=True)
class TrainingSettings:
    """The keys of the file; training/small.yaml explains them."""

    seed: int
    model_type: str
    model: Mapping[str, Any]
    image: ImageSettings
    actions: Mapping[str, float]
    data: DataSettings
    cameras: tuple[CameraSet, ...]
    batch: int
    flow_draws: int
    language_weight: float
    path_weight: float
    aside_weight: float
    steps: int
    warmup: int
    learning_rate: float
    weight_decay: float
    clip: float
    log_every: int

    @property
    def chunk_steps(self) -> int:
        """Steps for which one chunk of drives is the newest."""
        samples = self.data['drives_per_chunk'] * self.data['samples_per_drive']
        return int(samples // self.batch * self.data['passes'])


def load_settings(path: Path) -> TrainingSettings:
    """Read the settings of a file; BadInput names the file and the wrong keys."""
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
    """Write values, as KEY=VALUE, into a settings file. Raises BadInput for an unknown key."""
    raw = OmegaConf.load(path)
    OmegaConf.set_struct(raw, True)
    try:
        raw.merge_with_dotlist(list(changes))
    except (OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise BadInput(f'--set {" ".join(changes)}: {str(error).splitlines()[0]}') from None
    OmegaConf.save(raw, path)
