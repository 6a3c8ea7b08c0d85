"""Likelihoods: residuals in their units, what is missing, and the common translation."""

from dataclasses import replace
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from mano_jax import joint_orders
from objectives.joint_limits import JointLimits, joint_limit_excess
from objectives.likelihoods import (
    CONTACT_MARGIN,
    SCALE_UNITS,
    Items,
    bone_scale_items,
    collision_items,
    item_length,
    item_precision,
    joints_3d_items,
    keypoints_2d_items,
    parameter_items,
    rotation_between,
    scaled_energy,
)
from objectives.pose_prior import PosePrior
from objectives.problem import Observations, PerspectiveViews, TwoHandParams
from objectives.robust import Kernel, robust_energy
from objectives.total import SCALED_ONLY, TERMS
from tests.objective_cases import make_model

KERNELS: tuple[Kernel, ...] = get_args(Kernel)
LIMITS = "bone_aligned"


def number(value: float):
    return jnp.float32(value)


def params_like(frames: int = 1, **fields) -> TwoHandParams:
    """Zeros but for what is given."""
    shapes = {"global_orient": (2, 3), "hand_pose": (2, 15, 3), "betas": (2, 10)}
    names = TwoHandParams.__dataclass_fields__
    values = {n: np.zeros((frames, *shapes.get(n, (3,)))) for n in names} | fields
    return TwoHandParams(**{n: jnp.asarray(x, jnp.float32) for n, x in values.items()})


def seen(
    *hand_valid: tuple[bool, bool], predicted: TwoHandParams | None = None, **fields
) -> Observations:
    """Frames with these hands, and what is seen of them."""
    valid = np.array(hand_valid or [(True, True)])
    bare = Observations(
        hand_valid=jnp.asarray(valid), left_anchor=jnp.asarray(~valid[:, 0]), predicted=predicted
    )
    return replace(bare, **{n: jnp.asarray(x, jnp.float32) for n, x in fields.items()})


def residual_of(items: Items) -> tuple[np.ndarray, np.ndarray]:
    """Residuals of items of one coordinate, and their confidences."""
    assert items.residual.shape[-1] == 1
    return np.asarray(items.residual[..., 0]), np.asarray(items.confidence)


def of_params(term: str, params: TwoHandParams, observations: Observations):
    model = make_model()
    return residual_of(
        parameter_items(term, params, observations, model.limits[LIMITS], model.prior)
    )


def test_units_are_told_of_terms_that_exist():
    assert set(SCALE_UNITS) <= set(TERMS)
    assert set(SCALED_ONLY) <= set(SCALE_UNITS)


# ---- energies -----------------------------------------------------------------------------------


def test_an_item_of_one_scale_costs_a_half():
    """An item is judged by its length: a scale is the deviation in each of its coordinates."""
    items = Items(
        residual=jnp.array([[[3.0, 4.0, 0.0], [0.0, 0.0, 2.5]]]),
        confidence=jnp.array([[0.5, 1.0]]),
    )
    np.testing.assert_allclose(item_length(items), [[5.0, 2.5]])
    energy = scaled_energy(items, "squared", number(2.5), number(3.0))
    np.testing.assert_allclose(energy, [0.5 * (0.5 * 2**2 + 1.0)])
    found = item_precision(items, "squared", number(2.5), number(3.0))
    np.testing.assert_allclose(found, [[0.5 / 2.5**2, 1 / 2.5**2]])


