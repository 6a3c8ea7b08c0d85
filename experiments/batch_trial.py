"""Can `manofit refine --out RESULT.zarr` be trusted with a million frames?

Each trial runs the command itself, as a process of its own, and writes a record:

    kill      killed with SIGKILL at random moments, gone on with, compared with a run left alone
    broken    one frame in a hundred is broken, in eight ways; the others do not notice
    memory    peak memory of many frames against few; what the pipeline costs beside the solver
    devices   one, two and four virtual devices, batches of 16, 64 and 256: the same bits
    start     how long until the first chunk is done, with nothing compiled and the second time
    faults    a full disk, a folder that cannot be written, broken inputs, two writers
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmark import make_interactions
from experiments.records import Metric, Record, provenance
from fitting.canonical import read_arrays, write_predictions
from fitting.outcome import SKIPPED_INVALID
from fitting.predictions import TwoHandPredictions
from fitting.strategy import Stage, Strategy, load_strategy, strategy_to_toml
from mano_jax.loading import load_hands

QUESTION = "Can batch refinement be trusted: killed, resumed, short of everything?"

_TARGETS = {"joints_3d": 1000.0, "relative_translation": 1000.0}
_FREE = {"translation": 1e-3, "orientation": 1e-2, "finger_pose": 1e-2}


def joints_only(iterations: int) -> Strategy:
    """Steps of Adam towards the joints."""
    stage = Stage("joints", _FREE, weights=_TARGETS, iterations=iterations)
    return Strategy("joints", "A trial's: joints alone.", (stage,), report_weights=_TARGETS)


def with_contacts() -> Strategy:
    """The fewest steps of Adam that there are, with contacts."""
    weights = _TARGETS | {"collision": 1.0}
    rule = replace(load_strategy("ihmr").stages[0].acceptance, every=2)
    stage = Stage("contacts", _FREE, weights=weights, iterations=3, acceptance=rule)
    return Strategy("contacts", "A trial's: a few steps.", (stage,), report_weights=weights)


def _named(strategy: str) -> Strategy:
    return with_contacts() if strategy == "contacts" else load_strategy(strategy)


def make_frames(count: int, *, apart: float = 0.0, seed: int = 0) -> TwoHandPredictions:
    """Synthetic frames, 64 of them repeated with noise; a share of them with the hands apart."""
    _, made = make_interactions(load_hands(), frames=64, seed=seed)
    rng = np.random.default_rng(seed)
    many = made.frames(np.arange(count) % 64)
    pose = np.asarray(many.hand_pose) + rng.normal(0, 0.02, (count, 2, 15, 3))
    moved = np.where(rng.random((count, 1)) < apart, [0.0, 0.0, 0.4], 0.0)
    return replace(
        many,
        hand_pose=pose.astype(np.float32),
        relative_transl=(np.asarray(many.relative_transl) + moved).astype(np.float32),
        frame_id=np.array([f"frame{i:07d}" for i in range(count)]),
    )


def break_frames(
    predictions: TwoHandPredictions, rows: Iterable[int]
) -> tuple[TwoHandPredictions, dict[int, str]]:
    """Break some frames, each in the next of eight ways; also words of the reason of each."""
    p = {name: values.copy() for name, values in predictions.arrays().items()}
    words = {}
    for number, row in enumerate(rows):
        match number % 8:
            case 0:
                p["global_orient"][row, 0] = np.nan
                words[row] = "global_orient of the right hand is not finite"
            case 1:
                p["hand_pose"][row, 1, 4] = np.inf
                words[row] = "hand_pose of the left hand is not finite"
            case 2:
                p["betas"][row, 0, 2] = 1e6
                words[row] = "betas of the right hand is beyond"
            case 3:
                p["hand_valid"][row] = False
                words[row] = "no hand"
            case 4:
                p["relative_transl"][row] = np.nan
                words[row] = "relative_transl is not finite"
            case 5:
                p["joints_3d"][row, ..., :3] *= 1000
                words[row] = "millimetres"
            case 6:
                p["global_orient"][row] *= 1000
                words[row] = "radians"
            case 7:
                p["weak_camera"][row, 0] = -1
                words[row] = "the scale of weak_camera is not positive"
    return TwoHandPredictions(**p), words


@dataclass(frozen=True)
class Run:
    """What a process of the command came to."""

    code: int
    seconds: float
    output: str
    error: str

    @property
    def summary(self) -> dict[str, Any]:
        """What `--json` printed."""
        return json.loads(self.output)


@dataclass(frozen=True)
class Command:
    """`manofit refine` of one input by one strategy, in a folder."""

    folder: Path
    source: Path
    strategy: Strategy

    def words(self, out: Path, *options: str) -> list[str]:
        """The command line."""
        toml = self.folder / f"{self.strategy.name}.toml"
        toml.write_text(strategy_to_toml(self.strategy))
        command = [sys.executable, "-m", "experiments.cli", "refine", str(self.source)]
        return [*command, "--out", str(out), "--strategy", str(toml), "--json", *options]

    def start(
        self, out: Path, *options: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen:
        """Start it."""
        return subprocess.Popen(
            self.words(out, *options),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )

    def run(self, out: Path, *options: str, environment: Mapping[str, str] | None = None) -> Run:
        """Run it to its end."""
        begun = time.perf_counter()
        process = self.start(out, *options, environment=environment)
        output, error = process.communicate()
        seconds = time.perf_counter() - begun
        return Run(process.returncode, seconds, output, error)


def differing(a: Path, b: Path) -> list[str]:
    """Names of the arrays in which two results differ."""
    x, y = read_arrays(a), read_arrays(b)
    names = (x.keys() | y.keys()) - {"provenance"}
    return [name for name in names if not _same(x[name], y[name])]


def _same(x: np.ndarray, y: np.ndarray) -> bool:
    """To the bit, and NaN where the other is."""
    return np.array_equal(x, y, equal_nan=x.dtype.kind == "f")


def strays(folder: Path, result: Path) -> list[str]:
    """Files that should not be there once a result is done."""
    beside = [p.name for p in folder.iterdir() if p.name.endswith((".lock", ".part"))]
    return beside + [str(p) for p in result.rglob("*.partial")]


def kill(folder: Path, frames: int, runs: int, batch: int) -> list[Metric]:
    """Kill runs at random moments until they have nothing left to do."""
    source = folder / "input.npz"
    write_predictions(source, make_frames(frames, apart=0.95), overwrite=True)
    command = Command(folder, source, with_contacts())
    size = ("--batch-size", str(batch))
    alone = folder / "alone.zarr"
    for _ in range(2):  # The first one compiles.
        shutil.rmtree(alone, ignore_errors=True)
        whole = command.run(alone, *size)
        assert whole.code == 0, whole.error
    print(f"left alone: {whole.seconds:.1f} s", flush=True)
    rng, kills, in_write, wrong, left = random.Random(0), 0, 0, 0, 0
    for number in range(runs):
        out = folder / "killed.zarr"
        shutil.rmtree(out, ignore_errors=True)
        process = command.start(out, *size)
        # At a random moment of a random chunk; every other run in that chunk's write.
        chunk = rng.randrange(-(-frames // batch))
        while process.poll() is None and len(list(out.glob("chunk_done/c.*"))) < chunk:
            time.sleep(0.002)
        if number % 2:
            while process.poll() is None and not _half_written(out):
                pass
        else:
            time.sleep(rng.uniform(0.0, 1.0))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
        in_write += _half_written(out)
        ended = command.run(out, *size)
        assert ended.code == 0, ended.error
        wrong += bool(differing(alone, out)) or ended.summary["frames"] != frames
        left += len(strays(folder, out))
        again = ended.summary["run"]["frames"]
        print(
            f"run {number}: {again} frames to go on with; {kills} kills, {in_write} in a write, "
            f"{wrong} wrong, {left} stray files",
            flush=True,
        )
    return [
        Metric("runs", runs, "", "neither"),
        Metric("kills", kills, "", "neither"),
        Metric("kills in a write", in_write, "", "neither"),
        Metric("runs that differ from the one left alone", wrong, "", "lower"),
        Metric("stray files", left, "", "lower"),
    ]


def _half_written(out: Path) -> bool:
    """Whether a chunk is partly written: some of its files are there, and its mark is not."""
    marks = {path.name for path in out.glob("chunk_done/c.*")}
    first = {path.name.removesuffix(".0") for path in out.glob("hand_valid/c.*")}
    return not first <= marks


def broken(folder: Path, frames: int) -> list[Metric]:
    """One frame in a hundred is broken: which are skipped, why, and what the others come to."""
    clean = make_frames(frames, apart=0.7)
    rows = np.random.default_rng(0).choice(frames, frames // 100, replace=False)
    made, words = break_frames(clean, [int(row) for row in rows])
    results = {}
    for name, predictions in (("clean", clean), ("broken", made)):
        source, out = folder / f"{name}.npz", folder / f"{name}.zarr"
        write_predictions(source, predictions)
        run = Command(folder, source, with_contacts()).run(out)
        assert run.code == 0, run.error
        results[name] = read_arrays(out)
    found, whole = results["broken"], results["clean"]
    skipped = {int(row) for row in np.flatnonzero(found["status"] == SKIPPED_INVALID)}
    wrong = sum(said not in found["reason"][row] for row, said in words.items())
    others = np.setdiff1d(np.arange(frames), rows)
    by_frame = [name for name, values in whole.items() if len(np.atleast_1d(values)) == frames]
    differ = [name for name in by_frame if not _same(found[name][others], whole[name][others])]
    print(f"{len(skipped)} of {len(rows)} skipped, {wrong} for another reason, {differ} differ")
    return [
        Metric("broken frames", len(rows), "", "neither"),
        Metric("skipped frames", len(skipped), "", "neither"),
        Metric("skipped or not, and wrongly so", len(skipped ^ set(words)), "", "lower"),
        Metric("skipped for another reason", wrong, "", "lower"),
        Metric("arrays in which other frames differ", len(differ), "", "lower"),
        Metric("arrays that were compared", len(by_frame), "", "neither"),
    ]


def memory(folder: Path, frames: int, few: int) -> list[Metric]:
    """Peak memory of many frames and of few, and what is not the solver's time."""
    found: list[Metric] = []
    peaks = {}
    for count in (few, few, frames):
        source = folder / f"input{count}.npz"
        if not source.exists():
            write_predictions(source, make_frames(count, apart=0.7))
        out = folder / f"r{count}.zarr"
        shutil.rmtree(out, ignore_errors=True)
        run = Command(folder, source, joints_only(11)).run(out)
        assert run.code == 0, run.error
        peaks[count] = run.summary["run"]["peak_mb"]
        times = run.summary["run"]
        print(count, run.seconds, times, flush=True)
        # The first run compiled; the others are told of.
        found = [m for m in found if not m.key.startswith(f"{count}/")]
        after_first = times["wall_s"] - times["first_chunk_wall_s"]
        solver = times["solver_s"] - times["first_chunk_solver_s"]
        found += [
            Metric(f"{count}/peak", peaks[count], "MB", "lower"),
            Metric(f"{count}/wall after the first chunk", after_first, "s", "lower"),
            Metric(f"{count}/solver after the first chunk", solver, "s", "neither"),
            Metric(f"{count}/overhead", after_first / solver - 1, "", "lower"),
            Metric(f"{count}/rate", count / run.seconds, "frames/s", "higher"),
        ]
    found.append(Metric("peak, many against few", peaks[frames] / peaks[few], "", "lower"))
    return found


