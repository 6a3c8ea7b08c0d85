"""Values: every term against plain loops, and what is missing changes no weight."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mano_jax import joint_orders
from mano_jax.cameras import distort
from objectives import joint_limits, keypoints, pose_prior, robust
from objectives.problem import Observations, PerspectiveViews
from tests.objective_cases import (
    CAMERAS,
    CASES,
    FIELDS,
    FRAMES,
    NAMES,
    TERMS,
    all_energies,
    as_dtype,
    embedded_right_model,
    make_frames,
    make_model,
    names,
    pose,
    term_gradients,
    values_and_gradients,
)

JOINT = joint_orders.MANO21.index


@cache
def evaluated(camera: str) -> tuple:
    """A camera's frames, posed and evaluated in float64."""
    params, observations = make_frames(camera)
    with jax.enable_x64(True):
        model = make_model(np.float64)
        posed = pose(model.hands, params, observations.left_anchor)
        values = np.asarray(term_gradients(model, params, posed, observations)[0])
    return model, params, posed, observations, dict(zip(names(observations), values, strict=True))


# The oracle: one frame at a time, one number at a time. ---------------------------------------


def _pixel(views: PerspectiveViews, frame: int, view: int, point: np.ndarray) -> np.ndarray:
    T, K = np.asarray(views.T_view_camera)[frame, view], np.asarray(views.K)[frame, view]
    seen = T[:3, :3] @ point + T[:3, 3]
    flat = (seen / seen[2])[None, :2]
    if views.distortion.shape[-1]:
        flat = np.asarray(distort(jnp.asarray(flat), views.distortion[frame, view]))
    return (K @ [flat[0, 0], flat[0, 1], 1.0])[:2]


def loop_keypoints_2d(model, params, posed, o, frame) -> float:
    total, count = 0.0, 0
    for view in range(o.keypoints_2d.shape[1]):
        for hand in range(2):
            for joint in range(21):
                c = float(o.keypoints_2d_confidence[frame, view, hand, joint])
                if c == 0:
                    continue
                point = np.asarray(posed.joints)[frame, hand, joint]
                if o.views is None:
                    s, tx, ty = np.asarray(params.weak_camera)[frame]
                    image, scale = s * (point[:2] + [tx, ty]), 1.0
                else:
                    point = point + np.asarray(params.root_transl)[frame]
                    image = _pixel(o.views, frame, view, point)
                    scale = float(o.views.pixel_scale[frame, view])
                error = (image - np.asarray(o.keypoints_2d)[frame, view, hand, joint]) / scale
                total += c * (abs(error[0]) + abs(error[1]))
                count += 1
    return total / (2 * count)


def loop_joints_3d(model, params, posed, o, frame) -> float:
    joints, targets = np.asarray(posed.joints)[frame], np.asarray(o.joints_3d)[frame]
    confidence = np.asarray(o.joints_3d_confidence)[frame]
    valid = [(h, j) for h in range(2) for j in range(21) if confidence[h, j] > 0]
    anchor = (1 if o.left_anchor[frame] else 0, JOINT("wrist"))
    used = [anchor] if anchor in valid else valid
    origin = sum(joints[i] for i in used) / len(used)
    target_origin = sum(targets[i] for i in used) / len(used)
    total = 0.0
    for i in valid:
        error = (joints[i] - origin) - (targets[i] - target_origin)
        total += confidence[i] * (error @ error)
    return total / (3 * len(valid))


def loop_relative_translation(model, params, posed, o, frame) -> float:
    if not (np.asarray(o.joints_3d_confidence)[frame, :, 0] > 0).all():
        return 0.0
    right, left = np.asarray(o.joints_3d)[frame, :, 0]
    return float(np.mean((np.asarray(params.relative_transl)[frame] - (left - right)) ** 2))


def loop_shape_difference(model, params, posed, o, frame) -> float:
    right, left = np.asarray(params.betas)[frame]
    return float(np.mean((right - left) ** 2)) if all(o.hand_valid[frame]) else 0.0


def _valid_hands(o: Observations, frame: int) -> list[int]:
    return [hand for hand in range(2) if o.hand_valid[frame, hand]]


def loop_finger_twist(model, params, posed, o, frame) -> float:
    total = 0.0
    for hand in _valid_hands(o, frame):
        for finger in ("thumb", "index", "middle", "ring", "pinky"):
            names = [f"{finger}1", f"{finger}2", f"{finger}3", f"{finger}_tip"]
            a, b, c, d = (np.asarray(posed.joints)[frame, hand, JOINT(n)] for n in names)
            first, second = np.cross(b - a, c - b), np.cross(c - b, d - c)
            total += abs((d - c) @ first) - min(0.0, first @ second)
    return total


