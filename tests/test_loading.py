"""Hand files: what is read, what is put right, what is refused, and what is written."""

import builtins
import os
import pickle
import pickletools
import re
import struct
import warnings
from dataclasses import fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse import csc_matrix

from mano_jax import loading
from mano_jax.export import export_hands, official_entries
from mano_jax.kinematics import PARENTS
from mano_jax.loading import (
    describe_hands,
    find_hand_files,
    fingerprint,
    load_hands,
    read_hand_file,
    read_hand_models,
)
from mano_jax.model import mirrored, two_hands
from mano_jax.pickles import ADMITTED, HandFileError, PickleRefusedError, read_pickle
from tests.chumpy_layout import (
    Call,
    Global,
    New,
    Raw,
    array,
    chumpy_select,
    dtype,
    encode,
    official_layout,
    pickled,
)

# Read before the fixture below hides it from the tests.
GENUINE = os.environ.get("MANOFIT_HANDS")


@pytest.fixture(autouse=True)
def no_named_hands(monkeypatch):
    monkeypatch.delenv("MANOFIT_HANDS", raising=False)


@pytest.fixture(scope="module")
def right_entries(right_model):
    return official_entries(right_model)


@pytest.fixture(scope="module")
def left_entries(left_model):
    return official_entries(left_model)


def dense(entries):
    return {k: v.toarray() if isinstance(v, csc_matrix) else v for k, v in entries.items()}


def write_npz(path, entries):
    np.savez(path, **dense(entries))
    return path


def assert_same_model(found, expected):
    for field in fields(expected):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        if field.name == "pose_samples":
            # Files hold coefficients, so the samples pass through two products.
            assert (a is None) == (b is None)
            if a is not None:
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
        elif isinstance(b, np.ndarray):
            np.testing.assert_array_equal(a, b, err_msg=field.name)
        else:
            assert a == b


class TestReading:
    def test_official_layout_with_chumpy(self, tmp_path, right_entries, right_model):
        path = tmp_path / "MANO_RIGHT.pkl"
        path.write_bytes(official_layout(right_entries))
        named = {(g.split(" ")[0], g.split(" ")[1]) for g in globals_of(path.read_bytes())}
        assert named == set(list(ADMITTED)[:7]), "the layout must have the seven classes"
        assert_same_model(read_hand_file(path, "right"), right_model)

    def test_chumpy_entries_are_selected_not_copied(self, tmp_path, right_entries):
        path = tmp_path / "MANO_RIGHT.pkl"
        path.write_bytes(official_layout(right_entries))
        shapedirs = read_pickle(path)["shapedirs"]
        assert shapedirs.shape == (778, 3, 10)
        np.testing.assert_array_equal(shapedirs, right_entries["shapedirs"])

    def test_bare_chumpy_array(self, tmp_path):
        path = tmp_path / "a.pkl"
        path.write_bytes(pickled({"a": New(Global("chumpy.ch", "Ch"), (), {"x": np.arange(3.0)})}))
        np.testing.assert_array_equal(read_pickle(path)["a"], [0, 1, 2])

    @pytest.mark.parametrize("protocol", [2, 3, 4, 5])
    def test_rewritten_by_todays_python(self, tmp_path, right_entries, right_model, protocol):
        path = tmp_path / "MANO_RIGHT.pkl"
        entries = {**right_entries, "extra": {1, 2}, "fortran": np.asfortranarray(np.eye(2, 3))}
        path.write_bytes(pickle.dumps(entries, protocol))
        assert_same_model(read_hand_file(path, "right"), right_model)
        np.testing.assert_array_equal(read_pickle(path)["fortran"], np.eye(2, 3))

    def test_protocol_5_transposed_and_big_endian(self, tmp_path):
        path = tmp_path / "a.pkl"
        cube = np.arange(24.0).reshape(2, 3, 4)
        values = {
            "t": cube.transpose(1, 2, 0),
            "b": cube.astype(">f4"),
            "u": np.array([1, 2], np.uint32),
        }
        path.write_bytes(pickle.dumps(values, 5))
        for key, value in read_pickle(path).items():
            np.testing.assert_array_equal(value, values[key])
            assert value.dtype.isnative

    def test_both_spellings_of_frombuffer(self, tmp_path):
        path = tmp_path / "a.pkl"
        for module in ("numpy.core.numeric", "numpy._core.numeric"):
            content = b"\x96" + struct.pack("<Q", 16) + np.array([1.5, 2.5]).tobytes()
            call = Call(Global(module, "_frombuffer"), (Raw(content), dtype("f8"), (2,), "C"))
            path.write_bytes(pickled({"a": call}))
            np.testing.assert_array_equal(read_pickle(path)["a"], [1.5, 2.5])

    def test_cleaned_file(self, tmp_path, right_entries, right_model):
        """Flat blend shapes, a dense regressor, and only the required keys."""
        path = tmp_path / "MANO_RIGHT.pkl"
        entries = dense(right_entries)
        for key in ("hands_coeffs", "J", "kintree_table", "bs_style", "bs_type"):
            del entries[key]
        for key in ("shapedirs", "posedirs"):
            entries[key] = entries[key].ravel()
        path.write_bytes(pickle.dumps(entries, 4))
        assert_same_model(read_hand_file(path, "right"), replace(right_model, pose_samples=None))

    def test_npz(self, tmp_path, right_entries, right_model):
        path = write_npz(tmp_path / "MANO_RIGHT.npz", right_entries)
        assert_same_model(read_hand_file(path, "right"), right_model)

    @pytest.mark.parametrize("sentinel", [2**32 - 1, -1, 0])
    def test_any_sentinel_of_the_tree(self, tmp_path, right_entries, sentinel):
        table = np.stack([np.array(PARENTS), np.arange(16)])
        table[0, 0] = sentinel
        path = write_npz(tmp_path / "r.npz", {**right_entries, "kintree_table": table})
        read_hand_file(path, "right")

    def test_tree_in_unsigned_integers(self, tmp_path, right_entries):
        table = right_entries["kintree_table"].astype(np.uint32)
        path = write_npz(tmp_path / "r.npz", {**right_entries, "kintree_table": table})
        read_hand_file(path, "right")


