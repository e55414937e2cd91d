"""alpamayo_verify: compare every stage with reference tensors, or check a checkpoint by itself."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import json
import math
from pathlib import Path
import sys
from typing import TYPE_CHECKING

from ..errors import BadInput
from .engine_arguments import add_device_argument
from .entry import command

if TYPE_CHECKING:
    from ..verify.comparison import ComparisonRow


@command
def main(argv: list[str] | None = None) -> int:
    """Print one row per stage and a last line of JSON; 0 if all hold, else 1."""
    parser = argparse.ArgumentParser(prog='alpamayo_verify', description=__doc__)
    parser.add_argument(
        'folder',
        type=Path,
        metavar='DIR',
        help='a folder laid out as test/golden (reference tensors), or a checkpoint',
    )
    add_device_argument(parser)
    arguments = parser.parse_args(argv)
    rows, failed, unchecked = 0, [], 0
    print(f'{"stage":<20} {"what":<38} {"max error":>10} {"tolerance":>10}  result')
    for row in _rows(arguments.folder, arguments.device):
        error = '-' if row.error is None else f'{row.error:.2e}'
        result = 'not checked' if row.error is None else 'pass' if row.passed else 'FAIL'
        note = f'  {row.note}' if row.note else ''
        line = f'{row.stage:<20} {row.what:<38} {error:>10} {row.tolerance:>10.0e}  {result}{note}'
        print(line, flush=True)
        rows += 1
        unchecked += row.error is None
        if not row.passed:
            finite = row.error if row.error is not None and math.isfinite(row.error) else None
            failed.append({'stage': row.stage, 'what': row.what, 'error': finite})
    summary = {
        'folder': str(arguments.folder),
        'rows': rows,
        'passed': rows - len(failed) - unchecked,
        'failed': failed,
        'not_checked': unchecked,
        'ok': not failed,
    }
    print(json.dumps(summary))
    return 1 if failed else 0


def _rows(folder: Path, device: str) -> Iterator[ComparisonRow]:
    # imported here: --help should not wait for torch
    from ..hub import resolve_checkpoint
    from ..runtime.load import check_device
    from ..verify.golden import STAGES, run_stage
    from ..verify.golden_model import compare_model
    from ..verify.self_check import check_checkpoint

    check_device(device)
    expected = ['model', *(name for _, names, _ in STAGES for name in names)]
    has_tensors = any((folder / name).exists() for name in expected)
    if not has_tensors or (folder / 'config.json').is_file():
        folder = resolve_checkpoint(folder)
        if not (folder / 'config.json').is_file():
            raise BadInput(f'{folder}: neither reference tensors nor a checkpoint (config.json)')
        yield from check_checkpoint(folder, device)
        return
    for stage, files, run in STAGES:
        yield from run_stage(stage, folder, files, run)
    yield from compare_model(folder, device)


if __name__ == '__main__':
    sys.exit(main())
