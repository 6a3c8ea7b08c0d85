"""Skin that meets skin: solving for a touch, and backing off from a clash."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import least_squares

from experiments.embedded_hand.angles import (
    HIGHEST,
    LOWEST,
    Angles,
    columns_of,
    joint_rotations,
    to_pose,
)
from experiments.embedded_hand.intersections import SelfIntersectionTest, finger_of
from experiments.embedded_hand.posing import Pose, RiggedHand, bone_transforms
from experiments.embedded_hand.skeleton import FINGERS, MM, RADII_MM, Skeleton, first_joint


@dataclass(frozen=True)
class SkinPoint:
    """A point on the skin that follows one bone, and the outward direction there.

    Attributes:
        joint: row of the bone's joint.
        place: at rest, metres.
        outward: unit vector at rest.
    """

    joint: int
    place: Float[np.ndarray, "3"]
    outward: Float[np.ndarray, "3"]


def skin_point(hand: Skeleton, finger: str, phalanx: int, along: float, side: float) -> SkinPoint:
    """A point on a phalanx.

    Args:
        hand: rest skeleton.
        finger: its name.
        phalanx: 0, 1 or 2 from the base.
        along: fraction of the phalanx's length.
        side: +1 on the palm's side, -1 on the back.
    """
    start, end = hand.chain(finger)[phalanx : phalanx + 2]
    radii = RADII_MM[finger]
    radius = (radii[phalanx] + along * (radii[phalanx + 1] - radii[phalanx])) * MM
    outward = side * hand.palmar(finger, phalanx)
    place = start + along * (end - start) + 1.04 * radius * outward
    return SkinPoint(first_joint(finger) + phalanx, place, outward)


def touch(
    start: Angles,
    contacts: list[tuple[SkinPoint, SkinPoint]],
    free: Int[np.ndarray, "n"],
    hand: Skeleton,
) -> Angles:
    """Bring pairs of skin points together, face to face, straying little from a pose.

    Args:
        start: the pose to stay near, degrees.
        contacts: pairs to be joined.
        free: which angles may move.
        hand: rest skeleton.
    """
    axes = hand.axes()
    gap, facing, comfort = 0.5 * MM, 0.5, 14.0

    def pose_at(x: np.ndarray) -> Angles:
        degrees = start.copy()
        degrees[free] = x
        return degrees

    def residuals(x: np.ndarray) -> np.ndarray:
        bones = bone_transforms(joint_rotations(pose_at(x), axes).as_matrix(), hand.joints)
        parts = [(x - start[free]) / comfort]
        for one, other in contacts:
            (p, n), (q, m) = (_follow(point, bones) for point in (one, other))
            parts += [(p + gap * n - q) / MM, (n + m) / facing]
        return np.concatenate(parts)

    low, high = LOWEST[free], HIGHEST[free]
    first = np.clip(start[free], low + 1e-3, high - 1e-3)
    return pose_at(least_squares(residuals, first, bounds=(low, high), max_nfev=40).x)


def _follow(point: SkinPoint, bones: Float[np.ndarray, "16 3 4"]) -> tuple[np.ndarray, np.ndarray]:
    turn, shift = bones[point.joint, :, :3], bones[point.joint, :, 3]
    return turn @ point.place + shift, turn @ point.outward


@dataclass(frozen=True)
class Poser:
    """A rigged hand that knows where its parts would cut into each other.

    Attributes:
        hand: rest skeleton.
        rigged: the mesh and its rig.
        test: what counts as an intersection.
    """

    hand: Skeleton
    rigged: RiggedHand
    test: SelfIntersectionTest

    def pose(self, degrees: Angles, jitter: Pose | float = 0.0) -> Pose:
        """Axis-angle rotations of the 15 joints; `jitter` (radians) is added."""
        return to_pose(degrees, self.hand.axes()) + jitter

    def settle(
        self, target: Angles, open_pose: Angles, jitter: Pose | float = 0.0
    ) -> Angles | None:
        """Back fingers off from a target towards an open pose until nothing intersects.

        Where the thumb's last phalanx clashes the thumb gives way, since it closes last; where
        the rest of it does, the other finger.

        Args:
            target: may intersect, degrees.
            open_pose: where each finger retreats to.
            jitter: what the caller will add to the axis-angle pose.

        Returns:
            Clean angles, or None if none lie on the way.
        """
        closed = np.ones(5)
        share = np.zeros((22, 5))
        for row, finger in enumerate(FINGERS):
            share[columns_of(finger), row] = 1
        for _ in range(40):
            degrees = open_pose + (share @ closed) * (target - open_pose)
            pairs = self.test.pairs(self.rigged.posed(self.pose(degrees, jitter)))
            if not len(pairs):
                return degrees
            fingers = finger_of(self.test.parts[pairs])
            with_thumb = (self.test.parts[pairs] == 15).any(1)
            yielding = set(fingers[~with_thumb].ravel().tolist()) - {0, 5}
            yielding |= {5} if with_thumb.any() else set()
            for finger in yielding:
                closed[finger - 1] = max(0.0, closed[finger - 1] - 0.03)
        return None
