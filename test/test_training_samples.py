"""Training samples: changed worlds and histories, routes, textures; weights to begin with."""

import numpy as np
import pytest
from safetensors.torch import save_file
from tiny_training import HEIGHT, WIDTH, write_settings
import torch
import torch.nn.functional as F

from alpamayo_ros.context.route_text import describe_route
from alpamayo_ros.errors import BadInput
from alpamayo_ros.model.action_space import UnicycleAccelCurvatureActionSpace
from alpamayo_ros.model.processor import Processor
from alpamayo_ros.world.camera import CAMERAS
from alpamayo_ros.world.moments import CAR_FRONT_M
from alpamayo_ros.world.rendering.stage import Stage
from alpamayo_ros.world.samples import express_motion, list_frame_moments
from alpamayo_ros.world.scenario import make_scenario
from training import edits
from training.architecture import create_checkpoint_folder, load_weights, make_model
from training.demo_pictures import DemoPainter
from training.drives import Drives
from training.losses import measure_aside
from training.pictures import lay_textures, make_bicubic, paint_pictures
from training.routes import find_turn, take_other_way, write_route
from training.settings import load_settings
from training.train import DEFAULT


@pytest.fixture(scope='module')
def drive():
    return make_scenario('train', 2, 60.0).expert_simulation


@pytest.fixture(scope='module')
def lit_drive():
    """A drive that soon comes to a light, and to a turn without an arm."""
    return make_scenario('train', 84, 60.0).expert_simulation


def start_before(simulation, s_m, gap_m):
    """A copy whose ego's front is so far before s."""
    for t_s in np.arange(0.0, 55.0, 0.1):
        if simulation.trace.ego(t_s).s_m + CAR_FRONT_M > s_m - gap_m:
            return simulation.branch(round(float(t_s), 2))
    raise AssertionError(f'nobody comes to {s_m} m')


def drive_on(simulation):
    """Way m of the expert in 6.4 s from the end of a simulation, and its cause at the start."""
    start, now = simulation.trace.steps[-1].ego.s_m, simulation.time_s
    simulation.run(now + 6.5)
    return simulation.trace.ego(now + 6.4).s_m - start, simulation.trace.cause(now)


def test_lights_change_in_every_picture_and_the_expert_obeys_them(lit_drive):
    light = lit_drive.route.lights[0]
    start = start_before(lit_drive, light.stop_m, 30.0)
    ways = {'green': [], 'red': []}
    for seed in range(12):
        changed = edits.change_lights(start, np.random.default_rng(seed))
        phases = {x.lights[0][0] for x in list_frame_moments(changed, changed.time_s)}
        way, cause = drive_on(changed)
        if phases in ({'green'}, {'red'}):
            ways[phases.pop()].append((way, cause == 'red_light'))
    assert len(ways['green']) > 2 and len(ways['red']) > 2
    assert all(stops for _, stops in ways['red'])
    assert np.mean([stops for _, stops in ways['green']]) < 0.5  # a green one may soon be amber
    # a red one may soon be green
    assert min(way for way, _ in ways['red']) < 31.0 < max(way for way, _ in ways['green'])


def test_far_lights_and_crossings_are_left_alone(lit_drive):
    start = start_before(lit_drive, lit_drive.route.lights[0].stop_m, 100.0)
    assert edits.change_lights(start, np.random.default_rng(0)) is None


def test_pedestrians_come_and_go(drive):
    crossing = drive.route.crossings[0]
    start = start_before(drive, crossing.stop_m, 35.0)
    found = set()
    for seed in range(12):
        changed = edits.change_pedestrians(start, np.random.default_rng(seed))
        new, walked = changed.route.crossings[0], changed.trace.steps[-1].walked_m[0]
        seen = [len(x.walkers) for x in list_frame_moments(changed, changed.time_s)]
        others = sum(x.side != 0 for x in changed.route.crossings[1:])
        assert set(seen) == {(new.side != 0) + others} or others
        _, cause = drive_on(changed)
        if walked == 0.0:
            found.add((new.side != 0, cause == 'pedestrian'))
    assert found == {(True, True), (False, False)}


def test_a_vehicle_ahead_comes_or_goes_and_the_expert_follows_it(drive):
    start = start_before(drive, 120.0, 0.0)
    assert start.trace.steps[-1].lead is None
    free, _ = drive_on(start.branch(start.time_s))
    for seed in range(6):
        changed = edits.change_vehicles(start, np.random.default_rng(seed))
        gaps = [changed.trace.lead(x.t_s).s_m - x.ego.s_m
                for x in list_frame_moments(changed, changed.time_s)]  # fmt: skip
        assert min(gaps) > 8.0
        way, cause = drive_on(changed)
        assert way < free or not cause.startswith('lead')


