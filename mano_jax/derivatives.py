"""First derivatives of posed points in closed form, for Gauss-Newton solvers.

    Hands, pose, shape
        |  articulate()
    Articulation            rotations, joints and their derivatives
        |  joints_with_jacobian() / vertex_rows()
    rows of the Jacobian

Each hand is in camera axes with the origin at its **own wrist**, metres. Its columns are

    3       a turn of the wrist, R <- exp(delta) R at delta = 0, radians, camera axes
    45      additive steps of the axis-angle `hand_pose`, radians, joint by joint
    S       steps of `betas`

in this order: D = 48 + S (see `num_columns`). A point that is skinned rigidly to joint j moves
with finger joint k, an ancestor of j or j itself, by (turn of k) x (point - joint k). The blend
of Romero et al. (2017), sections 3-4, adds what the shape and the pose displace before skinning.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mano_jax.kinematics import PARENTS, forward_kinematics, matmul_3x3, rotate
from mano_jax.model import Hands, rest_joints
from mano_jax.rotations import axis_angle_to_matrix

# Full float32 products on every device, as for the posed points themselves.
_FULL = jax.lax.Precision.HIGHEST

# Below this squared angle the series of the coefficients are exact to float64 rounding.
_SMALL_SQUARED_ANGLE = 1e-6

# Sums over coordinates are written out, for the reason that `matmul_3x3` gives.
_XYZ = range(3)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Articulation:
    """Posed skeletons and how they move; camera axes, origin at each hand's wrist, metres."""

    R_camera_joint: Float[Array, "*batch 2 16 3 3"]
    """Rotation of each joint; it takes points of the rest pose into camera axes."""
    joints: Float[Array, "*batch 2 16 3"]
    """Joints of the kinematic chain; row 0, the wrist, is zero."""
    offsets: Float[Array, "*batch 2 16 3"]
    """What skinning adds to the rotated rest pose: joint - R_camera_joint @ joint at rest."""
    turns: Float[Array, "*batch 2 15 3 3"]
    """Column i: angular velocity (camera axes) for a step of entry i of a finger's axis-angle."""
    joints_betas: Float[Array, "*batch 2 16 3 S"]
    """Derivative of `joints` by the shape."""
    offsets_betas: Float[Array, "*batch 2 16 3 S"]
    """Derivative of `offsets` by the shape."""
    coefficients: Float[Array, "*batch 2 blend"]
    """What the blend shapes multiply: the betas, then R - I of the fingers, row-major."""
    feature_pose: Float[Array, "*batch 2 15 9 3"]
    """Derivative of each finger's nine entries of R - I by its own axis-angle."""

    @property
    def num_columns(self) -> int:
        """D = 48 + S, the parameters of one hand."""
        return 48 + self.joints_betas.shape[-1]


def articulate(
    hands: Hands,
    *,
    global_orient: Float[Array, "*batch 2 3"],
    hand_pose: Float[Array, "*batch 2 15 3"],
    betas: Float[Array, "*batch 2 S"],
) -> Articulation:
    """Pose the skeletons and differentiate them; finite for every rotation, zero included.

    Args:
        hands: both hands.
        global_orient: wrist rotation, axis-angle, camera axes.
        hand_pose: finger rotations in their parents' frames, axis-angle, absolute.
        betas: shape coefficients.
    """
    pose = jnp.concatenate([global_orient[..., None, :], hand_pose], axis=-2)
    R_parent_joint = axis_angle_to_matrix(pose)
    rest = rest_joints(hands, betas)
    R, joints = forward_kinematics(R_parent_joint, rest)
    joints = joints - joints[..., :1, :]

    parent = np.asarray(PARENTS[1:])
    R_parent, R_finger = R[..., parent, :, :], R_parent_joint[..., 1:, :, :]
    # exp(a + da) = exp(J da) exp(a) to first order: in the parent's axes, column i is the turn
    # that a step of entry i makes, on the left of the finger's rotation.
    turns = _left_jacobian(hand_pose)
    # Column c of R_finger moves by (turn i) x (column c); axes: row, column, i.
    R_finger_pose = jnp.stack(
        _cross(
            [turns[..., r, None, :] for r in _XYZ],
            [R_finger[..., r, :, None] for r in _XYZ],
        ),
        axis=-3,
    )
    bones_betas = hands.J_shapedirs[:, 1:] - hands.J_shapedirs[:, parent]
    fingers_betas = _sum_of_ancestors(_transform(R_parent, bones_betas))
    wrist_betas = jnp.zeros_like(fingers_betas[..., :1, :, :])
    joints_betas = jnp.concatenate([wrist_betas, fingers_betas], axis=-3)
    feature = R_finger - jnp.eye(3, dtype=R.dtype)
    batch = feature.shape[:-3]
    return Articulation(
        R_camera_joint=R,
        joints=joints,
        offsets=joints - rotate(R, rest),
        turns=matmul_3x3(R_parent, turns),
        joints_betas=joints_betas,
        offsets_betas=joints_betas - _transform(R, hands.J_shapedirs),
        coefficients=jnp.concatenate([betas, feature.reshape(*batch, 135)], axis=-1),
        feature_pose=R_finger_pose.reshape(*batch, 15, 9, 3),
    )


