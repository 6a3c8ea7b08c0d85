"""`manofit convert`: foreign files in, foreign files out, and what became of them."""

from collections.abc import Callable
from pathlib import Path

from experiments.input_options import CANONICAL, RECOGNISED, InputOptions
from fitting.adapters import (
    FORMATS,
    Format,
    InterHandSelection,
    Reading,
    check_conversion,
    read_foreign,
    read_interhand_frames,
)
from fitting.canonical import check_target, read_arrays, write_arrays
from fitting.errors import InputError
from fitting.exporters import check_export, export
from fitting.predictions import TwoHandPredictions
from mano_jax.loading import HandSource, describe_hands, load_hands
from mano_jax.model import Hands


def open_hands(path: Path | None) -> tuple[Hands, HandSource]:
    """The hand model, after saying which one it is."""
    source = describe_hands(path)
    used = "the embedded hand (synthetic)" if source.embedded else str(source.right_file)
    print(f"hand model: {used}")
    for note in source.notes:
        print(f"  {note}")
    return load_hands(path), source


def read_source(
    path: Path,
    *,
    given: InputOptions,
    hand_model: tuple[Hands, HandSource],
    say: Callable[[str], None] = print,
) -> tuple[TwoHandPredictions, Format]:
    """Read a file of any format; say what was assumed, and what the self-check found.

    Args:
        path: file or folder.
        given: how it is to be read.
        hand_model: what `open_hands` gave.
        say: where to print.

    Returns:
        The frames, and the format that the file was taken for.

    Raises:
        InputError: a bad file, or where that is asked for one whose own points do not come back.
    """
    check_options(path, given)
    hands, _ = hand_model
    reading = Reading(
        hands, image_size=given.image_size, focal=given.focal, annotations=given.annotations
    )
    conversion, taken = read_foreign(path, source=given.source, reading=reading)
    for note in conversion.notes:
        say(f"note: {note}")
    if taken is FORMATS["canonical"]:
        return conversion.predictions, taken
    check = check_conversion(conversion, taken.conventions, hands)
    if given.strict and not check.passed:
        raise InputError(f"{path}: {check}")
    say(str(check) if check.passed else f"WARNING: {check}")
    return conversion.predictions, taken


def check_options(path: Path, given: InputOptions) -> None:
    """Refuse what a canonical file would not heed.

    Raises:
        InputError: options of foreign formats for a canonical file.
    """
    if given.source == "canonical" and given != CANONICAL:
        raise InputError(
            f"{path}: a canonical file tells its cameras itself, and has nothing to be checked; "
            "--strict, --image-size, --focal and --annotations need --from another format, or auto"
        )


def convert_file(
    path: Path,
    out: Path,
    *,
    to: str,
    given: InputOptions = RECOGNISED,
    frames: slice = slice(None),
    hands_path: Path | None = None,
    order: str | None = None,
    fps: float | None = None,
    force: bool = False,
) -> None:
    """Convert a file of any format to a canonical one, or to another program's."""
    check_export(out, to=to, overwrite=force)
    hand_model = open_hands(hands_path)
    predictions, taken = read_source(path, given=given, hand_model=hand_model)
    # A result says which frames the fit skipped.
    status = read_arrays(path).get("status") if taken is FORMATS["canonical"] else None
    total, predictions = predictions.num_frames, predictions.frames(frames)
    if predictions.num_frames == 0:
        raise InputError(f"{path}: the file's {total} frames have none in the range asked for")
    exported = export(
        out,
        predictions,
        hand_model[0],
        to=to,
        status=None if status is None else status[frames],
        overwrite=force,
        order=order,
        fps=fps,
    )
    for note in exported.notes:
        print(f"note: {note}")
    what = f"{len(exported.files)} files" if len(exported.files) > 1 else to
    print(f"wrote {out}: {what}, {exported.frames} of {predictions.num_frames} frames with hands")
    if to == "canonical":
        print(f"  {', '.join(predictions.arrays())}")


def convert_interhand(
    path: Path,
    out: Path,
    *,
    truth_out: Path | None,
    selection: InterHandSelection,
    hands_path: Path | None = None,
    force: bool = False,
) -> None:
    """Convert a split of InterHand2.6M, with NeuralAnnot's parameters where a truth is wanted."""
    targets = [out] if truth_out is None else [out, truth_out]
    for target in targets:
        check_target(target, (".npz",), overwrite=force)
    hands = None if truth_out is None else open_hands(hands_path)[0]
    read = read_interhand_frames(path, hands=hands, selection=selection)
    for note in read.notes:
        print(note)
    for target, frames in zip(targets, (read.predictions, read.truth), strict=False):
        assert frames is not None, "a truth was asked for"
        write_arrays(target, frames.arrays(), overwrite=force)
        print(f"wrote {target}: {frames.num_frames} frames, {', '.join(frames.arrays())}")