# S2HAND's Table 1 again, typed from the paper: azimuth, pitch, roll by finger and joint.
_BENT = [-5, 5, -100, 10, -5, 5]
_BASE = [-10, 10, -100, 10, -5, 5]
_TABLE = {
    "thumb1": [-22.5, 33.75, -22.5, 22.5, 0, 90],
    "thumb2": [-5, 5, -22.5, 22.5, -5, 5],
    "thumb3": [-5, 5, -100, 20, -5, 5],
    "pinky1": [-10, 20, -100, 10, -20, 5],
    **{f"{f}1": _BASE for f in ("index", "middle", "ring")},
    **{f"{f}{i}": _BENT for f in ("index", "middle", "ring", "pinky") for i in (2, 3)},
}


def _bone_axes(name: str) -> np.ndarray:
    """Axes (rows) of a right hand's bone at rest."""
    hand = embedded_right_model()
    rest = hand.J_regressor @ hand.v_template
    finger, number = name[:-1], int(name[-1])
    start = rest[JOINT(name)]
    if number == 3:
        tip = joint_orders.FINGERTIP_VERTICES["smplx"]["right"][joint_orders.FINGERS.index(finger)]
        end = hand.v_template[tip]
    else:
        end = rest[JOINT(f"{finger}{number + 1}")]
    across = rest[JOINT("index1")] - rest[0], rest[JOINT("pinky1")] - rest[0]
    palm = np.cross(*across)
    x = (end - start) / np.linalg.norm(end - start)
    z = np.cross(x, palm)
    z = z / np.linalg.norm(z)
    return np.stack([x, np.cross(z, x), z])


def _euler(name: str, axis_angle: np.ndarray) -> list[float]:
    """Azimuth, pitch, roll of a right hand's joints, degrees."""
    axes = _bone_axes(name)
    matrix = axes @ Rotation.from_rotvec(axis_angle).as_matrix() @ axes.T
    z, y, x = np.moveaxis(Rotation.from_matrix(matrix).as_euler("ZYX", degrees=True), -1, 0)
    return [-y, -z, -x]


def _loop_limits(angles_of, range_of, params, o, frame) -> float:
    energies = []
    for hand in _valid_hands(o, frame):
        total = 0.0
        for i, name in enumerate(joint_orders.MANO16[1:]):
            axis_angle = np.asarray(params.hand_pose)[frame, hand, i]
            right = axis_angle * ([1, -1, -1] if hand == 1 else [1, 1, 1])
            bounds = range_of(name)
            for k, angle in enumerate(angles_of(name, right)):
                low, high = bounds[2 * k], bounds[2 * k + 1]
                total += np.deg2rad(max(low - angle, 0.0) + max(angle - high, 0.0))
        energies.append(total / 15)
    return sum(energies) / len(energies)


def loop_limits_axis_angle(model, params, posed, o, frame) -> float:
    def angles(name, v):
        return np.rad2deg([v[1], -v[2], v[0]])

    return _loop_limits(angles, _TABLE.__getitem__, params, o, frame)


def loop_limits_bone_aligned(model, params, posed, o, frame) -> float:
    return _loop_limits(_euler, _TABLE.__getitem__, params, o, frame)


def loop_limits_pose_samples(model, params, posed, o, frame) -> float:
    samples = embedded_right_model().pose_samples
    assert samples is not None
    samples = samples.reshape(-1, 15, 3)

    def bounds(name):
        angles = _euler(name, samples[:, joint_orders.MANO16.index(name) - 1])
        return np.percentile(angles, [1, 99], axis=-1).T.ravel()

    return _loop_limits(_euler, bounds, params, o, frame)


def loop_bone_scale(model, params, posed, o, frame) -> float:
    joints = np.asarray(posed.joints)[frame]
    bones = [joints[h, JOINT("middle2")] - joints[h, JOINT("middle1")] for h in range(2)]
    errors = [float(np.linalg.norm(bones[h]) - 0.0282) ** 2 for h in _valid_hands(o, frame)]
    return sum(errors) / len(errors)


def loop_shape_prior(model, params, posed, o, frame) -> float:
    hands = _valid_hands(o, frame)
    return float(np.mean(np.asarray(params.betas)[frame, hands] ** 2))


def loop_pose_prior(model, params, posed, o, frame) -> float:
    energies = []
    for hand in _valid_hands(o, frame):
        samples = np.asarray(model.hands.pose_samples[hand]).reshape(-1, 45)
        variance, axes = np.linalg.eigh(np.cov(samples.T))
        variance = np.maximum(variance, np.deg2rad(1.0) ** 2)
        pose_vector = np.asarray(params.hand_pose)[frame, hand].ravel()
        coordinates = axes.T @ (pose_vector - samples.mean(axis=0))
        energies.append(np.sum(coordinates**2 / variance) / 45)
    return sum(energies) / len(energies)


