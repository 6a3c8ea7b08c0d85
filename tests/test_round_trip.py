"""What is exported and imported again is the same."""

# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false
# pyright: reportArgumentType=false

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fitting.adapters import Reading, read_foreign
from fitting.exporters import export
from fitting.posed_frames import pose_frames
from fitting.predictions import TwoHandPredictions

N = 6


@pytest.fixture
def frames():
    """Both, both, right only, left only, none, both; before a camera."""
    rng = np.random.default_rng(0)
    valid = np.array([(1, 1), (1, 1), (1, 0), (0, 1), (0, 0), (1, 1)], bool)
    there, both = valid[..., None], np.all(valid, axis=1, keepdims=True)
    return TwoHandPredictions(
        hand_valid=valid,
        global_orient=there * rng.normal(size=(N, 2, 3)),
        hand_pose=there[..., None] * 0.4 * rng.normal(size=(N, 2, 15, 3)),
        betas=there * rng.normal(size=(N, 2, 10)),
        relative_transl=both * 0.1 * rng.normal(size=(N, 3)),
        root_transl=[0.1, -0.05, 0.6] + 0.1 * rng.normal(size=(N, 3)),
        K=np.tile([[1500.0, 0, 960], [0, 1500, 540], [0, 0, 1]], (N, 1, 1, 1)),
        frame_id=[f"clip/{i}" for i in range(N)],
    )


def same_rotations(found, truth):
    apart = Rotation.from_rotvec(found.reshape(-1, 3).astype(float)).inv()
    angle = (apart * Rotation.from_rotvec(truth.reshape(-1, 3).astype(float))).magnitude()
    assert angle.max(initial=0) < 1e-5


@pytest.mark.parametrize("to", ["canonical", "interhand", "ho3d"])
def test_hands_come_back(tmp_path, hands, frames, to):
    if to == "ho3d":
        # Two-handed frames share betas of another left shape space: right hands are exact.
        one = frames.hand_valid & [True, False]
        frames = replace(frames, hand_valid=one)
    ending = {"canonical": ".npz", "interhand": ".json", "ho3d": ""}[to]
    path = tmp_path / f"out{ending}"
    done = export(path, frames, hands, to=to)
    assert done.frames == frames.hand_valid.any(1).sum()
    conversion, taken = read_foreign(
        tmp_path / f"out{ending}", source="auto", reading=Reading(hands)
    )
    assert taken.name == to
    found = conversion.predictions
    kept = np.isin(frames.frame_id, found.frame_id)
    # A folder has no file of a frame without hands.
    assert kept[frames.hand_valid.any(1)].all()
    truth = frames.frames(kept)
    order = [list(found.frame_id).index(name) for name in truth.frame_id]
    found = found.frames(order)
    there, some, both = truth.hand_valid, truth.hand_valid.any(1), truth.hand_valid.all(1)
    np.testing.assert_array_equal(found.hand_valid, there)
    same_rotations(found.global_orient[there], truth.global_orient[there])
    same_rotations(found.hand_pose[there], truth.hand_pose[there])
    np.testing.assert_allclose(found.betas[there], truth.betas[there], atol=1e-5)
    np.testing.assert_allclose(found.root_transl[some], truth.root_transl[some], atol=1e-5)
    np.testing.assert_allclose(found.relative_transl[both], truth.relative_transl[both], atol=1e-5)


def test_two_hands_of_h2o3d_keep_pose_and_place(tmp_path, hands, frames):
    export(tmp_path / "out", frames, hands, to="ho3d")
    found = read_foreign(tmp_path / "out", source="ho3d", reading=Reading(hands))[0].predictions
    truth = frames.frames(frames.hand_valid.any(1))
    there, both = truth.hand_valid, truth.hand_valid.all(1)
    assert list(found.frame_id) == list(truth.frame_id)
    same_rotations(found.global_orient[there], truth.global_orient[there])
    same_rotations(found.hand_pose[there], truth.hand_pose[there])
    np.testing.assert_allclose(found.relative_transl[both], truth.relative_transl[both], atol=1e-5)


@pytest.mark.parametrize("order", [None, "openpose21"])
def test_joints_come_back(tmp_path, hands, frames, order):
    export(tmp_path / "joints.csv", frames, hands, to="joints_csv", order=order)
    found = read_foreign(tmp_path / "joints.csv", source="auto", reading=Reading(hands))
    assert found[1].name == "table"
    np.testing.assert_array_equal(found[0].predictions.hand_valid, frames.hand_valid)
    assert list(found[0].predictions.frame_id) == list(frames.frame_id)
    posed = pose_frames(hands, frames).joints
    joints = found[0].predictions.joints_3d[..., :3].astype(float)
    there = frames.hand_valid
    wrists = joints[:, :, :1]
    np.testing.assert_allclose(
        (joints - wrists)[there], (posed - posed[:, :, :1])[there], atol=1e-5
    )
    both = there.all(1)
    apart = (wrists[:, 1] - wrists[:, 0])[both, 0]
    np.testing.assert_allclose(apart, frames.relative_transl[both], atol=1e-5)


def test_an_unknown_depth_is_told_and_put_at_one(tmp_path, hands, frames):
    """Exports cannot say that a coordinate is unknown: the hands are put at one depth."""
    unknown = replace(
        frames,
        relative_transl=frames.relative_transl + [0, 0, 3.0],
        relative_transl_confidence=np.tile([1.0, 1.0, 0.0], (N, 1)),
    )
    done = export(tmp_path / "out.json", unknown, hands, to="interhand")
    assert any("unknown depth" in note for note in done.notes)
    found = read_foreign(tmp_path / "out.json", source="interhand", reading=Reading(hands))
    np.testing.assert_allclose(found[0].predictions.relative_transl[:, 2], 0, atol=1e-6)
