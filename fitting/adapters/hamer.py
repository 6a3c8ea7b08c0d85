"""HaMeR and WiLoR: outputs of the network on crops of single hands.

A dictionary for each batch of crops, the network's output together with its input:

    pred_mano_params          global_orient (B, 1, 3, 3), hand_pose (B, 15, 3, 3), betas (B, 10)
    pred_cam (B, 3)           s, t_x, t_y of the crop
    pred_cam_t (B, 3)         the same as a translation; if there, it counts (see _seen_in_crop)
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

_TOGETHER: Final = 16384
"""Crops at a time: the temporaries of many would be ten times what is read."""


def read_hamer(path: Path, reading: Reading) -> Conversion:
    """Read crops and join their hands by image.

    The hands are placed in the image's camera by their own projection. That camera has the focal
    length that HaMeR gives it, far longer than any real one, so the depth between two hands is
    said to be unknown; with `reading.focal` it is the true camera, and each hand is also turned
    towards it as its crop was.

    Raises:
        InputError: a missing or misshapen entry; the message names it.
    """
    parts = [_read_record(record, i) for i, record in enumerate(records(path))]
    # Taken out as they are joined: a million crops need not be held twice.
    crops = {key: np.concatenate([part.pop(key) for part in parts]) for key in list(parts[0])}
    notes = []
    if not np.any(crops["named"]):
        notes.append("no img_path: the crops of one dictionary are taken for one image")
    blocks = range(0, len(crops["side"]), _TOGETHER)
    found = FoundHands.concatenate(
        [_found({k: v[i : i + _TOGETHER] for k, v in crops.items()}, reading) for i in blocks]
    )
    frames = join(found)
    predictions, evidence = to_predictions(CONVENTIONS, found, frames)
    notes += frames.notes
    if reading.focal is None:
        focal = CROP_FOCAL / CROP_PIXELS * crops["img_size"][0].max()
        notes.append(
            f"the focal length is the source's own, {focal:.0f} px, and the depth between two "
            "hands unknown; --focal takes the camera's true one"
        )
    return Conversion(predictions, tuple(notes), evidence)


def _read_record(record: Record, number: int) -> dict[str, np.ndarray]:
    """One batch's entries as they are, one row a crop."""
    orient = record.needed("pred_mano_params/global_orient", ("B", 1, 3, 3))
    count = len(orient)
    names = record.image_names(count)

    def optional(key: str, shape: tuple[int, ...]) -> np.ndarray:
        given = record.array(key, shape, optional=True)
        return np.full(shape, np.nan) if given is None else given

    return {
        "global_orient": orient[:, 0],
        "hand_pose": record.needed("pred_mano_params/hand_pose", (count, 15, 3, 3)),
        "betas": record.needed("pred_mano_params/betas", (count, 10)),
        "cam": record.needed("pred_cam", (count, 3)),
        "cam_t": optional("pred_cam_t", (count, 3)),
        "box_center": record.needed("box_center", (count, 2)),
        "box_size": record.needed("box_size", (count,)),
        "img_size": record.needed("img_size", (count, 2)),
        "side": as_sides(record.flags("right", (count,))),
        "keypoints_3d": optional("pred_keypoints_3d", (count, 21, 3)),
        "keypoints_2d": optional("pred_keypoints_2d", (count, 21, 2)),
        "image": np.array(names or [f"{record.path.stem}{number:06d}"] * count, dtype=str),
        "named": np.full(count, names is not None),
    }


def _found(crops: dict[str, np.ndarray], reading: Reading) -> FoundHands:
    """Every crop's hand in the camera of its image."""
    hands, side = reading.hands, crops["side"]
    left, centre, size = side == LEFT, crops["box_center"], crops["box_size"]
    orient, pose = canonical_pose(
        CONVENTIONS, hands, side, crops["global_orient"], crops["hand_pose"]
    )
    betas, _ = canonical_betas(CONVENTIONS, hands, side, crops["betas"])
    joints = posed_joints(hands, side, orient, pose, betas)
    order = permutation(CONVENTIONS.joint_order, "mano21")
    their_joints = mirrored_points(crops["keypoints_3d"][:, order], left)
    theirs = crops["keypoints_2d"][:, order]
    crop = _seen_in_crop(mirrored_points(joints, left), crops, theirs)
    pixels = _crop_to_image(crop, left, centre, size)
    principal = crops["img_size"] / 2
    focal = CROP_FOCAL / CROP_PIXELS * crops["img_size"].max(axis=1)
    if reading.focal is not None:
        focal = np.full(len(side), reading.focal)
        towards = _towards(centre, focal, principal)
        orient = turned(towards, orient)
        joints = posed_joints(hands, side, orient, pose, betas)
        their_joints = their_joints @ np.swapaxes(towards, 1, 2)
    return FoundHands(
        image=crops["image"],
        side=side,
        global_orient=orient,
        hand_pose=pose,
        betas=betas,
        wrist=joints[:, 0] + place_by_pixels(joints, pixels, focal, principal),
        K=intrinsics(focal, principal),
        joints=their_joints,
        pixels=_crop_to_image(theirs, left, centre, size),
    )


def _seen_in_crop(
    joints: np.ndarray, crops: dict[str, np.ndarray], theirs: np.ndarray
) -> np.ndarray:
    """Where the crops' camera sees the network's own (mirrored) hands, [-0.5, 0.5].

    The authors' demo changes the sign of a left hand's t_x in `pred_cam` where it stands, and what
    is saved afterwards has it changed. `pred_cam_t` was made before; without it the sign is the
    one that explains the network's keypoints.
    """
    given = np.isfinite(crops["cam_t"]).all(axis=1, keepdims=True)
    cam = crop_translation(crops["cam"])
    plain = _project(joints, np.where(given, crops["cam_t"], cam))
    changed = _project(joints, np.where(given, crops["cam_t"], cam * [-1.0, 1.0, 1.0]))
    off, off_changed = (np.abs(seen - theirs).mean(axis=(1, 2)) for seen in (plain, changed))
    undo = (crops["side"] == LEFT) & (off_changed < off)
    return np.where(undo[:, None, None], changed, plain)


def _project(joints: np.ndarray, transl: np.ndarray) -> np.ndarray:
    seen = joints + transl[:, None]
    return CROP_FOCAL / CROP_PIXELS * seen[..., :2] / seen[..., 2:]


def crop_translation(cam: np.ndarray) -> np.ndarray:
    """MANO's translation in the crop's camera, metres: the network's s becomes a depth."""
    depth = 2 * CROP_FOCAL / (CROP_PIXELS * cam[:, 0] + 1e-9)
    return np.stack([cam[:, 1], cam[:, 2], depth], axis=1)


def _crop_to_image(
    crop: np.ndarray, left: np.ndarray, centre: np.ndarray, size: np.ndarray
) -> np.ndarray:
    """From [-0.5, 0.5] of a crop, flipped for a left hand, to pixels of the image."""
    crop = np.where(left[:, None, None] * np.array([True, False]), -crop, crop)
    return centre[:, None] + crop * size[:, None, None]


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
    "hamer",
    "HaMeR, a dictionary a batch of crops",
    read_hamer,
    keys=_KEYS,
    options=("focal",),
    conventions=CONVENTIONS,
)
WILOR: Final = Format(
    "wilor",
    "WiLoR, a dictionary a batch of crops",
    read_hamer,
    keys=_KEYS,
    options=("focal",),
    conventions=CONVENTIONS,
)
