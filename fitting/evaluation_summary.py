"""What one number a frame amounts to: means with intervals, before against after, tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float

LEVEL: Final = 0.95
"""Of all intervals."""


@dataclass(frozen=True)
class Interval:
    """A mean over frames and its bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Statistics:
    """What one metric amounts to over the frames of a subset in which it could be measured."""

    count: int
    """Frames measured."""
    mean: Interval
    """Mean over frames."""
    median: float
    """Median frame."""
    p90: float
    """90th percentile of the frames."""


@dataclass(frozen=True)
class MetricSummary:
    """One metric over one subset; in a comparison, over the frames that have it in both."""

    unit: str
    after: Statistics
    before: Statistics | None = None
    change: Interval | None = None
    """After minus before, resampled as pairs."""
    made_worse: float | None = None
    """Share of those frames that are worse by more than the metric's tolerance."""


@dataclass(frozen=True)
class Column:
    """How the values of one metric are to be summarised."""

    unit: str
    tolerance: float
    higher_is_better: bool


def summarise_columns(
    after: Float[np.ndarray, "N M"],
    before: Float[np.ndarray, "N M"] | None,
    columns: Sequence[Column],
    *,
    resamples: int,
    seed: int,
) -> list[MetricSummary]:
    """Summaries of M metrics over N frames; NaN is a frame in which one was not measured.

    Before and after are statistics of the same frames, those measured in both. A metric that one
    of them lacks in every frame is no comparison: the other keeps its own frames.
    """
    if before is not None:
        after, before = _paired(after, before)
    values = after if before is None else np.concatenate([after, before, after - before], axis=1)
    means = bootstrap_means(values, resamples=resamples, seed=seed)
    intervals = [_percentiles(means[:, i]) for i in range(means.shape[1])]
    count, found = len(columns), []
    for i, column in enumerate(columns):
        first = _statistics(after[:, i], intervals[i])
        if before is None:
            found.append(MetricSummary(column.unit, first))
            continue
        difference = after[:, i] - before[:, i]
        difference = difference[np.isfinite(difference)]
        loss = -difference if column.higher_is_better else difference
        found.append(
            MetricSummary(
                unit=column.unit,
                after=first,
                before=_statistics(before[:, i], intervals[count + i]),
                change=Interval(_mean(difference), *intervals[2 * count + i]),
                made_worse=_mean(loss > column.tolerance),
            )
        )
    return found


def bootstrap_means(
    values: Float[np.ndarray, "N K"], *, resamples: int = 1000, seed: int = 0
) -> Float[np.ndarray, "resamples K"]:
    """Means over frames drawn with replacement, each column's over its finite entries.

    All columns see the same draws, so a column of differences gives a paired interval. A draw
    that hits no finite entry of a column is NaN. Efron, "Bootstrap methods", 1979.

    Args:
        values: one number a frame and column.
        resamples: how many draws of N frames.
        seed: of the draws.
    """
    frames, columns = values.shape
    finite = np.isfinite(values).astype(np.float64)
    filled = np.where(finite > 0, values, 0.0)
    rng = np.random.default_rng(seed)
    # A block of draws stays within some tens of megabytes whatever the number of frames.
    block = max(1, 2**21 // max(frames, 1))
    means = np.full((resamples, columns), np.nan)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        draws = rng.integers(0, frames, (size, frames)) + frames * np.arange(size)[:, None]
        weights = np.bincount(draws.ravel(), minlength=size * frames).reshape(size, frames)
        weights = weights.astype(np.float64)
        count, total = weights @ finite, weights @ filled
        means[start : start + size] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return means


def table_block(
    name: str, frames: str, found: Mapping[str, MetricSummary], tolerances: Mapping[str, float]
) -> str:
    """One subset as aligned text; metrics that were measured in none of its frames are left out.

    Args:
        name: the subset's.
        frames: how many it has, in words.
        found: summaries by metric.
        tolerances: what "worse" means, by metric.
    """
    compared = any(one.before is not None for one in found.values())
    if compared:
        header = ["metric", "unit", "before", "after", "change", "95 % interval"]
        header += ["worse (by more than)", "frames"]
    else:
        header = ["metric", "unit", "mean", "95 % interval", "median", "p90", "frames"]
    rows = [header]
    for key, one in found.items():
        after = one.after
        if after.count == 0 and (one.before is None or one.before.count == 0):
            continue
        if one.before is None or one.change is None or one.made_worse is None:
            numbers = [_number(after.mean.mean), _range(after.mean)]
            numbers += [_number(after.median), _number(after.p90)]
        else:
            numbers = [_number(one.before.mean.mean), _number(after.mean.mean)]
            numbers += [_number(one.change.mean, "+"), _range(one.change, "+")]
            numbers += [f"{_share(one.made_worse)} ({tolerances[key]:g})"]
        rows.append([key, one.unit, *numbers, str(after.count)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([f"{name}: {frames}", *(f"  {line}" for line in lines)])


def without_nan(value: Any) -> Any:
    """The same JSON value with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _paired(after: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both without the frames that only one of them has; a column that one lacks as it is."""
    new, old = np.isfinite(after), np.isfinite(before)
    comparable = new.any(0) & old.any(0)
    keep = (new & old) | ~comparable
    return np.where(keep, after, np.nan), np.where(keep, before, np.nan)


def _statistics(values: Float[np.ndarray, "N"], interval: tuple[float, float]) -> Statistics:
    kept = values[np.isfinite(values)]
    nan = float("nan")
    return Statistics(
        count=len(kept),
        mean=Interval(_mean(kept), *interval),
        median=float(np.median(kept)) if len(kept) else nan,
        p90=float(np.percentile(kept, 90)) if len(kept) else nan,
    )


def _mean(values: Float[np.ndarray, "N"] | Bool[np.ndarray, "N"]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _percentiles(means: Float[np.ndarray, "resamples"]) -> tuple[float, float]:
    means = means[np.isfinite(means)]
    if len(means) == 0:
        return float("nan"), float("nan")
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def _number(value: float, sign: str = "") -> str:
    if not np.isfinite(value):
        return "-"
    return f"{value:{sign}.{2 if abs(value) >= 10 else 3}f}"


def _range(interval: Interval, sign: str = "") -> str:
    if not np.isfinite(interval.low):
        return "-"
    return f"{_number(interval.low, sign)} .. {_number(interval.high, sign)}"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %" if np.isfinite(value) else "-"
