"""The canonical record: what it admits, what it refuses and how it says so."""

# Optional fields are there because the test put them there, and numpy.save does take dictionaries.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false
# pyright: reportArgumentType=false, reportCallIssue=false

import numpy as np
import pytest

from fitting.errors import InputError
from fitting.predictions import FIELD_NAMES, TwoHandPredictions

N = 4


def full_prediction(frames: int = N, seed: int = 0, **changes) -> TwoHandPredictions:
    rng = np.random.default_rng(seed)
    fields = {
        "hand_valid": np.ones((frames, 2), bool),
        "global_orient": rng.normal(size=(frames, 2, 3)),
        "hand_pose": 0.2 * rng.normal(size=(frames, 2, 15, 3)),
        "betas": rng.normal(size=(frames, 2, 10)),
        "relative_transl": 0.1 * rng.normal(size=(frames, 3)),
        "weak_camera": np.tile([5.0, 0.0, 0.0], (frames, 1)),
        "keypoints_2d": rng.uniform(-1, 1, size=(frames, 2, 21, 3)),
        "joints_3d": 0.1 * rng.normal(size=(frames, 2, 21, 4)),
        "frame_id": [f"frame {i}" for i in range(frames)],
        "sequence_id": np.arange(frames),
        "timestamp": 1.7e9 + np.arange(frames) / 30,
    }
    return TwoHandPredictions(**{k: v for k, v in (fields | changes).items() if v is not None})


def test_types_are_coerced_and_values_kept():
    predictions = full_prediction(hand_valid=np.ones((N, 2), np.int64))
    assert predictions.hand_valid.dtype == bool
    assert predictions.betas.dtype == np.float32
    assert predictions.sequence_id.dtype == np.int64
    # Seconds since 1970 at 30 Hz do not fit float32.
    assert np.diff(predictions.timestamp) == pytest.approx(np.full(N - 1, 1 / 30), abs=1e-6)
    assert list(predictions.frame_id) == [f"frame {i}" for i in range(N)]


def test_nan_is_kept_as_it_came():
    orient = np.zeros((N, 2, 3), np.float32)
    orient[1, 0] = np.nan
    predictions = full_prediction(global_orient=orient)
    np.testing.assert_array_equal(predictions.global_orient, orient)


def test_a_missing_confidence_is_one():
    predictions = full_prediction(
        keypoints_2d=np.zeros((N, 2, 21, 2)), joints_3d=np.zeros((N, 2, 21, 3))
    )
    assert predictions.keypoints_2d.shape == (N, 2, 21, 2)
    assert np.all(predictions.keypoints_by_view()[..., 2] == 1)
    assert np.all(predictions.joints_with_confidence()[..., 3] == 1)


def test_one_view_needs_no_view_axis():
    points = np.random.default_rng(0).normal(size=(N, 2, 21, 3)).astype(np.float32)
    with_axis = full_prediction(keypoints_2d=points[:, None])
    without = full_prediction(keypoints_2d=points)
    np.testing.assert_array_equal(with_axis.keypoints_by_view(), without.keypoints_by_view())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"global_orient": np.zeros((N, 2, 4))}, ["global_orient", "(N, 2, 3)", "(4, 2, 4)"]),
        ({"hand_pose": np.zeros((N, 2, 45))}, ["hand_pose", "(N, 2, 15, 3)", "PCA"]),
        ({"betas": np.zeros((N + 1, 2, 10))}, ["betas", "4 frames", "found 5"]),
        ({"keypoints_2d": np.zeros((N, 2, 2, 21, 3))}, ["keypoints_2d", "2 views", "K"]),
        ({"K": np.zeros((N, 1, 3, 3))}, ["weak_camera and K", "pixels"]),
        ({"distortion": np.zeros((N, 1, 5))}, ["distortion without K"]),
        ({"hand_pose": None}, ["without hand_pose", "joints_3d"]),
        ({"hand_valid": np.full((N, 2), 2)}, ["hand_valid", "booleans"]),
        ({"hand_valid": np.ones((N,), bool)}, ["hand_valid", "(N, 2)", "(4,)"]),
        ({"sequence_id": np.zeros(N)}, ["sequence_id", "integers", "float64"]),
        ({"joints_3d": np.full((N, 2, 21, 3), "x")}, ["joints_3d", "numbers"]),
        ({"frame_id": np.zeros(N)}, ["frame_id", "strings"]),
        ({"vertices": np.zeros((N, 2, 778))}, ["vertices", "(N, 2, V, 3)"]),
        (
            {"relative_transl": None, "relative_transl_confidence": np.ones((N, 3))},
            ["relative_transl_confidence without relative_transl"],
        ),
        ({"relative_transl_confidence": np.full((N, 3), np.nan)}, ["confidence", "finite"]),
    ],
)
def test_refusals_name_field_expected_and_found(changes, words):
    with pytest.raises(InputError) as error:
        full_prediction(**changes)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"K": np.ones((N, 3, 3))}, ["K:", "K[:, None]"]),
        ({"distortion": np.zeros((N, 1, 3))}, ["distortion", "found 3"]),
        (
            {"K": np.ones((N, 2, 3, 3)), "keypoints_2d": np.zeros((N, 2, 2, 21, 3))},
            ["2 views", "T_camera_world"],
        ),
        (
            {"keypoints_2d": np.zeros((N, 2, 2, 21, 3))},
            ["keypoints_2d", "1 views as in K", "found 2"],
        ),
        ({"T_camera_world": np.zeros((N, 2, 4, 4))}, ["T_camera_world", "1 views", "found 2"]),
    ],
)
def test_perspective_cameras_must_agree(changes, words):
    fields = {"weak_camera": None, "K": np.ones((N, 1, 3, 3))} | changes
    with pytest.raises(InputError) as error:
        full_prediction(**fields)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("selection", [slice(1, 3), [1, 2], np.array([False, True, True, False])])
def test_frames_selects(selection):
    predictions = full_prediction()
    chosen = predictions.frames(selection)
    assert chosen.num_frames == 2
    for name, array in chosen.arrays().items():
        np.testing.assert_array_equal(array, getattr(predictions, name)[1:3])


def test_concatenate_undoes_frames():
    predictions = full_prediction()
    parts = [predictions.frames(slice(0, 1)), predictions.frames(slice(1, N))]
    joined = TwoHandPredictions.concatenate(parts)
    np.testing.assert_array_equal(joined.keypoints_by_view(), predictions.keypoints_by_view())
    for name in set(FIELD_NAMES) & set(predictions.arrays()) - {"keypoints_2d"}:
        np.testing.assert_array_equal(getattr(joined, name), getattr(predictions, name))


def test_concatenate_wants_the_same_fields():
    with pytest.raises(InputError, match="timestamp"):
        TwoHandPredictions.concatenate([full_prediction(), full_prediction(timestamp=None)])
    with pytest.raises(InputError, match="none"):
        TwoHandPredictions.concatenate([])


def test_no_field_is_required_but_hand_valid():
    predictions = TwoHandPredictions(hand_valid=np.zeros((2, 2), bool))
    assert list(predictions.arrays()) == ["hand_valid"]
    assert list(predictions.frame_names) == ["0", "1"]
    assert predictions.keypoints_by_view() is None
    assert predictions.num_views == 1
