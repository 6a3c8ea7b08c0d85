"""From predictions to a solver's arrays: finite, complete, and bad frames told apart."""

# Optional fields are there because the test put them there, and numpy.save does take dictionaries.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false
# pyright: reportArgumentType=false, reportCallIssue=false

from dataclasses import fields, replace

import jax
import numpy as np
import pytest

from fitting.checks import frame_reasons, start_sources, summarise
from fitting.errors import InputError
from fitting.predictions import TwoHandPredictions
from fitting.prepare import prepare
from objectives.likelihoods import parameter_items
from objectives.problem import posed_hands, posed_joints
from objectives.total import make_priors

N = 5


def predicted(**changes) -> TwoHandPredictions:
    """Five frames with every kind of hand: both, both, right, left, none."""
    rng = np.random.default_rng(0)
    given = {
        "hand_valid": np.array([[1, 1], [1, 1], [1, 0], [0, 1], [0, 0]], bool),
        "global_orient": rng.normal(size=(N, 2, 3)),
        "hand_pose": 0.2 * rng.normal(size=(N, 2, 15, 3)),
        "betas": rng.normal(size=(N, 2, 10)),
        "relative_transl": 0.1 * rng.normal(size=(N, 3)),
        "weak_camera": np.tile([5.0, 0.1, 0.0], (N, 1)),
        "keypoints_2d": rng.uniform(0.1, 1, size=(N, 2, 21, 3)),
        "joints_3d": 0.05 * rng.normal(size=(N, 2, 21, 3)),
        "frame_id": [f"f{i}" for i in range(N)],
    }
    return TwoHandPredictions(**{k: v for k, v in (given | changes).items() if v is not None})


def posed_targets(hands, predictions) -> np.ndarray:
    """Joints of the predicted parameters in the anchor frame, (N, 2, 21, 3)."""
    prepared = prepare(hands, predictions)
    return np.asarray(
        jax.jit(posed_joints)(hands, prepared.params, prepared.observations.left_anchor)
    )


def perspective(hands, transl, *, views=1):
    """`predicted` seen by pinhole cameras, the anchor wrist at `transl` of the first."""
    base = predicted()
    points = posed_targets(hands, base) + np.asarray(transl)
    K = np.array([[900.0, 0.0, 320.0], [0.0, 900.0, 240.0], [0.0, 0.0, 1.0]])
    T_camera_world = np.tile(np.eye(4), (N, views, 1, 1))
    # The first camera is not at the world's origin; the second stands 20 cm beside it.
    T_camera_world[:, :, 2, 3] = 0.5
    T_camera_world[:, 1:, 0, 3] = -0.2
    shift = T_camera_world[:, :, :3, 3] - T_camera_world[:, :1, :3, 3]
    in_view = points[:, None] + shift[:, :, None, None]
    pixels = in_view[..., :2] / in_view[..., 2:] * 900.0 + [320.0, 240.0]
    return replace(
        base,
        weak_camera=None,
        K=np.tile(K, (N, views, 1, 1)),
        T_camera_world=T_camera_world,
        keypoints_2d=pixels,
    )


def assert_all_finite(tree):
    for leaf in jax.tree.leaves(tree):
        assert np.isfinite(np.asarray(leaf)).all()


def test_a_clean_file_passes_through(hands):
    predictions = predicted()
    prepared = prepare(hands, predictions)
    assert list(prepared.reasons) == ["", "", "", "", "no hand"]
    assert not prepared.initialised
    params, observations = prepared.params, prepared.observations
    np.testing.assert_array_equal(params.hand_pose[:2], predictions.hand_pose[:2])
    np.testing.assert_array_equal(params.weak_camera[:4], predictions.weak_camera[:4])
    np.testing.assert_array_equal(observations.left_anchor, [False, False, False, True, False])
    np.testing.assert_array_equal(observations.hand_valid, predictions.hand_valid)
    assert observations.keypoints_2d.shape == (N, 1, 2, 21, 2)
    np.testing.assert_array_equal(
        observations.keypoints_2d_confidence[:2, 0], predictions.keypoints_2d[:2, ..., 2]
    )
    assert observations.views is None
    assert_all_finite((params, observations))


