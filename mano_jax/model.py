"""The MANO hand model: two hands posed by one program.

    HandModel   what one file holds (NumPy, float64)
        |  two_hands()
    Hands       both hands stacked on a leading axis [right, left] (JAX, float32)
        |  pose_hands() / pose_joints()
    PosedHands  vertices and joints

Formulas: Romero, Tzionas and Black, "Embodied hands", SIGGRAPH Asia 2017, sections 3-4, on the
skinning of Loper et al., "SMPL", 2015. Lengths are metres, angles radians. A hand's own frame is
the file's: its origin is MANO's origin, and the wrist lies about 0.096 m away from it.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float64, Int

from mano_jax.joint_orders import DEFAULT_FINGERTIPS, fingertip_vertices
from mano_jax.kinematics import forward_kinematics, rotate
from mano_jax.rotations import axis_angle_to_matrix
from mano_jax.topology import cap_faces

Side = Literal["right", "left"]
SIDES: tuple[Side, Side] = ("right", "left")
"""Order of the hand axis, everywhere."""

if TYPE_CHECKING:
    AnyArray = Array
else:
    # Records hold JAX arrays on the device and NumPy arrays on the host; their shapes are checked
    # at run time in both, while annotations speak of JAX arrays only.
    AnyArray = Array | np.ndarray

# Full float32 products on every device: TF32 costs 0.04 mm a product on a hand.
_FULL = jax.lax.Precision.HIGHEST


@dataclass(frozen=True)
class HandModel:
    """One MANO-format hand as its file describes it."""

    side: Side
    """Which hand."""
    v_template: Float64[np.ndarray, "V 3"]
    """Vertices at rest, metres."""
    shapedirs: Float64[np.ndarray, "V 3 S"]
    """Vertex displacement for each unit of each shape coefficient, metres."""
    posedirs: Float64[np.ndarray, "V 3 135"]
    """Vertex displacement for each entry of R - I of the fifteen finger joints (row-major)."""
    J_regressor: Float64[np.ndarray, "16 V"]
    """Joints at rest from vertices at rest."""
    lbs_weights: Float64[np.ndarray, "V 16"]
    """Skinning weights; each row sums to one."""
    faces: Int[np.ndarray, "F 3"]
    """Triangles, counter-clockwise from outside; open at the wrist."""
    pose_mean: Float64[np.ndarray, "45"]
    """Mean finger pose, axis-angle, radians."""
    pose_components: Float64[np.ndarray, "45 45"]
    """Principal components of the finger pose, one a row; they differ between the sides."""
    pose_samples: Float64[np.ndarray, "P 45"] | None
    """Finger poses the components were learnt from, absolute axis-angle, or None."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Hands:
    """Both hands, ready to be posed: a pytree whose leading axis is [right, left].

    Make it with `two_hands`, `load_hands` or `procedural_hands`.
    """

    v_template: Float[Array, "2 V 3"]
    """Vertices at rest, metres."""
    shapedirs: Float[Array, "2 V 3 S"]
    """Vertex displacement for each unit of each shape coefficient, metres."""
    posedirs: Float[Array, "2 V 3 135"]
    """Vertex displacement for each entry of R - I of the finger joints."""
    J_template: Float[Array, "2 16 3"]
    """`J_regressor @ v_template`: joints at rest, metres."""
    J_shapedirs: Float[Array, "2 16 3 S"]
    """`J_regressor @ shapedirs`: how the joints at rest follow the shape."""
    lbs_weights: Float[Array, "2 V 16"]
    """Skinning weights."""
    faces: Int[Array, "2 F 3"]
    """The real triangles; the left hand has its own winding."""
    cap_faces: Int[Array, "2 C 3"]
    """Triangles that close the wrist, for signs and volumes only: no surface to touch."""
    pose_mean: Float[Array, "2 15 3"]
    """Mean finger pose, axis-angle."""
    pose_components: Float[Array, "2 45 45"]
    """Principal components of the finger pose, one a row."""
    pose_samples: tuple[Float[Array, "P 15 3"], Float[Array, "Q 15 3"]] | None
    """Pose samples of the right and the left hand, absolute axis-angle, or None."""
    tip_vertices: Int[Array, "2 5"]
    """Fingertip vertices, thumb to pinky."""

    @property
    def num_vertices(self) -> int:
        """V, 778 for MANO."""
        return self.v_template.shape[1]

    @property
    def num_betas(self) -> int:
        """S, 10 for MANO."""
        return self.shapedirs.shape[-1]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PosedHands:
    """Two posed hands, metres."""

    vertices: Float[AnyArray, "*batch 2 V 3"]
    """Surface vertices."""
    joints: Float[AnyArray, "*batch 2 21 3"]
    """Joints in `mano21` order: sixteen of the kinematic chain, five fingertip vertices."""


