"""One stage of Adam: the factorised refinement of IHMR-OPT.

The collision search is kept from one judged iterate to the next and made afresh at each, so
that what is judged is exact. Every frame of the tile runs the same number of steps; nothing in
one frame depends on another. All groups share one compiled program: a group that the stage does
not free has a step size of zero and stays as it is, to the bit.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from fitting.best_iterate import Best, consider, selection_score, start_best
from fitting.parameters import step_size_of_fields
from fitting.strategy import Stage, Strategy
from mano_jax.model import Hands
from objectives.collision import CollisionEngine, Found
from objectives.collision_terms import search_collisions
from objectives.problem import Observations, TwoHandParams
from objectives.total import Objective, Priors, objective_energies

# The paper's momenta; optax's own defaults, written out because results depend on them.
_ADAM = optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8)

Judged = tuple[Float[Array, "batch"], dict[str, Float[Array, "batch"]]]
"""The objective of each frame, and the weighted terms' energies."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StageNumbers:
    """The numbers of a stage that may change without compiling anew."""

    step_sizes: dict[str, Float[Array, ""]]
    """Step size of each field of `TwoHandParams`; zero holds it."""
    objective: Objective
    """What is minimised: every term that the strategy weighs anywhere, and the stage's scales."""
    max_ratio: dict[str, Float[Array, ""]]
    """Acceptance: greatest multiple of the start's value, by term."""
    blocks: Int[Array, ""]
    """How often the stage moves from one judged iterate to the next."""


@dataclass(frozen=True)
class StageShape:
    """What a stage's compiled program depends on."""

    judged: tuple[str, ...]
    """Acceptance: terms looked at whether they have a weight or not."""
    every: int
    """Steps from one judged iterate to the next."""
    select_by: tuple[str, ...]
    """Acceptance: terms to select by."""
    engine: CollisionEngine
    """How collisions are searched."""


def stage_program(strategy: Strategy, stage: Stage) -> tuple[StageNumbers, StageShape]:
    """Split a stage into its numbers (traced) and its shape (static)."""
    rule = stage.acceptance
    weights = {term: stage.weights.get(term, 0.0) for term in strategy.weighed}
    numbers = StageNumbers(
        step_sizes={
            name: jnp.float32(size) for name, size in step_size_of_fields(stage.step_sizes).items()
        },
        objective=strategy.objective(weights, stage.likelihoods),
        max_ratio={term: jnp.float32(ratio) for term, ratio in rule.max_ratio.items()},
        blocks=jnp.int32((stage.iterations - 1) // rule.every),
    )
    shape = StageShape(
        judged=tuple(dict.fromkeys((*rule.select_by, *rule.max_ratio))),
        every=rule.every,
        select_by=rule.select_by,
        engine=strategy.collision_engine,
    )
    return numbers, shape


def run_stage(
    hands: Hands,
    priors: Priors,
    start: TwoHandParams,
    observations: Observations,
    numbers: StageNumbers,
    shape: StageShape,
) -> TwoHandParams:
    """Refine a tile of frames by one stage and return each frame's best iterate."""

    def energy(params: TwoHandParams, found: Found) -> tuple[Array, Judged]:
        total, energies, _ = objective_energies(
            hands,
            priors,
            params,
            observations,
            numbers.objective,
            found=found,
            also=shape.judged,
        )
        # Frames are independent: the gradient of the sum is each frame's own gradient.
        return jnp.sum(total), (total, energies)

    def step(params: TwoHandParams, moments: Any, found: Found):
        gradient, judged = jax.grad(energy, has_aux=True)(params, found)
        # optax raises floats to an integer step count, which JAX's strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            direction, moments = _ADAM.update(gradient, moments)
        moved = {
            # A held group must not even meet 0 * NaN.
            name: jnp.where(size > 0, value - size * getattr(direction, name), value)
            for name, size in numbers.step_sizes.items()
            for value in [getattr(params, name)]
        }
        params = TwoHandParams(**moved)
        return params, moments, judged

    def block(number: Array, carry: tuple[TwoHandParams, Any, Best]):
        """Search, judge the current iterate, and take some steps from it."""
        params, moments, best = carry
        found = search_collisions(
            hands, params, observations, band=numbers.objective.band, engine=shape.engine
        )

        def keep_first(i: Array, state):
            params, moments, first = state
            params, moments, judged = step(params, moments, found)
            return params, moments, _where(i == 0, judged, first)

        nothing = jax.tree.map(jnp.zeros_like, jax.eval_shape(energy, params, found)[1])
        # The last judged iterate needs one step only: its energies come with its gradient.
        steps = jnp.where(number == numbers.blocks, 1, shape.every)
        state = jax.lax.fori_loop(0, steps, keep_first, (params, moments, nothing))
        next_params, moments, (total, energies) = state
        score = selection_score(energies, total, shape.select_by, observations)
        best = _where(
            number == 0,
            start_best(params, energies, score, numbers.max_ratio),
            consider(best, params, energies, score),
        )
        return next_params, moments, best

    frames = jnp.zeros(start.betas.shape[0], start.betas.dtype)
    best = Best(params=start, score=frames, limits=dict.fromkeys(numbers.max_ratio, frames))
    # optax's types know arrays and containers, not the pytrees that are dataclasses.
    moments = _ADAM.init(start)  # pyright: ignore[reportArgumentType]
    # A loop and no scan: a stage of any length runs the same program.
    _, _, best = jax.lax.fori_loop(0, numbers.blocks + 1, block, (start, moments, best))
    return best.params


def _where(condition: Array, when_true: Any, when_false: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), when_true, when_false)
