"""Systems are solved one by one, everywhere: a batch could wait for itself for ever."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fitting.definite import cholesky, solve_definite, solve_factored, solve_lower

ROOT = Path(__file__).parent.parent
PRODUCT = ("mano_jax", "objectives", "fitting", "experiments")
FACTORISATIONS = re.compile(
    r"(?:jnp|jax\.numpy|jax\.scipy|lax)\.linalg\.(?!norm)|import (?:cho_|solve_tri)|lax\.linalg"
)


@pytest.fixture(scope="module")
def systems():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2, 3, 7, 5))
    matrix = np.swapaxes(rows, -1, -2) @ rows
    return matrix.astype(np.float32), rng.normal(size=(2, 3, 5, 4)).astype(np.float32)


def test_solutions_are_those_of_numpy(systems):
    matrix, right = systems
    lower = jax.jit(cholesky)(matrix)
    np.testing.assert_allclose(lower, np.linalg.cholesky(matrix), rtol=1e-4, atol=1e-5)
    expected = np.linalg.solve(matrix.astype(np.float64), right)
    found = jax.jit(solve_factored)(lower, right)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    found = jax.jit(solve_definite)(matrix, right[..., 0])
    np.testing.assert_allclose(found, expected[..., 0], rtol=1e-3, atol=1e-3)
    expected = np.linalg.solve(np.asarray(lower, np.float64), right)
    np.testing.assert_allclose(jax.jit(solve_lower)(lower, right), expected, rtol=1e-3, atol=1e-3)


def test_what_is_not_definite_has_no_solution_and_disturbs_nobody(systems):
    matrix, right = systems
    broken = matrix.copy()
    broken[0, 1] *= -1
    found = np.asarray(solve_definite(jnp.asarray(broken), jnp.asarray(right[..., 0])))
    assert np.isnan(found[0, 1]).all()
    expected = np.asarray(solve_definite(jnp.asarray(matrix), jnp.asarray(right[..., 0])))
    sound = ~np.isnan(found).any(-1)
    assert sound.sum() == 5
    np.testing.assert_array_equal(found[sound], expected[sound])


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other backends take whole batches")
@pytest.mark.parametrize("solve", [cholesky, solve_factored, solve_lower, solve_definite])
def test_no_kernel_gets_a_batch(systems, solve):
    matrix, right = systems
    given = (matrix, right[..., 0] if solve is solve_definite else right)
    text = jax.jit(solve).lower(*given[: 1 if solve is cholesky else 2]).as_text()
    batched = re.findall(r'@lapack_\w+.*num_batch_dims = "(\d)"', text)
    assert batched and set(batched) == {"0"}


def test_nobody_else_factorises():
    sources = [p for folder in PRODUCT for p in (ROOT / folder).rglob("*.py")]
    assert len(sources) > 50
    users = [str(p.relative_to(ROOT)) for p in sources if FACTORISATIONS.search(p.read_text())]
    assert users == ["fitting/definite.py"]
