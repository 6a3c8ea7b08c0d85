"""Pickles of any tree: dictionaries, lists, arrays, numbers and text, and nothing that could run.

Besides what `mano_jax.pickle_arrays` reads:

    OrderedDict, defaultdict       dict; the factory of missing entries is never called
    set, frozenset                 list
    bytearray                      bytes
    NumPy scalars                  the same; of text, str
    arrays of text or bytes        arrays of text, bytes read as latin-1
    arrays of objects              lists in lists; without axes, the object itself
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np

from mano_jax.byte_source import DamagedError
from mano_jax.pickle_arrays import NUMPY_NAMES, ArrayMachine, Dtype
from mano_jax.pickle_machine import ForbiddenError, Name, describe, kind_of

_BUILTINS: Final = ("builtins", "__builtin__")
"""Where Python 3 and Python 2 keep their own types."""

TREE_NAMES: Final[Mapping[tuple[str, str], str]] = {
    **NUMPY_NAMES,
    ("numpy.core.multiarray", "scalar"): "scalar",
    ("numpy._core.multiarray", "scalar"): "scalar",
    ("collections", "OrderedDict"): "OrderedDict",
    ("collections", "defaultdict"): "defaultdict",
    **{(module, "frozenset"): "set" for module in _BUILTINS},
    **{(module, "complex"): "complex" for module in _BUILTINS},
    **{(module, name): "bytes" for module in _BUILTINS for name in ("bytes", "bytearray")},
    **{
        (module, name): "factory"
        for module in _BUILTINS
        for name in ("dict", "float", "int", "list")
    },
}
"""Every name that a pickled tree may mention, and its meaning here."""

_DEEPEST: Final = 100
"""Containers in containers. Regressors write five; NumPy's arrays have at most 64 axes."""

_TOO_DEEP: Final = f"more than {_DEEPEST} lists or dictionaries are nested in each other"

_FEW: Final = 10_000_000
_REPEATED: Final = 10
"""How often a container may occur on average, where there are more entries than a few.

A kilobyte of lists, each of which names the one before ten times, stands for a billion entries.
"""

_CONTAINERS: Final = frozenset({dict, list, tuple})
_LEAVES: Final = frozenset(
    {str, bytes, int, float, bool, complex, type(None), np.ndarray, *np.sctypeDict.values()}
)


class TreeMachine(ArrayMachine):
    """The stack machine for trees of containers, arrays, numbers and text."""

    names = TREE_NAMES
    expected = "a file of arrays"
    dtypes = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248]|c8|c16|[SU][0-9]{1,8}|O[48]?)")

    def __init__(self):
        super().__init__()
        self.calls |= {
            "scalar": self._call_scalar,
            "OrderedDict": self._call_ordered_dict,
            "defaultdict": self._call_defaultdict,
            "complex": self._call_complex,
            "bytes": self._call_bytes,
        }

    def key(self, key: Any) -> Any:
        """Frames are counted with NumPy's integers too, and hands named by pairs."""
        if isinstance(key, np.generic):
            key = key.item()
        if type(key) is tuple:
            return tuple(super(TreeMachine, self).key(part) for part in key)
        return super().key(key)

    def build(self, target: Any, state: Any) -> Any:
        """As for arrays. A dictionary's attributes, such as a state_dict's, are left out."""
        if type(target) is dict and type(state) is dict:
            return target
        return super().build(target, state)

    def array(self, content: Any, dtype: Any, shape: Any, order: Any) -> Any:
        """The array that a pickle describes; nested lists for one of objects."""
        if type(dtype) is not Dtype or not dtype.value.hasobject:
            return super().array(content, dtype, shape, order)
        if type(content) is not list:
            raise TypeError(f"an array of objects made of {kind_of(content)}")
        return _nested(content, self.shape(shape))

    def _call_scalar(self, dtype: Any, content: Any) -> Any:
        value = self.array(content, dtype, (), "C")[()]
        return str(value) if isinstance(value, str) else value

    def _call_ordered_dict(self, items: Any = ()) -> dict:
        """Python 2 gives a list of pairs, Python 3 sets the items later."""
        pairs = {}
        if not isinstance(items, list | tuple):
            raise TypeError(f"a dictionary made of {kind_of(items)}")
        for pair in items:
            if not isinstance(pair, list | tuple):
                raise TypeError(f"a dictionary made of {kind_of(pair)}")
            self.set_items(pairs, list(pair))
        return pairs

    def _call_defaultdict(self, factory: Any = None) -> dict:
        if factory is not None and not (type(factory) is Name and factory.meaning == "factory"):
            raise ForbiddenError(
                f"a defaultdict of {describe(factory)}", "only dict, float, int and list are"
            )
        return {}

    def _call_complex(self, real: Any, imaginary: Any) -> complex:
        if type(real) is not float or type(imaginary) is not float:
            raise TypeError(f"a complex number made of {kind_of(real)} and {kind_of(imaginary)}")
        return complex(real, imaginary)

    def _call_bytes(self, content: Any = b"", encoding: Any = "latin-1") -> bytes:
        if type(content) is str:
            return self.calls["encode"](content, encoding)
        if type(content) is not bytes:
            raise TypeError(f"bytes made of {kind_of(content)}")
        return content


