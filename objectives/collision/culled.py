"""The culled engine: the exact answer from a fraction of the pairs.

1. A vertex can be inside the other hand only within that hand's box: test those vertices.
2. Their rays can meet only faces that overlap the tested vertices' box seen along the ray: count
   crossings with those faces.
3. None of the vertices inside is farther from the surface than from its nearest vertex: find the
   closest among the faces whose bounding sphere comes that close to one of them.
4. With a band, a vertex outside can be within it only in the other hand's box grown by it, and near
   a face only if it is as near the face's bounding sphere: find the closest among those faces.

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
    *,
    band: float,
) -> tuple[Int[Array, "D V"], Bool[Array, "D V"]]:
    """Closest face, and whether inside.

    Args:
        query: vertices of one hand.
        target: vertices of the other hand.
        triangles: corners of the other hand's real faces.
        caps: corners of the faces that close its wrist.
        wanted: directions to search; in the others every vertex is outside.
        blocking: sizes of the tiles.
        band: how far from the surface a vertex outside has its closest face too, metres; else -1.
    """
    tested = in_box(query, target) & wanted[:, None]
    crossable = _may_be_crossed(query, tested, triangles)
    inside = inside_mesh(query, tested, triangles, crossable, caps, blocking)
    near = _may_be_closest(query, inside, target, triangles, blocking)
    face = closest_faces(query, inside, triangles, near, blocking)
    if band:
        beside = in_box(query, target, band) & wanted[:, None] & ~inside
        close, near = _may_be_within(query, beside, triangles, band, blocking)
        # Not together with the vertices inside: both need few faces, but different ones.
        nearest = closest_faces(query, close, triangles, near, blocking, within=band)
        face = jnp.where(close, nearest, face)
    return face, inside


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
    centres, radii = _bounding_spheres(triangles)
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


def _may_be_within(
    points: Array, beside: Array, triangles: Array, band: float, blocking: Blocking
) -> tuple[Bool[Array, "D V"], Bool[Array, "D F"]]:
    """Points beside a mesh that may be within the band of a face, and the faces that may be it.

    The closest face of a point within the band is itself within the band, so no other face is
    needed; the spheres contain their faces, so none of those is lost.
    """
    centres, radii = _bounding_spheres(triangles)
    # Rounding must not lose the face that decides.
    reach = 1.001 * (band + radii)
    box_low = jnp.where(beside[..., None], points, jnp.inf).min(axis=-2, keepdims=True)
    box_high = jnp.where(beside[..., None], points, -jnp.inf).max(axis=-2, keepdims=True)
    low, high = centres - reach[..., None], centres + reach[..., None]
    facing = jnp.all((high >= box_low) & (low <= box_high), axis=-1)
    spheres = jnp.concatenate([centres, reach[..., None]], axis=-1)
    faces = Tiled(facing, spheres, blocking.faces)

    def of_any_face(points: Array, rows: Array) -> Array:
        def found(i: Array, close: Array) -> Array:
            some, _ = faces.tile(i)
            squared = squared_between(some[..., :3], points)
            return close | jnp.any(squared <= some[..., 3:] ** 2, axis=-2)

        return jax.lax.fori_loop(0, faces.tiles, found, jnp.zeros(rows.shape, bool))

    close = Tiled(beside, points, blocking.points).each(of_any_face, jnp.zeros_like(beside))
    kept = Tiled(close, points, blocking.points)

    def of_any_point(some: Array, rows: Array) -> Array:
        def found(i: Array, near: Array) -> Array:
            # What fills a tile up is a point more: it can only keep faces that are not needed.
            squared = squared_between(kept.tile(i)[0], some[..., :3])
            return near | jnp.any(squared <= some[..., None, :, 3] ** 2, axis=-2)

        return jax.lax.fori_loop(0, kept.tiles, found, jnp.zeros(rows.shape, bool))

    return close, faces.each(of_any_point, jnp.zeros_like(facing))


def _bounding_spheres(triangles: Array) -> tuple[Float[Array, "D F 3"], Float[Array, "D F"]]:
    """Centres, and the distances of the farthest corners from them."""
    centres = triangles.mean(axis=-2)
    radii = jnp.sqrt(jnp.sum((triangles - centres[..., None, :]) ** 2, axis=-1).max(axis=-1))
    return centres, radii
