"""Whole files held against the truth, from matched frames to tables."""

import csv
import dataclasses
import io
import json
import re
from pathlib import Path

import igl
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fitting.canonical import CanonicalFileError, write_arrays
from fitting.errors import InputError
from fitting.evaluation import evaluate, match_frames, read_result, read_truth
from fitting.evaluation_summary import bootstrap_means, summarise_columns
from fitting.metric_table import DEFAULT_METRICS, METRICS
from fitting.predictions import TwoHandPredictions
from objectives.collision import depths, search
from tests.reference_hand import pose_one_hand

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"

FRAMES, CHUNK = 8, 4
PROJECTION = np.array([[900.0, 0.0, 250.0], [0.0, 920.0, 260.0], [0.0, 0.0, 1.0]])


def hands_in_contact(seed: int, frames: int = FRAMES) -> dict[str, np.ndarray]:
    """Parameters of hands that cross, the last frame a right hand, the last but one a left one."""
    rng = np.random.default_rng(seed)
    valid = np.ones((frames, 2), bool)
    valid[-1, 1] = valid[-2, 0] = False
    return {
        "hand_valid": valid,
        "global_orient": rng.normal(0, 1.0, (frames, 2, 3)),
        "hand_pose": rng.normal(0, 0.15, (frames, 2, 15, 3)),
        "betas": rng.normal(0, 0.5, (frames, 2, 10)),
        "relative_transl": rng.normal(0, 0.02, (frames, 3)),
        "frame_id": np.array([f"frame{i}" for i in range(frames)]),
    }


def nudged(arrays: dict[str, np.ndarray], seed: int, size: float = 1.0) -> dict[str, np.ndarray]:
    """The same with a regressor's errors."""
    rng = np.random.default_rng(seed)
    sizes = {"global_orient": 0.1, "hand_pose": 0.1, "betas": 0.2, "relative_transl": 0.006}
    noise = {k: size * s * rng.normal(size=arrays[k].shape) for k, s in sizes.items()}
    return arrays | {k: arrays[k] + n for k, n in noise.items()}


@pytest.fixture(scope="module")
def true_arrays():
    return hands_in_contact(0)


@pytest.fixture(scope="module")
def truth(true_arrays):
    return TwoHandPredictions(**true_arrays)


@pytest.fixture(scope="module")
def result(true_arrays):
    return TwoHandPredictions(**nudged(true_arrays, 1))


@pytest.fixture(scope="module")
def before(true_arrays):
    return TwoHandPredictions(**nudged(true_arrays, 2, size=2.0))


@pytest.fixture(scope="module")
def evaluation(hands, result, truth, before):
    return evaluate(hands, result, truth, before=before, chunk=CHUNK)


@pytest.fixture(scope="module")
def posed_by_loops(right_model, left_model, hands, result, truth):
    """(vertices, joints) of result and truth in float64, right wrist at the origin."""
    return [by_loops(right_model, left_model, hands, file) for file in (result, truth)]


def by_loops(right_model, left_model, hands, file):
    vertices, joints = np.full((FRAMES, 2, 778, 3), np.nan), np.full((FRAMES, 2, 21, 3), np.nan)
    tips = np.asarray(hands.tip_vertices)
    for frame in range(FRAMES):
        for hand, model in enumerate((right_model, left_model)):
            if not file.hand_valid[frame, hand]:
                continue
            v, j = pose_one_hand(
                model,
                tips[hand],
                global_orient=file.global_orient[frame, hand],
                hand_pose=file.hand_pose[frame, hand],
                betas=file.betas[frame, hand].astype(np.float64),
                transl=np.zeros(3),
            )
            shift = -j[0]
            if hand == 1 and file.hand_valid[frame, 0]:
                shift = shift + file.relative_transl[frame]
            vertices[frame, hand], joints[frame, hand] = v + shift, j + shift
    return vertices, joints


def lengths(vectors):
    return np.sqrt((np.asarray(vectors, np.float64) ** 2).sum(-1))


def test_joint_and_vertex_metrics_against_the_loops(evaluation, posed_by_loops, truth):
    """Posed and measured in float64 by other code: to 1e-4, as a whole file."""
    (vertices, joints), (true_vertices, true_joints) = posed_by_loops
    for frame in range(FRAMES):
        hands = np.flatnonzero(truth.hand_valid[frame])
        wrist_aligned = [
            1000 * lengths(p[frame, h] - j[frame, h, 0] - t[frame, h] + tj[frame, h, 0])
            for p, j, t, tj in (
                (joints, joints, true_joints, true_joints),
                (vertices, joints, true_vertices, true_joints),
            )
            for h in hands
        ]
        count = len(hands)
        expected = {
            "mpjpe": np.mean(np.concatenate(wrist_aligned[:count])),
            "mpvpe": np.mean(np.concatenate(wrist_aligned[count:])),
            "auc": np.mean(np.maximum(0, 1 - np.concatenate(wrist_aligned[:count]) / 50)),
        }
        if count == 2:
            # Right wrists lie at the origin already.
            expected["i_mpjpe"] = 1000 * lengths(joints[frame] - true_joints[frame]).mean()
            expected["i_mpvpe"] = 1000 * lengths(vertices[frame] - true_vertices[frame]).mean()
            off = joints[frame, 1, 0] - true_joints[frame, 1, 0]
            expected["mrrpe"] = 1000 * lengths(off)
        for name, value in expected.items():
            assert evaluation.column(name)[frame] == pytest.approx(value, rel=1e-4), (frame, name)
    single = truth.hand_valid.sum(1) == 1
    for name in ("i_mpjpe", "i_mpvpe", "i_mpjpe_evaluator", "mrrpe", "ave_p", "max_p"):
        np.testing.assert_array_equal(np.isnan(evaluation.column(name)), single)


