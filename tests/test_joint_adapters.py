"""Formats of joints and of meshes: what independent writers wrote comes back."""

# What is read here is there: the test asked for it.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false
# pyright: reportArgumentType=false, reportCallIssue=false

import importlib.util
import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest

from fitting.adapters.aria import ARIA
from fitting.adapters.formats import Reading
from fitting.adapters.im2hands import IM2HANDS, read_im2hands
from fitting.adapters.intaghand import INTAGHAND, read_intaghand
from fitting.adapters.internet import INTERNET, read_internet
from fitting.adapters.leap import LEAP
from fitting.adapters.mediapipe import MEDIAPIPE, read_mediapipe
from fitting.adapters.openpose import OPENPOSE, read_openpose, square_crop
from fitting.adapters.table import TABLE
from fitting.adapters.vitra import VITRA
from fitting.checks import frame_reasons
from fitting.errors import InputError
from fitting.initialise_skeleton import pose_joints_float64
from fitting.prepare import prepare
from mano_jax.joint_orders import index
from tests.conftest import RECORDINGS, needs_recordings
from tests.foreign.joints import (
    write_coco_wholebody,
    write_internet,
    write_mediapipe,
    write_openpose,
)
from tests.foreign.meshes import write_im2hands, write_intaghand
from tests.foreign.scene import make_scene, telephoto

RNG = np.random.default_rng(11)


@pytest.fixture(autouse=True)
def drawn_alike():
    """The same damage whichever tests ran before, in whichever process."""
    RNG.bit_generator.state = np.random.default_rng(11).bit_generator.state


RIGHT, LEFT = 0, 1


@pytest.fixture(scope="module")
def reading(hands):
    return Reading(hands)


@pytest.fixture(scope="module")
def scene():
    return make_scene(3)


def with_camera(reading, written):
    return replace(reading, **written.options)


def frames_of(predictions, written):
    """Rows of the predictions for those frames of the file that show one person's hands."""
    clear = [i for i in range(len(written.hand_valid)) if i not in written.notes]
    names = [] if written.frame_id is None else [written.frame_id[i] for i in clear]
    found = predictions.frame_names.tolist()
    rows = [found.index(name) for name in names]
    # Without names the crowded frame, the first one, became several.
    return clear, rows or list(range(len(found) - len(clear), len(found)))


def posed(hands, predictions):
    """Joints about the own wrist."""
    joints = pose_joints_float64(hands, *predictions.parameters.values())
    return joints - joints[:, :, :1]


def seen_by_weak(hands, predictions):
    """Where the canonical weak camera sees the predicted hands."""
    joints = posed(hands, predictions)[..., :2]
    both = predictions.hand_valid.all(1, keepdims=True)
    joints[:, LEFT] += np.where(both, predictions.relative_transl[:, :2], 0)[:, None]
    camera = predictions.weak_camera[:, None, None]
    return camera[..., :1] * (joints + camera[..., 1:])


def seen_by_perspective(hands, predictions):
    joints = posed(hands, predictions) + predictions.root_transl[:, None, None]
    both = predictions.hand_valid.all(1, keepdims=True)
    joints[:, LEFT] += np.where(both, predictions.relative_transl, 0)[:, None]
    K = predictions.K[:, 0]
    image = np.einsum("nab,nhjb->nhja", K, joints)
    there = predictions.hand_valid[..., None, None]
    return image[..., :2] / np.where(there, image[..., 2:], np.nan)


def same_keypoints(found, written, rows, clear, atol):
    there = written.confidence[clear] > 0
    np.testing.assert_array_equal(found[rows][..., 2] > 0, there)
    np.testing.assert_allclose(found[rows][..., 2][there], written.confidence[clear][there], 1e-6)
    pixels = written.keypoints[clear][there]
    np.testing.assert_allclose(found[rows][..., :2][there], pixels, atol=atol)
    assert not found[rows][~there].any()


# ---- OpenPose and COCO-WholeBody

WRITERS = {
    "openpose": (write_openpose, "folder", {}),
    "empty lists": (write_openpose, "folder", {"absent": "empty"}),
    "annotations": (write_coco_wholebody, "whole.json", {}),
    "results": (write_coco_wholebody, "whole.json", {"results": True}),
}


@pytest.mark.parametrize("layout", WRITERS)
def test_keypoints_come_back_in_pixels_of_a_camera(tmp_path, reading, scene, layout):
    write, name, options = WRITERS[layout]
    written = write(tmp_path / name, scene, **options)
    conversion = read_openpose(written.path, with_camera(reading, written))
    p = conversion.predictions
    clear, rows = frames_of(p, written)
    same_keypoints(p.keypoints_2d, written, rows, clear, 1e-3)
    np.testing.assert_array_equal(p.hand_valid[rows], written.hand_valid[clear])
    W, H = scene.image_size
    f = written.options["focal"]
    np.testing.assert_allclose(p.K[0, 0], [[f, 0, W / 2], [0, f, H / 2], [0, 0, 1]])
    # The crowded frame: each person by themselves, in the file's order.
    (crowded,) = written.notes
    name = written.frame_id[crowded]
    people = [p.frame_names.tolist().index(f"{name}/{i}") for i in (0, 1)]
    same_keypoints(p.keypoints_2d, written, people[1:], [crowded], 1e-3)
    assert any("several people" in note for note in conversion.notes)
    assert p.num_frames == len(written.hand_valid) + 1


