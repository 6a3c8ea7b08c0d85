"""HaMeR and WiLoR: outputs of the network on crops of single hands.

A dictionary for each batch of crops, the network's output together with its input:

    pred_mano_params          global_orient (B, 1, 3, 3), hand_pose (B, 15, 3, 3), betas (B, 10)
    pred_cam (B, 3)           s, t_x, t_y of the crop
    right (B,)                1 for a right hand
    box_center (B, 2), box_size (B,), img_size (B, 2)
                              pixels of the image; the size is width, height
    img_path (B,)             names of the images; without them each dictionary is one image
    pred_keypoints_2d (B, 21, 2), pred_keypoints_3d (B, 21, 3)
                              if there, the conversion is checked against them

Sources: hamer/models/hamer.py, hamer/utils/renderer.py, hamer/datasets/vitdet_dataset.py of
geopavlakos/hamer; rolpotamias/WiLoR uses the same wrapper.
"""

from pathlib import Path
from typing import Final

import numpy as np

from fitting.adapters.formats import Conventions, Conversion, Format, Reading
from fitting.adapters.found_hands import FoundHands, join, to_predictions
from fitting.adapters.lifting import intrinsics, place_by_pixels
from fitting.adapters.poses import (
    LEFT,
    as_sides,
    canonical_betas,
    canonical_pose,
    mirrored_points,
    posed_joints,
    turned,
)
from fitting.adapters.records import Record, records
from mano_jax.joint_orders import permutation

CONVENTIONS: Final = Conventions(
    rotations="matrices",
    mean="included",
    left="mirrored",
    left_shapedirs="mirrored",
    origin="MANO",
    camera="crop",
    joint_order="openpose21",
    fingertips="smplx",
    two_hands="apart",
)

CROP_PIXELS: Final = 256
CROP_FOCAL: Final = 5000.0
"""The network's camera: a focal length of 5000 pixels on a crop of 256."""


def read_hamer(path: Path, reading: Reading) -> Conversion:
    """Read crops and join their hands by image.

    The hands are placed in the image's camera by their own projection. That camera has the focal
    length that HaMeR gives it, far longer than any real one, so the depth between two hands is
    said to be unknown; with `reading.focal` it is the true camera, and each hand is also turned
    towards it as its crop was.

    Raises:
        InputError: a missing or misshapen entry; the message names it.
    """
    parts = [_read_record(record, i, reading) for i, record in enumerate(records(path))]
    named = any(name for _, name in parts)
    rows = {key: np.concatenate([part[key] for part, _ in parts]) for key in parts[0][0]}
    found = FoundHands(**rows)  # pyright: ignore[reportArgumentType]
    frames = join(found)
    predictions, evidence = to_predictions(CONVENTIONS, found, frames)
    notes = list(frames.notes)
    if not named:
        notes.append("no img_path: the crops of one dictionary are taken for one image")
    if reading.focal is None:
        notes.append(
            f"the focal length is the source's own {rows['K'][0, 0, 0]:.0f} px, and the depth "
            "between two hands unknown; --focal takes the camera's true one"
        )
    return Conversion(predictions, tuple(notes), evidence)


def _read_record(record: Record, number: int, reading: Reading) -> tuple[dict, bool]:
    """One batch's hands as fields of `FoundHands`, and whether its images have names."""
    orient = record.needed("pred_mano_params/global_orient", ("B", 1, 3, 3))
    count = len(orient)
    pose = record.needed("pred_mano_params/hand_pose", (count, 15, 3, 3))
    betas = record.needed("pred_mano_params/betas", (count, 10))
    cam = record.needed("pred_cam", (count, 3))
    centre = record.needed("box_center", (count, 2))
    size = record.needed("box_size", (count,))
    image = record.needed("img_size", (count, 2))
    side = as_sides(record.flags("right", (count,)))
    names = record.image_names(count)

    hands = reading.hands
    global_orient, hand_pose = canonical_pose(CONVENTIONS, hands, side, orient[:, 0], pose)
    betas, _ = canonical_betas(CONVENTIONS, hands, side, betas)
    joints = posed_joints(hands, side, global_orient, hand_pose, betas)
    pixels = _seen_in_image(joints, cam, side, centre, size)
    principal = image / 2
    focal = CROP_FOCAL / CROP_PIXELS * image.max(axis=1)
    theirs = _their_points(record, count, side, centre, size)
    if reading.focal is not None:
        focal = np.full(count, reading.focal)
        towards = _towards(centre, focal, principal)
        global_orient = turned(towards, global_orient)
        joints = posed_joints(hands, side, global_orient, hand_pose, betas)
        theirs["joints"] = theirs["joints"] @ np.swapaxes(towards, 1, 2)
    transl = place_by_pixels(joints, pixels, focal, principal)
    fields = {
        "image": np.array(names or [f"{record.path.stem}{number:06d}"] * count, dtype=str),
        "side": side,
        "global_orient": global_orient,
        "hand_pose": hand_pose,
        "betas": betas,
        "wrist": joints[:, 0] + transl,
        "K": intrinsics(focal, principal),
        **theirs,
    }
    return fields, names is not None


