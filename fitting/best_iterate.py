"""The best iterate of a stage, frame by frame: filter, then select.

IHMR's rule (released program, `opt_utils.py`): of the start and every tenth iterate, keep those
whose joint error and collision do not exceed given multiples of the start's, and take the one
with the lowest joint error. The running best travels in the solver's carry, so no snapshots are
stacked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from objectives.problem import Observations, TwoHandParams
from objectives.total import acting_terms


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Best:
    """The best iterate so far."""

    params: TwoHandParams
    """Its parameters."""
    score: Float[Array, "batch"]
    """Its value of what the frame selects by."""
    limits: dict[str, Float[Array, "batch"]]
    """Greatest values of the filtered terms that still qualify."""


def start_best(
    params: TwoHandParams,
    energies: Mapping[str, Float[Array, "batch"]],
    score: Float[Array, "batch"],
    max_ratio: Mapping[str, Float[Array, ""]],
) -> Best:
    """The start, which always qualifies."""
    limits = {term: ratio * energies[term] for term, ratio in max_ratio.items()}
    return Best(params=params, score=score, limits=limits)


def consider(
    best: Best,
    params: TwoHandParams,
    energies: Mapping[str, Float[Array, "batch"]],
    score: Float[Array, "batch"],
) -> Best:
    """Take an iterate where it qualifies and has a lower score; never a non-finite one."""
    better = (score < best.score) & all_finite(params)
    for term, limit in best.limits.items():
        better &= energies[term] <= limit
    return Best(
        params=select_frames(better, params, best.params),
        score=jnp.where(better, score, best.score),
        limits=best.limits,
    )


def selection_score(
    energies: Mapping[str, Float[Array, "batch"]],
    total: Float[Array, "batch"],
    select_by: tuple[str, ...],
    observations: Observations,
) -> Float[Array, "batch"]:
    """The first of the `select_by` terms that the frame has targets for; else the total energy."""
    acting = acting_terms(observations)
    score = total
    for term in reversed(select_by):
        has_targets = acting.get(term, jnp.ones_like(observations.left_anchor))
        score = jnp.where(has_targets, energies[term], score)
    return score


def all_finite(params: Any) -> Array:
    """Frames in which every number of a pytree is finite, (batch,) bool."""
    finite = [
        jnp.isfinite(leaf).reshape(leaf.shape[0], -1).all(axis=-1)
        for leaf in jax.tree.leaves(params)
    ]
    return jnp.stack(finite).all(axis=0)


def select_frames(chosen: Array, when_true: Any, when_false: Any) -> Any:
    """Frame-wise choice between two pytrees."""
    return jax.tree.map(
        lambda a, b: jnp.where(chosen.reshape(-1, *[1] * (a.ndim - 1)), a, b),
        when_true,
        when_false,
    )
