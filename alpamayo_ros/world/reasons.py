"""Causes of driving and their sentences: the texts that a model learns to say.

Each wording has the key words of its own cause and of no other, so that the cause can be read back
from a sentence.
"""

from __future__ import annotations

from dataclasses import dataclass
import re

import numpy as np


@dataclass(frozen=True)
class Reason:
    """A cause: a text names it when it has all key words; wordings are sentences that do."""

    keys: tuple[str, ...]
    wordings: tuple[str, ...]


REASONS: dict[str, Reason] = {
    'keep_lane': Reason(('keep', 'speed'), (
        'Keep the lane and the speed, because the road ahead is clear.',
        'The road ahead is clear. Keep the speed.',
        'Keep the speed in the lane, since nothing is in the way.',
    )),
    'speed_up': Reason(('speed', 'up'), (
        'Speed up to the limit, because the road ahead is clear.',
        'The way is free. Speed up to the limit.',
        'Speed up, since nothing is in the way.',
    )),
    'speed_limit': Reason(('lower', 'limit'), (
        'Slow down, because a lower limit begins ahead.',
        'A lower limit begins ahead. Slow down.',
        'Slow down to the lower limit of the sign.',
    )),
    'curve_left': Reason(('bends', 'left'), (
        'Steer left, because the road bends to the left.',
        'The road bends to the left. Follow the lane.',
        'Follow the lane, which bends to the left.',
    )),
    'curve_right': Reason(('bends', 'right'), (
        'Steer right, because the road bends to the right.',
        'The road bends to the right. Follow the lane.',
        'Follow the lane, which bends to the right.',
    )),
    'turn_left': Reason(('turn', 'left'), (
        'Slow down and turn left, because the road ends at the junction.',
        'The board shows the way at the junction. Slow down and turn left.',
        'Turn left at the junction.',
    )),
    'turn_right': Reason(('turn', 'right'), (
        'Slow down and turn right, because the road ends at the junction.',
        'The board shows the way at the junction. Slow down and turn right.',
        'Turn right at the junction.',
    )),
    'parked_car': Reason(('parked',), (
        'Move to the left, because a parked car stands in the lane.',
        'A parked car stands at the side. Pass it on the left.',
        'Pass the parked car with some room.',
    )),
    'lead_slower': Reason(('ahead', 'slower'), (
        'Keep the distance, because the car ahead is slower.',
        'The car ahead is slower. Keep the distance.',
        'Follow the slower car ahead.',
    )),
    'lead_stopped': Reason(('ahead', 'stands'), (
        'Stop behind the car ahead, because it stands.',
        'The car ahead stands. Stop behind it.',
        'Wait, because the car ahead stands.',
    )),
    'lead_pulls_away': Reason(('ahead', 'pulls'), (
        'Accelerate, because the car ahead pulls away.',
        'The car ahead pulls away. Follow it.',
        'Follow the car ahead, which pulls away.',
    )),
    'red_light': Reason(('light', 'red'), (
        'Stop at the line, because the light is red.',
        'The light is red. Stop at the line.',
        'Slow down and stop, since the light is red.',
    )),
    'green_light': Reason(('light', 'green'), (
        'Drive on, because the light is green.',
        'The light is green. Drive on.',
        'Accelerate, since the light is green.',
    )),
    'pedestrian': Reason(('pedestrian',), (
        'Stop before the crossing, because of a pedestrian.',
        'A pedestrian wants to cross. Stop before the crossing.',
        'Slow down and stop for the pedestrian at the crossing.',
    )),
}  # fmt: skip
CAUSES = tuple(REASONS)


def choose_sentence(cause: str, rng: np.random.Generator) -> str:
    """Choose one of the wordings of a cause: one or two sentences."""
    wordings = REASONS[cause].wordings
    return wordings[int(rng.integers(len(wordings)))]


def find_causes(text: str) -> frozenset[str]:
    """Find the causes that a text names."""
    tokens = set(re.findall(r'[a-z]+', text.lower()))
    return frozenset(name for name, reason in REASONS.items() if tokens >= set(reason.keys))


def list_words() -> tuple[str, ...]:
    """List every word of the wordings once, sorted, with its capitals."""
    text = ' '.join(wording for reason in REASONS.values() for wording in reason.wordings)
    return tuple(sorted(set(re.findall(r'[A-Za-z]+', text))))
