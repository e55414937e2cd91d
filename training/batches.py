"""Batches from drives: painted, tokenised as the inference path does it, shuffled.

Everything is a function of the settings and the step, so a run can begin anywhere. A chunk of
drives is painted once, kept on the device and gone through a few times. Knows no losses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from alpamayo_ros.model.config import load_config
from alpamayo_ros.model.processor import Processor
from alpamayo_ros.model.tokens import special
from alpamayo_ros.world.camera import CAMERAS
from alpamayo_ros.world.raster import render
from alpamayo_ros.world.reasons import REASONS
from alpamayo_ros.world.samples import FRAMES

from .drives import Drive, Drives
from .forward import Batch
from .settings import Settings

_PAINT, _SHUFFLE, _CAMERAS = range(3)  # what random numbers are for


def generator(device: str | torch.device, *key: int) -> torch.Generator:
    """Random numbers that are a function of the key."""
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(seed >> 1)


class Words:
    """Ids of prompts and reasonings of one checkpoint folder; all reasonings have one length."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.processor = Processor(load_config(folder), folder)
        patch = self.processor.config.vision.patch_size
        self._grid = settings.image['height'] // patch, settings.image['width'] // patch
        texts = [wording for reason in REASONS.values() for wording in reason.wordings]
        self._length = 1 + max(len(self._ids(text)) for text in texts)  # and the discarded token

    def prompts(self, cameras: Sequence[int], xyz: Tensor, rot: Tensor) -> Tensor:
        """Ids (B, P) of scenes with these cameras and histories (B, 16, 3), (B, 16, 3, 3)."""
        grids = [self._grid] * len(cameras) * FRAMES
        text = self.processor.prompt_text(cameras, FRAMES)
        ids = self.processor.prompt_ids(text, grids)
        return self.processor.write_history(ids.expand(len(xyz), -1), xyz, rot)

    def reasonings(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids (B, N) up to the trajectory marker, padded, and the index of the marker (B)."""
        rows = [self._ids(text) for text in texts]
        pad = self.processor.ids.pad
        ids = torch.tensor([row + [pad] * (self._length - len(row)) for row in rows])
        return ids, torch.tensor([len(row) - 1 for row in rows])

    def _ids(self, text: str) -> list[int]:
        said = text + special('cot_end') + special('traj_future_start')
        return list(self.processor.tokenizer(said, add_special_tokens=False)['input_ids'])


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
        for chunk in range(first, last):
            samples = self._paint([next(arriving) for _ in range(count)], chunk)
            for at in range(max(chunk * per_chunk, step), (chunk + 1) * per_chunk):
                yield self._batch(samples, at)

    def _paint(self, drives: list[Drive], chunk: int) -> Samples:
        random = generator(self._device, self._settings.seed, _PAINT, chunk)
        return Samples(
            torch.cat([pictures(drive, self._device, random) for drive in drives]),
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
        return batch_of(self._words, samples, rows, cameras, self._device)

    def _cameras(self, step: int) -> tuple[int, ...]:
        sets = self._settings.cameras
        shares = torch.tensor([float(s['share']) for s in sets])
        random = generator('cpu', self._settings.seed, _CAMERAS, step)
        return tuple(sets[int(torch.multinomial(shares, 1, generator=random))]['indices'])


def batch_of(
    words: Words, samples: Samples, rows: Tensor, cameras: Sequence[int], device: str
) -> Batch:
    """Some of the samples, seen by the cameras of these model indices."""
    places = torch.tensor([i for i, camera in enumerate(CAMERAS) if camera.index in cameras])
    chosen = samples.pictures[rows.to(device)][:, places.to(device)]
    prompt = words.prompts(cameras, samples.history_xyz[rows], samples.history_rot[rows])
    reasoning, marker = words.reasonings([samples.texts[row] for row in rows.tolist()])
    return Batch(
        chosen.flatten(1, 2),  # (B, C, F, 3, H, W) -> (B, C * F, 3, H, W)
        *(part.to(device) for part in (prompt, reasoning, marker, samples.actions[rows])),
    )


def pictures(drive: Drive, device: str, random: torch.Generator) -> Tensor:
    """Pictures (B, C, F, 3, H, W) uint8 of a drive, painted by kernels where there is a GPU."""
    scenes = drive.scenes
    shape = (*scenes.to_optical.shape[:3], scenes.rows.shape[1], scenes.columns.shape[1])
    noise = torch.randn(shape, generator=random, device=device)
    if torch.device(device).type == 'cpu':
        return torch.from_numpy(render(np, scenes.map(Tensor.numpy), noise.numpy()))
    from .paint import covered, painted  # needs Triton

    there = scenes.map(lambda array: array.to(device, non_blocking=True))
    return render(torch, there, noise, covered, painted)
