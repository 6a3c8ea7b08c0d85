"""A stack machine that reads pickles and can call nothing.

A pickle is a program for a small stack machine, and two of that machine's instructions call
whatever the file names. So no part of Python's unpickler runs here. The machine below knows
numbers, strings, containers and a memory of what it has read; a name is looked up in a list of
admitted ones and stays a name, and a call of it is one of the machine's own methods, written out
by hand. It has no instruction that imports or calls anything else.

Python 2 and 3 write such programs in six protocols. All six are read here; the instructions for
objects by class (INST, OBJ, NEWOBJ_EX), for the extension registry (EXT1, ...), for buffers
elsewhere (NEXT_BUFFER, READONLY_BUFFER) and the persistent id in text (PERSID) are refused.
Strings of Python 2 are read as latin-1.
"""

import pickletools
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mano_jax.byte_source import ByteSource, DamagedError

_LONGEST_INTEGER: Final = 1024
"""Bytes of an integer: more is damage, and could not be printed."""


class ForbiddenError(Exception):
    """The pickle asks for something that is not admitted."""

    def __init__(self, what: str, why: str = ""):
        """What was refused by its name, and why if there is a particular reason."""
        super().__init__(what, why)
        self.what, self.why = what, why


@dataclass(frozen=True, slots=True)
class Name:
    """An admitted name: a value on the stack, nothing that could be called or changed."""

    module: str
    name: str
    meaning: str
    """What the machine takes it for; one meaning may go by several names."""


@dataclass(slots=True)
class Part:
    """A value that only the machine knows: other values are made of it."""

    meaning: str
    """What it is, for messages."""
    value: Any = None


@dataclass(slots=True)
class Unfinished(Part):
    """An object between the instruction that makes it and the one that gives it its content.

    Once it is done, `value` stands for it wherever the file refers to it again.
    """

    done: bool = False

    def finish(self, value: Any) -> Any:
        """Set what it has become, and return that."""
        self.value, self.done = value, True
        return value