def test_another_history_ends_in_the_same_place_and_tells_nothing_of_the_cause(drive):
    start = start_before(drive, 120.0, 0.0)
    now, accelerations = start.trace.steps[-1].ego, []
    for seed in range(20):
        changed = edits.change_history(start, np.random.default_rng(seed))
        ego = changed.trace.steps[-1].ego
        assert (ego.x_m, ego.y_m) == pytest.approx((now.x_m, now.y_m), abs=1e-6)
        xyz, _ = express_motion(changed.trace, changed.time_s, np.arange(-15, 1))
        speeds = np.diff(xyz[:, 0]) / 0.1
        accelerations.append((speeds[-1] - speeds[0]) / 1.4)
        assert speeds[-1] == pytest.approx(ego.speed_mps, abs=0.3)
    assert min(accelerations) < -1.0 and max(accelerations) > 0.6


def test_a_change_that_comes_too_late_is_no_sample(drive):
    start = start_before(drive, 120.0, 0.0)
    now = start.time_s
    late, early = start.branch(now), start.branch(now)
    speed = start.trace.steps[-1].ego.speed_mps
    edits._place_lead(late, (start.trace.steps[-1].ego.s_m + 5.0 + 0.15 * speed**2, 0.0))
    edits._place_lead(early, (start.trace.steps[-1].ego.s_m + 5.0 + 0.4 * speed**2, 0.0))
    for simulation in (late, early):
        simulation.run(now + 6.5)
    assert speed > 8.0
    assert not edits.is_drivable(late, now) and edits.is_drivable(early, now)


@pytest.fixture(scope='module')
def junction(drive):
    """A simulation 15 m before a turn whose crossing road has an arm."""
    turn = next(x for x in drive.route.turns if x.has_arm and x.start_m > 50.0)
    return start_before(drive, turn.start_m + CAR_FRONT_M, 15.0), turn


def test_the_other_way_at_a_junction_turns_to_the_other_side(junction):
    start, turn = junction
    other, same = take_other_way(start), start.branch(start.time_s)
    assert other.moment(start.time_s).ego == start.moment(start.time_s).ego
    ends = []
    for simulation in (same, other):
        simulation.run(start.time_s + 6.5)
        xyz, rot = express_motion(simulation.trace, start.time_s, np.array([64]))
        ends.append((xyz[0, 1] * turn.side, np.arctan2(rot[0, 1, 0], rot[0, 0, 0]) * turn.side))
    assert ends[0][0] > 3.0 and ends[0][1] > 0.6
    assert ends[1][0] < -3.0 and ends[1][1] < -0.6


def test_no_other_way_far_off_or_without_an_arm(drive, lit_drive, junction):
    assert take_other_way(start_before(drive, junction[1].start_m, 100.0)) is None
    turn = lit_drive.route.turns[0]
    assert not turn.has_arm
    assert take_other_way(start_before(lit_drive, turn.start_m + CAR_FRONT_M, 15.0)) is None


def test_a_route_text_is_that_of_the_road_but_for_the_errors_of_a_map(junction):
    start, turn = junction
    road, ego = start.route.road, start.trace.steps[-1].ego
    places = ego.s_m + np.arange(-5.0, 120.0)
    exact = describe_route(road.points(places), (ego.x_m, ego.y_m), ego.yaw_rad).text
    told = [write_route(start, np.random.default_rng(seed)) for seed in range(30)]
    assert {x.rpartition(' ')[0] for x in told} == {exact.rpartition(' ')[0]}
    metres, true = ([int(x.split()[-1].removesuffix('m')) for x in texts]
                    for texts in (told, [exact]))  # fmt: skip
    assert np.mean(metres) == pytest.approx(true[0], abs=2.0) and 0.5 < np.std(metres) < 4.0
    assert find_turn(start)[0] == turn
    sides = {1: 'left', -1: 'right'}
    other = write_route(take_other_way(start), np.random.default_rng(0))
    assert (told[0].split()[1], other.split()[1]) == (sides[turn.side], sides[-turn.side])


def test_textures_lie_over_whole_samples_and_stay_in_place():
    pictures = torch.full((6, 2, 4, 3, 16, 40), 100, dtype=torch.uint8)
    random = torch.Generator().manual_seed(0)
    assert torch.equal(lay_textures(pictures, 0.0, random), pictures)
    changed = lay_textures(pictures, 1.0, random)
    assert (changed != 100).flatten(1).float().mean(1).min() > 0.3
    assert torch.equal(changed[:, :, :1].expand_as(changed), changed)


def test_how_deep_a_texture_is_does_not_depend_on_their_share():
    pictures = torch.full((60, 1, 2, 3, 16, 40), 100, dtype=torch.uint8)
    changed = lay_textures(pictures, 0.3, torch.Generator().manual_seed(0))
    depths = changed.flatten(1).float().std(1)
    assert 8 < (depths > 0.0).sum() < 30 and depths.max() > 15.0


def test_the_demos_pictures_show_what_the_small_ones_show():
    scenario = make_scenario('train', 2, 12.0)
    stage, painter = Stage(scenario, 64, 160), DemoPainter(scenario, 64, 160)
    moments = [[scenario.moment(t_s)] for t_s in (5.0, 12.0)]
    small, demo = ([x.pictures(m) for m in moments] for x in (stage, _Shown(painter)))
    assert demo[0].shape == small[0].shape and demo[0].dtype == np.uint8

    def compare(one, other):
        return np.corrcoef(*(x.mean(2, dtype=float).ravel() for x in (one, other)))[0, 1]

    alike = [compare(*pair) for pair in zip(small, demo, strict=True)]
    assert min(alike) > 0.75 and max(alike) < 0.999  # another renderer of the same world
    assert compare(small[0], demo[1]) < min(alike)


