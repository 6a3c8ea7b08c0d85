"""Many small symmetric positive definite systems, one after another on a CPU.

JAX's LAPACK kernels share a batch out to the threads that also run its programs, and wait: where
every thread is in such a kernel, of two devices or of one program with two factorisations, all wait
for ever (jaxlib 0.10.2, seen in the stacks of threads in ParallelBatchMap). A single matrix is not
shared out.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular
from jaxtyping import Array, Float


def cholesky(matrix: Float[Array, "*batch P P"]) -> Float[Array, "*batch P P"]:
    """The lower factor; NaN where a matrix is not positive definite."""
    return _one_by_one(jnp.linalg.cholesky, matrix)


def solve_factored(
    factor: Float[Array, "*batch P P"], right: Float[Array, "*batch P R"]
) -> Float[Array, "*batch P R"]:
    """Solve L L^T X = B for X, given the lower factor."""
    return _one_by_one(lambda factor, right: cho_solve((factor, True), right), factor, right)


def solve_lower(
    factor: Float[Array, "*batch P P"], right: Float[Array, "*batch P R"]
) -> Float[Array, "*batch P R"]:
    """Solve L X = B for X, given the lower factor."""
    return _one_by_one(
        lambda factor, right: solve_triangular(factor, right, lower=True), factor, right
    )


def solve_definite(
    matrix: Float[Array, "*batch P P"], vector: Float[Array, "*batch P"]
) -> Float[Array, "*batch P"]:
    """Solve A x = b by Cholesky; NaN where a matrix is not positive definite."""

    def solve(matrix: Array, right: Array) -> Array:
        return cho_solve((jnp.linalg.cholesky(matrix), True), right)

    return _one_by_one(solve, matrix, vector[..., None])[..., 0]


def _one_by_one(function: Callable[..., Array], *matrices: Array) -> Array:
    """Apply a function of matrices to a batch of them."""
    if jax.default_backend() != "cpu":
        return function(*matrices)
    batch = matrices[0].shape[:-2]
    rows = tuple(m.reshape(-1, *m.shape[-2:]) for m in matrices)
    solved = jax.lax.map(lambda each: function(*each), rows)
    return solved.reshape(*batch, *solved.shape[1:])
