"""Damaged files of every format: an error that says so, or frames that are told as unusable."""

import json
import pickle
import shutil
import time

import numpy as np
import pytest

from fitting.adapters import Conversion, Reading, read_foreign
from fitting.checks import frame_reasons
from fitting.errors import InputError
from tests.foreign.scene import make_scene
from tests.test_regressor_adapters import CASES

ROUNDS = 25
"""Files of each kind of damage, for each format and layout."""

SLOWEST = 5.0
"""Seconds for one small file: nothing may hang."""

WRONG = (
    *(None, "words", b"\xff", True, -1, 10**30, float("nan"), float("inf"), [], {}, [[]], ()),
    *(np.zeros(0), np.zeros((3, 3)), np.full(48, np.nan), np.array(["a", "b"]), [1, [2, 3]], 1j),
    *(np.zeros((1, 0, 3)), {"a": {"b": None}}, np.array(3.5), np.ones(10, bool), [None] * 3),
)
"""What no key should hold."""


@pytest.fixture(scope="module", params=CASES, ids=str)
def sound(request, tmp_path_factory, hands):
    """A format's sound file, and how it is read."""
    case = request.param
    folder = tmp_path_factory.mktemp("sound")
    scene = make_scene(3, presence=((1, 1), (1, 0), (0, 1)), **case.scene)
    written = case.write(folder / case.file, scene, **case.options)
    given = {name: written.options[name] for name in case.given if name != "annotations"}
    return case, folder, written.path, Reading(hands, **given)


def read(case, path, reading):
    """Read a file that may be anything; it must not crash, hang, or pass off nonsense."""
    began = time.monotonic()
    try:
        conversion, _ = read_foreign(path, source=case.source, reading=reading)
    except InputError as error:
        assert len(str(error)) > 20
        return False
    finally:
        assert time.monotonic() - began < SLOWEST
    assert isinstance(conversion, Conversion)
    p = conversion.predictions
    unusable = frame_reasons(p, reading.hands) != ""
    for name in ("global_orient", "hand_pose", "betas"):
        values = getattr(p, name)
        broken = ~np.isfinite(values).reshape(*values.shape[:2], -1).all(-1) & p.hand_valid
        assert unusable[broken.any(1)].all(), name
    return True


def damaged(sound, tmp_path, rng):
    """A copy of the file or folder, and one of its files to spoil."""
    case, folder, path, reading = sound
    copy = tmp_path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    path = copy / path.relative_to(folder)
    files = sorted(f for f in (path.rglob("*") if path.is_dir() else [path]) if f.is_file())
    return case, path, files[rng.integers(len(files))], reading


def test_sound_files_are_read(sound):
    case, _, path, reading = sound
    assert read(case, path, reading)


@pytest.mark.parametrize("kind", ["truncated", "flipped", "shuffled"])
def test_spoilt_bytes(sound, tmp_path, kind):
    rng = np.random.default_rng(len(kind))
    for _ in range(ROUNDS):
        case, path, file, reading = damaged(sound, tmp_path, rng)
        content = bytearray(file.read_bytes())
        where = rng.integers(len(content))
        if kind == "truncated":
            del content[where:]
        elif kind == "flipped":
            for at in rng.integers(len(content), size=rng.integers(1, 9)):
                content[at] ^= 1 << rng.integers(8)
        else:
            piece = slice(where, where + 64)
            content[piece] = rng.permutation(np.frombuffer(content[piece], np.uint8)).tobytes()
        file.write_bytes(content)
        read(case, path, reading)


def test_wrong_values(sound, tmp_path):
    rng = np.random.default_rng(7)
    for _ in range(ROUNDS):
        case, path, file, reading = damaged(sound, tmp_path, rng)
        if not spoil_tree(file, rng):
            return
        read(case, path, reading)


