"""Pickled hand files, and dictionaries that NumPy pickled, read without running them.

A pickle is a program for a small stack machine, and two of that machine's instructions call
whatever the file names. So no part of Python's unpickler runs here: `pickletools` takes the file
apart, and the machine below knows numbers, strings, containers and the few classes of a MANO
file. It has no instruction that imports or calls anything. What a class of `ADMITTED` means is
written out by hand, as values:

    numpy arrays             dtype, shape and bytes; numbers only, no object arrays
    chumpy.ch.Ch             its array, state["x"]
    chumpy.reordering.Select ravel(a)[idxs].reshape(preferred_shape)
    scipy csc_matrix         the dense array

Whatever else a file names is refused with its name. Strings are read as latin-1, as Python 2
wrote them.

`numpy.save` stores a dictionary as a pickled array of one object. For such a file the machine
also knows NumPy scalars, and that one outermost array of objects.
"""

import math
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from mano_jax.errors import UserError

ADMITTED: Final[dict[tuple[str, str], str]] = {
    # The seven of the official files, pickled by Python 2.
    ("numpy.core.multiarray", "_reconstruct"): "reconstruct",
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("__builtin__", "set"): "set",
    ("chumpy.ch", "Ch"): "Ch",
    ("chumpy.reordering", "Select"): "Select",
    ("scipy.sparse.csc", "csc_matrix"): "csc_matrix",
    # The same, and how arrays are written since, in files rewritten by Python 3, NumPy 2, SciPy.
    ("numpy._core.multiarray", "_reconstruct"): "reconstruct",
    ("numpy.core.numeric", "_frombuffer"): "frombuffer",
    ("numpy._core.numeric", "_frombuffer"): "frombuffer",
    ("builtins", "set"): "set",
    ("scipy.sparse._csc", "csc_matrix"): "csc_matrix",
    # Bytes as protocols 0-2 of Python 3 spell them; latin-1 alone.
    ("_codecs", "encode"): "encode",
}
"""Every name a file may mention, and which of this module's own meanings it has."""

_SCALARS: Final = {
    ("numpy.core.multiarray", "scalar"): "scalar",
    ("numpy._core.multiarray", "scalar"): "scalar",
}
"""What a dictionary saved by `numpy.save` may name besides."""

_OBJECT_DTYPE: Final = "O8"

# A MANO hand's largest array has 0.3 million entries.
_LARGEST_ARRAY: Final = 2**26

_NUMBER_DTYPE: Final = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248])")


class HandFileError(UserError):
    """A hand file that cannot be used; the message names file, key, expected, found, remedy."""


class PickleRefusedError(HandFileError):
    """A pickle that asks for more than a MANO file needs."""


def read_pickle(path: Path) -> dict[str, Any]:
    """The dictionary in a pickled hand file: arrays, strings and numbers.

    Raises:
        PickleRefusedError: the file names a class that is not in `ADMITTED`, or misuses one.
        HandFileError: the file is truncated, corrupt, or holds no dictionary.
    """
    content = path.read_bytes()
    if not content:
        raise HandFileError(f"{path} is empty; expected a MANO pickle")
    value = _run(_Machine(path), content)
    if not isinstance(value, dict):
        raise HandFileError(
            f"{path}: expected a dictionary of arrays, found {_kind(value)}; is it a MANO file?"
        )
    return {key: _finished(entry, path) for key, entry in value.items() if isinstance(key, str)}


def read_object_array(path: Path) -> dict[str, Any]:
    """The dictionary that `numpy.save` wrote: arrays, numbers, strings and containers of them.

    A dictionary in the dictionary is taken apart as well; deeper arrays are not.

    Raises:
        PickleRefusedError: the file names anything but NumPy's arrays and scalars.
        HandFileError: the file is truncated, corrupt, or holds no dictionary.
    """
    try:
        content = _after_npy_header(path)
    except (ValueError, OSError) as error:
        raise HandFileError(
            f"{path}: expected a dictionary saved with numpy.save, found none ({error})"
        ) from error
    machine = _ObjectArrayMachine(path)
    _run(machine, content)
    if not isinstance(machine.held, dict):
        raise HandFileError(
            f"{path}: expected a dictionary saved with numpy.save, found {_kind(machine.held)}"
        )
    return {str(key): _finished_entry(value, path) for key, value in machine.held.items()}