def test_penetration_equals_libigl(evaluation, posed_by_loops, hands, result):
    """Signs by the winding number of the open mesh and distances in float64: to a micrometre."""
    vertices = posed_by_loops[0][0]
    faces = np.asarray(hands.faces, np.int64)
    deep = 0
    for frame in np.flatnonzero(result.hand_valid.all(1)):
        found = np.zeros((2, 778))
        for hand in range(2):
            query, target = vertices[frame, hand], vertices[frame, 1 - hand]
            inside = np.asarray(igl.winding_number(target, faces[1 - hand], query)) > 0.5
            squared = igl.point_mesh_squared_distance(query, target, faces[1 - hand])[0]
            found[hand] = np.where(inside, np.sqrt(np.asarray(squared)), 0)
        assert evaluation.column("ave_p")[frame] == pytest.approx(1000 * found.mean(), abs=1e-3)
        assert evaluation.column("max_p")[frame] == pytest.approx(1000 * found.max(), abs=1e-3)
        deep += found.max() > 0.002
    assert deep >= 3


def test_the_published_grid(hands, result, truth, posed_by_loops):
    keys = ["ave_p_published", "max_p_published", "ave_p"]
    frames = slice(0, 1)
    found = evaluate(hands, result.frames(frames), truth.frames(frames), metrics=keys)
    vertices = jnp.asarray(posed_by_loops[0][0][frames], jnp.float32)
    grid = search(hands, vertices, jnp.ones(1, bool), engine="voxel_published")
    depth = 1000 * np.asarray(depths(hands, vertices, grid))
    np.testing.assert_allclose(found.after[0, :2], [depth.mean(), depth.max()], rtol=5e-3)
    assert found.after[0, 0] != pytest.approx(found.after[0, 2], rel=1e-3)


def test_neither_chunks_nor_neighbours_matter(hands, result, truth, evaluation):
    metrics = [key for key in DEFAULT_METRICS if key in evaluation.metrics]
    found = evaluate(hands, result, truth, metrics=metrics, chunk=3)
    np.testing.assert_allclose(found.after, evaluation.after, rtol=1e-4, atol=1e-4)
    assert found.subsets["close"].tolist() == evaluation.subsets["close"].tolist()


def test_the_truth_measured_against_itself(hands, truth):
    keys = ["mpjpe", "pa_mpvpe", "i_mpvpe", "mrrpe", "iou", "chamfer_l1", "mpvpe_ms", "pck", "auc"]
    found = evaluate(hands, truth, truth, metrics=keys, chunk=CHUNK)
    best = {"iou": 100.0, "pck": 100.0, "auc": 1.0}
    for key in keys:
        values = found.column(key)
        np.testing.assert_allclose(values[:-2], best.get(key, 0.0), atol=1e-4)
        assert np.isfinite(values).all() == (key not in ("i_mpvpe", "mrrpe"))


def test_subsets(hands, true_arrays, evaluation):
    subsets = evaluation.subsets
    assert subsets["all"].all()
    assert subsets["single"].tolist() == [False] * 6 + [True, True]
    assert subsets["interacting"].tolist() == [True] * 6 + [False, False]
    arrays = {k: v.copy() for k, v in true_arrays.items()}
    arrays["relative_transl"][:3] = [[0.5, 0, 0], [0, 0, 0.4], [0.3, 0.3, 0]]
    apart = TwoHandPredictions(**arrays)
    found = evaluate(hands, apart, apart, metrics=["mpjpe"], chunk=CHUNK).subsets["close"]
    assert found.tolist() == [False] * 3 + [True] * 3 + [False] * 2
    # Without a mesh, joints decide.
    joints = np.zeros((FRAMES, 2, 21, 3), np.float32)
    joints[:, 1] = [[[d, 0.0, 0.0]] for d in (0.02, 0.029, 0.031, 1.0, 0.0, 0.5, 0.0, 0.0)]
    measured = TwoHandPredictions(hand_valid=arrays["hand_valid"], joints_3d=joints)
    found = evaluate(hands, apart, measured, metrics=["mpjpe"], chunk=CHUNK).subsets["close"]
    assert found.tolist() == [True, True, False, False, True, False, False, False]