def spoil_tree(file, rng) -> bool:
    """Put a wrong value somewhere in a file's tree; whether the file has one."""
    if file.suffix == ".pkl":
        tree = pickle.loads(file.read_bytes())
        file.write_bytes(pickle.dumps(spoilt(tree, rng)))
    elif file.suffix == ".json":
        tree = spoilt(json.loads(file.read_text()), rng)
        file.write_text(json.dumps(tree, default=str))
    elif file.suffix == ".jsonl":
        lines = spoilt([json.loads(line) for line in file.read_text().splitlines()], rng)
        lines = lines if isinstance(lines, list) else [lines]
        file.write_text("\n".join(json.dumps(line, default=str) for line in lines))
    elif file.suffix == ".npz":
        with np.load(file, allow_pickle=True) as archive:
            tree = spoilt(dict(archive), rng)
        boxed = (
            {name: as_array(value) for name, value in tree.items()}
            if isinstance(tree, dict)
            else {"arr_0": as_array(tree)}
        )
        np.savez(file, allow_pickle=True, **boxed)
    elif file.suffix == ".npy":
        np.save(file, as_array(spoilt(np.load(file, allow_pickle=True)[()], rng)))
    else:
        return False
    return True


def as_array(value):
    array = np.empty((), object)
    array[()] = value
    return value if isinstance(value, np.ndarray) else array


def spoilt(tree, rng, depth=0):
    """The tree with one value somewhere replaced, removed or doubled."""
    inner = list(tree) if isinstance(tree, dict | list) else None
    if not inner or (depth and rng.random() < 0.15):
        if isinstance(tree, np.ndarray) and tree.size and tree.dtype.kind == "f":
            if rng.random() < 0.5:
                tree = tree.copy()
                tree.flat[rng.integers(tree.size)] = rng.choice([np.nan, np.inf, 6e4, -6e4])
                return tree
            return tree[..., :-1] if tree.ndim else tree
        return WRONG[rng.integers(len(WRONG))]
    at = rng.integers(len(inner))
    if isinstance(tree, dict):
        key = inner[at]
        if rng.random() < 0.1:
            return {k: v for k, v in tree.items() if k != key}
        return tree | {key: spoilt(tree[key], rng, depth + 1)}
    if rng.random() < 0.1:
        return inner[:at] + inner[at + 1 :]
    return [*inner[:at], spoilt(inner[at], rng, depth + 1), *inner[at + 1 :]]


HOSTILE = {
    "os.system": b"cos\nsystem\n(S'touch CANARY'\ntR.",
    "posix.system": b"cposix\nsystem\n(S'touch CANARY'\ntR.",
    "eval": b'cbuiltins\neval\n(S\'open("CANARY", "w")\'\ntR.',
    "__builtin__.exec": b'c__builtin__\nexec\n(S\'open("CANARY", "w")\'\ntR.',
    "subprocess.Popen": b"csubprocess\nPopen\n((S'touch'\nS'CANARY'\nltR.",
    "nested": b"cfunctools\nreduce\n(cos\nsystem\n(S'touch CANARY'\nltR.",
    "getattr": b"cbuiltins\ngetattr\n(cos\nsystem\nS'__call__'\ntR(S'touch CANARY'\ntR.",
    "memo bomb": b"\x80\x04]\x94" + b"(h\x00h\x00e" * 1000 + b".",
    "deep": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "huge": b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b"x.",
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("suffix", [".pkl", ".pt", ".npy"])
@pytest.mark.parametrize("source", ["auto", "ihmr", "hamer", "acr", "frankmocap", "ho3d", "dir"])
def test_hostile_pickles_are_refused(tmp_path, monkeypatch, hands, name, suffix, source):
    monkeypatch.chdir(tmp_path)
    content = HOSTILE[name]
    if suffix == ".npy":
        header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"
        header = header.ljust(118 - 1) + b"\n"
        content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content
    (tmp_path / f"file{suffix}").write_bytes(content)
    with pytest.raises(InputError):
        read_foreign(tmp_path / f"file{suffix}", source=source, reading=Reading(hands))
    assert not (tmp_path / "CANARY").exists()
