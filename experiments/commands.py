"""What the subcommands do with files: read, call the library, write, and say what happened."""

from pathlib import Path

import numpy as np

from fitting.adapters import read_input
from fitting.canonical import check_target, read_predictions, write_arrays
from fitting.checks import summarise
from fitting.errors import InputError
from fitting.refine import KEPT_INPUT, REFINED, SKIPPED_INVALID, RefinedHands, refine
from fitting.strategy import Strategy
from mano_jax.export import export_hands
from mano_jax.loading import HandSource, describe_hands, load_hands, read_hand_models
from mano_jax.model import Hands
from objectives.total import TERMS


def refine_file(
    path: Path,
    out: Path,
    *,
    strategy: Strategy,
    hand_model: tuple[Hands, HandSource],
    frames: slice = slice(None),
    force: bool = False,
) -> RefinedHands:
    """Refine a canonical file; the result appears under its final name only when it is whole."""
    hands, source = hand_model
    check_target(out, (".npz",), overwrite=force)
    predictions = read_predictions(path)
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
        result = refine(
            hands,
            predictions,
            strategy,
            progress=True,
            provenance={"input": path.name, "hands": source.fingerprint},
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    write_arrays(out, result.arrays(), overwrite=force)
    print(outcome(result))
    print(f"wrote {out}")
    return result


def convert_file(path: Path, source: str, out: Path, *, force: bool = False) -> None:
    """Convert a foreign file to a canonical one."""
    check_target(out, (".npz",), overwrite=force)
    predictions = read_input(path, source=source)
    write_arrays(out, predictions.arrays(), overwrite=force)
    print(f"wrote {out}: {predictions.num_frames} frames, {', '.join(predictions.arrays())}")


def check_file(path: Path, *, strategy: Strategy, hands_path: Path | None = None) -> None:
    """Print what a canonical file holds and what a fit by this strategy can do with it."""
    predictions = read_predictions(path)
    hands, _ = open_hands(hands_path)
    try:
        print(summarise(predictions, hands, strategy.terms))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


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


def open_hands(path: Path | None) -> tuple[Hands, HandSource]:
    """The hand model, after saying which one it is."""
    source = describe_hands(path)
    used = "the embedded hand (synthetic)" if source.embedded else str(source.right_file)
    print(f"hand model: {used}")
    for note in source.notes:
        print(f"  {note}")
    return load_hands(path), source


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
        rows = [row for row in rows if row[0] in result.strategy.report_weights]
        rows.append(("total", before.sum(1).mean(), after.sum(1).mean()))
        lines.append(f"{'weighted energy, mean of frames':32s} {'before':>10s} {'after':>10s}")
        lines += [f"  {name:30s} {b:10.4f} {a:10.4f}" for name, b, a in rows]
    return "\n".join(lines)
