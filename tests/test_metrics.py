"""Metrics against loops and against cases that can be worked out by hand."""

import igl
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from fitting.alignment import procrustes
from fitting.metrics import (
    acceleration_error,
    aligned_mpjpe,
    aligned_mpvpe,
    auc,
    ave_p,
    error_2d,
    i_mpjpe,
    i_mpjpe_evaluator,
    i_mpvpe,
    max_p,
    miaa,
    mpjpe,
    mpvpe,
    mrrpe,
    pa_mpjpe,
    pa_mpvpe,
    pck,
)
from fitting.solids import chamfer_l1, closed_faces, interpenetration_volume, overlap
from mano_jax.model import mirrored, two_hands
from mano_jax.procedural import embedded_hand_model

BOTH, RIGHT_ONLY, LEFT_ONLY, NONE = [True, True], [True, False], [False, True], [False, False]


@pytest.fixture
def joints():
    rng = np.random.default_rng(3)
    return rng.normal(0, 0.05, (2, 4, 2, 21, 3))


@pytest.fixture
def hand_valid():
    return np.array([BOTH, RIGHT_ONLY, LEFT_ONLY, NONE])


def test_mpjpe_against_loops(joints, hand_valid):
    predicted, truth = joints
    found = mpjpe(predicted, truth, hand_valid)
    for frame in range(4):
        errors = []
        for hand in range(2):
            if not hand_valid[frame, hand]:
                continue
            for joint in range(21):
                a = predicted[frame, hand, joint] - predicted[frame, hand, 0]
                b = truth[frame, hand, joint] - truth[frame, hand, 0]
                errors.append(1000 * np.sqrt(np.sum((a - b) ** 2)))
        if errors:
            assert found[frame] == pytest.approx(np.mean(errors))
        else:
            assert np.isnan(found[frame])


def test_i_mpjpe_against_loops(joints, hand_valid):
    predicted, truth = joints
    found = i_mpjpe(predicted, truth, hand_valid)
    errors = []
    for hand in range(2):
        for joint in range(21):
            a = predicted[0, hand, joint] - predicted[0, 0, 0]
            b = truth[0, hand, joint] - truth[0, 0, 0]
            errors.append(1000 * np.sqrt(np.sum((a - b) ** 2)))
    assert found[0] == pytest.approx(np.mean(errors))
    assert np.isnan(found[1:]).all()


def test_a_hand_that_is_moved_as_a_whole(joints):
    truth = joints[0, :1]
    moved = truth.copy()
    moved[:, 1] += [0.03, 0.0, 0.04]
    valid = np.array([BOTH])
    # Each hand by itself is right; the left one is 50 mm off, so half of the joints are.
    assert mpjpe(moved, truth, valid) == pytest.approx(0.0, abs=1e-9)
    assert i_mpjpe(moved, truth, valid) == pytest.approx(25.0)
    both_moved = truth + np.array([0.2, -0.1, 0.7])
    assert i_mpjpe(both_moved, truth, valid) == pytest.approx(0.0, abs=1e-9)


def test_missing_true_joints_do_not_count(joints):
    truth = joints[0, :1]
    predicted = truth.copy()
    predicted[0, 0, 5] += [0.021, 0.0, 0.0]
    valid, there = np.array([BOTH]), np.ones((1, 2, 21), bool)
    assert mpjpe(predicted, truth, valid, there) == pytest.approx(21 / 42)
    there[0, 1, 1:3] = False
    assert mpjpe(predicted, truth, valid, there) == pytest.approx(21 / 40)
    # Without its wrist a hand cannot be aligned.
    there[0, 1, 0] = False
    assert mpjpe(predicted, truth, valid, there) == pytest.approx(21 / 21)
    there[0, 0, 0] = False
    assert np.isnan(mpjpe(predicted, truth, valid, there)).all()


def test_interacting_error_needs_the_right_wrist(joints):
    there = np.ones((1, 2, 21), bool)
    there[0, 0, 0] = False
    valid = np.array([BOTH])
    assert np.isnan(i_mpjpe(joints[0, :1], joints[1, :1], valid, there)).all()


