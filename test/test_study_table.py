"""The study of few bits: unpacked models, taught checkpoints, its table, search and page."""

from fnmatch import fnmatchcase
import json
from pathlib import Path

from golden_scene import MODEL
import pytest
from safetensors.torch import load_file, save_file
from test_training import TINY
import torch
import yaml

from alpamayo_ros.cli.quantize import main as quantize
from alpamayo_ros.drives.evaluation import measure_rows
from alpamayo_ros.drives.rebuild import rebuild_results
from alpamayo_ros.drives.rows import make_rows
from alpamayo_ros.drives.settings import EvaluationSettings
from alpamayo_ros.quantization.scheme import SCHEMES, find_rule, make_rules
from alpamayo_ros.runtime.load import load_model
from quantization_study import calibrate, checkpoints, distill, figures, page, search, table
from quantization_study.dense import codes_in, packed_bytes, packed_layers, unpack
from quantization_study.forced import compare
from quantization_study.full_size import bits_per_weight
from training.architecture import create_checkpoint_folder, make_model
from training.settings import load_settings
from training.train import DEFAULT

WIDTHS = [bits for bits, scheme in SCHEMES.items() if scheme.levels]
LAYER = 'vlm.model.language_model.layers.0.mlp.down_proj'


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
        (distill, '_PER_DRIVE', 2), (distill, '_DRIVES', 4), (figures, '_TOLD_BATCHES', 1),
        (figures, '_TOLD_BATCH', 8), (checkpoints, '_CALIBRATION_DRIVES', 1),
        (checkpoints, '_BATCH', 4), (calibrate, 'MOMENTS', 2),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)


@pytest.mark.parametrize('bits', WIDTHS)
@pytest.mark.parametrize('recipe', ['uniform', 'mixed'])
def test_unpacked_layers_are_the_packed_ones(recipe, bits):
    packed, plain = (load_model(MODEL, bits=bits, recipe=recipe) for _ in range(2))
    weights = unpack(plain)
    assert weights.keys() == {name for name, _ in packed_layers(packed)}
    assert not list(packed_layers(plain))
    for name, weight in weights.items():
        layer, own = packed.get_submodule(name), plain.get_submodule(name)
        size = own.weight.shape[-1]
        x = torch.arange(3) if isinstance(own, torch.nn.Embedding) else random(3, size)
        assert torch.allclose(own(x), layer(x), atol=1e-5)
        data = weight.stored[0]
        assert torch.equal(packed_bytes(codes_in(weight), weight), data.view(-1, data.shape[-1]))


@pytest.fixture(scope='module')
def quantized(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp('quantized') / 'checkpoint'
    arguments = ['--bits', '2', '--recipe', 'mixed', '--solver', 'minmax']
    assert quantize([str(tiny), str(folder), *arguments]) == 0
    return folder


@pytest.mark.parametrize('moves', [False, True])
def test_a_taught_checkpoint_answers_better_and_is_an_ordinary_one(
    moves, tiny, quantized, tmp_path, few
):
    options = ['--steps', '24', '--batch', '4', '--passes', '12', '--rate', '0.01']
    options += ['--codes'] if moves else []
    assert distill.main([str(tiny), str(quantized), str(tmp_path / 'new'), *options]) == 0
    teacher = load_model(tiny)
    given = figures.draw_held_out_lessons(teacher, tiny, 'cpu')
    before, after = (load_model(x, bits=2, recipe='mixed') for x in (quantized, tmp_path / 'new'))
    states = before.state_dict(), after.state_dict()
    assert states[0].keys() == states[1].keys()
    data, scale = f'{LAYER}.weight._data._data', f'{LAYER}.weight._scale'
    assert torch.equal(states[0][data], states[1][data]) != moves
    assert not torch.equal(states[0][scale], states[1][scale])
    norm = 'expert.norm.weight'
    assert not torch.equal(states[0][norm], states[1][norm])
    for model in (before, after):
        unpack(model)
    worse, better = compare(before, given), compare(after, given)
    assert better['velocity_error'] < 0.9 * worse['velocity_error']
    assert compare(teacher, given) == {'kl': 0.0, 'velocity_error': 0.0}
    config = json.loads((tmp_path / 'new/config.json').read_text())['quantization_config']
    assert config['solver'] == ('minmax, distilled with codes' if moves else 'minmax, distilled')


def test_a_student_begins_as_the_quantized_checkpoint(tiny, quantized):
    student = distill.Student(quantized, load_model(tiny), 'cpu', move_codes=True)
    own, plain = student.assemble(), load_model(quantized)
    for name in unpack(plain):
        weights = own.get_submodule(name).weight, plain.get_submodule(name).weight
        assert torch.allclose(*weights, atol=1e-6)
    stored = {k: v for file in quantized.glob('*.safetensors') for k, v in load_file(file).items()}
    for name, tensor in student.tensors().items():
        assert torch.equal(tensor.to(stored[name].dtype), stored[name]), name


def test_plain_checkpoint_cannot_be_taught(tiny, tmp_path, capsys):
    assert distill.main([str(tiny), str(tiny), str(tmp_path / 'new')]) == 2
    assert 'not quantized, nothing is to be learned' in capsys.readouterr().err


def test_table_has_the_figures_of_an_evaluation_and_goes_on(tiny, tmp_path, few, capsys):
    out, work = tmp_path / 'table.json', tmp_path / 'work'
    command = [str(tiny), '--work', str(work), '--out', str(out), '--drives', '1',
               '--moments', '2', '--steps', '2']  # fmt: skip
    assert table.main([*command, '--rows', '2 bits mixed distilled']) == 0
    first = json.loads(out.read_text())['rows']
    assert list(first) == ['2 bits mixed distilled']
    assert table.main([*command, '--rows', '16 bits', '2 bits mixed [em]*']) == 0
    rows = json.loads(out.read_text())['rows']
    names = ['min/max', 'MSE', 'error feedback', 'distilled']
    assert list(rows) == ['16 bits', *(f'2 bits mixed {name}' for name in names if name != 'MSE')]
    assert rows['2 bits mixed distilled'] == first['2 bits mixed distilled']
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
    assert table.main([*command[:-4], '--moments', '1']) == 2
    assert 'made from something else' in capsys.readouterr().err
    assert table.main([*command, '--rows', '3 bits']) == 2
    assert "--rows '3 bits': no row has such a name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ('recipe', 'bits'),
    [('mixed', 2.79), ('mixed_expert4', 3.20), ('mixed_attention4', 3.00), ('uniform', 3.05)],
)
def test_bits_of_the_full_size_count_everything(recipe, bits):
    assert bits_per_weight(make_rules(recipe, 2)) == pytest.approx(bits, abs=0.005)
    assert bits_per_weight(()) == pytest.approx(16, abs=0.001)


