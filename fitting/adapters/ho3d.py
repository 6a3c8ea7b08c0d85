"""HO-3D's and H2O-3D's annotations: a pickle a frame, in folders named meta.

    HO-3D     handPose (48,), handTrans (3,), handBeta (10,), handJoints3D (21, 3), camMat (3, 3)
    H2O-3D    rightHandPose, rightHandTrans, leftHandPose, leftHandTrans, handBeta of both,
              rightHandJoints3D, leftHandJoints3D, camMat

None stands for what was not annotated. OpenGL's axes. H2O-3D's left hand has a shape space of its
own, the right hand's with every sign changed: its betas are converted by least squares, and what
that loses is told.

Sources: setup_mano.py, vis_H2O3D.py, utils/vis_utils.py of shreyashampali/ho3d.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np

from fitting.adapters.containers import read_tree
from fitting.adapters.formats import Conventions, Conversion, Evidence, Format, Reading
from fitting.adapters.poses import LEFT, RIGHT, placed, rest_wrists, turned, two_hand_parameters
from fitting.adapters.records import Record, files_of
from fitting.errors import InputError
from fitting.predictions import TwoHandPredictions

CONVENTIONS: Final = Conventions(
    rotations="axis-angle",
    mean="included",
    left="native",
    left_shapedirs="negated",
    origin="MANO",
    camera="perspective",
    axes="OpenGL",
    joint_order="mano21",
    fingertips="ho3d",
    two_hands="together",
)

_TO_OPENCV: Final = np.diag([1.0, -1.0, -1.0])


def read_ho3d(path: Path, reading: Reading) -> Conversion:
    """Read a pickle, a folder of them, or a sequence with its folder meta.

    Raises:
        InputError: a missing or misshapen entry.
    """
    path = Path(path).resolve()
    folder = path / "meta" if (path / "meta").is_dir() else path
    files = files_of(folder, (".pkl", ".pickle"))
    frames = [_read_frame(file) for file in files]
    rows = {key: np.stack([frame[key] for frame in frames]) for key in frames[0]}
    valid, hands, count = rows["valid"], reading.hands, len(frames)
    parameters, lost = two_hand_parameters(
        CONVENTIONS, hands, valid, rows["pose"][..., :3], rows["pose"][..., 3:], rows["betas"]
    )
    parameters["global_orient"] = np.where(
        valid[..., None], turned(_TO_OPENCV, parameters["global_orient"]), 0.0
    )
    side = np.tile([RIGHT, LEFT], count)
    j0 = rest_wrists(CONVENTIONS, hands, side, rows["betas"].reshape(-1, 10)).reshape(count, 2, 3)
    wrists = (rows["transl"] + j0) @ _TO_OPENCV
    predictions = TwoHandPredictions(
        hand_valid=valid,
        **parameters,
        **placed(wrists, valid),
        K=rows["K"][:, None],
        frame_id=np.array(_names(folder, files), dtype=str),
    )
    notes = []
    if lost > 0:
        notes.append(
            f"H2O-3D's left hand has a shape space of its own: its betas are the nearest ones, "
            f"{1000 * lost:.2f} mm off a vertex (root mean square)"
        )
    evidence = Evidence(rows["joints"] @ _TO_OPENCV, own_joints=(True, False))
    return Conversion(predictions, tuple(notes), evidence)


def _names(folder: Path, files: list[Path]) -> list[str]:
    """Names of the frames: those of `frames.json`, which our own exports have, or SEQUENCE/FILE."""
    known: dict[str, Any] = {}
    for place in (folder, folder.parent):
        if (place / "frames.json").is_file():
            tree = read_tree(place / "frames.json")
            known = tree if isinstance(tree, dict) else {}
    sequence = (folder.parent if folder.name == "meta" else folder).name
    names = (known.get(file.stem) for file in files)
    plain = (f"{sequence}/{file.stem}" for file in files)
    return [n if isinstance(n, str) else p for n, p in zip(names, plain, strict=True)]


def _read_frame(file: Path) -> dict[str, np.ndarray]:
    tree = read_tree(file)
    if not isinstance(tree, dict):
        raise InputError(f"{file}: expected a dictionary, found {type(tree).__name__}")
    if not {"handPose", "rightHandPose", "leftHandPose"} & set(tree):
        raise InputError(
            f"{file}: expected handPose, or rightHandPose and leftHandPose; found "
            f"{', '.join(map(str, list(tree)[:12]))}"
        )
    record, single = Record(file, "", tree), "handPose" in tree
    names = ("hand", None) if single else ("rightHand", "leftHand")
    hands = [_read_hand(record, name, tree) for name in names]
    K = record.array("camMat", (3, 3), optional=True)
    frame = {key: np.stack([hand[key] for hand in hands]) for key in hands[0]}
    return frame | {"K": np.full((3, 3), np.nan) if K is None else K}


def _read_hand(record: Record, name: str | None, tree: dict[str, Any]) -> dict[str, np.ndarray]:
    """One hand's entries; zeros where it is not annotated."""
    nothing = {
        "valid": np.array(False),
        "pose": np.zeros(48),
        "transl": np.zeros(3),
        "betas": np.zeros(10),
        "joints": np.full((21, 3), np.nan),
    }
    if name is None or tree.get(f"{name}Pose") is None:
        return nothing
    return {
        "valid": np.array(True),
        "pose": record.needed(f"{name}Pose", (48,)),
        "transl": record.needed(f"{name}Trans", (3,)),
        "betas": record.needed("handBeta", (10,)),
        "joints": _joints(record, f"{name}Joints3D"),
    }


def _joints(record: Record, key: str) -> np.ndarray:
    """Joints, NaN where there are none; the evaluation split gives the wrist alone."""
    joints = np.full((21, 3), np.nan)
    given = record.values.get(key)
    if given is None:
        return joints
    if np.ndim(given) == 1:
        joints[0] = record.needed(key, (3,))
        return joints
    return record.needed(key, (21, 3))


HO3D: Final = Format(
    "ho3d",
    "HO-3D's and H2O-3D's annotations, a folder of pickles",
    read_ho3d,
    suffixes=(".pkl", ".pickle"),
    keys=(frozenset({"handPose", "handTrans"}), frozenset({"rightHandPose", "leftHandPose"})),
    conventions=CONVENTIONS,
)