def test_absent_hands_may_hold_nan(joints):
    predicted, truth = joints[:, :1].copy()
    whole = mpjpe(predicted[:, :1].repeat(2, 1), truth[:, :1].repeat(2, 1), np.array([BOTH]))
    predicted[:, 1] = np.nan
    assert mpjpe(predicted, truth, np.array([RIGHT_ONLY])) == pytest.approx(whole)


def test_mpvpe_aligns_by_the_wrist_joint():
    rng = np.random.default_rng(0)
    truth, wrists = rng.normal(size=(3, 2, 30, 3)), rng.normal(size=(3, 2, 3))
    shift = rng.normal(size=(3, 2, 3))
    valid = np.array([BOTH, RIGHT_ONLY, LEFT_ONLY])
    moved = truth + shift[:, :, None]
    assert mpvpe(moved, truth, wrists + shift, wrists, valid) == pytest.approx(0.0, abs=1e-9)
    moved[:, :, 4] += [0.0, 0.006, 0.008]
    found = mpvpe(moved, truth, wrists + shift, wrists, valid)
    np.testing.assert_allclose(found, 10 / 30)


def test_penetration_counts_zeros_and_needs_both_hands():
    depths = np.zeros((3, 2, 778))
    depths[0, 0, 10], depths[0, 1, 700] = 0.004, 0.0118
    depths[1, 0, 3] = 0.5
    valid = np.array([BOTH, RIGHT_ONLY, BOTH])
    np.testing.assert_allclose(ave_p(depths, valid), [15.8 / 1556, np.nan, 0.0])
    np.testing.assert_allclose(max_p(depths, valid), [11.8, np.nan, 0.0])


def test_jax_arrays_are_welcome(joints, hand_valid):
    predicted, truth = joints.astype(np.float32)
    found = mpjpe(jnp.asarray(predicted), jnp.asarray(truth), jnp.asarray(hand_valid))
    np.testing.assert_allclose(found, mpjpe(predicted, truth, hand_valid), rtol=1e-6)


def similarity(rng, *, scale=1.3):
    """A rotation, a scale and a shift."""
    R = Rotation.random(rng=rng).as_matrix()
    return lambda x: scale * x @ R.T + rng.normal(size=3)


def loop_mean(errors):
    return 1000 * np.mean(errors) if len(errors) else np.nan


def length(vector):
    return np.sqrt(sum(float(x) ** 2 for x in vector))


def some_valid(rng, shape):
    """Joints of which about one in six is missing, the wrists and middle bases never."""
    there = rng.random(shape) > 1 / 6
    there[..., [0, 4]] = True
    return there


def test_procrustes_against_scipy(joints, hand_valid):
    predicted, truth = joints
    there = some_valid(np.random.default_rng(1), truth.shape[:-1])
    found = pa_mpjpe(predicted, truth, hand_valid, there)
    for frame in range(4):
        errors = []
        for hand in np.flatnonzero(hand_valid[frame]):
            keep = there[frame, hand]
            a, b = predicted[frame, hand][keep], truth[frame, hand][keep]
            a, mean = a - a.mean(0), b.mean(0)
            R = Rotation.align_vectors(b - mean, a)[0].as_matrix()
            turned = a @ R.T
            scale = np.sum(turned * (b - mean)) / np.sum(a**2)
            errors += [length(scale * x + mean - y) for x, y in zip(turned, b, strict=True)]
        np.testing.assert_allclose(found[frame], loop_mean(errors), rtol=1e-9)


