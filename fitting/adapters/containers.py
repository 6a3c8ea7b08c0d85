"""Files that hold a tree: dictionaries, lists, arrays, numbers and text, in whatever container.

    .pkl .pickle .p     a pickle of Python 2 or 3, with or without tensors; a file of torch.save
    .pt .pth .ckpt      a file of torch.save, an archive or of old; a pickle
    .npy                an array; if of objects, the lists or the object in it
    .npz                a dictionary of such arrays
    .json               a value; NaN and Infinity are numbers
    .jsonl              a list, one value a line

No code that a file brings is run, nothing is unpacked to disk, and every size that a file states
is held against what there is before memory is asked for.
"""

import json
import math
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from fitting.adapters.pickled import TreeMachine, check_tree
from fitting.adapters.tensors import read_pickled, read_saved
from fitting.errors import InputError
from mano_jax.byte_source import ByteSource, DamagedError
from mano_jax.files import UNREADABLE_ARCHIVE
from mano_jax.pickle_arrays import array_from_bytes
from mano_jax.pickle_machine import ForbiddenError, shown

_LARGEST_FILE: Final = 16 * 2**30
"""Bytes of a file, and of all that an archive holds: more than a machine's memory."""

_LARGEST_TEXT: Final = 2 * 2**30
"""Bytes of a JSON file: as Python's values it takes ten times as much."""

_LARGEST_RATIO: Final = 300
_UNPACKED_ANYWAY: Final = 256 * 2**20
"""An archive that unpacks to more bytes than these, and to that many times its size, is a bomb.

NumPy's archives of measured numbers shrink to a third, masks to a hundredth.
"""

_LONGEST_HEADER: Final = 10_000
"""Bytes of an array's header: NumPy's own limit."""


def read_tree(path: Path) -> Any:
    """Read the tree in a file, by the file's suffix.

    Arrays may not be written to. Sets are lists, and so are arrays of objects.

    Returns:
        A tree of dict, list, tuple, str, bytes, int, float, bool, None, complex, numpy.ndarray
        (numbers, booleans or text) and NumPy's scalars.

    Raises:
        InputError: no such file, an unknown suffix, a file that is damaged or too large, or one
            that asks for more than such a tree; the message names file, place, reason and remedy.
    """
    path = Path(path)
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise InputError(
            f"{path}: expected a name that ends in {', '.join(_READERS)}, found "
            f"{path.suffix or 'none of them'}; convert it, or name the right file"
        )
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise InputError(f"{path}: expected a {path.suffix} file, found {found}")
    with _reading(path):
        size = path.stat().st_size
        largest = _LARGEST_TEXT if path.suffix.lower() in (".json", ".jsonl") else _LARGEST_FILE
        if size > largest:
            raise InputError(
                f"{path}: has {size} bytes, where at most {largest} are read; split it, or save "
                "its arrays alone with numpy.savez"
            )
        with path.open("rb") as file:
            tree = read(file, size, path)
        check_tree(tree)
    return tree


@contextmanager
def _reading(path: Path, member: str = "") -> Iterator[None]:
    """Tell of a file, or of one of its parts, what goes wrong while it is read."""
    where = f"{path}: {shown(member)}" if member else str(path)
    try:
        yield
    except InputError:
        raise
    except ForbiddenError as error:
        raise InputError(
            f"{where}: refused {error.what}: {error.why or 'a file of arrays needs none'}, and a "
            "pickle may run any code. Have whoever wrote it save arrays, numbers and text alone, "
            "for example with numpy.savez"
        ) from error
    except (DamagedError, *UNREADABLE_ARCHIVE, LookupError, struct.error) as error:
        reason = str(error) or type(error).__name__
        raise InputError(
            f"{where}: cannot be read: truncated, corrupt or no {path.suffix} file ({reason}); "
            "copy it again, and compare its size with the original's"
        ) from error


def _read_pickle(file: BinaryIO, size: int, path: Path) -> Any:
    is_archive = file.read(4) == b"PK\3\4"
    file.seek(0)
    if not is_archive:
        return read_pickled(ByteSource(file, size))
    with _archive(file, size) as archive:
        folders = [
            info.filename.removesuffix("data.pkl")
            for info in archive.infolist()
            if info.filename.split("/")[1:] == ["data.pkl"]
        ]
        if len(folders) != 1:
            raise DamagedError(
                "a zip archive without the one data.pkl of torch.save; is it a .npz file?"
            )
        return read_saved(archive, folders[0])


def _read_npy(file: BinaryIO, size: int, path: Path) -> Any:
    return _read_array(ByteSource(file, size))


