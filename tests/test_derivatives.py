"""Closed-form derivatives of posed points against forward-mode differentiation of the model."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mano_jax.derivatives import articulate, joints_with_jacobian, vertex_rows
from mano_jax.model import Hands, pose_hands, pose_joints
from mano_jax.procedural import procedural_hands
from mano_jax.rotations import axis_angle_to_matrix

K = 30
FRAMES = ("random", "rest", "bent by 2.5 rad", "half turns", "about the series' limit", "mixed")


def make_hands(dtype) -> Hands:
    hands = procedural_hands(dtype=dtype)
    # The file's weights sum to one in float32. What is missing would be taken from the origin,
    # which is MANO's in the model and the wrist here.
    weights = hands.lbs_weights / hands.lbs_weights.sum(axis=-1, keepdims=True)
    return replace(hands, lbs_weights=weights)


def make_frames(dtype) -> tuple[dict, jax.Array, jax.Array]:
    """Poses and shapes of `FRAMES`, different on both hands; vertices and covectors."""
    generator = np.random.default_rng(11)
    n = len(FRAMES)
    unit = generator.normal(size=(n, 2, 15, 3))
    unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
    angles = np.zeros((n, 2, 15, 1))
    angles[0] = generator.uniform(0.0, 1.0, (2, 15, 1))
    angles[2], angles[3] = 2.5, np.pi
    angles[4] = 10.0 ** np.linspace(-6, -1, 15)[:, None]
    angles[5] = generator.choice([0.0, 0.5, 2.5], (2, 15, 1))
    parameters = {
        "global_orient": generator.normal(size=(n, 2, 3)),
        "hand_pose": angles * unit,
        "betas": generator.normal(size=(n, 2, 10)),
    }
    parameters["global_orient"][1] = parameters["betas"][1] = 0.0
    vertex = generator.integers(0, 778, (n, 2, K))
    vertex[..., 1] = vertex[..., 0]
    covector = generator.normal(size=(n, 2, K, 3))
    parameters = {name: jnp.asarray(value, dtype) for name, value in parameters.items()}
    return parameters, jnp.asarray(vertex, jnp.int32), jnp.asarray(covector, dtype)


@jax.jit
def closed_form(hands: Hands, parameters: dict, vertex, covector):
    articulation = articulate(hands, **parameters)
    joints, jacobian = joints_with_jacobian(hands, articulation)
    return joints, jacobian, vertex_rows(hands, articulation, vertex, covector)


@jax.jit
def differentiated(hands: Hands, parameters: dict, vertex, covector):
    """The same by `jacfwd`: one step serves all frames and hands, which are independent."""

    def points(step):
        posed = pose_hands(
            hands,
            global_orient=parameters["global_orient"],
            hand_pose=parameters["hand_pose"] + step[3:48].reshape(15, 3),
            betas=parameters["betas"] + step[48:],
        )
        chosen = jnp.take_along_axis(posed.vertices, vertex[..., None], axis=-2)
        both = jnp.concatenate([posed.joints, chosen], axis=-2) - posed.joints[..., :1, :]
        return jnp.einsum("rc,...c->...r", axis_angle_to_matrix(step[:3]), both)

    zero = jnp.zeros(48 + hands.num_betas, covector.dtype)
    jacobian = jax.jacfwd(points)(zero)
    rows = jnp.einsum("...c,...cd->...d", covector, jacobian[..., 21:, :, :])
    return points(zero)[..., :21, :], jacobian[..., :21, :, :], rows


@cache
def both_ways() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Closed form and forward mode, float64."""
    with jax.enable_x64(True):
        case = make_hands(jnp.float64), *make_frames(jnp.float64)
        found, expected = closed_form(*case), differentiated(*case)
    return [np.asarray(a) for a in found], [np.asarray(a) for a in expected]


@pytest.mark.parametrize("frame", range(len(FRAMES)), ids=FRAMES)
@pytest.mark.parametrize("what", [0, 1, 2], ids=["joints", "jacobian", "vertex rows"])
def test_float64_against_forward_mode(what, frame):
    found, expected = (ways[what][frame] for ways in both_ways())
    assert found.dtype == np.float64 and found.shape == expected.shape
    # The absolute part is for entries that are zero but for rounding.
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12 * np.abs(expected).max())


def test_float32_against_float64():
    found = closed_form(make_hands(jnp.float32), *make_frames(jnp.float32))
    exact, _ = both_ways()
    for single, double in zip(found, exact, strict=True):
        assert single.dtype == jnp.float32
        np.testing.assert_allclose(single, double, rtol=0, atol=2e-6 * np.abs(double).max())


def test_joints_are_those_of_the_model(hands):
    parameters, _, _ = make_frames(jnp.float32)
    expected = jax.jit(pose_joints)(hands, **parameters)
    joints, _ = jax.jit(lambda p: joints_with_jacobian(hands, articulate(hands, **p)))(parameters)
    np.testing.assert_allclose(joints, expected - expected[..., :1, :], rtol=0, atol=1e-7)


@pytest.mark.parametrize("batch", [(), (1,), (0,), (2, 3), (3, 1, 2)])
def test_any_batch_shape(hands, batch):
    parameters, vertex, covector = make_frames(jnp.float32)
    n = int(np.prod(batch))
    together = closed_form(hands, parameters, vertex, covector)

    def cut(array):
        return array[:n].reshape(*batch, *array.shape[1:])

    parts = jax.tree.map(cut, (parameters, vertex, covector))
    for found, whole in zip(closed_form(hands, *parts), together, strict=True):
        np.testing.assert_allclose(found, cut(whole), rtol=0, atol=1e-6)


def test_fewer_betas(hands):
    """The columns follow the model, which need not have ten."""
    few = replace(hands, shapedirs=hands.shapedirs[..., :4], J_shapedirs=hands.J_shapedirs[..., :4])
    parameters, vertex, covector = make_frames(jnp.float32)
    zeroed = {**parameters, "betas": parameters["betas"].at[..., 4:].set(0.0)}
    cut = {**parameters, "betas": parameters["betas"][..., :4]}
    ten = closed_form(hands, zeroed, vertex, covector)
    four = closed_form(few, cut, vertex, covector)
    np.testing.assert_allclose(four[0], ten[0], rtol=0, atol=1e-6)
    for found, expected in zip(four[1:], ten[1:], strict=True):
        np.testing.assert_allclose(found, expected[..., :52], rtol=0, atol=1e-6)


def test_finite_at_every_angle():
    """In float32, where 1/angle^3 of the formulas would overflow or divide by zero."""
    angles = [0.0, 1e-38, 1e-30, 1e-20, 1e-12, 1e-7, 1e-4, 9.9e-4, 1.01e-3, 3.14, np.pi, 6.28, 20.0]
    hands = make_hands(jnp.float32)
    pose = jnp.asarray(np.multiply.outer(angles, [[[1.0, 0, 0]] * 15] * 2), jnp.float32)
    parameters = {
        "global_orient": pose[..., 0, :],
        "hand_pose": pose,
        "betas": jnp.zeros((len(angles), 2, 10), jnp.float32),
    }
    _, vertex, covector = make_frames(jnp.float32)
    n = len(angles)
    vertex, covector = (jnp.resize(a, (n, *a.shape[1:])) for a in (vertex, covector))
    for found in closed_form(hands, parameters, vertex, covector):
        assert np.isfinite(found).all()
