"""Where a perspective camera sees the hands: `root_transl` from 2D keypoints.

Closed form and NumPy in float64, like the start from joints: the solver polishes it, and a
frame's solution depends on nothing but the frame.
"""

from typing import Final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mano_jax.cameras import distort
from objectives.problem import PerspectiveViews

MINIMUM_KEYPOINTS: Final = 2
"""Fewer in a view do not fix how far away the hands are."""

_NEAREST_DEPTH = 1e-2
"""A hand nearer to the camera than this (m) is behind it, for all practical purposes."""


def root_is_solvable(seen: Bool[np.ndarray, "N C 2 21"]) -> Bool[np.ndarray, "N"]:
    """Whether some view sees keypoints enough to say where a frame's hands are."""
    return np.any(seen.sum((2, 3)) >= MINIMUM_KEYPOINTS, axis=-1)


def solve_root_transl(
    joints_anchor: Float[np.ndarray, "N 2 21 3"],
    hand_valid: Bool[np.ndarray, "N 2"],
    keypoints_2d: Float[np.ndarray, "N C 2 21 2"],
    confidence: Float[np.ndarray, "N C 2 21"],
    views: PerspectiveViews,
) -> Float[np.ndarray, "N 3"]:
    """Where the anchor wrist is in the first camera's frame, by linear least squares.

    A view's undistorted ray (u, v, 1) and a point Y in its axes satisfy Y_x = u Y_z, Y_y = v Y_z,
    which is linear in the translation; the second of two passes divides each row by the depth,
    so that it counts pixels. If that puts the hand behind a camera, the depth comes from the
    size of the hand in the first view that sees it.

    Args:
        joints_anchor: joints in the anchor frame, metres.
        hand_valid: which hands are there.
        keypoints_2d: pixels.
        confidence: 0 for a missing keypoint, whose values are not read.
        views: the cameras.

    Returns:
        Metres; NaN for a frame that `root_is_solvable` denies, or whose rays no distortion gives.
    """
    weight = np.where(hand_valid[:, None, :, None], confidence, 0.0).astype(np.float64)
    weight = np.where(np.isfinite(weight) & np.all(np.isfinite(keypoints_2d), axis=-1), weight, 0.0)
    weight = np.maximum(weight, 0.0)
    K = np.asarray(views.K, np.float64)
    T = np.asarray(views.T_view_camera, np.float64)
    rays = undistorted_rays(np.where(weight[..., None] > 0, keypoints_2d, 0.0), views)
    # A pixel that the distortion puts nowhere has no ray.
    known = np.all(np.isfinite(rays), axis=-1)
    rays, weight = np.where(known[..., None], rays, 0.0), np.where(known, weight, 0.0)
    points = np.matvec(T[:, :, None, None, :3, :3], joints_anchor[:, None].astype(np.float64))
    points = points + T[:, :, None, None, :3, 3]

    focal = 0.5 * (K[..., 0, 0] + K[..., 1, 1])[:, :, None, None]
    solution = _solve_rows(points, rays, T, weight * focal)
    depth = points[..., 2] + np.matvec(T[..., :3, :3], solution[:, None])[..., 2][..., None, None]
    refined = _solve_rows(points, rays, T, weight * focal / np.maximum(depth, 0.05))
    solution = np.where(_in_front(points, T, solution, weight)[:, None], refined, solution)
    solution = np.where(
        _in_front(points, T, solution, weight)[:, None],
        solution,
        _from_size(points, rays, T, weight),
    )
    return np.where(root_is_solvable(weight > 0)[:, None], solution, np.nan)


def undistorted_rays(
    keypoints_2d: Float[np.ndarray, "N C 2 21 2"], views: PerspectiveViews
) -> Float[np.ndarray, "N C 2 21 2"]:
    """Normalised image coordinates (X/Z, Y/Z) of pixels; not finite where no ray is seen there."""
    K = np.asarray(views.K, np.float64)[:, :, None, None]
    v = (keypoints_2d[..., 1] - K[..., 1, 2]) / K[..., 1, 1]
    u = (keypoints_2d[..., 0] - K[..., 0, 2] - K[..., 0, 1] * v) / K[..., 0, 0]
    rays = np.stack([u, v], axis=-1)
    distorted = np.any(np.asarray(views.distortion), axis=-1)
    if not np.any(distorted):
        return rays
    coefficients = jnp.asarray(views.distortion)
    flat = jnp.asarray(rays.reshape(*rays.shape[:2], 42, 2), coefficients.dtype)
    straight = np.asarray(_undistort(flat, coefficients), np.float64).reshape(rays.shape)
    # A view without distortion keeps its float64 rays, whatever the other frames have.
    return np.where(distorted[..., None, None, None], straight, rays)


@jax.jit
def _undistort(
    distorted: Float[Array, "N C points 2"], distortion: Float[Array, "N C k"]
) -> Float[Array, "N C points 2"]:
    """Inverse of `distort` by fixed-point iteration."""
    return jax.lax.fori_loop(0, 30, lambda _, x: x + distorted - distort(x, distortion), distorted)


def _solve_rows(
    points: np.ndarray, rays: np.ndarray, T: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    """Weighted least squares for t in (Y + R t)_xy = ray (Y + R t)_z, (N, 3)."""
    R = T[:, :, None, None, :3, :3]
    rows = R[..., :2, :] - rays[..., None] * R[..., 2:, :]
    target = rays * points[..., 2:] - points[..., :2]
    rows = (rows * weight[..., None, None]).reshape(len(points), -1, 3)
    target = (target * weight[..., None]).reshape(len(points), -1, 1)
    transposed = np.swapaxes(rows, -1, -2)
    normal = transposed @ rows
    # Keeps a frame without keypoints solvable; far below any real one.
    ridge = 1e-12 * np.trace(normal, axis1=-2, axis2=-1) + 1e-12
    return np.linalg.solve(normal + ridge[:, None, None] * np.eye(3), transposed @ target)[..., 0]


def _in_front(
    points: np.ndarray, T: np.ndarray, solution: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    """Whether every joint with a keypoint is in front of the view that sees it, (N,)."""
    shift = np.matvec(T[..., :3, :3], solution[:, None])
    depth = points[..., 2] + shift[..., 2][..., None, None]
    return np.all((weight <= 0) | (depth > _NEAREST_DEPTH), axis=(1, 2, 3))


def _from_size(
    points: np.ndarray, rays: np.ndarray, T: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    """Translation that gives the hand its size and centre in the first view that sees it."""
    frame = np.arange(len(points))
    view = np.argmax((weight > 0).sum((2, 3)) >= MINIMUM_KEYPOINTS, axis=1)
    points, rays, T = points[frame, view], rays[frame, view], T[frame, view]
    weight = weight[frame, view][..., None]
    total = np.maximum(weight.sum((1, 2)), 1e-12)
    centre, ray = (weight * points).sum((1, 2)) / total, (weight * rays).sum((1, 2)) / total
    offset, spread = points - centre[:, None, None], rays - ray[:, None, None]
    size = np.sqrt((weight * offset[..., :2] ** 2).sum((1, 2, 3)))
    image = np.sqrt((weight * spread**2).sum((1, 2, 3)))
    depth = np.clip(size / np.maximum(image, 1e-6), 0.1, 100.0)[:, None]
    target = np.concatenate([ray * depth, depth], axis=-1)
    return np.matvec(np.swapaxes(T[:, :3, :3], -1, -2), target - centre)
