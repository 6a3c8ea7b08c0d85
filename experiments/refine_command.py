"""`manofit refine` into a Zarr group, and `manofit report`: what they print and how they end."""

import json
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np
from tqdm import tqdm

from experiments.convert import check_options, read_source
from experiments.input_options import CANONICAL, InputOptions
from fitting.batch import BatchOutcome, Progress, refine_to_store
from fitting.calibrate import calibrate
from fitting.canonical import check_target, read_arrays
from fitting.errors import InputError
from fitting.predictions import TwoHandPredictions
from fitting.result_summary import SUMMARY_NAMES, ResultSummary, summarise_chunks
from fitting.sources import FrameSource, memory_source, open_source
from fitting.store import SUFFIX
from fitting.strategy import Strategy, strategy_from_toml
from fitting.zarr_files import is_zarr, open_arrays, open_result_texts
from mano_jax.files import why_unwritable, write_whole
from mano_jax.loading import HandSource
from mano_jax.model import Hands

_LINE_EVERY_S: Final = 10.0
"""How often a line tells of progress where there is no terminal."""

_CALIBRATION_FRAMES: Final = 4096
"""Frames, evenly spread over the file, from which those of a calibration are drawn."""


def refine_to_zarr(
    path: Path,
    out: Path,
    *,
    strategy: Strategy,
    hand_model: tuple[Hands, HandSource],
    given: InputOptions = CANONICAL,
    frames: slice = slice(None),
    calibrated: bool = False,
    devices: int | None = None,
    batch_size: int | None = None,
    save: tuple[str, ...] = (),
    uncertainty: bool = False,
    restart: bool = False,
    as_json: bool = False,
) -> BatchOutcome:
    """Refine a file chunk by chunk, or what is left of it, and sum it up.

    The summary is printed and lies beside the result, `RESULT.summary.json`.
    """
    begun = time.perf_counter()
    say = _to_stderr if as_json else print
    hands, hand_source = hand_model
    source = _source(path, given, frames, hand_model, say)
    kind = ", ".join(source.columns)
    say(f"{path}: {source.num_frames} frames; {kind}")

    def with_own_scales() -> Strategy:
        calibration = calibrate(hands, _sample(source), strategy)
        say(calibration.table())
        return calibration.applied_to(strategy)

    with _bar() as shown, _stopped_by_ctrl_c(say) as stop:
        outcome = refine_to_store(
            hands,
            source,
            out,
            strategy,
            hand_model=hand_source.fingerprint,
            calibrated=with_own_scales if calibrated else None,
            devices=local_devices(devices),
            batch_size=batch_size,
            save=save,
            uncertainty=uncertainty,
            restart=restart,
            progress=Progress(shown, _to_stderr, stop),
        )
    if outcome.summary is None:
        _to_stderr(
            f"{outcome.done} of {outcome.chunks} chunks are done, in {out}; run the same command "
            "to go on"
        )
        raise KeyboardInterrupt
    beside = summary_path(out)
    content = {**outcome.summary.to_dict(), "run": _run_times(outcome, time.perf_counter() - begun)}
    write_whole(beside, lambda file: file.write(json.dumps(content, indent=2).encode()))
    print(json.dumps(content) if as_json else outcome.summary)
    say(f"wrote {out} and {beside.name}")
    return outcome


def summary_path(out: Path) -> Path:
    """Where a result's summary lies."""
    return out.with_suffix(".summary.json")


