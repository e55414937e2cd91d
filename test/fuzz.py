"""The fuzz job: small valid inputs, changed at random, must give a result or one line of refusal.

python test/fuzz.py [--seconds S] [--seed N] [--kinds rig image ...] [--keep DIR]

A finding is a traceback, more than LIMIT_CPU_S of a processor, more than LIMIT_MB of memory, or a
success that the plain twin of its kind contradicts. --keep DIR keeps the input of each one.
The last line is JSON. `python test/fuzz.py --seed N --kinds K --cases 1` repeats a case.

Cases run in a child process, which this one watches and replaces.
"""

import argparse
from collections import Counter
from dataclasses import dataclass
import json
import logging
import os
from pathlib import Path
import random
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

LIMIT_CPU_S, LIMIT_MB = 5.0, 300
LIMIT_S = 120.0  # of a case that waits, on a busy machine
START_S = 300.0  # imports and `prepare` on a busy machine
ADDRESS_BYTES = 24 << 30  # beyond it an allocation fails in the child, not the machine


@dataclass(frozen=True)
class Finding:
    """One case that went wrong: repeat it by kind and seed."""

    kind: str
    seed: int
    fault: str
    text: str


def run_child(kind_name: str, seed: int, folder: Path) -> None:
    """Run cases of one kind from a seed on, for ever; one line of JSON before and after each."""
    os.environ['HF_HUB_OFFLINE'] = '1'
    warnings.simplefilter('ignore')
    logging.disable()
    report = os.fdopen(os.dup(1), 'w')
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    from fuzz_kinds import KINDS

    if kind_name not in KINDS:
        from fuzz_records import KINDS
    kind = KINDS[kind_name]()
    (folder / 'base').mkdir()
    kind.prepare(folder / 'base')
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))
    while True:
        place = folder / 'case'
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        print(json.dumps({'begins': seed}), file=report, flush=True)
        print(json.dumps({'seed': seed} | run_case(kind, seed, place)), file=report, flush=True)
        seed += 1


def run_case(kind, seed: int, place: Path) -> dict[str, object]:
    """Run one case; its outcome, or its fault with a text."""
    rng = random.Random(seed)
    Path('/proc/self/clear_refs').write_text('5')  # the peak begins anew
    before_mb, start_s = read_peak_mb(), time.process_time()
    try:
        outcome, fault, text = kind.run(rng, place), '', ''
    except AssertionError:
        outcome, fault, text = '', 'wrong', traceback.format_exc()
    except BaseException:  # noqa: BLE001  a finding, SystemExit included
        outcome, fault, text = '', 'traceback', traceback.format_exc()
    spent_s, grown_mb = time.process_time() - start_s, read_peak_mb() - before_mb
    if not fault and spent_s > LIMIT_CPU_S:
        fault, text = 'slow', f'{spent_s:.1f} s of a processor'
    if not fault and grown_mb > LIMIT_MB:
        fault, text = 'memory', f'{grown_mb:.0f} MB'
    return {'outcome': outcome, 'fault': fault, 'text': text}


def read_peak_mb() -> float:
    """Peak memory of this process since the last reset, MB."""
    status = Path('/proc/self/status').read_text()
    return int(status.split('VmHWM:')[1].split()[0]) / 1024


