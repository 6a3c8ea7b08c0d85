"""Are estimated scales right, what does a wrong one cost, and how sure may one be of a fit?

Synthetic frames of interacting hands, each predicted several times by the benchmark's regressor,
whose errors are correlated and have heavy tails, and by its detector, whose noise is Gaussian:

- the scales are estimated from 32 frames, beginning 3 times too large and 3 times too small (those
  of the regressor's errors, whose truth is no one number: 3 times and a third of the preset's), at
  several levels of joint noise; a fit with them is compared with one that knows the noise;
- with the scales estimated at 5 mm each one is doubled and halved, and the fit's error compared;
- the posterior's standard deviations are held against the truth: where they are right it lies
  within one of them for 68 % of the joint coordinates.

    python -m experiments.calibration --out experiments/results/calibration_cpu.json
"""

import argparse
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark import DetectorNoise, make_interactions, predicted_again
from experiments.benchmark.detector import CROP_PX
from experiments.benchmark.measure import posed
from experiments.records import Metric, Record, markdown_table, provenance
from fitting.calibrate import BOUNDS, FEWEST_FRAMES, calibrate
from fitting.metrics import mpjpe
from fitting.predictions import TwoHandPredictions
from fitting.prepare import prepare
from fitting.refine import refine
from fitting.strategy import Strategy, load_strategy
from mano_jax.loading import describe_hands, load_hands
from mano_jax.model import Hands
from objectives.problem import posed_joints

QUESTION = "Are estimated scales right, what does a wrong one cost, and how sure may one be?"
NOISE_MM = (5.0, 10.0, 20.0)
COVERED_FRAMES = 512
"""Draws whose truth is held against the deviations: the true frames, several times."""


def main() -> None:
    """Draw, estimate, fit, write the record."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--frames", type=int, default=32, help="distinct true frames")
    parser.add_argument("--seed", type=int, default=102)
    options = parser.parse_args()
    hands = load_hands()
    truth, _ = make_interactions(hands, frames=options.frames, seed=options.seed)
    metrics = [
        *estimated(hands, truth, options.seed),
        *wrong_by_two(hands, truth, options.seed),
        *coverage(hands, truth, options.seed),
    ]
    record = Record(
        question=QUESTION,
        data=f"{options.frames} synthetic frames of interacting hands, seed {options.seed}; "
        "several draws of predictions each",
        metrics=tuple(metrics),
        provenance=provenance("experiments.calibration"),
        settings={
            "frames": options.frames,
            "seed": options.seed,
            "covered": COVERED_FRAMES,
            "devices": len(jax.local_devices()),
            "hands": describe_hands().fingerprint,
        },
    )
    record.write(options.out)
    for key in dict.fromkeys(m.key.split("/")[0] for m in metrics):
        print(markdown_table(record.rows(key), corner=key, show="{:.3f}".format), end="\n\n")


def estimated(hands: Hands, truth: TwoHandPredictions, seed: int) -> list[Metric]:
    """Scales from 32 frames over the true ones, and the fits' errors over the informed fits'."""
    preset = load_strategy("map")
    some = truth.frames(np.arange(FEWEST_FRAMES) % truth.num_frames)
    metrics = []
    for noise_mm in NOISE_MM:
        detector = DetectorNoise(joint_noise_mm=noise_mm)
        predictions = predicted_again(hands, some, detector=detector, seed=seed)
        known = {
            "joints_3d": noise_mm / 1000,
            "keypoints_2d": detector.keypoint_noise_px / (CROP_PX / 2),
        }
        informed = replace(preset, scales=preset.scales | known)
        informed_error = fit_error(hands, some, predictions, informed)
        true = {t: preset.scales[t] for t in BOUNDS if t in preset.scales} | known
        for word, factor in (("from 3 times", 3.0), ("from a third", 1 / 3)):
            start = {term: factor * scale for term, scale in true.items()}
            found = calibrate(hands, predictions, preset, start=start).applied_to(preset)
            key = f"estimated/{noise_mm:g} mm, {word}"
            metrics += [
                Metric(f"{key}/{term} over true", found.scales[term] / scale, "", "neither")
                for term, scale in known.items()
            ]
            error = fit_error(hands, some, predictions, found)
            # The same scales of the regressor, the detector's known.
            oracle = replace(found, scales=found.scales | known)
            oracle_error = fit_error(hands, some, predictions, oracle)
            for name, other in (("informed preset", informed_error), ("informed", oracle_error)):
                metrics.append(Metric(f"{key}/MPJPE over {name}", error / other, "", "lower"))
    return metrics


def wrong_by_two(hands: Hands, truth: TwoHandPredictions, seed: int) -> list[Metric]:
    """MPJPE with one scale wrong over MPJPE with none wrong, 5 mm of joint noise."""
    predictions = predicted_again(hands, truth, seed=seed)
    preset = load_strategy("map")
    found = calibrate(hands, predictions, preset).applied_to(preset)
    base = fit_error(hands, truth, predictions, found)
    metrics = [Metric("wrong by two/none/MPJPE", base, "mm", "lower")]
    for term, scale in found.scales.items():
        for word, factor in (("doubled", 2.0), ("halved", 0.5)):
            wrong = replace(found, scales=found.scales | {term: factor * scale})
            ratio = fit_error(hands, truth, predictions, wrong) / base
            metrics.append(Metric(f"wrong by two/{term}/{word}", ratio, "", "lower"))
    return metrics


def coverage(hands: Hands, truth: TwoHandPredictions, seed: int) -> list[Metric]:
    """How often the truth lies within one standard deviation of a joint's coordinate."""
    copies = -(-COVERED_FRAMES // truth.num_frames)
    many = TwoHandPredictions.concatenate([truth] * copies)
    predictions = predicted_again(hands, many, seed=seed)
    preset = load_strategy("map")
    fits = {
        "stored scales": preset,
        "estimated scales": calibrate(hands, predictions, preset).applied_to(preset),
    }
    metrics = []
    assert many.joints_3d is not None, "a truth has them"
    for name, strategy in fits.items():
        result = refine(hands, predictions, strategy, uncertainty=True)
        assert result.posterior is not None, "it was asked for"
        prepared = prepare(hands, result.predictions)
        joints = jax.jit(posed_joints)(
            hands, jax.tree.map(jnp.asarray, prepared.params), prepared.observations.left_anchor
        )
        error = np.asarray(joints) - many.joints_3d[..., :3]
        cases = {
            "anchor wrist": (error - error[:, :1, :1], result.posterior.std_joints),
            "own wrist": (error - error[:, :, :1], result.posterior.std_joints_local),
        }
        for where, (off, deviation) in cases.items():
            told = deviation > 0
            share = float(np.mean(np.abs(off[told]) < deviation[told]))
            key = f"coverage/{name}, from the {where}"
            metrics += [
                Metric(f"{key}/within one deviation", share, "", "neither"),
                Metric(f"{key}/mean deviation", 1e3 * deviation[told].mean().item(), "mm", "lower"),
            ]
    return metrics


def fit_error(
    hands: Hands, truth: TwoHandPredictions, predictions: TwoHandPredictions, strategy: Strategy
) -> float:
    """Mean MPJPE of a fit, mm."""
    result = refine(hands, predictions, strategy).predictions
    assert truth.joints_3d is not None, "a truth has them"
    error = mpjpe(posed(hands, result)[1], truth.joints_3d[..., :3], truth.hand_valid)
    return float(np.mean(error))


if __name__ == "__main__":
    main()