class PickleMachine:
    """The machine. A subclass admits names and says what calls of them mean.

    Values are held as Python has them. Sets are lists: hashing strange members is not safe.
    """

    names: Mapping[tuple[str, str], str] = {}
    """Module and name of everything that a file may mention, and what it is taken for."""
    expected = "a file of plain values"
    """What the file should be, for messages."""

    def __init__(self):
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        """The stack under each open mark."""
        self.memo: dict[int, Any] = {}
        self.calls: dict[str, Callable[..., Any]] = {}
        """What a call means, by the meaning of the name that is called."""

    def run(self, source: ByteSource) -> Any:
        """Execute one pickle and return what it leaves on the stack.

        The source stands behind it then. A further run begins anew.

        Raises:
            ForbiddenError: the pickle asks for something that is not admitted.
            DamagedError: it is truncated or corrupt.
        """
        self.stack, self.below, self.memo = [], [], {}
        try:
            while True:
                if source.at > source.safe:
                    source.refill()
                code = source.chunk[source.at]
                source.at += 1
                if code == _STOP:
                    return self.stack.pop()
                step = _STEPS[code]
                if step is None:
                    raise _unknown(code)
                step(self, source)
        except struct.error as error:
            raise DamagedError("it has no end") from error
        except IndexError as error:
            ended = source.at >= len(source.chunk)
            reason = "it has no end" if ended else "an instruction finds too few values"
            raise DamagedError(reason) from error
        except KeyError as error:
            raise DamagedError("it refers to a value that it has not told") from error
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise DamagedError(str(error)) from error

    def pop(self, count: int) -> list[Any]:
        """The top of the stack, removed."""
        if count > len(self.stack):
            raise DamagedError("an instruction finds too few values")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def pop_to_mark(self) -> list[Any]:
        """Everything above the last mark; both are removed."""
        if not self.below:
            raise DamagedError("an instruction finds no mark")
        taken, self.stack = self.stack, self.below.pop()
        return taken

    def set_items(self, target: Any, items: list[Any]) -> None:
        """Put keys and values, which alternate, into a dictionary."""
        if type(target) is not dict or len(items) % 2:
            raise TypeError(f"keys and values set on {kind_of(target)}")
        for at in range(0, len(items), 2):
            key = items[at]
            target[key if type(key) is str else self.key(key)] = items[at + 1]

    def key(self, key: Any) -> Any:
        """A dictionary's key as it is stored, if it may be one."""
        # Hashing a nest of tuples a million deep would overflow the interpreter's stack.
        if not isinstance(key, str | int | float | bytes | None):
            raise TypeError(f"a dictionary key that is {kind_of(key)}")
        # Larger integers can be chosen to have one hash, and a dictionary of them takes hours.
        if isinstance(key, int) and not -(2**63) <= key < 2**64:
            raise ValueError("a dictionary key that is a number of more than 64 bits")
        return key

    def extend(self, target: Any, items: list[Any]) -> None:
        """Add items to a list."""
        if type(target) is not list:
            raise TypeError(f"items appended to {kind_of(target)}")
        target.extend(items)

    def name(self, module: Any, name: Any) -> Name:
        """The admitted name that a file mentions."""
        meaning = None
        if isinstance(module, str) and isinstance(name, str):
            meaning = self.names.get((module, name))
        if meaning is None:
            raise ForbiddenError(
                f"{shown(module)}.{shown(name)}", f"it is no class of {self.expected}"
            )
        return Name(module, name, meaning)

    def call(self, name: Any, arguments: Any) -> Any:
        """What Python would call: only the meanings in `calls`."""
        if type(name) is not Name or type(arguments) is not tuple:
            raise TypeError(f"a call of {describe(name)}")
        meant = self.calls.get(name.meaning)
        if meant is None:
            raise ForbiddenError(
                f"a call of {describe(name)}", f"{self.expected} makes no such call"
            )
        return meant(*arguments)

    def new_object(self, name: Any, arguments: Any) -> Any:
        """An object by its class: none, unless a subclass admits some."""
        raise ForbiddenError(
            f"an object of {describe(name)}", f"{self.expected} makes none this way"
        )

    def build(self, target: Any, state: Any) -> Any:
        """An object with the state that was stored for it: none, unless a subclass admits some."""
        raise ForbiddenError(f"a state given to {describe(target)}")

    def persistent(self, identity: Any) -> Any:
        """What lies outside the pickle: nothing, unless a subclass knows where."""
        raise ForbiddenError("the instruction BINPERSID")


Step = Callable[[PickleMachine, ByteSource], Any]


def _fixed(layout: str) -> Step:
    """A number of fixed size."""
    form = struct.Struct(layout)

    def step(machine: PickleMachine, source: ByteSource) -> None:
        machine.stack.append(form.unpack_from(source.chunk, source.at)[0])
        source.at += form.size

    return step


def _sized(layout: str, meaning: Callable[[bytes], Any]) -> Step:
    """A size, and as many bytes, which mean something."""
    form = struct.Struct(layout)

    def step(machine: PickleMachine, source: ByteSource) -> None:
        (size,) = form.unpack_from(source.chunk, source.at)
        source.at += form.size
        machine.stack.append(meaning(source.take(size)))

    return step


def _line(meaning: Callable[[bytes], Any]) -> Step:
    """A line of text, which means something."""
    return lambda machine, source: machine.stack.append(meaning(source.line()))


def _constant(value: Any) -> Step:
    return lambda machine, source: machine.stack.append(value)


def _fresh(kind: type) -> Step:
    return lambda machine, source: machine.stack.append(kind())


def _tuple(count: int) -> Step:
    return lambda machine, source: machine.stack.append(tuple(machine.pop(count)))


def _marked(kind: type) -> Step:
    """A container of all that lies above the mark."""

    def step(machine: PickleMachine, source: ByteSource) -> None:
        items = kind(machine.pop_to_mark())
        machine.stack.append(items)

    return step


def _skip(count: int) -> Step:
    return lambda machine, source: source.take(count)