def joints_with_jacobian(
    hands: Hands, articulation: Articulation
) -> tuple[Float[Array, "*batch 2 21 3"], Float[Array, "*batch 2 21 3 D"]]:
    """The 21 joints in `mano21` order, and their derivatives by the columns of each hand.

    The joints are those of `pose_joints` minus its wrist, metres; the five tips are vertices.
    """
    batch = articulation.joints.shape[:-3]
    # Three rows a tip, one for each coordinate of the camera.
    hand, vertex = jnp.arange(2)[:, None], jnp.repeat(hands.tip_vertices, 3, axis=-1)
    covector = jnp.tile(jnp.eye(3, dtype=articulation.joints.dtype), (5, 1))
    blendshapes = jnp.concatenate([hands.shapedirs, hands.posedirs], axis=-1)[hand, vertex]
    displaced = jnp.einsum(
        "hkcf,...hf->...hck", blendshapes, articulation.coefficients, precision=_FULL
    )
    points, rows = _skinned_rows(
        articulation,
        weights=hands.lbs_weights[hand, vertex],
        shaped=jnp.swapaxes(hands.v_template[hand, vertex], -1, -2) + displaced,
        shapedirs=[hands.shapedirs[hand, vertex, r] for r in _XYZ],
        posedirs=[hands.posedirs[hand, vertex, r] for r in _XYZ],
        covector=jnp.broadcast_to(covector, (*batch, 2, 15, 3)),
    )
    tips = jnp.swapaxes(points[..., ::3], -1, -2)
    tips_rows = rows.reshape(*batch, 2, 5, 3, articulation.num_columns)
    return (
        jnp.concatenate([articulation.joints, tips], axis=-2),
        jnp.concatenate([_chain_jacobian(articulation), tips_rows], axis=-3),
    )


def vertex_rows(
    hands: Hands,
    articulation: Articulation,
    vertex: Int[Array, "*batch 2 K"],
    covector: Float[Array, "*batch 2 K 3"],
) -> Float[Array, "*batch 2 K D"]:
    """Rows `covector . d x_v` for chosen vertices of each hand, by the columns of that hand.

    Args:
        hands: both hands.
        articulation: of those hands.
        vertex: vertices of each hand; one may occur more than once.
        covector: what the derivative of each vertex is contracted with, camera axes.
    """
    hand = jnp.arange(2)[:, None]
    # All vertices, then the chosen ones: one product with a table that the whole batch shares is
    # cheaper than to read a row of 435 numbers for every chosen vertex of every frame.
    blendshapes = jnp.concatenate([hands.shapedirs, hands.posedirs], axis=-1)
    shaped = jnp.swapaxes(hands.v_template, -1, -2) + jnp.einsum(
        "hvcf,...hf->...hcv", blendshapes, articulation.coefficients, precision=_FULL
    )
    return _skinned_rows(
        articulation,
        weights=hands.lbs_weights[hand, vertex],
        shaped=jnp.take_along_axis(shaped, vertex[..., None, :], axis=-1),
        shapedirs=[hands.shapedirs[:, :, r][hand, vertex] for r in _XYZ],
        posedirs=[hands.posedirs[:, :, r][hand, vertex] for r in _XYZ],
        covector=covector,
    )[1]