def globals_of(content):
    return [
        str(argument) for code, argument, _ in pickletools.genops(content) if code.name == "GLOBAL"
    ]


class TestFinding:
    @pytest.mark.parametrize("inner", ["", "mano", "models", "MANO/models", "models/mano"])
    @pytest.mark.parametrize("name", ["MANO_RIGHT.pkl", "mano_right.pkl", "Mano_Right.NPZ"])
    def test_folders_and_names_in_use(self, tmp_path, inner, name):
        folder = tmp_path / inner
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
        left = folder / name.replace("RIGHT", "LEFT").replace("right", "left").replace(
            "Right", "Left"
        )
        left.touch()
        assert find_hand_files(tmp_path) == (folder / name, left)
        assert find_hand_files(folder / name) == (folder / name, left)

    def test_pickles_go_before_npz_and_a_pair_keeps_its_format(self, tmp_path):
        for name in ("MANO_RIGHT.pkl", "MANO_RIGHT.npz", "MANO_LEFT.pkl", "MANO_LEFT.npz"):
            (tmp_path / name).touch()
        right, left = tmp_path / "MANO_RIGHT.npz", tmp_path / "MANO_LEFT.npz"
        assert find_hand_files(right) == (right, left)
        assert find_hand_files(tmp_path)[0].suffix == ".pkl"

    def test_left_alone_or_nothing(self, tmp_path):
        (tmp_path / "MANO_LEFT.pkl").touch()
        with pytest.raises(HandFileError, match=r"no MANO_RIGHT.*MANO_LEFT.pkl.*mano\.is\.tue"):
            find_hand_files(tmp_path)
        with pytest.raises(HandFileError, match="does not exist.*MANO_RIGHT"):
            load_hands(tmp_path / "nowhere")

    def test_another_suffix(self, tmp_path):
        path = tmp_path / "MANO_RIGHT.mat"
        path.touch()
        with pytest.raises(HandFileError, match=r"expected a .pkl or .npz file, found .mat"):
            load_hands(path)


