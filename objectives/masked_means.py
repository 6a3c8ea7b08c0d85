"""Means over what is there: the one rule by which missing data leaves every weight alone.

A mean runs over valid scalar coordinates. A joint, view or hand that is missing is left out of the
sum and of the count, so what remains keeps its weight in the frame's energy. The released program
of IHMR divides by the count of all of them, valid or not; this is the one deviation from it.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def coordinate_weights(
    confidence: Float[Array, "*batch N"], coordinates: int
) -> Float[Array, "*batch N"]:
    """Weight c / (coordinates n) that each scalar coordinate of a point has in its frame.

    Args:
        confidence: of each point, 0 for none.
        coordinates: scalars in each point.

    Returns:
        With n the number of points of positive confidence; zero where there are none.
    """
    valid = confidence > 0
    count = jnp.sum(valid.astype(confidence.dtype), axis=-1, keepdims=True)
    # At least 1: a frame without any point would divide 0 by 0.
    return jnp.where(valid, confidence, 0.0) / (coordinates * jnp.maximum(count, 1.0))


def hand_weights(hand_valid: Bool[Array, "*batch 2"], dtype: jnp.dtype) -> Float[Array, "*batch 2"]:
    """1 / (number of valid hands) for a valid hand, 0 for an absent one."""
    valid = hand_valid.astype(dtype)
    # At least 1: a frame without hands would divide 0 by 0.
    return valid / jnp.maximum(jnp.sum(valid, axis=-1, keepdims=True), 1.0)


def valid_centroid(
    points: Float[Array, "*batch N 3"], valid: Bool[Array, "*batch N"]
) -> Float[Array, "*batch 3"]:
    """Unweighted mean of the valid points; zero where there are none."""
    kept = jnp.where(valid[..., None], points, 0.0)
    count = jnp.sum(valid.astype(points.dtype), axis=-1, keepdims=True)
    return jnp.sum(kept, axis=-2) / jnp.maximum(count, 1.0)


def safe_sqrt(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Square root whose gradient at 0 is 0 instead of infinite."""
    positive = x > 0
    # The unused branch of a `where` still sends its gradient, so it must be finite as well.
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)
