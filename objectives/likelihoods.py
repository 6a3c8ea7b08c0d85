"""Terms as negative log likelihoods in physical units.

A weight multiplies a mean-reduced energy; a *scale* says how large a term's residual usually is, in
metres, radians, crop units or betas, and the term is

    E = 1/2 sum over items of c rho(|r| / scale)

up to a constant: the negative log likelihood of independent residuals r of standard deviation
`scale` in each coordinate, with a robust kernel rho for what is not Gaussian. An item is what is
judged as a whole: a joint, a keypoint, a coefficient. Scales mean the same in every data set, and
can be estimated from it.

Differences from the energies of the same names: 3D joints are compared up to a common translation
of both hands, which is fitted too (no wrist is trusted more than another joint), and skin within a
margin of the other hand already counts as colliding.
"""

from dataclasses import dataclass
from typing import Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mano_jax.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from objectives.joint_limits import JointLimits, joint_limit_excess
from objectives.keypoints import keypoints_2d_difference
from objectives.masked_means import safe_sqrt
from objectives.pose_prior import PosePrior
from objectives.problem import Observations, TwoHandParams, both_hands
from objectives.robust import Kernel, robust_energy, robust_weight
from objectives.shape import bone_length_error

SCALE_UNITS: Final[dict[str, str]] = {
    "collision": "m, of skin nearer than the margin to the other hand or inside it",
    "keypoints_2d": "crop units, of a keypoint's coordinate",
    "joints_3d": "m, of a joint's coordinate after the best common translation",
    "relative_translation": "m, of a coordinate of left wrist - right wrist against the 3D joints",
    "shape_difference": "betas, of a coefficient's difference between the hands",
    "joint_limits": "rad, of an angle outside its range",
    "bone_scale": "m, of the middle proximal phalanx",
    "shape_prior": "betas, of a coefficient",
    "pose_prior": "1, of a whitened coordinate of the finger pose",
    "predicted_orientation": "rad, of the regressor's wrist rotation about an axis",
    "predicted_pose": "rad, of the regressor's finger angles",
    "predicted_shape": "betas, of the regressor's coefficients",
    "predicted_translation": "m, of the regressor's left wrist - right wrist, x and y",
    "predicted_depth": "m, of the regressor's left wrist - right wrist, z",
    "predicted_camera": "1, of the log of the weak camera's s, and crop units, of its offset",
}
"""Terms that may have a scale, and the scale's unit."""

CONTACT_MARGIN: Final = 5e-4
"""Metres: skin this near the other hand counts as colliding, so that what is held at the margin
by a finite force still does not penetrate."""

_CENTRING_STEPS = 10


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Items:
    """A term's residuals."""

    residual: Float[Array, "*batch K d"]
    """K items of d coordinates, in the scale's unit."""
    confidence: Float[Array, "*batch K"]
    """What each item counts; 0 where there is nothing to compare."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Scales:
    """The numbers of the scaled terms."""

    scale: dict[str, Float[Array, ""]]
    """Scale of each term, in its unit."""
    knee: dict[str, Float[Array, ""]]
    """Where each term's kernel begins to doubt, in scales."""


Kernels = tuple[tuple[str, Kernel], ...]
"""The robust kernel of each scaled term; static."""


def scaled_energy(
    items: Items, kernel: Kernel, scale: Float[Array, ""], knee: Float[Array, ""]
) -> Float[Array, "*batch"]:
    """E = 1/2 sum c rho(|r| / scale)."""
    rho = robust_energy(item_length(items) / scale, kernel, knee)
    return 0.5 * jnp.sum(items.confidence * rho, axis=-1)


def item_precision(
    items: Items, kernel: Kernel, scale: Float[Array, ""], knee: Float[Array, ""]
) -> Float[Array, "*batch K"]:
    """The a of E ~ 1/2 sum a |r|^2 + constant: least squares with it follows the kernel."""
    weight = robust_weight(item_length(items) / scale, kernel, knee)
    return items.confidence * weight / scale**2


def item_length(items: Items) -> Float[Array, "*batch K"]:
    """Euclidean length of each item's residual."""
    return safe_sqrt(jnp.sum(items.residual**2, axis=-1))


