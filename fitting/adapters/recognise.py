"""Which format a file is in, by the names of its files and the keys within."""

from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import Any, Final

from fitting.adapters.containers import read_tree
from fitting.adapters.csv_files import read_csv
from fitting.adapters.formats import TREE_SUFFIXES, Format
from fitting.errors import InputError

_DEPTH: Final = 6
_SOME: Final = 4
"""Items of a list or a dictionary that are looked into."""


def recognise(path: Path, formats: Iterable[Format]) -> list[Format]:
    """The formats that a file or a folder may be in.

    Raises:
        InputError: no such path.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    if (path / "meta").is_dir():
        files += sorted((path / "meta").iterdir())
    names = [file.name for file in files]
    formats = list(formats)
    keys = _keys_of(files)
    suffixes = {file.suffix.lower() for file in files}
    fitting = [f for f in formats if suffixes & set(f.suffixes)]
    by_keys = [f for f in fitting if any(wanted <= keys for wanted in f.keys)]
    return by_keys or [f for f in formats if any(fnmatch(n, p) for n in names for p in f.names)]


def _keys_of(files: list[Path]) -> set[str]:
    """The keys of the first readable file of each kind."""
    keys: dict[str, set[str]] = {}
    for file in files:
        suffix = file.suffix.lower()
        if keys.get(suffix):
            continue
        try:
            if suffix == ".csv":
                keys[suffix] = set(read_csv(file)[0])
            elif suffix in (*TREE_SUFFIXES, ".jsonl"):
                keys[suffix] = set(_keys(read_tree(file), _DEPTH))
        except InputError:
            continue
    return set().union(*keys.values())


def _says_something(item: Any) -> bool:
    return not isinstance(item, dict | list | tuple) or len(item) > 0


def _keys(tree: Any, depth: int) -> Iterator[str]:
    """Keys of a tree's dictionaries; of long ones, of the first items."""
    if depth == 0:
        return
    if isinstance(tree, dict):
        yield from (str(key) for key in islice(tree, 64))
        # A dictionary of images holds the same for each; a record's entries all differ.
        inner: Iterable[Any] = islice(filter(_says_something, tree.values()), 64)
    elif isinstance(tree, list | tuple):
        # A video may begin without hands.
        inner = islice(filter(_says_something, tree), _SOME)
    else:
        return
    for value in inner:
        yield from _keys(value, depth - 1)
