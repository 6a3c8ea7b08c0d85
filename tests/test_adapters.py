"""Foreign formats: miniature files written here, and real recordings where they are at hand."""

# Optional fields are there because the test put them there, and numpy.save does take dictionaries.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false
# pyright: reportArgumentType=false, reportCallIssue=false

import os

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fitting.adapters import FORMATS, read_input
from fitting.canonical import read_predictions, write_predictions
from fitting.checks import frame_reasons
from fitting.errors import InputError
from fitting.initialise import pose_joints_float64
from fitting.prepare import prepare
from mano_jax.joint_orders import permutation
from tests.conftest import RECORDINGS, needs_recordings

TO_OPENPOSE = permutation("mano21", "openpose21")


def test_unknown_formats_list_the_known():
    with pytest.raises(InputError, match="'hamster'.*auto, canonical, ihmr, .*, im2hands"):
        read_input("x.npz", source="hamster")


@pytest.mark.parametrize("source", FORMATS)
def test_a_missing_file_is_named(source, tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        read_input(tmp_path / "nowhere", source=source)


# ---- VITRA


def vitra_episode(hands, frames=3):
    """Both hands as VITRA writes them, and the canonical truth."""
    rng = np.random.default_rng(0)
    pose = 0.3 * rng.normal(size=(frames, 15, 3))
    orient = rng.normal(size=(frames, 2, 3))
    beta = rng.normal(size=10)
    wrists = rng.normal(size=(frames, 2, 3))
    # Its recipe: pose the right model, mirror the points for a left hand, turn, move the wrist.
    both = np.repeat(pose[:, None], 2, axis=1)
    betas = np.broadcast_to(beta, (frames, 2, 10)).copy()
    right = pose_joints_float64(hands, np.zeros((frames, 2, 3)), both, betas)[:, 0]
    right = right - right[:, :1]
    episode = {
        "video_name": "clip",
        "video_decode_frame": np.arange(frames) + 10,
        "extrinsics": np.tile(np.eye(4), (frames, 1, 1)),
        "intrinsics": np.diag([600.0, 600.0, 1.0]),
        "avg_speed": np.float64(0.03),
        "text": {"right": [("Pick it up.", (0, np.int64(3)))], "left": []},
    }
    joints = []
    for hand, side in enumerate(("right", "left")):
        flip = np.array([1.0 if side == "right" else -1.0, 1.0, 1.0])
        R = Rotation.from_rotvec(orient[:, hand]).as_matrix()
        posed = np.einsum("nij,nkj->nki", R, right * flip) + wrists[:, hand, None]
        joints.append(posed)
        episode[side] = {
            "beta": beta,
            "global_orient_camspace": R,
            "hand_pose": Rotation.from_rotvec(pose.reshape(-1, 3))
            .as_matrix()
            .reshape(frames, 15, 3, 3),
            "transl_camspace": wrists[:, hand],
            "joints_camspace": posed[:, TO_OPENPOSE].astype(np.float32),
            "kept_frames": np.ones(frames, np.int64),
            "max_translation_movement": None,
        }
    return episode, np.stack(joints, axis=1), wrists


def test_vitra_parameters_explain_its_joints(hands, tmp_path):
    episode, joints, wrists = vitra_episode(hands)
    path = tmp_path / "clip.npy"
    np.save(path, episode, allow_pickle=True)
    predictions = read_input(path, source="vitra")
    assert predictions.hand_valid.all()
    assert list(predictions.frame_id) == ["clip/000010", "clip/000011", "clip/000012"]
    np.testing.assert_allclose(predictions.joints_3d[..., :3], joints, atol=1e-6)
    np.testing.assert_allclose(predictions.root_transl, wrists[:, 0], atol=1e-6)
    np.testing.assert_allclose(predictions.relative_transl, wrists[:, 1] - wrists[:, 0], atol=1e-6)
    # The left hand's finger rotations were mirrored, its wrist's was not.
    p = predictions
    posed = pose_joints_float64(hands, p.global_orient, p.hand_pose, p.betas)
    np.testing.assert_allclose(posed - posed[:, :, :1], joints - joints[:, :, :1], atol=1e-5)


def test_a_hand_that_vitra_did_not_keep_is_absent(hands, tmp_path):
    episode, *_ = vitra_episode(hands)
    episode["left"]["kept_frames"] = np.array([0, 1, 1])
    episode["left"]["hand_pose"][0] = np.nan
    # Kept, but no rotation: a bad frame, not a bad file.
    episode["right"]["global_orient_camspace"][2] = np.nan
    path = tmp_path / "clip.npy"
    np.save(path, episode, allow_pickle=True)
    predictions = read_input(path, source="vitra")
    np.testing.assert_array_equal(
        predictions.hand_valid, [[True, False], [True, True], [True, True]]
    )
    assert np.all(predictions.hand_pose[0, 1] == 0)
    assert np.all(predictions.relative_transl[0] == 0)
    reasons = frame_reasons(predictions, hands)
    assert list(reasons[:2]) == ["", ""]
    assert "global_orient of the right hand" in reasons[2]


def test_vitra_errors_name_file_and_key(hands, tmp_path):
    path = tmp_path / "clip.npy"
    for change, words in [
        (lambda e: e.pop("extrinsics"), "extrinsics"),
        (lambda e: e["left"].pop("hand_pose"), "'hand_pose' of 'left'"),
        (lambda e: e["right"].update(beta=np.zeros(11)), r"right/beta.*\(10,\).*\(11,\)"),
        (lambda e: e.update(right=None), "'right'"),
        (lambda e: e["right"].update(kept_frames=np.ones(2)), "right/kept_frames.*3.*found 2"),
        (lambda e: e["right"].update(kept_frames=["a"] * 3), "right/kept_frames.*something else"),
        (lambda e: e["right"].update(beta=[[0.0], [0.0, 1.0]]), "right/beta.*no array of numbers"),
        (lambda e: e.update(extrinsics=np.zeros((0, 4, 4))), "extrinsics.*no frames"),
    ]:
        episode, *_ = vitra_episode(hands)
        change(episode)
        np.save(path, episode, allow_pickle=True)
        with pytest.raises(InputError, match=rf"clip\.npy.*{words}"):
            read_input(path, source="vitra")


@pytest.mark.parametrize(
    "numbers", [np.array([4.0, np.nan, 6.0]), np.arange(2), None, "abc", ["a", "b", "c"]]
)
def test_vitra_frames_without_numbers_are_counted(hands, tmp_path, numbers):
    episode, *_ = vitra_episode(hands)
    episode["video_decode_frame"] = numbers
    np.save(tmp_path / "clip.npy", episode, allow_pickle=True)
    predictions = read_input(tmp_path / "clip.npy", source="vitra")
    assert list(predictions.frame_id) == ["clip/000000", "clip/000001", "clip/000002"]


def test_a_pickle_that_calls_something_is_refused(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    path = tmp_path / "bomb.npy"
    np.save(path, {"extrinsics": Bomb()}, allow_pickle=True)
    with pytest.raises(InputError, match=r"bomb\.npy.*mkdir") as error:
        read_input(path, source="vitra")
    # Nothing here has to do with MANO's files.
    assert "mano" not in str(error.value).replace(str(path), "").lower()
    assert not (tmp_path / "exploded").exists()
    for content in (b"", b"\x93NUMPY\x01\x00", b"no such thing at all"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"bomb\.npy"):
            read_input(path, source="vitra")
    np.save(path, np.zeros((2, 3)))
    with pytest.raises(InputError, match=r"bomb\.npy.*\(2, 3\)"):
        read_input(path, source="vitra")


# ---- real recordings


@needs_recordings
def test_recorded_vitra_episode(hands):
    (path,) = (RECORDINGS / "vitra_examples").glob("*.npy")
    predictions = read_input(path, source="vitra")
    assert predictions.num_frames == 25
    np.testing.assert_array_equal(predictions.hand_valid, np.tile([True, False], (25, 1)))
    assert np.all(predictions.global_orient[:, 1] == 0)
    assert np.all(predictions.hand_pose[:, 1] == 0)
    # Wrist first, knuckles in a row: the joints are in the order they are said to be in.
    joints = predictions.joints_3d[:, 0, :, :3]
    lengths = np.linalg.norm(joints[:, [1, 4, 7, 10, 13]] - joints[:, :1], axis=-1)
    assert np.all(lengths[:, :4] > 0.07) and np.all(lengths[:, 4] < 0.06)
    np.testing.assert_allclose(joints[:, 0], predictions.root_transl, atol=1e-6)
    prepared = prepare(hands, predictions)
    assert list(prepared.reasons) == [""] * 25


@needs_recordings
@pytest.mark.parametrize("source", ["interhand", "vitra"])
def test_recordings_survive_the_canonical_file(source, tmp_path):
    path = {
        "interhand": RECORDINGS / "interhand26m_mmpose",
        "vitra": next((RECORDINGS / "vitra_examples").glob("*.npy")),
    }[source]
    predictions = read_input(path, source=source)
    write_predictions(tmp_path / "x.npz", predictions)
    again = read_predictions(tmp_path / "x.npz")
    for name, array in predictions.arrays().items():
        np.testing.assert_array_equal(getattr(again, name), array)