def _put(layout: str) -> Step:
    form = struct.Struct(layout)

    def step(machine: PickleMachine, source: ByteSource) -> None:
        machine.memo[form.unpack_from(source.chunk, source.at)[0]] = machine.stack[-1]
        source.at += form.size

    return step


def _get(layout: str) -> Step:
    form = struct.Struct(layout)

    def step(machine: PickleMachine, source: ByteSource) -> None:
        _recall(machine, form.unpack_from(source.chunk, source.at)[0])
        source.at += form.size

    return step


def _recall(machine: PickleMachine, index: int) -> None:
    value = machine.memo[index]
    if type(value) is Unfinished and value.done:
        value = value.value
    machine.stack.append(value)


def _memoize(machine: PickleMachine, source: ByteSource) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _put_text(machine: PickleMachine, source: ByteSource) -> None:
    machine.memo[int(source.line())] = machine.stack[-1]


def _mark(machine: PickleMachine, source: ByteSource) -> None:
    machine.below.append(machine.stack)
    machine.stack = []


def _pop(machine: PickleMachine, source: ByteSource) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_to_mark()


def _append(machine: PickleMachine, source: ByteSource) -> None:
    items = machine.pop(1)
    machine.extend(machine.stack[-1], items)


def _appends(machine: PickleMachine, source: ByteSource) -> None:
    items = machine.pop_to_mark()
    machine.extend(machine.stack[-1], items)


def _set_item(machine: PickleMachine, source: ByteSource) -> None:
    items = machine.pop(2)
    machine.set_items(machine.stack[-1], items)


def _set_items(machine: PickleMachine, source: ByteSource) -> None:
    items = machine.pop_to_mark()
    machine.set_items(machine.stack[-1], items)


def _dict(machine: PickleMachine, source: ByteSource) -> None:
    items, target = machine.pop_to_mark(), {}
    machine.set_items(target, items)
    machine.stack.append(target)


def _global(machine: PickleMachine, source: ByteSource) -> None:
    module, name = source.line().decode(), source.line().decode()
    machine.stack.append(machine.name(module, name))


def _integer(content: bytes) -> int:
    if len(content) > _LONGEST_INTEGER:
        raise ValueError(f"an integer of {len(content)} bytes")
    return int.from_bytes(content, "little", signed=True)


def _integer_text(content: bytes) -> int | bool:
    """A line of digits; two spellings of 0 and 1 are how protocol 0 writes booleans."""
    if content in (b"00", b"01"):
        return content == b"01"
    return int(content.removesuffix(b"L"))


_ESCAPE: Final = re.compile(rb"\\(x[0-9a-fA-F]{2}|[0-7]{1,3}|.|$)", re.S)
_ESCAPED: Final = {
    b"\\": b"\\",
    b"'": b"'",
    b'"': b'"',
    b"a": b"\a",
    b"b": b"\b",
    b"f": b"\f",
    b"n": b"\n",
    b"r": b"\r",
    b"t": b"\t",
    b"v": b"\v",
}


def _quoted(content: bytes) -> str:
    """A string as Python 2 quotes it. Python's own reader of escapes warns, this one refuses."""
    if len(content) < 2 or content[:1] not in (b"'", b'"') or content[:1] != content[-1:]:
        raise ValueError("a string without quotes")
    return _ESCAPE.sub(_unescaped, content[1:-1]).decode("latin1")


def _unescaped(found: re.Match[bytes]) -> bytes:
    code = found[1]
    if code in _ESCAPED:
        return _ESCAPED[code]
    if len(code) == 3 and code[:1] == b"x":
        return bytes([int(code[1:], 16)])
    if code[:1].isdigit():
        return bytes([int(code, 8) & 0xFF])
    raise ValueError("a string with an unknown escape")


def _latin1(content: bytes) -> str:
    return content.decode("latin1")


def _utf8(content: bytes) -> str:
    return content.decode("utf-8", "surrogatepass")


