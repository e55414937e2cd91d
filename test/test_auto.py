"""AutoConfig and AutoModel load a checkpoint folder once runtime.auto is imported."""

import json
from pathlib import Path
import shutil

import pytest
import torch
from transformers import AutoConfig, AutoModel

from alpamayo_ros.errors import BadInput
from alpamayo_ros.model.alpamayo import AlpamayoModel
import alpamayo_ros.runtime.auto  # noqa: F401  registers the classes

MODEL = Path(__file__).parent / 'golden/model'


def test_auto_model_loads_the_weights_of_the_folder():
    from safetensors.torch import load_file

    model = AutoModel.from_pretrained(MODEL)
    assert isinstance(model, AlpamayoModel)
    want = load_file(MODEL / 'model.safetensors')
    assert all(torch.equal(model.state_dict()[name], want[name]) for name in want)


def test_auto_model_loads_alpamayo_1_5():
    folder = MODEL.parents[1] / 'golden15/model'
    assert AutoConfig.from_pretrained(folder).architectures == ['Alpamayo1_5']
    model = AutoModel.from_pretrained(folder)
    assert isinstance(model, AlpamayoModel)
    assert model.config.model_type == 'alpamayo1_5'


def test_attention_is_sdpa_whatever_the_file_says(tmp_path):
    config = json.loads((MODEL / 'config.json').read_text())
    config['attn_implementation'] = 'flash_attention_2'
    (tmp_path / 'config.json').write_text(json.dumps(config))
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert loaded._attn_implementation == 'sdpa'
    assert loaded.traj_token_start_idx == config['traj_token_start_idx']


def test_folder_cannot_bring_its_own_model_code(tmp_path):
    copy = tmp_path / 'checkpoint'
    shutil.copytree(MODEL, copy)
    config = json.loads((copy / 'config.json').read_text())
    config['auto_map'] = {'AutoModel': 'evil.Evil', 'AutoConfig': 'evil.Config'}
    (copy / 'config.json').write_text(json.dumps(config))
    (copy / 'evil.py').write_text('raise SystemExit("ran")')
    assert isinstance(AutoModel.from_pretrained(copy), AlpamayoModel)


def test_hub_id_is_a_folder_of_the_hub(monkeypatch):
    monkeypatch.setattr('huggingface_hub.snapshot_download', lambda name, **more: str(MODEL))
    config = AutoConfig.from_pretrained(MODEL)
    assert isinstance(AutoModel.from_pretrained('somebody/small', config=config), AlpamayoModel)


def test_another_dtype_or_option_is_refused():
    with pytest.raises(BadInput, match='float32'):
        AutoModel.from_pretrained(MODEL, dtype=torch.float16)
    with pytest.raises(BadInput, match='output_loading_info'):
        AutoModel.from_pretrained(MODEL, output_loading_info=True)