class TestLeftHand:
    def shapes(self, right_model, signs):
        return right_model.shapedirs * np.array(signs, float)[:, None]

    @pytest.mark.parametrize(
        "signs, state, said",
        [
            ((-1, 1, 1), "correct", None),
            ((1, 1, 1), "raw", "x negated"),
            ((-1, -1, -1), "negated", "y and z negated"),
            ((1, -1, -1), "y and z negated", "all three negated"),
        ],
    )
    @pytest.mark.parametrize("noise", [0.0, 1e-6])
    def test_every_state_is_put_right(
        self, tmp_path, right_entries, left_entries, right_model, signs, state, said, noise
    ):
        found = self.shapes(right_model, signs)
        found = found + noise * np.random.default_rng(0).normal(size=found.shape)
        (tmp_path / "MANO_RIGHT.pkl").write_bytes(official_layout(right_entries))
        left_file = tmp_path / "MANO_LEFT.pkl"
        left_file.write_bytes(official_layout({**left_entries, "shapedirs": found}))
        right, left, source = read_hand_models(tmp_path)
        assert_same_model(right, right_model)
        expected = mirrored(right_model).shapedirs
        np.testing.assert_allclose(left.shapedirs, expected, rtol=0, atol=10 * noise)
        assert source.left_shapedirs == state
        assert source.left_file == left_file
        if said is None:
            assert source.notes == ()
        else:
            assert said in source.notes[0] and "MANO_LEFT.pkl" in source.notes[0]
            assert said in source.summary()

    def test_blend_shapes_of_its_own_are_kept_and_reported(
        self, tmp_path, right_entries, left_entries
    ):
        own = np.random.default_rng(0).normal(scale=1e-3, size=(778, 3, 10))
        write_npz(tmp_path / "MANO_RIGHT.npz", right_entries)
        write_npz(tmp_path / "MANO_LEFT.npz", {**left_entries, "shapedirs": own})
        _, left, source = read_hand_models(tmp_path)
        np.testing.assert_array_equal(left.shapedirs, own)
        assert source.left_shapedirs == "own"
        assert "used as they are" in source.summary()

    def test_mirrored_where_there_is_none(self, tmp_path, right_entries, left_model):
        write_npz(tmp_path / "MANO_RIGHT.npz", right_entries)
        _, left, source = read_hand_models(tmp_path)
        assert_same_model(left, left_model)
        assert source.left_file is None and source.left_shapedirs == "mirrored right"
        assert "mirrored" in source.notes[0]

    def test_given_as_the_right_hand(self, tmp_path, left_entries):
        path = tmp_path / "MANO_RIGHT.pkl"
        path.write_bytes(official_layout(left_entries))
        with pytest.raises(HandFileError, match=r"should be a right hand.*a left one.*MANO_RIGHT"):
            load_hands(path)

    def test_right_given_as_the_left_hand(self, tmp_path, right_entries):
        for name in ("MANO_RIGHT.npz", "MANO_LEFT.npz"):
            write_npz(tmp_path / name, right_entries)
        with pytest.raises(HandFileError, match=r"MANO_LEFT.npz should be a left hand"):
            load_hands(tmp_path)

    def test_hands_that_do_not_match(self, tmp_path, right_entries, left_entries):
        write_npz(tmp_path / "MANO_RIGHT.npz", right_entries)
        fewer = {**left_entries, "shapedirs": left_entries["shapedirs"][..., :5]}
        write_npz(tmp_path / "MANO_LEFT.npz", fewer)
        with pytest.raises(HandFileError, match=r"shapedirs.*\(778, 3, 10\).*\(778, 3, 5\)"):
            load_hands(tmp_path)


class TestValidation:
    @pytest.mark.parametrize(
        "key, change, message",
        [
            ("v_template", lambda a: a[:, :2], r"v_template .*\(V, 3\), found \(778, 2\)"),
            ("v_template", lambda a: a * 1000, "in metres.*millimetres"),
            ("shapedirs", lambda a: a[:700], r"shapedirs .*\(778, 3, S\), found \(700, 3, 10\)"),
            ("shapedirs", lambda a: a.ravel()[:-1], r"shapedirs .*found \(23339,\)"),
            ("posedirs", lambda a: a[..., :9], r"posedirs .*\(778, 3, 135\), found \(778, 3, 9\)"),
            ("posedirs", lambda a: np.full_like(a, np.nan), "posedirs should be finite"),
            ("J_regressor", lambda a: a.T, r"J_regressor .*\(16, 778\), found \(778, 16\)"),
            ("weights", lambda a: 2 * a, "row of weights should sum to 1; row .* sums to 2"),
            ("weights", lambda a: a.astype(str), "weights should hold real numbers"),
            ("weights", lambda a: a.astype(complex), "weights should hold real numbers"),
            ("f", lambda a: a + 1, "f should hold vertices 0 to 777, found 1 to 778"),
            ("f", lambda a: a.astype(float), "f should hold integers, found float64"),
            ("f", lambda a: a[1:], "open at the wrist alone"),
            ("J", lambda a: a[:15], r"J .*\(16, 3\), found \(15, 3\)"),
            ("hands_mean", lambda a: a[:30], r"hands_mean .*\(45,\), found \(30,\)"),
            ("hands_components", lambda a: a[:6], r"hands_components .*found \(6, 45\)"),
            ("hands_coeffs", lambda a: a[:, :6], r"hands_coeffs .*\(samples, 45\)"),
            ("kintree_table", lambda a: a[:, ::-1], "kintree_table should have the parents"),
            ("kintree_table", lambda a: a[0], r"kintree_table .*\(2, 16\), found \(16,\)"),
        ],
    )
    def test_names_key_expected_and_found(self, tmp_path, right_entries, key, change, message):
        entries = dense(right_entries)
        path = write_npz(tmp_path / "MANO_RIGHT.npz", {**entries, key: change(entries[key])})
        with pytest.raises(HandFileError, match=message) as raised:
            load_hands(path)
        assert str(path) in str(raised.value)

    @pytest.mark.parametrize("keys", [["f"], ["v_template", "hands_mean"]])
    def test_missing_keys_are_all_named(self, tmp_path, right_entries, keys):
        entries = {key: value for key, value in right_entries.items() if key not in keys}
        path = write_npz(tmp_path / "MANO_RIGHT.npz", entries)
        with pytest.raises(HandFileError, match=f"lacks {', '.join(keys)}; found .*posedirs"):
            load_hands(path)

    def test_an_entry_that_is_no_array(self, tmp_path, right_entries):
        path = tmp_path / "MANO_RIGHT.pkl"
        path.write_bytes(pickle.dumps({**right_entries, "weights": [1, 2]}))
        with pytest.raises(HandFileError, match="weights should be an array .*found list"):
            load_hands(path)

    def test_closed_mesh(self, tmp_path, right_entries, hands):
        closed = np.concatenate([np.asarray(hands.faces[0]), np.asarray(hands.cap_faces[0])])
        path = write_npz(tmp_path / "r.npz", {**right_entries, "f": closed})
        with pytest.raises(HandFileError, match="no boundary.*cap removed"):
            load_hands(path)

    def test_fingertips_beyond_the_mesh(self, tmp_path, right_entries, monkeypatch):
        path = write_npz(tmp_path / "r.npz", right_entries)
        monkeypatch.setattr(loading, "fingertip_vertices", lambda name: np.array([[900]]))
        with pytest.raises(HandFileError, match="needs vertex 900"):
            load_hands(path)

    def test_unknown_fingertips(self):
        with pytest.raises(ValueError, match="unknown fingertip set 'toes'; known: smplx"):
            load_hands(fingertips="toes")


