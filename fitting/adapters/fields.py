"""What adapters ask of a tree that they have read: a key, numbers of a shape, a text.

Every error says the file, the place in it, what was expected and what was found.
"""

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np

from fitting.errors import InputError
from mano_jax.pickle_machine import shown

_KEYS_SHOWN: Final = 12

_MOST_NUMBERS: Final = 2**31
"""Numbers of one array, 16 GiB: lists may name one array very often."""

_NUMBERS: Final = "iuf"
"""NumPy's kinds of integers and floats: no booleans, no complex numbers."""


def entry(mapping: Any, key: Any, where: str, path: Path) -> Any:
    """The value under a key.

    Args:
        mapping: what should be a dictionary.
        key: its key.
        where: the dictionary's place in the file, "" for the whole of it.
        path: the file.

    Raises:
        InputError: no dictionary, or no such key; the message lists the keys it has.
    """
    if not isinstance(mapping, Mapping):
        raise InputError(f"{_place(path, where)}: expected a dictionary, found {found(mapping)}")
    if key not in mapping:
        keys = [_key(other) for other in list(mapping)[:_KEYS_SHOWN]]
        more = f" and {len(mapping) - len(keys)} more" if len(mapping) > len(keys) else ""
        raise InputError(
            f"{_place(path, where)}: no key {_key(key)}; found {', '.join(keys) or 'none'}{more}"
        )
    return mapping[key]


def text(value: Any, where: str, path: Path) -> str:
    """A text, also from an array without axes.

    Raises:
        InputError: something else, or text that no file name or terminal can hold.
    """
    if isinstance(value, np.ndarray) and value.shape == () and value.dtype.kind == "U":
        value = str(value)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str):
        raise InputError(f"{_place(path, where)}: expected text, found {found(value)}")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise InputError(
            f"{_place(path, where)}: expected text, found half a character in {shown(value)}; "
            "write it as UTF-8"
        )
    return str(value)


def number_array(value: Any, shape: tuple[int | str, ...], where: str, path: Path) -> np.ndarray:
    """Numbers of a shape, as float64. NaN and infinities are numbers; nothing is squeezed.

    Args:
        value: an array, a number, or lists of them in lists.
        shape: a size for each axis; a letter stands for any size, the same wherever it occurs.
        where: the value's place in the file.
        path: the file.

    Returns:
        An array of its own, to be written to.

    Raises:
        InputError: another shape, or booleans, text, None or complex numbers in it.
    """
    array = _numbers(value, len(shape))
    if array is None or not _fits(array.shape, shape):
        seen = value if array is None or isinstance(value, np.ndarray) else array
        raise InputError(
            f"{_place(path, where)}: expected numbers of shape {_shown_shape(shape)}, found "
            f"{found(seen)}"
        )
    return array


def flag_array(value: Any, shape: tuple[int | str, ...], where: str, path: Path) -> np.ndarray:
    """Flags of a shape, as booleans: booleans themselves, or the numbers 0 and 1.

    Raises:
        InputError: another shape, or anything else.
    """
    plain = isinstance(value, list | tuple) and all(isinstance(item, bool) for item in value)
    if plain or isinstance(value, bool | np.bool_ | np.ndarray):
        array = np.array(value)
        if array.dtype == bool and _fits(array.shape, shape):
            return array
    numbers = number_array(value, shape, where, path)
    if not np.all((numbers == 0) | (numbers == 1)):
        raise InputError(f"{_place(path, where)}: expected 0 or 1, found other numbers")
    return np.asarray(numbers == 1)


def _fits(shape: tuple[int, ...], expected: tuple[int | str, ...]) -> bool:
    letters: dict[str, int] = {}
    return len(shape) == len(expected) and all(
        size == (letters.setdefault(wanted, size) if isinstance(wanted, str) else wanted)
        for size, wanted in zip(shape, expected, strict=True)
    )


def _numbers(value: Any, axes: int) -> np.ndarray | None:
    """Numbers as float64; None where they are none, or lists of different lengths."""
    is_list = isinstance(value, list | tuple)
    if not (_holds_numbers(value, axes) if is_list else _is_number(value)):
        return None
    try:
        with np.errstate(invalid="ignore"):  # Of a NaN that signals.
            return np.array(value, np.float64)
    except (ValueError, OverflowError):
        return None


def _holds_numbers(rows: Any, axes: int) -> bool:
    """Whether lists in lists, nested at most so deep, hold numbers and arrays of numbers alone."""
    for _ in range(axes):
        if set(map(type, rows)) <= {int, float}:
            return True
        inner = [row for row in rows if isinstance(row, list | tuple)]
        others = [row for row in rows if not isinstance(row, list | tuple)]
        if not all(map(_is_number, others)):
            return False
        if sum(getattr(other, "size", 1) for other in others) > _MOST_NUMBERS:
            return False
        rows = list(chain.from_iterable(inner))
    return not rows


def _is_number(value: Any) -> bool:
    if type(value) in (int, float):
        return True
    return isinstance(value, np.ndarray | np.generic) and value.dtype.kind in _NUMBERS


def found(value: Any) -> str:
    """A value in a few words: an array's shape, a list's length, a type; never its content."""
    if isinstance(value, np.ndarray):
        return f"{'text' if value.dtype.kind == 'U' else value.dtype} of shape {value.shape}"
    if isinstance(value, list | tuple | dict):
        return f"a {type(value).__name__} of length {len(value)}"
    return {str: "text", type(None): "None"}.get(type(value), f"a {type(value).__name__}")


def _place(path: Path, where: str) -> str:
    return f"{path}: {where}" if where else str(path)


def _key(key: Any) -> str:
    """A key as a message may show it: short, and all of it printable."""
    return ascii(key)[:100] if not str(key).isprintable() else repr(key)[:100]


def _shown_shape(shape: tuple[int | str, ...]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