def test_frames_are_matched_by_name(hands, result, truth, evaluation):
    shuffled = truth.frames([3, 0, 7, 1, 2, 4, 5, 6])
    found = evaluate(hands, result, shuffled, metrics=["mpjpe", "mrrpe"], chunk=CHUNK)
    np.testing.assert_allclose(found.column("mpjpe"), evaluation.column("mpjpe"), rtol=1e-6)
    assert found.notes == ()
    some, other = result.frames([5, 2, 0, 1, 6]), truth.frames([0, 1, 2, 3, 4, 6])
    found = evaluate(hands, some, other, metrics=["mpjpe"], chunk=CHUNK)
    assert found.frame_id.tolist() == ["frame2", "frame0", "frame1", "frame6"]
    np.testing.assert_allclose(
        found.column("mpjpe"), evaluation.column("mpjpe")[[2, 0, 1, 6]], rtol=1e-6
    )
    assert any("1 frame of the result not in the truth" in note for note in found.notes)
    assert any("2 frames of the truth not in the result" in note for note in found.notes)


def test_frames_without_names_are_matched_by_position(hands, result, truth, evaluation):
    unnamed = dataclasses.replace(truth, frame_id=None)
    found = evaluate(hands, result, unnamed, metrics=["mpjpe"], chunk=CHUNK)
    np.testing.assert_allclose(found.column("mpjpe"), evaluation.column("mpjpe"), rtol=1e-6)
    with pytest.raises(InputError, match=r"8 frames in the result and 5 .* frame_id in the truth"):
        match_frames(result, unnamed.frames(slice(0, 5)))


def test_frames_that_cannot_be_matched(hands, result, truth, before):
    renamed = dataclasses.replace(truth, frame_id=np.array([f"x{i}" for i in range(FRAMES)]))
    with pytest.raises(InputError, match="no frame_id is in both files.*'frame0'.*'x0'"):
        match_frames(result, renamed)
    with pytest.raises(InputError) as caught:
        match_frames(result, renamed)
    assert "np.str_" not in str(caught.value)
    twice = dataclasses.replace(truth, frame_id=np.array(["frame0", "frame0", *"abcdef"]))
    with pytest.raises(InputError, match="truth: frame_id 'frame0' is there 2 times"):
        match_frames(result, twice)
    names = np.array([*"aabbbcde"])
    with pytest.raises(InputError, match="result: frame_id 'b' is there 3 times"):
        match_frames(dataclasses.replace(result, frame_id=names), truth)
    with pytest.raises(InputError, match="before: 3 frames of the result are not in it"):
        evaluate(hands, result, truth, before=before.frames(slice(0, 5)), metrics=["mpjpe"])
    nameless = dataclasses.replace(before, frame_id=None).frames(slice(0, 5))
    with pytest.raises(InputError, match="before: found 5 frames, but 8 in the result"):
        evaluate(hands, result, truth, before=nameless, metrics=["mpjpe"])


def test_what_came_before_is_matched_too(hands, result, truth, before, evaluation):
    found = evaluate(
        hands,
        result,
        truth,
        before=before.frames(slice(None, None, -1)),
        metrics=["mpjpe"],
        chunk=CHUNK,
    )
    np.testing.assert_allclose(
        found.column("mpjpe", before=True), evaluation.column("mpjpe", before=True), rtol=1e-6
    )


def test_measured_joints_without_meshes(hands, result, true_arrays, posed_by_loops):
    """A truth of joints alone: what needs its mesh is left out, what needs the result's stays."""
    joints = np.concatenate([posed_by_loops[1][1] + 0.7, np.ones((FRAMES, 2, 21, 1))], -1)
    joints[0, 0, 5, 3] = 0
    joints[0, 0, 5, :3] = 99.0
    joints[1, 1, 0] = np.nan
    measured = TwoHandPredictions(
        hand_valid=true_arrays["hand_valid"], joints_3d=joints, frame_id=true_arrays["frame_id"]
    )
    found = evaluate(hands, result, measured, chunk=CHUNK)
    assert {"mpjpe", "i_mpjpe", "ave_p", "max_p"} <= set(found.metrics)
    assert not {"mpvpe", "pa_mpvpe", "i_mpvpe", "error_2d"} & set(found.metrics)
    assert any(note.startswith("mpvpe, pa_mpvpe, i_mpvpe left out") for note in found.notes)
    predicted, true = posed_by_loops[0][1], posed_by_loops[1][1]
    errors = 1000 * lengths(predicted - predicted[:, :, :1] - true + true[:, :, :1])
    there = np.ones((2, 21), bool)
    there[0, 5] = False
    assert found.column("mpjpe")[0] == pytest.approx(errors[0][there].mean(), rel=1e-4)
    assert found.column("mpjpe")[1] == pytest.approx(errors[1, 0].mean(), rel=1e-4)
    assert found.column("mpjpe")[2] == pytest.approx(errors[2].mean(), rel=1e-4)
    assert np.isnan(found.column("mrrpe")[1])
    assert any("1 of the truth's 14 hands lack a finite wrist" in note for note in found.notes)
    with pytest.raises(InputError, match="no metric can be measured; mpvpe left out: the truth"):
        evaluate(hands, result, measured, metrics=["mpvpe"])