def _skinned_rows(
    articulation: Articulation,
    *,
    weights: Float[Array, "*batch 2 K 16"],
    shaped: Float[Array, "*batch2 2 3 K"],
    shapedirs: Sequence[Float[Array, "*batch 2 K S"]],
    posedirs: Sequence[Float[Array, "*batch 2 K 135"]],
    covector: Float[Array, "*batch2 2 K 3"],
) -> tuple[Float[Array, "*batch2 2 3 K"], Float[Array, "*batch2 2 K D"]]:
    """Skinned points and their rows, covector contracted first so that no K x 3 x D arises.

    With c the covector, s the shaped point, w its weights, x = sum_j w_j (A_j s + t_j) and
    h = sum_j w_j A_j^T c, which carries c into the rest pose, the row of x is, by columns,

        wrist     x cross c
        finger k  turns_k^T (y_k cross c) + (h . posedirs)_k d feature_k,
                  y_k = sum over the subtree of k of w_j (A_j s + t_j - p_k)
        betas     h . shapedirs + c . sum_j w_j d t_j

    since c . (omega cross y) = omega . (y cross c). `shapedirs` and `posedirs` come as one array
    for each coordinate of a displacement. Points are the last axis: the long one is contiguous.
    """
    R, t = articulation.R_camera_joint, articulation.offsets
    maps = jnp.concatenate([R, t[..., None], articulation.offsets_betas], axis=-1)
    flat = maps.reshape(*maps.shape[:-2], 3 * maps.shape[-1])
    blended = jnp.einsum("...kj,...jm->...mk", weights, flat, precision=_FULL)
    # Rows r of the blended map: axes (column, K), with columns A, t and the betas.
    blended = blended.reshape(*blended.shape[:-2], 3, maps.shape[-1], blended.shape[-1])
    c = [covector[..., r] for r in _XYZ]
    s = [shaped[..., r, :] for r in _XYZ]
    x = [_dot3([blended[..., r, i, :] for i in _XYZ], s) + blended[..., r, 3, :] for r in _XYZ]
    pulled = _dot3([c[r][..., None, :] for r in _XYZ], [blended[..., r, :, :] for r in _XYZ])
    by_shape, by_feature = (
        _dot3([pulled[..., r, :, None] for r in _XYZ], directions)
        for directions in (shapedirs, posedirs)
    )
    by_betas = pulled[..., 4:, :] + jnp.swapaxes(by_shape, -1, -2)

    # The fifteen finger joints on their own axis, before K.
    w = jnp.swapaxes(weights, -1, -2)[..., 1:, :]
    subtree_w = _sum_of_subtree(w)
    s, c_finger = [a[..., None, :] for a in s], [a[..., None, :] for a in c]
    arms = []
    for r in _XYZ:
        A = [R[..., 1:, r, i, None] for i in _XYZ]
        moments = _sum_of_subtree(w * (_dot3(A, s) + t[..., 1:, r, None]))
        arms.append(moments - subtree_w * articulation.joints[..., 1:, r, None])
    torque = _cross(arms, c_finger)
    turns = articulation.turns
    by_turn = [_dot3([turns[..., r, i, None] for r in _XYZ], torque) for i in _XYZ]
    by_turn = jnp.stack(by_turn, axis=-2)
    by_turn = by_turn.reshape(*by_turn.shape[:-3], 45, by_turn.shape[-1])

    # The fifteen blocks as one matrix that is mostly zeros: one product of size 135 x 45 takes
    # half the time of fifteen of 9 x 3, and fused sums would gather `posedirs` again for each.
    own = np.eye(15, dtype=bool)[:, None, :, None]
    feature_pose = jnp.where(own, articulation.feature_pose[..., None, :], 0.0)
    feature_pose = feature_pose.reshape(*feature_pose.shape[:-4], 135, 45)
    by_pose = by_turn + jnp.einsum("...kf,...fd->...dk", by_feature, feature_pose, precision=_FULL)
    rows = jnp.concatenate([jnp.stack(_cross(x, c), axis=-2), by_pose, by_betas], axis=-2)
    return jnp.stack(x, axis=-2), jnp.swapaxes(rows, -1, -2)


