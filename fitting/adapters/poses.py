"""Poses and shapes of any convention as canonical ones: absolute axis-angle, native left hand.

All work on D hands at once, of either side; numbers that are not finite stay so, and become a
frame's reason for being skipped.
"""

from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial.transform import Rotation

from fitting.adapters.formats import Conventions
from fitting.errors import InputError
from fitting.initialise_skeleton import pose_joints_float64
from mano_jax.model import SIDES, Hands

RIGHT: Final = SIDES.index("right")
LEFT: Final = SIDES.index("left")

MIRRORED: Final = np.array([1.0, -1.0, -1.0])
"""Of an axis-angle vector, for a reflection in x."""


def canonical_pose(
    conventions: Conventions,
    hands: Hands,
    side: Int[np.ndarray, "D"],
    global_orient: Float[np.ndarray, "D *rotation"],
    hand_pose: Float[np.ndarray, "D *pose"],
) -> tuple[Float[np.ndarray, "D 3"], Float[np.ndarray, "D 15 3"]]:
    """Wrist and finger rotations as absolute axis-angle of the native hand.

    Args:
        conventions: what the numbers mean.
        hands: whose mean pose and principal components they refer to.
        side: 0 right, 1 left.
        global_orient: (D, 3), (D, 3, 3) or (D, 6), as `conventions.rotations` says.
        hand_pose: (D, 45) or (D, 15, 3), (D, 15, 3, 3), or PCA coefficients (D, at most 45).

    Raises:
        InputError: no hands at all.
    """
    count = len(side)
    if count == 0:
        raise InputError("expected a hand at least, found none")
    form = conventions.rotations
    orient = global_orient.astype(np.float64)
    pose = hand_pose.astype(np.float64)
    if form == "matrices":
        orient, pose = axis_angle_of(orient), axis_angle_of(pose)
    elif form == "6d and PCA":
        orient = axis_angle_of(matrices_of_6d(orient))
    if form.endswith("PCA"):
        components = np.asarray(hands.pose_components, np.float64)[side, : pose.shape[1]]
        pose = (pose[:, None] @ components)[:, 0]
    orient, pose = orient.reshape(count, 3), pose.reshape(count, 15, 3)
    mirrored = (side == LEFT) & (conventions.left == "mirrored")
    # The mean that belongs to mirrored values is the right hand's.
    mean = np.asarray(hands.pose_mean, np.float64)[np.where(mirrored, RIGHT, side)]
    if conventions.mean == "excluded":
        pose = pose + mean
    orient[mirrored] *= MIRRORED
    pose[mirrored] *= MIRRORED
    return orient, pose


def canonical_betas(
    conventions: Conventions,
    hands: Hands,
    side: Int[np.ndarray, "D"],
    betas: Float[np.ndarray, "D S"],
) -> tuple[Float[np.ndarray, "D S"], float]:
    """Betas of the model's shape space, and what their conversion loses.

    A left hand's betas of another shape space have no exact counterpart; theirs are the least
    squares over the template's vertices.

    Returns:
        The betas, and the root mean square distance (m) of a vertex that they leave; 0 where the
        conversion is exact.
    """
    betas = betas.astype(np.float64)
    left = side == LEFT
    if conventions.left_shapedirs not in ("raw", "negated") or not np.any(left):
        return betas, 0.0
    number = betas.shape[1]
    ours = np.asarray(hands.shapedirs[LEFT], np.float64).reshape(-1, hands.num_betas)[:, :number]
    theirs = foreign_left(conventions, np.asarray(hands.shapedirs[RIGHT], np.float64))
    theirs = theirs.reshape(-1, hands.num_betas)[:, :number]
    to_ours = np.linalg.lstsq(ours, theirs, rcond=None)[0]
    converted = betas.copy()
    converted[left] = betas[left] @ to_ours.T
    lost = (betas[left] @ theirs.T - converted[left] @ ours.T).reshape(left.sum(), -1, 3)
    return converted, float(np.sqrt(np.mean(np.sum(lost**2, axis=-1))))


def foreign_left(conventions: Conventions, right: np.ndarray) -> np.ndarray:
    """A shape blend shape (..., 3, S) of the format's left hand, from the right hand's."""
    signs = {"mirrored": (-1, 1, 1), "raw": (1, 1, 1), "negated": (-1, -1, -1)}
    return right * np.array(signs[conventions.left_shapedirs], float)[:, None]


def rest_wrists(
    conventions: Conventions,
    hands: Hands,
    side: Int[np.ndarray, "D"],
    betas: Float[np.ndarray, "D S"],
) -> Float[np.ndarray, "D 3"]:
    """J0 of the source's betas in its own shape space, metres: its wrist is transl + J0."""
    template = np.asarray(hands.J_template, np.float64)[:, 0]
    directions = np.asarray(hands.J_shapedirs, np.float64)[:, 0]
    if conventions.left_shapedirs in ("raw", "negated"):
        directions = np.stack([directions[RIGHT], foreign_left(conventions, directions[RIGHT])])
    directions = directions[..., : betas.shape[1]]
    return template[side] + (directions[side] @ betas.astype(np.float64)[..., None])[..., 0]


