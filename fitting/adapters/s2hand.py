"""S2HAND's output tensors, right hands only.

    theta (B, 30)             PCA coefficients of the finger pose
    beta (B, 10)
    rot (B, 3)                a rotation about the origin after the skinning, whose own wrist has
                              made half a turn about x
    scale (B, 1), trans (B, 3)
                              the hand in the camera: trans + |scale| times the model, metres
    Ks (B, 3, 3)              intrinsics
    open_2dj (B, 21, 2), open_2dj_con (B, 21, 1)
                              OpenPose's keypoints in pixels; targets, if there
    joints (B, 21, 3)         if there, the conversion is checked against it

A hand of MANO's size has no scale: the scene is divided by it about the camera, which leaves every
pixel where it was.

Sources: models_new.py, utils/fh_utils.py of TerenceCYJ/S2HAND.
"""

from pathlib import Path
from typing import Final

import numpy as np

from fitting.adapters.formats import Conventions, Conversion, Format, Reading
from fitting.adapters.found_hands import FoundHands, join, to_predictions
from fitting.adapters.poses import (
    RIGHT,
    axis_angle_of,
    canonical_betas,
    canonical_pose,
    matrices_of,
    rest_wrists,
)
from fitting.adapters.records import Record, records, unique_names
from mano_jax.joint_orders import permutation

CONVENTIONS: Final = Conventions(
    rotations="axis-angle and PCA",
    mean="excluded",
    left="none",
    origin="camera",
    camera="perspective",
    joint_order="s2hand21",
    fingertips="freihand",
    two_hands="one",
)

_KEYPOINT_ORDER: Final = "openpose21"
_HALF_TURN: Final = np.diag([1.0, -1.0, -1.0])
"""The wrist's own rotation in the authors' program, (pi, 0, 0)."""


def read_s2hand(path: Path, reading: Reading) -> Conversion:
    """Read batches; every row is a frame.

    Raises:
        InputError: a missing or misshapen entry.
    """
    parts, names = [], []
    for number, record in enumerate(records(path)):
        theta = record.needed("theta", ("B", "P"))
        count = len(theta)
        parts.append({"theta": theta} | _entries(record, count))
        named = record.image_names(count)
        names += named or [f"{record.path.stem}{number:04d}/{i:06d}" for i in range(count)]
    rows = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    side = np.full(len(names), RIGHT)
    hands = reading.hands

    rotation = matrices_of(rows["rot"])
    wrist_rotation = axis_angle_of(rotation @ _HALF_TURN)
    orient, pose = canonical_pose(CONVENTIONS, hands, side, wrist_rotation, rows["theta"])
    betas, _ = canonical_betas(CONVENTIONS, hands, side, rows["beta"])
    j0 = rest_wrists(CONVENTIONS, hands, side, rows["beta"])
    scale = np.abs(rows["scale"])
    wrist = rows["trans"] / scale + (rotation @ j0[..., None])[..., 0]
    joints = rows["joints"] / scale[:, None]
    order = permutation(_KEYPOINT_ORDER, "mano21")
    found = FoundHands(
        image=np.array(unique_names(names), dtype=str),
        side=side,
        global_orient=orient,
        hand_pose=pose,
        betas=betas,
        wrist=np.where(scale > 0, wrist, np.nan),
        K=rows["Ks"],
        keypoints_2d=rows["keypoints"][:, order] if np.isfinite(rows["keypoints"]).any() else None,
        joints=joints[:, permutation(CONVENTIONS.joint_order, "mano21")],
    )
    predictions, evidence = to_predictions(CONVENTIONS, found, join(found))
    note = "hands have MANO's size: each scene was divided by S2HAND's scale"
    return Conversion(predictions, (note,), evidence)


def _entries(record: Record, count: int) -> dict[str, np.ndarray]:
    keypoints = record.array("open_2dj", (count, 21, 2), optional=True)
    confidence = record.array("open_2dj_con", (count, 21, 1), optional=True)
    if keypoints is None:
        keypoints = np.full((count, 21, 2), np.nan)
    if confidence is None:
        confidence = np.ones((count, 21, 1))
    joints = record.array("joints", (count, 21, 3), optional=True)
    return {
        "beta": record.needed("beta", (count, 10)),
        "rot": record.needed("rot", (count, 3)),
        "scale": record.needed("scale", (count, 1)),
        "trans": record.needed("trans", (count, 3)),
        "Ks": record.needed("Ks", (count, 3, 3)),
        "keypoints": np.concatenate([keypoints, confidence], axis=-1),
        "joints": np.full((count, 21, 3), np.nan) if joints is None else joints,
    }


S2HAND: Final = Format(
    "s2hand",
    "S2HAND's output tensors",
    read_s2hand,
    keys=(frozenset({"theta", "beta", "rot", "trans"}),),
    conventions=CONVENTIONS,
)
