"""Frames read a chunk at a time: the same as read whole, and what is damaged is told."""

import shutil
import zipfile
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import zarr

from experiments.benchmark import make_interactions
from fitting.canonical import read_predictions
from fitting.errors import InputError
from fitting.predictions import TwoHandPredictions
from fitting.sources import memory_source, open_source


@pytest.fixture(scope="module")
def predictions(hands):
    _, made = make_interactions(hands, frames=3, seed=2)
    many = made.frames(np.arange(23) % 3)
    return replace(many, frame_id=np.array([f"frame {i}" for i in range(23)]))


def write_zarr(path, arrays, **options):
    group = zarr.create_group(path)
    for name, values in arrays.items():
        array = group.create_array(
            name,
            shape=values.shape,
            chunks=(5, *values.shape[1:]),
            dtype="string" if values.dtype.kind == "U" else values.dtype.name,
            **options,
        )
        array[:] = values


@pytest.fixture(params=["stored", "compressed", "zarr", "memory"])
def source(request, predictions, tmp_path):
    if request.param == "memory":
        return memory_source(predictions, "memory")
    path = tmp_path / f"input.{'zarr' if request.param == 'zarr' else 'npz'}"
    if request.param == "zarr":
        write_zarr(path, predictions.arrays())
    else:
        save = np.savez if request.param == "stored" else np.savez_compressed
        save(path, **predictions.arrays())
    return open_source(path)


def same(a: TwoHandPredictions, b: TwoHandPredictions):
    assert a.arrays().keys() == b.arrays().keys()
    for name, values in a.arrays().items():
        np.testing.assert_array_equal(values, b.arrays()[name], err_msg=name)


@pytest.mark.parametrize("size", [4, 7, 23, 64])
def test_chunks_are_the_file(source, predictions, size):
    chunks = [source.chunk(n, size) for n in range(-(-23 // size))]
    for number, chunk in enumerate(chunks):
        same(chunk.predictions, predictions.frames(slice(number * size, (number + 1) * size)))
    assert all((c.unreadable == "").all() for c in chunks)
    # Any order: a run that goes on leaves out what is done.
    same(source.chunk(0, size).predictions, predictions.frames(slice(0, size)))


def test_a_range_of_frames(predictions, tmp_path):
    np.savez(tmp_path / "a.npz", **predictions.arrays())
    source = open_source(tmp_path / "a.npz", frames=slice(4, 11))
    assert source.num_frames == 7
    same(source.chunk(1, 4).predictions, predictions.frames(slice(8, 11)))


def test_the_fingerprint_is_of_the_content(predictions, tmp_path):
    paths = [tmp_path / name for name in ("a.npz", "b.npz", "c.npz")]
    for path, moved in zip(paths, (0, 0, 1e-6), strict=True):
        betas = predictions.betas + np.float32(moved)
        np.savez(path, **replace(predictions, betas=betas).arrays())
    a, b, c = (open_source(path).fingerprint for path in paths)
    assert a == b != c


def test_column_major_arrays_are_read_all_the_same(predictions, tmp_path):
    arrays: Any = {n: np.asfortranarray(x) for n, x in predictions.arrays().items()}
    np.savez(tmp_path / "a.npz", **arrays)
    same(
        open_source(tmp_path / "a.npz").chunk(1, 10).predictions, predictions.frames(slice(10, 20))
    )


def test_a_damaged_chunk_is_some_frames_without_a_hand(predictions, tmp_path):
    path = tmp_path / "a.zarr"
    write_zarr(path, predictions.arrays())
    (path / "betas" / "c" / "2" / "0" / "0").write_bytes(b"no such compression")
    (path / "frame_id" / "c" / "3").write_bytes(b"")
    chunk = open_source(path).chunk(0, 64)
    lost = np.flatnonzero(chunk.unreadable != "")
    np.testing.assert_array_equal(lost, np.arange(10, 20))
    assert "betas cannot be read" in chunk.unreadable[10]
    assert "frame_id cannot be read" in chunk.unreadable[15]
    assert not chunk.predictions.hand_valid[lost].any()
    rest = np.setdiff1d(np.arange(23), lost)
    same(chunk.predictions.frames(rest), predictions.frames(rest))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_archive_is_an_error_that_names_the_array(predictions, tmp_path, save):
    path = tmp_path / "a.npz"
    save(path, **predictions.arrays())
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo("hand_pose.npy").header_offset + 400
    content = bytearray(path.read_bytes())
    content[place] ^= 255
    path.write_bytes(content)
    with pytest.raises(InputError, match="hand_pose.*damaged"):
        open_source(path)


def test_a_truncated_archive_is_an_error(predictions, tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, **predictions.arrays())
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(InputError, match=r"a\.npz.*damaged"):
        open_source(path)


@pytest.mark.parametrize("change", ["unlink", "rewrite"])
def test_a_file_that_vanishes_or_changes_meanwhile(predictions, tmp_path, change):
    path = tmp_path / "a.npz"
    np.savez(path, **predictions.arrays())
    source = open_source(path)
    path.unlink()
    if change == "rewrite":
        np.savez(path, **predictions.frames(slice(0, 20)).arrays())
    with pytest.raises(InputError, match="vanished" if change == "unlink" else "was changed"):
        source.chunk(0, 8)


def test_a_group_that_vanishes_meanwhile(predictions, tmp_path):
    path = tmp_path / "a.zarr"
    write_zarr(path, predictions.arrays())
    source = open_source(path)
    shutil.rmtree(path)
    with pytest.raises(InputError, match="vanished"):
        source.chunk(0, 8)


def test_arrays_of_different_lengths_are_an_error(predictions, tmp_path):
    arrays = predictions.arrays() | {"betas": predictions.betas[:20]}
    write_zarr(tmp_path / "a.zarr", arrays)
    with pytest.raises(InputError, match="betas: expected 23 frames as in hand_valid, found 20"):
        open_source(tmp_path / "a.zarr")


def test_unknown_names_are_an_error(predictions, tmp_path):
    np.savez(tmp_path / "a.npz", extra=np.zeros(23), **predictions.arrays())
    with pytest.raises(InputError, match="unknown array 'extra'"):
        open_source(tmp_path / "a.npz")


def test_every_command_reads_groups(predictions, tmp_path):
    write_zarr(tmp_path / "a.zarr", predictions.arrays())
    same(read_predictions(tmp_path / "a.zarr"), predictions)
