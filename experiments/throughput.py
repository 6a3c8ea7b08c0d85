"""How many frames a second does each preset refine, and how good are they?

The same synthetic interactions, repeated to fill each batch, are refined through the library from
arrays to arrays, host work included. The first call compiles and is told apart; the others are
timed whole, and their median counts. Accuracy is that of the distinct frames.

    python -m experiments.throughput --out experiments/results/throughput_cpu.json

The time of the pipeline around it (files, start-up) is not in here.
"""

import argparse
import statistics
import time
from pathlib import Path

import jax
import numpy as np

from experiments.benchmark import make_interactions
from experiments.records import Metric, Record, markdown_table, provenance
from fitting.evaluation import evaluate
from fitting.predictions import TwoHandPredictions
from fitting.refine import refine
from fitting.strategy import load_strategy
from mano_jax.loading import describe_hands, load_hands
from mano_jax.model import Hands

QUESTION = "How many frames a second does each preset refine, and how good are they?"
METRICS = ("mpjpe", "i_mpjpe", "mpvpe", "ave_p", "max_p")


def main() -> None:
    """Time, measure, write the record."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--strategies", nargs="+", default=["map", "ihmr"])
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--frames", type=int, default=64, help="distinct frames")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each batch")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    hands = load_hands()
    truth, predictions = make_interactions(hands, frames=options.frames, seed=options.seed)
    metrics = [
        metric
        for name in options.strategies
        for metric in (
            *accuracy(hands, name, truth, predictions),
            *times(hands, name, predictions, options.batches, options.repeats),
        )
    ]
    for batch in options.batches if {"map", "ihmr"} <= set(options.strategies) else []:
        values = {m.key: m.value for m in metrics}
        ratio = values[f"time/ihmr/{batch}"] / values[f"time/map/{batch}"]
        metrics.append(Metric(f"ratio/ihmr against map/{batch}", ratio, "", "higher"))
    record = Record(
        question=QUESTION,
        data=f"{options.frames} synthetic frames of interacting hands, seed {options.seed}, "
        "repeated to fill the batches",
        metrics=tuple(metrics),
        provenance=provenance("experiments.throughput"),
        settings={
            "frames": options.frames,
            "repeats": options.repeats,
            "devices": len(jax.local_devices()),
            "hands": describe_hands().fingerprint,
        },
    )
    record.write(options.out)
    for key in ("rate", "time", "first call", "accuracy"):
        print(markdown_table(record.rows(key), corner=key), end="\n\n")


def accuracy(
    hands: Hands, strategy: str, truth: TwoHandPredictions, predictions: TwoHandPredictions
) -> list[Metric]:
    """Mean metrics of the distinct frames after the fit, mm."""
    result = refine(hands, predictions, strategy)
    evaluation = evaluate(hands, result.predictions, truth, metrics=METRICS)
    return [
        Metric(f"accuracy/{strategy}/{name}", float(evaluation.column(name).mean()), "mm", "lower")
        for name in METRICS
    ]


def times(
    hands: Hands,
    strategy: str,
    predictions: TwoHandPredictions,
    batches: list[int],
    repeats: int,
) -> list[Metric]:
    """Milliseconds a frame and frames a second by batch size, and the first call's seconds."""
    metrics = []
    plan = load_strategy(strategy)
    for batch in batches:
        rows = np.arange(batch) % predictions.num_frames
        some = predictions.frames(rows)
        # Compiled programs are kept by shape: forget them, so that each first call is one.
        jax.clear_caches()
        seconds = []
        for _ in range(1 + repeats):
            begin = time.perf_counter()
            refine(hands, some, plan)
            seconds.append(time.perf_counter() - begin)
        median = statistics.median(seconds[1:])
        metrics += [
            Metric(f"first call/{strategy}/{batch}", seconds[0], "s", "lower"),
            Metric(f"time/{strategy}/{batch}", 1e3 * median / batch, "ms", "lower"),
            Metric(f"rate/{strategy}/{batch}", batch / median, "frames/s", "higher"),
        ]
    return metrics


if __name__ == "__main__":
    main()
