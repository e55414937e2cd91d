"""Quantized checkpoints: written in bounded memory, resumed, loaded; equal to dense weights."""

import json
import resource
import shutil
import subprocess
import sys
from types import SimpleNamespace

from golden_scene import MODEL, make_dense
import numpy as np
import pytest
from safetensors.torch import load_file, save_file
import torch
from transformers import AutoModel

from alpamayo_ros.cli.quantize import main
from alpamayo_ros.conversion import plan as quantize_job
from alpamayo_ros.conversion import quantize
from alpamayo_ros.conversion.quantize import REPORT
from alpamayo_ros.errors import BadInput
from alpamayo_ros.kernels.packing import unpack_rows
from alpamayo_ros.model.checkpoint import INDEX
from alpamayo_ros.model.config import load_config
from alpamayo_ros.model.processor import Processor
from alpamayo_ros.model.reasoning.generation import summarise
from alpamayo_ros.quantization.embedding import HostEmbedding
from alpamayo_ros.quantization.linear import RowParts
from alpamayo_ros.quantization.packed_weight import PackedWeight
from alpamayo_ros.quantization.scheme import RECIPES, SCHEMES
from alpamayo_ros.report.quantization_page import PAGE
from alpamayo_ros.runtime import memory
import alpamayo_ros.runtime.auto  # noqa: F401  registers the classes
from alpamayo_ros.runtime.load import load, load_model, plan_load

KINDS = [(recipe, bits) for recipe in RECIPES for bits in SCHEMES if bits < 16]
LAYER = 'vlm.model.language_model.layers.0.mlp.down_proj'


def run(target, bits=2, recipe='mixed', source=MODEL, **more):
    options = [part for name, value in more.items() for part in (f'--{name}', str(value))]
    arguments = [source, target, '--bits', bits, '--recipe', recipe, '--solver', 'minmax']
    return main([*map(str, arguments), *options])


@pytest.fixture(scope='module')
def mixed(tmp_path_factory):
    """Return the reference model's folder as `mixed` of 2 bits."""
    folder = tmp_path_factory.mktemp('mixed') / 'checkpoint'
    assert run(folder) == 0
    return folder


def tensors_of(folder):
    return {k: v for file in folder.glob('*.safetensors') for k, v in load_file(file).items()}


@torch.inference_mode()
def outputs(model):
    """Return logits behind the prompt and forced tokens, and the first velocity."""
    fields, case = np.load(MODEL / 'inputs.npz'), np.load(MODEL / 'case_greedy.npz')
    ids = torch.from_numpy(fields['fused_input_ids']).long()
    grids = [(int(h), int(w)) for _, h, w in fields['image_grid_thw']]
    rows = torch.from_numpy(case['raw_sequences'])[:, ids.shape[1] :].long().unsqueeze(1)
    vision = model.encode_images(torch.from_numpy(fields['pixel_values']), grids)
    prompt = model.prefill(ids, vision, grids, model.allocate_cache(1, ids.shape[1], 1, 40))
    logits = [prompt.logits.unsqueeze(1)]
    logits += [model.decode_step(prompt, rows[..., i]) for i in range(rows.shape[-1] - 1)]
    special = Processor(load_config(MODEL), MODEL).ids
    reasoning = summarise(rows, special, prompt.length, complete=False)
    window, positions = model.prepare_expert(prompt, reasoning)
    noise, t = torch.from_numpy(case['noise']), torch.zeros(1, 1, 1)
    velocity = model.predict_velocity(noise.view(1, -1, 2), t, prompt.cache, window, positions)
    return torch.stack(logits, 2), velocity


