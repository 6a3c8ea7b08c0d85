"""Frames to be refined, read a chunk at a time: memory does not grow with their number.

A source is a set of columns, one for each canonical name, that are sliced along the frames: members
of an `.npz` file, arrays of a Zarr group, or arrays in memory. Rows that cannot be read become
frames without a hand, with the reason; what concerns the whole file is an error.
"""

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import zarr

from fitting.canonical import CanonicalFileError, check_names, predictions_from_arrays, read_arrays
from fitting.errors import InputError
from fitting.predictions import FIELD_NAMES, TwoHandPredictions
from fitting.zarr_files import as_numpy, open_arrays
from mano_jax.files import UNREADABLE_ARCHIVE

_BLOCK: Final = 1 << 22
"""Bytes that a fingerprint reads at a time."""


@runtime_checkable
class Column(Protocol):
    """An array that can be cut along its first axis."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The whole array's."""
        ...

    @property
    def dtype(self) -> Any:
        """Its type."""
        ...

    def __getitem__(self, rows: slice, /) -> Any:
        """Some of its rows."""
        ...


@dataclass(frozen=True)
class Chunk:
    """Some frames of a source, in their order."""

    number: int
    """Which chunk it is."""
    predictions: TwoHandPredictions
    """The frames; one that could not be read has no hand."""
    unreadable: np.ndarray
    """Why a frame could not be read; "" where it could."""


@dataclass(frozen=True)
class FrameSource:
    """Frames that are read a chunk at a time."""

    where: str
    """The file, to be named in errors."""
    columns: Mapping[str, Column]
    """The canonical names that the file has."""
    fingerprint: str
    """Of the content: a file with the same one holds the same frames."""
    check_unchanged: Callable[[], None]
    """Raises where the file is no longer what it was when it was opened."""
    first: int = 0
    """Frames before this one are left out."""
    end: int | None = None
    """So are those from here on."""

    @property
    def rows(self) -> range:
        """The file's frames that are taken."""
        return range(self.columns["hand_valid"].shape[0])[self.first : self.end]

    @property
    def num_frames(self) -> int:
        """How many."""
        return len(self.rows)

    @property
    def frame_bytes(self) -> int:
        """How much a frame takes in memory."""
        return sum(
            int(np.prod(column.shape[1:], dtype=np.int64)) * max(4, np.dtype(column.dtype).itemsize)
            for column in self.columns.values()
        )

    def chunk(self, number: int, size: int) -> Chunk:
        """The frames from `number * size` on, `size` of them or what is left.

        Raises:
            InputError: the file has vanished, was changed, or contradicts itself.
        """
        rows = self.rows[number * size : (number + 1) * size]
        unreadable = np.full(len(rows), "", dtype=object)
        arrays = {}
        try:
            for name, column in self.columns.items():
                arrays[name] = _read_rows(name, column, rows, unreadable)
        except UNREADABLE_ARCHIVE as error:
            self.check_unchanged()
            raise InputError(f"{self.where}: cannot be read ({error})") from error
        self.check_unchanged()
        lost = unreadable != ""
        arrays["hand_valid"] = arrays["hand_valid"].copy()
        arrays["hand_valid"][lost] = False
        try:
            predictions = predictions_from_arrays(arrays)
        except InputError as error:
            raise InputError(f"{self.where}: {error}") from error
        return Chunk(number, predictions, unreadable.astype(str))


def open_source(path: Path, *, frames: slice = slice(None)) -> FrameSource:
    """A canonical `.npz` file or Zarr group, to be read a chunk at a time.

    Raises:
        InputError: it is missing, damaged or unfinished, has unknown names, or arrays of different
            lengths, or none of the frames asked for.
    """
    if path.is_dir():
        there = open_arrays(path)
        columns = _chosen(path, there)
        return _checked(path, columns, _files_fingerprint(path), _still_there(path, there), frames)
    if not path.exists():
        raise CanonicalFileError(f"{path}: no such file")
    if not zipfile.is_zipfile(path):
        raise CanonicalFileError(
            f"{path}: expected an .npz file (a zip archive of arrays) or a Zarr group, found "
            "something else or a damaged one; write it again, or name its format with --from"
        )
    state = _state(path)

    def check_unchanged() -> None:
        if not path.exists():
            raise InputError(f"{path}: has vanished while it was read; put it back")
        if _state(path) != state:
            raise InputError(f"{path}: was changed while it was read; begin again with --restart")

    fingerprint = _archive_fingerprint(path)
    columns = _chosen(path, _npz_columns(path))
    return _checked(path, columns, fingerprint, check_unchanged, frames)


