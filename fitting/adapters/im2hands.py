"""Im2Hands' output: a mesh a hand, and the keypoints it was made from.

A folder of

    NAME_right.obj, NAME_left.obj     vertices in millimetres, both hands in one frame
    NAME_right.ply, NAME_left.ply     21 keypoints, metres, if there

A mesh is what marching cubes make of an implicit surface: any number of vertices in any order. One
of MANO's 778 is taken for MANO's. A hand's keypoints lie within its mesh; where they do not, each
hand's were saved about an origin of its own, and they are put into it.

Sources: demo.py, eval_meshes.py, dependencies/halo of jyunlee/Im2Hands.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float

from fitting.adapters.formats import Conventions, Conversion, Format, Reading
from fitting.adapters.landmarks import UNITS
from fitting.adapters.records import files_of
from fitting.errors import InputError
from fitting.predictions import TwoHandPredictions
from mano_jax.joint_orders import FINGERS, fingertip_vertices, index, permutation
from mano_jax.model import SIDES, Hands

CONVENTIONS: Final = Conventions(
    rotations="none",
    mean="none",
    left="native",
    left_shapedirs="none",
    origin="none",
    camera="none",
    unit="mm",
    joint_order="openpose21",
    fingertips="intaghand",
    two_hands="together",
)

SUFFIXES: Final = (".obj", ".ply")

_LARGEST_FILE: Final = 256 * 2**20
_MOST_VERTICES: Final = 2_000_000
_LONGEST_HEADER: Final = 16_384

_HAND_SIZES: Final = (0.03, 0.6)
"""Metres: the diagonal of a box around a hand."""

_OUTSIDE: Final = 0.02
"""Metres: keypoints so far out of the box around their mesh are in another frame."""

_SAME_PLACE: Final = 1e-3
"""Metres: two wrists as near as this are one origin, not two hands."""


@dataclass(frozen=True)
class _Hand:
    """What the folder has of a hand, metres."""

    vertices: np.ndarray | None
    keypoints: np.ndarray | None
    """(21, 3), in the order of the file."""


def read_im2hands(path: Path, reading: Reading) -> Conversion:
    """Read a folder's hands; those of one NAME are a frame.

    Raises:
        InputError: no such folder, no file of such a name, one that cannot be read, sizes that
            are no hand's, two hands in frames that nothing relates, or no hand that is of use.
    """
    hands, notes = reading.hands, []
    files, others = _files(path)
    if others:
        notes.append(f"{len(others)} files are no NAME_right or NAME_left: {others[0]}, ...")
    frames = sorted({name for name, *_ in files})
    row = {name: i for i, name in enumerate(frames)}
    joints = np.zeros((len(frames), 2, 21, 4))
    vertices = np.full((len(frames), 2, hands.num_vertices, 3), np.nan)
    moved, useless = [], []
    order = permutation(CONVENTIONS.joint_order, "mano21")
    for name, side in sorted({(name, side) for name, side, _ in files}):
        hand = _read_hand(files.get((name, side, ".obj")), files.get((name, side, ".ply")))
        place = row[name], side
        if hand.vertices is not None and len(hand.vertices) == hands.num_vertices:
            vertices[place] = hand.vertices
        elif hand.keypoints is None:
            useless.append(f"{name}_{SIDES[side]}")
        if hand.keypoints is not None:
            shift = _into_mesh(hands, side, hand)
            if np.any(shift):
                moved.append(f"{name}_{SIDES[side]}")
            joints[place][:, :3] = hand.keypoints[order] + shift
            joints[place][:, 3] = 1.0
    meshed = np.all(np.isfinite(vertices), axis=(2, 3))
    jointed = joints[..., 0, 3] > 0
    _check_related(path, frames, joints, jointed, meshed)
    if useless:
        notes.append(
            f"{len(useless)} hands have neither MANO's vertices nor keypoints beside their mesh, "
            f"and are left out: {', '.join(useless[:3])}"
        )
    if moved:
        notes.append(
            f"keypoints of {len(moved)} hands are not where their mesh is ({', '.join(moved[:3])}"
            "...): they were moved into it, by its fingertips where it is MANO's, otherwise by "
            "the middles of their boxes, good to about a centimetre"
        )
    valid = meshed | jointed
    if not valid.any():
        raise InputError(
            f"{path}: expected meshes of {hands.num_vertices} vertices or keypoints "
            f"NAME_right.ply, NAME_left.ply beside them, found neither in {len(frames)} frames"
        )
    predictions = TwoHandPredictions(
        hand_valid=valid,
        joints_3d=joints if jointed.any() else None,
        vertices=vertices if meshed.any() else None,
        frame_id=np.array(frames, dtype=str),
    )
    return Conversion(predictions, tuple(notes))


def _files(path: Path) -> tuple[dict[tuple[str, int, str], Path], list[str]]:
    """Files by name, side (0 right, 1 left) and suffix, and the names of all others."""
    files, others = {}, []
    for file in files_of(path, SUFFIXES):
        name, _, side = file.stem.rpartition("_")
        if name and side in SIDES:
            files[name, SIDES.index(side), file.suffix.lower()] = file
        else:
            others.append(file.name)
    if not files:
        raise InputError(
            f"{path}: expected files named NAME_right or NAME_left with .obj or .ply, found "
            f"{', '.join(others[:3])}"
        )
    return files, others


def _read_hand(mesh: Path | None, keypoints: Path | None) -> _Hand:
    vertices = points = None
    if mesh is not None:
        vertices = _read_obj(mesh) * UNITS["mm"]
        _check_size(mesh, vertices, "millimetres", 1.0 / UNITS["mm"])
    if keypoints is not None:
        points = _read_ply(keypoints)
        if len(points) != 21:
            raise InputError(f"{keypoints}: expected 21 keypoints, found {len(points)}")
        _check_size(keypoints, points, "metres", 1.0)
    return _Hand(vertices, points)


def _check_size(file: Path, points: np.ndarray, unit: str, per_metre: float) -> None:
    size = float(np.linalg.norm(points.max(0) - points.min(0)))
    low, high = _HAND_SIZES
    if not low < size < high:
        raise InputError(
            f"{file}: expected a hand in {unit}, found points that extend over "
            f"{size * per_metre:.4g}; are they in another unit?"
        )


def _into_mesh(hands: Hands, side: int, hand: _Hand) -> Float[np.ndarray, "3"]:
    """What moves a hand's keypoints into its mesh; zero where they are in it."""
    if hand.vertices is None or hand.keypoints is None:
        return np.zeros(3)
    low, high = hand.vertices.min(0), hand.vertices.max(0)
    points_low, points_high = hand.keypoints.min(0), hand.keypoints.max(0)
    if np.all(points_low > low - _OUTSIDE) and np.all(points_high < high + _OUTSIDE):
        return np.zeros(3)
    if len(hand.vertices) == hands.num_vertices:
        tips = [index(f"{finger}_tip", CONVENTIONS.joint_order) for finger in FINGERS]
        on_skin = hand.vertices[fingertip_vertices(CONVENTIONS.fingertips)[side]]
        return (on_skin - hand.keypoints[tips]).mean(0)
    return (low + high - points_low - points_high) / 2


