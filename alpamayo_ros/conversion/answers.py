"""Records what a checkpoint says and plans at moments of drives: a calibration's lessons.

Some moments are mixed, and never happened. Knows no quantization.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..data_types import Context, SamplingOptions
from ..errors import BadInput
from ..images import ImageError
from ..model.alpamayo import AlpamayoModel
from ..model.flow_matching import make_training_pair
from ..model.kv_cache import KVCache
from ..model.prompt.generated_text import trim_tokens
from ..model.teacher_forcing import Batch, make_layout
from ..runtime.batch import draw_noise, roll_out
from ..runtime.engine import AlpamayoEngine
from ..runtime.stopwatch import Stopwatch
from .lessons import Curriculum, Lessons

DRAWS = 4  # noisy actions of each lesson
MIXES = 3  # of all pictures with other histories
MIXED_TEMPERATURE = 1.5  # of their words: sentences that three drives do not call for come as well
HELD_OUT = 8  # every eighth moment is measured on and never learned
MAX_TOKENS = 128
_SPOKEN = 8  # contexts that speak at a time

Moment = tuple[Context, Tensor]  # pictures (I, 3, H, W) uint8, in the model's size
Parts = tuple[Tensor, ...]  # of one lesson: images, prompt, words, actions, x and t


def count_spoken(contexts: int) -> int:
    """Count the moments that `make_lessons` lets a checkpoint speak at, mixed ones too."""
    held_out = len(range(HELD_OUT // 2, contexts, HELD_OUT))
    return (1 + MIXES) * (contexts - held_out) + held_out


def mix_pictures(moments: Sequence[Moment]) -> list[Moment]:
    """Give, MIXES times, the pictures of one moment to the history of another.

    The checkpoint answers what never happened as well, with other words and paths. Without that a
    calibration follows the few drives too closely.
    """
    random = torch.Generator().manual_seed(0)
    mixed = []
    for _ in range(MIXES):
        order = torch.randperm(len(moments), generator=random).tolist()
        others = (moments[at][1] for at in order)
        mixed += [(context, images) for (context, _), images in zip(moments, others, strict=True)]
    return mixed


@torch.no_grad()
def make_lessons(
    teacher: AlpamayoEngine,
    contexts: Sequence[Context],
    seed: int,
    advance: Callable[[int], object],
) -> Curriculum:
    """Let the checkpoint speak and plan at each context, and at mixes of those that are learned.

    advance is called with the number of moments that it spoke at. One whose reasoning does not end
    with the marker is left out. The lessons lie on the host. Raises BadInput when fewer than
    HELD_OUT contexts are of use, and for pictures of several sizes.
    """
    read = [(context, _read_images(teacher, context)) for context in contexts]
    shown = [(context, images) for context, images in read if images is not None]
    if len(sizes := {tuple(images.shape) for _, images in shown}) > 1:
        text = ', '.join(f'{n} x {h} x {w}' for n, _, h, w in sorted(sizes))
        raise BadInput(f'calibration: pictures of several numbers or sizes ({text}), expected one')
    held_out = shown[HELD_OUT // 2 :: HELD_OUT]
    learned = [moment for i, moment in enumerate(shown) if i % HELD_OUT != HELD_OUT // 2]
    plain = SamplingOptions(max_tokens=MAX_TOKENS)
    bold = replace(plain, temperature=MIXED_TEMPERATURE)
    found: list[list[Parts]] = []
    first = seed << 20
    for moments, options in ((held_out, plain), (learned, plain), (mix_pictures(learned), bold)):
        found.append(_speak_at(teacher, moments, options, first, advance))
        first += len(moments)
    if not found[0] or len(found[1]) < HELD_OUT - 1:
        raise BadInput(
            f'calibration: {len(contexts)} moments, of which {len(shown)} have pictures that can '
            f'be decoded and {len(found[0]) + len(found[1])} a reasoning that ends with the '
            f'trajectory marker; expected {HELD_OUT} or more'
        )
    both = found[1] + found[2]
    random = torch.Generator().manual_seed(seed)
    both = [both[at] for at in torch.randperm(len(both), generator=random).tolist()]
    return Curriculum(_stack(teacher, both), _stack(teacher, found[0]))


def _speak_at(
    teacher: AlpamayoEngine,
    moments: Sequence[Moment],
    options: SamplingOptions,
    seed: int,
    advance: Callable[[int], object],
) -> list[Parts]:
    """Return the parts of all moments that end with the marker; seeds follow each other."""
    parts: list[Parts] = []
    for start in range(0, len(moments), _SPOKEN):
        contexts, pictures = zip(*moments[start : start + _SPOKEN], strict=True)
        seeds = range(seed + start, seed + start + len(contexts))
        parts += _speak(teacher, contexts, torch.stack(pictures), options, seeds)
        advance(len(contexts))
    return parts


def _read_images(teacher: AlpamayoEngine, context: Context) -> Tensor | None:
    """Pictures (I, 3, H, W) uint8 of a context, in the model's size; None if one is broken."""
    frames = [frame for row in context.frames.values() for frame in row]
    try:
        pictures = teacher.pictures.load(frames)
    except ImageError:
        return None
    if len({picture.shape for picture in pictures}) > 1:
        sizes = ', '.join(sorted({f'{p.shape[1]} x {p.shape[2]}' for p in pictures}))
        raise BadInput(f'calibration: the cameras give pictures of {sizes}, expected one size')
    return torch.stack(pictures)


