"""A strategy's numbers, improved for somebody's own data: CMA-ES on part of the frames.

Every number is multiplied by a factor of its own; the search is over the factors' logarithms, from
1 on, by CMA-ES (Hansen, "The CMA evolution strategy: a tutorial", arXiv:1604.00772; the `cma`
package), which needs no gradient, no scale and only the order of what it tries. What is minimised
is the mean of one metric over the frames; means of others may be limited, and a candidate beyond a
limit ranks behind all that keep it. Frames of one video stay on one side of the split, and the
frames that were held out alone say whether anything was gained.

Each evaluation is a line beside the result. CMA-ES draws the same candidates from the same seed, so
the same command finds what was evaluated before it was interrupted, and goes on.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from tqdm import tqdm

from experiments.json_lines import append_line, read_lines
from experiments.records import Direction, Metric, Record, provenance
from fitting.errors import InputError
from fitting.evaluation import evaluate, match_frames
from fitting.evaluation_summary import Interval, bootstrap_means
from fitting.metric_table import METRICS
from fitting.predictions import TwoHandPredictions
from fitting.refine import SKIPPED_INVALID, refine
from fitting.strategy import Strategy, load_strategy, override, strategy_to_toml
from mano_jax.model import Hands
from objectives.total import TERMS

FIRST_STEP: Final = 0.5
"""Standard deviation of the first factors' logarithms: most lie between 0.6 and 1.6."""
FURTHEST: Final = 100.0
"""Greatest factor, and the inverse of the smallest."""
AS_IT_IS: Final = "as it is"
"""The strategy that the search begins at."""


@dataclass(frozen=True)
class Goal:
    """What is wanted of a strategy."""

    minimise: str
    """Metric whose mean over frames is to be small; large where higher is better."""
    limits: Mapping[str, float]
    """Greatest allowed mean of other metrics, in their units."""

    def __post_init__(self) -> None:
        for name in (self.minimise, *self.limits):
            if name not in METRICS:
                raise InputError(f"unknown metric {name!r}: expected {', '.join(METRICS)}")
        for name in self.limits:
            if METRICS[name].higher_is_better:
                raise InputError(f"a limit is one from above, and of {name} more is better")

    @property
    def metrics(self) -> tuple[str, ...]:
        """What must be measured."""
        return tuple(dict.fromkeys([self.minimise, *self.limits]))

    def kept(self, means: Mapping[str, float]) -> bool:
        """Whether all limits are."""
        return all(means[name] <= limit for name, limit in self.limits.items())

    def cost(self, means: Mapping[str, float]) -> float:
        """What CMA-ES ranks by, between 0 and 1 where the limits are kept and above 1 elsewhere."""
        value = means[self.minimise]
        if not self.kept(means):
            beyond = [
                (means[name] - limit) / max(limit, 1e-9)
                for name, limit in self.limits.items()
                if not means[name] <= limit
            ]
            found = 2.0 + sum(beyond)
        elif METRICS[self.minimise].higher_is_better:
            found = 0.5 - np.arctan(value) / np.pi
        else:
            found = 0.5 + np.arctan(value) / np.pi
        return float(found) if np.isfinite(found) else np.inf


