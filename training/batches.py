"""Training batches: drives are painted and tokenized as for inference, then samples are drawn.

A batch is a function of the settings and the step, so a run can resume at any step. A chunk of
drives is painted once and stays on the device for several chunks; batches are drawn from all
chunks on the device. Knows no losses.
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

from alpamayo_ros.data_types import FRAMES_PER_CAMERA
from alpamayo_ros.model.config import load_config
from alpamayo_ros.model.processor import Processor
from alpamayo_ros.model.prompt.tokens import format_special
from alpamayo_ros.model.teacher_forcing import Batch, Grid, Layout, make_layout
from alpamayo_ros.world.camera import CAMERAS
from alpamayo_ros.world.reasons import REASONS
from alpamayo_ros.world.rendering.paint_triton import compute_cover, paint_faces
from alpamayo_ros.world.rendering.raster import RasterScene, render
from alpamayo_ros.world.rendering.raster_compiled import render_on_cpu

from .drives import Drives, TrainingDrive
from .settings import TrainingSettings

_PAINT, _SHUFFLE, _CAMERAS = range(3)  # keys of the random generators
_PAINTED_DRIVES = 8  # drives that are painted at once


def make_generator(device: str | torch.device, *key: int) -> torch.Generator:
    """Return a generator on `device` whose seed is a hash of the key."""
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(seed >> 1)


class TokenSequences:
    """Token ids of prompts and reasonings for the checkpoint in `folder`.

    cameras: the sets of model indices to make prompts for. Reasonings are padded to one length.
    """

    def __init__(
        self, folder: Path, settings: TrainingSettings, cameras: Iterable[tuple[int, ...]]
    ) -> None:
        self.processor = Processor(load_config(folder), folder)
        texts = [wording for reason in REASONS.values() for wording in reason.wordings]
        encoded = {text: self._encode(text) for text in texts}
        length = 1 + max(map(len, encoded.values()))  # the last token's logits are not used
        pad = self.processor.ids.pad
        self._reasonings = {t: (ids + [pad] * length)[:length] for t, ids in encoded.items()}
        self._markers = {text: len(ids) - 1 for text, ids in encoded.items()}
        patch = self.processor.config.vision.patch_size
        grid = settings.image['height'] // patch, settings.image['width'] // patch
        self._templates = {chosen: self._make_template(chosen, grid) for chosen in cameras}
        self.layouts = {
            chosen: make_layout(self.processor.config, template, grid, length)
            for chosen, template in self._templates.items()
        }

    def write_prompts(self, cameras: tuple[int, ...], xyz: Tensor, rot: Tensor) -> Tensor:
        """Return ids (B, P); history xyz (B, 16, 3) m and rot (B, 16, 3, 3) in the t0 frame."""
        ids = self._templates[cameras].expand(len(xyz), -1)
        return self.processor.write_history(ids, xyz, rot)

    def encode_reasonings(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return ids (B, N) up to the trajectory marker, padded, and the marker's index (B)."""
        ids = torch.tensor([self._reasonings[text] for text in texts])
        return ids, torch.tensor([self._markers[text] for text in texts])

    def _encode(self, text: str) -> list[int]:
        ended = text + format_special('cot_end') + format_special('traj_future_start')
        return list(self.processor.tokenizer(ended, add_special_tokens=False)['input_ids'])

    def _make_template(self, cameras: tuple[int, ...], grid: Grid) -> Tensor:
        text = self.processor.prompt_text(cameras, FRAMES_PER_CAMERA)
        return self.processor.tokenize_prompt(text, [grid] * len(cameras) * FRAMES_PER_CAMERA)[0]


@dataclass(frozen=True)
class TrainingSamples:
    """S samples on a device: pictures (S, C, F, 3, H, W) uint8, actions (S, T, 2).

    prompts: ids (S, P) for each set of cameras. reasoning (S, N) and marker (S): as in Batch.
    """

    pictures: Tensor
    actions: Tensor
    prompts: Mapping[tuple[int, ...], Tensor]
    reasoning: Tensor
    marker: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> TrainingSamples:
        """Return a copy in which `change` was applied to every tensor."""
        return TrainingSamples(
            change(self.pictures),
            change(self.actions),
            {cameras: change(ids) for cameras, ids in self.prompts.items()},
            change(self.reasoning),
            change(self.marker),
        )

    def list_tensors(self) -> list[Tensor]:
        """Return all tensors in a fixed order."""
        return [self.pictures, self.actions, *self.prompts.values(), self.reasoning, self.marker]