def test_search_spends_the_budget_where_it_saves_most():
    harms = {name: {2.0: 1e-6, 4.0: 1e-7, 8.0: 1e-8, 16.0: 0.0} for name in search.GROUPS}
    harms['expert down'] = {2.0: 1.0, 4.0: 0.1, 8.0: 0.01, 16.0: 0.0}
    floor = bits_per_weight(search.rules_for(dict.fromkeys(search.GROUPS, 2.0)))
    assert search.search(harms, floor) == dict.fromkeys(search.GROUPS, 2.0)
    widths = search.search(harms, 3.0)
    assert widths['expert down'] >= 8.0
    assert floor < bits_per_weight(search.rules_for(widths)) <= 3.0


def test_every_layer_of_the_release_is_in_one_group_and_padded_as_mixed_is(root):
    shapes = json.loads((root / 'test/golden/state_dict_10b.json').read_text())['tensors']
    rules = search.rules_for(dict.fromkeys(search.GROUPS, 4.0))
    for name, about in shapes.items():
        module = name.removesuffix('.weight')
        if len(about['shape']) == 2 and name != module and 'pos_embed' not in name:
            groups = [x for x, pattern in search.GROUPS.items() if fnmatchcase(module, pattern)]
            assert len(groups) == 1, name
    for name in ('vlm.lm_head', 'vlm.model.language_model.embed_tokens'):
        wanted = find_rule(name, make_rules('mixed', 2))
        assert find_rule(name, rules).to_json() == wanted.to_json()


def test_page_shows_every_row_and_group():
    interval = {'mean': 0.5, 'low': 0.25, 'high': 0.75, 'n': 4}
    row = {
        'bits': 2.0, 'recipe': 'mixed', 'method': 'MSE', 'bytes': 4_400_000,
        'full_size_bits': 2.79, 'kl': 0.0123, 'velocity_error': 0.234, 'weight_error': 0.334,
        'min_ade_m': interval, 'ratio': None, 'marker': interval, 'text': interval,
    }  # fmt: skip
    loop = {'drives': 50, 'split': 'test', 'moments': 4, 'samples': 6, 'seed': 0}
    about = {'checkpoint_sha256': 'ab' * 32, 'parameters': 7_452_066, 'device': 'cpu',
             'loop': loop}  # fmt: skip
    own = {'velocity_error': 0.1, 'kl': 0.02, 'harm': 0.1}
    found = {
        'checkpoint_sha256': 'cd' * 32, 'budget_bits': 3.0, 'sensitivity': {'head': {'2': own}},
        'recipe': {'full_size_bits': 2.99, 'widths': {'head': 4.0}} | own,
    }  # fmt: skip
    text = page.render(2 * [{'made_from': about, 'rows': {'x': row}}], found)
    shown = '| 2.79 | 4.40 | 0.334 | 0.0123 | 0.234 | 0.500 (0.250 to 0.750) | unknown | 50.0 |'
    assert text.count(shown) == 2
    assert '| head | 0.100 / 0.0200 | 4 |' in text and 'checkpoint `cdcdcdcdcdcd`' in text
