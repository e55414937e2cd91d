"""Training: the same computation as inference, runs that go on, checkpoints that load."""

from dataclasses import replace
from functools import partial
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from tiny_training import HEIGHT, WIDTH, write_settings
import torch
from torch import nn
import torch.nn.functional as F
import yaml

from alpamayo_ros.data_types import Context, EgoPose, Frame, SamplingOptions
from alpamayo_ros.errors import BadInput
from alpamayo_ros.model.reasoning.generation import Reasoning
from alpamayo_ros.model.teacher_forcing import predict_velocities, run_language_model
from alpamayo_ros.runtime.engine import AlpamayoEngine
from training import compiled, train
from training.architecture import create_checkpoint_folder, make_model
from training.batches import Batches, TokenSequences, make_generator
from training.compiled import Attend, make_compiled_step
from training.drives import Drives
from training.export import export
from training.losses import compute_losses, draw_noise, draw_times
from training.optimizer import Optimizer, is_hidden
from training.settings import load_settings
from training.state import FILE_BYTES, TOTAL_BYTES, load_state, save_state
from training.step import choose_by_cameras, make_plain_step, record_step
from training.train import DEFAULT, Trainer, create_run, main


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    """Return a settings file of a tiny model: the shipped one with other sizes."""
    return write_settings(tmp_path_factory.mktemp('settings') / 'tiny.yaml')


@pytest.fixture
def run(tmp_path, config):
    create_run(tmp_path / 'run', config)
    return tmp_path / 'run'


@pytest.fixture(scope='module')
def parts(tmp_path_factory, config):
    """Settings, model, words and the first batches of a run."""
    settings = load_settings(config)
    checkpoint = create_checkpoint_folder(tmp_path_factory.mktemp('parts'), settings)
    model = make_model(checkpoint, settings.seed)
    words = TokenSequences(checkpoint, settings, [(0, 1, 2, 6), (1, 6), (1,)])
    return settings, model, words, Drives('train', settings, model.action_space)


def batches(parts, **changes):
    settings, _, words, drives = parts
    return Batches(words, drives, replace(settings, **changes), 'cpu', workers=0)


