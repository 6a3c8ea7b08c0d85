"""The synthetic interactions keep what they promise."""

import json
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmark import (
    TRUTH_GAP_MM,
    TRUTH_MAX_P_MM,
    TYPE_NAMES,
    DetectorNoise,
    RegressorErrors,
    frame_type,
    interactions,
    make_interactions,
    write_benchmark,
)
from experiments.benchmark.arrangements import CONTACT_TYPES
from experiments.benchmark.finger_poses import draw_finger_poses, draw_poses, openness
from experiments.benchmark.forearms import forearms_clear
from experiments.benchmark.interactions import draw_truth
from experiments.benchmark.measure import PUBLISHED, by_frame, posed
from experiments.benchmark.pose import Frame, together
from experiments.benchmark.regressor import predict
from experiments.benchmark.surfaces import Surface
from fitting.canonical import read_predictions
from fitting.errors import InputError
from objectives.collision import exact_depths, exact_distances

FRAMES = 20
TARGETS = ("joints_3d", "keypoints_2d")
PARAMETERS = ("global_orient", "hand_pose", "betas", "relative_transl")


@pytest.fixture(scope="module")
def made(hands):
    return make_interactions(hands, frames=FRAMES, seed=0)


@pytest.fixture(scope="module")
def shapes(hands, made):
    """Vertices and joints of truth and predictions, origin at the right wrist."""
    return [posed(hands, predictions) for predictions in made]


@pytest.fixture(scope="module")
def true_skin(hands, shapes):
    """Depth and distance of every true vertex, mm."""
    vertices, both = jnp.asarray(shapes[0][0], jnp.float32), jnp.ones(FRAMES, bool)
    return [1000 * np.asarray(f(hands, vertices, both)) for f in (exact_depths, exact_distances)]


# ---- truth --------------------------------------------------------------------------------------


def test_true_hands_touch_without_penetration(true_skin):
    depth, distance = true_skin
    assert np.all(distance.min(axis=(1, 2)) < TRUTH_GAP_MM)
    assert depth.max() < TRUTH_MAX_P_MM
    assert depth.mean() < 0.01


def test_contact_is_no_graze(made, true_skin):
    near = np.count_nonzero(true_skin[1] < 10, axis=(1, 2))
    least = {kind.name: kind.least_near for kind in CONTACT_TYPES}
    assert np.all(near >= [least[frame_type(name)] for name in made[0].frame_names])