def memory_source(
    predictions: TwoHandPredictions, where: str, *, frames: slice = slice(None)
) -> FrameSource:
    """Frames that are in memory already.

    Raises:
        InputError: none of the frames asked for are there.
    """
    digest = hashlib.sha256()
    for name, array in sorted(predictions.arrays().items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return _checked(Path(where), predictions.arrays(), digest.hexdigest(), lambda: None, frames)


class _Member:
    """An array of an `.npz` file, read forward as its rows are asked for."""

    def __init__(self, archive: zipfile.ZipFile, member: str):
        self._stream = archive.open(member)
        version = np.lib.format.read_magic(self._stream)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        self.shape, self.fortran, self.dtype = read_header(self._stream)
        self._data = self._stream.tell()
        self._row = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize

    def __getitem__(self, rows: slice) -> np.ndarray:
        first, last, _ = rows.indices(self.shape[0])
        # Forward only in an unbroken run; a compressed member is read over where chunks are done.
        self._stream.seek(self._data + first * self._row)
        content = self._stream.read((last - first) * self._row)
        array = np.frombuffer(content, self.dtype)
        return array.reshape(last - first, *self.shape[1:])


def _npz_columns(path: Path) -> Mapping[str, Any]:
    try:
        # Open as long as its members are in use: a file that is replaced meanwhile is noticed, and
        # never mixed with the new one.
        archive = zipfile.ZipFile(path)
        columns = {
            info.filename.removesuffix(".npy"): _Member(archive, info.filename)
            for info in archive.infolist()
        }
    except UNREADABLE_ARCHIVE as error:
        raise CanonicalFileError(f"{path}: cannot be read ({error}); write it again") from error
    rows_apart = [not c.fortran or len(c.shape) < 2 for c in columns.values()]
    plain = [not c.dtype.hasobject and len(c.shape) > 0 for c in columns.values()]
    if all(rows_apart) and all(plain):
        return dict(columns)
    # Column-major arrays have no rows to be read, and scalars are no column: small files.
    return {name: array for name, array in read_arrays(path).items() if array.ndim > 0}


def _chosen(path: Path, columns: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of an input, those of a result left out."""
    try:
        check_names(columns)
    except InputError as error:
        raise CanonicalFileError(f"{path}: {error}") from error
    kept = {name: columns[name] for name in FIELD_NAMES if name in columns}
    if "status" in columns:  # In a result `vertices` means the fitted mesh, which is no target.
        kept.pop("vertices", None)
    return kept


def _checked(
    path: Path,
    columns: Mapping[str, Any],
    fingerprint: str,
    check_unchanged: Callable[[], None],
    frames: slice,
) -> FrameSource:
    """A source whose columns have the same number of frames, of which some are asked for."""
    total = columns["hand_valid"].shape[0]
    for name, column in columns.items():
        if column.shape[0] != total:
            raise InputError(
                f"{path}: {name}: expected {total} frames as in hand_valid, found "
                f"{column.shape[0]}; every array must describe the same ones"
            )
    source = FrameSource(
        str(path), columns, fingerprint, check_unchanged, frames.start or 0, frames.stop
    )
    if source.num_frames == 0:
        raise InputError(f"{path}: the file's {total} frames have none in the range asked for")
    return source


def _read_rows(name: str, column: Column, rows: range, unreadable: np.ndarray) -> np.ndarray:
    """Rows of a column; those of a damaged part of a Zarr array are told in `unreadable`."""
    if not isinstance(column, zarr.Array):
        return np.asarray(column[rows.start : rows.stop])
    try:
        return as_numpy(column[rows.start : rows.stop])
    # A damaged chunk raises whatever its codec raises; the others are read one by one.
    except Exception:
        parts = list(_parts(name, column, rows, unreadable))
        return np.concatenate(parts)


def _parts(
    name: str, column: zarr.Array, rows: range, unreadable: np.ndarray
) -> Iterator[np.ndarray]:
    length, first = column.chunks[0], rows.start
    while first < rows.stop:
        last = min(rows.stop, (first // length + 1) * length)
        try:
            yield as_numpy(column[first:last])
        except Exception as error:
            # Nothing is known of these frames: NaN where the type has one, else zeros or "".
            dtype = np.dtype(column.dtype)
            text = dtype.kind in "TO"
            missing = np.zeros((last - first, *column.shape[1:]), "U1" if text else dtype)
            yield missing + np.array(np.nan, dtype) if dtype.kind == "f" else missing
            reason = f"{name} cannot be read, its chunk is damaged ({type(error).__name__})"
            here = unreadable[first - rows.start : last - rows.start]
            here[here == ""] = reason
        first = last


def _state(path: Path) -> tuple[int, ...]:
    found = os.stat(path)
    return found.st_ino, found.st_size, found.st_mtime_ns


def _still_there(path: Path, arrays: Mapping[str, Any]) -> Callable[[], None]:
    """Zarr takes a chunk that is gone for one that was never written, so the rest is looked for."""

    def check() -> None:
        if not all((path / name).is_dir() for name in arrays):
            raise InputError(f"{path}: has vanished while it was read; put it back")

    return check


def _archive_fingerprint(path: Path) -> str:
    """Of an archive's table of contents, which has a checksum of every member; they are checked.

    Raises:
        CanonicalFileError: a member is not what its checksum says.
    """
    digest = hashlib.sha256()
    with zipfile.ZipFile(path) as archive:
        for member in sorted(archive.infolist(), key=lambda m: m.filename):
            digest.update(f"{member.filename} {member.file_size} {member.CRC}".encode())
            try:
                with archive.open(member) as stream:
                    while stream.read(_BLOCK):
                        pass
            except UNREADABLE_ARCHIVE as error:
                name = member.filename.removesuffix(".npy")
                raise CanonicalFileError(
                    f"{path}: {name!r} is damaged ({error}); write the file again"
                ) from error
    return digest.hexdigest()


def _files_fingerprint(folder: Path) -> str:
    """Of the names and contents of all files of a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder)} {path.stat().st_size}".encode())
            with path.open("rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
    return digest.hexdigest()
