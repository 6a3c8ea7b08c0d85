"""Hand models written in MANO's official file layout, for other programs to read.

    MANO_RIGHT.pkl, MANO_LEFT.pkl   thirteen keys, pickle protocol 2, as the official files but for
                                    `shapedirs`, which is a plain array: nobody needs chumpy
    MANO_RIGHT.npz, MANO_LEFT.npz   the same names, all dense

The pickles name the same modules as the official ones (`numpy.core.multiarray`,
`scipy.sparse.csc`) and hold their strings as Python 2 did, so old and new readers open them, with
`encoding="latin1"` as always. Python's own pickler would name the modules of the NumPy and SciPy
that run it, so the few instructions needed are written here.
"""

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from scipy.sparse import csc_matrix

from mano_jax.files import why_unwritable, write_whole
from mano_jax.kinematics import PARENTS
from mano_jax.model import HandModel
from mano_jax.pickles import HandFileError


def export_hands(
    right: HandModel,
    left: HandModel,
    folder: str | os.PathLike[str],
    *,
    overwrite: bool = False,
) -> list[Path]:
    """Write both hands as MANO_RIGHT and MANO_LEFT, each as .pkl and .npz.

    Every array is written in full float64 precision. The left hand's shape blend shapes are
    written correctly mirrored, unlike in the official file.

    Args:
        right: the right hand.
        left: the left hand.
        folder: where to; made if need be.
        overwrite: whether files of these names may be replaced.

    Returns:
        The four files.

    Raises:
        HandFileError: a hand is of the wrong side, a file exists and `overwrite` is False, or
            the folder cannot be written to.
    """
    folder = Path(folder).expanduser()
    contents: dict[Path, tuple[Callable[[dict[str, Any], BinaryIO], None], dict[str, Any]]] = {}
    for model, side in ((right, "right"), (left, "left")):
        if model.side != side:
            raise HandFileError(f"expected a {side} hand to export, found a {model.side} one")
        entries = official_entries(model)
        contents[folder / f"MANO_{side.upper()}.pkl"] = (_write_pickle, entries)
        contents[folder / f"MANO_{side.upper()}.npz"] = (_write_npz, entries)
    existing = [str(path) for path in contents if path.exists()]
    if existing and not overwrite:
        raise HandFileError(
            f"{', '.join(existing)} would be overwritten; name another folder, or add --force "
            "(overwrite=True in Python)"
        )
    if reason := why_unwritable(folder):
        raise HandFileError(f"{folder}: {reason}; name another folder")
    for path, (write, entries) in contents.items():
        write_whole(path, partial(write, entries))
    return list(contents)


def official_entries(model: HandModel) -> dict[str, Any]:
    """The thirteen entries of an official file; `J_regressor` is sparse, the rest is dense."""
    parents = np.array(PARENTS, np.int64)
    # The official files' sentinel: -1 as it comes out of an unsigned 32-bit integer.
    parents[0] = 2**32 - 1
    return {
        "hands_components": model.pose_components,
        "f": model.faces.astype(np.uint32),
        "J_regressor": csc_matrix(model.J_regressor),
        "kintree_table": np.stack([parents, np.arange(16)]),
        "J": model.J_regressor @ model.v_template,
        "hands_coeffs": _coefficients(model),
        "weights": model.lbs_weights,
        "posedirs": model.posedirs,
        "hands_mean": model.pose_mean,
        "v_template": model.v_template,
        "shapedirs": model.shapedirs,
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }


def _coefficients(model: HandModel) -> np.ndarray:
    """Pose samples as the file holds them: coefficients of the components, about the mean."""
    if model.pose_samples is None:
        return np.zeros((0, 45))
    offsets = model.pose_samples - model.pose_mean
    # Least squares: fewer than 45 independent components still have coefficients.
    return np.linalg.lstsq(model.pose_components.T, offsets.T, rcond=None)[0].T


def _write_npz(entries: dict[str, Any], file: BinaryIO) -> None:
    dense: dict[str, Any] = {
        key: value.toarray() if isinstance(value, csc_matrix) else np.asarray(value)
        for key, value in entries.items()
    }
    np.savez_compressed(file, **dense)


@dataclass(frozen=True)
class _Global:
    """A class or function by the name under which a pickle asks for it."""

    module: str
    name: str


@dataclass(frozen=True)
class _Call:
    """An object made by a call (of a class's `__new__` where `new`), then given a state."""

    function: _Global
    arguments: tuple[Any, ...]
    state: Any
    new: bool = False


_RECONSTRUCT: Final = _Global("numpy.core.multiarray", "_reconstruct")
_NDARRAY: Final = _Global("numpy", "ndarray")
_DTYPE: Final = _Global("numpy", "dtype")
_CSC: Final = _Global("scipy.sparse.csc", "csc_matrix")


def _write_pickle(entries: dict[str, Any], file: BinaryIO) -> None:
    file.write(b"\x80\x02" + _pickled(entries) + b".")


def _pickled(value: Any) -> bytes:
    """Protocol 2 instructions that push a value."""
    match value:
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            return b"J" + struct.pack("<i", value)
        case str():
            return _pickled(value.encode("ascii"))
        case bytes() if len(value) < 256:
            return b"U" + struct.pack("<B", len(value)) + value
        case bytes():
            return b"T" + struct.pack("<i", len(value)) + value
        case tuple():
            return b"(" + b"".join(_pickled(item) for item in value) + b"t"
        case dict():
            items = b"".join(_pickled(part) for item in value.items() for part in item)
            return b"}(" + items + b"u"
        case _Global():
            return b"c" + f"{value.module}\n{value.name}\n".encode("ascii")
        case _Call():
            make = _pickled(value.function) + _pickled(value.arguments)
            return make + (b"\x81" if value.new else b"R") + _pickled(value.state) + b"b"
        case np.ndarray():
            return _pickled(_array_call(value))
        case csc_matrix():
            return _pickled(_sparse_call(value))
    raise TypeError(f"expected arrays, strings and numbers, found {type(value).__name__}")


def _array_call(array: np.ndarray) -> _Call:
    """An array as NumPy has pickled it since Python 2."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    # True booleans: NumPy 2.4 warns about the 0 and 1 of old files.
    dtype = _Call(
        _DTYPE,
        (f"{little.dtype.kind}{little.dtype.itemsize}", False, True),
        (3, "<", None, None, None, -1, -1, 0),
    )
    return _Call(
        _RECONSTRUCT,
        (_NDARRAY, (0,), "b"),
        (1, little.shape, dtype, False, little.tobytes()),
    )


def _sparse_call(matrix: csc_matrix) -> _Call:
    state = {
        "_shape": tuple(int(size) for size in matrix.get_shape()),
        "maxprint": 50,
        "data": matrix.data,
        "indices": matrix.indices.astype(np.int32),
        "indptr": matrix.indptr.astype(np.int32),
    }
    return _Call(_CSC, (), state, new=True)
