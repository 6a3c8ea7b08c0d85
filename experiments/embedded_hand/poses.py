"""Plausible poses: named ones, and a sample from which priors can be learnt.

A pose is first written as 22 anatomical angles in degrees (a flat vector, so that poses blend and
solvers can move them), then turned into MANO's 45 axis-angle numbers. Fingers are closed the way
a hand closes: towards a target beyond contact, each finger stopping where skin meets skin.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from experiments.embedded_hand.intersections import SelfIntersectionTest, finger_of
from experiments.embedded_hand.posing import Pose, RiggedHand, bone_transforms
from experiments.embedded_hand.skeleton import FINGERS, MM, RADII_MM, Skeleton, first_joint

Angles = Float[np.ndarray, "22"]

# Layout of the angles. Flexion of base, middle and end joint of index, middle, little and ring
# finger; abduction of the same four towards the thumb; then the thumb: opposition (its metacarpal
# swings in front of the palm), flexion of the base, pronation (the pad turns towards the
# fingers), lift out of the plane of flexion, and flexion of the middle and of the end joint.
FLEXION, ABDUCTION, THUMB = slice(0, 12), slice(12, 16), slice(16, 22)

# Range of each angle: what a healthy adult reaches without help.
_LOWEST = np.array([-20.0, 0, 0] * 4 + [-20.0] * 4 + [-10, -18, -15, -15, -12, -15])
_HIGHEST = np.array([92.0, 102, 72] * 4 + [20.0] * 4 + [66, 28, 46, 18, 55, 72])


def angles(
    index: tuple[float, float, float] = (0, 0, 0),
    middle: tuple[float, float, float] = (0, 0, 0),
    ring: tuple[float, float, float] = (0, 0, 0),
    pinky: tuple[float, float, float] = (0, 0, 0),
    *,
    spread: tuple[float, float, float, float] = (0, 0, 0, 0),
    thumb: tuple[float, float, float, float, float, float] = (0, 0, 0, 0, 0, 0),
) -> Angles:
    """Write a pose down, degrees.

    Args:
        index: flexion of its base, middle and end joint.
        middle: likewise.
        ring: likewise.
        pinky: likewise.
        spread: abduction towards the thumb of index, middle, ring and little finger.
        thumb: opposition, base flexion, pronation, lift, middle and end flexion.
    """
    to_thumb = (spread[0], spread[1], spread[3], spread[2])
    return np.array([*index, *middle, *pinky, *ring, *to_thumb, *thumb], float)


def columns_of(finger: str) -> Int[np.ndarray, "n"]:
    """Which of the 22 angles move a finger."""
    row = FINGERS.index(finger)
    if finger == "thumb":
        return np.arange(THUMB.start, THUMB.stop)
    return np.array([3 * row, 3 * row + 1, 3 * row + 2, ABDUCTION.start + row])


def joint_rotations(degrees: Angles, axes: Float[np.ndarray, "16 3 3"]) -> Rotation:
    """The 15 local rotations of a pose.

    At the finger bases flexion is applied first and abduction after it, about the palm's normal:
    the other order would fan the fingers of a fist out.
    """
    radians = np.radians(degrees)
    turns = np.zeros((15, 3))
    turns[:12] = radians[FLEXION, None] * axes[1:13, 0]
    turns[13:] = radians[20:22, None] * axes[14:16, 0]
    rotations = Rotation.from_rotvec(turns).as_matrix()
    sideways = Rotation.from_rotvec(-radians[ABDUCTION, None] * axes[1:13:3, 1]).as_matrix()
    rotations[:12:3] = sideways @ rotations[:12:3]
    opposition, flexion, pronation, lift = radians[16:20]
    flex_axis, lift_axis, along = axes[13]
    base = [[opposition, 0, 0], flexion * flex_axis, lift * lift_axis, -pronation * along]
    swing, bend, raised, twist = Rotation.from_rotvec(base).as_matrix()
    rotations[12] = swing @ bend @ raised @ twist
    return Rotation.from_matrix(rotations)


def to_pose(degrees: Angles, axes: Float[np.ndarray, "16 3 3"]) -> Pose:
    """Axis-angle rotations of the 15 joints, radians."""
    return joint_rotations(degrees, axes).as_rotvec()


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

    low, high = _LOWEST[free], _HIGHEST[free]
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


# Found once by a random search that pressed the thumb's pad on the backs of index and middle finger
# without letting faces cross.
FIST = angles(
    (71.5, 91, 54),
    (81.5, 85, 49),
    (75, 86, 49),
    (72, 82, 45),
    spread=(-2, 1, 6, 10),
    thumb=(52.6, 8.3, 17.6, -14.5, 24.3, 48.6),
)
# Where a fist opens to: the fingers half unfolded, the thumb lifted off them.
_FIST_OPENED = angles(
    (55, 65, 30),
    (58, 68, 30),
    (58, 68, 30),
    (56, 66, 30),
    spread=(0, 1, 4, 8),
    thumb=(52, -16, 18, -14, 10, 20),
)

RELAXED = angles(
    (20, 26, 14),
    (26, 30, 16),
    (30, 32, 18),
    (34, 32, 18),
    spread=(-2, 1, 4, 8),
    thumb=(14, 4, 6, 2, 12, 14),
)


def opposition(
    poser: Poser, finger: str, start: Angles, jitter: Pose | float = 0.0
) -> Angles | None:
    """Put the thumb's pad on the pad of a finger."""
    pads = [skin_point(poser.hand, name, 2, 0.60, 1) for name in ("thumb", finger)]
    free = np.concatenate([columns_of("thumb"), columns_of(finger)])
    joined = touch(start, [(pads[0], pads[1])], free, poser.hand)
    open_pose = joined.copy()
    open_pose[free] = 0.7 * joined[free]
    return poser.settle(joined, open_pose, jitter)


