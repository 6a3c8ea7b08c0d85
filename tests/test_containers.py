"""Containers of regressors' outputs: what is read, what is refused by name, and no other end."""

# Trees are of any type.
# pyright: reportArgumentType=false, reportIndexIssue=false, reportOptionalSubscript=false

import builtins
import collections
import io
import json
import os
import pickle
import re
import struct
import subprocess
import time
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fitting.adapters import containers
from fitting.adapters.containers import read_tree
from fitting.adapters.fields import entry, flag_array, number_array, text
from fitting.errors import InputError
from mano_jax import byte_source
from mano_jax.pickle_arrays import array_from_bytes
from tests.chumpy_layout import Call, Global, Raw, encode

PICKLES = (".pkl", ".pickle", ".p", ".pt", ".pth", ".ckpt")


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def pickled(value: Any) -> bytes:
    """As Python 2 writes protocol 2."""
    return b"\x80\x02" + encode(value) + b"."


def assert_same(found: Any, expected: Any):
    """Equal values of equal types, arrays of equal dtypes."""
    assert type(found) is type(expected), (found, expected)
    if isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected


def tree() -> dict:
    """Every kind of value that is read as it is."""
    rng = np.random.default_rng(0)
    return {
        "frame_01.jpg": {"cam": rng.normal(size=3).astype(np.float32), "ok": True, "no": False},
        "none": None,
        "numbers": [0, -1, 255, 256, 70_000, -(2**31), 2**40, -(2**70), 0.5, float("inf"), 1 + 2j],
        "texts": ("", "wrist", "Münze ✋", "x" * 300, b"", b"\x00\xff", b"y" * 300),
        "nested": [[(1, [2, (3,)])], (), [], {}, {"a": {"b": [{}]}}],
        "keys": {1: "int", 0.5: "float", b"b": "bytes", None: "none", ("right", 3): "pair"},
        "half": rng.normal(size=(2, 3)).astype(np.float16),
        "double": rng.normal(size=(2, 0, 3)),
        "bool": np.array([[True, False]]),
        "int": np.arange(-3, 3, dtype=np.int8).reshape(2, 3),
        "scalar array": np.array(2.5),
        "true": np.array(True),
        "names": np.array([["a", "ünï"], ["", "✋"]]),
        "complex": np.array([1j, 2]),
        "scalars": [np.float32(1.5), np.int64(-2), np.bool_(True)],
        "large": rng.normal(size=70_000),
    }


class TestPickles:
    @pytest.mark.parametrize("protocol", range(6))
    @pytest.mark.parametrize("suffix", PICKLES)
    def test_round_trip(self, tmp_path, protocol, suffix):
        path = written(tmp_path / f"a{suffix}", pickle.dumps(tree(), protocol))
        assert_same(read_tree(path), tree())

    @pytest.mark.parametrize("protocol", range(6))
    def test_what_becomes_something_simpler(self, tmp_path, protocol):
        cube = np.arange(24.0).reshape(2, 3, 4)
        ragged = np.empty((2, 2), object)
        ragged[:] = [[{"a": 1}, [1, 2]], [None, np.arange(3)]]
        lone = np.empty((), object)
        lone[()] = {"verts": np.ones((1, 3), np.float16)}
        nothing = np.empty((), object)
        values = {
            "ordered": (collections.OrderedDict([("b", 1), ("a", 2)]), {"b": 1, "a": 2}),
            "default": (collections.defaultdict(list, {"x": [1]}), {"x": [1]}),
            "default float": (collections.defaultdict(float, {"x": 1.0}), {"x": 1.0}),
            "no default": (collections.defaultdict(None, {1: 2}), {1: 2}),
            "set": ({3}, [3]),
            "frozen": (frozenset({"a"}), ["a"]),
            "empty set": (set(), []),
            "bytearray": (bytearray(b"abc"), b"abc"),
            "no bytearray": (bytearray(), b""),
            "text": (np.str_("ab"), "ab"),
            "text of none": (np.array(["", ""]), np.array(["", ""])),
            "bytes array": (np.array([b"a", b"\xe9b"]), np.array(["a", "éb"])),
            "bytes": (np.array(b"xy"), np.array("xy")),
            "objects": (ragged, [[{"a": 1}, [1, 2]], [None, np.arange(3)]]),
            "fortran": (np.asfortranarray(ragged), [[{"a": 1}, [1, 2]], [None, np.arange(3)]]),
            "lone": (lone, {"verts": np.ones((1, 3), np.float16)}),
            "nothing": ([nothing, nothing], [None, None]),
            "no objects": (np.empty((0, 3), object), []),
            "transposed": (cube.transpose(1, 2, 0), cube.transpose(1, 2, 0)),
            "big endian": (cube.astype(">f4"), cube.astype(np.float32)),
            "big text": (np.array(["añb"], ">U3"), np.array(["añb"])),
            "key": ({np.int64(3): 1, np.str_("a"): 2}, {3: 1, "a": 2}),
        }
        content = pickle.dumps({key: given for key, (given, _) in values.items()}, protocol)
        found = read_tree(written(tmp_path / "a.pkl", content))
        for key, (_, expected) in values.items():
            assert_same(found[key], expected)

    def test_any_size_of_chunk_is_the_same(self, tmp_path, monkeypatch):
        for protocol in (0, 2, 5):
            path = written(tmp_path / "a.pkl", pickle.dumps(tree(), protocol))
            for chunk in (17, 64, 1000):
                monkeypatch.setattr(byte_source, "_CHUNK", chunk)
                assert_same(read_tree(path), tree())

    def test_python_2(self, tmp_path):
        pairs = Call(Global("collections", "OrderedDict"), ([["b", 1], ["a", np.arange(3)]],))
        path = written(tmp_path / "a.pkl", pickled({"od": pairs, "caf\xe9": 2**40}))
        assert_same(read_tree(path), {"od": {"b": 1, "a": np.arange(3)}, "café": 2**40})
        text_protocol = (
            b"(dp0\nS'ab\\n\\x41\\'\\\\'\np1\nI01\nsVm\\xfcnze\np2\n(lp3\nF1.5\naL12L\naI-7\nag1\nas"
            b'S"it\'s"\n(I1\nI2\nts.'
        )
        path = written(tmp_path / "a.pkl", text_protocol)
        key = "ab\nA'\\"
        assert_same(read_tree(path), {key: True, "m\\xfcnze": [1.5, 12, -7, key], "it's": (1, 2)})
        for bad in (b"S'a\\q'\n.", b"Sa\n.", b"S'\n.", b"I1", b"Ix\n.", b"F1x\n."):
            with pytest.raises(InputError, match="a.pkl"):
                read_tree(written(tmp_path / "a.pkl", bad))

    def test_arrays_cannot_be_written_to_and_shared_ones_stay_shared(self, tmp_path):
        one, row = np.arange(4), [1]
        content = pickle.dumps({"a": one, "b": one, "c": row, "d": row}, 4)
        found = read_tree(written(tmp_path / "a.pkl", content))
        assert found["a"] is found["b"] and found["c"] is found["d"]
        with pytest.raises(ValueError, match="read-only"):
            found["a"][0] = 7

    def test_an_iterated_state_dict_loses_its_attributes_alone(self, tmp_path):
        state = Call(Global("collections", "OrderedDict"), (), {"_metadata": {"version": 1}})
        assert read_tree(written(tmp_path / "a.pkl", pickled([state]))) == [{}]


