"""Energies of penetration and contact: per frame, zero without both hands."""

from typing import Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from objectives.robust import geman_mcclure

BOX_TO_SCALE: Final = 0.6
"""IHMR normalises depths by half the longest side of a hand's box, enlarged by a fifth."""

ROBUST_SCALE: Final = 0.01
"""Metres: depths well beyond it hardly pull any more on `robust_depth_energy`."""

CONTACT_BAND: Final = 0.005
"""Metres: skin this near the other hand is drawn to it by `contact_energy`."""


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
        scale: what each hand's depths are divided by, metres: the other hand's `box_scale`.
        active: frames with both hands; the others' energy is zero.

    The quarter is the released program's division by the squared number of hands (Rong et al.,
    "Monocular 3D reconstruction of interacting hands via collision-aware factorized
    refinements", 3DV 2021, after Jiang et al., CVPR 2020). The authors' grid divides a vertex's
    depth by the scale of its own hand's box; we take the box of the hand that it is in.
    """
    safe_scale = jnp.where(active[..., None], scale, 1.0)
    return jnp.where(active, 0.25 * jnp.sum(depth.sum(axis=-1) / safe_scale, axis=-1), 0.0)


def squared_depth_energy(
    depth: Float[Array, "*batch 2 V"], active: Bool[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Sum of squared depths, m^2: the depths themselves are its residuals."""
    return jnp.where(active, jnp.sum(depth**2, axis=(-2, -1)), 0.0)


def robust_depth_energy(
    depth: Float[Array, "*batch 2 V"], active: Bool[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Sum of Geman-McClure kernels of the depths over `ROBUST_SCALE`, dimensionless.

    The robustifier of Jiang et al. (CVPR 2020); IHMR trains with it and optimises without.
    """
    kernel = geman_mcclure(depth / ROBUST_SCALE, 1.0)
    return jnp.where(active, jnp.sum(kernel, axis=(-2, -1)), 0.0)


def contact_energy(
    distance: Float[Array, "*batch 2 V"],
    inside: Bool[Array, "*batch 2 V"],
    active: Bool[Array, "*batch"],
) -> Float[Array, "*batch"]:
    """Sum of squared gaps, m^2, of the skin that is outside and within `CONTACT_BAND`.

    Args:
        distance: `surface_distance` of each vertex, metres, by a search whose band is no less.
        inside: whether it is inside.
        active: frames with both hands.
    """
    # Squared after the choice: an infinite distance would make the gradient NaN.
    gap = jnp.where((distance < CONTACT_BAND) & ~inside, distance, 0.0)
    return jnp.where(active, jnp.sum(gap**2, axis=(-2, -1)), 0.0)
