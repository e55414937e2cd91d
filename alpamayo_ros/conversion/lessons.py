"""Lessons: what a 16-bit checkpoint sees, says and plans at moments of recorded drives.

A quantized model learns to give the same logits and velocities for the same input. The words are
those of the 16-bit checkpoint, so nothing but the weights differs. Knows no quantization.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ..data_types import Context, SamplingOptions
from ..errors import BadInput
from ..images import ImageError
from ..model.alpamayo import AlpamayoModel
from ..model.flow_matching import make_training_pair
from ..model.prompt.generated_text import trim_tokens
from ..model.teacher_forcing import Batch, Layout, make_layout
from ..model.text import KVCache
from ..runtime.batch import draw_noise, roll_out
from ..runtime.engine import AlpamayoEngine
from ..runtime.stopwatch import Stopwatch

DRAWS = 4  # noisy actions of each lesson
MIXES = 1  # of all pictures with other histories
HELD_OUT = 8  # every eighth lesson is measured on and never learned
MAX_TOKENS = 128
_SPOKEN = 8  # contexts that speak at a time


@dataclass(frozen=True)
class Lessons:
    """B moments with equal layouts; x (B, D, T, 2): noisy normalised actions at times t (B, D)."""

    batch: Batch
    x: Tensor
    t: Tensor

    def __len__(self) -> int:
        """Count the moments."""
        return len(self.t)

    def take(self, numbers: Sequence[int]) -> Lessons:
        """Return some of the moments."""
        index = torch.tensor(list(numbers))
        return self._map(lambda x: x[index])

    def to(self, device: str | torch.device) -> Lessons:
        """Return the lessons on a device."""
        batch = self.batch
        layout = {name: x.to(device) for name, x in vars(batch.layout).items()}
        moved = self._map(lambda x: x.to(device))
        return replace(moved, batch=replace(moved.batch, layout=Layout(**layout)))

    def to_tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name, as a file holds them."""
        batch = vars(self.batch) | vars(self.batch.layout) | {'x': self.x, 't': self.t}
        return {name: x.contiguous() for name, x in batch.items() if name != 'layout'}

    def _map(self, change: Callable[[Tensor], Tensor]) -> Lessons:
        """Apply a change to every tensor but those of the layout."""
        batch = self.batch
        parts = (batch.images, batch.prompt, batch.rest, batch.first, batch.marker, batch.actions)
        return Lessons(
            Batch(batch.layout, *(change(x) for x in parts)), change(self.x), change(self.t)
        )


def lessons_from_tensors(tensors: Mapping[str, Tensor]) -> Lessons:
    """Return the lessons of `to_tensors`."""
    layout = Layout(**{part.name: tensors[part.name] for part in fields(Layout)})
    parts = {part.name: tensors[part.name] for part in fields(Batch) if part.name != 'layout'}
    return Lessons(Batch(layout, **parts), tensors['x'], tensors['t'])


def mix_pictures(lessons: Lessons, times: int) -> Lessons:
    """Add, so many times, the pictures of one moment to the history and words of another.

    The 16-bit model answers what never happened as well, and its answers to twice as many inputs
    tell more of it. Without them a calibration follows the few drives too closely.
    """
    random = torch.Generator().manual_seed(0)
    orders = [torch.arange(len(lessons))]
    orders += [torch.randperm(len(lessons), generator=random) for _ in range(times)]
    rest = lessons.take(torch.arange(len(lessons)).repeat(len(orders)).tolist())
    images = lessons.batch.images[torch.cat(orders)]
    mixed = replace(rest, batch=replace(rest.batch, images=images))
    return mixed.take(torch.randperm(len(mixed), generator=random).tolist())


@torch.no_grad()
def make_lessons(
    teacher: AlpamayoEngine,
    contexts: Sequence[Context],
    seed: int,
    advance: Callable[[int], object],
) -> Lessons:
    """Let the checkpoint speak and plan at each context; advance is called with their number.

    A context whose reasoning does not end with the marker is left out. The lessons lie on the
    host. Raises BadInput when fewer than HELD_OUT are left, and for pictures of several sizes.
    """
    read = [(context, _read_images(teacher, context)) for context in contexts]
    shown = [(context, images) for context, images in read if images is not None]
    if len(sizes := {tuple(images.shape) for _, images in shown}) > 1:
        text = ', '.join(f'{n} x {h} x {w}' for n, _, h, w in sorted(sizes))
        raise BadInput(f'calibration: pictures of several numbers or sizes ({text}), expected one')
    parts: list[tuple[Tensor, ...]] = []
    for start in range(0, len(shown), _SPOKEN):
        some = shown[start : start + _SPOKEN]
        seeds = [(seed << 20) + number for number in range(start, start + len(some))]
        images = torch.stack([images for _, images in some])
        parts += _speak(teacher, [context for context, _ in some], images, seeds)
        advance(len(some))
    if len(parts) < HELD_OUT:
        raise BadInput(
            f'calibration: {len(contexts)} moments, of which {len(shown)} have pictures that can '
            f'be decoded and {len(parts)} a reasoning that ends with the trajectory marker; '
            f'expected {HELD_OUT} or more'
        )
    return _stack(teacher, parts)


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
    teacher: AlpamayoEngine, contexts: Sequence[Context], images: Tensor, seeds: Sequence[int]
) -> list[tuple[Tensor, ...]]:
    """Images, prompt, words, actions, x and t of each context that ends with the marker."""
    model, processor, device = teacher.model, teacher.processor, teacher.device
    options = SamplingOptions(max_tokens=MAX_TOKENS)
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
    found: list[tuple[Tensor, ...]] = []
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


def _stack(teacher: AlpamayoEngine, parts: Sequence[tuple[Tensor, ...]]) -> Lessons:
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
