"""The objective as least squares: its gradient and matrix against automatic differentiation."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from mano_jax.rotations import axis_angle_to_matrix
from objectives.collision import Search
from objectives.collision_terms import COLLISION_TERMS, search_collisions, signed_depths
from objectives.fingers import FINGER_CHAINS, chain_invariants
from objectives.gauss_newton import (
    ATTRACTED_ROWS,
    COMMON,
    column_fields,
    normal_equations,
    retract,
)
from objectives.joint_limits import joint_limit_excess
from objectives.keypoints import joints_3d_residual, keypoints_2d_difference
from objectives.likelihoods import (
    SCALE_UNITS,
    Items,
    Scales,
    bone_scale_items,
    collision_items,
    item_precision,
    joints_3d_items,
    keypoints_2d_items,
    parameter_items,
)
from objectives.masked_means import coordinate_weights, hand_weights
from objectives.mesh_targets import vertices_residual
from objectives.pose_prior import pose_prior_residual
from objectives.problem import Observations, TwoHandParams, posed_hands, posed_joints
from objectives.relative_translation import relative_translation_residual
from objectives.robust import Kernel
from objectives.shape import bone_scale_residual, shape_difference_residual, shape_prior_residual
from objectives.total import SCALED_ONLY, TERMS, Objective, Priors, objective_energies
from tests.objective_cases import FIELDS, FRAMES, make_frames, make_model

SCALED = tuple(term for term in SCALE_UNITS if term != "collision")
WEIGHTED = tuple(t for t in TERMS if t not in (*SCALED_ONLY, *COLLISION_TERMS))
TYPICAL = {
    "keypoints_2d": 0.04,
    "joints_3d": 0.02,
    "relative_translation": 0.05,
    "bone_scale": 0.003,
    "collision": 0.001,
}
"""Scales near these frames' residuals, so that a kernel is seen on both sides of its knee; one
for the others."""
NOTHING = 1e12
"""A scale at which a term no longer counts: which terms act is compiled, how much is not."""
KNEE = 1.5
WEIGHT = 1.7
D = 58
P = 2 * D + COMMON

KERNELS: dict[str, dict[str, Kernel]] = {
    "plain": dict.fromkeys(SCALED, "squared"),
    "robust": {"joints_3d": "geman_mcclure", "keypoints_2d": "absolute", "pose_prior": "huber"},
    "two views": {"keypoints_2d": "squared"},
}
"""Problems, the scaled terms that act in each, and their kernels. They meet items of one, two and
three coordinates; the 3D joints' decides their common translation too."""
WEIGHTS = {"plain": WEIGHTED, "robust": (), "two views": ("keypoints_2d",)}
"""The weighted terms of each."""
CASES = [(case, term) for case, kernels in KERNELS.items() for term in kernels]
WEIGHTED_CASES = [(case, term) for case, terms in WEIGHTS.items() for term in terms]

# What is compared is arithmetic: these programs run for a moment, and would compile for long.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@cache
def problem(case: str) -> tuple[Priors, TwoHandParams, Observations]:
    """Five frames, one-handed ones and missing joints among them, with a regressor's opinion."""
    params, observations = make_frames("two_views" if case == "two views" else "weak")
    rng = np.random.default_rng(3)
    with jax.enable_x64(True):
        model = make_model(np.float64)
        step = jnp.asarray(0.1 * rng.normal(size=(FRAMES, P)))
        predicted = retract(params, step)
        # Nothing was said of one frame's camera, nor of one hand's shape.
        betas = predicted.betas.at[1, 0].set(jnp.nan)
        weak = predicted.weak_camera.at[4].set(0.0)
        predicted = replace(predicted, betas=betas, weak_camera=weak)
        priors = Priors(joint_limits=model.limits["bone_aligned"], pose_prior=model.prior)
        return priors, params, replace(observations, predicted=predicted)


def objective_of(
    kernels: Mapping[str, Kernel], weighted: tuple[str, ...], acting: str
) -> Objective:
    """All these terms, so that they share a program, of which one acts; `all` is all of them."""

    def number(value: float) -> Array:
        return jnp.asarray(value, jnp.float64)

    acts = [f"weighted {term}" == acting or acting == "all" for term in weighted]
    scales = {t: TYPICAL.get(t, 1.0) if acting in (t, "all") else NOTHING for t in kernels}
    return Objective(
        weights={t: number(WEIGHT * a) for t, a in zip(weighted, acts, strict=True)},
        scales=Scales(
            scale={t: number(s) for t, s in scales.items()},
            knee={t: number(KNEE) for t in kernels},
        ),
        kernels=tuple(kernels.items()),
    )