class TestNumpy:
    def test_arrays(self, tmp_path):
        for values in (
            np.arange(6.0).reshape(2, 3),
            np.array(3, ">i2"),
            np.array(["a"]),
            np.eye(3),
        ):
            values = np.asfortranarray(values) if values.ndim == 2 else values
            np.save(tmp_path / "a.npy", values)
            found = read_tree(tmp_path / "a.npy")
            np.testing.assert_array_equal(found, values)
            assert found.dtype == values.dtype.newbyteorder("=") and not found.flags.writeable

    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_archives(self, tmp_path, save):
        ragged = np.empty(2, object)
        ragged[:] = [[1.0], [{"a": np.ones(2)}]]
        save(tmp_path / "a.npz", x=np.eye(2), tree={"k": [1]}, ragged=ragged, name="clip")
        expected = {
            "x": np.eye(2),
            "tree": {"k": [1]},
            "ragged": [[1.0], [{"a": np.ones(2)}]],
            "name": np.array("clip"),
        }
        assert_same(read_tree(tmp_path / "a.npz"), expected)

    def test_objects(self, tmp_path):
        np.save(tmp_path / "a.npy", {"a": [np.float64(1)]}, allow_pickle=True)
        assert_same(read_tree(tmp_path / "a.npy"), {"a": [np.float64(1)]})

    def test_python_2_header(self, tmp_path):
        header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (2L, 1L), }\n"
        content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(16)
        found = read_tree(written(tmp_path / "a.npy", content))
        assert_same(found, np.zeros((2, 1)))

    @pytest.mark.parametrize(
        "header, said",
        [
            ("'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,)", "array of records"),
            ("'descr': '<M8[s]', 'fortran_order': False, 'shape': (1,)", "an array of <M8"),
            ("'descr': '|V8', 'fortran_order': False, 'shape': (1,)", r"an array of \|V8"),
            ("'descr': '<f8', 'fortran_order': False, 'shape': (2,)", "16 bytes .* 8 are left"),
            ("'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,)", "bytes"),
            ("'descr': '<U0', 'fortran_order': False, 'shape': (99999999999,)", "<U0"),
            ("'descr': '<f8', 'fortran_order': False, 'shape': (0, 9999999999999999)", None),
            ("'descr': '<f8', 'fortran_order': False, 'shape': (-1,)", "header has no"),
            ("'shape': __import__('os').system('x')", "header has no"),
            ("", "header has no"),
            (" " * 10_000, "a header of 10002 bytes"),
        ],
    )
    def test_headers_that_are_refused(self, tmp_path, header, said):
        header = f"{{{header}}}".encode()
        content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(8)
        path = written(tmp_path / "a.npy", content)
        if said is None:
            assert read_tree(path).size == 0
            return
        with pytest.raises(InputError, match=rf"a\.npy: .*{said}"):
            read_tree(path)

    def test_text_that_is_none(self, tmp_path):
        np.save(tmp_path / "a.npy", np.array(["abc"]))
        content = (tmp_path / "a.npy").read_bytes()[:-4] + b"\xff\xff\xff\xff"
        with pytest.raises(InputError, match="characters that are none"):
            read_tree(written(tmp_path / "a.npy", content))

    def test_booleans_that_are_none(self, tmp_path):
        np.save(tmp_path / "a.npy", np.array([False, True]))
        content = (tmp_path / "a.npy").read_bytes()[:-2] + b"\x02\x00"
        found = read_tree(written(tmp_path / "a.npy", content))
        assert found.view(np.uint8).tolist() == [1, 0]

    def test_bytes_never_become_objects(self):
        with pytest.raises(ValueError, match="an array of objects"):
            array_from_bytes(bytes(8), np.dtype(object), ())

    def test_an_error_names_the_member(self, tmp_path):
        np.savez(tmp_path / "a.npz", good=np.ones(2), bad=np.array([range], object))
        with pytest.raises(InputError, match=r"a\.npz: bad: refused builtins\.range"):
            read_tree(tmp_path / "a.npz")


# ---- PyTorch, written here byte for byte


class Storage:
    """A storage of a hand-made file: its class, key and bytes."""

    def __init__(
        self, kind: str, content: bytes, count: int, key: str = "0", module: str = "torch"
    ):
        self.kind, self.content, self.count, self.key, self.module = (
            kind,
            content,
            count,
            key,
            module,
        )

    def identity(self, *view: Any) -> Raw:
        """The instruction that asks for it."""
        name = Global(self.module, self.kind)
        return Raw(encode(("storage", name, self.key, "cuda:0", self.count, *view)) + b"Q")


def tensor(storage: Any, size: tuple, strides: tuple, offset: int = 0, *more: Any) -> Call:
    hooks = Call(Global("collections", "OrderedDict"), ())
    arguments = (storage, offset, size, strides, False, hooks, *more)
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), arguments)


def torch_zip(value: Any, *storages: Storage, byteorder: str | None = "little") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("net/data.pkl", pickled(value))
        if byteorder:
            archive.writestr("net/byteorder", byteorder)
        for storage in storages:
            archive.writestr(f"net/data/{storage.key}", storage.content)
        archive.writestr("net/version", "3\n")
    return file.getvalue()