class TestCorruptFiles:
    @pytest.mark.parametrize("share", [0.0, 0.00001, 0.01, 0.5, 0.999999])
    def test_truncated_pickle(self, tmp_path, right_entries, share):
        whole = official_layout(right_entries)
        path = tmp_path / "MANO_RIGHT.pkl"
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(HandFileError, match="MANO_RIGHT.pkl"):
            load_hands(path)

    @pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
    def test_truncated_npz(self, tmp_path, right_entries, share):
        path = write_npz(tmp_path / "MANO_RIGHT.npz", right_entries)
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(HandFileError, match="MANO_RIGHT.npz is no readable"):
            load_hands(path)

    def test_damage_anywhere_is_one_clear_error(self, tmp_path):
        """Random bytes changed: a sound file, or a HandFileError; never anything else."""
        generator = np.random.default_rng(3)
        sound = pickled(
            {
                "a": np.arange(4.0),
                "s": csc_matrix(np.eye(3)),
                "c": chumpy_select(np.ones((4, 3, 2))),
            }
        )
        path = tmp_path / "a.pkl"
        refused = 0
        for _ in range(400):
            damaged = bytearray(sound)
            for position in generator.integers(len(damaged), size=2):
                damaged[position] = generator.integers(256)
            path.write_bytes(bytes(damaged))
            with warnings.catch_warnings():
                # Escapes in damaged text make Python warn, which is no error of ours.
                warnings.simplefilter("ignore")
                try:
                    read_pickle(path)
                except HandFileError as error:
                    refused += 1
                    assert str(path) in str(error)
        assert refused > 50

    @pytest.mark.parametrize(
        "content",
        [b"not a pickle", b"\x80\x02.", b"\x80\x02K\x01.", b"<html></html>", b"\x80\x02}"],
    )
    def test_other_content(self, tmp_path, content):
        path = tmp_path / "MANO_RIGHT.pkl"
        path.write_bytes(content)
        with pytest.raises(HandFileError, match="MANO_RIGHT.pkl"):
            load_hands(path)

    def test_object_arrays_in_npz(self, tmp_path, right_entries):
        path = tmp_path / "MANO_RIGHT.npz"
        np.savez(path, **right_entries)
        with pytest.raises(HandFileError, match="plain arrays"):
            load_hands(path)

    @pytest.mark.parametrize(
        "state",
        [
            {"idxs": np.array([99]), "preferred_shape": (1,)},
            {"idxs": np.array([0]), "preferred_shape": (2,)},
            {"idxs": np.array([0]), "preferred_shape": (-1,)},
            {"preferred_shape": (1,)},
        ],
    )
    def test_chumpy_selection_that_does_not_fit(self, tmp_path, state):
        source = New(Global("chumpy.ch", "Ch"), (), {"x": np.arange(3.0)})
        path = tmp_path / "a.pkl"
        select = New(Global("chumpy.reordering", "Select"), (), {"a": source, **state})
        path.write_bytes(pickled({"a": select}))
        with pytest.raises(HandFileError, match="a.pkl"):
            read_pickle(path)

    @pytest.mark.parametrize(
        "change",
        [
            {"indptr": np.array([0, 1, 2, 9], np.int32)},
            {"indptr": np.array([0, 2, 1, 3], np.int32)},
            {"indices": np.array([0, 1, 7], np.int32)},
            {"indices": np.array([0, 1, -1], np.int32)},
            {"_shape": (2**40, 3)},
            {"_shape": (3,)},
        ],
    )
    def test_sparse_matrix_that_does_not_fit(self, tmp_path, change):
        state = {
            "_shape": (3, 3),
            "data": np.ones(3),
            "indices": np.arange(3, dtype=np.int32),
            "indptr": np.arange(4, dtype=np.int32),
        }
        path = tmp_path / "a.pkl"
        matrix = New(Global("scipy.sparse.csc", "csc_matrix"), (), {**state, **change})
        path.write_bytes(pickled({"a": matrix}))
        with pytest.raises(HandFileError, match="a.pkl"):
            read_pickle(path)

    def test_array_larger_than_its_content(self, tmp_path):
        path = tmp_path / "a.pkl"
        call = array(np.arange(3.0))
        call.state = (1, (2**50,), *call.state[2:])
        path.write_bytes(pickled({"a": call}))
        with pytest.raises(HandFileError, match="too large"):
            read_pickle(path)


