"""What the studies found: their records as a page of the documents.

    python -m experiments.results_page --out docs/results.md

The studies are `experiments/studies/*.toml`, run by `manofit ablate`, whose `record.json` is kept
as `experiments/results/studies/NAME.json`; beside them lies the record of a search by `manofit
tune`.
What is said of the papers' findings is decided here, from the figures.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.map_page import as_read, blocks, sources
from experiments.records import Metric, Record, markdown_table, read_record

FOLDER = Path("experiments/results/studies")
STUDIES = (
    "objectives",
    "joint_noise",
    "stages",
    "solvers",
    "angle_prior",
    "sensitivity_ihmr",
    "sensitivity_map",
    "start_error",
    "priors",
)
TUNED = "map_tuned"
LABELS = {
    "mpjpe": "MPJPE",
    "i_mpjpe": "I-MPJPE",
    "i_mpjpe_evaluator": "I-MPJPE, evaluator's",
    "ave_p": "AVE-P",
    "max_p": "MAX-P",
    "success": "success, %",
    "ms a frame": "ms a frame",
}
_TABLE_3 = {
    "before": (20.29, 0.70),
    "F_2D": (18.99, 0.14),
    "F_3D": (17.07, 0.22),
    "F_tau": (36.76, 0.01),
    "F_2D, F_3D": (16.06, 0.27),
    "F_2D, F_tau": (17.89, 0.12),
    "F_3D, F_tau": (16.99, 0.21),
    "F_2D, F_3D, F_tau": (16.94, 0.20),
}
"""I-MPJPE and AVE-P, mm: Rong et al., "Monocular 3D reconstruction of interacting hands via
collision-aware factorized refinements", 3DV 2021, supplement, Table 3."""
_TABLE_4 = {0: (15.13, 0.183), 10: (15.27, 0.152), 20: (15.56, 0.170), 30: (16.10, 0.178),
            40: (16.72, 0.181)}  # fmt: skip
"""The same by joint noise in mm, Table 4; `before` is Table 3's."""
_SAME = "i_mpjpe_evaluator"
"""The metric that the paper's figures are of."""


@dataclass(frozen=True)
class Finding:
    """A finding of a paper, and whether it holds here."""

    claim: str
    paper: str
    here: str
    holds: bool


def main() -> None:
    """Write the page from the committed records."""
    parser = argparse.ArgumentParser(description="The page of the studies, from their records")
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write")
    options = parser.parse_args()
    options.out.write_text(page(read_records(Path())))


def read_records(root: Path) -> dict[str, Record]:
    """The records by study, from the repository's root."""
    return {name: read_record(root / FOLDER / f"{name}.json") for name in (*STUDIES, TUNED)}


def findings_table(findings: Iterable[Finding]) -> str:
    """A row a finding."""
    rows = {
        f.claim: {
            "the paper": f.paper,
            "here": f.here,
            "": "**reproduced**" if f.holds else "**not reproduced**",
        }
        for f in findings
    }
    return markdown_table(rows, corner="finding", show=str)


def of_objectives(record: Record) -> list[Finding]:
    """Table 3's."""
    error = {row: record.metric(_key(row, _SAME)) for row in _TABLE_3}
    depth = {row: record.metric(_key(row, "ave_p")) for row in _TABLE_3}
    start, deep, every = error["before"], depth["before"], "F_2D, F_3D, F_tau"
    found = []
    for row, what in (("F_2D", "2D joints"), ("F_3D", "3D joints")):
        (e0, d0), (e1, d1) = _TABLE_3["before"], _TABLE_3[row]
        found.append(
            Finding(
                f"{what} alone lower both error and collision",
                f"I-MPJPE {e0} to {e1}, AVE-P {d0} to {d1}",
                f"{start.value:.2f} to {error[row].value:.2f}, "
                f"{deep.value:.3f} to {depth[row].value:.3f}",
                _below(error[row], start) and _below(depth[row], deep),
            )
        )
    removed = 100 * (1 - depth["F_tau"].value / deep.value)
    found += [
        Finding(
            "translation alone removes nearly all collisions",
            f"AVE-P {_TABLE_3['before'][1]} to {_TABLE_3['F_tau'][1]}",
            f"{deep.value:.3f} to {depth['F_tau'].value:.3f} ({removed:.0f} % less)",
            removed >= 95,
        ),
        Finding(
            "translation alone ruins the joints",
            f"I-MPJPE {_TABLE_3['before'][0]} to {_TABLE_3['F_tau'][0]}",
            f"{start.value:.2f} to {error['F_tau'].value:.2f}; MPJPE "
            f"{record[_key('before', 'mpjpe')]:.2f} to {record[_key('F_tau', 'mpjpe')]:.2f}",
            _below(start, error["F_tau"]),
        ),
        Finding(
            "all three together are the best compromise: no other row has both less error and "
            "less collision",
            f"I-MPJPE {_TABLE_3[every][0]}, AVE-P {_TABLE_3[every][1]}",
            f"{error[every].value:.2f}, {depth[every].value:.3f}",
            not any(
                error[row].value < error[every].value and depth[row].value < depth[every].value
                for row in _TABLE_3
                if row != every
            ),
        ),
    ]
    return found