@jit
def differentiated(priors, params, observations, objective, found=None) -> Array:
    """Gradient of the objective by a step from `params`."""
    hands = make_model(np.float64).hands

    def energy(step: Array) -> Array:
        moved = retract(params, step)
        total, _, _ = objective_energies(hands, priors, moved, observations, objective, found=found)
        return jnp.sum(total)

    return jax.grad(energy)(jnp.zeros((len(params.betas), P)))


class System(NamedTuple):
    """Gradient and matrix of every frame."""

    gradient: np.ndarray
    hessian: np.ndarray


@jit
def assembled(priors, params, observations, objective, found=None) -> tuple[Array, Array]:
    hands = make_model(np.float64).hands
    system = normal_equations(hands, priors, params, observations, objective, found)
    return system.gradient, system.hessian


@cache
def both(case: str, acting: str) -> tuple[System, np.ndarray]:
    """The solver's system, and the differentiated gradient."""
    with jax.enable_x64(True):
        at = *problem(case), objective_of(KERNELS[case], WEIGHTS[case], acting)
        return System(*map(np.asarray, assembled(*at))), np.asarray(differentiated(*at))


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    """To a hundred thousandth of each frame's largest entry."""
    for frame, (a, b) in enumerate(zip(found, expected, strict=True)):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max() + 1e-20, err_msg=frame)


def assert_semidefinite(hessian: np.ndarray) -> None:
    np.testing.assert_allclose(hessian, np.swapaxes(hessian, -1, -2), rtol=1e-9, atol=1e-9)
    eigenvalues = np.linalg.eigvalsh(hessian)
    assert np.all(eigenvalues[:, 0] >= -1e-10 * eigenvalues[:, -1])


@pytest.mark.parametrize(("case", "term"), CASES)
def test_gradient_of_a_likelihood_is_the_energys(case, term):
    system, expected = both(case, term)
    assert np.any(expected)
    assert_close(system.gradient, expected)


@pytest.mark.parametrize(("case", "term"), WEIGHTED_CASES)
def test_gradient_of_a_weighted_mean_is_the_energys(case, term):
    system, expected = both(case, f"weighted {term}")
    assert np.any(expected)
    assert_close(system.gradient, expected)


def test_terms_add_up():
    system, expected = both("plain", "all")
    assert_close(system.gradient, expected)
    names = (*SCALED, *(f"weighted {term}" for term in WEIGHTED))
    parts = [both("plain", name)[0] for name in names]
    assert_close(system.gradient, np.sum([p.gradient for p in parts], axis=0))
    assert_close(system.hessian, np.sum([p.hessian for p in parts], axis=0))


def scaled_items(
    term: str,
    priors: Priors,
    params: TwoHandParams,
    observations: Observations,
    objective: Objective,
) -> Items:
    """The items of a scaled term, as its energy makes them."""
    kernel = dict(objective.kernels)[term]
    joints = posed_joints(make_model(np.float64).hands, params, observations.left_anchor)
    match term:
        case "joints_3d":
            numbers = objective.scales.scale[term], objective.scales.knee[term]
            return joints_3d_items(joints, observations, kernel, *numbers)[0]
        case "keypoints_2d":
            return keypoints_2d_items(params, joints, observations)
        case "bone_scale":
            return bone_scale_items(joints, observations)
    return parameter_items(term, params, observations, priors.joint_limits, priors.pose_prior)


@jit
def items_and_rows(priors, params, observations, objective) -> dict:
    """Residuals (frames, K, d), their rows (frames, K, d, P) and each item's precision, by term."""
    rows = partial(rows_of, params)

    def look(term: str, kernel: Kernel) -> tuple[Array, Array, Array]:
        def items(params: TwoHandParams) -> Items:
            return scaled_items(term, priors, params, observations, objective)

        at = items(params)
        numbers = objective.scales.scale[term], objective.scales.knee[term]
        return at.residual, rows(lambda p: items(p).residual), item_precision(at, kernel, *numbers)

    return {term: look(term, kernel) for term, kernel in objective.kernels}


