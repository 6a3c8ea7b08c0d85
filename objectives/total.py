"""Every term of the objective by name, and their weighted sum."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mano_jax.model import Hands
from objectives import collision
from objectives.collision_terms import (
    COLLISION_TERMS,
    collision_band,
    collision_energies,
    signed_depths,
)
from objectives.fingers import finger_twist_energy
from objectives.joint_limits import AngleFrame, JointLimits, joint_limit_energy, joint_limits
from objectives.keypoints import joints_3d_energy, keypoints_2d_energy
from objectives.likelihoods import (
    CONTACT_MARGIN,
    Kernels,
    Scales,
    bone_scale_items,
    collision_items,
    joints_3d_items,
    keypoints_2d_items,
    parameter_items,
    scaled_energy,
)
from objectives.mesh_targets import vertices_energy
from objectives.pose_prior import PosePrior, pose_prior, pose_prior_energy
from objectives.problem import (
    Observations,
    TwoHandParams,
    posed_hands,
    posed_joints,
)
from objectives.relative_translation import relative_translation_energy
from objectives.shape import bone_scale_energy, shape_difference_energy, shape_prior_energy

TERMS: Final[dict[str, str]] = {
    "collision": "F_col: depth of either hand's vertices in the other, over the hand's scale",
    "keypoints_2d": "F_2D: L1 reprojection error, normalised crop coordinates",
    "joints_3d": "F_3D: squared 3D joint error relative to the anchor wrist, m^2",
    "relative_translation": "F_tau: squared error of left wrist - right wrist, m^2",
    "shape_difference": "F_reg: squared difference of the two hands' betas",
    "finger_twist": "F_f: bent-out-of-plane and backwards fingers, m^3 and m^4",
    "joint_limits": "F_ang: finger joint angles outside their ranges, rad",
    "bone_scale": "F_scale: squared error of the middle proximal phalanx against 28.2 mm, m^2",
    "shape_prior": "squared betas",
    "pose_prior": "squared whitened finger pose, from the model's own pose samples",
    "vertices": "squared vertex error, m^2",
    "collision_squared": "sum of squared depths, m^2",
    "collision_robust": "sum of Geman-McClure kernels of the depths over 10 mm",
    "contact": "sum of squared gaps of skin within 5 mm of the other hand, m^2",
    "predicted_orientation": "what the regressor said of the wrist rotations",
    "predicted_pose": "what the regressor said of the finger pose",
    "predicted_shape": "what the regressor said of the betas",
    "predicted_translation": "what the regressor said of left wrist - right wrist, x and y",
    "predicted_depth": "what the regressor said of left wrist - right wrist, z",
    "predicted_camera": "what the regressor said of the weak camera",
}
"""Name and meaning of each term, in the order of every table of energies."""

SCALED_ONLY: Final = tuple(term for term in TERMS if term.startswith("predicted_"))
"""Terms that enter by a scale alone: there is no published weight for them."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Priors:
    """What the terms know of the hand model beyond its shape; made once by `make_priors`."""

    joint_limits: JointLimits
    """Angle ranges and the frames they are read in."""
    pose_prior: PosePrior
    """Mean and whitening of the finger pose."""


def make_priors(hands: Hands, angle_frame: AngleFrame) -> Priors:
    """Precompute what `term_energies` needs of a hand model."""
    return Priors(joint_limits=joint_limits(hands, angle_frame), pose_prior=pose_prior(hands))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Objective:
    """Which terms act, and how: by a weight on their mean, or by a scale as a likelihood.

    E = sum of weight times energy + sum of scaled energies. Numbers are traced, so that changing
    them compiles nothing; which terms there are is static. A weight of zero or an infinite scale
    silences a term.
    """

    weights: dict[str, Float[Array, ""]]
    """Weight of each weighted term."""
    scales: Scales
    """Scale and knee of each scaled term."""
    kernels: Kernels = field(metadata={"static": True})
    """Each scaled term and its robust kernel."""

    @property
    def uses_collision(self) -> bool:
        """Whether either hand's surface matters."""
        return "collision" in dict(self.kernels) or any(t in COLLISION_TERMS for t in self.weights)

    @property
    def band(self) -> float:
        """How far from the other hand skin matters, metres."""
        by_weight = collision_band(tuple(self.weights))
        return max(by_weight, CONTACT_MARGIN if "collision" in dict(self.kernels) else 0.0)


