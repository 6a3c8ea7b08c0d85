"""InterHand2.6M: a split in miniature, in its exact format, posed by the oracle; real frames."""

# Optional fields are there because the reader put them there; selections come from a table.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false
# pyright: reportOptionalOperand=false, reportArgumentType=false, reportCallIssue=false

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fitting.adapters import interhand, interhand_json, read_input
from fitting.adapters.interhand import (
    InterHandSelection,
    read_interhand,
    read_interhand_frames,
    read_interhand_truth,
)
from fitting.canonical import read_predictions, write_predictions
from fitting.checks import frame_reasons
from fitting.errors import InputError
from fitting.evaluation import evaluate
from fitting.initialise import pose_joints_float64
from fitting.prepare import prepare
from mano_jax.joint_orders import index, permutation
from mano_jax.model import SIDES, pose_hands, rest_joints
from tests.conftest import RECORDINGS, needs_recordings
from tests.reference_hand import pose_one_hand

RECORDED = RECORDINGS / "interhand26m_mmpose"
TO_INTERHAND = permutation("mano21", "interhand21")

CAMERAS = {"0": ("400262", "400263"), "7": ("410001", "410003")}
FOCAL, PRINCIPAL = (1270.0, 1275.0), (168.0, 250.0)
# Capture, sequence, frame, hand type; which hands NeuralAnnot has, None for no entry at all.
STEPS = (
    ("0", "0390_dh_touchROM", 1000, "interacting", (True, True)),
    ("0", "0390_dh_touchROM", 1018, "interacting", (True, False)),
    ("0", "0390_dh_touchROM", 1036, "interacting", (False, False)),
    ("0", "0390_dh_touchROM", 1054, "interacting", None),
    ("7", "0007_thumbup_normal", 2000, "right", (True, False)),
    ("7", "0007_thumbup_normal", 2006, "left", (False, True)),
)


@dataclass
class Split:
    """A split on disk, and what the oracle says of it."""

    folder: Path
    contents: dict
    vertices: np.ndarray
    """World, metres, (T, 2, V, 3)."""
    joints: np.ndarray
    """World, metres, `mano21`, (T, 2, 21, 3)."""
    images: list
    """(time step, R, camera centre in metres) of each image."""

    def write(self):
        for name, content in self.contents.items():
            self.file(name).write_text(json.dumps(content))

    def file(self, name):
        return self.folder / f"InterHand2.6M_test_{name}.json"

    def in_camera(self, points):
        """World points by time step (T, 2, P, 3) in the axes of each image's camera."""
        return np.stack([(points[t] - centre) @ R.T for t, R, centre in self.images])

    def hand_types(self):
        return [STEPS[t][3] for t, _, _ in self.images]


@pytest.fixture(scope="module")
def posed_steps(hands, right_model, left_model):
    """NeuralAnnot's parameters of every time step, and the oracle's hands in the world."""
    rng = np.random.default_rng(4)
    tips = np.asarray(hands.tip_vertices)
    steps = []
    for _ in STEPS:
        parameters, vertices, joints = [], [], []
        for hand, model in enumerate((right_model, left_model)):
            values = {
                "global_orient": rng.normal(size=3),
                "hand_pose": model.pose_mean.reshape(15, 3) + 0.3 * rng.normal(size=(15, 3)),
                "betas": rng.normal(size=10),
                "transl": np.array([0.1 * hand, 0.05, 1.0]) + 0.05 * rng.normal(size=3),
            }
            posed = pose_one_hand(model, tips[hand], **values)
            pose = values["hand_pose"] - model.pose_mean.reshape(15, 3)
            parameters.append(
                {
                    "pose": [*values["global_orient"].tolist(), *pose.ravel().tolist()],
                    "shape": values["betas"].tolist(),
                    "trans": values["transl"].tolist(),
                }
            )
            vertices.append(posed[0])
            joints.append(posed[1])
        steps.append((parameters, np.stack(vertices), np.stack(joints)))
    return steps