def test_measured_joints_come_before_posed_ones(hands, result, true_arrays, posed_by_loops):
    joints = posed_by_loops[1][1] + np.random.default_rng(4).normal(0, 0.004, (FRAMES, 2, 21, 3))
    both = TwoHandPredictions(**true_arrays, joints_3d=joints)
    found = evaluate(hands, result, both, metrics=["mpjpe", "mpvpe"], chunk=CHUNK)
    predicted = posed_by_loops[0][1]
    errors = 1000 * lengths(predicted - predicted[:, :, :1] - joints + joints[:, :, :1])
    np.testing.assert_allclose(found.column("mpjpe"), np.nanmean(errors, (1, 2)), rtol=1e-4)
    # A result's own joints_3d are what it was fitted to: its parameters are what is measured.
    fitted = dataclasses.replace(result, joints_3d=joints.astype(np.float32))
    again = evaluate(hands, fitted, both, metrics=["mpjpe", "mpvpe"], chunk=CHUNK)
    np.testing.assert_array_equal(again.after, found.after)


def test_a_prediction_of_joints_alone(hands, truth, posed_by_loops):
    joints = posed_by_loops[1][1] + [0.1, 0.2, 0.3]
    joints[:, 1] += [0.003, 0.0, 0.004]
    predicted = TwoHandPredictions(hand_valid=truth.hand_valid, joints_3d=joints)
    found = evaluate(hands, predicted, truth, metrics=["mrrpe", "mpjpe", "ave_p"], chunk=CHUNK)
    np.testing.assert_allclose(found.column("mrrpe")[:6], 5.0, rtol=1e-4)
    np.testing.assert_allclose(found.column("mpjpe"), 0.0, atol=1e-3)
    assert found.metrics == ("mrrpe", "mpjpe")
    # Before a result that has meshes, joints alone leave their columns empty.
    found = evaluate(hands, truth, truth, before=predicted, metrics=["mrrpe", "ave_p"], chunk=CHUNK)
    assert found.before is not None and np.isfinite(found.after[:6]).all()
    np.testing.assert_allclose(found.column("mrrpe", before=True)[:6], 5.0, rtol=1e-4)
    assert np.isnan(found.column("ave_p", before=True)).all()
    assert any("ave_p left out: what came before has no" in note for note in found.notes)
    summary = found.summary(resamples=10)["interacting"]["ave_p"]
    assert summary.before is not None and summary.before.count == 0
    assert summary.change is not None and np.isnan(summary.change.mean)


def test_skipped_and_broken_frames_are_not_measured(hands, result, truth, before, evaluation):
    skipped = np.zeros(FRAMES, bool)
    skipped[[1, 4]] = True
    pose = result.hand_pose.copy()
    pose[2, 0, 3] = np.nan
    broken = dataclasses.replace(result, hand_pose=pose)
    found = evaluate(
        hands,
        broken,
        truth,
        before=before,
        skipped=skipped,
        chunk=CHUNK,
        metrics=list(evaluation.metrics),
    )
    assert np.isnan(found.after[[1, 4]]).all()
    assert found.before is not None and np.isnan(found.before[[1, 4]]).all()
    assert np.isnan(found.column("i_mpjpe")[2]) and np.isnan(found.column("max_p")[2])
    others = [0, 3, 5, 6, 7]
    np.testing.assert_allclose(found.after[others], evaluation.after[others], rtol=1e-5, atol=1e-6)
    assert any("2 frames of the result skipped" in note for note in found.notes)
    summary = found.summary(resamples=10)["all"]["mpjpe"]
    assert summary.after.count == 6
    assert summary.before is not None and summary.before.count == 6
    assert any("1 of the truth's 14 hands lack a finite" in note for note in found.notes)


def test_frames_that_a_fit_lost_flatter_it_no_more(hands, result, truth, before, evaluation):
    """NaN in three frames: both means run over the other five, and a note says so."""
    betas = result.betas.copy()
    betas[:3] = np.nan
    broken = dataclasses.replace(result, betas=betas)
    found = evaluate(hands, broken, truth, before=before, metrics=["mpjpe", "i_mpjpe"], chunk=CHUNK)
    one = found.summary(resamples=10)["all"]["mpjpe"]
    assert one.before is not None and one.change is not None
    assert one.after.count == one.before.count == 5
    old, new = (evaluation.column("mpjpe", before=b)[3:].mean() for b in (True, False))
    assert one.before.mean.mean == pytest.approx(old, rel=1e-5)
    assert one.after.mean.mean == pytest.approx(new, rel=1e-5)
    assert one.change.mean == pytest.approx(new - old, rel=1e-4)
    lost = "lost: 3 frames measured before and not after, not compared: mpjpe, i_mpjpe"
    assert lost in found.notes
    lacking = "6 of the truth's 14 hands lack a finite wrist or mesh in"
    assert f"{lacking} the result (3 frames), not measured" in found.notes
    assert "lost: 3 frames" in found.to_table(resamples=10)
    # The same said of what came before, and of the truth.
    found = evaluate(hands, result, truth, before=broken, metrics=["mpjpe"], chunk=CHUNK)
    assert any(note.startswith(f"{lacking} what came before") for note in found.notes)
    assert any(note.startswith("gained: 3 frames measured after") for note in found.notes)
    found = evaluate(hands, result, dataclasses.replace(truth, betas=betas), metrics=["mpjpe"])
    assert [note.startswith(f"{lacking} the truth (3 frames)") for note in found.notes] == [True]
    # Hands that only what came before lacks are no hands of the result.
    valid = before.hand_valid.copy()
    valid[:4, 1] = False
    less = dataclasses.replace(before, hand_valid=valid)
    found = evaluate(hands, result, truth, before=less, metrics=["mpjpe"], chunk=CHUNK)
    assert any("4 of the truth's 14 hands are not in what came before" in n for n in found.notes)