@torch.inference_mode()
def rollout(model, batch, x, t):
    """Logits and velocities of the inference path, told the batch's tokens one by one."""
    count, images = batch.images.shape[:2]
    vision = [model.encode_images(*patches_of(model, scene)) for scene in batch.images]
    grids = [(HEIGHT // 16, WIDTH // 16)] * (count * images)
    features = (
        torch.cat([embeds for embeds, _ in vision]),
        [torch.cat(level) for level in zip(*(levels for _, levels in vision), strict=True)],
    )
    tokens = batch.rest.shape[1]
    cache = model.allocate_cache(count, batch.prompt.shape[1], 1, tokens)
    prompt = model.prefill(batch.prompt, features, grids, cache)
    logits = [prompt.logits]
    for i in range(tokens):
        logits.append(model.decode_step(prompt, batch.rest[:, i : i + 1])[:, 0])
    no = torch.zeros(count, 1, dtype=torch.bool)
    reasoning = Reasoning(
        batch.rest.unsqueeze(1), batch.marker.unsqueeze(1),
        no, no, batch.prompt.shape[1] + tokens,
    )  # fmt: skip
    field = model.make_velocity_field(prompt, reasoning)
    found = [field(x[:, k], t[:, k].view(-1, 1, 1)) for k in range(x.shape[1])]
    return torch.stack(logits[:-1], 1), torch.stack(found, 1)


def patches_of(model, images):
    from alpamayo_ros.model.prompt.image_processor import to_patches

    return to_patches(images), [(HEIGHT // 16, WIDTH // 16)] * len(images)


@pytest.mark.parametrize('cameras', [(0, 1, 2, 6), (1,)], ids=str)
def test_the_training_forward_equals_the_inference_path(parts, cameras):
    """Logits of every token and velocities, for markers at different places."""
    _, model, _, _ = parts
    only = ({'indices': list(cameras), 'share': 1.0},)
    batch = next(batches(parts, cameras=only).iterate_from(0))
    assert len(set(batch.marker.tolist())) > 1
    random = torch.Generator().manual_seed(0)
    x = torch.randn((3, 2, 64, 2), generator=random)
    t = torch.rand((3, 2), generator=random)
    with torch.no_grad():
        logits, prefix = run_language_model(model, batch)
        ours = predict_velocities(model, prefix, x, t)
    their_logits, theirs = rollout(model, batch, x, t)
    valid = torch.arange(logits.shape[1]) <= batch.marker.unsqueeze(-1)
    assert (batch.first > 5).all()
    assert theirs.std() > 0.02 and their_logits.std() > 0.02
    assert (ours - theirs).abs().max() < 1e-4
    assert (logits - their_logits)[valid].abs().max() < 1e-4


def test_prompts_and_pictures_are_those_of_the_inference_path(parts):
    settings, model, words, drives = parts
    batch = next(batches(parts, cameras=({'indices': [1, 6], 'share': 1.0},)).iterate_from(0))
    assert batch.images.shape == (3, 8, 3, HEIGHT, WIDTH)
    samples = [sample for number in range(2) for sample in _list_samples(drives[number])]
    grids = [(HEIGHT // 16, WIDTH // 16)] * 8
    expected = {}
    for xyz, rot, route, text in samples:
        ids = words.processor.build_input_ids(
            grids, (1, 6), xyz, rot, route=route, with_reasoning=text is not None
        )
        expected[tuple(ids[0].tolist())] = text
    for i, (first, marker) in enumerate(zip(batch.first, batch.marker, strict=True)):
        asked = torch.cat([batch.prompt[i], batch.rest[i, : min(first, marker)]])
        text = expected[tuple(asked.tolist())]
        written = words.processor.decode(batch.rest[i][batch.written[i]].tolist())
        end = '<|cot_end|><|traj_future_start|>'
        assert written == (text + end if text else '')
        assert batch.rest[i, marker] == words.processor.ids.future_start
    # the second half is the telephoto camera, which sees less of the sky than of the road
    assert not torch.equal(batch.images[:, 3], batch.images[:, 7])


def _list_samples(drive):
    """History, route and reasoning of each sample of a drive."""
    return zip(drive.history_xyz, drive.history_rot, drive.routes, drive.texts, strict=True)


def test_actions_of_a_batch_drive_the_future(parts):
    _, model, _, drives = parts
    drive = drives[1]
    path, _ = model.action_space.action_to_traj(
        drive.actions, drive.history_xyz, drive.history_rot
    )
    assert (path - drive.future_xyz).norm(dim=-1).max() < 0.15


def test_times_of_the_flow_follow_the_released_distribution():
    t = draw_times((200_000,), torch.Generator().manual_seed(0))
    assert t.min() >= 0.0 and t.max() < 0.999
    assert t.mean() == pytest.approx(0.999 * 0.4, abs=2e-3)  # the mean of Beta(1.5, 1) is 0.6
    assert (t < 0.5).float().mean() == pytest.approx(1 - (1 - 0.5 / 0.999) ** 1.5, abs=4e-3)


def test_the_losses_fall_on_a_few_samples(run, config):
    steps, one_camera = 60, ({'indices': [1], 'share': 1.0},)
    settings = replace(load_settings(config), steps=steps, warmup=5, cameras=one_camera)
    trainer = Trainer(run, settings, 'cpu', workers=0)
    batch = next(trainer._batches.iterate_from(0))

    def cost():
        with torch.no_grad():
            found = compute_losses(
                trainer.model, batch, *draw_noise(batch, 8, make_generator('cpu', 5))
            )
        return float(found.language), float(found.flow), float(found.path)

    before = cost()
    for step in range(steps):
        found = compute_losses(
            trainer.model, batch, *draw_noise(batch, 2, make_generator('cpu', step))
        )
        found.weigh(settings).backward()
        trainer.optimizer.update(step)
    after = cost()
    assert after[0] < 0.1 * before[0]
    assert after[1] < 0.6 * before[1] and after[2] < 0.6 * before[2]


def test_computing_in_bfloat16_learns_the_same_weights(run, config):
    """The weights that are learned stay in float32; what the model computes with is rounded."""
    settings = load_settings(config)
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        trainer = Trainer(run, settings, 'cpu', workers=0)
        trainer.optimizer = Optimizer(trainer.model, settings, dtype)
        batch = next(trainer._batches.iterate_from(0))
        start = trainer.optimizer.weights.clone()
        drawn = draw_noise(batch, 2, make_generator('cpu', 0))
        cost = compute_losses(trainer.model, batch, *drawn).weigh(settings)
        cost.backward()
        trainer.optimizer.update(0)
        assert trainer.optimizer.weights.dtype == torch.float32
        working = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
        assert working.dtype == dtype
        found.append((float(cost.detach()), trainer.optimizer.weights - start))
    assert found[0][0] == pytest.approx(found[1][0], rel=0.02)
    assert torch.cosine_similarity(found[0][1], found[1][1], 0) > 0.8


@pytest.mark.skipif(not hasattr(torch.optim, 'Muon'), reason='torch.optim.Muon needs torch 2.9')
def test_updates_equal_those_of_torch_muon_and_adamw(run, config):
    """The moments differ: bfloat16 here, float32 in the twins."""
    settings = replace(load_settings(config), weight_decay=0.1, clip=1e9)
    trainer = Trainer(run, settings, 'cpu', workers=0)
    model, optimizer = trainer.model, trainer.optimizer
    names = [name for name, _ in model.named_parameters()]
    starts = [parameter.detach().clone() for parameter in model.parameters()]
    twins = dict(zip(names, [nn.Parameter(start.clone()) for start in starts], strict=True))
    hidden = {name for name, p in twins.items() if is_hidden(name, p)}
    assert 'expert.layers.0.mlp.gate_proj.weight' in hidden and 'vlm.lm_head.weight' not in hidden
    muon = torch.optim.Muon(
        [twins[name] for name in sorted(hidden)], adjust_lr_fn='match_rms_adamw'
    )
    groups = [
        {'params': [p for n, p in twins.items() if n not in hidden and p.dim() > 1]},
        {'params': [p for p in twins.values() if p.dim() < 2], 'weight_decay': 0.0},
    ]
    adamw = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.1)
    random = torch.Generator().manual_seed(1)
    for step in range(5):
        for (_, twin), parameter in zip(twins.items(), model.parameters(), strict=True):
            twin.grad = torch.randn(twin.shape, generator=random)
            parameter.grad.copy_(twin.grad)
        optimizer.update(step)
        for group in muon.param_groups + adamw.param_groups:
            group['lr'] = optimizer.compute_learning_rate(step)
        muon.step()
        adamw.step()
    assert not optimizer.gradient.any()
    for name, parameter, start in zip(names, model.parameters(), starts, strict=True):
        ours, theirs = parameter.detach() - start, twins[name].detach() - start
        assert (ours - theirs).norm() < 0.05 * theirs.norm(), name


def found_by(step, model, batch, drawn):
    """Losses and gradients, one tensor for each parameter."""
    model.zero_grad()
    losses_of = step(batch, *drawn)
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    return losses_of, gradients


@pytest.mark.parametrize('traced', [False, True], ids=['eager', 'traced'])
def test_the_compiled_step_equals_the_plain_one(parts, monkeypatch, traced):
    """Cameras change from step to step, markers stand at different places.

    Traced: one graph serves all layers of a shape.
    """
    graphs = []

    def kept(graph, inputs):
        graphs.append(graph)
        return graph.forward

    settings, model, _, _ = parts
    sets = [(1, 6), (1,), (1, 6)]
    monkeypatch.setattr(torch.compiler.config, 'recompile_limit', 8)
    monkeypatch.setattr(compiled, 'COMPILE', compiled.COMPILE | {'options': {}, 'backend': kept})
    ours = make_compiled_step(model, settings, compiled=traced)
    for number, cameras in enumerate(sets):
        only = ({'indices': list(cameras), 'share': 1.0},)
        batch = next(batches(parts, cameras=only).iterate_from(0))
        assert len(set(batch.marker.tolist())) > 1
        drawn = draw_noise(batch, 2, make_generator('cpu', number))
        plain = found_by(make_plain_step(model, settings), model, batch, drawn)
        found = found_by(ours, model, batch, drawn)
        assert torch.allclose(found[0], plain[0], rtol=1e-5)
        for name, gradient in plain[1].items():
            error = (found[1][name] - gradient).norm()
            assert error <= 2e-5 * gradient.norm() + 1e-8, (name, cameras)
    # two sets of cameras: the pictures' embedding, a block, two mergers, layers of two decoders
    assert len(graphs) == (2 * (1 + 1 + 2 + 2) if traced else 0)
    torch.compiler.reset()


def test_a_run_may_begin_with_another_drive(parts):
    """The first chunk of a run from drive 2 on is what comes second in one from drive 0 on."""
    all_cameras = ({'indices': [0, 1, 2, 6], 'share': 1.0},)

    def actions(first_drive, step):
        data = parts[0].data | {'first_drive': first_drive, 'kept_chunks': 1}
        batch = next(batches(parts, data=data, cameras=all_cameras).iterate_from(step))
        return {tuple(own.flatten().tolist()) for own in batch.actions}

    assert parts[0].data['drives_per_chunk'] == 2
    there = {
        tuple(own.flatten().tolist()) for number in (2, 3) for own in parts[3][number].actions
    }
    assert actions(2, 0) <= there and actions(0, parts[0].chunk_steps) <= there
    assert not actions(0, 0) & there


def test_rare_sets_of_cameras_have_a_step_of_their_own(parts):
    """With a share of 0.5: the set that six of ten batches have, not the others."""
    sets = [([0, 1, 2, 6], 0.6), ([1, 6], 0.3), ([1], 0.1)]
    cameras = tuple({'indices': own, 'share': share} for own, share in sets)
    settings = replace(parts[0], cameras=cameras)
    step = choose_by_cameras(settings, lambda *_: 'common', lambda *_: 'rare', 0.5)
    batch, found = next(batches(parts, cameras=cameras[:1]).iterate_from(0)), []
    for chosen, _ in sets:
        seen = replace(batch, images=batch.images[:, : 4 * len(chosen)])
        found.append(step(seen, *draw_noise(seen, 1, make_generator('cpu', 0))))
    assert found == ['common', 'rare', 'rare']


def test_a_large_score_behind_the_mask_changes_nothing():
    random = torch.Generator().manual_seed(0)
    q = torch.randn((2, 2, 3, 4, 8), generator=random).requires_grad_()
    k, v = (torch.randn((2, 2, 5, 8), generator=random) for _ in range(2))
    k[:, :, 4] = 1e4 * q.detach()[:, :, 0, 0]
    seen = torch.arange(5).expand(4, -1) < 4
    mask = torch.zeros(4, 5).masked_fill_(~seen, -1e30)
    found = Attend.apply(q, k, v, mask)
    wanted = F.scaled_dot_product_attention(q, k.unsqueeze(2), v.unsqueeze(2), attn_mask=seen)
    assert torch.allclose(found, wanted, atol=1e-5)
    gradients = [torch.autograd.grad(y.square().sum(), q)[0] for y in (found, wanted)]
    assert torch.allclose(*gradients, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_recorded_steps_give_the_losses_and_gradients_of_plain_ones(run, config):
    settings = load_settings(config)
    trainer = Trainer(run, settings, 'cuda', workers=0)
    step, gradient = make_plain_step(trainer.model, settings), trainer.optimizer.gradient
    recorded = record_step(step, gradient)
    for number, batch in zip(range(6), trainer._batches.iterate_from(0), strict=False):
        drawn = draw_noise(batch, 2, make_generator('cuda', number))
        found = []
        for way in (step, recorded):
            gradient.zero_()
            found.append((way(batch, *drawn).clone(), gradient.clone()))
        assert torch.allclose(found[0][0], found[1][0], rtol=1e-3)
        assert torch.cosine_similarity(found[0][1].float(), found[1][1].float(), 0) > 0.999


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_recorded_updates_change_the_weights_as_plain_ones(run, config):
    trainer = Trainer(run, load_settings(config), 'cuda', workers=0)
    ours = trainer.optimizer
    start = ours.weights.clone()
    random = torch.Generator('cuda').manual_seed(1)
    gradients = torch.randn((4, *ours.gradient.shape), generator=random, device='cuda')
    found = []
    for recorded in (True, False):
        for vector, value in ((ours.weights, start), (ours.first, 0), (ours.second, 0)):
            vector.copy_(torch.as_tensor(value))
        for step, gradient in enumerate(gradients):
            ours.gradient.copy_(gradient)
            if not recorded:
                ours._norm = ours._recorded = None
            ours.update(step)
        found.append(ours.weights - start)
    assert torch.allclose(*found, rtol=1e-3, atol=1e-6)
    assert found[0].abs().mean() > 1e-4


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_a_run_that_was_interrupted_ends_with_the_same_weights(run, config, monkeypatch, dtype):
    monkeypatch.setattr(train, 'make_compiled_step', partial(make_compiled_step, compiled=False))
    settings = load_settings(config)
    whole = Trainer(run, settings, 'cpu', 0, dtype)
    start = whole.optimizer.weights.clone()
    whole.train(float('inf'))
    half = Trainer(run, replace(settings, steps=3), 'cpu', 0, dtype)
    half.optimizer.settings = settings  # the schedule of the whole
    half.train(float('inf'))
    half.save()
    rest = Trainer(run, settings, 'cpu', 0, dtype)
    assert (half.step, rest.step) == (3, 3)
    rest.train(float('inf'))
    assert rest.step == whole.step == settings.steps
    assert torch.equal(rest.optimizer.weights, whole.optimizer.weights)
    assert torch.equal(rest.optimizer.second, whole.optimizer.second)
    assert (whole.optimizer.weights - start).abs().mean() > 1e-4


def test_time_over_saves_and_ends_well(tmp_path, config, capsys):
    assert main([str(tmp_path / 'run'), '--config', str(config), '--seconds', '0']) == 0
    assert json.loads(capsys.readouterr().out)['step'] <= 1
    assert (tmp_path / 'run' / 'state').is_dir()


def test_the_state_of_the_shipped_model_fits_its_limits(tmp_path):
    create_run(tmp_path / 'run', DEFAULT)
    trainer = Trainer(tmp_path / 'run', load_settings(DEFAULT), 'cpu', workers=0)
    trainer.save()
    sizes = [file.stat().st_size for file in (tmp_path / 'run/state').iterdir()]
    assert max(sizes) <= FILE_BYTES == 16 * 2**20
    assert sum(sizes) <= TOTAL_BYTES == 64 * 2**20
    assert 2 * trainer.optimizer.weights.numel() < 15.5e6  # in bfloat16, beside vlm/


def test_a_state_that_does_not_fit_is_refused(tmp_path):
    save_state(tmp_path / 'state', 4, {'weights': torch.arange(10.0)})
    found = torch.zeros(10)
    assert load_state(tmp_path / 'state', {'weights': found}) == 4 and found[9] == 9
    with pytest.raises(BadInput, match='weights has 10 values, expected 11'):
        load_state(tmp_path / 'state', {'weights': torch.zeros(11)})
    with pytest.raises(BadInput, match='at most 67108864'):
        save_state(tmp_path / 'large', 0, {'weights': torch.zeros(1).expand(17 * 2**20)})


def test_an_exported_checkpoint_infers_with_the_engine(tmp_path, config):
    run = tmp_path / 'run'
    assert main([str(run), '--config', str(config), '--steps', '2']) == 0
    shutil.rmtree(run / 'checkpoint')  # what travels is settings, state and losses
    export(run, tmp_path / 'small')
    card = json.loads((tmp_path / 'small/card.json').read_text())
    assert card['runs'][0]['steps'] == 2 and card['runs'][0]['data']['split'] == 'train'
    assert (tmp_path / 'small/losses.png').stat().st_size > 1000
    options = SamplingOptions(num_samples=2, max_tokens=12)
    engine = AlpamayoEngine(tmp_path / 'small', options=options)
    assert engine.provenance()['checkpoint_sha256'] == card['sha256']
    prediction = engine.infer(context(), seed=3)
    assert prediction.samples.shape == (2, 64, 4) and np.isfinite(prediction.samples).all()
    assert AlpamayoEngine(tmp_path / 'small', bits=4, options=options).infer(context(), 3).end


def test_a_run_goes_on_from_the_weights_of_an_earlier_one(tmp_path, config):
    first, second = tmp_path / 'first', tmp_path / 'second'
    assert main([str(first), '--config', str(config), '--steps', '2']) == 0
    arguments = [str(second), '--config', str(config), '--earlier', str(first)]
    arguments += ['--set', 'learning_rate=0.002', '--set', 'data.passes=4']
    assert main([*arguments, '--seconds', '0']) == 0
    settings = load_settings(second / 'settings.yaml')
    assert settings.learning_rate == 0.002 and settings.data['passes'] == 4
    found = [Trainer(run, settings, 'cpu', workers=0) for run in (first, second)]
    assert found[1].step == 0
    assert torch.equal(found[0].optimizer.weights, found[1].optimizer.weights)
    assert not found[1].optimizer.first.any()
    assert main([str(second), '--steps', '3']) == 0
    export(second, tmp_path / 'small')
    card = json.loads((tmp_path / 'small/card.json').read_text())
    assert [run['steps'] for run in card['runs']] == [2, 3]
    assert card['scenes_seen'] == 5 * settings.batch
    third = [str(tmp_path / 'third'), '--config', str(config), '--earlier', str(second)]
    assert main([*third, '--steps', '1']) == 0
    export(tmp_path / 'third', tmp_path / 'smaller')
    card = json.loads((tmp_path / 'smaller/card.json').read_text())
    assert [run['steps'] for run in card['runs']] == [2, 3, 1]


def test_another_setting_must_be_one_that_there_is(tmp_path, config):
    with pytest.raises(BadInput, match="--set learning=1: Key 'learning'"):
        create_run(tmp_path / 'run', config, ['learning=1'])
    with pytest.raises(BadInput, match='no state yet, expected a run of training.train'):
        create_run(tmp_path / 'run', config, earlier=tmp_path)


def test_a_run_that_has_logged_nothing_is_not_exported(tmp_path, config):
    run = tmp_path / 'run'
    assert main([str(run), '--config', str(config), '--seconds', '0']) == 0
    with pytest.raises(BadInput, match='no losses yet'):
        export(run, tmp_path / 'small')
    assert not (tmp_path / 'small').exists()


def context():
    """Two cameras of noise at a size that is resized, and a straight drive."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 72, 128, 3), np.uint8)
    frames = {
        f'camera{i}': (Frame(0, 'rgb8', picture.ravel(), 72, 128, 3 * 128),) * 4
        for i, picture in enumerate(pixels)
    }
    history = np.zeros((16, 3), np.float32)
    history[:, 0] = np.arange(-15, 1)
    pose = EgoPose(0, np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0]), 10.0)
    turned = np.tile(np.eye(3, dtype=np.float32), (16, 1, 1))
    return Context(0, frames, (1, 6), history, turned, pose, 10.0, 0.0)


def test_wrong_settings_name_the_key(tmp_path):
    raw = yaml.safe_load(DEFAULT.read_text(encoding='utf-8'))
    file = tmp_path / 'wrong.yaml'
    file.write_text(yaml.safe_dump({k: v for k, v in raw.items() if k != 'warmup'}))
    with pytest.raises(BadInput, match="wrong: \\['warmup'\\]"):
        load_settings(file)


def test_training_needs_no_opencv_and_the_package_needs_no_training(root):
    code = 'import sys, training.train; assert "cv2" not in sys.modules'
    subprocess.run([sys.executable, '-c', code], cwd=root, check=True)
    files = (root / 'alpamayo_ros').rglob('*.py')
    pattern = re.compile(r'^\s*(?:from|import) training\b', re.M)
    assert [f.name for f in files if pattern.search(f.read_text(encoding='utf-8'))] == []
