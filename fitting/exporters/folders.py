"""Folders with a file a frame: written whole or not at all, and never in place of other things.

A frame's file is named by its number in the file it came from, `0000.obj`, `0001.obj` and so on;
`frames.json` holds the `frame_id` of each: `{"0000": "clip/17", ...}`.
"""

import json
import shutil
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from fitting.errors import InputError
from mano_jax.files import why_unwritable

FRAMES_FILE: Final = "frames.json"
"""Which frame each file holds; by it a folder is known as one that manofit wrote."""

FolderFiles = dict[str, str]
"""The `frame_id` of each file by the file's name without its ending."""


def frame_stem(number: int) -> str:
    """The name of a frame's file without its ending: four digits or more."""
    return f"{number:04d}"


def check_folder(path: Path, *, shared: Iterable[str] = (), overwrite: bool) -> None:
    """Find out whether a folder can be written; nothing is made here.

    Args:
        path: the folder; it need not exist.
        shared: names of files beside those of the frames.
        overwrite: whether a folder that an earlier export wrote may be replaced.

    Raises:
        InputError: a file of that name, a folder with something in it that may not be replaced or
            that no export wrote, or one that cannot be made.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: is a file; name a folder, which gets a file a frame")
    if path.is_dir() and any(path.iterdir()):
        if not overwrite:
            raise InputError(
                f"{path}: exists already and is not empty; name another folder, or add --force "
                "(overwrite=True in Python)"
            )
        if foreign := _not_ours(path, {FRAMES_FILE, *shared}):
            raise InputError(
                f"{path}: holds {foreign}, which no export wrote, so the folder is not replaced; "
                "name another one"
            )
    if reason := why_unwritable(path.parent):
        raise InputError(f"{path}: cannot be written, {reason}; name another folder")


def write_folder(path: Path, write: Callable[[Path], FolderFiles]) -> list[Path]:
    """Write beside the target, then rename: the whole folder or the former one is there.

    Args:
        path: the folder, which `check_folder` found writable; an earlier one is replaced.
        write: fills a folder that is there. Whatever it raises leaves no trace.

    Returns:
        Every file, sorted.
    """
    # A link to a folder stays one: what it leads to is replaced.
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, former = (path.with_name(f".{uuid.uuid4().hex}.part") for _ in range(2))
    try:
        temporary.mkdir()
        names = write(temporary)
        text = json.dumps(names, indent=0, ensure_ascii=False)
        (temporary / FRAMES_FILE).write_text(text + "\n", encoding="utf-8")
        if path.exists():
            path.rename(former)
        try:
            temporary.rename(path)
        except OSError:
            if former.exists():
                former.rename(path)
            raise
    finally:
        for rest in (temporary, former):
            shutil.rmtree(rest, ignore_errors=True)
    return sorted(file for file in path.rglob("*") if file.is_file())


def _not_ours(folder: Path, known: set[str]) -> str:
    """A file in a folder that no export wrote there, or ""."""
    try:
        names = json.loads((folder / FRAMES_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        names = None
    stems = set(names) if isinstance(names, dict) else set()
    for entry in sorted(folder.rglob("*")):
        if entry.is_file() and entry.name not in known and entry.stem not in stems:
            return str(entry.relative_to(folder))
    return "" if isinstance(names, dict) else f"no {FRAMES_FILE}"
