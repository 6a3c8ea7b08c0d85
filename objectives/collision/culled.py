"""The culled engine: the exact answer from a fraction of the pairs.

1. A vertex can be inside the other hand only within that hand's box: keep those vertices.
2. Their rays can meet only faces that overlap the kept vertices' box seen along the ray: keep
   those faces, and compute the winding numbers.
3. Keep the vertices that are inside. None of them is farther from the surface than from its
   nearest vertex: keep the faces whose bounding sphere comes that close to one of them, and find
   the closest.

Every step keeps a superset of what matters, so nothing is approximated. Array sizes are static:
what is kept goes into the smallest of a few rooms that it fits in, and the last one holds
everything, so nothing is ever lost for lack of room; how often it was needed is reported.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from objectives.collision.exact import in_box
from objectives.collision.geometry import closest_face, is_above, winding_number


@dataclass(frozen=True)
class Rooms:
    """Sizes (vertices, faces) to choose from, smallest first, in one direction of a frame."""

    sign: tuple[tuple[int, int], ...]
    """Vertices in the other hand's box, and the faces that their rays can meet."""
    closest: tuple[tuple[int, int], ...]
    """Vertices inside, and the faces that can be closest to them."""


ROOMS: Final = Rooms(
    sign=((256, 512), (384, 896), (576, 1216)), closest=((64, 256), (128, 384), (224, 576))
)
"""Quartiles or so of synthetic interacting hands that touch or penetrate: in half of them 350
vertices are in the box and 750 faces on their way, 45 are inside and 230 faces near them."""

# Where nothing is: fills the rest of a room.
_FAR_AWAY = 1e3


def search_direction(
    query: Float[Array, "V 3"],
    target: Float[Array, "V 3"],
    triangles: Float[Array, "F 3 3"],
    caps: Float[Array, "C 3 3"],
    rooms: Rooms,
) -> tuple[Int[Array, "V"], Bool[Array, "V"], Bool[Array, "V"], Bool[Array, ""]]:
    """Closest face (-1 outside), whether inside, whether above it; whether the last room served.

    Args:
        query: vertices of one hand.
        target: vertices of the other hand.
        triangles: corners of the other hand's real faces.
        caps: corners of the faces that close its wrist.
        rooms: sizes to choose from.
    """
    everything = (query.shape[0], triangles.shape[0])
    candidates = in_box(query, target)
    crossable = _may_be_crossed(query, candidates, triangles)

    def sign(room: tuple[int, int]) -> Array:
        rows, faces = _compact(candidates, room[0]), _compact(crossable, room[1])
        points = _take(query, rows, _FAR_AWAY)
        # A face of zeros has no area: no ray meets it.
        inside = winding_number(points, _take(triangles, faces, 0.0), caps) > 0.5
        return jnp.zeros_like(candidates).at[rows].set(inside, mode="drop")

    inside, all_signs = _in_smallest_room((*rooms.sign, everything), candidates, crossable, sign)
    near = _may_be_closest(query, inside, target, triangles, rooms)

    def closest(room: tuple[int, int]) -> tuple[Array, Array]:
        rows, faces = _compact(inside, room[0]), _compact(near, room[1])
        points = _take(query, rows, _FAR_AWAY)
        face = faces[closest_face(points, _take(triangles, faces, -_FAR_AWAY))]
        above = is_above(points, _take(triangles, face, 0.0))
        none = jnp.full_like(rows, -1, shape=candidates.shape)
        return (
            none.at[rows].set(face, mode="drop"),
            jnp.zeros_like(candidates).at[rows].set(above, mode="drop"),
        )

    (face, above), all_faces = _in_smallest_room(
        (*rooms.closest, everything), inside, near, closest
    )
    return face, inside, above, all_signs | all_faces


def _in_smallest_room(
    rooms: tuple[tuple[int, int], ...],
    rows: Bool[Array, "V"],
    faces: Bool[Array, "F"],
    compute: Callable,
) -> tuple:
    """Run `compute` in the first room that holds all rows and faces; and whether it was the last.

    Only that branch runs: directions are searched one after the other, not vectorised.
    """
    sizes = jnp.asarray(rooms, jnp.int32)
    fits = (_count(rows) <= sizes[:, 0]) & (_count(faces) <= sizes[:, 1])
    room = jnp.argmax(fits)
    branches = [lambda size=size: compute(size) for size in rooms]
    return jax.lax.switch(room, branches), room == len(rooms) - 1


def _may_be_crossed(points: Array, valid: Array, triangles: Array) -> Array:
    """Faces that a ray along +z from a valid point can meet."""
    low, high = triangles.min(axis=1), triangles.max(axis=1)
    box_low = jnp.where(valid[:, None], points, jnp.inf).min(axis=0)
    box_high = jnp.where(valid[:, None], points, -jnp.inf).max(axis=0)
    beside = (high[:, :2] < box_low[:2]) | (low[:, :2] > box_high[:2])
    return ~beside.any(axis=-1) & (high[:, 2] >= box_low[2])


def _may_be_closest(
    points: Array, valid: Array, target: Array, triangles: Array, rooms: Rooms
) -> Array:
    """Faces that can be the closest to a valid point, by bounding spheres."""
    centres = triangles.mean(axis=1)
    radii = jnp.sqrt(jnp.sum((triangles - centres[:, None]) ** 2, axis=-1).max(axis=-1))

    def in_room(size: int) -> Array:
        kept = _take(points, _compact(valid, size), _FAR_AWAY)
        reach = jnp.sqrt(jnp.min(_squared_distances(kept, target), axis=-1))
        # What fills the room is far away, and so is its reach: it must keep no face.
        reach = jnp.where(kept[:, 0] < _FAR_AWAY, reach, -_FAR_AWAY)
        # Rounding must not lose the face that decides.
        limit = jnp.maximum(1.0001 * (reach[:, None] + radii), 0)
        return jnp.any(_squared_distances(kept, centres) <= limit * limit, axis=0)

    sizes = (*(size for size, _ in rooms.closest), points.shape[0])
    room = jnp.argmax(_count(valid) <= jnp.asarray(sizes, jnp.int32))
    return jax.lax.switch(room, [lambda size=size: in_room(size) for size in sizes])


def _compact(mask: Bool[Array, "N"], size: int) -> Int[Array, "size"]:
    """Indices where a mask holds, filled up with N."""
    return jnp.nonzero(mask, size=size, fill_value=mask.shape[0])[0].astype(jnp.int32)


def _count(mask: Bool[Array, "N"]) -> Int[Array, ""]:
    return jnp.sum(mask, dtype=jnp.int32)


def _take(values: Array, indices: Array, fill: float) -> Array:
    return jnp.take(values, indices, axis=0, mode="fill", fill_value=fill)


def _squared_distances(a: Array, b: Array) -> Array:
    x, y, z = ((a[:, None, i] - b[:, i]) ** 2 for i in range(3))
    return x + y + z
