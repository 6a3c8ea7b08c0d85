"""One stage of damped Gauss-Newton: few expensive steps instead of many cheap ones.

Every frame has its own damping and accepts or rejects its own steps, so frames of a tile never
meet. A step is accepted where the objective, its collisions searched afresh, has fallen; a step
that is not finite, or whose matrix is not positive definite, is a rejected step. A frame whose
step has become negligible is done, and a tile stops when all its frames are.

Reference: Madsen, Nielsen and Tingleff, "Methods for non-linear least squares problems", 2004
(the gain ratio and Nielsen's damping).
"""

from dataclasses import dataclass, replace
from typing import Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fitting.best_iterate import (
    Best,
    all_finite,
    consider,
    select_frames,
    selection_score,
    start_best,
)
from fitting.definite import solve_definite
from fitting.parameters import step_size_of_fields
from fitting.strategy import Stage, Strategy
from mano_jax.model import Hands
from objectives.collision import CollisionEngine, Search
from objectives.collision_terms import COLLISION_TERMS, search_collisions
from objectives.gauss_newton import column_fields, normal_equations, retract
from objectives.problem import Observations, TwoHandParams
from objectives.total import Objective, Priors, objective_energies

_FIRST_DAMPING: Final = 1e-3
"""Relative to the Hessian's diagonal."""
_LEAST_DAMPING: Final = 1e-6
"""What float32 needs to factorise a matrix of condition 1e7."""
_NEGLIGIBLE: Final = 1e-5
"""A step below this in every coordinate (radians, betas, metres) ends a frame's fit."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LMNumbers:
    """The numbers of a stage that may change without compiling anew."""

    objective: Objective
    """What is minimised, at the end of the stage."""
    anneal: dict[str, Float[Array, ""]]
    """How many times larger a term's scale is at the first step."""
    largest_step: dict[str, Float[Array, ""]]
    """Greatest step of a coordinate of each field of `TwoHandParams`; zero holds it."""
    max_ratio: dict[str, Float[Array, ""]]
    """Acceptance: greatest multiple of the start's value, by term."""
    iterations: Int[Array, ""]
    """Greatest number of steps."""
    searching: Bool[Array, ""]
    """Whether collisions are looked for."""


@dataclass(frozen=True)
class LMShape:
    """What a stage's compiled program depends on."""

    select_by: tuple[str, ...]
    """Acceptance: terms to select by."""
    engine: CollisionEngine
    """How collisions are searched."""


def lm_program(strategy: Strategy, stage: Stage) -> tuple[LMNumbers, LMShape]:
    """Split a stage into its numbers (traced) and its shape (static).

    Every stage of a strategy that this solver runs has the terms of all of them, and those that do
    not act in it have no weight or an infinite scale: with one rule of acceptance, one program
    serves for all.
    """
    stages = [s for s in strategy.stages if s.solver == "lm"]
    rule = stage.acceptance
    objective = strategy.objective(
        {
            term: stage.weights.get(term, 0.0)
            for term in strategy.weighed
            # With a weight of zero everywhere too, so that switching one off compiles nothing.
            if any(term in s.weights for s in stages)
        },
        {term for s in stages for term in s.likelihoods},
    )
    scales = {
        term: scale if term in stage.likelihoods else jnp.float32(jnp.inf)
        for term, scale in objective.scales.scale.items()
    }
    annealed = {term for s in stages for term in s.anneal}
    looks_at = {t for t, weight in stage.weights.items() if weight > 0}
    looks_at |= {*stage.likelihoods, *rule.select_by, *rule.max_ratio}
    numbers = LMNumbers(
        objective=replace(objective, scales=replace(objective.scales, scale=scales)),
        anneal={term: jnp.float32(stage.anneal.get(term, 1.0)) for term in sorted(annealed)},
        largest_step={
            name: jnp.float32(size) for name, size in step_size_of_fields(stage.step_sizes).items()
        },
        max_ratio={term: jnp.float32(ratio) for term, ratio in rule.max_ratio.items()},
        iterations=jnp.int32(stage.iterations),
        searching=jnp.bool_(not looks_at.isdisjoint(COLLISION_TERMS)),
    )
    return numbers, LMShape(select_by=rule.select_by, engine=strategy.collision_engine)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _State:
    step: Int[Array, ""]
    params: TwoHandParams
    found: Search | None
    damping: Float[Array, "batch"]
    growth: Float[Array, "batch"]
    """What the damping is multiplied with after the next rejection."""
    done: Bool[Array, "batch"]
    best: Best | None


