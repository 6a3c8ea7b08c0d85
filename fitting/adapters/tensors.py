"""PyTorch's files and tensors, read without PyTorch.

    torch.save          a zip archive: NAME/data.pkl, a pickle that refers to storages by their
                        keys; NAME/data/KEY, one storage's bytes; NAME/byteorder
    torch.save of old   five pickles in a row (a magic number, the protocol, byte order and such,
                        the tree, the storages' keys), then each storage's length and bytes
    pickle.dump         each tensor's storage is bytes that hold an old file of that storage alone

Tensors become arrays that cannot be written to; bfloat16, which NumPy has not, becomes float32.
A tensor is a view of its storage by offset, size and strides, which are held against its length.
"""

import io
import math
import struct
import zipfile
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from fitting.adapters.pickled import TREE_NAMES, TreeMachine
from mano_jax.byte_source import ByteSource, DamagedError
from mano_jax.pickle_machine import ForbiddenError, Name, Part, describe, kind_of, shown

_STORAGES: Final = {
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "HalfStorage": "f2",
    "BFloat16Storage": "bf16",
    "IntStorage": "i4",
    "LongStorage": "i8",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "b1",
}
"""What a storage's numbers are, by the name of its class."""

_TENSOR_NAMES: Final = {
    ("torch._utils", "_rebuild_tensor"): "tensor",
    ("torch._utils", "_rebuild_tensor_v2"): "tensor",
    ("torch._utils", "_rebuild_parameter"): "parameter",
    ("torch", "Size"): "size",
    ("torch", "device"): "device",
    **{(module, name): name for module in ("torch", "torch.cuda") for name in _STORAGES},
}
_LOAD_FROM_BYTES: Final = {("torch.storage", "_load_from_bytes"): "storage in bytes"}

_MAGIC: Final = 0x1950A86A20F9469CFC6C
_PROTOCOL: Final = 1001

_LARGEST_EXPANDED: Final = 2**24
"""Entries of a tensor that has more of them than its storage, as `Tensor.expand` makes."""


def read_pickled(source: ByteSource) -> Any:
    """The tree in a pickle, whose tensors `pickle.dump` wrote, or in an old file of `torch.save`.

    Raises:
        ForbiddenError: it names something that is no part of a tree.
        DamagedError: it is truncated or corrupt.
    """
    tree = _TensorMachine().run(source)
    return _read_old(source) if _is_magic(tree) else tree


def read_saved(archive: zipfile.ZipFile, folder: str) -> Any:
    """The tree in an archive of `torch.save`.

    Args:
        archive: its members' sizes have been checked.
        folder: where data.pkl is, "" or with a "/" at its end.

    Raises:
        ForbiddenError: it names something that is no part of a tree.
        DamagedError: it is truncated or corrupt, or lacks a storage.
    """
    members = {info.filename: info for info in archive.infolist()}
    # Files from before there were machines of both byte orders do not tell.
    order = ">" if _content(archive, members.get(folder + "byteorder")) == b"big" else "<"

    def load(kind: str, key: str, count: int) -> np.ndarray:
        content = _content(archive, members.get(f"{folder}data/{key}"))
        if len(content) != count * _item_size(kind):
            raise DamagedError(
                f"storage {shown(key)!r} should have {count} numbers, found {len(content)} bytes"
            )
        return _decoded(content, kind, order)

    info = members[folder + "data.pkl"]
    with archive.open(info) as stream:
        return _SavedMachine(load).run(ByteSource(stream, info.file_size))


def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo | None) -> bytes:
    """A member's bytes, none if there is no such member."""
    if info is None:
        return b""
    with archive.open(info) as stream:
        return ByteSource(stream, info.file_size).take(info.file_size)


def _read_old(source: ByteSource) -> Any:
    """What follows the magic number; one storage alone if that is what was saved."""
    machine = TreeMachine()
    protocol, system = machine.run(source), machine.run(source)
    if protocol != _PROTOCOL or not isinstance(system, dict):
        raise DamagedError("a torch.save file of an unknown version")
    order = "<" if system.get("little_endian", True) else ">"
    storages: dict[str, tuple[str, np.ndarray]] = {}
    left = source.left

    def load(kind: str, key: str, count: int) -> np.ndarray:
        nonlocal left
        left -= count * _item_size(kind)
        if key in storages or left < 0:
            raise DamagedError(f"a storage of {count} numbers, for which there is no room")
        storages[key] = kind, np.zeros(count, "f4" if kind == "bf16" else kind)
        return storages[key][1]

    tree = _SavedMachine(load).run(source)
    keys = machine.run(source)
    if not isinstance(keys, list) or not _same(keys, list(storages)):
        raise DamagedError("the storages that follow are not those that tensors refer to")
    for key in keys:
        kind, values = storages[key]
        (count,) = struct.unpack("<q", source.take(8))
        if count != len(values):
            raise DamagedError(f"a storage of {len(values)} numbers has {count}")
        values[:] = _decoded(source.take(count * _item_size(kind)), kind, order)
        values.flags.writeable = False
    return tree


def _same(keys: list[Any], storages: list[str]) -> bool:
    return all(type(key) is str for key in keys) and sorted(keys) == sorted(storages)


