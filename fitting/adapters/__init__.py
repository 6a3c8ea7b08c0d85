"""Foreign formats, one a module. Each begins with that format's conventions.

An adapter reads a path and yields `TwoHandPredictions` in canonical conventions: metres, OpenCV's
camera axes, absolute axis-angle, `mano21` joints, a native left hand.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from fitting.adapters.aria import read_aria
from fitting.adapters.interhand import (
    InterHandFrames,
    InterHandSelection,
    read_interhand,
    read_interhand_frames,
    read_interhand_truth,
)
from fitting.adapters.leap import read_leap
from fitting.adapters.table import read_table
from fitting.adapters.vitra import read_vitra
from fitting.canonical import read_predictions
from fitting.errors import InputError
from fitting.predictions import TwoHandPredictions

ADAPTERS: Final[dict[str, Callable[[Path], TwoHandPredictions]]] = {
    "canonical": read_predictions,
    "aria": read_aria,
    "interhand": read_interhand,
    "leap": read_leap,
    "table": read_table,
    "vitra": read_vitra,
}
"""Reader of each format that `--from` names."""


def read_input(path: Path | str, *, source: str = "canonical") -> TwoHandPredictions:
    """Read a file of any known format.

    Args:
        path: a file, or a folder where the format is one.
        source: a name of `ADAPTERS`.

    Raises:
        InputError: an unknown format (the message lists the known ones), or a bad file.
    """
    if source not in ADAPTERS:
        raise InputError(f"unknown format {source!r}; known: {', '.join(ADAPTERS)}")
    return ADAPTERS[source](Path(path))


__all__ = [
    "ADAPTERS",
    "InterHandFrames",
    "InterHandSelection",
    "read_aria",
    "read_input",
    "read_interhand",
    "read_interhand_frames",
    "read_interhand_truth",
    "read_leap",
    "read_table",
    "read_vitra",
]
