"""Frames in fixed tiles, each run whole by the one-tile program of one device.

Every device has the same program, compiled for it alone, and takes the next tile as soon as it is
free. So a frame meets the very same instructions whatever its batch, its position, its neighbours
and the number of devices, and its result is the same to the bit. (One program that spans several
devices is compiled in another way than one for a single device, and rounds differently.)

On a CPU, XLA has a pool of threads, one for each core or each device, whichever are more, and the
last bit of some sums depends on its size: more virtual devices than cores may round differently,
unless NPROC, the least size, is as many. The command line says so (`experiments.cli`), and that
a device, which is a core there, shares no work (`--xla_cpu_multi_thread_eigen=false`): half the
processor's time.
"""

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

_TILES_IN_FLIGHT: Final = {"cpu": 1}
"""Tiles that a device has at a time; an accelerator has two, of which one is being copied."""

# jaxlib ships no stubs, so pyright knows nothing of `jax.Device`.
if TYPE_CHECKING:
    Device = Any
else:
    Device = jax.Device


def tile_size(device: Any) -> int:
    """Frames that run together on a device."""
    return TILE_SIZES.get(device.platform, ACCELERATOR_TILE_SIZE)


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
        for device in self.devices * _TILES_IN_FLIGHT.get(self.devices[0].platform, 2):
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


def join(parts: Sequence[Any]) -> Any:
    """Pytrees of arrays end to end along their frames."""
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
