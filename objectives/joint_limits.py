"""How far a finger joint may turn: ranges of azimuth, pitch and roll.

S2HAND (Chen et al., "Model-based 3D hand reconstruction via self-supervised learning", CVPR 2021),
skeleton regularisation, equations (3)-(4) and Table 1 of the supplementary. Every pose inside the
ranges costs nothing; outside, the cost grows linearly.

The paper leaves open in which frame the angles are read. Three readings are offered:

* `axis_angle`: the components of a joint's MANO rotation vector are (roll, azimuth, -pitch). It is
  what the authors' program does, which differs from the paper in two more ways not followed
  here: it doubles the pitch, and it averages over 16 x 3 angles instead of dividing by 15.
* `bone_aligned`: Euler angles in a frame that lies along the bone at rest: x from the joint to the
  next one, y the palm normal made orthogonal to x, z = x cross y, and
  R = Rz(-pitch) Ry(-azimuth) Rx(-roll). A right template's fingers point along -x and its palm
  faces -y, so x and y are about the negated axes of the file: azimuth and roll therefore enter
  with the sign that makes the table's asymmetric rows mean what they mean in `axis_angle`.
* `pose_samples`: the angles of `bone_aligned`, their ranges read off the model's own pose samples.

A left hand is mirrored first, so all angles are a right hand's. Angles are radians.
"""

from dataclasses import dataclass, field
from typing import Final, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mano_jax import joint_orders
from mano_jax.kinematics import matmul_3x3
from mano_jax.model import Hands
from mano_jax.rotations import axis_angle_to_matrix, mirror_axis_angle
from objectives.masked_means import hand_weights

AngleFrame = Literal["axis_angle", "bone_aligned", "pose_samples"]
ANGLE_FRAMES: Final[tuple[AngleFrame, ...]] = get_args(AngleFrame)

SAMPLE_PERCENTILES: Final = (1.0, 99.0)
"""Which part of the pose samples' angles is taken for the range."""

RANGES_DEG: Final = {
    # thumb
    (1, 2): ((-22.5, 33.75), (-22.5, 22.5), (0.0, 90.0)),
    (2, 3): ((-5.0, 5.0), (-22.5, 22.5), (-5.0, 5.0)),
    (3, 4): ((-5.0, 5.0), (-100.0, 20.0), (-5.0, 5.0)),
    # index
    (5, 6): ((-10.0, 10.0), (-100.0, 10.0), (-5.0, 5.0)),
    (6, 7): ((-5.0, 5.0), (-100.0, 10.0), (-5.0, 5.0)),
    (7, 8): ((-5.0, 5.0), (-100.0, 10.0), (-5.0, 5.0)),
    # middle
    (9, 10): ((-10.0, 10.0), (-100.0, 10.0), (-5.0, 5.0)),
    (10, 11): ((-5.0, 5.0), (-100.0, 10.0), (-5.0, 5.0)),
    (11, 12): ((-5.0, 5.0), (-100.0, 10.0), (-5.0, 5.0)),
    # ring
    (13, 14): ((-10.0, 10.0), (-100.0, 10.0), (-5.0, 5.0)),
    (14, 15): ((-5.0, 5.0), (-100.0, 10.0), (-5.0, 5.0)),
    (15, 16): ((-5.0, 5.0), (-100.0, 10.0), (-5.0, 5.0)),
    # pinky
    (17, 18): ((-10.0, 20.0), (-100.0, 10.0), (-20.0, 5.0)),
    (18, 19): ((-5.0, 5.0), (-100.0, 10.0), (-5.0, 5.0)),
    (19, 20): ((-5.0, 5.0), (-100.0, 10.0), (-5.0, 5.0)),
}
"""Azimuth, pitch and roll ranges, degrees, of the bone i-j in OpenPose's numbering: the rotation
at its first joint, i. S2HAND's Table 1."""

_GIMBAL_SQUARED_COSINE = 1e-8
"""Below this squared cosine of the azimuth, pitch and roll turn about the same axis."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class JointLimits:
    """Ranges of the finger joints' angles, and how they are read. Make it with `joint_limits`."""

    R_hand_bone: Float[Array, "2 15 3 3"]
    """Axes (columns) of each joint's bone frame at rest; the left hand's after mirroring."""
    lower: Float[Array, "2 15 3"]
    """Smallest azimuth, pitch and roll of each joint in the model's order, radians."""
    upper: Float[Array, "2 15 3"]
    """Largest azimuth, pitch and roll, radians."""
    frame: AngleFrame = field(metadata={"static": True})
    """How the angles are read."""


