"""InterWild: the JSON files of its demo, or its output dictionaries.

Demo, `params/NAME_right.json` and `NAME_left.json`:

    root_pose (3,), hand_pose (45,), shape (10,)
    root_trans (3,)           left: left wrist minus right wrist, metres; right: zeros

Output dictionaries, each key for the right (r) and the left (l) hand:

    rmano_root_pose (B, 3), rmano_hand_pose (B, 45), rmano_shape (B, 10), and the like
    rel_trans (B, 3)          left wrist minus right wrist
    rroot_cam (B, 3)          the right wrist in the camera of the 256 crop, f = 5000; optional

Sources: demo/demo.py and main/model.py of facebookresearch/InterWild.
"""

from pathlib import Path
from typing import Final

import numpy as np

from fitting.adapters.containers import read_tree
from fitting.adapters.formats import Conventions, Conversion, Format, Reading
from fitting.adapters.lifting import intrinsics
from fitting.adapters.poses import LEFT, RIGHT, two_hand_parameters
from fitting.adapters.records import Record, files_of, records
from fitting.errors import InputError
from fitting.predictions import TwoHandPredictions
from mano_jax.model import SIDES

CONVENTIONS: Final = Conventions(
    rotations="axis-angle",
    mean="excluded",
    left="native",
    left_shapedirs="mirrored",
    origin="wrist",
    camera="perspective",
    joint_order="openpose21",
    fingertips="interwild",
    two_hands="together",
)

_CROP_FOCAL, _CROP_CENTRE = 5000.0, 128.0

_SHAPES: Final = {"root_pose": (3,), "hand_pose": (45,), "shape": (10,), "root_trans": (3,)}


def read_interwild(path: Path, reading: Reading) -> Conversion:
    """Read a folder of the demo's JSON files, or output dictionaries.

    Raises:
        InputError: a missing or misshapen entry, or JSON files whose names tell no side.
    """
    if path.is_dir() or path.stem.rpartition("_")[2] in SIDES:
        return _read_demo(path, reading)
    return _read_outputs(path, reading)


def _read_demo(path: Path, reading: Reading) -> Conversion:
    images: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for file in files_of(path, (".json",)):
        name, _, side = file.stem.rpartition("_")
        if side not in SIDES:
            raise InputError(
                f"{file}: expected a name that ends in _right.json or _left.json: the file itself "
                "does not say whose hand it is"
            )
        tree = read_tree(file)
        if not isinstance(tree, dict):
            raise InputError(f"{file}: expected a dictionary, found {type(tree).__name__}")
        record = Record(file, "", tree)
        images.setdefault(name, {})[side] = {
            key: record.needed(key, shape) for key, shape in _SHAPES.items()
        }
    valid = np.array([[side in hands for side in SIDES] for hands in images.values()])
    zeros = {key: np.zeros(shape) for key, shape in _SHAPES.items()}
    rows = {
        key: np.array([[h.get(side, zeros)[key] for side in SIDES] for h in images.values()])
        for key in _SHAPES
    }
    tau = np.where(
        np.all(valid, axis=1, keepdims=True),
        rows["root_trans"][:, LEFT] - rows["root_trans"][:, RIGHT],
        0.0,
    )
    predictions = _predictions(
        reading,
        valid,
        rows["root_pose"],
        rows["hand_pose"],
        rows["shape"],
        relative_transl=tau,
        frame_id=np.array(list(images), dtype=str),
    )
    notes = (
        "the demo's files hold no camera",
        "the demo writes both hands of every image, seen or not: both are taken where both files "
        "are there",
    )
    return Conversion(predictions, notes)


def _read_outputs(path: Path, reading: Reading) -> Conversion:
    parts, names, cameras = [], [], []
    for number, record in enumerate(records(path)):
        tau = record.needed("rel_trans", ("B", 3))
        count = len(tau)
        hands = {
            name: np.stack(
                [record.needed(f"{side}mano_{name}", (count, width)) for side in "rl"], axis=1
            )
            for name, width in (("root_pose", 3), ("hand_pose", 45), ("shape", 10))
        }
        parts.append(hands | {"rel_trans": tau})
        cameras.append(record.array("rroot_cam", (count, 3), optional=True))
        named = record.image_names(count)
        names += named or [f"{record.path.stem}{number:04d}/{i:06d}" for i in range(count)]
    rows = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    fields = {}
    roots = [root for root in cameras if root is not None]
    if len(roots) == len(cameras):
        fields["root_transl"] = np.concatenate(roots)
        frames = len(names)
        fields["K"] = intrinsics(np.full(frames, _CROP_FOCAL), np.full((frames, 2), _CROP_CENTRE))[
            :, None
        ]
    predictions = _predictions(
        reading,
        np.ones((len(names), 2), bool),
        rows["root_pose"],
        rows["hand_pose"],
        rows["shape"],
        relative_transl=rows["rel_trans"],
        frame_id=np.array(names, dtype=str),
        **fields,
    )
    note = "the outputs do not say which hands are there: both are taken, in every image"
    return Conversion(predictions, (note,))


def _predictions(
    reading: Reading,
    valid: np.ndarray,
    root_pose: np.ndarray,
    hand_pose: np.ndarray,
    shape: np.ndarray,
    **fields: np.ndarray,
) -> TwoHandPredictions:
    parameters, _ = two_hand_parameters(
        CONVENTIONS, reading.hands, valid, root_pose, hand_pose, shape
    )
    return TwoHandPredictions(hand_valid=valid, **parameters, **fields)


INTERWILD: Final = Format(
    "interwild",
    "InterWild, a folder of its demo's JSON files or its output dictionaries",
    read_interwild,
    keys=(
        frozenset({"root_pose", "hand_pose", "shape", "root_trans"}),
        frozenset({"rmano_root_pose", "lmano_root_pose", "rel_trans"}),
    ),
    conventions=CONVENTIONS,
)