@pytest.mark.parametrize("kernel", KERNELS)
def test_precision_times_residual_is_the_energys_gradient(kernel):
    rng = np.random.default_rng(0)
    residual = jnp.asarray(rng.normal(0, 3, (2, 6, 3)), jnp.float32).at[0, 0].set(0.0)
    confidence = jnp.asarray(rng.uniform(0, 1, (2, 6)), jnp.float32)
    scale, knee = number(0.7), number(2.0)

    def energy(residual):
        return jnp.sum(scaled_energy(Items(residual, confidence), kernel, scale, knee))

    items = Items(residual, confidence)
    force = item_precision(items, kernel, scale, knee)[..., None] * residual
    np.testing.assert_allclose(jax.grad(energy)(residual), force, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel", ["huber", "pseudo_huber", "geman_mcclure"])
def test_a_knee_is_counted_in_scales(kernel):
    items = Items(jnp.array([[[0.01]], [[0.06]]]), jnp.ones((2, 1)))
    near, far = scaled_energy(items, kernel, number(0.01), number(3.0))
    assert near == pytest.approx(0.5, rel=0.15)
    assert far == pytest.approx(0.5 * float(robust_energy(number(6.0), kernel, number(3.0))))
    assert far < 0.8 * 0.5 * 6**2


# ---- joints -------------------------------------------------------------------------------------


def joints_problem(outliers: int = 5) -> tuple[jnp.ndarray, Observations]:
    """Three frames: all joints with outliers; a part of them; none."""
    rng = np.random.default_rng(5)
    joints = rng.normal(0, 0.05, (3, 2, 21, 3))
    targets = joints + rng.normal(0, 0.01, joints.shape) + [1.0, -2.0, 0.5]
    targets.reshape(3, 42, 3)[:, rng.permutation(42)[:outliers]] += rng.normal(
        0, 0.08, (3, outliers, 3)
    )
    confidence = rng.uniform(0.2, 1.0, (3, 2, 21))
    confidence[1] *= rng.uniform(size=(2, 21)) < 0.6
    confidence[2] = 0
    targets[confidence == 0] = np.nan
    # Not a number beside no confidence: such a target is not looked at.
    return jnp.asarray(joints, jnp.float32), seen(
        (True, True),
        (True, True),
        (True, False),
        joints_3d=targets,
        joints_3d_confidence=confidence,
    )


@pytest.mark.parametrize("kernel", ["squared", "pseudo_huber", "geman_mcclure"])
def test_joints_are_compared_after_the_translation_that_fits_best(kernel):
    joints, observations = joints_problem()
    scale, knee = 0.01, 3.0
    items, shares = joints_3d_items(joints, observations, kernel, number(scale), number(knee))
    energy = np.asarray(scaled_energy(items, kernel, number(scale), number(knee)))
    np.testing.assert_allclose(jnp.sum(shares, axis=-1), [1.0, 1.0, 0.0], atol=1e-6)
    assert observations.joints_3d is not None and observations.joints_3d_confidence is not None
    targets = np.asarray(observations.joints_3d, np.float64)
    for frame in range(2):
        weight = np.asarray(observations.joints_3d_confidence[frame], np.float64).reshape(-1)
        kept = weight > 0
        difference = (np.asarray(joints[frame], np.float64) - targets[frame]).reshape(-1, 3)[kept]

        def cost(centre, difference=difference, weight=weight[kept]):
            length = np.linalg.norm(difference - centre, axis=-1) / scale
            if kernel == "squared":
                rho = length**2
            elif kernel == "pseudo_huber":
                rho = 2 * knee**2 * (np.sqrt(1 + (length / knee) ** 2) - 1)
            else:
                rho = length**2 / (1 + (length / knee) ** 2)
            return 0.5 * np.sum(weight * rho)

        starts = (difference.mean(0), np.median(difference, axis=0))
        best = min((minimize(cost, x, tol=1e-12) for x in starts), key=lambda r: r.fun)
        assert energy[frame] == pytest.approx(best.fun, rel=1e-4)
        expected = np.zeros((42, 3))
        expected[kept] = difference - best.x
        np.testing.assert_allclose(items.residual[frame], expected, atol=3e-5)
    assert energy[2] == 0


@pytest.mark.parametrize("kernel", ["squared", "geman_mcclure"])
def test_a_common_translation_costs_nothing(kernel):
    joints, observations = joints_problem()
    numbers = number(0.01), number(3.0)

    def energy(joints):
        return scaled_energy(
            joints_3d_items(joints, observations, kernel, *numbers)[0], kernel, *numbers
        )

    moved = energy(joints + jnp.array([0.3, -0.1, 0.2]))
    np.testing.assert_allclose(moved, energy(joints), rtol=1e-3)
    gradient = jax.grad(lambda x: jnp.sum(energy(x)))(joints)
    assert np.all(np.isfinite(gradient)) and not np.any(gradient[2])
    total = np.abs(np.sum(gradient, axis=(1, 2)))
    assert np.all(total < 1e-3 * np.abs(gradient).sum(axis=(1, 2)) + 1e-6)


def test_no_joints_say_nothing():
    joints, _ = joints_problem()
    observations = seen((True, True), (True, True), (True, True))
    items, shares = joints_3d_items(joints, observations, "squared", number(1), number(3))
    assert not np.any(items.confidence) and not np.any(items.residual) and not np.any(shares)


def test_keypoints_are_compared_in_crop_units():
    """Of the weak camera as they are, of pixels after division by the view's scale."""
    keypoints = np.zeros((1, 1, 2, 21, 2))
    keypoints[0, 0, 0, 0] = [0.3, 0.5]
    keypoints[0, 0, 0, 1] = np.nan
    confidence = np.zeros((1, 1, 2, 21))
    confidence[0, 0, 0, 0] = 0.7
    camera = params_like(weak_camera=[[2.0, 0.1, 0.2]])
    joints = jnp.zeros((1, 2, 21, 3)).at[0, 0, 0].set(jnp.array([0.05, 0.0, 9.0]))
    observations = seen(keypoints_2d=keypoints, keypoints_2d_confidence=confidence)
    items = keypoints_2d_items(camera, joints, observations)
    assert items.residual.shape == (1, 42, 2)
    np.testing.assert_allclose(items.residual[0, 0], [0.0, -0.1], atol=1e-6)
    assert not np.any(items.residual[0, 1:]) and np.sum(items.confidence) == number(0.7)

    views = PerspectiveViews(
        K=jnp.tile(jnp.array([[100.0, 0, 50], [0, 100, 50], [0, 0, 1]]), (1, 2, 1, 1)),
        distortion=jnp.zeros((1, 2, 0)),
        T_view_camera=jnp.tile(jnp.eye(4), (1, 2, 1, 1)),
        pixel_scale=jnp.array([[40.0, 80.0]]),
    )
    pixels, certain = np.zeros((1, 2, 2, 21, 2)), np.zeros((1, 2, 2, 21))
    pixels[..., 0, :], certain[..., 0, 0] = [70.0, 50.0], 1.0
    placed = params_like(root_transl=[[0.0, 0.0, 1.0]])
    observations = seen(keypoints_2d=pixels, keypoints_2d_confidence=certain)
    observations = replace(observations, views=views)
    items = keypoints_2d_items(placed, jnp.zeros((1, 2, 21, 3)), observations)
    # Twenty pixels of forty, and of eighty; the second hand's keypoint has no confidence.
    np.testing.assert_allclose(items.residual[0, [0, 42]], [[-0.5, 0], [-0.25, 0]], atol=1e-6)
    np.testing.assert_array_equal(np.flatnonzero(items.confidence[0]), [0, 42])
    assert keypoints_2d_items(placed, joints, seen()).residual.shape == (1, 0, 2)


# ---- surfaces -----------------------------------------------------------------------------------


def test_skin_collides_from_the_margin_on():
    depth = jnp.array([-jnp.inf, -2 * CONTACT_MARGIN, -CONTACT_MARGIN, -1e-4, 0.0, 0.003])
    depth = jnp.tile(depth, (2, 2, 1))
    items = collision_items(depth, seen((True, True), (True, False)))
    residual, confidence = residual_of(items)
    beyond = [0, 0, 0, CONTACT_MARGIN - 1e-4, CONTACT_MARGIN, CONTACT_MARGIN + 0.003]
    np.testing.assert_allclose(residual[0], [*beyond, *beyond], atol=1e-9)
    assert np.all(confidence[0] == 1) and not confidence[1].any() and not residual[1].any()


def test_a_bone_is_compared_in_metres():
    first, second = joint_orders.index("middle1"), joint_orders.index("middle2")
    joints = jnp.zeros((2, 2, 21, 3)).at[:, :, second].set(jnp.array([0.0, 0.03, 0.0]))
    joints = joints.at[:, 1, first].set(jnp.array([0.0, 0.004, 0.0]))
    residual, confidence = residual_of(bone_scale_items(joints, seen((True, True), (False, True))))
    np.testing.assert_allclose(residual[0], [0.03 - 0.0282, 0.026 - 0.0282], atol=1e-7)
    assert residual[1, 0] == 0 and confidence.tolist() == [[1, 1], [0, 1]]


# ---- parameters ---------------------------------------------------------------------------------


def test_relative_translation_is_held_against_the_wrists_of_the_joints():
    targets, confidence = np.zeros((3, 2, 21, 3)), np.ones((3, 2, 21))
    targets[:, 0, 0], targets[:, 1, 0] = [1.0, 1.0, 1.0], [1.1, 1.0, 0.9]
    confidence[1, 1, 0] = 0
    params = params_like(3, relative_transl=np.tile([0.15, 0.0, 0.0], (3, 1)))
    valid = (True, True), (True, True), (True, False)
    observations = seen(*valid, joints_3d=targets, joints_3d_confidence=confidence)
    residual, confidence = of_params("relative_translation", params, observations)
    np.testing.assert_allclose(residual[0], [0.05, 0.0, 0.1], atol=1e-6)
    assert confidence[0].all() and not confidence[1:].any() and not residual[1:].any()
    assert not of_params("relative_translation", params, seen(*valid))[1].any()


def test_shapes_are_compared_with_each_other_and_with_the_mean():
    rng = np.random.default_rng(2)
    betas = rng.normal(size=(2, 2, 10)).astype(np.float32)
    params, observations = params_like(2, betas=betas), seen((True, True), (False, True))
    residual, confidence = of_params("shape_difference", params, observations)
    np.testing.assert_allclose(residual[0], betas[0, 0] - betas[0, 1])
    assert not residual[1].any() and not confidence[1].any()
    residual, confidence = of_params("shape_prior", params, observations)
    np.testing.assert_allclose(residual[0], betas[0].reshape(-1))
    np.testing.assert_allclose(residual[1], [*np.zeros(10), *betas[1, 1]])
    assert confidence.sum(axis=1).tolist() == [20, 10]


def test_poses_are_compared_in_their_own_units():
    """Angles beyond their range in radians, poses whitened."""
    model = make_model()
    limits: JointLimits = model.limits[LIMITS]
    prior: PosePrior = model.prior
    rng = np.random.default_rng(4)
    pose = rng.normal(0, 0.5, (1, 2, 15, 3))
    predicted = params_like(hand_pose=rng.normal(0, 0.5, (1, 2, 15, 3)))
    params, observations = params_like(hand_pose=pose), seen(predicted=predicted)
    excess = joint_limit_excess(limits, params.hand_pose).reshape(1, -1)
    np.testing.assert_allclose(of_params("joint_limits", params, observations)[0], excess)
    for term, matrix, centre in (
        ("pose_prior", prior.whitening, prior.mean),
        ("predicted_pose", prior.error_whitening, predicted.hand_pose.reshape(2, 45)),
    ):
        difference = pose.reshape(2, 45) - np.asarray(centre, np.float64)
        expected = np.einsum("hij,hj->hi", np.asarray(matrix, np.float64), difference)
        found, confidence = of_params(term, params, observations)
        np.testing.assert_allclose(found[0], expected.reshape(-1), rtol=1e-4, atol=1e-4)
        assert confidence.all()


def test_what_was_predicted_is_compared_parameter_by_parameter():
    rng = np.random.default_rng(6)
    tau, betas = rng.normal(0, 0.1, (2, 2, 3)), rng.normal(size=(2, 2, 2, 10))
    predicted = params_like(2, relative_transl=tau[0], betas=betas[0])
    params = params_like(2, relative_transl=tau[1], betas=betas[1])
    observations = seen((True, True), (True, False), predicted=predicted)
    for term, axes in (("predicted_translation", [0, 1]), ("predicted_depth", [2])):
        residual, confidence = of_params(term, params, observations)
        np.testing.assert_allclose(residual[0], (tau[1] - tau[0])[0, axes], atol=1e-6)
        assert confidence[0].all() and not confidence[1].any()
    residual, confidence = of_params("predicted_shape", params, observations)
    expected = (betas[1] - betas[0]).reshape(2, 20)
    expected[1, 10:] = 0
    np.testing.assert_allclose(residual, expected, atol=1e-5)
    assert confidence.sum(axis=1).tolist() == [20, 10]


def test_a_wrists_error_is_an_angle_about_the_cameras_axes():
    rng = np.random.default_rng(7)
    start = rng.normal(size=(1, 2, 3))
    turn = np.array([[[0.0, 0.3, 0.0], [0.0, 0.0, -0.2]]])
    turned = (Rotation.from_rotvec(turn[0]) * Rotation.from_rotvec(start[0])).as_rotvec()[None]
    observations = seen(predicted=params_like(global_orient=start))
    residual, confidence = of_params(
        "predicted_orientation", params_like(global_orient=turned), observations
    )
    np.testing.assert_allclose(residual[0], turn.reshape(-1), atol=2e-6)
    assert confidence.all()


@pytest.mark.parametrize("angle", [0.0, 1e-5, 1.0, 3.1, np.pi])
def test_rotations_differ_by_the_turn_between_them(angle):
    rng = np.random.default_rng(8)
    first = Rotation.random(6, rng=rng)
    axes = rng.normal(size=(6, 3))
    axes /= np.linalg.norm(axes, axis=-1, keepdims=True)
    second = Rotation.from_rotvec(angle * axes) * first
    between = rotation_between(*(jnp.asarray(r.as_rotvec(), jnp.float32) for r in (first, second)))
    found = Rotation.from_rotvec(np.asarray(between, np.float64)) * first
    assert np.all((found * second.inv()).magnitude() < (2e-3 if angle > 3 else 1e-5))


def test_a_camera_is_compared_by_its_log_scale_and_its_shift_in_the_crop():
    guess = np.tile([4.0, 0.1, -0.1], (3, 1))
    guess[1] = 0
    params = params_like(3, weak_camera=np.tile([4.4, 0.12, -0.1], (3, 1)))
    observations = seen(
        (True, True), (True, True), (False, True), predicted=params_like(3, weak_camera=guess)
    )
    residual, confidence = of_params("predicted_camera", params, observations)
    for frame in (0, 2):
        np.testing.assert_allclose(residual[frame], [np.log(1.1), 0.08, 0.0], atol=1e-6)
    # Where nothing was said of the camera, nothing is compared.
    assert confidence[0].all() and not confidence[1].any() and not residual[1].any()
    views = PerspectiveViews(
        K=jnp.tile(jnp.eye(3), (3, 1, 1, 1)),
        distortion=jnp.zeros((3, 1, 0)),
        T_view_camera=jnp.tile(jnp.eye(4), (3, 1, 1, 1)),
        pixel_scale=jnp.ones((3, 1)),
    )
    assert not of_params("predicted_camera", params, replace(observations, views=views))[1].any()


def test_a_prediction_that_is_missing_or_no_number_says_nothing():
    model = make_model()
    ones = {"betas": (1, 2, 10), "weak_camera": (1, 3), "global_orient": (1, 2, 3)}
    params = params_like(1, **{name: np.ones(shape) for name, shape in ones.items()})

    @jax.jit
    def items_of(params, observations) -> dict[str, Items]:
        at = params, observations, model.limits[LIMITS], model.prior
        return {term: parameter_items(term, *at) for term in SCALED_ONLY}

    nan = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), params)
    for observations in (seen(), seen(predicted=nan)):
        for term, items in items_of(params, observations).items():
            assert not np.any(items.confidence) and not np.any(items.residual), term


def test_terms_that_see_more_than_parameters_are_not_found_here():
    model = make_model()
    for term in ("joints_3d", "keypoints_2d", "bone_scale", "collision", "vertices"):
        with pytest.raises(KeyError, match=term):
            parameter_items(term, params_like(), seen(), model.limits[LIMITS], model.prior)