RECONSTRUCT = Global("numpy.core.multiarray", "_reconstruct")
NDARRAY = Global("numpy", "ndarray")


def attack(*, function="os.system", arguments=("touch {canary}",)):
    module, name = function.rsplit(".", 1)
    return Call(Global(module, name), tuple(arguments))


HOSTILE = {
    "os.system": (lambda c: attack(arguments=(f"touch {c}",)), "os.system"),
    "posix.system": (
        lambda c: attack(function="posix.system", arguments=(f"touch {c}",)),
        "posix.system",
    ),
    "eval": (
        lambda c: attack(function="__builtin__.eval", arguments=(f"open({str(c)!r}, 'w')",)),
        "__builtin__.eval",
    ),
    "exec": (
        lambda c: attack(function="builtins.exec", arguments=(f"open({str(c)!r}, 'w')",)),
        "builtins.exec",
    ),
    "open": (lambda c: attack(function="builtins.open", arguments=(str(c), "w")), "builtins.open"),
    "getattr": (
        lambda c: attack(function="builtins.getattr", arguments=(NDARRAY, "tofile")),
        "builtins.getattr",
    ),
    "import": (
        lambda c: attack(function="builtins.__import__", arguments=("os",)),
        "builtins.__import__",
    ),
    "numpy gadget f2py": (
        lambda c: attack(
            function="numpy.f2py.crackfortran.myeval", arguments=(f"open({str(c)!r}, 'w')",)
        ),
        "numpy.f2py.crackfortran.myeval",
    ),
    "numpy gadget runstring": (
        lambda c: attack(
            function="numpy.testing._private.utils.runstring",
            arguments=(f"open({str(c)!r}, 'w')", {}),
        ),
        "numpy.testing._private.utils.runstring",
    ),
    "numpy.load": (lambda c: attack(function="numpy.load", arguments=(str(c),)), "numpy.load"),
    "dotted name": (
        lambda c: attack(function="numpy.ndarray.tofile", arguments=(str(c),)),
        "numpy.ndarray.tofile",
    ),
    "joblib": (
        lambda c: Global("joblib.numpy_pickle", "NumpyArrayWrapper"),
        "joblib.numpy_pickle.NumpyArrayWrapper",
    ),
    "scalar": (
        lambda c: attack(function="numpy.core.multiarray.scalar", arguments=(dtype("f8"), "x")),
        "numpy.core.multiarray.scalar",
    ),
    "other chumpy class": (
        lambda c: New(Global("chumpy.ch", "MatVecMult")),
        "chumpy.ch.MatVecMult",
    ),
    "other scipy class": (
        lambda c: New(Global("scipy.sparse.csr", "csr_matrix")),
        "scipy.sparse.csr.csr_matrix",
    ),
    "subclass of ndarray": (
        lambda c: Call(RECONSTRUCT, (Global("numpy", "memmap"), (0,), "b")),
        "numpy.memmap",
    ),
    "subtype that is an instance": (
        lambda c: Call(RECONSTRUCT, (np.zeros(1), (0,), "b")),
        "an array of the type",
    ),
    "ndarray called": (lambda c: Call(NDARRAY, ((2**40,),)), "a call of numpy.ndarray"),
    "ndarray by NEWOBJ": (lambda c: New(NDARRAY, ((2,),)), "an object of numpy.ndarray"),
    "Ch called with arguments": (
        lambda c: New(Global("chumpy.ch", "Ch"), (1,)),
        "an object of chumpy.ch.Ch",
    ),
    "object dtype": (lambda c: dtype("O8"), "numpy.dtype(O8)"),
    "object array": (
        lambda c: Call(
            RECONSTRUCT,
            (NDARRAY, (0,), "b"),
            (1, (1,), dtype("f8"), False, [attack(arguments=(f"touch {c}",))]),
        ),
        "os.system",
    ),
    "object array of harmless things": (
        lambda c: Call(RECONSTRUCT, (NDARRAY, (0,), "b"), (1, (1,), dtype("f8"), False, [1.0])),
        "an array of list",
    ),
    "structured dtype": (
        lambda c: Call(
            Global("numpy", "dtype"),
            ("f8", 0, 1),
            (3, "|", None, ("a",), {"a": (1, 0)}, 8, 1, 16),
        ),
        "a structured dtype",
    ),
    "void dtype": (lambda c: dtype("V8"), "numpy.dtype(V8)"),
    "codec that is not latin1": (
        lambda c: Call(Global("_codecs", "encode"), ("abc", "rot13")),
        "_codecs.encode(..., rot13)",
    ),
    "codec by bytes": (
        lambda c: Call(Global("_codecs", "encode"), (1, "latin1")),
        "_codecs.encode",
    ),
    "decode": (
        lambda c: attack(function="_codecs.decode", arguments=("61", "hex")),
        "_codecs.decode",
    ),
    "state of a function": (
        lambda c: Raw(encode(RECONSTRUCT) + encode((None, {"__defaults__": (1,)})) + b"b"),
        "a state given to numpy.core.multiarray._reconstruct",
    ),
    "state of a class": (
        lambda c: Raw(
            encode(Global("chumpy.ch", "Ch")) + encode((None, {"__setstate__": 1})) + b"b"
        ),
        "a state given to chumpy.ch.Ch",
    ),
    "state with slots": (
        lambda c: New(Global("chumpy.ch", "Ch"), (), ({"x": 1}, {"__class__": 1})),
        "a state given to Ch",
    ),
    "state of a dictionary": (
        lambda c: Raw(encode({}) + encode({"__class__": 1}) + b"b"),
        "a state given to dict",
    ),
    "persistent id": (lambda c: Raw(encode("x") + b"Q"), "BINPERSID"),
    "persistent id in text": (lambda c: Raw(b"Px\n"), "PERSID"),
    "extension registry": (lambda c: Raw(b"\x82\x01"), "EXT1"),
    "extension registry, wide": (lambda c: Raw(b"\x84\x01\x00\x00\x00"), "EXT4"),
    "INST": (lambda c: Raw(b"(" + encode(f"touch {c}") + b"ios\nsystem\n"), "INST"),
    "OBJ": (
        lambda c: Raw(b"(" + encode(RECONSTRUCT) + encode("x") + b"o"),
        "OBJ",
    ),
    "NEWOBJ_EX": (
        lambda c: Raw(encode(NDARRAY) + encode(()) + encode({}) + b"\x92"),
        "NEWOBJ_EX",
    ),
    "out-of-band buffer": (lambda c: Raw(b"\x97"), "NEXT_BUFFER"),
    "STACK_GLOBAL": (
        lambda c: Raw(b"\x8c\x02os\x8c\x06system\x93" + encode((f"touch {c}",)) + b"R"),
        "os.system",
    ),
    "STACK_GLOBAL of other things": (
        lambda c: Raw(encode(NDARRAY) + encode(1) + b"\x93"),
        "it is no class",
    ),
}


