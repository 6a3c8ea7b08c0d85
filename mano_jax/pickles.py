"""Pickled hand files, read without running them.

What a class of `ADMITTED` means is written out by hand, as values:

    numpy arrays             dtype, shape and bytes; numbers only, no object arrays
    chumpy.ch.Ch             its array, state["x"]
    chumpy.reordering.Select ravel(a)[idxs].reshape(preferred_shape)
    scipy csc_matrix         the dense array

Whatever else a file names is refused with its name (`mano_jax.pickle_machine`).
"""

import math
from pathlib import Path
from typing import Any, Final

import numpy as np

from mano_jax.byte_source import ByteSource, DamagedError
from mano_jax.errors import UserError
from mano_jax.pickle_arrays import NUMPY_NAMES, ArrayMachine
from mano_jax.pickle_machine import ForbiddenError, Name, Part, Unfinished, kind_of

ADMITTED: Final[dict[tuple[str, str], str]] = {
    # The seven of the official files, pickled by Python 2.
    ("numpy.core.multiarray", "_reconstruct"): "reconstruct",
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("__builtin__", "set"): "set",
    ("chumpy.ch", "Ch"): "Ch",
    ("chumpy.reordering", "Select"): "Select",
    ("scipy.sparse.csc", "csc_matrix"): "csc_matrix",
    # How arrays and sets are written since.
    **NUMPY_NAMES,
    ("scipy.sparse._csc", "csc_matrix"): "csc_matrix",
}
"""Every name a hand file may mention, and what it is taken for."""

# A MANO hand's largest array has 0.3 million entries.
_LARGEST_ARRAY: Final = 2**26


class HandFileError(UserError):
    """A hand file that cannot be used; the message names file, key, expected, found, remedy."""


class PickleRefusedError(HandFileError):
    """A pickle that asks for more than a MANO file needs."""


def read_pickle(path: Path) -> dict[str, Any]:
    """The dictionary in a pickled hand file: arrays, strings and numbers.

    Raises:
        PickleRefusedError: the file names a class that is not in `ADMITTED`, or misuses one.
        HandFileError: the file is truncated, corrupt, or holds no dictionary.
    """
    size = path.stat().st_size
    if not size:
        raise HandFileError(f"{path} is empty; expected a MANO pickle")
    try:
        with path.open("rb") as file:
            value = _HandMachine().run(ByteSource(file, size))
    except ForbiddenError as error:
        raise PickleRefusedError(
            f"{path}: refused {error.what}: {error.why or 'a MANO file needs none'}, and a pickle "
            "may run any code. Take the file from its source (https://mano.is.tue.mpg.de), or have "
            "whoever wrote it save plain arrays as .npz"
        ) from error
    except DamagedError as error:
        raise HandFileError(
            f"{path} is no readable pickle: truncated or corrupt ({error}); copy it again, and "
            "compare its size with the original's"
        ) from error
    if not isinstance(value, dict):
        raise HandFileError(
            f"{path}: expected a dictionary of arrays, found {kind_of(value)}; is it a MANO file?"
        )
    return {key: _finished(entry, path) for key, entry in value.items() if isinstance(key, str)}


class _Record(Part):
    """An object of one of the three classes that are more than an array: its attributes."""

    __slots__ = ()


class _HandMachine(ArrayMachine):
    """The stack machine for hand files."""

    names = ADMITTED
    expected = "a MANO file"

    def new_object(self, name: Any, arguments: Any) -> Any:
        is_record = isinstance(name, Name) and name.meaning in ("Ch", "Select", "csc_matrix")
        if not is_record or arguments != ():
            return super().new_object(name, arguments)
        return _Record(name.meaning, {})

    def build(self, target: Any, state: Any) -> Any:
        if isinstance(target, _Record) and isinstance(state, dict):
            target.value.update(state)
            return target
        return super().build(target, state)

    def shape(self, shape: Any) -> tuple[int, ...]:
        return _checked_shape(super().shape(shape))


def _checked_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    if any(type(n) is not int or n < 0 for n in shape):
        raise ValueError("a shape that is no tuple of sizes")
    if len(shape) > 8 or math.prod(shape) > _LARGEST_ARRAY:
        raise ValueError(f"an array of shape {shape}, too large for a hand")
    return shape


def _finished(value: Any, path: Path) -> Any:
    """An entry of the dictionary as the rest of the program sees it."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if not isinstance(value, Unfinished | _Record):
        return value
    try:
        return _dense(value)
    except (ValueError, LookupError, TypeError) as error:
        raise HandFileError(
            f"{path} is no readable pickle: a {kind_of(value)} is incomplete or corrupt ({error})"
        ) from error


def _dense(value: Any) -> np.ndarray:
    """The array that a chumpy object or a sparse matrix stands for."""
    if not isinstance(value, _Record):
        raise TypeError(f"expected an array, found {kind_of(value)}")
    state = value.value
    if value.meaning == "Ch":
        return _plain(state["x"]).copy()
    if value.meaning == "Select":
        source = state["a"]
        # One level: a Select of a Select would be no MANO file, and could be a cycle.
        is_chumpy = isinstance(source, _Record) and source.meaning == "Ch"
        whole = _dense(source) if is_chumpy else _plain(source)
        chosen = whole.ravel()[_plain(state["idxs"])]
        return chosen.reshape(_checked_shape(_sizes(state["preferred_shape"])))
    return _dense_columns(state)


def _dense_columns(state: dict[str, Any]) -> np.ndarray:
    """A compressed-sparse-column matrix, written out."""
    shape = _checked_shape(_sizes(state["_shape"]))
    data, rows = _plain(state["data"]), _plain(state["indices"])
    starts = _plain(state["indptr"]).astype(np.int64)
    if len(shape) != 2 or starts.shape != (shape[1] + 1,) or data.shape != rows.shape:
        raise ValueError("a sparse matrix whose parts do not fit together")
    counts = np.diff(starts)
    if starts[0] != 0 or starts[-1] != len(data) or np.any(counts < 0) or np.any(rows < 0):
        raise ValueError("a sparse matrix whose columns do not fit its data")
    dense = np.zeros(shape)
    # Repeated entries add up, as in SciPy.
    np.add.at(dense, (rows, np.repeat(np.arange(shape[1]), counts)), data)
    return dense


def _plain(value: Any) -> np.ndarray:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"expected an array, found {kind_of(value)}")
    return value


def _sizes(value: Any) -> tuple[int, ...]:
    if isinstance(value, np.ndarray):
        return tuple(int(n) for n in value.ravel())
    if not isinstance(value, tuple | list):
        raise TypeError(f"expected a shape, found {kind_of(value)}")
    return tuple(value)
