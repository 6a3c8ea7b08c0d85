"""`manofit demo`: does the refinement do what it claims, on this machine, right now?

Makes synthetic interactions and a simulated regressor's predictions of them, refines the file of
predictions exactly as `manofit refine` would, and holds both against the truth.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark import make_interactions
from experiments.commands import open_hands, refine_file
from experiments.demo_report import (
    before_after_picture,
    before_after_table,
    worst_frame,
    write_scene,
)
from experiments.render import save_png
from fitting.canonical import check_target, read_predictions, write_arrays
from fitting.metrics import ave_p, i_mpjpe, max_p, mpjpe, mpvpe
from fitting.predictions import TwoHandPredictions
from fitting.prepare import prepare
from fitting.refine import pose_params
from fitting.strategy import Strategy
from mano_jax.model import AnyArray, Hands, PosedHands
from objectives.collision import exact_depths
from objectives.total import TERMS

_FILES = ("predictions.npz", "truth.npz", "refined.npz", "worst_frame.glb", "before_after.png")


def run_demo(
    *,
    frames: int,
    out: Path,
    seed: int,
    strategy: Strategy,
    hands_path: Path | None = None,
    force: bool = False,
) -> None:
    """Make, refine, compare and draw."""
    paths = {name: out / name for name in _FILES}
    for path in paths.values():
        check_target(path, (path.suffix,), overwrite=force)
    hands, source = open_hands(hands_path)
    print(f"making {frames} synthetic interactions (seed {seed})", flush=True)
    truth, predictions = make_interactions(hands, frames=frames, seed=seed)
    write_arrays(paths["truth.npz"], truth.arrays(), overwrite=force)
    write_arrays(paths["predictions.npz"], predictions.arrays(), overwrite=force)

    result = refine_file(
        paths["predictions.npz"],
        paths["refined.npz"],
        strategy=strategy,
        hand_model=(hands, source),
        force=force,
    )
    steps = (read_predictions(paths["predictions.npz"]), result.predictions)
    true_hands = pose_predictions(hands, truth)
    posed = tuple(pose_predictions(hands, step) for step in steps)
    depths = tuple(penetration(hands, p.vertices) for p in posed)
    metrics = [
        frame_metrics(p, true_hands, d, truth.hand_valid)
        for p, d in zip(posed, depths, strict=True)
    ]
    weighed = [i for i, term in enumerate(TERMS) if term in strategy.report_weights]
    energies = {
        list(TERMS)[i]: (result.energy_before[:, i], result.energy_after[:, i]) for i in weighed
    }
    print()
    print(
        before_after_table(
            energies,
            {name: (metrics[0][name], metrics[1][name]) for name in metrics[0]},
            source=f"synthetic interactions, seed {seed}, strategy {strategy.name}",
        )
    )
    worst = worst_frame(depths[0])
    shown = {
        "vertices": tuple(p.vertices[worst] for p in posed),
        "depths": tuple(d[worst] for d in depths),
        "faces": np.asarray(hands.faces),
    }
    write_scene(paths["worst_frame.glb"], **shown)
    title = f"Frame {worst}, the one that began with the deepest penetration"
    save_png(before_after_picture(**shown, title=title), paths["before_after.png"])
    print(f"\nframe {worst} began with the deepest penetration; in {out}: {', '.join(_FILES)}")


def penetration(hands: Hands, vertices: AnyArray) -> np.ndarray:
    """Exact depth of every vertex in the other hand, (N, 2, V) metres."""
    both = jnp.ones(len(vertices), bool)
    return np.asarray(jax.jit(exact_depths)(hands, jnp.asarray(vertices), both))


def frame_metrics(
    posed: PosedHands, truth: PosedHands, depths: np.ndarray, hand_valid: np.ndarray
) -> dict[str, np.ndarray]:
    """The metrics of every frame, millimetres, by the names of the table."""
    wrists, true_wrists = posed.joints[..., 0, :], truth.joints[..., 0, :]
    return {
        "MPJPE (mm)": mpjpe(posed.joints, truth.joints, hand_valid),
        "I-MPJPE (mm)": i_mpjpe(posed.joints, truth.joints, hand_valid),
        "MPVPE (mm)": mpvpe(posed.vertices, truth.vertices, wrists, true_wrists, hand_valid),
        "AVE-P (mm)": ave_p(depths, hand_valid),
        "MAX-P (mm)": max_p(depths, hand_valid),
    }


def pose_predictions(hands: Hands, predictions: TwoHandPredictions) -> PosedHands:
    """Both hands of every frame in the anchor frame, metres."""
    prepared = prepare(hands, predictions)
    return pose_params(hands, prepared.params, jnp.asarray(prepared.observations.left_anchor))