@dataclass(frozen=True)
class Tuned:
    """What a search came to."""

    strategy: Strategy
    """With its new numbers."""
    goal: Goal
    """What was wanted."""
    factors: dict[str, float]
    """What each number was multiplied by."""
    evaluations: int
    """Candidates that were tried."""
    tuning: dict[str, dict[str, float]]
    """Mean metrics of the frames tuned on, of `as it is` and `tuned`."""
    held_out: dict[str, dict[str, Interval]]
    """Mean metrics of the frames held out: of the tuned strategy, the one it began as, and those
    that it is held against."""
    gain: dict[str, dict[str, Interval]]
    """Tuned minus each of the others, frame by frame, on the frames held out."""
    frames: tuple[int, int]
    """How many were tuned on, and how many held out."""

    def better_than(self, name: str) -> bool:
        """Whether the tuned one is better than another, zero outside the interval."""
        change = self.gain[name][self.goal.minimise]
        return change.low > 0 if METRICS[self.goal.minimise].higher_is_better else change.high < 0

    def table(self) -> str:
        """For people."""
        width = max(len(name) for name in (*self.factors, *self.held_out)) + 2
        lines = [f"{'number':{width}s} {'factor':>8s}"]
        lines += [f"{name:{width}s} {factor:8.3f}" for name, factor in self.factors.items()]
        units = {name: METRICS[name].unit for name in self.goal.metrics}
        heads = "".join(f"{f'{m} ({unit})':>26s}" for m, unit in units.items())
        lines += ["", f"{f'{self.frames[1]} frames held out':{width}s} {heads}"]
        for name, means in self.held_out.items():
            cells = "".join(
                f"{f'{i.mean:.3f} [{i.low:.3f}, {i.high:.3f}]':>26s}" for i in means.values()
            )
            lines.append(f"{name:{width}s} {cells}")
        lines.append("")
        for name, change in self.gain.items():
            i = change[self.goal.minimise]
            verdict = "better" if self.better_than(name) else "NOT surely better"
            lines.append(
                f"tuned - {name}: {self.goal.minimise} {i.mean:+.3f} [{i.low:+.3f}, {i.high:+.3f}] "
                f"{units[self.goal.minimise]}: {verdict}"
            )
        for name, limit in self.goal.limits.items():
            if (found := self.held_out["tuned"][name].mean) > limit:
                lines.append(f"limit NOT kept on frames held out: {name} {found:.4f} > {limit:g}")
        return "\n".join(lines)

    def record(self, data: str) -> Record:
        """For machines."""

        def better(metric: str) -> Direction:
            return "higher" if METRICS[metric].higher_is_better else "lower"

        metrics = [Metric(f"factor/{k}", v, "", "neither") for k, v in self.factors.items()]
        metrics += [
            Metric(f"tuning/{name}/{metric}", value, METRICS[metric].unit, better(metric))
            for name, means in self.tuning.items()
            for metric, value in means.items()
        ]
        metrics += [
            Metric(f"{kind}/{name}/{key}", i.mean, METRICS[key].unit, better(key), i.low, i.high)
            for kind, table in (("held out", self.held_out), ("tuned minus", self.gain))
            for name, intervals in table.items()
            for key, i in intervals.items()
        ]
        return Record(
            question=f"Do tuned numbers improve {self.goal.minimise} on frames held out?",
            data=data,
            metrics=tuple(m for m in metrics if np.isfinite(m.value)),
            provenance=provenance("experiments.cli", "cma"),
            settings={
                "frames": list(self.frames),
                "evaluations": self.evaluations,
                "limits": dict(self.goal.limits),
                "strategy": strategy_to_toml(self.strategy),
            },
        )