def _check_related(
    path: Path, frames: list[str], joints: np.ndarray, jointed: np.ndarray, meshed: np.ndarray
) -> None:
    """Two hands without meshes must not have come each about its own wrist."""
    wrists = joints[:, :, 0, :3]
    same = np.linalg.norm(wrists[:, 1] - wrists[:, 0], axis=-1) < _SAME_PLACE
    bad = same & jointed.all(1) & ~meshed.all(1)
    if np.any(bad):
        raise InputError(
            f"{path}: {frames[int(np.argmax(bad))]}: both wrists are at one point, so each hand's "
            "keypoints are about their own wrist and nothing relates the two; put their meshes "
            "(.obj) beside them"
        )


# ---- meshes


def _content(file: Path) -> bytes:
    size = file.stat().st_size
    if size > _LARGEST_FILE:
        raise InputError(f"{file}: has {size} bytes, where at most {_LARGEST_FILE} are read")
    return file.read_bytes()


def _read_obj(file: Path) -> Float[np.ndarray, "V 3"]:
    """The vertices of an .obj file; all else in it is passed over."""
    lines = re.findall(rb"^[ \t]*v[ \t]+([^\r\n]*)", _content(file), re.MULTILINE)
    if not 0 < len(lines) <= _MOST_VERTICES:
        raise InputError(
            f"{file}: expected lines `v x y z`, {_MOST_VERTICES} at most, found {len(lines)}; is "
            "it an .obj file?"
        )
    try:
        # A fourth number, or a colour, may follow.
        points = _numbers(line.split()[:3] for line in lines)
    except ValueError as error:
        raise InputError(f"{file}: expected lines `v x y z` of numbers ({error})") from error
    return _finite(file, points)


