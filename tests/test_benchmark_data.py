"""The synthetic interactions keep what they promise."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import benchmark_data
from experiments.benchmark_data import (
    KEYPOINT_NOISE,
    START_MAX_P_MM,
    START_MPJPE_MM,
    TRUTH_GAP_MM,
    TRUTH_MAX_P_MM,
    make_interactions,
)
from fitting.metrics import max_p, mpjpe
from mano_jax.model import pose_hands, rest_joints
from objectives.collision import penetration_depth, search_exact, surface_distance

FRAMES = 4


@pytest.fixture(scope="module")
def made(hands):
    return make_interactions(hands, frames=FRAMES, seed=5)


@pytest.fixture(scope="module")
def posed(hands, made):
    """Vertices and joints of truth and predictions, origin at the right wrist."""
    return [_posed(hands, predictions) for predictions in made]


@pytest.fixture(scope="module")
def measured(hands, posed):
    """Depth and distance (mm) of every vertex of truth and predictions: [truth, predictions]."""
    vertices = jnp.asarray(np.concatenate([posed[0][0], posed[1][0]]))
    found = search_exact(hands, vertices, jnp.ones(2 * FRAMES, bool), everywhere=True)
    both = penetration_depth(hands, vertices, found), surface_distance(hands, vertices, found)
    return [np.asarray(x).reshape(2, FRAMES, 2, -1) for x in both]


def _posed(hands, predictions):
    transl = -np.asarray(rest_joints(hands, jnp.asarray(predictions.betas)))[:, :, 0]
    transl[:, 1] += predictions.relative_transl
    posed = pose_hands(
        hands,
        global_orient=jnp.asarray(predictions.global_orient),
        hand_pose=jnp.asarray(predictions.hand_pose),
        betas=jnp.asarray(predictions.betas),
        transl=jnp.asarray(transl),
    )
    return np.asarray(posed.vertices), np.asarray(posed.joints)


def test_true_hands_touch_without_penetration(posed, measured):
    vertices, depths, distances = posed[0][0], measured[0][0], 1000 * measured[1][0]
    assert np.all(distances.min(axis=(1, 2)) < TRUTH_GAP_MM)
    assert np.all(max_p(depths, np.ones((FRAMES, 2), bool)) < TRUTH_MAX_P_MM)
    # No graze: much of the surface is near the other hand, and the boxes overlap.
    assert np.all(np.count_nonzero(distances < 10, axis=(1, 2)) >= 100)
    low, high = vertices.min(axis=2), vertices.max(axis=2)
    assert np.all(low.max(axis=1) < high.min(axis=1))


def test_every_true_pose_differs_and_few_pairs_mirror_each_other(made):
    poses = made[0].hand_pose.reshape(2 * FRAMES, 45).copy()
    mirrored = made[0].hand_pose[:, 1] * [1.0, -1.0, -1.0]
    poses[1::2] = mirrored.reshape(FRAMES, 45)
    apart = np.sqrt(((poses[:, None] - poses) ** 2).mean(-1))
    assert np.all(apart[~np.eye(2 * FRAMES, dtype=bool)] > 0.01)
    alike = apart[np.arange(0, 2 * FRAMES, 2), np.arange(1, 2 * FRAMES, 2)] < 0.1
    assert np.count_nonzero(alike) <= FRAMES // 2


def test_predictions_start_as_badly_as_a_regressor(posed, measured):
    (_, truth), (_, joints) = posed
    valid = np.ones((FRAMES, 2), bool)
    error, depth = mpjpe(joints, truth, valid), max_p(measured[0][1], valid)
    assert np.all((START_MPJPE_MM[0] < error) & (error < START_MPJPE_MM[1]))
    assert np.all((START_MAX_P_MM[0] < depth) & (depth < START_MAX_P_MM[1]))


def test_truth_agrees_with_itself(made, posed):
    truth, joints = made[0], posed[0][1]
    np.testing.assert_allclose(truth.joints_3d[..., :3], joints, atol=2e-6)
    scale, shift = truth.weak_camera[:, None, None, :1], truth.weak_camera[:, None, None, 1:]
    np.testing.assert_allclose(
        truth.keypoints_2d[..., :2], scale * (joints[..., :2] + shift), atol=2e-5
    )
    assert np.all(truth.joints_3d[..., 3] == 1) and np.all(truth.keypoints_2d[..., 2] == 1)


def test_both_hands_fill_the_crop(made, posed):
    vertices, camera = posed[0][0], made[0].weak_camera
    placed = camera[:, None, :1] * (vertices.reshape(FRAMES, -1, 3)[..., :2] + camera[:, None, 1:])
    np.testing.assert_allclose(np.ptp(placed, axis=1).max(axis=-1), 1.6, atol=1e-4)
    np.testing.assert_allclose((placed.max(axis=1) + placed.min(axis=1)) / 2, 0.0, atol=1e-4)


def test_observations_are_noisy_and_some_are_missing(made):
    truth, predictions = made
    seen = predictions.joints_3d[..., 3] > 0
    np.testing.assert_array_equal(seen, predictions.keypoints_2d[..., 2] > 0)
    assert 0 < np.count_nonzero(~seen) < 0.12 * seen.size
    joint_noise = (predictions.joints_3d - truth.joints_3d)[seen][:, :3]
    keypoint_noise = (predictions.keypoints_2d - truth.keypoints_2d)[seen][:, :2]
    assert joint_noise.std() == pytest.approx(0.005, rel=0.15)
    assert keypoint_noise.std() == pytest.approx(KEYPOINT_NOISE, rel=0.15)
    assert np.all(predictions.joints_3d[~seen] == 0)


def test_same_seed_same_frames_whatever_their_number(hands, made):
    for whole, part in zip(made, make_interactions(hands, frames=2, seed=5), strict=True):
        for name, array in part.arrays().items():
            np.testing.assert_array_equal(array, whole.arrays()[name][:2], err_msg=name)


def test_other_seed_other_frames(hands, made):
    other = make_interactions(hands, frames=1, seed=6)[0]
    first, second = other.arrays()["hand_pose"][0], made[0].arrays()["hand_pose"][0]
    assert not np.allclose(first, second, atol=1e-3)


def test_hands_without_pose_samples_get_poses_too(hands):
    pose = benchmark_data._draw_pose(replace(hands, pose_samples=None), np.random.default_rng(0))
    assert pose.shape == (2, 15, 3) and np.isfinite(pose).all()


def test_no_frames_is_an_error(hands):
    with pytest.raises(ValueError, match="at least one frame"):
        make_interactions(hands, frames=0, seed=0)
