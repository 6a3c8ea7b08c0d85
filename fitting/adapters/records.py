"""Outputs saved as dictionaries of batches: one, a list of them, or a folder of such files."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from fitting.adapters.containers import read_tree
from fitting.adapters.fields import entry, flag_array, number_array, text
from fitting.adapters.formats import TREE_SUFFIXES
from fitting.errors import InputError

_PARTS: Final = ("out", "output", "outputs", "batch", "meta_info")
"""Dictionaries within a record whose entries are the record's own."""

_NAMES: Final = ("img_path", "image_path", "imgname", "img_name", "image_name", "frame_id")
"""Keys under which programs save the names of their images."""


@dataclass(frozen=True)
class Record:
    """One dictionary, and where it stands."""

    path: Path
    where: str
    """Its place in the file, "" for the whole of it."""
    values: dict[str, Any]

    def array(self, key: str, shape: tuple, *, optional: bool = False) -> np.ndarray | None:
        """Numbers under a key; "a/b" is a key of a dictionary within.

        Raises:
            InputError: no such key, unless optional, or another shape.
        """
        values, *_ = found = self._inside(key)
        if optional and (values is None or found[1] not in values or values[found[1]] is None):
            return None
        if values is None:
            raise InputError(f"{self.path}: {self._named(key)}: expected a dictionary around it")
        return number_array(
            entry(values, found[1], self.where, self.path), shape, self._named(key), self.path
        )

    def needed(self, key: str, shape: tuple) -> np.ndarray:
        """The same, and always an array."""
        found = self.array(key, shape)
        assert found is not None, "it is not optional"
        return found

    def flags(self, key: str, shape: tuple) -> np.ndarray:
        """Booleans, or numbers 0 and 1, under a key.

        Raises:
            InputError: no such key, another shape, or other values.
        """
        value = entry(self.values, key, self.where, self.path)
        return flag_array(value, shape, self._named(key), self.path)

    def _inside(self, key: str) -> tuple[dict | None, str]:
        values, (*outer, last) = self.values, key.split("/")
        for name in outer:
            values = values.get(name) if isinstance(values, dict) else None
        return (values if isinstance(values, dict) else None), last

    def _named(self, key: str) -> str:
        return f"{self.where}/{key}" if self.where else key

    def image_names(self, count: int) -> list[str] | None:
        """Names of the images of `count` rows; None where the record has none.

        Raises:
            InputError: names that are no text.
        """
        for key in _NAMES:
            value = self.values.get(key)
            if isinstance(value, str):
                return [text(value, self._named(key), self.path)] * count
            if isinstance(value, list | tuple | np.ndarray) and len(value) == count:
                return [text(name, self._named(key), self.path) for name in value]
        return None


def files_of(path: Path, suffixes: Sequence[str] = TREE_SUFFIXES) -> list[Path]:
    """The file, or a folder's files of these suffixes in sorted order.

    Raises:
        InputError: nothing there.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder")
    found = sorted(
        file for file in path.iterdir() if file.is_file() and file.suffix.lower() in suffixes
    )
    if not found:
        raise InputError(
            f"{path}: expected files that end in {', '.join(suffixes)} in this folder, found none"
        )
    return found


def records(path: Path) -> Iterator[Record]:
    """The dictionaries of a file or a folder of files, in order.

    Raises:
        InputError: no such file, an unreadable one, or one that holds something else.
    """
    for file in files_of(path):
        tree = read_tree(file)
        items = tree if isinstance(tree, list | tuple) else [tree]
        if len(items) == 0:
            raise InputError(f"{file}: expected a dictionary or a list of them, found nothing")
        for i, item in enumerate(items):
            where = f"[{i}]" if isinstance(tree, list | tuple) else ""
            if not isinstance(item, dict):
                raise InputError(
                    f"{file}: {where or 'the content'}: expected a dictionary of arrays, found "
                    f"{type(item).__name__}"
                )
            yield Record(file, where, _flattened(item))


def _flattened(item: dict[str, Any]) -> dict[str, Any]:
    """A record's own entries with those of its parts; a key of both keeps the record's."""
    flat: dict[str, Any] = {}
    for part in _PARTS:
        if isinstance(item.get(part), dict):
            flat |= {str(k): v for k, v in item[part].items()}
    return flat | {str(k): v for k, v in item.items() if k not in _PARTS}


def unique_names(names: list[str]) -> list[str]:
    """Names with #1, #2, ... behind those that came before."""
    seen: Counter[str] = Counter()
    told = []
    for name in names:
        told.append(f"{name}#{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return told
