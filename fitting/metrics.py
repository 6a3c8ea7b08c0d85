"""Errors against ground truth, and penetration: one number a frame.

Truth comes from data, never from a fit. A name that papers share is not a definition that they
share: what each metric here equals, and what it does not, is in docs/metrics.md. Sources by the
names used below:

IHMR       Rong et al., "Monocular 3D reconstruction of interacting hands via collision-aware
           factorized refinements", 3DV 2021; its released evaluator in the repository IHMR.
InterWild  Moon, "Bringing inputs to shared domains for 3D interacting hands recovery in the
           wild", CVPR 2023.
DIR        Ren et al., "Decoupled iterative refinement framework for interacting hands
           reconstruction from a single RGB image", ICCV 2023; its released `apps/eval.py`.
Im2Hands   Lee et al., "Im2Hands: learning attentive implicit representation of interacting
           two-hand shapes", CVPR 2023: see `fitting.solids`.

Arrays may be NumPy's or JAX's and are measured in float64; the hand axis is [right, left], the
joint order `mano21`, the wrist first. A frame that has nothing to measure is NaN (use
`numpy.nanmean` over frames), and so is one whose prediction is not finite where the truth exists.

Arguments mean the same throughout:

predicted, truth      the result's points and the true ones, metres unless the metric says
                      otherwise; where it looks at both hands together, in one frame of coordinates
*_joints, *_wrists    joints and wrists; beside vertices, those that belong to them
hand_valid            which hands the frame has
joint_valid           which true joints exist, None for all; the metric says which it needs
"""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from numpy.typing import ArrayLike

from fitting.alignment import FEWEST_POINTS, at_root, bone_scale, matched_spread, procrustes
from mano_jax.joint_orders import index

_MM = 1000.0

PerFrame = Float[np.ndarray, "N"]
Joints = Shaped[ArrayLike, "N 2 J 3"]
Vertices = Shaped[ArrayLike, "N 2 V 3"]
Wrists = Shaped[ArrayLike, "N 2 3"]
HandValid = Bool[ArrayLike, "N 2"]
JointValid = Bool[ArrayLike, "N 2 J"]
Depths = Shaped[ArrayLike, "N 2 V"]
"""Depth of each vertex in the other hand, metres, 0 outside."""

Root = Literal["wrist", "middle1"]
"""A joint to align by: the wrist, or the base (MCP) of the middle finger."""

_WRIST, _MIDDLE = index("wrist"), index("middle1")

GREATEST_PCK_MM = 50.0
"""The published range of thresholds of PCK and AUC is 0 to 50 mm."""


def mpjpe(
    predicted: Joints, truth: Joints, hand_valid: HandValid, joint_valid: JointValid | None = None
) -> PerFrame:
    """Mean per-joint position error, mm: each hand moved so that its wrist matches.

    The mean runs over the joints of the frame's valid hands, the wrist's zero included, as in
    IHMR's evaluator and InterWild. A hand without its wrist cannot be aligned and does not count.
    """
    error = wrist_aligned_errors(predicted, truth)
    return _MM * _masked_mean(error, countable(error.shape, hand_valid, joint_valid))


def mpvpe(
    predicted: Vertices,
    truth: Vertices,
    predicted_wrists: Wrists,
    true_wrists: Wrists,
    hand_valid: HandValid,
) -> PerFrame:
    """Mean per-vertex position error, mm: each hand moved so that its wrist joint matches.

    The mean runs over the vertices of the frame's valid hands (IHMR's evaluator, InterWild).
    """
    shift = _array(predicted_wrists) - _array(true_wrists)
    error = _length(_array(predicted) - _array(truth) - shift[:, :, None])
    return _MM * _masked_mean(error, countable(error.shape, hand_valid, None))


def pa_mpjpe(
    predicted: Joints, truth: Joints, hand_valid: HandValid, joint_valid: JointValid | None = None
) -> PerFrame:
    """Mean per-joint position error, mm, after the best similarity transform of each hand.

    Procrustes with scale, hand by hand, over its valid joints (FreiHAND, HaMeR). A hand with
    fewer than three does not count.
    """
    predicted, truth = _array(predicted), _array(truth)
    valid = np.broadcast_to(np.asarray(hand_valid, bool)[:, :, None], truth.shape[:-1])
    if joint_valid is not None:
        valid = valid & np.asarray(joint_valid, bool)
    valid = valid & (valid.sum(-1, keepdims=True) >= FEWEST_POINTS)
    return _MM * _masked_mean(_length(procrustes(predicted, truth, valid) - truth), valid)


