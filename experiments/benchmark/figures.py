"""Are the benchmark's starting predictions as wrong as the published regressor's?

Makes the frames that `manofit benchmark make` makes, times it, and measures the predictions by the
published definitions and exactly, all together and for each contact type.

    python -m experiments.benchmark.figures --out experiments/results/benchmark_figures.json

`--page docs/benchmark.md` writes the page from the record.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from experiments.benchmark.arrangements import TYPE_NAMES
from experiments.benchmark.make import frame_type, make_interactions
from experiments.benchmark.measure import PUBLISHED, by_frame, true_depths_mm
from experiments.benchmark.page import page
from experiments.records import Metric, Record, provenance, read_record
from mano_jax.model import Hands
from mano_jax.procedural import procedural_hands

QUESTION = "Are the benchmark's starting predictions as wrong as the published regressor's?"


def main() -> None:
    """Measure and write the record, or write the page from it."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--out", type=Path, required=True, help="the record, JSON")
    parser.add_argument("--page", type=Path, help="write this page from the record that is there")
    parser.add_argument("--frames", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.page is not None:
        options.page.write_text(page(read_record(options.out)))
        return
    metrics = measure(procedural_hands(), frames=options.frames, seed=options.seed)
    record = Record(
        question=QUESTION,
        data="synthetic",
        metrics=metrics,
        provenance=provenance("experiments.benchmark.figures"),
        settings={"frames": options.frames, "seed": options.seed, "hands": "embedded"},
    )
    record.write(options.out)
    for metric in metrics:
        print(f"{metric.key:52s} {metric.value:8.3f} {metric.unit}")


def measure(hands: Hands, *, frames: int, seed: int) -> tuple[Metric, ...]:
    """Every figure of the record."""
    begin = time.perf_counter()
    truth, predictions = make_interactions(hands, frames=frames, seed=seed)
    seconds = time.perf_counter() - begin
    values = by_frame(hands, truth, predictions)
    kinds = np.array([frame_type(name) for name in truth.frame_names])
    metrics = [
        Metric(f"published baseline/all/{name}", value, "mm", "neither")
        for name, value in PUBLISHED.items()
    ]
    for group, figures in values.items():
        for kind in ("all", *TYPE_NAMES):
            chosen = np.ones(len(kinds), bool) if kind == "all" else kinds == kind
            metrics += [
                Metric(f"{group}/{kind}/{name}", float(figure[chosen].mean()), "mm", "neither")
                for name, figure in figures.items()
                if chosen.any()
            ]
    deepest = values["exact"]["MAX-P"]
    depth = true_depths_mm(hands, truth)
    metrics += [
        Metric("share of frames/apart or grazing, under 1 mm", _share(deepest < 1), "", "neither"),
        Metric("share of frames/deep, over 15 mm", _share(deepest > 15), "", "neither"),
        Metric("truth/AVE-P", float(depth.mean()), "mm", "lower"),
        Metric("truth/deepest vertex", float(depth.max()), "mm", "lower"),
        Metric("time/a frame, compilation included", seconds / frames, "s", "lower"),
    ]
    return tuple(metrics)


def _share(mask: np.ndarray) -> float:
    return float(np.mean(mask))


if __name__ == "__main__":
    main()