def _read_npz(file: BinaryIO, size: int, path: Path) -> dict[str, Any]:
    arrays = {}
    with _archive(file, size) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            with _reading(path, name):
                if name == info.filename:
                    raise DamagedError("no array; write the file with numpy.savez")
                with archive.open(info) as member:
                    arrays[name] = _read_array(ByteSource(member, info.file_size))
    return arrays


@contextmanager
def _archive(file: BinaryIO, size: int) -> Iterator[zipfile.ZipFile]:
    """A zip archive whose members may be read: they are as large as they say, and no bomb."""
    with zipfile.ZipFile(file) as archive:
        packed = unpacked = 0
        names = set()
        for info in archive.infolist():
            packed, unpacked = packed + info.compress_size, unpacked + info.file_size
            with_deflate = info.compress_type == zipfile.ZIP_DEFLATED
            if info.filename in names:
                raise DamagedError(f"it has two members {shown(info.filename)!r}")
            if info.flag_bits & 1:
                raise DamagedError(f"{shown(info.filename)!r} is encrypted")
            if not with_deflate and info.compress_type != zipfile.ZIP_STORED:
                raise DamagedError(f"{shown(info.filename)!r} is packed in an uncommon way")
            if not with_deflate and info.file_size != info.compress_size:
                raise DamagedError(f"{shown(info.filename)!r} has two sizes")
            names.add(info.filename)
        bomb = unpacked > max(_UNPACKED_ANYWAY, _LARGEST_RATIO * size)
        if packed > size or unpacked > _LARGEST_FILE or bomb:
            raise DamagedError(
                f"its {size} bytes would unpack to {unpacked}, where {_LARGEST_FILE} in all and "
                f"{_LARGEST_RATIO} times its size are read at most"
            )
        yield archive


_HEADER: Final = {
    "descr": re.compile(r"""["']descr["']\s*:\s*["']([^"']{1,20})["']"""),
    "fortran_order": re.compile(r"""["']fortran_order["']\s*:\s*(True|False)"""),
    "shape": re.compile(r"""["']shape["']\s*:\s*\(([0-9L, ]*)\)"""),
}
"""What is asked of an array's header. Python 2 wrote its sizes with an L."""

_RECORDS: Final = re.compile(r"""["']descr["']\s*:\s*\[""")


def _read_array(source: ByteSource) -> Any:
    """The array that `numpy.save` wrote; if of objects, what it holds."""
    magic = source.take(8)
    if magic[:6] != b"\x93NUMPY" or magic[6] not in (1, 2, 3):
        raise DamagedError("it does not begin as numpy.save begins")
    length = int.from_bytes(source.take(2 if magic[6] == 1 else 4), "little")
    if length > _LONGEST_HEADER:
        raise DamagedError(f"a header of {length} bytes")
    header = source.take(length).decode("latin1")
    found = {key: pattern.search(header) for key, pattern in _HEADER.items()}
    descr, fortran, sizes = (match[1] if match else None for match in found.values())
    if descr is None or fortran is None or sizes is None:
        if _RECORDS.search(header):
            raise ForbiddenError("an array of records", "plain numbers, text or objects are read")
        raise DamagedError("its header has no descr, fortran_order and shape")
    if not TreeMachine.dtypes.fullmatch(descr):
        raise ForbiddenError(f"an array of {shown(descr)}", "numbers, text or objects are read")
    if "O" in descr:
        return read_pickled(source)
    shape = tuple(int(size.strip(" L")) for size in sizes.split(",") if size.strip())
    dtype = np.dtype(descr)
    content = source.take(dtype.itemsize * math.prod(shape))
    return array_from_bytes(content, dtype, shape, "F" if fortran == "True" else "C")


def _read_json(file: BinaryIO, size: int, path: Path) -> Any:
    return _decoded(file.read())


def _read_lines(file: BinaryIO, size: int, path: Path) -> list[Any]:
    values = []
    for number, line in enumerate(file, 1):
        if line.strip():
            with _reading(path, f"line {number}"):
                values.append(_decoded(line))
    return values


def _decoded(content: bytes) -> Any:
    """The value of a JSON text, which may begin with a byte order mark."""
    try:
        return _DECODER.decode(content.decode("utf-8-sig"))
    except RecursionError as error:
        raise DamagedError("too many lists or dictionaries are nested in each other") from error


def _dictionary(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, whose keys must differ: of two values, one would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DamagedError(f"the key {shown(twice)!r} occurs twice in one object")
    return found


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_dictionary)

_READERS: Final[dict[str, Callable[[BinaryIO, int, Path], Any]]] = {
    **dict.fromkeys((".pkl", ".pickle", ".p", ".pt", ".pth", ".ckpt"), _read_pickle),
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".json": _read_json,
    ".jsonl": _read_lines,
}
"""The reader of each suffix. It gets the open file, its size, and its path for messages."""