def devices(folder: Path, frames: int, strategy: str) -> list[Metric]:
    """The same frames on other numbers of devices and by other batches."""
    source = folder / "input.npz"
    write_predictions(source, make_frames(frames), overwrite=True)
    command = Command(folder, source, _named(strategy))
    found, first = [], folder / "1-16.zarr"
    for count, batch in product((1, 2, 4), (16, 64, 256)):
        out = folder / f"{count}-{batch}.zarr"
        told = {"JAX_NUM_CPU_DEVICES": str(count)}
        run = command.run(out, "--batch-size", str(batch), environment=told)
        assert run.code == 0, run.error
        names = differing(first, out)
        print(count, batch, f"{run.seconds:.1f} s", names, flush=True)
        found.append(Metric(f"arrays that differ/{count} of {batch}", len(names), "", "lower"))
    return found


def start(folder: Path, frames: int, strategy: str) -> list[Metric]:
    """Seconds to the first chunk, with an empty cache of compiled programs and the second time."""
    source = folder / "input.npz"
    write_predictions(source, make_frames(frames), overwrite=True)
    command = Command(folder, source, _named(strategy))
    told = {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    seconds = []
    for number in range(2):
        out, begun = folder / f"{number}.zarr", time.perf_counter()
        process = command.start(out, environment=told)
        while not list(out.glob("chunk_done/c.0")):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.02)
        seconds.append(time.perf_counter() - begun)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        print(seconds, flush=True)
    return [
        Metric("first start", seconds[0], "s", "lower"),
        Metric("second start", seconds[1], "s", "lower"),
        Metric("second against first", seconds[1] / seconds[0], "", "lower"),
    ]


