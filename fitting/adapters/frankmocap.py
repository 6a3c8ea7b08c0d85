"""FrankMocap's hand module: `mocap/*_prediction_result.pkl`, one an image.

    image_path
    pred_output_list          for each person {left_hand: {...}, right_hand: {...}}, {} for none
        pred_hand_pose (1, 48)
        pred_camera (3,)      s, t_x, t_y of u = s (X + t) in [-1, 1] of the 224 crop, X about
                              the first joint of the index finger
        bbox_top_left (2,), bbox_scale_ratio
                              the crop in the image: its side is 224 / ratio pixels
        pred_joints_smpl (21, 3), pred_joints_img (21, 2 or 3)
                              if there, the conversion is checked against them

The betas are those of SMPL-X's body and say nothing of MANO's: they are left out (zero). Left
hands have been mirrored back. Each hand has its own crop: the depth between them is unknown.

Sources: handmocap/hand_mocap_api.py, docs/joint_order.md of facebookresearch/frankmocap.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from fitting.adapters.containers import read_tree
from fitting.adapters.formats import Conventions, Conversion, Format, Reading
from fitting.adapters.found_hands import FoundHands, join, to_predictions
from fitting.adapters.lifting import intrinsics, place_by_pixels
from fitting.adapters.poses import canonical_pose, posed_joints
from fitting.adapters.records import Record, files_of
from fitting.errors import InputError
from mano_jax.joint_orders import index, permutation
from mano_jax.model import SIDES

CONVENTIONS: Final = Conventions(
    rotations="axis-angle",
    mean="excluded",
    left="native",
    left_shapedirs="none",
    origin="index1",
    camera="u = s(X + t)",
    joint_order="openpose21",
    fingertips="smplx",
    two_hands="apart",
)

_CROP_PIXELS: Final = 224
_NETWORK_FOCAL: Final = 5000.0 / 256
"""Focal length in units of the image's longer side, where none is known: HaMeR's, which makes
the lift from the weak camera nearly exact."""


def read_frankmocap(path: Path, reading: Reading) -> Conversion:
    """Read images and join the hands of a person.

    Raises:
        InputError: a missing or misshapen entry.
    """
    rows: dict[str, list] = {
        key: []
        for key in ("image", "side", "pose", "camera", "corner", "ratio", "joints", "pixels")
    }
    images = []
    for file in files_of(path, (".pkl", ".pickle")):
        tree = read_tree(file)
        people = tree.get("pred_output_list") if isinstance(tree, dict) else None
        if not isinstance(people, list | tuple):
            raise InputError(f"{file}: pred_output_list: expected a list of people, found none")
        named = tree.get("image_path")
        name = named if isinstance(named, str) and named else file.stem
        if len(people) == 0:
            images.append(name)
        for number, person in enumerate(people):
            image = name if len(people) == 1 else f"{name}/{number}"
            images.append(image)
            for side, hand_name in enumerate(SIDES):
                hand = person.get(f"{hand_name}_hand") if isinstance(person, dict) else None
                # An empty dictionary stands for no hand.
                if not (hand is None or (isinstance(hand, dict) and not hand)):
                    where = f"pred_output_list[{number}]/{hand_name}_hand"
                    _add(rows, file, where, image, side, hand)
    if reading.focal is not None and reading.image_size is None:
        raise InputError(
            f"{path}: a focal length is of use only with the image's size, whose middle the camera "
            "looks at: give --image-size WIDTH HEIGHT too"
        )
    if not rows["image"]:
        raise InputError(f"{path}: no hand in {len(images)} images")
    side = np.array(rows["side"])
    parts = {key: np.stack(rows[key]) for key in rows if key not in ("image", "side")}

    model, betas = reading.hands, np.zeros((len(side), reading.hands.num_betas))
    orient, pose = canonical_pose(
        CONVENTIONS, model, side, parts["pose"][:, :3], parts["pose"][:, 3:]
    )
    joints = posed_joints(model, side, orient, pose, betas)
    about_index = joints - joints[:, [index("index1")]]
    crop = parts["camera"][:, :1, None] * (about_index[..., :2] + parts["camera"][:, None, 1:])
    size = _CROP_PIXELS / parts["ratio"]
    pixels = parts["corner"][:, None] + (crop + 1) / 2 * size[:, None, None]
    focal, principal = _image_cameras(reading, rows["image"], parts["corner"], size)
    transl = place_by_pixels(joints, pixels, focal, principal)
    order = permutation(CONVENTIONS.joint_order, "mano21")
    found = FoundHands(
        image=np.array(rows["image"], dtype=str),
        side=side,
        global_orient=orient,
        hand_pose=pose,
        betas=betas,
        wrist=joints[:, 0] + transl,
        K=intrinsics(focal, principal),
        joints=parts["joints"][:, order],
        pixels=parts["pixels"][:, order],
        images=tuple(images),
    )
    frames = join(found)
    predictions, evidence = to_predictions(CONVENTIONS, found, frames)
    # Of the shape that was left out.
    evidence = replace(evidence, own_joints=(False, False))
    notes = (
        *frames.notes,
        "the betas are SMPL-X's body betas and are left out: the hands have the mean shape",
        "the depth between two hands is unknown",
        *_about_the_camera(reading, focal),
    )
    return Conversion(predictions, notes, evidence)


def _add(rows: dict[str, list], file: Path, where: str, image: str, side: int, hand: Any) -> None:
    """Append a hand's entries."""
    if not isinstance(hand, dict):
        raise InputError(f"{file}: {where}: expected a dictionary, found {type(hand).__name__}")
    record = Record(file, where, hand)
    rows["image"].append(image)
    rows["side"].append(side)
    rows["pose"].append(record.needed("pred_hand_pose", (1, 48))[0])
    rows["camera"].append(record.needed("pred_camera", (3,)))
    rows["corner"].append(record.needed("bbox_top_left", (2,)))
    ratio = record.needed("bbox_scale_ratio", ())
    if not ratio > 0:
        raise InputError(f"{file}: {where}/bbox_scale_ratio: expected more than 0, found {ratio}")
    rows["ratio"].append(ratio)
    joints = record.array("pred_joints_smpl", (21, 3), optional=True)
    pixels = record.array("pred_joints_img", (21, "k"), optional=True)
    rows["joints"].append(np.full((21, 3), np.nan) if joints is None else joints)
    rows["pixels"].append(np.full((21, 2), np.nan) if pixels is None else pixels[:, :2])


