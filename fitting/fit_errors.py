"""How far hands are from what was seen of them, in units that can be looked at.

Energies order fits; these say what a fit looks like, without any ground truth. Errors against the
truth are in `fitting.metrics`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from objectives.keypoints import joints_3d_difference, project
from objectives.problem import Observations, TwoHandParams

FIT_ERRORS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "keypoints_2d_px": "projected joints to keypoints, mean distance, pixels (with K)",
        "keypoints_2d_crop": "the same in normalised crop coordinates (weak camera)",
        "joints_3d_mm": "joints to 3D joints, mean distance, mm, both relative to the anchor wrist",
        "penetration_mm": "depth of the deepest vertex, mm (where the energy has collisions)",
    }
)
"""Columns of `fit_error_before` and `fit_error_after`: name and what it is."""

PENETRATION: Final = list(FIT_ERRORS).index("penetration_mm")
"""Column of the deepest vertex."""

_MM = 1000.0


def fit_errors(
    params: TwoHandParams,
    joints: Float[Array, "frames 2 21 3"],
    observations: Observations,
    deepest: Float[Array, "frames"],
) -> Float[Array, "frames errors"]:
    """The errors of `FIT_ERRORS`, NaN where there is nothing to measure.

    Every keypoint and joint of a confidence above zero counts the same, in all views together.

    Args:
        params: hold the camera's free parameters.
        joints: anchor frame, metres.
        observations: what was seen.
        deepest: depth of each frame's deepest vertex, metres; NaN where it was not searched for.
    """
    nothing = jnp.full_like(deepest, jnp.nan)
    pixels = crop = in_space = nothing
    if observations.keypoints_2d is not None and observations.keypoints_2d_confidence is not None:
        image = project(params, joints, observations) - observations.keypoints_2d
        reprojection = _mean(image, observations.keypoints_2d_confidence > 0)
        pixels, crop = (
            (nothing, reprojection) if observations.views is None else (reprojection, nothing)
        )
    difference = joints_3d_difference(joints, observations)
    if difference is not None and observations.joints_3d_confidence is not None:
        in_space = _MM * _mean(difference, observations.joints_3d_confidence > 0)
    return jnp.stack([pixels, crop, in_space, _MM * deepest], axis=-1)


def _mean(
    difference: Float[Array, "frames *points axes"], seen: Bool[Array, "frames *points"]
) -> Float[Array, "frames"]:
    """Mean length of a frame's vectors that count; NaN without any."""
    length = jnp.where(seen, jnp.linalg.norm(difference, axis=-1), 0.0)
    axes = tuple(range(1, seen.ndim))
    # 0 / 0, where nothing was seen, is the NaN that is meant.
    return jnp.sum(length, axis=axes) / jnp.sum(seen, axis=axes).astype(length.dtype)