def joint_limits(hands: Hands, frame: AngleFrame) -> JointLimits:
    """The ranges for a hand model.

    Args:
        hands: the template gives the bone frames, the pose samples the ranges of `pose_samples`.
        frame: how the angles are read, one of `ANGLE_FRAMES`.

    Raises:
        ValueError: an unknown frame, or `pose_samples` of a model that has none.
    """
    if frame not in ANGLE_FRAMES:
        raise ValueError(f"unknown angle frame {frame!r}; known: {', '.join(ANGLE_FRAMES)}")
    R_hand_bone = _bone_frames(hands)
    if frame == "pose_samples":
        lower, upper = _sample_ranges(hands, R_hand_bone)
    else:
        ranges = jnp.asarray(np.deg2rad(_model_order(RANGES_DEG)), R_hand_bone.dtype)
        lower, upper = (jnp.broadcast_to(ranges[..., i], (2, 15, 3)) for i in (0, 1))
    return JointLimits(R_hand_bone=R_hand_bone, lower=lower, upper=upper, frame=frame)


def joint_angles(
    limits: JointLimits, hand_pose: Float[Array, "*batch 2 15 3"]
) -> Float[Array, "*batch 2 15 3"]:
    """Azimuth, pitch and roll of each finger joint, radians, as a right hand's.

    Args:
        limits: say how the angles are read.
        hand_pose: axis-angle, absolute.
    """
    right = _mirror_left(hand_pose)
    if limits.frame == "axis_angle":
        return jnp.stack([right[..., 1], -right[..., 2], right[..., 0]], axis=-1)
    return _bone_angles(limits.R_hand_bone, right)


def joint_limit_energy(
    limits: JointLimits,
    hand_pose: Float[Array, "*batch 2 15 3"],
    hand_valid: Bool[Array, "*batch 2"],
) -> Float[Array, "*batch"]:
    """F_ang = (1/15) sum over bones of the angles' excess over their ranges, radians.

    The three angles of a bone are summed, not averaged; a frame's energy is the mean over its
    valid hands, so a missing hand changes no weight.

    Args:
        limits: the ranges.
        hand_pose: axis-angle, absolute.
        hand_valid: absent hands count 0.
    """
    hand_energy = jnp.sum(jnp.abs(joint_limit_excess(limits, hand_pose)), axis=(-2, -1)) / 15
    return jnp.sum(hand_weights(hand_valid, hand_pose.dtype) * hand_energy, axis=-1)


def joint_limit_excess(
    limits: JointLimits, hand_pose: Float[Array, "*batch 2 15 3"]
) -> Float[Array, "*batch 2 15 3"]:
    """How far each angle is above its range (positive) or below it (negative), radians."""
    angles = joint_angles(limits, hand_pose)
    below = jnp.maximum(limits.lower - angles, 0.0)
    above = jnp.maximum(angles - limits.upper, 0.0)
    return above - below


def _model_order(ranges: dict) -> np.ndarray:
    """The table by MANO's finger joints, (15, 3, 2)."""
    openpose = joint_orders.JOINT_ORDERS["openpose21"]
    by_name = {openpose[first]: row for (first, _), row in ranges.items()}
    return np.array([by_name[name] for name in joint_orders.MANO16[1:]])


def _mirror_left(hand_pose: Float[Array, "*batch 2 15 3"]) -> Float[Array, "*batch 2 15 3"]:
    """The left hand's rotations as a right hand's."""
    right, left = hand_pose[..., 0, :, :], hand_pose[..., 1, :, :]
    return jnp.stack([right, mirror_axis_angle(left)], axis=-3)