# Where the thumb and each finger start from when they are to meet: the nearer the little finger,
# the further the thumb swings and the more that finger folds.
_BEFORE_OPPOSITION = {
    "index": angles(
        (48, 44, 24), (18, 22, 10), (16, 20, 8), (14, 16, 8), thumb=(40, 8, 22, 0, 15, 25)
    ),
    "middle": angles(
        (20, 26, 14), (56, 46, 24), (26, 28, 14), (20, 22, 12), thumb=(46, 10, 26, 0, 18, 25)
    ),
    "ring": angles(
        (16, 22, 12), (28, 32, 16), (62, 48, 24), (36, 36, 18), thumb=(50, 13, 30, 0, 22, 25)
    ),
    "pinky": angles(
        (14, 20, 12),
        (24, 28, 14),
        (40, 38, 18),
        (64, 48, 26),
        spread=(0, 0, 3, 8),
        thumb=(54, 16, 36, 0, 25, 25),
    ),
}

_NAMED = {
    "rest": angles(),
    "spread": angles(
        (-8, 2, 2),
        (-8, 2, 2),
        (-8, 2, 2),
        (-8, 2, 2),
        spread=(13, 3, -6, -13),
        thumb=(-4, -14, 0, -8, -8, -6),
    ),
    "flat": angles(
        (4, 4, 2),
        (4, 4, 2),
        (4, 4, 2),
        (4, 4, 2),
        spread=(-5, 0, 7, 14),
        thumb=(6, 14, 0, 8, 4, 4),
    ),
    "relaxed": RELAXED,
    "point": FIST + angles((-68, -84, -49), spread=(1, 0, 0, 0)),
    "thumb up": angles(
        (72, 92, 54),
        (78, 88, 50),
        (75, 86, 49),
        (72, 82, 45),
        spread=(-3, 1, 6, 10),
        thumb=(4, -14, 0, -8, -6, -8),
    ),
    "victory": FIST + angles((-70, -88, -52), (-80, -82, -47), spread=(10, -5, 0, 0)),
    "cup": angles(
        (48, 36, 22),
        (50, 38, 22),
        (50, 38, 22),
        (50, 38, 22),
        spread=(0, 0, 3, 6),
        thumb=(42, 2, 16, 0, 14, 20),
    ),
}


def named_poses(poser: Poser) -> dict[str, Pose]:
    """Poses for pictures and tests, free of intersections between non-adjacent parts."""
    found = {name: poser.settle(target, RELAXED) for name, target in _NAMED.items()}
    found["fist"] = poser.settle(FIST, _FIST_OPENED)
    found["pinch"] = opposition(poser, "index", _BEFORE_OPPOSITION["index"])
    found["little-finger touch"] = opposition(poser, "pinky", _BEFORE_OPPOSITION["pinky"])
    missing = [name for name, degrees in found.items() if degrees is None]
    if missing:
        raise RuntimeError(f"no intersection-free way to {missing}; change their angles")
    return {name: poser.pose(degrees) for name, degrees in found.items()}