@pytest.mark.parametrize("layout", WRITERS)
def test_keypoints_without_a_camera_fill_a_crop_and_start_a_fit(
    tmp_path, hands, reading, scene, layout
):
    write, name, options = WRITERS[layout]
    written = write(tmp_path / name, scene, second_person=False, **options)
    conversion = read_openpose(written.path, reading)
    p = conversion.predictions
    assert any("no camera is known" in note for note in conversion.notes)
    seen = p.keypoints_2d[..., 2] > 0
    np.testing.assert_array_equal(seen, written.confidence > 0)
    some = seen.any((1, 2))
    largest = np.abs(p.keypoints_2d[..., :2]).max((1, 2, 3))
    np.testing.assert_allclose(largest[some], 1 / 1.2, rtol=1e-5)
    # A similarity of the pixels.
    pixels = np.concatenate([written.keypoints, seen[..., None]], axis=-1)
    centre, half = square_crop(np.nan_to_num(pixels))
    back = p.keypoints_2d[..., :2] * half[:, None, None, None] + centre[:, None, None]
    np.testing.assert_allclose(back[seen], written.keypoints[seen], atol=1e-2)
    assert set(frame_reasons(p, hands)[some]) == {""}
    assert set(frame_reasons(p, hands)[~some]) <= {"no hand"}
    # The camera's scale, by the size of the hands: metres a pixel at their depth.
    scale = scene.K[:, 0, 0] / np.where(scene.hand_valid, scene.wrist[..., 2], np.nan).T
    true = np.exp(np.nanmean(np.log(scale[:, written.scene_frames[some]]), axis=0)) / half[some]
    assert np.abs(np.log(p.weak_camera[some, 0] / true)).max() < 0.4


def test_a_focal_length_needs_an_image_size(tmp_path, reading, scene):
    written = write_openpose(tmp_path / "folder", scene)
    with pytest.raises(InputError, match="--image-size WIDTH HEIGHT"):
        read_openpose(written.path, replace(reading, focal=900.0))
    # COCO's annotations have one.
    written = write_coco_wholebody(tmp_path / "whole.json", scene)
    found = read_openpose(written.path, replace(reading, focal=900.0)).predictions
    np.testing.assert_allclose(found.K[0, 0, :2, 2], np.array(scene.image_size) / 2)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": 1}, "expected OpenPose's 'people'.*found a"),
        ([], "list of its results"),
        ({"people": 3}, "people: expected a list"),
        ({"people": []}, "no hand in 1 images"),
        ({"people": [{"pose_keypoints_2d": []}]}, r"people\[0\].*run OpenPose with --hand"),
        ({"people": [{"hand_left_keypoints_2d": [1.0] * 63}]}, "hand_right_keypoints_2d"),
        (
            {"people": [{f"hand_{s}_keypoints_2d": [1.0] * 60 for s in ("left", "right")}]},
            r"hand_right_keypoints_2d: expected numbers of shape \(63,\)",
        ),
        (
            {"people": [{f"hand_{s}_keypoints_2d": [np.nan] * 63 for s in ("left", "right")}]},
            "expected finite x, y and confidence",
        ),
        ({"images": [], "annotations": [{"image_id": 3}]}, "image_id 3 is none of the images'"),
        ([{"image_id": 1, "keypoints": [0] * 51}], r"keypoints: expected .*\(399,\)"),
        ([{"keypoints": [0] * 399}], "image_id"),
    ],
)
def test_bad_keypoints_are_told(tmp_path, reading, tree, message):
    (tmp_path / "file.json").write_text(json.dumps(tree))
    with pytest.raises(InputError, match=message):
        read_openpose(tmp_path / "file.json", reading)


def test_a_pose_file_asks_for_its_reader(tmp_path, reading, monkeypatch):
    monkeypatch.setitem(sys.modules, "pose_format", None)
    (tmp_path / "a.pose").write_bytes(b"\0" * 64)
    with pytest.raises(InputError, match="pip install pose-format"):
        read_openpose(tmp_path / "a.pose", reading)


needs_pose_format = pytest.mark.skipif(
    importlib.util.find_spec("pose_format") is None, reason="the package pose-format is missing"
)


@needs_recordings
@needs_pose_format
def test_a_recorded_pose_file(hands, reading):
    path = RECORDINGS / "signlanguage_pose" / "openpose.pose"
    conversion = read_openpose(path, replace(reading, focal=1000.0))
    p = conversion.predictions
    assert p.num_frames == 93 and p.timestamp[24] == 1.0
    np.testing.assert_allclose(p.K[0, 0, :2, 2], 500)
    seen = p.keypoints_2d[..., 2] > 0
    np.testing.assert_array_equal(p.hand_valid, seen.any(-1))
    assert p.hand_valid.any() and not p.hand_valid.all()
    assert not p.keypoints_2d[~seen].any()
    assert set(frame_reasons(p, hands)[(seen.sum(-1) > 5).all(1)]) == {""}


