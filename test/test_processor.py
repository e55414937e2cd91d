"""Prompt ids and texts: golden ids are in test_verify; here other cameras and versions."""

from dataclasses import replace
import json
from pathlib import Path
import re
import shutil

import pytest
import torch

from alpamayo_ros.errors import BadInput
from alpamayo_ros.model.config import load_config
from alpamayo_ros.model.processor import Processor
from alpamayo_ros.model.prompt.generated_text import (
    check_reasoning,
    extract_text,
    extract_unfinished_text,
    trim_tokens,
)
from alpamayo_ros.model.prompt.tokens import list_special_tokens
from alpamayo_ros.model.versions import VERSIONS

MODEL = Path(__file__).parent / 'golden/model'
HISTORY = (torch.zeros(16, 3), torch.eye(3).expand(16, 3, 3))


@pytest.fixture(scope='module')
def processor() -> Processor:
    return Processor(load_config(MODEL), MODEL)


def test_special_tokens_get_the_ids_of_the_release(processor):
    meta = json.loads((MODEL / 'meta.json').read_text())
    for name, want in meta['special_token_ids'].items():
        assert processor.tokenizer.convert_tokens_to_ids(f'<|{name}|>') == want
    assert processor.ids.eos == meta['eos_token_id']
    assert processor.ids.pad == meta['pad_token_id']


def test_history_bins_stand_behind_the_future_bins(processor):
    meta = json.loads((MODEL / 'meta.json').read_text())
    assert processor.ids.history_offset == meta['hist_token_start_idx']
    inputs = processor([torch.zeros(3, 96, 128, dtype=torch.uint8)], [1], *HISTORY)
    # a standing vehicle: every delta is 0, the middle of 1000 bins, half to even
    assert (inputs.input_ids == meta['hist_token_start_idx'] + 500).sum() == 48


def test_first_history_delta_is_the_absolute_oldest_position(processor):
    xyz = torch.zeros(16, 3)
    xyz[:, 0] = torch.arange(-15, 1) * 1.0
    inputs = processor([torch.zeros(3, 96, 128, dtype=torch.uint8)], [1], xyz, HISTORY[1])
    offset = processor.ids.history_offset
    bins = inputs.input_ids[0] - offset
    bins = bins[(bins >= 0) & (bins < 1000)].tolist()
    assert bins[0] == 0  # -15 m saturates at -4 m
    assert bins[3] == 624  # +1 m: (1 + 4) / 8 * 999 = 624.4


def test_a_rig_with_fewer_cameras_has_fewer_images_in_the_prompt(processor):
    one = processor.prompt_text([1], 4)
    assert one.count('<|image_pad|>') == 4
    assert processor.prompt_text([0, 1, 2, 6], 4).count('<|image_pad|>') == 16
    assert 'camera' not in one  # R1 prompts have no camera names


