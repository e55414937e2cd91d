"""Batches from drives: painted, tokenised as the inference path does it, shuffled.

Everything is a function of the settings and the step, so a run can begin anywhere. A chunk of
drives is painted once and stays on the device for a while; batches are drawn from all that is
there. Knows no losses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
import torch.nn.functional as F
from torch.utils.data import DataLoader

from alpamayo_ros.model.config import load_config
from alpamayo_ros.model.processor import Processor
from alpamayo_ros.model.tokens import special
from alpamayo_ros.world.camera import CAMERAS
from alpamayo_ros.world.reasons import REASONS
from alpamayo_ros.world.rendering.paint_triton import covered, painted
from alpamayo_ros.world.rendering.raster import RasterScene, render
from alpamayo_ros.world.rendering.raster_compiled import render_on_cpu
from alpamayo_ros.world.samples import FRAMES

from .drives import Drives, TrainingDrive
from .forward import Batch, Grid, Layout, layout_of
from .settings import TrainingSettings

_PAINT, _SHUFFLE, _CAMERAS = range(3)  # what random numbers are for
_TOGETHER = 8  # drives that are painted in one go


def generator(device: str | torch.device, *key: int) -> torch.Generator:
    """Random numbers that are a function of the key."""
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(seed >> 1)


class Words:
    """Ids of prompts and reasonings of one checkpoint folder; all reasonings have one length.

    cameras: the sets of model indices that prompts are made for.
    """

    def __init__(
        self, folder: Path, settings: TrainingSettings, cameras: Iterable[tuple[int, ...]]
    ) -> None:
        self.processor = Processor(load_config(folder), folder)
        texts = [wording for reason in REASONS.values() for wording in reason.wordings]
        said = {text: self._ids(text) for text in texts}
        length = 1 + max(map(len, said.values()))  # with the token that is discarded
        pad = self.processor.ids.pad
        self._said = {text: (ids + [pad] * length)[:length] for text, ids in said.items()}
        self._marker = {text: len(ids) - 1 for text, ids in said.items()}
        patch = self.processor.config.vision.patch_size
        grid = settings.image['height'] // patch, settings.image['width'] // patch
        self._templates = {chosen: self._template(chosen, grid) for chosen in cameras}
        self.layouts = {
            chosen: layout_of(self.processor.config, template, grid, length)
            for chosen, template in self._templates.items()
        }

    def prompts(self, cameras: tuple[int, ...], xyz: Tensor, rot: Tensor) -> Tensor:
        """Ids (B, P) of scenes with these cameras and histories (B, 16, 3), (B, 16, 3, 3)."""
        ids = self._templates[cameras].expand(len(xyz), -1)
        return self.processor.write_history(ids, xyz, rot)

    def reasonings(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids (B, N) up to the trajectory marker, padded, and the index of the marker (B)."""
        ids = torch.tensor([self._said[text] for text in texts])
        return ids, torch.tensor([self._marker[text] for text in texts])

    def _ids(self, text: str) -> list[int]:
        said = text + special('cot_end') + special('traj_future_start')
        return list(self.processor.tokenizer(said, add_special_tokens=False)['input_ids'])

    def _template(self, cameras: tuple[int, ...], grid: Grid) -> Tensor:
        text = self.processor.prompt_text(cameras, FRAMES)
        return self.processor.prompt_ids(text, [grid] * len(cameras) * FRAMES)[0]


@dataclass(frozen=True)
class Samples:
    """S samples on a device: pictures (S, C, F, 3, H, W) uint8, actions (S, T, 2).

    prompts: ids (S, P) for each set of cameras. reasoning (S, N) and marker (S): as in Batch.
    """

    pictures: Tensor
    actions: Tensor
    prompts: Mapping[tuple[int, ...], Tensor]
    reasoning: Tensor
    marker: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> Samples:
        """The same with every tensor changed."""
        return Samples(
            change(self.pictures),
            change(self.actions),
            {cameras: change(ids) for cameras, ids in self.prompts.items()},
            change(self.reasoning),
            change(self.marker),
        )

    def tensors(self) -> list[Tensor]:
        """All tensors, in a fixed order."""
        return [self.pictures, self.actions, *self.prompts.values(), self.reasoning, self.marker]