def joints_3d_items(
    joints: Float[Array, "*batch 2 21 3"],
    observations: Observations,
    kernel: Kernel,
    scale: Float[Array, ""],
    knee: Float[Array, ""],
) -> tuple[Items, Float[Array, "*batch 42"]]:
    """Joint errors after the common translation that fits them best, metres.

    Returns:
        The items, and each joint's share in that translation (the sum is 1, or 0 without joints).
        The translation is the minimum over all, so the energy's gradient takes it as fixed.
    """
    batch = joints.shape[:-3]
    targets, confidence = observations.joints_3d, observations.joints_3d_confidence
    if targets is None or confidence is None:
        none = jnp.zeros((*batch, 42), joints.dtype)
        return Items(none[..., None] * jnp.zeros(3, joints.dtype), none), none
    confidence = confidence.reshape(*batch, 42)
    known = confidence[..., None] > 0
    difference = jnp.where(known, (joints - targets).reshape(*batch, 42, 3), 0.0)
    fixed = jax.lax.stop_gradient(difference)

    def shares_at(centre: Array) -> Array:
        items = Items(fixed - centre[..., None, :], confidence)
        weight = item_precision(items, kernel, scale, knee)
        total = jnp.sum(weight, axis=-1, keepdims=True)
        return weight / jnp.where(total > 0, total, 1.0)

    total = jnp.sum(confidence, axis=-1, keepdims=True)
    shares = confidence / jnp.where(total > 0, total, 1.0)
    # A kernel's own minimum, by reweighted means; the plain mean is exact without one.
    for _ in range(0 if kernel == "squared" else _CENTRING_STEPS):
        shares = shares_at(jnp.sum(shares[..., None] * fixed, axis=-2))
    centre = jnp.sum(shares[..., None] * difference, axis=-2, keepdims=True)
    return Items(jnp.where(known, difference - centre, 0.0), confidence), shares


def keypoints_2d_items(
    params: TwoHandParams, joints: Float[Array, "*batch 2 21 3"], observations: Observations
) -> Items:
    """Keypoint errors of all views, crop units."""
    batch = joints.shape[:-3]
    difference = keypoints_2d_difference(params, joints, observations)
    confidence = observations.keypoints_2d_confidence
    if difference is None or confidence is None:
        return Items(jnp.zeros((*batch, 0, 2), joints.dtype), jnp.zeros((*batch, 0), joints.dtype))
    return Items(difference.reshape(*batch, -1, 2), confidence.reshape(*batch, -1))


def collision_items(signed_depth: Float[Array, "*batch 2 V"], observations: Observations) -> Items:
    """How far the skin of either hand is beyond the margin around the other, metres."""
    beyond = jnp.maximum(signed_depth + CONTACT_MARGIN, 0.0)
    both = both_hands(observations.hand_valid)
    beyond = beyond.reshape(*both.shape, -1)
    confidence = jnp.broadcast_to(both[..., None], beyond.shape).astype(beyond.dtype)
    return Items(jnp.where(both[..., None], beyond, 0.0)[..., None], confidence)