def test_every_contact_type_has_its_share(made):
    kinds = [frame_type(name) for name in made[0].frame_names]
    assert [kinds.count(name) for name in TYPE_NAMES] == [FRAMES // 5] * 5


def test_interlocked_fingers_alternate(made, shapes):
    """Some finger of one hand lies between two neighbours of the other."""
    joints = shapes[0][1]
    middle = [2, 5, 11, 8]  # index2, middle2, ring2, pinky2
    for frame in range(1, FRAMES, 5):
        right, left = joints[frame, 0, middle], joints[frame, 1, middle]
        across = right[-1] - right[0]
        order = np.argsort(np.concatenate([right @ across, left @ across])) >= 4
        # A hand wholly beside the other would change sides once.
        assert np.count_nonzero(np.diff(order)) >= 2


def test_both_forearms_find_room(shapes):
    for vertices, joints in zip(*shapes[0], strict=True):
        assert forearms_clear(vertices, joints)


def test_a_forearm_through_the_other_hand_is_seen(shapes):
    vertices, joints = (x[3].copy() for x in shapes[0])
    shift = joints[0, 0] - 0.1 * (joints[0, 4] - joints[0, 0]) / np.linalg.norm(joints[0, 4])
    moved = shift - vertices[1].mean(axis=0)
    vertices[1] += moved
    joints[1] += moved
    assert not forearms_clear(vertices, joints)


def test_every_true_pose_differs(made):
    poses = made[0].hand_pose.reshape(2 * FRAMES, 45)
    apart = np.sqrt(((poses[:, None] - poses) ** 2).mean(-1))
    assert np.all(apart[~np.eye(2 * FRAMES, dtype=bool)] > 0.01)


def test_truth_agrees_with_itself(made, shapes):
    truth, (vertices, joints) = made[0], shapes[0]
    np.testing.assert_allclose(truth.joints_3d[..., :3], joints, atol=2e-6)
    scale, shift = truth.weak_camera[:, None, None, :1], truth.weak_camera[:, None, None, 1:]
    pixels = scale * (joints[..., :2] + shift)
    np.testing.assert_allclose(truth.keypoints_2d[..., :2], pixels, atol=2e-5)
    assert np.all(truth.joints_3d[..., 3] == 1) and np.all(truth.keypoints_2d[..., 2] == 1)
    placed = scale[:, 0] * (vertices.reshape(FRAMES, -1, 3)[..., :2] + shift[:, 0])
    np.testing.assert_allclose(np.ptp(placed, axis=1).max(axis=-1), 1.6, atol=1e-4)


# ---- finger poses -------------------------------------------------------------------------------


def test_a_contact_type_gets_the_openness_it_asks_for(hands):
    kind = replace(CONTACT_TYPES[2], likeness=0.0, flattened=0.0)
    drawn = [
        draw_finger_poses(hands, np.random.default_rng(i), replace(kind, openness=span)).open
        for span in ((0.0, 0.2), (0.8, 1.0))
        for i in range(4)
    ]
    reach = openness(hands, np.stack(drawn)).mean(axis=1)
    assert reach[:4].max() < reach[4:].min()


def test_hands_without_pose_samples_work(hands):
    bare = replace(hands, pose_samples=None)
    poses = draw_poses(bare, np.random.default_rng(0), 8)
    assert poses.shape == (8, 2, 15, 3) and np.isfinite(poses).all()
    for made in make_interactions(bare, frames=1, seed=0):
        assert np.isfinite(made.arrays()["hand_pose"]).all()


def test_an_impossible_contact_is_an_error(hands, monkeypatch):
    monkeypatch.setattr(interactions, "_ROUNDS", 1)
    kind = replace(CONTACT_TYPES[0], least_counted=10_000)
    with pytest.raises(ValueError, match="no contact for 'fingertips'"):
        draw_truth(hands, Surface.of(hands), np.random.default_rng(0), kind)


# ---- predictions --------------------------------------------------------------------------------


def test_predictions_are_as_wrong_as_the_published_regressor(hands, made):
    """MPJPE and MAX-P bind; docs/benchmark.md has all four figures on more frames."""
    values = by_frame(hands, *made)
    figures = values["published definitions"]
    assert figures["MPJPE"].mean() == pytest.approx(PUBLISHED["MPJPE"], rel=0.15)
    assert figures["I-MPJPE"].mean() == pytest.approx(PUBLISHED["I-MPJPE"], rel=0.15)
    assert figures["MAX-P"].mean() == pytest.approx(PUBLISHED["MAX-P"], rel=0.15)
    # Not one size for all: some frames graze, some are deep.
    depth = values["exact"]["MAX-P"]
    assert depth.min() < 4 and depth.max() > 12


def test_errors_are_correlated(hands, made, shapes):
    truth, predictions = made
    error = (predictions.hand_pose - truth.hand_pose).reshape(2 * FRAMES, 45)
    spectrum = np.linalg.svd(error - error.mean(axis=0), compute_uv=False) ** 2
    # White noise of the same numbers would put about 0.35 of its variance in the first eight.
    assert spectrum[:8].sum() > 0.7 * spectrum.sum()

    towards_mean = np.asarray(hands.pose_mean).reshape(1, 2, 45) - truth.hand_pose.reshape(
        -1, 2, 45
    )
    shrunk = np.sum(towards_mean.reshape(error.shape) * error, axis=1)
    assert np.mean(shrunk > 0) > 0.8

    shape = predictions.betas - truth.betas
    assert np.corrcoef(shape[:, 0].ravel(), shape[:, 1].ravel())[0, 1] > 0.5


def test_one_hand_is_worse_than_the_other(hands, made, shapes):
    (_, truth), (_, joints) = shapes
    difference = joints - truth
    error = np.linalg.norm(difference - difference[:, :, :1], axis=-1).mean(axis=-1)
    assert np.median(error.max(axis=1) / error.min(axis=1)) > 1.3


def test_the_way_between_the_hands_is_underestimated_most_of_all_in_depth(hands, made, shapes):
    still, apart = RegressorErrors(error_scale=0.0), [[], []]
    for frame, joints in enumerate(shapes[0][1]):
        true = Frame(*(made[0].arrays()[name][frame].astype(float) for name in PARAMETERS))
        for draw in range(10):
            guess = predict(hands, np.random.default_rng([draw, frame]), true, joints, still)
            for found, shown in zip(apart, (joints, together(hands, guess)[1]), strict=True):
                middles = shown.mean(axis=1)
                found.append(middles[1] - middles[0])
    true, guessed = (np.array(found) for found in apart)
    shrunk = np.sum(true * (true - guessed), axis=0) / np.sum(true**2, axis=0)
    assert shrunk.min() > 0.1 and shrunk[2] > 1.3 * shrunk[:2].max()


def test_the_knobs_scale_the_errors(hands, made, shapes):
    truth, joints = made[0], shapes[0][1]

    def at(frame: int, **knobs):
        true = Frame(*(truth.arrays()[name][frame].astype(float) for name in PARAMETERS))
        rng = np.random.default_rng([0, frame, 1])
        return true, predict(hands, rng, true, joints[frame], RegressorErrors(**knobs))

    true, none = at(0, error_scale=0.0, place_scale=0.0)
    np.testing.assert_allclose(none.hand_pose, true.hand_pose, atol=1e-12)
    np.testing.assert_allclose(none.relative_transl, true.relative_transl, atol=1e-6)
    _, half = at(0, error_scale=0.5)
    _, whole = at(0, error_scale=1.0)
    np.testing.assert_allclose(
        whole.hand_pose - true.hand_pose, 2 * (half.hand_pose - true.hand_pose), atol=1e-9
    )


def test_a_camera_that_is_off(hands):
    off = RegressorErrors(camera_error=0.1)
    truth, predictions = make_interactions(hands, frames=3, seed=0, regressor=off)
    assert np.all(predictions.weak_camera != truth.weak_camera)
    right = make_interactions(hands, frames=3, seed=0, regressor=RegressorErrors(camera_error=0))[1]
    np.testing.assert_array_equal(right.weak_camera, truth.weak_camera)
    np.testing.assert_array_equal(right.hand_pose, predictions.hand_pose)
    np.testing.assert_array_equal(right.keypoints_2d, predictions.keypoints_2d)


# ---- the detector -------------------------------------------------------------------------------


def test_observations_are_noisy_and_some_are_missing(made):
    truth, predictions = made
    seen = predictions.joints_3d[..., 3] > 0
    np.testing.assert_array_equal(seen, predictions.keypoints_2d[..., 2] > 0)
    assert 0.02 * seen.size < np.count_nonzero(~seen) < 0.08 * seen.size
    joint_noise = (predictions.joints_3d - truth.joints_3d)[seen][:, :3]
    keypoint_noise = (predictions.keypoints_2d - truth.keypoints_2d)[seen][:, :2]
    assert joint_noise.std() == pytest.approx(0.005, rel=0.1)
    assert keypoint_noise.std() == pytest.approx(2 * 2 / 224, rel=0.1)
    assert np.all(predictions.joints_3d[~seen] == 0)


def test_another_noise_level_changes_the_targets_only(hands, made):
    noise = DetectorNoise(joint_noise_mm=20, keypoint_noise_px=8, outliers=0.1, missing=0.0)
    for whole, part in zip(
        made, make_interactions(hands, frames=3, seed=0, detector=noise), strict=True
    ):
        for name, array in part.arrays().items():
            same = np.array_equal(array, whole.arrays()[name][:3])
            assert same != (name in TARGETS and whole is made[1]), name


def test_noise_is_the_same_draw_at_another_size(hands, made):
    truth = made[0]
    double = make_interactions(hands, frames=2, seed=0, detector=DetectorNoise(joint_noise_mm=10))[
        1
    ]
    true, once, twice = (x.arrays()["joints_3d"][:2] for x in (truth, made[1], double))
    seen = twice[..., 3] > 0
    once, twice = (x[seen] - true[seen] for x in (once, twice))
    np.testing.assert_allclose(twice, 2 * once, atol=1e-6)


def test_an_outlier_is_another_joint_of_the_pair(hands, made):
    noise = DetectorNoise(joint_noise_mm=0, keypoint_noise_px=0, missing=0, outliers=0.3)
    both = made[0], make_interactions(hands, frames=2, seed=0, detector=noise)[1]
    true, wrong = (x.arrays()["joints_3d"][:2, ..., :3] for x in both)
    away = np.linalg.norm(wrong - true, axis=-1) > 1e-6
    assert 0.15 < away.mean() < 0.45
    everywhere = true.reshape(2, 1, 42, 3)
    nearest = np.linalg.norm(wrong.reshape(2, 42, 1, 3) - everywhere, axis=-1).min(axis=-1)
    assert nearest.max() < 1e-6


# ---- seeds, files, errors -----------------------------------------------------------------------


def test_same_seed_same_frames_whatever_their_number(hands, made):
    for whole, part in zip(made, make_interactions(hands, frames=2, seed=0), strict=True):
        for name, array in part.arrays().items():
            np.testing.assert_array_equal(array, whole.arrays()[name][:2], err_msg=name)


def test_other_seed_other_frames(hands, made):
    other = make_interactions(hands, frames=1, seed=6)[0]
    poses = [x.arrays()["hand_pose"][0] for x in (other, made[0])]
    assert not np.allclose(*poses, atol=1e-3)


def test_files_are_the_same_bytes_and_say_how_they_were_made(hands, tmp_path):
    folders = tmp_path / "one", tmp_path / "two"
    for folder in folders:
        paths = write_benchmark(folder, hands, frames=1, seed=3, hand_model="a hand")
        assert [path.name for path in paths] == ["truth.npz", "predictions.npz", "benchmark.json"]
    for path in folders[0].iterdir():
        assert path.read_bytes() == (folders[1] / path.name).read_bytes()
    record = json.loads((folders[0] / "benchmark.json").read_text())
    assert record["data"] == "synthetic" and record["seed"] == 3
    assert record["hand_model"] == "a hand"
    assert record["detector"]["joint_noise_mm"] == 5 and record["regressor"]["place_scale"] == 1
    achieved = record["achieved"]
    assert set(achieved["published_definitions"]) == set(PUBLISHED)
    assert achieved["truth"]["AVE-P"] < 0.01
    predictions = read_predictions(folders[0] / "predictions.npz")
    assert frame_type(predictions.frame_names[0]) == TYPE_NAMES[0]
    with pytest.raises(InputError, match="exists already"):
        write_benchmark(folders[0], hands, frames=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DetectorNoise(joint_noise_mm=-1), "joint_noise_mm: expected 0 or more, found -1"),
        (lambda: DetectorNoise(keypoint_noise_px=float("nan")), "keypoint_noise_px: expected"),
        (lambda: DetectorNoise(missing=1.0), "missing: expected a share from 0 to below 1"),
        (lambda: DetectorNoise(outliers=-0.1), "outliers: expected a share"),
        (lambda: RegressorErrors(error_scale=-1), "error_scale: expected 0 or more"),
        (lambda: RegressorErrors(camera_error=float("inf")), "camera_error: expected 0 or more"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_no_frames_and_a_negative_seed_are_errors(hands):
    with pytest.raises(InputError, match="at least one frame"):
        make_interactions(hands, frames=0)
    with pytest.raises(InputError, match="expected 0 or more"):
        make_interactions(hands, frames=1, seed=-1)


def test_together_puts_the_right_wrist_at_the_origin(hands, made):
    frame = Frame(*(made[0].arrays()[name][0] for name in PARAMETERS))
    joints = together(hands, frame)[1]
    np.testing.assert_allclose(joints[0, 0], 0, atol=1e-7)
    np.testing.assert_allclose(joints[1, 0], made[0].relative_transl[0], atol=1e-6)