@needs_recordings
@needs_pose_format
def test_damaged_pose_files_are_told(tmp_path, reading):
    whole = (RECORDINGS / "signlanguage_pose" / "openpose.pose").read_bytes()
    path = tmp_path / "a.pose"
    for _ in range(40):
        path.write_bytes(damage(whole))
        read_or_refuse(read_openpose, path, reading)


# ---- MediaPipe

LAYOUTS = {
    **{name: "m.json" for name in ("camel", "hand", "snake", "one", "legacy")},
    **{"lines": "m.jsonl", "detection": "m", "holistic": "m"},
}
WITH_WORLD = [name for name in LAYOUTS if name != "holistic"]


@pytest.mark.parametrize("layout", WITH_WORLD)
def test_mediapipe_hands_come_back(tmp_path, hands, reading, layout):
    # A long lens, so that a weak camera is what there was; each hand at about its depth.
    scene = telephoto(3)
    written = write_mediapipe(tmp_path / LAYOUTS[layout], scene, layout=layout, decoys=False)
    size_alone = replace(reading, image_size=scene.image_size)
    conversion = read_mediapipe(written.path, size_alone)
    p, valid = conversion.predictions, written.hand_valid
    np.testing.assert_array_equal(p.hand_valid, valid)
    if written.frame_id is not None:
        assert p.frame_names.tolist() == written.frame_id
    # The start that is fitted to joints knows no twist and no other shape than bones tell.
    distance = np.linalg.norm(posed(hands, p) - written.local_joints, axis=-1)[valid]
    assert distance.mean() < 4e-3 and distance.max() < 2e-2
    there = valid[..., None, None]
    off = np.where(there, seen_by_weak(hands, p) - p.keypoints_2d[..., :2], 0)
    assert np.abs(off).max() < 0.1
    both = valid.all(1)
    tau, true = p.relative_transl, (scene.wrist[:, 1] - scene.wrist[:, 0])[written.scene_frames]
    assert np.all(tau[:, 2] == 0) and not p.relative_transl_confidence[:, 2].any()
    assert np.abs(tau[both, :2] - true[both, :2]).max(initial=0) < 0.01
    assert not tau[~both].any() and not p.hand_pose[~valid].any()
    expected = {"no hand"} if (~valid.any(1)).any() else set()
    assert set(frame_reasons(p, hands)) == {"", *expected}


@pytest.mark.parametrize("layout", ["snake", "legacy"])
def test_mediapipe_hands_before_a_known_camera(tmp_path, hands, reading, layout):
    # Whose principal point is in the middle of the image, as `--focal` says.
    scene = make_scene(5, principal=(960.0, 540.0))
    written = write_mediapipe(tmp_path / "m.json", scene, layout=layout, decoys=False)
    p = read_mediapipe(written.path, with_camera(reading, written)).predictions
    valid = written.hand_valid
    np.testing.assert_allclose(p.keypoints_2d[valid][..., :2], written.keypoints[valid], atol=1e-2)
    off = (seen_by_perspective(hands, p) - written.keypoints)[valid]
    # Joints that are millimetres off at half a metre.
    assert np.sqrt((off**2).sum(-1)).mean() < 15
    anchor = np.where(valid[:, :1], scene.wrist[:, 0], scene.wrist[:, 1])
    some = valid.any(1)
    ratio = p.root_transl[some, 2] / anchor[some, 2]
    assert np.abs(np.log(ratio)).max() < 0.1
    assert p.weak_camera is None and not p.relative_transl_confidence[:, 2].any()


def test_several_hands_of_a_side_are_frames_of_their_own(tmp_path, reading, scene):
    written = write_mediapipe(tmp_path / "m.json", scene, layout="snake")
    conversion = read_mediapipe(written.path, replace(reading, image_size=scene.image_size))
    p = conversion.predictions
    (crowded,) = written.notes
    names = [f"m/{crowded:06d}#{k}" for k in range(3)]
    assert p.frame_names.tolist()[:3] == names
    np.testing.assert_array_equal(p.hand_valid[:3], [[1, 0], [1, 0], [0, 1]])
    assert any("several hands of one side" in note for note in conversion.notes)


def test_labels_of_the_other_side_are_noticed(tmp_path, reading, scene):
    """A legacy result of an image that was mirrored, say: everything else looks right."""
    written = write_mediapipe(tmp_path / "m.json", scene, layout="legacy", decoys=False)
    text = written.path.read_text()
    exchanged = text.replace('"Left"', '"?"').replace('"Right"', '"Left"').replace('"?"', '"Right"')
    for content, told in ((text, False), (exchanged, True)):
        written.path.write_text(content)
        notes = read_mediapipe(written.path, reading).notes
        assert any("shaped like those of the other side" in note for note in notes) == told