class _Shown:
    """A painter of the demo with the method of a stage."""

    def __init__(self, painter):
        self.pictures = painter.paint


def test_a_share_of_the_samples_has_the_demos_pictures(tmp_path, monkeypatch):
    marked = np.full((len(CAMERAS), 4, 3, HEIGHT, WIDTH), 77, np.uint8)
    monkeypatch.setattr(DemoPainter, '__init__', lambda self, scenario, height, width: None)
    monkeypatch.setattr(DemoPainter, 'paint', lambda self, moments: marked)
    settings = load_settings(write_settings(tmp_path / 'tiny.yaml'))
    settings.data.update(demo_share=0.4, samples_per_drive=6)  # then every drive has some
    drives = Drives('train', settings, UnicycleAccelCurvatureActionSpace())
    drive = drives[2]
    shown = drive.is_painted
    assert 0 < shown.sum() < 6 and len(drive.pictures) == shown.sum()
    settings.data['demo_share'] = 0.0
    other = drives[2]
    assert not other.is_painted.any() and len(other.pictures) == 0
    pictures = paint_pictures([other, drive], 'cpu', torch.Generator().manual_seed(0))
    is_marked = (pictures == 77).flatten(1).all(1)
    assert torch.equal(is_marked, torch.cat([other.is_painted, shown]))


def test_how_far_aside_errors_lead_is_what_the_path_shows():
    space = UnicycleAccelCurvatureActionSpace(curvature_std=0.016)
    curvature = torch.full((64,), 0.1)
    error = torch.linspace(0.02, -0.01, 64)
    paths, speed = [], 12.0
    history = torch.zeros(1, 16, 3)
    history[0, :, 0] = torch.arange(-15, 1) * 0.1 * speed
    straight = torch.eye(3).expand(1, 16, 3, 3)
    for bent in (curvature, curvature + error):
        actions = torch.stack([torch.zeros(64), bent], -1)[None]
        paths.append(space.action_to_traj(actions, history, straight)[0][0, :, :2])
    (x, y), (dx, dy) = paths[0][-1], (paths[1] - paths[0])[-1]
    ahead = paths[0][-1] - paths[0][-2]
    across = (ahead[0] * dy - ahead[1] * dx) / ahead.norm()
    aside = measure_aside(space, error, torch.full((64,), speed))
    assert float(aside[-1]) == pytest.approx(float(across), rel=0.05)
    assert abs(float(across)) > 0.4 and abs(y) > 1.0 and x > 50.0


@pytest.fixture
def tiny(tmp_path):
    """Return a function that makes a folder for a tiny model of a version, and the model."""

    def make(model_type, seed):
        run = tmp_path / model_type
        run.mkdir()
        file = write_settings(run / 'settings.yaml', model_type=model_type)
        folder = create_checkpoint_folder(run, load_settings(file))
        return folder, make_model(folder, seed)

    return make


def test_weights_of_a_checkpoint_are_found_by_the_words(tiny):
    """The newer model knows more words, and the same words by other numbers."""
    (older, given), (newer, model) = tiny('alpamayo_r1', 1), tiny('alpamayo1_5', 2)
    save_file(given.state_dict(), older / 'model.safetensors')
    before = model.vlm.lm_head.weight.detach().clone()
    load_weights(model, newer, older)
    names = 'expert.layers.0.mlp.up_proj.weight', 'vlm.model.visual.patch_embed.proj.weight'
    for name in names:
        assert torch.equal(model.get_parameter(name), given.get_parameter(name))
    others, own = (Processor(x.config, folder).tokenizer.get_vocab()
                   for x, folder in ((given, older), (model, newer)))  # fmt: skip
    for table in ('vlm.lm_head.weight', 'vlm.model.language_model.embed_tokens.weight'):
        for token in ('<i7>', '<|cot_end|>', 'Stop'):
            found = model.get_parameter(table)[own[token]]
            assert torch.equal(found, given.get_parameter(table)[others[token]])
    assert own['<i7>'] != others['<i7>'] and 'Front' not in others
    assert torch.equal(model.vlm.lm_head.weight[own['Front']], before[own['Front']])


def test_weights_of_another_size_are_refused(tiny):
    folder, model = tiny('alpamayo1_5', 0)
    with pytest.raises(BadInput, match=r'small: .* has the shape .*, expected'):
        load_weights(model, folder, DEFAULT.parents[1] / 'checkpoints' / 'small')


def test_textures_are_interpolated_as_torch_does():
    noise = torch.randn((2, 3, 6, 8), generator=torch.Generator().manual_seed(0))
    device = torch.device('cpu')
    smooth = make_bicubic(6, 64, device) @ noise @ make_bicubic(8, 160, device).T
    expected = F.interpolate(noise, (64, 160), mode='bicubic')
    torch.testing.assert_close(smooth, expected, rtol=0, atol=1e-5)