def check_zarr_target(out: Path) -> None:
    """Find out before the work whether a result can be written, without making anything.

    Raises:
        InputError: a file of that name, or a folder that cannot be written to.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; a result in {SUFFIX} is a folder, name another one")
    if reason := why_unwritable(out.parent):
        raise InputError(f"{out}: cannot be written, {reason}; name another file")


def report(
    path: Path, *, plot: Path | None = None, as_json: bool = False, force: bool = False
) -> ResultSummary:
    """Print the summary of a result, `.npz` or Zarr, and draw its histograms."""
    if plot is not None:
        check_target(plot, (".png",), overwrite=force)
    chunks, texts, total = _result_chunks(path)
    strategy = strategy_from_toml(texts["strategy"], origin=str(path))
    summary = summarise_chunks(chunks(), frames=total, terms=strategy.reported)
    print(summary.to_json() if as_json else summary)
    if plot is not None:
        from experiments.result_plots import draw_histograms

        draw_histograms(chunks(), strategy.reported, plot, title=path.name)
        if not as_json:
            print(f"wrote {plot}")
    return summary


def _result_chunks(
    path: Path, size: int = 4096
) -> tuple[Callable[[], Iterator[dict[str, np.ndarray]]], dict[str, str], int]:
    """What a summary needs of a result, chunk by chunk; its texts; how many frames it has."""
    columns: dict[str, Any]
    if is_zarr(path):
        columns, texts = dict(open_arrays(path)), open_result_texts(path)
    else:
        columns = dict(read_arrays(path))
        texts = {name: str(columns[name]) for name in ("strategy",) if name in columns}
    needed = {*SUMMARY_NAMES, "strategy"} - {"frame_id"}
    if missing := sorted(needed - {*columns, *texts}):
        raise InputError(
            f"{path}: no result of this version; expected what `manofit refine` writes, "
            f"{', '.join(missing)} missing"
        )
    total = columns["status"].shape[0]

    def chunks() -> Iterator[dict[str, np.ndarray]]:
        for first in range(0, total, size):
            rows = slice(first, first + size)
            yield {n: np.asarray(columns[n][rows]) for n in SUMMARY_NAMES if n in columns}

    return chunks, texts, total


def _source(
    path: Path,
    given: InputOptions,
    frames: slice,
    hand_model: tuple[Hands, HandSource],
    say: Callable[[str], None],
) -> FrameSource:
    if given.source == "canonical":
        check_options(path, given)
        return open_source(path, frames=frames)
    predictions, _ = read_source(path, given=given, hand_model=hand_model, say=say)
    return memory_source(predictions, str(path), frames=frames)


def _sample(source: FrameSource) -> TwoHandPredictions:
    """Frames for a calibration: all of a small file, of a large one runs from all over it."""
    run = 64
    runs = -(-source.num_frames // run)
    chosen = np.unique(np.linspace(0, runs - 1, min(runs, _CALIBRATION_FRAMES // run)).astype(int))
    parts = [source.chunk(int(number), run).predictions for number in chosen]
    return TwoHandPredictions.concatenate(parts)


def local_devices(count: int | None) -> list[Any] | None:
    """The first devices, or None for all of them.

    Raises:
        InputError: there are not as many.
    """
    there = jax.local_devices()
    if count is None:
        return None
    if not 1 <= count <= len(there):
        raise InputError(
            f"--devices {count}: expected 1 to {len(there)}, as many as JAX has here (on a "
            "processor JAX_NUM_CPU_DEVICES says how many)"
        )
    return there[:count]


def _run_times(outcome: BatchOutcome, seconds: float) -> dict[str, Any]:
    """What this run took: seconds since it looked at the input, and the most memory."""
    clock = outcome.time_taken
    return {
        "frames": clock.frames,
        "wall_s": seconds,
        "first_chunk_wall_s": outcome.first_chunk_s,
        "solver_s": clock.seconds,
        "first_chunk_solver_s": clock.first,
        "peak_mb": _peak_megabytes(),
    }


def _peak_megabytes() -> float | None:
    """The most memory that this process has held, MB; None where the system does not tell."""
    # `getrusage` would be wrong: on Linux its peak begins at that of the process that started this.
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) / 1024 if found else None


@contextmanager
def _bar() -> Iterator[Callable[[int, int, int], None]]:
    """A progress bar on a terminal, else a line now and then: frames/s and the time left."""
    begun = last = time.monotonic()
    bar: Any = None

    def shown(done: int, new: int, total: int) -> None:
        nonlocal bar, last, begun
        if sys.stderr.isatty():
            bar = bar or tqdm(total=total, initial=done - new, unit="frame", desc="refining")
            bar.update(done - bar.n)
            return
        now = time.monotonic()
        if new == 0:
            begun = now
        if new == 0 or done == total or now - last >= _LINE_EVERY_S:
            last = now
            rate = new / max(now - begun, 1e-9)
            left = f", {rate:.1f} frames/s, {_duration((total - done) / rate)} left" if new else ""
            _to_stderr(f"{done} of {total} frames{left}")

    try:
        yield shown
    finally:
        if bar is not None:
            bar.close()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


@contextmanager
def _stopped_by_ctrl_c(say: Callable[[str], None]) -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second does what Ctrl-C did before."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    former = signal.getsignal(signal.SIGINT)

    def finish(*_: object) -> None:
        signal.signal(signal.SIGINT, former)
        stop.set()
        _to_stderr("finishing the chunk at hand; Ctrl-C again leaves at once, what is done is kept")

    signal.signal(signal.SIGINT, finish)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, former)


def _to_stderr(text: object) -> None:
    print(text, file=sys.stderr, flush=True)
