"""VITRA episodes (HaWoR's hands on egocentric video), `.npy`.

Conventions, as microsoft/VITRA documents them in `data/data.md` and draws them in
`visualization/visualize_core.py`, checked on its example episode:

    pose          rotation matrices, mean pose included
    left hand     the right model's pose and betas, posed and then mirrored in x, and only then
                  turned by `global_orient`: the finger rotations have to be mirrored, the wrist's
                  not
    translation   none of the fields called transl is safe (the wrist by the documentation, MANO's
                  translation in the example): the wrist is joint 0 of `joints_camspace`
    joints        metres, camera axes, OpenPose order, fingertips on the skin
    extrinsics    from world to camera, one a frame
    missing hand  `kept_frames` is 0; its rows mean nothing
"""

from pathlib import Path
from typing import Any, Final

import numpy as np

from fitting.adapters.containers import read_tree
from fitting.adapters.fields import found
from fitting.adapters.formats import Conventions, Conversion, Evidence, Format, Reading
from fitting.adapters.poses import MIRRORED, axis_angle_of
from fitting.errors import InputError
from fitting.predictions import TwoHandPredictions
from mano_jax.joint_orders import permutation
from mano_jax.model import SIDES

CONVENTIONS: Final = Conventions(
    rotations="matrices",
    mean="included",
    # Of the fingers alone: the wrist's rotation is the left hand's own.
    left="mirrored",
    left_shapedirs="mirrored",
    origin="wrist",
    camera="perspective",
    joint_order="openpose21",
    fingertips="smplx",
    two_hands="together",
)

_HAND_SHAPES: Final = {
    "beta": (10,),
    "global_orient_camspace": ("N", 3, 3),
    "hand_pose": ("N", 15, 3, 3),
    "joints_camspace": ("N", 21, 3),
}


def read_vitra(path: Path) -> TwoHandPredictions:
    """Read one episode. Its joints are targets too: they are what the parameters must explain.

    Raises:
        InputError: no such episode, one without frames, or a key is missing or has the wrong
            shape.
    """
    path = Path(path)
    episode = read_tree(path)
    if not isinstance(episode, dict):
        raise InputError(
            f"{path}: expected a dictionary saved with numpy.save, found {found(episode)}; is it "
            "the format that --from names?"
        )
    extrinsics = _array(path, episode, "extrinsics", ("N", 4, 4))
    frames = len(extrinsics)
    if frames == 0:
        raise InputError(f"{path}: extrinsics: expected at least one frame, found no frames")
    intrinsics = _array(path, episode, "intrinsics", (3, 3))
    hands = [_read_hand(path, episode, side, frames) for side in SIDES]
    joined = {name: np.stack([hand[name] for hand in hands], axis=1) for name in hands[0]}
    wrists, hand_valid = joined["joints_3d"][:, :, 0, :3], joined["hand_valid"]
    both, right = hand_valid.all(-1, keepdims=True), hand_valid[:, :1]
    name = str(episode.get("video_name", path.stem))
    return TwoHandPredictions(
        **joined,
        relative_transl=np.where(both, wrists[:, 1] - wrists[:, 0], 0.0),
        root_transl=np.where(right, wrists[:, 0], wrists[:, 1]),
        K=np.broadcast_to(intrinsics, (frames, 1, 3, 3)),
        T_camera_world=extrinsics[:, None],
        frame_id=np.array([f"{name}/{n:06d}" for n in _frame_numbers(episode, frames)]),
        sequence_id=np.zeros(frames, np.int64),
    )


def _frame_numbers(episode: dict[str, Any], frames: int) -> list[int]:
    """The frames' numbers in the video, or in the episode where it does not tell them all."""
    given = episode.get("video_decode_frame")
    if isinstance(given, np.ndarray) and given.dtype.kind in "iuf":
        numbers = given.reshape(-1)
        if len(numbers) == frames and np.isfinite(numbers).all():
            return [int(number) for number in numbers]
    return list(range(frames))


def _read_hand(path: Path, episode: dict[str, Any], side: str, frames: int) -> dict:
    """One hand's canonical fields; zeros where the hand is not kept."""
    hand = episode.get(side)
    if not isinstance(hand, dict):
        raise InputError(f"{path}: expected a dictionary under {side!r}, found none")
    kept = _numeric(_value(path, hand, "kept_frames", side))
    if kept is None or kept.size != frames:
        raise InputError(
            f"{path}: {side}/kept_frames: expected {frames} numbers as there are in extrinsics, "
            f"found {'something else' if kept is None else kept.size}"
        )
    kept = (kept.reshape(-1) != 0) & np.isfinite(kept.reshape(-1))
    arrays = {
        name: _array(path, hand, name, shape, side=side, frames=frames)
        for name, shape in _HAND_SHAPES.items()
    }
    orient = np.where(kept[:, None], axis_angle_of(arrays["global_orient_camspace"]), 0.0)
    hand_pose = np.where(kept[:, None, None], axis_angle_of(arrays["hand_pose"]), 0.0)
    joints = arrays["joints_camspace"][:, permutation("openpose21", "mano21")]
    joints_3d = np.concatenate([joints, np.ones((frames, 21, 1))], axis=-1)
    return {
        "hand_valid": kept,
        "global_orient": orient,
        "hand_pose": hand_pose * MIRRORED if side == "left" else hand_pose,
        "betas": np.where(kept[:, None], arrays["beta"], 0.0),
        "joints_3d": np.where(kept[:, None, None], joints_3d, 0.0),
    }


def _array(
    path: Path,
    values: dict[str, Any],
    name: str,
    shape: tuple,
    *,
    side: str = "",
    frames: int | None = None,
) -> np.ndarray:
    """A numeric array of the expected shape; "N" is the number of frames."""
    array = _numeric(_value(path, values, name, side))
    shown = "no array of numbers" if array is None else f"{array.dtype} of shape {array.shape}"
    if array is not None and array.ndim == len(shape):
        expected = tuple((frames or len(array)) if n == "N" else n for n in shape)
        if array.shape == expected:
            return array
    where = f"{side}/{name}" if side else name
    raise InputError(
        f"{path}: {where}: expected numbers of shape {shape}"
        + (f" with N = {frames}" if frames is not None else "")
        + f", found {shown}"
    )


def _numeric(value: Any) -> np.ndarray | None:
    """The value as an array of numbers, None where it is none."""
    try:
        array = np.asarray(value)
    except ValueError:
        return None
    return array if array.dtype.kind in "biuf" else None


def _value(path: Path, values: dict[str, Any], name: str, side: str = "") -> Any:
    if name not in values:
        where = f" of {side!r}" if side else ""
        raise InputError(
            f"{path}: no key {name!r}{where}; found {', '.join(map(str, values))}. Is it a VITRA "
            "episode?"
        )
    return values[name]


def _convert(path: Path, _: Reading) -> Conversion:
    predictions = read_vitra(path)
    joints = predictions.joints_with_confidence()
    assert joints is not None, "every episode has joints"
    there = predictions.hand_valid[..., None, None]
    return Conversion(predictions, evidence=Evidence(np.where(there, joints[..., :3], np.nan)))


VITRA: Final = Format(
    "vitra",
    "VITRA's episodes, HaWoR's hands on egocentric video",
    _convert,
    suffixes=(".npy",),
    keys=(frozenset({"global_orient_camspace", "joints_camspace", "kept_frames"}),),
    conventions=CONVENTIONS,
)
