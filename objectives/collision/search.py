"""Searching two hands for collisions: which vertices are inside, and which face is closest.

The search goes through the frames one direction (one hand's vertices in the other hand) at a
time, which bounds its memory whatever the batch. A direction whose hands' boxes are apart is
skipped: outside the box of a mesh its winding number is below 1/2, so "outside" is exact.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mano_jax.model import Hands
from objectives.collision import culled, exact


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Search:
    """For each vertex, what a search found in the *other* hand."""

    face: Int[Array, "*batch 2 V"]
    """Closest real face of the other hand; -1 where it was not searched, as outside."""
    inside: Bool[Array, "*batch 2 V"]
    """Whether the vertex is inside the other hand."""
    above: Bool[Array, "*batch 2 V"]
    """Whether it was on the outer side of that face's plane, to notice when it crosses it."""
    overflowed: Bool[Array, "*batch 2"]
    """Whether `culled` had no smaller room for this direction than that for everything."""


def search_exact(
    hands: Hands,
    vertices: Float[Array, "*batch 2 V 3"],
    active: Bool[Array, "*batch"],
    *,
    everywhere: bool = False,
) -> Search:
    """Search every vertex against every face: the reference.

    Args:
        hands: the hand model (faces and caps).
        vertices: both hands in one frame, metres.
        active: frames to search; in the others no vertex is inside.
        everywhere: find the closest faces of all vertices, in frames whose boxes are apart too.
    """

    def direction(query: Array, target: Array, faces: Array, caps: Array):
        face, inside, above = exact.search_direction(query, target[faces], target[caps])
        face = face if everywhere else jnp.where(inside, face, -1)
        return face, inside, above, jnp.zeros((), bool)

    return _by_direction(direction, hands, vertices, active, everywhere=everywhere)


def search_culled(
    hands: Hands,
    vertices: Float[Array, "*batch 2 V 3"],
    active: Bool[Array, "*batch"],
    *,
    rooms: culled.Rooms = culled.ROOMS,
) -> Search:
    """The same answer for the vertices inside, from those that may be and the faces nearby.

    Args:
        hands: the hand model (faces and caps).
        vertices: both hands in one frame, metres.
        active: frames to search; in the others no vertex is inside.
        rooms: static sizes of what is kept.
    """

    def direction(query: Array, target: Array, faces: Array, caps: Array):
        return culled.search_direction(query, target, target[faces], target[caps], rooms)

    return _by_direction(direction, hands, vertices, active, everywhere=False)


def _by_direction(
    direction: Callable,
    hands: Hands,
    vertices: Float[Array, "*batch 2 V 3"],
    active: Bool[Array, "*batch"],
    *,
    everywhere: bool,
) -> Search:
    """Run `direction` on every (frame, hand) that needs it, one after the other."""
    batch, count = vertices.shape[:-3], vertices.shape[-2]
    frames = vertices.reshape(-1, *vertices.shape[-3:])
    queries = frames.reshape(-1, *frames.shape[-2:])
    targets = frames[:, ::-1].reshape(queries.shape)
    # Hand h is looked for in the faces of hand 1 - h; every second direction is the left hand's.
    hand = jnp.arange(queries.shape[0], dtype=jnp.int32) % 2
    wanted = jnp.repeat(active.reshape(-1), 2)
    if not everywhere:
        wanted &= exact.in_box(queries, targets).any(axis=-1)

    def nothing():
        none = jnp.zeros(count, bool)
        return jnp.full(count, -1, jnp.int32), none, none, jnp.zeros((), bool)

    def one(inputs):
        query, target, hand, wanted = inputs
        run = partial(direction, query, target, hands.faces[1 - hand], hands.cap_faces[1 - hand])
        return jax.lax.cond(wanted, run, nothing)

    face, inside, above, overflowed = jax.lax.map(one, (queries, targets, hand, wanted))
    return Search(
        face=face.reshape(*batch, 2, count),
        inside=inside.reshape(*batch, 2, count),
        above=above.reshape(*batch, 2, count),
        overflowed=overflowed.reshape(*batch, 2),
    )