def test_absent_hands_are_zeros_whatever_they_held(hands):
    predictions = predicted()
    arrays = predictions.arrays()
    for name in ("global_orient", "hand_pose", "betas", "joints_3d", "keypoints_2d"):
        arrays[name] = arrays[name].copy()
        arrays[name][~predictions.hand_valid] = np.nan
    arrays["relative_transl"] = arrays["relative_transl"].copy()
    arrays["relative_transl"][2:] = np.inf
    prepared = prepare(hands, TwoHandPredictions(**arrays))
    assert list(prepared.reasons) == ["", "", "", "", "no hand"]
    assert_all_finite((prepared.params, prepared.observations))
    absent = ~predictions.hand_valid
    assert np.all(np.asarray(prepared.params.betas)[absent] == 0)
    assert np.all(np.asarray(prepared.params.relative_transl)[2:] == 0)
    assert np.all(np.asarray(prepared.observations.joints_3d_confidence)[absent] == 0)


def test_missing_targets_have_no_confidence_and_finite_values(hands):
    predictions = predicted()
    joints, keypoints = predictions.joints_3d.copy(), predictions.keypoints_2d.copy()
    joints[0, 0, 5, 1] = np.nan
    keypoints[1, 1, 3, 0] = np.inf
    keypoints[1, 1, 4, 2] = -1.0
    given = replace(predictions, joints_3d=joints, keypoints_2d=keypoints)
    observations = prepare(hands, given).observations
    assert_all_finite(observations)
    assert observations.joints_3d_confidence[0, 0, 5] == 0
    assert observations.joints_3d_confidence[0].sum() == 41
    assert np.all(observations.joints_3d[0, 0, 5] == 0)
    assert np.all(observations.keypoints_2d_confidence[1, 0, 1, 3:5] == 0)
    # The input still says what it said.
    assert np.isnan(given.joints_3d[0, 0, 5, 1])


def _with(name, index, value):
    array = getattr(predicted(), name).copy()
    array[index] = value
    return {name: array}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (_with("global_orient", (0, 0, 1), np.nan), "global_orient of the right hand is not fin"),
        (_with("hand_pose", (0, 1, 3, 1), np.inf), "hand_pose of the left hand is not finite"),
        (_with("betas", (0, 1), 1e4), "betas of the left hand is beyond"),
        (_with("global_orient", (0, 0, 1), 90.0), "expected radians"),
        (_with("relative_transl", 0, np.nan), "relative_transl is not finite"),
        (_with("relative_transl", 0, 120.0), "millimetres"),
        (_with("weak_camera", (0, 0), 0.0), "scale of weak_camera is not positive"),
        (_with("weak_camera", 0, np.nan), "weak_camera is not finite"),
        (_with("joints_3d", 0, 1e3 * predicted().joints_3d[0]), "millimetres"),
        (_with("keypoints_2d", 0, 300.0), "pixels"),
        (_with("hand_valid", 0, False), "no hand"),
    ],
)
def test_a_bad_frame_has_a_reason_and_disturbs_nobody(hands, changes, reason):
    good = prepare(hands, predicted())
    prepared = prepare(hands, predicted(**changes))
    assert reason in prepared.reasons[0]
    assert list(prepared.reasons[1:]) == list(good.reasons[1:])
    assert_all_finite((prepared.params, prepared.observations))
    assert not np.any(prepared.observations.hand_valid[0])
    for after, before in zip(
        jax.tree.leaves((prepared.params, prepared.observations)),
        jax.tree.leaves((good.params, good.observations)),
        strict=True,
    ):
        np.testing.assert_array_equal(after[1:], before[1:])


def test_a_frame_is_prepared_alike_alone_and_in_company(hands):
    predictions = replace(perspective(hands, [0.0, 0.0, 0.6]), relative_transl=None)
    together = prepare(hands, predictions)
    for i in range(N):
        alone = prepare(hands, predictions.frames([i]))
        for a, b in zip(
            jax.tree.leaves((alone.params, alone.observations)),
            jax.tree.leaves((together.params, together.observations)),
            strict=True,
        ):
            np.testing.assert_array_equal(a[0], b[i])


