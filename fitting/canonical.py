"""The canonical file, `.npz` or Zarr: predictions on the way in, results on the way out.

One set of names serves both, so a result can be read as an input again. `FIELD_NAMES` of
`fitting.predictions` are what an input says; the names below belong to results and are accepted
and ignored. `vertices` is both: a mesh target in an input, and the fitted mesh in a result, which
is recognised by its `status`.
"""

import os
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.lib.npyio import NpzFile

from fitting.errors import InputError
from fitting.predictions import FIELD_NAMES, TwoHandPredictions
from fitting.zarr_files import is_zarr, read_zarr_arrays
from mano_jax.files import UNREADABLE_ARCHIVE, why_unwritable, write_whole

RESULT_NAMES: Final = (
    "transl",
    "status",
    "status_names",
    "reason",
    "energy_before",
    "energy_after",
    "energy_terms",
    "fit_error_before",
    "fit_error_after",
    "fit_error_names",
    "strategy",
    "provenance",
    "joints",
    "std_global_orient",
    "std_hand_pose",
    "std_betas",
    "std_relative_transl",
    "std_root_transl",
    "std_weak_camera",
    "std_joints",
    "std_joints_local",
)
"""Names that only a result has."""


class CanonicalFileError(InputError):
    """A canonical file that cannot be read, or arrays that make none; the message names it."""


def read_predictions(path: str | os.PathLike[str]) -> TwoHandPredictions:
    """Read a canonical `.npz` file; what only a result holds is ignored.

    Raises:
        CanonicalFileError: the file is missing or damaged, an array has an unknown name, a wrong
            shape or a wrong type, or there are no frames.
    """
    arrays = read_arrays(path)
    try:
        predictions = predictions_from_arrays(arrays)
    except InputError as error:
        raise CanonicalFileError(f"{path}: {error}") from error
    if predictions.num_frames == 0:
        raise CanonicalFileError(f"{path}: expected at least one frame, found none")
    return predictions


def predictions_from_arrays(arrays: Mapping[str, np.ndarray]) -> TwoHandPredictions:
    """Predictions from arrays under canonical names, from whatever store they came.

    Raises:
        InputError: an unknown name, no `hand_valid`, or an array of the wrong shape or type.
    """
    check_names(arrays)
    used = {name: arrays[name] for name in FIELD_NAMES if name in arrays}
    if "status" in arrays:
        used.pop("vertices", None)
    return TwoHandPredictions(**used)


def check_names(names: Collection[str]) -> None:
    """Find out whether a file's arrays have canonical names.

    Raises:
        InputError: an unknown name, or no `hand_valid`.
    """
    known = (*FIELD_NAMES, *RESULT_NAMES)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(
            f"unknown array {', '.join(map(repr, unknown))}; known: {', '.join(known)}. "
            "Rename or remove it"
        )
    if "hand_valid" not in names:
        raise InputError(
            "no hand_valid (N, 2), which says for each frame whether it has a right and a left "
            f"hand; found {', '.join(names) or 'nothing'}. Add it"
        )


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Every array of an `.npz` file or a Zarr group, by name. Nothing in it is ever unpickled.

    Raises:
        CanonicalFileError: the file is missing, damaged, no `.npz`, or holds Python objects.
    """
    path = Path(path)
    if is_zarr(path):
        return read_zarr_arrays(path)
    if path.is_dir():
        raise CanonicalFileError(
            f"{path}: expected an .npz file or a Zarr group, found a folder of something else"
        )
    if not path.exists():
        raise CanonicalFileError(f"{path}: no such file")
    if not zipfile.is_zipfile(path):
        raise CanonicalFileError(
            f"{path}: expected an .npz file (a zip archive of arrays), found something else or a "
            "damaged one; write it with numpy.savez, or name its format with --from"
        )
    arrays = {}
    try:
        # Opened here: NumPy leaves a damaged archive's file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            for name in archive.files:
                arrays[name] = _read_array(path, archive, name)
    except CanonicalFileError:
        raise
    except UNREADABLE_ARCHIVE as error:
        raise CanonicalFileError(f"{path}: cannot be read ({error}); write it again") from error
    return arrays


def _read_array(path: Path, archive: NpzFile, name: str) -> np.ndarray:
    try:
        array = archive[name]
    except UNREADABLE_ARCHIVE as error:
        if "pickle" in str(error):
            raise CanonicalFileError(
                f"{path}: {name!r} holds Python objects, which are never loaded because a pickle "
                "can run code; save it as a plain numeric or string array (no None, no ragged "
                "lists)"
            ) from error
        raise CanonicalFileError(
            f"{path}: {name!r} is damaged ({error}); write the file again"
        ) from error
    if not isinstance(array, np.ndarray):
        raise CanonicalFileError(f"{path}: {name!r} is no array; write the file with numpy.savez")
    return array


def write_arrays(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray],
    *,
    overwrite: bool = False,
) -> None:
    """Write an `.npz` file whole or not at all.

    A reader never sees half a file, and an interruption leaves an earlier one as it was.

    Args:
        path: where; its folder is made if need be.
        arrays: what, by canonical names.
        overwrite: replace a file that is there.

    Raises:
        InputError: the target is none, see `check_target`.
        CanonicalFileError: an array holds Python objects.
    """
    path = Path(path)
    check_target(path, (".npz",), overwrite=overwrite)
    for name, array in arrays.items():
        if np.asarray(array).dtype.hasobject:
            raise CanonicalFileError(
                f"{path}: {name!r} holds Python objects; expected a plain array"
            )
    write_whole(path, lambda file: np.savez(file, allow_pickle=False, **arrays))


def write_predictions(
    path: str | os.PathLike[str], predictions: TwoHandPredictions, *, overwrite: bool = False
) -> None:
    """Write predictions as a canonical file that `read_predictions` gives back unchanged.

    Raises:
        InputError: as for `write_arrays`.
    """
    write_arrays(path, predictions.arrays(), overwrite=overwrite)


def check_target(path: Path, suffixes: Sequence[str], *, overwrite: bool) -> None:
    """Find out whether a file can be written: before the work that makes it, and on writing.

    Args:
        path: the file; it and its folder need not exist, and nothing is made here.
        suffixes: the endings that its name may have.
        overwrite: whether a file that is there may be replaced.

    Raises:
        InputError: another ending, a folder of that name, a file that is there and may not be
            replaced, or a folder that cannot be made or written to.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a file")
    if path.suffix not in suffixes:
        raise InputError(f"{path}: expected a name that ends in {' or '.join(suffixes)}")
    if path.exists() and not overwrite:
        raise InputError(
            f"{path}: exists already; name another file, or add --force (overwrite=True in Python)"
        )
    if reason := why_unwritable(path.parent):
        raise InputError(f"{path}: cannot be written, {reason}; name another file")
