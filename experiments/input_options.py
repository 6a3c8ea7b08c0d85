"""What a command is told about its input: which program wrote it, and what the file leaves out.

Nothing heavy is imported here: the command's help reads this.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

# fmt: off
Source = Literal[
    "auto", "canonical",
    "ihmr", "interwild", "hamer", "wilor", "wilor_mini",
    "acr", "dir", "frankmocap", "s2hand", "vitra",
    "interhand", "freihand", "ho3d", "dexycb", "hot3d",
    "internet", "openpose", "mediapipe", "aria", "leap", "table", "intaghand", "im2hands",
]
"""Formats that `--from` names: those of `fitting.adapters.FORMATS`, and recognising them."""
# fmt: on


@dataclass(frozen=True)
class InputOptions:
    """How the input is to be read."""

    source: Annotated[Source, arg(name="from")] = "auto"
    """Format of the input; auto recognises it."""
    strict: bool = False
    """A conversion that the source's own points do not bear out is an error."""
    image_size: tuple[int, int] | None = None
    """Width and height in pixels, for formats that leave them out (ihmr, openpose, ...)."""
    focal: float | None = None
    """The camera's focal length in pixels, instead of the one that a regressor made up."""
    annotations: Path | None = None
    """ihmr: the annotation file, which says whose hands are to be seen."""


RECOGNISED = InputOptions()
"""Whatever it turns out to be."""

CANONICAL = InputOptions("canonical")
"""Our own file, which needs no more words."""
