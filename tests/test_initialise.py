"""Starts from joints, keypoints and vertices: exact where they can be, sane where data are bad."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fitting.initialise import initialise_from_joints, pose_joints_float64
from fitting.initialise_keypoints import initialise_from_keypoints
from fitting.initialise_vertices import MINIMUM_VERTICES, initialise_from_vertices
from fitting.predictions import TwoHandPredictions
from fitting.prepare import prepare
from fitting.refine import refine
from fitting.strategy import load_strategy, override
from mano_jax.joint_orders import FINGERS, index
from mano_jax.model import pose_hands, pose_joints
from objectives.keypoints import keypoints_2d_difference
from objectives.problem import posed_joints

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


FRAMES = 24


@pytest.fixture(scope="module")
def usual(hands):
    """Hands of usual poses and of all shapes, both in one frame: parameters, vertices, joints."""
    rng = np.random.default_rng(11)
    samples = np.asarray(hands.pose_samples, np.float64)
    chosen = rng.integers(samples.shape[1], size=(FRAMES, 2))
    truth = {
        "global_orient": random_axis_angle(rng, (FRAMES, 2), np.pi),
        "hand_pose": np.stack([samples[h][chosen[:, h]] for h in range(2)], axis=1),
        "betas": rng.normal(size=(FRAMES, 2, 10)).clip(-2.5, 2.5),
    }
    # A person's two hands are alike, which the fit to keypoints takes for granted.
    truth["betas"][:, 1] = truth["betas"][:, 0]
    truth["hand_pose"] = truth["hand_pose"] + 0.05 * rng.normal(size=(FRAMES, 2, 15, 3))
    posed = jax.jit(pose_hands)(hands, **{k: jnp.asarray(v, jnp.float32) for k, v in truth.items()})
    joints, vertices = np.asarray(posed.joints), np.asarray(posed.vertices)
    truth["relative_transl"] = 0.05 * rng.normal(size=(FRAMES, 3))
    offset = np.zeros((FRAMES, 2, 1, 3))
    offset[:, 1, 0] = truth["relative_transl"]
    offset -= joints[:, :, :1]
    return truth, vertices + offset, joints + offset


def joint_error_mm(hands, start, joints):
    fitted = pose_joints_float64(hands, start.global_orient, start.hand_pose, start.betas)
    difference = (fitted - fitted[:, :, :1]) - (joints - joints[:, :, :1])
    return 1e3 * np.linalg.norm(difference, axis=-1).mean(-1)


def test_noise_and_missing_joints_start_the_right_way_round(hands, usual):
    truth, _, joints = usual
    rng = np.random.default_rng(13)
    noisy = joints + rng.normal(scale=5e-3, size=joints.shape)
    confidence = (rng.uniform(size=joints.shape[:-1]) > 0.2).astype(float)
    # The first frame's right palm is gone but for one joint.
    confidence[0, 0, [0, 1, 4, 7, 10]], confidence[0, 0, 13] = 0.0, 1.0
    both = np.ones((FRAMES, 2), bool)
    start = initialise_from_joints(hands, noisy, confidence, both)
    error = joint_error_mm(hands, start, joints)
    assert error.mean() < 11.0
    assert error.max() < 30.0
    turned = Rotation.from_rotvec(start.global_orient.reshape(-1, 3))
    true = Rotation.from_rotvec(truth["global_orient"].reshape(-1, 3))
    assert np.degrees((turned.inv() * true).magnitude()).max() < 60.0


def test_four_joints_of_a_hand_give_a_start(hands, usual):
    _, _, joints = usual
    confidence = np.zeros(joints.shape[:-1])
    confidence[:, :, [0, 2, 5, 14]] = 1.0
    start = initialise_from_joints(hands, joints, confidence, np.ones((FRAMES, 2), bool))
    assert all(np.isfinite(value).all() for value in start)
    fitted = pose_joints_float64(hands, start.global_orient, start.hand_pose, start.betas)
    error = (fitted - fitted[:, :, :1]) - (joints - joints[:, :, :1])
    assert np.median(np.linalg.norm(error[:, :, [2, 5, 14]], axis=-1)) < 0.01


def test_swapped_joints_do_not_ruin_a_start(hands, usual):
    _, _, joints = usual
    rng = np.random.default_rng(14)
    wild = joints + rng.normal(scale=5e-3, size=joints.shape)
    for hand in wild.reshape(-1, 21, 3):
        swapped = rng.choice(21, size=2, replace=False)
        hand[swapped] = hand[swapped[::-1]]
    ones = np.ones(joints.shape[:-1])
    start = initialise_from_joints(hands, wild, ones, np.ones((FRAMES, 2), bool))
    error = joint_error_mm(hands, start, joints)
    assert error.mean() < 12.0
    assert error.max() < 35.0


def test_doubtful_starts_do_not_depend_on_their_batch(hands, usual):
    _, _, joints = usual
    noisy = joints + np.random.default_rng(15).normal(scale=8e-3, size=joints.shape)
    ones, both = np.ones(joints.shape[:-1]), np.ones((FRAMES, 2), bool)
    together = initialise_from_joints(hands, noisy, ones, both)
    alone = initialise_from_joints(hands, noisy[5:6], ones[5:6], both[5:6])
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a[0].astype(np.float32), b[5].astype(np.float32))


@pytest.fixture(scope="module")
def joints_only():
    """The second-order fit to joints and keypoints, without contacts."""
    strategy = load_strategy("map")
    report = tuple(term for term in strategy.report_likelihoods if term != "collision")
    strategy = dataclasses.replace(strategy, stages=strategy.stages[:1], report_likelihoods=report)
    return override(strategy, ["scales.keypoints_2d=0.005", "joints.iterations=30"])


def seen_by(kind, joints):
    """Keypoints of joints, and the camera's fields of a file."""
    n = len(joints)
    if kind == "weak":
        scale, shift = 5.0, np.array([0.02, -0.05])
        camera = {"weak_camera": np.tile([scale, *shift], (n, 1))}
        return scale * (joints[..., :2] + shift), camera
    K = np.array([[900.0, 0.0, 320.0], [0.0, 900.0, 240.0], [0.0, 0.0, 1.0]])
    points = joints + np.array([0.05, -0.03, 0.6])
    views = [points]
    if kind == "two views":
        R = Rotation.from_rotvec([0.0, 0.7, 0.0]).as_matrix()
        views.append(points @ R.T + np.array([-0.4, 0.0, 0.1]))
    T = np.tile(np.eye(4), (n, len(views), 1, 1))
    if kind == "two views":
        T[:, 1, :3, :3], T[:, 1, :3, 3] = R, [-0.4, 0.0, 0.1]
    pixels = np.stack([v[..., :2] / v[..., 2:] * 900.0 + [320.0, 240.0] for v in views], axis=1)
    return pixels, {"K": np.tile(K, (n, len(views), 1, 1)), "T_camera_world": T}


