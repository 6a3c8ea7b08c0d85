r"""What does each collision engine cost, how far off is it, and what does that do to a fit?

All engines look at the same synthetic frames of touching hands in one process: `exact`, `culled`,
`voxel` (the published method's grid, registered), `voxel_published` (with its defects), and
`textbook`: every face, an arctangent for each, as the winding number is usually written.

* accuracy: vertices whose sign differs from `exact`, the greatest error of a depth, AVE-P, MAX-P;
* speed: the energy from vertices, freshly searched; a solver step (energy and gradient from
  parameters, the search kept for ten steps, a tenth of it counted); frames apart; batch sizes;
* memory: what the compiled energy and gradient allocate;
* fits, a record of their own: `ihmr` with each engine in the solver, judged by the exact one.

    python -m experiments.collision_engines --out experiments/results/collision_engines_cpu.json
    python -m experiments.collision_engines --fits 16 \
        --out experiments/results/collision_fits_cpu.json

The records are JSON; `--page docs/collision.md` writes the page from both, and
`--plot docs/images/collision_engines.png` (needs the `plots` extra) draws the first.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from experiments.benchmark import make_interactions
from experiments.records import Metric, Record, markdown_table, provenance, read_record
from fitting.evaluation import evaluate
from fitting.predictions import TwoHandPredictions
from fitting.prepare import prepare
from fitting.refine import refine
from fitting.strategy import load_strategy, override
from mano_jax.model import Hands
from mano_jax.procedural import procedural_hands
from objectives.collision import (
    CollisionEngine,
    Found,
    box_scale,
    collision_energy,
    depths,
    direction_scale,
    exact_depths,
    search,
)
from objectives.collision.geometry import signed_volume, solid_angle, squared_distance
from objectives.problem import TwoHandParams, posed_hands

QUESTION = "What does each collision engine cost, how far off is it, what does that do to a fit?"
RECORD = Path("experiments/results/collision_engines_cpu.json")
FITS = Path("experiments/results/collision_fits_cpu.json")
"""The fits' own record: the grids take minutes there, on every core, and nothing is timed."""
ENGINES: tuple[CollisionEngine, ...] = ("exact", "culled", "voxel", "voxel_published")
GRID_FRAMES = 4
"""Frames that the grids are made for: they take a thousand times as long."""
FIT_METRICS = ("mpjpe", "i_mpjpe", "mpvpe", "ave_p", "max_p")
STEPS_A_SEARCH = 10
"""A solver keeps a search for so many steps."""


