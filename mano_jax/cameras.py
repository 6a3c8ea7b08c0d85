"""Cameras: weak perspective, and full perspective with OpenCV's distortion.

Axes are OpenCV's: x right, y down, z forward.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

_NEAREST_DEPTH = 1e-3
"""Points nearer than this (metres), or behind the camera, project as if they were this far."""

DISTORTION_LENGTHS = (0, 4, 5, 8, 12)
"""Numbers of OpenCV distortion coefficients understood: k1 k2 p1 p2 [k3 [k4 k5 k6 [s1..s4]]]."""


def project_weak(
    points: Float[Array, "*batch N 3"], weak_camera: Float[Array, "*batch 3"]
) -> Float[Array, "*batch N 2"]:
    """Weak perspective, u = s (X + t).

    Args:
        points: metres, relative to the anchor wrist.
        weak_camera: s (crop units a metre), t_x and t_y (metres).

    Returns:
        Normalised crop coordinates, [-1, 1] over the crop.
    """
    scale, shift = weak_camera[..., None, :1], weak_camera[..., None, 1:]
    return scale * (points[..., :2] + shift)


def project_perspective(
    points: Float[Array, "*batch N 3"],
    K: Float[Array, "*batch 3 3"],
    distortion: Float[Array, "*batch k"] | None = None,
) -> Float[Array, "*batch N 2"]:
    """Full perspective in pixels, with OpenCV's radial, tangential and thin-prism distortion.

    Args:
        points: camera frame, metres. Gradients stay finite for points behind the camera.
        K: intrinsics, pixels; a skew K[0, 1] is honoured.
        distortion: `DISTORTION_LENGTHS` coefficients in OpenCV's order, or None.

    Reference: OpenCV documentation, "Camera calibration and 3D reconstruction".
    """
    depth = jnp.maximum(points[..., 2:], _NEAREST_DEPTH)
    normalised = points[..., :2] / depth
    if distortion is not None and distortion.shape[-1] > 0:
        normalised = distort(normalised, distortion)
    x, y = normalised[..., 0], normalised[..., 1]
    K = K[..., None, :, :]
    u = K[..., 0, 0] * x + K[..., 0, 1] * y + K[..., 0, 2]
    v = K[..., 1, 1] * y + K[..., 1, 2]
    return jnp.stack([u, v], axis=-1)


def distort(
    normalised: Float[Array, "*batch N 2"], distortion: Float[Array, "*batch k"]
) -> Float[Array, "*batch N 2"]:
    """OpenCV's distortion of normalised image coordinates (X/Z, Y/Z).

    Raises:
        ValueError: a number of coefficients that OpenCV's model has not.
    """
    count = distortion.shape[-1]
    if count not in DISTORTION_LENGTHS:
        raise ValueError(
            f"distortion has {count} coefficients; expected one of {DISTORTION_LENGTHS}"
        )
    padded = [distortion[..., None, i] if i < count else 0.0 for i in range(12)]
    k1, k2, p1, p2, k3, k4, k5, k6, s1, s2, s3, s4 = padded
    x, y = normalised[..., 0], normalised[..., 1]
    r2 = x * x + y * y
    radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    return jnp.stack(
        [
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x) + r2 * (s1 + r2 * s2),
            y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y + r2 * (s3 + r2 * s4),
        ],
        axis=-1,
    )


def transform(
    T: Float[Array, "*batch 4 4"], points: Float[Array, "*batch N 3"]
) -> Float[Array, "*batch N 3"]:
    """Apply a rigid transform written as a 4x4 matrix (column vectors)."""
    x, y, z = (points[..., i, None] for i in range(3))
    T = T[..., None, :, :]
    return T[..., :3, 0] * x + T[..., :3, 1] * y + T[..., :3, 2] * z + T[..., :3, 3]


def invert_transform(T: Float[Array, "*batch 4 4"]) -> Float[Array, "*batch 4 4"]:
    """Inverse of a rigid transform: R^T and -R^T t."""
    R_inverse = jnp.swapaxes(T[..., :3, :3], -1, -2)
    t = T[..., :3, 3]
    t_inverse = -(
        R_inverse[..., 0] * t[..., 0, None]
        + R_inverse[..., 1] * t[..., 1, None]
        + R_inverse[..., 2] * t[..., 2, None]
    )
    top = jnp.concatenate([R_inverse, t_inverse[..., None]], axis=-1)
    bottom = jnp.broadcast_to(jnp.array([0.0, 0.0, 0.0, 1.0], T.dtype), (*top.shape[:-2], 1, 4))
    return jnp.concatenate([top, bottom], axis=-2)