@pytest.mark.parametrize(('recipe', 'bits'), KINDS)
def test_quantized_model_equals_the_one_of_dense_weights(recipe, bits, tmp_path):
    assert run(tmp_path / 'q', bits, recipe) == 0
    model = load_model(tmp_path / 'q', bits=bits, recipe=recipe)
    got, want = outputs(model), outputs(make_dense(load_model(MODEL), model))
    assert (got[0] - want[0]).abs().max() < 1e-5 * want[0].abs().max()
    assert (got[1] - want[1]).abs().max() < 1e-5 * want[1].abs().max()


def test_plain_checkpoint_is_quantized_while_it_is_loaded(tmp_path):
    """The same tensors as those of the folder that alpamayo_quantize writes."""
    assert main([str(MODEL), str(tmp_path / 'q'), '--bits', '2', '--recipe', 'mixed']) == 0
    stored, loaded = load_model(tmp_path / 'q'), load_model(MODEL, bits=2, recipe='mixed')
    assert stored.state_dict().keys() == loaded.state_dict().keys()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, stored.state_dict()[name]), name


def test_sixteen_bits_of_a_plain_checkpoint_are_the_checkpoint():
    assert torch.equal(
        load_model(MODEL, bits=16).vlm.lm_head.weight, load_model(MODEL).vlm.lm_head.weight
    )


def test_auto_model_loads_a_quantized_folder(mixed):
    model = AutoModel.from_pretrained(mixed)
    assert isinstance(model.get_submodule(LAYER).weight, PackedWeight)
    assert model.vlm.lm_head.weight.rows % 128 == 0


def test_embedding_on_the_host_changes_nothing(mixed):
    want = outputs(load_model(mixed))
    got = outputs(load(plan_load(mixed, host_embedding=True)))
    assert torch.equal(got[0], want[0])
    plain = outputs(load(plan_load(MODEL, host_embedding=True)))
    assert torch.equal(plain[0], outputs(load_model(MODEL))[0])


@pytest.mark.parametrize('bits', [8, 4, 2])
def test_large_plain_embedding_stays_on_the_host_and_a_large_head_is_cut(
    bits, tmp_path, monkeypatch
):
    assert run(tmp_path / 'q', bits, recipe='uniform') == 0
    want = outputs(load_model(tmp_path / 'q'))
    monkeypatch.setattr('alpamayo_ros.runtime.load.LARGEST_BYTES', 200_000)
    for folder in (tmp_path / 'q', MODEL):  # as stored, and quantized while it is loaded
        model = load_model(folder, bits=bits, recipe='uniform')
        assert isinstance(model.vlm.model.language_model.embed_tokens, HostEmbedding)
        assert isinstance(model.vlm.lm_head, RowParts) == (bits > 2)
        largest = max(t.nbytes for n, t in model.state_dict().items() if 'embed_tokens' not in n)
        assert largest <= 200_000
        if folder != MODEL:
            assert all(
                torch.allclose(got, own, atol=1e-5)
                for got, own in zip(outputs(model), want, strict=True)
            )


@pytest.mark.parametrize('bits', [8, 4, 2, 1.58])
def test_products_that_share_an_input_are_joined(bits):
    model = load_model(MODEL, bits=bits, recipe='uniform')
    for layer in (*model.vlm.model.language_model.layers, *model.expert.layers):
        assert layer.self_attn.q_proj.joint is not None
        assert layer.mlp.gate_proj.joint is not None
        whole, own = layer.mlp.gate_proj.joint.stored[0], layer.mlp.up_proj.weight.stored[0]
        assert whole.untyped_storage().data_ptr() == own.untyped_storage().data_ptr()