def loop_vertices(model, params, posed, o, frame) -> float:
    confidence = np.asarray(o.vertices_confidence)[frame].ravel()
    kept = confidence > 0
    points = np.asarray(posed.vertices)[frame].reshape(-1, 3)[kept]
    targets = np.asarray(o.vertices)[frame].reshape(-1, 3)[kept]
    errors = (points - points.mean(axis=0)) - (targets - targets.mean(axis=0))
    return sum(c * (e @ e) for c, e in zip(confidence[kept], errors, strict=True)) / (
        3 * kept.sum()
    )


@pytest.mark.parametrize(("camera", "term"), CASES)
def test_terms_equal_plain_loops(camera, term):
    *problem, values = evaluated(camera)
    loop = globals()[f"loop_{term}"]
    # The oracle only reads, but it may call the distortion, which must stay in float64.
    with jax.enable_x64(True):
        expected = [loop(*problem, frame) for frame in range(FRAMES)]
    np.testing.assert_allclose(values[term], expected, rtol=1e-9, atol=1e-18)
    assert max(expected) > 0


@jax.jit
def _residuals(model, params, posed, observations) -> dict:
    terms = {name: TERMS[name].residual for name in names(observations)}
    return {n: f(model, params, posed, observations) for n, f in terms.items() if f is not None}


@pytest.mark.parametrize("camera", CAMERAS)
def test_energies_are_the_kernels_of_their_residuals(camera):
    *problem, values = evaluated(camera)
    with jax.enable_x64(True):
        for name, residual in _residuals(*problem).items():
            energy = jnp.sum(robust.robust_energy(residual, TERMS[name].kernel), axis=-1)
            np.testing.assert_allclose(energy, values[name], rtol=1e-12)


# What is missing ------------------------------------------------------------------------------


def test_values_beside_a_zero_confidence_do_not_matter():
    params, observations = as_dtype(make_frames("weak"), np.float32)
    garbage = {}
    for name in ("keypoints_2d", "joints_3d", "vertices"):
        value, confidence = (getattr(observations, n) for n in (name, f"{name}_confidence"))
        garbage[name] = jnp.where(confidence[..., None] > 0, value, 1e30)
    model = make_model()
    values, gradient = values_and_gradients(model, params, observations)
    same_values, same_gradient = values_and_gradients(
        model, params, replace(observations, **garbage)
    )
    np.testing.assert_array_equal(values, same_values)
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(gradient, field), getattr(same_gradient, field))


@pytest.mark.parametrize("camera", CAMERAS)
def test_a_missing_keypoint_changes_no_weight(camera):
    _, params, posed, observations, _ = evaluated(camera)
    with jax.enable_x64(True):
        image = keypoints.project(params, posed.joints, observations)
        scale = 1.0 if observations.views is None else observations.views.pixel_scale
        offset = 0.05 * jnp.broadcast_to(scale, image.shape[:2])[:, :, None, None, None]
        # The same error everywhere: the mean is that error, however many keypoints there are.
        confidence = (observations.keypoints_2d_confidence > 0).astype(image.dtype)
        shifted = replace(
            observations, keypoints_2d=image + offset, keypoints_2d_confidence=confidence
        )
        energy = keypoints.keypoints_2d_energy(params, posed.joints, shifted)
    np.testing.assert_allclose(energy, 0.05, rtol=1e-9)


def test_a_missing_view_changes_no_weight():
    with jax.enable_x64(True):
        params, observations = make_frames("two_views")
        points, confidence = observations.keypoints_2d, observations.keypoints_2d_confidence
        assert points is not None and confidence is not None
        model = make_model(np.float64)
        joints = pose(model.hands, params, observations.left_anchor).joints
        views = jax.tree.map(lambda x: x[:, :1], observations.views)
        first = replace(
            observations,
            views=views,
            keypoints_2d=points[:, :1],
            keypoints_2d_confidence=confidence[:, :1],
        )
        kept = confidence.at[:, 1].set(0.0)
        masked = replace(observations, keypoints_2d_confidence=kept)
        alone = keypoints.keypoints_2d_energy(params, joints, first)
        np.testing.assert_allclose(
            keypoints.keypoints_2d_energy(params, joints, masked), alone, rtol=1e-12
        )