def of_joint_noise(record: Record) -> list[Finding]:
    """Table 4's."""
    rows = {n: f"{n} mm/ihmr: as it is" for n in _TABLE_4}
    error = {n: record[f"{where}/{_SAME}"] for n, where in rows.items()}
    depth = {n: record[f"{where}/ave_p"] for n, where in rows.items()}
    start, deep = record[f"0 mm/before/{_SAME}"], record["0 mm/before/ave_p"]
    gain = {n: 100 * (1 - e / start) for n, e in error.items()}
    paper = {n: 100 * (1 - e / _TABLE_3["before"][0]) for n, (e, _) in _TABLE_4.items()}
    removed = [100 * (1 - d / deep) for d in depth.values()]
    removed_paper = [100 * (1 - d / _TABLE_3["before"][1]) for _, d in _TABLE_4.values()]
    steps = list(error.values())
    return [
        Finding(
            "joints with 40 mm of noise still lower the error",
            f"I-MPJPE {paper[40]:.1f} % below the start",
            f"{gain[40]:.1f} % below the start",
            gain[40] > 0,
        ),
        Finding(
            "most of the gain survives 40 mm of noise",
            f"{paper[0]:.1f} % without noise, {paper[40]:.1f} % with it",
            f"{gain[0]:.1f} % without noise, {gain[40]:.1f} % with it",
            gain[40] > gain[0] / 2,
        ),
        Finding(
            "the error grows with the noise",
            ", ".join(f"{e:.2f}" for e, _ in _TABLE_4.values()),
            ", ".join(f"{e:.2f}" for e in steps),
            all(a < b for a, b in zip(steps, steps[1:], strict=False)),
        ),
        Finding(
            "collisions are removed whatever the noise",
            f"{min(removed_paper):.0f} to {max(removed_paper):.0f} % of AVE-P",
            f"{min(removed):.0f} to {max(removed):.0f} %",
            max(removed) - min(removed) < 10,
        ),
    ]


def table(
    record: Record,
    columns: Sequence[str],
    *,
    data: str = "benchmark",
    rows: Mapping[str, str] | None = None,
    corner: str = "",
) -> str:
    """Means with intervals; a star where the change from the strategy as it is leaves zero out.

    Args:
        record: of a study.
        columns: metrics, keys of `LABELS`.
        data: which of the study's.
        rows: which rows, and what they are called here; all of them unless given.
        corner: heading of the rows.
    """
    there = record.rows(data)
    names = rows or {row: row for row in there}
    cells = {
        name: {LABELS[c]: shown(record, f"{data}/{row}/{c}") for c in columns if c in there[row]}
        for row, name in names.items()
    }
    return markdown_table(cells, corner=corner or data, show=str)


def shown(record: Record, key: str, *, interval: bool = True) -> str:
    """A mean, a star where it differs from the strategy as it is, and its interval."""
    metric = record.metric(key)
    change = next((m for m in record.metrics if m.key == f"{key} change"), None)
    text = number(metric.value)
    if change is not None and differs(change):
        text += r"\*"
    if not interval or metric.low is None or metric.high is None:
        return text
    return f"{text} [{number(metric.low)}, {number(metric.high)}]"


def differs(change: Metric) -> bool:
    """Whether a change's interval leaves zero out."""
    return change.low is not None and change.high is not None and change.low * change.high > 0


def number(value: float) -> str:
    """Two decimals, three below one."""
    return f"{value:.{2 if abs(value) >= 1 else 3}f}"


def _key(row: str, metric: str) -> str:
    return f"benchmark/{row}/{metric}" if row == "before" else f"benchmark/ihmr: {row}/{metric}"


def _below(one: Metric, other: Metric) -> bool:
    """Whether an interval lies below another."""
    return one.high is not None and other.low is not None and one.high < other.low
