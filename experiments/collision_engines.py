"""What does each collision engine cost, and how far is its answer from the exact one?

All engines search the same synthetic frames of touching hands in one process: `exact`, `culled`,
`voxel` (the published method's grid, registered), `voxel_published` (with its defects), and
`textbook`: every face, an arctangent for each, as the winding number is usually written.

* accuracy: vertices whose sign differs from `exact`, the greatest error of a depth, and the mean
  error of AVE-P and MAX-P;
* speed: the energy from vertices, freshly searched; a solver step (energy and gradient from
  parameters, the search kept for ten steps, a tenth of it counted); frames apart;
* batches: the energy by `culled` and what its compiled energy and gradient allocate, a frame, by
  batch size.

    python -m experiments.collision_engines --out experiments/results/collision_engines_cpu.json

The record is JSON; the table and the plot (`--plot`, needs the `plots` extra) are made from it.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from experiments.benchmark_data import make_interactions
from experiments.records import provenance
from fitting.prepare import prepare
from mano_jax.model import Hands
from mano_jax.procedural import procedural_hands
from objectives.collision import (
    CollisionEngine,
    Found,
    box_scale,
    collision_energy,
    depths,
    direction_scale,
    search,
)
from objectives.collision.geometry import signed_volume, solid_angle, squared_distance
from objectives.problem import TwoHandParams, posed_hands

QUESTION = "What does each collision engine cost, and how far is its answer from the exact one?"
ENGINES: tuple[CollisionEngine, ...] = ("exact", "culled", "voxel", "voxel_published")
GRID_FRAMES = 4
"""Frames that the grids are made for: they take a thousand times as long."""
STEPS_A_SEARCH = 10
"""A solver keeps a search for so many steps."""


def main() -> None:
    """Measure, write the record, print its table."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--frames", type=int, default=64, help="frames of touching hands")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64, 256, 1024, 4096])
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each program")
    parser.add_argument("--plot", type=Path, help="PNG to draw from the record")
    options = parser.parse_args()
    record = measure(options.frames, options.batches, options.repeats)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=2) + "\n")
    print(table(record))
    if options.plot:
        plot(record, options.plot)


def measure(frames: int, batches: list[int], repeats: int) -> dict[str, Any]:
    """The whole record."""
    hands = procedural_hands()
    params, vertices = touching_hands(hands, frames)
    active = jnp.ones(frames, bool)
    return {
        "question": QUESTION,
        "data": f"{frames} synthetic frames of interacting hands (seed 0), starts of the demo",
        "accuracy": accuracy(hands, vertices, active),
        "energy_ms_per_frame": energy_times(hands, vertices, active, repeats),
        "solver_step_ms_per_frame": step_times(hands, params, active, repeats),
        "batch_ms_per_frame": batch_times(hands, vertices, batches, repeats),
        "memory_mb_per_frame": memory(hands, vertices, batches),
        "provenance": provenance("experiments.collision_engines"),
    }


def touching_hands(hands: Hands, frames: int) -> tuple[TwoHandParams, Float[Array, "N 2 V 3"]]:
    """Starts of synthetic interactions: every frame penetrates by 9 to 18 mm."""
    _, predictions = make_interactions(hands, frames=min(frames, 32), seed=0)
    predictions = predictions.frames(np.arange(frames) % predictions.num_frames)
    params = jax.tree.map(jnp.asarray, prepare(hands, predictions).params)
    return params, jax.jit(posed_hands)(hands, params, jnp.zeros(frames, bool)).vertices


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


def accuracy(hands: Hands, vertices: Array, active: Array) -> dict[str, Any]:
    """Each engine against `exact`."""

    def depth_of(engine: CollisionEngine | Literal["textbook"], few: int) -> np.ndarray:
        def run(v, a):
            if engine == "textbook":
                return textbook_depths(hands, v, a)
            return depths(hands, v, search(hands, v, a, engine=engine))

        return 1000 * np.asarray(jax.jit(run)(vertices[:few], active[:few]))

    rows = {}
    for engine in ("exact", "culled", "textbook", "voxel", "voxel_published"):
        few = GRID_FRAMES if engine.startswith("voxel") else len(vertices)
        depth, truth = depth_of(engine, few), depth_of("exact", few)
        inside = truth > 0
        by_frame = depth.reshape(len(depth), -1), truth.reshape(len(truth), -1)
        rows[engine] = {
            "frames": few,
            "signs_differing": int(((depth > 0) != inside).sum()),
            "vertices_inside": int(inside.sum()),
            "greatest_depth_error_mm": float(np.abs(depth - truth).max()),
            "ave_p_mm": float(depth.mean()),
            "ave_p_exact_mm": float(truth.mean()),
            "max_p_mm": float(by_frame[0].max(1).mean()),
            "max_p_exact_mm": float(by_frame[1].max(1).mean()),
            "max_p_mean_error_mm": float(np.abs(by_frame[0].max(1) - by_frame[1].max(1)).mean()),
        }
    return rows


