"""How well are hands found again, from which start, and is any start too bad?

Hands in poses of the model's own samples, turned and bent a little further, are to be found again
from what a file may hold: parameters that are off, 3D joints alone, exact or noisy and with gaps,
keypoints and a camera alone, vertices alone. Contacts are left out: the hands are drawn apart from
each other and may overlap. The poses come from the distribution that `map`'s pose prior knows, so
the noisy cases flatter it a little; the exact ones do not depend on it. Then every preset starts
from random parameters that have nothing to do with its targets: fits that are not finite, or end
with a higher energy, are given back as they came, and counted.

    python -m experiments.starts --out experiments/results/starts_cpu.json
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.transform import Rotation

from experiments.benchmark.detector import CROP_PX, fitting_camera
from experiments.benchmark.measure import posed
from experiments.records import Metric, Record, markdown_table, provenance
from fitting.initialise_vertices import initialise_from_vertices
from fitting.metrics import mpjpe, mpvpe
from fitting.predictions import TwoHandPredictions
from fitting.prepare import prepare
from fitting.refine import STATUS_NAMES, RefinedHands, refine
from fitting.strategy import Strategy, load_strategy, override, preset_names
from mano_jax.loading import describe_hands, load_hands
from mano_jax.model import Hands
from objectives.keypoints import keypoints_2d_difference
from objectives.problem import posed_joints

QUESTION = "How well are hands found again, from which start, and is any start too bad?"
FOCAL_PX, CENTRE_PX = 900.0, (320.0, 240.0)
"""Of the perspective camera."""
SHORT = 11
"""Adam steps a stage from random starts: what is not finite shows at once."""


def main() -> None:
    """Draw, fit, measure, write the record."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--frames", type=int, default=500, help="frames of each case")
    parser.add_argument("--random", type=int, default=10_000, help="random starts of each preset")
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    hands = load_hands()
    metrics = [
        *found_again(hands, options.frames, options.seed),
        *from_anywhere(hands, options.random, options.seed),
    ]
    record = Record(
        question=QUESTION,
        data=f"synthetic: {options.frames} pairs of hands by case, {options.random} random starts "
        f"by preset, seed {options.seed}",
        metrics=tuple(metrics),
        provenance=provenance("experiments.starts"),
        settings={
            "frames": options.frames,
            "random": options.random,
            "seed": options.seed,
            "devices": len(jax.local_devices()),
            "hands": describe_hands().fingerprint,
        },
    )
    record.write(options.out)
    for key in ("joints", "vertices", "keypoints", "random"):
        print(markdown_table(record.rows(key), corner=key, show="{:.4g}".format), end="\n\n")


def found_again(hands: Hands, frames: int, seed: int) -> list[Metric]:
    """Every kind of start."""
    rng = np.random.default_rng([seed, 0])
    truth = draw(hands, frames, rng)
    mesh, joints = posed(hands, truth)
    both = truth.hand_valid
    exact = with_confidence(joints, np.ones(joints.shape[:-1]))
    noisy = with_confidence(
        joints + rng.normal(0, 0.005, joints.shape),
        (rng.uniform(size=joints.shape[:-1]) >= 0.2).astype(float),
    )
    one = both.copy()
    one[np.arange(frames), np.arange(frames) % 2] = False
    # A lone hand is held in its own wrist's frame.
    lone = exact.copy()
    lone[..., :3] -= joints[:, :, :1]
    # With a scale of 0.1 mm every joint of a start centimetres off is an outlier: it falls to it.
    precise = joints_stage("scales.joints_3d=1e-4", "joints.anneal={joints_3d=300}")
    known = joints_stage("scales.joints_3d=5e-3")
    cases = {
        "parameters that are off": (replace(perturbed(truth, rng), joints_3d=exact), precise),
        "exact": (TwoHandPredictions(hand_valid=both, joints_3d=exact), precise),
        "exact, one hand": (TwoHandPredictions(hand_valid=one, joints_3d=lone), precise),
        "5 mm, a fifth missing": (TwoHandPredictions(hand_valid=both, joints_3d=noisy), known),
    }
    metrics = []
    for name, (predictions, strategy) in cases.items():
        result, per_frame = timed(hands, predictions, strategy)
        error = mpjpe(posed(hands, result.predictions)[1], joints, predictions.hand_valid)
        metrics += summary(f"joints/{name}", np.asarray(error), (0.1, 0.2), "mm")
        metrics.append(Metric(f"joints/{name}/ms a frame", per_frame, "ms", "lower"))
    return [
        *metrics,
        *from_keypoints(hands, mesh, joints),
        *from_vertices(hands, mesh, joints),
    ]