def test_metrics_of_no_frame_are_named(hands, result, truth):
    keys = ["mpjpe", "i_mpjpe", "mrrpe", "ave_p"]
    apart, true_apart = (dataclasses.replace(f, relative_transl=None) for f in (result, truth))
    named = "i_mpjpe, mrrpe, ave_p: could be measured in no frame of the result: nothing says "
    where = "are to each other; add relative_transl or joints_3d"
    found = evaluate(hands, apart, truth, metrics=keys, chunk=CHUNK)
    assert f"{named}where the hands of the result {where}" in found.notes
    found = evaluate(hands, result, truth, before=apart, metrics=keys, chunk=CHUNK)
    assert any("in no frame of what came before: nothing says" in note for note in found.notes)
    found = evaluate(hands, result, true_apart, metrics=keys, chunk=CHUNK)
    assert f"{named.replace(', ave_p', '')}where the hands of the truth {where}" in found.notes
    single = slice(FRAMES - 2, FRAMES)
    found = evaluate(hands, result.frames(single), truth.frames(single), metrics=keys)
    assert any(note.endswith("no frame of the truth has both hands") for note in found.notes)
    nobody = dataclasses.replace(result, hand_valid=np.zeros((FRAMES, 2), bool))
    found = evaluate(hands, nobody, truth, metrics=["mpjpe"], chunk=CHUNK)
    assert "mpjpe: could be measured in no frame of the result" in found.notes[-1]


def test_a_wrong_unit_is_no_error_of_the_result(hands, result, truth, posed_by_loops):
    vertices, joints = (np.nan_to_num(1000 * points) for points in posed_by_loops[1])
    wrong = TwoHandPredictions(hand_valid=truth.hand_valid, joints_3d=joints, vertices=vertices)
    with pytest.raises(InputError, match=r"the truth: 7 frames of 8: joints_3d .* millimetres\?"):
        evaluate(hands, result, wrong, metrics=["mpjpe"])
    with pytest.raises(InputError, match=r"what came before: .* are they millimetres\?"):
        evaluate(hands, result, truth, before=wrong, metrics=["mpjpe"])
    far = dataclasses.replace(result, relative_transl=1e5 * result.relative_transl)
    with pytest.raises(InputError, match=r"the result: .* relative_transl .* millimetres\?"):
        evaluate(hands, far, truth, metrics=["mpjpe"])
    # One frame is a fit that went astray, which counts.
    offsets = result.relative_transl.copy()
    offsets[0] = 50.0
    astray = dataclasses.replace(result, relative_transl=offsets)
    found = evaluate(hands, astray, truth, metrics=["mrrpe"], chunk=CHUNK)
    assert found.column("mrrpe")[0] > 10_000
    assert any(note.startswith("1 frame of the result: relative_transl") for note in found.notes)


def test_a_summary_is_made_once(evaluation, monkeypatch):
    fresh, calls = dataclasses.replace(evaluation), []
    monkeypatch.setattr(
        "fitting.evaluation.summarise_columns",
        lambda *a, **k: (calls.append(k["seed"]), summarise_columns(*a, **k))[1],
    )
    fresh.to_table(resamples=5)
    fresh.to_json(resamples=5)
    assert calls == [0] * 4
    fresh.summary(resamples=5, seed=1)
    assert calls == [0] * 4 + [1] * 4


def test_hands_that_the_result_lacks_are_counted(hands, result, truth):
    valid = result.hand_valid.copy()
    valid[0, 1] = False
    found = evaluate(
        hands,
        dataclasses.replace(result, hand_valid=valid),
        truth,
        metrics=["i_mpjpe", "mpjpe"],
        chunk=CHUNK,
    )
    assert np.isnan(found.column("i_mpjpe")[0]) and np.isfinite(found.column("mpjpe")[0])
    assert any("1 of the truth's 14 hands are not in the result" in note for note in found.notes)


def perspective(points, root, K):
    x = (points + root) @ K.T
    return x[..., :2] / x[..., 2:]


