"""What the fits of an ablation amount to: a line a row, means over the frames of all seeds."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from experiments.ablation.run import Result
from experiments.ablation.spec import AS_IT_IS, Spec
from experiments.records import Metric, Record, markdown_table
from fitting.evaluation_summary import LEVEL, Interval, bootstrap_means
from fitting.metric_table import METRICS

SUCCESS: Final = "success"
"""The column of the share of frames that meet the spec's limits."""
BEFORE: Final = "before"
"""The line of the predictions themselves."""


@dataclass(frozen=True)
class Line:
    """One row of settings of one strategy on one kind of data."""

    data: str
    strategy: str
    row: str
    frames: int
    """Frames of all seeds."""
    mean: dict[str, Interval]
    """Mean of each metric, and its bootstrap interval."""
    change: dict[str, Interval]
    """Minus the same strategy as it is, frame by frame; empty for that one and for `before`."""
    kept: int
    """Frames that were given back as they came."""
    seconds: float
    """Of fitting a frame: of the fastest seed, so that with several seeds one without compilation
    counts; 0 for `before`."""

    @property
    def name(self) -> str:
        """Strategy and row."""
        return self.row if self.row == BEFORE else f"{self.strategy}: {self.row}"

    def differs(self, metric: str) -> bool:
        """Whether the interval of the change leaves zero out."""
        change = self.change.get(metric)
        return change is not None and (change.low > 0 or change.high < 0)


def summarise(spec: Spec, results: Sequence[Result]) -> list[Line]:
    """The lines of an ablation, those of each kind of data after its `before`."""
    found = []
    for data in dict.fromkeys(r.data for r in results):
        here = [r for r in results if r.data == data]
        first = [r for r in here if (r.strategy, r.row) == (here[0].strategy, here[0].row)]
        before = _values(spec, first, before=True)
        found.append(_line(spec, data, "", BEFORE, before, None, []))
        for strategy in dict.fromkeys(r.strategy for r in here):
            of_row = {
                row: [r for r in here if (r.strategy, r.row) == (strategy, row)]
                for row in dict.fromkeys(r.row for r in here if r.strategy == strategy)
            }
            base = _values(spec, of_row[AS_IT_IS])
            for row, some in of_row.items():
                against = None if row == AS_IT_IS else base
                found.append(_line(spec, data, strategy, row, _values(spec, some), against, some))
    return found


def columns(spec: Spec) -> dict[str, str]:
    """What is tabled, and its title: the metrics, and the success where limits are given."""
    titles = {m: f"{METRICS[m].label} ({METRICS[m].unit})" for m in spec.metrics}
    return titles | ({SUCCESS: "success (%)"} if spec.success else {})


def as_record(spec: Spec, results: Sequence[Result], lines: Sequence[Line]) -> Record:
    """The table as a record: `DATA/STRATEGY: ROW/METRIC`, and `.../METRIC change`."""
    metrics = []
    for line in lines:
        where = f"{line.data}/{line.name}"
        for name, title in columns(spec).items():
            unit = title.split("(")[-1].rstrip(")")
            better = name == SUCCESS or METRICS[name].higher_is_better
            direction = "higher" if better else "lower"
            found = {name: line.mean[name], f"{name} change": line.change.get(name)}
            metrics += [
                Metric(f"{where}/{key}", i.mean, unit, direction, low=i.low, high=i.high)
                for key, i in found.items()
                if i is not None
            ]
        if line.row != BEFORE:
            metrics += [
                Metric(f"{where}/given back", float(line.kept), "", "lower"),
                Metric(f"{where}/ms a frame", 1000 * line.seconds, "ms", "lower"),
            ]
    what = "a file of the user's" if spec.files else "synthetic frames of interacting hands"
    return Record(
        question=spec.question,
        data=f"{lines[0].frames} {what}"
        + ("" if spec.files else f", seeds {', '.join(map(str, spec.seeds))}"),
        metrics=tuple(m for m in metrics if np.isfinite(m.value)),
        provenance=results[-1].provenance,
        settings={
            "commits": sorted({str(r.provenance["commit"]) for r in results}),
            "data": {d.name: {"detector": d.detector, "regressor": d.regressor} for d in spec.data},
        },
    )


