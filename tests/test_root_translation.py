"""The anchor wrist from 2D keypoints: recovered, in front of the camera, or not known."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fitting.initialise import pose_joints_float64
from fitting.root_translation import root_is_solvable, solve_root_transl
from mano_jax.cameras import project_perspective, transform
from objectives.problem import PerspectiveViews

BOTH = np.ones((6, 2), bool)


@pytest.fixture(scope="module")
def anchored(hands):
    """Joints of two hands at the same place, relative to the right wrist."""
    rng = np.random.default_rng(0)
    orient, pose = rng.normal(size=(6, 2, 3)), 0.3 * rng.normal(size=(6, 2, 15, 3))
    joints = pose_joints_float64(hands, orient, pose, np.zeros((6, 2, 10)))
    joints = joints - joints[:, :, :1]
    joints[:, 1] += 0.1 * rng.normal(size=(6, 1, 3))
    return joints


def views_of(frames, T, *, distortion=(), focal=800.0):
    K = np.array([[focal, 2.0, 320.0], [0.0, 1.1 * focal, 240.0], [0.0, 0.0, 1.0]])
    shape = (frames, len(T))
    return PerspectiveViews(
        K=jnp.asarray(np.broadcast_to(K, (*shape, 3, 3)), jnp.float32),
        distortion=jnp.asarray(
            np.broadcast_to(np.array(distortion), (*shape, len(distortion))), jnp.float32
        ),
        T_view_camera=jnp.asarray(np.broadcast_to(T, (*shape, 4, 4)), jnp.float32),
        pixel_scale=jnp.ones(shape),
    )


def two_cameras():
    T = np.stack([np.eye(4), np.eye(4)])
    T[1, :3, :3] = Rotation.from_rotvec([0.0, 0.7, 0.1]).as_matrix()
    T[1, :3, 3] = [-0.4, 0.0, 0.1]
    return T


def projected(joints, transl, views):
    points = jnp.asarray(joints + transl[:, None, None], jnp.float32)
    points = jnp.repeat(points.reshape(len(points), 1, 42, 3), views.K.shape[1], axis=1)
    in_view = transform(views.T_view_camera, points)
    pixels = project_perspective(in_view, views.K, views.distortion)
    return np.array(pixels).reshape(*pixels.shape[:2], 2, 21, 2)


@pytest.mark.parametrize("distortion", [(), (-0.3, 0.1, 1e-3, -1e-3, 0.02)])
@pytest.mark.parametrize("T", [np.eye(4)[None], two_cameras()])
def test_root_translation_is_recovered(anchored, T, distortion):
    transl = np.array([0.05, -0.03, 0.7]) + 0.05 * np.random.default_rng(4).normal(size=(6, 3))
    views = views_of(6, T, distortion=distortion)
    pixels = projected(anchored, transl, views)
    confidence = np.ones(pixels.shape[:-1])
    # A missing keypoint is not read.
    confidence[:, :, 0, 3], pixels[:, :, 0, 3] = 0.0, np.nan
    found = solve_root_transl(anchored, BOTH, pixels, confidence, views)
    np.testing.assert_allclose(found, transl, atol=2e-4)


def test_root_translation_is_in_front_of_the_camera(anchored):
    transl = np.tile([0.0, 0.0, 0.8], (6, 1))
    views = views_of(6, np.eye(4)[None])
    # Seen from behind, as if the hand were mirrored: linear least squares would like depth < 0.
    pixels = projected(-anchored, transl, views)
    found = solve_root_transl(anchored, BOTH, pixels, np.ones(pixels.shape[:-1]), views)
    depth = anchored[..., 2] + found[:, None, None, 2]
    assert np.isfinite(found).all()
    assert np.all(found[:, 2] > 0.2)
    assert np.all(depth > -0.3)


def test_one_keypoint_a_view_does_not_place_the_hands(anchored):
    views = views_of(6, two_cameras())
    pixels = projected(anchored, np.tile([0.0, 0.0, 0.8], (6, 1)), views)
    confidence = np.zeros(pixels.shape[:-1])
    confidence[0, :, 0, 5] = 1.0
    confidence[1, 1, 0, [5, 6]] = 1.0
    found = solve_root_transl(anchored, BOTH, pixels, confidence, views)
    assert np.isnan(found[[0, 2, 3, 4, 5]]).all()
    np.testing.assert_allclose(found[1], [0.0, 0.0, 0.8], atol=5e-3)
    np.testing.assert_array_equal(root_is_solvable(confidence > 0), [0, 1, 0, 0, 0, 0])


def test_a_frames_rays_do_not_depend_on_the_others_distortion(anchored):
    views = views_of(6, np.eye(4)[None], distortion=(-0.3, 0.1, 0.0, 0.0))
    straight = views.distortion.at[0].set(0.0)
    views = PerspectiveViews(views.K, straight, views.T_view_camera, views.pixel_scale)
    pixels = projected(anchored, np.tile([0.0, 0.0, 0.8], (6, 1)), views)
    ones = np.ones(pixels.shape[:-1])
    together = solve_root_transl(anchored, BOTH, pixels, ones, views)
    first = PerspectiveViews(
        views.K[:1], straight[:1], views.T_view_camera[:1], views.pixel_scale[:1]
    )
    alone = solve_root_transl(anchored[:1], BOTH[:1], pixels[:1], ones[:1], first)
    np.testing.assert_array_equal(alone[0], together[0])
