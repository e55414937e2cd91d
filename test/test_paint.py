"""The Triton kernel paints small pictures as NumPy does."""

import numpy as np
import pytest
import torch

from alpamayo_ros.world.camera import CAMERAS
from alpamayo_ros.world.rendering.paint_triton import compute_cover, paint_faces
from alpamayo_ros.world.rendering.raster import render, stack
from alpamayo_ros.world.rendering.stage import Stage
from alpamayo_ros.world.scenario import make_scenario


def test_the_kernel_in_the_interpreter_paints_what_numpy_paints(interpreted):
    interpreted('import test_paint as t; t.check_painting("cpu")')


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_the_kernel_on_the_gpu_paints_what_numpy_paints():
    check_painting('cuda')


def check_painting(device):
    height, width = 20, 40  # no multiples of a tile
    scenario = make_scenario('train', 36, 8.0)
    stage = Stage(scenario, height, width, CAMERAS[1:3])
    scenes = stack([stage.scene([scenario.moment(t_s)]) for t_s in (3.0, 5.0)])
    noise = np.zeros((2, 2, 1, height, width), np.float32)
    ours = render(np, scenes, noise)
    there = scenes.map(lambda array: torch.from_numpy(array).to(device))
    white = torch.from_numpy(noise).to(device)
    theirs = render(torch, there, white, compute_cover, paint_faces).cpu().numpy()
    difference = np.abs(ours.astype(int) - theirs)
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-3
    assert ours.std() > 20
