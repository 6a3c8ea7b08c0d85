"""How sure a fit is: right as algebra, and right about the truth."""

from dataclasses import fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fitting.calibrate import calibrate
from fitting.posterior import (
    CHUNK,
    Factor,
    Posterior,
    free_columns,
    joint_rows,
    likelihood_objective,
    posterior,
)
from fitting.prepare import prepare
from fitting.refine import refine
from fitting.strategy import StrategyError, load_strategy
from objectives.gauss_newton import normal_equations, retract
from objectives.problem import posed_joints
from objectives.total import make_priors
from tests.test_calibrate import joints_only, noisy_copies, truths  # noqa: F401 (fixtures)

FIELDS = ("global_orient", "hand_pose", "betas", "relative_transl", "weak_camera")


@pytest.fixture(scope="session")
def fitted(hands, truths, joints_only):  # noqa: F811
    """Truth, problem, fitted parameters and calibrated strategy of 48 frames."""
    truth, predictions = noisy_copies(hands, truths, copies=6, joint_noise_mm=8.0)
    strategy = calibrate(hands, predictions, joints_only).applied_to(joints_only)
    result = refine(hands, predictions, strategy, devices=jax.devices()[:1]).predictions
    prepared = prepare(hands, predictions)
    params = replace(prepared.params, **{name: getattr(result, name) for name in FIELDS})
    return truth, prepared, params, strategy


def part(tree, frames):
    return jax.tree.map(lambda x: jnp.asarray(x[frames]), tree)


def with_anchor(observations, *, left):
    """Frames that keep only the left hand, or both."""
    valid = jnp.asarray(observations.hand_valid) & jnp.array([not left, True])
    return replace(observations, hand_valid=valid, left_anchor=~valid[:, 0])


def test_deviations_are_those_of_the_inverse_hessian(hands, fitted):
    _, prepared, params, strategy = fitted
    at, observations = part((params, prepared.observations), slice(0, 3))
    priors = make_priors(hands, strategy.angle_frame)
    objective = likelihood_objective(strategy)
    system = jax.jit(normal_equations)(hands, priors, at, observations, objective, None)
    factor = Factor.of(system.hessian, free_columns(strategy, at.betas.shape[-1]))

    hessian = np.asarray(system.hessian, np.float64)
    acts = np.diagonal(hessian[0]) > 0
    exact = np.linalg.inv(hessian[:, acts][:, :, acts])
    covariance = np.asarray(factor.covariance())[:, acts][:, :, acts]
    deviations = np.sqrt(np.diagonal(exact, axis1=1, axis2=2))
    np.testing.assert_allclose(np.sqrt(np.diagonal(covariance, 0, 1, 2)), deviations, rtol=1e-3)
    found = posterior(hands, prepared.observations, params, strategy)
    np.testing.assert_allclose(found.std_betas[:3, 0], deviations[:, 48:58], rtol=1e-3)
    np.testing.assert_allclose(found.std_relative_transl[:3], deviations[:, 116:119], rtol=1e-3)
    # Every parameter is determined once, by the terms together.
    shares = np.trace(covariance.astype(np.float64) @ hessian[:, acts][:, :, acts], 0, 1, 2)
    np.testing.assert_allclose(shares, acts.sum(), rtol=1e-3)


@pytest.mark.parametrize("left", [False, True])
def test_joints_move_as_their_rows_say(hands, fitted, left):
    _, prepared, params, _ = fitted
    at, observations = part((params, prepared.observations), slice(0, 2))
    observations = with_anchor(observations, left=left)
    anchored, local = jax.jit(joint_rows)(hands, at, observations)
    step = jnp.asarray(np.random.default_rng(0).normal(size=(2, anchored.shape[-1])), jnp.float32)

    @jax.jit
    def joints(size):
        return posed_joints(hands, retract(at, size * step), observations.left_anchor)

    moved = np.asarray((joints(1e-3) - joints(-1e-3)) / 2e-3).reshape(2, 2, 21, 3)
    known = np.asarray(observations.hand_valid)[..., None, None]
    by_rows = np.einsum("bjp,bp->bj", anchored, step).reshape(moved.shape)
    np.testing.assert_allclose(by_rows, np.where(known, moved, 0.0), atol=2e-3)
    by_rows = np.einsum("bjp,bp->bj", local, step).reshape(moved.shape)
    np.testing.assert_allclose(by_rows, np.where(known, moved - moved[:, :, :1], 0.0), atol=2e-3)


def test_truth_is_within_a_deviation_as_often_as_it_should(hands, fitted):
    truth, prepared, params, strategy = fitted
    found = posterior(hands, prepared.observations, params, strategy)
    joints = np.asarray(
        posed_joints(hands, part(params, slice(None)), jnp.zeros(truth.num_frames, bool))
    )
    error = joints - truth.joints_3d[..., :3]
    anchored, local = error - error[:, :1, :1], error - error[:, :, :1]
    for errors, deviations in ((anchored, found.std_joints), (local, found.std_joints_local)):
        told = deviations > 0
        inside = np.mean(np.abs(errors[told]) < deviations[told])
        assert 0.60 < inside < 0.76


def test_held_and_absent_are_known_and_skipped_are_not(hands, fitted):
    _, prepared, params, strategy = fitted
    stage = strategy.stages[0]
    sizes = {group: size for group, size in stage.step_sizes.items() if group != "shape"}
    strategy = replace(strategy, stages=(replace(stage, step_sizes=sizes),))
    some, observations = part((params, prepared.observations), slice(0, 2))
    observations = with_anchor(observations, left=True)
    first = jnp.array([[True], [False]])
    observations = replace(observations, hand_valid=observations.hand_valid & first)
    found = posterior(hands, observations, some, strategy)
    for field in fields(Posterior):
        deviations = getattr(found, field.name)
        assert deviations.dtype == np.float32
        assert np.all(np.isnan(deviations[1])) and np.all(np.isfinite(deviations[0])), field.name
    assert np.all(found.std_betas[0] == 0)
    assert np.all(found.std_relative_transl[0] == 0)
    assert np.all(found.std_hand_pose[0, 0] == 0) and np.all(found.std_hand_pose[0, 1] > 0)
    assert np.all(found.std_joints[0, 0] == 0) and np.all(found.std_joints[0, 1, 1:] > 0)
    np.testing.assert_array_equal(found.std_joints[0, 1, 0], 0.0)


def test_frames_do_not_meet(hands, fitted):
    _, prepared, params, strategy = fitted
    found = posterior(hands, prepared.observations, params, strategy)
    rows = slice(CHUNK - 1, CHUNK + 2)
    alone = posterior(hands, part(prepared.observations, rows), part(params, rows), strategy)
    for name, deviations in alone.arrays().items():
        np.testing.assert_allclose(deviations, getattr(found, name)[rows], rtol=1e-4, atol=1e-9)


def test_contacts_make_nothing_certain(hands, fitted):
    _, prepared, params, strategy = fitted
    terms = ("collision", *strategy.report_likelihoods)
    found = posterior(hands, prepared.observations, params, strategy)
    with_contacts = replace(strategy, report_likelihoods=terms)
    again = posterior(hands, prepared.observations, params, with_contacts)
    np.testing.assert_array_equal(found.std_joints, again.std_joints)


def test_weights_have_no_deviations(hands, fitted):
    _, prepared, params, _ = fitted
    with pytest.raises(StrategyError, match="deviations follow from likelihoods alone"):
        posterior(hands, prepared.observations, params, load_strategy("ihmr"))