def torch_old(value: Any, *storages: Storage, little_endian: bool = True) -> bytes:
    magic = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
    system = {"protocol_version": 1001, "little_endian": little_endian, "type_sizes": {"int": 4}}
    parts = [magic, pickled(1001), pickled(system), pickled(value)]
    parts.append(pickled([storage.key for storage in storages]))
    parts += [struct.pack("<q", storage.count) + storage.content for storage in storages]
    return b"".join(parts)


def in_bytes(storage: Storage) -> Call:
    """A storage as `pickle.dump` writes it."""
    content = torch_old(storage.identity(None), storage)
    raw = Raw(b"B" + struct.pack("<I", len(content)) + content)
    return Call(Global("torch.storage", "_load_from_bytes"), (raw,))


FLOATS = np.arange(12, dtype=np.float32)
FLOAT = Storage("FloatStorage", FLOATS.tobytes(), 12)


def saved_as(form: str, make, storage: Storage = FLOAT, path: Path = Path()) -> Path:
    """A file of one of the three forms; `make` puts the storage into a tree."""
    if form == "zip":
        content = torch_zip(make(storage.identity()), storage)
    elif form == "old":
        content = torch_old(make(storage.identity(None)), storage)
    else:
        content = pickled(make(in_bytes(storage)))
    return written(path / f"{form}.pt", content)


FORMS = ("zip", "old", "plain")


