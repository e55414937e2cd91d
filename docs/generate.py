"""Write the generated parts of the documents: `make docs`, or `python -m docs.generate`.

A part stands between two marks of a Markdown file and is made by the function of its name in
docs/tables.py:

    <!-- generated: NAME -->
    <!-- end -->

The text around the marks is written by hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import re
import sys

from .tables import PARTS, ROOT

MARK = re.compile(r'^<!-- generated: [\w-]+ -->$', re.M)
PART = re.compile(r'^<!-- generated: ([\w-]+) -->\n(.*?)^<!-- end -->$', re.M | re.S)


def find_documents(root: Path) -> Iterator[Path]:
    """Yield every Markdown file that may hold marks."""
    yield from sorted(root.glob('*.md'))
    yield from sorted((root / 'docs').glob('*.md'))
    yield from sorted((root / 'checkpoints').glob('*.md'))


def regenerate(text: str, where: str) -> str:
    """Return a document with each part between marks made anew.

    Raises ValueError for a part that docs/tables.py does not make and for a mark without its end.
    """

    def make_part(found: re.Match[str]) -> str:
        name = found[1]
        if name not in PARTS:
            raise ValueError(f'{where}: {name} is not one of {", ".join(PARTS)}')
        # an empty line on both sides, so that a table is one on every renderer
        return f'<!-- generated: {name} -->\n\n{PARTS[name]()}\n\n<!-- end -->'

    marks, parts = len(MARK.findall(text)), len(PART.findall(text))
    if marks != parts:
        raise ValueError(f'{where}: {marks} marks "generated" but {parts} parts that end')
    return PART.sub(make_part, text)


def find_stale_documents(root: Path = ROOT) -> dict[Path, str]:
    """Return the current text of each document whose generated parts are not current."""
    stale = {}
    for path in find_documents(root):
        text = path.read_text(encoding='utf-8')
        current = regenerate(text, str(path.relative_to(root)))
        if current != text:
            stale[path] = current
    return stale


def main() -> int:
    """Write the documents that are not current, and print their names."""
    for path, text in find_stale_documents().items():
        path.write_text(text, encoding='utf-8')
        print(path.relative_to(ROOT))
    return 0


if __name__ == '__main__':
    sys.exit(main())
