"""Is it the objective or the solver that makes the difference, and at which noise?

The paper's energy and `map`'s, each under both solvers, on the same synthetic frames of interacting
hands at several levels of joint noise, and under conditions that break an assumption: coarse
keypoints, a camera that is off, outliers, no keypoints, no 3D joints. `map` runs with its stored
scales, and with scales estimated from the very frames it fits, without their truth. The regressor's
errors are the benchmark's (`docs/benchmark.md`): correlated, with heavy tails, and not drawn from
any prior of the solver. All figures are means over frames after the fit, penetration exact. How
long a fit takes is `experiments.throughput`'s question.

    python -m experiments.solvers --out experiments/results/solvers_cpu.json

`--plot FILE.png` (needs the `plots` extra) draws error against joint noise from the record.
"""

import argparse
import dataclasses
from pathlib import Path

import jax
import numpy as np

from experiments.benchmark import (
    DetectorNoise,
    RegressorErrors,
    make_interactions,
    observed_again,
)
from experiments.records import Metric, Record, markdown_table, provenance, read_record
from fitting.calibrate import calibrate
from fitting.evaluation import evaluate
from fitting.predictions import TwoHandPredictions
from fitting.refine import KEPT_INPUT, refine
from fitting.strategy import Acceptance, Strategy, load_strategy
from mano_jax.loading import describe_hands, load_hands
from mano_jax.model import Hands

QUESTION = "Is it the objective or the solver that makes the difference, and at which noise?"
METRICS = ("mpjpe", "i_mpjpe", "mpvpe", "ave_p", "max_p")
NOISE_MM = (0.0, 5.0, 10.0, 20.0)
_LM_STEPS = {"translation": 0.03, "orientation": 0.6, "finger_pose": 0.6, "shape": 2.0}
_ADAM_STEPS = {
    **{"translation": 1e-3, "orientation": 1e-2, "finger_pose": 1e-2, "shape": 1e-2},
    "camera": 1e-2,
}


