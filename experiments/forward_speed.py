"""How fast are 256 hands posed on a CPU, beside the JAX model of `body-models`?

Both pose the same exported hand with the same parameters in one process, jitted, their runs
interleaved so that a busy machine slows both alike. Ours poses 128 frames of two hands, theirs one
batch of 256 right hands: 256 hands each. Before any timing the right hands' vertices must agree.
Ours returns vertices and 21 joints, theirs is asked for vertices only. The joints-only path is
timed on the same 256 hands.

    python -m experiments.forward_speed --out experiments/results/forward_speed_cpu.json

Needs the `interop` extra (body-models). Targets: the mesh at least 5 times as fast as
body-models', the joints at least 5 times as fast again.
"""

import argparse
import importlib
import importlib.metadata
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.records import Metric, Record, provenance
from mano_jax.export import export_hands
from mano_jax.loading import read_hand_models
from mano_jax.model import pose_hands, pose_joints, two_hands

QUESTION = "How fast are 256 hands posed on a CPU, beside the JAX model of body-models?"

AGREEMENT_M = 1e-6
"""Largest difference of a vertex coordinate between the two programs, metres."""

RUNS_PER_TURN = 5
"""Several at a time: a single run would find its data driven out of the cache by the others."""


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--hands-per-batch", type=int, default=256, help="hands posed at once")
    parser.add_argument("--repeats", type=int, default=40, help="timed runs of each program")
    options = parser.parse_args()
    record = measure(options.hands_per_batch, options.repeats)
    record.write(options.out)
    for metric in record.metrics:
        print(f"{metric.key}: {metric.value:.4g} {metric.unit}")


def measure(hands_per_batch: int, repeats: int) -> Record:
    """Time every program on the same hands.

    Args:
        hands_per_batch: even number of hands.
        repeats: interleaved runs of each program, after two to warm up.
    """
    peer = importlib.import_module("body_models.mano.jax")
    right, left, source = read_hand_models()
    hands = two_hands(right, left)
    with tempfile.TemporaryDirectory() as folder:
        path = export_hands(right, left, folder)[0]
        theirs = peer.MANO(model_path=path, flat_hand_mean=True)
    pose, betas = random_hands(hands_per_batch)
    ours_inputs = {
        "global_orient": pose[:, 0].reshape(-1, 2, 3),
        "hand_pose": pose[:, 1:].reshape(-1, 2, 15, 3),
        "betas": betas.reshape(-1, 2, 10),
    }
    their_inputs = {"hand_pose": pose[:, 1:], "wrist_rotation": pose[:, 0], "shape": betas}
    # Models and parameters are arguments of both jitted programs, or constants of both: here
    # models are constants (body-models' is no pytree), parameters are arguments.
    programs = {
        "manofit pose_hands": partial(jax.jit(lambda p: pose_hands(hands, **p)), ours_inputs),
        "body-models forward_vertices": partial(
            jax.jit(lambda p: theirs.forward_vertices(**p)), their_inputs
        ),
        "manofit pose_joints": partial(jax.jit(lambda p: pose_joints(hands, **p)), ours_inputs),
        "body-models forward_skeleton": partial(
            jax.jit(lambda p: theirs.forward_skeleton(**p)), their_inputs
        ),
    }
    difference = right_hand_difference(programs)
    if difference > AGREEMENT_M:
        raise SystemExit(f"the programs differ by {difference:g} m, expected {AGREEMENT_M:g}")
    times = interleaved(programs, repeats)
    return Record(
        question=QUESTION,
        data=f"{hands_per_batch} random poses and shapes of the embedded hand (seed 0)",
        metrics=(
            *summary(times, hands_per_batch),
            *ratios(times),
            Metric("largest vertex difference", difference, "m", "lower"),
        ),
        provenance=provenance("experiments.forward_speed", "body-models"),
        settings={
            "hands per batch": hands_per_batch,
            "repeats": repeats,
            "runs per turn": RUNS_PER_TURN,
            "hands": source.fingerprint,
        },
    )


def random_hands(count: int) -> tuple[jax.Array, jax.Array]:
    """Seeded poses (count, 16, 3) in radians and betas (count, 10)."""
    generator = np.random.default_rng(0)
    pose = generator.normal(scale=0.4, size=(count, 16, 3))
    betas = generator.normal(size=(count, 10))
    return jnp.asarray(pose, jnp.float32), jnp.asarray(betas, jnp.float32)


def right_hand_difference(programs: dict[str, Callable[[], Any]]) -> float:
    """Largest difference between the vertices of our right hands and theirs, metres."""
    ours = np.asarray(programs["manofit pose_hands"]().vertices)[:, 0]
    theirs = np.asarray(programs["body-models forward_vertices"]())[::2]
    return float(np.abs(ours - theirs).max())


def interleaved(programs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every run, the programs taking turns of `RUNS_PER_TURN` runs each."""
    for program in [*programs.values()] * 2:
        jax.block_until_ready(program())
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(-(-repeats // RUNS_PER_TURN)):
        for name, program in programs.items():
            for _ in range(RUNS_PER_TURN):
                start = time.perf_counter()
                jax.block_until_ready(program())
                times[name].append(time.perf_counter() - start)
    return times


def summary(times: dict[str, list[float]], hands_per_batch: int) -> list[Metric]:
    """Times of a batch, and hands a second by the fastest."""
    metrics = []
    for name, seconds in times.items():
        metrics += [
            Metric(f"time/{name}/median", 1e3 * statistics.median(seconds), "ms", "lower"),
            Metric(f"time/{name}/minimum", 1e3 * min(seconds), "ms", "lower"),
            Metric(f"rate/{name}/fastest", hands_per_batch / min(seconds), "hands/s", "higher"),
        ]
    return metrics


def ratios(times: dict[str, list[float]]) -> list[Metric]:
    """How many times as fast, by the median and by the minimum."""
    pairs = {
        "pose_hands against body-models forward_vertices": (
            "body-models forward_vertices",
            "manofit pose_hands",
        ),
        "pose_joints against pose_hands": ("manofit pose_hands", "manofit pose_joints"),
        "pose_joints against body-models forward_skeleton": (
            "body-models forward_skeleton",
            "manofit pose_joints",
        ),
    }
    metrics = []
    for label, (slow, fast) in pairs.items():
        for name, middle in (("median", statistics.median), ("minimum", min)):
            ratio = middle(times[slow]) / middle(times[fast])
            metrics.append(Metric(f"ratio/{label}/{name}", ratio, "", "higher"))
    return metrics


if __name__ == "__main__":
    main()