def axis_angle_of(matrices: Float[np.ndarray, "*batch 3 3"]) -> Float[np.ndarray, "*batch 3"]:
    """Axis-angle of rotation matrices; NaN where a matrix is none."""
    flat = matrices.reshape(-1, 3, 3).astype(np.float64)
    sound = np.all(np.isfinite(flat), axis=(-2, -1))
    safe = np.where(sound[:, None, None], flat, np.eye(3))
    # Far from orthonormal is no rounding: SciPy would turn it into some rotation all the same.
    off = np.abs(safe @ np.swapaxes(safe, -1, -2) - np.eye(3)).max((-2, -1))
    sound &= (np.linalg.det(safe) > 0.5) & (off < 0.1)
    vectors = np.full((len(flat), 3), np.nan)
    if np.any(sound):
        vectors[sound] = Rotation.from_matrix(flat[sound]).as_rotvec()
    return vectors.reshape(*matrices.shape[:-2], 3)


def matrices_of(axis_angle: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3 3"]:
    """Rotation matrices; NaN where a vector is not finite."""
    finite = np.all(np.isfinite(axis_angle), axis=-1)
    safe = np.where(finite[..., None], axis_angle, 0.0).astype(np.float64)
    R = Rotation.from_rotvec(safe.reshape(-1, 3)).as_matrix().reshape(*axis_angle.shape, 3)
    return np.where(finite[..., None, None], R, np.nan)


def turned(
    matrix: Float[np.ndarray, "*matrices 3 3"], axis_angle: Float[np.ndarray, "*batch 3"]
) -> Float[np.ndarray, "*batch 3"]:
    """A rotation after another: log(matrix exp(axis_angle)); NaN where that is not finite.

    The matrices are one for all, or broadcast with the others.
    """
    return axis_angle_of(matrix @ matrices_of(axis_angle))


def matrices_of_6d(six: Float[np.ndarray, "*batch 6"]) -> Float[np.ndarray, "*batch 3 3"]:
    """DIR's and manopth's symmetric reading of two vectors: neither is favoured.

    Their bisectors (sum and difference) are orthogonal whatever they are; the first two columns
    lie at 45 degrees to those.
    """

    def unit(vector: np.ndarray) -> np.ndarray:
        return vector / np.linalg.norm(vector, axis=-1, keepdims=True)

    first, second = unit(six[..., :3]), unit(six[..., 3:])
    middle, across = unit(first + second), unit(first - second)
    x, y = unit(middle + across), unit(middle - across)
    return np.stack([x, y, np.cross(x, y)], axis=-1)


def mirrored_points(points: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Points (D, ..., 3) with x negated in some rows."""
    points = np.array(points, np.float64)
    points[where, ..., 0] *= -1.0
    return points


def as_sides(right: Any) -> Int[np.ndarray, "D"]:
    """0 for a right hand, 1 for a left one, from flags that are true for a right hand."""
    return np.where(np.asarray(right, bool).reshape(-1), RIGHT, LEFT)


_POSED_TOGETHER = 8192


def posed_joints(
    hands: Hands,
    side: Int[np.ndarray, "D"],
    global_orient: Float[np.ndarray, "D 3"],
    hand_pose: Float[np.ndarray, "D 15 3"],
    betas: Float[np.ndarray, "D S"],
) -> Float[np.ndarray, "D 21 3"]:
    """Joints of canonical hands in MANO's own frame, metres; NaN where a hand is not finite."""
    values = (global_orient, hand_pose, betas)
    finite = np.all([np.isfinite(v).reshape(len(v), -1).all(-1) for v in values], axis=0)
    joints = np.full((len(side), 21, 3), np.nan)
    for start in range(0, len(side), _POSED_TOGETHER):
        rows = np.flatnonzero(finite[start : start + _POSED_TOGETHER]) + start
        both = (np.repeat(v[rows, None], 2, axis=1) for v in values)
        joints[rows] = pose_joints_float64(hands, *both)[np.arange(len(rows)), side[rows]]
    return joints


def placed(
    wrists: Float[np.ndarray, "N 2 3"], hand_valid: Bool[np.ndarray, "N 2"]
) -> dict[str, np.ndarray]:
    """`root_transl` and `relative_transl` of wrists in the camera's frame; zero without them."""
    there = hand_valid[..., None]
    wrists = np.where(there, wrists, 0.0)
    between = wrists[:, LEFT] - wrists[:, RIGHT]
    return {
        "root_transl": np.where(there[:, RIGHT], wrists[:, RIGHT], wrists[:, LEFT]),
        "relative_transl": np.where(np.all(there, axis=1), between, 0.0),
    }


def two_hand_parameters(
    conventions: Conventions,
    hands: Hands,
    hand_valid: Bool[np.ndarray, "N 2"],
    global_orient: Float[np.ndarray, "N 2 *rotation"],
    hand_pose: Float[np.ndarray, "N 2 *pose"],
    betas: Float[np.ndarray, "N 2 S"],
) -> tuple[dict[str, np.ndarray], float]:
    """The three parameters of N frames by their canonical names, zero for absent hands.

    Returns:
        The parameters, and what the betas lose (`canonical_betas`).
    """
    count = len(hand_valid)
    side = np.tile([RIGHT, LEFT], count)

    def flat(values: np.ndarray) -> np.ndarray:
        return values.reshape(2 * count, *values.shape[2:])

    there = hand_valid.reshape(2 * count, 1)
    orient, pose = canonical_pose(conventions, hands, side, flat(global_orient), flat(hand_pose))
    shape, lost = canonical_betas(conventions, hands, side, np.where(there, flat(betas), 0.0))
    return {
        "global_orient": np.where(there, orient, 0.0).reshape(count, 2, 3),
        "hand_pose": np.where(there[..., None], pose, 0.0).reshape(count, 2, 15, 3),
        "betas": np.where(there, shape, 0.0).reshape(count, 2, -1),
    }, lost
