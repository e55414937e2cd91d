"""The study of few bits: unpacked models, its table and its page."""

import json
from pathlib import Path

from golden_scene import MODEL
import pytest
from safetensors.torch import save_file
from tiny_training import TINY
import torch
import yaml

from alpamayo_ros.drives.evaluation import measure_rows
from alpamayo_ros.drives.rebuild import rebuild_results
from alpamayo_ros.drives.rows import make_rows
from alpamayo_ros.drives.settings import EvaluationSettings
from alpamayo_ros.quantization.scheme import SCHEMES, make_rules
from alpamayo_ros.runtime.load import load_model
from quantization_study import checkpoints, figures, page, table
from quantization_study.dense import list_packed_layers, unpack
from quantization_study.full_size import count_bits_per_weight
from training.architecture import create_checkpoint_folder, make_model
from training.settings import load_settings
from training.train import DEFAULT

WIDTHS = [bits for bits, scheme in SCHEMES.items() if scheme.levels]


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    """Return a checkpoint of the trained one's kind, with random weights and few of them."""
    place = tmp_path_factory.mktemp('tiny')
    shipped = yaml.safe_load(DEFAULT.read_text(encoding='utf-8'))
    (place / 'tiny.yaml').write_text(yaml.safe_dump(shipped | TINY), encoding='utf-8')
    folder = create_checkpoint_folder(place, load_settings(place / 'tiny.yaml'))
    state = make_model(folder, seed=1).state_dict()
    tensors = {name: t.to(torch.bfloat16).contiguous() for name, t in state.items()}
    save_file(tensors, folder / 'model.safetensors')
    return folder


@pytest.fixture
def few(monkeypatch):
    """Let everything be measured on few scenes."""
    for module, name, value in (
        (figures, '_LESSON_BATCHES', 1), (figures, '_LESSON_BATCH', 8),
        (checkpoints, 'DRIVES', (1001,)), (checkpoints, 'MOMENTS', 8),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)


@pytest.mark.parametrize('bits', WIDTHS)
@pytest.mark.parametrize('recipe', ['uniform', 'mixed'])
def test_unpacked_layers_are_the_packed_ones(recipe, bits):
    packed, plain = (load_model(MODEL, bits=bits, recipe=recipe) for _ in range(2))
    weights = unpack(plain)
    assert weights.keys() == {name for name, _ in list_packed_layers(packed)}
    assert not list(list_packed_layers(plain))
    for name in weights:
        layer, own = packed.get_submodule(name), plain.get_submodule(name)
        size = own.weight.shape[-1]
        x = torch.arange(3) if isinstance(own, torch.nn.Embedding) else random(3, size)
        assert torch.allclose(own(x), layer(x), atol=1e-5)


def test_table_has_the_figures_of_an_evaluation_and_goes_on(tiny, tmp_path, few, capsys):
    out, work = tmp_path / 'table.json', tmp_path / 'work'
    command = [str(tiny), '--work', str(work), '--out', str(out), '--drives', '1',
               '--moments', '2']  # fmt: skip
    assert table.main([*command, '--rows', '2 bits mixed MSE']) == 0
    first = json.loads(out.read_text())['rows']
    assert list(first) == ['2 bits mixed MSE']
    assert table.main([*command, '--rows', '16 bits', '2 bits mixed m*']) == 0
    rows = json.loads(out.read_text())['rows']
    assert list(rows) == ['16 bits', '2 bits mixed min/max', '2 bits mixed MSE']
    assert rows['2 bits mixed MSE'] == first['2 bits mixed MSE']
    assert (rows['16 bits']['kl'], rows['16 bits']['ratio']['mean']) == (0.0, 1.0)
    settings = EvaluationSettings(
        checkpoint=str(tiny), bits=16, drives=1, moments=2, out=str(tmp_path / 'evaluation'),
        ablations=False, latencies_s=[],
    )  # fmt: skip
    measure_rows(settings, make_rows(settings), lambda *a: lambda amount: None)
    found = {row['name']: row for row in rebuild_results(Path(settings.out), 2000, 0)['rows']}
    wanted = found['16 bits']['open']['all']
    assert rows['16 bits']['min_ade_m'] == wanted['min_ade_m_6.4s']
    assert rows['16 bits']['marker'] == wanted['marker']
    assert table.main([*command[:-2], '--moments', '1']) == 2
    assert 'made from something else' in capsys.readouterr().err
    assert table.main([*command, '--rows', '3 bits']) == 2
    assert "--rows '3 bits': no row has such a name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ('recipe', 'bits'),
    [('mixed', 2.79), ('mixed_expert4', 3.20), ('mixed_path4', 3.00), ('uniform', 3.05)],
)
def test_bits_of_the_full_size_count_everything(recipe, bits):
    assert count_bits_per_weight(make_rules(recipe, 2)) == pytest.approx(bits, abs=0.005)
    assert count_bits_per_weight(()) == pytest.approx(16, abs=0.001)


def test_page_shows_every_row():
    interval = {'mean': 0.5, 'low': 0.25, 'high': 0.75, 'n': 4}
    row = {
        'bits': 2.0, 'recipe': 'mixed', 'method': 'MSE', 'bytes': 4_400_000,
        'full_size_bits': 2.79, 'kl': 0.0123, 'velocity_error': 0.234, 'weight_error': 0.334,
        'min_ade_m': interval, 'ratio': None, 'marker': interval, 'text': interval,
    }  # fmt: skip
    loop = {'drives': 50, 'split': 'test', 'moments': 4, 'samples': 6, 'seed': 0}
    about = {'checkpoint_sha256': 'ab' * 32, 'parameters': 7_452_066, 'device': 'cpu',
             'loop': loop}  # fmt: skip
    text = page.render(2 * [{'made_from': about, 'rows': {'x': row}}])
    shown = '| 2.79 | 4.40 | 0.334 | 0.0123 | 0.234 | 0.500 (0.250 to 0.750) | unknown | 50.0 |'
    assert text.count(shown) == 2
