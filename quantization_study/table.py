"""The study: `python -m quantization_study.table CHECKPOINT --work FOLDER --out FILE`.

For every width, recipe and method: error of the weights, divergence of the logits, error of the
velocity, minADE of the open loop, how often the reasoning ends with its marker, bytes. Rows that
are in the file already are not measured again. Knows no solver.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
import json
from pathlib import Path
import sys
from typing import Any

import torch
from tqdm import tqdm

from alpamayo_ros.cli.entry import command
from alpamayo_ros.drives.evaluation import hash_world
from alpamayo_ros.drives.open_loop import OpenLoop
from alpamayo_ros.errors import BadInput
from alpamayo_ros.files import read_json, write_atomically
from alpamayo_ros.metrics.bootstrap import Bootstrap
from alpamayo_ros.metrics.evaluation import LONGEST_HORIZON
from alpamayo_ros.model.checkpoint import hash_checkpoint
from alpamayo_ros.runtime.engine import AlpamayoEngine
from quantization_study.checkpoints import (
    Checkpoints,
    Variant,
    list_variants,
)
from quantization_study.figures import SAMPLES, Bench, Record, count_file_bytes, measure_forced
from quantization_study.full_size import count_bits_per_weight

ROUNDS = 2000  # of the bootstrap
DISTANCE = f'min_ade_m_{LONGEST_HORIZON}s'
Table = dict[str, Any]


def measure(bench: Bench, checkpoints: Checkpoints, chosen: Sequence[Variant], out: Path) -> Table:
    """Measure the chosen rows that are not yet in `out`, which is written after each of them."""
    table = _open_table(bench, out)
    reference = _records(bench, bench.plain, checkpoints, Variant())
    for variant in chosen:
        if variant.name in table['rows']:
            continue
        folder = checkpoints.folder(variant)
        engine = bench.load(folder)
        records = _records(bench, engine, checkpoints, variant)
        table['rows'][variant.name] = (
            asdict(variant)
            | {
                'bytes': count_file_bytes(folder),
                'full_size_bits': count_bits_per_weight(variant.rules),
            }
            | measure_forced(bench, engine.model)
            | _summarise_drives(records, reference, bench.loop)
        )
        names = [own.name for own in list_variants()]
        table['rows'] = dict(sorted(table['rows'].items(), key=lambda row: names.index(row[0])))
        write_atomically(out, json.dumps(table, indent=1) + '\n')
    return table


def _open_table(bench: Bench, out: Path) -> Table:
    """Read the table of the file, or begin one. Raises BadInput for a table of another source."""
    config = bench.plain.config
    made_from = {
        'checkpoint_sha256': hash_checkpoint(bench.source),
        'parameters': sum(p.numel() for p in bench.plain.model.parameters()),
        'untrained': config.untrained,
        'world_sha256': hash_world(),
        'loop': asdict(bench.loop) | {'samples': SAMPLES},
        'device': bench.device,
    }
    if not out.exists():
        return {'made_from': made_from, 'rows': {}}
    table = read_json(out)
    if table.get('made_from') != made_from:
        raise BadInput(f'{out}: made from something else, expected a new file')
    return table


def _records(
    bench: Bench, engine: AlpamayoEngine, checkpoints: Checkpoints, variant: Variant
) -> list[Record]:
    total = bench.loop.drives * bench.loop.moments
    with tqdm(desc=variant.name, total=total, unit='scene', dynamic_ncols=True) as bar:
        return bench.records(variant.name, engine, checkpoints.work, bar.update)


def _summarise_drives(
    records: Sequence[Record], reference: Sequence[Record], loop: OpenLoop
) -> dict[str, Any]:
    """Summarise the open loop, with intervals."""
    draws = Bootstrap(loop.drives, ROUNDS, loop.seed)
    drives = [record['drive'] for record in records]

    def mean(key: str) -> dict[str, Any] | None:
        found = draws.mean([record.get(key) for record in records], drives)
        return asdict(found) if found else None

    ratio = draws.ratio(
        [record.get(DISTANCE) for record in records],
        [record.get(DISTANCE) for record in reference],
        drives,
    )
    return {
        'min_ade_m': mean(DISTANCE),
        'ratio': asdict(ratio) if ratio else None,
        'marker': mean('marker'),
        'text': mean('text'),
        'finite': mean('finite'),
    }


def choose_variants(patterns: Sequence[str]) -> Iterator[Variant]:
    """Yield rows whose names match a pattern. Raises BadInput for a pattern without a row."""
    known = list(list_variants())
    for pattern in patterns:
        if not any(fnmatchcase(variant.name, pattern) for variant in known):
            names = ', '.join(variant.name for variant in known)
            raise BadInput(f'--rows {pattern!r}: no row has such a name: {names}')
    for variant in known:
        if any(fnmatchcase(variant.name, pattern) for pattern in patterns):
            yield variant


@command
def main(argv: list[str] | None = None) -> int:
    """Measure what few bits cost a checkpoint. The same command goes on where it was stopped."""
    parser = argparse.ArgumentParser(
        description=main.__doc__, prog='python -m quantization_study.table'
    )
    add = parser.add_argument
    add('checkpoint', type=Path, help='folder in full precision')
    add('--work', type=Path, required=True, help='folder for checkpoints and records of the study')
    add('--out', type=Path, required=True, help='JSON file of the result')
    add('--device', default='cpu', help='cpu (default), cuda or cuda:N')
    add('--rows', nargs='+', default=['*'], metavar='PATTERN', help="such as '2 bits mixed *'")
    add('--drives', type=int, default=50, help='of the open loop')
    add('--moments', type=int, default=4, help='of each drive')
    add('--seed', type=int, default=0)
    arguments = parser.parse_args(argv)
    chosen = list(choose_variants(arguments.rows))
    loop = OpenLoop('test', arguments.drives, 60.0, arguments.moments, arguments.seed)
    bench = Bench(arguments.checkpoint, loop, arguments.device)
    made = Checkpoints(arguments.checkpoint, arguments.work, arguments.device)
    table = measure(bench, made, chosen, arguments.out)
    for name in (variant.name for variant in chosen):
        row = table['rows'][name]
        print(
            f'{name}: {row["full_size_bits"]:.2f} bits, weights {row["weight_error"]:.3f}, '
            f'KL {row["kl"]:.4f}, velocity {row["velocity_error"]:.3f}, '
            f'minADE {row["min_ade_m"]["mean"]:.3f} m, marker {row["marker"]["mean"]:.3f}'
        )
    print(json.dumps({'rows': len(table['rows']), 'torch': torch.__version__}))
    return 0


if __name__ == '__main__':
    sys.exit(main())
