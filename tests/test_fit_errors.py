"""Fit errors against plain NumPy."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmark import make_interactions
from fitting.fit_errors import FIT_ERRORS, fit_errors
from fitting.prepare import prepare
from objectives.problem import PerspectiveViews, posed_joints

FRAMES = 4


@pytest.fixture(scope="module")
def case(hands):
    """Parameters, joints and observations of synthetic frames."""
    _, predictions = make_interactions(hands, frames=FRAMES, seed=3)
    prepared = prepare(hands, predictions)
    params, observations = jax.tree.map(jnp.asarray, (prepared.params, prepared.observations))
    return params, posed_joints(hands, params, observations.left_anchor), observations


def columns(case, deepest=(0,) * FRAMES):
    params, joints, observations = jax.tree.map(jnp.asarray, case)
    values = np.asarray(fit_errors(params, joints, observations, jnp.asarray(deepest, jnp.float32)))
    return dict(zip(FIT_ERRORS, values.T, strict=True))


def seen_at_random(shape):
    """Confidences of which half are zero; none of frame 2."""
    confidence = np.random.default_rng(0).choice([0.0, 0.3, 1.0], shape).astype(np.float32)
    confidence[2] = 0
    return confidence


def means(lengths, confidence):
    return [lengths[i][confidence[i] > 0].mean() for i in (0, 1, 3)]


def test_reprojection_by_a_weak_camera_is_in_crop_units(case):
    params, joints, observations = case
    confidence = seen_at_random((FRAMES, 1, 2, 21))
    keypoints = np.where(confidence[..., None] > 0, observations.keypoints_2d, np.float32(7))
    found = columns(
        (
            params,
            joints,
            replace(observations, keypoints_2d=keypoints, keypoints_2d_confidence=confidence),
        )
    )
    scale, shift = np.split(np.asarray(params.weak_camera), [1], axis=1)
    image = scale[:, :, None, None] * (np.asarray(joints)[..., :2] + shift[:, None, None])
    lengths = np.linalg.norm(image[:, None] - keypoints, axis=-1)
    expected = means(lengths, confidence)
    np.testing.assert_allclose(found["keypoints_2d_crop"][[0, 1, 3]], expected, rtol=1e-4)
    assert np.isnan(found["keypoints_2d_crop"][2]) and np.isnan(found["keypoints_2d_px"]).all()


def test_reprojection_with_intrinsics_is_in_pixels_of_every_view(case):
    params, joints, observations = case
    K = np.array([[900, 0, 320], [0, 800, 240], [0, 0, 1]], np.float32)
    turned = np.eye(4, dtype=np.float32)
    turned[:3, 3] = 0.1, -0.2, 0.3
    views = PerspectiveViews(
        K=jnp.tile(K, (FRAMES, 2, 1, 1)),
        distortion=jnp.zeros((FRAMES, 2, 0)),
        T_view_camera=jnp.tile(np.stack([np.eye(4, dtype=np.float32), turned]), (FRAMES, 1, 1, 1)),
        pixel_scale=jnp.full((FRAMES, 2), 60.0),
    )
    params = replace(params, root_transl=np.tile(np.array([0, 0.1, 0.8], np.float32), (FRAMES, 1)))
    points = np.asarray(joints) + np.asarray(params.root_transl)[:, None, None]
    points = np.stack([points, points + turned[:3, 3]], axis=1)
    image = points[..., :2] / points[..., 2:] * [900, 800] + [320, 240]
    off = np.random.default_rng(1).normal(0, 5, image.shape)
    confidence = seen_at_random((FRAMES, 2, 2, 21))
    found = columns(
        (
            params,
            joints,
            replace(
                observations,
                views=views,
                keypoints_2d=(image + off).astype(np.float32),
                keypoints_2d_confidence=confidence,
            ),
        )
    )
    expected = means(np.linalg.norm(off, axis=-1), confidence)
    np.testing.assert_allclose(found["keypoints_2d_px"][[0, 1, 3]], expected, rtol=1e-3)
    assert np.isnan(found["keypoints_2d_px"][2]) and np.isnan(found["keypoints_2d_crop"]).all()


def test_joints_are_measured_from_the_anchor_wrist(case):
    params, joints, observations = case
    off = np.random.default_rng(2).normal(0, 0.01, joints.shape)
    off[:, 0, 0] = 0.5, 0.1, -3
    confidence = seen_at_random((FRAMES, 2, 21))
    confidence[[0, 1, 3], 0, 0] = 1
    targets = (np.asarray(joints) + off).astype(np.float32)
    found = columns(
        (
            params,
            joints,
            replace(observations, joints_3d=targets, joints_3d_confidence=confidence),
        )
    )
    lengths = 1000 * np.linalg.norm(off - off[:, :1, :1], axis=-1)
    np.testing.assert_allclose(
        found["joints_3d_mm"][[0, 1, 3]], means(lengths, confidence), rtol=1e-3
    )
    assert np.isnan(found["joints_3d_mm"][2])


def test_what_was_not_given_has_no_error(case):
    params, joints, observations = case
    nothing = replace(
        observations,
        keypoints_2d=None,
        keypoints_2d_confidence=None,
        joints_3d=None,
        joints_3d_confidence=None,
    )
    depth = np.array([0.0, 0.001, np.nan, 0.02], np.float32)
    found = columns((params, joints, nothing), depth)
    np.testing.assert_allclose(found.pop("penetration_mm"), 1000 * depth, rtol=1e-6)
    assert all(np.isnan(values).all() for values in found.values())