class Child:
    """A child process with a kind; `next` waits for the end of a case."""

    def __init__(self, kind: str, seed: int) -> None:
        self.kind, self.seed = kind, seed
        self.folder = Path(tempfile.mkdtemp(prefix='fuzz-'))
        command = [sys.executable, __file__, '--child', kind, str(seed), str(self.folder)]
        self._errors = (self.folder / 'stderr').open('w+')
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self._errors, bufsize=0
        )
        self._lines = b''
        self._wait_for_line(START_S)

    def next(self) -> dict[str, object]:
        """Return the end of the case that runs; a hang or a crash is a fault."""
        start_s, start_cpu_s = time.monotonic(), self._read_cpu_s()
        while time.monotonic() - start_s < LIMIT_S:
            line = self._wait_for_line(0.5)
            if line is None:
                return self._make_fault('crash')
            if 'begins' in line:
                self.seed = line['begins']
            elif line:
                return line
            elif self._read_cpu_s() - start_cpu_s > 2 * LIMIT_CPU_S:
                return self._make_fault('hang')
        return self._make_fault('hang')

    def close(self) -> None:
        """End the process and remove its folder."""
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _wait_for_line(self, limit_s: float) -> dict[str, object] | None:
        """Return the next line, {} after the limit, None when the process has ended."""
        end_s = time.monotonic() + limit_s
        while b'\n' not in self._lines:
            ready, _, _ = select.select(
                [self.process.stdout], [], [], max(0.0, end_s - time.monotonic())
            )
            if not ready:
                return {}
            data = self.process.stdout.read(65536)
            if not data:
                return None
            self._lines += data
        line, self._lines = self._lines.split(b'\n', 1)
        return json.loads(line)

    def _read_cpu_s(self) -> float:
        try:
            fields = Path(f'/proc/{self.process.pid}/stat').read_text().rpartition(')')[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')

    def _make_fault(self, fault: str) -> dict[str, object]:
        self.process.kill()
        self.process.wait()
        self._errors.seek(0)
        return {'seed': self.seed, 'fault': fault, 'text': self._errors.read()[-2000:]}


def fuzz(
    kinds: list[str], seconds: float, seed: int, keep: Path | None, cases: int | None = None
) -> tuple[Counter, list[Finding]]:
    """Run the kinds in turn, each for its share of the time; counts of outcomes, and findings."""
    counts: Counter = Counter()
    findings: list[Finding] = []
    for kind in kinds:
        child = Child(kind, seed)
        end_s, left = time.monotonic() + seconds / len(kinds), cases
        try:
            while time.monotonic() < end_s if left is None else left > 0:
                result = child.next()
                left = None if left is None else left - 1
                counts[kind, str(result['fault'] or result['outcome'])] += 1
                if result['fault']:
                    finding = Finding(kind, result['seed'], result['fault'], result['text'])
                    findings.append(finding)
                    print(f'{kind} {finding.seed}: {finding.fault}\n{finding.text}', flush=True)
                    keep_input(keep, finding, child)
                    if child.process.poll() is not None:
                        child.close()
                        child = Child(kind, finding.seed + 1)
        finally:
            child.close()
    return counts, findings


def keep_input(keep: Path | None, finding: Finding, child: Child) -> None:
    """Copy the input of a case; the child may have gone on to the next one, so make it again."""
    if keep is None:
        return
    place = keep / f'{finding.kind}-{finding.seed}'
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    (place / 'finding.txt').write_text(f'{finding.fault}\n{finding.text}')
    if child.process.poll() is not None and (child.folder / 'case').is_dir():
        shutil.copytree(child.folder / 'case', place / 'input')


def main() -> int:
    """Run the job; 0 without a finding, else 1."""
    if sys.argv[1:2] == ['--child']:
        run_child(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
    names = ('rig', 'image', 'odometry', 'stream', 'bag', 'checkpoint')
    names += ('recording', 'tensor', 'parameter')
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seconds', type=float, default=60.0, help='of all kinds (60)')
    parser.add_argument('--seed', type=int, help='first seed (default: a new one)')
    parser.add_argument('--kinds', nargs='+', choices=names, default=list(names))
    parser.add_argument('--cases', type=int, help='of each kind, in place of --seconds')
    parser.add_argument('--keep', type=Path, metavar='DIR', help='keep the input of each finding')
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(10**9) if arguments.seed is None else arguments.seed
    start_s = time.monotonic()
    counts, findings = fuzz(
        arguments.kinds, arguments.seconds, seed, arguments.keep, arguments.cases
    )
    table = {kind: {o: n for (k, o), n in counts.items() if k == kind} for kind in arguments.kinds}
    seconds = round(time.monotonic() - start_s, 1)
    print(json.dumps({'seed': seed, 'seconds': seconds, 'cases': counts.total(), 'kinds': table,
                      'findings': len(findings)}))  # fmt: skip
    return 1 if findings else 0


if __name__ == '__main__':
    sys.exit(main())