class TestTorch:
    @pytest.mark.parametrize("form", FORMS)
    def test_views(self, tmp_path, form):
        def make(storage):
            shared = Raw(encode(storage) + b"q\x05")
            again = Raw(b"h\x05")
            parameter = Global("torch._utils", "_rebuild_parameter")
            return {
                "whole": tensor(shared, (3, 4), (4, 1)),
                "transposed": tensor(again, (4, 3), (1, 4)),
                "part": tensor(again, (2, 2), (8, 2), 1),
                "number": tensor(again, (), (), 11),
                "expanded": tensor(again, (5, 2), (0, 1)),
                "empty": tensor(again, (0, 3), (3, 1)),
                "old call": Call(Global("torch._utils", "_rebuild_tensor"), (again, 2, (2,), (1,))),
                "parameter": Call(parameter, (tensor(again, (2,), (3,)), True, {})),
                "size": Call(Global("torch", "Size"), ((3, 4),)),
                "device": Call(Global("torch", "device"), ("cuda", 1)),
                "processor": Call(Global("torch", "device"), ("cpu",)),
            }

        whole = FLOATS.reshape(3, 4)
        found = read_tree(saved_as(form, make, path=tmp_path))
        expected = {
            "whole": whole,
            "transposed": whole.T,
            "part": whole[::2, 1::2],
            "number": np.array(11, np.float32),
            "expanded": np.tile(FLOATS[:2], (5, 1)),
            "empty": np.zeros((0, 3), np.float32),
            "old call": FLOATS[2:4],
            "parameter": FLOATS[[0, 3]],
            "size": (3, 4),
            "device": "cuda:1",
            "processor": "cpu",
        }
        assert_same(found, expected)
        for value in found.values():
            if isinstance(value, np.ndarray) and value.size:
                with pytest.raises(ValueError, match="read-only"):
                    value[...] = 0

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("order", "<>")
    @pytest.mark.parametrize(
        "kind, code",
        {
            "Float": "f4",
            "Double": "f8",
            "Half": "f2",
            "Int": "i4",
            "Long": "i8",
            "Short": "i2",
            "Char": "i1",
            "Byte": "u1",
            "Bool": "b1",
            "BFloat16": "",
        }.items(),
    )
    def test_kinds_and_byte_orders(self, tmp_path, form, order, kind, code):
        values = np.array([0, 1, 1.5, 2, 100], np.float32)
        if kind == "BFloat16":
            content = (values.view(np.uint32) >> 16).astype(order + "u2").tobytes()
        else:
            values = values.astype(code)
            content = values.astype(values.dtype.newbyteorder(order)).tobytes()
        storage = Storage(f"{kind}Storage", content, 5, module="torch.cuda")
        value = [tensor(storage.identity(), (5,), (1,))]
        if form == "zip":
            file = torch_zip(value, storage, byteorder="big" if order == ">" else None)
        elif form == "old":
            file = torch_old(value, storage, little_endian=order == "<")
        elif order == "<":
            file = pickled([tensor(in_bytes(storage), (5,), (1,))])
        else:
            return
        assert_same(read_tree(written(tmp_path / "a.pth", file)), [values])

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize(
        "size, strides, offset, said",
        [
            ((3, 5), (4, 1), 0, "in a storage of 12 numbers"),
            ((13,), (1,), 0, "in a storage of 12 numbers"),
            ((1,), (1,), 12, "in a storage of 12 numbers"),
            ((2**62,), (1,), 0, "in a storage of 12 numbers"),
            ((2, 2), (2**62, 1), 0, "in a storage of 12 numbers"),
            ((2**40,), (0,), 0, "in a storage of 12 numbers"),
            ((2**20, 2**20), (0, 0), 0, "in a storage of 12 numbers"),
            ((2,), (-1,), 3, "no tuple of sizes"),
            ((-2,), (1,), 3, "no tuple of sizes"),
            ((2,), (1,), -1, "no tuple of sizes"),
            ((2, 2), (1,), 0, "with strides"),
            ((1.0,), (1,), 0, "no tuple of sizes"),
            ((0, 2**70), (1, 1), 0, ""),
            ((1,) * 99, (1,) * 99, 0, ""),
        ],
    )
    def test_views_beyond_the_storage(self, tmp_path, form, size, strides, offset, said):
        path = saved_as(form, lambda storage: tensor(storage, size, strides, offset), path=tmp_path)
        with pytest.raises(InputError, match=rf"{form}\.pt: .*({said})"):
            read_tree(path)

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("count", [11, 13, 2**33, 2**61, 2**70, -1, "12", None])
    def test_storages_of_another_size(self, tmp_path, form, count):
        liar = Storage("FloatStorage", FLOAT.content, 12)
        liar.identity = lambda *view: Raw(
            encode(("storage", Global("torch", "FloatStorage"), "0", "cpu", count, *view)) + b"Q"
        )
        path = saved_as(form, lambda storage: tensor(storage, (2,), (1,)), liar, tmp_path)
        said = "no room" if form != "zip" and count in (2**33, 2**61) else ""
        with pytest.raises(InputError, match=rf"{form}\.pt: .*{said}"):
            read_tree(path)

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize(
        "make, said",
        [
            (lambda s: s, "refused a FloatStorage as a value"),
            (lambda s: tensor([1.0], (1,), (1,)), "a tensor made of list"),
            (lambda s: tensor(s, (2,), (1,), 0, {"conj": True}), "conjugated"),
            (lambda s: Call(Global("torch._utils", "_rebuild_parameter"), (s, True)), "parameter"),
            (lambda s: Call(Global("torch._utils", "_rebuild_qtensor"), (s,)), "_rebuild_qtensor"),
            (
                lambda s: Global("torch.nn.modules.linear", "Linear"),
                "torch.nn.modules.linear.Linear",
            ),
            (lambda s: Call(Global("torch", "load"), ("x",)), "refused torch.load"),
            (
                lambda s: Call(Global("torch", "FloatStorage"), (2**40,)),
                "a call of torch.FloatStor",
            ),
            (lambda s: Global("torch", "FloatStorage"), "refused torch.FloatStorage as a value"),
        ],
    )
    def test_refused(self, tmp_path, form, make, said):
        path = saved_as(
            form, lambda s: {"used": tensor(s, (1,), (1,)), "x": make(s)}, path=tmp_path
        )
        with pytest.raises(InputError, match=rf"{form}\.pt: .*{said}"):
            read_tree(path)

    @pytest.mark.parametrize(
        "identity, said",
        [
            (("module", "x", "y", "z", 1), "persistent id of another kind"),
            ("storage", "persistent id of another kind"),
            (("storage", "FloatStorage", "0", "cpu", 12), "a storage of str"),
            (("storage", Global("torch", "Size"), "0", "cpu", 12), "a storage of torch.Size"),
            (
                ("storage", Global("torch", "FloatStorage"), "0", "cpu", 12, ("k", 0, 3)),
                "whole ones",
            ),
            (("storage", Global("torch", "FloatStorage"), 0, "cpu", 12), "key that is int"),
            (("storage", Global("torch", "FloatStorage"), "../version", "cpu", 12), "version"),
        ],
    )
    def test_identities_that_are_none(self, tmp_path, identity, said):
        value = [tensor(Raw(encode(identity) + b"Q"), (1,), (1,))]
        path = written(tmp_path / "a.pt", torch_zip(value, FLOAT))
        with pytest.raises(InputError, match=said):
            read_tree(path)

    def test_no_identities_outside_of_torch(self, tmp_path):
        value = [tensor(FLOAT.identity(), (1,), (1,))]
        with pytest.raises(InputError, match="refused the instruction BINPERSID"):
            read_tree(written(tmp_path / "a.pkl", pickled(value)))

    def test_old_files_that_do_not_fit(self, tmp_path):
        value = [tensor(FLOAT.identity(None), (1,), (1,))]
        sound = torch_old(value, FLOAT)
        other = Storage("FloatStorage", FLOAT.content, 12, key="1")
        longer = Storage("FloatStorage", FLOAT.content + FLOAT.content, 24)
        single = Storage("FloatStorage", FLOAT.content[:4], 1)
        nested = torch_old([tensor(in_bytes(FLOAT), (1,), (1,))])
        for content in (
            sound[:-1],
            torch_old(value),
            torch_old(value, other),
            torch_old(value, FLOAT, other),
            torch_old(value, longer),
            torch_old(value, single),
            sound.replace(pickled(1001), pickled(1002)),
            nested,
        ):
            with pytest.raises(InputError, match=r"a\.pt"):
                read_tree(written(tmp_path / "a.pt", content))

    def test_with_torch_itself(self, tmp_path):
        torch = pytest.importorskip("torch")
        values = {
            "t": torch.arange(6.0).reshape(2, 3).t(),
            "h": torch.ones(3, dtype=torch.bfloat16) * 1.5,
            "p": torch.nn.Parameter(torch.zeros(2)),
            "s": torch.Size([1, 2]),
            "n": np.arange(3),
        }
        expected = {
            "t": np.arange(6, dtype=np.float32).reshape(2, 3).T,
            "h": np.full(3, 1.5, np.float32),
            "p": np.zeros(2, np.float32),
            "s": (1, 2),
            "n": np.arange(3),
        }
        for zipped in (True, False):
            torch.save(values, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
            assert_same(read_tree(tmp_path / "a.pt"), expected)
        for protocol in range(2, 6):
            path = written(tmp_path / "a.pkl", pickle.dumps(values, protocol))
            assert_same(read_tree(path), expected)


# ---- text


class TestJson:
    def test_values(self, tmp_path):
        path = written(
            tmp_path / "a.json", b'\xef\xbb\xbf {"a": [1, 2.5, null, true, "\xc3\xbc"]} '
        )
        assert_same(read_tree(path), {"a": [1, 2.5, None, True, "ü"]})
        found = read_tree(written(tmp_path / "a.json", b"[NaN, Infinity, -Infinity, 1e999]"))
        np.testing.assert_array_equal(found, [np.nan, np.inf, -np.inf, np.inf])

    def test_lines(self, tmp_path):
        path = written(tmp_path / "a.jsonl", b'{"a": 1}\r\n\n[2]\n3')
        assert_same(read_tree(path), [{"a": 1}, [2], 3])
        assert read_tree(written(tmp_path / "a.jsonl", b"")) == []
        with pytest.raises(InputError, match=r"a\.jsonl: line 2: .*Expecting property"):
            read_tree(written(tmp_path / "a.jsonl", b"1\n{]\n"))

    @pytest.mark.parametrize(
        "content, said",
        [
            (b"", "Expecting value"),
            (b"{", "Expecting property name"),
            (b'{"a": 1, "b": {"a": 1, "a": 2}}', "key 'a' occurs twice"),
            (b'"\xff"', "utf-8"),
            (b"[" * 100_000, "nested"),
            (b"[" * 150 + b"]" * 150, "more than 100 lists"),
            (b"9" * 5000, "4300 digits"),
            (b"[1] 2", "Extra data"),
        ],
    )
    def test_refused(self, tmp_path, content, said):
        with pytest.raises(InputError, match=rf"a\.json: .*{said}"):
            read_tree(written(tmp_path / "a.json", content))

    def test_size_is_limited(self, tmp_path, monkeypatch):
        monkeypatch.setattr(containers, "_LARGEST_TEXT", 10)
        path = written(tmp_path / "a.json", b"[1, 2, 3, 4, 5]")
        with pytest.raises(InputError, match=r"has 15 bytes, where at most 10 are read; split it"):
            read_tree(path)


class TestNames:
    def test_what_is_no_file_of_a_known_kind(self, tmp_path):
        for name, said in [
            ("nowhere.pkl", "no such file"),
            ("a.mat", "expected a name that ends in .pkl, .*found .mat"),
            ("a", "found none of them"),
        ]:
            with pytest.raises(InputError, match=said):
                read_tree(tmp_path / name)
        (tmp_path / "folder.npz").mkdir()
        with pytest.raises(InputError, match="found a folder"):
            read_tree(tmp_path / "folder.npz")
        assert read_tree(written(tmp_path / "A.JSON", b"1")) == 1

    @pytest.mark.parametrize("suffix", PICKLES)
    def test_archives_of_torch_under_any_name(self, tmp_path, suffix):
        content = torch_zip([tensor(FLOAT.identity(), (2,), (1,))], FLOAT)
        assert_same(read_tree(written(tmp_path / f"a{suffix}", content)), [FLOATS[:2]])

    def test_mistaken_names(self, tmp_path):
        np.savez(tmp_path / "a.npz", a=1)
        npz = (tmp_path / "a.npz").read_bytes()
        with pytest.raises(InputError, match=r"a\.pkl.*is it a \.npz file"):
            read_tree(written(tmp_path / "a.pkl", npz))
        with pytest.raises(InputError, match=r"b\.npz: net/data\.pkl: .*no array"):
            read_tree(written(tmp_path / "b.npz", torch_zip([], FLOAT)))
        with pytest.raises(InputError, match=r"c\.npz"):
            read_tree(written(tmp_path / "c.npz", pickle.dumps([1])))


# ---- hostile files


def call(name: str, *arguments: Any) -> Call:
    module, function = name.rsplit(".", 1)
    return Call(Global(module, function), arguments)


HOSTILE = {
    "os.system": lambda c: call("os.system", f"touch {c}"),
    "posix.system": lambda c: call("posix.system", f"touch {c}"),
    "nt.system": lambda c: call("nt.system", f"touch {c}"),
    "subprocess.Popen": lambda c: call("subprocess.Popen", ["touch", str(c)]),
    "builtins.eval": lambda c: call("builtins.eval", f"open({str(c)!r}, 'w')"),
    "__builtin__.eval": lambda c: call("__builtin__.eval", f"open({str(c)!r}, 'w')"),
    "builtins.exec": lambda c: call("builtins.exec", f"open({str(c)!r}, 'w')"),
    "builtins.open": lambda c: call("builtins.open", str(c), "w"),
    "builtins.getattr": lambda c: call("builtins.getattr", Global("numpy", "ndarray"), "tofile"),
    "builtins.__import__": lambda c: call("builtins.__import__", "os"),
    "functools.partial": lambda c: call("functools.partial", Global("os", "system")),
    "functools.reduce": lambda c: call("functools.reduce", Global("builtins", "list"), []),
    "operator.attrgetter": lambda c: call("operator.attrgetter", "x"),
    "importlib.import_module": lambda c: call("importlib.import_module", "os"),
    "pickle.loads": lambda c: call("pickle.loads", pickle.dumps([])),
    "numpy.load": lambda c: call("numpy.load", str(c)),
    "numpy.f2py.crackfortran.myeval": lambda c: call("numpy.f2py.crackfortran.myeval", "1"),
    "torch.load": lambda c: call("torch.load", str(c)),
    "torch.jit.load": lambda c: call("torch.jit.load", str(c)),
    "torch.hub._load_local": lambda c: call("torch.hub._load_local", str(c), "x"),
    "chumpy.ch.Ch": lambda c: Global("chumpy.ch", "Ch"),
    "joblib.numpy_pickle.NumpyArrayWrapper": lambda c: Global(
        "joblib.numpy_pickle", "NumpyArrayWrapper"
    ),
    "a call of builtins.list": lambda c: call("builtins.list", [1]),
    "builtins.list as a value": lambda c: Global("builtins", "list"),
    "a defaultdict of numpy.ndarray": lambda c: call(
        "collections.defaultdict", Global("numpy", "ndarray")
    ),
    "a call of numpy.ndarray": lambda c: call("numpy.ndarray", (2**40,)),
    "an array of the type numpy.dtype": lambda c: call(
        "numpy.core.multiarray._reconstruct", Global("numpy", "dtype"), (0,), "b"
    ),
    "numpy.dtype(V8)": lambda c: call("numpy.dtype", "V8", 0, 1),
    "a structured dtype": lambda c: Call(
        Global("numpy", "dtype"), ("f8", 0, 1), (3, "|", None, ("a",), {"a": 1}, 8, 1, 16)
    ),
    "_codecs.encode(..., rot13)": lambda c: call("_codecs.encode", "abc", "rot13"),
    "a state given to list": lambda c: Raw(encode([]) + encode({"__class__": 1}) + b"b"),
    "a state given to ndarray": lambda c: Raw(encode(np.eye(2)) + encode({"__class__": 1}) + b"b"),
    "an object of collections.OrderedDict": lambda c: Raw(
        encode(Global("collections", "OrderedDict")) + b")\x81"
    ),
    "numpy.ndarray as a value": lambda c: call(
        "numpy.core.multiarray._reconstruct", Global("numpy", "ndarray"), (0,), "b"
    ),
    "the instruction EXT1": lambda c: Raw(b"\x82\x01"),
    "the instruction INST": lambda c: Raw(b"(" + encode(f"touch {c}") + b"ios\nsystem\n"),
    "the instruction OBJ": lambda c: Raw(b"(" + encode(Global("numpy", "ndarray")) + b"o"),
    "the instruction NEWOBJ_EX": lambda c: Raw(
        encode(Global("numpy", "ndarray")) + encode(()) + encode({}) + b"\x92"
    ),
    "the instruction NEXT_BUFFER": lambda c: Raw(b"\x97"),
    "the instruction PERSID": lambda c: Raw(b"Px\n"),
}

PLACES = ("pkl", "npy", "npz", "zip", "old", "storage")


def placed(value: Any, place: str, folder: Path) -> Path:
    """A file of some kind whose pickle holds a value."""
    if place == "pkl":
        return written(folder / "a.pkl", pickled({"deep": [({"x": value},)]}))
    if place == "zip":
        return written(folder / "a.pt", torch_zip({"x": [value]}))
    if place == "old":
        return written(folder / "a.pth", torch_old({"x": [value]}))
    if place == "storage":
        content = torch_old(value)
        raw = Raw(b"B" + struct.pack("<I", len(content)) + content)
        return written(folder / "a.pkl", pickled([call("torch.storage._load_from_bytes", raw)]))
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }\n"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + pickled([value])
    if place == "npy":
        return written(folder / "a.npy", array)
    with zipfile.ZipFile(folder / "a.npz", "w") as archive:
        archive.writestr("hands.npy", array)
    return folder / "a.npz"


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """A file that no test may bring into being; what could make it fails loudly."""

    def ran(*arguments, **keywords):
        raise AssertionError("the file called something")

    for module, function in (
        (os, "system"),
        (subprocess, "Popen"),
        (builtins, "eval"),
        (pickle, "Unpickler"),
        (pickle, "loads"),
        (pickle, "load"),
        (np, "load"),
    ):
        monkeypatch.setattr(module, function, ran)
    yield tmp_path / "it_ran"
    assert not (tmp_path / "it_ran").exists()