class Batches:
    """Makes the batches of a run, from any step on."""

    def __init__(
        self,
        words: TokenSequences,
        drives: Drives,
        settings: TrainingSettings,
        device: str,
        workers: int,
    ) -> None:
        self._words, self._drives, self._settings = words, drives, settings
        self._device, self._workers = device, workers
        self._layouts = {
            cameras: Layout(*(part.to(device) for part in vars(layout).values()))
            for cameras, layout in words.layouts.items()
        }
        # painting has a stream of its own: it must not wait for the training steps in the queue
        self._paint_stream = torch.cuda.Stream() if self._on_gpu else None

    def iterate_from(self, step: int) -> Iterator[Batch]:
        """Yield the batch of each step from `step` to the last one."""
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
        drives = iter(loader)

        def paint(number: int) -> TrainingSamples:
            return self._paint_chunk([next(drives) for _ in range(count)], number)

        samples: TrainingSamples | None = None
        with ThreadPoolExecutor(1) as painter:  # paints the next chunk during training steps
            next_chunk = painter.submit(paint, first)
            for number in range(first, end):
                newest = next_chunk.result()
                if number + 1 < end:
                    next_chunk = painter.submit(paint, number + 1)
                samples = _put_chunk(samples, newest, number % kept, kept)
                filled = min(number + 1, kept) * len(newest.marker)
                for at in range(max(number * per_chunk, step), (number + 1) * per_chunk):
                    yield self._draw_batch(samples, filled, at)

    @property
    def _on_gpu(self) -> bool:
        return torch.device(self._device).type == 'cuda'

    def _paint_chunk(self, drives: list[TrainingDrive], chunk: int) -> TrainingSamples:
        random = make_generator(self._device, self._settings.seed, _PAINT, chunk)
        history = [
            torch.cat([getattr(drive, name) for drive in drives])
            for name in ('history_xyz', 'history_rot')
        ]
        reasoning = self._words.encode_reasonings(
            [text for drive in drives for text in drive.texts]
        )
        stream: AbstractContextManager[object] = nullcontext()
        if self._paint_stream is not None:
            stream = torch.cuda.stream(self._paint_stream)
        with stream:
            pictures = [
                paint_pictures(drives[start : start + _PAINTED_DRIVES], self._device, random)
                for start in range(0, len(drives), _PAINTED_DRIVES)
            ]
            samples = TrainingSamples(
                torch.cat(pictures),
                torch.cat([drive.actions for drive in drives]),
                {x: self._words.write_prompts(x, *history) for x in self._layouts},
                *reasoning,
            ).map(lambda tensor: tensor.to(self._device))
            if self._paint_stream is not None:
                self._paint_stream.synchronize()
        return samples

    def _draw_batch(self, samples: TrainingSamples, filled: int, step: int) -> Batch:
        """Return the batch of a step, drawn from the first `filled` samples."""
        settings = self._settings
        random = make_generator('cpu', settings.seed, _SHUFFLE, step)
        rows = torch.randint(filled, (settings.batch,), generator=random)
        if self._on_gpu:  # pinned: the host does not wait for the steps in the queue
            rows = rows.pin_memory().to(self._device, non_blocking=True)
        cameras = self._draw_cameras(step)
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

    def _draw_cameras(self, step: int) -> tuple[int, ...]:
        sets = self._settings.cameras
        shares = torch.tensor([float(s['share']) for s in sets])
        random = make_generator('cpu', self._settings.seed, _CAMERAS, step)
        return list_camera_sets(self._settings)[
            int(torch.multinomial(shares, 1, generator=random))
        ]


def list_camera_sets(settings: TrainingSettings) -> list[tuple[int, ...]]:
    """Return the model indices of each set of cameras in the settings."""
    return [tuple(chosen['indices']) for chosen in settings.cameras]


def _put_chunk(
    kept: TrainingSamples | None, newest: TrainingSamples, place: int, places: int
) -> TrainingSamples:
    """Return the kept samples with the newest chunk copied to `place` of `places`."""
    if kept is None:
        kept = newest.map(lambda x: x.new_empty((places * len(x), *x.shape[1:])))
    count = len(newest.marker)
    for target, tensor in zip(kept.list_tensors(), newest.list_tensors(), strict=True):
        target[place * count : (place + 1) * count].copy_(tensor)
        if tensor.is_cuda:  # made on the paint stream, which must not reuse its memory yet
            tensor.record_stream(torch.cuda.current_stream())
    return kept


def paint_pictures(
    drives: Sequence[TrainingDrive], device: str, random: torch.Generator
) -> Tensor:
    """Return pictures (B, C, F, 3, H, W) uint8 of drives; kernels paint them on a GPU."""
    scenes = join_scenes([drive.scenes for drive in drives])
    shape = (*scenes.to_optical.shape[:3], scenes.rows.shape[1], scenes.columns.shape[1])
    noise = torch.randn(shape, generator=random, device=device)
    if torch.device(device).type == 'cpu':
        return torch.from_numpy(render_on_cpu(scenes.map(Tensor.numpy), noise.numpy()))
    on_device = scenes.map(lambda array: array.to(device, non_blocking=True))
    return render(torch, on_device, noise, compute_cover, paint_faces)


def join_scenes(scenes: Sequence[RasterScene]) -> RasterScene:
    """Concatenate scenes along their first axis; padding quadrilaterals are zero and invisible."""
    parts = []
    for field in fields(RasterScene):
        arrays = [getattr(scene, field.name) for scene in scenes]
        if field.name in ('faces', 'colours', 'verge', 'asphalt', 'white', 'dark'):
            most = max(array.shape[2] for array in arrays)
            behind = (0, 0) * (arrays[0].dim() - 3)
            arrays = [F.pad(array, (*behind, 0, most - array.shape[2])) for array in arrays]
        parts.append(torch.cat(arrays))
    return RasterScene(*parts)