@pytest.mark.parametrize("layout", LAYOUTS)
def test_mediapipe_without_world_landmarks_gives_keypoints(tmp_path, hands, reading, scene, layout):
    path = tmp_path / LAYOUTS[layout]
    written = write_mediapipe(path, scene, layout=layout, world=False, decoys=False)
    conversion = read_mediapipe(written.path, with_camera(reading, written))
    p, valid = conversion.predictions, written.hand_valid
    np.testing.assert_array_equal(p.hand_valid, valid)
    np.testing.assert_allclose(p.keypoints_2d[valid][..., :2], written.keypoints[valid], atol=1e-2)
    assert not p.has_parameters and any("no world landmarks" in n for n in conversion.notes)
    assert set(frame_reasons(p, hands)[valid.any(1)]) == {""}


def test_an_unknown_image_size_is_told(tmp_path, reading, scene):
    written = write_mediapipe(tmp_path / "m.json", scene, layout="one")
    assert any("square" in note for note in read_mediapipe(written.path, reading).notes)
    with pytest.raises(InputError, match="--image-size"):
        read_mediapipe(written.path, replace(reading, focal=1000.0))
    # A result may say it itself.
    W, H = scene.image_size
    told = json.loads(written.path.read_text()) | {"image_width": W, "image_height": H}
    written.path.write_text(json.dumps(told))
    conversion = read_mediapipe(written.path, reading)
    assert not any("square" in note for note in conversion.notes)


POINT = {"x": 0.5, "y": 0.5, "z": 0.0}
HAND = [POINT] * 21
LABEL = [{"categoryName": "Left"}]


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ([], "expected a result of MediaPipe"),
        ([3], r"\[0\]: expected a result"),
        ({"a": 1}, "expected hand_landmarks.*found a"),
        ({"landmarks": [], "handedness": []}, "no hand in 1 images"),
        ({"landmarks": [HAND]}, "no handedness"),
        ({"landmarks": [HAND], "handedness": []}, "1 hands, 0 labels"),
        ({"landmarks": [HAND], "handedness": [[{"categoryName": "Up"}]]}, "found 'up'"),
        ({"landmarks": [HAND], "handedness": [3]}, "a category named Left or Right"),
        ({"landmarks": [HAND[:20]], "handedness": [LABEL]}, r"shape \(21, 2\)"),
        ({"landmarks": [[{"x": 1}] * 21], "handedness": [LABEL]}, r"\[0\]\[0\]: no key 'y'"),
        ({"landmarks": [[{"x": np.nan, "y": 0}] * 21], "handedness": [LABEL]}, "finite numbers"),
        (
            {"landmarks": [HAND], "handedness": [LABEL], "worldLandmarks": [HAND, HAND]},
            "2 world landmarks",
        ),
        ({"left_hand_landmarks": HAND, "landmarks": {"a": 1}}, "landmarks: expected a list"),
    ],
)
def test_bad_results_are_told(tmp_path, reading, tree, message):
    (tmp_path / "file.json").write_text(json.dumps(tree))
    with pytest.raises(InputError, match=message):
        read_mediapipe(tmp_path / "file.json", reading)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found nothing"),
        ("landmark {", "ends within a message"),
        ("landmark { x }", "did not expect '}'"),
        ("}", "did not expect '}'"),
        ("landmark { x: 1 x: 2 }", "a second value of x"),
        ("x: 1 x { }", "in a field that has a value"),
        ("landmark { x: 1.2.3 }", "cannot read '1.2.3"),
        ("landmark { x: $ }", "line 1: cannot read"),
        ("a {\n" * 40, "nested more than 16"),
        ("landmark { x: left y: 2 }\n" * 21, "numbers"),
        ("landmark { x: 1 y: 2 }\n" * 20, r"\(21, 2\)"),
    ],
)
def test_bad_text_protos_are_told(tmp_path, reading, text, message):
    (tmp_path / "left.pbtxt").write_text(text)
    with pytest.raises(InputError, match=message):
        read_mediapipe(tmp_path / "left.pbtxt", reading)


def test_landmarks_without_a_label_need_a_telling_name(tmp_path, reading):
    (tmp_path / "hand.pbtxt").write_text("landmark { x: 1 y: 2 }\n" * 21)
    with pytest.raises(InputError, match="hand_right.pbtxt"):
        read_mediapipe(tmp_path / "hand.pbtxt", reading)


@needs_recordings
def test_recorded_mediapipe_results(hands, reading):
    folder = RECORDINGS / "mediapipe_testdata"
    for path in sorted(folder.iterdir()):
        conversion = read_mediapipe(path, reading)
        p = conversion.predictions
        both = "full_height" in path.name
        side = [both or "left" not in path.name, both or "left" in path.name]
        np.testing.assert_array_equal(p.hand_valid, [side])
        assert list(frame_reasons(p, hands)) == [""]
        assert not any("other side" in note for note in conversion.notes)
        if p.has_parameters:
            off = (seen_by_weak(hands, p) - p.keypoints_2d[..., :2])[p.hand_valid]
            assert np.sqrt((off**2).sum(-1)).mean() < 0.15
    # Some have world landmarks and some have none.
    with pytest.raises(InputError, match="of every hand or of none"):
        read_mediapipe(folder, reading)