def main() -> None:
    """Fit, measure, write the record."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--seed", type=int, default=202)
    parser.add_argument("--plot", type=Path, help="PNG to draw from the record")
    options = parser.parse_args()
    record = study(load_hands(), options.frames, options.seed)
    record.write(options.out)
    for condition in dict.fromkeys(m.key.split("/")[0] for m in record.metrics):
        print(markdown_table(record.rows(condition), corner=condition), end="\n\n")
    if options.plot:
        plot(read_record(options.out), options.plot)


def study(hands: Hands, frames: int, seed: int) -> Record:
    """All conditions and fits."""
    metrics = []
    for condition, (truth, predictions) in conditions(hands, frames, seed).items():
        chosen = strategies()
        if condition != "5 mm":
            chosen = {name: chosen[name] for name in ("ihmr", "map")}
        scales = calibrate(hands, predictions, chosen["map"])
        chosen["map calibrated"] = scales.applied_to(chosen["map"])
        metrics += [
            Metric(f"{condition}/before/{name}", value, "mm", "lower")
            for name, value in means(hands, truth, predictions).items()
        ]
        for name, strategy in chosen.items():
            metrics += fit(hands, truth, predictions, strategy, f"{condition}/{name}")
    return Record(
        question=QUESTION,
        data=f"{frames} synthetic frames of interacting hands, seed {seed}",
        metrics=tuple(metrics),
        provenance=provenance("experiments.solvers"),
        settings={
            "frames": frames,
            "seed": seed,
            "devices": len(jax.local_devices()),
            "hands": describe_hands().fingerprint,
        },
    )


def conditions(
    hands: Hands, frames: int, seed: int
) -> dict[str, tuple[TwoHandPredictions, TwoHandPredictions]]:
    """Truth and predictions under each condition; 5 mm of joint noise unless it says otherwise."""
    truth, predictions = make_interactions(hands, frames=frames, seed=seed)
    off = RegressorErrors(camera_error=0.05)
    _, camera_off = make_interactions(hands, frames=frames, seed=seed, regressor=off)

    def seen(**noise: float) -> TwoHandPredictions:
        return observed_again(truth, predictions, detector=DetectorNoise(**noise), seed=seed)

    found = {f"{noise:g} mm": seen(joint_noise_mm=noise) for noise in NOISE_MM}
    found |= {
        "keypoints 10 px": seen(keypoint_noise_px=10.0),
        "camera 5 % off": camera_off,
        "10 % outliers": seen(outliers=0.1),
        "20 % outliers": seen(outliers=0.2),
        "no keypoints": dataclasses.replace(predictions, keypoints_2d=None),
        "no 3D joints": dataclasses.replace(predictions, joints_3d=None),
    }
    return {name: (truth, p) for name, p in found.items()}


def strategies() -> dict[str, Strategy]:
    """Two objectives, each under two solvers."""
    paper, ours = load_strategy("ihmr"), load_strategy("map")
    lowest = Acceptance(select_by=(), max_ratio={})
    stages = tuple(
        dataclasses.replace(
            stage,
            solver="lm",
            iterations=10,
            step_sizes={group: _LM_STEPS[group] for group in stage.step_sizes},
        )
        for stage in paper.stages
    )
    first_order = tuple(
        dataclasses.replace(
            stage,
            solver="adam",
            iterations=301,
            step_sizes=_ADAM_STEPS,
            anneal={},
            acceptance=lowest,
        )
        for stage in ours.stages
    )
    return {
        "ihmr": paper,
        "ihmr's energy by lm": dataclasses.replace(paper, stages=stages),
        "map": ours,
        "map's energy by adam": dataclasses.replace(ours, stages=first_order),
    }


def fit(
    hands: Hands,
    truth: TwoHandPredictions,
    predictions: TwoHandPredictions,
    strategy: Strategy,
    name: str,
) -> list[Metric]:
    """Metrics after a fit, and what became of the frames."""
    result = refine(hands, predictions, strategy)
    found = evaluate(hands, result.predictions, truth, before=predictions, metrics=METRICS)
    deepest = found.column("max_p")
    worse = found.column("mpjpe") > found.column("mpjpe", before=True) + 0.1
    return [
        *(
            Metric(f"{name}/{metric}", float(found.column(metric).mean()), "mm", "lower")
            for metric in METRICS
        ),
        Metric(f"{name}/max_p p90", float(np.percentile(deepest, 90)), "mm", "lower"),
        Metric(f"{name}/frames over 0.5 mm deep", float(np.sum(deepest > 0.5)), "", "lower"),
        Metric(f"{name}/frames worse by 0.1 mm", float(np.sum(worse)), "", "lower"),
        Metric(f"{name}/frames given back", float(result.count(KEPT_INPUT)), "", "lower"),
    ]


def means(
    hands: Hands, truth: TwoHandPredictions, predictions: TwoHandPredictions
) -> dict[str, float]:
    """Mean metrics of the predictions themselves, mm."""
    found = evaluate(hands, predictions, truth, metrics=METRICS)
    return {name: float(found.column(name).mean()) for name in METRICS}


def plot(record: Record, path: Path) -> None:
    """MPJPE and I-MPJPE against joint noise, from the record."""
    import matplotlib.pyplot as plt  # an extra: only who draws needs it

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for axis, metric in zip(axes, ("mpjpe", "i_mpjpe"), strict=True):
        for name in ("before", "ihmr", "map"):
            values = [record[f"{noise:g} mm/{name}/{metric}"] for noise in NOISE_MM]
            axis.plot(NOISE_MM, values, "o-", label=name)
        axis.set(xlabel="joint noise (mm, each axis)", title=metric.upper().replace("_", "-"))
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="mm", ylim=(0, None))
    axes[0].legend()
    figure.suptitle(record.data)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
