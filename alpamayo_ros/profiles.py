"""Profiles: named sets of choices that trade accuracy for time. Knows no model and no device.

A field of Profile has the name of the node's parameter and of the option of the commands. One that
is set beside a profile wins over it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from .errors import BadInput

UNSET = (0, '', 'profile')


@dataclass(frozen=True)
class Profile:
    """One row of the table.

    activations and kv_bits: 16, or 8 for integers. reasoning: see SamplingOptions. flow_steps and
    pixels (of an image, at most): 0 for the checkpoint's own. cameras: names with commas between
    them, empty for all of the rig. Beside a profile, values of UNSET mean those of the profile.
    """

    activations: int = 0
    kv_bits: int = 0
    reasoning: str = 'profile'
    flow_steps: int = 0
    cameras: str = ''
    pixels: int = 0


PROFILES = {
    'exact': Profile(16, 16, 'full', 0, '', 0),
    'fast': Profile(8, 8, 'full', 5, '', 0),
    'drive': Profile(8, 8, 'none', 3, 'front_wide,front_tele', 0),
}
DEFAULT = 'exact'


def choose(name: str, beside: Profile) -> Profile:
    """The choices of a profile, but for those that are set beside it; BadInput for its name."""
    if name not in PROFILES:
        raise BadInput(f"profile: '{name}' is not one of {', '.join(PROFILES)}")
    own = {key: value for key, value in asdict(beside).items() if value not in UNSET}
    return replace(PROFILES[name], **own)


def split_names(cameras: str) -> tuple[str, ...]:
    """The names in a text with commas between them; () for an empty text."""
    return tuple(name.strip() for name in cameras.split(',')) if cameras.strip() else ()
