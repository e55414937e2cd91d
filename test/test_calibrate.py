"""Calibration: contexts of a drive, lessons, blocks, training, and what a user gets wrong."""

import json
import shutil

import pytest
from safetensors.torch import load_file
import small_bag
import torch

from alpamayo_ros.cli import quantize as command
from alpamayo_ros.conversion import (
    answers,
    block_quantizer,
    calibrate,
    calibrate_release,
    calibration_files,
    finetune,
    fit_widths,
    streams,
)
from alpamayo_ros.conversion.answers import count_spoken, make_lessons, mix_pictures
from alpamayo_ros.conversion.block_walk import list_blocks
from alpamayo_ros.conversion.fit_widths import fit_rules
from alpamayo_ros.conversion.learned_weight import LearnedLinear
from alpamayo_ros.conversion.lessons import Curriculum, curriculum_from_tensors
from alpamayo_ros.errors import BadInput
from alpamayo_ros.kernels.packing import PackedMatrix, unpack_rows
from alpamayo_ros.model.small import untrained
from alpamayo_ros.model.teacher_forcing import predict_velocities, run_language_model
from alpamayo_ros.quantization.codes import dequantize, measure_error
from alpamayo_ros.quantization.matrix import quantize_matrix
from alpamayo_ros.quantization.scheme import SCHEMES, Rule, count_bytes, find_rule, make_rules
from alpamayo_ros.replay.drawn_contexts import draw_contexts
from alpamayo_ros.rig import load_rig
from alpamayo_ros.runtime.engine import AlpamayoEngine
from alpamayo_ros.runtime.load import load_model

WIDTHS = [bits for bits, scheme in SCHEMES.items() if scheme.levels]
MOMENTS = 10


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """Return an untrained checkpoint of two blocks in each tower."""
    folder = tmp_path_factory.mktemp('source') / 'tiny'
    with pytest.MonkeyPatch.context() as patch:
        geometry = untrained._GEOMETRY
        few = {'num_hidden_layers': 2, 'depth': 2, 'deepstack_visual_indexes': [0]}
        shrunk = {
            part: {name: few.get(name, value) for name, value in own.items()}
            for part, own in geometry.items()
        }
        patch.setattr(untrained, '_GEOMETRY', shrunk)
        untrained.write_small_checkpoint(folder, 1)
    config = json.loads((folder / 'config.json').read_text())
    few_pixels = {'min_pixels': 32 * 32, 'max_pixels': 32 * 64}
    (folder / 'config.json').write_text(json.dumps(config | few_pixels))
    return folder


@pytest.fixture(scope='module')
def drive(tmp_path_factory):
    folder = tmp_path_factory.mktemp('drive')
    messages = small_bag.drive(6.0, curvature=0.02)
    return small_bag.write(folder / 'bag', messages), small_bag.write_rig(folder)


@pytest.fixture(scope='module')
def contexts(drive):
    return draw_contexts([drive[0]], load_rig(drive[1]), MOMENTS)


@pytest.fixture(scope='module')
def curriculum(source, contexts):
    real, numbers = answers._read_images, iter(range(MOMENTS + 2))

    def read(teacher, context):
        images = real(teacher, context)
        images[0, 0, 0, 0] = next(numbers)  # all pictures of the bag are alike
        return images

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers, 'MIXES', 1)
        patch.setattr(answers, '_read_images', read)
        spoken = []
        made = make_lessons(AlpamayoEngine(source), contexts, 0, spoken.append)
        assert sum(spoken) == count_spoken(len(contexts)) == len(made)
    return made


def run(source, drive, target, *more):
    bag, rig = drive
    arguments = [source, target, '--bits', '2', '--drive', bag, '--rig', rig, *more]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, 'MOMENTS', MOMENTS)
        patch.setattr(block_quantizer, 'PASSES', 1)
        patch.setattr(finetune, 'STEPS', 1)
        patch.setattr(calibrate, '_MEASUREMENTS', 5)
        patch.setattr(answers, 'MIXES', 0)
        return command.main([str(x) for x in arguments])


@pytest.fixture(scope='module')
def sizes():
    """Bytes that the calibration counts for its training, and of the files of it."""
    return {'counted': 0, 'written': 0}


