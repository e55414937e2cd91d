"""How much memory the driver of many recordings needs: simulated items, taken and rebuilt.

Run it as a script: python test/dataset_memory.py --items 10000 --lines 20
"""

import argparse
from pathlib import Path
import resource
import tempfile
import time

import numpy as np

from alpamayo_ros.cluster.workers import Outcome
from alpamayo_ros.replay.dataset import Dataset
from alpamayo_ros.replay.dataset_results import rebuild_dataset
from alpamayo_ros.replay.recordings import BagItem, BagResult

METRICS = ('ade_m', 'fde_m', 'lat_m', 'lon_m', 'heading_rad', 'min_ade_m', 'min_fde_m')
HORIZONS = ('0.5', '1.0', '3.0', '5.0', '6.4')
RUN = {
    'bag': {'name': 'simulated'},
    'rig': {'name': 'simulated', 'absent': [], 'sha256': ''},
    'parameters': {'samples': 6, 'device': 'none', 'seed': 0},
    'engine': {'engine': 'simulated'},
    'versions': {},
    'machine': '',
    'started': '',
}


def make_line(rng, t0_ns, samples):
    """Return a line with random figures and samples, of the size of a real one."""
    figures = [
        {h: dict(zip(METRICS, rng.random(len(METRICS)).round(6).tolist(), strict=True))
         for h in HORIZONS}
        for _ in range(2)
    ]  # fmt: skip
    return {
        't0_ns': t0_ns, 'status': 'ok', 'reason': '', 'seed': 0, 'k': samples, 'chosen': 0,
        'end': 'marker', 'checks': [], 'text': 'keep the lane ' * 8, 'partial_text': '',
        'tokens': 24, 'v0_mps': 9.0, 'twist_mps': 9.0, 'skew_ms': 0.1, 'spread_m': 1.0,
        'ms': {'context': 1.0, 'total': 200.0}, 'horizons': figures[0], 'baseline': figures[1],
        'odom_from_t0': {},
        'samples': rng.random((samples, 64, 4)).round(6).tolist(),
        'actions': rng.random((samples, 64, 2)).round(6).tolist(),
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--items', type=int, default=10_000)
    parser.add_argument('--lines', type=int, default=20, help='of an item')
    parser.add_argument('--samples', type=int, default=6, help='of a line')
    arguments = parser.parse_args()
    rng, start = np.random.default_rng(0), time.monotonic()
    lines = [make_line(rng, t0_ns, arguments.samples) for t0_ns in range(arguments.lines)]
    with tempfile.TemporaryDirectory() as folder:
        record = Dataset(Path(folder) / 'out', lambda engine: RUN)
        record.claim(resume=False)
        for number in range(arguments.items):
            item = BagItem(f'{number:06d}', Path('gone'))
            record.take(Outcome(item, BagResult({}, lines)))
        taken_s = time.monotonic() - start
        rebuild_dataset(record, None, {})
        size = record.path.stat().st_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f'{arguments.items} items of {arguments.lines} lines, {size / 1e6:.0f} MB of results: '
        f'{peak:.0f} MB at most; taken in {taken_s:.0f} s, all in {time.monotonic() - start:.0f} s'
    )


if __name__ == '__main__':
    main()
