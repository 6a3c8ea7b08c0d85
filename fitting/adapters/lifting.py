"""From a crop's own camera to the camera of the whole image."""

import numpy as np
from jaxtyping import Float

_PASSES = 3
"""The first is linear in the rays, the others divide by the depth: their residuals are pixels."""


def place_by_pixels(
    points: Float[np.ndarray, "D P 3"],
    pixels: Float[np.ndarray, "D P 2"],
    focal: Float[np.ndarray, "D"],
    centre: Float[np.ndarray, "D 2"],
) -> Float[np.ndarray, "D 3"]:
    """Translations that make a pinhole camera see points where they were seen, metres.

    Least squares of f (X + T_x) = (u - c) (Z + T_z) and its like for y, which is linear in T. A
    hand seen by a crop's camera is seen so by the image's only up to the perspective within the
    crop: that much, a few pixels, is left.

    Args:
        points: of each hand about any origin, metres.
        pixels: where they were seen in the image.
        focal: focal length, pixels.
        centre: principal point, pixels.
    """
    ray = (pixels - centre[:, None]) / focal[:, None, None]
    depth = np.ones(points.shape[:2])
    transl = np.zeros((len(points), 3))
    for _ in range(_PASSES):
        weight = 1.0 / depth
        rows, sides = [], []
        for axis in range(2):
            row = np.zeros((*points.shape[:2], 3))
            row[..., axis] = weight
            row[..., 2] = -weight * ray[..., axis]
            rows.append(row)
            sides.append(weight * (ray[..., axis] * points[..., 2] - points[..., axis]))
        A, b = np.concatenate(rows, axis=1), np.concatenate(sides, axis=1)
        normal = np.swapaxes(A, 1, 2) @ A
        sound = np.all(np.isfinite(normal), axis=(1, 2)) & np.all(np.isfinite(b), axis=1)
        sound &= np.abs(np.linalg.det(np.where(sound[:, None, None], normal, 0.0))) > 0
        transl = np.full((len(points), 3), np.nan)
        right = (np.swapaxes(A, 1, 2) @ b[..., None])[sound]
        transl[sound] = np.linalg.solve(normal[sound], right)[..., 0]
        depth = np.maximum(points[..., 2] + transl[:, None, 2], 1e-3)
    return transl


def intrinsics(
    focal: Float[np.ndarray, "D"], centre: Float[np.ndarray, "D 2"]
) -> Float[np.ndarray, "D 3 3"]:
    """Pinhole cameras with square pixels."""
    K = np.tile(np.eye(3), (len(focal), 1, 1))
    K[:, 0, 0] = K[:, 1, 1] = focal
    K[:, :2, 2] = centre
    return K
