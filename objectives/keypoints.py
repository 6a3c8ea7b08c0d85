"""What the joints are held against: 2D keypoints and 3D joint estimates.

IHMR (Rong et al., "Monocular 3D reconstruction of interacting hands via collision-aware factorized
refinements", 3DV 2021): the terms F_2D and F_3D of equation (10).
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mano_jax.cameras import project_perspective, project_weak, transform
from objectives.masked_means import coordinate_weights, safe_sqrt
from objectives.problem import Observations, PerspectiveViews, TwoHandParams
from objectives.robust import absolute, squared


def project(
    params: TwoHandParams, points: Float[Array, "*batch 2 N 3"], observations: Observations
) -> Float[Array, "*batch C 2 N 2"]:
    """Image coordinates of points in every view.

    Args:
        params: hold the weak camera, or the anchor wrist's place before the perspective one.
        points: anchor frame, metres.
        observations: its `views` choose the camera.

    Returns:
        Without views, normalised crop coordinates of the one weak camera (C = 1); with views,
        pixels.
    """
    batch, count = points.shape[:-3], points.shape[-2]
    points = points.reshape(*batch, 2 * count, 3)
    if observations.views is None:
        image = project_weak(points, params.weak_camera)[..., None, :, :]
    else:
        image = _project_views(observations.views, points + params.root_transl[..., None, :])
    return image.reshape(*batch, -1, 2, count, 2)


def keypoints_2d_difference(
    params: TwoHandParams, joints: Float[Array, "*batch 2 21 3"], observations: Observations
) -> Float[Array, "*batch C 2 21 2"] | None:
    """Projected minus observed keypoints, crop units; zero for missing ones, None without any."""
    keypoints, confidence = observations.keypoints_2d, observations.keypoints_2d_confidence
    if keypoints is None or confidence is None:
        return None
    difference = project(params, joints, observations) - keypoints
    if observations.views is not None:
        scale = observations.views.pixel_scale
        difference = difference / jnp.where(scale > 0, scale, 1.0)[..., None, None, None]
    # Selected, not only weighted by 0: the values beside a zero confidence mean nothing.
    return jnp.where(confidence[..., None] > 0, difference, 0.0)


def keypoints_2d_residual(
    params: TwoHandParams, joints: Float[Array, "*batch 2 21 3"], observations: Observations
) -> Float[Array, "*batch residuals"]:
    """2D joint errors, r = c / (2n) (projected - keypoint), for the absolute kernel.

    The energy is sum abs(r): the confidence-weighted mean L1 distance over the valid scalar
    coordinates of all views and both hands. Pixels are first divided by each view's
    `pixel_scale`, so that r is in crop units with either camera.

    Args:
        params: hold the camera's free parameters.
        joints: anchor frame, metres.
        observations: no `keypoints_2d` gives no residuals.

    Returns:
        C * 2 * 21 * 2 residuals, zero for missing keypoints.
    """
    batch = joints.shape[:-3]
    difference = keypoints_2d_difference(params, joints, observations)
    confidence = observations.keypoints_2d_confidence
    if difference is None or confidence is None:
        return jnp.zeros((*batch, 0), joints.dtype)
    weights = coordinate_weights(confidence.reshape(*batch, -1), 2)
    return (weights[..., None] * difference.reshape(*batch, -1, 2)).reshape(*batch, -1)


def keypoints_2d_energy(
    params: TwoHandParams, joints: Float[Array, "*batch 2 21 3"], observations: Observations
) -> Float[Array, "*batch"]:
    """F_2D = sum c abs(projected - keypoint) / (2n), in crop units.

    Arguments as for `keypoints_2d_residual`; a frame without keypoints has 0.
    """
    return jnp.sum(absolute(keypoints_2d_residual(params, joints, observations)), axis=-1)


def joints_3d_difference(
    joints: Float[Array, "*batch 2 21 3"], observations: Observations
) -> Float[Array, "*batch 2 21 3"] | None:
    """Joints minus their targets, metres; zero for missing ones, None without any.

    Both sets are first translated to the anchor wrist. Where that wrist has no target, they are
    translated to the centroid of the joints that have one (in both sets the same joints).
    """
    targets, confidence = observations.joints_3d, observations.joints_3d_confidence
    if targets is None or confidence is None:
        return None
    difference = joints - targets
    # Translating both sets to one of their points, or mean, takes its difference from all others'.
    shares = origin_shares(confidence, observations.left_anchor)
    difference = difference - jnp.sum(shares[..., None] * difference, axis=(-3, -2), keepdims=True)
    return jnp.where((confidence > 0)[..., None], difference, 0.0)


def joints_3d_residual(
    joints: Float[Array, "*batch 2 21 3"], observations: Observations
) -> Float[Array, "*batch residuals"]:
    """3D joint errors, r = sqrt(c / 3n) (joint - target), metres, least squares.

    Both sets are first translated as in `joints_3d_difference`.

    Args:
        joints: anchor frame, metres.
        observations: no `joints_3d` gives no residuals.

    Returns:
        2 * 21 * 3 residuals, zero for missing joints.
    """
    batch = joints.shape[:-3]
    difference = joints_3d_difference(joints, observations)
    confidence = observations.joints_3d_confidence
    if difference is None or confidence is None:
        return jnp.zeros((*batch, 0), joints.dtype)
    weights = safe_sqrt(coordinate_weights(confidence.reshape(*batch, -1), 3))
    return (weights[..., None] * difference.reshape(*batch, -1, 3)).reshape(*batch, -1)


def joints_3d_energy(
    joints: Float[Array, "*batch 2 21 3"], observations: Observations
) -> Float[Array, "*batch"]:
    """F_3D = sum c (joint - target)^2 / (3n), m^2.

    Arguments as for `joints_3d_residual`; a frame without targets has 0.
    """
    return jnp.sum(squared(joints_3d_residual(joints, observations)), axis=-1)


def origin_shares(
    confidence: Float[Array, "*batch 2 21"], left_anchor: Bool[Array, "*batch"]
) -> Float[Array, "*batch 2 21"]:
    """What each joint contributes to the point that F_3D translates both sets to; the sum is 1.

    The anchor wrist is that point, or the centroid of the valid joints where it is not valid.
    """
    valid = (confidence > 0).astype(confidence.dtype)
    centroid = valid / jnp.maximum(jnp.sum(valid, axis=(-2, -1), keepdims=True), 1.0)
    hand = jnp.stack([~left_anchor, left_anchor], axis=-1).astype(confidence.dtype)
    wrist = jnp.zeros_like(valid).at[..., 0].set(hand)
    wrist_valid = jnp.any(wrist * valid > 0, axis=(-2, -1), keepdims=True)
    return jnp.where(wrist_valid, wrist, centroid)


def _project_views(
    views: PerspectiveViews, points: Float[Array, "*batch N 3"]
) -> Float[Array, "*batch C N 2"]:
    """Pixels in every view of points in the first camera's frame."""
    num_views = views.K.shape[-3]
    points = jnp.broadcast_to(
        points[..., None, :, :], (*points.shape[:-2], num_views, *points.shape[-2:])
    )
    return project_perspective(transform(views.T_view_camera, points), views.K, views.distortion)
