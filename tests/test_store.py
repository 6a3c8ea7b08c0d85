"""A result that is written chunk by chunk: whole or not there, one writer, one identity."""

import errno
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import zarr

from fitting.canonical import read_arrays
from fitting.errors import InputError
from fitting.store import ResultStore, locked

IDENTITY = {"input": "abc", "frames": 10, "strategy": "name = 'a'\nsteps = 3\n"}


def begin(path, **options):
    identity = options.pop("identity", IDENTITY)
    return ResultStore.begin(path, identity=identity, num_frames=10, chunk_size=4, **options)


def rows(first, count):
    return {
        "betas": np.arange(first, first + count, dtype=np.float32)[:, None]
        * np.ones(3, np.float32),
        "reason": np.array(["why" if i % 2 else "" for i in range(first, first + count)]),
        "flag": np.zeros(count, bool),
    }


def test_what_is_written_is_read(tmp_path):
    store = begin(tmp_path / "r.zarr")
    for number, count in ((0, 4), (2, 2)):
        store.write_chunk(number, rows(4 * number, count))
    np.testing.assert_array_equal(store.done(), [True, False, True])
    with pytest.raises(InputError, match="2 of 3 chunks are done"):
        read_arrays(tmp_path / "r.zarr")
    again = begin(tmp_path / "r.zarr")
    again.write_chunk(1, rows(4, 4))
    assert again.done().all()
    found = read_arrays(tmp_path / "r.zarr")
    for name, values in rows(0, 10).items():
        np.testing.assert_array_equal(found[name], values)
    # Chunks of zeros are files too.
    assert len(list((tmp_path / "r.zarr" / "flag").glob("c.*"))) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.zarr"]


def test_unfinished_files_of_a_killed_process_are_taken_away(tmp_path):
    path = tmp_path / "r.zarr"
    begin(path).write_chunk(0, rows(0, 4))
    stray = path / "betas" / f"c.{'0' * 32}.partial"
    stray.write_bytes(b"half")
    assert begin(path).done().sum() == 1
    assert not stray.exists()


@pytest.mark.parametrize("left", ["nothing", "partial", "no marks"])
def test_killed_while_it_began(tmp_path, left):
    path = tmp_path / "r.zarr"
    path.mkdir()
    if left == "partial":
        (path / f"zarr.{'a' * 32}.partial").write_bytes(b"{")
    if left == "no marks":
        zarr.create_group(path, attributes={"identity": IDENTITY, "chunk_size": 4})
    assert not begin(path).done().any()


def test_another_identity_is_refused_with_what_differs(tmp_path):
    path = tmp_path / "r.zarr"
    begin(path).write_chunk(0, rows(0, 4))
    other = IDENTITY | {"input": "xyz", "strategy": "name = 'a'\nsteps = 4\n"}
    with pytest.raises(InputError) as refusal:
        begin(path, identity=other)
    for words in ("input (then abc, now xyz)", "-steps = 3, +steps = 4", "--restart"):
        assert words in str(refusal.value)
    assert begin(path).done().sum() == 1
    assert not begin(path, identity=other, restart=True).done().any()


@pytest.mark.parametrize("restart", [False, True])
def test_what_is_no_result_is_left_alone(tmp_path, restart):
    path = tmp_path / "r.zarr"
    path.mkdir()
    (path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="no result"):
        begin(path, restart=restart)
    zarr.create_group(tmp_path / "g.zarr")
    with pytest.raises(InputError, match="no result"):
        begin(tmp_path / "g.zarr", restart=restart)
    assert (path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("at", ["chunk", "mark"])
def test_a_chunk_whose_writing_fails_is_not_done(tmp_path, monkeypatch, at):
    store = begin(tmp_path / "r.zarr")
    store.write_chunk(0, rows(0, 4))

    def full(paths):
        if at == "chunk" or "chunk_done" in str(paths[0]):
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("fitting.store._sync", full)
        with pytest.raises(OSError, match="No space"):
            store.write_chunk(1, rows(4, 4))
    store = begin(tmp_path / "r.zarr")
    assert store.done()[0] and not store.done()[2]
    assert store.done()[1] == (at == "mark")
    store.write_chunk(1, rows(4, 4))
    store.write_chunk(2, rows(8, 2))
    np.testing.assert_array_equal(read_arrays(tmp_path / "r.zarr")["betas"], rows(0, 10)["betas"])


def hold(path, ready):
    with locked(path):
        ready.set()
        time.sleep(60)


def test_one_writer_and_the_lock_of_a_dead_one(tmp_path):
    path = tmp_path / "new" / "r.zarr"
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Event()
    other = spawn.Process(target=hold, args=(path, ready))
    other.start()
    assert ready.wait(60)
    with pytest.raises(InputError, match="another process is writing it"), locked(path):
        pass
    assert other.pid
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    with locked(path):
        assert (path.parent / "r.zarr.lock").exists()
    assert not any(path.parent.iterdir())


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is no folder"), locked(tmp_path / "file" / "r.zarr"):
        pass