def _run(machine: "_Machine", content: bytes) -> Any:
    try:
        return machine.run(content)
    except HandFileError:
        raise
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise HandFileError(
            f"{machine.path} is no readable pickle: truncated or corrupt ({error}); copy it again, "
            "and compare its size with the original's"
        ) from error


def _after_npy_header(path: Path) -> bytes:
    """The pickle in a `.npy` file that holds one object."""
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, _, dtype = np.lib.format.read_array_header_2_0(file)
        if shape != () or not dtype.hasobject:
            raise ValueError(f"it holds an array of shape {shape} and dtype {dtype}")
        return file.read()


def _finished_entry(value: Any, path: Path) -> Any:
    if isinstance(value, dict):
        return {str(key): _finished(entry, path) for key, entry in value.items()}
    return _finished(value, path)


@dataclass(frozen=True, slots=True)
class _Name:
    """An admitted global: a name on the stack, nothing that could be called or changed."""

    module: str
    name: str
    meaning: str


@dataclass(slots=True)
class _Dtype:
    """A NumPy dtype under construction."""

    code: str
    order: Literal["<", ">", "=", "|"] = "="


@dataclass(slots=True)
class _Array:
    """A NumPy array under construction, or built."""

    values: np.ndarray | None = None


@dataclass(slots=True)
class _Record:
    """An object of one of the three classes that are more than an array: its attributes."""

    meaning: str
    state: dict[str, Any] = field(default_factory=dict)


_MARK: Final = object()

_LITERALS: Final = frozenset(
    "BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
    "BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split()
)
"""Opcodes that push their own argument."""

