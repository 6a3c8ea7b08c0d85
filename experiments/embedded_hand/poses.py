"""Plausible poses: named ones, and a sample from which priors can be learnt.

Fingers are closed the way a hand closes: towards a target beyond contact, each finger stopping
where skin meets skin.
"""

import numpy as np
from jaxtyping import Float

from experiments.embedded_hand.angles import (
    ABDUCTION,
    FLEXION,
    HIGHEST,
    LOWEST,
    THUMB,
    Angles,
    angles,
    columns_of,
)
from experiments.embedded_hand.contact import Poser, skin_point, touch
from experiments.embedded_hand.posing import Pose
from experiments.embedded_hand.skeleton import FINGERS

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
    clean = {name: poser.pose(degrees) for name, degrees in found.items() if degrees is not None}
    if missing := sorted(found.keys() - clean.keys()):
        raise RuntimeError(f"no intersection-free way to {missing}; change their angles")
    return clean


def _grasp(rng: np.random.Generator) -> Angles:
    """A hand around something: one curl for all fingers, each straying from its neighbour's."""
    curl = np.clip(rng.beta(0.9, 1.3) + rng.normal(0, 0.04), 0, 1)
    degrees, stray = np.zeros(22), 0.0
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
    return np.clip(degrees, LOWEST, HIGHEST)


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
