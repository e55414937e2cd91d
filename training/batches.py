"""Training batches: drives are painted and tokenized as for inference, then samples are drawn.

A batch is a function of the settings and the step, so a run can resume at any step. A chunk of
drives is painted once and stays on the device for several chunks; batches are drawn from all
chunks on the device. Knows no losses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from alpamayo_ros.data_types import FRAMES_PER_CAMERA, GRID_S
from alpamayo_ros.model.config import load_config
from alpamayo_ros.model.processor import Processor
from alpamayo_ros.model.prompt.tokens import format_special
from alpamayo_ros.model.teacher_forcing import Batch, Grid, Layout, make_layout
from alpamayo_ros.world.camera import CAMERAS
from alpamayo_ros.world.reasons import REASONS

from .drives import Drives, TrainingDrive
from .pictures import lay_textures, paint_pictures
from .routes import LONGEST_ROUTE
from .settings import TrainingSettings

_PAINT, _SHUFFLE, _CAMERAS, _TEXTURES = range(4)  # keys of the random generators
_PAINTED_DRIVES = 8  # drives that are painted at once


def make_generator(device: str | torch.device, *key: int) -> torch.Generator:
    """Return a generator on `device` whose seed is a hash of the key."""
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(seed >> 1)


class TokenSequences:
    """Token ids of prompts and reasonings for the checkpoint in `folder`.

    cameras: the sets of model indices to make prompts for. A prompt ends with the history here;
    route, instruction and reasoning, which differ between samples, are padded to one length.
    """

    def __init__(
        self, folder: Path, settings: TrainingSettings, cameras: Iterable[tuple[int, ...]]
    ) -> None:
        self.processor = Processor(load_config(folder), folder)
        self.has_routes = self.processor.config.version.has_routes
        texts = [wording for reason in REASONS.values() for wording in reason.wordings]
        written = {text: self._encode(text + format_special('cot_end')) for text in texts}
        self._reasonings: dict[str | None, list[int]] = {None: []}
        self._reasonings.update(written)
        self._marker = self._encode(format_special('traj_future_start'))
        self._instructions = {x: self._encode_instruction(x) for x in self._list_forms()}
        self._routes: dict[str | None, list[int]] = {None: []}
        longest = self._encode_route(LONGEST_ROUTE) if self.has_routes else []
        parts = self._instructions.values(), written.values()
        # and the marker; the last token's logits are not used
        self._length = len(longest) + sum(max(map(len, part)) for part in parts) + 1
        patch = self.processor.config.vision.patch_size
        grid = settings.image['height'] // patch, settings.image['width'] // patch
        self._templates = {chosen: self._make_template(chosen, grid) for chosen in cameras}
        self.layouts = {
            chosen: make_layout(self.processor.config, template, grid, self._length)
            for chosen, template in self._templates.items()
        }

    def write_prompts(self, cameras: tuple[int, ...], xyz: Tensor, rot: Tensor) -> Tensor:
        """Return ids (B, P); history xyz (B, 16, 3) m and rot (B, 16, 3, 3) in the t0 frame."""
        ids = self._templates[cameras].expand(len(xyz), -1)
        return self.processor.write_history(ids, xyz, rot)

    def encode_rests(
        self, routes: Sequence[str | None], texts: Sequence[str | None]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return ids (B, N) behind the history, padded; first (B) and marker (B) as in Batch.

        texts: reasonings, None for a prompt that asks for none. A version without routes is
        always asked for a reasoning, and gets no route.
        """
        pad, rows, first, marker = self.processor.ids.pad, [], [], []
        for route, text in zip(routes, texts, strict=True):
            asked = self._encode_route(route) + self._instructions[text is not None]
            ids = asked + self._reasonings[text] + self._marker
            rows.append((ids + [pad] * self._length)[: self._length])
            marker.append(len(ids) - 1)
            # a marker that is given is not learned
            first.append(len(asked) if text is not None else len(ids))
        return torch.tensor(rows), torch.tensor(first), torch.tensor(marker)

    def _list_forms(self) -> tuple[bool, ...]:
        """Whether prompts ask for a reasoning, for each form that the version knows."""
        return (True, False) if self.has_routes else (True,)

    def _encode(self, text: str) -> list[int]:
        return list(self.processor.tokenizer(text, add_special_tokens=False)['input_ids'])

    def _encode_route(self, route: str | None) -> list[int]:
        if route not in self._routes:
            start, end = format_special('route_start'), format_special('route_end')
            self._routes[route] = self._encode(f'{start}{route}{end}')
        return self._routes[route]

    def _encode_instruction(self, with_reasoning: bool) -> list[int]:
        text = self.processor.prompt_text((1,), FRAMES_PER_CAMERA, with_reasoning=with_reasoning)
        return self._encode(text.partition(format_special('traj_history_end'))[2])

    def _make_template(self, cameras: tuple[int, ...], grid: Grid) -> Tensor:
        text = self.processor.prompt_text(cameras, FRAMES_PER_CAMERA)
        head, end, _ = text.partition(format_special('traj_history_end'))
        return self.processor.tokenize_prompt(
            head + end, [grid] * len(cameras) * FRAMES_PER_CAMERA
        )[0]


