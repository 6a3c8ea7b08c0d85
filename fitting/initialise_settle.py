"""Hypotheses of a hand's orientation, settled onto what was seen and judged.

Joints that are few, noisy or seen from one side only leave several orientations possible, and a
descent that starts in the wrong one stays there. So a start tries some, lets each turn, shift and
bend a hand of given shape for a few damped Gauss-Newton steps, and keeps the one that is most
likely by what it leaves unexplained and by how unusual its finger pose is: a palm that was taken
for its back shows in fingers that bend backwards.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float

from fitting.initialise_skeleton import (
    Skeleton,
    rotate,
    to_axis_angle,
    to_matrix,
)
from mano_jax.kinematics import PARENTS
from mano_jax.model import Hands
from objectives.pose_prior import pose_prior

JOINT_SCALE: Final = 8e-3
"""Standard deviation (m) of a joint's coordinate: the noise of estimated joints, and what a
hand of roughly guessed shape is off."""

_KNEE = 2.0
"""Distance, in scales, where a joint begins to count as an outlier."""

_POSE_FREEDOM = 0.2
"""Radians: standard deviation that is added to the prior's in every direction, because samples of
a model span few poses, and most directions of theirs are stiff."""

_POSE_TAIL = 45.0
"""Squared whitened distance from where on the prior lets go (a Student's t): a pose like none of
the samples is rare, and no error."""

_PLACE_SCALE = 1.0
"""Metres: what nothing observes, as the depth before a weak camera, stays put."""

_DAMPING = 1e-2
_LARGEST_TURN = 0.7
"""Radians in one step."""

Observe = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""From joints (..., 2, 21, 3) to residuals (..., 2, 21, r), in metres at the hand, and their
derivatives by the joint (..., 2, 21, r, 3)."""


@dataclass(frozen=True)
class Settling:
    """What stays the same while hypotheses settle."""

    skeleton: Skeleton
    """The hands."""
    pose_mean: Float[np.ndarray, "2 45"]
    """The most usual finger pose."""
    whitening: Float[np.ndarray, "2 45 45"]
    """Maps a difference from it to independent coordinates."""

    @classmethod
    def of(cls, hands: Hands) -> "Settling":
        """Take it from a hand model."""
        prior = pose_prior(hands)
        return cls(
            skeleton=Skeleton.of(hands),
            pose_mean=np.asarray(prior.mean, np.float64),
            whitening=_widened(np.asarray(prior.whitening, np.float64)),
        )


class Hypothesis(NamedTuple):
    """Placed hands; any leading axes, of which one may count hypotheses."""

    R: Float[np.ndarray, "*batch 2 3 3"]
    """Wrist rotation."""
    hand_pose: Float[np.ndarray, "*batch 2 15 3"]
    """Finger rotations, axis-angle."""
    wrist: Float[np.ndarray, "*batch 2 3"]
    """Metres."""

    @property
    def axis_angle(self) -> Float[np.ndarray, "*batch 2 3"]:
        """The wrist rotation as axis-angle."""
        return to_axis_angle(self.R)

    def where(self, keep: np.ndarray, other: "Hypothesis") -> "Hypothesis":
        """This hypothesis for the hands that are kept (..., 2), the other for the rest."""

        def choose(mine: np.ndarray, others: np.ndarray) -> np.ndarray:
            return np.where(keep.reshape(*keep.shape, *[1] * (mine.ndim - keep.ndim)), mine, others)

        return Hypothesis(*(choose(a, b) for a, b in zip(self, other, strict=True)))


def settle(
    settling: Settling,
    start: Hypothesis,
    betas: Float[np.ndarray, "*batch 2 S"],
    confidence: Float[np.ndarray, "*batch 2 21"],
    observe: Observe,
    *,
    steps: int,
    prior: float = 1.0,
) -> tuple[Hypothesis, Float[np.ndarray, "*batch 2"]]:
    """Let hypotheses settle; the best place each came by, and its energy.

    E = 1/2 sum c rho(|r| / scale) + prior/2 rho(|whitened finger pose|), rho Cauchy's kernel.
    """
    best, least = start, np.full(start.wrist.shape[:-1], np.inf)
    now = start
    for step in range(steps + 1):
        X, R = _posed(settling, now, betas)
        residual, rows = observe(X)
        squared = (residual**2).sum(-1) / JOINT_SCALE**2
        whitened = rotate(
            settling.whitening, now.hand_pose.reshape(*X.shape[:-2], 45) - settling.pose_mean
        )
        energy = 0.5 * (confidence * _KNEE**2 * np.log1p(squared / _KNEE**2)).sum(-1)
        unusual = (whitened**2).sum(-1) / _POSE_TAIL
        energy = energy + 0.5 * prior * _POSE_TAIL * np.log1p(unusual)
        better = energy < least
        best, least = now.where(better, best), np.where(better, energy, least)
        if step == steps:
            break
        precision = confidence / (1.0 + squared / _KNEE**2) / JOINT_SCALE**2
        columns = _columns(X, R, now)
        J = rows @ columns
        J = J.reshape(*J.shape[:-3], -1, J.shape[-1])
        weight = np.repeat(precision, residual.shape[-1], axis=-1)[..., None]
        transposed = np.swapaxes(J, -1, -2)
        H = transposed @ (weight * J)
        g = (transposed @ (weight * residual.reshape(*residual.shape[:-2], -1, 1)))[..., 0]
        W = settling.whitening
        hold = prior / (1.0 + unusual)[..., None]
        H[..., 3:48, 3:48] += hold[..., None] * (np.swapaxes(W, -1, -2) @ W)
        g[..., 3:48] += hold * rotate(np.swapaxes(W, -1, -2), whitened)
        H[..., 48:, 48:] += np.eye(3) / _PLACE_SCALE**2
        diagonal = np.diagonal(H, axis1=-2, axis2=-1)
        H = H + (_DAMPING * diagonal + 1e-6)[..., None] * np.eye(H.shape[-1])
        now = _moved(now, -np.linalg.solve(H, g[..., None])[..., 0])
    return best, least


def best_of(
    hypotheses: Hypothesis, energy: Float[np.ndarray, "N H 2"]
) -> tuple[Hypothesis, Float[np.ndarray, "N 2"]]:
    """The likeliest of H hypotheses of each hand, and its energy."""
    choice = np.argmin(energy, axis=1)
    frame, hand = np.arange(len(energy))[:, None], np.arange(2)
    return Hypothesis(*(x[frame, choice, hand] for x in hypotheses)), energy[frame, choice, hand]


def place(
    settling: Settling, now: Hypothesis, betas: Float[np.ndarray, "*batch 2 S"]
) -> Float[np.ndarray, "*batch 2 21 3"]:
    """Joints of a hypothesis, metres."""
    return _posed(settling, now, betas)[0]


def _widened(whitening: np.ndarray) -> np.ndarray:
    covariance = np.linalg.inv(np.swapaxes(whitening, -1, -2) @ whitening)
    variance, directions = np.linalg.eigh(covariance)
    deviation = np.sqrt(variance + _POSE_FREEDOM**2)[..., None, :]
    return (directions / deviation) @ np.swapaxes(directions, -1, -2)


def _posed(settling: Settling, now: Hypothesis, betas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    R = np.concatenate([now.R[..., None, :, :], to_matrix(now.hand_pose)], axis=-3)
    X, R = settling.skeleton.pose(R, betas)
    return X + (now.wrist - X[..., 0, :])[..., None, :], R


# Joint j (row) moves with finger joint k (column) if k is an ancestor of j; a tip with its chain.
_PARENTS = [*PARENTS, 15, 3, 6, 12, 9]
_MOVES = np.zeros((21, 15))
for _joint in range(1, 21):
    _above = _PARENTS[_joint]
    while _above > 0:
        _MOVES[_joint, _above - 1] = 1.0
        _above = _PARENTS[_above]


def _columns(X: np.ndarray, R: np.ndarray, now: Hypothesis) -> np.ndarray:
    """Derivatives of the joints by a turn of the wrist, the finger pose and the wrist's place.

    Fingertips are taken to be fixed to their last joint.
    """
    turns = R[..., list(PARENTS[1:]), :, :] @ _left_jacobian(now.hand_pose)
    arms = (X[..., :, None, :] - X[..., None, 1:16, :]) * _MOVES[..., None]
    by_pose = np.cross(np.swapaxes(turns, -1, -2)[..., None, :, :, :], arms[..., None, :])
    by_pose = np.swapaxes(by_pose.reshape(*X.shape[:-1], 45, 3), -1, -2)
    arm = (X - X[..., :1, :])[..., None, :]
    by_wrist = np.swapaxes(np.cross(np.eye(3), arm), -1, -2)
    return np.concatenate([by_wrist, by_pose, np.broadcast_to(np.eye(3), by_wrist.shape)], axis=-1)


def _left_jacobian(axis_angle: np.ndarray) -> np.ndarray:
    """How a step of an axis-angle vector turns, in the outer axes."""
    x, y, z = np.moveaxis(axis_angle, -1, 0)
    zero = np.zeros_like(x)
    K = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1)
    K = K.reshape(*axis_angle.shape, 3)
    angle = np.maximum(np.linalg.norm(axis_angle, axis=-1), 1e-4)[..., None, None]
    first, second = (1.0 - np.cos(angle)) / angle**2, (angle - np.sin(angle)) / angle**3
    return np.eye(3) + first * K + second * (K @ K)


def _moved(now: Hypothesis, step: np.ndarray) -> Hypothesis:
    turn = step[..., :3]
    size = np.linalg.norm(turn, axis=-1, keepdims=True)
    turn = turn * np.minimum(1.0, _LARGEST_TURN / np.maximum(size, 1e-12))
    bend = np.clip(step[..., 3:48], -_LARGEST_TURN, _LARGEST_TURN)
    # Kept below half a turn, so that no finger comes to its pose the long way round.
    pose = to_axis_angle(to_matrix(now.hand_pose + bend.reshape(now.hand_pose.shape)))
    return Hypothesis(to_matrix(turn) @ now.R, pose, now.wrist + step[..., -3:])
