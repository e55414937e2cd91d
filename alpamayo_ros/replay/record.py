"""The record of a replay: results.jsonl, one line per anchor that was looked at, and run.json.

Everything else in the folder is rebuilt from these two files, so every line is flushed to the
file at once. Knows no bag and no engine.

docs/ros-contract.md section 5 lists the fields of a line. Those that need a word more:

- `text`, `tokens`, `end` are those of the chosen sample.
- `navigation` is the route text in the prompt, '' without one.
- `topic` is set when the line is about a refused message; `t0_ns` then is its log time.
- `log_ns` is the log time of the anchor frame in the input bag; the report finds its image there.
- `odom_from_t0` is the pose of the vehicle at t0; it places the path in the odometry frame.
- `baseline` holds the errors of constant velocity, as `horizons` those of the chosen sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import json
import math
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..data_types import Context, EgoPose, Prediction
from ..errors import BadInput
from ..files import write_atomically
from ..json_types import Line, Run
from ..metrics.displacement import Horizons
from ..ros.publishing.stamped_prediction import StampedPrediction

Key = tuple[str, int]

RESULTS, RUN = 'results.jsonl', 'run.json'
COMPARED = ('bag', 'rig', 'parameters', 'engine')  # parts of run.json that a resumed run repeats
MICRO = 6  # decimals kept of numbers in m, rad, m/s


def ok_line(
    context: Context,
    prediction: Prediction,
    horizons: Horizons,
    baseline: Horizons,
    timing_ms: Mapping[str, float],
) -> Line:
    """Line of a prediction; status 'failed' when it holds numbers that are not finite."""
    k = prediction.chosen
    finite = bool(np.isfinite(prediction.samples).all() and np.isfinite(prediction.actions).all())
    odom = context.odom_from_t0
    return {
        't0_ns': prediction.t0_ns,
        'status': 'ok' if finite else 'failed',
        'reason': '' if finite else 'non_finite',
        'seed': prediction.seed,
        'k': len(prediction.samples),
        'chosen': k,
        'end': prediction.end[k],
        'checks': list(prediction.checks),
        'text': prediction.texts[k],
        'partial_text': prediction.partial_texts[k],
        'tokens': prediction.tokens[k],
        'navigation': prediction.navigation,
        'v0_mps': round(float(prediction.v0_mps), MICRO),
        'twist_mps': round(float(odom.speed_mps), MICRO),
        'skew_ms': round(context.skew_s * 1e3, 3),
        'spread_m': _round_finite(prediction.spread_m),
        'ms': {stage: round(ms, 3) for stage, ms in timing_ms.items()},
        'horizons': _round(horizons) if finite else dict.fromkeys(horizons),
        'baseline': _round(baseline),
        'odom_from_t0': {
            'position_m': odom.position_m.tolist(),
            'quaternion_xyzw': odom.quaternion_xyzw.tolist(),
            'frame_id': odom.frame_id,
            'child_frame_id': odom.child_frame_id,
        },
        'samples': _to_numbers(prediction.samples) if finite else None,
        'actions': _to_numbers(prediction.actions) if finite else None,
    }


def reason_line(t0_ns: int, status: str, reason: str, detail: str, topic: str = '') -> Line:
    """Line without a prediction: status 'rejected' or 'failed', of an anchor or of a message."""
    line: Line = {'t0_ns': t0_ns, 'status': status, 'reason': reason, 'detail': detail}
    return {**line, 'topic': topic} if topic else line


def line_key(line: Line) -> Key:
    """Key of a line: topic of a refused message, clip, or '' for an anchor; and the stamp."""
    return line.get('topic', line.get('clip', '')), line['t0_ns']


class ReplayRecord:
    """The files of one output folder that a run writes as it goes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / RESULTS

    def claim(self, resume: bool) -> None:
        """Check the folder before anything slow happens, and make it when it is absent.

        Raises BadInput when the folder holds something and `resume` is not set, and when it holds
        no run and `resume` is set.
        """
        known = (self.folder / RUN).exists()
        if resume and not known:
            raise BadInput(f'{self.folder}: nothing to resume, there is no {RUN}')
        if not resume and self.folder.exists() and any(self.folder.iterdir()):
            hint = 'add --resume to continue the run in it, or choose' if known else 'choose'
            raise BadInput(f'{self.folder}: not empty: {hint} another --out')
        self.folder.mkdir(parents=True, exist_ok=True)

    def begin(self, run: Run) -> set[Key]:
        """Start a new record in a claimed folder; no line is done, so the set is empty."""
        write_atomically(self.folder / RUN, json.dumps(run, indent=2))
        self.path.touch()
        return set()

    def resume(self, run: Run) -> set[Key]:
        """Continue the record; returns the keys of the lines that it already has.

        Raises BadInput when other parameters or another checkpoint, rig or bag have made it.
        """
        self.require_same(run)
        return self.list_done()

    def list_done(self) -> set[Key]:
        """Keys of the lines that are there; drops a line that an interruption has torn."""
        self.path.touch()
        cut_torn_line(self.path)
        return {line_key(line) for line in self.lines()}

    def require_same(self, run: Run) -> None:
        """Raise BadInput when other parameters, another checkpoint, rig or bag made the record."""
        before = read_run(self.folder)
        for part in COMPARED:
            old_facts, new_facts = _facts(before, part), _facts(run, part)
            for key in {**old_facts, **new_facts}:
                old, new = old_facts.get(key), new_facts.get(key)
                if old != new:
                    raise BadInput(
                        f'{self.folder}: cannot resume, the record was made with '
                        f'{part} {key}={old!r}, not {new!r}'
                    )

    def append(self, *lines: Line) -> None:
        """Write lines through to the file."""
        try:
            with self.path.open('a', encoding='utf-8') as file:
                for line in lines:
                    file.write(json.dumps(line, allow_nan=False, separators=(',', ':')) + '\n')
        except OSError as error:
            raise BadInput(
                f'{self.path}: {error.strerror}; the results so far stay, continue with --resume'
            ) from error

    def lines(self) -> Iterator[Line]:
        """Lines in the order of writing; raises BadInput for one that is no line of a record."""
        with self.path.open('rb') as file:
            for number, text in enumerate(file, start=1):
                if not text.endswith(b'\n'):
                    return  # torn by an interruption
                try:
                    line = json.loads(text)
                    line_key(line)
                except (ValueError, TypeError, KeyError) as error:
                    where = f'{self.path}: line {number}'
                    raise BadInput(f'{where} is not a line of a replay: {error}') from error
                yield line