def test_relative_translation_comes_from_the_wrists(hands):
    predictions = predicted(relative_transl=None)
    joints = predictions.joints_3d.copy()
    joints[1, 0, 0] = np.nan
    prepared = prepare(hands, replace(predictions, joints_3d=joints))
    np.testing.assert_allclose(
        prepared.params.relative_transl[0], joints[0, 1, 0] - joints[0, 0, 0], atol=1e-7
    )
    assert "lack a wrist" in prepared.reasons[1]
    without = replace(predictions, joints_3d=None)
    assert "lack a wrist" in frame_reasons(without, hands)[0]


def test_an_unknown_depth_between_the_hands_starts_at_the_wrists_and_has_no_weight(hands):
    predictions = predicted()
    predictions.relative_transl[0, 2] = 40.0  # m: two crops and a wild focal length
    unknown = replace(predictions, relative_transl_confidence=np.tile([1.0, 0.5, 0.0], (N, 1)))
    assert "longer" in frame_reasons(predictions, hands)[0]
    assert frame_reasons(unknown, hands)[0] == ""
    prepared = prepare(hands, unknown)
    wrists = predictions.joints_3d[0, 1, 0] - predictions.joints_3d[0, 0, 0]
    np.testing.assert_allclose(
        prepared.params.relative_transl[0], [*predictions.relative_transl[0, :2], wrists[2]]
    )
    alone = prepare(hands, replace(unknown, joints_3d=None))
    np.testing.assert_array_equal(
        alone.params.relative_transl[0], [*predictions.relative_transl[0, :2], 0.0]
    )
    priors = make_priors(hands, "bone_aligned")
    params, observations = jax.tree.map(jax.numpy.asarray, (prepared.params, prepared.observations))
    confidence = {
        name: parameter_items(
            name, params, observations, priors.joint_limits, priors.pose_prior
        ).confidence[:2]
        for name in ("predicted_translation", "predicted_depth")
    }
    np.testing.assert_array_equal(confidence["predicted_translation"], [[1, 0.5]] * 2)
    np.testing.assert_array_equal(confidence["predicted_depth"], [[0.0]] * 2)
    used = {use.name: use for use in summarise(unknown, hands, ["predicted_depth"]).terms}
    assert used["predicted_depth"].frames == 0
    assert "confidence is 0" in used["predicted_depth"].remark


def test_an_unknown_depth_starts_on_the_ray_of_the_crop(hands):
    predictions = replace(
        predicted(weak_camera=None, keypoints_2d=None, joints_3d=None),
        K=np.tile([[1500.0, 0, 0], [0, 1500, 0], [0, 0, 1]], (N, 1, 1, 1)),
        root_transl=np.tile([0.4, -0.2, 18.0], (N, 1)),
        relative_transl=np.tile([0.1, 0.05, 3.0], (N, 1)),
        relative_transl_confidence=np.tile([1.0, 1.0, 0.0], (N, 1)),
    )
    tau = np.asarray(prepare(hands, predictions).params.relative_transl[0])
    left, seen = tau + [0.4, -0.2, 18.0], np.array([0.5, -0.15, 21.0])
    assert tau[2] == 0
    np.testing.assert_allclose(left[:2] / left[2], seen[:2] / seen[2], rtol=1e-5)


def test_joints_alone_make_a_start(hands):
    targets = posed_targets(hands, predicted())
    predictions = predicted(
        global_orient=None, hand_pose=None, betas=None, relative_transl=None, joints_3d=targets
    )
    prepared = prepare(hands, predictions)
    assert prepared.initialised
    assert list(prepared.reasons) == ["", "", "", "", "no hand"]
    found = jax.jit(posed_joints)(hands, prepared.params, prepared.observations.left_anchor)
    error = np.linalg.norm(np.asarray(found) - targets, axis=-1)[predictions.hand_valid]
    assert error.mean() < 6e-3
    # A left hand without a right one is its own anchor.
    np.testing.assert_array_equal(prepared.params.relative_transl[2:], 0)


def test_too_few_joints_make_no_start(hands):
    joints = np.random.default_rng(0).normal(scale=0.05, size=(N, 2, 21, 4))
    joints[..., 3] = 1.0
    joints[0, 1, 3:, 3] = 0.0
    # Four joints do, palm or not.
    joints[1, 1, [0, 1, 4, 7, 10, 13], 3] = 0.0
    predictions = TwoHandPredictions(hand_valid=predicted().hand_valid, joints_3d=joints)
    reasons = frame_reasons(predictions, hands)
    assert reasons[0] == (
        "no prediction, and too little of the left hand to start from: expected at least 4 joints "
        "in joints_3d"
    )
    assert reasons[1] == ""
    assert_all_finite(prepare(hands, predictions).params)


