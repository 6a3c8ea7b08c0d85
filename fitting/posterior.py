"""How sure a fit is: the covariance of every frame's parameters, and of its joints.

Where a strategy's terms are likelihoods, the objective near its minimum is that of a Gaussian
whose covariance is the inverse of the Hessian (Laplace's approximation; the Gauss-Newton Hessian
is the one used, as in the solver). What it says is as true as the scales are: estimate them first,
see `fitting.calibrate`.

Collisions are left out. A contact's scale is a tolerance and not a noise: that the other hand's
skin is in the way bounds a direction from one side, while a Hessian would make it known to half a
millimetre from both. So the figures are those of the hands before they are told to stay apart, and
too large rather than too small where they touch.
"""

from dataclasses import dataclass
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32

from fitting.batches import batches
from fitting.definite import cholesky, solve_factored, solve_lower
from fitting.parameters import step_size_of_fields
from fitting.strategy import Strategy, StrategyError
from mano_jax.derivatives import articulate, joints_with_jacobian
from mano_jax.model import Hands
from objectives.gauss_newton import column_fields, normal_equations
from objectives.problem import Observations, TwoHandParams, both_hands
from objectives.total import Objective, Priors, make_priors

CHUNK: Final = 32
"""Frames in a chunk: a frame's matrices take a third of a megabyte."""

_JITTER: Final = 1e-6
"""Relative to the Hessian's diagonal: what float32 needs to factorise a matrix of condition 1e7,
and the solver's least damping. A direction that nothing tells apart gets the thousandfold of what
its columns alone would have, instead of no number."""

_WRIST = 0


