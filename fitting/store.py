"""A result of any length as a Zarr group, safe to kill at any moment.

    RESULT.zarr/
        zarr.json       attributes: strategy (TOML), provenance, identity
        NAME/c.I.0.0    chunk I of every array, uncompressed: a file each
        chunk_done/c.I  written last: chunk I counts only with this file

A chunk's files are on the disk (fsync) before its mark is made, and a chunk without a mark is
computed again and overwritten. So whatever moment a process dies at, what is marked is whole.
The identity says what the result is made from and how; it decides whether a run may go on.
"""

import difflib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import filelock
import numpy as np
import zarr

from fitting.errors import InputError
from fitting.zarr_files import CHUNK_DONE, as_numpy, is_zarr
from mano_jax.files import why_unwritable

SUFFIX: Final = ".zarr"
"""Ending of a result of any length."""

_ONE_FILE_A_CHUNK: Final = {"name": "default", "separator": "."}
"""Chunk keys without folders of their own."""
_LEFT_BEHIND: Final = re.compile(r"\.[0-9a-f]{32}\.partial$")
"""What Zarr calls a file that it has not finished."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from the same result. The system frees the lock of one that died.

    Raises:
        InputError: another process writes it at this moment, or nothing can be written there.
    """
    if reason := why_unwritable(path.parent):
        raise InputError(f"{path}: cannot be written, {reason}; name another file")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".lock")
    lock = filelock.FileLock(beside)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise InputError(
            f"{path}: another process is writing it; wait until that is done, or name another file"
        ) from None
    try:
        yield
    finally:
        # Taken away while it is held: a process that waits for it sees that it is another file.
        beside.unlink(missing_ok=True)
        lock.release()


@dataclass(frozen=True)
class ResultStore:
    """A result that is being written, chunk by chunk. To be used under `locked`."""

    path: Path
    """The group's folder."""
    group: zarr.Group
    """The group."""

    @classmethod
    def begin(
        cls,
        path: Path,
        *,
        identity: Mapping[str, Any],
        num_frames: int,
        chunk_size: int,
        restart: bool = False,
    ) -> "ResultStore":
        """Open a result to be continued, or make a new one.

        Args:
            path: its folder, which ends in `.zarr`.
            identity: what decides the result. One that was begun with another is refused.
            num_frames: N.
            chunk_size: frames of a chunk, if it is a new one.
            restart: begin again, whatever is there.

        Raises:
            InputError: the folder holds something else, or a result with another identity.
        """
        _remove_left_behind(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            group = _opened(path)
            # Without the array of marks it was killed before anything was done.
            if CHUNK_DONE in group and not restart:
                store = cls(path, group)
                store._check_identity(identity)
                return store
            shutil.rmtree(path)
        group = zarr.create_group(
            path, attributes={"identity": dict(identity), "chunk_size": chunk_size}
        )
        _create(group, CHUNK_DONE, (-(-num_frames // chunk_size),), 1, np.uint8)
        _sync([path.parent, path, *path.rglob("*")])
        return cls(path, group)

    @property
    def chunk_size(self) -> int:
        """Frames of a chunk."""
        return int(self.group.attrs["chunk_size"])  # pyright: ignore[reportArgumentType]

    @property
    def identity(self) -> dict[str, Any]:
        """What the result is made from and how."""
        identity: Any = self.group.attrs["identity"]
        return dict(identity)

    def done(self) -> np.ndarray:
        """Which chunks are done."""
        return np.asarray(self._array(CHUNK_DONE)[:], bool)

    def note(self, **attributes: Any) -> None:
        """Set attributes of the group."""
        self.group.attrs.update(attributes)
        _sync([self.path / "zarr.json", self.path])

    def write_chunk(self, number: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Put a chunk's frames on the disk, and then its mark.

        Args:
            number: which chunk.
            arrays: every array that has a row for each frame of the chunk.
        """
        written = []
        num_frames = int(self.identity["frames"])
        first = number * self.chunk_size
        for name, values in arrays.items():
            if name not in self.group:
                shape = (num_frames, *values.shape[1:])
                _create(self.group, name, shape, self.chunk_size, values.dtype)
                written.append(self.path / name / "zarr.json")
            self._array(name)[first : first + len(values)] = values
            key = ".".join(["c", str(number), *["0"] * (values.ndim - 1)])
            written.append(self.path / name / key)
        _sync([*written, *{file.parent for file in written}, self.path])
        self._array(CHUNK_DONE)[number] = 1
        marks = self.path / CHUNK_DONE
        _sync([marks / f"c.{number}", marks])

    def write_constant(self, name: str, values: np.ndarray) -> None:
        """Write an array that has nothing to do with the frames."""
        if name not in self.group:
            _create(self.group, name, values.shape, len(values), values.dtype)
        self._array(name)[:] = values

    def chunks(self, names: list[str]) -> Iterator[dict[str, np.ndarray]]:
        """Arrays chunk by chunk, as far as they are done; names that are missing are left out."""
        there = [name for name in names if name in self.group]
        for number in np.flatnonzero(self.done()):
            rows = slice(number * self.chunk_size, (number + 1) * self.chunk_size)
            yield {name: as_numpy(self._array(name)[rows]) for name in there}

    def _array(self, name: str) -> Any:
        """An array of the group that writes every chunk, also one that is all zeros.

        A file that is missing is then a chunk that is.
        """
        array: Any = self.group[name]
        return array.with_config({"write_empty_chunks": True})

    def _check_identity(self, identity: Mapping[str, Any]) -> None:
        begun = self.identity
        differing = [
            _difference(name, begun.get(name), identity.get(name))
            for name in dict.fromkeys([*begun, *identity])
            if begun.get(name) != identity.get(name)
        ]
        if differing:
            raise InputError(
                f"{self.path}: was begun with something else: {'; '.join(differing)}. Run the "
                "command that began it, name another file, or add --restart to begin again"
            )


def _opened(path: Path) -> zarr.Group:
    """The group of a result that was begun."""
    group = zarr.open_group(path, mode="r+") if is_zarr(path) else None
    if group is None or "identity" not in group.attrs:
        raise InputError(f"{path}: is there, and no result of `manofit refine`; name another file")
    return group


def _difference(name: str, begun: Any, now: Any) -> str:
    if isinstance(begun, str) and isinstance(now, str) and "\n" in begun:
        lines = difflib.unified_diff(begun.splitlines(), now.splitlines(), n=0, lineterm="")
        changed = [line for line in lines if line[:1] in "+-" and line[:3] not in ("---", "+++")]
        return f"{name} ({', '.join(changed[:6])}{', ...' if len(changed) > 6 else ''})"
    return f"{name} (then {_short(begun)}, now {_short(now)})"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."


def _create(
    group: zarr.Group, name: str, shape: tuple[int, ...], chunk_size: int, dtype: Any
) -> None:
    dtype = np.dtype(dtype)
    group.create_array(
        name,
        shape=shape,
        chunks=(chunk_size, *shape[1:]),
        dtype="string" if dtype.kind == "U" else dtype.name,
        compressors=None,
        chunk_key_encoding=_ONE_FILE_A_CHUNK,  # pyright: ignore[reportArgumentType]
    )


def _remove_left_behind(path: Path) -> None:
    """Unfinished files of a process that was killed."""
    for file in path.rglob("*.partial"):
        if _LEFT_BEHIND.search(file.name):
            file.unlink(missing_ok=True)


def _sync(paths: list[Path]) -> None:
    """Have the system put files and folders on the disk; Windows has no such call for folders."""
    for path in paths if os.name != "nt" else ():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