@pytest.fixture
def split(posed_steps, tmp_path):
    """Six time steps of two captures, each seen by two cameras that are turned."""
    rng = np.random.default_rng(5)
    cameras, camera_file = {}, {}
    for capture, names in CAMERAS.items():
        entry = camera_file[capture] = {k: {} for k in ("campos", "camrot", "focal", "princpt")}
        for name in names:
            R = Rotation.from_rotvec(0.5 * rng.normal(size=3)).as_matrix()
            # The hands are about a metre along z: so is this camera's view of them.
            centre = np.array([0.05, 0.0, 1.0]) - R.T @ (np.array([0, 0, 0.9]))
            cameras[capture, name] = R, centre
            entry["campos"][name] = (1000 * centre).tolist()
            entry["camrot"][name] = R.tolist()
            entry["focal"][name], entry["princpt"][name] = list(FOCAL), list(PRINCIPAL)
    joint_file, mano_file = {"0": {}, "7": {}}, {"0": {}, "7": {}}
    images, annotations, views = [], [], []
    for t, (capture, seq, frame, hand_type, fitted) in enumerate(STEPS):
        parameters, _, joints = posed_steps[t]
        there = [hand_type in (side, "interacting") for side in SIDES]
        valid = np.repeat(np.array(there), 21)
        world_mm = np.where(valid[:, None], 1000 * joints[:, TO_INTERHAND].reshape(42, 3), 1.0)
        joint_file[capture][str(frame)] = {
            "world_coord": world_mm.tolist(),
            "joint_valid": valid[:, None].tolist(),
            "hand_type": hand_type,
            "hand_type_valid": True,
            "seq": seq,
        }
        if fitted is not None:
            mano_file[capture][str(frame)] = {
                side: parameters[i] if fitted[i] else None for i, side in enumerate(SIDES)
            }
        for name in CAMERAS[capture]:
            number = 900 + len(images)
            images.append(
                {
                    "id": number,
                    "file_name": f"Capture{capture}/{seq}/cam{name}/image{frame}.jpg",
                    "width": 334,
                    "height": 512,
                    "capture": int(capture),
                    "subject": 3,
                    "seq_name": seq,
                    "camera": name,
                    "frame_idx": frame,
                }
            )
            annotations.append(
                {
                    "id": 5000 + number,
                    "image_id": number,
                    "bbox": [0.0, 0.0, 100.0, 100.0],
                    "joint_valid": valid[:, None].astype(int).tolist(),
                    "hand_type": hand_type,
                    "hand_type_valid": 1,
                }
            )
            views.append((t, *cameras[capture, name]))
    made = Split(
        folder=tmp_path,
        contents={
            "data": {"images": images, "annotations": annotations},
            "camera": camera_file,
            "joint_3d": joint_file,
            "MANO_NeuralAnnot": mano_file,
        },
        vertices=np.stack([step[1] for step in posed_steps]),
        joints=np.stack([step[2] for step in posed_steps]),
        images=views,
    )
    made.write()
    return made


# ---- what is read ------------------------------------------------------------------------------


def test_joints_and_keypoints_are_the_oracles(split, hands):
    found = read_input(split.folder, source="interhand")
    valid = np.array([[t in (side, "interacting") for side in SIDES] for t in split.hand_types()])
    np.testing.assert_array_equal(found.hand_valid, valid)
    np.testing.assert_array_equal(found.joints_3d[..., 3] > 0, np.tile(valid[..., None], 21))
    points = split.in_camera(split.joints)
    np.testing.assert_allclose(found.joints_3d[valid][..., :3], points[valid], atol=1e-6)
    pixels = points[..., :2] / points[..., 2:] * FOCAL + PRINCIPAL
    keypoints = found.keypoints_2d[:, 0]
    np.testing.assert_allclose(keypoints[valid][..., :2], pixels[valid], atol=1e-3)
    assert np.all(keypoints[valid][..., 2] == 1)
    assert np.all(keypoints[~valid] == 0) and np.all(found.joints_3d[~valid] == 0)
    np.testing.assert_array_equal(found.K[3, 0, [0, 1], [0, 1]], FOCAL)
    for T, (_, R, centre) in zip(found.T_camera_world[:, 0], split.images, strict=True):
        np.testing.assert_allclose(T[:3, :3], R, atol=1e-6)
        np.testing.assert_allclose(R @ centre + T[:3, 3], 0.0, atol=1e-6)
    assert found.frame_id[1] == "capture0/0390_dh_touchROM/cam400263/1000"
    # A sequence is what one camera saw of one take.
    assert [list(found.sequence_id).count(i) for i in range(4)] == [4, 4, 2, 2]
    assert found.timestamp is None and not found.has_parameters
    assert list(frame_reasons(found, hands)) == [""] * 12