class TestHostile:
    @pytest.mark.parametrize("place", PLACES)
    @pytest.mark.parametrize("name", HOSTILE)
    def test_refused_by_name_and_nothing_ran(self, tmp_path, canary, name, place):
        path = placed(HOSTILE[name](canary), place, tmp_path)
        if place == "storage" and name.endswith("as a value"):
            name = "a storage made of"
        with pytest.raises(InputError, match=re.escape(name)) as raised:
            read_tree(path)
        assert str(path) in str(raised.value)
        if "storage made" not in name:
            assert "any code" in str(raised.value) and "numpy.savez" in str(raised.value)

    def test_the_exploits_work_elsewhere(self, tmp_path):
        """The files above are no straw men: Python's own unpickler runs them."""
        content = pickled(HOSTILE["builtins.open"](tmp_path / "it_ran"))
        pickle.loads(content).close()
        assert (tmp_path / "it_ran").exists()

    @pytest.mark.parametrize(
        "name, content",
        {
            "itself": b"\x80\x02]q\x00h\x00a.",
            "itself in a dictionary": b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",
            "tuples": b"\x80\x02)" + b"\x85" * 3000 + b".",
            "lists": b"\x80\x02]" + b"]" * 3000 + b"a" * 3000 + b".",
            "tuples as key": b"\x80\x02})" + b"\x85" * 3000 + b"Ns.",
            "marks": b"\x80\x02" + b"(" * 3000 + b".",
            "memo bomb": b"\x80\x02]q\x00"
            + b"".join(b"](" + b"h%c" % i * 20 + b"eq%c" % (i + 1) for i in range(40))
            + b".",
            "memo far away": b"\x80\x02Nr\xff\xff\xff\xff.",
            "memo of nothing": b"\x80\x02h\x07.",
            "bytes": b"\x80\x04\x8e" + b"\xff" * 8 + b".",
            "signed size": b"\x80\x02T\xff\xff\xff\xff.",
            "integer": b"\x80\x02\x8b\x00\x10\x00\x00" + b"\x01" * 4096 + b".",
            "text": b"\x80\x02X\x10\x00\x00\x00abc.",
            "colliding keys": b"\x80\x02}("
            + b"".join(
                b"\x8a\x10" + (i * (2**61 - 1) << 3).to_bytes(16, "little") + b"N"
                for i in range(2**62, 2**62 + 2_000)
            )
            + b"u.",
            "object array in itself": pickled(
                Raw(
                    encode(call("numpy.core.multiarray._reconstruct", Global("numpy", "ndarray")))
                    + b"q\x00"
                    + encode((1, (1,), call("numpy.dtype", "O8", 0, 1), False, [Raw(b"h\x00")]))
                    + b"b"
                )
            ),
            "object array of another size": pickled(
                Call(
                    Global("numpy.core.multiarray", "_reconstruct"),
                    (Global("numpy", "ndarray"), (0,), "b"),
                    (1, (2**40,), call("numpy.dtype", "O8", 0, 1), False, [None]),
                )
            ),
            "object scalar": pickled(
                call("numpy.core.multiarray.scalar", call("numpy.dtype", "O8", 0, 1), b"12345678")
            ),
            "array of nothing": pickled(
                Call(
                    Global("numpy.core.multiarray", "_reconstruct"),
                    (Global("numpy", "ndarray"), (0,), "b"),
                    (1, (2**40,), call("numpy.dtype", "S0", 0, 1), False, b""),
                )
            ),
        }.items(),
    )
    def test_small_files_that_stand_for_much(self, tmp_path, name, content):
        path = written(tmp_path / "a.pkl", content)
        tracemalloc.start()
        start = time.process_time()
        try:
            read_tree(path)
        except InputError as error:
            assert str(path) in str(error)
        else:
            assert name in ("memo far away", "marks")
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert time.process_time() - start < 5
        assert peak < 200 * 2**20

    def test_depth_is_limited_also_where_a_list_occurs_twice(self, tmp_path):
        def nest(depth, inner):
            for _ in range(depth):
                inner = [inner]
            return inner

        def read(value):
            return read_tree(written(tmp_path / "a.pkl", pickle.dumps(value)))

        low = nest(60, 1)
        for sound in (nest(100, 1), [low, nest(39, low)], [nest(39, low), low]):
            assert read(sound) == sound
        for deep in (nest(101, 1), [low, nest(40, low)], [nest(40, low), low]):
            with pytest.raises(InputError, match="more than 100 lists"):
                read(deep)