def two_hands(
    right: HandModel,
    left: HandModel | None = None,
    *,
    fingertips: str = DEFAULT_FINGERTIPS,
    dtype: DTypeLike = jnp.float32,
) -> Hands:
    """Stack two models on the hand axis.

    Args:
        right: the right hand.
        left: the left hand; None takes the mirrored right one.
        fingertips: a set of `joint_orders.FINGERTIP_VERTICES`.
        dtype: float32, or float64 (needs JAX's x64 mode).

    Raises:
        ValueError: the sides are wrong, or the two hands' arrays differ in shape.
    """
    left = mirrored(right) if left is None else left
    for model, side in ((right, "right"), (left, "left")):
        if model.side != side:
            raise ValueError(f"expected a {side} hand, found a {model.side} one")
    for name in ("v_template", "shapedirs", "posedirs", "faces"):
        a, b = getattr(right, name).shape, getattr(left, name).shape
        if a != b:
            raise ValueError(f"{name} has shape {a} for the right hand but {b} for the left")

    def stack(values, kind=dtype) -> Array:
        return jnp.asarray(np.stack(values), kind)

    both = (right, left)
    samples = None
    if right.pose_samples is not None and left.pose_samples is not None:
        samples = (
            jnp.asarray(right.pose_samples.reshape(-1, 15, 3), dtype),
            jnp.asarray(left.pose_samples.reshape(-1, 15, 3), dtype),
        )
    return Hands(
        v_template=stack([m.v_template for m in both]),
        shapedirs=stack([m.shapedirs for m in both]),
        posedirs=stack([m.posedirs for m in both]),
        J_template=stack([m.J_regressor @ m.v_template for m in both]),
        J_shapedirs=stack([np.einsum("jv,vcs->jcs", m.J_regressor, m.shapedirs) for m in both]),
        lbs_weights=stack([m.lbs_weights for m in both]),
        faces=stack([m.faces for m in both], jnp.int32),
        cap_faces=stack([cap_faces(m.faces) for m in both], jnp.int32),
        pose_mean=stack([m.pose_mean.reshape(15, 3) for m in both]),
        pose_components=stack([m.pose_components for m in both]),
        pose_samples=samples,
        tip_vertices=jnp.asarray(fingertip_vertices(fingertips), jnp.int32),
    )


def mirrored(model: HandModel) -> HandModel:
    """The other hand: the mirror image in the plane x = 0, numbered alike.

    Points negate x; rotations and their axis-angle vectors negate y and z, so an entry of R - I
    changes sign where exactly one of its two indices is x; triangles turn round. Betas keep
    their meaning.
    """
    flip_point = np.array([-1.0, 1.0, 1.0])
    flip_pose = np.tile([1.0, -1.0, -1.0], 15)
    flip_matrix = np.tile(np.outer(flip_point, flip_point).ravel(), 15)
    samples = model.pose_samples
    return replace(
        model,
        side="left" if model.side == "right" else "right",
        v_template=model.v_template * flip_point,
        shapedirs=model.shapedirs * flip_point[:, None],
        posedirs=model.posedirs * flip_point[:, None] * flip_matrix,
        faces=model.faces[:, ::-1].copy(),
        pose_mean=model.pose_mean * flip_pose,
        # The rows are mirrored as poses are, so mirrored poses have the same coefficients.
        pose_components=model.pose_components * flip_pose,
        pose_samples=None if samples is None else samples * flip_pose,
    )


def rest_joints(hands: Hands, betas: Float[Array, "*batch 2 S"]) -> Float[Array, "*batch 2 16 3"]:
    """Joints of the shaped, unposed hands (metres, MANO's origin); row 0 is the wrist, J0."""
    return hands.J_template + jnp.einsum(
        "hjcs,...hs->...hjc", hands.J_shapedirs, betas, precision=_FULL
    )


def pose_hands(
    hands: Hands,
    *,
    global_orient: Float[Array, "*batch 2 3"],
    hand_pose: Float[Array, "*batch 2 15 3"],
    betas: Float[Array, "*batch 2 S"],
    transl: Float[Array, "*batch 2 3"] | None = None,
) -> PosedHands:
    """Vertices and joints of both hands, each in its own frame (MANO's origin).

    Args:
        hands: the hand model.
        global_orient: rotation of the wrist, axis-angle, about the wrist.
        hand_pose: rotation of each finger joint in its parent's frame, axis-angle, **absolute**
            (the mean pose is included, not added).
        betas: shape coefficients.
        transl: MANO's translation, metres, added last; None adds none. The wrist then lies at
            `rest_joints(hands, betas)[..., 0, :] + transl`.
    """
    R_parent_joint, A, t, joints = _articulate(hands, global_orient, hand_pose, betas)
    coefficients = jnp.concatenate([betas, _pose_feature(R_parent_joint)], axis=-1)
    blendshapes = jnp.concatenate([hands.shapedirs, hands.posedirs], axis=-1)
    # Coordinates before vertices: the long axis last keeps every step below vectorised.
    shaped = jnp.swapaxes(hands.v_template, -1, -2) + jnp.einsum(
        "hvck,...hk->...hcv", blendshapes, coefficients, precision=_FULL
    )
    vertices = _skin(jnp.swapaxes(hands.lbs_weights, -1, -2), A, t, shaped)
    tips = jnp.take_along_axis(vertices, _expand_tips(hands.tip_vertices, vertices.ndim), axis=-2)
    joints = jnp.concatenate([joints, tips], axis=-2)
    if transl is not None:
        vertices, joints = vertices + transl[..., None, :], joints + transl[..., None, :]
    return PosedHands(vertices=vertices, joints=joints)