@pytest.mark.parametrize("name", ["data", "camera", "joint_3d", "MANO_NeuralAnnot"])
def test_any_file_of_the_set_names_it(split, name):
    whole, one = read_interhand(split.folder), read_interhand(split.file(name))
    for field, values in whole.arrays().items():
        np.testing.assert_array_equal(values, one.arrays()[field])


def fitted_hands(truth):
    """Which hands have parameters: all of a hand's numbers are there, or none."""
    finite = [np.isfinite(x).reshape(*x.shape[:2], -1) for x in truth.parameters.values()]
    fitted = np.concatenate(finite, axis=-1)
    np.testing.assert_array_equal(fitted.all(-1), fitted.any(-1))
    return fitted.all(-1) & truth.hand_valid


def test_truth_poses_to_the_oracles_hands(split, hands):
    frames = read_interhand_frames(split.folder, hands=hands)
    truth, targets = frames.truth, frames.predictions.arrays()
    fitted = fitted_hands(truth)
    expected = [STEPS[t][4] or (False, False) for t, _, _ in split.images]
    np.testing.assert_array_equal(fitted, expected)
    # Wrists as the canonical form has them, then MANO's translation from them.
    both = np.all(truth.hand_valid, axis=-1, keepdims=True)
    root, tau = truth.arrays()["root_transl"], truth.arrays()["relative_transl"]
    wrists = jnp.asarray(np.stack([root, np.where(both, root + tau, root)], axis=1), jnp.float32)
    J0 = rest_joints(hands, jnp.asarray(truth.betas))[..., 0, :]
    parameters = {name: jnp.asarray(value) for name, value in truth.parameters.items()}
    posed = pose_hands(hands, **parameters, transl=wrists - J0)
    expected_vertices = split.in_camera(split.vertices)
    expected_joints = split.in_camera(split.joints)
    np.testing.assert_allclose(posed.vertices[fitted], expected_vertices[fitted], atol=1e-5)
    np.testing.assert_allclose(posed.joints[fitted], expected_joints[fitted], atol=1e-5)
    assert fitted.all(-1).sum() == 2 and fitted.sum() == 10
    # Hands that are not there hold zeros, a single one has no relative translation, and what
    # nobody fitted is NaN.
    for values in truth.parameters.values():
        assert np.all(values[~truth.hand_valid] == 0)
        assert np.all(np.isnan(values[truth.hand_valid & ~fitted]))
    assert np.all(tau[~both[:, 0]] == 0)
    np.testing.assert_array_equal(np.isnan(tau).any(-1), both[:, 0] & ~fitted.all(-1))
    # All else is what there was without parameters.
    for name, values in targets.items():
        np.testing.assert_array_equal(truth.arrays()[name], values)
    assert frames.fit_mm < 1e-2
    # Frames whose hands are all fitted can be refined from.
    whole = (fitted == truth.hand_valid).all(-1)
    np.testing.assert_array_equal(frame_reasons(truth, hands) == "", whole)


def test_truth_says_what_it_lacks_and_whose_mean_it_took(split, hands):
    notes = read_interhand_frames(split.folder, hands=hands).notes
    assert len(notes) == 2
    assert re.search(
        r"MANO_NeuralAnnot\.json: no parameters for 10 of 20 annotated hands", notes[0]
    )
    assert re.search(
        r"belong to MANO, but the hand model in use.*posed, they lie 0\.0 mm.*--hands", notes[1]
    )
    with pytest.warns(UserWarning) as warned:
        truth = read_interhand_truth(split.folder, hands)
    assert [str(w.message) for w in warned] == list(notes)
    assert truth.has_parameters


def test_parameters_of_a_hand_that_is_not_annotated_are_left_out(split, hands):
    whole = read_interhand_frames(split.folder, hands=hands).truth
    fits = split.contents["MANO_NeuralAnnot"]
    fits["7"]["2000"]["left"] = fits["7"]["2006"]["left"]
    split.write()
    truth = read_interhand_frames(split.folder, hands=hands).truth
    for name, values in whole.arrays().items():
        np.testing.assert_array_equal(values, truth.arrays()[name])