def _is_magic(tree: Any) -> bool:
    return type(tree) is int and tree == _MAGIC


def _item_size(kind: str) -> int:
    return 2 if kind == "bf16" else np.dtype(kind).itemsize


def _decoded(content: bytes, kind: str, order: str) -> np.ndarray:
    """A storage's bytes as numbers in this machine's byte order, not to be written to."""
    if kind == "bf16":
        # The upper half of a float32.
        values = (np.frombuffer(content, order + "u2").astype(np.uint32) << 16).view(np.float32)
    elif kind == "b1":
        values = np.frombuffer(content, np.uint8) != 0
    else:
        values = np.frombuffer(content, order + kind)
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
    values.flags.writeable = False
    return values


class _Storage(Part):
    """A tensor's storage: its numbers, under `value`."""

    __slots__ = ()


class _TensorMachine(TreeMachine):
    """The stack machine for trees with tensors."""

    names = {**TREE_NAMES, **_TENSOR_NAMES, **_LOAD_FROM_BYTES}

    def __init__(self):
        super().__init__()
        self.calls |= {
            "tensor": self._call_tensor,
            "parameter": self._call_parameter,
            "size": self._call_size,
            "device": self._call_device,
            "storage in bytes": self._call_storage,
        }

    def _call_tensor(
        self,
        storage: Any,
        offset: Any,
        size: Any,
        strides: Any,
        requires_grad: Any = False,
        hooks: Any = None,
        metadata: Any = None,
    ) -> np.ndarray:
        if type(storage) is not _Storage:
            raise TypeError(f"a tensor made of {kind_of(storage)}")
        if metadata:
            raise ForbiddenError("a tensor that is conjugated or negated when it is read")
        (offset,) = self.shape((offset,))
        return _strided(storage.value, offset, self.shape(size), self.shape(strides))

    def _call_parameter(self, tensor: Any, *_: Any) -> np.ndarray:
        if not isinstance(tensor, np.ndarray):
            raise TypeError(f"a parameter made of {kind_of(tensor)}")
        return tensor

    def _call_size(self, sizes: Any = ()) -> tuple[int, ...]:
        return self.shape(sizes)

    def _call_device(self, kind: Any, index: Any = None) -> str:
        if not isinstance(kind, str) or not isinstance(index, int | None):
            raise TypeError("a device that is none")
        return kind if index is None else f"{kind}:{index}"

    def _call_storage(self, content: Any) -> _Storage:
        if type(content) is not bytes:
            raise TypeError(f"a storage made of {kind_of(content)}")
        source = ByteSource(io.BytesIO(content), len(content))
        if not _is_magic(TreeMachine().run(source)):
            raise DamagedError("a storage whose bytes torch.save did not write")
        storage = _read_old(source)
        if type(storage) is not _Storage:
            raise TypeError(f"a storage made of {kind_of(storage)}")
        return storage


class _SavedMachine(_TensorMachine):
    """The stack machine for the pickle in a file of `torch.save`, with storages outside of it."""

    names = {**TREE_NAMES, **_TENSOR_NAMES}

    def __init__(self, load: Callable[[str, str, int], np.ndarray]):
        """`load` yields a storage by its kind, a value of `_STORAGES`, its key and length."""
        super().__init__()
        self._load = load
        self._loaded: dict[tuple[str, str, int], _Storage] = {}

    def persistent(self, identity: Any) -> Any:
        """A storage: ("storage", its class, its key, device, length[, view])."""
        if type(identity) is not tuple or len(identity) not in (5, 6) or identity[0] != "storage":
            raise ForbiddenError("a persistent id of another kind than a tensor's storage")
        _, name, key, _, count, *view = identity
        if type(name) is not Name or name.meaning not in _STORAGES or view not in ([], [None]):
            raise ForbiddenError(f"a storage of {describe(name)}", "only whole ones of numbers are")
        if type(key) is not str:
            raise TypeError(f"a storage's key that is {kind_of(key)}")
        (count,) = self.shape((count,))
        wanted = _STORAGES[name.meaning], key, count
        if wanted not in self._loaded:
            self._loaded[wanted] = _Storage(f"a {name.meaning}", self._load(*wanted))
        return self._loaded[wanted]


def _strided(
    storage: np.ndarray, offset: int, size: tuple[int, ...], strides: tuple[int, ...]
) -> np.ndarray:
    """The view of a storage that a tensor is, not to be written to."""
    if len(size) != len(strides):
        raise ValueError(f"a tensor of shape {size} with strides {strides}")
    count = math.prod(size)
    if not count:
        return np.empty(size, storage.dtype)
    last = offset + sum((n - 1) * stride for n, stride in zip(size, strides, strict=True))
    if last >= len(storage) or count > max(len(storage), _LARGEST_EXPANDED):
        raise ValueError(
            f"a tensor of shape {size}, strides {strides} and offset {offset} in a storage of "
            f"{len(storage)} numbers"
        )
    item = storage.dtype.itemsize
    steps = tuple(item * stride for stride in strides)
    tensor = np.ndarray(size, storage.dtype, storage, item * offset, steps)  # type: ignore
    tensor.flags.writeable = False
    return tensor
