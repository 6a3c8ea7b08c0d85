"""What `map` gains, from which start and how surely: the records as a page of the documents.

python -m experiments.map_page --out docs/map.md
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

from experiments.records import Record, markdown_table, read_record

RESULTS = Path("experiments/results")
RECORDS = {
    name: RESULTS / f"{name}_cpu.json"
    for name in ("solvers", "throughput", "calibration", "starts", "peer_vertices")
}
"""What the page is made of: the record of `experiments.NAME` each."""
_MEANS = ("mpjpe", "i_mpjpe", "mpvpe", "ave_p", "max_p")
_TAILS = (
    "max_p p90",
    "frames over 0.5 mm deep",
    "frames worse by 0.1 mm",
    "frames given back",
)


def main() -> None:
    """Write the page from the committed records."""
    parser = argparse.ArgumentParser(description="The page of `map`, from its records")
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write")
    options = parser.parse_args()
    options.out.write_text(page({name: read_record(path) for name, path in RECORDS.items()}))


def page(records: dict[str, Record]) -> str:
    """All records as Markdown."""
    solvers = records["solvers"]
    conditions = list(dict.fromkeys(m.key.split("/")[0] for m in solvers.metrics))
    noise = [name for name in conditions if name.endswith(" mm")]
    broken = [name for name in conditions if name not in noise]
    scales = records["calibration"].rows("estimated")
    wrong = records["calibration"].rows("wrong by two")
    base = wrong.pop("none")["MPJPE"]
    times = {
        "milliseconds a frame, by batch": records["throughput"].rows("time"),
        "first call, s, compilation included": records["throughput"].rows("first call"),
    }
    covered = records["calibration"].rows("coverage")
    frames = solvers.settings["frames"]
    other = {name: row["mpjpe"] for name, row in solvers.rows("5 mm").items()}
    deep, paper_deep = (
        solvers[f"no 3D joints/{name}/frames over 0.5 mm deep"] for name in ("map", "ihmr")
    )
    covered_frames = records["calibration"].settings["covered"]
    true_frames = records["calibration"].settings["frames"]
    return f"""# `map`: what it gains, from which start, and how surely

Everything here is **synthetic**: the embedded hand, the benchmark's interactions and its simulated
regressor ([benchmark.md](benchmark.md)), whose errors are correlated, have heavy tails and are not
drawn from any prior of `map`. The noise of joints and keypoints is Gaussian, as `map` takes it to
be, where outliers are not asked for; photographs are harder. How it works:
[method.md](method.md#second-order-map).

{sources(records.values())}

## Joint noise

Means over {frames} frames, mm, of a seed on which nothing was tuned; penetration exact.
*calibrated*: scales estimated from the very frames, without their truth. The last columns are the
90th percentile of MAX-P and numbers of frames: deeper than 0.5 mm, worse than they came by over
0.1 mm of MPJPE, given back as they came because their energy would not fall.

{tables(solvers, noise)}

Objective or solver? At 5 mm the table has each energy under both solvers. The other solver changes
the MPJPE of `map`'s energy by a factor of {other["map's energy by adam"] / other["map"]:.2f},
that of `ihmr`'s by {other["ihmr's energy by lm"] / other["ihmr"]:.2f}; the other energy, by
{other["map"] / other["ihmr"]:.2f}: the accuracy is the objective's. The speed is the solver's.

## When an assumption is wrong

5 mm of joint noise, and something else. The stored scales take keypoints for good to 2 px: where
they are not, calibrate.

{tables(solvers, broken)}

Without 3D joints nothing but the regressor and the contacts knows the depth between the hands, and
a guess at the wrong side of the other hand is what the repairs are for: {deep:.0f} frames of
{frames} stay deeper than 0.5 mm in each other with `map`, {paper_deep:.0f} with `ihmr`.

## Time

{blocks(markdown_table(rows, corner=name, show=as_read) for name, rows in times.items())}

## Estimated scales

From 32 frames, beginning 3 times too large or too small (the regressor's: 3 times the preset's, or
a third): the scale over the true one, and the
fit's MPJPE over that of fits that know the noise of joints and keypoints, with the preset's other
scales and with the same estimated ones.

{markdown_table(scales, corner="joint noise")}

What one wrong scale costs: MPJPE over {base:.2f} mm, that of the estimated ones.

{markdown_table(wrong, corner="scale")}

## How sure

The truth should lie within one standard deviation for 68 % of the joint coordinates:
{covered_frames} draws of predictions of {true_frames} true frames.

{markdown_table(covered, corner="share of coordinates; mean deviation in mm")}

## Starts

Hands from a start of every kind; poses are the model's own samples, bent and turned further, which
the pose prior knows. MPJPE in mm after the fit without contacts.

{starts(records["starts"])}

From vertices, beside smplfitter's JAX version in the same run ({records["peer_vertices"].data}; its
`fit` once, four times over, and four times with next to no shape regulariser):

{markdown_table(records["peer_vertices"].rows("vertices"), corner="vertices alone", show=as_read)}
"""


def tables(record: Record, conditions: list[str]) -> str:
    """A table of each condition."""
    parts = []
    for condition in conditions:
        rows = record.rows(condition)
        cells = [
            {
                **{name: f"{row[name]:.3f}" for name in _MEANS},
                **{name: as_read(row[name]) for name in _TAILS if name in row},
            }
            for row in rows.values()
        ]
        parts.append(
            markdown_table(dict(zip(rows, cells, strict=True)), corner=condition, show=str)
        )
    return blocks(parts)


def starts(record: Record) -> str:
    """Tables of the starts, and what random ones come to."""
    corners = {
        "joints": "3D joints",
        "keypoints": "keypoints, px rms of 224",
        "vertices": "vertices, MPVPE in mm",
    }
    parts = [
        markdown_table(record.rows(key), corner=corner, show=as_read)
        for key, corner in corners.items()
    ]
    random = markdown_table(record.rows("random"), corner="random starts", show=as_read)
    return blocks(
        [
            *parts,
            f"Every preset from {record.settings['random']} random starts that have nothing to do "
            "with their joints (Adam's stages cut short): the number of frames.",
            random,
        ]
    )


def sources(records: Iterable[Record]) -> str:
    """How each record was made."""
    lines = [
        f"- `{record.provenance['command'].strip()}` on {record.provenance['device']}"
        for record in records
    ]
    return "\n".join(["Made from the records of", "", *lines])


def blocks(parts: Iterable[str]) -> str:
    """Blocks of Markdown, one after another."""
    return "\n\n".join(parts)


def as_read(value: float) -> str:
    """Whole numbers whole, others in four figures, lest rounding meets a limit that they miss."""
    return f"{value:.0f}" if value == int(value) else f"{value:.4g}"


if __name__ == "__main__":
    main()
