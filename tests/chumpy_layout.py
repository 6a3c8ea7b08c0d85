"""Writes hand files byte for byte as Python 2 and chumpy left them, without either.

`encode` turns a tree of values into protocol 2 instructions; `Global`, `Call` and `New` stand for
what a pickle names, calls and builds, sound or hostile.
"""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csc_matrix

NO_STATE = object()


@dataclass
class Global:
    """A name: pushes the object that Python would import."""

    module: str
    name: str


@dataclass
class Call:
    """REDUCE: `function(*arguments)`, then BUILD with a state if there is one."""

    function: Any
    arguments: tuple
    state: Any = NO_STATE


@dataclass
class New:
    """NEWOBJ: `cls.__new__(cls, *arguments)`, then BUILD with a state if there is one."""

    cls: Any
    arguments: tuple = ()
    state: Any = NO_STATE


@dataclass
class Raw:
    """Instructions as they are."""

    instructions: bytes


def encode(value: Any) -> bytes:
    if value is None:
        return b"N"
    if value is True or value is False:
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        if -(2**31) <= value < 2**31:
            return b"J" + struct.pack("<i", value)
        return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        return encode(value.encode("latin1"))
    if isinstance(value, bytes):
        if len(value) < 256:
            return b"U" + bytes([len(value)]) + value
        return b"T" + struct.pack("<i", len(value)) + value
    if isinstance(value, tuple):
        return b"(" + b"".join(map(encode, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(encode, value)) + b"e"
    if isinstance(value, dict):
        items = [part for item in value.items() for part in item]
        return b"}(" + b"".join(map(encode, items)) + b"u"
    if isinstance(value, Raw):
        return value.instructions
    if isinstance(value, Global):
        return f"c{value.module}\n{value.name}\n".encode("latin1")
    if isinstance(value, Call):
        return encode(value.function) + encode(value.arguments) + b"R" + built(value.state)
    if isinstance(value, New):
        return encode(value.cls) + encode(value.arguments) + b"\x81" + built(value.state)
    if isinstance(value, csc_matrix):
        return encode(sparse(value))
    if isinstance(value, np.ndarray):
        return encode(array(value))
    raise TypeError(type(value))


def built(state: Any) -> bytes:
    return b"" if state is NO_STATE else encode(state) + b"b"


def array(values: np.ndarray) -> Call:
    """As NumPy 1 on Python 2: 0 and 1 for booleans, the content a string."""
    fortran = values.flags.f_contiguous and not values.flags.c_contiguous
    kind = values.dtype.newbyteorder("<")
    return Call(
        Global("numpy.core.multiarray", "_reconstruct"),
        (Global("numpy", "ndarray"), (0,), "b"),
        (1, values.shape, dtype(kind.str[1:]), fortran, values.astype(kind).tobytes("A")),
    )


def dtype(code: str) -> Call:
    state = (3, "<", None, None, None, -1, -1, 0)
    return Call(Global("numpy", "dtype"), (code, 0, 1), state)


def sparse(matrix: csc_matrix) -> New:
    state = {
        "_shape": matrix.shape,
        "maxprint": 50,
        "data": matrix.data,
        "indices": matrix.indices.astype(np.int32),
        "indptr": matrix.indptr.astype(np.int32),
    }
    return New(Global("scipy.sparse.csc", "csc_matrix"), (), state)


def chumpy_select(shapedirs: np.ndarray) -> New:
    """The first ten of twenty blend shapes, selected as in the official files."""
    V = len(shapedirs)
    all_twenty = np.concatenate([shapedirs, 7.0 + shapedirs], axis=-1)
    number = shapedirs.shape[-1]
    entries = np.arange(all_twenty.size).reshape(V, 3, 2 * number)[..., :number].ravel()
    empty_set = Call(Global("__builtin__", "set"), ([],))
    names = Call(Global("__builtin__", "set"), (["a"],))
    source = {"x": all_twenty, "_dirty_vars": empty_set, "_itr": None, "_depends_on_deps": {}}
    return New(
        Global("chumpy.reordering", "Select"),
        (),
        {
            "a": New(Global("chumpy.ch", "Ch"), (), source),
            "idxs": entries,
            "preferred_shape": shapedirs.shape,
            "_dirty_vars": names,
            "_itr": None,
            "_depends_on_deps": {},
        },
    )


def pickled(value: Any) -> bytes:
    return b"\x80\x02" + encode(value) + b"."


def official_layout(entries: dict) -> bytes:
    """A whole official file: `shapedirs` becomes a chumpy object, all else is NumPy and SciPy."""
    return pickled({**entries, "shapedirs": chumpy_select(entries["shapedirs"])})
