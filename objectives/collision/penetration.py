"""How deep each vertex lies in the other hand, given a search, and IHMR's energy of it.

Gradients follow the envelope theorem: the closest face and the point on it (its barycentric
coordinates) are frozen, and the distance to that point is differentiated with respect to both
meshes. Differentiating through the minimum over all faces would give the same vector for
gigabytes of memory.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mano_jax.model import Hands
from objectives.collision.exact import Search, barycentric_of_closest, is_above

BOX_TO_SCALE = 0.6
"""IHMR normalises depths by half the longest side of a hand's box, enlarged by a fifth."""


def penetration_depth(
    hands: Hands, vertices: Float[Array, "*batch 2 V 3"], found: Search
) -> Float[Array, "*batch 2 V"]:
    """Depth of each vertex inside the other hand, metres; zero outside.

    Exact where `found` is a search of these very vertices. Where it is a few steps old, the
    closest faces are kept, and a vertex changes sides when it has crossed its kept face.
    """
    distance, inside = _distance_to_kept_face(hands, vertices, found)
    return jnp.where(inside, distance, 0.0)


def surface_distance(
    hands: Hands, vertices: Float[Array, "*batch 2 V 3"], found: Search
) -> Float[Array, "*batch 2 V"]:
    """Unsigned distance of each vertex to the other hand's surface, metres.

    `found` must come from a search with `everywhere=True`.
    """
    return _distance_to_kept_face(hands, vertices, found)[0]


def box_scale(vertices: Float[Array, "*batch V 3"]) -> Float[Array, "*batch"]:
    """IHMR's length scale of a hand, metres: 0.6 times the longest side of its box, a constant.

    No gradient: a hand must not shrink its own penetration by growing its box.
    """
    sides = vertices.max(axis=-2) - vertices.min(axis=-2)
    return jax.lax.stop_gradient(BOX_TO_SCALE * sides.max(axis=-1))


def collision_energy(
    depth: Float[Array, "*batch 2 V"],
    scale: Float[Array, "*batch 2"],
    active: Bool[Array, "*batch"],
) -> Float[Array, "*batch"]:
    """F_col, a quarter of the summed depths, each over the scale of the hand it is in.

    Args:
        depth: depth of each hand's vertices in the other hand, metres.
        scale: `box_scale` of each hand.
        active: frames with both hands; the others' energy is zero.

    The quarter is the released program's division by the squared number of hands (Rong et al.,
    "Monocular 3D reconstruction of interacting hands via collision-aware factorized
    refinements", 3DV 2021, after Jiang et al., CVPR 2020). The authors' grid divides a vertex's
    depth by the scale of its own hand's box; we take the box of the hand that it is in.
    """
    safe_scale = jnp.where(active[..., None], scale[..., ::-1], 1.0)
    return jnp.where(active, 0.25 * jnp.sum(depth.sum(axis=-1) / safe_scale, axis=-1), 0.0)


def _distance_to_kept_face(
    hands: Hands, vertices: Array, found: Search
) -> tuple[Float[Array, "*batch 2 V"], Bool[Array, "*batch 2 V"]]:
    """Distance to the closest point of each vertex's kept face, and whether it is inside."""
    targets = vertices[..., ::-1, :, :]
    corners = hands.faces[::-1][jnp.arange(2)[:, None], found.face]
    rows = corners.reshape(*corners.shape[:-2], -1, 1)
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