def members(*files: tuple[str, bytes], packed: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", packed) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return file.getvalue()


def array_file(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


class TestArchives:
    def test_a_bomb(self, tmp_path, monkeypatch):
        monkeypatch.setattr(containers, "_UNPACKED_ANYWAY", 1000)
        bomb = members(("a.npy", array_file(np.zeros(1_000_000))))
        with pytest.raises(InputError, match=r"a\.npz.*would unpack to 8000128"):
            read_tree(written(tmp_path / "a.npz", bomb))
        with pytest.raises(InputError, match=r"a\.pt.*would unpack to"):
            read_tree(written(tmp_path / "a.pt", members(("net/data.pkl", bytes(1_000_000)))))

    def test_too_large_in_all(self, tmp_path, monkeypatch):
        monkeypatch.setattr(containers, "_LARGEST_FILE", 2000)
        sound = members(("a.npy", array_file(np.zeros(1000))))
        assert len(sound) < 2000
        with pytest.raises(InputError, match="where 2000 in all"):
            read_tree(written(tmp_path / "a.npz", sound))
        np.save(tmp_path / "a.npy", np.zeros(1000))
        with pytest.raises(InputError, match=r"a\.npy: has 8128 bytes, where at most 2000"):
            read_tree(tmp_path / "a.npy")

    def test_a_member_that_is_longer_than_it_says(self, tmp_path):
        """Its sizes are a lie: nothing beyond what it claims is unpacked."""
        whole = members(("a.npy", array_file(np.zeros(4_000_000))))
        sizes = struct.pack("<I", 32_000_128)
        assert whole.count(sizes) == 2
        lie = whole.replace(sizes, struct.pack("<I", 1000))
        tracemalloc.start()
        with pytest.raises(InputError, match=r"a\.npz"):
            read_tree(written(tmp_path / "a.npz", lie))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 * 2**20

    def test_a_member_that_is_shorter_than_it_says(self, tmp_path):
        whole = members(("a.npy", array_file(np.zeros(10))), packed=zipfile.ZIP_STORED)
        size = struct.pack("<I", 208)
        with pytest.raises(InputError, match="would unpack"):
            lie = whole.replace(size, struct.pack("<I", 2**20))
            read_tree(written(tmp_path / "a.npz", lie))
        with pytest.raises(InputError, match="two sizes"):
            at = whole.rindex(size)
            lie = whole[:at] + struct.pack("<I", 2**20) + whole[at + 4 :]
            read_tree(written(tmp_path / "a.npz", lie))

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_members_of_one_name(self, tmp_path):
        one = array_file(np.zeros(1))
        with pytest.raises(InputError, match="two members 'a.npy'"):
            read_tree(written(tmp_path / "a.npz", members(("a.npy", one), ("a.npy", one))))

    def test_other_packing_and_encryption(self, tmp_path):
        one = members(("a.npy", array_file(np.zeros(1))), packed=zipfile.ZIP_BZIP2)
        with pytest.raises(InputError, match="'a.npy' is packed in an uncommon way"):
            read_tree(written(tmp_path / "a.npz", one))
        sealed = bytearray(members(("a.npy", array_file(np.zeros(1)))))
        sealed[sealed.rindex(b"PK\1\2") + 8] |= 1
        with pytest.raises(InputError, match="'a.npy' is encrypted"):
            read_tree(written(tmp_path / "a.npz", bytes(sealed)))

    def test_a_changed_byte_is_noticed(self, tmp_path):
        sound = members(("a.npy", array_file(np.arange(1000.0))), packed=zipfile.ZIP_STORED)
        changed = bytearray(sound)
        changed[1000] ^= 1
        with pytest.raises(InputError, match=r"a\.npz: a: .*CRC"):
            read_tree(written(tmp_path / "a.npz", bytes(changed)))


# ---- fields


class TestFields:
    path = Path("a.pkl")

    @pytest.mark.parametrize(
        "value, shape",
        [
            (np.ones((2, 3), np.float16), ("N", 3)),
            ([[1, 2], [3, 4.5]], ("N", "N")),
            ([np.arange(3), (1.0, 2, 3)], (2, 3)),
            ([[np.float32(1)], [np.int8(2)]], (2, 1)),
            (5, ()),
            (np.float32(2), ()),
            (np.uint64(2**63), ()),
            ([2**70, 1e300, float("nan"), float("inf")], (4,)),
            (np.frombuffer(b"\x01\x00\x80\x7f", "<f4"), (1,)),  # A NaN that signals.
            (np.zeros((0, 3)), ("N", 3)),
            ([], ("N",)),
            ([[]], (1, "M")),
        ],
    )
    def test_numbers(self, value, shape):
        found = number_array(value, shape, "pose", self.path)
        assert found.dtype == np.float64 and found.flags.writeable
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(found, np.array(value, np.float64))

    @pytest.mark.parametrize(
        "value, shape, said",
        [
            (np.ones(4, np.float32), ("N", 3), r"\(N, 3\), found float32 of shape \(4,\)"),
            (np.ones((1, 3)), (3,), r"\(3,\), found float64 of shape \(1, 3\)"),
            (np.ones((2, 3)), ("N", "N"), r"\(N, N\), found float64 of shape \(2, 3\)"),
            ([1, 2], ("N", 2), r"\(N, 2\), found float64 of shape \(2,\)"),
            ([[1], [1, 2]], ("N", 2), "found a list of length 2"),
            ([[1, True]], ("N", 2), "found a list of length 1"),
            ([[1, None]], (1, 2), "found a list of length 1"),
            ([[[1.0]]], (1, 1), "found a list of length 1"),
            ([np.array([True]), np.array([1.0])], (2, 1), "found a list of length 2"),
            (["1"], (1,), "found a list of length 1"),
            ([10**400], (1,), "found a list of length 1"),
            ("1", (), "found text"),
            (None, (), "found None"),
            (True, (), "found a bool"),
            (1j, (), "found a complex"),
            (np.bool_(True), (), "found a bool"),
            ({"a": 1}, (1,), "found a dict of length 1"),
            (np.array(["a"]), (1,), r"found text of shape \(1,\)"),
            (np.array([True]), (1,), r"found bool of shape \(1,\)"),
            (np.array([1j]), (1,), r"found complex128 of shape \(1,\)"),
            (np.array([None]), (1,), r"found object of shape \(1,\)"),
            (1, (1,), r"\(1,\), found float64 of shape \(\)"),
            ([1], (), r"\(\), found a list of length 1"),
        ],
    )
    def test_other_things(self, value, shape, said):
        with pytest.raises(InputError, match=rf"^a\.pkl: hand/pose: expected numbers.*{said}"):
            number_array(value, shape, "hand/pose", self.path)

    def test_one_array_many_times(self):
        with pytest.raises(InputError, match="a list of length 100000"):
            number_array([np.zeros(100_000)] * 100_000, ("N", 100_000), "x", self.path)

    def test_entries(self):
        assert entry({"a": 1}, "a", "", self.path) == 1
        with pytest.raises(InputError, match=r"^a\.pkl: no key 'b'; found 'a', 3$"):
            entry({"a": 1, 3: 2}, "b", "", self.path)
        with pytest.raises(InputError, match=r"^a\.pkl: \[0\]: no key 'b'; found none$"):
            entry({}, "b", "[0]", self.path)
        with pytest.raises(InputError, match=r"found 0, .*, 11 and 88 more$"):
            entry(dict.fromkeys(range(100)), "b", "", self.path)
        with pytest.raises(InputError, match=r"\[0\]: expected a dictionary, found a list of len"):
            entry([1], "b", "[0]", self.path)
        with pytest.raises(InputError, match=r"found '\\ud800\\n'"):
            entry({"\ud800\n": 1}, "b", "", self.path)

    def test_texts(self):
        assert text("ü✋", "name", self.path) == "ü✋"
        assert text(np.array("clip"), "name", self.path) == "clip"
        assert text("ü".encode(), "name", self.path) == "ü"
        for value, said in (
            (None, "None"),
            (np.array(["a"]), r"text of shape \(1,\)"),
            ("\ud83d", "half a character"),
        ):
            with pytest.raises(InputError, match=rf"a\.pkl: name: expected text, found {said}"):
                text(value, "name", self.path)


# ---- damage of every kind


def sound_files() -> dict[str, bytes]:
    """A small file of every kind, by name."""
    small = {key: value for key, value in tree().items() if key != "large"}
    objects = np.empty(2, object)
    objects[:] = [{"a": np.arange(3.0)}, [1, "x"]]
    npz = io.BytesIO()
    np.savez(npz, a=np.arange(12.0).reshape(3, 4), names=np.array(["ab", "c"]), o=objects)
    packed = io.BytesIO()
    np.savez_compressed(packed, a=np.zeros((20, 3)), o=objects)
    npy = io.BytesIO()
    np.save(npy, objects, allow_pickle=True)

    def with_tensor(storage):
        return {"x": [tensor(storage, (3, 4), (4, 1))], "n": "clip", "od": np.eye(2)}

    plain = {"a": [1.5, None, "ü\n"], "b": {"c": [[1, 2], [3, 4]]}, "d": True}
    return {
        **{f"{protocol}.pkl": pickle.dumps(small, protocol) for protocol in range(6)},
        "zip.pt": torch_zip(with_tensor(FLOAT.identity()), FLOAT),
        "old.pth": torch_old(with_tensor(FLOAT.identity(None)), FLOAT),
        "plain.ckpt": pickled(with_tensor(in_bytes(FLOAT))),
        "a.npy": array_file(np.arange(6, dtype=np.int16).reshape(2, 3)),
        "text.npy": array_file(np.array(["ab", "c"])),
        "objects.npy": npy.getvalue(),
        "a.npz": npz.getvalue(),
        "packed.npz": packed.getvalue(),
        "a.json": json.dumps(plain).encode(),
        "a.jsonl": (json.dumps(plain) + "\n").encode() * 3,
    }


HOSTILE_PARTS = (
    b"cos\nsystem\n",
    b"\x8c\x02os\x8c\x06system\x93",
    b"cbuiltins\neval\n",
    b"R",
    b"b",
    b"\x81",
    b"Q",
    b"(" * 9,
    b"\x8e" + b"\xff" * 8,
    b"\x8b\xff\xff\xff\x7f",
    b"X\xff\xff\xff\xff",
    b"r\xff\xff\xff\xff",
    b"\xff" * 8,
    bytes(8),
    b"[" * 30,
    b"PK\1\2",
    b"PK\5\6",
    b"99999999999",
)


def damaged(rng: np.random.Generator, content: bytes, others: list[bytes]) -> bytes:
    """The file with one kind of damage, drawn by lot."""
    kind, size = rng.integers(8), len(content)
    at = int(rng.integers(size))
    if kind == 0:
        return content[:at]
    if kind in (1, 2):
        changed = bytearray(content)
        for place in rng.integers(size, size=int(rng.integers(1, 6))):
            changed[place] = (
                rng.integers(256) if kind == 1 else changed[place] ^ 1 << rng.integers(8)
            )
        return bytes(changed)
    if kind == 3:
        part = np.frombuffer(content, np.uint8)[at : at + int(rng.integers(2, 200))].copy()
        rng.shuffle(part)
        return content[:at] + part.tobytes() + content[at + len(part) :]
    if kind == 4:
        part = HOSTILE_PARTS[rng.integers(len(HOSTILE_PARTS))]
        return content[:at] + part + content[at + len(part) * int(rng.integers(2)) :]
    if kind == 5:
        return content[:at] + content[at + int(rng.integers(1, 20)) :]
    if kind == 6:
        other = others[rng.integers(len(others))]
        return content[:at] + other[int(rng.integers(len(other))) :]
    return others[rng.integers(len(others))]  # Under this file's name.


@pytest.mark.parametrize("name", sound_files())
def test_damage_is_one_clear_error(tmp_path, canary, name):
    """Whatever the bytes: a tree or an InputError that names the file, soon, and nothing runs."""
    files = sound_files()
    rng = np.random.default_rng(sum(name.encode()))
    path = tmp_path / name
    read_tree(written(path, files[name]))
    refused = 0
    for _ in range(150):
        path.write_bytes(damaged(rng, files[name], list(files.values())))
        start = time.process_time()
        try:
            read_tree(path)
        except InputError as error:
            refused += 1
            assert str(path) in str(error)
            str(error).encode()
        assert time.process_time() - start < 5
    assert refused > 40


@pytest.mark.parametrize(
    ("value", "shape", "expected"),
    [
        (True, (), True),
        (np.bool_(False), (), False),
        (1.0, (), True),
        ([True, False], (2,), [True, False]),
        ([1, 0.0], ("B",), [True, False]),
        (np.array([True]), (1,), [True]),
        (np.array([0, 1], np.uint8), (2,), [False, True]),
    ],
)
def test_flags_are_booleans_or_0_and_1(value, shape, expected):
    np.testing.assert_array_equal(flag_array(value, shape, "right", Path("file")), expected)


@pytest.mark.parametrize(
    "value", [None, "right", 0.5, 2, [True, 1], [[True], True], np.array([True, False]), [None], {}]
)
def test_anything_else_is_no_flag(value):
    with pytest.raises(InputError, match="file: right: expected"):
        flag_array(value, (1,) if isinstance(value, list) else (), "right", Path("file"))