def objective_energies(
    hands: Hands,
    priors: Priors,
    params: TwoHandParams,
    observations: Observations,
    objective: Objective,
    *,
    found: collision.Found | None = None,
    also: tuple[str, ...] = (),
) -> tuple[Float[Array, "*batch"], dict[str, Array], dict[str, Array]]:
    """THE objective of each frame.

    Args:
        hands: the hand model.
        priors: `make_priors` of the same model.
        params: the frames' parameters.
        observations: what they are held against.
        objective: which terms act.
        found: a kept collision search; None searches afresh, exactly.
        also: terms whose mean-reduced energy is wanted without a weight.

    Returns:
        The total (*batch), the unweighted energies of the weighted terms and of `also`, and the
        scaled terms' energies.
    """
    terms = tuple(dict.fromkeys((*objective.weights, *also)))
    weighted = term_energies(hands, priors, params, observations, terms=terms, found=found)
    scaled = scaled_energies(hands, priors, params, observations, objective, found=found)
    total = sum(scaled.values(), start=jnp.zeros_like(params.betas[..., 0, 0]))
    if objective.weights:
        total = total + weighted_sum(weighted, objective.weights)
    return total, weighted, scaled


def scaled_energies(
    hands: Hands,
    priors: Priors,
    params: TwoHandParams,
    observations: Observations,
    objective: Objective,
    *,
    found: collision.Found | None = None,
) -> dict[str, Float[Array, "*batch"]]:
    """Energies of the scaled terms: negative log likelihoods, see `objectives.likelihoods`."""
    joints = posed_joints(hands, params, observations.left_anchor)
    energies = {}
    for term, kernel in objective.kernels:
        scale, knee = objective.scales.scale[term], objective.scales.knee[term]
        match term:
            case "joints_3d":
                items, _ = joints_3d_items(joints, observations, kernel, scale, knee)
            case "keypoints_2d":
                items = keypoints_2d_items(params, joints, observations)
            case "bone_scale":
                items = bone_scale_items(joints, observations)
            case "collision":
                depth = signed_depths(hands, params, observations, found, objective.band)
                items = collision_items(depth, observations)
            case _:
                items = parameter_items(
                    term, params, observations, priors.joint_limits, priors.pose_prior
                )
        energies[term] = scaled_energy(items, kernel, scale, knee)
    return energies


def term_energies(
    hands: Hands,
    priors: Priors,
    params: TwoHandParams,
    observations: Observations,
    *,
    terms: tuple[str, ...] = tuple(t for t in TERMS if t not in SCALED_ONLY),
    found: collision.Found | None = None,
) -> dict[str, Float[Array, "*batch"]]:
    """Energy of each frame by term, unweighted.

    Args:
        hands: the hand model.
        priors: `make_priors` of the same model.
        params: the frames' parameters.
        observations: what they are held against. Terms without targets are zero.
        terms: names of the terms to compute; the surface is posed only for those that need it.
        found: what `search_collisions` found for these terms; None searches afresh, exactly.
    """
    valid = observations.hand_valid
    joints = posed_joints(hands, params, observations.left_anchor)
    collision_terms = tuple(term for term in terms if term in COLLISION_TERMS)
    collisions = {}
    if collision_terms:
        collisions = collision_energies(hands, params, observations, collision_terms, found)

    def vertices_term() -> Array:
        if observations.vertices is None:
            return jnp.zeros_like(params.betas[..., 0, 0])
        posed = posed_hands(hands, params, observations.left_anchor)
        return vertices_energy(posed.vertices, observations)

    energies = {
        "keypoints_2d": lambda: keypoints_2d_energy(params, joints, observations),
        "joints_3d": lambda: joints_3d_energy(joints, observations),
        "relative_translation": lambda: relative_translation_energy(params, observations),
        "shape_difference": lambda: shape_difference_energy(params.betas, valid),
        "finger_twist": lambda: finger_twist_energy(joints, valid),
        "joint_limits": lambda: joint_limit_energy(priors.joint_limits, params.hand_pose, valid),
        "bone_scale": lambda: bone_scale_energy(joints, valid),
        "shape_prior": lambda: shape_prior_energy(params.betas, valid),
        "pose_prior": lambda: pose_prior_energy(priors.pose_prior, params.hand_pose, valid),
        "vertices": vertices_term,
    }
    return {term: collisions[term] if term in collisions else energies[term]() for term in terms}


def weighted_sum(
    energies: Mapping[str, Float[Array, "*batch"]],
    weights: Mapping[str, Float[Array, ""]],
) -> Float[Array, "*batch"]:
    """Sum of weight times energy over the terms that have a weight."""
    return sum(
        (weights[term] * energy for term, energy in energies.items() if term in weights),
        start=jnp.zeros_like(next(iter(energies.values()))),
    )


def acting_terms(observations: Observations) -> dict[str, Array]:
    """For each term that needs targets, the frames that have them, (*batch) bool."""

    def any_positive(confidence: Array | None) -> Array:
        if confidence is None:
            return jnp.zeros_like(observations.left_anchor)
        axes = tuple(range(observations.left_anchor.ndim, confidence.ndim))
        return jnp.any(confidence > 0, axis=axes)

    return {
        "joints_3d": any_positive(observations.joints_3d_confidence),
        "keypoints_2d": any_positive(observations.keypoints_2d_confidence),
        "vertices": any_positive(observations.vertices_confidence),
    }
