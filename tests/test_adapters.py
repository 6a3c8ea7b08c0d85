"""Foreign formats: miniature files written here, and real recordings where they are at hand."""

# Optional fields are there because the test put them there, and numpy.save does take dictionaries.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false
# pyright: reportArgumentType=false, reportCallIssue=false

import json
import os
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fitting.adapters import ADAPTERS, read_input
from fitting.canonical import read_predictions, write_predictions
from fitting.checks import frame_reasons
from fitting.errors import InputError
from fitting.initialise import pose_joints_float64
from fitting.prepare import prepare
from mano_jax.joint_orders import index, permutation

RECORDINGS = Path(__file__).parents[2] / "shared" / "data"
needs_recordings = pytest.mark.skipif(
    not RECORDINGS.is_dir(), reason="no recordings of real hands in ../shared/data"
)
TO_OPENPOSE = permutation("mano21", "openpose21")
TO_INTERHAND = permutation("mano21", "interhand21")


def test_unknown_formats_list_the_known():
    with pytest.raises(InputError, match="'hamster'.*canonical, interhand, vitra"):
        read_input("x.npz", source="hamster")


@pytest.mark.parametrize("source", ADAPTERS)
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


# ---- InterHand2.6M


def interhand_files(folder: Path, **changes):
    """Two images: both hands, then the left one with garbage for the right."""
    rng = np.random.default_rng(1)
    R = Rotation.from_rotvec([0.1, -0.4, 0.2]).as_matrix()
    centre_mm = np.array([100.0, -50.0, -900.0])
    world_mm = rng.normal(scale=60.0, size=(2, 2, 21, 3))
    world_mm[1, 0] = 1.0
    valid = np.ones((2, 2, 21), bool)
    valid[1, 0] = False
    valid[0, 1, index("index_tip")] = False
    in_image = valid.copy()
    in_image[0, 0, index("wrist")] = False
    data = {
        "images": [
            {
                "id": 70 + i,
                "file_name": f"image{i}.jpg",
                "width": 334,
                "height": 512,
                "capture": 3,
                "subject": 3,
                "seq_name": "ROM",
                "camera": "400026",
                "frame_idx": 5 + i,
            }
            for i in range(2)
        ],
        "annotations": [
            {
                "id": 70 + i,
                "image_id": 70 + i,
                "bbox": [0.0, 0.0, 1.0, 1.0],
                "joint_valid": in_image[i][:, TO_INTERHAND].reshape(42, 1).astype(int).tolist(),
                "hand_type": hand_type,
                "hand_type_valid": 1,
            }
            for i, hand_type in enumerate(("interacting", "left"))
        ],
    }
    camera = {
        "campos": {"400026": centre_mm.tolist()},
        "camrot": {"400026": R.tolist()},
        "focal": {"400026": [1200.0, 1210.0]},
        "princpt": {"400026": [150.0, 250.0]},
    }
    joints = {
        str(5 + i): {
            "world_coord": world_mm[i][:, TO_INTERHAND].reshape(42, 3).tolist(),
            "joint_valid": valid[i][:, TO_INTERHAND].reshape(42, 1).tolist(),
            "hand_type": "interacting",
            "seq": "ROM",
        }
        for i in range(2)
    }
    contents = {"data": data, "camera": {"3": camera}, "joint_3d": {"3": joints}} | changes
    for name, content in contents.items():
        (folder / f"InterHand2.6M_test_{name}.json").write_text(json.dumps(content))
    return (world_mm - centre_mm) @ R.T / 1000, valid, in_image, R, centre_mm / 1000


def test_interhand_in_camera_axes(tmp_path, hands):
    points, valid, in_image, R, centre = interhand_files(tmp_path)
    for path in (tmp_path, tmp_path / "InterHand2.6M_test_camera.json"):
        predictions = read_input(path, source="interhand")
        np.testing.assert_array_equal(predictions.hand_valid, [[True, True], [False, True]])
        np.testing.assert_array_equal(predictions.joints_3d[..., 3] > 0, valid)
        np.testing.assert_allclose(predictions.joints_3d[valid][:, :3], points[valid], atol=1e-6)
        assert np.all(predictions.joints_3d[~valid] == 0)
    keypoints = predictions.keypoints_2d[:, 0]
    np.testing.assert_array_equal(keypoints[..., 2] > 0, in_image)
    projected = points[..., :2] / points[..., 2:] * [1200.0, 1210.0] + [150.0, 250.0]
    np.testing.assert_allclose(keypoints[in_image][:, :2], projected[in_image], atol=1e-3)
    T = predictions.T_camera_world[0, 0]
    np.testing.assert_allclose(T[:3, :3] @ centre + T[:3, 3], 0.0, atol=1e-6)
    assert list(predictions.frame_id) == ["capture3/ROM/cam400026/5", "capture3/ROM/cam400026/6"]
    assert not predictions.has_parameters
    assert list(frame_reasons(predictions, hands)) == ["", ""]


