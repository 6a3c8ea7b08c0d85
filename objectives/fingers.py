"""Fingers that bend in a plane and never backwards.

IHMR (Rong et al., 3DV 2021): the term F_f, equation (12).
"""

from typing import Final

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mano_jax import joint_orders
from objectives.robust import absolute

FINGER_CHAINS: Final = np.array(
    [
        [joint_orders.index(f"{finger}{part}") for part in ("1", "2", "3", "_tip")]
        for finger in joint_orders.FINGERS
    ],
    np.int32,
)
"""The four joints of each finger, from the knuckle to the tip."""


def finger_twist_energy(
    joints: Float[Array, "*batch 2 21 3"], hand_valid: Bool[Array, "*batch 2"]
) -> Float[Array, "*batch"]:
    """F_f, how far the fingers leave their plane or bend against themselves.

    A finger's four joints make the bones b0, b1, b2. C1 = b2 . (b0 x b1) is the volume they span,
    zero for a flat finger; C2 = (b0 x b1) . (b1 x b2) is negative where its two bends disagree.
    The energy is the sum over all fingers of abs(C1) - min(0, C2).

    Bones are in metres and not normalised, so C1 is in m^3, C2 in m^4, and the published weight
    is large (1e5).

    Args:
        joints: any frame, metres.
        hand_valid: an absent hand counts 0. The sum is no mean: two hands cost twice one.
    """
    volume, agreement = chain_invariants(joints[..., FINGER_CHAINS, :])
    twist = absolute(volume) - jnp.minimum(agreement, 0.0)
    return jnp.sum(jnp.where(hand_valid[..., None], twist, 0.0), axis=(-2, -1))


def chain_invariants(
    chains: Float[Array, "*batch 4 3"],
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """C1 (m^3) and C2 (m^4) of fingers, each given by its four joints."""
    bones = chains[..., 1:, :] - chains[..., :-1, :]
    b0, b1, b2 = bones[..., 0, :], bones[..., 1, :], bones[..., 2, :]
    first_normal, second_normal = jnp.cross(b0, b1), jnp.cross(b1, b2)
    volume = jnp.sum(b2 * first_normal, axis=-1)
    return volume, jnp.sum(first_normal * second_normal, axis=-1)