def test_procrustes_forgives_similarity_but_no_reflection(joints):
    truth, valid = joints[0, :1], np.array([BOTH])
    moved = similarity(np.random.default_rng(2))(truth)
    assert pa_mpjpe(moved, truth, valid) == pytest.approx(0.0, abs=1e-9)
    assert pa_mpvpe(moved, truth, valid) == pytest.approx(0.0, abs=1e-9)
    assert pa_mpjpe(truth * [-1, 1, 1], truth, valid)[0] > 10
    rigid = procrustes(moved, truth, scale=False)
    assert np.abs(rigid - truth).max() > 1e-3
    np.testing.assert_allclose(
        np.linalg.norm(rigid[..., 1:, :] - rigid[..., :1, :], axis=-1),
        1.3 * np.linalg.norm(truth[..., 1:, :] - truth[..., :1, :], axis=-1),
    )


def test_procrustes_is_the_best_transform(joints):
    """Nudging what it found in any of its seven directions only adds squared error."""
    predicted, truth = joints[0, 0, 0], joints[1, 0, 0]
    best = procrustes(predicted, truth)
    squared = np.sum((best - truth) ** 2)
    centre = best.mean(0)
    for axis in np.eye(3):
        for step in (-1e-3, 1e-3):
            turned = (best - centre) @ Rotation.from_rotvec(step * axis).as_matrix().T + centre
            assert np.sum((turned - truth) ** 2) > squared
            assert np.sum((best + step * axis - truth) ** 2) > squared
            assert np.sum(((best - centre) * (1 + step) + centre - truth) ** 2) > squared


def test_too_few_points_for_procrustes(joints):
    there = np.zeros((1, 2, 21), bool)
    there[0, 0, :2] = True
    valid = np.array([BOTH])
    assert np.isnan(pa_mpjpe(joints[0, :1], joints[1, :1], valid, there)).all()
    there[0, 1, :5] = True
    one_hand = pa_mpjpe(joints[0, :1, :, :5], joints[1, :1, :, :5], np.array([LEFT_ONLY]))
    np.testing.assert_allclose(pa_mpjpe(joints[0, :1], joints[1, :1], valid, there), one_hand)


def test_the_released_evaluator_against_loops(joints, hand_valid):
    """Per-axis mean and population deviation over the valid joints of both hands."""
    predicted, truth = joints
    there = some_valid(np.random.default_rng(5), truth.shape[:-1])
    found = i_mpjpe_evaluator(predicted, truth, hand_valid, there)
    keep = there[0].ravel()
    a, b = predicted[0].reshape(42, 3)[keep], truth[0].reshape(42, 3)[keep]
    errors = []
    for x, y in zip(a, b, strict=True):
        moved = [
            (x[i] - a[:, i].sum() / len(a))
            / np.sqrt(((a[:, i] - a[:, i].mean()) ** 2).sum() / len(a))
            * np.sqrt(((b[:, i] - b[:, i].mean()) ** 2).sum() / len(b))
            + b[:, i].sum() / len(b)
            for i in range(3)
        ]
        errors.append(length(moved - y))
    assert found[0] == pytest.approx(loop_mean(errors), rel=1e-9)
    assert np.isnan(found[1:]).all()


def test_the_released_evaluator_forgives_stretch_and_no_rotation(joints):
    truth, valid = joints[0, :1], np.array([BOTH])
    stretched = truth * [1.5, 0.7, 3.0] + [0.1, -0.2, 2.0]
    assert i_mpjpe_evaluator(stretched, truth, valid) == pytest.approx(0.0, abs=1e-9)
    assert i_mpjpe(stretched, truth, valid)[0] > 10
    turned = truth @ Rotation.from_rotvec([0, 0, 0.5]).as_matrix().T
    assert i_mpjpe_evaluator(turned, truth, valid)[0] > 5


@pytest.mark.parametrize("depth", [0.3, 0.1, 1.7])
def test_the_released_evaluator_leaves_a_plane_flat(joints, depth):
    """What rounding leaves of a spread is nothing to stretch."""
    truth, valid = joints[0, :1], np.array([BOTH])
    flat = truth.copy()
    flat[..., 2] = depth
    noisy = flat + 1e-17 * np.random.default_rng(0).normal(size=flat.shape)
    noisy[..., 2] += 1e-9 * np.random.default_rng(1).normal(size=flat.shape[:-1])
    expected = 1000 * np.abs(truth[..., 2] - truth[..., 2].mean()).mean()
    for predicted in (flat, noisy):
        assert i_mpjpe_evaluator(predicted, truth, valid) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize(("root", "joint"), [("wrist", 0), ("middle1", 4)])
