"""The canonical file: what is written is read back, and bad files are told apart."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fitting.canonical import (
    CanonicalFileError,
    check_target,
    read_arrays,
    read_predictions,
    write_arrays,
    write_predictions,
)
from fitting.errors import InputError
from fitting.predictions import TwoHandPredictions

ABSURD_SHAPES = [(10**15,), (2**40, 2**40), (10**30,)]
"""Too large for any memory, for an integer of 64 bits in all, for one in itself."""


def npz_that_claims(shape: tuple[int, ...], path: Path, name: str) -> None:
    """Write an archive whose one array has a header of that shape, and no content."""
    header = io.BytesIO()
    described = {"descr": "<f8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.npy", header.getvalue())


@pytest.fixture
def predictions() -> TwoHandPredictions:
    rng = np.random.default_rng(0)
    orient = rng.normal(size=(3, 2, 3))
    orient[1] = np.nan
    return TwoHandPredictions(
        hand_valid=np.ones((3, 2), bool),
        global_orient=orient,
        hand_pose=rng.normal(size=(3, 2, 15, 3)),
        betas=rng.normal(size=(3, 2, 10)),
        relative_transl=rng.normal(size=(3, 3)),
        vertices=rng.normal(size=(3, 2, 778, 3)),
        frame_id=np.array(["a", "bb", "ccc"]),
    )


def test_round_trip_is_exact(tmp_path, predictions):
    path = tmp_path / "in.npz"
    write_predictions(path, predictions)
    again = read_predictions(path)
    assert set(again.arrays()) == set(predictions.arrays())
    for name, array in predictions.arrays().items():
        np.testing.assert_array_equal(getattr(again, name), array)
        assert getattr(again, name).dtype == array.dtype


def test_a_result_is_an_input(tmp_path, predictions):
    path = tmp_path / "result.npz"
    result = predictions.arrays() | {
        "status": np.zeros(3, np.uint8),
        "status_names": np.array(["refined", "kept_input", "skipped_invalid"]),
        "reason": np.array(["", "", ""]),
        "energy_before": np.zeros((3, 2)),
        "energy_terms": np.array(["joints_3d", "collision"]),
        "strategy": np.array("name = 'x'"),
        "provenance": np.array("{}"),
        "transl": np.zeros((3, 2, 3)),
        "joints": np.zeros((3, 2, 21, 3)),
    }
    write_arrays(path, result)
    again = read_predictions(path)
    # A result's vertices are its fitted mesh, no target.
    assert again.vertices is None
    np.testing.assert_array_equal(again.betas, predictions.betas)


def test_unknown_names_list_the_known(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, hand_valid=np.ones((1, 2), bool), hand_poses=np.zeros(3))
    with pytest.raises(CanonicalFileError) as error:
        read_predictions(path)
    for word in (str(path), "'hand_poses'", "hand_pose", "joints_3d", "energy_terms"):
        assert word in str(error.value)


def test_python_objects_are_never_loaded(tmp_path):
    path = tmp_path / "x.npz"

    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    np.savez(path, hand_valid=np.array([Bomb()], dtype=object))
    with pytest.raises(CanonicalFileError, match="hand_valid.*Python objects.*pickle"):
        read_predictions(path)
    assert not (tmp_path / "exploded").exists()
    with pytest.raises(CanonicalFileError, match="Python objects"):
        write_arrays(tmp_path / "y.npz", {"reason": np.array([None], dtype=object)})


def test_damaged_and_missing_files_name_themselves(tmp_path, predictions):
    good = tmp_path / "good.npz"
    write_predictions(good, predictions)
    content = good.read_bytes()
    truncated, garbage, empty = (tmp_path / f"{n}.npz" for n in ("truncated", "garbage", "empty"))
    truncated.write_bytes(content[: len(content) // 2])
    garbage.write_bytes(b"not a zip file")
    empty.write_bytes(b"")
    # One bit of an array flipped: the archive's checksum notices.
    flipped = tmp_path / "flipped.npz"
    at = len(content) // 3
    flipped.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    for path in (truncated, garbage, empty, flipped, tmp_path / "missing.npz", tmp_path):
        with pytest.raises(InputError) as error:
            read_predictions(path)
        assert str(path) in str(error.value)


@pytest.mark.parametrize("shape", ABSURD_SHAPES)
def test_a_header_that_claims_too_much(shape, tmp_path):
    path = tmp_path / "x.npz"
    npz_that_claims(shape, path, "betas")
    with pytest.raises(CanonicalFileError, match=r"x\.npz: 'betas' is damaged"):
        read_predictions(path)


def test_wrong_shapes_name_the_file(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, hand_valid=np.ones((1, 3), bool))
    with pytest.raises(CanonicalFileError, match=r"x\.npz: hand_valid.*\(N, 2\).*\(1, 3\)"):
        read_predictions(path)
    np.savez(path, betas=np.zeros((1, 2, 10)))
    with pytest.raises(CanonicalFileError, match="no hand_valid.*found betas"):
        read_predictions(path)
    np.savez(path, hand_valid=np.ones((0, 2), bool))
    with pytest.raises(CanonicalFileError, match="at least one frame"):
        read_predictions(path)


def test_nothing_is_overwritten_unasked(tmp_path, predictions):
    path = tmp_path / "x.npz"
    write_predictions(path, predictions)
    before = path.read_bytes()
    with pytest.raises(InputError, match="exists already.*--force.*overwrite=True"):
        write_arrays(path, {"betas": np.zeros(1)})
    assert path.read_bytes() == before
    write_arrays(path, {"betas": np.zeros(1)}, overwrite=True)
    assert list(read_arrays(path)) == ["betas"]


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, predictions, monkeypatch):
    path = tmp_path / "x.npz"
    write_predictions(path, predictions)
    before = path.read_bytes()

    def fails(file, **_):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fails)
    with pytest.raises(OSError, match="disk full"):
        write_arrays(path, {"betas": np.zeros(1)}, overwrite=True)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["x.npz"]


def test_bad_targets_are_refused(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    before = set(tmp_path.rglob("*"))
    for name, message in (
        ("x.npy", r"ends in \.npz"),
        ("x", r"ends in \.npz"),
        ("folder.npz", "is a folder"),
        ("file/x.npz", "file is no folder"),
        ("file/new/x.npz", "file is no folder"),
        ("link/x.npz", "link is no folder"),
    ):
        with pytest.raises(InputError, match=message):
            check_target(tmp_path / name, (".npz",), overwrite=True)
        with pytest.raises(InputError, match=message):
            write_arrays(tmp_path / name, {}, overwrite=True)
    assert set(tmp_path.rglob("*")) == before


def test_a_folder_is_made_on_writing_and_not_before(tmp_path):
    path = tmp_path / "new" / "deep" / "x.npz"
    check_target(path, (".npz",), overwrite=False)
    assert os.listdir(tmp_path) == []
    write_arrays(path, {"betas": np.zeros(1)})
    assert list(read_arrays(path)) == ["betas"]


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match=f"no permission to write in {tmp_path}"):
        check_target(tmp_path / "new" / "x.npz", (".npz",), overwrite=False)
