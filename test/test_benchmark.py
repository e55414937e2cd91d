"""alpamayo_benchmark: what it prints; no test looks at how fast it was."""

import json
import sys

import pytest
import small_bag
import torch

from alpamayo_ros import benchmark
from alpamayo_ros.benchmark import engine as engine_benchmark
from alpamayo_ros.benchmark import stock_quanto
from alpamayo_ros.benchmark.full_size import RELEASE, make_scene, random_model
from alpamayo_ros.benchmark.roofline import count_work
from alpamayo_ros.cli import benchmark_engine
from alpamayo_ros.cli.benchmark import main
from alpamayo_ros.model.config import load_config, parse_config
from alpamayo_ros.model.small.untrained import write_small_checkpoint
from alpamayo_ros.runtime.load import build_on_meta


def test_context_ends_with_one_line_of_json(capsys):
    assert main(['context', '--contexts', '30']) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document['n'] == 30
    assert document['contexts_per_s'] > 0
    assert set(document['context_ms']) == {'p50', 'p90', 'max'}
    assert {'machine', 'versions', 'peak_rss_mb'} <= set(document)


def test_count_below_one_is_refused(capsys):
    assert main(['context', '--contexts', '0']) == 2
    assert capsys.readouterr().err == (
        'alpamayo_benchmark: error: --contexts 0: expected 1 or more\n'
    )


