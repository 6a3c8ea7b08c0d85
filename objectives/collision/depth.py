"""How deep each vertex lies in the other hand, given a search.

Gradients follow the envelope theorem: the closest face and the point on it (its barycentric
coordinates) are frozen, and the distance to that point is differentiated with respect to both
meshes. Differentiating through the minimum over all faces would give the same vector for
gigabytes of memory.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mano_jax.model import Hands
from objectives.collision.geometry import barycentric_of_closest, is_above
from objectives.collision.search import Search

_TOUCHING: Final = 1e-6
"""Metres: nearer than that a vertex is on the surface, and the face's normal is the way out."""


def penetration_depth(
    hands: Hands, vertices: Float[Array, "*batch 2 V 3"], found: Search
) -> Float[Array, "*batch 2 V"]:
    """Depth of each vertex inside the other hand, metres; zero outside.

    Exact where `found` is a search of these very vertices. Where it is a few steps old, the
    closest faces are kept, and a vertex changes sides when it has crossed its kept face. Where
    no frame of the batch has anything kept, there is nothing to compute, and nothing is.
    """

    def depth() -> Array:
        at = _at_kept_face(hands, vertices, found)
        return jnp.where(at.inside, at.distance, 0.0)

    return jax.lax.cond(
        jnp.any(found.face >= 0), depth, lambda: jnp.zeros(vertices.shape[:-1], vertices.dtype)
    )


def surface_distance(
    hands: Hands, vertices: Float[Array, "*batch 2 V 3"], found: Search
) -> Float[Array, "*batch 2 V"]:
    """Unsigned distance of each vertex to the other hand's surface, metres.

    Infinite where `found` has no face, as outside its band.
    """
    distance = _at_kept_face(hands, vertices, found).distance
    return jnp.where(found.face >= 0, distance, jnp.inf)


def signed_depth(
    hands: Hands, vertices: Float[Array, "*batch 2 V 3"], found: Search
) -> Float[Array, "*batch 2 V"]:
    """Depth of each vertex in the other hand, metres: negative outside, -inf without a face.

    As `penetration_depth`, of which it is the continuation: a kept search keeps its faces, and a
    vertex changes sides when it has crossed its own. The derivative by the closest point is the
    way out, by the vertex its opposite, on the surface too.
    """

    def depth() -> Array:
        return jnp.where(found.face >= 0, _signed(_at_kept_face(hands, vertices, found))[0], none)

    none = jnp.full(vertices.shape[:-1], -jnp.inf, vertices.dtype)
    return jax.lax.cond(jnp.any(found.face >= 0), depth, lambda: none)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ContactRows:
    """The deepest vertices of each direction, with all that a least-squares solver linearises.

    depth = normal . (closest - vertex), where closest = sum of barycentric times the corners, and
    normal and barycentric are its derivatives. Where the search found fewer than K, the rows
    beyond have a depth of minus the margin and no normal: they say nothing.
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
    """Unit vector of the way out, for vertices inside and outside."""
    depth: Float[Array, "*batch 2 K"]
    """Signed depth, metres, the deepest first."""
    residual: Float[Array, "*batch 2 K"]
    """How far the vertex must move out to keep the margin, metres; zero if it keeps it."""


def contact_rows(
    hands: Hands,
    vertices: Float[Array, "*batch 2 V 3"],
    found: Search,
    *,
    count: int,
    margin: float = 0.0,
) -> ContactRows:
    """The `count` vertices of each hand that are deepest in the other, or nearest to it.

    Args:
        hands: the hand model.
        vertices: both hands in one frame, metres.
        found: a search of these vertices, or of where they were a few steps ago; its band should
            be the margin and what they move between searches.
        count: rows in each direction, static.
        margin: distance to be kept, metres.
    """
    deepest = jax.lax.stop_gradient(signed_depth(hands, vertices, found))
    deepest, vertex = jax.lax.top_k(deepest, count)
    kept = jax.tree.map(lambda x: jnp.take_along_axis(x, vertex, axis=-1), found)
    points = jnp.take_along_axis(vertices, vertex[..., None], axis=-2)
    at = _at_face(hands, points, vertices[..., ::-1, :, :], kept)
    depth, normal = _signed(at)
    says = jnp.isfinite(deepest)
    return ContactRows(
        vertex=vertex.astype(jnp.int32),
        corners=at.corners,
        barycentric=at.barycentric,
        closest=at.closest,
        normal=jnp.where(says[..., None], normal, 0.0),
        depth=jnp.where(says, depth, -margin),
        residual=jnp.where(says, jnp.maximum(depth + margin, 0.0), 0.0),
    )


class _KeptFace(NamedTuple):
    """Points and the faces that a search found for them."""

    corners: Int[Array, "*batch 2 K 3"]
    triangles: Float[Array, "*batch 2 K 3 3"]
    barycentric: Float[Array, "*batch 2 K 3"]
    closest: Float[Array, "*batch 2 K 3"]
    offset: Float[Array, "*batch 2 K 3"]
    """From the closest point to the point."""
    distance: Float[Array, "*batch 2 K"]
    inside: Bool[Array, "*batch 2 K"]


def _at_kept_face(hands: Hands, vertices: Array, found: Search) -> _KeptFace:
    return _at_face(hands, vertices, vertices[..., ::-1, :, :], found)


def _at_face(hands: Hands, points: Array, targets: Array, found: Search) -> _KeptFace:
    """The closest point of each point's kept face, the distance, and whether it is inside."""
    corners = hands.faces[::-1][jnp.arange(2)[:, None], found.face]
    rows = corners.reshape(*corners.shape[:-2], 3 * corners.shape[-2], 1)
    triangles = jnp.take_along_axis(targets, rows, axis=-2).reshape(*corners.shape, 3)
    barycentric = jax.lax.stop_gradient(barycentric_of_closest(points, triangles))
    closest = (
        barycentric[..., 0, None] * triangles[..., 0, :]
        + barycentric[..., 1, None] * triangles[..., 1, :]
        + barycentric[..., 2, None] * triangles[..., 2, :]
    )
    offset = points - closest
    squared = jnp.sum(offset * offset, axis=-1)
    # A vertex on the surface has no direction to go: its gradient is zero, not NaN.
    touching = squared == 0
    distance = jnp.where(touching, 0.0, jnp.sqrt(jnp.where(touching, 1.0, squared)))
    over_face = jnp.all(barycentric > 0, axis=-1) & (found.face >= 0)
    crossed = over_face & (is_above(points, triangles) != found.above)
    inside = found.inside ^ crossed
    return _KeptFace(corners, triangles, barycentric, closest, offset, distance, inside)


def _signed(at: _KeptFace) -> tuple[Float[Array, "*batch 2 K"], Float[Array, "*batch 2 K 3"]]:
    """Signed depth, and the way out: its derivative by the closest point."""
    outward = jnp.where(at.inside, -1.0, 1.0).astype(at.offset.dtype)
    # Nearer than that, rounding decides where an offset points.
    touching = at.distance < _TOUCHING
    safe = jnp.where(touching, 1.0, at.distance)[..., None]
    a, b, c = (at.triangles[..., i, :] for i in range(3))
    face = jnp.cross(b - a, c - a)
    length = jnp.sqrt(jnp.maximum(jnp.sum(face * face, axis=-1, keepdims=True), 1e-30))
    normal = jnp.where(touching[..., None], face / length, outward[..., None] * at.offset / safe)
    normal = jax.lax.stop_gradient(normal)
    return -jnp.sum(normal * at.offset, axis=-1), normal