def test_folder_tells_what_it_is(mixed):
    config = json.loads((mixed / 'config.json').read_text())['quantization_config']
    assert config['format_version'] == 1
    assert config['recipe'] == 'mixed'
    assert config['modules']['vlm.lm_head'] == {
        'bits': 4,
        'group': 128,
        'layout': 'quanto',
        'padded_rows': 128,
    }
    assert len(config['source_sha256']) == 64
    report = json.loads((mixed / REPORT).read_text())
    page = (mixed / PAGE).read_text()
    assert LAYER in page and 'Not calibrated' in page
    assert report['modules'][LAYER]['bits'] == 2
    assert 0.3 < report['modules'][LAYER]['relative_error'] < 0.6
    assert report['bytes'] == sum(t.nbytes for t in tensors_of(mixed).values())
    assert {path.name for path in mixed.iterdir()} == {
        'config.json',
        'model-00001-of-00001.safetensors',
        'model.safetensors.index.json',
        REPORT,
        PAGE,
        'vlm',
    }


def test_tokenizer_comes_from_where_vlm_says(tmp_path):
    source = tmp_path / 'source'
    shutil.copytree(MODEL, source, ignore=shutil.ignore_patterns('*.npz'))
    (source / 'vlm').rename(tmp_path / 'elsewhere')
    config = json.loads((source / 'config.json').read_text())
    config['vlm_name_or_path'] = str(tmp_path / 'elsewhere')
    (source / 'config.json').write_text(json.dumps(config))
    (tmp_path / 'elsewhere/modeling_code.py').write_text('')
    assert run(tmp_path / 'q', source=source, vlm=tmp_path / 'elsewhere') == 0
    copied = {path.name for path in (tmp_path / 'q/vlm').iterdir()}
    assert copied == {path.name for path in (MODEL / 'vlm').iterdir()}


def test_what_a_checkpoint_is_not_for_travels_without_its_figures(tmp_path):
    source = tmp_path / 'source'
    shutil.copytree(MODEL, source, ignore=shutil.ignore_patterns('*.npz'))
    card = {'limits': ['Not for a vehicle.', 'Synthetic.'], 'metrics': {'marker': 1.0}}
    (source / 'card.json').write_text(json.dumps(card))
    assert run(tmp_path / 'q', source=source) == 0
    found = json.loads((tmp_path / 'q/card.json').read_text())
    assert found == {'limits': ['Not for a vehicle. Synthetic.']}


def run_three_parts(target, monkeypatch, **arguments):
    """Interrupt a run after three parts; parts stay as small for the next one."""
    made = []

    def stop(job, part, *rest, write=quantize._write_part):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(part)
        return write(job, part, *rest)

    monkeypatch.setattr(quantize, '_write_part', stop)
    monkeypatch.setattr(quantize_job, 'PART_BYTES', 100_000)
    assert run(target, **arguments) == 130
    monkeypatch.undo()
    monkeypatch.setattr(quantize_job, 'PART_BYTES', 100_000)


def test_interrupted_run_goes_on_and_ends_the_same(tmp_path, monkeypatch, mixed):
    run_three_parts(tmp_path / 'q', monkeypatch)
    assert not (tmp_path / 'q').exists()
    kept = list((tmp_path / '.q.unfinished').glob('*.safetensors'))
    assert len(kept) == 3
    stamps = {path.name: path.stat().st_mtime_ns for path in kept}
    assert run(tmp_path / 'q') == 0
    assert [path.name for path in tmp_path.iterdir()] == ['q']
    assert all((tmp_path / 'q' / name).stat().st_mtime_ns == stamps[name] for name in stamps)
    want, got = tensors_of(mixed), tensors_of(tmp_path / 'q')
    assert got.keys() == want.keys()
    assert all(torch.equal(got[name], want[name]) for name in want)
    assert load_model(tmp_path / 'q') is not None


def test_part_that_is_not_the_one_of_its_note_is_made_anew(tmp_path, monkeypatch, mixed):
    run_three_parts(tmp_path / 'q', monkeypatch)
    first, second, third = sorted((tmp_path / '.q.unfinished').glob('*.safetensors'))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-50])
    kept = third.stat().st_mtime_ns
    assert run(tmp_path / 'q') == 0
    assert (tmp_path / 'q' / third.name).stat().st_mtime_ns == kept
    want, got = tensors_of(mixed), load_model(tmp_path / 'q').state_dict()
    assert all(torch.equal(got[name], want[name]) for name in want)


