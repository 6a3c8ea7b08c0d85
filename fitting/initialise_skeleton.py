"""The part of the hand model that a start needs, in NumPy and float64: joints, not surface."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Array, Float
from scipy.spatial.transform import Rotation

from mano_jax.kinematics import PARENTS
from mano_jax.model import Hands


def pose_joints_float64(
    hands: Hands,
    global_orient: Float[np.ndarray, "N 2 3"],
    hand_pose: Float[np.ndarray, "N 2 15 3"],
    betas: Float[np.ndarray, "N 2 S"],
) -> Float[np.ndarray, "N 2 21 3"]:
    """`mano_jax.model.pose_joints` in NumPy and float64, each hand in its own frame (metres)."""
    pose = np.concatenate([global_orient[..., None, :], hand_pose], axis=-2)
    return Skeleton.of(hands).pose(to_matrix(pose), betas.astype(np.float64))[0]


@dataclass(frozen=True)
class Skeleton:
    """What joints and fingertips need of the hand model, in float64."""

    template: Float[np.ndarray, "2 21 3"]
    """Joints and fingertips at rest, metres."""
    shapedirs: Float[np.ndarray, "2 21 3 S"]
    """How they follow the shape."""
    tip_posedirs: Float[np.ndarray, "2 15 135"]
    """How the fingertips follow the pose."""
    tip_weights: Float[np.ndarray, "2 5 16"]
    """Skinning weights of the fingertips."""
    pose_mean: Float[np.ndarray, "2 15 3"]
    """Mean finger pose, axis-angle."""

    @classmethod
    def of(cls, hands: Hands) -> "Skeleton":
        """Take it from a hand model."""
        tips = np.asarray(hands.tip_vertices)
        hand = np.arange(2)[:, None]

        def at_tips(array: Array) -> np.ndarray:
            return np.asarray(array)[hand, tips].astype(np.float64)

        def joints_and_tips(joints: Array, vertices: Array) -> np.ndarray:
            return np.concatenate([np.asarray(joints, np.float64), at_tips(vertices)], axis=1)

        return cls(
            template=joints_and_tips(hands.J_template, hands.v_template),
            shapedirs=joints_and_tips(hands.J_shapedirs, hands.shapedirs),
            tip_posedirs=at_tips(hands.posedirs).reshape(2, 15, 135),
            tip_weights=at_tips(hands.lbs_weights),
            pose_mean=np.asarray(hands.pose_mean, np.float64),
        )

    def rest(self, betas: np.ndarray) -> np.ndarray:
        """Joints and fingertips of the shaped hands at rest, (..., 2, 21, 3)."""
        return self.template + rotate(self.shapedirs, betas[..., None, :])

    def pose(self, R_parent_joint: np.ndarray, betas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Joints with fingertips (..., 2, 21, 3), and the joints' rotations (..., 2, 16, 3, 3)."""
        rest = self.rest(betas)
        R, position = [R_parent_joint[..., 0, :, :]], [rest[..., 0, :]]
        for joint, parent in enumerate(PARENTS[1:], start=1):
            offset = rest[..., joint, :] - rest[..., parent, :]
            position.append(position[parent] + rotate(R[parent], offset))
            R.append(R[parent] @ R_parent_joint[..., joint, :, :])
        R, position = np.stack(R, axis=-3), np.stack(position, axis=-2)
        feature = (R_parent_joint[..., 1:, :, :] - np.eye(3)).reshape(*betas.shape[:-1], 135)
        correction = rotate(self.tip_posedirs, feature)
        tips = rest[..., 16:, :] + correction.reshape(*betas.shape[:-1], 5, 3)
        # By joint (axis -2), where each would carry each fingertip (axis -3).
        from_joint = tips[..., :, None, :] - rest[..., None, :16, :]
        carried = rotate(R[..., None, :, :, :], from_joint) + position[..., None, :, :]
        tips = (self.tip_weights[..., None] * carried).sum(-2)
        return np.concatenate([position, tips], axis=-2), R


def kabsch(covariance: Float[np.ndarray, "*batch 3 3"]) -> Float[np.ndarray, "*batch 3 3"]:
    """The rotation R that best takes sources to targets, from sum of source target^T.

    Reference: Kabsch, "A solution for the best rotation to relate two sets of vectors", 1976.
    """
    U, _, Vt = np.linalg.svd(covariance)
    sign = np.sign(np.linalg.det(U) * np.linalg.det(Vt))
    flip = np.ones(covariance.shape[:-1])
    flip[..., 2] = np.where(sign == 0, 1.0, sign)
    return np.swapaxes(U * flip[..., None, :] @ Vt, -1, -2)


def rotate(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Matrix times vector, batch dimensions broadcast."""
    return (matrix @ vector[..., None])[..., 0]


def to_matrix(axis_angle: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3 3"]:
    """Rotation matrices of axis-angle vectors."""
    # A copy: SciPy refuses arrays that cannot be written to.
    flat = np.array(axis_angle, np.float64).reshape(-1, 3)
    return Rotation.from_rotvec(flat).as_matrix().reshape(*axis_angle.shape, 3)


def to_axis_angle(matrix: Float[np.ndarray, "*batch 3 3"]) -> Float[np.ndarray, "*batch 3"]:
    """Axis-angle vectors, of at most half a turn, of rotation matrices."""
    flat = matrix.reshape(-1, 3, 3)
    return Rotation.from_matrix(flat).as_rotvec().reshape(matrix.shape[:-1])
