"""Refine a file of any length into a Zarr group: the work behind `manofit refine --out X.zarr`.

What the run is made from and how is its identity; what is done is marked in the result. The same
call goes on where the last one was stopped, or killed.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np

from fitting.checks import check_file
from fitting.driver import FitTime, accounted, fitted_chunks
from fitting.errors import InputError
from fitting.fit_errors import FIT_ERRORS
from fitting.outcome import STATUS_NAMES
from fitting.refine import Refiner
from fitting.result_summary import SUMMARY_NAMES, ResultSummary, summarise_chunks
from fitting.sources import Chunk, FrameSource
from fitting.store import ResultStore, locked
from fitting.strategy import Strategy, strategy_from_toml, strategy_to_toml
from fitting.tiles import Device, tile_size, tiles_at_once
from mano_jax.model import Hands
from objectives.total import TERMS

SAVED: Final = ("vertices", "joints")
"""What is written only on request."""

_TILES_IN_TURN: Final = 4
"""Of a batch, unless told: many enough that what a chunk costs beside its fit is little, few enough
that a chunk is done in seconds."""
_COPIES: Final = 16
"""How often a frame's input is in memory, at most: read, cleaned, sorted, in several chunks."""


@dataclass
class Progress:
    """Who is told what a run does, and how it is stopped."""

    frames: Callable[[int, int, int], None] = lambda done, new, total: None
    """Frames done in all, in this run, and to be done."""
    notify: Callable[[str], None] = lambda note: None
    """What the user should know."""
    stop: threading.Event = field(default_factory=threading.Event)
    """When set, the chunk in the devices is finished, and the run ends."""


@dataclass(frozen=True)
class BatchOutcome:
    """What a run came to."""

    summary: ResultSummary | None
    """Of all frames; None where some are still to be done."""
    done: int
    """Chunks that are done."""
    chunks: int
    """All of them."""
    time_taken: FitTime
    """How long this run's fits took."""
    first_chunk_s: float
    """Seconds from the call until this run's first chunk was done; 0 where none was."""