def test_replay_ends_with_one_line_of_json(tmp_path, capsys):
    bag = small_bag.write(tmp_path / 'bag', small_bag.drive(3))
    rig = small_bag.write_rig(tmp_path)
    more = ['--rig', str(rig), '--engine', 'constant_velocity', '--contexts', '5']
    assert main(['replay', str(bag), *more]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document['n'] == 5
    assert document['contexts_per_s'] > 0
    assert document['total_ms']['p50'] > 0


def test_engine_measures_every_stage_of_every_way(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(engine_benchmark, 'WARM_UP', 0)
    monkeypatch.setattr(engine_benchmark, 'RUNS', 1)
    monkeypatch.setattr(benchmark_engine, 'SLOW_RUNS', 1)
    kept = tmp_path / 'figures.json'
    more = ['--bits', '2', '--compare', '--samples', '1', '--out', str(kept)]
    assert main(['engine', *more]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert 'cpu: no fractions of the peak, which is known of: NVIDIA H200' in lines
    document = json.loads(lines[-1])
    assert document['16 bits'] == json.loads(kept.read_text())['16 bits']
    for way in ('2 bits mixed', '16 bits', 'optimum-quanto qint2'):
        stages = document[way]['eager K=1']
        assert all(
            stages[stage] > 0
            for stage in ('images', 'vision', 'prefill', 'token', 'flow_step', 'end_to_end')
        )
    plain, packed = document['16 bits']['bytes'], document['2 bits mixed']['bytes']
    stock = document['optimum-quanto qint2']['bytes']
    assert plain['embedding'] == plain['head'] == stock['embedding']
    assert packed['language'] < stock['language'] * 1.1 < plain['language'] / 5  # of float32
    assert packed['head'] < plain['head'] / 5
    assert {'vision and prefill over 16 bits eager', 'token_linears of 16 bits over it'} <= set(
        document['ratios']
    )


def test_a_way_that_fails_is_named_and_the_others_are_measured(tmp_path, capsys, monkeypatch):
    def fail(config, device, dtype):
        raise RuntimeError('no kernel\nfor this')

    monkeypatch.setattr(engine_benchmark, 'WARM_UP', 0)
    monkeypatch.setattr(engine_benchmark, 'RUNS', 1)
    monkeypatch.setattr(stock_quanto, 'stock_model', fail)
    monkeypatch.setattr(engine_benchmark, 'linear_layers', lambda model, graphs: fail(0, 0, 0))
    kept = tmp_path / 'figures.json'
    more = ['--bits', '2', '--compare', '--samples', '1', '--out', str(kept)]
    assert main(['engine', *more]) == 1
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    message = 'RuntimeError: no kernel for this'
    assert document['failed'] == json.loads(kept.read_text())['failed']
    assert document['failed'] == {
        '2 bits mixed, linears': message,
        '16 bits, linears': message,
        'optimum-quanto qint2, model': message,
    }
    assert document['2 bits mixed']['eager K=1']['end_to_end'] > 0
    assert document['ratios']['16 bits eager over it, sum_of_stages'] > 0


def test_the_sum_of_stages_is_an_inference(tmp_path, monkeypatch):
    # images, vision, prefill, token, flow step, end to end, frames to trajectory
    stages = iter([5.0, 7.0, 11.0, 2.0, 3.0, 100.0, 105.0])
    monkeypatch.setattr(engine_benchmark, 'median_ms', lambda *given: next(stages))
    write_small_checkpoint(tmp_path / 'small', seed=0)
    config = load_config(tmp_path / 'small')
    model = random_model(config, 'cpu', torch.float32)
    found = engine_benchmark.measure(model, make_scene(config, 'cpu', torch.float32), 1, False)
    assert found['sum_of_stages'] == 7 + 11 + 32 * 2 + 10 * 3


def test_a_profile_and_guidance_are_cases_of_the_engine(capsys, monkeypatch):
    monkeypatch.setattr(engine_benchmark, 'WARM_UP', 0)
    monkeypatch.setattr(engine_benchmark, 'RUNS', 1)
    more = ['--profile', 'drive', '--samples', '1']
    assert main(['engine', *more, '--guidance']) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    found = document['16 bits']['eager K=1']
    assert [found[key] for key in ('frames', 'tokens', 'flow_steps')] == [8, 0, 3]
    steps = found['token'] + 3 * found['flow_step']
    assert found['sum_of_stages'] == pytest.approx(
        found['vision'] + found['prefill'] + steps, abs=0.002
    )
    ratio = document['16 bits']['eager K=1 guided']['end_to_end'] / found['end_to_end']
    assert document['ratios']['guided over not guided'] == pytest.approx(ratio, abs=0.001)
    assert document['profile']['activations'] == document['profile']['kv_bits'] == 8


def test_work_of_the_release_is_that_of_its_shapes():
    """Operations by hand from the shapes: a prompt of 3,032 tokens, 16 images of 720 patches."""
    model = build_on_meta(parse_config(RELEASE))
    found = count_work(model)
    assert abs(found['prefill']['flops'] / 44.8e12 - 1) < 0.01
    assert abs(found['vision']['flops'] / 10.5e12 - 1) < 0.01  # without mergers
    assert abs(found['flow_step']['flops'] / 0.292e12 - 1) < 0.01  # without attention


def test_quantizing_and_loading_are_watched(capsys):
    assert main(['quantize', '--solver', 'minmax', '--bits', '4']) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document['release_gb'] > document['load']['weights_gb'] > 0
    assert document['quantize']['host_peak_mb'] > 0
    assert document['load']['overshoot_mb'] < 50


def test_products_take_the_tiles_of_an_orin_and_what_it_can_issue(capsys):
    assert main(['kernels']) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document['target'] == 'sm_87, 8 multiprocessors'
    products = {title: row for title, row in document.items() if ':' in title}
    assert len(products) == 5 + 5 + 4  # of one token, of six samples' tokens, of a flow step
    assert all(row['spilled_bytes'] == 0 for row in products.values())
    token = products['token: gate, up']
    assert token['tile'] == [16, 4, 1, 3, 1]  # no split of K: 8 multiprocessors are full
    # an Orin Nano has issue slots for 2.6 at its full bandwidth
    assert 1 < token['loop_instructions_per_weight'] < token['instructions_per_weight'] < 2.6


def test_kernels_without_triton_are_refused_in_one_line(capsys, monkeypatch):
    monkeypatch.delattr(benchmark, 'kernels', raising=False)
    monkeypatch.setitem(sys.modules, 'alpamayo_ros.benchmark.kernels', None)
    assert main(['kernels']) == 2
    assert capsys.readouterr().err == (
        'alpamayo_benchmark: error: triton is not installed: pip install triton\n'
    )


def test_full_size_has_the_parameters_of_the_release(root):
    """Sizes of the benchmark's own description against the reference list of tensors."""
    want = json.loads((root / 'test/golden/state_dict_10b.json').read_text())
    model = build_on_meta(parse_config(RELEASE))
    have = {name: list(t.shape) for name, t in model.state_dict().items()}
    assert have == {name: entry['shape'] for name, entry in want['tensors'].items()}


def test_engine_refuses_what_would_fail_later_before_it_measures(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benchmark_engine, '_measure_way', lambda *given, **more: 1 / 0)
    assert main(['engine', '--recipe', 'foo']) == 2
    assert "recipe 'foo' is not one of" in capsys.readouterr().err
    for out in (tmp_path / 'absent/figures.json', tmp_path):
        assert main(['engine', '--out', str(out)]) == 2
        assert capsys.readouterr().err == (
            f'alpamayo_benchmark: error: --out {out}: expected a file in a folder that exists\n'
        )


def test_absent_device_is_said_in_one_line(capsys):
    assert main(['engine', '--device', 'cuda:99' if torch.cuda.is_available() else 'cuda']) == 2
    assert 'alpamayo_benchmark: error: device' in capsys.readouterr().err


@pytest.mark.parametrize('more', [[], ['--device', 'cuda', '--compare']])
def test_a_slice_needs_a_gpu_and_no_comparison(more, capsys, monkeypatch):
    monkeypatch.setattr('alpamayo_ros.runtime.load.check_device', lambda device: None)
    assert main(['engine', '--slice', '8', *more]) == 2
    expected = 'expected 1 or more, --device cuda and no --compare'
    assert capsys.readouterr().err == f'alpamayo_benchmark: error: --slice 8: {expected}\n'
