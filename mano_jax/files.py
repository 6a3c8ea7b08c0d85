"""Files: written whole or not at all, and what a damaged archive raises."""

import os
import uuid
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

UNREADABLE_ARCHIVE: Final = (
    ValueError,
    EOFError,
    OSError,
    KeyError,
    RuntimeError,
    MemoryError,
    OverflowError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What NumPy and zipfile raise on damaged `.npz` files: RuntimeError for an encrypted one,
MemoryError and OverflowError for an array whose header promises more than there can be."""


def why_unwritable(folder: Path) -> str:
    """Why no file can be made in a folder, which may not exist yet; "" where nothing forbids it."""
    nearest = folder.absolute()
    # lexists: a link that leads nowhere is in the way too.
    while not os.path.lexists(nearest):
        nearest = nearest.parent
    if not nearest.is_dir():
        return f"{nearest} is no folder"
    if not os.access(nearest, os.W_OK | os.X_OK):
        return f"there is no permission to write in {nearest}"
    return ""


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write beside the target, then rename: a reader sees the whole file or the former one.

    Args:
        path: the file; its folder is made if need be.
        write: puts the content into an open file. Whatever it raises leaves no trace.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
