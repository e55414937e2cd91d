"""Batches from drives: painted, tokenised as the inference path does it, shuffled.

Everything is a function of the settings and the step, so a run can begin anywhere. A chunk of
drives is painted once, kept on the device and gone through a few times. Knows no losses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
import torch.nn.functional as F
from torch.utils.data import DataLoader

from alpamayo_ros.kernels.paint import covered, painted
from alpamayo_ros.model.config import load_config
from alpamayo_ros.model.processor import Processor
from alpamayo_ros.model.tokens import special
from alpamayo_ros.world.camera import CAMERAS
from alpamayo_ros.world.raster import Scene, render
from alpamayo_ros.world.reasons import REASONS
from alpamayo_ros.world.samples import FRAMES

from .drives import Drive, Drives
from .forward import Batch, Grid, Layout, layout_of
from .settings import Settings

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
        self, folder: Path, settings: Settings, cameras: Iterable[tuple[int, ...]]
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
    """Samples on a device; pictures (S, C, F, 3, H, W) uint8, the rest on the CPU."""

    pictures: Tensor
    history_xyz: Tensor
    history_rot: Tensor
    actions: Tensor
    texts: tuple[str, ...]


class Batches:
    """Batches of a run from any step on."""

    def __init__(
        self, words: Words, drives: Drives, settings: Settings, device: str, workers: int
    ) -> None:
        self._words, self._drives, self._settings = words, drives, settings
        self._device, self._workers = device, workers
        self._layouts = {
            cameras: Layout(*(part.to(device) for part in vars(layout).values()))
            for cameras, layout in words.layouts.items()
        }

    def since(self, step: int) -> Iterator[Batch]:
        """The batch of each step from `step` to the last."""
        settings = self._settings
        per_chunk, count = settings.chunk_steps, settings.data['drives_per_chunk']
        first, last = step // per_chunk, -(-settings.steps // per_chunk)
        loader = DataLoader(
            self._drives,
            batch_size=None,
            sampler=range(first * count, last * count),
            num_workers=self._workers,
            prefetch_factor=4 if self._workers else None,
        )
        arriving = iter(loader)

        def prepared(chunk: int) -> Samples:
            return self._paint([next(arriving) for _ in range(count)], chunk)

        with ThreadPoolExecutor(1) as ahead:  # while a chunk is learned from, the next is painted
            coming = ahead.submit(prepared, first)
            for chunk in range(first, last):
                samples = coming.result()
                if chunk + 1 < last:
                    coming = ahead.submit(prepared, chunk + 1)
                for at in range(max(chunk * per_chunk, step), (chunk + 1) * per_chunk):
                    yield self._batch(samples, at)

    def _paint(self, drives: list[Drive], chunk: int) -> Samples:
        random = generator(self._device, self._settings.seed, _PAINT, chunk)
        return Samples(
            torch.cat(
                [
                    pictures(drives[start : start + _TOGETHER], self._device, random)
                    for start in range(0, len(drives), _TOGETHER)
                ]
            ),
            torch.cat([drive.history_xyz for drive in drives]),
            torch.cat([drive.history_rot for drive in drives]),
            torch.cat([drive.actions for drive in drives]),
            tuple(text for drive in drives for text in drive.texts),
        )

    def _batch(self, samples: Samples, step: int) -> Batch:
        settings = self._settings
        size, count = settings.batch, len(samples.texts)
        in_pass = count // size
        turn, place = divmod(step, in_pass)
        shuffle = generator('cpu', settings.seed, _SHUFFLE, turn)
        rows = torch.randperm(count, generator=shuffle)[place * size : (place + 1) * size]
        cameras = self._cameras(step)
        places = [i for i, camera in enumerate(CAMERAS) if camera.index in cameras]
        histories = samples.history_xyz[rows], samples.history_rot[rows]
        texts = [samples.texts[row] for row in rows.tolist()]
        places_there = self._there(torch.tensor(places))
        pictures = samples.pictures[self._there(rows).unsqueeze(-1), places_there]
        reasoning, marker = self._words.reasonings(texts)
        return Batch(
            layout=self._layouts[cameras],
            images=pictures.flatten(1, 2),  # (B, C, F, 3, H, W) -> (B, C * F, 3, H, W)
            prompt=self._there(self._words.prompts(cameras, *histories)),
            reasoning=self._there(reasoning),
            marker=self._there(marker),
            actions=self._there(samples.actions[rows]),
        )

    def _there(self, tensor: Tensor) -> Tensor:
        """The tensor on the device, without waiting for what the device still has to do."""
        if torch.device(self._device).type == 'cpu':
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def _cameras(self, step: int) -> tuple[int, ...]:
        sets = self._settings.cameras
        shares = torch.tensor([float(s['share']) for s in sets])
        random = generator('cpu', self._settings.seed, _CAMERAS, step)
        return camera_sets(self._settings)[int(torch.multinomial(shares, 1, generator=random))]


def camera_sets(settings: Settings) -> list[tuple[int, ...]]:
    """Model indices of the cameras that batches may have, as the settings list them."""
    return [tuple(chosen['indices']) for chosen in settings.cameras]


def pictures(drives: Sequence[Drive], device: str, random: torch.Generator) -> Tensor:
    """Pictures (B, C, F, 3, H, W) uint8 of drives, painted by kernels where there is a GPU."""
    scenes = joined([drive.scenes for drive in drives])
    shape = (*scenes.to_optical.shape[:3], scenes.rows.shape[1], scenes.columns.shape[1])
    noise = torch.randn(shape, generator=random, device=device)
    if torch.device(device).type == 'cpu':
        return torch.from_numpy(render(np, scenes.map(Tensor.numpy), noise.numpy()))
    there = scenes.map(lambda array: array.to(device, non_blocking=True))
    return render(torch, there, noise, covered, painted)


def joined(scenes: Sequence[Scene]) -> Scene:
    """Scenes with leading axes as one; missing quadrilaterals are zero and never seen."""
    parts = []
    for field in fields(Scene):
        arrays = [getattr(scene, field.name) for scene in scenes]
        if field.name in ('faces', 'colours', 'verge', 'asphalt', 'white', 'dark'):
            most = max(array.shape[2] for array in arrays)
            behind = (0, 0) * (arrays[0].dim() - 3)
            arrays = [F.pad(array, (*behind, 0, most - array.shape[2])) for array in arrays]
        parts.append(torch.cat(arrays))
    return Scene(*parts)