def pa_mpvpe(predicted: Vertices, truth: Vertices, hand_valid: HandValid) -> PerFrame:
    """Mean per-vertex position error, mm, after the best similarity transform of each hand.

    Procrustes with scale, hand by hand, over all vertices (FreiHAND, HaMeR).
    """
    return pa_mpjpe(predicted, truth, hand_valid)


def i_mpjpe(
    predicted: Joints, truth: Joints, hand_valid: HandValid, joint_valid: JointValid | None = None
) -> PerFrame:
    """Interacting-hands MPJPE, mm: both hands moved together so that the right wrists match.

    It sees what `mpjpe` hides: where the hands are relative to each other. The paper (IHMR)
    aligns by the right wrist, as here; its released evaluator does `i_mpjpe_evaluator` instead.
    NaN without both hands or the right wrist.
    """
    difference = _array(predicted) - _array(truth)
    error = _length(difference - difference[:, :1, :1])
    measurable, valid = _both(hand_valid), np.ones(error.shape, bool)
    if joint_valid is not None:
        valid = np.asarray(joint_valid, bool)
        measurable = measurable & valid[:, 0, 0]
    return _MM * np.where(measurable, _masked_mean(error, valid), np.nan)


def i_mpvpe(
    predicted: Vertices,
    truth: Vertices,
    predicted_wrists: Wrists,
    true_wrists: Wrists,
    hand_valid: HandValid,
) -> PerFrame:
    """Interacting-hands MPVPE, mm: both hands moved together so that the right wrists match.

    IHMR's supplementary: `i_mpjpe` over vertices. NaN without both hands.
    """
    shift = (_array(predicted_wrists) - _array(true_wrists))[:, :1, None]
    error = _length(_array(predicted) - _array(truth) - shift)
    return _MM * np.where(_both(hand_valid), error.mean(axis=(1, 2)), np.nan)


def i_mpjpe_evaluator(
    predicted: Joints, truth: Joints, hand_valid: HandValid, joint_valid: JointValid | None = None
) -> PerFrame:
    """I-MPJPE as IHMR's released evaluator computes it, mm.

    The joints of both hands are moved and stretched along each axis until their mean and
    standard deviation are the truth's, without rotation (`alignment.matched_spread`). The
    figures of IHMR's tables come from it, but its program also aligns the one hand of frames
    that have no other and averages them in: here they are NaN, so a file with such frames has
    another mean than IHMR's. NaN also with fewer than two joints.
    """
    frames = np.shape(truth)[0]
    predicted, truth = _array(predicted).reshape(frames, -1, 3), _array(truth)
    truth = truth.reshape(frames, -1, 3)
    valid = np.ones(truth.shape[:-1], bool)
    if joint_valid is not None:
        valid = np.asarray(joint_valid, bool).reshape(frames, -1)
    error = _length(matched_spread(predicted, truth, valid) - truth)
    measurable = _both(hand_valid) & (valid.sum(-1) >= 2)
    return _MM * np.where(measurable, _masked_mean(error[:, None], valid[:, None]), np.nan)


def aligned_mpjpe(
    predicted: Joints,
    truth: Joints,
    hand_valid: HandValid,
    joint_valid: JointValid | None = None,
    *,
    root: Root = "middle1",
    scale: bool = True,
) -> PerFrame:
    """MPJPE with DIR's alignments, mm: by the wrist or the middle MCP, with or without scale.

    Each hand's `root` is laid over its true place. The scale is the true over the predicted
    length from the wrist to the middle finger's base, hand by hand; a hand without one of these
    two joints does not count. DIR's MPJPE is wrist and scale, its MPJPE-MS middle1 and scale
    (IntagHand's evaluation), its MPJPE-M middle1 without scale; wrist without scale is `mpjpe`.
    """
    predicted, truth = _array(predicted), _array(truth)
    error = _aligned_error(predicted, truth, predicted, truth, root, scale)
    valid = countable(error.shape, hand_valid, joint_valid)
    if joint_valid is not None:
        valid = valid & np.asarray(joint_valid, bool)[:, :, _MIDDLE, None]
    return _MM * _masked_mean(error, valid)


