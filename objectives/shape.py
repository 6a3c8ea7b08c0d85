"""Priors on the shape: one person's two hands, small betas, a known bone.

IHMR (Rong et al., 3DV 2021): the term F_reg of equation (10). S2HAND (Chen et al., "Model-based 3D
hand reconstruction via self-supervised learning", CVPR 2021): the scale regularisation of the
supplementary, section 1.
"""

from typing import Final

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mano_jax import joint_orders
from objectives.masked_means import hand_weights, safe_sqrt
from objectives.problem import both_hands
from objectives.robust import squared

MEAN_BONE_LENGTH: Final = 0.0282
"""Mean length of the middle finger's proximal phalanx, metres (S2HAND, set by its authors)."""

_MIDDLE1 = joint_orders.index("middle1")
_MIDDLE2 = joint_orders.index("middle2")


def shape_difference_residual(
    betas: Float[Array, "*batch 2 S"], hand_valid: Bool[Array, "*batch 2"]
) -> Float[Array, "*batch S"]:
    """Residual r = (right betas - left betas) / sqrt(S); zero unless both hands are there.

    Betas have no unit: the standard deviations of the shape space.
    """
    difference = (betas[..., 0, :] - betas[..., 1, :]) / betas.shape[-1] ** 0.5
    return jnp.where(both_hands(hand_valid)[..., None], difference, 0.0)


def shape_difference_energy(
    betas: Float[Array, "*batch 2 S"], hand_valid: Bool[Array, "*batch 2"]
) -> Float[Array, "*batch"]:
    """F_reg, mean squared difference between right and left betas; 0 with one hand."""
    return jnp.sum(squared(shape_difference_residual(betas, hand_valid)), axis=-1)


def shape_prior_residual(
    betas: Float[Array, "*batch 2 S"], hand_valid: Bool[Array, "*batch 2"]
) -> Float[Array, "*batch residuals"]:
    """Residual r = betas / sqrt(S m), m the number of valid hands; absent hands have 0."""
    weights = hand_weights(hand_valid, betas.dtype)[..., None] / betas.shape[-1]
    residual = safe_sqrt(weights) * jnp.where(hand_valid[..., None], betas, 0.0)
    return residual.reshape(*betas.shape[:-2], -1)


def shape_prior_energy(
    betas: Float[Array, "*batch 2 S"], hand_valid: Bool[Array, "*batch 2"]
) -> Float[Array, "*batch"]:
    """Mean of the squared betas: over the coefficients as well as the valid hands, not a sum."""
    return jnp.sum(squared(shape_prior_residual(betas, hand_valid)), axis=-1)


def bone_scale_residual(
    joints: Float[Array, "*batch 2 21 3"], hand_valid: Bool[Array, "*batch 2"]
) -> Float[Array, "*batch 2"]:
    """Residual r = (l - 0.0282 m) / sqrt(m), metres, m the number of valid hands.

    l is the length of the bone from middle1 to middle2 (9-10 in OpenPose's numbering).
    """
    return safe_sqrt(hand_weights(hand_valid, joints.dtype)) * bone_length_error(joints)


def bone_length_error(joints: Float[Array, "*batch 2 21 3"]) -> Float[Array, "*batch 2"]:
    """How much longer each hand's middle proximal phalanx is than 0.0282 m, metres."""
    bone = joints[..., _MIDDLE2, :] - joints[..., _MIDDLE1, :]
    # Joints that coincide give length 0 with gradient 0, where a plain norm would give NaN.
    return safe_sqrt(jnp.sum(bone * bone, axis=-1)) - MEAN_BONE_LENGTH


def bone_direction(
    joints: Float[Array, "*batch 2 21 3"], jacobian: Float[Array, "*batch 2 21 3 D"]
) -> Float[Array, "*batch 2 1 D"]:
    """Derivative of that bone's length, given the joints' derivatives."""
    bone = joints[..., _MIDDLE2, :] - joints[..., _MIDDLE1, :]
    length = safe_sqrt(jnp.sum(bone * bone, axis=-1, keepdims=True))
    direction = bone / jnp.where(length > 0, length, 1.0)
    change = jacobian[..., _MIDDLE2, :, :] - jacobian[..., _MIDDLE1, :, :]
    return jnp.sum(direction[..., None] * change, axis=-2)[..., None, :]


def bone_scale_energy(
    joints: Float[Array, "*batch 2 21 3"], hand_valid: Bool[Array, "*batch 2"]
) -> Float[Array, "*batch"]:
    """F_scale = (l - 2.82 cm)^2, m^2, mean over the valid hands."""
    return jnp.sum(squared(bone_scale_residual(joints, hand_valid)), axis=-1)