def _grasp(rng: np.random.Generator) -> Angles:
    """A hand around something: one curl for all fingers, each straying from its neighbour's."""
    curl = np.clip(rng.beta(0.9, 1.3) + rng.normal(0, 0.04), 0, 1)
    degrees, stray = np.zeros(22), 0.0
    loose = 1.0
    for finger in ("index", "middle", "ring", "pinky"):
        stray = 0.6 * stray + rng.normal(0, 0.16)
        own_will = (rng.random() < 0.1) * rng.normal(0, 0.35)
        own = np.clip(curl + stray + own_will, 0, 1)
        base = -8 + 82 * np.clip(own + rng.normal(0, 0.1), 0, 1)
        middle = 2 + 94 * np.clip(own + rng.normal(0, 0.08), 0, 1) ** 0.9
        # The last two joints share a tendon.
        end = 0.60 * middle + rng.normal(0, 4)
        columns = columns_of(finger)
        degrees[columns[:3]] = base, middle, end
        # Bent fingers cannot be spread.
        loose = 1 - np.clip(base / 70, 0, 1)
        fan = {"index": 8, "middle": 1, "ring": -4, "pinky": -9}[finger]
        folded = {"index": -2, "middle": 1, "ring": 5, "pinky": 9}[finger]
        degrees[columns[3]] = fan * loose * rng.normal(0.1, 0.6) + folded * (1 - loose)
    reach = np.clip(0.8 * curl + rng.normal(0.1, 0.22), -0.15, 1.1)
    bend = np.clip(curl + rng.normal(0, 0.27), -0.3, 1.2)
    degrees[THUMB] = (
        48 * reach,
        12 * reach + rng.normal(0, 5),
        20 * reach + rng.normal(0, 6),
        rng.normal(0, 5),
        6 + 28 * bend,
        6 + 38 * np.clip(bend + rng.normal(0, 0.2), -0.3, 1.3),
    )
    return degrees


def _around(rng: np.random.Generator, centre: Angles, *, deviation: float) -> Angles:
    """Angles near a pose, neighbouring fingers bending together; half as loose sideways."""
    shared = rng.normal(0, 0.7 * deviation, 3)
    degrees = centre + rng.normal(0, 0.6 * deviation, 22)
    degrees[FLEXION] += np.tile(shared, 4)
    degrees[ABDUCTION] = centre[ABDUCTION] + rng.normal(0, 0.25 * deviation, 4)
    return degrees


def _draw(kind: str, poser: Poser, rng: np.random.Generator, jitter: Pose) -> Angles | None:
    """One clean random pose of a kind."""
    if kind == "fist":
        target = _limited(_around(rng, FIST, deviation=7.0))
        return poser.settle(target, _FIST_OPENED, jitter)
    if kind == "opposition":
        finger = rng.choice(FINGERS[:4], p=(0.5, 0.25, 0.1, 0.15))
        start = _limited(_around(rng, _BEFORE_OPPOSITION[finger], deviation=8.0))
        return opposition(poser, finger, start, jitter)
    if kind == "spread":
        target = rng.uniform(-0.3, 1.1) * _NAMED["spread"]
        target = _limited(_around(rng, target, deviation=5.0))
        return poser.settle(target, np.zeros(22), jitter)
    return poser.settle(_limited(_grasp(rng)), 0.5 * RELAXED, jitter)


def _limited(degrees: Angles) -> Angles:
    return np.clip(degrees, _LOWEST, _HIGHEST)


def sample_poses(poser: Poser, count: int, *, seed: int) -> Float[np.ndarray, "count 45"]:
    """Random plausible poses without intersections, as absolute axis-angle rotations.

    Half are grasps, the rest fists, spread hands and thumbs that meet a finger. Every joint gets
    1.2 degrees of noise in all directions: a covariance learnt from purely anatomical angles
    would have 22 dimensions, not 45.
    """
    rng = np.random.default_rng(seed)
    kinds = ("grasp", "fist", "grasp", "opposition", "grasp", "spread", "grasp", "opposition")
    poses: list[np.ndarray] = []
    for attempt in range(3 * count):
        if len(poses) == count:
            return np.array(poses)
        jitter = np.radians(rng.normal(0, 1.2, (15, 3)))
        degrees = _draw(kinds[attempt % len(kinds)], poser, rng, jitter)
        if degrees is not None:
            poses.append(poser.pose(degrees, jitter).ravel())
    raise RuntimeError(f"only {len(poses)} of {count} poses came out free of intersections")


def principal_components(
    poses: Float[np.ndarray, "n 45"],
) -> tuple[Float[np.ndarray, "45"], Float[np.ndarray, "45 45"], Float[np.ndarray, "n 45"]]:
    """Mean, orthonormal rows by falling variance, and coefficients: poses = c @ rows + mean.

    The sign of each row is fixed by its largest entry, so that runs agree.
    """
    mean = poses.mean(0)
    _, _, rows = np.linalg.svd(poses - mean, full_matrices=True)
    largest = np.abs(rows).argmax(1)
    rows = rows * np.sign(rows[np.arange(45), largest])[:, None]
    return mean, rows, (poses - mean) @ rows.T
