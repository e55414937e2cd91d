"""Comparison with reference tensors: images, prompts and all cases of a complete model.

Cases are all model/case_*.npz; their parameters stand in meta.json under 'meta'. The cases
themselves are compared in golden_rollout.py, answers and bf16 runs in golden_variants.py. See
golden.py for the rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import BadInput
from ..model.alpamayo import AlpamayoModel
from ..model.config import parse_config
from ..model.processor import Processor
from ..model.prompt.batching import remove_route
from ..runtime.load import load_model
from .comparison import (
    ComparisonRow,
    compare,
    compare_exactly,
    read_fields,
    read_table,
    tensors,
)
from .golden_case import GoldenScene, read_case
from .golden_rollout import compare_case
from .golden_variants import compare_answer, compare_rounded


@dataclass(frozen=True)
class GoldenFolder:
    """What all parts of a model folder share."""

    home: Path
    model: AlpamayoModel
    processor: Processor
    meta: Mapping[str, Any]

    def read_scene(self, name: str) -> GoldenScene:
        """Inputs of a file such as inputs.npz, with their vision features."""
        fields = read_fields(self.home / name)
        grids = [(int(h), int(w)) for _, h, w in fields['image_grid_thw']]
        (patches,) = tensors(fields, 'pixel_values')
        vision = self.model.encode_images(
            patches.to(self.model.action_space.accel_mean.device), grids
        )
        return GoldenScene(self.model, self.processor, fields, vision, grids)


@torch.inference_mode()
def compare_model(folder: Path, device: str = 'cpu') -> Iterator[ComparisonRow]:
    """Every row of the folder's model/."""
    home = folder / 'model'
    needed = ('config.json', 'inputs.npz', 'meta.json', 'prompt.txt')
    absent = [name for name in needed if not (home / name).is_file()]
    names = sorted(path.name for path in home.glob('case_*.npz'))
    if absent or not names:
        what = ', '.join(absent) or 'case_*.npz'
        yield ComparisonRow('model', f'model/{what}', np.inf, 0.0, 'expected file is absent')
        return
    try:
        model = load_model(home, device)
        processor = Processor(model.config, home)
    except BadInput as error:
        yield ComparisonRow('model', 'strict load', np.inf, 0.0, str(error))
        return
    yield compare_exactly('model', 'strict load', True)
    golden = GoldenFolder(home, model, processor, read_table(home / 'meta.json'))
    scenes: dict[str, GoldenScene] = {}
    for path in sorted(home.glob('inputs*.npz')):
        yield from _compare_processing(golden, path)
        scenes[path.name] = golden.read_scene(path.name)
    yield from _compare_prompts(golden)
    for name in names:
        label = name.removeprefix('case_').removesuffix('.npz')
        parameters = golden.meta['meta'].get(label)
        if parameters is None:
            note = f'meta.json has no parameters of {label}'
            yield ComparisonRow(label, name, np.inf, 0.0, note)
            continue
        try:
            scene = scenes[parameters.get('inputs', 'inputs.npz')]
            yield from compare_case(scene, read_case(label, home / name, parameters, device))
        except KeyError as error:
            yield ComparisonRow(label, name, np.inf, 0.0, f'the file lacks the input {error}')
    yield from compare_answer(home, golden.meta, scenes)
    yield from compare_rounded(home, golden.meta, scenes)


def _compare_processing(golden: GoldenFolder, path: Path) -> Iterator[ComparisonRow]:
    """Images, prompt text and ids of one file of inputs."""
    processor, fields = golden.processor, read_fields(path)
    images, xyz, rot = tensors(fields, 'images', 'ego_history_xyz', 'ego_history_rot')
    count, frames = images.shape[:2]
    usual = golden.model.config.version.cameras
    cameras = usual if count == len(usual) else tuple(range(count))
    if 'camera_indices' in fields:
        cameras = tuple(int(index) for index in fields['camera_indices'])
    suffix = path.stem.removeprefix('inputs').replace('_', ', ')
    text = processor.prompt_text(cameras, frames)
    if path.name == 'inputs.npz':
        wanted = (golden.home / 'prompt.txt').read_text(encoding='utf-8')
        yield compare_exactly('prompt', 'text', text == wanted, 'the text differs')
    inputs = processor(list(images.flatten(0, 1)), cameras, xyz[0, 0], rot[0, 0])
    grids = np.array([(1, h, w) for h, w in inputs.grids])
    patches = inputs.patches
    yield compare('preprocessing', f'patches{suffix}', patches, fields, 'pixel_values', 1e-5)
    yield compare('preprocessing', f'grids{suffix}', grids, fields, 'image_grid_thw', 0)
    ids = processor.tokenize_prompt(text, inputs.grids)
    yield compare('prompt', f'ids{suffix}', ids, fields, 'input_ids', 0)
    fused = inputs.input_ids
    yield compare('prompt', f'ids with history{suffix}', fused, fields, 'fused_input_ids', 0)


def _compare_prompts(golden: GoldenFolder) -> Iterator[ComparisonRow]:
    """Prompts with other cameras, routes and questions; labels; the span of the route."""
    if not (golden.home / 'prompts.json').is_file():
        return
    table = read_table(golden.home / 'prompts.json')
    wanted = read_fields(golden.home / 'prompts.npz')
    bare = Processor(
        replace(golden.model.config, include_camera_ids=False, include_frame_nums=False),
        golden.home,
    )
    ids: dict[str, Tensor] = {}
    for row in table:
        name, cameras = row['name'], row['cameras']
        processor = golden.processor if cameras else bare
        cameras = cameras or [0]
        frames = row['images'] // len(cameras)
        if row['question'] is not None:
            text = processor.question_text(cameras, frames, row['question'])
        else:
            text = processor.prompt_text(cameras, frames, row['nav_text'])
        _, h, w = row['image_grid_thw']
        ids[name] = processor.tokenize_prompt(text, [(h, w)] * row['images'])
        same = text == row['text']
        yield compare_exactly('prompts', f'{name}, text', same, 'the text differs')
        yield compare('prompts', f'{name}, ids', ids[name].view(-1), wanted, name, 0)
    yield from _compare_labels(golden)
    yield from _compare_routes(golden, ids)


def _compare_labels(golden: GoldenFolder) -> Iterator[ComparisonRow]:
    """A config without the keys of the labels must give the same prompts."""
    path = golden.home / 'config_labels_absent.json'
    if path.is_file():
        silent = parse_config(read_table(path), golden.home, str(path))
        have = silent.include_camera_ids, silent.include_frame_nums
        config = golden.model.config
        same = have == (config.include_camera_ids, config.include_frame_nums)
        yield compare_exactly('prompts', 'labels of a silent config', same, f'{have}')


def _compare_routes(
    golden: GoldenFolder, prompts: Mapping[str, Tensor]
) -> Iterator[ComparisonRow]:
    """Where the route stands in each prompt, and the prompt that remains without it."""
    path = golden.home / 'nav.json'
    if not path.is_file():
        return
    table, ids = read_table(path), golden.processor.ids
    for name, span in table['route_token_span'].items():
        row = prompts[name][0]
        found = [int(i) for i in ((row == ids.route_start) | (row == ids.route_end)).nonzero()]
        same = found == (span or [])
        yield compare_exactly('routes', f'{name}, span', same, f'{found}')
    for name, other in table['removed_equals_prompt'].items():
        shorter = remove_route(prompts[name], ids)
        if other is not None:
            same = torch.equal(shorter, prompts[other])
            yield compare_exactly('routes', f'{name} without its route', same, 'ids differ')