def test_the_truth_of_itself_has_no_error(split, hands):
    """Joints of every annotated hand, meshes of every fitted one."""
    truth = read_interhand_frames(split.folder, hands=hands).truth

    def measured(result, metrics):
        found = evaluate(hands, result, truth, metrics=metrics)
        return dict(zip(found.metrics, found.after.T, strict=True))

    found = measured(truth, ("mpjpe", "mpvpe", "mrrpe"))
    fitted, both = fitted_hands(truth), np.all(truth.hand_valid, axis=-1)
    for name, frames in [
        ("mpjpe", fitted.any(-1)),
        ("mpvpe", fitted.any(-1)),
        ("mrrpe", both & fitted.all(-1)),
    ]:
        np.testing.assert_array_equal(np.isfinite(found[name]), frames)
        assert np.nanmax(found[name]) < 1e-2
    # Any other result is held against the joints of hands that nobody fitted, too.
    whole = [np.nan_to_num(x) for x in truth.parameters.values()]
    other = replace(truth, **dict(zip(truth.parameters, whole, strict=True)))
    error = measured(other, ("mpjpe", "mpvpe"))
    np.testing.assert_array_equal(np.isfinite(error["mpjpe"]), truth.hand_valid.any(-1))
    np.testing.assert_array_equal(np.isfinite(error["mpvpe"]), fitted.any(-1))


def test_parameters_that_miss_the_joints_are_told(split, hands, monkeypatch):
    """With MANO's own hands, a file of parameters that does not belong here."""
    monkeypatch.setattr(interhand, "_GENUINE_WRIST", np.asarray(hands.J_template)[0, 0])
    for frames in split.contents["MANO_NeuralAnnot"].values():
        for sides in frames.values():
            for parameters in filter(None, sides.values()):
                parameters["trans"][0] += 0.02
    split.write()
    frames = read_interhand_frames(split.folder, hands=hands)
    assert frames.fit_mm == pytest.approx(20, abs=0.1)
    assert re.search(r"do not explain.* 20\.0 mm.*about 5 mm", frames.notes[-1])


def test_truth_survives_the_canonical_file(split, hands, tmp_path):
    truth = read_interhand_frames(split.folder, hands=hands).truth
    write_predictions(tmp_path / "truth.npz", truth)
    for name, values in read_predictions(tmp_path / "truth.npz").arrays().items():
        np.testing.assert_array_equal(values, truth.arrays()[name])


def test_validity_in_3d_and_in_the_image_differ(split):
    data, joints = split.contents["data"], split.contents["joint_3d"]
    tip, wrist = (index(name, "interhand21") for name in ("index_tip", "wrist"))
    joints["0"]["1000"]["joint_valid"][21 + tip] = [False]
    data["annotations"][0]["joint_valid"][wrist] = [0]
    joints["0"]["1000"]["world_coord"][3] = [float("nan")] * 3
    split.write()
    found = read_interhand(split.folder)
    seen_3d, seen_2d = found.joints_3d[:2, ..., 3] > 0, found.keypoints_2d[:2, 0, ..., 2] > 0
    tip, wrist, lost = index("index_tip"), index("wrist"), index("thumb1")
    # Not triangulated: in neither, for both cameras.
    assert not seen_3d[:, 1, tip].any() and not seen_2d[:, 1, tip].any()
    assert not seen_3d[:, 0, lost].any()
    # Outside the one image: a target in 3D all the same.
    assert seen_3d[:, 0, wrist].all() and list(seen_2d[:, 0, wrist]) == [False, True]
    assert seen_3d.sum() == 2 * 40 and seen_2d.sum() == 2 * 40 - 1


def test_a_joint_behind_the_camera_has_no_keypoint(split):
    split.contents["camera"]["0"]["campos"]["400262"] = [50.0, 0.0, 1000.0]
    split.write()
    found = read_interhand(split.folder)
    behind = (found.joints_3d[0, ..., 2] < 0) & (found.joints_3d[0, ..., 3] > 0)
    assert behind.any()
    assert np.all(found.keypoints_2d[0, 0][behind] == 0)


def test_hands_without_a_valid_joint_are_absent(split):
    """What hand_type says is not always annotated; where it vouches for nothing, joints decide."""
    joints, data = split.contents["joint_3d"], split.contents["data"]
    joints["0"]["1018"]["joint_valid"] = [[i < 21] for i in range(42)]
    data["annotations"][0].update(hand_type="left", hand_type_valid=0)
    data["annotations"][1].update(hand_type="both")
    split.write()
    frames = read_interhand_frames(split.folder)
    np.testing.assert_array_equal(
        frames.predictions.hand_valid[:4],
        [[True, True], [True, True], [True, False], [True, False]],
    )
    assert len(frames.notes) == 2
    assert re.search(
        r"image 901: hand_type: expected right, left, interacting, found 'both'", frames.notes[0]
    )
    assert frames.notes[1].startswith("2 hands that hand_type names have no valid joint")


