"""Errors against ground truth, and penetration: one number a frame, in millimetres.

Definitions follow Rong et al., "Monocular 3D reconstruction of interacting hands via collision-
aware factorized refinements" (IHMR), 3DV 2021, and its released evaluator. Truth comes from data,
never from a fit. Depths come from the exact collision engine; the paper's own come from a 32^3
grid, so its figures are not directly comparable.

Arrays may be NumPy's or JAX's; the hand axis is [right, left]. A frame that has nothing to
measure is NaN: use `numpy.nanmean` over frames.
"""

import numpy as np
from jaxtyping import Bool, Float, Shaped
from numpy.typing import ArrayLike

_MM = 1000.0

PerFrame = Float[np.ndarray, "N"]


def mpjpe(
    predicted: Shaped[ArrayLike, "N 2 J 3"],
    truth: Shaped[ArrayLike, "N 2 J 3"],
    hand_valid: Bool[ArrayLike, "N 2"],
    joint_valid: Bool[ArrayLike, "N 2 J"] | None = None,
) -> PerFrame:
    """Mean per-joint position error, mm: each hand moved so that its wrist matches.

    The mean runs over the joints of the frame's valid hands, the wrist's zero included, as in
    IHMR's evaluator.

    Args:
        predicted: joints, metres; the wrist comes first.
        truth: true joints, metres.
        hand_valid: which hands the frame has.
        joint_valid: which true joints exist; a hand without its wrist cannot be aligned and
            does not count. None means all.
    """
    difference = _array(predicted) - _array(truth)
    error = np.linalg.norm(difference - difference[:, :, :1], axis=-1)
    return _MM * _masked_mean(error, _countable(error.shape, hand_valid, joint_valid))


def mpvpe(
    predicted: Shaped[ArrayLike, "N 2 V 3"],
    truth: Shaped[ArrayLike, "N 2 V 3"],
    predicted_wrists: Shaped[ArrayLike, "N 2 3"],
    true_wrists: Shaped[ArrayLike, "N 2 3"],
    hand_valid: Bool[ArrayLike, "N 2"],
) -> PerFrame:
    """Mean per-vertex position error, mm: each hand moved so that its wrist joint matches.

    The mean runs over the vertices of the frame's valid hands (IHMR's evaluator).

    Args:
        predicted: vertices, metres.
        truth: true vertices, metres.
        predicted_wrists: the wrist joints that belong to `predicted`.
        true_wrists: those that belong to `truth`.
        hand_valid: which hands the frame has.
    """
    shift = _array(predicted_wrists) - _array(true_wrists)
    error = np.linalg.norm(_array(predicted) - _array(truth) - shift[:, :, None], axis=-1)
    return _MM * _masked_mean(error, _countable(error.shape, hand_valid, None))


def i_mpjpe(
    predicted: Shaped[ArrayLike, "N 2 J 3"],
    truth: Shaped[ArrayLike, "N 2 J 3"],
    hand_valid: Bool[ArrayLike, "N 2"],
    joint_valid: Bool[ArrayLike, "N 2 J"] | None = None,
) -> PerFrame:
    """Interacting-hands MPJPE, mm: both hands moved together so that the right wrists match.

    It sees what `mpjpe` hides: where the hands are relative to each other. The paper aligns by
    the right wrist, as here; its released evaluator instead matches the mean and the standard
    deviation along each axis. NaN without both hands.

    Args:
        predicted: joints of both hands in one frame, metres; the wrist comes first.
        truth: true joints of both hands in one frame, metres.
        hand_valid: which hands the frame has.
        joint_valid: which true joints exist; NaN without the right wrist. None means all.
    """
    difference = _array(predicted) - _array(truth)
    error = np.linalg.norm(difference - difference[:, :1, :1], axis=-1)
    measurable, countable = _both(hand_valid), np.ones(error.shape, bool)
    if joint_valid is not None:
        countable = np.asarray(joint_valid, bool)
        measurable = measurable & countable[:, 0, 0]
    return _MM * np.where(measurable, _masked_mean(error, countable), np.nan)


def ave_p(depths: Shaped[ArrayLike, "N 2 V"], hand_valid: Bool[ArrayLike, "N 2"]) -> PerFrame:
    """Average penetration AVE-P, mm: mean depth of both hands' vertices, those outside as zeros.

    IHMR's definition over MANO's 1556 vertices. NaN without both hands.

    Args:
        depths: depth of each vertex in the other hand, metres, 0 outside.
        hand_valid: which hands the frame has.
    """
    return _MM * np.where(_both(hand_valid), _array(depths).mean(axis=(1, 2)), np.nan)


def max_p(depths: Shaped[ArrayLike, "N 2 V"], hand_valid: Bool[ArrayLike, "N 2"]) -> PerFrame:
    """Maximal penetration MAX-P, mm: depth of the frame's deepest vertex (IHMR).

    NaN without both hands; a data set's figure is the mean over its frames.

    Args:
        depths: depth of each vertex in the other hand, metres, 0 outside.
        hand_valid: which hands the frame has.
    """
    return _MM * np.where(_both(hand_valid), _array(depths).max(axis=(1, 2)), np.nan)


def _array(values: ArrayLike) -> np.ndarray:
    return np.asarray(values, dtype=np.float64)


def _both(hand_valid: ArrayLike) -> np.ndarray:
    return np.all(np.asarray(hand_valid, bool), axis=1)


def _countable(shape, hand_valid: ArrayLike, joint_valid: ArrayLike | None) -> np.ndarray:
    """Which points count: those of valid hands that exist and whose hand has its wrist."""
    hand = np.asarray(hand_valid, bool)[:, :, None]
    if joint_valid is None:
        return np.broadcast_to(hand, shape)
    point = np.asarray(joint_valid, bool)
    return hand & point & point[:, :, :1]


def _masked_mean(values: np.ndarray, mask: np.ndarray) -> PerFrame:
    """Mean over the last two axes of what the mask keeps; NaN where it keeps nothing."""
    count = mask.sum(axis=(1, 2))
    # An absent hand's values may be NaN: they are replaced, not multiplied by zero.
    total = np.where(mask, values, 0.0).sum(axis=(1, 2))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
