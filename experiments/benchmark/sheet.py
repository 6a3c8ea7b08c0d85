"""Contact sheets: what the benchmark's pairs look like.

python -m experiments.benchmark.sheet --truth TRUTH.png --start START.png
"""

import argparse
from pathlib import Path

import numpy as np
from jaxtyping import Float

from experiments.benchmark.arrangements import TYPE_NAMES
from experiments.benchmark.make import frame_type, make_interactions
from experiments.benchmark.measure import by_chunks, posed
from experiments.render import Picture, contact_sheet, hand_meshes, orthographic_view, save_png
from fitting.predictions import TwoHandPredictions
from mano_jax.loading import load_hands
from mano_jax.model import Hands
from objectives.collision import exact_depths

_FOOTER = (
    "Right hand in skin tone, left hand in blue; every pair from the side where it is widest. "
    "Red: skin inside the other hand. Synthetic data."
)
_LABELS = {
    "fingertips": "fingertips\ntouching",
    "interlocked": "interlocked\nfingers",
    "clasp": "clasp",
    "palms": "palm\non palm",
    "back": "over the back\nof the hand",
}


def main() -> None:
    """Draw the truth and the predictions of the first frames."""
    parser = argparse.ArgumentParser(description="Draw pairs of the synthetic benchmark.")
    parser.add_argument("--truth", type=Path, required=True, help="PNG of the true pairs")
    parser.add_argument("--start", type=Path, required=True, help="PNG of the predictions")
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hands", type=Path, default=None, help="hand model, as for manofit")
    options = parser.parse_args()
    hands = load_hands(options.hands)
    truth, predictions = make_interactions(hands, frames=options.frames, seed=options.seed)
    views = widest_views(posed(hands, truth)[0])
    for path, shown, name in (
        (options.truth, truth, "True pairs"),
        (options.start, predictions, "The simulated regressor's predictions of the same pairs"),
    ):
        title = f"{name}: {options.frames} frames, seed {options.seed}"
        save_png(draw_pairs(hands, shown, views=views, title=title), path)


def draw_pairs(
    hands: Hands,
    predictions: TwoHandPredictions,
    *,
    views: Float[np.ndarray, "N 2 3"],
    title: str,
    size_px: int = 230,
) -> Picture:
    """A sheet with one row for each contact type.

    Args:
        hands: the hand model.
        predictions: truth or predictions of a benchmark.
        views: each frame's viewing direction and up, see `widest_views`.
        title: text above the sheet.
        size_px: side of each picture.
    """
    vertices, _ = posed(hands, predictions)
    depths = by_chunks(hands, vertices, exact_depths)
    faces = np.asarray(hands.faces)
    pictures = [
        orthographic_view(
            hand_meshes(v, faces, depths=np.where(d > 5e-4, d, 0)),
            direction=view[0],
            up=view[1],
            size_px=size_px,
        )
        for v, d, view in zip(vertices, depths, views, strict=True)
    ]
    kinds = [frame_type(name) for name in predictions.frame_names]
    shown = [name for name in TYPE_NAMES if name in kinds]
    rows = [[p for p, k in zip(pictures, kinds, strict=True) if k == name] for name in shown]
    labels = [_LABELS[name] for name in shown]
    return contact_sheet(rows, row_labels=labels, title=title, footer=_FOOTER)


def widest_views(vertices: Float[np.ndarray, "N 2 V 3"]) -> Float[np.ndarray, "N 2 3"]:
    """Each frame's direction of least extent, to look along, and of greatest, to point up."""
    views = []
    for pair in vertices:
        centred = pair.reshape(-1, 3) - pair.reshape(-1, 3).mean(axis=0)
        axes = np.linalg.svd(centred, full_matrices=False)[2]
        views.append(np.stack([axes[2], axes[0]]))
    return np.stack(views)


if __name__ == "__main__":
    main()
