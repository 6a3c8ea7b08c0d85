"""Many small symmetric positive definite systems."""

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Float


def solve_definite(
    matrix: Float[Array, "*batch P P"], vector: Float[Array, "*batch P"]
) -> Float[Array, "*batch P"]:
    """Solve by Cholesky; NaN where a matrix is not positive definite."""

    def solve(inputs: tuple[Array, Array]) -> Array:
        matrix, vector = inputs
        factor = jnp.linalg.cholesky(matrix)
        return cho_solve((factor, True), vector[..., None])[..., 0]

    if jax.default_backend() != "cpu":
        return solve((matrix, vector))
    # JAX's LAPACK kernels share a batch out to the threads that also run the devices' programs,
    # and wait: with a device a thread all of them wait for ever (jaxlib 0.10.2, seen in the
    # stacks of threads in ParallelBatchMap). A single matrix is not shared out.
    size = vector.shape[-1]
    solved = jax.lax.map(solve, (matrix.reshape(-1, size, size), vector.reshape(-1, size)))
    return solved.reshape(vector.shape)