def tune(
    hands: Hands,
    predictions: TwoHandPredictions,
    truth: TwoHandPredictions,
    *,
    strategy: Strategy,
    goal: Goal,
    numbers: Sequence[str] = (),
    against: Sequence[str] = ("ihmr", "map"),
    evaluations: int = 200,
    held_out: float = 0.5,
    seed: int = 0,
    journal: Path | None = None,
    hand_model: str = "",
    progress: bool = False,
) -> Tuned:
    """Search for factors of a strategy's numbers.

    Args:
        hands: the hand model.
        predictions: what fits start from.
        truth: of the same frames.
        strategy: where the search begins.
        goal: what is wanted.
        numbers: paths of the numbers, as `--set` has them; `acting_numbers` unless given.
        against: presets or files that the tuned strategy is held against, besides its start.
        evaluations: candidates tried, rounded up to whole generations.
        held_out: share of the frames, or of the videos, that are not tuned on.
        seed: of the split and of CMA-ES.
        journal: file of the evaluations, read and continued.
        hand_model: fingerprint of the hand model, for the journal.
        progress: show a progress bar.

    Raises:
        InputError: the `tune` extra is not there, a number that is not there, frames that do not
            match or are too few, or limits that no candidate kept.
    """
    cma = _cma()
    others = {AS_IT_IS: strategy}
    others |= {name: found for name in against if (found := load_strategy(name)) != strategy}
    rows, true_rows, _ = match_frames(predictions, truth)
    predictions, truth = predictions.frames(rows), truth.frames(true_rows)
    keep, out = _split(predictions, truth, held_out, np.random.default_rng(seed))
    trial = _Trial(
        hands=hands,
        predictions=predictions.frames(keep),
        truth=truth.frames(keep),
        strategy=strategy,
        goal=goal,
        names=tuple(numbers) or tuple(acting_numbers(strategy)),
        journal=journal,
        hand_model=hand_model,
    )
    reach = float(np.log(FURTHEST))
    best = np.zeros(len(trial.names))
    least, tried = goal.cost(trial.means(best)), 1
    search = cma.CMAEvolutionStrategy(
        best, FIRST_STEP, {"seed": seed + 1, "bounds": [-reach, reach], "verbose": -9}
    )
    with tqdm(total=evaluations, unit="fit", disable=not progress, desc="tuning") as bar:
        while tried < evaluations and not search.stop():
            asked = search.ask()
            costs = [goal.cost(trial.means(logs)) for logs in asked]
            search.tell(asked, costs)
            tried += len(asked)
            if min(costs) < least:
                best, least = asked[int(np.argmin(costs))], min(costs)
            bar.update(len(asked))
            bar.set_postfix_str(f"best {goal.minimise} {trial.means(best)[goal.minimise]:.4g}")
    start, end = trial.means(np.zeros(len(best))), trial.means(best)
    if not goal.kept(end):
        raise InputError(
            "no candidate kept the limits "
            + ", ".join(f"{name} <= {limit:g}" for name, limit in goal.limits.items())
            + f"; at the start: {', '.join(f'{n} {start[n]:.4g}' for n in goal.limits)}"
        )
    there, true_there = predictions.frames(out), truth.frames(out)
    values = {
        name: _measure(hands, there, true_there, one, goal)
        for name, one in {"tuned": trial.plan(best), **others}.items()
    }
    return Tuned(
        strategy=trial.plan(best),
        goal=goal,
        factors=dict(zip(trial.names, trial.factors(best), strict=True)),
        evaluations=tried,
        tuning={AS_IT_IS: start, "tuned": end},
        held_out={name: _intervals(columns) for name, columns in values.items()},
        gain={
            name: _intervals({m: values["tuned"][m] - columns[m] for m in columns})
            for name, columns in values.items()
            if name != "tuned"
        },
        frames=(len(keep), len(out)),
    )


def acting_numbers(strategy: Strategy) -> list[str]:
    """Paths of the scales and weights that act: of every scaled term, and of every term weighed."""
    scaled = {term for stage in strategy.stages for term in stage.likelihoods}
    weighed = {term for stage in strategy.stages for term, w in stage.weights.items() if w}
    return [f"scales.{term}" for term in TERMS if term in scaled] + [
        f"stages.weights.{term}" for term in TERMS if term in weighed
    ]


def _cma() -> Any:
    try:
        import cma
    except ImportError as error:
        raise InputError("tuning needs the cma package: install the 'tune' extra") from error
    return cma


