"""Finger poses that a person could make, drawn from the hand model's own samples.

A model without samples gives poses from its mean and its leading components instead.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from experiments.benchmark.arrangements import ContactType
from experiments.benchmark.pose import joints_of_poses, palm_axes
from mano_jax.joint_orders import MANO16, index
from mano_jax.model import Hands

_CANDIDATES = 32
"""Poses drawn for each hand, of which a contact type takes one by its openness."""
_MIRROR: Final = np.array([1.0, -1.0, -1.0])
"""Axis-angle of the other hand's mirror image."""
_LONG_FINGERS: Final = ("index", "middle", "ring", "pinky")
_CURLED = (0.0, 0.15)
"""Ranks of the poses towards which fingers close."""


@dataclass(frozen=True)
class FingerPoses:
    """Both hands' poses as they meet, and the poses towards which their fingers may close."""

    open: Float[np.ndarray, "2 15 3"]
    closed: Float[np.ndarray, "2 15 3"]


def draw_finger_poses(hands: Hands, rng: np.random.Generator, kind: ContactType) -> FingerPoses:
    """Poses of both hands that suit a contact type."""
    drawn = draw_poses(hands, rng, _CANDIDATES)
    ranked = np.argsort(openness(hands, drawn), axis=0)
    chosen = [_pick(drawn[:, h], ranked[:, h], kind.openness, rng) for h in (0, 1)]
    # MANO's zero pose is the flat hand.
    chosen = [(1 - kind.flattened) * pose for pose in chosen]
    closed = [_pick(drawn[:, h], ranked[:, h], _CURLED, rng) for h in (0, 1)]
    chosen[1] = chosen[1] + kind.likeness * (_MIRROR * chosen[0] - chosen[1])
    spread = np.deg2rad(kind.spread_deg)
    both = (_spread(hands, np.stack(poses), spread) for poses in (chosen, closed))
    return FingerPoses(*both)


def draw_poses(
    hands: Hands, rng: np.random.Generator, count: int
) -> Float[np.ndarray, "count 2 15 3"]:
    """Finger poses of both hands, independent of each other."""
    if hands.pose_samples is None:
        # Components are orthonormal; the first ten carry most of a hand's movement.
        weights = rng.normal(0, 0.5, (count, 2, 10))
        components = np.asarray(hands.pose_components)[:, :10].reshape(2, 10, 15, 3)
        return np.asarray(hands.pose_mean) + np.einsum("nhk,hkjc->nhjc", weights, components)
    poses = []
    for samples in hands.pose_samples:
        first, second = np.asarray(samples)[rng.integers(len(samples), size=(2, count))]
        # A blend, so that no pose ever comes twice.
        poses.append(first + rng.uniform(0.02, 0.25, (count, 1, 1)) * (second - first))
    return np.stack(poses, axis=1).astype(np.float64)


def openness(hands: Hands, poses: Float[np.ndarray, "K 2 15 3"]) -> Float[np.ndarray, "K 2"]:
    """Mean distance from the wrist to the four long fingers' tips, metres."""
    tips = [index(f"{finger}_tip") for finger in _LONG_FINGERS]
    return np.linalg.norm(joints_of_poses(hands, poses)[:, :, tips], axis=-1).mean(axis=-1)


def _pick(
    poses: np.ndarray, ranked: np.ndarray, span: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    low, high = (round(bound * len(ranked)) for bound in span)
    return poses[ranked[rng.integers(low, max(high, low + 1))]]


def _spread(
    hands: Hands, poses: Float[np.ndarray, "2 15 3"], angle: float
) -> Float[np.ndarray, "2 15 3"]:
    """Turn the long fingers apart at their base joints, in the plane of the palm."""
    if angle == 0:
        return poses
    poses = poses.copy()
    at_rest = joints_of_poses(hands, np.zeros((1, 2, 15, 3)))[0]
    for hand in (0, 1):
        forward, across, palm = palm_axes(at_rest[hand], hand).T
        towards_thumb = np.sign(np.cross(palm, forward) @ across)
        for place, finger in enumerate(_LONG_FINGERS):
            joint = MANO16.index(f"{finger}1") - 1
            # Index and pinky go outwards, middle and ring half a gap to either side.
            turn = Rotation.from_rotvec((1.5 - place) * angle * towards_thumb * palm)
            poses[hand, joint] = (turn * Rotation.from_rotvec(poses[hand, joint])).as_rotvec()
    return poses
