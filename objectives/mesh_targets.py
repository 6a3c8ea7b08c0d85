"""Vertices held against a mesh target that has the model's topology."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from objectives.masked_means import coordinate_weights, safe_sqrt, valid_centroid
from objectives.problem import Observations
from objectives.robust import squared


def vertices_residual(
    vertices: Float[Array, "*batch 2 V 3"], observations: Observations
) -> Float[Array, "*batch residuals"]:
    """Vertex errors, r = sqrt(c / 3n) (vertex - target), metres, least squares.

    A mesh target has no wrist joint, so both sets are first translated to the centroid of the
    vertices that have a target, both hands' together: their relative place still counts.

    Args:
        vertices: anchor frame, metres.
        observations: no `vertices` gives no residuals.

    Returns:
        2 * V * 3 residuals, zero for missing vertices.
    """
    batch = vertices.shape[:-3]
    targets, confidence = observations.vertices, observations.vertices_confidence
    if targets is None or confidence is None:
        return jnp.zeros((*batch, 0), vertices.dtype)
    confidence = confidence.reshape(*batch, -1)
    valid = confidence > 0
    difference = (vertices - targets).reshape(*batch, -1, 3)
    # The difference of two centroids over the same vertices is the centroid of the differences.
    difference = difference - valid_centroid(difference, valid)[..., None, :]
    difference = jnp.where(valid[..., None], difference, 0.0)
    weights = safe_sqrt(coordinate_weights(confidence, 3))
    return (weights[..., None] * difference).reshape(*batch, -1)


def vertices_energy(
    vertices: Float[Array, "*batch 2 V 3"], observations: Observations
) -> Float[Array, "*batch"]:
    """Confidence-weighted mean squared vertex difference, m^2.

    Arguments as for `vertices_residual`; a frame without targets has 0.
    """
    return jnp.sum(squared(vertices_residual(vertices, observations)), axis=-1)