def cut_torn_line(path: Path) -> None:
    """Cut off a last line that an interruption has torn."""
    with path.open('r+b') as file:
        file.truncate(file.read().rfind(b'\n') + 1)


def read_run(folder: Path) -> Run:
    """Content of run.json; raises BadInput when `begin` has not written it."""
    path = folder / RUN
    try:
        run = json.loads(path.read_text(encoding='utf-8'))
        if not all(isinstance(run[part], dict) for part in COMPARED):
            raise TypeError('a part is not an object')
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise BadInput(f'{path}: not the run.json of a replay: {error}') from error
    return cast(Run, run)


def _facts(run: Run, part: str) -> Mapping[str, Any]:
    return cast(Mapping[str, Any], run[part])  # type: ignore[literal-required]


def _round_finite(value: float) -> float | None:
    return round(float(value), MICRO) if np.isfinite(value) else None


def _to_numbers(values: np.ndarray) -> list[Any]:
    numbers: list[Any] = np.asarray(values, np.float64).round(MICRO).tolist()
    return numbers


def _round(horizons: Horizons) -> Horizons:
    return {
        name: values and {key: round(value, MICRO) for key, value in values.items()}
        for name, values in horizons.items()
    }


def to_stamped_prediction(line: Line) -> StampedPrediction:
    """The prediction of a line, its pose, and the time at which the live node would publish it."""
    prediction, t0_ns = to_prediction(line), line['t0_ns']
    return StampedPrediction(
        prediction, to_pose(line), now_ns=t0_ns + round(line['ms']['total'] * 1e6)
    )


def to_pose(line: Line) -> EgoPose:
    """odom_from_t0 of a line."""
    pose: Mapping[str, Any] = line['odom_from_t0']
    return EgoPose(
        line['t0_ns'],
        np.array(pose['position_m']),
        np.array(pose['quaternion_xyzw']),
        line['twist_mps'],
        pose['frame_id'],
        pose['child_frame_id'],
    )


def to_prediction(line: Line) -> Prediction:
    """Prediction of a line; text, end and tokens of samples that are not chosen are empty."""
    count, chosen = line['k'], line['chosen']

    def only_chosen(value: Any, other: Any) -> tuple[Any, ...]:
        return tuple(value if k == chosen else other for k in range(count))

    return Prediction(
        t0_ns=line['t0_ns'],
        seed=line['seed'],
        samples=np.array(line['samples'], np.float32),
        actions=np.array(line['actions'], np.float32),
        chosen=chosen,
        spread_m=math.nan if line['spread_m'] is None else line['spread_m'],
        v0_mps=line['v0_mps'],
        texts=only_chosen(line['text'], ''),
        partial_texts=only_chosen(line['partial_text'], ''),
        end=only_chosen(line['end'], ''),
        tokens=only_chosen(line['tokens'], 0),
        checks=tuple(line['checks']),
        timing_ms=line['ms'],
    )
