"""What the subcommands do with files: read, call the library, write, and say what happened."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from experiments.ablation import cells, read_spec, run_cells, write_report
from experiments.ablation.plots import check_drawable
from experiments.ablation.run import RESULTS
from experiments.benchmark import DetectorNoise, RegressorErrors, write_benchmark
from experiments.benchmark.measure import posed
from experiments.benchmark.sheet import draw_pairs, widest_views
from experiments.convert import open_hands, read_source
from experiments.input_options import CANONICAL, InputOptions
from experiments.render import save_png
from experiments.tune import Goal, tune
from fitting.calibrate import calibrate
from fitting.canonical import check_target, read_predictions, write_arrays
from fitting.checks import summarise
from fitting.errors import InputError
from fitting.evaluation import evaluate, read_result, read_truth
from fitting.metric_table import DEFAULT_METRICS
from fitting.refine import KEPT_INPUT, REFINED, SKIPPED_INVALID, RefinedHands, refine
from fitting.strategy import Strategy, strategy_to_toml
from mano_jax.export import export_hands
from mano_jax.files import write_whole
from mano_jax.loading import HandSource, describe_hands, read_hand_models
from mano_jax.model import Hands
from objectives.total import TERMS


def refine_file(
    path: Path,
    out: Path,
    *,
    strategy: Strategy,
    hand_model: tuple[Hands, HandSource],
    given: InputOptions = CANONICAL,
    frames: slice = slice(None),
    calibrated: bool = False,
    uncertainty: bool = False,
    devices: Sequence[Any] | None = None,
    force: bool = False,
) -> RefinedHands:
    """Refine a file; the result appears under its final name only when it is whole."""
    hands, hand_source = hand_model
    check_target(out, (".npz",), overwrite=force)
    predictions, _ = read_source(path, given=given, hand_model=hand_model)
    total = predictions.num_frames
    predictions = predictions.frames(frames)
    if predictions.num_frames == 0:
        raise InputError(f"{path}: the file's {total} frames have none in the range asked for")
    try:
        print(summarise(predictions, hands, strategy.terms))
        if not predictions.has_parameters:
            print(
                "no predicted parameters: starting from 3D joints; each stage keeps its iterate of "
                "lowest energy"
            )
        if calibrated:
            calibration = calibrate(hands, predictions, strategy)
            print(calibration.table())
            strategy = calibration.applied_to(strategy)
        result = refine(
            hands,
            predictions,
            strategy,
            devices=devices,
            uncertainty=uncertainty,
            progress=True,
            provenance={"input": path.name, "hands": hand_source.fingerprint},
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    write_arrays(out, result.arrays(), overwrite=force)
    print(outcome(result))
    print(f"wrote {out}")
    return result


def calibrate_file(
    path: Path,
    out: Path,
    *,
    strategy: Strategy,
    hands_path: Path | None = None,
    given: InputOptions = CANONICAL,
    sample: int = 256,
    seed: int = 0,
    force: bool = False,
) -> None:
    """Estimate a strategy's scales from a file, print them, and write the strategy with them."""
    check_target(out, (".toml",), overwrite=force)
    hand_model = open_hands(hands_path)
    predictions, _ = read_source(path, given=given, hand_model=hand_model)
    try:
        calibration = calibrate(hand_model[0], predictions, strategy, sample=sample, seed=seed)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    print(calibration.table())
    text = strategy_to_toml(calibration.applied_to(strategy))
    write_whole(out, lambda file: file.write(text.encode()))
    print(f"wrote {out}: use it with --strategy {out}")