def test_alignments_of_dir_against_loops(joints, hand_valid, root, joint, scale):
    predicted, truth = joints
    there = some_valid(np.random.default_rng(6), truth.shape[:-1])
    there[0, 1, 4] = False
    vertices = np.random.default_rng(7).normal(0, 0.05, (2, 4, 2, 30, 3))
    found = aligned_mpjpe(predicted, truth, hand_valid, there, root=root, scale=scale)
    found_v = aligned_mpvpe(
        vertices[0], vertices[1], predicted, truth, hand_valid, root=root, scale=scale
    )
    for frame in range(4):
        errors, errors_v = [], []
        for hand in np.flatnonzero(hand_valid[frame]):
            p, t = predicted[frame, hand], truth[frame, hand]
            s = length(t[4] - t[0]) / length(p[4] - p[0]) if scale else 1.0
            if there[frame, hand, 4]:
                for j in np.flatnonzero(there[frame, hand]):
                    errors.append(length(s * (p[j] - p[joint]) - (t[j] - t[joint])))
            for a, b in zip(vertices[0, frame, hand], vertices[1, frame, hand], strict=True):
                errors_v.append(length(s * (a - p[joint]) - (b - t[joint])))
        np.testing.assert_allclose(found[frame], loop_mean(errors), rtol=1e-9)
        np.testing.assert_allclose(found_v[frame], loop_mean(errors_v), rtol=1e-9)


def test_the_alignments_differ_as_named(joints):
    truth, valid = joints[0, :1], np.array([BOTH])
    larger = 1.2 * truth
    assert aligned_mpjpe(larger, truth, valid, root="wrist") == pytest.approx(0.0, abs=1e-9)
    assert aligned_mpjpe(larger, truth, valid, root="middle1") == pytest.approx(0.0, abs=1e-9)
    np.testing.assert_allclose(
        aligned_mpjpe(larger, truth, valid, root="wrist", scale=False), mpjpe(larger, truth, valid)
    )
    flat = truth.copy()
    flat[:, :, 4] = flat[:, :, 0]
    assert np.isnan(aligned_mpjpe(flat, truth, valid)).all()


def test_i_mpvpe_and_mrrpe_against_loops(joints, hand_valid):
    predicted, truth = joints
    wrists = np.random.default_rng(8).normal(0, 0.1, (2, 4, 2, 3))
    found = i_mpvpe(predicted, truth, wrists[0], wrists[1], hand_valid)
    shift = wrists[0, 0, 0] - wrists[1, 0, 0]
    errors = [
        length(predicted[0, hand, v] - shift - truth[0, hand, v])
        for hand in range(2)
        for v in range(21)
    ]
    assert found[0] == pytest.approx(loop_mean(errors), rel=1e-9)
    off = (wrists[0, 0, 1] - wrists[0, 0, 0]) - (wrists[1, 0, 1] - wrists[1, 0, 0])
    roots = mrrpe(wrists[0], wrists[1], hand_valid)
    assert roots[0] == pytest.approx(1000 * length(off), rel=1e-9)
    assert np.isnan(found[1:]).all() and np.isnan(roots[1:]).all()
    assert np.isnan(mrrpe(wrists[0], wrists[1], hand_valid, np.array([[True, False]] * 4))).all()


