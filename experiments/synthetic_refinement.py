"""How much of a simulated regressor's error and penetration does each preset remove?

Synthetic frames of interacting hands for each seed (`experiments.benchmark`), refined exactly as
`manofit refine` would and measured as `manofit evaluate` would, penetration exactly.

    python -m experiments.synthetic_refinement --out experiments/results/synthetic_refinement.json
"""

import argparse
import time
from pathlib import Path

import numpy as np

from experiments.benchmark import make_interactions
from experiments.records import Metric, Record, markdown_table, provenance
from fitting.evaluation import evaluate
from fitting.refine import REFINED, refine
from mano_jax.loading import describe_hands, load_hands
from mano_jax.model import Hands

QUESTION = "How much of a simulated regressor's error and penetration does each preset remove?"
METRICS = ("mpjpe", "i_mpjpe", "mpvpe", "ave_p", "max_p")


def main() -> None:
    """Refine, measure, write the record."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--frames", type=int, default=16, help="frames of each seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--strategies", nargs="+", default=["ihmr", "map"])
    options = parser.parse_args()
    hands = load_hands()
    metrics = [
        metric
        for strategy in options.strategies
        for seed in options.seeds
        for metric in run(hands, strategy, seed, options.frames)
    ]
    record = Record(
        question=QUESTION,
        data=f"{options.frames} synthetic frames of interacting hands of each seed",
        metrics=tuple(metrics),
        provenance=provenance("experiments.synthetic_refinement"),
        settings={"frames": options.frames, "hands": describe_hands().fingerprint},
    )
    record.write(options.out)
    for strategy in options.strategies:
        for seed in options.seeds:
            print(
                markdown_table(record.rows(f"{strategy}/{seed}"), corner=f"{strategy}, seed {seed}")
            )


def run(hands: Hands, strategy: str, seed: int, frames: int) -> list[Metric]:
    """One strategy on one seed: mean metrics before and after, and what they fell by."""
    truth, predictions = make_interactions(hands, frames=frames, seed=seed)
    begin = time.perf_counter()
    result = refine(hands, predictions, strategy)
    seconds = time.perf_counter() - begin
    found = evaluate(hands, result.predictions, truth, before=predictions, metrics=METRICS)
    name = f"{strategy}/{seed}"
    metrics = []
    for key in METRICS:
        after, before = found.column(key), found.column(key, before=True)
        metrics += [
            Metric(f"{name}/{key}/before", float(before.mean()), "mm", "lower"),
            Metric(f"{name}/{key}/after", float(after.mean()), "mm", "lower"),
            Metric(
                f"{name}/{key}/fall, %",
                100 * float(1 - after.mean() / before.mean()),
                "%",
                "higher",
            ),
            Metric(f"{name}/{key}/frames worse", float(np.sum(after > before)), "", "lower"),
        ]
    sums = [e.sum(axis=1, dtype=np.float64) for e in (result.energy_before, result.energy_after)]
    return [
        *metrics,
        Metric(f"{name}/refined frames", result.count(REFINED), "", "higher"),
        Metric(f"{name}/energies risen", float(np.sum(sums[1] > sums[0])), "", "lower"),
        Metric(f"{name}/time with compilation", seconds, "s", "lower"),
    ]


if __name__ == "__main__":
    main()