def faults(folder: Path, frames: int, batch: int) -> list[Metric]:
    """What goes wrong around a run: each a clear error or a safe outcome."""
    source = folder / "input.npz"
    write_predictions(source, make_frames(frames, apart=1.0), overwrite=True)
    command = Command(folder, source, joints_only(11))
    size = ("--batch-size", str(batch))
    alone = folder / "alone.zarr"
    assert command.run(alone, *size).code == 0
    found: list[tuple[str, bool]] = []

    def noted(name: str, run: Run, words: str, *others: bool) -> None:
        message = run.error.strip().splitlines()[-1]
        good = run.code == 2 and message.startswith("manofit: ") and words in message
        found.append((name, good and all(others) and "Traceback" not in run.error))
        print(f"{name}: exit {run.code}, {message}, {found[-1][1]}", flush=True)

    with _small_disk(folder / "small", kilobytes=_disk_kilobytes(alone) // 2) as small:
        out = small / "r.zarr"
        noted("full disk", command.run(out, *size), "no space left")
        moved = folder / "r.zarr"
        shutil.copytree(out, moved)
        ended = command.run(moved, *size)
        kept = 0 < ended.summary["run"]["frames"] < frames
        found.append(("full disk, gone on with elsewhere", kept and not differing(alone, moved)))
    with _small_disk(folder / "sealed", kilobytes=64, read_only=True) as sealed:
        noted("read-only folder", command.run(sealed / "r.zarr", *size), "cannot be written")
    content = source.read_bytes()
    cut = folder / "cut.npz"
    cut.write_bytes(content[: len(content) // 2])
    noted(
        "truncated input", Command(folder, cut, command.strategy).run(folder / "c.zarr"), "damaged"
    )
    process = command.start(folder / "two.zarr", *size)
    while not (folder / "two.zarr" / "chunk_done").exists():
        time.sleep(0.02)
    second = command.run(folder / "two.zarr", *size)
    noted("two writers", second, "another process", process.wait() == 0)
    process.communicate()
    found.append(("two writers, the first's result", not differing(alone, folder / "two.zarr")))
    write_predictions(source, make_frames(frames, apart=1.0, seed=1), overwrite=True)
    noted("changed input", command.run(alone, *size), "input (then")
    print(found, flush=True)
    return [Metric(name, float(good), "", "higher") for name, good in found]


def _disk_kilobytes(folder: Path) -> int:
    """What the files of a folder take in pages of 4 kB."""
    return sum(4 * -(-path.stat().st_size // 4096) for path in folder.rglob("*"))


@contextmanager
def _small_disk(path: Path, *, kilobytes: int, read_only: bool = False):
    """A file system of its own; needs the right to mount one."""
    path.mkdir()
    options = f"size={kilobytes}k" + (",ro" if read_only else "")
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


TRIALS: Mapping[str, Callable[..., Sequence[Metric]]] = {
    "kill": kill,
    "broken": broken,
    "memory": memory,
    "devices": devices,
    "start": start,
    "faults": faults,
}


def main() -> None:
    """Run one trial and write its record."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("trial", choices=TRIALS)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--frames", type=int, required=True)
    parser.add_argument("--few", type=int, default=10_000, help="memory: frames to compare with")
    parser.add_argument("--runs", type=int, default=25, help="kill: how many")
    parser.add_argument("--batch", type=int, default=64, help="kill, faults: --batch-size")
    parser.add_argument(
        "--strategy",
        default="map",
        help="devices, start: a preset, or `contacts`: the trial of kills' own",
    )
    options = vars(parser.parse_args())
    trial, out, count = (options.pop(name) for name in ("trial", "out", "frames"))
    wanted = {
        "kill": ("runs", "batch"),
        "broken": (),
        "memory": ("few",),
        "devices": ("strategy",),
        "start": ("strategy",),
        "faults": ("batch",),
    }[trial]
    settings = {name: options[name] for name in wanted}
    with tempfile.TemporaryDirectory(prefix="manofit-trial-") as folder:
        metrics = TRIALS[trial](Path(folder), count, **settings)
    record = Record(
        question=QUESTION,
        data=f"{count} synthetic frames, 64 of interacting hands repeated with noise",
        metrics=tuple(metrics),
        provenance=provenance("experiments.batch_trial", "zarr"),
        settings={"trial": trial, "frames": count, **settings},
    )
    record.write(out)


if __name__ == "__main__":
    main()