def test_images_of_different_sizes_expand_by_their_own_grids(processor):
    small, wide = (torch.zeros(3, h, w, dtype=torch.uint8) for h, w in ((96, 128), (64, 256)))
    inputs = processor([small, wide], [1], *HISTORY)
    tokens = [h * w // 4 for h, w in inputs.grids]
    assert tokens[0] != tokens[1]
    assert int((inputs.input_ids == processor.ids.image).sum()) == sum(tokens)
    assert inputs.patches.shape[0] == 4 * sum(tokens)


def test_version_1_5_names_cameras_and_frames(processor):
    config = replace(
        processor.config,
        model_type='alpamayo1_5',
        version=VERSIONS['alpamayo1_5'],
        include_camera_ids=True,
        include_frame_nums=True,
    )
    text = Processor(config, MODEL).prompt_text([1, 6], 2)
    image = '<|vision_start|><|image_pad|><|vision_end|>'
    wide, tele = 'Front camera: ', 'Front telephoto camera: '
    want = (
        f'{wide}frame 0 {image}frame 1 {image}{tele}frame 0 {image}frame 1 {image}<|traj_history'
    )
    assert want in text


def test_version_1_5_renames_tokens_and_keeps_their_ids(processor):
    config = replace(processor.config, version=VERSIONS['alpamayo1_5'])
    names = list_special_tokens(config)
    assert names.index('<|_padding_0|>') == names.index('<|traj_history_start|>') - 2
    assert names[17] == '<|image_pad|>'
    assert Processor(config, MODEL).ids == processor.ids


def test_without_special_tokens_only_six_markers_are_added(processor):
    config = replace(processor.config, add_special_tokens=False)
    assert list_special_tokens(config) == [
        '<|traj_history|>',
        '<|traj_future|>',
        '<|traj_history_start|>',
        '<|traj_future_start|>',
        '<|traj_history_end|>',
        '<|traj_future_end|>',
    ]


def test_tokenizer_that_does_not_fit_the_config_is_refused(processor):
    with pytest.raises(BadInput, match=r'config.json has \[534'):
        Processor(replace(processor.config, traj_token_start_idx=534), MODEL)


def test_vlm_that_is_no_folder_is_named(tmp_path, processor):
    config = replace(processor.config, vlm_name_or_path='nowhere')
    with pytest.raises(BadInput, match='nowhere: no such folder'):
        Processor(config, tmp_path)


def explain_missing_vlm(processor, folder):
    """Say in one line why a VLM that only the hub has cannot be used."""
    config = replace(processor.config, vlm_name_or_path='Qwen/Qwen3-VL-8B-Instruct')
    with pytest.raises(BadInput) as error:
        Processor(config, folder)
    assert '\n' not in str(error.value)
    return str(error.value)


def test_unreachable_hub_is_explained_in_one_line(tmp_path, processor):
    text = explain_missing_vlm(processor, tmp_path)
    assert re.search('Qwen/Qwen3-VL-8B-Instruct: .* hub does not give it', text)


@pytest.mark.parametrize('cause', ['Server disconnected\nand more', ''])
def test_dropped_connection_is_explained_in_one_line(tmp_path, processor, monkeypatch, cause):
    from huggingface_hub.errors import HfHubHTTPError

    class DroppedError(HfHubHTTPError.__bases__[0]):
        pass

    def drop(*given, **more):
        raise DroppedError(cause)

    monkeypatch.setattr('huggingface_hub.snapshot_download', drop)
    text = explain_missing_vlm(processor, tmp_path)
    assert re.search('does not give it: (Server disconnected|DroppedError)$', text)


def test_tokenizer_folder_cannot_name_code(tmp_path, processor):
    shutil.copytree(MODEL / 'vlm', tmp_path / 'vlm')
    (tmp_path / 'vlm/evil.py').write_text('raise SystemExit("ran")')
    path = tmp_path / 'vlm/tokenizer_config.json'
    settings = json.loads(path.read_text())
    settings['auto_map'] = {'AutoTokenizer': ['evil.Evil', 'evil.Evil']}
    settings['tokenizer_class'] = 'Evil'
    path.write_text(json.dumps(settings))
    other = Processor(processor.config, tmp_path)
    assert other.ids == processor.ids


@pytest.mark.parametrize(
    ('decoded', 'cot'),
    [
        ('go on<|cot_end|><|traj_future_start|>', 'go on'),
        ('never ends', ''),
        ('a<|cot_end|>b<|cot_end|>', 'a'),
    ],
)
def test_reasoning_is_what_ended(decoded, cot):
    assert extract_text(decoded, 'cot') == cot


def test_partial_text_keeps_what_was_said():
    assert extract_unfinished_text('it was going to ') == 'it was going to'


def test_health_of_a_reasoning():
    assert check_reasoning([1, 2, 3], 'marker') == ()
    assert check_reasoning([1, 2, 3], 'eos') == ('marker_missing',)
    assert check_reasoning([1, 2, 3], 'budget') == ('marker_missing', 'budget')
    loop = list(range(8)) * 3
    assert check_reasoning(loop, 'marker') == ('repetition',)
    assert check_reasoning(loop[:-1], 'marker') == ()


def test_said_ends_with_the_marker(processor):
    ids = processor.ids
    assert trim_tokens([5, 6, ids.future_start, 7], ids) == [5, 6, ids.future_start]
    assert trim_tokens([5, ids.eos, ids.pad], ids) == [5, ids.eos]
    assert trim_tokens([5, 6], ids) == [5, 6]
