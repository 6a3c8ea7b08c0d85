"""The culled engine: the exact answer from a fraction of the pairs.

1. A vertex can be inside the other hand only within that hand's box: test those vertices.
2. Their rays can meet only faces that overlap the tested vertices' box seen along the ray: count
   crossings with those faces.
3. None of the vertices inside is farther from the surface than from its nearest vertex: find the
   closest among the faces whose bounding sphere comes that close to one of them.

Every step keeps a superset of what matters, so nothing is approximated.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from objectives.collision.geometry import in_box, squared_between
from objectives.collision.tiles import Blocking, Tiled, closest_faces, inside_mesh


def search_directions(
    query: Float[Array, "D V 3"],
    target: Float[Array, "D V 3"],
    triangles: Float[Array, "D F 3 3"],
    caps: Float[Array, "D C 3 3"],
    wanted: Bool[Array, "D"],
    blocking: Blocking,
) -> tuple[Int[Array, "D V"], Bool[Array, "D V"], Bool[Array, "D V"]]:
    """Closest face (-1 outside), whether inside, and whether above that face.

    Args:
        query: vertices of one hand.
        target: vertices of the other hand.
        triangles: corners of the other hand's real faces.
        caps: corners of the faces that close its wrist.
        wanted: directions to search; in the others every vertex is outside.
        blocking: sizes of the tiles.
    """
    tested = in_box(query, target) & wanted[:, None]
    crossable = _may_be_crossed(query, tested, triangles)
    inside = inside_mesh(query, tested, triangles, crossable, caps, blocking)
    near = _may_be_closest(query, inside, target, triangles, blocking)
    face, above = closest_faces(query, inside, triangles, near, blocking)
    return face, inside, above


def _may_be_crossed(points: Array, tested: Array, triangles: Array) -> Bool[Array, "D F"]:
    """Faces that a ray along +z from a tested point can meet."""
    low, high = triangles.min(axis=-2), triangles.max(axis=-2)
    box_low = jnp.where(tested[..., None], points, jnp.inf).min(axis=-2, keepdims=True)
    box_high = jnp.where(tested[..., None], points, -jnp.inf).max(axis=-2, keepdims=True)
    beside = (high[..., :2] < box_low[..., :2]) | (low[..., :2] > box_high[..., :2])
    return ~beside.any(axis=-1) & (high[..., 2] >= box_low[..., 2])


def _may_be_closest(
    points: Array, inside: Array, target: Array, triangles: Array, blocking: Blocking
) -> Bool[Array, "D F"]:
    """Faces that can be the closest to a vertex inside, by bounding spheres."""
    centres = triangles.mean(axis=-2)
    radii = jnp.sqrt(jnp.sum((triangles - centres[..., None, :]) ** 2, axis=-1).max(axis=-1))
    kept = Tiled(inside, points, blocking.points)

    def reached(i: Array, near: Array) -> Array:
        some, rows = kept.tile(i)
        reach = jnp.sqrt(squared_between(some, target).min(axis=-1, keepdims=True))
        # Rounding must not lose the face that decides.
        limit = 1.0001 * (reach + radii[:, None])
        within = squared_between(some, centres) <= limit * limit
        # What fills the tile up keeps no face.
        return near | jnp.any(within & (rows < points.shape[-2])[..., None], axis=-2)

    return jax.lax.fori_loop(0, kept.tiles, reached, jnp.zeros(radii.shape, bool))