def _split(
    predictions: TwoHandPredictions,
    truth: TwoHandPredictions,
    share: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows to tune on and rows held out; frames of one video stay together."""
    if not 0 < share < 1:
        raise InputError(f"held out: expected a share between 0 and 1, found {share}")
    video = truth.sequence_id if truth.sequence_id is not None else predictions.sequence_id
    groups = np.arange(truth.num_frames)
    if video is not None:
        groups = np.unique(video, return_inverse=True)[1]
    order = rng.permutation(groups.max() + 1) if len(groups) else np.zeros(0, int)
    count = round(share * len(order))
    if not 0 < count < len(order):
        what = "frames" if video is None else "videos (sequence_id)"
        raise InputError(f"{len(order)} {what} cannot be split: some must be held out, some not")
    away = np.isin(groups, order[:count])
    return np.flatnonzero(~away), np.flatnonzero(away)


@dataclass(frozen=True)
class _Trial:
    """Candidates by the logarithms of their factors, each measured once."""

    hands: Hands
    predictions: TwoHandPredictions
    truth: TwoHandPredictions
    strategy: Strategy
    goal: Goal
    names: tuple[str, ...]
    journal: Path | None
    hand_model: str

    def factors(self, logs: np.ndarray) -> list[float]:
        """Rounded, so that a line of the journal says all there is to know."""
        return [float(f"{np.exp(x):.6g}") for x in logs]

    def settings(self, logs: np.ndarray) -> list[str]:
        return [f"{n}*={f!r}" for n, f in zip(self.names, self.factors(logs), strict=True)]

    def plan(self, logs: np.ndarray) -> Strategy:
        return override(self.strategy, self.settings(logs))

    def means(self, logs: np.ndarray) -> dict[str, float]:
        """Mean metrics of a candidate."""
        settings = tuple(self.settings(logs))
        if settings in self._known:
            return self._known[settings]
        values = _measure(self.hands, self.predictions, self.truth, self.plan(logs), self.goal)
        for name, column in values.items():
            if not np.isfinite(column).any():
                raise InputError(f"{name} could be measured in no frame")
        found = {name: float(np.nanmean(column)) for name, column in values.items()}
        if self.journal is not None:
            line = {"fingerprint": self._fingerprint, "set": list(settings), "means": found}
            append_line(self.journal, line)
        self._known[settings] = found
        return found

    @cached_property
    def _known(self) -> dict[tuple[str, ...], dict[str, float]]:
        """What this very search measured before it was interrupted."""
        known = {}
        lines = read_lines(self.journal) if self.journal else []
        for number, entry in enumerate(lines, start=1):
            try:
                if entry["fingerprint"] == self._fingerprint:
                    known[tuple(entry["set"])] = entry["means"]
            except (TypeError, KeyError) as error:
                raise InputError(
                    f"{self.journal}, line {number}: no evaluation of a search; take the line out"
                ) from error
        return known

    @cached_property
    def _fingerprint(self) -> str:
        """Of what decides an evaluation, besides its factors."""
        digest = hashlib.sha256(strategy_to_toml(self.strategy).encode())
        digest.update(repr((self.goal.metrics, self.hand_model)).encode())
        for file in (self.predictions, self.truth):
            for name, array in file.arrays().items():
                digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]


def _measure(
    hands: Hands,
    predictions: TwoHandPredictions,
    truth: TwoHandPredictions,
    strategy: Strategy,
    goal: Goal,
) -> dict[str, np.ndarray]:
    result = refine(hands, predictions, strategy)
    skipped = result.status == SKIPPED_INVALID
    found = evaluate(hands, result.predictions, truth, skipped=skipped, metrics=goal.metrics)
    if missing := [name for name in goal.metrics if name not in found.metrics]:
        raise InputError(f"{', '.join(missing)} cannot be measured: {'; '.join(found.notes)}")
    return {name: found.column(name) for name in goal.metrics}


def _intervals(columns: Mapping[str, np.ndarray]) -> dict[str, Interval]:
    values = np.stack(list(columns.values()), axis=1)
    low, high = np.nanpercentile(bootstrap_means(values), [2.5, 97.5], axis=0)
    return {
        name: Interval(float(np.nanmean(values[:, i])), float(low[i]), float(high[i]))
        for i, name in enumerate(columns)
    }