def main() -> None:
    """Measure, write the record, make its page."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--frames", type=int, default=64, help="frames of touching hands")
    parser.add_argument(
        "--batches", type=int, nargs="+", default=[1, 16, 64, 256, 1024, 4096], help="batch sizes"
    )
    parser.add_argument(
        "--fits", type=int, default=0, help="fit so many frames with each engine, and nothing else"
    )
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each program")
    parser.add_argument("--page", type=Path, help="Markdown to write from the record")
    parser.add_argument("--plot", type=Path, help="PNG to draw from the record")
    options = parser.parse_args()
    if options.fits:
        measure_fits(options.fits).write(options.out)
    else:
        measure(options.frames, options.batches, options.repeats).write(options.out)
    if options.page:
        options.page.write_text(page(read_record(RECORD), read_record(FITS)))
    if options.plot:
        plot(read_record(RECORD), options.plot)


def measure_fits(frames: int) -> Record:
    """What each engine in the solver does to a fit."""
    return Record(
        question=QUESTION,
        data=f"the first {frames} synthetic frames of the benchmark, seed 0",
        metrics=tuple(fit_results(procedural_hands(), frames)),
        provenance=provenance("experiments.collision_engines"),
        settings={"fitted frames": frames},
    )


def measure(frames: int, batches: list[int], repeats: int) -> Record:
    """Accuracy, speed and memory."""
    hands = procedural_hands()
    params, vertices = touching_hands(hands, frames)
    active = jnp.ones(frames, bool)
    metrics = [
        *accuracy(hands, vertices, active),
        *energy_times(hands, vertices, active, repeats),
        *step_times(hands, params, active, repeats),
        *batch_times(hands, vertices, batches, repeats),
        *memory(hands, vertices, batches),
    ]
    return Record(
        question=QUESTION,
        data=f"{frames} synthetic frames whose hands penetrate: starts of the benchmark, seed 0",
        metrics=tuple(metrics),
        provenance=provenance("experiments.collision_engines"),
        settings={"frames": frames, "grid frames": GRID_FRAMES},
    )


def touching_hands(hands: Hands, frames: int) -> tuple[TwoHandParams, Float[Array, "N 2 V 3"]]:
    """Starts of synthetic interactions, the first that penetrate at all."""
    drawn, found = 2 * frames, np.zeros(0, int)
    while len(found) < frames:
        _, predictions = make_interactions(hands, frames=drawn, seed=0)
        params = jax.tree.map(jnp.asarray, prepare(hands, predictions).params)
        vertices = jax.jit(posed_hands)(hands, params, jnp.zeros(drawn, bool)).vertices
        depth = jax.jit(exact_depths)(hands, vertices, jnp.ones(drawn, bool))
        found = np.flatnonzero(np.asarray(depth.max(axis=(1, 2))) > 0)[:frames]
        drawn *= 2
    return jax.tree.map(lambda x: x[found], params), vertices[found]


def engine_energy(
    hands: Hands, engine: CollisionEngine | Literal["textbook"], vertices: Array, active: Array
) -> Array:
    """F_col of every frame, freshly searched."""
    if engine == "textbook":
        depth = textbook_depths(hands, vertices, active)
        return collision_energy(depth, box_scale(vertices)[..., ::-1], active)
    found = search(hands, vertices, active, engine=engine)
    depth = depths(hands, vertices, found)
    return collision_energy(depth, direction_scale(vertices, found), active)


def textbook_depths(
    hands: Hands, vertices: Float[Array, "N 2 V 3"], active: Bool[Array, "N"]
) -> Float[Array, "N 2 V"]:
    """Winding numbers by an arctangent a face, distances to every face, nothing skipped."""
    del active
    queries = vertices.reshape(-1, *vertices.shape[-2:])
    targets = vertices[:, ::-1].reshape(queries.shape)
    hand = jnp.arange(len(queries), dtype=jnp.int32) % 2

    def one(inputs):
        query, target, hand = inputs
        triangles = target[hands.faces[1 - hand]]
        angle = solid_angle(query, triangles, signed_volume(query, triangles))
        winding = jnp.sum(angle, axis=-1) / (4 * jnp.pi)
        distance = jnp.sqrt(jnp.min(squared_distance(query, triangles), axis=-1))
        return jnp.where(winding > 0.5, distance, 0.0)

    return jax.lax.map(one, (queries, targets, hand)).reshape(vertices.shape[:-1])


def accuracy(hands: Hands, vertices: Array, active: Array) -> list[Metric]:
    """Each engine against `exact`."""

    def depth_of(engine: CollisionEngine | Literal["textbook"], few: int) -> np.ndarray:
        def run(v, a):
            if engine == "textbook":
                return textbook_depths(hands, v, a)
            return depths(hands, v, search(hands, v, a, engine=engine))

        return 1000 * np.asarray(jax.jit(run)(vertices[:few], active[:few]))

    metrics = []
    for engine in ("exact", "culled", "textbook", "voxel", "voxel_published"):
        few = GRID_FRAMES if engine.startswith("voxel") else len(vertices)
        depth, truth = depth_of(engine, few), depth_of("exact", few)
        inside = truth > 0
        deepest, true_deepest = (d.reshape(len(d), -1).max(axis=1) for d in (depth, truth))
        errors = (
            ("signs differing", ((depth > 0) != inside).sum(), ""),
            ("greatest depth error", np.abs(depth - truth).max(), "mm"),
            ("AVE-P error", abs(depth.mean() - truth.mean()), "mm"),
            ("MAX-P mean error", np.abs(deepest - true_deepest).mean(), "mm"),
        )
        facts = (
            ("frames", few, ""),
            ("vertices inside", inside.sum(), ""),
            ("AVE-P", depth.mean(), "mm"),
            ("AVE-P exact", truth.mean(), "mm"),
            ("MAX-P", deepest.mean(), "mm"),
            ("MAX-P exact", true_deepest.mean(), "mm"),
        )
        prefix = f"accuracy/{engine}"
        metrics += [Metric(f"{prefix}/{k}", float(v), unit, "lower") for k, v, unit in errors]
        metrics += [Metric(f"{prefix}/{k}", float(v), unit, "neither") for k, v, unit in facts]
    return metrics


def energy_times(hands: Hands, vertices: Array, active: Array, repeats: int) -> list[Metric]:
    """Median time of F_col a frame, vertices given; the grids on four frames only."""
    times = {}
    for engine in ("textbook", *ENGINES):
        few = GRID_FRAMES if engine.startswith("voxel") else len(vertices)
        run = jax.jit(partial(engine_energy, hands, engine))
        times[engine] = milliseconds(run, vertices[:few], active[:few], repeats=repeats) / few
    apart = vertices.at[:, 1].add(1.0)
    run = jax.jit(partial(engine_energy, hands, "culled"))
    times["culled, hands apart"] = milliseconds(run, apart, active, repeats=repeats) / len(apart)
    return [Metric(f"energy/{k}/ms a frame", v, "ms", "lower") for k, v in times.items()]


def step_times(
    hands: Hands, params: TwoHandParams, active: Array, repeats: int, batch: int = 16
) -> list[Metric]:
    """A solver step: energy and gradient to all parameters, and its share of the search."""
    some = jax.tree.map(lambda x: x[:batch], params)
    active, anchor = active[:batch], jnp.zeros(batch, bool)

    def pose(p):
        return posed_hands(hands, p, anchor).vertices

    def refresh_search(engine: CollisionEngine, p: TwoHandParams) -> Found:
        return search(hands, pose(p), active, engine=engine)

    def kept(p, found):
        vertices = pose(p)
        depth = depths(hands, vertices, found)
        return jnp.sum(collision_energy(depth, direction_scale(vertices, found), active))

    times = {}
    for engine in ("exact", "culled"):
        find = jax.jit(partial(refresh_search, engine))
        found = find(some)
        step = jax.jit(jax.value_and_grad(kept))
        refresh = milliseconds(find, some, repeats=repeats)
        each = milliseconds(step, some, found, repeats=4 * repeats)
        times[f"{engine}, kept for ten steps"] = (each + refresh / STEPS_A_SEARCH) / batch
        times[f"{engine}, search alone"] = refresh / batch
        times[f"{engine}, step alone"] = each / batch

    # The textbook's way: the whole search in every step; its gradient is taken by kept faces.
    textbook = jax.jit(lambda p: textbook_depths(hands, pose(p), active))
    step_alone = times["exact, step alone"] * batch
    times["textbook every step"] = (
        milliseconds(textbook, some, repeats=repeats) + step_alone
    ) / batch
    return [Metric(f"solver step/{k}/ms a frame", v, "ms", "lower") for k, v in times.items()]


def batch_times(hands: Hands, vertices: Array, batches: list[int], repeats: int) -> list[Metric]:
    """Median time of F_col a frame by batch size: the same frames over and over."""
    metrics = []
    for name, placed in (("culled", vertices), ("culled, hands apart", vertices.at[:, 1].add(1.0))):
        for batch in batches:
            frames = placed[jnp.arange(batch) % len(placed)]
            run = jax.jit(partial(engine_energy, hands, "culled"))
            total = milliseconds(run, frames, jnp.ones(batch, bool), repeats=repeats)
            key = f"time by batch size/{name}/{batch}"
            metrics.append(Metric(key, total / batch, "ms", "lower"))
    return metrics


def memory(hands: Hands, vertices: Array, batches: list[int]) -> list[Metric]:
    """Temporary memory of the compiled energy and gradient, MB a frame."""

    def energy(v: Array, engine: CollisionEngine) -> Array:
        active = jnp.ones(len(v), bool)
        found = search(hands, jax.lax.stop_gradient(v), active, engine=engine)
        depth = depths(hands, v, jax.lax.stop_gradient(found))
        return jnp.sum(collision_energy(depth, direction_scale(v, found), active))

    metrics = []
    for engine in ("exact", "culled"):
        program = jax.jit(jax.value_and_grad(partial(energy, engine=engine)))
        for batch in batches:
            shape = jax.ShapeDtypeStruct((batch, *vertices.shape[1:]), vertices.dtype)
            analysis = program.lower(shape).compile().memory_analysis()
            assert analysis is not None, "this backend does not analyse its programs"
            megabytes = analysis.temp_size_in_bytes / 1e6
            key = f"memory by batch size/{engine}/{batch}"
            metrics.append(Metric(key, megabytes / batch, "MB", "lower"))
    return metrics


def fit_results(hands: Hands, frames: int) -> list[Metric]:
    """`ihmr` with each engine in the solver: exact metrics of what comes out."""
    truth, predictions = make_interactions(hands, frames=frames, seed=0)

    def judged(name: str, fitted: TwoHandPredictions) -> list[Metric]:
        found = evaluate(hands, fitted, truth, metrics=FIT_METRICS)
        means = {key: float(found.column(key).mean()) for key in FIT_METRICS}
        return [Metric(f"fit/{name}/{key}", mean, "mm", "lower") for key, mean in means.items()]

    metrics = judged("start", predictions)
    for engine in ENGINES:
        strategy = override(load_strategy("ihmr"), [f"collision_engine={engine}"])
        metrics += judged(engine, refine(hands, predictions, strategy).predictions)
    return metrics


def milliseconds(run: Callable, *inputs: Any, repeats: int) -> float:
    """Median of several runs after one that compiles."""
    jax.block_until_ready(run(*inputs))
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(run(*inputs))
        times.append(1000 * (time.perf_counter() - begin))
    return float(np.median(times))


def page(record: Record, fits: Record) -> str:
    """The records, of a run without and of one with fits, as a page of the documents."""
    energy = {name: row["ms a frame"] for name, row in record.rows("energy").items()}
    accuracy = record.rows("accuracy")
    step = {name: row["ms a frame"] for name, row in record.rows("solver step").items()}
    different = accuracy["culled"]["signs differing"]
    published, registered = accuracy["voxel_published"], accuracy["voxel"]

    def faster(slow: str, fast: str) -> str:
        return f"{energy[slow] / energy[fast]:.1f}"

    engines = [
        "| engine | energy, ms a frame | frames | signs differing | greatest depth error, mm "
        "| AVE-P (exact), mm | MAX-P (exact), mm |",
        "|---" * 7 + "|",
    ]
    for name, milliseconds_ in energy.items():
        cells = [""] * 5
        if name in accuracy:
            row = accuracy[name]
            cells = [
                f"{row['frames']:.0f}",
                f"{row['signs differing']:.0f} of {row['vertices inside']:.0f}",
                f"{row['greatest depth error']:.4f}",
                f"{row['AVE-P']:.3f} ({row['AVE-P exact']:.3f})",
                f"{row['MAX-P']:.2f} ({row['MAX-P exact']:.2f})",
            ]
        engines.append(f"| {name} | {milliseconds_:.3f} | {' | '.join(cells)} |")

    by_batch = {
        **{f"{k}, ms": v for k, v in record.rows("time by batch size").items()},
        **{f"{k}, MB": v for k, v in record.rows("memory by batch size").items()},
    }
    steps = {name: {"ms a frame": value} for name, value in step.items()}
    textbook = step["textbook every step"] / step["culled, kept for ten steps"]
    return f"""# Collision engines: what they cost, how far they are off, what that does to a fit