def rows_of(params: TwoHandParams, residual) -> Array:
    """Derivatives by the columns: frames are independent, so one tangent moves all of them."""

    def along(direction: Array) -> Array:
        step = jnp.zeros((len(params.betas), P))
        tangent = jnp.broadcast_to(direction, step.shape)
        return jax.jvp(lambda s: residual(retract(params, s)), (step,), (tangent,))[1]

    return jnp.moveaxis(jax.vmap(along)(jnp.eye(P)), 0, -1)


@pytest.mark.parametrize("case", KERNELS)
def test_matrix_of_a_likelihood_is_its_rows_squared(case):
    """J^T a J, J of the very residuals: with 3D joints after their common translation."""
    with jax.enable_x64(True):
        at = *problem(case), objective_of(KERNELS[case], (), "all")
        found = jax.tree.map(np.asarray, items_and_rows(*at))
    for term in KERNELS[case]:
        residual, rows, precision = found[term]
        system, _ = both(case, term)
        expected = np.einsum("nkdp,nk,nkdq->npq", rows, precision, rows, optimize=True)
        assert np.any(expected), term
        assert_close(system.hessian, expected)
        assert_close(system.gradient, np.einsum("nkdp,nk,nkd->np", rows, precision, residual))
        assert_semidefinite(system.hessian)


def weighted_residuals(
    term: str, priors: Priors, params: TwoHandParams, observations: Observations
) -> tuple[Array, Array]:
    """Residuals r (frames, K) of a weighted term and the a of its energy's 1/2 sum a r^2.

    What costs its absolute value c|r| is reweighted: a = c / |r|.
    """
    valid = observations.hand_valid
    frames = len(params.betas)
    joints = posed_joints(make_model(np.float64).hands, params, observations.left_anchor)

    def squares(residual: Array) -> tuple[Array, Array]:
        return residual, jnp.full_like(residual, 2.0)

    def absolutes(residual: Array, share: Array) -> tuple[Array, Array]:
        residual = residual.reshape(frames, -1)
        share = jnp.broadcast_to(share, residual.shape)
        size = jnp.abs(residual)
        return residual, jnp.where(size > 0, share / jnp.where(size > 0, size, 1.0), 0.0)

    match term:
        case "keypoints_2d":
            difference = keypoints_2d_difference(params, joints, observations)
            confidence = observations.keypoints_2d_confidence
            assert difference is not None and confidence is not None
            share = coordinate_weights(confidence.reshape(frames, -1), 2)
            return absolutes(difference, jnp.repeat(share, 2, axis=-1))
        case "joints_3d":
            return squares(joints_3d_residual(joints, observations))
        case "vertices":
            posed = posed_hands(make_model(np.float64).hands, params, observations.left_anchor)
            return squares(vertices_residual(posed.vertices, observations))
        case "relative_translation":
            return squares(relative_translation_residual(params, observations))
        case "shape_difference":
            return squares(shape_difference_residual(params.betas, valid))
        case "bone_scale":
            return squares(bone_scale_residual(joints, valid))
        case "shape_prior":
            return squares(shape_prior_residual(params.betas, valid))
        case "pose_prior":
            return squares(pose_prior_residual(priors.pose_prior, params.hand_pose, valid))
        case "joint_limits":
            excess = joint_limit_excess(priors.joint_limits, params.hand_pose)
            share = hand_weights(valid, excess.dtype) / 15.0
            return absolutes(excess, jnp.repeat(share, 45, axis=-1))
    volume, agreement = chain_invariants(joints[..., FINGER_CHAINS, :])
    seen = jnp.repeat(valid.astype(joints.dtype), 5, axis=-1)
    parts = absolutes(volume, seen), absolutes(jnp.minimum(agreement, 0.0), seen)
    residuals, precisions = zip(*parts, strict=True)
    return jnp.concatenate(residuals, axis=-1), jnp.concatenate(precisions, axis=-1)


@partial(jit, static_argnames="terms")
def weighted_rows(priors, params, observations, terms: tuple[str, ...]) -> dict:
    """Residuals, precisions and rows (frames, K, P) by term."""
    return {
        term: (
            *weighted_residuals(term, priors, params, observations),
            rows_of(params, lambda p, t=term: weighted_residuals(t, priors, p, observations)[0]),
        )
        for term in terms
    }


