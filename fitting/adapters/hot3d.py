"""HOT3D's MANO trajectories, `mano_hand_pose_trajectory.jsonl`.

A line a moment:

    {"timestamp_ns": ..., "hand_poses": {"0": {...}, "1": {...}}}      0 left, 1 right
        wrist_xform           q_wxyz (4,), t_xyz (3,): the wrist's rotation, MANO's translation
        pose (15,)            PCA coefficients
        betas (10,)           the same for both hands; some lines may lack them

World axes, metres: there is no camera, and the world's axes stand for the camera's.

Sources: hot3d/data_loaders/{loader_hand_poses,ManoHandDataProvider,mano_layer}.py of
facebookresearch/hot3d.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy.spatial.transform import Rotation

from fitting.adapters.containers import read_tree
from fitting.adapters.fields import entry, number_array
from fitting.adapters.formats import Conventions, Conversion, Format, Reading
from fitting.adapters.poses import LEFT, RIGHT, placed, rest_wrists, two_hand_parameters
from fitting.errors import InputError
from fitting.predictions import TwoHandPredictions

CONVENTIONS: Final = Conventions(
    rotations="axis-angle and PCA",
    mean="excluded",
    left="native",
    left_shapedirs="mirrored",
    origin="MANO",
    camera="world",
    axes="world",
    fingertips="smplx",
    two_hands="together",
)

_HAND_KEYS: Final = {RIGHT: "1", LEFT: "0"}
_COEFFICIENTS: Final = 15


def read_hot3d(path: Path, reading: Reading) -> Conversion:
    """Read a trajectory; a moment without hands stays as a frame without hands.

    Raises:
        InputError: a missing or misshapen entry, or no betas in the whole file.
    """
    path = Path(path)
    lines = read_tree(path)
    if not isinstance(lines, list) or not lines:
        raise InputError(f"{path}: expected a line of JSON for each moment, found none")
    shared = _shared_betas(path, lines)
    frames = [_read_line(path, i, line, shared) for i, line in enumerate(lines)]
    rows = {key: np.stack([frame[key] for frame in frames]) for key in frames[0]}
    valid, count = rows["valid"], len(frames)
    quaternion = rows["q_wxyz"][..., [1, 2, 3, 0]]
    norm = np.linalg.norm(quaternion, axis=-1)
    sound = np.isfinite(norm) & (norm > 0)
    orient = np.full((count, 2, 3), np.nan)
    orient[sound] = Rotation.from_quat(quaternion[sound]).as_rotvec()
    parameters, _ = two_hand_parameters(
        CONVENTIONS, reading.hands, valid, orient, rows["pose"], rows["betas"]
    )
    side = np.tile([RIGHT, LEFT], count)
    j0 = rest_wrists(CONVENTIONS, reading.hands, side, rows["betas"].reshape(-1, 10))
    wrists = rows["t_xyz"] + j0.reshape(count, 2, 3)
    timestamps = np.array([frame["timestamp_ns"] for frame in frames], np.float64)
    predictions = TwoHandPredictions(
        hand_valid=valid,
        **parameters,
        **placed(wrists, valid),
        timestamp=timestamps * 1e-9,
        frame_id=np.array([f"{t:.0f}" for t in timestamps]),
        sequence_id=np.zeros(count, np.int64),
    )
    return Conversion(predictions, ("the hands are in the world's axes: there is no camera",))


def _shared_betas(path: Path, lines: list[Any]) -> np.ndarray:
    for i, line in enumerate(lines):
        for key in _HAND_KEYS.values():
            hand = _hands_of(path, i, line).get(key)
            if isinstance(hand, dict) and hand.get("betas") is not None:
                return number_array(hand["betas"], (10,), f"line {i + 1}/{key}/betas", path)
    raise InputError(
        f"{path}: no betas in any line; expected HOT3D's MANO trajectory (UmeTrack's has none)"
    )


def _hands_of(path: Path, number: int, line: Any) -> dict[str, Any]:
    hands = line.get("hand_poses") if isinstance(line, dict) else None
    if not isinstance(hands, dict):
        raise InputError(f"{path}: line {number + 1}: expected hand_poses, a dictionary")
    return hands


def _read_line(path: Path, number: int, line: Any, betas: np.ndarray) -> dict[str, Any]:
    """A moment's hands, right first; an identity where one is absent."""
    where = f"line {number + 1}"
    given = _hands_of(path, number, line)
    time = number_array(entry(line, "timestamp_ns", where, path), (), f"{where}/timestamp_ns", path)
    hands = []
    for key in _HAND_KEYS.values():
        hand, place = given.get(key), f"{where}/{key}"
        there = isinstance(hand, dict)
        if there:
            transform = entry(hand, "wrist_xform", place, path)
            if not isinstance(transform, dict):
                raise InputError(f"{path}: {place}/wrist_xform: expected a dictionary")

            def part(values: dict, name: str, shape: tuple, at: str = place) -> np.ndarray:
                return number_array(entry(values, name, at, path), shape, f"{at}/{name}", path)

            values = {
                "q_wxyz": part(transform, "q_wxyz", (4,)),
                "t_xyz": part(transform, "t_xyz", (3,)),
                "pose": part(hand, "pose", (_COEFFICIENTS,)),
                "betas": betas if hand.get("betas") is None else part(hand, "betas", (10,)),
            }
        else:
            values = {
                "q_wxyz": np.array([1.0, 0.0, 0.0, 0.0]),
                "t_xyz": np.zeros(3),
                "pose": np.zeros(_COEFFICIENTS),
                "betas": betas,
            }
        hands.append(values | {"valid": np.array(there)})
    stacked = {key: np.stack([hand[key] for hand in hands]) for key in hands[0]}
    return stacked | {"timestamp_ns": float(time)}


HOT3D: Final = Format(
    "hot3d",
    "HOT3D's MANO trajectories, a line of JSON a moment",
    read_hot3d,
    suffixes=(".jsonl",),
    keys=(frozenset({"timestamp_ns", "hand_poses"}),),
    conventions=CONVENTIONS,
)
