"""Shapes of the JSON objects that the programs write: record and summary of a replay, evaluation.

Keys that not every object has are in the classes with `total=False`.
"""

from __future__ import annotations

from typing import Any, TypedDict

Facts = dict[str, Any]  # names and values that depend on the engine, for people to read
HorizonMetrics = dict[str, dict[str, float] | None]  # '0.5' ... '6.4' s to metric to value


class PoseJson(TypedDict):
    """`odom_from_t0` of a line: metres and a unit quaternion in the odometry frame."""

    position_m: list[float]
    quaternion_xyzw: list[float]
    frame_id: str
    child_frame_id: str


class LineStatus(TypedDict):
    """What every line of results.jsonl has; see replay/record.py."""

    t0_ns: int
    status: str
    reason: str


class Line(LineStatus, total=False):
    """One line of results.jsonl: a prediction, or why there is none, or a refused message.

    samples (K, 64, 4) and actions (K, 64, 2) as nested lists; None when they are not finite.
    truth_reason: why the driven path after t0 is no truth, where there is one.
    """

    log_ns: int
    clip: str
    corner_distance_m: float
    detail: str
    topic: str
    seed: int
    k: int
    chosen: int
    end: str
    checks: list[str]
    text: str
    partial_text: str
    tokens: int | None
    navigation: str
    v0_mps: float
    twist_mps: float
    skew_ms: float | None
    spread_m: float | None
    ms: dict[str, float]
    horizons: HorizonMetrics
    baseline: HorizonMetrics
    odom_from_t0: PoseJson
    truth_reason: str
    truth_detail: str
    samples: list[list[list[float]]] | None
    actions: list[list[list[float]]] | None


class PathFacts(TypedDict):
    """How many poses of the odometry were recorded and make the driven path; others by reason."""

    recorded: int
    used: int
    left_out: dict[str, int]


class TruthFacts(PathFacts):
    """The driven path, and how many t0 were measured.

    expected: t0 with a prediction behind which odometry was recorded for 0.5 s. without: those of
    them without a truth, by reason.
    """

    expected: int
    without: dict[str, int]


class RigFacts(TypedDict):
    """Which rig a run has read."""

    name: str
    absent: list[str]
    sha256: str


class RunFacts(TypedDict):
    """What every run.json has: what a replay was made from and with."""

    bag: Facts
    rig: RigFacts
    parameters: Facts
    engine: Facts
    versions: dict[str, str | None]
    machine: str
    started: str


class Run(RunFacts, total=False):
    """run.json. anchors: what became of the anchor frames of a live run."""

    anchors: dict[str, int]


class Stats(TypedDict):
    """Distribution of a number over the lines that have it."""

    n: int
    mean: float
    p50: float
    p90: float
    max: float


ErrorStats = dict[str, dict[str, Stats] | None]  # '0.5' ... '6.4' s to metric to Stats


_Pass = TypedDict('_Pass', {'pass': bool})  # a keyword: the class syntax cannot have it


class Threshold(_Pass):
    """A limit of the command line and what was measured; None: nothing was."""

    limit: float
    value: float | None


class ClipMetrics(TypedDict):
    """The makers' metrics of a record of clips; min_ade_m by horizon '0.5' ... '6.4' s."""

    clips: int
    measured: int
    frame_rule: str
    min_ade_m: dict[str, Stats | None]
    corner_distance_m: Stats | None
    published: list[str]


class Change(TypedDict):
    """Mean change of a metric of the items or clips against an earlier run, with its interval.

    pairs: those that both runs have; worse: in how many of them the metric grew.
    """

    folder: str
    metric: str
    pairs: int
    worse: int
    mean_change_m: float
    low_m: float | None
    high_m: float | None


class _ClipPart(TypedDict, total=False):
    clips: ClipMetrics
    against: Change


class ItemCounts(TypedDict):
    """How many work items a dataset has; failed: those whose bag could not be replayed."""

    items: int
    replayed: int
    failed: int


class _DatasetPart(TypedDict, total=False):
    items: ItemCounts


class ItemRow(TypedDict):
    """One line of items.jsonl: a bag or a span of one, and where its lines are in results.jsonl.

    detail: why the bag could not be replayed; '' when it was. horizon_s: the longest that truth
    reaches; the means are over it. worst_ade_m, worst_t0_ns: of the t0 with the largest ADE.
    """

    name: str
    path: str
    start_ns: int | None
    stop_ns: int | None
    detail: str
    bag: Facts
    notes: list[str]
    anchors: int
    ok: int
    reasons: dict[str, int]
    checks: dict[str, int]
    horizon_s: float | None
    ade_m: float | None
    fde_m: float | None
    min_ade_m: float | None
    baseline_ade_m: float | None
    worst_ade_m: float | None
    worst_t0_ns: int | None
    p90_ms: float | None
    seconds: float
    begin_byte: int
    end_byte: int


class Summary(_Pass, _ClipPart, _DatasetPart):
    """summary.json: counts, distributions, thresholds and provenance of a replay."""

    anchors: int
    ok: int
    rejected: int
    failed: int
    valid_share: float
    reasons: dict[str, int]
    refused_messages: dict[str, int]
    refused_for_example: dict[str, str]
    bag_notes: list[str]
    checks: dict[str, int]
    ends: dict[str, int]
    longest_horizon_s: float | None
    horizons: ErrorStats
    baseline: ErrorStats
    truth: TruthFacts | None
    spread_m: Stats | None
    ms: dict[str, Stats]
    thresholds: dict[str, Threshold]
    notes: list[str]
    provenance: Run


class Figure(TypedDict):
    """A mean with the bounds of its interval, over n values; no bounds for too few drives."""

    mean: float
    low: float | None
    high: float | None
    n: int


Figures = dict[str, Figure | None]  # by key of a metric


class OpenLoopFigures(TypedDict):
    """Figures of a row in the open loop: of all moments, against 16 bits, by scenario."""

    all: Figures
    ratio: Figures | None
    cause: dict[str, Figures]
    weather: dict[str, Figures]


class TableRow(TypedDict):
    """One planner of an evaluation.

    k: samples of a prediction. closed: latency to the figures of the closed loop. counterfactual:
    edit of the pictures to figures.
    """

    name: str
    kind: str
    planner: Facts
    k: int
    open: OpenLoopFigures
    closed: dict[str, Facts]
    counterfactual: dict[str, Figures]


class BootstrapFacts(TypedDict):
    """How the intervals of a table were drawn."""

    rounds: int
    seed: int


class Table(TypedDict):
    """evaluation.json."""

    rows: list[TableRow]
    loops: dict[str, Facts]
    bootstrap: BootstrapFacts
    world_sha256: str | None
    notes: list[str]