def test_image_metrics_with_perspective_cameras(hands, true_arrays, posed_by_loops):
    """Two views: joints against keypoints in both, meshes in the first."""
    (vertices, joints), (true_vertices, true_joints) = posed_by_loops
    T = np.tile(np.eye(4), (FRAMES, 2, 1, 1))
    T[:, 0, :3, :3] = Rotation.from_rotvec([0.2, 0.1, -0.3]).as_matrix()
    T[:, 0, :3, 3] = [0.1, 0.0, 0.2]
    T[:, 1, :3, :3] = Rotation.from_rotvec([0.0, 0.6, 0.0]).as_matrix()
    T[:, 1, :3, 3] = [-0.3, 0.05, 0.1]
    root, true_root = np.array([0.02, -0.01, 0.61]), np.array([0.03, 0.0, 0.6])
    second = T[0, 1] @ np.linalg.inv(T[0, 0])

    def views(points, root):
        moved = (points + root) @ second[:3, :3].T + second[:3, 3]
        return np.stack([perspective(points, root, PROJECTION), perspective(moved, 0, PROJECTION)])

    keypoints = np.moveaxis(views(true_joints, true_root), 0, 1)
    confidence = np.random.default_rng(3).random((FRAMES, 2, 2, 21)) > 0.2
    camera = {"K": np.tile(PROJECTION, (FRAMES, 2, 1, 1)), "T_camera_world": T}
    truth = TwoHandPredictions(
        **true_arrays,
        **camera,
        root_transl=np.tile(true_root, (FRAMES, 1)),
        keypoints_2d=np.concatenate([np.nan_to_num(keypoints), confidence[..., None]], -1),
    )
    result = TwoHandPredictions(
        **nudged(true_arrays, 1), **camera, root_transl=np.tile(root, (FRAMES, 1))
    )
    keys = ["error_2d", "miaa", "miaa_own_camera"]
    found = evaluate(hands, result, truth, metrics=keys, chunk=CHUNK)
    assert found.units == dict.fromkeys(keys, "px")
    seen = confidence & truth.hand_valid[:, None, :, None]
    error = lengths(np.moveaxis(views(joints, root), 0, 1) - keypoints)
    expected = [error[i][seen[i]].mean() for i in range(FRAMES)]
    np.testing.assert_allclose(found.column("error_2d"), expected, rtol=1e-4)

    true_pixels = perspective(true_vertices, true_root, PROJECTION)
    own = lengths(perspective(vertices, root, PROJECTION) - true_pixels)
    np.testing.assert_allclose(found.column("miaa_own_camera"), np.nanmean(own, (1, 2)), rtol=1e-4)
    # DIR's: each hand scaled by its palm, laid over the true wrist, seen by the true camera.
    scale = lengths(true_joints[:, :, 4] - true_joints[:, :, 0]) / lengths(
        joints[:, :, 4] - joints[:, :, 0]
    )
    moved = (vertices - joints[:, :, :1]) * scale[..., None, None] + true_joints[:, :, :1]
    laid = lengths(perspective(moved, true_root, PROJECTION) - true_pixels)
    np.testing.assert_allclose(found.column("miaa"), np.nanmean(laid, (1, 2)), rtol=1e-4)


def test_image_metrics_with_weak_cameras(hands, true_arrays, posed_by_loops):
    """Crop units; MIAA in pixels of a 256 pixel crop."""
    (vertices, joints), (true_vertices, true_joints) = posed_by_loops
    weak, true_weak = np.array([4.0, 0.01, -0.02]), np.array([5.0, 0.0, 0.01])

    def crop(points, camera):
        return camera[0] * (points[..., :2] + camera[1:])

    truth = TwoHandPredictions(
        **true_arrays,
        weak_camera=np.tile(true_weak, (FRAMES, 1)),
        keypoints_2d=np.nan_to_num(crop(true_joints, true_weak)),
    )
    cameras = np.tile(weak, (FRAMES, 1))
    cameras[3] = [-1.0, 0.0, 0.0]
    result = TwoHandPredictions(**nudged(true_arrays, 1), weak_camera=cameras)
    keys = ["error_2d", "miaa_own_camera"]
    found = evaluate(hands, result, truth, metrics=keys, chunk=CHUNK)
    assert found.units == {"error_2d": "crop", "miaa_own_camera": "px"}
    error = lengths(crop(joints, weak) - crop(true_joints, true_weak))
    own = 128 * lengths(crop(vertices, weak) - crop(true_vertices, true_weak))
    sound = np.arange(FRAMES) != 3
    for key, expected in zip(keys, (error, own), strict=True):
        expected = np.nanmean(expected, (1, 2))
        np.testing.assert_allclose(found.column(key)[sound], expected[sound], rtol=1e-4)
        assert np.isnan(found.column(key)[3])
    # A truth of measured joints and vertices may have any origin.
    measured = TwoHandPredictions(
        hand_valid=true_arrays["hand_valid"],
        frame_id=true_arrays["frame_id"],
        joints_3d=true_joints + [0.4, -0.2, 0.9],
        vertices=true_vertices + [0.4, -0.2, 0.9],
        weak_camera=truth.weak_camera,
        keypoints_2d=truth.keypoints_2d,
    )
    for file in (result, dataclasses.replace(result, weak_camera=None)):
        both = ["error_2d", "miaa"]
        a, b = (evaluate(hands, file, t, metrics=both, chunk=CHUNK) for t in (truth, measured))
        np.testing.assert_allclose(a.after, b.after, rtol=1e-4)
    alone = dataclasses.replace(measured, vertices=None, weak_camera=None, keypoints_2d=None)
    found_of_joints = evaluate(hands, alone, truth, metrics=["error_2d"], chunk=CHUNK)
    np.testing.assert_allclose(found_of_joints.after, 0, atol=1e-5)
    # A prediction without a camera is seen by the true one.
    bare = evaluate(
        hands,
        dataclasses.replace(result, weak_camera=None),
        truth,
        metrics=["error_2d", "miaa_own_camera"],
        chunk=CHUNK,
    )
    error = lengths(crop(joints, true_weak) - crop(true_joints, true_weak))
    np.testing.assert_allclose(bare.after[:, 0], np.nanmean(error, (1, 2)), rtol=1e-4)
    assert any("miaa_own_camera left out" in note for note in bare.notes)


