"""Rotations against SciPy, and their gradients where formulas divide by zero."""

import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mano_jax import rotations

FORMS = ("axis_angle", "matrix", "quaternion", "rotation_6d")
PAIRS = [(a, b) for a, b in itertools.permutations(FORMS, 2) if hasattr(rotations, f"{a}_to_{b}")]


def of_form(rotation, form):
    """SciPy's rotation in one of our forms."""
    if form == "axis_angle":
        return rotation.as_rotvec()
    if form == "matrix":
        return rotation.as_matrix()
    if form == "quaternion":
        return rotation.as_quat(canonical=True, scalar_first=True)
    matrix = rotation.as_matrix()
    return np.concatenate([matrix[..., 0], matrix[..., 1]], axis=-1)


def as_matrix(value, form):
    """The rotation that a value of one of our forms stands for, by SciPy."""
    value = np.array(value, np.float64)
    if form == "axis_angle":
        return Rotation.from_rotvec(value).as_matrix()
    if form == "matrix":
        return value
    if form == "quaternion":
        return Rotation.from_quat(value, scalar_first=True).as_matrix()
    return np.stack([value[..., :3], value[..., 3:], np.cross(value[..., :3], value[..., 3:])], -1)


def converter(source, target):
    """Compiled: one by one, the many small operations would each be compiled for every shape."""
    return jax.jit(getattr(rotations, f"{source}_to_{target}"))


def hard_rotations():
    """Axis-angle vectors at, and on both sides of, every place where a formula could fail."""
    generator = np.random.default_rng(1)
    axes = [*np.eye(3), *-np.eye(3), *generator.normal(size=(3, 3)), [1, 1, 0], [1, -1, 1]]
    angles = [0.0, 1e-30, 1e-12, 1e-7, 1e-4, 9.9e-4, 1.01e-3, 0.01, 1.0, np.pi / 2, 2.0]
    angles += [np.pi - 1e-3, np.pi - 1e-7, np.pi]
    unit = [np.asarray(axis) / np.linalg.norm(axis) for axis in axes]
    return np.array([angle * axis for axis in unit for angle in angles])


def test_every_form_goes_to_and_from_axis_angles_and_matrices():
    assert {("axis_angle", other) for other in FORMS[1:]} <= set(PAIRS)
    assert {(other, "axis_angle") for other in FORMS[1:]} <= set(PAIRS)
    assert {("matrix", form) for form in FORMS if form != "matrix"} <= set(PAIRS)
    assert {(form, "matrix") for form in FORMS if form != "matrix"} <= set(PAIRS)


