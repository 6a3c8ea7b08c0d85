"""What an adapter declares of its format, what it is given, and what it gives back."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import numpy as np
from jaxtyping import Float

from fitting.predictions import TwoHandPredictions
from mano_jax.model import Hands

TREE_SUFFIXES: Final = (".pkl", ".pickle", ".p", ".pt", ".pth", ".ckpt", ".npy", ".npz", ".json")
"""Files that hold one tree of dictionaries, lists and arrays (`fitting.adapters.containers`)."""


@dataclass(frozen=True)
class Conventions:
    """What a format's numbers mean.

    `fitting.adapters.poses` and `found_hands` convert by the rotations, the mean, the left hand,
    the left shape space and `two_hands`; the rest says what the adapter itself does with points and
    cameras. `docs/conventions.md` has the canonical ones.
    """

    rotations: Literal["axis-angle", "matrices", "6d and PCA", "axis-angle and PCA", "none"]
    """Form of the pose; with PCA it is the finger pose that has coefficients."""
    mean: Literal["included", "excluded", "none"]
    """Whether the finger pose is absolute, or has the model's mean pose still to be added."""
    left: Literal["native", "mirrored", "none"]
    """A left hand's own parameters, or those of the mirrored right hand."""
    left_shapedirs: Literal["mirrored", "raw", "negated", "none"] = "mirrored"
    """The left shape space that the betas belong to: the right one mirrored, the official file's
    own (x not mirrored), or the right one with every sign changed."""
    origin: Literal["MANO", "wrist", "index1", "middle1", "camera", "none"] = "MANO"
    """What the hand's points and its camera are relative to."""
    camera: Literal["u = s(X + t)", "u = sX + t", "crop", "perspective", "world", "none"] = "none"
    """The camera family; `crop` is HaMeR's perspective camera of each hand's own crop."""
    axes: Literal["OpenCV", "OpenGL", "world", "device"] = "OpenCV"
    """The camera's axes: x right, y down, z forward, or y up and z back."""
    unit: Literal["m", "mm", "px"] = "m"
    """Of points."""
    joint_order: str = "openpose21"
    """A name of `mano_jax.joint_orders.JOINT_ORDERS`."""
    fingertips: str = "smplx"
    """A name of `mano_jax.joint_orders.FINGERTIP_VERTICES`."""
    two_hands: Literal["together", "apart", "one"] = "together"
    """Apart: each hand was found in a crop of its own, so the depth between them is unknown."""


@dataclass(frozen=True)
class Reading:
    """What an adapter may need to know besides the file."""

    hands: Hands
    """The hand model that the parameters are for."""
    image_size: tuple[int, int] | None = None
    """Width and height in pixels, for formats that leave them out."""
    focal: float | None = None
    """True focal length in pixels, instead of the one the source made up."""
    annotations: Path | None = None
    """IHMR's annotation file, which says whose hands are to be seen."""


@dataclass(frozen=True)
class Evidence:
    """What the source itself says of its hands, to hold the conversion against.

    Points of N frames in `mano21` order, NaN where the source has none; never targets of a fit.
    """

    joints: Float[np.ndarray, "N 2 21 3"] | None = None
    """Metres, camera axes, each hand about any origin."""
    own_joints: tuple[bool, bool] = (True, True)
    """Whether the right and the left hands' joints are those of the parameters; not if they were
    regressed from the surface, or if the shape could not be converted exactly."""
    pixels: Float[np.ndarray, "N 2 21 2"] | None = None
    """Image coordinates in the canonical camera's unit."""
    vertices: Float[np.ndarray, "N 2 V 3"] | None = None
    """Metres, camera axes, each hand about any origin."""


@dataclass(frozen=True)
class Conversion:
    """A foreign file in canonical conventions."""

    predictions: TwoHandPredictions
    """The frames."""
    notes: tuple[str, ...] = ()
    """What a user should know: what could not be joined, what was left out, what was assumed."""
    evidence: Evidence = field(default_factory=Evidence)
    """What the self-check compares with."""


@dataclass(frozen=True)
class Format:
    """A foreign format: how it is recognised, what its numbers mean, and who reads it."""

    name: str
    """As `--from` takes it."""
    what: str
    """One line for lists and messages."""
    read: Callable[[Path, Reading], Conversion]
    """The reader."""
    suffixes: tuple[str, ...] = TREE_SUFFIXES
    """Endings of its files."""
    keys: tuple[frozenset[str], ...] = ()
    """Sets of keys, any of which tells a file of this format; all keys of a set occur in it."""
    options: tuple[str, ...] = ()
    """Fields of `Reading` that it makes use of, besides the hand model."""
    names: tuple[str, ...] = ()
    """Patterns of file names that only this format has."""
    conventions: Conventions | None = None
    """What its numbers mean; None where the file says so itself."""
