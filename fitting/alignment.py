"""Ways to lay a prediction over the truth before measuring it, each as it was published.

Papers that report the same metric differ in nothing as much as in this. All work on float64 NumPy
arrays whose last two axes are points and coordinates; leading axes are a batch.
"""

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

FEWEST_POINTS = 3
"""A similarity transform is not determined by fewer points."""

FLAT = 1e-6
"""Points that spread less along an axis, as a share of their size or place, lie in a plane."""


def at_root(
    points: Float[np.ndarray, "*batch P 3"], roots: Float[np.ndarray, "*batch 3"]
) -> Float[np.ndarray, "*batch P 3"]:
    """Points relative to a root, metres."""
    return points - roots[..., None, :]


def procrustes(
    predicted: Float[np.ndarray, "*batch P 3"],
    truth: Float[np.ndarray, "*batch P 3"],
    valid: Bool[ArrayLike, "*batch P"] | None = None,
    *,
    scale: bool = True,
) -> Float[np.ndarray, "*batch P 3"]:
    """Predicted points after the rotation, translation and scale that bring them closest to truth.

    The least-squares similarity transform without reflection (Umeyama, "Least-squares estimation
    of transformation parameters between two point patterns", PAMI 1991), as in the evaluations of
    HMR, FreiHAND and HaMeR. It is found from the valid points and applied to all.

    Args:
        predicted: points to be moved.
        truth: where they belong.
        valid: which points count; None means all. What others hold is not read.
        scale: fit a scale too; without it the transform is rigid.

    Returns:
        The moved points; NaN where fewer than `FEWEST_POINTS` are valid or those are not finite.
    """
    keep = np.ones(predicted.shape[:-1], bool) if valid is None else np.asarray(valid, bool)
    source, source_mean = _centred(predicted, keep)
    target, target_mean = _centred(truth, keep)
    finite = np.isfinite(source).all((-2, -1)) & np.isfinite(target).all((-2, -1))
    sound = finite & (keep.sum(-1) >= FEWEST_POINTS)
    source = np.where(sound[..., None, None], source, 0.0)
    target = np.where(sound[..., None, None], target, 0.0)

    U, singular, Vt = np.linalg.svd(np.swapaxes(target, -1, -2) @ source)
    # The closest orthogonal matrix may be a reflection: the weakest axis is turned round then.
    sign = np.where(np.linalg.det(U @ Vt) < 0, -1.0, 1.0)
    signs = np.stack([np.ones_like(sign), np.ones_like(sign), sign], axis=-1)
    R = (U * signs[..., None, :]) @ Vt
    factor = np.ones(sign.shape)
    if scale:
        spread = np.sum(source**2, axis=(-2, -1))
        factor = np.sum(singular * signs, axis=-1) / np.where(spread > 0, spread, 1.0)
    moved = (predicted - source_mean) @ np.swapaxes(R, -1, -2) * factor[..., None, None]
    return np.where(sound[..., None, None], moved + target_mean, np.nan)


def matched_spread(
    predicted: Float[np.ndarray, "*batch P 3"],
    truth: Float[np.ndarray, "*batch P 3"],
    valid: Bool[ArrayLike, "*batch P"] | None = None,
) -> Float[np.ndarray, "*batch P 3"]:
    """Predicted points moved and stretched along each axis to the truth's mean and deviation.

    The alignment of IHMR's released evaluator (`calc_transform_no_rot`): no rotation, but three
    scales of their own, so it forgives a hand that is flat along the line of sight. One in a plane
    (`FLAT`) stays in it.

    Args:
        predicted: points to be moved.
        truth: where they belong.
        valid: which points count; None means all. What others hold is not read.
    """
    keep = np.ones(predicted.shape[:-1], bool) if valid is None else np.asarray(valid, bool)
    source, source_mean = _centred(predicted, keep)
    target, target_mean = _centred(truth, keep)
    spread, wanted = _deviation(source, keep), _deviation(target, keep)
    # Points in one plane have only rounding to divide by; there is nothing to stretch either.
    size = np.maximum(spread.max(-1, keepdims=True), np.abs(source_mean))
    thick = spread > FLAT * size
    stretch = np.where(thick, wanted / np.where(thick, spread, 1.0), 1.0)
    return (predicted - source_mean) * stretch + target_mean


def bone_scale(
    predicted: Float[np.ndarray, "*batch J 3"],
    truth: Float[np.ndarray, "*batch J 3"],
    bone: tuple[int, int],
) -> Float[np.ndarray, "*batch"]:
    """True length of a bone over its predicted length: the scale of IntagHand and DIR.

    Args:
        predicted: joints.
        truth: true joints.
        bone: the two joints; IntagHand and DIR take the wrist and the middle finger's base.
    """
    a, b = bone
    found = np.linalg.norm(predicted[..., b, :] - predicted[..., a, :], axis=-1)
    wanted = np.linalg.norm(truth[..., b, :] - truth[..., a, :], axis=-1)
    return np.where(found > 0, wanted / np.where(found > 0, found, 1.0), np.nan)


def _centred(points: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The kept points about their mean, zero elsewhere, and that mean (kept axes)."""
    kept = np.where(keep[..., None], points, 0.0)
    count = np.maximum(keep.sum(-1), 1)[..., None, None]
    mean = kept.sum(-2, keepdims=True) / count
    return np.where(keep[..., None], points - mean, 0.0), mean


def _deviation(centred: np.ndarray, keep: np.ndarray) -> np.ndarray:
    count = np.maximum(keep.sum(-1), 1)[..., None, None]
    return np.sqrt(np.sum(centred**2, axis=-2, keepdims=True) / count)
