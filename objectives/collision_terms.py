"""The collision terms from parameters: searching, and energies with what was found.

Posing the surface is what costs, so it is posed only where something depends on it: while a kept
search has nothing to say of any frame of a batch, collisions are zero without it, and a batch
whose hands are apart costs its joints only.
"""

from functools import reduce
from typing import Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from mano_jax.model import Hands
from objectives import collision
from objectives.problem import Observations, TwoHandParams, both_hands, posed_hands

COLLISION_TERMS: Final = ("collision", "collision_squared", "collision_robust", "contact")
"""Names of the terms made here."""


def search_collisions(
    hands: Hands,
    params: TwoHandParams,
    observations: Observations,
    *,
    band: float = 0.0,
    engine: collision.CollisionEngine = "culled",
    wanted: Bool[Array, ""] | None = None,
) -> collision.Found:
    """A fresh collision search, to be kept for some steps as `found`.

    Args:
        hands: the hand model.
        params: where the hands are.
        observations: which frames have both.
        band: how far outside the terms look, metres: their `collision_band`, or more.
        engine: which engine; the voxel ones know no band.
        wanted: where it is False nothing is looked for, and nothing is found.
    """

    def fresh() -> collision.Found:
        posed = posed_hands(hands, params, observations.left_anchor)
        active = both_hands(observations.hand_valid)
        return collision.search(hands, posed.vertices, active, engine=engine, band=band)

    if wanted is None:
        return fresh()
    by_vertex = (*observations.hand_valid.shape, hands.v_template.shape[-2])
    return jax.lax.cond(wanted, fresh, lambda: collision.nothing_found(by_vertex))


def collision_energies(
    hands: Hands,
    params: TwoHandParams,
    observations: Observations,
    terms: tuple[str, ...],
    found: collision.Found | None,
) -> dict[str, Array]:
    """Energies (*batch) of these terms, all of `COLLISION_TERMS`; see `term_energies`.

    With a kept search they have reverse-mode derivatives by `params` only, as solvers take; without
    one they can be differentiated as one likes.
    """

    def energies(params: TwoHandParams, terms: tuple[str, ...] = terms) -> dict[str, Array]:
        return _energies(hands, params, observations, found, terms)

    if not isinstance(found, collision.Search):
        return energies(params)
    zero = jnp.zeros_like(params.betas[..., 0, 0])
    found_any = jnp.any(found.face >= 0)
    # Plain arrays below: a custom derivative fills its arguments' pytree with placeholders.
    fields, structure = jax.tree.flatten(params)

    @jax.custom_vjp
    def while_found(*fields: Array) -> dict[str, Array]:
        return jax.lax.cond(
            found_any,
            lambda: energies(jax.tree.unflatten(structure, fields)),
            lambda: dict.fromkeys(terms, zero),
        )

    def forward(*fields: Array) -> tuple[dict[str, Array], dict[str, tuple[Array, ...]]]:
        """Energies and their gradients at once, so that nothing of the surface leaves the branch.

        What reverse mode would keep of it for later is megabytes, which a batch without contact
        would have to fill with zeros at every step.
        """

        def of_one(term: str) -> tuple[Array, tuple[Array, ...]]:
            def energy(fields: tuple[Array, ...]) -> tuple[Array, Array]:
                value = energies(jax.tree.unflatten(structure, fields), (term,))[term]
                # Frames are independent: the gradient of the sum is each frame's own.
                return jnp.sum(value), value

            gradient, value = jax.grad(energy, has_aux=True)(fields)
            return value, gradient

        nothing = zero, tuple(jnp.zeros_like(field) for field in fields)
        both = jax.lax.cond(
            found_any,
            lambda: {term: of_one(term) for term in terms},
            lambda: dict.fromkeys(terms, nothing),
        )
        return {t: value for t, (value, _) in both.items()}, {t: g for t, (_, g) in both.items()}

    def backward(
        gradients: dict[str, tuple[Array, ...]], cotangents: dict[str, Array]
    ) -> tuple[Array, ...]:
        def pull(*of_terms: Array) -> Array:
            pulled = [
                jnp.expand_dims(cotangents[term], range(zero.ndim, gradient.ndim)) * gradient
                for term, gradient in zip(terms, of_terms, strict=True)
            ]
            return reduce(jnp.add, pulled)

        return jax.tree.map(pull, *[gradients[term] for term in terms])

    while_found.defvjp(forward, backward)
    return while_found(*fields)


def _energies(
    hands: Hands,
    params: TwoHandParams,
    observations: Observations,
    found: collision.Found | None,
    terms: tuple[str, ...],
) -> dict[str, Array]:
    vertices = posed_hands(hands, params, observations.left_anchor).vertices
    active = both_hands(observations.hand_valid)
    kept = found
    if kept is None:
        kept = collision.search_exact(hands, vertices, active, band=collision_band(terms))
    depth = collision.depths(hands, vertices, kept)

    def contact_energy() -> Array:
        if not isinstance(kept, collision.Search):
            raise TypeError("contact needs a search of the surface; found a voxel grid")
        distance = collision.surface_distance(hands, vertices, kept)
        return collision.contact_energy(distance, jnp.greater(depth, 0), active)

    energies = {
        "collision": lambda: collision.collision_energy(
            depth, collision.direction_scale(vertices, kept), active
        ),
        "collision_squared": lambda: collision.squared_depth_energy(depth, active),
        "collision_robust": lambda: collision.robust_depth_energy(depth, active),
        "contact": contact_energy,
    }
    return {term: energies[term]() for term in terms}


def collision_band(terms: tuple[str, ...]) -> float:
    """How far outside the other hand these terms look, metres."""
    return collision.CONTACT_BAND if "contact" in terms else 0.0


def signed_depths(
    hands: Hands,
    params: TwoHandParams,
    observations: Observations,
    found: collision.Found | None,
    band: float,
) -> Array:
    """Signed depth of each vertex in the other hand, (*batch 2 V) metres, as far as `band` outside.

    Farther out it is -inf. None as `found` searches afresh, exactly.
    """

    def surface() -> Array:
        return posed_hands(hands, params, observations.left_anchor).vertices

    if found is None:
        vertices, active = surface(), both_hands(observations.hand_valid)
        fresh: collision.Search = collision.search_exact(hands, vertices, active, band=band)
        return collision.signed_depth(hands, vertices, fresh)
    if not isinstance(found, collision.Search):
        raise TypeError("a margin needs a search of the surface; found a voxel grid")
    return jax.lax.cond(
        jnp.any(found.face >= 0),
        lambda: collision.signed_depth(hands, surface(), found),
        lambda: jnp.full(found.face.shape, -jnp.inf, params.betas.dtype),
    )