def test_interrupted_at_the_index_no_matrix_is_solved_again(tmp_path, monkeypatch):
    def stop(path, value, write=quantize._write_json):
        if path.name == INDEX:
            raise KeyboardInterrupt
        write(path, value)

    monkeypatch.setattr(quantize, '_write_json', stop)
    assert run(tmp_path / 'q') == 130
    monkeypatch.undo()
    monkeypatch.setattr(quantize, 'quantize_matrix', None)
    assert run(tmp_path / 'q') == 0


def test_another_vlm_is_not_mixed_in(source, tmp_path, monkeypatch, capsys):
    run_three_parts(tmp_path / 'q', monkeypatch)
    (source / 'vlm/tokenizer_old.json').write_text('{}')
    assert run(tmp_path / 'q', vlm=source / 'vlm') == 2
    assert 'with other arguments or another source (vlm)' in capsys.readouterr().err
    (tmp_path / '.q.unfinished/vlm/stray.json').write_text('{}')
    assert run(tmp_path / 'q') == 0
    copied = {path.name for path in (tmp_path / 'q/vlm').iterdir()}
    assert copied == {path.name for path in (MODEL / 'vlm').iterdir()}


def test_finished_parts_need_no_more_space(tmp_path, monkeypatch):
    run_three_parts(tmp_path / 'q', monkeypatch)
    usage = shutil._ntuple_diskusage(10**6, 0, 550_000)  # of 690 kB
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
    assert run(tmp_path / 'q') == 0


def test_disk_that_fills_up_is_one_line_and_keeps_what_is_finished(tmp_path, capsys, monkeypatch):
    run_three_parts(tmp_path / 'q', monkeypatch)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        assert run(tmp_path / 'q') == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error = capsys.readouterr().err.splitlines()[-1]
    assert '.q.unfinished/model-00004-of-' in error
    assert 'cannot be written: ' in error
    assert len(list((tmp_path / '.q.unfinished').glob('*.safetensors'))) == 3


def test_leftover_of_other_arguments_is_not_mixed_in(tmp_path, monkeypatch, capsys):
    def stop(job, part, *rest):
        raise KeyboardInterrupt

    monkeypatch.setattr(quantize, '_write_part', stop)
    assert run(tmp_path / 'q') == 130
    assert run(tmp_path / 'q', bits=4) == 2
    assert 'left by a run with other arguments' in capsys.readouterr().err


def test_quanto_0_2_0_zero_points_become_shifts(tmp_path):
    """Its files: integer zero-points, w = scale * (code - zero point), and unused scalars."""
    assert run(tmp_path / 'new', recipe='uniform') == 0
    tensors, want = tensors_of(tmp_path / 'new'), {}
    for name in [name for name in tensors if name.endswith('._shift')]:
        stem = name.removesuffix('._shift')
        zero = (tensors.pop(name) / tensors[stem + '._scale']).round().to(torch.int8)
        tensors[stem + '._zeropoint'] = zero
        tensors[stem.removesuffix('.weight') + '.input_scale'] = torch.ones(())
        want[name] = zero.to(torch.float32) * tensors[stem + '._scale'].to(torch.float32)
    old = tmp_path / 'old'
    shutil.copytree(MODEL, old, ignore=shutil.ignore_patterns('*.npz', '*.safetensors'))
    metadata = {f'{LAYER}.weight.qtype': 'qint2', f'{LAYER}.weight.axis': '0'}
    save_file(tensors, old / 'model.safetensors', metadata)
    assert run(tmp_path / 'converted', recipe='uniform', source=old) == 0
    for said in (tmp_path / 'converted/config.json', tmp_path / 'converted' / REPORT):
        found = json.loads(said.read_text())
        assert found.get('quantization_config', found)['solver'] == 'quanto'  # not minmax: of here
    converted = load_model(tmp_path / 'converted', bits=2).state_dict()
    for name, shift in want.items():
        assert torch.allclose(converted[name], shift, rtol=2**-8)
        data = name.replace('._shift', '._data._data')
        assert torch.equal(converted[data], tensors[data])