def aligned_mpvpe(
    predicted: Vertices,
    truth: Vertices,
    predicted_joints: Joints,
    true_joints: Joints,
    hand_valid: HandValid,
    *,
    root: Root = "middle1",
    scale: bool = True,
) -> PerFrame:
    """MPVPE with DIR's alignments, mm; see `aligned_mpjpe`."""
    joints = _array(predicted_joints), _array(true_joints)
    error = _aligned_error(_array(predicted), _array(truth), *joints, root, scale)
    return _MM * _masked_mean(error, countable(error.shape, hand_valid, None))


def mrrpe(
    predicted_wrists: Wrists,
    true_wrists: Wrists,
    hand_valid: HandValid,
    wrist_valid: HandValid | None = None,
) -> PerFrame:
    """Mean relative-root position error, mm: error of left wrist - right wrist.

    InterHand2.6M, InterWild; DIR's right - left has the same length. NaN without both hands
    and both true wrists (`wrist_valid`, None for all).
    """
    measurable = _both(hand_valid)
    if wrist_valid is not None:
        measurable = measurable & _both(wrist_valid)
    difference = _array(predicted_wrists) - _array(true_wrists)
    return _MM * np.where(measurable, _length(difference[:, 1] - difference[:, 0]), np.nan)


def pck(
    predicted: Joints,
    truth: Joints,
    hand_valid: HandValid,
    joint_valid: JointValid | None = None,
    *,
    threshold_mm: float,
) -> PerFrame:
    """Percentage of correct keypoints, %: wrist-aligned joints nearer to truth than a threshold.

    Errors and joints that count are those of `mpjpe`, the wrist's zero included.
    """
    error = _MM * wrist_aligned_errors(predicted, truth)
    correct = np.where(np.isnan(error), np.nan, error < threshold_mm)
    return 100 * _masked_mean(correct, countable(error.shape, hand_valid, joint_valid))


def auc(
    predicted: Joints, truth: Joints, hand_valid: HandValid, joint_valid: JointValid | None = None
) -> PerFrame:
    """Area under the curve of `pck` over thresholds of 0 to 50 mm, in [0, 1].

    The integral is exact, mean(max(0, 1 - error / 50 mm)); programs that add up trapezoids over
    a grid of thresholds differ by less than one grid step's share.
    """
    error = _MM * wrist_aligned_errors(predicted, truth)
    area = np.maximum(0.0, 1 - error / GREATEST_PCK_MM)
    return _masked_mean(area, countable(error.shape, hand_valid, joint_valid))


def error_2d(
    predicted: Shaped[ArrayLike, "N C 2 J 2"],
    truth: Shaped[ArrayLike, "N C 2 J 2"],
    seen: Bool[ArrayLike, "N C 2 J"],
) -> PerFrame:
    """Mean distance of projected joints to true keypoints, in the image unit of both.

    The mean runs over the true keypoints that exist (`seen`), of all views and both hands; the
    unit is crop coordinates or pixels.
    """
    frames = np.shape(truth)[0]
    error = _length(_array(predicted) - _array(truth)).reshape(frames, 1, -1)
    return _masked_mean(error, np.asarray(seen, bool).reshape(frames, 1, -1))


def miaa(
    predicted: Shaped[ArrayLike, "N 2 V 2"],
    truth: Shaped[ArrayLike, "N 2 V 2"],
    hand_valid: HandValid,
) -> PerFrame:
    """Mesh-image alignment accuracy (DIR), px: mean distance of projected vertices; low is good.

    DIR's evaluator moves each predicted hand to the true wrist, scales it by its wrist-to-middle
    bone, and projects it with the true camera: give vertices so projected for its figure.
    """
    error = _length(_array(predicted) - _array(truth))
    return _masked_mean(error, countable(error.shape, hand_valid, None))


