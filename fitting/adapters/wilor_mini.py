"""WiLoR-mini: what its pipeline's `predict` returns, a list of detections.

    hand_bbox (4,), is_right
    wilor_preds               global_orient (1, 1, 3), hand_pose (1, 15, 3), betas (1, 10),
                              pred_cam_t_full (1, 3), scaled_focal_length; pred_keypoints_2d
                              (1, 21, 2) in pixels of the image, pred_keypoints_3d (1, 21, 3)

as the list of one image, a list of such lists, or a dictionary of images. Left hands are native
already: rotations, points and the camera have been mirrored back.

Source: wilor_mini/pipelines/wilor_hand_pose3d_estimation_pipeline.py of warmshao/WiLoR-mini.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from fitting.adapters.containers import read_tree
from fitting.adapters.fields import entry, flag_array, number_array, text
from fitting.adapters.formats import Conventions, Conversion, Format, Reading
from fitting.adapters.found_hands import FoundHands, join, to_predictions
from fitting.adapters.lifting import intrinsics
from fitting.adapters.poses import as_sides, canonical_betas, canonical_pose, posed_joints
from fitting.adapters.records import files_of
from fitting.errors import InputError
from mano_jax.joint_orders import permutation

CONVENTIONS: Final = Conventions(
    rotations="axis-angle",
    mean="included",
    left="native",
    left_shapedirs="mirrored",
    origin="MANO",
    camera="perspective",
    joint_order="openpose21",
    fingertips="smplx",
    two_hands="apart",
)

_SHAPES: Final = {
    "global_orient": (1, 1, 3),
    "hand_pose": (1, 15, 3),
    "betas": (1, 10),
    "pred_cam_t_full": (1, 3),
}
_POINTS: Final = {"pred_keypoints_3d": (1, 21, 3), "pred_keypoints_2d": (1, 21, 2)}


def read_wilor_mini(path: Path, reading: Reading) -> Conversion:
    """Read detections and join them by image.

    The principal point is the image's middle; where `reading.image_size` does not tell it, it
    is the one that explains the pixels.

    Raises:
        InputError: a missing or misshapen entry, or neither pixels nor an image size.
    """
    rows: dict[str, list] = {key: [] for key in (*_SHAPES, *_POINTS, "image", "right", "focal")}
    images = []
    for file, image, where, detections in _images(path):
        if not isinstance(detections, list | tuple):
            raise InputError(
                f"{file}: {where}: expected a list of detections, found {type(detections).__name__}"
            )
        images.append(image)
        for i, detection in enumerate(detections):
            _add(rows, file, f"{where}[{i}]", image, detection)
    if not rows["image"]:
        raise InputError(f"{path}: no hand in {len(images)} images")
    focal = np.array(rows["focal"])
    parts = {key: np.concatenate(rows[key]) for key in (*_SHAPES, *_POINTS)}

    hands, side = reading.hands, as_sides(rows["right"])
    orient, pose = canonical_pose(
        CONVENTIONS, hands, side, parts["global_orient"][:, 0], parts["hand_pose"]
    )
    betas, _ = canonical_betas(CONVENTIONS, hands, side, parts["betas"])
    transl = parts["pred_cam_t_full"]
    order = permutation(CONVENTIONS.joint_order, "mano21")
    joints, pixels = (parts[key][:, order] for key in _POINTS)
    principal = _principal_points(path, reading, joints + transl[:, None], pixels, focal)
    wrist = posed_joints(hands, side, orient, pose, betas)[:, 0] + transl
    found = FoundHands(
        image=np.array(rows["image"], dtype=str),
        side=side,
        global_orient=orient,
        hand_pose=pose,
        betas=betas,
        wrist=wrist,
        K=intrinsics(focal, principal),
        joints=joints,
        pixels=pixels,
        images=tuple(images),
    )
    frames = join(found)
    predictions, evidence = to_predictions(CONVENTIONS, found, frames)
    note = (
        f"the focal length is the source's own {focal[0]:.0f} px, and the depth between two hands "
        "unknown"
    )
    return Conversion(predictions, (*frames.notes, note), evidence)


def _images(path: Path) -> Iterator[tuple[Path, str, str, Any]]:
    """File, image name, place and detections of every image."""
    files = files_of(path)
    for file in files:
        # Each file is a video of its own, which may name its images as another one does.
        inside = f"{file.stem}/" if len(files) > 1 else ""
        tree = read_tree(file)
        if isinstance(tree, dict) and "wilor_preds" not in tree:
            for key, value in tree.items():
                name = text(key, "a key", file)
                yield file, inside + name, name, value
        elif isinstance(tree, list | tuple) and any(isinstance(x, list | tuple) for x in tree):
            yield from (
                (file, f"{file.stem}{i:06d}", f"[{i}]", value) for i, value in enumerate(tree)
            )
        else:
            yield file, file.stem, "", [tree] if isinstance(tree, dict) else tree


def _add(rows: dict[str, list], file: Path, where: str, image: str, detection: Any) -> None:
    """Append a detection's entries."""
    if not isinstance(detection, dict):
        raise InputError(f"{file}: {where}: expected a detection, found {type(detection).__name__}")
    predicted = entry(detection, "wilor_preds", where, file)
    if not isinstance(predicted, dict):
        raise InputError(f"{file}: {where}/wilor_preds: expected a dictionary")
    where = f"{where}/wilor_preds"
    for key, shape in _SHAPES.items():
        rows[key].append(
            number_array(entry(predicted, key, where, file), shape, f"{where}/{key}", file)
        )
    for key, shape in _POINTS.items():
        given = predicted.get(key)
        nothing = np.full(shape, np.nan)
        rows[key].append(
            nothing if given is None else number_array(given, shape, f"{where}/{key}", file)
        )
    right = flag_array(entry(detection, "is_right", where, file), (), f"{where}/is_right", file)
    focal = entry(predicted, "scaled_focal_length", where, file)
    rows["right"].append(bool(right))
    rows["focal"].append(float(number_array(focal, (), f"{where}/scaled_focal_length", file)))
    rows["image"].append(image)


def _principal_points(
    path: Path, reading: Reading, points: np.ndarray, pixels: np.ndarray, focal: np.ndarray
) -> np.ndarray:
    """Principal points, pixels: told, or what pixels and points leave."""
    if reading.image_size is not None:
        return np.tile(np.array(reading.image_size) / 2, (len(focal), 1))
    rest = pixels - focal[:, None, None] * points[..., :2] / points[..., 2:]
    if not np.isfinite(rest).all(-1).any(-1).all():
        raise InputError(
            f"{path}: without pred_keypoints_2d and pred_keypoints_3d the image's middle is not "
            "known; give --image-size WIDTH HEIGHT"
        )
    return np.nanmedian(rest, axis=1)


WILOR_MINI: Final = Format(
    "wilor_mini",
    "WiLoR-mini, the detections that its pipeline returns",
    read_wilor_mini,
    keys=(frozenset({"wilor_preds", "is_right"}),),
    options=("image_size",),
    conventions=CONVENTIONS,
)
