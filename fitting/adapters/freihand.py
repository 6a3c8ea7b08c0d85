"""FreiHAND's annotations, right hands only.

    training_mano.json        (N, 1, 61): pose 48, shape 10, root's pixel 2, scale 1
    training_K.json           (N, 3, 3), or a multiple: the same hands on other backgrounds
    training_xyz.json         (N, 21, 3), metres; if there, the conversion is checked against it

in one folder (also evaluation_*). The root, the middle finger's base, is at [(uv - c), f] / scale,
f being the mean of both focal lengths.

Sources: utils/mano_utils.py, utils/fh_utils.py of lmb-freiburg/freihand.
"""

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from fitting.adapters.containers import read_tree
from fitting.adapters.fields import number_array
from fitting.adapters.formats import Conventions, Conversion, Format, Reading
from fitting.adapters.found_hands import FoundHands, join, to_predictions
from fitting.adapters.poses import RIGHT, canonical_betas, canonical_pose, posed_joints
from fitting.errors import InputError
from mano_jax.joint_orders import index, permutation

CONVENTIONS: Final = Conventions(
    rotations="axis-angle",
    mean="excluded",
    left="none",
    origin="middle1",
    camera="perspective",
    joint_order="openpose21",
    fingertips="freihand",
    two_hands="one",
)

_SPLITS: Final = ("training", "evaluation")


def read_freihand(path: Path, reading: Reading) -> Conversion:
    """Read a folder of annotations, or its `*_mano.json`.

    Raises:
        InputError: a missing file, or lists of other shapes and lengths.
    """
    mano_file = _mano_file(Path(path))
    prefix = mano_file.name.removesuffix("mano.json")
    K_file, xyz_file = (mano_file.with_name(f"{prefix}{name}.json") for name in ("K", "xyz"))
    rows = read_tree(mano_file)
    # Released as (N, 1, 61); some copies have (N, 61).
    nested = isinstance(rows, list) and len(rows) > 0 and np.ndim(rows[0]) == 2
    shape = ("N", 1, 61) if nested else ("N", 61)
    mano = number_array(rows, shape, "the list", mano_file).reshape(-1, 61)
    K = number_array(read_tree(K_file), ("N", 3, 3), "the list", K_file)
    if len(mano) == 0 or len(K) % len(mano):
        raise InputError(
            f"{K_file}: expected as many entries as {mano_file.name} has ({len(mano)}), or a "
            f"multiple, found {len(K)}"
        )
    joints = None
    if xyz_file.is_file():
        joints = number_array(read_tree(xyz_file), (len(mano), 21, 3), "the list", xyz_file)
        joints = joints[:, permutation(CONVENTIONS.joint_order, "mano21")]
    # The K of other backgrounds are the same hands' again.
    K, count, hands = K[: len(mano)], len(mano), reading.hands
    side = np.full(count, RIGHT)
    orient, pose = canonical_pose(CONVENTIONS, hands, side, mano[:, :3], mano[:, 3:48])
    betas, _ = canonical_betas(CONVENTIONS, hands, side, mano[:, 48:58])
    ours = posed_joints(hands, side, orient, pose, betas)
    focal = (K[:, 0, 0] + K[:, 1, 1]) / 2
    offset = np.concatenate([mano[:, 58:60] - K[:, :2, 2], focal[:, None]], axis=1)
    root = offset / mano[:, 60:]
    found = FoundHands(
        image=np.array([f"{prefix.removesuffix('_')}/{i:08d}" for i in range(count)]),
        side=side,
        global_orient=orient,
        hand_pose=pose,
        betas=betas,
        wrist=root + ours[:, 0] - ours[:, index("middle1")],
        K=K,
        joints=joints,
    )
    predictions, evidence = to_predictions(CONVENTIONS, found, join(found))
    # Regressed from the surface, not those of the skeleton.
    evidence = replace(evidence, own_joints=(False, False))
    return Conversion(predictions, (), evidence)


def _mano_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    for split in _SPLITS:
        if (path / f"{split}_mano.json").is_file():
            return path / f"{split}_mano.json"
    names = " or ".join(f"{split}_mano.json" for split in _SPLITS)
    raise InputError(f"{path}: expected {names} in this folder, found neither")


FREIHAND: Final = Format(
    "freihand",
    "FreiHAND's annotations, a folder with training_mano.json",
    read_freihand,
    suffixes=(".json",),
    names=("training_mano.json", "evaluation_mano.json"),
    conventions=CONVENTIONS,
)
