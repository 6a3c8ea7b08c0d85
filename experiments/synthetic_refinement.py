"""How much of a simulated regressor's error and penetration does each preset remove?

Sixteen synthetic frames of interacting hands for each seed, refined exactly as `manofit refine`
would; metrics against the truth, penetration by the exact engine. Synthetic data: poses from the
embedded hand's own samples, Gaussian joint noise, a weak camera that is right.

    python -m experiments.synthetic_refinement --out experiments/results/synthetic_refinement.json
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmark_data import make_interactions
from experiments.demo import frame_metrics, penetration, pose_predictions
from experiments.records import provenance
from fitting.refine import REFINED, refine
from mano_jax.model import Hands
from mano_jax.procedural import procedural_hands

QUESTION = "How much of a simulated regressor's error and penetration does each preset remove?"


def main() -> None:
    """Refine, compare, write the record."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--frames", type=int, default=16, help="frames of each seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--strategies", nargs="+", default=["ihmr"])
    options = parser.parse_args()
    hands = procedural_hands()
    runs = [
        run(hands, strategy, seed, options.frames)
        for strategy in options.strategies
        for seed in options.seeds
    ]
    record = {
        "question": QUESTION,
        "data": "synthetic",
        "runs": runs,
        "provenance": provenance("experiments.synthetic_refinement"),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(runs, indent=2))


def run(hands: Hands, strategy: str, seed: int, frames: int) -> dict[str, Any]:
    """One strategy on one seed: mean metrics before and after, and what they fell by."""
    truth, predictions = make_interactions(hands, frames=frames, seed=seed)
    begin = time.perf_counter()
    result = refine(hands, predictions, strategy)
    seconds = time.perf_counter() - begin
    true_hands = pose_predictions(hands, truth)
    before, after = (
        frame_metrics(posed, true_hands, penetration(hands, posed.vertices), truth.hand_valid)
        for posed in (pose_predictions(hands, p) for p in (predictions, result.predictions))
    )
    sums = [
        energies.sum(axis=1, dtype=np.float64)
        for energies in (result.energy_before, result.energy_after)
    ]
    return {
        "strategy": strategy,
        "seed": seed,
        "frames": frames,
        "refined": result.count(REFINED),
        "energies_risen": int(np.sum(sums[1] > sums[0])),
        "seconds_with_compilation": seconds,
        "metrics": {
            name: {
                "before": float(before[name].mean()),
                "after": float(after[name].mean()),
                "fall": float(1 - after[name].mean() / before[name].mean()),
                "frames_worse": int(np.sum(after[name] > before[name])),
            }
            for name in before
        },
    }


if __name__ == "__main__":
    main()
