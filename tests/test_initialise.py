"""The start from joints: exact where it can be, sane where joints are noisy or missing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fitting.initialise import initialise_from_joints, pose_joints_float64
from mano_jax.joint_orders import FINGERS, index
from mano_jax.model import pose_joints

BOTH = np.ones((6, 2), bool)


def random_axis_angle(rng, shape, largest):
    axis = rng.normal(size=(*shape, 3))
    axis /= np.linalg.norm(axis, axis=-1, keepdims=True)
    return axis * rng.uniform(0.0, largest, size=(*shape, 1))


def swing_only_pose(rng, hands, frames):
    """Rotations whose axes are perpendicular to the bones they turn."""
    zeros = np.zeros((frames, 2, 15, 3))
    rest = pose_joints_float64(hands, zeros[:, :, 0], zeros, np.zeros((frames, 2, 10)))
    pose = zeros.copy()
    for finger in FINGERS:
        chain = [index(f"{finger}{i}") for i in (1, 2, 3)] + [index(f"{finger}_tip")]
        for joint, following in zip(chain[:-1], chain[1:], strict=True):
            bone = rest[:, :, following] - rest[:, :, joint]
            axis = np.cross(bone, rng.normal(size=bone.shape))
            axis /= np.linalg.norm(axis, axis=-1, keepdims=True)
            pose[:, :, joint - 1] = axis * rng.uniform(0.0, 1.4, size=(frames, 2, 1))
    return pose


@pytest.fixture(scope="module")
def posed(hands):
    """Parameters whose twist and shape are zero, and their joints a known way apart."""
    rng = np.random.default_rng(0)
    orient = random_axis_angle(rng, (6, 2), np.pi)
    orient[0] = 0.0
    # Half a turn, where axis-angle has two names for one rotation.
    orient[1] = [[np.pi, 0.0, 0.0], [0.0, 0.0, np.pi]]
    pose = swing_only_pose(rng, hands, 6)
    pose[0] = 0.0
    joints = pose_joints_float64(hands, orient, pose, np.zeros((6, 2, 10)))
    relative = rng.normal(scale=0.1, size=(6, 3))
    joints = joints - joints[:, :, :1] + rng.normal(size=(6, 1, 1, 3))
    joints[:, 1] += relative[:, None]
    return orient, pose, relative, joints


def test_numpy_joints_are_the_models(hands):
    rng = np.random.default_rng(1)
    orient, betas = random_axis_angle(rng, (6, 2), np.pi), rng.normal(size=(6, 2, 10))
    pose = random_axis_angle(rng, (6, 2, 15), 1.5)
    expected = jax.jit(pose_joints)(
        hands,
        global_orient=jnp.asarray(orient, jnp.float32),
        hand_pose=jnp.asarray(pose, jnp.float32),
        betas=jnp.asarray(betas, jnp.float32),
    )
    found = pose_joints_float64(hands, orient, pose, betas)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_swing_only_poses_are_recovered_exactly(hands, posed):
    orient, pose, relative, joints = posed
    start = initialise_from_joints(hands, joints, np.ones((6, 2, 21)), BOTH)
    turned = Rotation.from_rotvec(start.global_orient.reshape(-1, 3))
    true = Rotation.from_rotvec(orient.reshape(-1, 3))
    assert (turned.inv() * true).magnitude().max() < 1e-6
    np.testing.assert_allclose(start.hand_pose, pose, atol=1e-5)
    np.testing.assert_allclose(start.betas, 0.0, atol=1e-6)
    np.testing.assert_allclose(start.relative_transl, relative, atol=1e-9)
    assert np.linalg.norm(start.global_orient, axis=-1).max() <= np.pi + 1e-9
    assert np.linalg.norm(start.hand_pose, axis=-1).max() <= np.pi + 1e-9


def test_the_mirror_image_starts_as_the_mirror_image(hands, posed):
    joints = posed[3] + np.random.default_rng(2).normal(scale=3e-3, size=posed[3].shape)
    start = initialise_from_joints(hands, joints, np.ones((6, 2, 21)), BOTH)
    seen = joints[:, ::-1] * [-1.0, 1.0, 1.0]
    mirrored = initialise_from_joints(hands, seen, np.ones((6, 2, 21)), BOTH)
    flip = np.array([1.0, -1.0, -1.0])
    # Half a turn is the same with either sign; every other rotation has one name.
    turned = Rotation.from_rotvec((mirrored.global_orient[:, ::-1] * flip).reshape(-1, 3))
    same = Rotation.from_rotvec(start.global_orient.reshape(-1, 3))
    assert (turned.inv() * same).magnitude().max() < 1e-6
    np.testing.assert_allclose(mirrored.hand_pose[:, ::-1] * flip, start.hand_pose, atol=1e-6)
    np.testing.assert_allclose(mirrored.betas[:, ::-1], start.betas, atol=1e-6)


def test_shape_follows_the_bone_lengths(hands, posed):
    orient, pose, _, _ = posed
    betas = np.zeros((6, 2, 10))
    # The direction that changes bone lengths most: it is the one that joints can tell.
    rest = [
        pose_joints_float64(hands, orient * 0, pose * 0, b + np.eye(10)[i])
        for b in [np.zeros((6, 2, 10))]
        for i in range(10)
    ]
    sizes = [np.linalg.norm(r[0, 0, 4] - r[0, 0, 0]) for r in rest]
    neutral = pose_joints_float64(hands, orient * 0, pose * 0, betas)
    strongest = int(
        np.argmax(np.abs(np.array(sizes) - np.linalg.norm(neutral[0, 0, 4] - neutral[0, 0, 0])))
    )
    betas[..., strongest] = 1.5
    joints = pose_joints_float64(hands, orient, pose, betas)
    start = initialise_from_joints(hands, joints, np.ones((6, 2, 21)), BOTH)
    fitted = pose_joints_float64(hands, start.global_orient, start.hand_pose, start.betas)

    def lengths(x):
        return np.linalg.norm(np.diff(x[..., [0, 4, 5, 6], :], axis=-2), axis=-1)

    before = np.abs(lengths(neutral) - lengths(joints)).mean()
    assert np.abs(lengths(fitted) - lengths(joints)).mean() < 0.35 * before
    assert np.abs(start.betas).max() <= 3.0


def test_noise_moves_the_start_by_about_as_much(hands, posed):
    joints = posed[3]
    noisy = joints + np.random.default_rng(3).normal(scale=5e-3, size=joints.shape)
    start = initialise_from_joints(hands, noisy, np.ones((6, 2, 21)), BOTH)
    fitted = pose_joints_float64(hands, start.global_orient, start.hand_pose, start.betas)
    fitted = fitted - fitted[:, :, :1]
    error = np.linalg.norm(fitted - (joints - joints[:, :, :1]), axis=-1)
    # 5 mm in each coordinate is 8 mm a joint.
    assert error.mean() < 9e-3


def test_one_joint_gone_astray_bends_neither_shape_nor_palm(hands, posed):
    orient, _, _, joints = posed
    wild = joints.copy()
    wild[:, :, index("ring1")] += 0.3
    start = initialise_from_joints(hands, wild, np.ones((6, 2, 21)), BOTH)
    turned = Rotation.from_rotvec(start.global_orient.reshape(-1, 3))
    true = Rotation.from_rotvec(orient.reshape(-1, 3))
    assert np.degrees((turned.inv() * true).magnitude()).max() < 3.0
    assert np.abs(start.betas).max() < 1.0


def test_missing_joints_leave_the_mean_pose(hands, posed):
    orient, pose, _, joints = posed
    confidence = np.ones((6, 2, 21))
    missing = [index("index2"), index("index3"), index("index_tip"), index("ring_tip"), 0]
    confidence[:, :, missing] = 0.0
    garbage = joints.copy()
    garbage[:, :, missing] = np.nan
    start = initialise_from_joints(hands, garbage, confidence, BOTH)
    mean = np.asarray(hands.pose_mean)
    for name in ("index1", "index2", "index3", "ring3"):
        at = index(name) - 1
        relaxed = np.broadcast_to(mean[:, at], (6, 2, 3))
        np.testing.assert_allclose(start.hand_pose[:, :, at], relaxed)
    at = index("middle2") - 1
    np.testing.assert_allclose(start.hand_pose[:, :, at], pose[:, :, at], atol=1e-5)
    assert all(np.isfinite(value).all() for value in start)


def test_absent_hands_hold_zeros(hands, posed):
    joints = posed[3].copy()
    hand_valid = BOTH.copy()
    hand_valid[0, 0] = hand_valid[1, 1] = False
    hand_valid[2] = False
    joints[~hand_valid] = np.nan
    start = initialise_from_joints(hands, joints, np.ones((6, 2, 21)), hand_valid)
    for value in start[:3]:
        assert np.all(value[~hand_valid] == 0)
        assert np.isfinite(value).all()
    assert np.all(start.relative_transl[:3] == 0)


def test_a_frames_start_does_not_depend_on_its_batch(hands, posed):
    joints, ones = posed[3], np.ones((6, 2, 21))
    together = initialise_from_joints(hands, joints, ones, BOTH)
    for i in range(6):
        alone = initialise_from_joints(hands, joints[i : i + 1], ones[:1], BOTH[:1])
        for a, b in zip(alone, together, strict=True):
            np.testing.assert_array_equal(a[0].astype(np.float32), b[i].astype(np.float32))