@pytest.fixture
def quanto(monkeypatch):
    """Return optimum-quanto without the C++ that it would compile here to take bytes apart."""
    from optimum import quanto
    from optimum.quanto.library.extensions import get_extension

    def unpack(packed, bits):
        return torch.cat([packed >> at & 2**bits - 1 for at in range(0, 8, bits)])

    monkeypatch.setattr(get_extension('quanto_cpp'), '_lib', SimpleNamespace(unpack=unpack))
    return quanto


@pytest.mark.parametrize(('bits', 'layers'), [(8, 65), (4, 63), (2, 65)])
def test_uniform_checkpoints_load_in_stock_quanto(bits, layers, tmp_path, quanto):
    """optimum-quanto 0.2.7 itself: same layers, same dense weights up to its bf16 arithmetic."""
    assert run(tmp_path / 'q', bits, 'uniform') == 0
    ours, stock = load_model(tmp_path / 'q'), load_model(MODEL).to(torch.bfloat16)
    left_out = ['vlm.lm_head', 'action_out_proj'] if bits == 4 else None
    quanto.quantize(stock, weights=f'qint{bits}', exclude=left_out)
    floats = {torch.float32: torch.bfloat16}
    state = {k: t.to(floats.get(t.dtype, t.dtype)) for k, t in tensors_of(tmp_path / 'q').items()}
    missing, unexpected = stock.load_state_dict(state, strict=False, assign=True)
    assert (missing, unexpected) == ([], [])
    found = [(n, m) for n, m in stock.named_modules() if isinstance(m, quanto.QLinear)]
    assert len(found) == layers
    for name, module in found:
        weight = ours.get_submodule(name).weight
        want = unpack_rows(weight.stored, weight.columns, torch.arange(weight.rows))
        got = module.weight.dequantize().to(torch.float32)
        assert (got - want).norm() < 0.01 * want.norm(), name


MEMORY = """
import sys, threading, time
from pathlib import Path
from alpamayo_ros.cli.quantize import main
import alpamayo_ros.conversion.quantize, torch
import torch._dynamo  # torch loads it once, whatever the size of the release

torch.set_num_threads(1)
def anonymous():
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith('RssAnon'):
            return int(line.split()[1]) * 1024

peak, done = 0, False
def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.002)

alpamayo_ros.conversion.plan.PART_BYTES = 10_000_000
alpamayo_ros.quantization.matrix.PIECE = 1 << 18
arguments = [sys.argv[1], sys.argv[2], '--bits', '2', '--recipe', 'mixed', '--solver', 'minmax']
before = anonymous()
thread = threading.Thread(target=watch)
thread.start()
status = main(arguments)
done = True
thread.join()
print(peak - before, status)
"""


