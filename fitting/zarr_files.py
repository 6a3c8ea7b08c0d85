"""Zarr groups under canonical names: read lazily or whole. `fitting.store` writes them."""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import zarr

from fitting.errors import InputError

CHUNK_DONE: Final = "chunk_done"
"""Array of a result in which a chunk of frames is marked, once all of it is on the disk."""


def is_zarr(path: Path) -> bool:
    """Whether a path is a folder that holds a Zarr group, of format 3 or 2."""
    return (path / "zarr.json").is_file() or (path / ".zgroup").is_file()


def open_arrays(path: Path) -> dict[str, zarr.Array]:
    """The arrays of a group by name; nothing is read yet. A result must be a finished one.

    Raises:
        InputError: no group, a damaged one, or a result with chunks to come.
    """
    if not is_zarr(path):
        raise InputError(f"{path}: expected a Zarr group, found a folder without zarr.json")
    try:
        group = zarr.open_group(path, mode="r")
        arrays = {name: array for name, array in group.arrays() if array.ndim > 0}
    except (ValueError, KeyError, OSError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); write it again") from error
    if CHUNK_DONE in arrays:
        done = np.asarray(arrays.pop(CHUNK_DONE)[:], bool)
        if not done.all():
            raise InputError(
                f"{path}: an unfinished result, {int(done.sum())} of {len(done)} chunks are done; "
                "finish it with the command that began it"
            )
    return arrays


def as_numpy(values: Any) -> np.ndarray:
    """What a Zarr array gives, with strings as NumPy's fixed-width ones."""
    array = np.asarray(values)
    return np.array(array.tolist(), str) if array.dtype.kind in "TO" else array


def read_zarr_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array of a group, whole.

    Raises:
        InputError: see `open_arrays`; or an array is damaged.
    """
    found = {}
    for name, array in open_arrays(path).items():
        try:
            found[name] = as_numpy(array[:])
        # A damaged chunk raises whatever its codec raises.
        except Exception as error:
            raise InputError(f"{path}: {name!r} is damaged ({error}); write it again") from error
    for name, text in open_result_texts(path).items():
        found[name] = np.array(text)
    return found


def open_result_texts(path: Path) -> dict[str, str]:
    """What a result says of itself in attributes, as an `.npz` result has it in arrays."""
    attributes = zarr.open_group(path, mode="r").attrs
    texts = {name: attributes[name] for name in ("strategy", "provenance") if name in attributes}
    return {n: t if isinstance(t, str) else json.dumps(t, sort_keys=True) for n, t in texts.items()}
