"""NumPy's arrays in a pickle: what the names that they are pickled by mean, as values.

    numpy.dtype               a kind of number, by its code; structured dtypes are refused
    _reconstruct, then BUILD  shape, dtype, order and bytes
    _frombuffer               the same in one call, as protocol 5 has it
    _codecs.encode            bytes as protocols 0-2 of Python 3 spell them; latin-1 alone

An array looks at the bytes that were read, in its machine's byte order, and cannot be written to.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from mano_jax.pickle_machine import (
    ForbiddenError,
    Name,
    Part,
    PickleMachine,
    Unfinished,
    describe,
    kind_of,
    shown,
)

NUMPY_NAMES: Final[Mapping[tuple[str, str], str]] = {
    ("numpy.core.multiarray", "_reconstruct"): "reconstruct",
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("__builtin__", "set"): "set",
    # The same, and how arrays are written since, by Python 3 and NumPy 2.
    ("numpy._core.multiarray", "_reconstruct"): "reconstruct",
    ("numpy.core.numeric", "_frombuffer"): "frombuffer",
    ("numpy._core.numeric", "_frombuffer"): "frombuffer",
    ("builtins", "set"): "set",
    ("_codecs", "encode"): "encode",
}
"""Names that pickled arrays and sets mention, and their meanings here."""


class Dtype(Part):
    """A NumPy dtype, under `value`: an array asks for one, and nothing else does."""

    __slots__ = ()


class ArrayMachine(PickleMachine):
    """The stack machine for numbers, strings, containers and arrays of numbers."""

    names = NUMPY_NAMES
    dtypes: re.Pattern[str] = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248])")
    """Codes of the dtypes that are admitted."""

    def __init__(self):
        super().__init__()
        self.calls |= {
            "reconstruct": self._call_reconstruct,
            "dtype": self._call_dtype,
            "frombuffer": self._call_frombuffer,
            "encode": self._call_encode,
            "set": self._call_set,
        }

    def build(self, target: Any, state: Any) -> Any:
        """An array or a dtype with the state that was stored for it."""
        if type(target) is Unfinished and type(state) is tuple:
            return target.finish(self._built_array(state))
        if type(target) is Dtype and type(state) is tuple:
            target.value = self._built_dtype(target.value, state)
            return target
        return super().build(target, state)

    def _built_dtype(self, dtype: np.dtype, state: tuple[Any, ...]) -> np.dtype:
        """State (version, byte order, subarray, names, fields, ...): plain numbers have none."""
        _, order, *parts = state
        if order not in ("<", ">", "=", "|") or parts[:3] != [None, None, None]:
            raise ForbiddenError("a structured dtype", f"{self.expected} holds plain numbers")
        return dtype.newbyteorder(order)

    def _built_array(self, state: tuple[Any, ...]) -> Any:
        """State ([version,] shape, dtype, is Fortran order, bytes)."""
        if len(state) not in (4, 5):
            raise ValueError("an array whose state has not four or five parts")
        shape, dtype, fortran, content = state[-4:]
        return self.array(content, dtype, shape, "F" if fortran else "C")

    def array(self, content: Any, dtype: Any, shape: Any, order: Any) -> Any:
        """The array that a pickle describes."""
        if type(dtype) is not Dtype:
            raise TypeError(f"an array whose dtype is {kind_of(dtype)}")
        if type(content) is str:
            content = content.encode("latin1")  # Python 2 has no other bytes.
        if type(content) is not bytes:
            raise ForbiddenError(
                f"an array of {kind_of(content)}", f"{self.expected} holds plain numbers"
            )
        if order not in ("C", "F"):
            raise ValueError(f"an array in the order {shown(order)}")
        return array_from_bytes(content, dtype.value, self.shape(shape), order)

    def shape(self, shape: Any) -> tuple[int, ...]:
        """A shape that may be one."""
        if type(shape) is not tuple or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError("a shape that is no tuple of sizes")
        return shape

    def _call_dtype(self, code: Any, *_: Any) -> Dtype:
        if not isinstance(code, str) or not self.dtypes.fullmatch(code):
            raise ForbiddenError(
                f"numpy.dtype({shown(code)})", f"{self.expected} holds plain numbers"
            )
        # Python of 32 bits wrote O4 for objects.
        return Dtype("numpy.dtype", np.dtype("O" if "O" in code else code))

    def _call_reconstruct(self, subtype: Any, *_: Any) -> Unfinished:
        if type(subtype) is not Name or subtype.meaning != "ndarray":
            raise ForbiddenError(
                f"an array of the type {describe(subtype)}", "only numpy.ndarray is"
            )
        return Unfinished("numpy.ndarray")

    def _call_frombuffer(
        self, content: Any, dtype: Any, shape: Any, order: Any, axes: Any = None
    ) -> Any:
        if order == "K" and axes is not None:
            return self.array(content, dtype, shape, "C").transpose(self.shape(axes))
        return self.array(content, dtype, shape, order)

    def _call_encode(self, text: Any, encoding: Any = None, *_: Any) -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise ForbiddenError(
                f"_codecs.encode(..., {shown(encoding)})", "only latin1 is admitted"
            )
        return text.encode("latin1")

    def _call_set(self, items: Any = ()) -> list[Any]:
        if not isinstance(items, list | tuple):
            raise TypeError(f"a set of {kind_of(items)}")
        return list(items)


def array_from_bytes(
    content: bytes, dtype: np.dtype, shape: tuple[int, ...], order: Any = "C"
) -> np.ndarray:
    """An array of numbers or text that looks at bytes; a copy where they are not as it needs them.

    Args:
        content: the entries, none missing and none left over.
        dtype: what they are, in any byte order. Bytes (`S`) are read as latin-1 text.
        shape: sizes that are not negative.
        order: "C", the last index runs fastest, or "F", the first.

    Raises:
        ValueError: sizes that do not fit, or text that is none.
    """
    count = math.prod(shape)
    if dtype.hasobject:
        raise ValueError("an array of objects, which bytes cannot be")
    if len(content) != count * dtype.itemsize or (count and not dtype.itemsize):
        raise ValueError(
            f"an array of shape {shape} and dtype {dtype} has {len(content)} bytes of content"
        )
    if not count:
        return np.empty(shape, dtype)
    values = np.ndarray(shape, dtype, content, order=order)
    if dtype.kind == "b":
        # A byte other than 0 and 1 is no boolean, whatever NumPy makes of it.
        return _read_only(values.view(np.uint8) != 0)
    if dtype.kind == "S":
        return _read_only(np.char.decode(values, "latin1"))
    if dtype.kind == "U" and np.frombuffer(content, dtype.str[0] + "u4").max() > 0x10FFFF:
        raise ValueError("an array of text with characters that are none")
    if not dtype.isnative:
        return _read_only(values.astype(dtype.newbyteorder("=")))
    return values


def _read_only(values: Any) -> np.ndarray:
    """What NumPy computed as an array: of an array without axes it makes a number."""
    values = np.asarray(values)
    values.flags.writeable = False
    return values