def from_keypoints(hands: Hands, mesh: np.ndarray, joints: np.ndarray) -> list[Metric]:
    """Keypoints alone, by a weak and by a perspective camera: error in the image."""
    frames, ones = len(joints), np.ones((*joints.shape[:-1], 1))
    cameras = np.stack([fitting_camera(m.reshape(-1, 3)) for m in mesh])
    seen = cameras[:, None, None, :1] * (joints[..., :2] + cameras[:, None, None, 1:])
    K = np.array([[FOCAL_PX, 0, CENTRE_PX[0]], [0, FOCAL_PX, CENTRE_PX[1]], [0, 0, 1]])
    away = joints + np.array([0.05, -0.03, 0.6])
    pixels = away[..., :2] / away[..., 2:] * FOCAL_PX + CENTRE_PX
    both = np.ones((frames, 2), bool)
    files = {
        "weak camera": TwoHandPredictions(
            hand_valid=both,
            keypoints_2d=np.concatenate([seen, ones], axis=-1, dtype=np.float32),
            weak_camera=cameras.astype(np.float32),
        ),
        "K": TwoHandPredictions(
            hand_valid=both,
            keypoints_2d=np.concatenate([pixels, ones], axis=-1, dtype=np.float32)[:, None],
            K=np.tile(K, (frames, 1, 1, 1)),
            T_camera_world=np.tile(np.eye(4), (frames, 1, 1, 1)),
        ),
    }
    metrics = []
    for name, predictions in files.items():
        result, per_frame = timed(hands, predictions, joints_stage("scales.keypoints_2d=5e-3"))
        prepared = prepare(hands, result.predictions)
        params, observations = jax.tree.map(jnp.asarray, (prepared.params, prepared.observations))

        @jax.jit
        def difference(params, observations):
            at = posed_joints(hands, params, observations.left_anchor)
            return keypoints_2d_difference(params, at, observations)

        squared = (CROP_PX / 2 * difference(params, observations)).reshape(frames, -1, 2) ** 2
        rms = np.sqrt(np.asarray(squared).sum(-1).mean(-1))
        metrics += summary(f"keypoints/{name}", rms, (1.0,), "px")
        metrics.append(Metric(f"keypoints/{name}/ms a frame", per_frame, "ms", "lower"))
    return metrics


def from_vertices(hands: Hands, mesh: np.ndarray, joints: np.ndarray) -> list[Metric]:
    """Vertices alone, without any fit after: error of the vertices, time a hand."""
    seconds = []
    for _ in range(6):
        begin = time.perf_counter()
        start = initialise_from_vertices(hands, mesh, np.ones(mesh.shape[:-1], bool))
        seconds.append(time.perf_counter() - begin)
    both = np.ones((len(mesh), 2), bool)
    found = TwoHandPredictions(hand_valid=both, **start._asdict())
    again, wrists = posed(hands, found)
    error = mpvpe(again, mesh, wrists[:, :, 0], joints[:, :, 0], both)
    per_hand = 1e3 * min(seconds[1:]) / (2 * len(mesh))
    return [
        *summary("vertices/exact", np.asarray(error), (0.1,), "mm"),
        Metric("vertices/exact/ms a hand", per_hand, "ms", "lower"),
        Metric("vertices/exact/first call (s)", seconds[0], "s", "lower"),
    ]


