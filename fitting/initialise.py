"""Where a fit starts when there is no prediction: from 3D joints.

A hand's shape comes from its bone lengths, its orientation from the rigid palm (Kabsch), and each
finger joint turns its bone onto the observed one by the smallest rotation. All of it is closed
form and NumPy in float64: it is a start, which the solver polishes, and a frame's start depends
on nothing but the frame.

Reference: Kabsch, "A solution for the best rotation to relate two sets of vectors", 1976.
"""

from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from fitting.initialise_settle import Hypothesis, Settling, best_of, place, settle
from fitting.initialise_skeleton import (
    Skeleton,
    kabsch,
    pose_joints_float64,
    rotate,
    to_axis_angle,
    to_matrix,
)
from mano_jax.model import Hands
from objectives.fingers import FINGER_CHAINS

__all__ = ["JointStart", "initialise_from_joints", "pose_joints_float64"]

PALM: Final = np.array([0, *FINGER_CHAINS[:, 0]])
"""The wrist and the finger bases: they hold their shape whatever the pose."""

MINIMUM_JOINTS: Final = 4
"""Of a hand: three fix where a stiff hand is, and leave nothing to tell its two sides by."""

_PALM_PAIRS: Final = [(a, b) for i, a in enumerate(PALM) for b in PALM[i + 1 :]]
_FINGER_PAIRS: Final = [pair for c in FINGER_CHAINS for pair in zip(c[:2], c[1:3], strict=True)]
LENGTH_PAIRS: Final = np.array(_PALM_PAIRS + _FINGER_PAIRS)
"""Pairs of joints whose distance depends on the shape alone. A fingertip is a point of the skin:
pose moves it, and every data set picks another one."""

_LENGTH_SCALE = 5e-3
"""Standard deviation (m) of an observed length: triangulated joints and MANO's differ by about
5 mm on InterHand2.6M."""

_PALM_SCALE = 1e-2
"""Distance (m) beyond which a palm joint counts as an outlier."""

_BENT_SCALE = 3e-2
"""The same where fingers are compared in another pose."""

_ENOUGH_PALM_JOINTS = 3
_EXPLAINED = 5e-3
"""A start that leaves no joint farther away than this (m) is beyond doubt."""

_STEPS = 6
"""Of each hypothesis: as many as tell them apart; the solver does the rest."""

_LAST_STEPS = 3
_LAST_PRIOR = 0.05
"""Of the one that was chosen, and how much the prior then counts."""

_LARGEST_BETA = 3.0
_SHORTEST_BONE = 1e-3
"""Shorter observed bones (m) have no direction."""


class JointStart(NamedTuple):
    """A start made from joints; absent hands hold zeros."""

    global_orient: Float[np.ndarray, "N 2 3"]
    """Wrist rotation, axis-angle."""
    hand_pose: Float[np.ndarray, "N 2 15 3"]
    """Finger joint rotations, axis-angle."""
    betas: Float[np.ndarray, "N 2 S"]
    """Shape coefficients, within [-3, 3]."""
    relative_transl: Float[np.ndarray, "N 3"]
    """Left wrist minus right wrist of the fitted palms, metres; zero without both hands."""


def initialise_from_joints(
    hands: Hands,
    joints_3d: Float[np.ndarray, "N 2 21 3"],
    confidence: Float[np.ndarray, "N 2 21"],
    hand_valid: Bool[np.ndarray, "N 2"],
) -> JointStart:
    """Orientation, pose, shape and relative translation of both hands from their 3D joints.

    Exact where the joints are the model's own, its betas are zero and no bone is twisted. A
    missing finger joint leaves the model's mean pose there. The palm needs three joints; a hand
    with fewer comes out unrotated (`fitting.checks` reports such frames).

    Args:
        hands: the hand model.
        joints_3d: metres, camera axes, any origin common to both hands.
        confidence: of each joint; 0 for a missing one, whose values are not read.
        hand_valid: which hands are there.
    """
    settling = Settling.of(hands)
    skeleton = settling.skeleton
    finite = np.all(np.isfinite(joints_3d), axis=-1) & np.isfinite(confidence)
    seen = finite & (confidence > 0) & hand_valid[..., None]
    joints = np.where(seen[..., None], joints_3d, 0.0).astype(np.float64)
    weight = np.where(seen, confidence, 0.0).astype(np.float64)

    betas = _betas_from_lengths(skeleton, joints, weight)
    start = _from_palm(skeleton, betas, joints, weight)
    doubtful = np.any(~_explained(settling, start, betas, joints, weight) & hand_valid, axis=-1)
    if np.any(doubtful):
        rows = [x[doubtful] for x in (betas, joints, weight)]
        given = Hypothesis(*(x[doubtful] for x in start))
        for whole, part in zip(start, _likeliest(settling, given, *rows), strict=True):
            whole[doubtful] = part

    both = np.all(hand_valid, axis=-1)
    there = hand_valid[..., None]
    return JointStart(
        global_orient=np.where(there, to_axis_angle(start.R), 0.0),
        hand_pose=np.where(there[..., None], start.hand_pose, 0.0),
        betas=np.where(there, betas, 0.0),
        relative_transl=np.where(both[:, None], start.wrist[:, 1] - start.wrist[:, 0], 0.0),
    )


