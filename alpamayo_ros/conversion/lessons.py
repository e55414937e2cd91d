"""Lessons: what the 16-bit checkpoint sees, says and plans at moments of recorded drives.

A quantized model learns to give the same logits and velocities for the same input. The words are
those of the 16-bit checkpoint, so nothing but the weights differs. Knows no quantization.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data_types import Context, SamplingOptions
from ..errors import BadInput
from ..model.flow_matching import make_training_pair
from ..model.prompt.generated_text import trim_tokens
from ..runtime.engine import AlpamayoEngine
from ..runtime.vision_cache import Grid

DRAWS = 6  # noisy actions of each lesson
HELD_OUT = 8  # every eighth lesson is for measuring and never learned
MAX_TOKENS = 256


@dataclass(frozen=True)
class Lesson:
    """One moment. patches (n, 1536) and grids of its images, prompt (1, P) and words (1, N) ids.

    The words end with the trajectory marker. x (1, D, T, 2): noisy normalised actions at times
    t (1, D).
    """

    patches: Tensor
    grids: tuple[Grid, ...]
    prompt: Tensor
    words: Tensor
    x: Tensor
    t: Tensor


@torch.no_grad()
def make_lessons(
    teacher: AlpamayoEngine,
    contexts: Sequence[Context],
    seed: int,
    advance: Callable[[int], object],
) -> list[Lesson]:
    """Let the 16-bit checkpoint speak and plan at each context. advance(1) follows each.

    A context whose reasoning does not end with the marker is left out. Raises BadInput when fewer
    than HELD_OUT lessons are left.
    """
    lessons = []
    for i, context in enumerate(contexts):
        lesson = _make_lesson(teacher, context, (seed << 20) + i)
        lessons += [lesson] if lesson else []
        advance(1)
    if len(lessons) < HELD_OUT:
        raise BadInput(
            f'calibration: {len(lessons)} of {len(contexts)} moments give a lesson (the 16-bit '
            f'checkpoint ends its reasoning with the marker), expected at least {HELD_OUT}'
        )
    return lessons


def _make_lesson(teacher: AlpamayoEngine, context: Context, seed: int) -> Lesson | None:
    model, processor, device = teacher.model, teacher.processor, teacher.device
    random = torch.Generator(device).manual_seed(seed)
    frames = [frame for row in context.frames.values() for frame in row]
    read = teacher.pictures.read(frames)
    patches, grids = torch.cat([part for part, _ in read]), tuple(grid for _, grid in read)
    history = [torch.from_numpy(x) for x in (context.history_xyz_m, context.history_rot)]
    ids = processor.build_input_ids(grids, context.camera_indices, *history)
    options = SamplingOptions(max_tokens=MAX_TOKENS)
    vision = model.encode_images(patches, grids)
    cache = model.allocate_cache(1, ids.shape[1], 1, MAX_TOKENS)
    prompt = model.prefill(ids, vision, grids, cache)
    reasoning = model.generate_reasoning(prompt, processor.ids, options, random)
    if reasoning.end[0][0] != 'marker':
        return None
    words = trim_tokens(reasoning.tokens[0, 0].tolist(), processor.ids)
    shape = (1, model.waypoints, 2)
    noise = torch.randn(shape, generator=random, device=device)
    action = model.sample_actions(noise, model.make_velocity_field(prompt, reasoning))
    # times spread evenly, one in each of DRAWS equal parts
    t = torch.arange(DRAWS, device=device) + torch.rand(DRAWS, generator=random, device=device)
    t = (t / DRAWS * 0.999).unsqueeze(0)
    noises = torch.randn((1, DRAWS, *shape[1:]), generator=random, device=device)
    x, _ = make_training_pair(action.unsqueeze(1), noises, t[..., None, None])
    return Lesson(patches, grids, ids.to(device), torch.tensor([words], device=device), x, t)


def split_lessons(lessons: Sequence[Lesson]) -> tuple[list[Lesson], list[Lesson]]:
    """Return the lessons to learn from and the held-out ones."""
    held_out = list(lessons[HELD_OUT // 2 :: HELD_OUT])
    return [
        lesson for lesson in lessons if not any(lesson is other for other in held_out)
    ], held_out
