"""What an adapter yields and a fit consumes: two predicted hands for each of N frames.

The fields are those of the canonical file, and this module alone knows their shapes. Arrays are
kept as they were given, NaN included, because a frame that is not refined is handed back as it
came; `fitting.prepare` makes the finite copies that a solver needs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Final, no_type_check

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, Shaped

from fitting.errors import InputError
from mano_jax.cameras import DISTORTION_LENGTHS

_SHAPES: Final[dict[str, tuple[str, ...]]] = {
    "hand_valid": ("N 2",),
    "global_orient": ("N 2 3",),
    "hand_pose": ("N 2 15 3",),
    "betas": ("N 2 S",),
    "relative_transl": ("N 3",),
    "relative_transl_confidence": ("N 3",),
    "weak_camera": ("N 3",),
    "root_transl": ("N 3",),
    "K": ("N C 3 3",),
    "distortion": ("N C k",),
    "T_camera_world": ("N C 4 4",),
    "keypoints_2d": ("N 2 21 3", "N C 2 21 3", "N 2 21 2", "N C 2 21 2"),
    "joints_3d": ("N 2 21 4", "N 2 21 3"),
    "vertices": ("N 2 V 3",),
    "frame_id": ("N",),
    "sequence_id": ("N",),
    "timestamp": ("N",),
}
"""Shapes that each field may have; the first is the canonical one. A letter stands for a length
that is the same wherever it appears."""

_PARAMETERS: Final = ("global_orient", "hand_pose", "betas")

_REMEDIES: Final = {
    "hand_valid": "give one (right, left) pair of booleans a frame",
    "global_orient": "give axis-angle vectors of both hands; an absent hand holds zeros",
    "hand_pose": "give fifteen axis-angle vectors a hand, mean pose included: PCA coefficients "
    "and rotation matrices have to be converted",
    "K": "give one 3x3 matrix a frame and view: a single view is K[:, None]",
    "distortion": "give OpenCV's coefficients for each frame and view",
    "T_camera_world": "give one 4x4 matrix a frame and view",
    "keypoints_2d": "give (x, y, confidence) of both hands; an absent hand has confidence 0",
    "joints_3d": "give (x, y, z, confidence) of both hands; an absent hand has confidence 0",
}


# The annotations say what the fields are once `__post_init__` has coerced and checked them; what a
# caller gives may be a list or float64, and a wrong shape deserves our own words.
@no_type_check
@dataclass(frozen=True)
class TwoHandPredictions:
    """Predictions and targets of N frames, as NumPy arrays. The hand axis is [right, left].

    Metres, radians, OpenCV's camera axes, `mano21` joint order. Every field but `hand_valid` may
    be None. An absent hand's rows are never read.

    Raises:
        InputError: a field has the wrong shape or type, or contradicts another one.
    """

    hand_valid: Bool[np.ndarray, "N 2"]
    """Which hands each frame has."""
    global_orient: Float32[np.ndarray, "N 2 3"] | None = None
    """Wrist rotation, axis-angle. Given with `hand_pose` and `betas`, or not at all."""
    hand_pose: Float32[np.ndarray, "N 2 15 3"] | None = None
    """Finger joint rotations, axis-angle, mean pose included."""
    betas: Float32[np.ndarray, "N 2 S"] | None = None
    """Shape coefficients."""
    relative_transl: Float32[np.ndarray, "N 3"] | None = None
    """Left wrist minus right wrist."""
    relative_transl_confidence: Float32[np.ndarray, "N 3"] | None = None
    """How far each coordinate of it is to be believed, None for 1; 0 is unknown, as the depth
    between two hands that were found in crops of their own."""
    weak_camera: Float32[np.ndarray, "N 3"] | None = None
    """s, t_x, t_y of u = s (X + t), X relative to the anchor wrist, u in [-1, 1] of the crop."""
    root_transl: Float32[np.ndarray, "N 3"] | None = None
    """Anchor wrist in the first camera's frame."""
    K: Float32[np.ndarray, "N C 3 3"] | None = None
    """Intrinsics of every view, pixels."""
    distortion: Float32[np.ndarray, "N C k"] | None = None
    """OpenCV's distortion coefficients of every view."""
    T_camera_world: Float32[np.ndarray, "N C 4 4"] | None = None
    """From world to each view's camera; None is one camera at the origin."""
    keypoints_2d: Float32[np.ndarray, "N *views 2 21 _"] | None = None
    """x, y and perhaps confidence; crop coordinates with `weak_camera`, pixels with `K`."""
    joints_3d: Float32[np.ndarray, "N 2 21 _"] | None = None
    """x, y, z and perhaps confidence; both hands in one frame of any origin."""
    vertices: Float32[np.ndarray, "N 2 V 3"] | None = None
    """Mesh targets; both hands in one frame of any origin."""
    frame_id: Shaped[np.ndarray, "N"] | None = None
    """Names of the frames, strings."""
    sequence_id: Int64[np.ndarray, "N"] | None = None
    """Which sequence each frame belongs to."""
    timestamp: Float64[np.ndarray, "N"] | None = None
    """Seconds."""

    def __post_init__(self) -> None:
        """Coerce the types, then check every shape and what the fields say of each other."""
        for name in FIELD_NAMES:
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _coerce(name, value))
        arrays = self.arrays()
        _check_shapes(arrays)
        _check_parameters(arrays)
        _check_confidence(arrays)
        _check_cameras(arrays)

    @property
    def num_frames(self) -> int:
        """N."""
        return len(self.hand_valid)

    @property
    def num_views(self) -> int:
        """C: the number of perspective views, or 1."""
        return 1 if self.K is None else self.K.shape[1]

    @property
    def has_parameters(self) -> bool:
        """Whether there is a prediction to start from."""
        return self.global_orient is not None

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """`global_orient`, `hand_pose` and `betas` by name; empty without a prediction."""
        return {name: array for name, array in self.arrays().items() if name in _PARAMETERS}

    @property
    def frame_names(self) -> Shaped[np.ndarray, "N"]:
        """`frame_id`, or the frames' numbers as strings."""
        if self.frame_id is not None:
            return self.frame_id
        return np.arange(self.num_frames).astype(str)

    def arrays(self) -> dict[str, np.ndarray]:
        """The fields that are there, by their canonical names."""
        values = ((name, getattr(self, name)) for name in FIELD_NAMES)
        return {name: value for name, value in values if value is not None}

    def relative_transl_known(self) -> Bool[np.ndarray, "N 3"]:
        """Which coordinates of `relative_transl` the file claims to know."""
        if self.relative_transl is None:
            return np.zeros((self.num_frames, 3), bool)
        if self.relative_transl_confidence is None:
            return np.ones((self.num_frames, 3), bool)
        return self.relative_transl_confidence > 0

    def keypoints_by_view(self) -> Float32[np.ndarray, "N C 2 21 3"] | None:
        """`keypoints_2d` with its view axis and a confidence, 1 where the file gives none."""
        if self.keypoints_2d is None:
            return None
        keypoints = _with_confidence(self.keypoints_2d, coordinates=2)
        return keypoints if keypoints.ndim == 5 else keypoints[:, None]

    def joints_with_confidence(self) -> Float32[np.ndarray, "N 2 21 4"] | None:
        """`joints_3d` with a confidence, 1 where the file gives none."""
        return None if self.joints_3d is None else _with_confidence(self.joints_3d, coordinates=3)

    def frames(self, selection: slice | Sequence[int] | np.ndarray) -> "TwoHandPredictions":
        """Some of the frames: a slice, a list of indices or a boolean mask."""
        chosen = selection if isinstance(selection, slice) else np.asarray(selection)
        if isinstance(chosen, np.ndarray) and chosen.dtype != bool:
            chosen = chosen.astype(np.int64)
        return replace(self, **{name: value[chosen] for name, value in self.arrays().items()})

    @classmethod
    def concatenate(cls, parts: Sequence["TwoHandPredictions"]) -> "TwoHandPredictions":
        """Join frames end to end.

        Raises:
            InputError: nothing to join, or one part has a field that another lacks.
        """
        if not parts:
            raise InputError("expected at least one set of predictions to concatenate, found none")
        names = set(parts[0].arrays())
        for number, part in enumerate(parts):
            if differing := sorted(names ^ set(part.arrays())):
                raise InputError(
                    f"cannot concatenate: only one of parts 0 and {number} has "
                    f"{', '.join(differing)}; give every part the same fields"
                )
        alike = [part._in_full() for part in parts] if len(parts) > 1 else parts
        return cls(**{n: np.concatenate([getattr(p, n) for p in alike]) for n in names})

    def _in_full(self) -> "TwoHandPredictions":
        """The same with view axis and confidences written out, so that parts match."""
        return replace(
            self, keypoints_2d=self.keypoints_by_view(), joints_3d=self.joints_with_confidence()
        )