@pytest.fixture(scope='module')
def calibrated(source, drive, tmp_path_factory, sizes):
    target = tmp_path_factory.mktemp('calibrated') / 'q'
    count, save = calibrate_release.count_training_bytes, calibrate.save_progress

    def remember(job):
        sizes['counted'] = count(job)
        return sizes['counted']

    def measure(progress, file):
        save(progress, file)
        sizes['written'] = file.stat().st_size

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrate_release, 'count_training_bytes', remember)
        patch.setattr(calibrate, 'save_progress', measure)
        assert run(source, drive, target) == 0
    return target


def test_room_for_the_training_is_that_of_its_file_twice(calibrated, sizes):
    # names and shapes of the tensors stand in the file as well
    assert sizes['written'] < sizes['counted'] / 2 + 100_000
    assert sizes['counted'] / 2 < sizes['written']


def test_contexts_are_spread_over_the_drives_as_the_replay_serves_them(drive, contexts):
    bag, rig = drive
    assert MOMENTS - 1 <= len(contexts) <= MOMENTS + 1
    stamps = [context.t0_ns - small_bag.START_NS for context in contexts]
    assert stamps[0] == 1_600_000_000 and stamps[-1] > 5_200_000_000
    twice = draw_contexts([bag, bag], load_rig(rig), MOMENTS)
    assert [context.t0_ns for context in twice[: len(twice) // 2]] == [
        context.t0_ns for context in twice[len(twice) // 2 :]
    ]
    assert MOMENTS - 2 <= len(twice) <= MOMENTS + 2


def test_blocks_in_their_order_are_the_model(source, curriculum):
    model, own = load_model(source), curriculum.learned
    with torch.no_grad():
        state = finetune.run_blocks(model, list(list_blocks(model.config)), own)
        logits, prefix = run_language_model(model, own.batch)
        velocity = predict_velocities(model, prefix, own.x, own.t)
    assert torch.allclose(state.logits, logits, atol=1e-4 * float(logits.abs().max()))
    assert torch.allclose(state.velocity, velocity, atol=1e-5)
    paths = [block.path for block in list_blocks(model.config)]
    assert len(paths) == len(set(paths)) == 2 + 1 + 1 + 2 * 2 + 2


def test_mixed_pictures_come_with_other_histories_and_every_one_equally_often(monkeypatch):
    monkeypatch.setattr(answers, 'MIXES', 2)
    moments = [(f'history {i}', torch.full((1,), i)) for i in range(5)]
    mixed = mix_pictures(moments)
    pairs = [(history, int(images)) for history, images in mixed]
    assert sorted(history for history, _ in pairs) == sorted(2 * [name for name, _ in moments])
    assert sorted(images for _, images in pairs) == sorted(2 * list(range(5)))
    assert sum(f'history {images}' != history for history, images in pairs) >= 6


def test_held_out_moments_are_in_no_mix(curriculum, contexts):
    """The fixture numbers the pictures by their first value."""

    def numbers(own):
        return sorted(int(images.flatten()[0]) for images in own.batch.images)

    held_out = list(range(4, len(contexts), 8))
    assert numbers(curriculum.held_out) == held_out
    assert numbers(curriculum.learned) == sorted(
        2 * [number for number in range(len(contexts)) if number not in held_out]
    )


def test_lessons_survive_their_file_and_every_chunk_has_its_size(curriculum, monkeypatch):
    tensors = curriculum.to_tensors()
    again = curriculum_from_tensors(tensors)
    assert isinstance(again, Curriculum) and len(again) == len(curriculum)
    assert again.to_tensors().keys() == tensors.keys()
    assert all(torch.equal(x, tensors[name]) for name, x in again.to_tensors().items())
    own = curriculum.learned
    tokens = own.batch.prompt.shape[1] + own.batch.rest.shape[1]
    monkeypatch.setattr(streams, 'CHUNK_TOKENS', 3 * tokens)
    sizes = [len(chunk) for chunk in streams.split_chunks(own.take(range(7)))]
    assert sizes == [3, 3, 1]


def test_blocks_are_quantized_on_the_first_chunks():
    chunks = ['abc', 'def', 'g']
    wanted = {1: 1, 3: 1, 4: 2, 6: 2, 7: 3, 100: 3}
    assert {n: calibrate._count_chunks(chunks, n) for n in wanted} == wanted


def test_block_is_taken_as_a_copy(source, tmp_path):
    model = load_model(source)
    own = streams.begin_streams(model, make_rules('mixed', 2), [], 0, 'cpu', tmp_path)
    for block in list_blocks(model.config):
        plain, taken = model.get_submodule(block.path), own.take_block(block)
        for x, y in zip(plain.parameters(), taken.parameters(), strict=True):
            assert torch.equal(x, y) and x.data_ptr() != y.data_ptr()


def test_large_hidden_state_waits_in_a_file_that_goes_with_it(tmp_path, monkeypatch):
    x = random(3, 5).to(torch.bfloat16)
    monkeypatch.setattr(streams, 'LARGE', x.nbytes)
    kept = streams.keep(x, tmp_path)
    assert torch.equal(kept, x) and not list(tmp_path.iterdir())
    assert kept.untyped_storage().filename is not None
    assert streams.keep(x[:2], tmp_path).untyped_storage().filename is None

    def fill(*arguments):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('os.posix_fallocate', fill)
    with pytest.raises(BadInput, match='cannot be written: No space left on device'):
        streams.keep(x, tmp_path)


@pytest.mark.parametrize('bits', WIDTHS)
def test_learned_layer_is_the_packed_one_and_stores_what_it_computes(bits):
    rule = Rule('*', bits, row_multiple=8)
    like = torch.nn.Linear(192, 30, bias=False)
    stored, error = quantize_matrix(like.weight, rule)
    layer = LearnedLinear(like, rule, stored)
    assert measure_error(stored, rule, like.weight) == pytest.approx(error, rel=1e-3)
    for name, tensor in layer.collect_tensors().items():
        assert torch.equal(tensor.view(-1), stored[name.removeprefix('.weight')].view(-1)), name
    layer.free_codes(like.weight.detach() * 1.02)
    with torch.no_grad():
        for part in filter(lambda p: p is not None, (layer.stretch, layer.move, layer.place)):
            part += 0.3 * random(*part.shape, seed=2)
    weight = layer.compute_weight().detach()
    layer.fix_codes()
    kept = {k.removeprefix('.weight'): x for k, x in layer.collect_tensors().items()}
    shift = kept['._scale'] if bits == 1.58 else kept.get('._shift')
    data = next(x for name, x in kept.items() if name.endswith('_data'))
    assert data.shape == next(x for k, x in stored.items() if k.endswith('_data')).shape
    assert not torch.equal(data, next(x for k, x in stored.items() if k.endswith('_data')))
    matrix = PackedMatrix(data, kept['._scale'], shift, rule.scheme.levels)
    dense = unpack_rows(matrix, 192, torch.arange(30))
    assert torch.allclose(dense.float(), weight, atol=0.02 * float(weight.abs().max()))


@pytest.mark.parametrize('bits', [8, 2])
def test_large_matrix_that_goes_by_in_pieces_is_the_whole_one(bits, monkeypatch):
    like, rule = torch.nn.Linear(64, 50), Rule('*', bits, row_multiple=8)
    layer = LearnedLinear(like, rule, quantize_matrix(like.weight, rule)[0])
    found = []
    for size in (1 << 20, 64 * 13):
        monkeypatch.setattr('alpamayo_ros.conversion.learned_weight.PIECE', size)
        y = layer(random(3, 64))
        found.append((y.detach(), *torch.autograd.grad(y.square().sum(), [layer.stretch])))
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(*found, strict=True))


def test_matrix_that_follows_the_drift_gives_the_outputs_of_the_plain_input():
    x, weight = random(4000, 32), random(8, 32, seed=1)
    y = x + 0.3 * x.roll(1, 1)
    own, drift = x.T @ x / 4000, (y - x).T @ x / 4000
    wanted = block_quantizer.follow_drift(weight, own, drift, 4000)
    assert (x @ wanted.T - y @ weight.T).norm() < 0.05 * (x @ weight.T - y @ weight.T).norm()


def test_calibrated_checkpoint_is_an_ordinary_one_with_its_figures(calibrated, source):
    load_model(calibrated, bits=2)
    config = json.loads((calibrated / 'config.json').read_text())['quantization_config']
    assert config['recipe'] == 'mixed_path4' and len(config['calibration_sha256']) == 64
    report = json.loads((calibrated / 'quantization_report.json').read_text())
    found = report['calibration']
    assert [own['block'] for own in found['blocks']] == [
        block.path for block in list_blocks(load_model(source).config)
    ]
    assert all(own['trained_error'] <= own['feedback_error'] for own in found['blocks'])
    measured = [own['kl'] is not None for own in found['blocks']]
    assert measured == [False, True] * 5  # every second of ten, so that five are
    assert found['after_training']['kl'] <= found['before_training']['kl'] + 1e-6
    assert not (calibrated / 'calibration').exists()


def test_interrupted_calibration_goes_on_and_ends_the_same(
    source, drive, calibrated, tmp_path, monkeypatch, capsys
):
    counts, real = [], calibrate.train_block

    def stop(*arguments):
        counts.append(1)
        if len(counts) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(calibrate, 'train_block', stop)
    assert run(source, drive, tmp_path / 'q') == 130
    assert capsys.readouterr().err.splitlines()[-1].endswith('interrupted')
    assert not (tmp_path / 'q').exists()
    assert run(source, drive, tmp_path / 'q') == 0
    assert len(counts) == 1 + len(list(list_blocks(load_model(source).config)))
    for file in calibrated.iterdir():
        if file.is_file():
            assert file.read_bytes() == (tmp_path / 'q' / file.name).read_bytes(), file.name


def refused(capsys, text, *arguments):
    assert command.main([str(x) for x in arguments]) == 2
    lines = [x for x in capsys.readouterr().err.splitlines() if 'error:' in x]
    assert len(lines) == 1 and text in lines[0], lines


def test_faults_of_drives_and_rigs_are_one_line(source, drive, tmp_path, capsys):
    bag, rig = drive
    start = [source, tmp_path / 'q', '--bits', '2']
    refused(capsys, 'expected --drive BAG and --rig RIG together', *start, '--drive', bag)
    refused(capsys, 'no topic', *start, '--drive', bag, '--rig', 'synthetic')
    both = [*start, '--drive', bag, '--rig', rig]
    refused(capsys, "solver 'hqq': a calibration", *both, '--solver', 'hqq')
    short = small_bag.write(tmp_path / 'short', small_bag.drive(1.0))
    given = [*start, '--drive', short, '--rig', rig]
    refused(capsys, 'no valid context for the rig', *given)
    assert not list(tmp_path.glob('.q*'))


def test_too_few_lessons_and_pictures_of_two_sizes_are_one_line(source, contexts):
    with pytest.raises(BadInput, match='expected 8 or more'):
        make_lessons(AlpamayoEngine(source), contexts[:3], 0, lambda count: None)


def test_too_little_memory_is_said_before_with_both_figures(source, drive, tmp_path, capsys):
    def fail(what, needed, device):
        raise BadInput(f'{what}: needs {sum(needed.values())}')

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('alpamayo_ros.conversion.calibrate_release.require_memory', fail)
        assert run(source, drive, tmp_path / 'q') == 2
    assert 'calibration: needs' in capsys.readouterr().err


def test_disk_that_fills_up_keeps_the_blocks_that_are_finished(
    source, drive, calibrated, tmp_path, capsys, monkeypatch
):
    from safetensors import SafetensorError

    real, names = calibration_files.save_file, []

    def fill(tensors, file, metadata):
        names.append(file.name)
        if len(names) == 4:
            raise SafetensorError('No space left on device')
        real(tensors, file, metadata)

    monkeypatch.setattr(calibration_files, 'save_file', fill)
    assert run(source, drive, tmp_path / 'q') == 2
    assert 'cannot be written: No space left on device' in capsys.readouterr().err
    kept = sorted(x.name for x in (tmp_path / '.q.unfinished/calibration').glob('*.safetensors'))
    assert len(kept) == 3
    shutil.rmtree(tmp_path / '.q.unfinished')


def test_stored_tensors_are_those_of_a_release(calibrated):
    tensors = {k: v for x in calibrated.glob('*.safetensors') for k, v in load_file(x).items()}
    assert {x.dtype for x in tensors.values()} == {torch.bfloat16, torch.uint8, torch.int8}


def test_no_drive_says_what_that_costs(source, tmp_path, capsys):
    assert command.main([str(source), str(tmp_path / 'q'), '--bits', '2']) == 0
    assert command.UNCALIBRATED in capsys.readouterr().err
    config = json.loads((tmp_path / 'q/config.json').read_text())['quantization_config']
    assert config['recipe'] == 'mixed'


def test_widths_go_where_a_byte_saves_most_within_the_budget():
    shapes = {f'{name}.weight': (128, 128) for name in 'abc'} | {'norm.weight': (128,)}
    harms = {
        'a': {2.0: 9.0, 4.0: 1.0, 8.0: 0.9},
        'b': {2.0: 2.0, 4.0: 1.5, 8.0: 0.0},
        'c': {2.0: 0.1, 4.0: 0.05, 8.0: 0.0},
    }

    def widths(budget):
        rules = fit_rules(shapes, harms, budget, 'release')
        total = 8 * sum(count_bytes(rules, shapes.items()).values()) / (3 * 128**2 + 128)
        assert total <= budget
        return [find_rule(name, rules).bits for name in 'abc']

    assert widths(2.4) == [2, 2, 2]
    assert widths(3.0) == [4, 2, 2]
    assert widths(5.0) == [4, 8, 2]
    assert widths(9.0) == [8, 8, 8]
    with pytest.raises(BadInput, match=r'release has 2\.29 with 2 bits'):
        fit_rules(shapes, harms, 2.0, 'release')


def test_harm_is_squared_gradient_times_squared_rounding(source, curriculum):
    name = 'expert.layers.1.mlp.up_proj'
    model, own = load_model(source), curriculum.learned
    harms = fit_widths.measure_harms(model, [own], 0, lambda count: None)
    assert name in harms and 'action_out_proj' not in harms and 'vlm.lm_head' in harms
    assert all(own[2.0] > own[4.0] > own[8.0] >= 0 for own in harms.values())
    weight = model.get_submodule(name).weight.requires_grad_()
    state = finetune.run_blocks(model, list(list_blocks(model.config)), own)
    answer = fit_widths._draw_answer(state, own, torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(answer, weight)
    stored, _ = quantize_matrix(weight, Rule('*', 2))
    error = dequantize(stored, Rule('*', 2), *weight.shape) - weight.detach()
    wanted = float((gradient.square() * error.square()).sum())
    assert harms[name][2.0] == pytest.approx(wanted, rel=0.1)  # sums over groups of both


def test_fitted_widths_are_data_of_the_checkpoint(source, drive, tmp_path, capsys, monkeypatch):
    bag, rig = drive
    start = [source, tmp_path / 'q', '--bits', '2', '--drive', bag, '--rig', rig]
    refused(capsys, 'expected --recipe fitted', *start, '--bits-per-weight', '3')
    given = ('--recipe', 'fitted', '--bits-per-weight')
    monkeypatch.setattr(command, '_calibrate', lambda *arguments: None)  # tested above
    assert run(source, drive, tmp_path / 'q', *given, '5') == 0
    config = json.loads((tmp_path / 'q/config.json').read_text())['quantization_config']
    assert config['recipe'] == 'fitted'
    widths = {own['bits'] for own in config['modules'].values()}
    assert {2, 4} <= widths <= {2, 4, 8, 16}
    load_model(tmp_path / 'q', bits=2, recipe='fitted')
    report = json.loads((tmp_path / 'q/quantization_report.json').read_text())
    weights = sum(x.numel() for x in load_model(source).parameters())
    assert 4.8 < 8 * report['bytes'] / weights <= 5
    with pytest.raises(BadInput, match='only alpamayo_quantize fits widths'):
        load_model(source, bits=2, recipe='fitted')
