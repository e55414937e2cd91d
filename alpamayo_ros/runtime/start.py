"""An engine by its name: checked, loaded and warmed up. Knows no ROS and no thread."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..data_types import (
    FRAMES_PER_CAMERA,
    GRID_NS,
    HISTORY_POSES,
    Context,
    EgoPose,
    Frame,
    SamplingOptions,
)
from ..rig import CameraRig
from .constant_velocity import ConstantVelocityEngine
from .serving.jobs import Engine

ENGINES = ('alpamayo', 'constant_velocity')
WARM_UP_SIZE = (1080, 1920)  # of images whose camera has no calibration


@dataclass(frozen=True)
class EngineChoice:
    """Which engine, and the width of its weights; '' expects nothing of a quantized one's recipe.

    A checkpoint in full precision is quantized to it while it is loaded. The last four: see
    AlpamayoEngine.
    """

    engine: str
    checkpoint: str
    device: str
    bits: float
    recipe: str
    options: SamplingOptions
    activations: int = 16
    kv_bits: int = 16
    cameras: tuple[str, ...] = ()
    pixels: int = 0


def start_engine(choice: EngineChoice, rig: CameraRig) -> Engine:
    """Return the engine, after one inference on grey images, so that the first real one is fast.

    Raises BadInput for a checkpoint or device that cannot be used, or too little memory.
    """
    if choice.engine == 'constant_velocity':
        return ConstantVelocityEngine(choice.options)
    from .engine import AlpamayoEngine  # torch takes seconds to import

    engine = AlpamayoEngine(
        choice.checkpoint,
        choice.device,
        choice.options,
        choice.bits,
        choice.recipe or None,
        activations=choice.activations,
        kv_bits=choice.kv_bits,
        cameras=choice.cameras,
        pixels=choice.pixels,
    )
    engine.infer(make_warm_up_context(rig), seed=0)
    return engine


def make_warm_up_context(rig: CameraRig) -> Context:
    """A vehicle that stands before a grey wall; images have the size of the rig's calibration."""
    frames = {}
    for camera in rig.cameras:
        size = camera.calibration
        height, width = (size.height, size.width) if size else WARM_UP_SIZE
        pixels = np.full(height * width * 3, 128, np.uint8)
        frames[camera.name] = tuple(
            Frame((k + 1) * GRID_NS, 'rgb8', pixels, height, width, 3 * width)
            for k in range(FRAMES_PER_CAMERA)
        )
    t0_ns = FRAMES_PER_CAMERA * GRID_NS
    return Context(
        t0_ns=t0_ns,
        frames=frames,
        camera_indices=tuple(camera.index for camera in rig.cameras),
        history_xyz_m=np.zeros((HISTORY_POSES, 3), np.float32),
        history_rot=np.repeat(np.eye(3, dtype=np.float32)[None], HISTORY_POSES, axis=0),
        odom_from_t0=EgoPose(t0_ns, np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0]), 0.0),
        v0_mps=0.0,
        skew_s=0.0,
    )