def acceleration_error(
    predicted: Joints,
    truth: Joints,
    hand_valid: HandValid,
    joint_valid: JointValid | None = None,
    *,
    sequence_id: Int[ArrayLike, "N"] | None = None,
) -> PerFrame:
    """Mean difference of the joints' accelerations, mm per frame squared.

    x[t-1] - 2 x[t] + x[t+1] of wrist-relative joints (Kanazawa et al., "Learning 3D human
    dynamics from video", CVPR 2019, whose joints are relative to the pelvis). Frames come in the
    order of time, all of one sequence unless `sequence_id` says otherwise. NaN where a frame has
    not both neighbours in its sequence; joints count that exist in all three frames, with their
    wrists.
    """
    difference = _array(predicted) - _array(truth)
    difference = difference - difference[:, :, :1]
    found = np.full(len(difference), np.nan)
    if len(found) < 3:
        return found
    valid = countable(difference.shape[:-1], hand_valid, joint_valid)
    valid = valid[:-2] & valid[1:-1] & valid[2:]
    if sequence_id is not None:
        sequence = np.asarray(sequence_id)
        together = (sequence[:-2] == sequence[1:-1]) & (sequence[1:-1] == sequence[2:])
        valid = valid & together[:, None, None]
    # Acceleration is linear: the difference's own is the difference of the two.
    error = _length(difference[:-2] - 2 * difference[1:-1] + difference[2:])
    found[1:-1] = _MM * _masked_mean(error, valid)
    return found


def ave_p(depths: Depths, hand_valid: HandValid) -> PerFrame:
    """Average penetration AVE-P, mm: mean depth of both hands' vertices, those outside as zeros.

    IHMR's definition over MANO's 1556 vertices. NaN without both hands.
    """
    return _MM * np.where(_both(hand_valid), _array(depths).mean(axis=(1, 2)), np.nan)


def max_p(depths: Depths, hand_valid: HandValid) -> PerFrame:
    """Maximal penetration MAX-P, mm: depth of the frame's deepest vertex (IHMR).

    NaN without both hands; a data set's figure is the mean over its frames.
    """
    return _MM * np.where(_both(hand_valid), _array(depths).max(axis=(1, 2)), np.nan)


def wrist_aligned_errors(predicted: Joints, truth: Joints) -> Float[np.ndarray, "N 2 J"]:
    """Error of every joint, metres, each hand moved so that its wrist matches."""
    difference = _array(predicted) - _array(truth)
    return _length(difference - difference[:, :, :1])


def countable(
    shape: tuple[int, ...], hand_valid: HandValid, joint_valid: JointValid | None
) -> Bool[np.ndarray, "N 2 J"]:
    """Which points count: those of valid hands that exist and whose hand has its wrist.

    Args:
        shape: (N, 2, J) of the answer.
        hand_valid: which hands each frame has.
        joint_valid: which points exist, the wrist first; None means all.
    """
    hand = np.asarray(hand_valid, bool)[:, :, None]
    if joint_valid is None:
        return np.broadcast_to(hand, shape)
    point = np.asarray(joint_valid, bool)
    return hand & point & point[:, :, :1]


def _aligned_error(
    predicted: np.ndarray,
    truth: np.ndarray,
    predicted_joints: np.ndarray,
    true_joints: np.ndarray,
    root: Root,
    scale: bool,
) -> np.ndarray:
    joint = index(root)
    moved = at_root(predicted, predicted_joints[:, :, joint])
    if scale:
        factor = bone_scale(predicted_joints, true_joints, (_WRIST, _MIDDLE))
        moved = moved * factor[..., None, None]
    return _length(moved - at_root(truth, true_joints[:, :, joint]))


def _array(values: ArrayLike) -> np.ndarray:
    return np.asarray(values, dtype=np.float64)


def _length(vectors: np.ndarray) -> np.ndarray:
    """Euclidean length along the last axis, which is short: written out it runs faster."""
    return np.sqrt(sum(vectors[..., i] ** 2 for i in range(vectors.shape[-1])))


def _both(hand_valid: ArrayLike) -> np.ndarray:
    return np.all(np.asarray(hand_valid, bool), axis=1)


def _masked_mean(values: np.ndarray, mask: np.ndarray) -> PerFrame:
    """Mean over the last two axes of what the mask keeps; NaN where it keeps nothing."""
    count = mask.sum(axis=(1, 2))
    # An absent hand's values may be NaN: they are replaced, not multiplied by zero.
    total = np.where(mask, values, 0.0).sum(axis=(1, 2))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
