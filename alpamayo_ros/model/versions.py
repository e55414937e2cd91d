"""Differences between the versions of Alpamayo: one row per `model_type`.

Everything else is the same: weights, token ids, images, history, flow matching. Padding is hidden
from the expert in both versions, so that a scene in a batch equals the scene alone; the reference
of R1 shows it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelVersion:
    """One row of the table.

    architecture: name in config.json. has_labels: whether camera names and frame numbers stand in
    the prompt when config.json is silent. cameras: indices the model was trained with; a version
    of any_cameras also takes fewer. has_routes: it knows route texts, guidance, questions and
    prompts without reasoning. renamed_tokens: special tokens that are called `_padding_0` ...;
    their ids stay.
    """

    architecture: str
    has_labels: bool
    cameras: tuple[int, ...]
    any_cameras: bool
    has_routes: bool
    renamed_tokens: tuple[str, ...]


VERSIONS = {
    'alpamayo_r1': ModelVersion(
        architecture='AlpamayoR1',
        has_labels=False,
        cameras=(0, 1, 2, 6),
        any_cameras=False,
        has_routes=False,
        renamed_tokens=(),
    ),
    'alpamayo1_5': ModelVersion(
        architecture='Alpamayo1_5',
        has_labels=True,
        cameras=(0, 1, 2, 3, 4, 5, 6),
        any_cameras=True,
        has_routes=True,
        renamed_tokens=(
            'image_pre_tkn',
            'traj_history_pre_tkn',
            'meta_action_start',
            'meta_action_end',
            'traj_future_pre_tkn',
            'vectorized_wm',
            'vectorized_wm_start',
            'vectorized_wm_end',
            'vectorized_wm_pre_tkn',
        ),
    ),
}
