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
    everywhere: bool,
) -> tuple[Int[Array, "D V"], Bool[Array, "D V"], Bool[Array, "D V"]]:
    """Closest face, whether inside, and whether above that face.

    Args:
        query: vertices of one hand.
        triangles: corners of the other hand's real faces.
        caps: corners of the faces that close its wrist.
        wanted: directions to search; in the others every vertex is outside.
        blocking: sizes of the tiles.
        everywhere: find the closest face of vertices outside too; else it is -1.
    """
    every_vertex = jnp.broadcast_to(wanted[:, None], query.shape[:2])
    every_face = jnp.ones(triangles.shape[:2], bool)
    inside = inside_mesh(query, every_vertex, triangles, every_face, caps, blocking)
    searched = every_vertex if everywhere else inside
    face, above = closest_faces(query, searched, triangles, every_face, blocking)
    return face, inside, above
