"""IHMR's predictions (its baseline, InterHand's two-hand HMR), as IHMR-OPT reads them.

A pickled dictionary of images, each with

    pred_cam_params (3,)      s, t_x, t_y on the 224 canvas: the image, scaled by its longer side
                              and put into the top left corner
    pred_pose_params (96,)    right wrist 3, right fingers 45, left wrist 3, left fingers 45
    pred_shape_params (20,)   right 10, left 10
    pred_hand_trans (3,)      left wrist minus right wrist, metres
    joints_2d (42, 2)         right hand first, pixels of the image; targets
    joints_3d (42, 3)         the same, metres; targets

The predictions do not say which hands are there, nor how large the image is: the annotation file
does the one, `image_size` the other.

Sources: src/data/data_utils.py, opt_dataset.py, models/optimize_model.py of the authors' program.
"""

from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np

from fitting.adapters.containers import read_tree
from fitting.adapters.fields import entry, number_array, text
from fitting.adapters.formats import Conventions, Conversion, Format, Reading
from fitting.adapters.poses import LEFT, RIGHT, rest_wrists, two_hand_parameters
from fitting.adapters.records import files_of
from fitting.errors import InputError
from fitting.predictions import TwoHandPredictions

CONVENTIONS: Final = Conventions(
    rotations="axis-angle",
    mean="excluded",
    left="native",
    left_shapedirs="mirrored",
    origin="MANO",
    camera="u = s(X + t)",
    joint_order="mano21",
    fingertips="smplx",
    two_hands="together",
)

_SHAPES: Final = {
    "pred_cam_params": (3,),
    "pred_shape_params": (20,),
    "pred_pose_params": (96,),
    "pred_hand_trans": (3,),
}
_TARGETS: Final = {"joints_2d": (42, 2), "joints_3d": (42, 3)}

_HANDS: Final = {"right": (True, False), "left": (False, True), "interacting": (True, True)}


def read_ihmr(path: Path, reading: Reading) -> Conversion:
    """Read predictions, with `reading.annotations` and `reading.image_size` if they are given.

    Raises:
        InputError: a missing or misshapen entry, or annotations that lack an image.
    """
    images: dict[str, Any] = {}
    for file in files_of(path):
        tree = read_tree(file)
        if not isinstance(tree, dict) or not all(isinstance(v, dict) for v in tree.values()):
            raise InputError(
                f"{file}: expected a dictionary of images with a dictionary each, found "
                f"{type(tree).__name__}"
            )
        named = {text(name, "a key", file): (file, values) for name, values in tree.items()}
        if twice := sorted(images.keys() & named.keys()):
            raise InputError(
                f"{file}: {twice[0]} is in {images[twice[0]][0].name} too, and {len(twice) - 1} "
                "more images; convert the files one by one"
            )
        images |= named
    if not images:
        raise InputError(f"{path}: expected an image at least, found none")
    rows = {key: _stack(images, key, shape) for key, shape in _SHAPES.items()}
    count, notes = len(images), []
    valid = np.ones((count, 2), bool)
    if reading.annotations is None:
        notes.append(
            "the predictions do not say which hands are there: both are taken, in every image; "
            "--annotations names the file that does"
        )
    else:
        valid = _hands_there(reading.annotations, list(images))

    hands = reading.hands
    pose = rows["pred_pose_params"].reshape(count, 2, 48)
    betas = rows["pred_shape_params"].reshape(count, 2, 10)
    fields, _ = two_hand_parameters(CONVENTIONS, hands, valid, pose[..., :3], pose[..., 3:], betas)
    joints_3d = _stack_optional(images, "joints_3d", _TARGETS["joints_3d"])
    if joints_3d is not None:
        fields["joints_3d"] = joints_3d.reshape(count, 2, 21, 3)
    joints_2d = _stack_optional(images, "joints_2d", _TARGETS["joints_2d"])
    if joints_2d is not None and reading.image_size is None:
        notes.append(
            "joints_2d are left out: they are pixels of an image whose size the file does not "
            "tell; --image-size WIDTH HEIGHT does"
        )
    elif joints_2d is not None and reading.image_size is not None:
        canvas = joints_2d.reshape(count, 2, 21, 2) / max(reading.image_size) * 2 - 1
        fields["keypoints_2d"] = canvas
    wrists = rest_wrists(CONVENTIONS, hands, np.full(count, RIGHT), betas[:, RIGHT])
    predictions = TwoHandPredictions(
        hand_valid=valid,
        relative_transl=np.where(
            np.all(valid, axis=1, keepdims=True), rows["pred_hand_trans"], 0.0
        ),
        weak_camera=_about_the_anchor(rows, wrists, valid),
        frame_id=np.array(list(images), dtype=str),
        **fields,
    )
    return Conversion(predictions, tuple(notes))