def test_interhand_frames_without_joints_are_skipped(tmp_path, hands):
    interhand_files(tmp_path, joint_3d={"3": {}})
    predictions = read_input(tmp_path, source="interhand")
    assert all("no prediction" in reason for reason in frame_reasons(predictions, hands))


def changed_interhand(folder, name, *keys, value):
    """One value of one of the three files, found by its keys, replaced."""
    file = folder / f"InterHand2.6M_test_{name}.json"
    content = json.loads(file.read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "keys", "value", "words"),
    [
        ("data", ("annotations", 1, "joint_valid"), [1] * 21, "image 71: joint_valid.*42.*21"),
        ("data", ("annotations", 1, "joint_valid"), "yes", "joint_valid.*42.*no numbers"),
        ("data", ("annotations",), {}, "annotations: expected a list, found dict"),
        ("data", ("images", 0), 7, "'id' in an object, found int"),
        ("data", ("annotations", 0, "image_id"), [1], r"an image with the id '\[1\]'"),
        (
            "camera",
            ("3", "campos", "400026"),
            [0.0, 1.0],
            r"campos of camera 400026.*\(3,\).*\(2,\)",
        ),
        ("camera", ("3", "focal", "400026"), [900.0], r"focal of camera.*\(2,\).*\(1,\)"),
        ("camera", ("3", "camrot", "400026"), [[1], [1, 2]], r"camrot.*\(3, 3\).*no numbers"),
        ("camera", ("3", "princpt"), 4, "in an object, found int"),
        ("joint_3d", ("3", "6", "joint_valid"), [1] * 21, "frame 6.*joint_valid.*42.*21"),
        ("joint_3d", ("3", "6", "world_coord"), [[0.0, 0.0]] * 42, r"world_coord.*\(42, 3\)"),
        ("joint_3d", ("3",), [], "in an object, found list"),
    ],
)
def test_interhand_values_of_a_wrong_shape_are_named(tmp_path, name, keys, value, words):
    interhand_files(tmp_path)
    changed_interhand(tmp_path, name, *keys, value=value)
    with pytest.raises(InputError, match=rf"_{name}\.json.*{words}"):
        read_input(tmp_path, source="interhand")


def test_interhand_errors_name_file_and_key(tmp_path):
    interhand_files(tmp_path, camera={"4": {}})
    with pytest.raises(InputError, match=r"_camera\.json.*capture '3'.*found 4"):
        read_input(tmp_path, source="interhand")
    interhand_files(tmp_path, data={"annotations": []})
    with pytest.raises(InputError, match=r"_data\.json.*'images'"):
        read_input(tmp_path, source="interhand")
    (tmp_path / "InterHand2.6M_test_data.json").write_text("{")
    with pytest.raises(InputError, match=r"_data\.json: no readable JSON"):
        read_input(tmp_path, source="interhand")
    (tmp_path / "InterHand2.6M_test_camera.json").unlink()
    with pytest.raises(InputError, match=r"_camera\.json: no such file"):
        read_input(tmp_path, source="interhand")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="found none"):
        read_input(tmp_path / "empty", source="interhand")


# ---- real recordings


@needs_recordings
def test_recorded_interhand_frames_start_within_six_millimetres(hands):
    predictions = read_input(RECORDINGS / "interhand26m_mmpose", source="interhand")
    np.testing.assert_array_equal(predictions.hand_valid, [[1, 1], [1, 1], [0, 1], [1, 0]])
    assert predictions.frame_id[0] == "capture3/0390_dh_touchROM/cam400026/69148"
    prepared = prepare(hands, predictions)
    assert list(prepared.reasons) == [""] * 4
    params = prepared.params
    posed = pose_joints_float64(
        hands,
        np.asarray(params.global_orient),
        np.asarray(params.hand_pose),
        np.asarray(params.betas),
    )
    # Each hand about its own centre: triangulated joints differ from MANO's by about 5 mm.
    valid = predictions.hand_valid
    fitted, target = posed[valid], predictions.joints_3d[valid][..., :3]
    difference = fitted - fitted.mean(1, keepdims=True) - target + target.mean(1, keepdims=True)
    error = np.linalg.norm(difference, axis=-1).mean(-1)
    assert error.max() < 6e-3
    # The wrist is about a metre away, and near the annotated one.
    anchor = np.where(valid[:, :1], predictions.joints_3d[:, 0, 0, :3], 0.0)
    anchor = np.where(valid[:, :1], anchor, predictions.joints_3d[:, 1, 0, :3])
    distance = np.linalg.norm(np.asarray(params.root_transl) - anchor, axis=-1)
    assert distance.max() < 0.08


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
