"""DIR: the list that its network returns, whose third entry is the last refinement.

    pd_mano_para_left (B, 64)     6D wrist, 45 PCA coefficients, 10 betas, s, t_x, t_y of
                                  u = s X + t in [-1, 1] of the 256 crop, X about the hand's own
                                  wrist; and _right
    pd_mano_pose_left (B, 51), pd_mano_beta_left (B, 10), pd_proj_left (B, 3)
                                  or the same in parts
    pd_offset (B, 3)              right wrist minus left wrist, in units of 0.15 m
    pd_joint_xyz_left (B, 21, 3)  if there, the conversion is checked against it

These are in the network's own list, `iter_outs` in models/dir.py; the list that it returns has
meshes and joints only, so save the other one.

A list of dictionaries, of which the third counts, that one alone, or a list of either. Which joint
pd_offset is between is not certain: the training code centres on the middle finger's base, the
released network on the wrist.

Sources: models/dir.py, dataset/interhand.py, apps/eval.py of PengfeiRen96/DIR.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from fitting.adapters.containers import read_tree
from fitting.adapters.formats import Conventions, Conversion, Evidence, Format, Reading
from fitting.adapters.poses import RIGHT, two_hand_parameters
from fitting.adapters.records import Record, files_of
from fitting.errors import InputError
from fitting.predictions import TwoHandPredictions
from mano_jax.joint_orders import permutation
from mano_jax.model import SIDES

CONVENTIONS: Final = Conventions(
    rotations="6d and PCA",
    mean="excluded",
    left="native",
    left_shapedirs="mirrored",
    origin="wrist",
    camera="u = sX + t",
    joint_order="openpose21",
    fingertips="manopth",
    two_hands="together",
)

_OFFSET_METRES: Final = 0.15
_LAST: Final = 2
"""Of the returned list: an initial estimate, two refinements, dense maps."""


def read_dir(path: Path, reading: Reading) -> Conversion:
    """Read the last refinement of every batch.

    Raises:
        InputError: a missing or misshapen entry.
    """
    parts, names = [], []
    for number, record in enumerate(_refinements(path)):
        offset = record.needed("pd_offset", ("B", 3))
        count = len(offset)
        parts.append({"offset": offset} | _hands(record, count))
        named = record.image_names(count)
        names += named or [f"{record.path.stem}{number:04d}/{i:06d}" for i in range(count)]
    rows = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    valid = np.ones((len(names), 2), bool)
    pose = rows["pose"]
    parameters, _ = two_hand_parameters(
        CONVENTIONS, reading.hands, valid, pose[..., :6], pose[..., 6:], rows["beta"]
    )
    projection = rows["proj"][:, RIGHT]
    scale = projection[:, :1]
    camera = np.concatenate([scale, projection[:, 1:] / scale], axis=1)
    predictions = TwoHandPredictions(
        hand_valid=valid,
        **parameters,
        relative_transl=-_OFFSET_METRES * rows["offset"],
        weak_camera=camera,
        frame_id=np.array(names, dtype=str),
    )
    notes = (
        "the outputs do not say which hands are there: both are taken, in every image",
        "the camera is the right hand's",
    )
    return Conversion(predictions, notes, Evidence(joints=rows["joint_xyz"]))


def _hands(record: Record, count: int) -> dict[str, np.ndarray]:
    """Both hands' entries, right first."""
    both = [_parameters(record, side, count) for side in SIDES]
    stacked = {key: np.stack([hand[key] for hand in both], axis=1) for key in both[0]}
    joints = [record.array(f"pd_joint_xyz_{side}", (count, 21, 3), optional=True) for side in SIDES]
    nothing = np.full((count, 21, 3), np.nan)
    order = permutation(CONVENTIONS.joint_order, "mano21")
    points = np.stack([nothing if joint is None else joint for joint in joints], axis=1)
    return stacked | {"joint_xyz": points[:, :, order]}


def _parameters(record: Record, side: str, count: int) -> dict[str, np.ndarray]:
    """A hand's pose, shape and projection, in one array or in parts."""
    whole = record.array(f"pd_mano_para_{side}", (count, 64), optional=True)
    if whole is not None:
        return {"pose": whole[:, :51], "beta": whole[:, 51:61], "proj": whole[:, 61:]}
    if f"pd_mano_pose_{side}" not in record.values:
        raise InputError(
            f"{record.path}: {record.where}: neither pd_mano_para_{side} nor pd_mano_pose_{side}; "
            "the list that DIR's network returns has no parameters: save iter_outs (models/dir.py)"
        )
    return {
        name: record.needed(f"pd_{key}_{side}", (count, width))
        for name, key, width in (
            ("pose", "mano_pose", 51),
            ("beta", "mano_beta", 10),
            ("proj", "proj", 3),
        )
    }


def _refinements(path: Path) -> Iterator[Record]:
    """The dictionary with the last refinement, of every batch."""
    for file in files_of(path):
        yield from _within(file, "", read_tree(file))


def _within(file: Path, where: str, tree: Any) -> Iterator[Record]:
    if isinstance(tree, dict):
        yield Record(file, where, tree)
    elif not isinstance(tree, list | tuple) or len(tree) == 0:
        raise InputError(f"{file}: {where or 'the content'}: expected a dictionary or a list")
    elif all(isinstance(item, dict) for item in tree) and len(tree) > _LAST:
        yield Record(file, f"{where}[{_LAST}]", tree[_LAST])
    else:
        for i, item in enumerate(tree):
            yield from _within(file, f"{where}[{i}]", item)


DIR: Final = Format(
    "dir",
    "DIR, the list of outputs of its network",
    read_dir,
    keys=(
        frozenset({"pd_offset", "pd_proj_left"}),
        frozenset({"pd_offset", "pd_mano_para_left"}),
    ),
    conventions=CONVENTIONS,
)
