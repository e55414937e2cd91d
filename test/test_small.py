"""The small untrained checkpoint: complete, deterministic, says its sentence, drives straight."""

import cv2
import numpy as np
import pytest
import torch
from transformers import AutoConfig

from alpamayo_ros.cli.drive import main
from alpamayo_ros.data_types import Context, EgoPose, Frame, SamplingOptions
from alpamayo_ros.model.config import load_config
from alpamayo_ros.model.processor import Processor
from alpamayo_ros.model.small.untrained import SENTENCE, write_small_checkpoint
from alpamayo_ros.model.small.vlm_files import vocabulary
from alpamayo_ros.runtime.engine import AlpamayoEngine

SPEED_MPS = 10.0


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp('small') / 'checkpoint'
    assert main(['--checkpoint', str(folder)]) == 0
    return folder


@pytest.fixture(scope='module')
def processor(checkpoint):
    return Processor(load_config(checkpoint), checkpoint)


def context(seed):
    """Four cameras of noise, and a straight drive at constant speed."""
    rng = np.random.default_rng(seed)
    jpegs = [
        cv2.imencode('.jpg', rng.integers(0, 256, (360, 640, 3), np.uint8))[1] for _ in range(4)
    ]
    frames = {f'camera{i}': (Frame(0, 'jpeg', jpeg.ravel()),) * 4 for i, jpeg in enumerate(jpegs)}
    history = np.zeros((16, 3), np.float32)
    history[:, 0] = np.arange(-15, 1) * 0.1 * SPEED_MPS
    rotations = np.tile(np.eye(3, dtype=np.float32), (16, 1, 1))
    pose = EgoPose(0, np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0]), SPEED_MPS)
    return Context(0, frames, (0, 1, 2, 6), history, rotations, pose, SPEED_MPS, 0.0)


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


def test_only_the_checkpoint_is_written_when_only_it_is_asked_for(checkpoint):
    assert [path.name for path in checkpoint.parent.iterdir()] == ['checkpoint']
    assert sum(len(data) for data in contents(checkpoint).values()) < 8e6


def test_the_folder_is_a_function_of_the_seed(checkpoint, tmp_path):
    write_small_checkpoint(tmp_path / 'same', seed=0)
    write_small_checkpoint(tmp_path / 'other', seed=1)
    assert contents(tmp_path / 'same') == contents(checkpoint)
    other = contents(tmp_path / 'other')
    differs = [str(name) for name, data in contents(checkpoint).items() if other[name] != data]
    assert differs == ['model.safetensors']


@pytest.mark.parametrize('options', [SamplingOptions(greedy=True), SamplingOptions(num_samples=3)])
def test_it_says_its_sentence_and_ends_within_40_tokens(checkpoint, options):
    engine = AlpamayoEngine(checkpoint, options=options)
    for seed in range(3):
        prediction = engine.infer(context(seed), seed)
        assert set(prediction.texts) == {SENTENCE}
        assert set(prediction.end) == {'marker'} and max(prediction.tokens) <= 40


@pytest.mark.parametrize('seed', [1, 2])
def test_weights_of_other_seeds_say_it_too(tmp_path, seed):
    write_small_checkpoint(tmp_path / 'checkpoint', seed)
    prediction = AlpamayoEngine(tmp_path / 'checkpoint').infer(context(seed), seed)
    assert prediction.texts == (SENTENCE,)


def test_its_paths_stay_near_constant_speed_and_straight_but_differ(checkpoint):
    engine = AlpamayoEngine(checkpoint, options=SamplingOptions(num_samples=6))
    samples = engine.infer(context(0), seed=0).samples
    assert samples.shape == (6, 64, 4) and np.isfinite(samples).all()
    assert np.abs(samples[..., 3] - SPEED_MPS).max() < 0.3
    assert np.abs(samples[:, -1, 0] - 64.0).max() < 1.5
    assert 0.1 < np.abs(samples[:, -1, 1]).max() < 2.0


def test_paths_at_standstill_do_not_go_backwards_far(checkpoint):
    standing = context(0)
    standing.history_xyz_m[:] = 0.0
    engine = AlpamayoEngine(checkpoint, options=SamplingOptions(num_samples=6))
    assert engine.infer(standing, seed=0).samples[..., 0].min() > -0.5


def test_the_config_says_that_the_weights_are_untrained(checkpoint):
    assert load_config(checkpoint).untrained


def test_chat_template_gives_the_prompt_of_the_release(processor, root):
    expected = (root / 'test/golden/model/prompt.txt').read_text(encoding='utf-8')
    assert processor.prompt_text((0, 1, 2, 6), frames=4) == expected


def test_new_tokens_follow_the_base_vocabulary_in_the_order_of_the_release(processor):
    config, tokenizer = processor.config, processor.tokenizer
    start = config.traj_token_start_idx
    names = ['<think>', '</think>', '<i0>', '<i3999>', '<|prompt_start|>', '<|answer_end|>']
    ids = [start - 2, start - 1, start, start + 3999, start + 4000, config.vocab_size - 1]
    assert tokenizer.convert_tokens_to_ids(names) == ids
    assert len(tokenizer) == config.vocab_size


def test_words_of_the_prompt_are_single_tokens_and_any_text_survives(processor):
    tokenizer = processor.tokenizer
    assert len(tokenizer(SENTENCE)['input_ids']) == 9
    text = 'Grüße, 0.5 m\n日本 ' + SENTENCE
    assert tokenizer.decode(tokenizer(text)['input_ids']) == text


def test_the_vocabulary_covers_all_bytes_once():
    tokens, merges = vocabulary('a an')
    assert tokens[256:] == ['\u0120a', '\u0120an'] and len(set(tokens[:256])) == 256
    assert merges == [['\u0120', 'a'], ['\u0120a', 'n']]


def test_an_image_of_the_drive_takes_28_tokens(processor):
    _, grid = processor.extract_patches(torch.zeros(3, 360, 640, dtype=torch.uint8))
    assert grid == (8, 14)


def test_transformers_reads_the_vlm_folder(checkpoint, processor):
    config = AutoConfig.from_pretrained(checkpoint / 'vlm')
    assert config.model_type == 'qwen3_vl'
    assert config.image_token_id == processor.tokenizer.convert_tokens_to_ids('<|image_pad|>')
    assert config.text_config.vocab_size == processor.config.traj_token_start_idx
