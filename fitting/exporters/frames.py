"""What exporters write: the hands of a file that can be written, finite and in their places.

    TwoHandPredictions --ready_to_export()--> ExportFrames --posed()--> meshes, a chunk at a time

Hands are where the file puts them: `root_transl` (the anchor wrist in the camera's frame) plus, for
the other hand, `relative_transl`. Where there is no `root_transl` the anchor wrist is the origin.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy.spatial.transform import Rotation

from fitting.batches import batches
from fitting.errors import InputError
from fitting.parameters import rest_wrists, wrists
from fitting.predictions import TwoHandPredictions
from fitting.relative_translation import known_relative_transl
from mano_jax.model import AnyArray, Hands, PosedHands, pose_hands

TO_OPENGL: Final = np.array([1.0, -1.0, -1.0])
"""From OpenCV's axes (y down, z forward) to those of OpenGL and glTF (y up, z backward): a factor
of points, and half a turn about x."""

_TURN_TO_OPENGL: Final = Rotation.from_rotvec([np.pi, 0.0, 0.0])


class PosedChunk(NamedTuple):
    """Some frames' hands, metres; an absent hand's rows mean nothing."""

    rows: slice
    vertices: Float[np.ndarray, "n 2 V 3"]
    joints: Float[np.ndarray, "n 2 21 3"]
    """`mano21` order."""


@dataclass(frozen=True)
class ExportFrames:
    """N frames, float64, zero where a hand is not written. Metres, radians, OpenCV's axes."""

    source: TwoHandPredictions
    """The file as it came."""
    hands: Hands
    """The hand model."""
    valid: Bool[np.ndarray, "N 2"]
    """Hands that are written: there, finite, in a known place and not of a skipped frame."""
    global_orient: Float[np.ndarray, "N 2 3"]
    """Wrist rotation, axis-angle."""
    hand_pose: Float[np.ndarray, "N 2 15 3"]
    """Finger joint rotations, axis-angle, mean pose included."""
    betas: Float[np.ndarray, "N 2 S"]
    """Shape coefficients."""
    wrists: Float[np.ndarray, "N 2 3"]
    """Where the wrists are."""

    @property
    def num_frames(self) -> int:
        """N."""
        return len(self.valid)

    @property
    def names(self) -> Shaped[np.ndarray, "N"]:
        """The frames' names."""
        return self.source.frame_names

    @property
    def rest_wrists(self) -> Float[np.ndarray, "N 2 3"]:
        """J0(betas), MANO's frame."""
        return rest_wrists(self.hands, self.betas)

    @property
    def transl(self) -> Float[np.ndarray, "N 2 3"]:
        """MANO's translation: wrist - J0(betas); zero where no hand is written."""
        return np.where(self.valid[..., None], self.wrists - self.rest_wrists, 0.0)

    @property
    def rotation_opengl(self) -> Rotation:
        """The wrists' rotations (N * 2) in OpenGL's axes."""
        return _TURN_TO_OPENGL * Rotation.from_rotvec(self.global_orient.reshape(-1, 3))

    def posed(self, *, about_wrist: bool = False, chunk: int = 64) -> Iterator[PosedChunk]:
        """Meshes and joints, a chunk of frames at a time.

        Args:
            about_wrist: neither turn the wrists nor move them from the origin.
            chunk: how many frames.
        """
        orient = np.zeros_like(self.global_orient) if about_wrist else self.global_orient
        parameters = (orient, self.hand_pose, self.betas)
        first = 0
        for count, part in batches(parameters, min(chunk, self.num_frames)):
            found = _pose(self.hands, *(array.astype(np.float32) for array in part))
            joints = np.asarray(found.joints, np.float64)[:count]
            vertices = np.asarray(found.vertices, np.float64)[:count]
            rows = slice(first, first + count)
            # Moved here: far from the origin float32 would cost micrometres.
            move = -joints[:, :, :1] + (0.0 if about_wrist else self.wrists[rows][:, :, None])
            yield PosedChunk(rows, vertices + move, joints + move)
            first += count