def _about_the_anchor(rows: dict, right_wrist: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """The camera about the anchor wrist: theirs is about the right hand's MANO origin."""
    left_anchor = ~valid[:, RIGHT] & valid[:, LEFT]
    anchor = right_wrist + np.where(left_anchor[:, None], rows["pred_hand_trans"], 0.0)
    camera = rows["pred_cam_params"].copy()
    camera[:, 1:] += anchor[:, :2]
    return camera


def _stack(images: dict[str, Any], key: str, shape: tuple[int, ...]) -> np.ndarray:
    """One entry of every image."""
    return np.stack(
        [
            number_array(entry(values, key, name, file), shape, f"{name}/{key}", file)
            for name, (file, values) in images.items()
        ]
    )


def _stack_optional(images: dict[str, Any], key: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """The same, NaN where an image has none; None where no image has one."""
    if not any(values.get(key) is not None for _, values in images.values()):
        return None
    return np.stack(
        [
            np.full(shape, np.nan)
            if values.get(key) is None
            else number_array(values[key], shape, f"{name}/{key}", file)
            for name, (file, values) in images.items()
        ]
    )


def _hands_there(path: Path, names: list[str]) -> np.ndarray:
    """Which hands each image shows, by the annotation file."""
    tree = read_tree(Path(path))
    if not isinstance(tree, list | tuple) or not all(isinstance(item, dict) for item in tree):
        raise InputError(f"{path}: expected a list of annotations, found {type(tree).__name__}")
    kinds: dict[str, str] = {}
    for i, item in enumerate(tree):
        kind = entry(item, "hand_type", f"[{i}]", path)
        if kind not in _HANDS:
            raise InputError(
                f"{path}: [{i}]/hand_type: expected {', '.join(_HANDS)}, found {kind!r}"
            )
        kinds[str(entry(item, "img_path", f"[{i}]", path))] = str(kind)
    by_file: dict[str, list[str]] = {}
    for name in kinds:
        by_file.setdefault(PurePosixPath(name).name, []).append(name)
    found = [kinds.get(name) or _by_ending(path, name, by_file, kinds) for name in names]
    if missing := [name for name, kind in zip(names, found, strict=True) if kind is None]:
        raise InputError(
            f"{path}: no annotation of {missing[0]} and {len(missing) - 1} more of {len(names)} "
            "images; are they of the same split?"
        )
    return np.array([_HANDS[kind] for kind in found if kind is not None])


def _by_ending(
    path: Path, name: str, by_file: dict[str, list[str]], kinds: dict[str, str]
) -> str | None:
    """The label of the image whose path ends most alike: both may begin at other folders.

    The same file name under another folder is another image, unless there is no folder to tell.
    """
    parts = PurePosixPath(name).parts

    def alike(other: str) -> int:
        pairs = zip(reversed(parts), reversed(PurePosixPath(other).parts), strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    def fits(other: str) -> bool:
        return alike(other) == min(len(parts), len(PurePosixPath(other).parts)) or alike(other) > 1

    candidates = [other for other in by_file.get(parts[-1] if parts else "", []) if fits(other)]
    if not candidates:
        return None
    best = max(map(alike, candidates))
    nearest = {kinds[other] for other in candidates if alike(other) == best}
    if len(nearest) > 1:
        raise InputError(f"{path}: {name}: several annotations fit; give the paths from one folder")
    return nearest.pop()


IHMR: Final = Format(
    "ihmr",
    "IHMR's predictions, a pickled dictionary of images",
    read_ihmr,
    suffixes=(".pkl", ".pickle"),
    keys=(frozenset({"pred_cam_params", "pred_pose_params", "pred_hand_trans"}),),
    options=("image_size", "annotations"),
    conventions=CONVENTIONS,
)
