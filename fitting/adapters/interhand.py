"""InterHand2.6M annotations, its original JSON files.

Conventions (Moon et al., ECCV 2020; the data set's own loader):

    files         `*_data.json` (COCO), `*_camera.json`, `*_joint_3d.json`, one set a folder
    joints        world, millimetres; every finger from the tip inwards, the wrist last; the right
                  hand first, then the left; an absent hand's joints are garbage, so both files'
                  `joint_valid` count
    camera        X_camera = R (X_world - campos); campos in millimetres, no distortion
    2D            the projection of the 3D joints, which is how the data set defines it;
                  `joint_valid` of the COCO file says which are in the image
    keys          capture, frame and camera are strings in the last two files

The joints were triangulated, so they are the targets; there is no prediction in these files.
"""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from fitting.errors import InputError
from fitting.predictions import TwoHandPredictions
from mano_jax.joint_orders import permutation

_SUFFIXES: Final = ("_data.json", "_camera.json", "_joint_3d.json")
_TO_MANO: Final = permutation("interhand21", "mano21")
_HANDS_OF_TYPE: Final = {
    "right": (True, False),
    "left": (False, True),
    "interacting": (True, True),
}


_CAMERA_SHAPES: Final = {"campos": (3,), "camrot": (3, 3), "focal": (2,), "princpt": (2,)}


def read_interhand(path: Path) -> TwoHandPredictions:
    """Read one set of annotations: joints, keypoints and camera of every annotated image.

    Args:
        path: a folder with one set of the three files, or any of the three.

    Raises:
        InputError: a file is missing or no JSON, or one lacks what another one refers to.
    """
    files = [_read_json(file) for file in _find_files(Path(path))]
    (data_file, data), (camera_file, cameras), (joint_file, joints) = files
    images = {str(_entry(data_file, i, "id")): i for i in _list(data_file, data, "images")}
    frames = []
    for annotation in _list(data_file, data, "annotations"):
        _require(data_file, annotation, ("image_id", "joint_valid"))
        image = _entry(data_file, images, str(annotation["image_id"]), "an image with the id")
        _require(data_file, image, ("capture", "camera", "frame_idx"))
        camera = _camera(camera_file, cameras, image)
        world_mm, valid = _joints(joint_file, joints, image)
        in_image = _flags(data_file, annotation, f"annotation of image {annotation['image_id']}")
        frames.append(_frame(annotation, image, camera, world_mm, valid, in_image))
    if not frames:
        raise InputError(f"{data_file}: expected at least one annotation, found none")
    joined = {name: np.stack([frame[name] for frame in frames]) for name in frames[0]}
    _, joined["sequence_id"] = np.unique(joined["sequence_id"], return_inverse=True)
    return TwoHandPredictions(**joined)


def _frame(
    annotation: dict[str, Any],
    image: dict[str, Any],
    camera: dict[str, np.ndarray],
    world_mm: np.ndarray,
    valid: np.ndarray,
    in_image: np.ndarray,
) -> dict[str, np.ndarray]:
    """The canonical fields of one image, joints as (2, 21, ...)."""
    present = np.any(valid, axis=-1)
    if annotation.get("hand_type_valid", 1):
        present = np.array(_HANDS_OF_TYPE.get(str(annotation.get("hand_type")), present))
    seen_3d = valid & present[:, None]
    seen_2d = seen_3d & in_image

    R, centre, K = camera["R"], camera["centre_mm"] / 1000, camera["K"]
    points = (world_mm / 1000 - centre) @ R.T
    # A joint at or behind the camera has no image; whatever is not seen becomes zero anyway.
    depth = np.where(points[..., 2:] > 1e-3, points[..., 2:], np.inf)
    pixels = np.where(seen_2d[..., None], points[..., :2] / depth, 0.0) * K[[0, 1], [0, 1]]
    pixels = pixels + K[:2, 2]
    T_camera_world = np.eye(4)
    T_camera_world[:3, :3], T_camera_world[:3, 3] = R, -R @ centre
    sequence = f"capture{image['capture']}/{image.get('seq_name', '')}/cam{image['camera']}"
    return {
        "hand_valid": present,
        "joints_3d": _with_confidence(points, seen_3d),
        "keypoints_2d": _with_confidence(pixels, seen_2d)[None],
        "K": K[None],
        "T_camera_world": T_camera_world[None],
        "frame_id": np.array(f"{sequence}/{image['frame_idx']}"),
        "sequence_id": np.array(sequence),
    }


def _with_confidence(points: np.ndarray, seen: np.ndarray) -> np.ndarray:
    return np.concatenate([np.where(seen[..., None], points, 0.0), seen[..., None]], axis=-1)


