"""`manofit demo`: does the refinement do what it claims, on this machine, right now?

Makes synthetic interactions and a simulated regressor's predictions of them, refines the file of
predictions exactly as `manofit refine` would, and holds both against the truth.
"""

from pathlib import Path

import numpy as np

from experiments.benchmark import make_interactions
from experiments.benchmark.measure import by_chunks
from experiments.commands import open_hands, refine_file
from experiments.demo_report import (
    before_after_picture,
    before_after_table,
    worst_frame,
    write_scene,
)
from experiments.render import save_png
from fitting.canonical import check_target, read_predictions, write_arrays
from fitting.evaluation import evaluate
from fitting.metric_table import METRICS
from fitting.posed_frames import pose_frames
from fitting.strategy import Strategy
from objectives.collision import exact_depths
from objectives.total import TERMS

_FILES = ("predictions.npz", "truth.npz", "refined.npz", "worst_frame.glb", "before_after.png")
_SHOWN = ("mpjpe", "i_mpjpe", "mpvpe", "ave_p", "max_p")


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
    measured = evaluate(hands, steps[1], truth, before=steps[0], metrics=_SHOWN)
    metrics = {
        f"{METRICS[key].label} ({measured.units[key]})": (
            measured.column(key, before=True),
            measured.column(key),
        )
        for key in measured.metrics
    }
    weighed = [i for i, term in enumerate(TERMS) if term in strategy.reported]
    energies = {
        list(TERMS)[i]: (result.energy_before[:, i], result.energy_after[:, i]) for i in weighed
    }
    print()
    print(
        before_after_table(
            energies,
            metrics,
            source=f"synthetic interactions, seed {seed}, strategy {strategy.name}",
        )
    )
    worst = worst_frame(measured.column("max_p", before=True))
    frame = slice(worst, worst + 1)
    vertices = np.concatenate([pose_frames(hands, step.frames(frame)).mesh for step in steps])
    depths = by_chunks(hands, vertices, exact_depths)
    shown = {
        "vertices": (vertices[0], vertices[1]),
        "depths": (depths[0], depths[1]),
        "faces": np.asarray(hands.faces),
    }
    write_scene(paths["worst_frame.glb"], **shown)
    title = f"Frame {worst}, the one that began with the deepest penetration"
    save_png(before_after_picture(**shown, title=title), paths["before_after.png"])
    print(f"\nframe {worst} began with the deepest penetration; in {out}: {', '.join(_FILES)}")
