"""How deep each vertex lies in the other hand, given a search.

Gradients follow the envelope theorem: the closest face and the point on it (its barycentric
coordinates) are frozen, and the distance to that point is differentiated with respect to both
meshes. Differentiating through the minimum over all faces would give the same vector for
gigabytes of memory.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mano_jax.model import Hands
from objectives.collision.geometry import barycentric_of_closest, is_above
from objectives.collision.search import Search


def penetration_depth(
    hands: Hands, vertices: Float[Array, "*batch 2 V 3"], found: Search
) -> Float[Array, "*batch 2 V"]:
    """Depth of each vertex inside the other hand, metres; zero outside.

    Exact where `found` is a search of these very vertices. Where it is a few steps old, the
    closest faces are kept, and a vertex changes sides when it has crossed its kept face. Where
    no frame of the batch has anything kept, there is nothing to compute, and nothing is.
    """

    def depth() -> Array:
        distance, inside = _distance_to_kept_face(hands, vertices, found)
        return jnp.where(inside, distance, 0.0)

    return jax.lax.cond(
        jnp.any(found.face >= 0), depth, lambda: jnp.zeros(vertices.shape[:-1], vertices.dtype)
    )


def surface_distance(
    hands: Hands, vertices: Float[Array, "*batch 2 V 3"], found: Search
) -> Float[Array, "*batch 2 V"]:
    """Unsigned distance of each vertex to the other hand's surface, metres.

    `found` must come from `search_exact(..., everywhere=True)`.
    """
    return _distance_to_kept_face(hands, vertices, found)[0]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ContactRows:
    """The deepest vertices of each direction, with all that a least-squares solver linearises.

    depth = normal . (closest - vertex), where closest = sum of barycentric times the corners;
    rows beyond the vertices inside have depth 0 and mean nothing.
    """

    vertex: Int[Array, "*batch 2 K"]
    """Which vertex of the hand."""
    corners: Int[Array, "*batch 2 K 3"]
    """Vertices of the closest face, in the other hand."""
    barycentric: Float[Array, "*batch 2 K 3"]
    """Where on that face the closest point is."""
    closest: Float[Array, "*batch 2 K 3"]
    """That point, metres."""
    normal: Float[Array, "*batch 2 K 3"]
    """Unit vector from the vertex to the closest point: the way out."""
    depth: Float[Array, "*batch 2 K"]
    """Depth, metres: the residual."""


def contact_rows(
    hands: Hands, vertices: Float[Array, "*batch 2 V 3"], found: Search, *, count: int
) -> ContactRows:
    """The `count` deepest vertices of each hand in the other.

    Args:
        hands: the hand model.
        vertices: both hands in one frame, metres.
        found: a search of these vertices, or of where they were a few steps ago.
        count: rows in each direction, static.
    """
    depth, vertex = jax.lax.top_k(penetration_depth(hands, vertices, found), count)
    corners = hands.faces[::-1][jnp.arange(2)[:, None], found.face]
    corners = jnp.take_along_axis(corners, vertex[..., None], axis=-2)
    rows = corners.reshape(*corners.shape[:-2], 3 * corners.shape[-2], 1)
    others = vertices[..., ::-1, :, :]
    triangles = jnp.take_along_axis(others, rows, axis=-2).reshape(*corners.shape, 3)
    points = jnp.take_along_axis(vertices, vertex[..., None], axis=-2)
    barycentric = barycentric_of_closest(points, triangles)
    closest = jnp.sum(barycentric[..., None] * triangles, axis=-2)
    safe_depth = jnp.where(depth > 0, depth, 1.0)[..., None]
    normal = jnp.where(depth[..., None] > 0, (closest - points) / safe_depth, 0.0)
    return ContactRows(vertex.astype(jnp.int32), corners, barycentric, closest, normal, depth)


def _distance_to_kept_face(
    hands: Hands, vertices: Array, found: Search
) -> tuple[Float[Array, "*batch 2 V"], Bool[Array, "*batch 2 V"]]:
    """Distance to the closest point of each vertex's kept face, and whether it is inside."""
    targets = vertices[..., ::-1, :, :]
    corners = hands.faces[::-1][jnp.arange(2)[:, None], found.face]
    rows = corners.reshape(*corners.shape[:-2], 3 * corners.shape[-2], 1)
    triangles = jnp.take_along_axis(targets, rows, axis=-2).reshape(*corners.shape, 3)
    barycentric = jax.lax.stop_gradient(barycentric_of_closest(vertices, triangles))
    closest = (
        barycentric[..., 0, None] * triangles[..., 0, :]
        + barycentric[..., 1, None] * triangles[..., 1, :]
        + barycentric[..., 2, None] * triangles[..., 2, :]
    )
    offset = vertices - closest
    squared = jnp.sum(offset * offset, axis=-1)
    # A vertex on the surface has no direction to go: its gradient is zero, not NaN.
    touching = squared == 0
    distance = jnp.where(touching, 0.0, jnp.sqrt(jnp.where(touching, 1.0, squared)))
    over_face = jnp.all(barycentric > 0, axis=-1) & (found.face >= 0)
    crossed = over_face & (is_above(vertices, triangles) != found.above)
    return distance, found.inside ^ crossed
