"""What is to be compared: a TOML file, and the cells that it comes to."""

import itertools
import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from experiments.benchmark import DetectorNoise, RegressorErrors
from fitting.errors import InputError
from fitting.metric_table import METRICS
from fitting.strategy import Strategy, load_strategy, override, sees_depth, with_stages
from fitting.toml_tables import check_names, from_table

AS_IT_IS: Final = "as it is"
"""The row without settings, which every other one is compared with."""


@dataclass(frozen=True)
class Row:
    """Settings that go together."""

    name: str
    """What tables call it."""
    set: tuple[str, ...] = ()
    """PATH=VALUE each, as for `manofit refine --set`. A weight of 0 switches a term off without
    compiling anew; so does a scale of 1e9."""
    stages: tuple[str, ...] = ()
    """Which stages run, and in which order; all of them unless named."""
    of: tuple[str, ...] = ()
    """The strategies that have this row; all of them unless named."""

    def meets(self, strategy: str) -> bool:
        """Whether a strategy has it."""
        return not self.of or strategy in self.of


@dataclass(frozen=True)
class Data:
    """Synthetic frames of interacting hands, and how they are predicted and seen."""

    name: str = "benchmark"
    """What tables call it."""
    detector: dict[str, float] = field(default_factory=dict)
    """Fields of `DetectorNoise`, such as joint_noise_mm."""
    regressor: dict[str, float] = field(default_factory=dict)
    """Fields of `RegressorErrors`, such as pose_scale."""

    def __post_init__(self) -> None:
        for kind, given in ((DetectorNoise, self.detector), (RegressorErrors, self.regressor)):
            names = [f.name for f in fields(kind)]
            check_names(given, names, f"data {self.name!r}: {kind.__name__}")
            kind(**given)


@dataclass(frozen=True)
class Files:
    """Frames of a user's own instead."""

    predictions: str
    """Canonical file to start from, relative to the spec."""
    truth: str
    """Canonical file that is right."""


@dataclass(frozen=True)
class Spec:
    """An ablation."""

    question: str
    """What it is to answer."""
    strategies: tuple[str, ...] = ("ihmr",)
    """Presets, or `.toml` files relative to the spec, called by their file names."""
    rows: tuple[Row, ...] = ()
    """Named rows of settings; the strategies as they are come first."""
    values: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """Settings and the values that they take, one at a time; `"PATH*"` takes factors."""
    grid: bool = False
    """Whether `values` go together in all combinations instead."""
    frames: int = 16
    """Frames of each seed; of a file its first ones."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the synthetic frames; a file has no seeds."""
    metrics: tuple[str, ...] = ("mpjpe", "i_mpjpe", "mpvpe", "ave_p", "max_p")
    """What is measured, see `manofit evaluate --help`."""
    success: dict[str, float] = field(default_factory=dict)
    """Metrics of which less is better, and limits: a frame below all of them is a success."""
    data: tuple[Data, ...] = (Data(),)
    """Synthetic data; every row meets all of it."""
    files: Files | None = None
    """A file with truth instead of synthetic data."""

    def __post_init__(self) -> None:
        check_names(self.metrics, METRICS, "metrics")
        check_names(self.success, self.metrics, "success: metrics that are measured")
        for name in self.success:
            if METRICS[name].higher_is_better:
                raise InputError(f"success: limits are from above, and of {name} more is better")
        if self.frames < 1 or not self.strategies or not (self.seeds or self.files):
            raise InputError("an ablation needs a strategy, a seed and a frame at least")
        strategies = [strategy_name(source) for source in self.strategies]
        for row in self.rows:
            check_names(row.of, strategies, f"row {row.name!r}: of")
        _distinct("strategies", strategies)
        _distinct("data", [data.name for data in self.data])
        for strategy in strategies:
            _distinct("rows", [row.name for row in all_rows(self) if row.meets(strategy)])


@dataclass(frozen=True)
class Cell:
    """One fit of an ablation: what `results.jsonl` has a line of."""

    strategy: str
    row: str
    data: str
    seed: int
    plan: Strategy
    """The strategy with the row's settings."""

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What tells it from the others."""
        return self.strategy, self.row, self.data, self.seed


def read_spec(path: Path) -> Spec:
    """Read a spec.

    Raises:
        InputError: no such file, no TOML, or something in it that is unknown or does not fit.
    """
    if not path.is_file():
        raise InputError(f"no ablation file {path}")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML: {error}") from error
    spec = from_table(Spec, table, str(path))
    strategies = [str(path.parent / s) if s.endswith(".toml") else s for s in spec.strategies]
    spec = replace(spec, strategies=tuple(strategies))
    if spec.files is None:
        return spec
    resolved = {f.name: str(path.parent / getattr(spec.files, f.name)) for f in fields(Files)}
    return replace(spec, files=Files(**resolved))


def all_rows(spec: Spec) -> list[Row]:
    """The row without settings, the named ones, and those of `values`."""
    changes = [[setting(path, v) for v in values] for path, values in spec.values.items()]
    if spec.grid:
        found = list(itertools.product(*changes)) if changes else []
    else:
        found = [(one,) for settings in changes for one in settings]
    made = [Row(", ".join(settings), settings) for settings in found]
    return [Row(AS_IT_IS, ()), *spec.rows, *made]


def cells(spec: Spec) -> list[Cell]:
    """All fits of an ablation, those that share data and programs together.

    Raises:
        StrategyError: a strategy that is unknown, or a setting that leads nowhere.
    """
    data = [d.name for d in spec.data] if spec.files is None else ["files"]
    seeds = spec.seeds if spec.files is None else (0,)
    found = []
    for source in spec.strategies:
        strategy, name = load_strategy(source), strategy_name(source)
        plans = {row.name: _plan(strategy, row) for row in all_rows(spec) if row.meets(name)}
        found += [
            Cell(name, row, where, seed, plan)
            for where, seed, (row, plan) in itertools.product(data, seeds, plans.items())
        ]
    return found


def strategy_name(source: str) -> str:
    """What tables call a preset or a strategy file."""
    return Path(source).stem if source.endswith(".toml") else source


def reporting_itself(strategy: Strategy) -> Strategy:
    """The strategy with those terms of THE energy that act in some stage of it.

    A fit whose energy rises is given back as it came. Terms that were switched off must not have a
    say in that: what their absence does to a fit is the question. Nor is anything repaired by an
    energy that sees no collisions.
    """
    acting = {term for stage in strategy.stages for term, weight in stage.weights.items() if weight}
    scaled = {term for stage in strategy.stages for term in stage.likelihoods}
    weights = {t: w if t in acting else 0.0 for t, w in strategy.report_weights.items()}
    likelihoods = tuple(t for t in strategy.report_likelihoods if t in scaled)
    stages = strategy.stages
    if not sees_depth(weights, likelihoods):
        stages = tuple(stage for stage in stages if stage not in strategy.repairs)
    return replace(strategy, stages=stages, report_weights=weights, report_likelihoods=likelihoods)


def _distinct(what: str, names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise InputError(f"{what}: two have the same name among {', '.join(names)}")
    for name in names:
        if "/" in name:
            raise InputError(f"{what}: {name!r}: a name in a record's path has no '/'")


def _plan(strategy: Strategy, row: Row) -> Strategy:
    ordered = with_stages(strategy, row.stages) if row.stages else strategy
    return reporting_itself(override(ordered, row.set))


def setting(path: str, value: Any) -> str:
    """A value of a setting, as `--set` takes it and as its row is called."""
    # JSON's numbers, words and lists are TOML's too.
    return f"{path}={json.dumps(value)}"
