"""Compares two runs of the same recordings: paired differences of one figure, the worst first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .bootstrap import Bootstrap, Interval

ROUNDS, SEED = 1000, 0


@dataclass(frozen=True)
class PairedChange:
    """New minus old, by name of the pair, the largest first; `mean` with its interval."""

    changes: dict[str, float]
    mean: Interval | None


def compare_pairs(
    new: Mapping[str, float | None], old: Mapping[str, float | None]
) -> PairedChange:
    """Difference of the values that both have; a name that one lacks is left out."""
    pairs = {name: (value, old.get(name)) for name, value in new.items()}
    changes = {
        name: round(x - y, 6) for name, (x, y) in pairs.items() if x is not None and y is not None
    }
    ordered = dict(sorted(changes.items(), key=lambda pair: (-pair[1], pair[0])))
    if not changes:
        return PairedChange({}, None)
    by_name = [changes[name] for name in sorted(changes)]  # the draws depend on their order
    bootstrap = Bootstrap(len(changes), ROUNDS, SEED)
    return PairedChange(ordered, bootstrap.mean(by_name, range(len(by_name))))