# ---- InterNet


@pytest.mark.parametrize("cameras", ["each", "one"])
def test_internet_joints_are_placed_exactly(tmp_path, hands, reading, cameras):
    scene = make_scene(7, varying_camera=cameras == "each")
    written = write_internet(tmp_path / "i.npz", scene, cameras=cameras, dtype=np.float64)
    conversion = read_internet(written.path, reading)
    p, valid = conversion.predictions, written.hand_valid
    np.testing.assert_array_equal(p.hand_valid, valid)
    np.testing.assert_allclose(p.joints_3d[..., :3][valid], written.joints[valid], atol=1e-6)
    np.testing.assert_allclose(p.keypoints_2d[valid][..., :2], written.keypoints[valid], atol=1e-3)
    some = valid.any(1)
    np.testing.assert_allclose(p.root_transl[some], written.root_transl[some], atol=1e-6)
    assert not p.joints_3d[~valid].any() and conversion.notes == ()
    assert set(frame_reasons(p, hands)[some]) == {""}


def without(path, *keys):
    with np.load(path) as arrays:
        kept = {key: arrays[key] for key in arrays.files if key not in keys}
    np.savez(path, **kept)


@pytest.mark.parametrize("lacking", [("focal", "princpt", "root_depth"), ("root_depth",)])
def test_internet_joints_of_a_mean_palm_are_placed_by_its_size(tmp_path, hands, reading, lacking):
    # A long lens, so that neither the depths nor the image's middle matter, and mean hands.
    scene = telephoto(7, zero_betas=True)
    written = write_internet(tmp_path / "i.npz", scene)
    without(written.path, *lacking)
    conversion = read_internet(written.path, reading)
    p, valid = conversion.predictions, written.hand_valid
    assert any("mean hand's palm" in note for note in conversion.notes)
    np.testing.assert_array_equal(p.hand_valid, valid)
    both = valid.all(1)
    joints, true = p.joints_3d[..., :3], written.joints
    local = np.linalg.norm((joints - joints[:, :, :1]) - written.local_joints, axis=-1)
    assert local[valid].max() < 5e-3
    tau, true_tau = (x[both][:, LEFT, 0] - x[both][:, RIGHT, 0] for x in (joints, true))
    assert np.abs(tau - true_tau).max() < 5e-3
    if "focal" in lacking:
        # Its weak camera sees them where they were seen.
        anchor = np.where(valid[:, :1], joints[:, 0, 0], joints[:, 1, 0])
        camera = p.weak_camera[:, None, None]
        seen = camera[..., :1] * ((joints - anchor[:, None, None])[..., :2] + camera[..., 1:])
        np.testing.assert_allclose(seen[valid], p.keypoints_2d[valid][..., :2], atol=1e-5)
    assert set(frame_reasons(p, hands)[valid.any(1)]) == {""}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"joint_coord": lambda x: np.abs(x) % 64}, "still bins of the heat map"),
        ({"joint_coord": lambda x: x[:, :41]}, r"joint_coord: expected .*\(N, 42, 3\)"),
        ({"joint_coord": lambda x: x * np.nan}, "joint_coord: expected finite"),
        ({"rel_root_depth": lambda x: x * np.nan}, "rel_root_depth: expected finite"),
        ({"hand_type": lambda x: x[:2]}, "hand_type"),
        ({"hand_type": lambda x: x * np.inf}, "hand_type: expected finite"),
        ({"root_depth": lambda x: x / 1000}, "are they metres"),
        ({"root_depth": lambda x: x / 20}, "behind it"),
        ({"focal": lambda x: -x}, "focal: expected pixels, above 0"),
        ({"princpt": lambda x: x[:, :1]}, "princpt"),
    ],
)
def test_bad_internet_files_are_told(tmp_path, reading, scene, change, message):
    path = tmp_path / "i.npz"
    write_internet(path, scene)
    with np.load(path) as arrays:
        changed = {k: change.get(k, lambda x: x)(arrays[k]) for k in arrays.files}
    np.savez(path, **changed)
    with pytest.raises(InputError, match=message):
        read_internet(path, reading)


# ---- IntagHand