def run_lm_stage(
    hands: Hands,
    priors: Priors,
    start: TwoHandParams,
    observations: Observations,
    numbers: LMNumbers,
    shape: LMShape,
) -> TwoHandParams:
    """Refine a tile of frames by one stage and return what the stage keeps of each frame."""
    judged = tuple(dict.fromkeys((*shape.select_by, *numbers.max_ratio)))
    colliding = numbers.objective.uses_collision
    largest = _largest_steps(numbers.largest_step, start)
    free = largest > 0
    falling = jnp.any(jnp.stack([jnp.float32(1.0), *numbers.anneal.values()]) != 1.0)

    def search(params: TwoHandParams) -> Search | None:
        if not colliding:
            return None
        band = numbers.objective.band
        found = search_collisions(
            hands, params, observations, band=band, engine=shape.engine, wanted=numbers.searching
        )
        assert isinstance(found, Search), "a strategy refuses the grids with this solver"
        return found

    def energies(params: TwoHandParams, found: Search | None, objective: Objective):
        return objective_energies(
            hands, priors, params, observations, objective, found=found, also=judged
        )

    def judge(best: Best | None, params: TwoHandParams, found: Search | None) -> Best | None:
        """The acceptance rule looks at the objective at the end of the stage."""
        if not judged:
            return None
        total, terms, _ = energies(params, found, numbers.objective)
        score = selection_score(terms, total, shape.select_by, observations)
        if best is None:
            return start_best(params, terms, score, numbers.max_ratio)
        return consider(best, params, terms, score)

    def iterate(state: _State) -> _State:
        objective = _annealed(numbers, state.step)
        before = energies(state.params, state.found, objective)[0]
        system = normal_equations(hands, priors, state.params, observations, objective, state.found)
        step = _solve(system.hessian, system.gradient, state.damping, free)
        step = jnp.clip(step, -largest, largest)
        trial = _moved(state.params, step, numbers.largest_step)
        found = search(trial)
        after = energies(trial, found, objective)[0]
        model = -jnp.sum(system.gradient * step, axis=-1) - 0.5 * jnp.einsum(
            "bp,bpq,bq->b", step, system.hessian, step
        )
        gain = (before - after) / jnp.where(model > 0, model, 1.0)
        # An NaN anywhere compares false: a rejected step.
        accepted = (after <= before) & (model > 0) & all_finite(trial) & ~state.done
        damping = jnp.where(
            accepted,
            state.damping * jnp.maximum(1.0 / 3.0, 1.0 - (2.0 * gain - 1.0) ** 3),
            state.damping * state.growth,
        )
        negligible = jnp.max(jnp.abs(step), axis=-1) < _NEGLIGIBLE
        # While a scale still falls there is more to do.
        last_scale = (state.step + 1 >= numbers.iterations) | ~falling
        params = select_frames(accepted, trial, state.params)
        kept = None if found is None else select_frames(accepted, found, state.found)
        return _State(
            step=state.step + 1,
            params=params,
            found=kept,
            damping=jnp.clip(damping, _LEAST_DAMPING, 1e6),
            growth=jnp.where(accepted, 2.0, 2.0 * state.growth),
            done=state.done | (negligible & last_scale),
            best=judge(state.best, params, kept) if judged else None,
        )

    frames = jnp.zeros(start.betas.shape[0], start.betas.dtype)
    found = search(start)
    state = _State(
        step=jnp.int32(0),
        params=start,
        found=found,
        damping=frames + _FIRST_DAMPING,
        growth=frames + 2.0,
        # A frame that has no hand has nothing to do.
        done=~jnp.any(observations.hand_valid, axis=-1),
        best=judge(None, start, found),
    )
    state = jax.lax.while_loop(
        lambda state: (state.step < numbers.iterations) & ~jnp.all(state.done), iterate, state
    )
    return state.params if state.best is None else state.best.params


def _annealed(numbers: LMNumbers, step: Int[Array, ""]) -> Objective:
    """The objective at a step: scales fall from their multiples to their values."""
    last = jnp.maximum(numbers.iterations - 1, 1).astype(jnp.float32)
    left = 1.0 - jnp.minimum(step.astype(jnp.float32) / last, 1.0)
    scales = numbers.objective.scales
    larger = {
        term: scale * numbers.anneal[term] ** left if term in numbers.anneal else scale
        for term, scale in scales.scale.items()
    }
    return replace(numbers.objective, scales=replace(scales, scale=larger))


def _moved(
    params: TwoHandParams, step: Float[Array, "batch P"], largest: dict[str, Array]
) -> TwoHandParams:
    """Parameters after a step; what is held stays as it is to the bit."""
    moved = retract(params, step)
    return TwoHandParams(
        **{
            name: jnp.where(size > 0, getattr(moved, name), getattr(params, name))
            for name, size in largest.items()
        }
    )


def _largest_steps(by_field: dict[str, Array], params: TwoHandParams) -> Float[Array, "P"]:
    columns = column_fields(params.betas.shape[-1])
    return jnp.stack([by_field[name] for name in columns])


def _solve(
    hessian: Float[Array, "batch P P"],
    gradient: Float[Array, "batch P"],
    damping: Float[Array, "batch"],
    free: Bool[Array, "P"],
) -> Float[Array, "batch P"]:
    """The damped Newton step of the free columns; NaN where the matrix is not definite.

    Columns are scaled to a unit diagonal first, which is Marquardt's damping and what lets float32
    factorise radians beside metres. A column on which nothing depends stays where it is.
    """
    diagonal = jnp.diagonal(hessian, axis1=-2, axis2=-1)
    acts = free & (diagonal > 0)
    scale = jnp.where(acts, 1.0 / jnp.sqrt(jnp.where(acts, diagonal, 1.0)), 0.0)
    identity = jnp.eye(hessian.shape[-1], dtype=hessian.dtype)
    scaled = hessian * scale[..., :, None] * scale[..., None, :]
    fixed = jnp.where(acts, damping[..., None], 1.0)
    return scale * solve_definite(scaled + fixed[..., None] * identity, -(gradient * scale))