def ready_to_export(
    predictions: TwoHandPredictions,
    hands: Hands,
    *,
    skipped: Bool[np.ndarray, "N"] | None = None,
) -> tuple[ExportFrames, list[str]]:
    """The hands that can be written, and sentences about those that cannot.

    Args:
        predictions: predictions or a result. Without parameters no hand is written.
        hands: the hand model.
        skipped: frames that a fit could not use; None for none.

    Raises:
        InputError: betas that are not the hand model's.
    """
    notes: list[str] = []
    count = predictions.num_frames
    valid = predictions.hand_valid.copy()
    if skipped is not None and skipped.any():
        notes.append(
            f"{_some(predictions, skipped)} skipped by the fit: written without hands, or left out"
        )
        valid &= ~skipped[:, None]

    given = predictions.parameters
    if not given:
        valid[:] = False
        shapes = {"global_orient": (3,), "hand_pose": (15, 3), "betas": (hands.num_betas,)}
        given = {name: np.zeros((count, 2, *shape)) for name, shape in shapes.items()}
    if given["betas"].shape[-1] != hands.num_betas:
        raise InputError(
            f"betas: expected {hands.num_betas} coefficients as the hand model has, found "
            f"{given['betas'].shape[-1]}; pad with zeros, or drop those beyond"
        )
    finite = np.all([np.isfinite(x).reshape(count, 2, -1).all(-1) for x in given.values()], axis=0)
    if np.any(broken := np.any(valid & ~finite, axis=1)):
        notes.append(
            f"{_some(predictions, broken)} with a hand whose parameters are not finite: left out"
        )
        valid &= finite

    placed, more = _wrists(predictions, valid)
    valid &= np.all(np.isfinite(placed), axis=-1)

    def cleaned(array: np.ndarray) -> np.ndarray:
        kept = valid.reshape(*valid.shape, *[1] * (array.ndim - 2))
        return np.where(kept, array, 0.0).astype(np.float64)

    frames = ExportFrames(
        source=predictions,
        hands=hands,
        valid=valid,
        **{name: cleaned(array) for name, array in given.items()},
        wrists=cleaned(placed),
    )
    return frames, notes + more


def _wrists(
    predictions: TwoHandPredictions, valid: Bool[np.ndarray, "N 2"]
) -> tuple[Float[np.ndarray, "N 2 3"], list[str]]:
    """Where the wrists are, NaN where nobody knows, and what to say of it."""
    notes = []
    root = np.zeros((predictions.num_frames, 3))
    told = np.zeros(predictions.num_frames, bool)
    if predictions.root_transl is not None:
        told = np.asarray(np.all(np.isfinite(predictions.root_transl), axis=1))
        root = np.where(told[:, None], predictions.root_transl, 0.0).astype(np.float64)
    if np.any(untold := np.any(valid, axis=1) & ~told):
        notes.append(
            f"{_some(predictions, untold)} without root_transl: placed with the anchor wrist (the "
            "right one, or an only left one) at the origin, not where the camera sees it"
        )
    # The anchor is the right wrist even of a frame whose right hand cannot be written.
    left_anchor = ~predictions.hand_valid[:, 0]
    both = np.all(predictions.hand_valid, axis=1, keepdims=True)
    tau = np.where(both, known_relative_transl(predictions), 0.0).astype(np.float64)
    unknown = np.any(~predictions.relative_transl_known(), axis=1) & np.all(valid, axis=1)
    if predictions.relative_transl is not None and np.any(unknown):
        notes.append(
            f"{_some(predictions, unknown)} with an unknown depth between the hands: they are put "
            "at one depth"
        )
    if np.any(apart := valid[:, 1] & np.any(~np.isfinite(tau), axis=1)):
        notes.append(
            f"{_some(predictions, apart)} without relative_transl: the left hand is left out, as "
            "nothing says where it is; manofit refine finds out"
        )
    return wrists(tau, root, left_anchor), notes


def _some(predictions: TwoHandPredictions, chosen: Bool[np.ndarray, "N"]) -> str:
    """How many frames, and the first few."""
    rows = np.flatnonzero(chosen)
    names = ", ".join(predictions.frame_names[rows[:3]]) + (", ..." if len(rows) > 3 else "")
    return f"{len(rows)} frame{'' if len(rows) == 1 else 's'} ({names})"


@jax.jit
def _pose(hands: Hands, orient: AnyArray, pose: AnyArray, betas: AnyArray) -> PosedHands:
    return pose_hands(hands, global_orient=orient, hand_pose=pose, betas=betas)