@pytest.mark.parametrize(("layout", "suffix"), [("dict", ".pkl"), ("list", ".npy")])
def test_intaghand_meshes_come_back(tmp_path, hands, reading, scene, layout, suffix):
    written = write_intaghand(tmp_path / f"i{suffix}", scene, layout=layout)
    conversion = read_intaghand(written.path, reading)
    p = conversion.predictions
    assert p.hand_valid.all() and p.frame_names.tolist() == written.frame_id
    factor = written.scale[..., None, None]
    # The wrist is on no vertex, so that of the file's fingertips is left aside.
    off = (posed(hands, p) - factor * written.local_joints)[:, :, :16]
    assert np.linalg.norm(off, axis=-1).max() < 5e-4
    # Each hand at its own scale, ours at one between: alike up to how much those differ.
    own = written.weak[..., 0]
    scale = np.sqrt(own.prod(1))
    np.testing.assert_allclose(p.weak_camera[:, 0], scale / written.scale[:, 0], rtol=1e-4)
    canvas = 128 * (seen_by_weak(hands, p) + 1)
    reach = np.linalg.norm(written.pixels - written.pixels[:, :, :1], axis=-1).max(-1)
    allowed = 0.5 + reach * np.abs(scale[:, None] / own - 1)
    off = np.linalg.norm(canvas - written.pixels, axis=-1)[:, :, :16].max(-1)
    assert np.all(off < allowed)
    # The wrists lie where the file puts them.
    wrists = np.linalg.norm(canvas - written.pixels, axis=-1)[:, :, 0]
    assert wrists.max() < 0.1
    assert np.all(p.relative_transl[:, 2] == 0) and not p.relative_transl_confidence[:, 2].any()
    assert set(frame_reasons(p, hands)) == {""}
    assert any("mm of a vertex remain" in note for note in conversion.notes)
    np.testing.assert_allclose(
        conversion.evidence.vertices - conversion.evidence.vertices.mean(2, keepdims=True),
        factor * (written.local_vertices - written.local_vertices.mean(2, keepdims=True)),
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("verts3d", lambda x: x[:, :777], "778 vertices"),
        ("verts3d", lambda x: x * np.nan, "verts3d: expected finite"),
        ("verts3d", lambda x: x[..., :2], "verts3d/right"),
        ("scale", lambda x: -x, "above 0"),
        ("scale", lambda x: x[:1], "scale/right"),
        ("trans2d", lambda x: x[:, :1], "trans2d/right"),
        ("trans2d", lambda x: [["a"]], "trans2d/right"),
    ],
)
def test_bad_intaghand_files_are_told(tmp_path, reading, scene, key, change, message):
    path = tmp_path / "i.json"
    write_intaghand(path, scene)
    tree = json.loads(path.read_text())
    changed = {side: change(np.array(tree[key][side])) for side in tree[key]}
    tree[key] = {side: x if isinstance(x, list) else x.tolist() for side, x in changed.items()}
    path.write_text(json.dumps(tree))
    with pytest.raises(InputError, match=message):
        read_intaghand(path, reading)


# ---- Im2Hands


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("topology", ["mano", "implicit"])
def test_im2hands_points_come_back(tmp_path, hands, reading, scene, topology, binary):
    written = write_im2hands(tmp_path / "out", scene, topology=topology, binary=binary)
    p = read_im2hands(written.path, reading).predictions
    valid = written.hand_valid
    np.testing.assert_array_equal(p.hand_valid, valid)
    assert p.frame_names.tolist() == written.frame_id
    np.testing.assert_allclose(p.joints_3d[..., :3][valid], written.joints[valid], atol=1e-6)
    assert not p.joints_3d[~valid].any()
    if topology == "mano":
        np.testing.assert_allclose(p.vertices[valid], written.vertices[valid], atol=1e-6)
        assert np.isnan(p.vertices[~valid]).all()
    else:
        assert p.vertices is None
    assert set(frame_reasons(p, hands)) == {""}


def test_im2hands_meshes_alone(tmp_path, hands, reading, scene):
    written = write_im2hands(tmp_path / "mano", scene, keypoints=False)
    p = read_im2hands(written.path, reading).predictions
    assert p.joints_3d is None and set(frame_reasons(p, hands)) == {""}
    written = write_im2hands(tmp_path / "implicit", scene, keypoints=False, topology="implicit")
    with pytest.raises(InputError, match="keypoints NAME_right.ply"):
        read_im2hands(written.path, reading)


@pytest.mark.parametrize(("topology", "allowed"), [("mano", 1e-5), ("implicit", 0.02)])
def test_im2hands_keypoints_of_each_hand_by_itself(tmp_path, reading, scene, topology, allowed):
    """Every hand's keypoints about its own wrist: its mesh says where that is."""
    written = write_im2hands(tmp_path / "out", scene, topology=topology)
    for i, name in enumerate(written.frame_id):
        for h, side in enumerate(("right", "left")):
            path = written.path / f"{name}_{side}.ply"
            if path.exists():
                head, body = path.read_text().split("end_header\n")
                points = np.array([line.split() for line in body.splitlines()], float)
                points = points - written.wrists[i, h] - [0.5, 0, 0]
                lines = "".join("{:.9g} {:.9g} {:.9g}\n".format(*p) for p in points)
                path.write_text(f"{head}end_header\n{lines}")
    conversion = read_im2hands(written.path, reading)
    valid = written.hand_valid
    off = conversion.predictions.joints_3d[..., :3][valid] - written.joints[valid]
    assert np.linalg.norm(off, axis=-1).max() < allowed
    assert any("not where their mesh is" in note for note in conversion.notes)


def test_im2hands_keypoints_that_nothing_relates(tmp_path, reading, scene):
    written = write_im2hands(tmp_path / "out", scene)
    for path in written.path.glob("*.obj"):
        path.unlink()
    assert read_im2hands(written.path, reading).predictions.vertices is None
    shutil.copy(written.path / "frame_00012_right.ply", written.path / "frame_00012_left.ply")
    with pytest.raises(InputError, match="both wrists are at one point"):
        read_im2hands(written.path, reading)