_PLY_TYPES: Final = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
_PLY_FORMATS: Final = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}


def _read_ply(file: Path) -> Float[np.ndarray, "V 3"]:
    """The vertices of a .ply file, its first element."""
    content = _content(file)
    head, end, body = content[:_LONGEST_HEADER].partition(b"end_header")
    body = content[len(head) + len(end) :]
    newline = body.find(b"\n")
    if not content.startswith(b"ply") or not end or newline < 0:
        raise InputError(f"{file}: expected a .ply file, found no header of one; is it truncated?")
    order, count, columns = _ply_header(file, head)
    names = [name for name, _ in columns]
    body = body[newline + 1 :]
    if order:
        dtype = np.dtype([(f"{i}", order + kind) for i, (_, kind) in enumerate(columns)])
        if len(body) < count * dtype.itemsize:
            raise InputError(
                f"{file}: expected {count * dtype.itemsize} bytes of vertices, found {len(body)}; "
                "is it truncated?"
            )
        table = np.frombuffer(body, dtype, count)
        points = np.stack([table[f"{names.index(axis)}"] for axis in "xyz"], axis=-1)
        return _finite(file, points.astype(np.float64))
    lines = body.split(b"\n", count)[:count]
    try:
        table = _numbers(line.split()[: len(columns) + 1] for line in lines)
    except ValueError as error:
        raise InputError(
            f"{file}: expected {count} lines of {len(columns)} numbers ({error}); is it truncated?"
        ) from error
    if table.shape != (count, len(columns)):
        raise InputError(
            f"{file}: expected {count} lines of {len(columns)} numbers, found {table.shape}; is it "
            "truncated?"
        )
    return _finite(file, table[:, [names.index(axis) for axis in "xyz"]])


def _ply_header(file: Path, head: bytes) -> tuple[str, int, list[tuple[str, str]]]:
    """Byte order ("" for text), number of vertices, and their properties' names and types."""
    order, count, columns, elements = None, 0, [], 0
    for line in head.decode("ascii", "replace").splitlines()[1:]:
        match line.split():
            case ["format", kind, "1.0"] if kind in _PLY_FORMATS:
                order = _PLY_FORMATS[kind]
            case ["element", "vertex", number] if elements == 0 and re.fullmatch(
                r"\d{1,7}", number
            ):
                count, elements = int(number), 1
            case ["element", *_] if elements:
                elements += 1
            case ["property", kind, name] if elements == 1 and kind in _PLY_TYPES:
                columns.append((name, _PLY_TYPES[kind]))
            case ["comment" | "obj_info", *_] | []:
                pass
            case ["property", *_] if elements > 1:
                pass
            case _:
                raise InputError(
                    f"{file}: expected vertices with numbers x, y, z as the first element of a "
                    f".ply file, found {line[:60]!r}"
                )
    names = [name for name, _ in columns]
    if order is None or not 0 < count <= _MOST_VERTICES or any(names.count(a) != 1 for a in "xyz"):
        raise InputError(
            f"{file}: expected a format, and vertices with x, y and z; found {count} vertices with "
            f"{', '.join(names) or 'nothing'}"
        )
    return order, count, columns


def _numbers(lines: Iterable[list[bytes]]) -> np.ndarray:
    """Numbers of words; ValueError where one is none, or lines differ in length."""
    return np.array([[float(word) for word in line] for line in lines], np.float64)


def _finite(file: Path, points: np.ndarray) -> np.ndarray:
    if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
        raise InputError(f"{file}: expected finite x, y and z of every vertex")
    return points


IM2HANDS: Final = Format(
    "im2hands",
    "Im2Hands' meshes and keypoints",
    read_im2hands,
    suffixes=SUFFIXES,
    names=("*_right.obj", "*_left.obj"),
    conventions=CONVENTIONS,
)