def check_file(path: Path, *, strategy: Strategy, hands_path: Path | None = None) -> None:
    """Print what a canonical file holds and what a fit by this strategy can do with it."""
    predictions = read_predictions(path)
    hands, _ = open_hands(hands_path)
    try:
        print(summarise(predictions, hands, strategy.terms))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def evaluate_file(
    result: Path,
    truth: Path,
    *,
    before: Path | None = None,
    metrics: tuple[str, ...] = (),
    json_out: Path | None = None,
    csv_out: Path | None = None,
    hands_path: Path | None = None,
    force: bool = False,
) -> None:
    """Measure a result, print the summary, write what is asked for."""
    for path, suffix in ((json_out, ".json"), (csv_out, ".csv")):
        if path is not None:
            check_target(path, (suffix,), overwrite=force)
    predicted, skipped = read_result(result)
    true, start = read_truth(truth), read_predictions(before) if before else None
    hands, _ = open_hands(hands_path)
    evaluation = evaluate(
        hands,
        predicted,
        true,
        before=start,
        skipped=skipped,
        metrics=metrics or DEFAULT_METRICS,
        progress=True,
    )
    print(evaluation.to_table())
    for path, text in ((json_out, evaluation.to_json), (csv_out, evaluation.to_csv)):
        if path is not None:
            content = text().encode()
            write_whole(path, lambda file, content=content: file.write(content))
            print(f"wrote {path}")


def benchmark_make(
    folder: Path,
    *,
    frames: int,
    seed: int,
    regressor: RegressorErrors,
    detector: DetectorNoise,
    hands_path: Path | None = None,
    force: bool = False,
) -> None:
    """Make a benchmark's files and say where they are."""
    hands, source = open_hands(hands_path)
    written = write_benchmark(
        folder,
        hands,
        frames=frames,
        seed=seed,
        regressor=regressor,
        detector=detector,
        hand_model=source.fingerprint,
        force=force,
        progress=True,
    )
    for path in written:
        print(f"wrote {path}")


def benchmark_sheet(
    folder: Path,
    out: Path,
    *,
    which: str,
    frames: int,
    hands_path: Path | None = None,
    force: bool = False,
) -> None:
    """Draw the first frames of a benchmark; the truth decides from where each is seen."""
    check_target(out, (".png",), overwrite=force)
    shown, truth = (read_predictions(folder / f"{name}.npz") for name in (which, "truth"))
    shown, truth = (file.frames(slice(0, frames)) for file in (shown, truth))
    hands, _ = open_hands(hands_path)
    views = widest_views(posed(hands, truth)[0])
    title = f"{folder.name}: {which}, {shown.num_frames} frames"
    save_png(draw_pairs(hands, shown, views=views, title=title), out)
    print(f"wrote {out}")


def overlay_file(
    path: Path,
    image: Path,
    out: Path,
    *,
    frame: int = 0,
    view: int = 0,
    crop: tuple[float, float, float, float] | None = None,
    opacity: float = 0.75,
    hands_path: Path | None = None,
    force: bool = False,
) -> None:
    """Draw one frame's hands over its image; see `experiments.overlay.draw_overlay`."""
    from experiments.overlay import draw_overlay

    check_target(out, (".png",), overwrite=force)
    predictions = read_predictions(path)
    if not 0 <= frame < predictions.num_frames:
        raise InputError(f"{path}: expected a frame from 0 to {predictions.num_frames - 1}")
    hands, _ = open_hands(hands_path)
    draw_overlay(hands, predictions, image, out, frame=frame, view=view, crop=crop, opacity=opacity)
    print(f"wrote {out}")


def hands_info(hands_path: Path | None) -> None:
    """Print which hand model is in use."""
    print(describe_hands(hands_path).summary())


def hands_export(out: Path, *, hands_path: Path | None = None, force: bool = False) -> None:
    """Write the hand model in the official layouts."""
    right, left, source = read_hand_models(hands_path)
    print(source.summary())
    for path in export_hands(right, left, out, overwrite=force):
        print(f"wrote {path}")


