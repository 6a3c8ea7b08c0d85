"""Foreign formats, one a module. Each begins with that format's conventions.

An adapter reads a path and yields canonical conventions: metres, OpenCV's camera axes, absolute
axis-angle, `mano21` joints, a native left hand (`docs/regressors.md`, `docs/adapters.md`).
"""

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from fitting.adapters.acr import ACR
from fitting.adapters.aria import ARIA
from fitting.adapters.dexycb import DEXYCB
from fitting.adapters.dir import DIR
from fitting.adapters.formats import Conventions, Conversion, Evidence, Format, Reading
from fitting.adapters.frankmocap import FRANKMOCAP
from fitting.adapters.freihand import FREIHAND
from fitting.adapters.hamer import HAMER, WILOR
from fitting.adapters.ho3d import HO3D
from fitting.adapters.hot3d import HOT3D
from fitting.adapters.ihmr import IHMR
from fitting.adapters.im2hands import IM2HANDS
from fitting.adapters.intaghand import INTAGHAND
from fitting.adapters.interhand import (
    INTERHAND,
    InterHandFrames,
    InterHandSelection,
    read_interhand,
    read_interhand_frames,
    read_interhand_truth,
)
from fitting.adapters.internet import INTERNET
from fitting.adapters.interwild import INTERWILD
from fitting.adapters.leap import LEAP
from fitting.adapters.mediapipe import MEDIAPIPE
from fitting.adapters.openpose import OPENPOSE
from fitting.adapters.recognise import recognise
from fitting.adapters.s2hand import S2HAND
from fitting.adapters.self_check import SelfCheck, check_conversion
from fitting.adapters.table import TABLE
from fitting.adapters.vitra import VITRA
from fitting.adapters.wilor_mini import WILOR_MINI
from fitting.canonical import read_predictions
from fitting.errors import InputError
from fitting.predictions import TwoHandPredictions
from mano_jax.loading import load_hands
from mano_jax.model import Hands

_OPTIONS: Final = ("image_size", "focal", "annotations")
"""Fields of `Reading` that only some formats make use of."""

AUTO: Final = "auto"
"""As a format: whichever the file is recognised as."""

CANONICAL: Final = Format(
    "canonical",
    "our own .npz or .zarr, predictions or a result",
    lambda path, _: Conversion(read_predictions(path)),
    suffixes=(".npz",),
    keys=(frozenset({"hand_valid"}),),
    names=("zarr.json",),
)

_REGRESSORS: Final = (
    IHMR,
    INTERWILD,
    HAMER,
    WILOR,
    WILOR_MINI,
    ACR,
    DIR,
    FRANKMOCAP,
    S2HAND,
    VITRA,
)
_DATA_SETS: Final = (INTERHAND, FREIHAND, HO3D, DEXYCB, HOT3D)
_JOINTS: Final = (INTERNET, OPENPOSE, MEDIAPIPE, ARIA, LEAP, TABLE)
_MESHES: Final = (INTAGHAND, IM2HANDS)

FORMATS: Final[dict[str, Format]] = {
    format.name: format for format in (CANONICAL, *_REGRESSORS, *_DATA_SETS, *_JOINTS, *_MESHES)
}
"""Every format that `--from` names."""


def read_input(
    path: Path | str, *, source: str = "canonical", hands: Hands | None = None
) -> TwoHandPredictions:
    """Read a file of any known format; `read_foreign` also says what happened on the way.

    Args:
        path: a file, or a folder where the format is one.
        source: a name of `FORMATS`, or "auto".
        hands: the hand model, whose mean pose and shape parameters refer to; None is
            `load_hands()`.

    Raises:
        InputError: an unknown format (the message lists the known ones), or a bad file.
    """
    reading = Reading(hands=load_hands() if hands is None else hands)
    return read_foreign(path, source=source, reading=reading)[0].predictions


def read_foreign(path: Path | str, *, source: str, reading: Reading) -> tuple[Conversion, Format]:
    """Read a file of any known format, with notes and evidence.

    Args:
        path: a file, or a folder where the format is one.
        source: a name of `FORMATS`, or "auto".
        reading: the hand model, and what the file may lack.

    Returns:
        The conversion, and the format that the file was taken for.

    Raises:
        InputError: an unknown format, a bad file, or with "auto" one that no format or several
            fit. If another format fits better than the one named, the message says so.
    """
    path = Path(path)
    if source == AUTO:
        taken = _only_one(path)
        conversion = _read(taken, path, reading)
        note = f"{path}: taken for {taken.name}, {taken.what}"
        return replace(conversion, notes=(note, *conversion.notes)), taken
    if source not in FORMATS:
        raise InputError(f"unknown format {source!r}; known: {AUTO}, {', '.join(FORMATS)}")
    try:
        return _read(FORMATS[source], path, reading), FORMATS[source]
    except InputError as error:
        raise InputError(f"{error}{_rather(path, source)}") from error


def _read(taken: Format, path: Path, reading: Reading) -> Conversion:
    for name in _OPTIONS:
        if getattr(reading, name) is not None and name not in taken.options:
            takers = ", ".join(f.name for f in FORMATS.values() if name in f.options)
            raise InputError(f"{path}: {taken.name} has no use for {name}, which is for {takers}")
    try:
        # What is not finite stays so, and becomes its frame's reason for being skipped.
        with np.errstate(all="ignore"):
            return taken.read(path, reading)
    except InputError as error:
        if str(path) in str(error):
            raise
        raise InputError(f"{path}: {error}") from error


def _only_one(path: Path) -> Format:
    found = recognise(path, FORMATS.values())
    # HaMeR's and WiLoR's files are alike, and one reader reads both.
    if len({format.read for format in found}) == 1:
        return found[0]
    if not found:
        known = "\n".join(f"  {name}: {format.what}" for name, format in FORMATS.items())
        raise InputError(f"{path}: no known format; name one of these with --from:\n{known}")
    names = " and ".join(format.name for format in found)
    raise InputError(f"{path}: both {names} fit; say which with --from")


def _rather(path: Path, source: str) -> str:
    """What a file looks like that could not be read as it was said to be."""
    try:
        found = recognise(path, FORMATS.values())
    except InputError:
        return ""
    if not found or any(format.read is FORMATS[source].read for format in found):
        return ""
    names = " or ".join(f"--from {format.name}" for format in found)
    return f". It looks like {found[0].what}: try {names}"


__all__ = [
    "AUTO",
    "FORMATS",
    "Conventions",
    "Conversion",
    "Evidence",
    "Format",
    "InterHandFrames",
    "InterHandSelection",
    "Reading",
    "SelfCheck",
    "check_conversion",
    "read_foreign",
    "read_input",
    "read_interhand",
    "read_interhand_frames",
    "read_interhand_truth",
    "recognise",
]