def parameter_items(
    term: str,
    params: TwoHandParams,
    observations: Observations,
    limits: JointLimits,
    prior: PosePrior,
) -> Items:
    """The items of a term that looks at the parameters alone.

    Raises:
        KeyError: a term that does not.
    """
    valid = observations.hand_valid
    batch = valid.shape[:-1]
    predicted = observations.predicted

    def by_hand(residual: Array) -> Items:
        items = residual.reshape(*batch, 2, -1)
        kept = jnp.broadcast_to(valid[..., None], items.shape).reshape(*batch, -1)
        return _coordinates(items.reshape(*batch, -1), kept)

    def against(name: str) -> Array:
        """Parameters minus predicted ones; NaN where nothing was predicted."""
        value = getattr(params, name)
        return (
            jnp.full_like(value, jnp.nan) if predicted is None else value - getattr(predicted, name)
        )

    match term:
        case "relative_translation":
            return _relative_translation(params, observations)
        case "shape_difference":
            both = jnp.broadcast_to(both_hands(valid)[..., None], (*batch, params.betas.shape[-1]))
            return _coordinates(params.betas[..., 0, :] - params.betas[..., 1, :], both)
        case "joint_limits":
            return by_hand(joint_limit_excess(limits, params.hand_pose))
        case "shape_prior":
            return by_hand(params.betas)
        case "pose_prior":
            difference = params.hand_pose.reshape(*batch, 2, 45) - prior.mean
            return by_hand(_times(prior.whitening, difference))
        case "predicted_pose":
            difference = against("hand_pose").reshape(*batch, 2, 45)
            return by_hand(_times(prior.error_whitening, difference))
        case "predicted_shape":
            return by_hand(against("betas"))
        case "predicted_orientation":
            if predicted is None:
                return by_hand(against("global_orient"))
            return by_hand(rotation_between(predicted.global_orient, params.global_orient))
        case "predicted_translation" | "predicted_depth":
            axes = slice(0, 2) if term == "predicted_translation" else slice(2, 3)
            tau = against("relative_transl")[..., axes]
            both = jnp.broadcast_to(both_hands(valid)[..., None], tau.shape)
            given = observations.predicted_tau_confidence
            if given is None:
                return _coordinates(tau, both)
            items = _coordinates(tau, both & (given[..., axes] > 0))
            return Items(items.residual, items.confidence * given[..., axes])
        case "predicted_camera":
            return _camera(params, observations)
    raise KeyError(term)


def bone_scale_items(joints: Float[Array, "*batch 2 21 3"], observations: Observations) -> Items:
    """Error of each hand's middle proximal phalanx, metres."""
    return _coordinates(bone_length_error(joints), observations.hand_valid)


def rotation_between(
    first: Float[Array, "*batch 3"], second: Float[Array, "*batch 3"]
) -> Float[Array, "*batch 3"]:
    """Axis-angle of the rotation that takes `first` to `second`, in the outer axes."""
    R_first, R_second = axis_angle_to_matrix(first), axis_angle_to_matrix(second)
    R = [
        [jnp.sum(R_second[..., i, :] * R_first[..., j, :], axis=-1) for j in range(3)]
        for i in range(3)
    ]
    return matrix_to_axis_angle(jnp.stack([jnp.stack(row, axis=-1) for row in R], axis=-2))


def _relative_translation(params: TwoHandParams, observations: Observations) -> Items:
    tau = params.relative_transl
    targets, confidence = observations.joints_3d, observations.joints_3d_confidence
    if targets is None or confidence is None:
        return _coordinates(tau, jnp.zeros(tau.shape, bool))
    known = jnp.all(confidence[..., 0] > 0, axis=-1) & both_hands(observations.hand_valid)
    difference = tau - (targets[..., 1, 0, :] - targets[..., 0, 0, :])
    return _coordinates(difference, jnp.broadcast_to(known[..., None], tau.shape))


def _camera(params: TwoHandParams, observations: Observations) -> Items:
    """log(s / s0), and the offset's error in crop units, s0 (t - t0)."""
    camera = params.weak_camera
    if observations.predicted is None or observations.views is not None:
        return _coordinates(camera, jnp.zeros(camera.shape, bool))
    guess = observations.predicted.weak_camera
    known = (guess[..., :1] > 0) & (camera[..., :1] > 0)
    ratio = jnp.where(known, camera[..., :1] / jnp.where(known, guess[..., :1], 1.0), 1.0)
    offset = guess[..., :1] * (camera[..., 1:] - guess[..., 1:])
    residual = jnp.concatenate([jnp.log(ratio), offset], axis=-1)
    return _coordinates(residual, jnp.broadcast_to(known, camera.shape))


def _coordinates(residual: Array, kept: Array) -> Items:
    """Items of one coordinate; what is not kept, or not a number, says nothing."""
    kept = kept & ~jnp.isnan(residual)
    return Items(jnp.where(kept, residual, 0.0)[..., None], kept.astype(residual.dtype))


def _times(matrix: Float[Array, "2 45 45"], vector: Float[Array, "*batch 2 45"]) -> Array:
    return jnp.einsum("hij,...hj->...hi", matrix, vector, precision=jax.lax.Precision.HIGHEST)