def test_numbers_of_rows_change_nothing(split, hands, monkeypatch):
    """Computed and read in small pieces: the same to the bit."""
    whole = read_interhand_frames(split.folder, hands=hands)
    monkeypatch.setattr(interhand, "_ROWS", 5)
    monkeypatch.setattr(interhand_json, "_CHUNK", 7)
    pieces = read_interhand_frames(split.folder, hands=hands)
    for a, b in ((whole.predictions, pieces.predictions), (whole.truth, pieces.truth)):
        for name, values in a.arrays().items():
            np.testing.assert_array_equal(values, b.arrays()[name])


def test_the_order_of_the_lists_does_not_matter(split):
    whole = read_interhand(split.folder)
    data = split.contents["data"]
    split.contents["data"] = {"info": {"year": [2020]}, "licenses": [[1], "x"]} | {
        name: data[name] for name in ("annotations", "images")
    }
    data["images"].reverse()
    split.write()
    turned = read_interhand(split.folder)
    for name, values in whole.arrays().items():
        np.testing.assert_array_equal(values, turned.arrays()[name])


def test_the_documents_example_runs(split, tmp_path, monkeypatch, capsys):
    text = (Path(__file__).parents[1] / "docs" / "interhand.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "test").symlink_to(split.folder)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "interhand.md", "exec"), {"__name__": "__main__"})
    predictions, truth = read_predictions("predictions.npz"), read_predictions("truth.npz")
    assert list(predictions.frame_id) == list(truth.frame_id) and truth.num_frames == 4
    assert "no parameters for" in capsys.readouterr().out


# ---- which images ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selection", "rows"),
    [
        ({}, range(12)),
        ({"captures": ("7",)}, (8, 9, 10, 11)),
        ({"captures": ("0", "7"), "cameras": ("400263", "410001")}, (1, 3, 5, 7, 8, 10)),
        ({"hand_type": "left"}, (10, 11)),
        ({"hand_type": "interacting"}, range(8)),
        ({"stride": 2}, (0, 1, 4, 5, 8, 9)),
        ({"stride": 3, "cameras": ("400262",)}, (0, 6)),
        ({"limit": 3}, (0, 1, 2)),
        ({"captures": ("0",), "stride": 2, "limit": 3}, (0, 1, 4)),
    ],
)
def test_selections(split, hands, selection, rows):
    everything = read_interhand_frames(split.folder, hands=hands)
    some = read_interhand_frames(
        split.folder, hands=hands, selection=InterHandSelection(**selection)
    )
    for a, b in ((everything.predictions, some.predictions), (everything.truth, some.truth)):
        for name, values in a.arrays().items():
            if name != "sequence_id":
                np.testing.assert_array_equal(values[list(rows)], b.arrays()[name])


def test_selections_that_find_nothing_say_what_there_is(split):
    for selection, words in [
        ({"captures": ("0", "9")}, r"_data\.json: no image of capture 9; the file has 0, 7"),
        ({"captures": ("0",), "cameras": ("410001",)}, "no image of camera 410001.*400262, 400263"),
        ({"captures": ("0",), "hand_type": "left"}, "no annotated image is left by .*'left'"),
    ]:
        with pytest.raises(InputError, match=words):
            read_interhand(split.folder, selection=InterHandSelection(**selection))
    for name in ("stride", "limit"):
        with pytest.raises(InputError, match=f"{name}: expected at least 1, found 0"):
            InterHandSelection(**{name: 0})


def test_a_limit_reads_no_further(split):
    text = split.file("data").read_text()
    cut = text.index('"image_id": 905')
    split.file("data").write_text(text[:cut])
    assert read_interhand(split.folder, selection=InterHandSelection(limit=4)).num_frames == 4
    with pytest.raises(InputError, match=r"_data\.json: no readable JSON"):
        read_interhand(split.folder)


# ---- what is wrong with single values ----------------------------------------------------------


def changed(split, name, *keys, value):
    inner = split.contents[name]
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    split.write()