@jax.jit
def _bone_frames(hands: Hands) -> Float[Array, "2 15 3 3"]:
    """Each finger joint's bone frame at rest, its axes the columns."""
    tips = jnp.take_along_axis(hands.v_template, hands.tip_vertices[..., None], axis=1)
    joints = jnp.concatenate([hands.J_template, tips], axis=1)
    # A left template becomes a right one in the mirror x -> -x.
    joints = joints * jnp.array([[[1.0, 1.0, 1.0]], [[-1.0, 1.0, 1.0]]], joints.dtype)
    x = _unit(joints[:, _next_joints()] - joints[:, 1:16])
    palm = _palm_normal(joints)[:, None, :]
    y = _unit(palm - jnp.sum(palm * x, axis=-1, keepdims=True) * x)
    return jnp.stack([x, y, jnp.cross(x, y)], axis=-1)


def _next_joints() -> np.ndarray:
    """The joint that each finger joint's bone leads to, (15,) in `mano21`."""
    following = {"1": "2", "2": "3", "3": "_tip"}
    names = joint_orders.MANO16[1:]
    joints = [joint_orders.index(name[:-1] + following[name[-1]]) for name in names]
    return np.array(joints, np.int32)


def _palm_normal(joints: Float[Array, "2 21 3"]) -> Float[Array, "2 3"]:
    """Direction in which right palms face: normal to wrist, index1 and pinky1."""
    wrist = joints[:, joint_orders.index("wrist")]
    index = joints[:, joint_orders.index("index1")] - wrist
    pinky = joints[:, joint_orders.index("pinky1")] - wrist
    return _unit(jnp.cross(index, pinky))


def _sample_ranges(hands: Hands, R_hand_bone: Float[Array, "2 15 3 3"]) -> tuple[Array, Array]:
    """Low and high percentiles of the samples' angles, each (2, 15, 3)."""
    if hands.pose_samples is None:
        raise ValueError(
            "expected a hand model with pose samples (`hands_coeffs` in its file), received one "
            "without; use the angle frame 'axis_angle' or 'bone_aligned' instead"
        )
    right, left = hands.pose_samples
    angles = (
        _bone_angles(R_hand_bone[0], right),
        _bone_angles(R_hand_bone[1], mirror_axis_angle(left)),
    )
    low, high = SAMPLE_PERCENTILES
    return (
        jnp.stack([jnp.percentile(side, low, axis=0) for side in angles]),
        jnp.stack([jnp.percentile(side, high, axis=0) for side in angles]),
    )


def _bone_angles(
    R_hand_bone: Float[Array, "*joints 3 3"], hand_pose: Float[Array, "*batch 3"]
) -> Float[Array, "*batch 3"]:
    """Azimuth, pitch and roll of rotations, seen in the bones' frames."""
    R_bone_hand = jnp.swapaxes(R_hand_bone, -1, -2)
    R = matmul_3x3(matmul_3x3(R_bone_hand, axis_angle_to_matrix(hand_pose)), R_hand_bone)
    z, y, x = _euler_zyx(R)
    return jnp.stack([-y, -z, -x], axis=-1)


def _euler_zyx(R: Float[Array, "*batch 3 3"]) -> tuple[Array, Array, Array]:
    """Angles of R = Rz(z) Ry(y) Rx(x), y within a quarter turn; finite gradients everywhere.

    In gimbal lock (y at a quarter turn) only z and x together are defined: x is then 0, and its
    gradient too.
    """
    squared_cosine = R[..., 0, 0] ** 2 + R[..., 1, 0] ** 2
    locked = squared_cosine < _GIMBAL_SQUARED_COSINE
    # sqrt and arctan2 have no gradient at 0, and the unused branch of a `where` would still send
    # a NaN: both are given harmless arguments there.
    cosine = jnp.sqrt(jnp.where(locked, 1.0, squared_cosine))
    y = jnp.arctan2(-R[..., 2, 0], jnp.where(locked, 0.0, cosine))
    z = jnp.arctan2(
        jnp.where(locked, -R[..., 0, 1], R[..., 1, 0]),
        jnp.where(locked, R[..., 1, 1], R[..., 0, 0]),
    )
    x = jnp.arctan2(
        jnp.where(locked, 0.0, R[..., 2, 1]),
        jnp.where(locked, 1.0, R[..., 2, 2]),
    )
    return z, y, x


def _unit(vector: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3"]:
    return vector / jnp.linalg.norm(vector, axis=-1, keepdims=True)