_INSTRUCTIONS: Final[dict[str, Step]] = {
    # Around the program.
    "PROTO": _skip(1),
    "FRAME": _skip(8),
    # Numbers and constants.
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "INT": _line(_integer_text),
    "LONG": _line(_integer_text),
    "BININT": _fixed("<i"),
    "BININT1": _fixed("<B"),
    "BININT2": _fixed("<H"),
    "LONG1": _sized("<B", _integer),
    "LONG4": _sized("<i", _integer),
    "FLOAT": _line(float),
    "BINFLOAT": _fixed(">d"),
    # Strings and bytes.
    "STRING": _line(_quoted),
    "BINSTRING": _sized("<i", _latin1),
    "SHORT_BINSTRING": _sized("<B", _latin1),
    "UNICODE": _line(lambda content: content.decode("raw-unicode-escape")),
    "BINUNICODE": _sized("<I", _utf8),
    "SHORT_BINUNICODE": _sized("<B", _utf8),
    "BINUNICODE8": _sized("<Q", _utf8),
    "BINBYTES": _sized("<I", bytes),
    "SHORT_BINBYTES": _sized("<B", bytes),
    "BINBYTES8": _sized("<Q", bytes),
    "BYTEARRAY8": _sized("<Q", bytes),
    # Containers.
    "EMPTY_TUPLE": _constant(()),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "TUPLE": _marked(tuple),
    "EMPTY_LIST": _fresh(list),
    "LIST": _marked(list),
    "APPEND": _append,
    "APPENDS": _appends,
    "EMPTY_SET": _fresh(list),
    "ADDITEMS": _appends,
    "FROZENSET": _marked(list),
    "EMPTY_DICT": _fresh(dict),
    "DICT": _dict,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    # The stack and the memory.
    "MARK": _mark,
    "POP": _pop,
    "POP_MARK": lambda machine, _: machine.pop_to_mark(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "PUT": _put_text,
    "BINPUT": _put("<B"),
    "LONG_BINPUT": _put("<I"),
    "MEMOIZE": _memoize,
    "GET": lambda machine, source: _recall(machine, int(source.line())),
    "BINGET": _get("<B"),
    "LONG_BINGET": _get("<I"),
    # Names, and what a subclass makes of them.
    "GLOBAL": _global,
    "STACK_GLOBAL": lambda machine, _: machine.stack.append(machine.name(*machine.pop(2))),
    "REDUCE": lambda machine, _: machine.stack.append(machine.call(*machine.pop(2))),
    "NEWOBJ": lambda machine, _: machine.stack.append(machine.new_object(*machine.pop(2))),
    "BUILD": lambda machine, _: machine.stack.append(machine.build(*machine.pop(2))),
    "BINPERSID": lambda machine, _: machine.stack.append(machine.persistent(*machine.pop(1))),
}
"""What each instruction does, by the name that `pickletools` documents it under."""

_CODES: Final = {info.name: ord(info.code) for info in pickletools.opcodes}
_STOP: Final = _CODES["STOP"]
_STEPS: Final[list[Step | None]] = [None] * 256
for _name, _step in _INSTRUCTIONS.items():
    _STEPS[_CODES[_name]] = _step


def _unknown(code: int) -> Exception:
    """The error for a byte that is none of the instructions above."""
    for name, known in _CODES.items():
        if known == code:
            return ForbiddenError(f"the instruction {name}")
    return DamagedError(f"byte {code:#04x} is no instruction")


def shown(value: Any) -> str:
    """A string of the file as a message may show it: short, and without control characters."""
    if not isinstance(value, str):
        return kind_of(value)
    return value if value.isprintable() and len(value) <= 100 else ascii(value[:100])


def kind_of(value: Any) -> str:
    """A value's type: its content may be endless."""
    if isinstance(value, Part):
        return value.meaning
    return "a class" if isinstance(value, Name) else type(value).__name__


def describe(value: Any) -> str:
    """A name as the file has it, or a value's type."""
    if isinstance(value, Name):
        return f"{shown(value.module)}.{shown(value.name)}"
    return kind_of(value)