def _nested(entries: list[Any], shape: tuple[int, ...]) -> Any:
    """Entries in the order of an array of objects, as lists in lists."""
    count = math.prod(shape)
    if count != len(entries):
        raise ValueError(f"an array of objects of shape {shape} has {len(entries)} entries")
    if not shape:
        return entries[0]
    if not count:
        return []
    for size in reversed(shape[1:]):
        entries = [entries[start : start + size] for start in range(0, len(entries), size)]
    return entries


def check_tree(tree: Any) -> None:
    """See that a tree is one, of plain values, so that a program can walk all of it.

    Raises:
        ForbiddenError: a value that only a pickle knows, such as a class, is left in it.
        DamagedError: it contains itself, is nested deeper than any regressor's output, or is a
            small file's way of standing for a huge tree.
    """
    root = [tree]
    depths: dict[int, int] = {}
    sizes: dict[int, int] = {}
    entered: set[int] = set()
    distinct = 0
    todo: list[tuple[Any, list[Any] | None]] = [(root, None)]
    while todo:
        node, inner = todo.pop()
        if inner is not None:  # All that is inside has been seen.
            entered.remove(id(node))
            depths[id(node)] = 1 + max((depths[id(child)] for child in inner), default=0)
            sizes[id(node)] = len(node) + sum(sizes[id(child)] for child in inner)
        elif id(node) in entered:
            raise DamagedError(f"a {kind_of(node)} contains itself")
        elif id(node) not in sizes:
            if len(entered) > _DEEPEST:
                raise DamagedError(_TOO_DEEP)
            entered.add(id(node))
            distinct += len(node)
            inner = _containers(node.values() if type(node) is dict else node)
            todo.append((node, inner))
            todo += [(child, None) for child in inner]
    # What occurs twice was walked once, perhaps where it lies less deep.
    if depths[id(root)] > _DEEPEST + 1:
        raise DamagedError(_TOO_DEEP)
    if sizes[id(root)] > max(_FEW, _REPEATED * distinct):
        raise DamagedError("a few lists, each repeated many times, stand for a huge tree")


def _containers(values: Iterable[Any]) -> list[Any]:
    """The containers among the values of another one."""
    kinds = set(map(type, values))
    if strange := kinds - _CONTAINERS - _LEAVES:
        found = next(value for value in values if type(value) in strange)
        raise ForbiddenError(f"{describe(found)} as a value")
    return [value for value in values if type(value) in _CONTAINERS] if kinds & _CONTAINERS else []
