"""Compares a quantized model with the 16-bit one on the same words, noises and times.

Both models read the same words, so that only their weights differ. The training code makes
pictures, prompts and words. Knows no quantization and no paths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from alpamayo_ros.model.alpamayo import AlpamayoModel
from alpamayo_ros.model.config import AlpamayoConfig
from alpamayo_ros.model.flow_matching import make_training_pair
from alpamayo_ros.model.prompt.image_processor import smart_resize
from alpamayo_ros.model.teacher_forcing import Batch, predict_velocities, run_language_model
from alpamayo_ros.world.camera import CAMERAS
from training.batches import Batches, TokenSequences, list_camera_sets, make_generator
from training.drives import Drives
from training.losses import draw_times
from training.settings import TrainingSettings, load_settings
from training.train import DEFAULT

_NOISE = 30  # purpose in the seed, beside those of training
DRAWS = 2  # noises and times for each scene


@dataclass(frozen=True)
class Lesson:
    """A batch, noisy actions x (B, DRAWS, T, 2) at times t (B, DRAWS), the answer of 16 bits.

    logits (B, N, vocab) of the reasoning; velocity like x.
    """

    batch: Batch
    x: Tensor
    t: Tensor
    logits: Tensor
    velocity: Tensor


def choose_picture_size(config: AlpamayoConfig) -> tuple[int, int]:
    """Choose height and width at which a checkpoint sees pictures of the world."""
    camera, vision = CAMERAS[0], config.vision
    return smart_resize(
        camera.height, camera.width, config.min_pixels, config.max_pixels,
        vision.patch_size * vision.spatial_merge_size,
    )  # fmt: skip


def choose_settings(
    model: AlpamayoModel, batch: int, steps: int, passes: int, per_drive: int, drives: int
) -> TrainingSettings:
    """Choose settings of the training data for a checkpoint: its picture size, other batches.

    per_drive: samples of each drive; drives: of a chunk, whose samples are painted once.
    """
    shipped = load_settings(DEFAULT)
    height, width = choose_picture_size(model.config)
    return replace(
        shipped,
        model_type=model.config.model_type,
        image={**shipped.image, 'height': height, 'width': width},
        data={
            **shipped.data,
            'samples_per_drive': per_drive,
            'drives_per_chunk': drives,
            'passes': passes,
        },
        batch=batch,
        steps=steps,
    )


def generate_lessons(
    teacher: AlpamayoModel, folder: Path, split: str, settings: TrainingSettings, device: str
) -> Iterator[Lesson]:
    """Yield `settings.steps` lessons of a split; the teacher is on the device."""
    words = TokenSequences(folder, settings, list_camera_sets(settings))
    drives = Drives(split, settings, teacher.action_space.cpu())
    teacher.to(device)
    batches = Batches(words, drives, settings, device, workers=0).iterate_from(0)
    for step, batch in zip(range(settings.steps), batches, strict=False):
        yield _lesson(teacher, batch, make_generator(device, settings.seed, _NOISE, step))


@torch.no_grad()
def _lesson(teacher: AlpamayoModel, batch: Batch, random: torch.Generator) -> Lesson:
    scenes, waypoints, channels = batch.actions.shape
    shape = (scenes, DRAWS, waypoints, channels)
    noise = torch.randn(shape, generator=random, device=random.device)
    t = draw_times((scenes, DRAWS), random)
    x, _ = make_training_pair(batch.actions.unsqueeze(1), noise, t[..., None, None])
    logits, prefix = run_language_model(teacher, batch)
    return Lesson(batch, x, t, logits, predict_velocities(teacher, prefix, x, t))


def compare_answers(model: AlpamayoModel, lesson: Lesson) -> tuple[Tensor, Tensor]:
    """Divergence of each token of the reasoning (tokens,) in nats, and velocity error, like x."""
    logits, prefix = run_language_model(model, lesson.batch)
    written = lesson.batch.written
    own, wanted = (part[written].log_softmax(-1) for part in (logits, lesson.logits))
    divergence = (wanted.exp() * (wanted - own)).sum(-1)
    return divergence, predict_velocities(model, prefix, lesson.x, lesson.t) - lesson.velocity


@torch.no_grad()
def compare(
    model: AlpamayoModel,
    given: Sequence[Lesson],
    advance: Callable[[int], object] = lambda count: None,
) -> dict[str, float]:
    """Mean divergence of the logits in nats, and RMS velocity error, relative to 16 bits."""
    divergences, errors, whole = [], [], []
    for lesson in given:
        divergence, error = compare_answers(model, lesson)
        divergences.append(divergence)
        errors.append(error.square().mean())
        whole.append(lesson.velocity.square().mean())
        advance(1)
    relative = (torch.stack(errors).mean() / torch.stack(whole).mean()).sqrt()
    return {'kl': float(torch.cat(divergences).mean()), 'velocity_error': float(relative)}