def as_text(spec: Spec, lines: Sequence[Line]) -> str:
    """Aligned columns; a star marks what differs from the strategy as it is."""
    header = ["", *columns(spec).values(), "given back"]
    blocks = []
    for data in dict.fromkeys(line.data for line in lines):
        rows = [header] + [
            [line.name, *(_cell(line, m) for m in columns(spec)), str(line.kept)]
            for line in lines
            if line.data == data
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
        blocks.append(
            "\n".join(
                [f"{data}: mean of {_frames(lines, data)} frames, {100 * LEVEL:.0f} % interval"]
                + [
                    "  ".join(
                        cell.ljust(width) if i == 0 else cell.rjust(width)
                        for i, (cell, width) in enumerate(zip(row, widths, strict=True))
                    ).rstrip()
                    for row in rows
                ]
            )
        )
    return "\n\n".join([*blocks, f"* differs from the strategy {AS_IT_IS}, frame by frame"])


def as_markdown(spec: Spec, lines: Sequence[Line]) -> str:
    """A Markdown table for each kind of data."""
    blocks = []
    for data in dict.fromkeys(line.data for line in lines):
        rows = {
            line.name: {
                **{title: _cell(line, m) for m, title in columns(spec).items()},
                "given back": line.kept,
            }
            for line in lines
            if line.data == data
        }
        corner = f"{data}, {_frames(lines, data)} frames"
        blocks.append(markdown_table(rows, corner=corner, show=str))
    return "\n\n".join(blocks)


def as_csv(spec: Spec, lines: Sequence[Line]) -> str:
    """A row a line, means and intervals in columns of their own."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    parts = ("", "_low", "_high", "_change", "_change_low", "_change_high")
    header = [f"{m}{part}" for m in columns(spec) for part in parts]
    writer.writerow(["data", "strategy", "row", "frames", "kept_input", *header])
    for line in lines:
        numbers = []
        for metric in columns(spec):
            for interval in (line.mean[metric], line.change.get(metric)):
                numbers += (
                    ["", "", ""]
                    if interval is None
                    else [f"{x:.6g}" for x in (interval.mean, interval.low, interval.high)]
                )
        writer.writerow([line.data, line.strategy, line.row, line.frames, line.kept, *numbers])
    return text.getvalue()


def as_latex(spec: Spec, lines: Sequence[Line]) -> str:
    """A tabular for each kind of data, for the package booktabs."""
    blocks = []
    for data in dict.fromkeys(line.data for line in lines):
        body = [
            " & ".join(
                [_escaped(line.name)]
                + [
                    f"${_number(i.mean)}_{{\\,{_number(i.low)}}}^{{\\,{_number(i.high)}}}$"
                    for i in (line.mean[m] for m in columns(spec))
                ]
            )
            + r" \\"
            for line in lines
            if line.data == data
        ]
        titles = " & ".join([_escaped(data), *map(_escaped, columns(spec).values())])
        blocks.append(
            "\n".join(
                [
                    rf"\begin{{tabular}}{{l{'r' * len(columns(spec))}}}",
                    r"\toprule",
                    rf"{titles} \\",
                    r"\midrule",
                    *body,
                    r"\bottomrule",
                    r"\end{tabular}",
                ]
            )
        )
    return "\n\n".join(blocks) + "\n"


def _values(spec: Spec, results: Sequence[Result], *, before: bool = False) -> np.ndarray:
    """(frames of all seeds, metrics); NaN where there is nothing to measure."""
    tables = [r.before if before else r.metrics for r in results]
    found = {m: [x for table in tables for x in table[m]] for m in spec.metrics}
    values = {m: np.array(x, np.float64) for m, x in found.items()}
    if spec.success:
        judged = np.stack([values[metric] for metric in spec.success])
        met = np.all(judged < np.array(list(spec.success.values()))[:, None], axis=0)
        # What could not be measured is neither a success nor a failure.
        values[SUCCESS] = np.where(np.isfinite(judged).all(axis=0), 100.0 * met, np.nan)
    return np.stack(list(values.values()), axis=1)


def _line(
    spec: Spec,
    data: str,
    strategy: str,
    row: str,
    values: np.ndarray,
    base: np.ndarray | None,
    results: Sequence[Result],
) -> Line:
    names = list(columns(spec))
    count = len(names)
    together = values if base is None else np.concatenate([values, values - base], axis=1)
    means = bootstrap_means(together)
    tail = 50 * (1 - LEVEL)
    low, high = np.nanpercentile(means, [tail, 100 - tail], axis=0)
    intervals = [
        Interval(float(np.nanmean(together[:, i])), float(low[i]), float(high[i]))
        for i in range(together.shape[1])
    ]
    return Line(
        data=data,
        strategy=strategy,
        row=row,
        frames=len(values),
        mean=dict(zip(names, intervals[:count], strict=True)),
        change=dict(zip(names, intervals[count:], strict=True)) if base is not None else {},
        kept=sum(r.status["kept_input"] for r in results),
        seconds=min((r.seconds / len(r.metrics[names[0]]) for r in results), default=0.0),
    )


def _cell(line: Line, metric: str) -> str:
    mean, star = line.mean[metric], "*" if line.differs(metric) else ""
    return f"{_number(mean.mean)}{star} [{_number(mean.low)}, {_number(mean.high)}]"


def _number(value: float) -> str:
    return "-" if not np.isfinite(value) else f"{value:.{2 if abs(value) >= 1 else 3}f}"


def _frames(lines: Sequence[Line], data: str) -> int:
    return next(line.frames for line in lines if line.data == data)


def _escaped(text: str) -> str:
    for character in "&%$#_{}":
        text = text.replace(character, f"\\{character}")
    return text