FIELD_NAMES: Final = tuple(field.name for field in fields(TwoHandPredictions))
"""The names of the canonical file that describe its input."""


def _coerce(name: str, value: object) -> np.ndarray:
    """The value as an array of the field's type."""
    array = np.asarray(value)
    if name == "frame_id":
        if array.dtype.kind == "S":
            array = np.char.decode(array, "utf-8")
        if array.dtype.kind not in "UTiu":
            raise InputError(f"frame_id: expected strings, found {array.dtype}; write them as text")
        return array.astype(str)
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name}: expected numbers, found {array.dtype}")
    if name == "hand_valid":
        if array.dtype.kind != "b" and not np.isin(array, (0, 1)).all():
            raise InputError("hand_valid: expected booleans (or 0 and 1), found other numbers")
        return array.astype(bool)
    if name == "sequence_id":
        if array.dtype.kind not in "iu":
            raise InputError(f"sequence_id: expected integers, found {array.dtype}")
        return array.astype(np.int64)
    # A float64 beyond float32's range becomes infinite; the frame's check reports that.
    with np.errstate(over="ignore"):
        return array.astype(np.float64 if name == "timestamp" else np.float32)


def _check_shapes(arrays: Mapping[str, np.ndarray]) -> None:
    lengths: dict[str, tuple[int, str]] = {}
    for name, array in arrays.items():
        choices = [text.split() for text in _SHAPES[name]]
        found = [symbols for symbols in choices if _agrees(symbols, array.shape)]
        if not found:
            expected = " or ".join(f"({', '.join(symbols)})" for symbols in choices)
            remedy = _REMEDIES.get(name)
            raise InputError(
                f"{name}: expected shape {expected}, found {array.shape}"
                + (f"; {remedy}" if remedy else "")
            )
        for symbol, length in zip(found[0], array.shape, strict=True):
            if symbol.isdigit():
                continue
            known, where = lengths.setdefault(symbol, (length, name))
            if known != length:
                meaning = {"N": "frames", "C": "views"}.get(symbol, "entries")
                raise InputError(
                    f"{name}: expected {known} {meaning} as in {where}, found {length}; "
                    "every array must describe the same ones"
                )