def without_parameters(**changes) -> TwoHandPredictions:
    none = dict.fromkeys(("global_orient", "hand_pose", "betas", "relative_transl"))
    return predicted(**none | changes)


@pytest.mark.parametrize("camera", ["weak", "K"])
def test_keypoints_alone_make_a_start(hands, camera):
    seen = perspective(hands, [0.0, 0.0, 0.6])
    changes = {"joints_3d": None}
    if camera == "K":
        keypoints = np.concatenate([seen.keypoints_2d[:, 0], np.ones((N, 2, 21, 1))], axis=-1)
        changes |= {"weak_camera": None, "K": seen.K}
    else:
        keypoints = 5.0 * posed_targets(hands, predicted())
        keypoints[..., 2] = 1.0
    keypoints[1, 0, 5:, 2] = 0.0
    predictions = without_parameters(keypoints_2d=keypoints, **changes)
    prepared = prepare(hands, predictions)
    assert prepared.initialised
    assert "6 keypoints in a view of keypoints_2d" in prepared.reasons[1]
    assert list(prepared.reasons[[0, 2, 3, 4]]) == ["", "", "", "no hand"]
    assert_all_finite((prepared.params, prepared.observations))
    assert summarise(predictions, hands).start == "keypoints_2d"
    tau_z = prepared.params.relative_transl[0, 2]
    assert (tau_z == 0) == (camera == "weak")
    assert prepared.root_known[0] == (camera == "K")


def test_vertices_alone_make_a_start_and_stand_for_joints(hands):
    base = predicted(keypoints_2d=None, weak_camera=None)
    params = prepare(hands, base).params
    left_anchor = np.array([False, False, False, True, False])
    posed = jax.jit(posed_hands)(hands, params, left_anchor)
    vertices = np.array(posed.vertices)
    vertices[1, 0, 50:] = np.nan
    predictions = without_parameters(
        joints_3d=None, keypoints_2d=None, weak_camera=None, vertices=vertices
    )
    prepared = prepare(hands, predictions)
    assert prepared.initialised
    assert "at least 64 vertices" in prepared.reasons[1]
    observations = prepared.observations
    np.testing.assert_allclose(observations.joints_3d[0], np.asarray(posed.joints)[0], atol=1e-3)
    np.testing.assert_array_equal(
        observations.joints_3d_confidence[:, :, 0], [[1, 1], [0, 0], [1, 0], [0, 1], [0, 0]]
    )
    summary = summarise(predictions, hands)
    assert summary.start == "vertices"
    (use,) = [term for term in summary.terms if term.name == "joints_3d"]
    assert (use.frames, use.remark) == (3, "of the joints fitted to the vertices")


def test_each_frame_starts_from_what_it_has(hands):
    vertices = np.full((N, 2, hands.num_vertices, 3), np.nan)
    vertices[0] = np.asarray(hands.v_template)
    joints = posed_targets(hands, predicted())
    joints = np.concatenate([joints, np.ones((N, 2, 21, 1))], axis=-1)
    joints[[0, 3], ..., 3] = 0.0
    joints[1, 0, :, 3] = 0.0
    predictions = without_parameters(vertices=vertices, joints_3d=joints, keypoints_2d=None)
    sources = start_sources(predictions)
    assert list(sources[:4]) == ["vertices", "", "joints_3d", ""]
    reasons = frame_reasons(predictions, hands)
    expected = "expected at least 64 vertices or 4 joints in joints_3d"
    assert "too little of the right hand" in reasons[1]
    assert expected in reasons[1]
    assert "too little of the left hand" in reasons[3]
    assert_all_finite(prepare(hands, predictions).params)
    # Each hand has its source, but the frame has none for both.
    vertices[1, 0] = np.asarray(hands.v_template)[0]
    mixed = without_parameters(vertices=vertices, joints_3d=joints, keypoints_2d=None)
    assert frame_reasons(mixed, hands)[1] == (
        "no prediction, and neither vertices nor joints_3d shows enough of both hands"
    )


