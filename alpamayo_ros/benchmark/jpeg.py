"""Makes a JPEG as detailed as a street. Imports no torch, so processes stay small."""

from __future__ import annotations

import cv2
import numpy as np


def encode_jpeg(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Bytes of a JPEG of (width, height): blurred noise, 250 kB for 1280x720 as of a street."""
    noise = np.random.default_rng(seed).normal(size=(size[1], size[0], 3)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), 2)
    picture = np.clip(128 + 20 * blurred / np.std(blurred), 0, 255).astype(np.uint8)
    return np.asarray(cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].ravel())
