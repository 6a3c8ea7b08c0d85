"""What a fit varies and what it is held against, for a batch of frames.

Everything that is per frame leads with the batch axis, and frames never look at each other. The
hand axis is [right, left]. Lengths are metres, angles radians. Points live in the *anchor frame*:
camera axes, origin at the anchor's wrist (the right one, or the left one where the frame has no
right hand).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mano_jax.model import AnyArray, Hands, PosedHands, assemble, pose_hands, pose_joints


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TwoHandParams:
    """Parameters of two hands: everything that a solver may change."""

    global_orient: Float[AnyArray, "*batch 2 3"]
    """Wrist rotation, axis-angle, camera axes."""
    hand_pose: Float[AnyArray, "*batch 2 15 3"]
    """Finger joint rotations, axis-angle, absolute (mean pose included)."""
    betas: Float[AnyArray, "*batch 2 S"]
    """Shape coefficients."""
    relative_transl: Float[AnyArray, "*batch 3"]
    """Left wrist minus right wrist."""
    root_transl: Float[AnyArray, "*batch 3"]
    """Anchor wrist in the first camera's frame; zero where there is no perspective camera."""
    weak_camera: Float[AnyArray, "*batch 3"]
    """s, t_x, t_y of u = s (X + t), X in the anchor frame; zero where there is none."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PerspectiveViews:
    """Calibrated views of each frame."""

    K: Float[AnyArray, "*batch C 3 3"]
    """Intrinsics, pixels."""
    distortion: Float[AnyArray, "*batch C k"]
    """OpenCV's distortion coefficients; k may be 0."""
    T_view_camera: Float[AnyArray, "*batch C 4 4"]
    """From the first camera's axes to each view's."""
    pixel_scale: Float[AnyArray, "*batch C"]
    """Half the longer side of the frame's keypoint box, pixels: divides the residuals, so that
    weights mean the same as in normalised crop coordinates."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Observations:
    """What was seen of each frame. A field that a file lacks is None, and its term is zero.

    Confidences are zero for whatever is missing, an absent hand's included; the values beside a
    zero confidence are finite but mean nothing.
    """

    hand_valid: Bool[AnyArray, "*batch 2"]
    """Which hands the frame has."""
    left_anchor: Bool[AnyArray, "*batch"]
    """The anchor is the left wrist: there is no right hand."""
    keypoints_2d: Float[AnyArray, "*batch C 2 21 2"] | None = None
    """Normalised crop coordinates (weak camera, C = 1) or pixels."""
    keypoints_2d_confidence: Float[AnyArray, "*batch C 2 21"] | None = None
    """Confidence of each keypoint, 0 for none."""
    views: PerspectiveViews | None = None
    """Perspective cameras; None means the weak camera of the parameters."""
    joints_3d: Float[AnyArray, "*batch 2 21 3"] | None = None
    """Estimated 3D joints of both hands in one frame with camera axes; any origin."""
    joints_3d_confidence: Float[AnyArray, "*batch 2 21"] | None = None
    """Confidence of each 3D joint, 0 for none."""
    vertices: Float[AnyArray, "*batch 2 V 3"] | None = None
    """Mesh targets of both hands in one frame with camera axes; any origin."""
    vertices_confidence: Float[AnyArray, "*batch 2 V"] | None = None
    """Confidence of each vertex, 0 for none."""
    predicted: TwoHandParams | None = None
    """What a regressor said, for the terms that hold a fit to it; None where nothing did. A weak
    camera that it did not give has s = 0."""
    predicted_tau_confidence: Float[AnyArray, "*batch 3"] | None = None
    """Confidence of each coordinate of the predicted `relative_transl`, 0 where it is unknown or
    was made from joints; None for 1."""


def posed_joints(
    hands: Hands, params: TwoHandParams, left_anchor: Bool[Array, "*batch"]
) -> Float[Array, "*batch 2 21 3"]:
    """Joints of both hands in the anchor frame, without posing the surface."""
    joints = pose_joints(
        hands,
        global_orient=params.global_orient,
        hand_pose=params.hand_pose,
        betas=params.betas,
    )
    return assemble(joints, joints[..., 0, :], params.relative_transl, left_anchor)


def posed_hands(
    hands: Hands, params: TwoHandParams, left_anchor: Bool[Array, "*batch"]
) -> PosedHands:
    """Vertices and joints of both hands in the anchor frame."""
    posed = pose_hands(
        hands,
        global_orient=params.global_orient,
        hand_pose=params.hand_pose,
        betas=params.betas,
    )
    wrists = posed.joints[..., 0, :]
    return PosedHands(
        vertices=assemble(posed.vertices, wrists, params.relative_transl, left_anchor),
        joints=assemble(posed.joints, wrists, params.relative_transl, left_anchor),
    )


def both_hands(hand_valid: Bool[Array, "*batch 2"]) -> Bool[Array, "*batch"]:
    """Whether a frame has both hands: without them the two-hand terms are zero."""
    return jnp.all(hand_valid, axis=-1)