@pytest.mark.parametrize("case", ["plain", "two views"])
def test_matrix_of_a_weighted_mean_is_its_rows_squared(case):
    """The same for the published energies, F_3D with the anchor that it translates to."""
    with jax.enable_x64(True):
        found = jax.tree.map(np.asarray, weighted_rows(*problem(case), WEIGHTS[case]))
    for term in WEIGHTS[case]:
        residual, precision, rows = found[term]
        system, _ = both(case, f"weighted {term}")
        weight = WEIGHT * precision
        expected = np.einsum("nkp,nk,nkq->npq", rows, weight, rows, optimize=True)
        assert_close(system.hessian, expected)
        assert_close(system.gradient, np.einsum("nkp,nk,nk->np", rows, weight, residual))
        assert_semidefinite(system.hessian)


def test_what_a_term_does_not_see_has_no_rows():
    """An absent hand's columns, and the place and camera that no keypoint depends on."""
    fields = np.array(column_fields(10))
    for case, unseen in (("plain", "root_transl"), ("two views", "weak_camera")):
        system, _ = both(case, "keypoints_2d")
        assert not system.hessian[:, fields == unseen].any()
        own = "weak_camera" if case == "plain" else "root_transl"
        assert np.all(np.diagonal(system.hessian, axis1=1, axis2=2)[:, fields == own] > 0)
    system, _ = both("plain", "all")
    tau = fields == "relative_transl"
    for frame, absent in ((2, slice(D, 2 * D)), (3, slice(0, D))):
        assert not system.hessian[frame, absent].any() and not system.gradient[frame, absent].any()
        assert not system.hessian[frame, tau].any()


# ---- contacts -----------------------------------------------------------------------------------

TOUCHING = {0: (-0.09, 0.0, 0.0), 1: (0.0, -0.035, 0.0), 4: (0.0, 0.0, -0.005)}
"""Frames of `make_frames`, and a tau at which few enough of their vertices touch to have rows."""
CONTACT_NAMES = ("collision", *(f"weighted {term}" for term in COLLISION_TERMS))


@cache
def touching() -> tuple[Priors, TwoHandParams, Observations, Search]:
    """Hands that touch, in the last frame two of which one is absent."""
    priors, params, observations = problem("plain")
    rows = [*TOUCHING, 0]
    valid = np.ones((4, 2), bool)
    valid[3, 1] = False
    with jax.enable_x64(True):
        bare = Observations(hand_valid=jnp.asarray(valid), left_anchor=jnp.zeros(4, bool))
        params = jax.tree.map(lambda x: x[np.array(rows)], params)
        tau = jnp.asarray([TOUCHING[row] for row in rows])
        params = replace(params, relative_transl=tau)
        # Searched as if both were there: it is the energy that leaves the absent hand out.
        everybody = replace(bare, hand_valid=jnp.ones((4, 2), bool))
        search = jit(partial(search_collisions, band=collisions("all").band))
        found = search(make_model(np.float64).hands, params, everybody)
        assert isinstance(found, Search)
        return priors, params, bare, found


def collisions(acting: str) -> Objective:
    """All the terms of penetration, of which one acts."""
    return objective_of({"collision": "pseudo_huber"}, COLLISION_TERMS, acting)


@jit
def contact_products(params, observations, found, objective, directions) -> tuple[Array, Array]:
    """How many contacts each hand has, and J^T a J times some directions (n, frames, P)."""
    hands = make_model(np.float64).hands
    numbers = objective.scales.scale["collision"], objective.scales.knee["collision"]

    def items(step: Array) -> Items:
        moved = retract(params, step)
        depth = signed_depths(hands, moved, observations, found, objective.band)
        return collision_items(depth, observations)

    still = jnp.zeros_like(directions[0])
    precision = item_precision(items(still), "pseudo_huber", *numbers)[..., None]

    def product(direction: Array) -> Array:
        moved = jax.jvp(lambda s: items(s).residual, (still,), (direction,))[1]
        return jax.vjp(lambda s: items(s).residual, still)[1](precision * moved)[0]

    count = jnp.sum(found.face >= 0, axis=-1)
    return count, jnp.stack([product(direction) for direction in directions])


