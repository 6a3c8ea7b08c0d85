"""The exact engine: every vertex against every face of the other hand, and nothing left out."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from objectives.collision.tiles import Blocking, closest_faces, inside_mesh


def search_directions(
    query: Float[Array, "D V 3"],
    triangles: Float[Array, "D F 3 3"],
    caps: Float[Array, "D C 3 3"],
    wanted: Bool[Array, "D"],
    blocking: Blocking,
    *,
    band: float,
) -> tuple[Int[Array, "D V"], Bool[Array, "D V"]]:
    """Closest face, and whether inside.

    Args:
        query: vertices of one hand.
        triangles: corners of the other hand's real faces.
        caps: corners of the faces that close its wrist.
        wanted: directions to search; in the others every vertex is outside.
        blocking: sizes of the tiles.
        band: how far from the surface a vertex outside has its closest face too, metres; else -1.
    """
    every_vertex = jnp.broadcast_to(wanted[:, None], query.shape[:2])
    every_face = jnp.ones(triangles.shape[:2], bool)
    inside = inside_mesh(query, every_vertex, triangles, every_face, caps, blocking)
    face = closest_faces(query, inside, triangles, every_face, blocking)
    if band:
        outside = every_vertex & ~inside
        nearest = closest_faces(query, outside, triangles, every_face, blocking, within=band)
        face = jnp.where(outside, nearest, face)
    return face, inside