@pytest.mark.parametrize("views", [1, 2])
def test_root_translation_is_solved_from_pixels(hands, views):
    transl = np.array([0.05, -0.02, 0.7])
    prepared = prepare(hands, perspective(hands, transl, views=views))
    np.testing.assert_allclose(prepared.params.root_transl[:4], np.tile(transl, (4, 1)), atol=1e-3)
    assert np.all(prepared.params.root_transl[4] == 0)
    T = np.asarray(prepared.observations.views.T_view_camera)
    np.testing.assert_allclose(T[:, 0], np.tile(np.eye(4), (N, 1, 1)), atol=1e-6)
    if views == 2:
        np.testing.assert_allclose(T[0, 1, :3, 3], [-0.2, 0.0, 0.0], atol=1e-6)


def test_pixel_scale_is_half_the_longer_side_of_the_keypoint_box(hands):
    predictions = perspective(hands, [0.0, 0.0, 0.7])
    prepared = prepare(hands, predictions)
    seen = predictions.keypoints_2d[0].reshape(-1, 2)
    expected = 0.5 * (seen.max(0) - seen.min(0)).max()
    assert prepared.observations.views.pixel_scale[0, 0] == pytest.approx(expected, rel=1e-5)
    right = predictions.keypoints_2d[2, 0, 0]
    expected = 0.5 * (right.max(0) - right.min(0)).max()
    assert prepared.observations.views.pixel_scale[2, 0] == pytest.approx(expected, rel=1e-5)
    # Nothing to see: any finite positive number will do.
    assert prepared.observations.views.pixel_scale[4, 0] > 0


def test_a_given_root_translation_is_kept(hands):
    given = np.tile([0.3, 0.2, 2.0], (N, 1))
    prepared = prepare(hands, replace(perspective(hands, [0.0, 0.0, 0.7]), root_transl=given))
    np.testing.assert_array_equal(prepared.params.root_transl[:4], given[:4].astype(np.float32))


@pytest.mark.parametrize(
    ("name", "index", "value", "reason"),
    [
        ("K", (0, 1), np.nan, "K is not finite"),
        ("K", (0, 0, 0, 0), -900.0, "focal length"),
        ("T_camera_world", (0, 1), np.nan, "T_camera_world is not finite"),
        ("T_camera_world", (0, 1), 2 * np.eye(4), "not a rotation"),
        ("keypoints_2d", 0, 0.5, "normalised"),
    ],
)
def test_bad_cameras_have_a_reason(hands, name, index, value, reason):
    predictions = perspective(hands, [0.0, 0.0, 0.7], views=2)
    array = getattr(predictions, name).copy()
    array[index] = value
    prepared = prepare(hands, replace(predictions, **{name: array}))
    assert reason in prepared.reasons[0]
    assert prepared.reasons[1] == ""
    assert_all_finite((prepared.params, prepared.observations))


def test_a_view_that_sees_nothing_may_be_anything(hands):
    predictions = perspective(hands, [0.0, 0.0, 0.7], views=2)
    K, keypoints = predictions.K.copy(), predictions.keypoints_2d.copy()
    K[0, 1], keypoints[0, 1] = np.nan, np.nan
    prepared = prepare(hands, replace(predictions, K=K, keypoints_2d=keypoints))
    assert prepared.reasons[0] == ""
    assert_all_finite((prepared.params, prepared.observations))
    assert prepared.params.root_transl[0, 2] == pytest.approx(0.7, abs=1e-3)


@pytest.mark.parametrize("bad", [np.nan, 0.0])
@pytest.mark.parametrize("name", ["K", "distortion"])
def test_the_place_of_an_unseen_first_view_still_relates_the_others(hands, name, bad):
    predictions = perspective(hands, [0.0, 0.0, 0.7], views=2)
    predictions = replace(predictions, distortion=np.zeros((N, 2, 5)))
    good = prepare(hands, predictions).observations.views.T_view_camera
    array, keypoints = getattr(predictions, name).copy(), predictions.keypoints_2d.copy()
    array[0, 0], keypoints[0, 0] = bad, np.nan
    prepared = prepare(hands, replace(predictions, keypoints_2d=keypoints, **{name: array}))
    assert prepared.reasons[0] == ""
    np.testing.assert_array_equal(prepared.observations.views.T_view_camera, good)
    np.testing.assert_allclose(prepared.params.root_transl[0], [0.0, 0.0, 0.7], atol=1e-3)
    assert_all_finite((prepared.params, prepared.observations))