def pose_joints(
    hands: Hands,
    *,
    global_orient: Float[Array, "*batch 2 3"],
    hand_pose: Float[Array, "*batch 2 15 3"],
    betas: Float[Array, "*batch 2 S"],
    transl: Float[Array, "*batch 2 3"] | None = None,
) -> Float[Array, "*batch 2 21 3"]:
    """The joints of `pose_hands` without its surface: only five vertices are skinned.

    Arguments and frame as for `pose_hands`; metres, `mano21` order.
    """
    R_parent_joint, A, t, joints = _articulate(hands, global_orient, hand_pose, betas)
    coefficients = jnp.concatenate([betas, _pose_feature(R_parent_joint)], axis=-1)
    hand, tip = jnp.arange(2)[:, None], hands.tip_vertices
    blendshapes = jnp.concatenate([hands.shapedirs[hand, tip], hands.posedirs[hand, tip]], axis=-1)
    shaped = jnp.swapaxes(hands.v_template[hand, tip], -1, -2) + jnp.einsum(
        "hvck,...hk->...hcv", blendshapes, coefficients, precision=_FULL
    )
    weights = jnp.swapaxes(hands.lbs_weights[hand, tip], -1, -2)
    joints = jnp.concatenate([joints, _skin(weights, A, t, shaped)], axis=-2)
    return joints if transl is None else joints + transl[..., None, :]


def assemble(
    points: Float[Array, "*batch 2 N 3"],
    wrists: Float[Array, "*batch 2 3"],
    relative_transl: Float[Array, "*batch 3"],
    left_anchor: Bool[Array, "*batch"],
) -> Float[Array, "*batch 2 N 3"]:
    """Move both hands into one frame whose origin is the anchor's wrist.

    Args:
        points: points of each hand in its own frame.
        wrists: each hand's wrist in that same frame.
        relative_transl: left wrist minus right wrist, metres.
        left_anchor: the anchor is the left wrist, not the right one.
    """
    right_offset = jnp.where(left_anchor[..., None], -relative_transl, 0.0)
    left_offset = jnp.where(left_anchor[..., None], 0.0, relative_transl)
    offsets = jnp.stack([right_offset, left_offset], axis=-2)
    return points + (offsets - wrists)[..., None, :]


def _articulate(hands: Hands, global_orient: Array, hand_pose: Array, betas: Array):
    """Local rotations, then the affine map (A, t) of each joint and the posed joints."""
    pose = jnp.concatenate([global_orient[..., None, :], hand_pose], axis=-2)
    R_parent_joint = axis_angle_to_matrix(pose)
    joints_at_rest = rest_joints(hands, betas)
    A, joints = forward_kinematics(R_parent_joint, joints_at_rest)
    return R_parent_joint, A, joints - rotate(A, joints_at_rest), joints


def _pose_feature(R_parent_joint: Array) -> Array:
    """R - I of the fifteen finger joints, row-major: what the pose blend shapes multiply."""
    finger = R_parent_joint[..., 1:, :, :] - jnp.eye(3, dtype=R_parent_joint.dtype)
    return finger.reshape(*finger.shape[:-3], 135)


def _skin(weights: Array, A: Array, t: Array, shaped: Array) -> Array:
    """Linear blend skinning of points (..., 2, 3, V) -> (..., 2, V, 3)."""
    maps = jnp.concatenate([A, t[..., None]], axis=-1)
    blended = jnp.einsum("hjv,...hjrk->...hrkv", weights, maps, precision=_FULL)
    rows = [
        blended[..., r, 0, :] * shaped[..., 0, :]
        + blended[..., r, 1, :] * shaped[..., 1, :]
        + blended[..., r, 2, :] * shaped[..., 2, :]
        + blended[..., r, 3, :]
        for r in range(3)
    ]
    return jnp.stack(rows, axis=-1)


def _expand_tips(tips: Array, ndim: int) -> Array:
    """(2, 5) -> (1, ..., 2, 5, 1), as `take_along_axis` over vertices wants it."""
    return tips.reshape((1,) * (ndim - 3) + (2, 5, 1))