def _chain_jacobian(articulation: Articulation) -> Float[Array, "*batch 2 16 3 D"]:
    """Derivatives of the wrist, which does not move, and of the fifteen finger joints."""
    p = articulation.joints
    batch = p.shape[:-2]
    x, y, z = p[..., 0], p[..., 1], p[..., 2]
    o = jnp.zeros_like(x)
    by_wrist = jnp.stack([o, z, -y, -z, o, x, y, -x, o], axis=-1).reshape(*batch, 16, 3, 3)

    # Within a chain: joint on axis -4 (of what is stacked below), ancestor on axis -2.
    chain = p[..., 1:, :].reshape(*batch, 5, 3, 3)
    turns = articulation.turns.reshape(*batch, 5, 1, 3, 3, 3)
    arms = chain[..., :, None, :] - chain[..., None, :, :]
    moved = _cross([turns[..., r, :] for r in _XYZ], [arms[..., r, None] for r in _XYZ])
    moved = jnp.stack(moved, axis=-3)
    # A joint does not move with itself nor with a later one, nor with another chain.
    acts = np.eye(5, dtype=bool)[:, None, :, None] & np.tri(3, k=-1, dtype=bool)[:, None, :]
    acts = acts[:, :, None, :, :, None]
    by_pose = jnp.where(acts, moved[..., None, :, :], 0.0).reshape(*batch, 15, 3, 45)
    by_pose = jnp.concatenate([jnp.zeros_like(by_pose[..., :1, :, :]), by_pose], axis=-3)
    return jnp.concatenate([by_wrist, by_pose, articulation.joints_betas], axis=-1)


def _left_jacobian(axis_angle: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3 3"]:
    """Left Jacobian of SO(3), I + ((1 - cos a) / a^2) K + ((a - sin a) / a^3) K^2."""
    x, y, z = axis_angle[..., 0], axis_angle[..., 1], axis_angle[..., 2]
    squared = x * x + y * y + z * z
    small = squared < _SMALL_SQUARED_ANGLE
    # A division by zero in the unused branch would make its own derivative NaN.
    safe_squared = jnp.where(small, 1.0, squared)
    angle = jnp.sqrt(safe_squared)
    sine, cosine = jnp.sin(0.5 * angle), jnp.cos(0.5 * angle)
    first = jnp.where(small, 0.5 - squared / 24.0, 2.0 * sine * sine / safe_squared)
    # The difference cancels at small angles, but K^2 is as small: what is lost is one rounding.
    second = (angle - 2.0 * sine * cosine) / (safe_squared * angle)
    second = jnp.where(small, 1.0 / 6.0 - squared / 120.0, second)
    fx, fy, fz = first * x, first * y, first * z
    sx, sy, sz = second * x, second * y, second * z
    entries = [
        *(1.0 - sy * y - sz * z, sx * y - fz, sx * z + fy),
        *(sx * y + fz, 1.0 - sx * x - sz * z, sy * z - fx),
        *(sx * z - fy, sy * z + fx, 1.0 - sx * x - sy * y),
    ]
    return jnp.stack(entries, axis=-1).reshape(*axis_angle.shape, 3)


def _sum_of_ancestors(
    values: Float[Array, "*batch 15 rows columns"],
) -> Float[Array, "*batch 15 rows columns"]:
    """Each finger joint's value and those of the earlier joints of its chain."""
    chains = values.reshape(*values.shape[:-3], 5, 3, *values.shape[-2:])
    first = chains[..., 0, :, :]
    second = first + chains[..., 1, :, :]
    third = second + chains[..., 2, :, :]
    return jnp.stack([first, second, third], axis=-3).reshape(values.shape)


def _sum_of_subtree(values: Float[Array, "*batch 15 K"]) -> Float[Array, "*batch 15 K"]:
    """Each finger joint's value and those of the later joints of its chain."""
    chains = values.reshape(*values.shape[:-2], 5, 3, values.shape[-1])
    third = chains[..., 2, :]
    second = third + chains[..., 1, :]
    first = second + chains[..., 0, :]
    return jnp.stack([first, second, third], axis=-2).reshape(values.shape)


def _transform(
    A: Float[Array, "*batch 3 3"], X: Float[Array, "*batch2 3 columns"]
) -> Float[Array, "*batch3 3 columns"]:
    """A X, batch dimensions broadcast."""
    return _dot3([A[..., :, r, None] for r in _XYZ], [X[..., None, r, :] for r in _XYZ])


def _dot3(a: Sequence[Array], b: Sequence[Array]) -> Array:
    """Inner product of vectors given as three arrays of components, which broadcast."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _cross(a: Sequence[Array], b: Sequence[Array]) -> list[Array]:
    """Cross product of such vectors."""
    return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
