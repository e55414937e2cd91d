"""Small pictures: NumPy and PyTorch agree, and both show what the full-size pictures show."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from alpamayo_ros.world.camera import CAMERAS
from alpamayo_ros.world.rendering import raster, raster_compiled
from alpamayo_ros.world.rendering.raster import render, stack
from alpamayo_ros.world.rendering.render import Renderer, make_world
from alpamayo_ros.world.rendering.stage import Stage
from alpamayo_ros.world.road import LEFT_EDGE_M, RIGHT_EDGE_M
from alpamayo_ros.world.scenario import make_scenario
from alpamayo_ros.world.weather import CLEAR

HEIGHT, WIDTH = 64, 112
TIMES = (4.7, 4.8, 4.9, 5.0)
WIDE = 1


def noise(scenes, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((scenes, 4, 4, HEIGHT, WIDTH), dtype=np.float32)


def scene_of(scenario, times=TIMES, size=(HEIGHT, WIDTH)):
    return Stage(scenario, *size).scene([scenario.moment(t) for t in times])


@pytest.fixture(scope='module')
def clear():
    return replace(make_scenario('train', 40, 12.0), weather=CLEAR)


@pytest.fixture(scope='module')
def pictures(clear):
    """Pictures (4, 4, 3, H, W) of a clear day: cameras, times."""
    return render(np, stack([scene_of(clear)]), noise(1))[0]


@pytest.mark.parametrize('device', [
    'cpu',
    pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='GPU')),
])  # fmt: skip
def test_numpy_and_torch_give_equal_pictures(device):
    """In any weather, for scenes with different numbers of faces."""
    scenes = [scene_of(make_scenario('train', seed, 8.0)) for seed in (1, 36, 40)]
    batch, white = stack(scenes), noise(3)
    ours = render(np, batch, white)
    there = batch.map(lambda array: torch.from_numpy(array).to(device))
    theirs = render(torch, there, torch.from_numpy(white).to(device)).cpu()
    assert theirs.dtype == torch.uint8 and theirs.shape == (3, 4, 4, 3, HEIGHT, WIDTH)
    difference = np.abs(ours.astype(int) - theirs.numpy())
    assert difference.max() <= 1  # rounding to whole numbers
    assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize('seed, kind', [
    (2, 'day'), (4, 'dusk'), (1, 'night'), (36, 'rain'), (13, 'wet_night'),
])  # fmt: skip
def test_compiled_loops_paint_what_numpy_paints(seed, kind):
    """To the bit; two scenes, so that one has faces which are none."""
    pytest.importorskip('numba', reason='numba is not installed')
    scenario = make_scenario('train', seed, 8.0)
    assert scenario.weather.kind == kind
    batch = stack([scene_of(scenario), scene_of(make_scenario('train', 40, 8.0))])
    ways = (
        raster_compiled.compute_cover,
        raster_compiled.paint_faces,
        raster_compiled.blend_background,
    )
    ours, theirs = render(np, batch, noise(2)), render(np, batch, noise(2), *ways)
    assert theirs.shape == ours.shape and theirs.dtype == np.uint8
    assert (theirs != ours).sum() == 0
    assert np.array_equal(raster_compiled.render_on_cpu(batch, noise(2)), ours)


def test_numpy_paints_where_numba_is_not_installed(clear, pictures, monkeypatch):
    monkeypatch.setattr(raster_compiled, 'numba', None)
    monkeypatch.delattr(raster_compiled, 'paint_faces')
    drawn = raster_compiled.render_on_cpu(stack([scene_of(clear)]), noise(1))
    assert np.array_equal(drawn[0], pictures)


def test_loops_compile_where_there_is_no_folder_to_keep_them_in():
    """As for code that has no file."""
    pytest.importorskip('numba', reason='numba is not installed')
    assert raster_compiled._compile(eval('lambda number: number + 1'))(1) == 2


def test_a_scene_looks_the_same_alone_and_in_a_batch(clear, pictures):
    other = scene_of(make_scenario('train', 2, 8.0))
    both = render(np, stack([scene_of(clear), other]), noise(2))
    assert np.array_equal(both[0], pictures)
    assert not np.array_equal(both[1], pictures)


@pytest.mark.parametrize('number', range(4), ids=[camera.name for camera in CAMERAS])
def test_a_small_picture_is_like_the_full_one_resized(clear, number):
    overcast = replace(clear, weather=replace(CLEAR, kind='night'))  # bright, without sun
    full = Renderer(make_world(overcast), CAMERAS[number]).image(TIMES[-1])
    resized = cv2.resize(full, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA).astype(float)
    picture = render(np, stack([scene_of(overcast)]), noise(1))[0, number, -1]
    small = picture.transpose(1, 2, 0)[..., ::-1].astype(float)
    assert np.abs(resized - small).mean() < 16.0  # clouds, textures and shapes of trees differ
    road = slice(HEIGHT * 3 // 4, None)  # the lower quarter: mostly road and its markings
    assert np.abs(resized[road] - small[road]).mean() < 12.0
    assert np.corrcoef(resized.ravel(), small.ravel())[0, 1] > 0.85


def test_markings_are_where_the_calibration_says(clear, pictures):
    ego, camera = clear.ego(TIMES[-1]), CAMERAS[WIDE]
    turn = np.array([[np.cos(ego.yaw_rad), np.sin(ego.yaw_rad)],
                     [-np.sin(ego.yaw_rad), np.cos(ego.yaw_rad)]])  # fmt: skip
    for offset, is_white in ((RIGHT_EDGE_M, True), (LEFT_EDGE_M, True), (0.6, False)):
        x, y = turn @ (clear.route.road.points(ego.s_m + 6.0, offset) - (ego.x_m, ego.y_m))
        optical = (np.array([x, y, 0.0]) - camera.position_m) @ camera.base_from_optical
        column, row = camera.project(optical) * (WIDTH / 640, HEIGHT / 360)
        found = pictures[WIDE, -1, :, int(row), int(column) - 1 : int(column) + 2].min(axis=0)
        assert (found.max() > 130) == is_white, (offset, found)


def test_pictures_of_a_moving_vehicle_differ_and_noise_is_seen_only_in_bad_weather(clear):
    batch = stack([scene_of(clear)])
    first, second = render(np, batch, noise(1)), render(np, batch, noise(1, seed=1))
    assert np.array_equal(first, second)
    assert np.abs(first[0, :, 0].astype(int) - first[0, :, 3]).mean() > 1.0
    rain = stack([scene_of(make_scenario('train', 36, 8.0))])
    first, second = render(np, rain, noise(1)), render(np, rain, noise(1, seed=1))
    assert np.abs(first.astype(int) - second).mean() > 0.5


def test_a_picture_is_the_same_in_whatever_company_it_is_drawn():
    """The newest picture of one context is an older one of the next; noise and jitter stay."""
    scenario = make_scenario('train', 36, 8.0)
    stage, moments = Stage(scenario, HEIGHT, WIDTH), [scenario.moment(t) for t in TIMES]
    alone, together = stage.pictures(moments[1:2]), stage.pictures(moments)
    assert np.abs(alone[:, 0].astype(int) - together[:, 1]).mean() < 0.1
    assert np.abs(alone[:, 0].astype(int) - together[:, 2]).mean() > 1.0


def test_a_wall_of_known_size_covers_so_many_pixels():
    """1 m x 1 m, 10 m in front of a camera with 20 px focal length: 2 x 2 px, half hidden."""
    u, v = np.arange(16, dtype=np.float32), np.arange(12, dtype=np.float32)[:, None]
    for width_m, shift_m in ((1.0, 0.0), (1.0, 0.21), (0.1, 0.37)):
        corners = [(10, 0.5, 0.5), (10, 0.5, -0.5), (10, 0.5 - width_m, -0.5),
                   (10, 0.5 - width_m, 0.5)]  # fmt: skip
        face = np.array(corners, np.float32)[None, None] + np.float32([0, shift_m, 0])
        scene = bare_scene(face)
        lines, seen, box = raster._project_edges(np, scene, scene.faces, two_sided=False)
        assert seen.all()
        cover = raster._cover_pixels(lines[0, 0, 0, 0], u, v)
        assert cover.sum() == pytest.approx(4.0 * width_m, rel=1e-4)
        assert (box[0][0, 0, 0, 0] < box[1][0, 0, 0, 0]).all()


def test_faces_that_look_away_or_lie_behind_are_not_seen():
    towards = np.float32([[(10, 1, 1), (10, 1, -1), (10, -1, -1), (10, -1, 1)]])[None]
    around = np.float32([[(-9, 1, 0), (-9, -1, 0), (30, -1, 0), (30, 1, 0)]])[None] - [0, 0, 1]
    for face, two_sided, expected in (
        (towards, False, True), (towards[..., ::-1, :], False, False),
        (towards[..., ::-1, :], True, True), (towards * [-1, -1, 1], False, False),
        (around, True, True),
    ):  # fmt: skip
        scene = bare_scene(face.astype(np.float32))
        assert raster._project_edges(np, scene, scene.faces, two_sided)[1].item() == expected


def bare_scene(faces):
    """Faces (1, N, 4, 3) before one level camera at the origin, 16 x 12 px."""
    level = np.float32([[[0, -1, 0], [0, 0, -1], [1, 0, 0]]])[None]
    zero = np.zeros(1, np.float32)
    return stack([
        raster.RasterScene(
            faces, zero, zero, zero, zero, zero, zero, level, np.zeros((1, 3), np.float32),
            np.full((1, 2), 20.0, np.float32), np.float32([[7.5, 5.5]]), zero,
            np.arange(16, dtype=np.float32), np.arange(12, dtype=np.float32),
        )
    ])  # fmt: skip