def _from_palm(
    skeleton: Skeleton, betas: np.ndarray, joints: np.ndarray, weight: np.ndarray
) -> Hypothesis:
    """The palm's own orientation, and fingers swung onto their joints."""
    rest = skeleton.rest(betas)
    R_palm, wrist = _fit_rigidly(rest[..., PALM, :], joints[..., PALM, :], weight[..., PALM])
    wrist = wrist + rotate(R_palm, rest[..., 0, :])
    # The observed joints in the hand's own frame, where the palm is at rest.
    local = rotate(np.swapaxes(R_palm, -1, -2)[..., None, :, :], joints - wrist[..., None, :])
    pose = _swing_fingers(skeleton, betas, local + rest[..., :1, :], weight > 0)
    return Hypothesis(R_palm, pose, wrist)


def _explained(
    settling: Settling,
    start: Hypothesis,
    betas: np.ndarray,
    joints: np.ndarray,
    weight: np.ndarray,
) -> np.ndarray:
    """Whether a palm of three joints at least, and the swung fingers, leave next to nothing."""
    enough = (weight[..., PALM] > 0).sum(-1) >= _ENOUGH_PALM_JOINTS
    error = np.linalg.norm(place(settling, start, betas) - joints, axis=-1)
    return enough & (np.where(weight > 0, error, 0.0).max(-1) < _EXPLAINED)