def with_keypoints(predictions, frame, count):
    """One frame left with this many keypoints, all of the right hand."""
    keypoints = predictions.keypoints_by_view().copy()
    keypoints[frame, :, 1, :, 2] = keypoints[frame, :, 0, count:, 2] = 0.0
    return replace(predictions, keypoints_2d=keypoints)


def test_keypoints_that_cannot_place_the_hands_are_dropped(hands):
    predictions = with_keypoints(perspective(hands, [0.0, 0.0, 0.7]), 0, 1)
    prepared = prepare(hands, predictions)
    assert list(prepared.reasons) == ["", "", "", "", "no hand"]
    np.testing.assert_array_equal(prepared.root_known, [False, True, True, True, False])
    assert not prepared.weak_camera_known.any()
    assert np.all(prepared.observations.keypoints_2d_confidence[0] == 0)
    assert np.all(prepared.observations.keypoints_2d[0] == 0)
    assert np.all(prepared.params.root_transl[0] == 0)
    assert prepared.observations.keypoints_2d_confidence[1].any()
    (use,) = [t for t in summarise(predictions, hands).terms if t.name == "keypoints_2d"]
    assert use.frames == 3
    assert use.remark == "not in 1: no view has 2 keypoints to solve root_transl from"
    # With a place of its own, a single keypoint acts.
    given = replace(predictions, root_transl=np.tile([0.0, 0.0, 0.7], (N, 1)))
    assert prepare(hands, given).observations.keypoints_2d_confidence[0].sum() == 1
    assert prepare(hands, given).root_known[:4].all()


def test_no_root_translation_is_made_up_without_keypoints(hands):
    predictions = replace(perspective(hands, [0.0, 0.0, 0.7]), keypoints_2d=None)
    prepared = prepare(hands, predictions)
    assert not prepared.root_known.any()
    assert list(prepared.reasons[:4]) == [""] * 4


def test_a_root_translation_that_is_not_finite_is_solved(hands):
    given = np.tile([0.1, 0.2, 0.9], (N, 1))
    given[:2] = np.nan
    predictions = replace(perspective(hands, [0.0, 0.0, 0.7]), root_transl=given)
    prepared = prepare(hands, with_keypoints(predictions, 1, 1))
    assert list(prepared.reasons[:4]) == [""] * 4
    np.testing.assert_array_equal(prepared.root_known, [True, False, True, True, False])
    np.testing.assert_allclose(prepared.params.root_transl[0], [0.0, 0.0, 0.7], atol=1e-3)
    np.testing.assert_allclose(prepared.params.root_transl[2], [0.1, 0.2, 0.9], atol=1e-6)
    assert_all_finite((prepared.params, prepared.observations))


@pytest.mark.parametrize("bad", [np.nan, 0.0])
def test_a_weak_camera_that_nothing_is_seen_by_may_be_anything(hands, bad):
    predictions = predicted(**_with("weak_camera", 0, bad))
    keypoints = predictions.keypoints_2d.copy()
    keypoints[0, ..., 2] = 0.0
    prepared = prepare(hands, replace(predictions, keypoints_2d=keypoints))
    assert prepared.reasons[0] == ""
    np.testing.assert_array_equal(prepared.weak_camera_known, [False, True, True, True, False])
    assert not prepared.root_known.any()
    assert_all_finite((prepared.params, prepared.observations))
    assert prepare(hands, replace(predictions, keypoints_2d=None)).reasons[0] == ""


def test_mesh_targets(hands):
    vertices = np.zeros((N, 2, hands.num_vertices, 3))
    vertices[0, 0, 7] = np.nan
    observations = prepare(hands, predicted(vertices=vertices)).observations
    assert_all_finite(observations)
    assert observations.vertices_confidence[0].sum() == 2 * hands.num_vertices - 1
    assert np.all(observations.vertices_confidence[4] == 0)