def test_pck_and_auc_against_thresholds(joints, hand_valid):
    predicted, truth = joints
    truth = predicted + 0.25 * (truth - predicted)
    there = some_valid(np.random.default_rng(9), truth.shape[:-1])
    found = auc(predicted, truth, hand_valid, there)
    grid = np.linspace(0, 50, 4001)
    for frame in range(4):
        errors = [
            1000
            * length(
                predicted[frame, h, j]
                - predicted[frame, h, 0]
                - truth[frame, h, j]
                + truth[frame, h, 0]
            )
            for h in np.flatnonzero(hand_valid[frame])
            for j in np.flatnonzero(there[frame, h])
        ]
        if not errors:
            assert np.isnan(found[frame])
            continue
        correct = [np.mean(np.array(errors) < t) for t in grid]
        assert 0.05 < correct[2000] < 0.95
        assert found[frame] == pytest.approx(np.trapezoid(correct, grid) / 50, abs=2e-4)
        assert pck(predicted, truth, hand_valid, there, threshold_mm=25.0)[frame] == pytest.approx(
            100 * correct[2000]
        )


def test_acceleration_against_loops():
    rng = np.random.default_rng(10)
    predicted, truth = rng.normal(0, 0.05, (2, 9, 2, 21, 3))
    valid = np.ones((9, 2), bool)
    valid[7, 1] = False
    there = some_valid(rng, truth.shape[:-1])
    sequence = np.array([0, 0, 0, 0, 4, 4, 4, 4, 4])
    found = acceleration_error(predicted, truth, valid, there, sequence_id=sequence)
    for t in range(9):
        errors = []
        if 0 < t < 8 and sequence[t - 1] == sequence[t + 1]:
            for hand in range(2):
                for j in range(21):
                    if not (
                        valid[t - 1 : t + 2, hand].all() and there[t - 1 : t + 2, hand, j].all()
                    ):
                        continue
                    a, b = (x[:, hand, j] - x[:, hand, 0] for x in (predicted, truth))
                    a, b = (x[t - 1] - 2 * x[t] + x[t + 1] for x in (a, b))
                    errors.append(length(a - b))
        np.testing.assert_allclose(found[t], loop_mean(errors), rtol=1e-9)
    assert np.isnan(found[[0, 3, 4, 8]]).all() and np.isfinite(found[[1, 2, 5, 6]]).all()
    steady = truth + np.arange(9)[:, None, None, None] * 0.01
    assert np.nanmax(acceleration_error(steady, truth, valid)) == pytest.approx(0, abs=1e-9)
    assert np.isnan(acceleration_error(truth[:2], truth[:2], valid[:2])).all()


def test_image_distances_against_loops(hand_valid):
    rng = np.random.default_rng(11)
    predicted, truth = rng.normal(100, 20, (2, 4, 3, 2, 21, 2))
    seen = rng.random((4, 3, 2, 21)) > 0.3
    seen[3] = False
    found = error_2d(predicted, truth, seen)
    for frame in range(4):
        errors = [
            length(predicted[frame][i] - truth[frame][i])
            for i in zip(*np.nonzero(seen[frame]), strict=True)
        ]
        np.testing.assert_allclose(found[frame], np.mean(errors) if errors else np.nan)
    meshes = miaa(predicted[:, 0], truth[:, 0], hand_valid)
    for frame in range(4):
        errors = [
            length(predicted[frame, 0, h, v] - truth[frame, 0, h, v])
            for h in np.flatnonzero(hand_valid[frame])
            for v in range(21)
        ]
        np.testing.assert_allclose(meshes[frame], np.mean(errors) if errors else np.nan)


def test_a_prediction_that_is_not_finite_is_not_measured(joints):
    predicted, truth, valid = joints[0, :1].copy(), joints[1, :1], np.array([BOTH])
    predicted[0, 1, 7] = np.nan
    for metric in (mpjpe, pa_mpjpe, i_mpjpe, i_mpjpe_evaluator, aligned_mpjpe, auc):
        assert np.isnan(metric(predicted, truth, valid)).all(), metric
        assert np.isfinite(metric(joints[0, :1], truth, valid)).all(), metric
    assert np.isnan(pck(predicted, truth, valid, threshold_mm=20.0)).all()
    absent = truth.copy()
    absent[0, 1] = np.nan
    for metric in (mpjpe, pa_mpjpe, aligned_mpjpe, auc):
        assert np.isfinite(metric(joints[0, :1], absent, np.array([RIGHT_ONLY]))).all(), metric