class TestHostileFiles:
    @pytest.mark.parametrize("name", HOSTILE)
    @pytest.mark.parametrize("place", ["value", "key of the state", "chumpy state", "popped"])
    def test_refused_by_name_and_nothing_ran(self, tmp_path, monkeypatch, name, place):
        canary = tmp_path / "it_ran"
        make, said = HOSTILE[name]
        evil = make(canary)
        entry = {
            "value": evil,
            "key of the state": {"deep": [({"x": evil},)]},
            "chumpy state": New(Global("chumpy.ch", "Ch"), (), {"x": np.eye(2), "y": evil}),
            "popped": Raw(encode(evil) + b"0" + encode(1)),
        }[place]
        path = tmp_path / "MANO_RIGHT.pkl"
        path.write_bytes(pickled({"v_template": np.zeros((778, 3)), "extra": entry}))

        def ran(*arguments, **keywords):
            raise AssertionError("the pickle called something")

        for module, function in ((os, "system"), (builtins, "eval"), (pickle, "Unpickler")):
            monkeypatch.setattr(module, function, ran)
        with pytest.raises(PickleRefusedError, match=re.escape(said)) as raised:
            load_hands(path)
        assert str(path) in str(raised.value)
        assert "any code" in str(raised.value)
        assert not canary.exists()

    def test_a_real_exploit_works_elsewhere(self, tmp_path):
        """The files above are no straw men: Python's own unpickler runs them."""
        canary = tmp_path / "it_ran"
        content = pickled({"a": attack(function="builtins.open", arguments=(str(canary), "w"))})
        pickle.loads(content)["a"].close()
        assert canary.exists()

    def test_the_list_is_the_written_one(self):
        assert {f"{module}.{name}" for module, name in ADMITTED} == {
            "numpy.core.multiarray._reconstruct",
            "numpy._core.multiarray._reconstruct",
            "numpy.core.numeric._frombuffer",
            "numpy._core.numeric._frombuffer",
            "numpy.ndarray",
            "numpy.dtype",
            "__builtin__.set",
            "builtins.set",
            "chumpy.ch.Ch",
            "chumpy.reordering.Select",
            "scipy.sparse.csc.csc_matrix",
            "scipy.sparse._csc.csc_matrix",
            "_codecs.encode",
        }

    def test_cycles_and_depth(self, tmp_path):
        path = tmp_path / "a.pkl"
        nest = b")" + b"\x85" * 20_000
        path.write_bytes(b"\x80\x02}(" + encode("a") + b"]q\x00h\x00a" + encode("b") + nest + b"u.")
        assert set(read_pickle(path)) == {"a", "b"}
        path.write_bytes(b"\x80\x02}(" + nest + encode("b") + b"u.")
        with pytest.raises(HandFileError, match="a dictionary key that is tuple"):
            read_pickle(path)

    def test_selection_of_itself(self, tmp_path):
        path = tmp_path / "a.pkl"
        make = encode(New(Global("chumpy.reordering", "Select"))) + b"q\x00"
        state = encode({"idxs": np.array([0]), "preferred_shape": (1,), "a": Raw(b"h\x00")})
        path.write_bytes(b"\x80\x02}(" + encode("a") + make + state + b"bu.")
        with pytest.raises(HandFileError, match="expected an array, found Select|_Record"):
            read_pickle(path)