HEAD = "ply\nformat ascii 1.0\nelement vertex 21\nproperty float x\nproperty float y\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("hand.obj", "v 1 2 3\n", "NAME_right or NAME_left"),
        ("a_left.obj", "", "expected lines `v x y z`"),
        ("a_left.obj", "v 1 2\nv 1 2\n", "finite x, y and z"),
        ("a_left.obj", "v 1 2 3\nv 1 2\n", "of numbers"),
        ("a_left.obj", "v 1 2 3\nv 1 2 a\n", "of numbers"),
        ("a_left.obj", "v 1 2 3\nv nan 2 1\n", "finite x, y and z"),
        ("a_left.obj", "v 0.1 0.2 0.3\nv 0 0 0\n", "millimetres.*another unit"),
        ("a_left.ply", "", "no header"),
        ("a_left.ply", HEAD + "end_header\n", "with x, y"),
        ("a_left.ply", HEAD + "property list uchar int z\nend_header\n", "'property list uchar"),
        ("a_left.ply", HEAD + "property float z\nend_header\n1 2 3\n", "is it truncated"),
        ("a_left.ply", HEAD + "property float z\nend_header\n" + "1 2 3\n" * 21, "metres"),
        ("a_left.ply", HEAD + "property float z\nend_header\n" + "1 2 b\n" * 21, "numbers"),
        ("a_left.ply", HEAD.replace("21", "9" * 9) + "end_header\n", "first element"),
        (
            "a_left.ply",
            HEAD.replace("ascii", "binary_little_endian") + "property float z\nend_header\n123",
            "252 bytes of vertices, found 3",
        ),
        (
            "a_left.ply",
            HEAD.replace("21", "2") + "property float z\nend_header\n0 0 0\n.1 0 0\n",
            "21 keypoints, found 2",
        ),
    ],
)
def test_bad_meshes_are_told(tmp_path, reading, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_im2hands(tmp_path, reading)


# ---- tables and the older formats


def test_a_table_of_one_hand(tmp_path, reading):
    joints = RNG.normal(size=(3, 21, 4)) ** 2
    path = tmp_path / "t.npz"
    for side, hand in (("right", RIGHT), ("left", LEFT)):
        np.savez(path, joints=joints, side=side, order="mano21", unit="m")
        p = TABLE.read(path, reading).predictions
        np.testing.assert_allclose(p.joints_3d[:, hand], joints, rtol=1e-6)
        assert not p.joints_3d[:, 1 - hand].any()
    with pytest.raises(InputError, match=r"found \(3, 21, 4\), of one hand; add an array side"):
        np.savez(path, joints=joints, order="mano21", unit="m")
        TABLE.read(path, reading)
    with pytest.raises(InputError, match="side: expected one of right, left"):
        np.savez(path, joints=joints, side="both", order="mano21", unit="m")
        TABLE.read(path, reading)


@needs_recordings
def test_the_recording_of_dexretargeting_becomes_a_table(tmp_path, hands, reading):
    path = RECORDINGS / "dexretargeting" / "joints.npz"
    with pytest.raises(InputError, match=r"joints=joints_m, order='openpose21', unit='m', side="):
        TABLE.read(path, reading)
    with np.load(path) as arrays:
        joints_m = arrays["joints_m"]
    table = tmp_path / "table.npz"
    np.savez(table, joints=joints_m, order="openpose21", unit="m", side="right")
    p = TABLE.read(table, reading).predictions
    assert p.num_frames == 621 and p.hand_valid[:, RIGHT].all() and not p.hand_valid[:, LEFT].any()
    tip = index("thumb_tip")
    np.testing.assert_allclose(p.joints_3d[:, RIGHT, tip, :3], joints_m[:, 4], rtol=1e-6)
    assert set(frame_reasons(p, hands)) == {""}


@needs_recordings
def test_recordings_of_the_older_formats(reading):
    aria = RECORDINGS / "aria_mps_handtracking" / "hand_tracking_results_v2.csv"
    assert ARIA.read(aria, reading).predictions.num_frames == 8
    leap = RECORDINGS / "leap_flapping" / "flapping_fingers.npz"
    assert LEAP.read(leap, reading).predictions.num_frames == 328
    (vitra,) = (RECORDINGS / "vitra_examples").glob("*.npy")
    conversion = VITRA.read(vitra, reading)
    there = np.isfinite(conversion.evidence.joints).all((2, 3))
    np.testing.assert_array_equal(there, conversion.predictions.hand_valid)


# ---- any file


@pytest.mark.parametrize("format", [OPENPOSE, MEDIAPIPE, INTERNET, INTAGHAND, IM2HANDS])
def test_paths_without_such_files_are_told(tmp_path, reading, format):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(InputError, match=str(path)):
            format.read(path, reading)
    (tmp_path / f"a_left{format.suffixes[0]}").mkdir()
    with pytest.raises(InputError):
        format.read(tmp_path / f"a_left{format.suffixes[0]}", reading)


def damage(whole):
    """Cut short, bits flipped, bytes replaced."""
    damaged = bytearray(whole)
    kind = RNG.integers(3)
    if kind == 0:
        return bytes(damaged[: RNG.integers(len(damaged))])
    if kind == 1:
        for _ in range(8):
            damaged[RNG.integers(len(damaged))] ^= 1 << RNG.integers(8)
    else:
        at = RNG.integers(len(damaged))
        replaced = [b"NaN", b"null", b"[[[[", b"1e999", b'"x"', b"\x00\xff", b"}}", b"{}"]
        new = replaced[RNG.integers(len(replaced))]
        damaged[at : at + len(new)] = new
    return bytes(damaged)


def read_or_refuse(read, path, reading):
    """True if it was refused in so many words; what is read is finite."""
    try:
        p = read(path, reading).predictions
    except InputError as error:
        assert path.name in str(error) or path.parent.name in str(error)
        return True
    for name, array in p.arrays().items():
        if array.dtype.kind == "f" and name != "vertices":
            assert np.isfinite(array).all(), name
    return False


SOURCES = {
    "openpose": (write_openpose, read_openpose, "d", "frame_00012_keypoints.json", {}),
    "whole body": (write_coco_wholebody, read_openpose, "c.json", "", {}),
    "mediapipe": (write_mediapipe, read_mediapipe, "m.json", "", {"layout": "one"}),
    "proto": (
        write_mediapipe,
        read_mediapipe,
        "d",
        "frame_00026.pbtxt",
        {"layout": "detection", "world": False},
    ),
    "internet": (write_internet, read_internet, "i.npz", "", {}),
    "obj": (write_im2hands, read_im2hands, "d", "frame_00012_left.obj", {}),
    "ply": (write_im2hands, read_im2hands, "d", "frame_00012_left.ply", {}),
    "binary ply": (write_im2hands, read_im2hands, "d", "frame_00012_left.ply", {"binary": True}),
    "intaghand": (write_intaghand, read_intaghand, "i.pkl", "", {}),
}


@pytest.mark.parametrize("source", SOURCES)
def test_damaged_files_never_crash(tmp_path, reading, scene, source):
    write, read, name, member, options = SOURCES[source]
    written = write(tmp_path / name, scene, **options)
    target = written.path / member if member else written.path
    whole = target.read_bytes()
    refused = 0
    for _ in range(12 if source == "intaghand" else 40):
        target.write_bytes(damage(whole))
        refused += read_or_refuse(
            read, target if member.endswith(".pbtxt") else written.path, reading
        )
    assert refused > 0


MISTYPED = [None, [], {}, "x", 1, -1, np.nan, np.inf, True, [[]], {"landmark": []}, 10**400, [1, 2]]


def mistyped(tree):
    """A copy in which one value somewhere is another one, or missing."""
    if not isinstance(tree, dict | list) or not tree or RNG.uniform() < 0.15:
        return MISTYPED[RNG.integers(len(MISTYPED))]
    changed = tree.copy()
    at = list(tree)[RNG.integers(len(tree))] if isinstance(tree, dict) else RNG.integers(len(tree))
    if isinstance(tree, dict) and RNG.uniform() < 0.1:
        del changed[at]
    else:
        changed[at] = mistyped(tree[at])
    return changed


TREES = {
    "people": (write_openpose, read_openpose, "frame_00012_keypoints.json", {}),
    "annotations": (write_coco_wholebody, read_openpose, "", {}),
    "results": (write_coco_wholebody, read_openpose, "", {"results": True}),
    "tasks": (write_mediapipe, read_mediapipe, "", {"world": False}),
    "legacy": (write_mediapipe, read_mediapipe, "", {"layout": "legacy", "world": False}),
    "internet": (write_internet, read_internet, "", {}),
}


@pytest.mark.parametrize("source", TREES)
def test_mistyped_values_never_crash(tmp_path, reading, source):
    write, read, member, options = TREES[source]
    path = tmp_path / "file.json"
    small = make_scene(3, presence=((1, 1), (1, 0)))
    if source == "internet":
        with np.load(write(tmp_path / "i.npz", small).path) as arrays:
            tree = {key: arrays[key].tolist() for key in arrays.files}
    else:
        written = write(tmp_path / "d" if member else path, small, **options)
        tree = json.loads((written.path / member).read_text())
    refused = 0
    for _ in range(60):
        path.write_text(json.dumps(mistyped(tree)))
        refused += read_or_refuse(read, path, reading)
    assert refused > 5


def test_every_reader_prepares_a_fit(tmp_path, hands, reading, scene):
    """What comes out is what a fit takes in."""
    for name, (write, read, path, _, options) in SOURCES.items():
        (tmp_path / name).mkdir()
        written = write(tmp_path / name / path, scene, **options)
        p = read(written.path, reading).predictions
        prepared = prepare(hands, p)
        assert np.isfinite(np.asarray(prepared.params.hand_pose)).all()
        assert (prepared.reasons == "").sum() >= p.hand_valid.any(1).sum()