def _speak(
    teacher: AlpamayoEngine,
    contexts: Sequence[Context],
    images: Tensor,
    options: SamplingOptions,
    seeds: Sequence[int],
) -> list[Parts]:
    """Return the parts of each context that ends with the marker."""
    model, processor, device = teacher.model, teacher.processor, teacher.device
    generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
    pairs = processor.cut_patches(images.flatten(0, 1).to(device))
    grids = [grid for _, grid in pairs]
    prompts = teacher.write_prompts(contexts, grids[: images.shape[1]], options)
    vision = model.encode_images(torch.cat([patches for patches, _ in pairs]), grids)

    def prepare() -> tuple[KVCache, AlpamayoModel]:
        scenes, length = prompts.ids.shape
        return model.allocate_cache(scenes, length, 1, MAX_TOKENS), model

    noise = draw_noise(generators, 1, model.waypoints)
    reasoning, actions = roll_out(
        model, processor.ids, prompts, vision, grids, options, noise, generators, prepare,
        Stopwatch(device),
    )  # fmt: skip
    found: list[Parts] = []
    for i, generator in enumerate(generators):
        noises = torch.randn((DRAWS, *actions.shape[1:]), generator=generator, device=device)
        # times spread evenly, one in each of DRAWS equal parts
        t = torch.arange(DRAWS, device=device)
        t = (t + torch.rand(DRAWS, generator=generator, device=device)) / DRAWS * 0.999
        x, _ = make_training_pair(actions[i], noises, t[:, None, None])
        if reasoning.end[i][0] == 'marker':
            words = torch.tensor(trim_tokens(reasoning.tokens[i, 0].tolist(), processor.ids))
            ids = prompts.ids[i].cpu()
            found.append((images[i], ids, words, actions[i].cpu(), x.cpu(), t.cpu()))
    return found


def _stack(teacher: AlpamayoEngine, parts: Sequence[Parts]) -> Lessons:
    """Lessons of equal length: pads follow the shorter reasonings."""
    images, prompt, words, actions, x, t = zip(*parts, strict=True)
    length = 1 + max(map(len, words))  # the logits of the last token are not used
    rest = torch.full((len(parts), length), teacher.processor.ids.pad)
    for row, own in zip(rest, words, strict=True):
        row[: len(own)] = own
    marker = torch.tensor([len(own) - 1 for own in words])
    patch = teacher.config.vision.patch_size
    grid = images[0].shape[-2] // patch, images[0].shape[-1] // patch
    layout = make_layout(teacher.config, prompt[0], grid, length)
    batch = Batch(
        layout,
        torch.stack(images),
        torch.stack(prompt),
        rest,
        torch.zeros_like(marker),
        marker,
        torch.stack(actions),
    )
    return Lessons(batch, torch.stack(x), torch.stack(t))
