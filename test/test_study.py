"""The study of few bits: statistics of inputs, error feedback, checkpoints that come of them."""

import json

from golden_scene import MODEL
import pytest
from safetensors.torch import load_file, save_file
import torch

from alpamayo_ros.cli.quantize import main as quantize
from alpamayo_ros.conversion.input_statistics import linear_inputs
from alpamayo_ros.kernels.packing import PackedMatrix, unpack_rows
from alpamayo_ros.model.checkpoint import hash_file
from alpamayo_ros.model.small.untrained import write_small_checkpoint
from alpamayo_ros.quantization.feedback import quantize_with_feedback
from alpamayo_ros.quantization.matrix import quantize_matrix
from alpamayo_ros.quantization.scheme import SCHEMES, Rule
from alpamayo_ros.runtime.engine import AlpamayoEngine
from alpamayo_ros.runtime.load import load_model
from quantization_study import calibrate

WIDTHS = [bits for bits, scheme in SCHEMES.items() if scheme.levels]
LAYER = 'vlm.model.language_model.layers.0.mlp.down_proj'


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def moments_of(columns, samples=2000):
    """Return second moments of inputs of which neighbours are alike, and some are large."""
    x = random(samples, columns).cumsum(1) / torch.arange(1, columns + 1) ** 0.5
    x *= torch.rand(columns, generator=torch.Generator().manual_seed(1)) * 2
    return x.T @ x / samples


def dense(stored, rule, rows, columns):
    data = next(t for name, t in stored.items() if name.endswith('_data'))
    shift = stored['._scale'] if rule.bits == 1.58 else stored.get('._shift')
    levels = rule.scheme.levels
    return unpack_rows(
        PackedMatrix(data, stored['._scale'], shift, levels), columns, torch.arange(rows)
    )


@pytest.mark.parametrize('bits', WIDTHS)
def test_feedback_without_correlation_is_the_best_fit_alone(bits):
    weight, rule = random(30, 192), Rule('*', bits, row_multiple=8)
    want, error = quantize_matrix(weight, rule)
    got, own = quantize_with_feedback(weight, rule, torch.eye(192))
    assert got.keys() == want.keys()
    assert all(got[name].dtype == want[name].dtype for name in want)
    difference = dense(got, rule, 32, 192).float() - dense(want, rule, 32, 192).float()
    assert difference.abs().max() < 1e-6
    assert own == pytest.approx(error, rel=1e-4)


@pytest.mark.parametrize(('bits', 'most'), [(8, 0.5), (4, 0.5), (2, 0.5), (1.58, 0.5)])
def test_feedback_lowers_the_error_of_outputs(bits, most):
    weight, rule, moments = random(64, 192), Rule('*', bits), moments_of(192)

    def output_error(stored):
        rest = dense(stored, rule, 64, 192).float() - weight
        return float(torch.trace(rest @ moments @ rest.T))

    plain, _ = quantize_matrix(weight, rule)
    weighed, _ = quantize_matrix(weight, rule, importance=moments.diagonal())
    answered, error = quantize_with_feedback(weight, rule, moments)
    assert output_error(answered) < most * output_error(plain)
    assert output_error(answered) < output_error(weighed)
    rest = dense(answered, rule, 64, 192).float() - weight
    assert float(rest.norm() / weight.norm()) == pytest.approx(error, rel=0.03)


@pytest.fixture(scope='module')
def engine(tmp_path_factory):
    """Return the small untrained checkpoint on the CPU."""
    folder = tmp_path_factory.mktemp('small') / 'checkpoint'
    write_small_checkpoint(folder, 1)
    return AlpamayoEngine(folder, 'cpu', None, 16)


@pytest.fixture(scope='module')
def moments(engine):
    """Return its statistics over one short drive."""
    scenes = list(calibrate.scenes_of(1, calibrate.picture_size(engine.config)))[:3]
    done = []
    found = calibrate.input_moments(engine, scenes, done.append)
    assert sum(done) == 3
    return found


def test_every_linear_layer_is_calibrated(engine, moments):
    assert {name: len(t) for name, t in moments.items()} == linear_inputs(engine.model)
    assert all(torch.equal(t, t.T) and t.diagonal().min() >= 0 for t in moments.values())


def test_moments_are_those_of_the_inputs(engine, moments):
    """The first layer of the action projection reads sqrt(2) sin and sqrt(2) cos of one angle."""
    squares = moments['action_in_proj.encoder.trunk.0'].diagonal().view(3, 2, -1)
    assert squares.sum(1) == pytest.approx(2.0, abs=1e-4)
    attention = 'expert.layers.1.self_attn'
    assert torch.equal(moments[f'{attention}.q_proj'], moments[f'{attention}.v_proj'])
    assert not any(m._forward_pre_hooks for m in engine.model.modules())


@pytest.fixture
def statistics(tmp_path):
    """Return a file of statistics for the reference model."""
    inputs = linear_inputs(load_model(MODEL))
    save_file({name: moments_of(size) for name, size in inputs.items()}, tmp_path / 'moments')
    return tmp_path / 'moments'


def run(target, importance=None, solver='mse', bits=2, recipe='mixed'):
    options = ['--bits', bits, '--recipe', recipe, '--solver', solver]
    options += ['--importance', importance] if importance else []
    return quantize([str(x) for x in (MODEL, target, *options)])


@pytest.mark.parametrize('solver', ['mse', 'feedback'])
def test_checkpoint_of_weighed_errors_is_an_ordinary_one(solver, statistics, tmp_path):
    assert run(tmp_path / 'plain') == 0
    assert run(tmp_path / 'weighed', statistics, solver) == 0
    config = json.loads((tmp_path / 'weighed/config.json').read_text())['quantization_config']
    assert (config['solver'], config['importance_sha256']) == (solver, hash_file(statistics))
    plain, weighed = (
        load_model(tmp_path / name, bits=2, recipe='mixed').state_dict()
        for name in ('plain', 'weighed')
    )
    assert plain.keys() == weighed.keys()
    scale, table = f'{LAYER}.weight._scale', 'vlm.model.language_model.embed_tokens.weight._scale'
    assert not torch.equal(plain[scale], weighed[scale])
    assert torch.equal(plain[table], weighed[table])  # a table has no inputs


def test_statistics_that_do_not_fit_are_refused(statistics, tmp_path, capsys):
    def refused(message, **arguments):
        assert run(tmp_path / 'q', **arguments) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / 'q').exists()

    refused("solver 'feedback' needs input statistics", solver='feedback')
    refused("solver 'minmax' weighs no errors", solver='minmax', importance=statistics)
    refused('not a readable safetensors file', importance=tmp_path / 'nowhere')
    tensors = load_file(statistics)
    changes = [
        ({LAYER: tensors[LAYER][:-1]}, 'expected finite'),
        ({LAYER: tensors[LAYER] * torch.nan}, 'expected finite'),
        ({'expert.other': torch.ones(3)}, 'statistics of what is no layer: expert.other'),
    ]
    for change, message in changes:
        save_file(tensors | change, tmp_path / 'wrong')
        refused(message, importance=tmp_path / 'wrong')
    means = {name: tensor.diagonal().contiguous() for name, tensor in tensors.items()}
    save_file(means, tmp_path / 'means')
    refused('mean squares alone', importance=tmp_path / 'means', solver='feedback')
    assert run(tmp_path / 'q', importance=tmp_path / 'means') == 0
