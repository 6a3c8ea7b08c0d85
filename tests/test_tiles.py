"""Tiles: in order, as many at a time as there are cores, with nothing to do in what fills them."""

import threading
import time

import jax
import numpy as np
import pytest

from fitting import tiles
from fitting.tiles import CompiledOnce, Devices, tile_size, tiles_at_once


@pytest.fixture
def cores(monkeypatch):
    """Pretend to have as many."""

    def pretend(count):
        monkeypatch.setattr(tiles.os, "sched_getaffinity", lambda _: range(count), raising=False)

    return pretend


@pytest.mark.parametrize(
    ("count", "devices", "expected"), [(1, 1, 1), (4, 1, 4), (8, 2, 8), (1, 2, 2)]
)
def test_cores_are_shared_out_between_devices(cores, count, devices, expected):
    cores(count)
    assert tiles_at_once(jax.devices()[:devices]) == expected


@pytest.mark.parametrize("devices", [1, 2])
def test_as_many_tiles_run_at_a_time_as_there_are_cores(cores, devices):
    """Each waits until all of them are there, and never are there more."""
    cores(4)
    size = tile_size(jax.devices()[0])
    together, running, most = threading.Barrier(4, timeout=20), [], []

    def work(shared, tile):
        running.append(tile)
        most.append(len(running))
        together.wait()
        running.pop()
        return shared + tile

    rows = np.arange(8 * size, dtype=np.float32)
    ours = Devices(jax.devices()[:devices], np.float32(1))
    parts = list(ours.map_tiles(work, rows, emptied=lambda tile, frames: tile))
    np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), rows + 1)
    assert max(most) == 4


def test_the_last_tile_is_filled_and_cut(cores):
    cores(2)
    size = tile_size(jax.devices()[0])
    rows, seen = np.arange(size + 3, dtype=np.float32), []

    def emptied(tile, frames):
        seen.append((len(tile), frames))
        return np.where(np.arange(len(tile)) < frames, tile, -1)

    parts = list(Devices().map_tiles(lambda _, tile: tile + 1, rows, emptied=emptied))
    assert [frames for frames, _ in parts] == [size, 3] and seen == [(size, 3)]
    np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), rows + 1)


def test_a_program_is_compiled_once_when_all_tiles_begin_together(cores):
    """Tracing counts: it runs the function's Python."""
    cores(4)
    traced, begin = [], threading.Barrier(4, timeout=20)

    @CompiledOnce
    def program(shared, tile):
        traced.append(threading.current_thread().name)
        time.sleep(0.2)
        return shared + tile

    def work(shared, tile):
        begin.wait()
        return program(shared, tile)

    rows = np.arange(4 * tile_size(jax.devices()[0]), dtype=np.float32)
    tiles_of_rows = Devices(shared=np.float32(1)).map_tiles(
        work, rows, emptied=lambda tile, frames: tile
    )
    np.testing.assert_array_equal(np.concatenate([part for _, part in tiles_of_rows]), rows + 1)
    assert len(traced) == 1