@pytest.mark.parametrize("metric", [mpjpe, pa_mpjpe, i_mpjpe, i_mpjpe_evaluator, aligned_mpjpe])
def test_moving_everything_together_changes_no_error(joints, metric):
    """A rigid motion of prediction and truth alike; axis-wise spreads allow shifts only."""
    predicted, truth = joints[:, :1]
    valid = np.array([BOTH])
    R = Rotation.from_rotvec([0.3, -0.8, 0.4]).as_matrix()
    R = np.eye(3) if metric is i_mpjpe_evaluator else R
    moved = [x @ R.T + [0.3, 0.1, 0.9] for x in (predicted, truth)]
    np.testing.assert_allclose(metric(*moved, valid), metric(predicted, truth, valid), rtol=1e-9)
    assert metric(predicted, truth, valid)[0] > 1


def turned_mesh(mesh, seed=0):
    R = Rotation.random(rng=np.random.default_rng(seed)).as_matrix()
    return np.asarray(mesh.vertices @ R.T)[np.asarray(mesh.faces)]


def test_overlap_of_boxes():
    first = trimesh.creation.box((0.10, 0.06, 0.04))
    second = first.copy()
    second.apply_translation((0.03, 0.02, 0.01))
    found = overlap(turned_mesh(first), turned_mesh(second))
    wanted = np.array([0.10 * 0.06 * 0.04] * 2 + [0.07 * 0.04 * 0.03])
    np.testing.assert_allclose([found.first, found.second, found.common], wanted, rtol=2e-3)
    assert found.iou == pytest.approx(wanted[2] / (wanted[0] + wanted[1] - wanted[2]), rel=2e-3)
    # Aligned to the lattice both ways of counting are exact.
    for voxels in (False, True):
        aligned = overlap(first.triangles, second.triangles, voxels=voxels)
        np.testing.assert_allclose([aligned.first, aligned.common], wanted[1:], rtol=1e-9)


def test_overlap_of_spheres():
    """Two balls of 5 cm whose centres are 3 cm apart share two caps of 3.5 cm."""
    ball = trimesh.creation.icosphere(5, 0.05)
    moved = ball.copy()
    moved.apply_translation((0.0, 0.018, 0.024))
    found = overlap(ball.triangles, moved.triangles)
    height = 0.035
    cap = np.pi * height**2 * (3 * 0.05 - height) / 3
    np.testing.assert_allclose(found.first, 4 / 3 * np.pi * 0.05**3, rtol=2e-3)
    np.testing.assert_allclose(found.common, 2 * cap, rtol=3e-3)
    fine = interpenetration_volume(ball.triangles, moved.triangles, pitch=0.001, voxels=False)
    assert fine == pytest.approx(1e6 * found.common, rel=1e-9)


def test_a_solid_that_overlaps_itself_counts_once():
    """Two overlapping balls as one mesh are their union."""
    ball = trimesh.creation.icosphere(4, 0.05)
    moved = ball.copy()
    moved.apply_translation((0.0, 0.018, 0.024))
    pair = overlap(ball.triangles, moved.triangles)
    both = np.concatenate([ball.triangles, moved.triangles])
    union = overlap(both, ball.triangles)
    assert union.first == pytest.approx(pair.first + pair.second - pair.common, rel=1e-9)
    assert union.common == pytest.approx(pair.first, rel=1e-9)


def test_solids_apart_share_nothing():
    ball = trimesh.creation.icosphere(2, 0.05)
    far = ball.triangles + np.array([0.2, 0.0, 0.0])
    assert interpenetration_volume(ball.triangles, far) == 0
    assert overlap(ball.triangles, far).iou == 0
    # Boxes that overlap without the solids: diagonal neighbours.
    near = ball.triangles + np.array([0.07, 0.07, 0.03])
    assert interpenetration_volume(ball.triangles, near) == 0


