"""A dictionary of arrays saved with `numpy.save`, as an adapter reads it."""

from pathlib import Path
from typing import Any

from fitting.errors import InputError
from mano_jax.pickles import HandFileError, read_object_array


def read_object_npy(path: Path) -> dict[str, Any]:
    """The dictionary in a `.npy` file, its arrays and those of the dictionaries in it.

    Nothing that the file names is ever called (`mano_jax.pickles`).

    Raises:
        InputError: no such file, none of this kind, or one that asks for more than arrays,
            numbers, strings and containers.
    """
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise InputError(f"{path}: expected a .npy file, found {found}")
    try:
        return read_object_array(path)
    except HandFileError as error:
        raise InputError(f"{error}; is it the format that --from names?") from error
