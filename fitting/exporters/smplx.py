"""smplx: one `.npz` with the arguments of its MANO layer, named by hand.

    right_global_orient (N, 3)   wrist rotation, axis-angle
    right_hand_pose (N, 45)      finger rotations, axis-angle, **mean pose included**
    right_betas (N, 10)
    right_transl (N, 3)          MANO's translation, metres: wrist - J0(betas)
    left_...                     the same, of a native left hand
    hand_valid (N, 2) bool       [right, left]; an absent hand holds zeros
    frame_id (N,)                strings
    flat_hand_mean ()            True

smplx adds its mean pose to `hand_pose` unless it is told not to, so its layer has to be made with
`smplx.create(..., model_type="mano", is_rhand=..., flat_hand_mean=True, use_pca=False)`. The left
file needs the correction of its `shapedirs` first (smplx issue #48), as `manofit hands export`
writes it. Axes are OpenCV's.
"""

from pathlib import Path

import numpy as np

from fitting.canonical import write_arrays
from fitting.exporters.frames import ExportFrames
from mano_jax.model import SIDES


def write_smplx(path: Path, frames: ExportFrames) -> tuple[list[Path], list[str]]:
    """Write the file; returns it, and nothing to say."""
    arrays: dict[str, np.ndarray] = {
        "hand_valid": frames.valid,
        "frame_id": frames.names,
        "flat_hand_mean": np.array(True),
    }
    for hand, side in enumerate(SIDES):
        values = {
            "global_orient": frames.global_orient[:, hand],
            "hand_pose": frames.hand_pose[:, hand].reshape(-1, 45),
            "betas": frames.betas[:, hand],
            "transl": frames.transl[:, hand],
        }
        arrays |= {f"{side}_{name}": value.astype(np.float32) for name, value in values.items()}
    write_arrays(path, arrays, overwrite=True)
    return [path], []