def write_release(folder):
    """A release of two layers in bf16 and four files: 184 MB, 34 MB of them in one tensor."""
    from alpamayo_ros.runtime.load import build_on_meta

    shutil.copytree(MODEL, folder, ignore=shutil.ignore_patterns('*.npz', '*.safetensors'))
    vlm = json.loads((folder / 'vlm/config.json').read_text())
    wide = {'hidden_size': 1536, 'intermediate_size': 6144, 'num_hidden_layers': 2}
    vlm['text_config'] |= wide
    vlm['vision_config'] |= {'out_hidden_size': 1536}
    config = json.loads((folder / 'config.json').read_text())
    config |= {'vocab_size': 11_000, 'dtype': 'bfloat16'}
    config['expert_cfg'] |= {'num_hidden_layers': 2}
    (folder / 'vlm/config.json').write_text(json.dumps(vlm))
    (folder / 'config.json').write_text(json.dumps(config))
    shapes = {
        k: tuple(t.shape) for k, t in build_on_meta(load_config(folder)).state_dict().items()
    }
    names = sorted(shapes)
    mapping = {}
    for i in range(4):
        file = f'model-{i}.safetensors'
        part = {k: torch.ones(shapes[k], dtype=torch.bfloat16) for k in names[i::4]}
        save_file(part, folder / file)
        mapping |= dict.fromkeys(part, file)
    (folder / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': mapping}))
    return sum(2 * int(np.prod(shape)) for shape in shapes.values())


def test_memory_is_bounded_by_a_tensor_not_by_the_release(tmp_path):
    total = write_release(tmp_path / 'release')
    assert total > 180e6
    script = [sys.executable, '-c', MEMORY, str(tmp_path / 'release'), str(tmp_path / 'q')]
    result = subprocess.run(script, check=True, capture_output=True, text=True)
    peak, status = map(int, result.stdout.splitlines()[-1].split())
    assert status == 0
    assert peak < 60e6  # a packed tensor, a part, and what is solved at a time


def edit(folder, change):
    tensors = load_file(folder / 'model.safetensors')
    change(tensors)
    save_file(tensors, folder / 'model.safetensors')


@pytest.fixture
def source(tmp_path):
    """Return a copy of the reference model to be damaged."""
    copy = tmp_path / 'source'
    shutil.copytree(MODEL, copy, ignore=shutil.ignore_patterns('*.npz'))
    return copy


def test_faults_of_the_source_are_one_line_and_leave_nothing(source, tmp_path, capsys):
    def refused(said, **arguments):
        assert run(tmp_path / 'q', **({'source': source} | arguments)) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert said in error
        assert not (tmp_path / 'q').exists()
        assert not (tmp_path / '.q.unfinished').exists()

    refused('bits=3 is not one of', bits=3)
    refused("recipe 'best' is not one of", recipe='best')
    refused("solver 'gptq' is not one of", solver='gptq')
    refused("device 'tpu'", device='tpu')
    refused('no such folder', source=tmp_path / 'nowhere')
    refused('the hub does not give it', source='nobody/nothing')
    refused('the hub does not give it', vlm='nobody/nothing')
    refused("the key 'text_config' is missing", vlm=source)  # not its vlm/
    other = tmp_path / 'other'
    other.mkdir()
    refused('other/config.json: no such file', vlm=other)
    config = json.loads((MODEL / 'vlm/config.json').read_text())
    (other / 'config.json').write_text(json.dumps(config))
    refused('other/tokenizer.json: no such file', vlm=other)
    config['vision_config']['depth'] += 1
    (other / 'config.json').write_text(json.dumps(config))
    refused('another vision', vlm=other)
    (source / 'model.safetensors').write_bytes((source / 'model.safetensors').read_bytes()[:-1000])
    refused('3,550,984 of 3,551,984 bytes: the download or copy was cut short')


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        (LAYER + '.weight', torch.nan, 'values are NaN or infinite'),
        (LAYER + '.weight', 1e25, 'holds values too large to quantize'),
        ('action_in_proj.encoder.trunk.0.bias', torch.inf, 'values are NaN or infinite'),
    ],
)
def test_weights_that_are_not_finite_are_named(source, tmp_path, capsys, name, value, message):
    whole = (source / 'model.safetensors').read_bytes()
    edit(source, lambda tensors: tensors[name].fill_(value))
    assert run(tmp_path / 'q', source=source) == 2
    error = capsys.readouterr().err
    assert f'model.safetensors: {name}' in error and message in error
    (source / 'model.safetensors').write_bytes(whole)
    edit(source, lambda tensors: tensors[LAYER + '.weight'].fill_(1))  # repaired
    assert run(tmp_path / 'q', source=source) == 0