@pytest.mark.parametrize("kind", ["weak", "K", "two views"])
def test_keypoints_alone_are_met(hands, usual, joints_only, kind):
    count = 8
    joints = usual[2][:count].copy()
    hand_valid = np.ones((count, 2), bool)
    hand_valid[0, 1] = hand_valid[1, 0] = False
    joints[1] -= joints[1, 1, :1]
    keypoints, camera = seen_by(kind, joints)
    predictions = TwoHandPredictions(hand_valid=hand_valid, keypoints_2d=keypoints, **camera)
    result = refine(hands, predictions, joints_only)
    assert list(result.reason) == [""] * count
    prepared = prepare(hands, result.predictions)
    params, observations = jax.tree.map(jnp.asarray, (prepared.params, prepared.observations))
    posed = posed_joints(hands, params, observations.left_anchor)
    difference = keypoints_2d_difference(params, posed, observations)
    assert difference is not None
    # Crop units: 1 is 112 px of 224.
    squared = np.asarray(112 * difference).reshape(count, -1) ** 2
    rms = np.sqrt(squared.mean(-1))
    # About one frame in sixty ends in a neighbouring minimum, two pixels off.
    assert np.sum(rms < 1.0) >= count - 1
    assert rms.max() < 3.0


def test_a_weak_camera_gives_no_depth_between_the_hands(hands, usual):
    joints = usual[2]
    keypoints, camera = seen_by("weak", joints)
    both, ones = np.ones((FRAMES, 2), bool), np.ones((FRAMES, 1, 2, 21))
    start = initialise_from_keypoints(hands, keypoints[:, None], ones, both, camera["weak_camera"])
    assert np.all(start.relative_transl[:, 2] == 0)
    tau = usual[0]["relative_transl"]
    assert np.abs(start.relative_transl - tau)[:, :2].mean() < 0.01
    np.testing.assert_array_equal(start.weak_camera[:, 0], 5.0)
    # A camera that has nothing to do with the keypoints is replaced by one that has.
    wrong = np.tile([0.3, 0.0, 0.0], (FRAMES, 1))
    start = initialise_from_keypoints(hands, keypoints[:, None], ones, both, wrong)
    assert np.all(np.abs(np.log(start.weak_camera[:, 0] / 5.0)) < 0.6)