@pytest.mark.parametrize(
    ("name", "keys", "value", "words"),
    [
        ("camera", ("0", "campos", "400262"), [0.0], r"camera 400262.*campos.*\(3,\).*\(1,\)"),
        ("camera", ("0", "camrot", "400262"), [[1], [1, 2]], r"camrot.*\(3, 3\).*no array of"),
        ("camera", ("0", "camrot", "400262"), [[2, 0, 0], [0, 1, 0], [0, 0, 1]], "a rotation"),
        ("camera", ("0", "camrot", "400262"), [[-1, 0, 0], [0, 1, 0], [0, 0, 1]], "a rotation"),
        ("camera", ("0", "focal", "400262"), [0.0, 900.0], "focal: expected positive"),
        ("camera", ("0", "princpt"), {"400263": list(PRINCIPAL)}, "princpt '400262', found 400263"),
        ("camera", ("0", "princpt", "400262"), [None, 1.0], r"princpt.*not all finite"),
    ],
)
def test_a_bad_camera_costs_its_images_only(split, hands, name, keys, value, words):
    whole = read_interhand(split.folder)
    changed(split, name, *keys, value=value)
    frames = read_interhand_frames(split.folder)
    (note,) = frames.notes
    assert re.search(rf"_{name}\.json.*{words}.*its images have no hands", note)
    lost = np.isin(np.arange(12), (0, 2, 4, 6))
    assert not frames.predictions.hand_valid[lost].any()
    for field, values in whole.arrays().items():
        np.testing.assert_array_equal(values[~lost], frames.predictions.arrays()[field][~lost])
    reasons = frame_reasons(frames.predictions, hands)
    assert all(reasons[lost]) and not any(reasons[~lost])


def test_cameras_that_no_chosen_image_needs_are_not_looked_at(split):
    changed(split, "camera", "7", "focal", value={})
    selection = InterHandSelection(hand_type="interacting")
    frames = read_interhand_frames(split.folder, selection=selection)
    assert frames.notes == () and frames.predictions.hand_valid.all()


@pytest.mark.parametrize(
    ("name", "keys", "value", "words", "lost"),
    [
        ("joint_3d", ("7", "2006", "joint_valid"), [1] * 21, r"frame 2006 .*42.*\(21,\)", (10, 11)),
        (
            "joint_3d",
            ("7", "2006", "world_coord"),
            [[0.0] * 2] * 42,
            r"\(42, 3\).*\(42, 2\)",
            (10, 11),
        ),
        ("joint_3d", ("7", "2006"), None, "joint_valid: .*found nothing", (10, 11)),
        ("joint_3d", ("7",), {}, "no joints for 4 of 12 images", (8, 9, 10, 11)),
        ("data", ("annotations", 3), 7, "objects with an image_id, found int '7'", 3),
        ("data", ("annotations", 3, "image_id"), [1], r"image \[1\]: expected an image", 3),
        ("data", ("images", 3, "frame_idx"), 1.5, r"images\[3\].*whole frame_idx", 3),
        ("data", ("images", 3, "frame_idx"), -4, r"images\[3\].*whole frame_idx", 3),
        ("data", ("images", 3), "x", r"images\[3\].*found str 'x'", 3),
    ],
)
def test_a_bad_value_costs_its_frames_only(split, name, keys, value, words, lost):
    whole = read_interhand(split.folder)
    changed(split, name, *keys, value=value)
    frames = read_interhand_frames(split.folder)
    assert re.search(rf"_{name}\.json.*{words}", frames.notes[0])
    rows = np.arange(12)
    # An annotation without an image has no name to stand under; other frames stay, without hands.
    kept = np.delete(rows, lost) if isinstance(lost, int) else rows
    found = frames.predictions.arrays()
    good = np.ones(len(kept), bool) if isinstance(lost, int) else ~np.isin(rows, lost)
    assert not found["hand_valid"][~good].any()
    assert list(found["frame_id"]) == list(whole.frame_id[kept])
    for field, values in whole.arrays().items():
        if field != "sequence_id":
            np.testing.assert_array_equal(values[kept][good], found[field][good])


@pytest.mark.parametrize("value", [[1] * 21, "yes", None, [[1], [1, 2]], [["a"]] * 42])
def test_bad_flags_of_an_image_cost_its_keypoints_only(split, value):
    whole = read_interhand(split.folder)
    changed(split, "data", "annotations", 0, "joint_valid", value=value)
    with pytest.warns(UserWarning, match="image 900: joint_valid: expected 42.*no keypoints"):
        found = read_interhand(split.folder)
    assert np.all(found.keypoints_2d[0] == 0)
    np.testing.assert_array_equal(found.joints_3d, whole.joints_3d)
    np.testing.assert_array_equal(found.keypoints_2d[1:], whole.keypoints_2d[1:])


