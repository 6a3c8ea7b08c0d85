"""How usual a finger pose is, by the hand model's own statistics."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mano_jax.model import Hands
from objectives.masked_means import hand_weights, safe_sqrt
from objectives.robust import squared

_SMALLEST_DEVIATION = np.deg2rad(1.0)
"""Standard deviation given to directions in which the samples hardly move (radians): a joint that
the samples never turn is stiff, not fixed."""

_ISOTROPIC_SHARE = 0.1
"""Share of the variance of a regressor's pose error that has no preferred direction."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PosePrior:
    """A Gaussian over the finger pose of each hand. Make it with `pose_prior`."""

    mean: Float[Array, "2 45"]
    """Mean finger pose, axis-angle, radians."""
    whitening: Float[Array, "2 45 45"]
    """Maps a difference to the mean to independent coordinates of like size."""
    error_whitening: Float[Array, "2 45 45"]
    """The same for a regressor's error of the pose, whose mean variance is taken for 1 rad^2."""


def pose_prior(hands: Hands) -> PosePrior:
    """The pose statistics of a hand model; call it once, outside `jit`.

    With pose samples the coordinates are whitened by the samples' own mean and covariance, so
    their squared length is the Mahalanobis distance (no unit). Without samples they are the
    coefficients of the model's principal components about its mean pose (radians).
    """
    both = range(2)
    if hands.pose_samples is None:
        means = [np.asarray(hands.pose_mean[side], np.float64).reshape(45) for side in both]
        # A pose is coefficients @ components + mean; the pseudo-inverse undoes that whether or
        # not a file's components are orthonormal.
        whitenings = [
            np.linalg.pinv(np.asarray(hands.pose_components[side], np.float64).T) for side in both
        ]
    else:
        samples = [np.asarray(side, np.float64).reshape(-1, 45) for side in hands.pose_samples]
        means = [side.mean(axis=0) for side in samples]
        whitenings = [_whitening(side) for side in samples]
    dtype = hands.pose_mean.dtype
    return PosePrior(
        mean=jnp.asarray(np.stack(means), dtype),
        whitening=jnp.asarray(np.stack(whitenings), dtype),
        error_whitening=jnp.asarray(np.stack([_error_whitening(w) for w in whitenings]), dtype),
    )


def pose_prior_residual(
    prior: PosePrior, hand_pose: Float[Array, "*batch 2 15 3"], hand_valid: Bool[Array, "*batch 2"]
) -> Float[Array, "*batch residuals"]:
    """Residual r = whitening (pose - mean) / sqrt(45 m), m the number of valid hands.

    Args:
        prior: the pose statistics.
        hand_pose: axis-angle, absolute.
        hand_valid: absent hands have 0.
    """
    batch = hand_pose.shape[:-3]
    difference = hand_pose.reshape(*batch, 2, 45) - prior.mean
    whitened = jnp.einsum(
        "hij,...hj->...hi", prior.whitening, difference, precision=jax.lax.Precision.HIGHEST
    )
    weights = safe_sqrt(hand_weights(hand_valid, hand_pose.dtype)[..., None] / 45)
    return (weights * jnp.where(hand_valid[..., None], whitened, 0.0)).reshape(*batch, -1)


def pose_prior_energy(
    prior: PosePrior, hand_pose: Float[Array, "*batch 2 15 3"], hand_valid: Bool[Array, "*batch 2"]
) -> Float[Array, "*batch"]:
    """Mean squared whitened coordinate over the valid hands: about 1 for a usual pose.

    Without samples, the mean squared PCA coefficient (rad^2). Arguments as for
    `pose_prior_residual`.
    """
    return jnp.sum(squared(pose_prior_residual(prior, hand_pose, hand_valid)), axis=-1)


def _whitening(samples: np.ndarray) -> np.ndarray:
    """Symmetric inverse square root of the samples' covariance, (45, 45).

    The symmetric root is the one that depends on no order or sign of eigenvectors, so mirrored
    samples give the mirrored map.
    """
    variances, directions = np.linalg.eigh(np.cov(samples, rowvar=False))
    deviations = np.sqrt(np.maximum(variances, _SMALLEST_DEVIATION**2))
    return (directions / deviations) @ directions.T


def _error_whitening(whitening: np.ndarray) -> np.ndarray:
    """Whitening of errors that mostly go where poses go, and a little everywhere, (45, 45)."""
    covariance = np.linalg.inv(whitening.T @ whitening)
    covariance /= np.trace(covariance) / len(covariance)
    covariance = (1 - _ISOTROPIC_SHARE) * covariance + _ISOTROPIC_SHARE * np.eye(len(covariance))
    variances, directions = np.linalg.eigh(covariance)
    return (directions / np.sqrt(variances)) @ directions.T