@dataclass(frozen=True)
class TrainingBatch(Batch):
    """A batch with the speeds (B, T) m/s at which the actions are driven."""

    speeds: Tensor


@dataclass(frozen=True)
class TrainingSamples:
    """S samples on a device: pictures (S, C, F, 3, H, W) uint8, actions (S, T, 2), speeds (S, T).

    prompts: ids (S, P) for each set of cameras. rest (S, N), first and marker (S): as in Batch.
    """

    pictures: Tensor
    actions: Tensor
    speeds: Tensor
    prompts: Mapping[tuple[int, ...], Tensor]
    rest: Tensor
    first: Tensor
    marker: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> TrainingSamples:
        """Return a copy in which `change` was applied to every tensor."""
        return TrainingSamples(
            change(self.pictures),
            change(self.actions),
            change(self.speeds),
            {cameras: change(ids) for cameras, ids in self.prompts.items()},
            change(self.rest),
            change(self.first),
            change(self.marker),
        )

    def list_tensors(self) -> list[Tensor]:
        """Return all tensors in a fixed order."""
        tokens = [*self.prompts.values(), self.rest, self.first, self.marker]
        return [self.pictures, self.actions, self.speeds, *tokens]


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

    def iterate_from(self, step: int) -> Iterator[TrainingBatch]:
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
        rests = self._words.encode_rests(
            [route for drive in drives for route in drive.routes],
            [text for drive in drives for text in drive.texts],
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
                torch.cat([_measure_speeds(drive.future_xyz) for drive in drives]),
                {x: self._words.write_prompts(x, *history) for x in self._layouts},
                *rests,
            ).map(lambda tensor: tensor.to(self._device))
            if self._paint_stream is not None:
                self._paint_stream.synchronize()
        return samples

    def _draw_batch(self, samples: TrainingSamples, filled: int, step: int) -> TrainingBatch:
        """Return the batch of a step, drawn from the first `filled` samples."""
        settings = self._settings
        random = make_generator('cpu', settings.seed, _SHUFFLE, step)
        rows = torch.randint(filled, (settings.batch,), generator=random)
        if self._on_gpu:  # pinned: the host does not wait for the steps in the queue
            rows = rows.pin_memory().to(self._device, non_blocking=True)
        cameras = self._draw_cameras(step)
        pictures = samples.pictures.index_select(0, rows)
        # a sample comes several times, with other textures each time
        random = make_generator(self._device, settings.seed, _TEXTURES, step)
        pictures = lay_textures(pictures, settings.data['textured_share'], random)
        if len(cameras) < len(CAMERAS):
            places = [i for i, camera in enumerate(CAMERAS) if camera.index in cameras]
            pictures = torch.stack([pictures[:, place] for place in places], 1)
        return TrainingBatch(
            layout=self._layouts[cameras],
            images=pictures.flatten(1, 2),  # (B, C, F, 3, H, W) -> (B, C * F, 3, H, W)
            prompt=samples.prompts[cameras][rows],
            rest=samples.rest[rows],
            first=samples.first[rows],
            marker=samples.marker[rows],
            actions=samples.actions[rows],
            speeds=samples.speeds[rows],
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


def _measure_speeds(future_xyz: Tensor) -> Tensor:
    """Return speeds (B, T) m/s up to each waypoint of futures (B, T, 3) m."""
    steps = torch.diff(future_xyz[..., :2], dim=1, prepend=torch.zeros_like(future_xyz[:, :1, :2]))
    return steps.norm(dim=-1) / GRID_S


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