_CONSTANTS: Final = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES: Final = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    """The stack machine; each method is one kind of instruction."""

    admitted = ADMITTED
    """Names that a file may mention, and their meanings."""
    expected = "a MANO file"
    """What the file should be, for messages."""
    source = "Take the file from its source (https://mano.is.tue.mpg.de)"
    """Where to get a sound one."""

    def __init__(self, path: Path):
        self.path = path
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        """Execute a whole pickle and return what it leaves on the stack."""
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "STOP":
                return self.stack.pop()
            self._step(opcode.name, argument)
        raise ValueError("it has no end")

    def _step(self, opcode: str, argument: Any) -> None:
        if opcode in _LITERALS:
            self.stack.append(argument)
        elif opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode])
        elif opcode in _TUPLES:
            self.stack.append(tuple(self._pop(_TUPLES[opcode])))
        elif opcode in _INSTRUCTIONS:
            _INSTRUCTIONS[opcode](self, argument)
        else:
            self._refuse(f"the instruction {opcode}")

    def _refuse(self, what: str, why: str = "") -> None:
        raise PickleRefusedError(
            f"{self.path}: refused {what}: {why or f'{self.expected} needs none'}, and a pickle "
            f"may run any code. {self.source}, or have whoever wrote it save plain arrays as .npz"
        )

    def _pop(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise ValueError("an instruction finds too few values")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def _pop_to_mark(self) -> list[Any]:
        for position in range(len(self.stack) - 1, -1, -1):
            if self.stack[position] is _MARK:
                taken = self.stack[position + 1 :]
                del self.stack[position:]
                return taken
        raise ValueError("an instruction finds no mark")

    def _remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def _append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise TypeError(f"items appended to {_kind(target)}")
        target.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise TypeError(f"keys and values set on {_kind(target)}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Hashing a nest of tuples a million deep would overflow the interpreter's stack.
            if not isinstance(key, str | int | float | bytes | None):
                raise TypeError(f"a dictionary key that is {_kind(key)}")
            target[key] = value

    def _name(self, module: Any, name: Any) -> None:
        meaning = None
        if isinstance(module, str) and isinstance(name, str):
            meaning = self.admitted.get((module, name))
        if meaning is None:
            self._refuse(f"{_shown(module)}.{_shown(name)}", f"it is no class of {self.expected}")
        self.stack.append(_Name(module, name, str(meaning)))

    def _reduce(self) -> None:
        """What Python would call: only four meanings, each written out here."""
        name, arguments = self._pop(2)
        if not isinstance(name, _Name) or not isinstance(arguments, tuple):
            raise TypeError(f"a call of {_kind(name)}")
        build = self._calls().get(name.meaning)
        if build is None:
            self._refuse(
                f"a call of {name.module}.{name.name}", f"{self.expected} makes no such call"
            )
        else:
            self.stack.append(build(*arguments))

    def _calls(self) -> dict[str, Callable[..., Any]]:
        return {
            "reconstruct": self._call_reconstruct,
            "dtype": self._call_dtype,
            "frombuffer": self._call_frombuffer,
            "encode": self._call_encode,
            "set": self._call_set,
        }

    def _new_object(self) -> None:
        name, arguments = self._pop(2)
        is_record = isinstance(name, _Name) and name.meaning in ("Ch", "Select", "csc_matrix")
        if not is_record or arguments != ():
            self._refuse(f"an object of {_describe(name)}", f"{self.expected} makes none this way")
        self.stack.append(_Record(name.meaning))

    def _build(self) -> None:
        target, state = self._pop(2)
        if isinstance(target, _Record) and isinstance(state, dict):
            target.state.update(state)
        elif isinstance(target, _Dtype) and isinstance(state, tuple):
            self._build_dtype(target, state)
        elif isinstance(target, _Array) and isinstance(state, tuple):
            self._build_array(target, state)
        else:
            self._refuse(f"a state given to {_describe(target)}")
        self.stack.append(target)

    def _build_dtype(self, target: _Dtype, state: tuple[Any, ...]) -> None:
        """State (version, byte order, subarray, names, fields, ...): plain numbers have none."""
        _, order, *parts = state
        if order not in ("<", ">", "=", "|") or parts[:3] != [None, None, None]:
            self._refuse("a structured dtype", f"{self.expected} holds plain numbers")
        target.order = order

    def _build_array(self, target: _Array, state: tuple[Any, ...]) -> None:
        """State ([version,] shape, dtype, is Fortran order, bytes)."""
        if len(state) not in (4, 5):
            raise ValueError("an array whose state has not four or five parts")
        shape, dtype, fortran, content = state[-4:]
        if isinstance(content, str):
            content = content.encode("latin1")
        target.values = self._array(content, dtype, shape, "F" if fortran else "C")

    def _array(self, content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
        if not isinstance(dtype, _Dtype):
            raise TypeError(f"an array whose dtype is {_kind(dtype)}")
        if not isinstance(content, bytes | bytearray):
            self._refuse(f"an array of {_kind(content)}", f"{self.expected} holds plain numbers")
        if order not in ("C", "F"):
            raise ValueError(f"an array in the order {_shown(order)}")
        kind = np.dtype(dtype.code).newbyteorder(dtype.order)
        shape = _checked_shape(shape)
        if len(content) != math.prod(shape) * kind.itemsize:
            raise ValueError(
                f"an array of shape {shape} and dtype {kind} has {len(content)} bytes of content"
            )
        values = np.frombuffer(bytes(content), kind).reshape(shape, order=order)
        return values.astype(kind.newbyteorder("="))

    def _call_dtype(self, code: Any, *_: Any) -> _Dtype:
        if not isinstance(code, str) or not _NUMBER_DTYPE.fullmatch(code):
            self._refuse(f"numpy.dtype({_shown(code)})", f"{self.expected} holds plain numbers")
        return _Dtype(code)

    def _call_reconstruct(self, subtype: Any, *_: Any) -> _Array:
        if not isinstance(subtype, _Name) or subtype.meaning != "ndarray":
            self._refuse(f"an array of the type {_describe(subtype)}", "only numpy.ndarray is")
        return _Array()

    def _call_frombuffer(
        self, content: Any, dtype: Any, shape: Any, order: Any, axes: Any = None
    ) -> _Array:
        if order == "K" and axes is not None:
            values = self._array(content, dtype, shape, "C")
            return _Array(values.transpose(_checked_shape(axes)))
        return _Array(self._array(content, dtype, shape, order))

    def _call_encode(self, text: Any, encoding: Any = None, *_: Any) -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            self._refuse(f"_codecs.encode(..., {_shown(encoding)})", "only latin1 is admitted")
        return text.encode("latin1")

    def _call_set(self, items: Any = ()) -> list[Any]:
        """A list: no set of such a file is of use, and hashing strange members is not safe."""
        if not isinstance(items, list | tuple):
            raise TypeError(f"a set of {_kind(items)}")
        return list(items)


_INSTRUCTIONS: Final[dict[str, Callable[[_Machine, Any], Any]]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "MARK": lambda machine, _: machine.stack.append(_MARK),
    "POP": lambda machine, _: machine._pop(1),
    "POP_MARK": lambda machine, _: machine._pop_to_mark(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine._pop_to_mark())),
    "LIST": lambda machine, _: machine.stack.append(machine._pop_to_mark()),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_SET": lambda machine, _: machine.stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "APPEND": lambda machine, _: machine._append(machine._pop(1)),
    "APPENDS": lambda machine, _: machine._append(machine._pop_to_mark()),
    "ADDITEMS": lambda machine, _: machine._append(machine._pop_to_mark()),
    "SETITEM": lambda machine, _: machine._set_items(machine._pop(2)),
    "SETITEMS": lambda machine, _: machine._set_items(machine._pop_to_mark()),
    "BINPUT": lambda machine, index: machine._remember(index),
    "LONG_BINPUT": lambda machine, index: machine._remember(index),
    "MEMOIZE": lambda machine, _: machine._remember(len(machine.memo)),
    "BINGET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "GLOBAL": lambda machine, both: machine._name(*both.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine._name(*machine._pop(2)),
    "REDUCE": lambda machine, _: machine._reduce(),
    "NEWOBJ": lambda machine, _: machine._new_object(),
    "BUILD": lambda machine, _: machine._build(),
}
"""Instructions that this machine has; EXT, INST, OBJ, PERSID, NEXT_BUFFER, ... are not here."""


class _ObjectArrayMachine(_Machine):
    """The stack machine for one array of objects that holds a dictionary."""

    admitted = {
        name: meaning
        for name, meaning in (ADMITTED | _SCALARS).items()
        if meaning not in ("Ch", "Select", "csc_matrix")
    }
    expected = "a dictionary of arrays"
    source = "Take the file from its source"

    held: Any = None
    """What the outermost array holds."""

    def _calls(self) -> dict[str, Callable[..., Any]]:
        return super()._calls() | {"scalar": self._call_scalar}

    def _call_scalar(self, dtype: Any, content: Any) -> Any:
        if isinstance(content, str):
            content = content.encode("latin1")
        return self._array(content, dtype, (), "C")[()]

    def _call_dtype(self, code: Any, *arguments: Any) -> _Dtype:
        return _Dtype(code) if code == _OBJECT_DTYPE else super()._call_dtype(code, *arguments)

    def _array(self, content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
        if _is_object(dtype):
            self._refuse("an array of objects", "only the outermost one is admitted")
        return super()._array(content, dtype, shape, order)

    def _build_array(self, target: _Array, state: tuple[Any, ...]) -> None:
        *_, shape, dtype, _, content = state
        if _is_object(dtype) and shape == () and isinstance(content, list) and len(content) == 1:
            (self.held,) = content
        else:
            super()._build_array(target, state)


def _is_object(dtype: Any) -> bool:
    return isinstance(dtype, _Dtype) and dtype.code == _OBJECT_DTYPE


def _checked_shape(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("a shape that is no tuple of sizes")
    if len(shape) > 8 or math.prod(shape) > _LARGEST_ARRAY:
        raise ValueError(f"an array of shape {shape}, too large for a hand")
    return shape


def _finished(value: Any, path: Path) -> Any:
    """An entry of the dictionary as the rest of the program sees it."""
    if not isinstance(value, _Array | _Record):
        return value
    try:
        return _dense(value)
    except (ValueError, LookupError, TypeError) as error:
        raise HandFileError(
            f"{path} is no readable pickle: a {_describe(value)} is incomplete or corrupt ({error})"
        ) from error


def _dense(value: Any) -> np.ndarray:
    """The array that an array, a chumpy object or a sparse matrix stands for."""
    if isinstance(value, _Array) and value.values is not None:
        return value.values
    if not isinstance(value, _Record):
        raise TypeError(f"expected an array, found {_kind(value)}")
    state = value.state
    if value.meaning == "Ch":
        return _plain(state["x"])
    if value.meaning == "Select":
        source = state["a"]
        # One level: a Select of a Select would be no MANO file, and could be a cycle.
        whole = _dense(source) if _is(source, "Ch") else _plain(source)
        chosen = whole.ravel()[_plain(state["idxs"])]
        shape = state["preferred_shape"]
        return chosen.reshape(_checked_shape(tuple(_numbers(shape))))
    return _dense_columns(state)


def _dense_columns(state: dict[str, Any]) -> np.ndarray:
    """A compressed-sparse-column matrix, written out."""
    shape = _checked_shape(tuple(_numbers(state["_shape"])))
    data, rows = _plain(state["data"]), _plain(state["indices"])
    starts = _plain(state["indptr"]).astype(np.int64)
    if len(shape) != 2 or starts.shape != (shape[1] + 1,) or data.shape != rows.shape:
        raise ValueError("a sparse matrix whose parts do not fit together")
    counts = np.diff(starts)
    if starts[0] != 0 or starts[-1] != len(data) or np.any(counts < 0) or np.any(rows < 0):
        raise ValueError("a sparse matrix whose columns do not fit its data")
    dense = np.zeros(shape)
    # Repeated entries add up, as in SciPy.
    np.add.at(dense, (rows, np.repeat(np.arange(shape[1]), counts)), data)
    return dense


def _plain(value: Any) -> np.ndarray:
    if not isinstance(value, _Array) or value.values is None:
        raise TypeError(f"expected an array, found {_kind(value)}")
    return value.values


def _numbers(value: Any) -> list[int]:
    if isinstance(value, _Array):
        return [int(n) for n in _plain(value).ravel()]
    if not isinstance(value, tuple | list):
        raise TypeError(f"expected a shape, found {_kind(value)}")
    return list(value)


def _is(value: Any, meaning: str) -> bool:
    return isinstance(value, _Record) and value.meaning == meaning


def _describe(value: Any) -> str:
    if isinstance(value, _Name):
        return f"{value.module}.{value.name}"
    return value.meaning if isinstance(value, _Record) else _kind(value)


def _shown(value: Any) -> str:
    """A string of the file as a message may show it: short, and without control characters."""
    if not isinstance(value, str):
        return _kind(value)
    return value if value.isprintable() and len(value) <= 100 else ascii(value[:100])


def _kind(value: Any) -> str:
    """A value's type: its content may be endless."""
    return {"_Name": "a class", "_Array": "numpy.ndarray", "_Dtype": "numpy.dtype"}.get(
        type(value).__name__, type(value).__name__
    )