def test_problems_of_a_kind_are_counted(split):
    for number in (0, 4, 5):
        split.contents["data"]["annotations"][number]["joint_valid"] = []
    split.write()
    (note,) = read_interhand_frames(split.folder).notes
    assert "image 900" in note and note.endswith("(and 2 more of this kind)")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            {"pose": [0.0] * 45, "shape": [0.0] * 10, "trans": [0.0] * 3},
            r"right/pose.*\(48,\).*\(45,\)",
        ),
        ({"pose": [0.0] * 48, "shape": [0.0] * 11, "trans": [0.0] * 3}, r"right/shape.*\(10,\)"),
        ({"pose": [0.0] * 48, "shape": [0.0] * 10}, "right/trans.*found nothing"),
        (
            {"pose": [0.0] * 48, "shape": [0.0] * 10, "trans": [0, 0, float("nan")]},
            r"right/trans.*not all finite",
        ),
        ([1, 2], r"right/pose.*found shape \(2,\)"),
    ],
)
def test_bad_parameters_cost_their_hand_only(split, hands, value, words):
    whole = read_interhand_frames(split.folder, hands=hands).truth
    changed(split, "MANO_NeuralAnnot", "0", "1000", "right", value=value)
    frames = read_interhand_frames(split.folder, hands=hands)
    assert re.search(rf"frame 1000 of capture 0: {words}.*has no parameters", frames.notes[0])
    np.testing.assert_array_equal(fitted_hands(frames.truth)[:2], [[False, True]] * 2)
    # The anchor is still the right wrist, which nobody knows now.
    assert np.all(np.isnan(frames.truth.root_transl[:2]))
    np.testing.assert_array_equal(frames.truth.betas[:, 1], whole.betas[:, 1])
    np.testing.assert_array_equal(frames.truth.global_orient[2:], whole.global_orient[2:])


# ---- what is wrong with files ------------------------------------------------------------------


def test_files_that_are_missing_or_several(split, hands, tmp_path):
    split.file("MANO_NeuralAnnot").unlink()
    assert read_interhand(split.folder).num_frames == 12
    with pytest.raises(InputError, match=r"MANO_NeuralAnnot\.json: no such file.*joints_3d"):
        read_interhand_truth(split.folder, hands)
    split.file("MANO").write_text("{}")
    with pytest.raises(InputError, match=r"only the older InterHand2\.6M_test_MANO\.json"):
        read_interhand_truth(split.folder, hands)
    (split.folder / "InterHand2.6M_val_data.json").write_text("{}")
    with pytest.raises(InputError, match=r"test_data\.json, .*val_data\.json; name the file"):
        read_interhand(split.folder)
    split.file("camera").unlink()
    with pytest.raises(InputError, match=r"test_camera\.json: no such file"):
        read_interhand(split.file("data"))
    for name, words in (("empty", "found none"), ("root", r"name one of .*annotations.test")):
        folder = tmp_path / name
        (folder / "annotations" / "test").mkdir(parents=True)
        if name == "root":
            (folder / "annotations" / "test" / "InterHand2.6M_test_data.json").write_text("{}")
        with pytest.raises(InputError, match=words):
            read_interhand(folder)
    with pytest.raises(InputError, match="notes.txt: expected a folder, or a file.*no such file"):
        read_interhand(tmp_path / "notes.txt")


@pytest.mark.parametrize("name", ["data", "camera", "joint_3d", "MANO_NeuralAnnot"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_damaged_files_are_named(split, hands, name, share):
    text = split.file(name).read_text()
    cut = int(share * len(text))
    for damaged in (text[:cut], text[:cut] + "\x00" + text[cut:]):
        split.file(name).write_text(damaged)
        with pytest.raises(InputError, match=rf"_{name}\.json: "):
            read_interhand_frames(split.folder, hands=hands)
    split.file(name).write_bytes(b"\xff\xfe" + text.encode())
    with pytest.raises(InputError, match=rf"_{name}\.json: no readable JSON"):
        read_interhand_frames(split.folder, hands=hands)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("data", [], "the file: expected an object, found a list"),
        ("data", {"annotations": []}, "expected the key 'images', found annotations"),
        ("data", {"images": []}, "expected the key 'annotations', found images"),
        ("data", {"images": {}, "annotations": []}, "images: expected a list, found an object"),
        ("data", {"images": [], "annotations": []}, "expected at least one annotation, found none"),
        (
            "data",
            {"images": [], "annotations": [{"image_id": 3}]},
            "annotation of image 3: expected an image",
        ),
        ("camera", 7, "the captures: expected an object, found another value"),
        ("camera", {"4": {}}, "camera 400262 of capture 0: expected the capture '0', found 4"),
        ("joint_3d", {"0": []}, "capture 0: expected an object, found a list"),
        ("joint_3d", {}, "no joints for 12 of 12 images"),
        ("MANO_NeuralAnnot", {"0": None}, "capture 0: expected an object, found null"),
        ("MANO_NeuralAnnot", {"9": {"1000": {}}}, "no parameters for any hand of the 12 images"),
    ],
)
def test_files_of_another_kind_are_errors(split, hands, name, content, words):
    split.contents[name] = content
    split.write()
    with pytest.raises(InputError, match=rf"_{name}\.json: {words}"):
        read_interhand_frames(split.folder, hands=hands)