@cache
def contacts(acting: str) -> tuple[System, np.ndarray]:
    """As `both`, with the search that the hands were found touching by."""
    with jax.enable_x64(True):
        priors, params, observations, found = touching()
        at = priors, params, observations, collisions(acting), found
        return System(*map(np.asarray, assembled(*at))), np.asarray(differentiated(*at))


@pytest.mark.parametrize("name", CONTACT_NAMES)
def test_gradient_of_contacts_is_the_energys(name):
    system, expected = contacts(name)
    assert np.abs(expected[:3]).max(axis=-1).all() and not expected[3].any()
    assert_close(system.gradient, expected)
    assert not system.hessian[3].any()
    assert_semidefinite(system.hessian)


def test_contacts_of_all_terms_share_their_rows():
    """One row a contact, whatever acts on it: the forces are summed, and so are the matrices."""
    system, expected = contacts("all")
    parts = [contacts(name)[0] for name in CONTACT_NAMES]
    assert_close(system.gradient, expected)
    assert_close(system.hessian, np.sum([part.hessian for part in parts], axis=0))


def test_matrix_of_contacts_is_their_rows_squared():
    """Every vertex within the margin has its row, so the matrix is whole."""
    system, _ = contacts("collision")
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        _, params, observations, found = touching()
        directions = jnp.asarray(rng.normal(size=(3, 4, P)))
        at = params, observations, found, collisions("collision"), directions
        count, expected = map(np.asarray, contact_products(*at))
    assert np.all((count[:3] > 3) & (count[:3] <= ATTRACTED_ROWS))
    for direction, product in zip(np.asarray(directions), expected, strict=True):
        assert_close(np.einsum("npq,nq->np", system.hessian, direction), product)


# ---- columns ------------------------------------------------------------------------------------


def test_a_step_of_nothing_changes_nothing():
    _, params, _ = problem("plain")
    with jax.enable_x64(True):
        same = retract(params, jnp.zeros((FRAMES, P)))
    for name in FIELDS:
        np.testing.assert_allclose(getattr(same, name), getattr(params, name), atol=1e-12)


def test_wrists_turn_from_the_left_and_all_else_adds():
    _, params, _ = problem("plain")
    with jax.enable_x64(True):
        step = jnp.asarray(np.random.default_rng(1).normal(0, 0.5, (FRAMES, P)))
        moved = retract(params, step)
        own = step[:, : 2 * D].reshape(FRAMES, 2, D)
        R, delta = axis_angle_to_matrix(params.global_orient), axis_angle_to_matrix(own[..., :3])
        found = axis_angle_to_matrix(moved.global_orient)
    expected = np.asarray(delta) @ np.asarray(R)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    added = {
        "hand_pose": own[..., 3:48].reshape(FRAMES, 2, 15, 3),
        "betas": own[..., 48:],
        "relative_transl": step[:, 2 * D :][:, 0:3],
        "root_transl": step[:, 2 * D :][:, 3:6],
        "weak_camera": step[:, 2 * D :][:, 6:9],
    }
    for name, value in added.items():
        np.testing.assert_allclose(getattr(moved, name), getattr(params, name) + value, atol=1e-12)


@pytest.mark.parametrize("num_betas", [10, 3])
def test_every_column_moves_its_own_field(num_betas):
    """And, of a field of both hands, the one hand's part."""
    columns = column_fields(num_betas)
    size = 48 + num_betas
    assert len(columns) == 2 * size + COMMON
    rng = np.random.default_rng(2)
    shapes = {"global_orient": (2, 3), "hand_pose": (2, 15, 3), "betas": (2, num_betas)}
    start = TwoHandParams(
        **{
            name: jnp.asarray(
                0.3 * rng.normal(size=(len(columns), *shapes.get(name, (3,)))), jnp.float32
            )
            for name in FIELDS
        }
    )
    moved = retract(start, 0.1 * jnp.eye(len(columns), dtype=jnp.float32))
    for name in FIELDS:
        change = np.abs(np.asarray(getattr(moved, name)) - np.asarray(getattr(start, name)))
        acts = change.reshape(len(columns), -1).max(axis=-1) > 1e-3
        np.testing.assert_array_equal(acts, np.array(columns) == name)
        if name in shapes:
            by_hand = change.reshape(len(columns), 2, -1).max(axis=-1) > 1e-3
            assert not by_hand[:size, 1].any() and not by_hand[size:, 0].any()
