"""Recordings of real hands: skipped only where they are not beside the checkout."""

# Every file here gives the fields that are looked at.
# pyright: reportCallIssue=false, reportArgumentType=false, reportOptionalSubscript=false

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.ablation.spec import reporting_itself
from fitting.adapters import read_input
from fitting.prepare import prepare
from fitting.refine import REFINED, SKIPPED_INVALID, pose_params, refine
from fitting.strategy import load_strategy, override, with_stages
from objectives.collision import exact_depths
from tests.conftest import RECORDINGS, needs_recordings


@pytest.fixture(scope="module")
def quick():
    """The stage on joints, which poses no surface and compiles in a moment."""
    return reporting_itself(with_stages(load_strategy("map"), ["joints"]))


def joint_error_mm(hands, predictions, targets):
    """Mean distance of each frame's joints to its targets, both centred, and the posed hands."""
    prepared = prepare(hands, predictions)
    posed = pose_params(hands, prepared.params, prepared.observations.left_anchor)
    errors = []
    for joints, target in zip(posed.joints, targets, strict=True):
        seen = target[..., 3] > 0
        a, b = joints[seen], target[..., :3][seen]
        errors.append(np.linalg.norm(a - a.mean(0) - b + b.mean(0), axis=-1).mean())
    return 1000 * np.array(errors), posed


@needs_recordings
def test_vitra_clip(hands):
    """25 frames of a right hand, its own joints as targets; the empty left hand is left alone."""
    path = next((RECORDINGS / "vitra_examples").glob("*.npy"))
    clip = read_input(path, source="vitra")
    assert clip.num_frames == 25 and clip.hand_valid.tolist() == [[True, False]] * 25
    strategy = override(load_strategy("ihmr"), ["stages.iterations=101"])
    result = refine(hands, clip, strategy, devices=jax.devices()[:1])
    targets = clip.joints_with_confidence()
    before, _ = joint_error_mm(hands, clip, targets)
    after, _ = joint_error_mm(hands, result.predictions, targets)
    assert result.count(REFINED) == 25 and after.mean() < 0.6 * before.mean()
    for name in ("global_orient", "hand_pose", "betas"):
        array = getattr(result.predictions, name)
        np.testing.assert_array_equal(array[:, 1], getattr(clip, name)[:, 1])
        assert np.isfinite(array).all()


@needs_recordings
def test_interhand_frames(hands):
    """Two interacting, two single hands, from 3D joints and keypoints alone."""
    frames = read_input(RECORDINGS / "interhand26m_mmpose", source="interhand")
    assert frames.num_frames == 4 and not frames.has_parameters
    both = frames.hand_valid.all(axis=1)
    assert both.sum() == 2
    targets = frames.joints_with_confidence()
    depths = {}
    for weight in (1, 0):
        setting = ["stages.iterations=101"] + ["stages.weights.collision=0"] * (weight == 0)
        strategy = override(load_strategy("ihmr"), setting)
        result = refine(hands, frames, strategy, devices=jax.devices()[:1])
        errors, posed = joint_error_mm(hands, result.predictions, targets)
        assert result.count(SKIPPED_INVALID) == 0 and np.all(errors < 10)
        depths[weight] = np.asarray(
            exact_depths(hands, jnp.asarray(posed.vertices), jnp.asarray(both))
        )[both]
    # Each of the two frames: the mean depth and the deepest vertex, with the term and without.
    mean = {w: d.mean(axis=(1, 2)) for w, d in depths.items()}
    deepest = {w: d.max(axis=(1, 2)) for w, d in depths.items()}
    assert np.all(mean[0] > 0) and np.all(mean[1] <= 0.5 * mean[0])
    assert np.all(deepest[1] <= 0.5 * deepest[0])


def mediapipe_files():
    folder = RECORDINGS / "mediapipe_testdata"
    return sorted(folder.glob("*.p*t*")) if folder.is_dir() else []


@needs_recordings
@pytest.mark.parametrize("path", mediapipe_files(), ids=lambda path: path.stem)
def test_mediapipe_protos(hands, path, quick):
    """Single images; one shows both hands, and four are landmarks of hands with a name only."""
    frames = read_input(path, source="auto", hands=hands)
    assert frames.num_frames == 1
    assert frames.hand_valid.sum() == (2 if "full_height" in path.name else 1)
    if path.stem not in ("fist_landmarks", "male_full_height_hands_result_cpu"):
        return  # One of each kind is enough to fit.
    result = refine(hands, frames, quick, devices=jax.devices()[:1])
    assert result.count(SKIPPED_INVALID) == 0
    assert np.isfinite(result.predictions.hand_pose).all()


@needs_recordings
def test_dexretargeting_joints(hands, tmp_path, quick):
    """621 frames of a right hand: bone lengths vary, and there is no left hand."""
    with np.load(RECORDINGS / "dexretargeting" / "joints.npz") as recorded:
        joints = recorded["joints_m"]
    np.savez(tmp_path / "table.npz", joints=joints, order="openpose21", unit="m", side="right")
    frames = read_input(tmp_path / "table.npz", source="table", hands=hands)
    assert frames.num_frames == 621 and not frames.hand_valid[:, 1].any()
    some = frames.frames(slice(0, 600, 40))
    result = refine(hands, some, quick, devices=jax.devices()[:1])
    assert result.count(SKIPPED_INVALID) == 0
    errors, _ = joint_error_mm(hands, result.predictions, some.joints_with_confidence())
    assert errors.mean() < 10
    assert not result.predictions.hand_pose[:, 1].any()


@needs_recordings
def test_openpose_signer(hands, quick):
    """93 frames of a signer, partly with both hands; an absent hand is all zeros."""
    pytest.importorskip("pose_format")
    path = RECORDINGS / "signlanguage_pose" / "openpose.pose"
    frames = read_input(path, source="openpose", hands=hands)
    assert frames.num_frames == 93
    assert 0 < frames.hand_valid.sum() < 2 * 93
    result = refine(hands, frames.frames(slice(0, 16)), quick, devices=jax.devices()[:1])
    assert np.isfinite(result.predictions.hand_pose).all()


def test_data_is_never_copied_into_the_project():
    """The recordings have licences of their own."""
    root = Path(__file__).parents[1]
    names = {path.name for path in RECORDINGS.rglob("*") if path.suffix in {".jpg", ".npy", ".npz"}}
    assert not [p for p in root.rglob("*") if p.name in names and ".venv" not in p.parts]