class TestExport:
    def test_round_trip(self, tmp_path, right_model, left_model):
        paths = export_hands(right_model, left_model, tmp_path / "new" / "folder")
        assert sorted(path.name for path in paths) == [
            "MANO_LEFT.npz",
            "MANO_LEFT.pkl",
            "MANO_RIGHT.npz",
            "MANO_RIGHT.pkl",
        ]
        assert sorted(os.listdir(tmp_path / "new" / "folder")) == sorted(p.name for p in paths)
        for suffix in ("pkl", "npz"):
            right, left, source = read_hand_models(tmp_path / f"new/folder/MANO_RIGHT.{suffix}")
            assert_same_model(right, right_model)
            assert_same_model(left, left_model)
            assert source.left_shapedirs == "correct" and source.notes == ()
            assert source.fingerprint == fingerprint((right_model, left_model))

    def test_official_layout(self, tmp_path, right_model, right_entries):
        path = export_hands(right_model, mirrored(right_model), tmp_path)[0]
        content = path.read_bytes()
        assert content[:2] == b"\x80\x02"
        assert set(globals_of(content)) == {
            "numpy.core.multiarray _reconstruct",
            "numpy ndarray",
            "numpy dtype",
            "scipy.sparse.csc csc_matrix",
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # scipy.sparse.csc, as officially
            entries = pickle.loads(content, encoding="latin1")
        assert list(entries) == list(right_entries) and len(entries) == 13
        assert isinstance(entries["J_regressor"], csc_matrix)
        assert entries["f"].dtype == np.uint32 and entries["kintree_table"].dtype == np.int64
        assert entries["kintree_table"][0, 0] == 2**32 - 1
        assert (entries["bs_style"], entries["bs_type"]) == ("lbs", "lrotmin")
        for key, value in dense(right_entries).items():
            np.testing.assert_array_equal(dense(entries)[key], value)

    def test_npz_is_dense_and_needs_no_pickle(self, tmp_path, right_model, right_entries):
        path = export_hands(right_model, mirrored(right_model), tmp_path)[1]
        with np.load(path, allow_pickle=False) as arrays:
            assert set(arrays.files) == set(right_entries)
            assert arrays["J_regressor"].shape == (16, 778)

    def test_without_pose_samples(self, tmp_path, right_model):
        bare = replace(right_model, pose_samples=None)
        export_hands(bare, mirrored(bare), tmp_path)
        right, left, source = read_hand_models(tmp_path)
        assert right.pose_samples is None and left.pose_samples is None
        assert source.num_pose_samples == (0, 0)
        assert load_hands(tmp_path).pose_samples is None

    def test_never_overwrites_unasked(self, tmp_path, right_model, left_model):
        kept = tmp_path / "MANO_LEFT.npz"
        kept.write_bytes(b"mine")
        with pytest.raises(HandFileError, match=r"MANO_LEFT\.npz would be overwritten"):
            export_hands(right_model, left_model, tmp_path)
        assert kept.read_bytes() == b"mine" and os.listdir(tmp_path) == [kept.name]
        export_hands(right_model, left_model, tmp_path, overwrite=True)
        load_hands(tmp_path)

    def test_a_failed_write_leaves_the_former_file(
        self, tmp_path, right_model, left_model, monkeypatch
    ):
        former = tmp_path / "MANO_RIGHT.pkl"
        former.write_bytes(b"former")

        def full(*arguments):
            raise OSError("no space left")

        monkeypatch.setattr("mano_jax.export._pickled", full)
        with pytest.raises(OSError, match="no space left"):
            export_hands(right_model, left_model, tmp_path, overwrite=True)
        assert former.read_bytes() == b"former" and os.listdir(tmp_path) == [former.name]

    def test_sides_are_checked(self, tmp_path, right_model, left_model):
        with pytest.raises(HandFileError, match="expected a right hand"):
            export_hands(left_model, right_model, tmp_path)


class TestWhichHands:
    def same(self, found, expected):
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=1e-6)

    def test_embedded_by_default(self, hands):
        self.same(load_hands(), hands)
        source = describe_hands()
        assert source.embedded and source.genuine == (False, False)
        assert (source.num_vertices, source.num_faces, source.num_betas) == (778, 1538, 10)
        assert "embedded" in source.summary()
        assert "mano.is.tue.mpg.de" in source.summary() and "MANOFIT_HANDS" in source.summary()

    def test_variable_and_path(self, tmp_path, right_model, left_model, monkeypatch, hands):
        export_hands(right_model, left_model, tmp_path / "a")
        larger = replace(right_model, v_template=1.1 * right_model.v_template)
        export_hands(larger, mirrored(larger), tmp_path / "b")
        monkeypatch.setenv("MANOFIT_HANDS", str(tmp_path / "b"))
        self.same(load_hands(), two_hands(larger))
        self.same(load_hands(tmp_path / "a"), hands)
        self.same(load_hands(str(tmp_path / "a" / "MANO_RIGHT.npz")), hands)
        monkeypatch.setenv("MANOFIT_HANDS", "")
        assert describe_hands().embedded
        monkeypatch.setenv("MANOFIT_HANDS", str(tmp_path / "missing"))
        with pytest.raises(HandFileError, match="missing does not exist"):
            load_hands()

    def test_home_is_expanded(self, tmp_path, right_model, left_model, monkeypatch):
        export_hands(right_model, left_model, tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path.parent))
        assert not describe_hands(f"~/{tmp_path.name}").embedded

    def test_dtype_and_fingertips(self):
        assert load_hands(dtype=jnp.float32).v_template.dtype == jnp.float32
        with jax.enable_x64(True):
            assert load_hands(dtype=jnp.float64).v_template.dtype == jnp.float64
        assert load_hands(fingertips="manopth").tip_vertices.tolist() == [
            [745, 317, 444, 556, 673],
            [745, 317, 445, 556, 673],
        ]

    def test_genuine_files_are_recognised(self, tmp_path, right_model, left_model, monkeypatch):
        right = export_hands(right_model, left_model, tmp_path)[0]
        assert describe_hands(tmp_path).genuine == (False, False)
        assert "(genuine" not in describe_hands(tmp_path).summary()
        monkeypatch.setitem(loading.GENUINE_MD5, "right", describe_hands(tmp_path).right_md5)
        assert describe_hands(right).genuine == (True, False)
        assert "MANO_RIGHT.pkl (genuine MANO v1.2)" in describe_hands(right).summary()

    def test_fingerprint_names_the_arrays(self, right_model, left_model):
        same = fingerprint((right_model, left_model))
        assert same == fingerprint((right_model, mirrored(right_model)))
        moved = replace(right_model, v_template=right_model.v_template + 1e-12)
        assert fingerprint((moved, left_model)) != same
        assert re.fullmatch("[0-9a-f]{16}", same)


@pytest.mark.assets
@pytest.mark.skipif(not GENUINE, reason="MANOFIT_HANDS does not name the genuine MANO files")
def test_genuine_right_hand():
    """Facts read off one official right-hand file."""
    right, left, source = read_hand_models(GENUINE)
    assert source.genuine[0], f"{source.right_file} is not the official file"
    assert (source.num_vertices, source.num_faces, source.num_betas) == (778, 1538, 10)
    assert source.num_pose_samples[0] == 1554
    wrist = (right.J_regressor @ right.v_template)[0]
    np.testing.assert_allclose(wrist, [0.09566993, 0.00638343, 0.00618631], atol=1e-7)
    np.testing.assert_allclose(left.shapedirs[:, 0], -right.shapedirs[:, 0], atol=1e-4)
