"""Leap Motion style finger arrays, `.npz`.

    fingers_mm    (T, 2, 5, 4, 3): hand 0 the LEFT one, thumb to pinky, the four joints of a finger
                  (mcp, pip, dip, tip). A thumb's `mcp` is where its metacarpal begins: thumb1
    confidence    (T, 2), optional; 0 for a hand that is not there
    timestamp_us  (T,), optional
    units, axes   millimetres; x right, y up, z towards the user: turned here to the camera's axes,
                  x right, y down, z away
    wrist         not in this protocol; the other joints say where it is
    missing hand  confidence 0, or joints that are not finite

The Leap skeleton is not MANO's: its knuckles lie deeper. Expect millimetres of misfit.
"""

from pathlib import Path
from typing import Final

import numpy as np

from fitting.adapters.formats import Conventions, Conversion, Format
from fitting.adapters.landmarks import UNITS, from_landmarks
from fitting.canonical import read_arrays
from fitting.errors import InputError
from fitting.predictions import TwoHandPredictions
from mano_jax.joint_orders import FINGERS

CONVENTIONS: Final = Conventions(
    rotations="none",
    mean="none",
    left="native",
    left_shapedirs="none",
    origin="none",
    axes="OpenGL",
    unit="mm",
    joint_order="by name",
)

NAMES: Final = tuple(f"{finger}{end}" for finger in FINGERS for end in ("1", "2", "3", "_tip"))
"""The joints of a hand in the file's order."""

_TO_CAMERA: Final = np.array([1.0, -1.0, -1.0])
"""Half a turn about x: a rotation, so no hand is mirrored."""


def read_leap(path: Path) -> TwoHandPredictions:
    """Read the fingers of both hands.

    Raises:
        InputError: no such file, or an array that is missing or has another shape.
    """
    arrays = read_arrays(path)
    if "fingers_mm" not in arrays:
        raise InputError(
            f"{path}: no array 'fingers_mm'; found {', '.join(arrays) or 'nothing'}. Is it the "
            "format that --from names?"
        )
    fingers = _numbers(path, "fingers_mm", arrays["fingers_mm"], (None, 2, 5, 4, 3))
    frames = len(fingers)
    if frames == 0:
        raise InputError(f"{path}: fingers_mm: expected at least one frame, found none")
    given = arrays.get("confidence", np.ones((frames, 2)))
    confidence = _numbers(path, "confidence", given, (frames, 2))[:, ::-1]
    points = fingers[:, ::-1].reshape(frames, 2, len(NAMES), 3) * UNITS["mm"] * _TO_CAMERA
    fields = {}
    if "timestamp_us" in arrays:
        fields["timestamp"] = 1e-6 * _numbers(
            path, "timestamp_us", arrays["timestamp_us"], (frames,)
        )
    return from_landmarks(
        points,
        np.repeat(confidence[..., None], len(NAMES), axis=-1),
        NAMES,
        frame_id=np.array([f"{path.stem}/{i:06d}" for i in range(frames)]),
        sequence_id=np.zeros(frames, np.int64),
        **fields,
    )


def _numbers(path: Path, name: str, array: np.ndarray, shape: tuple[int | None, ...]) -> np.ndarray:
    """An array of numbers; None in a shape stands for any length."""
    fits = array.ndim == len(shape) and all(
        wanted in (None, found) for wanted, found in zip(shape, array.shape, strict=True)
    )
    if not fits or array.dtype.kind not in "iuf":
        wanted = ", ".join("T" if n is None else str(n) for n in shape)
        raise InputError(
            f"{path}: {name}: expected numbers of shape ({wanted}), found {array.dtype} of shape "
            f"{array.shape}"
        )
    return array.astype(np.float64)


LEAP: Final = Format(
    "leap",
    "Leap Motion's finger arrays",
    lambda path, _: Conversion(read_leap(path)),
    suffixes=(".npz",),
    keys=(frozenset({"fingers_mm"}),),
    conventions=CONVENTIONS,
)