def _agrees(symbols: Sequence[str], shape: tuple[int, ...]) -> bool:
    return len(symbols) == len(shape) and all(
        not symbol.isdigit() or int(symbol) == length
        for symbol, length in zip(symbols, shape, strict=True)
    )


def _check_parameters(arrays: Mapping[str, np.ndarray]) -> None:
    missing = [name for name in _PARAMETERS if name not in arrays]
    if missing and len(missing) < len(_PARAMETERS):
        given = [name for name in _PARAMETERS if name in arrays]
        raise InputError(
            f"found {' and '.join(given)} without {' and '.join(missing)}: give all three, or "
            "none to start from joints_3d"
        )


def _check_confidence(arrays: Mapping[str, np.ndarray]) -> None:
    confidence = arrays.get("relative_transl_confidence")
    if confidence is None:
        return
    if "relative_transl" not in arrays:
        raise InputError(
            "found relative_transl_confidence without relative_transl, which it is the confidence "
            "of: add that, or remove this"
        )
    if not np.all(np.isfinite(confidence) & (confidence >= 0)):
        raise InputError("relative_transl_confidence: expected finite numbers of at least 0")


def _check_cameras(arrays: Mapping[str, np.ndarray]) -> None:
    if "weak_camera" in arrays and "K" in arrays:
        raise InputError(
            "found both weak_camera and K: keypoints_2d are either normalised crop coordinates "
            "(keep weak_camera) or pixels (keep K)"
        )
    for name in ("distortion", "T_camera_world"):
        if name in arrays and "K" not in arrays:
            raise InputError(f"found {name} without K: add K (N, C, 3, 3), or remove {name}")
    if "distortion" in arrays and arrays["distortion"].shape[-1] not in DISTORTION_LENGTHS:
        raise InputError(
            f"distortion: expected {DISTORTION_LENGTHS} coefficients as OpenCV orders them, "
            f"found {arrays['distortion'].shape[-1]}"
        )
    views = arrays["K"].shape[1] if "K" in arrays else 1
    if views == 0:
        raise InputError("K: expected at least one view, found none")
    if views > 1 and "T_camera_world" not in arrays:
        raise InputError(f"found {views} views in K without T_camera_world, which relates them")
    if "keypoints_2d" in arrays:
        keypoints = arrays["keypoints_2d"]
        found = keypoints.shape[1] if keypoints.ndim == 5 else 1
        if found != views:
            raise InputError(
                f"keypoints_2d: found {found} views, but {views} "
                + ("in K" if "K" in arrays else "without K; several views need K")
            )


def _with_confidence(points: np.ndarray, *, coordinates: int) -> np.ndarray:
    if points.shape[-1] == coordinates + 1:
        return points
    return np.concatenate([points, np.ones_like(points[..., :1])], axis=-1)