def test_mesh_targets_are_in_metres(hands):
    rest = np.asarray(hands.v_template, np.float64)
    vertices = np.tile(rest, (N, 1, 1, 1))
    vertices[0] *= 1000.0
    vertices[1, 1] += 1e30
    # One vertex gone astray is no wrong unit: it is no target.
    vertices[2, 0, 7] = 1e30
    prepared = prepare(hands, predicted(vertices=vertices))
    assert "vertices of the right hand are farther than 0.5 m" in prepared.reasons[0]
    assert "millimetres" in prepared.reasons[0]
    assert "vertices of the left hand are farther than 100 m" in prepared.reasons[1]
    assert list(prepared.reasons[2:4]) == ["", ""]
    confidence = prepared.observations.vertices_confidence
    assert confidence[2, 0, 7] == 0
    assert confidence[2, 0].sum() == hands.num_vertices - 1
    assert confidence[3, 1].all()
    assert_all_finite(prepared.observations)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"betas": np.zeros((N, 2, 12))}, ["betas", "expected 10", "found 12"]),
        ({"vertices": np.zeros((N, 2, 100, 3))}, ["vertices", "778", "100"]),
        ({"weak_camera": None}, ["keypoints_2d without a camera", "weak_camera", "K"]),
        (
            dict.fromkeys(
                ("global_orient", "hand_pose", "betas", "joints_3d", "keypoints_2d", "weak_camera")
            ),
            ["nothing to start from", "vertices", "joints_3d", "keypoints_2d"],
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error(hands, changes, words):
    with pytest.raises(InputError) as error:
        prepare(hands, predicted(**changes))
    for word in words:
        assert word in str(error.value)


def test_a_file_without_frames_is_an_error(hands):
    for use in (prepare, lambda hands, empty: summarise(empty, hands)):
        with pytest.raises(InputError, match="at least one frame, found none"):
            use(hands, predicted().frames(slice(0, 0)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_array_is_the_hosts_and_has_the_dtype_asked_for(hands, dtype):
    predictions = perspective(hands, [0.0, 0.0, 0.7])
    predictions = replace(predictions, vertices=np.zeros((N, 2, hands.num_vertices, 3)))
    prepared = prepare(hands, predictions, dtype=dtype)
    for leaf in jax.tree.leaves((prepared.params, prepared.observations)):
        assert type(leaf) is np.ndarray
        assert leaf.dtype in (dtype, np.bool_)


def test_the_summary_tells_what_will_act(hands):
    predictions = predicted(**_with("global_orient", (1, 0, 1), np.nan))
    summary = summarise(replace(predictions, keypoints_2d=None), hands)
    assert (summary.both_hands, summary.right_only, summary.left_only, summary.no_hand) == (
        2,
        1,
        1,
        1,
    )
    assert summary.usable == 3
    terms = {term.name: term for term in summary.terms}
    assert terms["keypoints_2d"].frames == 0
    assert terms["keypoints_2d"].remark == "the file has no keypoints_2d"
    assert terms["joints_3d"].frames == 3
    assert terms["collision"].frames == 1
    text = str(summary)
    assert "usable: 3 of 5 frames" in text
    assert "keypoints_2d: 0 of 3 frames (the file has no keypoints_2d)" in text
    assert "skipped: 1 frame: global_orient of the right hand is not finite [f1]" in text
    assert "skipped: 1 frame: no hand [f4]" in text


def test_the_summary_follows_the_strategy(hands):
    predictions = predicted(keypoints_2d=None)
    weighed = ("joints_3d", "finger_twist", "joint_limits", "collision_squared", "keypoints_2d")
    uses = {term.name: term for term in summarise(predictions, hands, weighed).terms}
    assert set(uses) == {*weighed, "relative_translation"}
    assert uses["finger_twist"].frames == uses["joint_limits"].frames == 4
    assert uses["collision_squared"].frames == 2
    assert uses["collision_squared"].remark == "not in 2: it needs both hands"
    assert uses["keypoints_2d"].remark == "the file has no keypoints_2d"
    assert uses["relative_translation"].frames == 0
    assert uses["relative_translation"].remark == "not weighed by this strategy"
    without = replace(predictions, joints_3d=None)
    assert {term.name for term in summarise(without, hands, ("collision",)).terms} == {"collision"}
    with pytest.raises(InputError, match="unknown term colision; known: collision, "):
        summarise(predictions, hands, ("colision",))


def test_every_parameter_field_is_prepared(hands):
    params = prepare(hands, predicted()).params
    for field in fields(params):
        assert getattr(params, field.name).shape[0] == N
