"""Shares recordings among workers behind a progress bar; Ctrl-C keeps what there is so far."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
import sys

from tqdm import tqdm

from ...cluster.workers import Item, Outcome, Result, Workers


def share(
    workers: Workers[Item, Result],
    items: list[Item],
    known: int,
    unit: str,
    take: Callable[[Outcome[Item, Result]], str],
) -> None:
    """Hand items to workers, and each outcome to `take`, in any order.

    known: items of an earlier run, for the bar. take returns what is to be printed, or ''.
    """
    total = known + len(items)
    with tqdm(total=total, initial=known, unit=unit, dynamic_ncols=True) as bar:
        for outcome in workers.run(items):
            if text := take(outcome):
                bar.write(text, file=sys.stderr)
            bar.update()


@contextmanager
def keep_results(
    out: Path, rebuild: Callable[[], object], has_run: Callable[[], bool] = lambda: True
) -> Iterator[None]:
    """Write the results so far, if any, when Ctrl-C ends the work, and print how it goes on."""
    try:
        yield
    except KeyboardInterrupt:
        if has_run():
            rebuild()
        print(f'{out}: stopped; continue with --resume', file=sys.stderr)
        raise