def _camera(file: Path, cameras: dict, image: dict[str, Any]) -> dict[str, np.ndarray]:
    capture = _entry(file, cameras, str(image["capture"]), "the capture")
    number = str(image["camera"])
    found = {}
    for key, shape in _CAMERA_SHAPES.items():
        value = _entry(file, _entry(file, capture, key), number, f"{key} of the camera")
        found[key] = _numbers(value)
        if found[key].shape != shape:
            raise InputError(
                f"{file}: {key} of camera {number}: expected numbers of shape {shape}, found "
                f"{_shape(found[key])}"
            )
    K = np.eye(3)
    K[[0, 1], [0, 1]], K[:2, 2] = found["focal"], found["princpt"]
    return {"R": found["camrot"], "centre_mm": found["campos"], "K": K}


def _joints(file: Path, joints: dict, image: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """World joints (2, 21, 3) in mm and which of them count; none for a frame without any."""
    capture = _entry(file, joints, str(image["capture"]), "the capture")
    number = str(image["frame_idx"])
    if isinstance(capture, dict) and number not in capture:
        return np.zeros((2, 21, 3)), np.zeros((2, 21), bool)
    frame = _entry(file, capture, number, "the frame")
    where = f"frame {number} of capture {image['capture']}"
    world_mm = _numbers(_entry(file, frame, "world_coord"))
    if world_mm.shape != (42, 3):
        raise InputError(
            f"{file}: {where}: world_coord: expected numbers of shape (42, 3), found "
            f"{_shape(world_mm)}"
        )
    valid = _flags(file, frame, where)
    world_mm = world_mm.reshape(2, 21, 3)[:, _TO_MANO]
    return world_mm, valid & np.all(np.isfinite(world_mm), axis=-1)


def _flags(file: Path, mapping: dict, where: str) -> np.ndarray:
    """`joint_valid` of both hands, (2, 21)."""
    valid = _numbers(_entry(file, mapping, "joint_valid"))
    if valid.size != 42:
        raise InputError(
            f"{file}: {where}: joint_valid: expected 42 numbers, one a joint, found {_shape(valid)}"
        )
    return (valid.reshape(2, 21) > 0)[:, _TO_MANO]


def _numbers(value: Any) -> np.ndarray:
    """A nest of lists as numbers; an empty array where it is none of numbers."""
    try:
        return np.asarray(value, np.float64)
    except (ValueError, TypeError):
        return np.zeros(0)


def _shape(array: np.ndarray) -> str:
    return f"shape {array.shape}" if array.size else "no numbers"


def _find_files(path: Path) -> list[Path]:
    """The three files of the set that `path` names."""
    if path.is_dir():
        sets = sorted(path.glob(f"*{_SUFFIXES[0]}"))
        if len(sets) != 1:
            names = ", ".join(file.name for file in sets) or "none"
            raise InputError(
                f"{path}: expected one *{_SUFFIXES[0]} in the folder, found {names}; name the file"
            )
        path = sets[0]
    stems = [path.name.removesuffix(s) for s in _SUFFIXES if path.name.endswith(s)]
    if not stems:
        raise InputError(
            f"{path}: expected a folder, or a file whose name ends in {', '.join(_SUFFIXES)}"
        )
    files = [path.with_name(stems[0] + suffix) for suffix in _SUFFIXES]
    for file in files:
        if not file.is_file():
            raise InputError(f"{file}: no such file; the three files belong together")
    return files


def _read_json(file: Path) -> tuple[Path, dict]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{file}: no readable JSON ({error}); copy it again") from error
    if not isinstance(value, dict):
        raise InputError(f"{file}: expected a JSON object, found {type(value).__name__}")
    return file, value


def _list(file: Path, mapping: dict, key: str) -> list:
    value = _entry(file, mapping, key)
    if not isinstance(value, list):
        raise InputError(f"{file}: {key}: expected a list, found {type(value).__name__}")
    return value


def _require(file: Path, mapping: dict, keys: tuple[str, ...]) -> None:
    for key in keys:
        _entry(file, mapping, key)


def _entry(file: Path, mapping: Any, key: str, what: str = "the key") -> Any:
    if not isinstance(mapping, dict):
        raise InputError(
            f"{file}: expected {what} {key!r} in an object, found {type(mapping).__name__}"
        )
    if key not in mapping:
        some = ", ".join(map(str, list(mapping)[:5]))
        raise InputError(
            f"{file}: expected {what} {key!r}, found {some or 'nothing'}"
            + (", ..." if len(mapping) > 5 else "")
            + "; is the file whole, and do the three belong to the same split?"
        )
    return mapping[key]
