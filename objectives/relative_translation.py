"""Where the left hand is, seen from the right one.

IHMR (Rong et al., 3DV 2021): the term F_tau of equation (10).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from objectives.problem import Observations, TwoHandParams, both_hands
from objectives.robust import squared


def relative_translation_residual(
    params: TwoHandParams, observations: Observations
) -> Float[Array, "*batch residuals"]:
    """Residual r = (tau - target) / sqrt(3), metres, least squares.

    The target is the left wrist minus the right wrist of the estimated 3D joints. A confidence
    says only whether a wrist is there: it does not weight the term.

    Args:
        params: hold tau, left wrist minus right wrist.
        observations: no `joints_3d` gives no residuals.

    Returns:
        Three residuals, zero unless the frame has both hands and both wrist targets.
    """
    tau = params.relative_transl
    targets, confidence = observations.joints_3d, observations.joints_3d_confidence
    if targets is None or confidence is None:
        return jnp.zeros((*tau.shape[:-1], 0), tau.dtype)
    target = targets[..., 1, 0, :] - targets[..., 0, 0, :]
    known = jnp.all(confidence[..., 0] > 0, axis=-1) & both_hands(observations.hand_valid)
    return jnp.where(known[..., None], tau - target, 0.0) / 3.0**0.5


def relative_translation_energy(
    params: TwoHandParams, observations: Observations
) -> Float[Array, "*batch"]:
    """F_tau, mean squared difference of tau to its target, m^2.

    Arguments as for `relative_translation_residual`.
    """
    return jnp.sum(squared(relative_translation_residual(params, observations)), axis=-1)