Made by `{record.provenance["command"].strip()}`
on {record.provenance["device"]}; all figures are in
[{RECORD.name}](../{RECORD.as_posix()}). Data: {record.data}.
Everything here is **synthetic**. [method.md](method.md#exact-collision) says how the engines work.

## Cost and accuracy

F_col of a frame, vertices given, freshly searched; accuracy against `exact` on the same frames (the
grids on {record.settings["grid frames"]} of them). `textbook` is the winding number with an
arctangent for every face, and the distance to every face.

{chr(10).join(engines)}

- `exact` is {faster("textbook", "exact")} times as fast as the textbook form, `culled`
  {faster("textbook", "culled")} times, with {different:.0f} signs and at most
  {accuracy["culled"]["greatest depth error"]:.4f} mm of depth different; `exact` is
  {faster("voxel", "exact")} times as fast as the registered grid. Hands whose boxes are apart cost
  {faster("culled", "culled, hands apart")} times less than hands that touch.
- What the published grid's misalignment, box scale and parity sign do: on these frames they turn a
  true AVE-P of {published["AVE-P exact"]:.2f} mm into {published["AVE-P"]:.2f} mm, and a
  true MAX-P of {published["MAX-P exact"]:.1f} mm into {published["MAX-P"]:.1f} mm.
  In register, with signs by winding numbers, the grid says {registered["AVE-P"]:.2f} and
  {registered["MAX-P"]:.1f} mm.

![Cost against error of the engines](images/collision_engines.png)

## A solver step

Batch 16, energy and gradient to all parameters; a search is kept for ten steps, so a tenth of it
counts. The kept `culled` search makes a step {textbook:.0f} times as fast as the textbook form.

{markdown_table(steps, corner="solver step")}

## Batch sizes

Time of the energy and temporary memory of the compiled energy and gradient, a frame.

{markdown_table(by_batch, corner="a frame, by batch size")}

## What an engine does to a fit

`ihmr` on {fits.settings["fitted frames"]} frames with each engine in the solver, mean over the
frames, in mm, judged by the exact engine ([{FITS.name}](../{FITS.as_posix()})). Reported energies
and the never-worse rule are exact whatever engine searches.

{markdown_table(fits.rows("fit"), corner="engine in the solver")}
"""


def plot(record: Record, path: Path) -> None:
    """Time of the energy against the error of MAX-P, one point an engine."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for engine in ("exact", "culled", "textbook", "voxel", "voxel_published"):
        cost = record[f"energy/{engine}/ms a frame"]
        error = record[f"accuracy/{engine}/MAX-P mean error"]
        axes.scatter(cost, error)
        axes.annotate(engine, (cost, error), textcoords="offset points", xytext=(5, 5))
    axes.set(
        xscale="log",
        xlabel="F_col of one frame, ms (log)",
        ylabel="mean error of MAX-P, mm",
        title=f"Collision engines, synthetic frames\n{record.provenance['device']}",
    )
    axes.margins(x=0.2, y=0.15)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