def from_anywhere(hands: Hands, frames: int, seed: int) -> list[Metric]:
    """Every preset from random parameters; Adam's stages cut short, map as it is."""
    rng = np.random.default_rng([seed, 1])
    truth, start = draw(hands, frames, rng), draw(hands, frames, rng, wild=True)
    joints = posed(hands, truth)[1]
    start = replace(start, joints_3d=with_confidence(joints, np.ones(joints.shape[:-1])))
    metrics = []
    for name in preset_names():
        strategy = load_strategy(name)
        if any(stage.solver == "adam" for stage in strategy.stages):
            strategy = override(strategy, [f"stages.iterations={SHORT}"])
        result = refine(hands, start, strategy)
        # Both go back as they came; why they did is said in their reason.
        given_back = {"not finite": "not finite", "risen": "would have risen"}
        metrics += [
            *(
                Metric(f"random/{name}/{word}", float(result.count(status)), "", "neither")
                for status, word in enumerate(STATUS_NAMES)
            ),
            *(
                Metric(
                    f"random/{name}/{word}",
                    float(sum(part in reason for reason in result.reason)),
                    "",
                    "lower",
                )
                for word, part in given_back.items()
            ),
        ]
    return metrics


def draw(
    hands: Hands, frames: int, rng: np.random.Generator, *, wild: bool = False
) -> TwoHandPredictions:
    """Pairs of hands: the model's pose samples bent further, or `wild` ones like nobody's."""
    assert hands.pose_samples is not None, "the poses are drawn from the model's own samples"
    samples = np.asarray(hands.pose_samples)
    rows = rng.integers(samples.shape[1], size=(frames, 2))
    pose = np.stack([samples[hand][rows[:, hand]] for hand in range(2)], axis=1)
    pose = pose.reshape(frames, 2, 15, 3) + rng.normal(0, 0.8 if wild else 0.05, (frames, 2, 15, 3))
    betas = rng.normal(0, 3.0 if wild else 1.0, (frames, 1, hands.num_betas))
    orient = Rotation.random(2 * frames, rng=rng).as_rotvec().reshape(frames, 2, 3)
    values = {
        "global_orient": orient,
        "hand_pose": pose,
        "betas": np.repeat(np.clip(betas, -5, 5) if wild else np.clip(betas, -2, 2), 2, axis=1),
        "relative_transl": rng.normal(0, 0.05, (frames, 3)),
    }
    both = np.ones((frames, 2), bool)
    return TwoHandPredictions(
        hand_valid=both, **{name: x.astype(np.float32) for name, x in values.items()}
    )


def perturbed(truth: TwoHandPredictions, rng: np.random.Generator) -> TwoHandPredictions:
    """Parameters off by 0.2 rad in every angle, 0.3 in every beta and 20 mm in tau."""
    sizes = {"global_orient": 0.2, "hand_pose": 0.2, "betas": 0.3, "relative_transl": 0.02}
    moved = {name: getattr(truth, name) for name in sizes}
    return replace(
        truth,
        **{n: (x + rng.normal(0, sizes[n], x.shape)).astype(np.float32) for n, x in moved.items()},
    )


def joints_stage(*settings: str) -> Strategy:
    """`map`'s first stage, which knows no contacts, to the end."""
    preset = load_strategy("map")
    terms = tuple(term for term in preset.report_likelihoods if term != "collision")
    alone = replace(preset, stages=preset.stages[:1], report_likelihoods=terms)
    return override(alone, ["joints.iterations=30", *settings])


def timed(
    hands: Hands, predictions: TwoHandPredictions, strategy: Strategy
) -> tuple[RefinedHands, float]:
    """A fit, its start included, and its milliseconds a frame once compiled."""
    refine(hands, predictions, strategy)
    begin = time.perf_counter()
    result = refine(hands, predictions, strategy)
    return result, 1e3 * (time.perf_counter() - begin) / predictions.num_frames


def with_confidence(points: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Points and what each counts, as a file has them."""
    return np.concatenate([points, confidence[..., None]], axis=-1, dtype=np.float32)


def summary(key: str, error: np.ndarray, limits: tuple[float, ...], unit: str) -> list[Metric]:
    """Mean, 99th percentile, and the share of frames within each limit."""
    return [
        Metric(f"{key}/mean", float(error.mean()), unit, "lower"),
        Metric(f"{key}/p99", float(np.percentile(error, 99)), unit, "lower"),
        *(
            Metric(f"{key}/within {limit:g} {unit}", float(np.mean(error < limit)), "", "higher")
            for limit in limits
        ),
    ]


if __name__ == "__main__":
    main()
