"""Formats of other programs that hands are written in, one a module; each begins with its rules.

    manofit convert RESULT --to NAME --out PATH        export(path, predictions, hands, to=NAME)

Every format is written whole or not at all. A hand that is absent stays absent; a frame without
any is empty where a file has all frames, and has no file where each frame has its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from fitting.canonical import check_target, write_predictions
from fitting.errors import InputError
from fitting.exporters.folders import check_folder
from fitting.exporters.frames import ExportFrames, ready_to_export
from fitting.exporters.glb import write_glb, write_glb_animated
from fitting.exporters.ho3d import write_ho3d
from fitting.exporters.interhand import write_interhand
from fitting.exporters.obj import MATERIALS_FILE, write_obj
from fitting.exporters.ply import write_ply
from fitting.exporters.smplx import write_smplx
from fitting.exporters.tables import write_joints_csv, write_parquet
from fitting.predictions import TwoHandPredictions
from fitting.refine import SKIPPED_INVALID
from mano_jax.model import Hands


@dataclass(frozen=True)
class Exporter:
    """One format."""

    write: Callable[..., tuple[list[Path], list[str]]]
    """Takes the target, the frames and the options; returns the files, and what to tell the user.
    What is at the target is replaced."""
    suffix: str
    """Ending of the file's name, or "" for a folder with a file a frame."""
    options: tuple[str, ...] = ()
    """Names of the options that it takes."""
    shared_files: tuple[str, ...] = ()
    """Files of a folder beside those of the frames."""
    needs_parameters: bool = True
    """Whether joints alone cannot be written."""


def _write_canonical(path: Path, frames: ExportFrames) -> tuple[list[Path], list[str]]:
    """Write everything the file holds as it came, skipped frames too."""
    write_predictions(path, frames.source, overwrite=True)
    return [path], []


EXPORTERS: Final[dict[str, Exporter]] = {
    "canonical": Exporter(_write_canonical, ".npz", needs_parameters=False),
    "smplx": Exporter(write_smplx, ".npz"),
    "interhand": Exporter(write_interhand, ".json"),
    "ho3d": Exporter(write_ho3d, ""),
    "obj": Exporter(write_obj, "", shared_files=(MATERIALS_FILE,)),
    "ply": Exporter(write_ply, ""),
    "glb": Exporter(write_glb, ""),
    "glb_animated": Exporter(write_glb_animated, ".glb", options=("fps",)),
    "joints_csv": Exporter(write_joints_csv, ".csv", options=("order",)),
    "parquet": Exporter(write_parquet, ".parquet", options=("order",)),
}
"""Writer of each format that `--to` names."""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    files: tuple[Path, ...]
    """Every file."""
    frames: int
    """Frames with a hand in them."""
    notes: tuple[str, ...]
    """What the user should know: hands that were left out, and what the format could not hold."""


def check_export(path: Path | str, *, to: str, overwrite: bool = False) -> None:
    """Find out whether a format can be written there: before the work that makes it.

    Raises:
        InputError: an unknown format, or a target that is none; see `export`.
    """
    exporter, path = _exporter(to), Path(path)
    if exporter.suffix:
        check_target(path, (exporter.suffix,), overwrite=overwrite)
    else:
        check_folder(path, shared=exporter.shared_files, overwrite=overwrite)


def export(
    path: Path | str,
    predictions: TwoHandPredictions,
    hands: Hands,
    *,
    to: str,
    status: np.ndarray | None = None,
    overwrite: bool = False,
    order: str | None = None,
    fps: float | None = None,
) -> Exported:
    """Write frames in another program's format.

    Args:
        path: the file to write, or the folder where the format has a file a frame; what is above
            it is made if need be.
        predictions: a result's frames, or a file's own predictions.
        hands: the hand model that they belong to.
        to: a name of `EXPORTERS`.
        status: (N,) a result's `status`; frames that the fit skipped are written without hands.
            None: nothing was skipped.
        overwrite: replace a file that is there, or a folder that an earlier export wrote. A
            folder with anything else in it is never replaced.
        order: joints_csv, parquet: the joint order (`mano_jax.joint_orders.JOINT_ORDERS`) of the
            columns; `mano21` unless told.
        fps: glb_animated: frames a second; the timestamps decide unless told, or 30.

    Raises:
        InputError: an unknown format, an option that it does not take, a target that cannot be
            written, frames without parameters or without any hand that can be written.
    """
    exporter = _exporter(to)
    options = _options(to, exporter, order=order, fps=fps)
    check_export(path, to=to, overwrite=overwrite)
    if exporter.needs_parameters and not predictions.has_parameters:
        raise InputError(
            f"{to}: expected hand parameters, found {', '.join(predictions.arrays())}: "
            "manofit refine makes parameters, for example from joints_3d"
        )
    skipped = None if status is None else np.asarray(status) == SKIPPED_INVALID
    frames, notes = ready_to_export(predictions, hands, skipped=skipped)
    if not exporter.needs_parameters:
        files, notes = exporter.write(Path(path), frames)
        return Exported(tuple(files), int(predictions.hand_valid.any(axis=1).sum()), tuple(notes))
    written = int(frames.valid.any(axis=1).sum())
    if written == 0:
        raise InputError(
            f"{to}: no frame has a hand that can be written" + "".join(f"; {n}" for n in notes)
        )
    files, more = exporter.write(Path(path), frames, **options)
    if not exporter.suffix and written < frames.num_frames:
        more = [f"{frames.num_frames - written} frames without a hand have no file", *more]
    return Exported(tuple(files), written, tuple(notes + more))


def _exporter(to: str) -> Exporter:
    if to not in EXPORTERS:
        raise InputError(f"unknown format {to!r}; known: {', '.join(EXPORTERS)}")
    return EXPORTERS[to]


def _options(to: str, exporter: Exporter, **given: Any) -> dict[str, Any]:
    """The options that were given, all of which the format must take."""
    options = {name: value for name, value in given.items() if value is not None}
    for name in options:
        if name not in exporter.options:
            takers = ", ".join(n for n, other in EXPORTERS.items() if name in other.options)
            raise InputError(f"{to} has no option {name!r}, which is for {takers}: leave it out")
    return options


__all__ = ["EXPORTERS", "Exported", "Exporter", "check_export", "export"]