def crop_translation(cam: np.ndarray) -> np.ndarray:
    """MANO's translation in the crop's camera, metres: the network's s becomes a depth."""
    depth = 2 * CROP_FOCAL / (CROP_PIXELS * cam[:, 0] + 1e-9)
    return np.stack([cam[:, 1], cam[:, 2], depth], axis=1)


def _seen_in_image(
    joints: np.ndarray, cam: np.ndarray, side: np.ndarray, centre: np.ndarray, size: np.ndarray
) -> np.ndarray:
    """Where the crop's camera sees native hands, pixels of the image."""
    left = side == LEFT
    seen = mirrored_points(joints, left) + crop_translation(cam)[:, None]
    crop = CROP_FOCAL / CROP_PIXELS * seen[..., :2] / seen[..., 2:]
    return _crop_to_image(crop, left, centre, size)


def _crop_to_image(
    crop: np.ndarray, left: np.ndarray, centre: np.ndarray, size: np.ndarray
) -> np.ndarray:
    """From [-0.5, 0.5] of a crop, flipped for a left hand, to pixels of the image."""
    crop = np.where(left[:, None, None] * np.array([True, False]), -crop, crop)
    return centre[:, None] + crop * size[:, None, None]


def _their_points(
    record: Record, count: int, side: np.ndarray, centre: np.ndarray, size: np.ndarray
) -> dict[str, np.ndarray]:
    """The source's own joints and pixels, NaN where it saved none."""
    left = side == LEFT
    order = permutation(CONVENTIONS.joint_order, "mano21")
    joints = record.array("pred_keypoints_3d", (count, 21, 3), optional=True)
    pixels = record.array("pred_keypoints_2d", (count, 21, 2), optional=True)
    joints = np.full((count, 21, 3), np.nan) if joints is None else joints
    pixels = np.full((count, 21, 2), np.nan) if pixels is None else pixels
    return {
        "joints": mirrored_points(joints[:, order], left),
        "pixels": _crop_to_image(pixels[:, order], left, centre, size),
    }


def _towards(centre: np.ndarray, focal: np.ndarray, principal: np.ndarray) -> np.ndarray:
    """The smallest rotations that take the optical axis to where each crop's centre is seen."""
    ray = np.concatenate([(centre - principal) / focal[:, None], np.ones((len(focal), 1))], axis=1)
    x, y, z = (ray / np.linalg.norm(ray, axis=1, keepdims=True)).T
    # Rodrigues' formula about z cross ray, written out: no division by a small angle.
    k = 1.0 / (1.0 + z)
    rows = [[1 - k * x * x, -k * x * y, x], [-k * x * y, 1 - k * y * y, y], [-x, -y, z]]
    return np.moveaxis(np.array(rows), -1, 0)


_KEYS: Final = (frozenset({"pred_mano_params", "pred_cam", "box_center"}),)

HAMER: Final = Format(
    "hamer", "HaMeR, a dictionary a batch of crops", read_hamer, keys=_KEYS, conventions=CONVENTIONS
)
WILOR: Final = Format(
    "wilor", "WiLoR, a dictionary a batch of crops", read_hamer, keys=_KEYS, conventions=CONVENTIONS
)
