"""Frames in fixed tiles, each run whole by the one-tile program of one device.

Every device has the same program, compiled for it alone, and takes the next tile as soon as it is
free. So a frame meets the very same instructions whatever its batch, its position, its neighbours
and the number of devices, and its result is the same to the bit. (One program that spans several
devices is compiled in another way than one for a single device, and rounds differently.)

A processor is one device, however many cores it has, and its one program runs on as many tiles at
a time as there are cores: a tile alone keeps hardly more than one of them busy. (A device for every
core does the same and compiles everything once for each.)
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

import jax
import numpy as np

from fitting.batches import batches

TILE_SIZES: Final = {"cpu": 8}
"""Frames in a tile by backend. Results depend on it in the last bits, so it is a constant."""
ACCELERATOR_TILE_SIZE: Final = 128
"""Frames in a tile of every other backend."""

_IN_FLIGHT: Final = 2
"""Tiles that an accelerator has at a time: one is computed, one copied."""

# jaxlib ships no stubs, so pyright knows nothing of `jax.Device`.
if TYPE_CHECKING:
    Device = Any
else:
    Device = jax.Device


def tile_size(device: Any) -> int:
    """Frames that run together on a device."""
    return TILE_SIZES.get(device.platform, ACCELERATOR_TILE_SIZE)


def tiles_at_once(devices: Sequence[Any]) -> int:
    """Tiles that are computed at the same time."""
    return len(devices) * _tiles_a_device(devices)


def _tiles_a_device(devices: Sequence[Any]) -> int:
    """Tiles that each device computes at the same time: the cores of a processor are shared out."""
    if devices[0].platform != "cpu":
        return 1
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, cores // len(devices))


class Devices:
    """Devices of one kind that share the tiles of a batch between them."""

    def __init__(self, devices: Sequence[Any] | None = None, shared: Any = None):
        """Put on every device what all tiles share.

        Args:
            devices: which; all local devices unless told.
            shared: a pytree, for example the hand model.
        """
        self.devices = tuple(devices or jax.local_devices())
        self.shared = {device: jax.device_put(shared, device) for device in self.devices}

    @property
    def tile_size(self) -> int:
        """Frames in a tile."""
        return tile_size(self.devices[0])

    def map_tiles(
        self,
        function: Callable[[Any, Any], Any],
        tree: Any,
        *,
        emptied: Callable[[Any, int], Any],
        size: int | None = None,
    ) -> Iterator[tuple[int, Any]]:
        """Run `function(shared, tile)` on every tile of a pytree of arrays.

        Args:
            function: calls compiled programs.
            tree: arrays with a leading axis of frames.
            emptied: of a tile and a number of frames, the tile with nothing to do in the frames
                from there on: the copies of its last frame that fill the last tile.
            size: of a tile, where it is another one than `tile_size`.

        Yields:
            The number of real frames and what they came to, as NumPy arrays, tile by tile in
            order.
        """
        free: SimpleQueue = SimpleQueue()
        copying = 1 if self.devices[0].platform == "cpu" else _IN_FLIGHT
        for device in self.devices * (_tiles_a_device(self.devices) * copying):
            free.put(device)

        def run(numbered: tuple[int, Any]) -> tuple[int, Any]:
            frames, tile = numbered
            tile = tile if frames == len(jax.tree.leaves(tile)[0]) else emptied(tile, frames)
            device = free.get()
            try:
                # Where its inputs lie decides where a program runs.
                done = function(self.shared[device], jax.device_put(tile, device))
                return frames, jax.tree.map(lambda x: np.asarray(x)[:frames], done)
            finally:
                free.put(device)

        with ThreadPoolExecutor(free.qsize(), thread_name_prefix="tile") as threads:
            yield from threads.map(run, batches(tree, size or self.tile_size))


class CompiledOnce:
    """A program of tiles that one thread compiles while the others wait for it.

    Those whose first tiles begin together would otherwise trace and compile it all at once.
    """

    def __init__(self, function: Callable[..., Any]):
        """Compile a function with `jax.jit`."""
        self._program = jax.jit(function)
        self._lock = threading.Lock()
        self._ready: set[Any] = set()

    def __call__(self, shared: Any, *arguments: Any) -> Any:
        """Run it on the device that has what tiles share."""
        (device,) = jax.tree.leaves(shared)[0].devices()
        if device in self._ready:
            return self._program(shared, *arguments)
        with self._lock:
            done = self._program(shared, *arguments)
            self._ready.add(device)
        return done


def join(parts: Sequence[Any]) -> Any:
    """Pytrees of arrays end to end along their frames."""
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
