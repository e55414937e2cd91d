"""The reference's own images and history as a Context, and the same drive a moment later."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from alpamayo_ros.data_types import Context, EgoPose, Frame
from alpamayo_ros.kernels.packing import unpack_rows
from alpamayo_ros.quantization.packed_weight import PackedWeight

MODEL = Path(__file__).parent / 'golden/model'
CAMERAS = ('cross_left', 'front_wide', 'cross_right', 'front_tele')
T0_NS = 1_700_000_000_000_000_000
STEP_NS = 100_000_000


def frame(image, stamp_ns):
    """Raw frame of pixels (3, H, W)."""
    pixels = np.ascontiguousarray(image.transpose(1, 2, 0))
    height, width = pixels.shape[:2]
    return Frame(stamp_ns, 'rgb8', pixels.reshape(-1), height, width, width * 3)


def context(model=MODEL):
    """Context of the reference's inputs."""
    fields = np.load(model / 'inputs.npz')
    frames = {
        name: tuple(frame(image, T0_NS - (3 - k) * STEP_NS) for k, image in enumerate(images))
        for name, images in zip(CAMERAS, fields['images'], strict=True)
    }
    pose = EgoPose(T0_NS, np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0]), 0.0)
    return Context(
        t0_ns=T0_NS,
        frames=frames,
        camera_indices=(0, 1, 2, 6),
        history_xyz_m=fields['ego_history_xyz'][0, 0],
        history_rot=fields['ego_history_rot'][0, 0],
        odom_from_t0=pose,
        v0_mps=0.0,
        skew_s=0.0,
        checks=('camera_subset',),
    )


def later(now, steps=1):
    """The context `steps` frames later: new images are the oldest ones, mirrored."""
    frames = {}
    for name, own in now.frames.items():
        new = [
            replace(f, stamp_ns=own[-1].stamp_ns + (k + 1) * STEP_NS, data=f.data[::-1].copy())
            for k, f in enumerate(own[:steps])
        ]
        frames[name] = (*own[steps:], *new)
    return replace(now, frames=frames, t0_ns=now.t0_ns + steps * STEP_NS)


def make_dense(plain, model):
    """Give a plain model the matrices that a quantized one unpacks; the plain model."""
    for name, module in model.named_modules():
        if isinstance(module, PackedWeight):
            target = plain.get_submodule(name.removesuffix('.weight'))
            rows = torch.arange(len(target.weight))
            matrix = unpack_rows(module.stored, module.columns, rows)
            target.weight = nn.Parameter(matrix, requires_grad=False)
    return plain