def test_values_are_streamed_as_json_reads_them(tmp_path, monkeypatch):
    """Whatever the pieces in which the file comes: numbers, escapes and spaces at every seam."""
    content = {
        "a": [1, -2.5e-3, 123456789, True, None, 'x\\"é\n{[', [], {}, [[1], [2, 3]], {"b": [0]}],
        "skipped": {"c": [1, 2], "d": {}, "e": 1.5},
        "": {"f": 17},
    }
    for size in (1, 2, 3, 5, 1000):
        monkeypatch.setattr(interhand_json, "_CHUNK", size)
        for number, indent in enumerate((None, 2)):
            file = tmp_path / f"{size}_{number}.json"
            file.write_text(json.dumps(content, indent=indent, ensure_ascii=number == 0))
            found = {}
            with interhand_json.JsonStream(file) as stream:
                for key in stream.members("it"):
                    if key == "a":
                        found[key] = list(stream.elements(key))
                    elif key == "skipped":
                        stream.skip()
                    else:
                        found[key] = stream.value()
            assert found == {key: content[key] for key in ("a", "")}


# ---- real frames -------------------------------------------------------------------------------


@needs_recordings
def test_recorded_frames_start_within_six_millimetres(hands):
    predictions = read_interhand(RECORDED)
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
def test_recorded_frames_by_the_files_themselves():
    """Every number again, straight from the JSON."""
    data, cameras, joints = (
        json.loads((RECORDED / f"test_interhand2.6m_{name}.json").read_text())
        for name in ("data", "camera", "joint_3d")
    )
    frames = read_interhand_frames(RECORDED)
    assert frames.notes == () and frames.truth is None and frames.fit_mm is None
    found = frames.predictions
    for n, (image, annotation) in enumerate(zip(data["images"], data["annotations"], strict=True)):
        camera = cameras[str(image["capture"])]
        entry = joints[str(image["capture"])][str(image["frame_idx"])]
        R, centre, f, c = (
            np.array(camera[key][image["camera"]])
            for key in ("camrot", "campos", "focal", "princpt")
        )
        points = (np.array(entry["world_coord"]) - centre) @ R.T
        valid = np.array(entry["joint_valid"]).reshape(42)
        hand = np.repeat([annotation["hand_type"] in (s, "interacting") for s in SIDES], 21)
        in_image = np.array(annotation["joint_valid"]).reshape(42) > 0
        joints_3d = found.joints_3d[n][:, TO_INTERHAND].reshape(42, 4)
        keypoints = found.keypoints_2d[n, 0][:, TO_INTERHAND].reshape(42, 3)
        np.testing.assert_array_equal(joints_3d[:, 3] > 0, valid & hand)
        np.testing.assert_array_equal(keypoints[:, 2] > 0, valid & hand & in_image)
        seen = joints_3d[:, 3] > 0
        np.testing.assert_allclose(1000 * joints_3d[seen, :3], points[seen], atol=1e-3)
        seen = keypoints[:, 2] > 0
        pixels = points[:, :2] / points[:, 2:] * f + c
        np.testing.assert_allclose(keypoints[seen, :2], pixels[seen], atol=1e-3)
        # In the picture, whose size the file says.
        assert np.all((pixels[seen] > -1) & (pixels[seen] < (image["width"], image["height"])))


@needs_recordings
def test_recorded_frames_have_no_parameters(hands):
    with pytest.raises(InputError, match=r"test_interhand2\.6m_MANO_NeuralAnnot\.json: no such"):
        read_interhand_truth(RECORDED, hands)