def _about_the_camera(reading: Reading, focal: np.ndarray) -> list[str]:
    made_up = []
    if reading.focal is None:
        made_up.append(f"the focal length ({focal[0]:.0f} px)")
    if reading.image_size is None:
        made_up.append("the principal point (the middle of the crops)")
    if not made_up:
        return []
    verb = "are" if len(made_up) > 1 else "is"
    return [f"{' and '.join(made_up)} {verb} made up; --image-size and --focal tell"]


def _image_cameras(
    reading: Reading, images: list[str], corner: np.ndarray, size: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Focal lengths and principal points: of the image if it is known, else around its crops."""
    count = len(size)
    if reading.image_size is not None:
        principal = np.tile(np.array(reading.image_size) / 2, (count, 1))
        longest = np.full(count, float(max(reading.image_size)))
    else:
        _, which = np.unique(np.array(images), return_inverse=True)
        number = which.max() + 1
        low, high = np.full((number, 2), np.inf), np.full((number, 2), -np.inf)
        np.minimum.at(low, which, corner)
        np.maximum.at(high, which, corner + size[:, None])
        principal, longest = ((low + high) / 2)[which], (high - low).max(1)[which]
    focal = _NETWORK_FOCAL * longest if reading.focal is None else np.full(count, reading.focal)
    return focal, principal


FRANKMOCAP: Final = Format(
    "frankmocap",
    "FrankMocap's hand results, a pickle an image",
    read_frankmocap,
    suffixes=(".pkl", ".pickle"),
    keys=(frozenset({"pred_output_list"}),),
    options=("image_size", "focal"),
    conventions=CONVENTIONS,
)