@dataclass(frozen=True)
class Posterior:
    """Standard deviations of N frames, NumPy arrays, in the names of the result file.

    Zero for what was held or is absent; NaN for frames without a hand (those that are skipped),
    or whose Hessian cannot be factorised. The hand axis is [right, left].
    """

    std_global_orient: Float32[np.ndarray, "N 2 3"]
    """Of a small turn about the camera's axes, R <- exp(delta) R, radians."""
    std_hand_pose: Float32[np.ndarray, "N 2 15 3"]
    """Of the finger joints' axis-angle vectors, radians."""
    std_betas: Float32[np.ndarray, "N 2 S"]
    """Of the shape coefficients."""
    std_relative_transl: Float32[np.ndarray, "N 3"]
    """Of left wrist - right wrist, metres."""
    std_root_transl: Float32[np.ndarray, "N 3"]
    """Of the anchor wrist before a perspective camera, metres."""
    std_weak_camera: Float32[np.ndarray, "N 3"]
    """Of s, t_x, t_y."""
    std_joints: Float32[np.ndarray, "N 2 21 3"]
    """Of each joint's coordinates relative to the anchor wrist, as the parameters place them,
    metres; the other hand's include how well its wrist is known."""
    std_joints_local: Float32[np.ndarray, "N 2 21 3"]
    """The same relative to each hand's own wrist: pose and shape alone, as in MPJPE."""

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything under its canonical name, ready to be written."""
        return dict(vars(self))


def posterior(
    hands: Hands, observations: Observations, params: TwoHandParams, strategy: Strategy
) -> Posterior:
    """Standard deviations of what a fit has found.

    Args:
        hands: the hand model.
        observations: what the fit was given: those of `prepare` of its input, not of its result,
            since what was predicted is held against what was found.
        params: what it has found, one entry for each of those frames.
        strategy: how. Its reported likelihoods count, collisions left out; parameter groups that
            no stage frees are taken for known.

    Raises:
        StrategyError: the strategy reports no likelihoods, or weights beside them.
    """
    objective = likelihood_objective(strategy)
    free = free_columns(strategy, params.betas.shape[-1])
    priors = make_priors(hands, strategy.angle_frame)
    parts = []
    for frames, (at, seen) in batches((params, observations), CHUNK):
        found = _chunk_deviations(hands, priors, at, seen, objective, free)
        parts.append({name: np.asarray(x)[:frames] for name, x in found.items()})
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    skipped = ~np.any(observations.hand_valid, axis=-1)
    for deviations in joined.values():
        deviations[skipped] = np.nan
    return Posterior(**joined)


def likelihood_objective(strategy: Strategy) -> Objective:
    """The reported likelihoods without collisions.

    Raises:
        StrategyError: the strategy reports no likelihoods, or weights beside them.
    """
    terms = [term for term in strategy.report_likelihoods if term != "collision"]
    if not terms or any(strategy.report_weights.values()):
        raise StrategyError(
            f"strategy {strategy.name!r}: deviations follow from likelihoods alone: expected "
            "report_likelihoods and no report_weights, as in the preset 'map'"
        )
    return strategy.objective({}, terms)


def free_columns(strategy: Strategy, num_betas: int) -> Bool[Array, "P"]:
    """Columns of the normal equations that some stage of a strategy moves."""
    freed = {
        name
        for stage in strategy.stages
        for name, size in step_size_of_fields(stage.step_sizes).items()
        if size > 0
    }
    return jnp.array([name in freed for name in column_fields(num_betas)])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Factor:
    """A Hessian's columns scaled to a unit diagonal, and its Cholesky factor.

    The scaling is what lets float32 factorise radians beside metres. Columns that are held, or on
    which nothing depends, are a block of their own and get no covariance.
    """

    lower: Float[Array, "*batch P P"]
    scale: Float[Array, "*batch P"]

    @classmethod
    def of(cls, hessian: Float[Array, "*batch P P"], free: Bool[Array, "P"]) -> "Factor":
        """Factorise; NaN where the matrix is not definite."""
        diagonal = jnp.diagonal(hessian, axis1=-2, axis2=-1)
        acts = free & (diagonal > 0)
        scale = jnp.where(acts, 1.0 / jnp.sqrt(jnp.where(acts, diagonal, 1.0)), 0.0)
        scaled = hessian * scale[..., :, None] * scale[..., None, :]
        held = jnp.where(acts, _JITTER, 1.0)
        identity = jnp.eye(hessian.shape[-1], dtype=hessian.dtype)
        return cls(cholesky(scaled + held[..., None] * identity), scale)

    def covariance(self) -> Float[Array, "*batch P P"]:
        """The inverse of the Hessian."""
        size = self.lower.shape[-1]
        identity = jnp.broadcast_to(jnp.eye(size, dtype=self.scale.dtype), self.lower.shape)
        inverse = solve_factored(self.lower, identity)
        return inverse * self.scale[..., :, None] * self.scale[..., None, :]

    def deviations(self, rows: Float[Array, "*batch R P"]) -> Float[Array, "*batch R"]:
        """Standard deviations of linear functions, rows . parameters."""
        rows = jnp.swapaxes(rows * self.scale[..., None, :], -1, -2)
        whitened = solve_lower(self.lower, rows)
        return jnp.sqrt(jnp.sum(whitened**2, axis=-2))


def joint_rows(
    hands: Hands, params: TwoHandParams, observations: Observations
) -> tuple[Float[Array, "*batch 126 P"], Float[Array, "*batch 126 P"]]:
    """Derivatives of all joint coordinates by the columns of the normal equations.

    Returns:
        Of the joints relative to the anchor wrist, and relative to each hand's own wrist.
    """
    posture = articulate(
        hands,
        global_orient=params.global_orient,
        hand_pose=params.hand_pose,
        betas=params.betas,
    )
    _, jacobian = joints_with_jacobian(hands, posture)
    batch, size = jacobian.shape[:-4], jacobian.shape[-1]
    valid = observations.hand_valid
    own = jnp.where(valid[..., None, None], jacobian.reshape(*batch, 2, 63, size), 0.0)
    none = jnp.zeros_like(own[..., 0, :, :])
    right = jnp.concatenate([own[..., 0, :, :], none], axis=-1)
    left = jnp.concatenate([none, own[..., 1, :, :]], axis=-1)
    by_hands = jnp.concatenate([right, left], axis=-2)

    def with_tau(moved: Float[Array, "*batch 126 3"]) -> Array:
        camera = jnp.zeros((*moved.shape[:-1], 6), moved.dtype)
        return jnp.concatenate([by_hands, moved, camera], axis=-1)

    # tau places the hand that is not the anchor: the left one at tau, or the right one at -tau,
    # whose sign no deviation sees. Without both hands it acts on neither.
    anchor = observations.left_anchor
    moves = jnp.stack([anchor, ~anchor], axis=-1) & both_hands(valid)[..., None]
    blocks = jnp.tile(jnp.eye(3, dtype=jacobian.dtype), (42, 1))
    moved = blocks * jnp.repeat(moves, 63, axis=-1)[..., None].astype(jacobian.dtype)
    return with_tau(moved), with_tau(jnp.zeros_like(moved))


@jax.jit
def _chunk_deviations(
    hands: Hands,
    priors: Priors,
    params: TwoHandParams,
    observations: Observations,
    objective: Objective,
    free: Bool[Array, "P"],
) -> dict[str, Array]:
    system = normal_equations(hands, priors, params, observations, objective, None)
    factor = Factor.of(system.hessian, free)
    anchored, local = joint_rows(hands, params, observations)
    identity = jnp.eye(system.hessian.shape[-1], dtype=system.hessian.dtype)
    of_columns = factor.deviations(jnp.broadcast_to(identity, system.hessian.shape))
    batch = of_columns.shape[:-1]
    num_betas = params.betas.shape[-1]
    size = 48 + num_betas
    own = of_columns[..., : 2 * size].reshape(*batch, 2, size)
    # Terms that look at both hands' columns say nothing of a hand that is not there.
    own = jnp.where(observations.hand_valid[..., None], own, 0.0)
    common = of_columns[..., 2 * size :].reshape(*batch, 3, 3)
    return {
        "std_global_orient": own[..., :3],
        "std_hand_pose": own[..., 3:48].reshape(*batch, 2, 15, 3),
        "std_betas": own[..., 48:],
        "std_relative_transl": common[..., 0, :],
        "std_root_transl": common[..., 1, :],
        "std_weak_camera": common[..., 2, :],
        "std_joints": factor.deviations(anchored).reshape(*batch, 2, 21, 3),
        "std_joints_local": factor.deviations(local).reshape(*batch, 2, 21, 3),
    }