def refine_to_store(
    hands: Hands,
    source: FrameSource,
    out: Path,
    strategy: Strategy,
    *,
    hand_model: str,
    calibrated: Callable[[], Strategy] | None = None,
    devices: Sequence[Device] | None = None,
    batch_size: int | None = None,
    save: Sequence[str] = (),
    uncertainty: bool = False,
    restart: bool = False,
    progress: Progress | None = None,
) -> BatchOutcome:
    """Refine all frames of a source that are not done yet, chunk by chunk, and sum them up.

    Args:
        hands: the hand model.
        source: the frames.
        out: the result's folder, `.zarr`.
        strategy: how.
        hand_model: the hand model's fingerprint.
        calibrated: makes the strategy with the file's own scales, if that is wanted; called once,
            before the first frame.
        devices: where to run; all local devices unless told.
        batch_size: frames of a chunk; a whole number of tiles, chosen from the memory at hand
            unless told. A result that is continued keeps its own, and is fitted by smaller batches
            where this is smaller.
        save: of `SAVED`, what to write besides.
        uncertainty: also write standard deviations.
        restart: begin again, whatever is there.
        progress: is told, and stops the run.

    Raises:
        InputError: an input, a result or a setting that cannot be used; what is done stays done.
    """
    begun = time.perf_counter()
    progress = progress or Progress()
    devices = tuple(devices or jax.local_devices())
    check_file(source.chunk(0, 1).predictions, hands)
    tile = tile_size(devices[0])
    size = batch_size or automatic_batch_size(source, devices)
    identity = {
        "input": source.fingerprint,
        "first_frame": source.rows.start,
        "frames": source.num_frames,
        "strategy": strategy_to_toml(strategy),
        "calibrated": calibrated is not None,
        "hands": hand_model,
        "tile_size": tile,
        "save": sorted(save),
        "uncertainty": uncertainty,
        # What their columns mean: another version may have others.
        "columns": " ".join([*TERMS, *FIT_ERRORS]),
    }
    with locked(out):
        store = _begun(out, identity, source.num_frames, -(-size // tile) * tile, restart)
        if calibrated:
            strategy = _settled(store, calibrated)
        refiner = Refiner(
            hands,
            strategy,
            has_parameters="global_orient" in source.columns,
            devices=devices,
            uncertainty=uncertainty,
            provenance={
                "input": Path(source.where).name,
                "input_fingerprint": source.fingerprint,
                "hands": hand_model,
            },
        )
        clock = FitTime()
        with _on_disk(store):
            _describe(store, refiner)
            first = _run(store, source, refiner, save, size, progress, clock)
        done = store.done()
        summary = None
        if done.all():
            summary = summarise_chunks(
                store.chunks(list(SUMMARY_NAMES)),
                frames=source.num_frames,
                terms=refiner.strategy.reported,
            )
        waited = first - begun if first else 0.0
        return BatchOutcome(summary, int(done.sum()), len(done), clock, waited)


def automatic_batch_size(source: FrameSource, devices: Sequence[Device]) -> int:
    """Frames of a chunk: some tiles for every core or device, as far as memory allows."""
    tile = tile_size(devices[0])
    wanted = _TILES_IN_TURN * tile * tiles_at_once(devices)
    fitting = _free_memory() // 4 // (_COPIES * source.frame_bytes)
    return max(tile, min(wanted, fitting // tile * tile))


def _free_memory() -> int:
    """Bytes; where the system does not tell, a gigabyte."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 1 << 30


def _run(
    store: ResultStore,
    source: FrameSource,
    refiner: Refiner,
    save: Sequence[str],
    batch_size: int,
    progress: Progress,
    clock: FitTime,
) -> float | None:
    """Do the chunks that are not done yet; tells when the first of them was done."""
    marks = store.done()
    size = store.chunk_size
    done = sum(len(source.rows[n * size : (n + 1) * size]) for n in np.flatnonzero(marks))
    before, first = done, None
    progress.frames(done, 0, source.num_frames)

    def chunks() -> Iterator[Chunk]:
        for number in np.flatnonzero(~marks):
            yield source.chunk(int(number), size)

    fits = fitted_chunks(
        refiner,
        chunks(),
        batch_size=min(batch_size, size),
        time_taken=clock,
        notify=progress.notify,
        stop=progress.stop,
    )
    for chunk, prepared, fitted in fits:
        result = accounted(refiner, chunk, prepared, fitted)
        arrays = result.arrays_by_frame()
        if save:
            meshes = refiner.meshes(prepared, fitted, result)
            arrays |= {name: meshes[name] for name in save}
        store.write_chunk(chunk.number, arrays)
        first = first or time.perf_counter()
        done += result.num_frames
        progress.frames(done, done - before, source.num_frames)
    return first


def _begun(
    out: Path, identity: Mapping[str, Any], frames: int, size: int, restart: bool
) -> ResultStore:
    try:
        return ResultStore.begin(
            out, identity=identity, num_frames=frames, chunk_size=size, restart=restart
        )
    except OSError as error:
        raise InputError(f"{out}: cannot be written, {_reason(error)}; nothing was done") from error


@contextmanager
def _on_disk(store: ResultStore) -> Iterator[None]:
    """Say what stays done when a result can no longer be written."""
    try:
        yield
    except OSError as error:
        try:
            done = f"{int(store.done().sum())} of {len(store.done())} chunks are done and stay so"
        except (OSError, KeyError, ValueError):
            done = "its marks cannot be read either"
        raise InputError(
            f"{store.path}: cannot be written, {_reason(error)}; {done}. Run the same command when "
            "that is mended"
        ) from error


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _settled(store: ResultStore, calibrated: Callable[[], Strategy]) -> Strategy:
    """The strategy with scales that were estimated once, when the result was begun."""
    found = store.group.attrs.get("calibrated_strategy")
    if isinstance(found, str):
        return strategy_from_toml(found, origin=str(store.path))
    strategy = calibrated()
    store.note(calibrated_strategy=strategy_to_toml(strategy))
    return strategy


def _describe(store: ResultStore, refiner: Refiner) -> None:
    """Write what concerns all frames."""
    run = {"begun": datetime.now(UTC).isoformat(timespec="seconds"), **refiner.provenance}
    runs = [*store.group.attrs.get("runs", []), run]  # pyright: ignore
    store.note(
        strategy=strategy_to_toml(refiner.strategy), provenance=refiner.provenance, runs=runs
    )
    store.write_constant("status_names", np.array(STATUS_NAMES))
    store.write_constant("energy_terms", np.array(list(TERMS)))
    store.write_constant("fit_error_names", np.array(list(FIT_ERRORS)))
