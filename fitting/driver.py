"""Refine more frames than fit in memory: read, prepare, fit and account for chunk after chunk.

    chunks --(a thread reads and prepares)--> --(a thread fits)--> the caller: account, write

Every arrow holds one chunk at most, so memory does not grow with the number of frames, and only the
fit takes time. A frame's result does not depend on the chunks (`fitting.tiles`).
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import jax
import numpy as np

from fitting.background import in_background
from fitting.errors import InputError
from fitting.outcome import SKIPPED_INVALID, Fitted, RefinedHands
from fitting.predictions import TwoHandPredictions
from fitting.prepare import Prepared
from fitting.refine import Refiner
from fitting.sources import Chunk
from fitting.strategy import Strategy
from fitting.tiles import Device, join
from mano_jax.model import Hands


@dataclass
class FitTime:
    """How long the devices were at work."""

    seconds: float = 0.0
    """In all fits together."""
    first: float = 0.0
    """In the first one, which compiles."""
    frames: int = 0
    """Frames that were fitted."""
    notes: list[str] = field(default_factory=list)
    """What had to be done otherwise than asked for."""


def refine_stream(
    hands: Hands,
    chunks: Iterable[TwoHandPredictions | Mapping[str, Any]],
    strategy: Strategy | str = "map",
    *,
    devices: Sequence[Device] | None = None,
    uncertainty: bool = False,
    provenance: Mapping[str, Any] | None = None,
) -> Iterator[RefinedHands]:
    """Refine chunk after chunk; the next one is read and fitted while the last one is used.

    Args:
        hands: the hand model.
        chunks: predictions, or NumPy or JAX arrays by their canonical names; the same names in
            all of them. Any number of frames each, and every chunk may have another.
        strategy: a strategy, or the name of a preset or `.toml` file.
        devices: where to run; all local devices unless told. Results do not depend on it.
        uncertainty: also tell standard deviations; see `fitting.refine.refine`.
        provenance: what else to record with the results.

    Yields:
        What became of each chunk, in order; its `arrays()` are NumPy's, its `jax_arrays()` JAX's.

    Raises:
        InputError: a chunk that contradicts itself or the hand model, or has other names than the
            first one.
    """
    given = (c if isinstance(c, TwoHandPredictions) else TwoHandPredictions(**c) for c in chunks)
    first = next(given, None)
    if first is None:
        return
    refiner = Refiner(
        hands,
        strategy,
        has_parameters=first.has_parameters,
        devices=devices,
        uncertainty=uncertainty,
        provenance=provenance,
    )
    numbered = (
        Chunk(number, predictions, np.full(predictions.num_frames, ""))
        for number, predictions in enumerate(chain([first], given))
    )
    names = set(first.arrays())
    for chunk, prepared, fitted in fitted_chunks(refiner, numbered):
        if set(chunk.predictions.arrays()) != names:
            raise InputError(
                f"chunk {chunk.number}: expected {', '.join(sorted(names))} as in the first one, "
                f"found {', '.join(sorted(chunk.predictions.arrays()))}"
            )
        yield accounted(refiner, chunk, prepared, fitted)


def fitted_chunks(
    refiner: Refiner,
    chunks: Iterable[Chunk],
    *,
    batch_size: int | None = None,
    time_taken: FitTime | None = None,
    notify: Callable[[str], None] = lambda note: None,
    stop: threading.Event | None = None,
) -> Iterator[tuple[Chunk, Prepared, Fitted]]:
    """Prepare and fit chunks in threads of their own, each one chunk ahead of the caller.

    Args:
        refiner: prepares and fits.
        chunks: what to fit; reading them is part of the first thread's work.
        batch_size: frames that are fitted at a time; whole chunks unless told.
        time_taken: is added to.
        notify: is told when memory runs out and the batch is halved.
        stop: when set, the chunk in the devices is finished, and no other begun.
    """
    stop, clock = stop or threading.Event(), time_taken or FitTime()
    batch = _Batch(batch_size, notify)

    def prepared_chunks() -> Iterator[tuple[Chunk, Prepared]]:
        for chunk in chunks:
            if stop.is_set():
                return
            yield chunk, refiner.prepare(chunk.predictions)

    def fits() -> Iterator[tuple[Chunk, Prepared, Fitted]]:
        for chunk, prepared in in_background(prepared_chunks()):
            if stop.is_set():
                return
            begun = time.perf_counter()
            fitted = batch.fit(refiner, prepared)
            seconds = time.perf_counter() - begun
            clock.first = clock.first or seconds
            clock.seconds += seconds
            clock.frames += chunk.predictions.num_frames
            yield chunk, prepared, fitted

    yield from in_background(fits())


def accounted(refiner: Refiner, chunk: Chunk, prepared: Prepared, fitted: Fitted) -> RefinedHands:
    """What became of a chunk, frames that could not be read included."""
    result = refiner.account(chunk.predictions, prepared, fitted)
    lost = chunk.unreadable != ""
    assert np.all(result.status[lost] == SKIPPED_INVALID), "a frame without a hand is skipped"
    reason = np.where(lost, chunk.unreadable, result.reason)
    return replace(result, reason=reason)


class _Batch:
    """How many frames are fitted at a time; fewer once memory has run out."""

    def __init__(self, size: int | None, notify: Callable[[str], None]):
        self._size = size
        self._notify = notify

    def fit(self, refiner: Refiner, prepared: Prepared) -> Fitted:
        """Fit frames, batch by batch. What is halved stays halved."""
        total, first, parts = len(prepared.reasons), 0, []
        while first < total:
            size = min(self._size or total, total - first)
            try:
                parts.append(refiner.fit(_frames(prepared, slice(first, first + size))))
            except (MemoryError, jax.errors.JaxRuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                self._halve(size, refiner.devices.tile_size, error)
            else:
                first += size
        return join(parts)

    def _halve(self, size: int, tile: int, error: Exception) -> None:
        if size <= tile:
            raise InputError(
                f"memory is too small for a tile of {tile} frames ({error}); end other programs "
                "that use it, or choose other devices with --devices"
            ) from error
        self._size = max(tile, size // 2 // tile * tile)
        self._notify(f"out of memory: batches of {self._size} frames from here on, not {size}")


def _frames(prepared: Prepared, rows: slice) -> Prepared:
    params, observations = jax.tree.map(
        lambda x: np.asarray(x)[rows], (prepared.params, prepared.observations)
    )
    return replace(prepared, params=params, observations=observations)


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
