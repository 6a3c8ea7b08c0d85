"""What an experiment leaves behind: its question, its figures, and where they come from.

    {"question": ..., "data": ..., "metrics": [{key, value, unit, direction}, ...],
     "settings": {...}, "provenance": {...}}

A key is a path, from the general to the particular: `solver step/culled/ms`. Tables, plots and
pages are made from the file, never by hand.
"""

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import jax

_NO_RECORDS = ":(exclude)experiments/results"

Direction = Literal["lower", "higher", "neither"]
"""Which way is better."""


@dataclass(frozen=True)
class Metric:
    """One figure."""

    key: str
    """What was measured, as a path of names."""
    value: float
    """How much; a finite number."""
    unit: str
    """In what; empty for a ratio or a count."""
    direction: Direction
    """Which way is better."""
    low: float | None = None
    """Lower end of the value's interval, where it has one."""
    high: float | None = None
    """Upper end."""


@dataclass(frozen=True)
class Record:
    """The outcome of an experiment."""

    question: str
    """What was asked."""
    data: str
    """What it was asked of; synthetic data is called synthetic."""
    metrics: tuple[Metric, ...]
    """The answer."""
    provenance: Mapping[str, Any]
    """Command, commit, device, versions."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else one has to know to repeat it."""

    def __getitem__(self, key: str) -> float:
        """Value of the metric with this key; KeyError names the keys there are."""
        return self.metric(key).value

    def metric(self, key: str) -> Metric:
        """The metric with this key; KeyError names the keys there are."""
        found = {metric.key: metric for metric in self.metrics}
        if key not in found:
            raise KeyError(f"{key!r} is none of {', '.join(found)}")
        return found[key]

    def rows(self, prefix: str) -> dict[str, dict[str, float]]:
        """Values under `prefix/row/column`, by row and column, in the order of the metrics."""
        table: dict[str, dict[str, float]] = {}
        for metric in self.metrics:
            head, _, tail = metric.key.partition(f"{prefix}/")
            row, _, column = tail.partition("/")
            if head == "" and column:
                table.setdefault(row, {})[column] = metric.value
        return table

    def to_json(self) -> str:
        """As JSON.

        Raises:
            ValueError: a value is not finite.
        """
        metrics = [
            json.dumps({k: v for k, v in asdict(metric).items() if v is not None}, allow_nan=False)
            for metric in self.metrics
        ]
        rest = {k: v for k, v in asdict(self).items() if k != "metrics"}
        # A line a metric: what changes shows as such in a comparison.
        text = json.dumps(rest, indent=1, allow_nan=False).removesuffix("\n}")
        return f'{text},\n "metrics": [\n  ' + ",\n  ".join(metrics) + "\n ]\n}\n"

    def write(self, path: Path) -> None:
        """Write it as JSON.

        Raises:
            ValueError: a value is not finite.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.to_json())


def read_record(path: Path) -> Record:
    """A record that was written."""
    content = json.loads(path.read_text())
    content["metrics"] = tuple(Metric(**metric) for metric in content["metrics"])
    return Record(**content)


def markdown_table(
    rows: Mapping[str, Mapping[str, Any]],
    *,
    corner: str,
    show: Callable[[Any], str] = "{:.3f}".format,
    columns: Sequence[str] | None = None,
) -> str:
    """A Markdown table; what a row lacks stays empty.

    Args:
        rows: values by row and column.
        corner: heading of the rows' names.
        show: how a value is written.
        columns: which columns, in their order; all of them unless told.
    """
    names = columns or list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = [f"| {corner} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for row, values in rows.items():
        cells = [show(values[name]) if name in values else "" for name in names]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def provenance(module: str, *packages: str) -> dict[str, Any]:
    """Command, commit, device and versions.

    Args:
        module: the experiment, as `python -m` names it.
        packages: distributions whose versions matter, besides JAX and NumPy.
    """
    versions = ("jax", "jaxlib", "numpy", *packages)
    return {
        "command": f"python -m {module} {shlex.join(sys.argv[1:])}",
        "commit": commit(),
        "device": f"{jax.devices()[0].device_kind} ({os.cpu_count()} cores, {processor()})",
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in versions},
    }


def commit() -> str | None:
    """The program's commit, with `-dirty` where files differ from it; None without a repository.

    Records do not count: one experiment after another writes its own.
    """
    folder = Path(__file__).parent
    described = _git(folder, "rev-parse", "HEAD")
    if described is None:
        return None
    changed = _git(
        folder.parent, "status", "--porcelain", "--untracked-files=no", "--", ".", _NO_RECORDS
    )
    return f"{described}-dirty" if changed else described


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def processor() -> str:
    """The processor's name, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
