"""The exact engine: every vertex against every face of the other hand."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from objectives.collision.geometry import closest_face, is_above, winding_number


def search_direction(
    query: Float[Array, "V 3"],
    triangles: Float[Array, "F 3 3"],
    caps: Float[Array, "C 3 3"],
) -> tuple[Int[Array, "V"], Bool[Array, "V"], Bool[Array, "V"]]:
    """Closest face, whether inside, and whether above that face, for every vertex of a hand.

    Args:
        query: vertices of one hand.
        triangles: corners of the other hand's real faces.
        caps: corners of the faces that close its wrist.
    """
    inside = winding_number(query, triangles, caps) > 0.5
    face = closest_face(query, triangles)
    return face, inside, is_above(query, triangles[face])


def in_box(
    points: Float[Array, "*batch Q 3"], target: Float[Array, "*batch V 3"]
) -> Bool[Array, "*batch Q"]:
    """Whether points lie in the axis-aligned box of a hand."""
    low = target.min(axis=-2, keepdims=True)
    high = target.max(axis=-2, keepdims=True)
    return jnp.all((points >= low) & (points <= high), axis=-1)