def _likeliest(
    settling: Settling,
    given: Hypothesis,
    betas: np.ndarray,
    joints: np.ndarray,
    weight: np.ndarray,
) -> Hypothesis:
    """The best of several orientations, each settled onto the joints."""
    relaxed = given._replace(
        R=np.broadcast_to(np.eye(3), given.R.shape),
        hand_pose=np.broadcast_to(settling.pose_mean.reshape(2, 15, 3), given.hand_pose.shape),
        wrist=np.zeros_like(given.wrist),
    )
    source = place(settling, relaxed, betas)
    R_whole, wrist = _fit_rigidly(source, joints, weight, scale=_BENT_SCALE)
    hypotheses = [given, relaxed._replace(R=R_whole, wrist=wrist)]
    # Half turns about the hand's own axes, through the middle of what was seen of it.
    total = np.maximum(weight.sum(-1), 1e-12)[..., None]
    middle = (weight[..., None] * source).sum(-2) / total
    offset = (source - middle[..., None, :]) * weight[..., None]
    axes = np.linalg.eigh(np.swapaxes(offset, -1, -2) @ offset)[1]
    for axis in range(3):
        R = R_whole @ to_matrix(np.pi * axes[..., axis])
        moved = wrist + rotate(R_whole - R, middle)
        hypotheses.append(relaxed._replace(R=R, wrist=moved))
    stacked = Hypothesis(*(np.stack(x, axis=1) for x in zip(*hypotheses, strict=True)))
    target = joints[:, None]

    def observe(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return X - target, np.broadcast_to(np.eye(3), (*X.shape, 3))

    def settled(hypotheses: Hypothesis, *, steps: int, prior: float) -> Hypothesis:
        count = hypotheses.wrist.shape[1]
        shape, confidence = (np.repeat(x[:, None], count, axis=1) for x in (betas, weight))
        ends, energy = settle(
            settling, hypotheses, shape, confidence, observe, steps=steps, prior=prior
        )
        return best_of(ends, energy)[0]

    best = settled(stacked, steps=_STEPS, prior=1.0)
    # Once it has chosen, the prior would only keep unusual hands from their joints.
    best = Hypothesis(*(x[:, None] for x in best))
    return settled(best, steps=_LAST_STEPS, prior=_LAST_PRIOR)


def _betas_from_lengths(skeleton: Skeleton, joints: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Most likely betas given the observed lengths: unit prior, robust to outliers."""
    a, b = LENGTH_PAIRS.T
    observed = np.linalg.norm(joints[..., b, :] - joints[..., a, :], axis=-1)
    confidence = np.minimum(weight[..., a], weight[..., b])
    edges = skeleton.template[:, b] - skeleton.template[:, a]
    directions = skeleton.shapedirs[:, b] - skeleton.shapedirs[:, a]
    betas = np.zeros((*joints.shape[:2], skeleton.shapedirs.shape[-1]))
    for _ in range(6):
        edge = edges + rotate(directions, betas[..., None, :])
        length = np.linalg.norm(edge, axis=-1)
        jacobian = (edge[..., None] * directions).sum(-2) / length[..., None] / _LENGTH_SCALE
        residual = (observed - length) / _LENGTH_SCALE
        # Cauchy's weights: a joint that is centimetres off must not bend the shape.
        robust = confidence / (1.0 + (residual / 2.0) ** 2)
        target = residual + rotate(jacobian, betas)
        weighted = np.swapaxes(jacobian * robust[..., None], -1, -2)
        normal = weighted @ jacobian + np.eye(betas.shape[-1])
        betas = np.linalg.solve(normal, weighted @ target[..., None])[..., 0]
        betas = np.clip(betas, -_LARGEST_BETA, _LARGEST_BETA)
    return betas


def _fit_rigidly(
    source: np.ndarray,
    target: np.ndarray,
    confidence: np.ndarray,
    scale: float = _PALM_SCALE,
) -> tuple[np.ndarray, np.ndarray]:
    """Rotation and translation that take one to the other, robust to points gone astray."""
    robust = confidence
    for _ in range(4):
        total = np.maximum(robust.sum(-1), 1e-12)[..., None]
        source_mean = (robust[..., None] * source).sum(-2) / total
        target_mean = (robust[..., None] * target).sum(-2) / total
        centred = source - source_mean[..., None, :]
        covariance = np.swapaxes(centred * robust[..., None], -1, -2) @ (
            target - target_mean[..., None, :]
        )
        R = kabsch(covariance)
        moved = rotate(R[..., None, :, :], centred) + target_mean[..., None, :]
        squared = ((moved - target) ** 2).sum(-1)
        robust = confidence / (1.0 + squared / scale**2)
    return R, target_mean - rotate(R, source_mean)


def _swing_fingers(
    skeleton: Skeleton, betas: np.ndarray, observed: np.ndarray, seen: np.ndarray
) -> np.ndarray:
    """Finger rotations, axis-angle (N, 2, 15, 3), from joints in the hand's own frame."""
    rest = skeleton.rest(betas)
    last, tips = FINGER_CHAINS[:, 2], FINGER_CHAINS[:, 3]
    pose = _swing_chains(skeleton, rest, observed, seen)
    for _ in range(5):
        # Pose correctives move a fingertip away from where its bone points at rest: aim the bone
        # so that the fingertip, and not the bone, meets the observed one.
        posed, R = skeleton.pose(to_matrix(_with_root(pose)), betas)
        start = posed[..., last, :]
        correction = to_matrix(_swing(posed[..., tips, :] - start, observed[..., tips, :] - start))
        bone = rotate(R[..., last, :, :], rest[..., tips, :] - rest[..., last, :])
        aim = observed.copy()
        aim[..., tips, :] = start + rotate(correction, bone)
        pose = _swing_chains(skeleton, rest, aim, seen)
    return pose


def _swing_chains(
    skeleton: Skeleton, rest: np.ndarray, observed: np.ndarray, seen: np.ndarray
) -> np.ndarray:
    """One pass from the finger bases outwards, each bone turned by the smallest rotation.

    A bone aims at the observed joint from where the model has put its own start, not from the
    observed start, so that errors do not add up along the finger (measured on InterHand2.6M's
    joints: 3.5 mm instead of 4.8; on 5 mm of noise: 6.3 instead of 8.1).
    """
    pose = np.broadcast_to(skeleton.pose_mean, (*rest.shape[:2], 15, 3)).copy()
    R = np.broadcast_to(np.eye(3), (*rest.shape[:2], 5, 3, 3))
    position = rest[..., FINGER_CHAINS[:, 0], :]
    for level in range(3):
        joint, following = FINGER_CHAINS[:, level], FINGER_CHAINS[:, level + 1]
        target = rotate(np.swapaxes(R, -1, -2), observed[..., following, :] - position)
        known = seen[..., following] & (np.linalg.norm(target, axis=-1) > _SHORTEST_BONE)
        mean = skeleton.pose_mean[:, joint - 1]
        bone = rest[..., following, :] - rest[..., joint, :]
        swing = np.where(known[..., None], _swing(bone, target), mean)
        pose[..., joint - 1, :] = swing
        R = R @ to_matrix(swing)
        position = position + rotate(R, bone)
    return pose


def _swing(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The smallest rotation, axis-angle, that turns one direction into another."""
    cross = np.cross(source, target)
    sine = np.linalg.norm(cross, axis=-1, keepdims=True)
    cosine = (source * target).sum(-1, keepdims=True)
    angle = np.arctan2(sine, cosine)
    size = np.linalg.norm(source, axis=-1, keepdims=True)
    # Opposite directions leave the axis open: any perpendicular one will do.
    least = np.eye(3)[np.argmin(np.abs(source), axis=-1)]
    perpendicular = np.cross(source, least)
    perpendicular = perpendicular / np.maximum(
        np.linalg.norm(perpendicular, axis=-1, keepdims=True), 1e-12
    )
    parallel = sine <= 1e-9 * size * np.linalg.norm(target, axis=-1, keepdims=True)
    axis = np.where(parallel, perpendicular, cross / np.where(parallel, 1.0, sine))
    return np.where(parallel & (cosine >= 0), 0.0, axis * angle)


def _with_root(hand_pose: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros_like(hand_pose[..., :1, :]), hand_pose], axis=-2)