def ablate(path: Path, out: Path, *, hands_path: Path | None = None, pictures: bool = True) -> None:
    """Run an ablation, or what is left of it; print its table and write its report."""
    spec = read_spec(path)
    plan = cells(spec)
    if pictures:
        check_drawable()
    hands, source = open_hands(hands_path)
    print(f"{spec.question}\n{len(plan)} fits of {spec.frames} frames")
    results = run_cells(spec, hands, out, hand_model=source.fingerprint, progress=True)
    written = write_report(spec, results, out, pictures=pictures)
    print((out / "table.txt").read_text())
    print(f"in {out}: {', '.join([RESULTS, *(p.name for p in written)])}")


DEFAULT_AVE_P_MM: Final = 0.01
"""How deep a tuned strategy may leave hands in each other on average, unless told."""


def tune_file(
    predictions: Path,
    truth: Path,
    out: Path,
    *,
    strategy: Strategy,
    numbers: Sequence[str] = (),
    minimise: str = "i_mpjpe",
    limits: Sequence[str] = (),
    against: Sequence[str] = (),
    evaluations: int = 200,
    held_out: float = 0.5,
    seed: int = 0,
    hands_path: Path | None = None,
    force: bool = False,
) -> None:
    """Tune a strategy's numbers; print what they came to, write the strategy and its record."""
    if evaluations < 1 or seed < 0:
        raise InputError(
            f"expected at least one evaluation and a seed of 0 or more, found {evaluations}, {seed}"
        )
    record, journal = out.with_suffix(".json"), out.with_suffix(".jsonl")
    check_target(out, (".toml",), overwrite=force)
    check_target(record, (".json",), overwrite=force)
    start, true = read_predictions(predictions), read_truth(truth)
    unless_told = {"ave_p": DEFAULT_AVE_P_MM} if true.hand_valid.all(axis=1).any() else {}
    goal = Goal(minimise, dict(_limit(text) for text in limits) or unless_told)
    out.parent.mkdir(parents=True, exist_ok=True)
    hands, source = open_hands(hands_path)
    found = tune(
        hands,
        start,
        true,
        strategy=strategy,
        goal=goal,
        numbers=numbers,
        against=against,
        evaluations=evaluations,
        held_out=held_out,
        seed=seed,
        journal=journal,
        hand_model=source.fingerprint,
        progress=True,
    )
    print(found.table())
    named = replace(
        found.strategy,
        name=out.stem,
        description=f"{strategy.name} with numbers tuned for {minimise} on {truth.name}.",
    )
    contents = {
        out: strategy_to_toml(named),
        record: found.record(f"{truth.name}, hand model {source.fingerprint}").to_json(),
    }
    for path, text in contents.items():
        write_whole(path, lambda file, text=text: file.write(text.encode()))
    print(f"wrote {out}: use it with --strategy {out}; evaluations in {journal}")


def _limit(text: str) -> tuple[str, float]:
    name, equals, number = text.partition("=")
    try:
        return name.strip(), float(number)
    except ValueError:
        raise InputError(f"--limit {text}: expected METRIC=NUMBER") from None


def outcome(result: RefinedHands) -> str:
    """Frames by status and reason, and the mean energies."""
    lines = [
        f"{result.num_frames} frames: {result.count(REFINED)} refined, "
        f"{result.count(KEPT_INPUT)} kept as they came, {result.count(SKIPPED_INVALID)} skipped"
    ]
    for reason in sorted(set(result.reason[result.status == SKIPPED_INVALID])):
        lines.append(f"  skipped: {np.sum(result.reason == reason)} x {reason}")
    if (done := result.status != SKIPPED_INVALID).any():
        before, after = result.energy_before[done], result.energy_after[done]
        rows = [(t, b, a) for t, b, a in zip(TERMS, before.mean(0), after.mean(0), strict=True)]
        rows = [row for row in rows if row[0] in result.strategy.reported]
        rows.append(("total", before.sum(1).mean(), after.sum(1).mean()))
        lines.append(f"{'weighted energy, mean of frames':32s} {'before':>10s} {'after':>10s}")
        lines += [f"  {name:30s} {b:10.4f} {a:10.4f}" for name, b, a in rows]
    return "\n".join(lines)