class Batches:
    """Batches of a run from any step on."""

    def __init__(
        self, words: Words, drives: Drives, settings: TrainingSettings, device: str, workers: int
    ) -> None:
        self._words, self._drives, self._settings = words, drives, settings
        self._device, self._workers = device, workers
        self._layouts = {
            cameras: Layout(*(part.to(device) for part in vars(layout).values()))
            for cameras, layout in words.layouts.items()
        }
        # what is painted meanwhile must not wait behind the steps that are on their way
        self._beside = torch.cuda.Stream() if self._on_gpu else None

    def since(self, step: int) -> Iterator[Batch]:
        """The batch of each step from `step` to the last."""
        settings = self._settings
        per_chunk, count = settings.chunk_steps, settings.data['drives_per_chunk']
        kept = settings.data['kept_chunks']
        chunk, end = step // per_chunk, -(-settings.steps // per_chunk)
        first, start = max(chunk - kept + 1, 0), settings.data['first_drive']
        loader = DataLoader(
            self._drives,
            batch_size=None,
            sampler=range(start + first * count, start + end * count),
            num_workers=self._workers,
            prefetch_factor=4 if self._workers else None,
        )
        arriving = iter(loader)

        def prepared(number: int) -> Samples:
            return self._prepared([next(arriving) for _ in range(count)], number)

        kept_samples: Samples | None = None
        with ThreadPoolExecutor(1) as ahead:  # while a chunk is learned from, the next is painted
            coming = ahead.submit(prepared, first)
            for number in range(first, end):
                newest = coming.result()
                if number + 1 < end:
                    coming = ahead.submit(prepared, number + 1)
                kept_samples = _put(kept_samples, newest, number % kept, kept)
                there = min(number + 1, kept) * len(newest.marker)
                for at in range(max(number * per_chunk, step), (number + 1) * per_chunk):
                    yield self._batch(kept_samples, there, at)

    @property
    def _on_gpu(self) -> bool:
        return torch.device(self._device).type == 'cuda'

    def _prepared(self, drives: list[TrainingDrive], chunk: int) -> Samples:
        random = generator(self._device, self._settings.seed, _PAINT, chunk)
        history = [
            torch.cat([getattr(drive, name) for drive in drives])
            for name in ('history_xyz', 'history_rot')
        ]
        reasoning = self._words.reasonings([text for drive in drives for text in drive.texts])
        aside: AbstractContextManager[object] = nullcontext()
        if self._beside is not None:
            aside = torch.cuda.stream(self._beside)
        with aside:
            painted_so = [
                pictures(drives[start : start + _TOGETHER], self._device, random)
                for start in range(0, len(drives), _TOGETHER)
            ]
            samples = Samples(
                torch.cat(painted_so),
                torch.cat([drive.actions for drive in drives]),
                {x: self._words.prompts(x, *history) for x in self._layouts},
                *reasoning,
            ).map(lambda tensor: tensor.to(self._device))
            if self._beside is not None:
                self._beside.synchronize()
        return samples

    def _batch(self, samples: Samples, there: int, step: int) -> Batch:
        """The batch of a step, from the first `there` samples."""
        settings = self._settings
        random = generator('cpu', settings.seed, _SHUFFLE, step)
        rows = torch.randint(there, (settings.batch,), generator=random)
        if self._on_gpu:  # without waiting for what the device still has to do
            rows = rows.pin_memory().to(self._device, non_blocking=True)
        cameras = self._cameras(step)
        pictures = samples.pictures.index_select(0, rows)
        if len(cameras) < len(CAMERAS):
            places = [i for i, camera in enumerate(CAMERAS) if camera.index in cameras]
            pictures = torch.stack([pictures[:, place] for place in places], 1)
        return Batch(
            layout=self._layouts[cameras],
            images=pictures.flatten(1, 2),  # (B, C, F, 3, H, W) -> (B, C * F, 3, H, W)
            prompt=samples.prompts[cameras][rows],
            reasoning=samples.reasoning[rows],
            marker=samples.marker[rows],
            actions=samples.actions[rows],
        )

    def _cameras(self, step: int) -> tuple[int, ...]:
        sets = self._settings.cameras
        shares = torch.tensor([float(s['share']) for s in sets])
        random = generator('cpu', self._settings.seed, _CAMERAS, step)
        return camera_sets(self._settings)[int(torch.multinomial(shares, 1, generator=random))]


def camera_sets(settings: TrainingSettings) -> list[tuple[int, ...]]:
    """Model indices of the cameras that batches may have, as the settings list them."""
    return [tuple(chosen['indices']) for chosen in settings.cameras]


def _put(kept: Samples | None, newest: Samples, place: int, places: int) -> Samples:
    """The samples that are kept, with the newest chunk at one of their places."""
    if kept is None:
        kept = newest.map(lambda x: x.new_empty((places * len(x), *x.shape[1:])))
    count = len(newest.marker)
    for own, tensor in zip(kept.tensors(), newest.tensors(), strict=True):
        own[place * count : (place + 1) * count].copy_(tensor)
        if tensor.is_cuda:  # it was made on another stream, which must not have its memory yet
            tensor.record_stream(torch.cuda.current_stream())
    return kept


def pictures(drives: Sequence[TrainingDrive], device: str, random: torch.Generator) -> Tensor:
    """Pictures (B, C, F, 3, H, W) uint8 of drives, painted by kernels where there is a GPU."""
    scenes = joined([drive.scenes for drive in drives])
    shape = (*scenes.to_optical.shape[:3], scenes.rows.shape[1], scenes.columns.shape[1])
    noise = torch.randn(shape, generator=random, device=device)
    if torch.device(device).type == 'cpu':
        return torch.from_numpy(render_on_cpu(scenes.map(Tensor.numpy), noise.numpy()))
    there = scenes.map(lambda array: array.to(device, non_blocking=True))
    return render(torch, there, noise, covered, painted)


def joined(scenes: Sequence[RasterScene]) -> RasterScene:
    """Scenes with leading axes as one; missing quadrilaterals are zero and never seen."""
    parts = []
    for field in fields(RasterScene):
        arrays = [getattr(scene, field.name) for scene in scenes]
        if field.name in ('faces', 'colours', 'verge', 'asphalt', 'white', 'dark'):
            most = max(array.shape[2] for array in arrays)
            behind = (0, 0) * (arrays[0].dim() - 3)
            arrays = [F.pad(array, (*behind, 0, most - array.shape[2])) for array in arrays]
        parts.append(torch.cat(arrays))
    return RasterScene(*parts)