@pytest.fixture(scope="module")
def crossed_hands():
    """Closed meshes (vertices, faces) of two hands that run into each other."""
    model = embedded_hand_model()
    hands = two_hands(model, mirrored(model))
    faces = closed_faces(hands)
    right, left = np.asarray(hands.v_template, np.float64)
    turn = Rotation.from_rotvec([0.9, 0.4, 2.2])
    middle = right.mean(0)
    left = turn.apply(left - left.mean(0)) + middle + [0.01, 0.005, 0.01]
    return [(right, faces[0]), (left, faces[1])], np.asarray(hands.faces)


def test_volume_of_hands_against_trimesh_and_libigl(crossed_hands):
    """Volume by trimesh's signed tetrahedra; the 0.5 cm voxels one by one by winding numbers."""
    (right, left), _ = crossed_hands
    found = overlap(*(v[f] for v, f in (right, left)))
    for volume, (v, f) in zip((found.first, found.second), (right, left), strict=True):
        assert volume == pytest.approx(trimesh.Trimesh(v, f, process=False).volume, rel=5e-3)
    low, high = (
        np.minimum(right[0].min(0), left[0].min(0)),
        np.maximum(right[0].max(0), left[0].max(0)),
    )
    lines = [
        np.arange(np.floor(a / 0.005), np.ceil(b / 0.005)) for a, b in zip(low, high, strict=True)
    ]
    centres = 0.005 * (np.stack(np.meshgrid(*lines, indexing="ij"), -1).reshape(-1, 3) + 0.5)
    inside = [
        np.asarray(igl.winding_number(v, f.astype(np.int64), centres)) > 0.5
        for v, f in (right, left)
    ]
    counted = [int(x.sum()) for x in (*inside, inside[0] & inside[1])]
    assert counted[2] > 100
    voxels = overlap(*(v[f] for v, f in (right, left)), pitch=0.005, voxels=True)
    measured = np.array([voxels.first, voxels.second, voxels.common]) / 0.005**3
    np.testing.assert_allclose(measured, counted, atol=1e-6)
    volume = interpenetration_volume(*(v[f] for v, f in (right, left)))
    assert volume == pytest.approx(0.125 * counted[2], rel=1e-9)
    assert volume == pytest.approx(1e6 * found.common, rel=0.05)


def test_chamfer_against_libigl(crossed_hands):
    """The same edge middles, one by one, with libigl's distances in float64."""
    (right, _), faces = crossed_hands
    faces = faces[0].astype(np.int64)
    first = right[0]
    second = first * [1.02, 0.97, 1.05] + [0.002, -0.001, 0.003]
    ways = []
    for a, b in ((first, second), (second, first)):
        total = area = 0.0
        middles = 0.5 * (a[faces] + a[np.roll(faces, 1, axis=1)])
        squared = np.asarray(igl.point_mesh_squared_distance(middles.reshape(-1, 3), b, faces)[0])
        for (p, q, r), three in zip(a[faces], np.sqrt(squared).reshape(-1, 3), strict=True):
            size = length(np.cross(q - p, r - p)) / 2
            total, area = total + size * three.mean(), area + size
        ways.append(total / area)
    both = [jnp.asarray(x, jnp.float32) for x in (first, second)]
    found = chamfer_l1(jnp.stack(both), jnp.stack(both[::-1]), faces.astype(np.int32))
    np.testing.assert_allclose(found, np.mean(ways), rtol=1e-4)
    # Many random points on the surfaces, as the published programs draw them.
    drawn = [
        np.asarray(
            trimesh.sample.sample_surface(trimesh.Trimesh(v, faces, process=False), 20000, seed=1)[
                0
            ]
        )
        for v in (first, second)
    ]
    squared = [
        np.asarray(igl.point_mesh_squared_distance(p, v, faces)[0])
        for p, v in zip(drawn, (second, first), strict=True)
    ]
    assert float(found[0]) == pytest.approx(np.mean([np.sqrt(s).mean() for s in squared]), rel=0.02)
    np.testing.assert_allclose(chamfer_l1(both[0], both[0], faces.astype(np.int32)), 0, atol=1e-7)