@pytest.mark.parametrize("present", [0, 1])
def test_a_missing_hand_changes_no_weight_of_a_mean(present):
    params, observations = as_dtype(make_frames("weak"), np.float32)
    model = make_model()
    # Both hands alike, each the other's mirror image: their mean is either one.
    mirror = jnp.array([[1.0, 1.0, 1.0], [1.0, -1.0, -1.0]], jnp.float32)
    params = replace(
        params,
        hand_pose=params.hand_pose[:, :1] * mirror[:, None],
        betas=jnp.repeat(params.betas[:, :1], 2, axis=1),
    )
    posed = pose(model.hands, params, observations.left_anchor)
    both = replace(observations, hand_valid=jnp.ones((FRAMES, 2), bool))
    one = replace(observations, hand_valid=jnp.arange(2) == jnp.full((FRAMES, 1), present))
    energies_of_both, energies_of_one = (
        term_gradients(model, params, posed, seen)[0] for seen in (both, one)
    )
    for name in ("limits_bone_aligned", "bone_scale", "shape_prior", "pose_prior"):
        i = NAMES.index(name)
        np.testing.assert_allclose(energies_of_one[i], energies_of_both[i], rtol=1e-5)


def test_terms_without_data_are_zero():
    params, observations = as_dtype(make_frames("weak"), np.float32)
    model = make_model()
    posed = pose(model.hands, params, observations.left_anchor)
    bare = Observations(hand_valid=observations.hand_valid, left_anchor=observations.left_anchor)
    for name in ("keypoints_2d", "joints_3d", "relative_translation", "vertices"):
        term = TERMS[name]
        np.testing.assert_array_equal(term.energy(model, params, posed, bare), np.zeros(FRAMES))
        assert term.residual is not None
        assert term.residual(model, params, posed, bare).shape == (FRAMES, 0)


def test_terms_take_any_batch_shape():
    params, observations = as_dtype(make_frames("weak"), np.float32)
    model = make_model()
    posed = pose(model.hands, params, observations.left_anchor)
    problem = (params, posed, observations)
    expected, _, _ = term_gradients(model, *problem)
    one_frame = jax.tree.map(lambda x: x[1], problem)
    assert jax.eval_shape(all_energies, model, *one_frame).shape == (len(NAMES),)
    two_axes = jax.tree.map(lambda x: x[None], problem)
    energies = jax.jit(all_energies)(model, *two_axes)
    np.testing.assert_allclose(energies, expected[:, None], rtol=2e-5)


# Records and kernels --------------------------------------------------------------------------


def test_joint_limits_need_pose_samples_only_where_they_use_them():
    hands = replace(make_model().hands, pose_samples=None)
    joint_limits.joint_limits(hands, "bone_aligned")
    with pytest.raises(ValueError, match="hands_coeffs"):
        joint_limits.joint_limits(hands, "pose_samples")


def test_flexion_is_a_negative_pitch_on_both_hands():
    model = make_model()
    middle1 = joint_orders.MANO16.index("middle1") - 1
    axis = np.asarray(model.limits["bone_aligned"].R_hand_bone)[0, middle1, :, 2]
    flexed = np.zeros((2, 15, 3), np.float32)
    flexed[:, middle1] = 0.5 * axis * [[1, 1, 1], [1, -1, -1]]
    for frame in ("axis_angle", "bone_aligned"):
        angles = joint_limits.joint_angles(model.limits[frame], jnp.asarray(flexed))
        assert np.all(np.abs(angles[:, middle1, 1] + 0.5) < 0.03), frame
        assert np.all(np.abs(angles[:, middle1, ::2]) < 0.1), frame


def test_pose_prior_without_samples_is_the_pca_coefficients():
    hands = replace(make_model().hands, pose_samples=None)
    prior = pose_prior.pose_prior(hands)
    coefficients = np.linspace(-1.0, 1.0, 45, dtype=np.float32)
    poses = np.einsum("k,hkc->hc", coefficients, np.asarray(hands.pose_components))
    hand_pose = jnp.asarray(poses.reshape(2, 15, 3)) + hands.pose_mean
    residual = pose_prior.pose_prior_residual(prior, hand_pose, jnp.ones(2, bool))
    np.testing.assert_allclose(residual * np.sqrt(90), np.tile(coefficients, 2), atol=1e-5)


@pytest.mark.parametrize("kernel", robust.KERNELS)
def test_kernels_agree_with_their_weights(kernel):
    residual = jnp.array([-30.0, -1.0, -1e-3, 0.0, 1e-4, 0.4, 2.0], jnp.float32)
    energy, slope = jax.vjp(lambda r: robust.robust_energy(r, kernel, 0.5), residual)
    slope = slope(jnp.ones_like(residual))[0]
    weight = robust.robust_weight(residual, kernel, 0.5)
    np.testing.assert_allclose(slope, 2.0 * weight * residual, rtol=1e-5)
    assert np.all(np.isfinite(weight))
    if kernel != "absolute":
        np.testing.assert_allclose(energy[2:5], residual[2:5] ** 2, rtol=1e-4)


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="geman_mcclure"):
        robust._known("cauchy")