def test_quantized_source_is_refused(mixed, tmp_path, capsys):
    assert run(tmp_path / 'q', source=mixed) == 2
    assert 'quantized already' in capsys.readouterr().err


def test_target_that_exists_is_not_touched(tmp_path, capsys):
    (tmp_path / 'q').mkdir()
    assert run(tmp_path / 'q') == 2
    assert 'exists already' in capsys.readouterr().err


def test_too_little_memory_is_said_before(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(memory, 'read_available_bytes', lambda device: 10**6)
    assert run(tmp_path / 'q') == 2
    said = capsys.readouterr().err
    assert 'its largest matrix 0.00, solving 0.08), 0.00 GB are available on cpu' in said
    assert list(tmp_path.iterdir()) == []


def test_too_little_space_is_said_before(tmp_path, monkeypatch, capsys):
    usage = shutil._ntuple_diskusage(10**6, 10**6, 0)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
    assert run(tmp_path / 'q') == 2
    assert 'needs 0.00 GB, 0.00 GB are free' in capsys.readouterr().err


def test_other_width_or_recipe_than_asked_for_is_refused(mixed):
    with pytest.raises(BadInput, match='quantized to 2 bits, bits=4 was asked for'):
        load_model(mixed, bits=4)
    with pytest.raises(BadInput, match='quantized to 2 bits, bits=16 was asked for'):
        load_model(mixed, bits=16)
    with pytest.raises(BadInput, match="its recipe is 'mixed', 'uniform' was asked for"):
        load_model(mixed, recipe='uniform')
    with pytest.raises(BadInput, match='bits=3 is not one of'):
        load_model(MODEL, bits=3)


def test_changed_byte_is_found_by_its_hash(mixed, tmp_path):
    copy = tmp_path / 'copy'
    shutil.copytree(mixed, copy)
    file = copy / 'model-00001-of-00001.safetensors'
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(BadInput, match=r'model-00001-of-00001\.safetensors: its sha256 is'):
        load_model(copy)


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        ({'format_version': 9}, 'format_version 9, expected 1'),
        ({'recipe': 'best'}, "recipe 'best' is not one of"),
        ({'modules': {}}, 'are not those of the recipe'),
        ({'modules': None}, 'is not one that alpamayo_quantize writes'),
    ],
)
def test_config_that_says_something_else_is_refused(mixed, tmp_path, change, said):
    copy = tmp_path / 'copy'
    shutil.copytree(mixed, copy)
    config = json.loads((copy / 'config.json').read_text())
    config['quantization_config'] |= change
    (copy / 'config.json').write_text(json.dumps(config))
    with pytest.raises(BadInput, match=said):
        load_model(copy)


@pytest.mark.parametrize(
    ('ending', 'put', 'message'),
    [
        ('_scale', lambda x: x.index_fill(0, torch.tensor([1]), torch.nan), '1 of .* are NaN or'),
        ('_scale', torch.zeros_like, 'are zero, expected others'),
        ('_shift', lambda x: x * torch.inf, 'are NaN or infinite'),
        ('_scale', lambda x: x.to(torch.int32), 'is torch.int32, expected torch.float32'),
        ('_data._data', lambda x: x.float(), 'is torch.float32, expected torch.uint8'),
    ],
)
def test_packed_values_that_cannot_be_are_named(mixed, tmp_path, ending, put, message):
    copy, name = tmp_path / 'copy', f'{LAYER}.weight.{ending}'
    shutil.copytree(mixed, copy)
    (copy / 'model.safetensors.index.json').unlink()  # its sha256 would be another reason
    (part,) = copy.glob('*.safetensors')
    tensors = load_file(part)
    save_file(tensors | {name: put(tensors[name])}, copy / 'model.safetensors')
    part.unlink()
    with pytest.raises(BadInput, match=f'model.safetensors: {name}:? .*{message}'):
        load_model(copy)