def test_acceleration_goes_by_sequence_and_time(hands, true_arrays, posed_by_loops):
    order = np.array([5, 0, 3, 1, 4, 2, 6, 7])
    sequence = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    arrays = true_arrays | {"sequence_id": sequence, "timestamp": np.arange(FRAMES) / 30}
    truth = TwoHandPredictions(**arrays).frames(order)
    result = TwoHandPredictions(**nudged(true_arrays, 1)).frames(order)
    found = evaluate(hands, result, truth, metrics=["acceleration_error"], chunk=CHUNK)
    (_, joints), (_, true_joints) = posed_by_loops
    off = joints - joints[:, :, :1] - true_joints + true_joints[:, :, :1]
    values = np.empty(FRAMES)
    values[order] = found.after[:, 0]
    for t in range(1, 5):
        expected = 1000 * lengths(off[t - 1] - 2 * off[t] + off[t + 1]).mean()
        assert values[t] == pytest.approx(expected, rel=2e-4)
    assert np.isnan(values[[0, 5, 6, 7]]).all()


def test_volumes_of_the_result(hands, result, truth, posed_by_loops):
    """Lines and voxels agree, and the deepest frame shares the most."""
    keys = ["interpenetration_volume", "interpenetration_volume_fine", "ave_p"]
    found = evaluate(hands, result, truth, metrics=keys, chunk=CHUNK)
    voxels, fine, depth = (found.column(key)[:6] for key in keys)
    assert fine.max() > 5
    np.testing.assert_allclose(voxels, fine, rtol=0.03, atol=0.5)
    assert np.argmax(fine) == np.argmax(depth)
    assert np.isnan(found.after[6:]).all()


def test_bootstrap_of_means():
    rng = np.random.default_rng(0)
    values = rng.normal(5, 2, (400, 3))
    values[:, 1] = 7.0
    values[::2, 2] = np.nan
    means = bootstrap_means(values, resamples=4000, seed=1)
    # The spread of a mean is that of the values over the root of their number.
    assert means[:, 0].mean() == pytest.approx(values[:, 0].mean(), abs=0.02)
    assert means[:, 0].std() == pytest.approx(values[:, 0].std() / 20, rel=0.05)
    np.testing.assert_allclose(means[:, 1], 7.0)
    half = values[1::2, 2]
    assert means[:, 2].std() == pytest.approx(half.std() / np.sqrt(200), rel=0.05)
    np.testing.assert_array_equal(means, bootstrap_means(values, resamples=4000, seed=1))
    assert np.isnan(bootstrap_means(np.full((5, 1), np.nan), resamples=3)).all()


def test_summary_against_numpy(evaluation):
    summary = evaluation.summary(resamples=500, seed=3)
    assert list(summary) == ["all", "interacting", "close", "single"]
    for name, rows in evaluation.subsets.items():
        for key in evaluation.metrics:
            after = evaluation.column(key)[rows]
            old = evaluation.column(key, before=True)[rows]
            assert (np.isfinite(after) == np.isfinite(old)).all()
            one = summary[name][key]
            assert one.after.count == np.isfinite(after).sum()
            if one.after.count == 0:
                assert np.isnan(one.after.mean.mean) and np.isnan(one.made_worse)
                continue
            assert one.after.mean.mean == pytest.approx(np.nanmean(after))
            assert one.after.median == pytest.approx(np.nanmedian(after))
            assert one.after.p90 == pytest.approx(np.nanpercentile(after, 90))
            assert one.change.mean == pytest.approx(np.nanmean(after - old))
            loss = (old - after) if METRICS[key].higher_is_better else (after - old)
            worse = loss[np.isfinite(loss)] > METRICS[key].tolerance
            assert one.made_worse == pytest.approx(worse.mean())
            assert one.after.mean.low <= one.after.mean.mean <= one.after.mean.high


def test_paired_intervals_are_tighter_than_their_parts(evaluation):
    """Frames differ more from each other than before from after: pairing must know that."""
    base = np.random.default_rng(0).normal(50, 20, 300)
    columns = np.stack([base, base + 1], axis=1)
    many = dataclasses.replace(
        evaluation,
        metrics=("mpjpe", "mpvpe"),
        frame_id=np.arange(300).astype(str),
        after=columns - 0.5,
        before=columns,
        subsets={"all": np.ones(300, bool)},
    )
    one = many.summary()["all"]["mpjpe"]
    assert one.change.high - one.change.low < 1e-9 and one.change.mean == pytest.approx(-0.5)
    assert one.after.mean.high - one.after.mean.low > 3
    assert one.made_worse == 0