@pytest.mark.parametrize("source, target", PAIRS)
def test_float64_against_scipy(source, target):
    vectors = np.concatenate(
        [hard_rotations(), Rotation.random(200, rng=np.random.default_rng(2)).as_rotvec()]
    )
    rotation = Rotation.from_rotvec(vectors)
    convert = converter(source, target)
    with jax.enable_x64(True):
        found = np.asarray(convert(jnp.asarray(of_form(rotation, source))))
    assert found.dtype == np.float64
    # As matrices: at half a turn an axis and its opposite are one rotation.
    np.testing.assert_allclose(as_matrix(found, target), rotation.as_matrix(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("source, target", PAIRS)
def test_float32_against_scipy(source, target):
    vectors = np.concatenate(
        [hard_rotations(), Rotation.random(200, rng=np.random.default_rng(3)).as_rotvec()]
    )
    rotation = Rotation.from_rotvec(vectors)
    convert = converter(source, target)
    found = convert(jnp.asarray(of_form(rotation, source), jnp.float32))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(as_matrix(found, target), rotation.as_matrix(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("source, target", PAIRS)
def test_there_and_back(source, target):
    rotation = Rotation.random(100, rng=np.random.default_rng(4))
    value = of_form(rotation, source)
    with jax.enable_x64(True):
        there = converter(source, target)(jnp.asarray(value))
        back = converter(target, source)(there)
    back = np.asarray(back)
    if source == "quaternion":
        back = back * np.where(back[..., :1] < 0, -1, 1)
    np.testing.assert_allclose(back, value, rtol=0, atol=1e-12)


@pytest.mark.parametrize("source, target", PAIRS)
@pytest.mark.parametrize("batch", [(), (1,), (0,), (2, 3), (2, 1, 4)])
def test_any_batch_shape(source, target, batch):
    shapes = {"axis_angle": (3,), "matrix": (3, 3), "quaternion": (4,), "rotation_6d": (6,)}
    convert = getattr(rotations, f"{source}_to_{target}")
    value = jax.ShapeDtypeStruct((*batch, *shapes[source]), jnp.float32)
    assert jax.eval_shape(convert, value).shape == (*batch, *shapes[target])


@pytest.mark.parametrize("source, target", PAIRS)
def test_a_batch_is_its_members(source, target):
    value = jnp.asarray(
        of_form(Rotation.random(6, rng=np.random.default_rng(5)), source), jnp.float32
    )
    convert = converter(source, target)
    alone = np.array([convert(one) for one in value])
    together = convert(value.reshape(2, 3, *value.shape[1:]))
    np.testing.assert_allclose(together.reshape(alone.shape), alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("source, target", PAIRS)
def test_values_and_gradients_are_finite(source, target):
    """Forwards and backwards, in float32, at rest, at tiny angles and at half turns."""
    values = of_form(Rotation.from_rotvec(hard_rotations()), source)
    convert = getattr(rotations, f"{source}_to_{target}")

    @jax.jit
    def value_and_jacobians(v):
        return convert(v), *(
            jax.vmap(jacobian(convert))(v) for jacobian in (jax.jacrev, jax.jacfwd)
        )

    for found in value_and_jacobians(jnp.asarray(values, jnp.float32)):
        assert np.isfinite(found).all()


@pytest.mark.parametrize("target", ["matrix", "quaternion", "rotation_6d"])
def test_gradients_against_central_differences(target):
    convert = converter("axis_angle", target)
    vectors = hard_rotations()
    step = 1e-6
    with jax.enable_x64(True):
        jacobian = np.asarray(jax.jit(jax.vmap(jax.jacrev(convert)))(jnp.asarray(vectors)))
        for axis in range(3):
            ahead = convert(jnp.asarray(vectors + step * np.eye(3)[axis]))
            behind = convert(jnp.asarray(vectors - step * np.eye(3)[axis]))
            difference = np.asarray((ahead - behind) / (2 * step))
            np.testing.assert_allclose(jacobian[..., axis], difference, rtol=0, atol=1e-8)


def test_log_then_exp_has_the_identity_as_its_derivative():
    """Away from half a turn, where the logarithm jumps."""
    vectors = hard_rotations()
    vectors = vectors[np.linalg.norm(vectors, axis=-1) < 2.5]
    with jax.enable_x64(True):
        both = jax.jacrev(
            lambda a: rotations.matrix_to_axis_angle(rotations.axis_angle_to_matrix(a))
        )
        found = np.asarray(jax.jit(jax.vmap(both))(jnp.asarray(vectors)))
    np.testing.assert_allclose(found, np.broadcast_to(np.eye(3), found.shape), rtol=0, atol=1e-9)


def test_beyond_half_a_turn():
    """An axis-angle of any length is the rotation that it says."""
    vectors = np.random.default_rng(6).normal(scale=5, size=(100, 3))
    expected = Rotation.from_rotvec(vectors).as_matrix()
    with jax.enable_x64(True):
        matrix = converter("axis_angle", "matrix")(jnp.asarray(vectors))
        quaternion = converter("axis_angle", "quaternion")(jnp.asarray(vectors))
        shortest = converter("matrix", "axis_angle")(matrix)
    np.testing.assert_allclose(matrix, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(as_matrix(quaternion, "quaternion"), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(as_matrix(shortest, "axis_angle"), expected, rtol=0, atol=1e-12)
    assert np.linalg.norm(shortest, axis=-1).max() <= np.pi + 1e-12


def test_what_is_not_normalised():
    rotation = Rotation.random(50, rng=np.random.default_rng(7))
    quaternion = -3.0 * rotation.as_quat(scalar_first=True)
    columns = rotation.as_matrix()
    six = np.concatenate([2.0 * columns[..., 0], columns[..., 1] + 0.7 * columns[..., 0]], -1)
    with jax.enable_x64(True):
        by_quaternion = converter("quaternion", "matrix")(jnp.asarray(quaternion))
        vector = converter("quaternion", "axis_angle")(jnp.asarray(quaternion))
        by_6d = converter("rotation_6d", "matrix")(jnp.asarray(six))
    np.testing.assert_allclose(by_quaternion, columns, rtol=0, atol=1e-12)
    np.testing.assert_allclose(as_matrix(vector, "axis_angle"), columns, rtol=0, atol=1e-12)
    np.testing.assert_allclose(by_6d, columns, rtol=0, atol=1e-12)


def test_mirror():
    """R in the mirror x -> -x is M R M."""
    vectors = np.random.default_rng(8).normal(size=(20, 3))
    M = np.diag([-1.0, 1, 1])
    with jax.enable_x64(True):
        found = rotations.mirror_axis_angle(jnp.asarray(vectors))
    expected = M @ Rotation.from_rotvec(vectors).as_matrix() @ M
    np.testing.assert_allclose(as_matrix(found, "axis_angle"), expected, rtol=0, atol=1e-12)


def test_composition():
    first, second = (
        Rotation.random(50, rng=np.random.default_rng(9)),
        Rotation.random(50, rng=np.random.default_rng(10)),
    )
    with jax.enable_x64(True):
        found = jax.jit(rotations.compose_axis_angle)(
            jnp.asarray(second.as_rotvec()), jnp.asarray(first.as_rotvec())
        )
    expected = (second * first).as_matrix()
    np.testing.assert_allclose(as_matrix(found, "axis_angle"), expected, rtol=0, atol=1e-12)


def test_every_conversion_is_tested():
    public = {
        name
        for name, value in vars(rotations).items()
        if inspect.isfunction(value) and not name.startswith("_") and "_to_" in name
    }
    assert public == {f"{a}_to_{b}" for a, b in PAIRS}
