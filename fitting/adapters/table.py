"""A table of joints from anywhere, `.npz` or `.csv`, whose order and unit it names itself.

    .npz    joints (N, 2, 21, 3) or with a confidence (N, 2, 21, 4), right hand first; or of one
            hand (N, 21, 3) or (N, 21, 4), with side, right or left; order, the name of a joint
            order (`mano_jax.joint_orders.JOINT_ORDERS`); unit, m, cm or mm; frame_id (N,) if there
            are names
    .csv    a row a frame; columns SIDE_JOINT_AXIS_UNIT such as right_index1_x_mm (sides right and
            left, joints as in `MANO21`, axes x, y, z), SIDE_JOINT_confidence if known, frame_id if
            there are names

Joints that have no column, no number or no confidence are missing; a hand without joints is absent.
Both hands are in one right-handed frame.
"""

from pathlib import Path
from typing import Final

import numpy as np

from fitting.adapters.csv_files import read_csv
from fitting.adapters.formats import Conversion, Format
from fitting.adapters.landmarks import UNITS, from_landmarks
from fitting.canonical import read_arrays
from fitting.errors import InputError
from fitting.predictions import TwoHandPredictions
from mano_jax.joint_orders import JOINT_ORDERS, MANO21
from mano_jax.model import SIDES

_HELP: Final = "docs/joints.md says what a table holds"


def read_table(path: Path) -> TwoHandPredictions:
    """Read a table of joints.

    Raises:
        InputError: no such file, or something in it that is missing, unknown or of another shape.
    """
    path = Path(path)
    return _read_csv(path) if path.suffix == ".csv" else _read_npz(path)


def _read_npz(path: Path) -> TwoHandPredictions:
    arrays = read_arrays(path)
    for name in ("joints", "order", "unit"):
        if name not in arrays:
            raise InputError(
                f"{path}: no array {name!r}; found {', '.join(arrays) or 'nothing'}. Write a table "
                f"with {_how_to(arrays)}; {_HELP}"
            )
    order, unit = (
        _choice(path, name, arrays[name], known)
        for name, known in (("order", JOINT_ORDERS), ("unit", UNITS))
    )
    joints = arrays["joints"]
    if joints.ndim == 3 and joints.shape[1] == 21 and joints.shape[2] in (3, 4):
        joints = _of_one_hand(path, arrays)
    if joints.ndim != 4 or joints.shape[1:3] != (2, 21) or joints.shape[3] not in (3, 4):
        raise InputError(
            f"{path}: joints: expected (N, 2, 21, 3) or (N, 2, 21, 4), or of one hand (N, 21, 3) "
            f"or (N, 21, 4) with its side, found {joints.shape}"
        )
    if joints.dtype.kind not in "iuf" or len(joints) == 0:
        raise InputError(f"{path}: joints: expected numbers of a frame at least")
    points = joints[..., :3].astype(np.float64) * UNITS[unit]
    confidence = joints[..., 3] if joints.shape[3] == 4 else np.ones(joints.shape[:3])
    fields = {}
    if "frame_id" in arrays:
        fields["frame_id"] = arrays["frame_id"].astype(str)
    return from_landmarks(points, confidence.astype(np.float64), JOINT_ORDERS[order], **fields)


def _how_to(arrays: dict[str, np.ndarray]) -> str:
    """The call that writes a table, from what looks like joints in a file that is none."""
    alike = {n: a.shape for n, a in arrays.items() if a.shape[-2:] in ((21, 3), (21, 4))}
    name = "joints" if "joints" in alike else next(iter(alike), "joints")
    side = ", side='right'" if len(alike.get(name, ())) == 3 and "side" not in arrays else ""
    return (
        f"numpy.savez('table.npz', joints={name}, order='openpose21', unit='m'{side}), or whatever "
        "order and unit they are in"
    )


def _of_one_hand(path: Path, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Joints of both hands, the other one without any."""
    joints = arrays["joints"]
    if "side" not in arrays:
        raise InputError(
            f"{path}: joints: found {joints.shape}, of one hand; add an array side, 'right' or "
            "'left', which says whose they are"
        )
    if joints.dtype.kind not in "iuf":
        raise InputError(f"{path}: joints: expected numbers, found {joints.dtype}")
    side = _choice(path, "side", arrays["side"], dict.fromkeys(SIDES))
    both = np.full((len(joints), 2, *joints.shape[1:]), np.nan)
    both[:, SIDES.index(side)] = joints
    return both


def _choice(path: Path, name: str, value: np.ndarray, known: dict) -> str:
    text = str(value) if value.ndim == 0 else ""
    if text not in known:
        raise InputError(f"{path}: {name}: expected one of {', '.join(known)}, found {value!r}")
    return text


def _read_csv(path: Path) -> TwoHandPredictions:
    header, rows = read_csv(path)
    shape = len(rows), 2, len(MANO21)
    points, confidence, names = np.full((*shape, 3), np.nan), np.ones(shape), None
    for column, title in enumerate(header):
        cells = [row[column] if column < len(row) else "" for row in rows]
        if title == "frame_id":
            names = np.array(cells)
            continue
        hand, joint, axis, metres = _meaning(path, title)
        numbers = _numbers(path, title, cells)
        if axis is None:
            confidence[:, hand, joint] = np.nan_to_num(numbers)
        else:
            points[:, hand, joint, axis] = numbers * metres
    fields = {} if names is None else {"frame_id": names}
    return from_landmarks(points, confidence, MANO21, **fields)


def _meaning(path: Path, title: str) -> tuple[int, int, int | None, float]:
    """Hand, joint, axis (None: a confidence) and metres in the unit of a column."""
    side, _, rest = title.partition("_")
    for joint, name in enumerate(MANO21):
        tail = rest.removeprefix(f"{name}_")
        if side not in SIDES or tail == rest:
            continue
        if tail == "confidence":
            return SIDES.index(side), joint, None, 1.0
        axis, _, unit = tail.partition("_")
        if axis in ("x", "y", "z") and unit in UNITS:
            return SIDES.index(side), joint, "xyz".index(axis), UNITS[unit]
    raise InputError(
        f"{path}: column {title!r}: expected frame_id or a name such as right_index1_x_mm or "
        f"left_wrist_confidence: {_HELP}"
    )


def _numbers(path: Path, title: str, cells: list[str]) -> np.ndarray:
    try:
        return np.array([float(cell) if cell.strip() else np.nan for cell in cells])
    except ValueError as error:
        raise InputError(f"{path}, {title}: expected numbers ({error})") from error


TABLE: Final = Format(
    "table",
    "a table of joints from anywhere, .npz or .csv",
    lambda path, _: Conversion(read_table(path)),
    suffixes=(".npz", ".csv"),
    keys=(
        frozenset({"joints", "order", "unit"}),
        *(
            frozenset({f"{side}_{joint}_x_{unit}"})
            for side in SIDES
            for joint in MANO21
            for unit in UNITS
        ),
    ),
)