def test_json_and_csv_and_table(evaluation):
    record = json.loads(evaluation.to_json(resamples=20))
    assert record["frames"] == FRAMES
    assert list(record["metrics"]) == list(evaluation.metrics)
    assert record["metrics"]["auc"]["better"] == "higher"
    mpjpe = record["subsets"]["all"]["metrics"]["mpjpe"]
    assert mpjpe["after"]["mean"]["mean"] == pytest.approx(evaluation.column("mpjpe").mean())
    assert record["subsets"]["single"]["metrics"]["mrrpe"]["after"]["mean"]["mean"] is None

    rows = list(csv.DictReader(io.StringIO(evaluation.to_csv())))
    assert [row["frame_id"] for row in rows] == evaluation.frame_id.tolist()
    assert [row["single"] for row in rows] == ["0"] * 6 + ["1"] * 2
    for i, row in enumerate(rows):
        assert float(row["mpjpe"]) == pytest.approx(evaluation.column("mpjpe")[i], rel=1e-5)
        old = evaluation.column("i_mpjpe", before=True)[i]
        assert row["i_mpjpe_before"] == "" if np.isnan(old) else float(row["i_mpjpe_before"])

    table = evaluation.to_table(resamples=20)
    blocks = table.split("\n\n")
    assert [b.split(":")[0] for b in blocks[:4]] == ["all", "interacting", "close", "single"]
    assert re.search(
        r"^  mpjpe +mm +[\d.]+ +[\d.]+ +-[\d.]+ +-[\d.]+ \.\. -?\+?[\d.]+", table, re.M
    )
    assert "mrrpe" not in blocks[3] and "note: error_2d left out" in table
    alone = dataclasses.replace(evaluation, before=None).to_table(resamples=20)
    assert "median" in alone and "worse" not in alone


def test_what_cannot_be_evaluated(hands, result, truth, evaluation):
    with pytest.raises(InputError, match="unknown metric 'pmjpe'; known: mpjpe, "):
        evaluate(hands, result, truth, metrics=["pmjpe"])
    with pytest.raises(InputError, match="at least one metric"):
        evaluate(hands, result, truth, metrics=[])
    nothing = TwoHandPredictions(hand_valid=truth.hand_valid)
    with pytest.raises(InputError, match="truth: found nothing to measure"):
        evaluate(hands, result, nothing)
    few = dataclasses.replace(result, betas=result.betas[..., :4])
    with pytest.raises(InputError, match="result: betas: expected 10 .* found 4"):
        evaluate(hands, few, truth)
    meshes = TwoHandPredictions(
        hand_valid=truth.hand_valid,
        joints_3d=np.zeros((FRAMES, 2, 21, 3)),
        vertices=np.zeros((FRAMES, 2, 9, 3)),
    )
    with pytest.raises(InputError, match="truth: vertices: expected 778 a hand .* found 9"):
        evaluate(hands, result, meshes)
    with pytest.raises(InputError, match="iou was not measured; measured: mpjpe"):
        evaluation.column("iou")


def test_reading_a_result(tmp_path, result):
    status = np.zeros(FRAMES, np.uint8)
    status[[0, 5]] = [1, 2]
    path = tmp_path / "result.npz"
    write_arrays(path, result.arrays() | {"status": status})
    read, skipped = read_result(path)
    assert skipped.tolist() == [False] * 5 + [True, False, False]
    np.testing.assert_array_equal(read.hand_pose, result.hand_pose)
    write_arrays(path, result.arrays(), overwrite=True)
    assert not read_result(path)[1].any()
    write_arrays(path, result.arrays() | {"status": status[:3]}, overwrite=True)
    with pytest.raises(CanonicalFileError, match=r"result\.npz: status: .*8 frames.*\(3,\)"):
        read_result(path)
    for wrong in (status.astype(str), status.astype(float)):
        write_arrays(path, result.arrays() | {"status": wrong}, overwrite=True)
        with pytest.raises(CanonicalFileError, match="status: expected one integer for each"):
            read_result(path)


def test_a_result_is_no_truth(tmp_path, result):
    path = tmp_path / "result.npz"
    for name, array in (("status", np.zeros(FRAMES, np.uint8)), ("energy_after", np.zeros((8, 3)))):
        write_arrays(path, result.arrays() | {name: array}, overwrite=True)
        with pytest.raises(CanonicalFileError, match=f"found {name}, so this is a result.* Give"):
            read_truth(path)
    write_arrays(path, result.arrays(), overwrite=True)
    np.testing.assert_array_equal(read_truth(path).hand_pose, result.hand_pose)


def test_every_metric_is_documented():
    table = PAGE.read_text(encoding="utf-8").split("| key | unit |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", table, re.M)
    assert [key for key, _ in rows] == list(METRICS)
    written = {"cm3": "cm³", "mm/frame2": "mm/frame²", "image": "px or crop"}
    for key, unit in rows:
        assert unit.strip() == written.get(METRICS[key].unit, METRICS[key].unit), key


def test_the_documented_example_runs(tmp_path, monkeypatch, capsys, result, truth):
    write_arrays(tmp_path / "result.npz", result.frames(slice(0, CHUNK)).arrays())
    write_arrays(tmp_path / "truth.npz", truth.frames(slice(0, CHUNK)).arrays())
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, PAGE.name, "exec"), {"__name__": "__main__"})
    assert re.match(r"all: 4 frames\n  metric .*\n  mpjpe +mm ", capsys.readouterr().out)
