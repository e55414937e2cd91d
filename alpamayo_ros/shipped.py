"""Finds the data files that come with the package: rig files and checkpoints.

They lie beside the package in a source tree, and inside it or in share/ once it is installed. This
module does not read them.
"""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
_LIBRARY = PACKAGE.parent  # site-packages, or the source tree
PLACES = (
    PACKAGE,
    _LIBRARY,
    # share/ of PREFIX/lib/pythonX.Y/site-packages, and of pip's --target
    *(base / 'share' / PACKAGE.name for base in (*_LIBRARY.parents[2:3], _LIBRARY)),
)


def find_shipped(folder: str, ending: str) -> dict[str, Path]:
    """Files `folder`/NAME`ending` that come with the package, by NAME; the first place wins."""
    found: dict[str, Path] = {}
    for base in (place / folder for place in PLACES):
        for path in sorted(base.glob(f'*{ending}')):
            found.setdefault(path.relative_to(base).as_posix().removesuffix(ending), path)
    return found
