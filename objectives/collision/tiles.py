"""Points against faces, a tile at a time.

Only some of the points and faces matter: those are moved to the front, and loops as long as their
numbers go over tiles of them. So work follows what matters, memory is a tile's whatever the sizes,
shapes are static, and there is no capacity to overflow.

Everything here takes D directions (one hand's vertices, the other hand's faces) at once; the
loops are as long as the fullest of them needs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from objectives.collision.geometry import cap_winding, ray_crossings, squared_distance


@dataclass(frozen=True)
class Blocking:
    """How much is looked at together."""

    directions: int
    """Directions at once."""
    points: int
    """Points in a tile."""
    faces: int
    """Faces in a tile."""


def backend_blocking() -> Blocking:
    """A table of pairs that stays in a processor's cache; on an accelerator, one that fills it."""
    return Blocking(1, 128, 128) if jax.default_backend() == "cpu" else Blocking(256, 128, 512)


def inside_mesh(
    points: Float[Array, "D V 3"],
    tested: Bool[Array, "D V"],
    triangles: Float[Array, "D F 3 3"],
    crossable: Bool[Array, "D F"],
    caps: Float[Array, "D C 3 3"],
    blocking: Blocking,
) -> Bool[Array, "D V"]:
    """Whether the winding number of the open mesh at each tested point is above 1/2.

    Args:
        points: the points.
        tested: those to test; the others are outside.
        triangles: corners of the mesh's faces.
        crossable: faces that a ray from a tested point can meet.
        caps: corners of the faces that close the mesh.
        blocking: sizes of the tiles.
    """
    # What fills a tile of faces up has no area: no ray meets it.
    faces = Tiled(crossable, triangles, blocking.faces)

    def test(points: Array, rows: Array) -> Array:
        def count(i: Array, crossings: Array) -> Array:
            return crossings + jax.vmap(ray_crossings)(points, faces.tile(i)[0])

        winding = jax.vmap(cap_winding)(points, caps)
        none = jnp.zeros(rows.shape, jnp.int32)
        crossings = jax.lax.fori_loop(0, faces.tiles, count, none)
        return crossings.astype(points.dtype) + winding > 0.5

    return Tiled(tested, points, blocking.points).each(test, jnp.zeros_like(tested))


def closest_faces(
    points: Float[Array, "D V 3"],
    searched: Bool[Array, "D V"],
    triangles: Float[Array, "D F 3 3"],
    near: Bool[Array, "D F"],
    blocking: Blocking,
    within: float = math.inf,
) -> Int[Array, "D V"]:
    """The face closest to each searched point.

    Of equally close faces the first; -1 where a point was not searched.

    Args:
        points: the points.
        searched: those to search for.
        triangles: corners of the mesh's faces.
        near: faces that can be the closest.
        blocking: sizes of the tiles.
        within: farther faces count as none, metres.
    """
    faces = Tiled(near, triangles, blocking.faces, repeat=True)

    def find(points: Array, rows: Array) -> Array:
        def closer(i: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
            some, index = faces.tile(i)
            squared = jax.vmap(squared_distance)(points, some)
            squared = jax.lax.optimization_barrier(squared)
            # argmin is a scalar loop on a CPU; a minimum and a masked minimum of the index are not.
            least = squared.min(axis=-1)
            at_least = squared == least[..., None]
            first = jnp.where(at_least, index[:, None], index.max()).min(axis=-1)
            closer = least < best[0]
            return jnp.where(closer, least, best[0]), jnp.where(closer, first, best[1])

        nothing = (jnp.full(rows.shape, jnp.inf, points.dtype), jnp.full_like(rows, -1))
        least, first = jax.lax.fori_loop(0, faces.tiles, closer, nothing)
        return first if within == math.inf else jnp.where(least <= within**2, first, -1)

    none = jnp.full(searched.shape, -1, jnp.int32)
    return Tiled(searched, points, blocking.points).each(find, none)


class Tiled:
    """The rows of D tables that a mask keeps, moved to the front and cut into tiles.

    The last tile is filled up with zeros whose row is past the table's end, or, where a face more
    than once does no harm, with the first row.
    """

    tiles: Int[Array, ""]
    """Number of tiles that the fullest table needs."""

    def __init__(
        self,
        mask: Bool[Array, "D N"],
        values: Float[Array, "D N ..."],
        size: int,
        *,
        repeat: bool = False,
    ) -> None:
        directions, count = mask.shape
        length = -(-count // size) * size

        def compact(mask: Array, values: Array) -> tuple[Array, Array]:
            index = jnp.nonzero(mask, size=length, fill_value=count)[0].astype(jnp.int32)
            if repeat:
                index = jnp.where(index < count, index, index[0])
            return index, jnp.take(values, index, axis=0, mode="fill", fill_value=0)

        self._size = size
        self._index, self._values = jax.vmap(compact)(mask, values)
        kept = jnp.sum(mask, axis=-1, dtype=jnp.int32).max()
        self.tiles = (kept + (size - 1)) // size

    def tile(self, i: Array) -> tuple[Array, Int[Array, "D size"]]:
        """Values and original rows of a tile."""
        first = i * self._size
        values = jax.lax.dynamic_slice_in_dim(self._values, first, self._size, axis=1)
        return values, jax.lax.dynamic_slice_in_dim(self._index, first, self._size, axis=1)

    def each(self, function: Callable[[Array, Array], Array], out: Array) -> Any:
        """`function(values, rows)` of every tile, put at those rows of `out`."""

        def put(i: Array, out: Array) -> Array:
            values, rows = self.tile(i)
            return jax.vmap(lambda o, r, new: o.at[r].set(new, mode="drop"))(
                out, rows, function(values, rows)
            )

        return jax.lax.fori_loop(0, self.tiles, put, out)
