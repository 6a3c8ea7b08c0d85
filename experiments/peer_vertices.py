"""Hands from their vertices: this program and smplfitter's JAX version, in one run.

Exact meshes of one model, drawn alike, and nothing else given: pairs of hands for this program, as
many right hands for the peer, which knows no others. Its `fit` is closed-form rotations and linear
shape, once or several times over, with its shape regulariser as it comes and next to none. Both
compiled, both warm, runs in turn; medians.

    python -m experiments.peer_vertices --out experiments/results/peer_vertices_cpu.json

It needs the `interop` extra.
"""

import argparse
import importlib
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark.measure import posed
from experiments.records import Metric, Record, markdown_table, provenance
from experiments.starts import draw
from fitting.initialise_vertices import VertexStart, initialise_from_vertices
from fitting.predictions import TwoHandPredictions
from mano_jax.export import export_hands
from mano_jax.loading import describe_hands, load_hands, read_hand_models
from mano_jax.model import Hands

QUESTION = "How exact, and how fast, are hands from vertices beside smplfitter's?"
PEER: Final[dict[str, dict[str, Any]]] = {
    "smplfitter": {},
    "smplfitter, 4 iterations": {"num_iter": 4},
    "smplfitter, 4 iterations, loose shape": {"num_iter": 4, "beta_regularizer": 1e-6},
}
"""Rows of the peer, and the options of its fit."""
RUNS: Final = 9
"""Timed runs of each."""


def main() -> None:
    """Draw, fit by both, write the record."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--hands", type=int, default=500, help="an even number")
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    fits = both_programs(load_hands(), options.hands, options.seed)
    for fit, _ in fits.values():
        fit()
    seconds = {name: [] for name in fits}
    for _ in range(RUNS):
        for name, (fit, _) in fits.items():
            begin = time.perf_counter()
            fit()
            seconds[name].append(time.perf_counter() - begin)
    metrics = []
    for name, (fit, error) in fits.items():
        of_hand = 1000 * error(fit()).mean(-1)
        per_hand = 1000 * float(np.median(seconds[name])) / options.hands
        metrics += [
            Metric(f"vertices/{name}/mean error (mm)", float(of_hand.mean()), "mm", "lower"),
            Metric(f"vertices/{name}/p99 (mm)", float(np.percentile(of_hand, 99)), "mm", "lower"),
            Metric(f"vertices/{name}/ms a hand", per_hand, "ms", "lower"),
        ]
    record = Record(
        question=QUESTION,
        data=f"{options.hands} synthetic hands, exact vertices, seed {options.seed}",
        metrics=tuple(metrics),
        provenance=provenance("experiments.peer_vertices", "smplfitter"),
        settings={
            "hands": options.hands,
            "seed": options.seed,
            "runs": RUNS,
            "devices": len(jax.local_devices()),
            "hand model": describe_hands().fingerprint,
        },
    )
    record.write(options.out)
    print(markdown_table(record.rows("vertices"), corner="", show="{:.4g}".format))


def both_programs(
    hands: Hands, count: int, seed: int
) -> dict[str, tuple[Callable[[], Any], Callable[[Any], np.ndarray]]]:
    """By name: a fit, and how far each vertex of what it returns is from where it should be."""
    peer = importlib.import_module("smplfitter.jax")  # an extra
    truth = draw(hands, count, np.random.default_rng([seed, 0]))
    mesh = posed(hands, truth)[0]
    pairs, rights = mesh[: count // 2], jnp.asarray(mesh[:, 0], jnp.float32)
    seen = np.ones(pairs.shape[:-1], bool)

    def ours() -> VertexStart:
        return initialise_from_vertices(hands, pairs, seen)

    def our_error(found: VertexStart) -> np.ndarray:
        valid = np.ones((len(pairs), 2), bool)
        again = posed(hands, TwoHandPredictions(hand_valid=valid, **found._asdict()))[0]
        return from_middle(again, pairs).reshape(count, -1)

    found: dict[str, Any] = {"manofit": (ours, our_error)}
    with tempfile.TemporaryDirectory() as folder:
        right, left, _ = read_hand_models(None)
        export_hands(right, left, Path(folder))
        model = peer.BodyModel("mano", model_root=folder)
    fitter = peer.BodyFitter(model)
    keys = ["pose_rotvecs", "shape_betas", "trans"]
    for name, settings in PEER.items():
        program = jax.jit(partial(fitter.fit, requested_keys=keys, **settings))

        def fit(program=program) -> Any:
            return jax.block_until_ready(program(rights))

        def error(fitted: Any) -> np.ndarray:
            again = model(**{key: fitted[key] for key in keys})["vertices"]
            return from_middle(np.asarray(again), np.asarray(rights))

        found[name] = fit, error
    return found


def from_middle(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Distances of vertices, both meshes about their middles: ours has no place of its own."""
    found, wanted = (x - x.mean(axis=-2, keepdims=True) for x in (found, wanted))
    return np.linalg.norm(found - wanted, axis=-1)


if __name__ == "__main__":
    main()