def energy_times(hands: Hands, vertices: Array, active: Array, repeats: int) -> dict[str, float]:
    """Median time of F_col a frame, vertices given; the grids on four frames only."""
    times = {}
    for engine in ("textbook", *ENGINES):
        few = GRID_FRAMES if engine.startswith("voxel") else len(vertices)
        run = jax.jit(partial(engine_energy, hands, engine))
        times[engine] = milliseconds(run, vertices[:few], active[:few], repeats=repeats) / few
    apart = vertices.at[:, 1].add(1.0)
    run = jax.jit(partial(engine_energy, hands, "culled"))
    times["culled, hands apart"] = milliseconds(run, apart, active, repeats=repeats) / len(apart)
    return times


def step_times(
    hands: Hands, params: TwoHandParams, active: Array, repeats: int, batch: int = 16
) -> dict[str, float]:
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
    return times


def batch_times(
    hands: Hands, vertices: Array, batches: list[int], repeats: int
) -> dict[str, dict[str, float]]:
    """Median time of F_col a frame by batch size: the same frames over and over."""
    rows: dict[str, dict[str, float]] = {}
    for name, placed in (("culled", vertices), ("culled, hands apart", vertices.at[:, 1].add(1.0))):
        for batch in batches:
            frames = placed[jnp.arange(batch) % len(placed)]
            run = jax.jit(partial(engine_energy, hands, "culled"))
            total = milliseconds(run, frames, jnp.ones(batch, bool), repeats=repeats)
            rows.setdefault(name, {})[str(batch)] = total / batch
    return rows


def memory(hands: Hands, vertices: Array, batches: list[int]) -> dict[str, dict[str, float]]:
    """Temporary memory of the compiled energy and gradient, MB a frame."""

    def energy(v: Array, engine: CollisionEngine) -> Array:
        active = jnp.ones(len(v), bool)
        found = search(hands, jax.lax.stop_gradient(v), active, engine=engine)
        depth = depths(hands, v, jax.lax.stop_gradient(found))
        return jnp.sum(collision_energy(depth, direction_scale(v, found), active))

    rows: dict[str, dict[str, float]] = {}
    for engine in ("exact", "culled"):
        program = jax.jit(jax.value_and_grad(partial(energy, engine=engine)))
        for batch in batches:
            shape = jax.ShapeDtypeStruct((batch, *vertices.shape[1:]), vertices.dtype)
            analysis = program.lower(shape).compile().memory_analysis()
            assert analysis is not None, "this backend does not analyse its programs"
            megabytes = analysis.temp_size_in_bytes / 1e6
            rows.setdefault(engine, {})[str(batch)] = megabytes / batch
    return rows


def milliseconds(run: Callable, *inputs: Any, repeats: int) -> float:
    """Median of several runs after one that compiles."""
    jax.block_until_ready(run(*inputs))
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(run(*inputs))
        times.append(1000 * (time.perf_counter() - begin))
    return float(np.median(times))


def table(record: dict[str, Any]) -> str:
    """The record as a Markdown table."""
    lines = [
        "| engine | energy, ms a frame | frames | signs differing | greatest depth error, mm "
        "| AVE-P (exact), mm | MAX-P (exact), mm |",
        "|---|---|---|---|---|---|---|",
    ]
    for engine, milliseconds_ in record["energy_ms_per_frame"].items():
        row = record["accuracy"].get(engine)
        cells = ["", "", "", "", ""]
        if row is not None:
            cells = [
                str(row["frames"]),
                f"{row['signs_differing']} of {row['vertices_inside']}",
                f"{row['greatest_depth_error_mm']:.4f}",
                f"{row['ave_p_mm']:.3f} ({row['ave_p_exact_mm']:.3f})",
                f"{row['max_p_mm']:.2f} ({row['max_p_exact_mm']:.2f})",
            ]
        lines.append(f"| {engine} | {milliseconds_:.3f} | {' | '.join(cells)} |")
    lines += ["", "| solver step | ms a frame |", "|---|---|"]
    for name, value in record["solver_step_ms_per_frame"].items():
        lines.append(f"| {name} | {value:.3f} |")
    for title, rows in (
        ("energy, ms a frame", record["batch_ms_per_frame"]),
        ("temporary memory, MB a frame", record["memory_mb_per_frame"]),
    ):
        batches = list(next(iter(rows.values())))
        lines += ["", f"| {title}, by batch size | {' | '.join(batches)} |"]
        lines += ["|---" * (len(batches) + 1) + "|"]
        for name, row in rows.items():
            lines.append(f"| {name} | {' | '.join(f'{value:.3f}' for value in row.values())} |")
    return "\n".join(lines)


def plot(record: dict[str, Any], path: Path) -> None:
    """Time of the energy against the error of MAX-P, one point an engine."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for engine in ("exact", "culled", "textbook", "voxel", "voxel_published"):
        cost = record["energy_ms_per_frame"][engine]
        error = record["accuracy"][engine].get("max_p_mean_error_mm", 0.0)
        axes.scatter(cost, error)
        axes.annotate(engine, (cost, error), textcoords="offset points", xytext=(5, 5))
    axes.set(
        xscale="log",
        xlabel="F_col of one frame, ms (log)",
        ylabel="mean error of MAX-P, mm",
        title=f"Collision engines, synthetic frames\n{record['provenance']['device']}",
    )
    axes.margins(x=0.2, y=0.15)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
