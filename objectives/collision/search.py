"""Searching two hands for collisions: which vertices are inside or near, and their closest faces.

The search goes through the directions (one hand's vertices in the other hand) of all frames, a few
at a time, which bounds its memory whatever the batch. A direction whose hands' boxes are apart is
skipped: outside the box of a mesh its winding number is below 1/2, so "outside" is exact.

A search with a band also finds the closest faces of vertices outside that are within that distance
of the other hand, and no farther ones: every engine finds the same vertices. The boxes that must
be apart for a direction to be skipped are then grown by the band.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mano_jax.model import Hands
from objectives.collision import culled, exact
from objectives.collision.geometry import in_box, is_above
from objectives.collision.tiles import Blocking, backend_blocking


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Search:
    """For each vertex, what a search found in the *other* hand."""

    face: Int[Array, "*batch 2 V"]
    """Closest real face of the other hand; -1 outside and farther from it than the band."""
    inside: Bool[Array, "*batch 2 V"]
    """Whether the vertex is inside the other hand."""
    above: Bool[Array, "*batch 2 V"]
    """Whether it was on the outer side of that face's plane, to notice when it crosses it."""


@partial(jax.jit, static_argnames=("band", "blocking"))
def search_exact(
    hands: Hands,
    vertices: Float[Array, "*batch 2 V 3"],
    active: Bool[Array, "*batch"],
    *,
    band: float = 0.0,
    blocking: Blocking | None = None,
) -> Search:
    """Search every vertex against every face: the reference.

    Args:
        hands: the hand model (faces and caps).
        vertices: both hands in one frame, metres.
        active: frames to search; in the others, and where a vertex is not finite, none is inside.
        band: how near vertices outside have their closest face too, metres, static; with
            `math.inf` all have, in frames whose boxes are apart too.
        blocking: how much is looked at together; what suits the backend unless told.
    """

    def look(query, target, triangles, caps, wanted, blocking):
        del target
        return exact.search_directions(query, triangles, caps, wanted, blocking, band=band)

    return _by_direction(look, hands, vertices, active, blocking, band)


@partial(jax.jit, static_argnames=("band", "blocking"))
def search_culled(
    hands: Hands,
    vertices: Float[Array, "*batch 2 V 3"],
    active: Bool[Array, "*batch"],
    *,
    band: float = 0.0,
    blocking: Blocking | None = None,
) -> Search:
    """The same answer from the vertices that may be inside or near, and the faces nearby.

    Args:
        hands: the hand model (faces and caps).
        vertices: both hands in one frame, metres.
        active: frames to search; in the others, and where a vertex is not finite, none is inside.
        band: how near vertices outside have their closest face too, metres, static.
        blocking: how much is looked at together; what suits the backend unless told.
    """
    look = partial(culled.search_directions, band=band)
    return _by_direction(look, hands, vertices, active, blocking, band)


def _by_direction(
    look: Callable,
    hands: Hands,
    vertices: Float[Array, "*batch 2 V 3"],
    active: Bool[Array, "*batch"],
    blocking: Blocking | None,
    band: float,
) -> Search:
    """Search every (frame, hand) that needs it, a few at a time."""
    if not band >= 0:
        raise ValueError(f"band is a distance in metres, at least 0; received {band}")
    batch, count = vertices.shape[:-3], vertices.shape[-2]
    # What is found is a choice: it has no derivative.
    frames = jax.lax.stop_gradient(vertices).reshape(-1, *vertices.shape[-3:])
    queries = frames.reshape(-1, *frames.shape[-2:])
    targets = frames[:, ::-1].reshape(queries.shape)
    # A vertex that is no number has no inside or outside, nor has its frame.
    wanted = jnp.repeat(active.reshape(-1) & jnp.isfinite(frames).all(axis=(1, 2, 3)), 2)
    wanted &= in_box(queries, targets, band).any(axis=-1)
    # Hand h is looked for in the faces of hand 1 - h; every second direction is the left hand's.
    other = 1 - jnp.arange(len(queries), dtype=jnp.int32) % 2

    blocking = blocking or backend_blocking()
    at_once = max(1, min(blocking.directions, len(queries)))

    def some(inputs):
        query, target, other, wanted = inputs

        def search():
            triangles = jax.vmap(lambda t, h: t[hands.faces[h]])(target, other)
            caps = jax.vmap(lambda t, h: t[hands.cap_faces[h]])(target, other)
            face, inside = look(query, target, triangles, caps, wanted, blocking)
            corners = jax.vmap(lambda t, f: t[f])(triangles, face)
            return face, inside, is_above(query, corners) & (face >= 0)

        return jax.lax.cond(wanted.any(), search, partial(_all_outside, at_once, count))

    parts = -(-len(queries) // at_once)
    rows = jnp.minimum(jnp.arange(parts * at_once, dtype=jnp.int32), len(queries) - 1)
    inputs = [x[rows].reshape(parts, at_once, *x.shape[1:]) for x in (queries, targets, other)]
    first = (jnp.arange(len(rows)) < len(queries)).reshape(parts, at_once)
    wanted = first & wanted[rows].reshape(parts, at_once)

    def all_parts():
        found = jax.lax.map(some, (*inputs, wanted))
        return tuple(x.reshape(-1, count)[: len(queries)] for x in found)

    # A batch whose hands are all apart does not even go through its parts.
    face, inside, above = jax.lax.cond(
        wanted.any(), all_parts, partial(_all_outside, len(queries), count)
    )
    shape = (*batch, 2, count)
    return Search(face.reshape(shape), inside.reshape(shape), above.reshape(shape))


def nothing_found(shape: tuple[int, ...]) -> Search:
    """The search of hands that are apart, for vertices (*batch 2 V)."""
    return Search(*_all_outside(*shape))


def _all_outside(*shape: int) -> tuple[Array, Array, Array]:
    none = jnp.zeros(shape, bool)
    return jnp.full(shape, -1, jnp.int32), none, none