def test_a_start_from_keypoints_does_not_depend_on_its_batch(hands, usual):
    keypoints, camera = seen_by("weak", usual[2])
    given = (keypoints[:, None], np.ones((FRAMES, 1, 2, 21)), np.ones((FRAMES, 2), bool))
    given = (*given, camera["weak_camera"])
    together = initialise_from_keypoints(hands, *given)
    alone = initialise_from_keypoints(hands, *(x[3:4] for x in given))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a[0].astype(np.float32), b[3].astype(np.float32))


def vertex_error_mm(hands, start, vertices):
    given = {k: jnp.asarray(v, jnp.float32) for k, v in start._asdict().items()}
    relative = np.asarray(given.pop("relative_transl"))
    posed = jax.jit(pose_hands)(hands, **given)
    fitted = np.array(posed.vertices - posed.joints[..., :1, :])
    fitted[:, 1] += relative[:, None]
    return 1e3 * np.linalg.norm(fitted - vertices, axis=-1).mean(-1)


def test_vertices_give_the_hands_back(hands, usual):
    truth, vertices, _ = usual
    seen = np.ones(vertices.shape[:-1], bool)
    start = initialise_from_vertices(hands, vertices + [1.0, -2.0, 30.0], seen)
    assert vertex_error_mm(hands, start, vertices).max() < 0.05
    np.testing.assert_allclose(start.betas, truth["betas"], atol=0.1)
    np.testing.assert_allclose(start.relative_transl, truth["relative_transl"], atol=1e-4)


def test_missing_vertices_are_not_read(hands, usual):
    _, vertices, _ = usual
    rng = np.random.default_rng(16)
    seen = rng.uniform(size=vertices.shape[:-1]) > 0.4
    # No vertex of a whole finger, nor most of another hand.
    finger = np.asarray(hands.lbs_weights)[0, :, 1:4].sum(-1) > 0.1
    seen[0, 0, finger] = False
    seen[1, 1, MINIMUM_VERTICES // 2 :] = False
    there = seen.sum(-1) >= MINIMUM_VERTICES
    assert not there[1, 1]
    start = initialise_from_vertices(hands, np.where(seen[..., None], vertices, np.nan), seen)
    assert all(np.isfinite(value).all() for value in start)
    error = vertex_error_mm(hands, start, vertices)
    assert error[2:].max() < 0.1
    assert error[0, 0] < 20.0
    assert all(np.all(value[1, 1] == 0) for value in start[:3])


def test_noisy_vertices_average_out(hands, usual):
    _, vertices, _ = usual
    noisy = vertices + np.random.default_rng(17).normal(scale=2e-3, size=vertices.shape)
    start = initialise_from_vertices(hands, noisy, np.ones(vertices.shape[:-1], bool))
    assert vertex_error_mm(hands, start, vertices).max() < 1.0


def test_a_start_from_vertices_does_not_depend_on_its_batch(hands, usual):
    _, vertices, _ = usual
    seen = np.ones(vertices.shape[:-1], bool)
    together = initialise_from_vertices(hands, vertices, seen)
    alone = initialise_from_vertices(hands, vertices[19:20], seen[19:20])
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a[0].astype(np.float32), b[19].astype(np.float32))
