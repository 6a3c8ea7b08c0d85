"""Forward kinematics of MANO's tree, level by level.

The tree is a wrist and five chains of three joints, so it takes three batched products of five
joints each instead of fifteen in a row.
"""

from typing import Final

import jax.numpy as jnp
from jaxtyping import Array, Float

PARENTS: Final = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)
"""Parent of each of MANO's sixteen joints; every loader checks a file against it."""


def forward_kinematics(
    R_parent_joint: Float[Array, "*batch 16 3 3"], rest_joints: Float[Array, "*batch 16 3"]
) -> tuple[Float[Array, "*batch 16 3 3"], Float[Array, "*batch 16 3"]]:
    """Rotations and positions of the posed joints.

    Args:
        R_parent_joint: rotation of each joint relative to its parent's; the wrist's is absolute.
        rest_joints: joint positions at rest, metres.

    Returns:
        R_hand_joint and joint positions (metres) in the hand's frame. The wrist stays where it
        is at rest: MANO turns about its wrist, not about the origin.
    """
    batch = rest_joints.shape[:-2]
    R_finger = R_parent_joint[..., 1:, :, :].reshape(*batch, 5, 3, 3, 3)
    chain = rest_joints[..., 1:, :].reshape(*batch, 5, 3, 3)
    wrist = rest_joints[..., :1, :]
    parents = jnp.concatenate([jnp.broadcast_to(wrist[..., None, :], (*batch, 5, 1, 3)), chain], -2)
    offsets = chain - parents[..., :3, :]

    R_wrist = R_parent_joint[..., :1, :, :]
    R = jnp.broadcast_to(R_wrist, (*batch, 5, 3, 3))
    position = jnp.broadcast_to(wrist, (*batch, 5, 3))
    rotations, positions = [], []
    for level in range(3):
        position = position + rotate(R, offsets[..., level, :])
        R = matmul_3x3(R, R_finger[..., level, :, :])
        rotations.append(R)
        positions.append(position)
    R_fingers = jnp.stack(rotations, axis=-3).reshape(*batch, 15, 3, 3)
    finger_joints = jnp.stack(positions, axis=-2).reshape(*batch, 15, 3)
    return (
        jnp.concatenate([R_wrist, R_fingers], axis=-3),
        jnp.concatenate([wrist, finger_joints], axis=-2),
    )


def matmul_3x3(
    a: Float[Array, "*batch 3 3"], b: Float[Array, "*batch2 3 3"]
) -> Float[Array, "*batch3 3 3"]:
    """Product of small matrices, batch dimensions broadcast.

    Written out: a batched dot of 3x3 matrices is many times slower on a GPU and may round to
    TF32 there, and a sum over an axis of three is not vectorised on a CPU (measured: 5x).
    """
    return (
        a[..., :, 0, None] * b[..., None, 0, :]
        + a[..., :, 1, None] * b[..., None, 1, :]
        + a[..., :, 2, None] * b[..., None, 2, :]
    )


def rotate(
    R: Float[Array, "*batch 3 3"], x: Float[Array, "*batch2 3"]
) -> Float[Array, "*batch3 3"]:
    """R x, batch dimensions broadcast, written out for the reason above."""
    return R[..., 0] * x[..., 0, None] + R[..., 1] * x[..., 1, None] + R[..., 2] * x[..., 2, None]
