"""Files of regressors and data sets: what independent writers wrote comes back."""

# Every file here has parameters.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false
# pyright: reportArgumentType=false, reportCallIssue=false, reportOptionalIterable=false

import inspect
import json
import pickle
from dataclasses import dataclass, field, replace

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from experiments.convert import convert_file
from fitting.adapters import Reading, check_conversion, read_foreign
from fitting.canonical import read_predictions
from fitting.errors import InputError
from fitting.initialise_skeleton import pose_joints_float64
from mano_jax.joint_orders import fingertip_vertices
from tests.foreign import datasets, hamer, weak
from tests.foreign.scene import make_scene, project, telephoto

TIP_SETS = {
    "A": "smplx",
    "B": "manopth",
    "B'": "intaghand",
    "B''": "interwild",
    "C": "freihand",
    "D": "ho3d",
}


@dataclass(frozen=True)
class Case:
    """A file to write, and how near it must come back."""

    source: str
    write: object
    file: str
    options: dict = field(default_factory=dict)
    scene: dict = field(default_factory=dict)
    far: bool = False
    """Seen from so far that crops' cameras tell the truth."""
    given: tuple[str, ...] = ()
    """What the reader is told besides the file."""
    pixels: float = 0.5
    """Largest error of a joint, px: half a pixel for exact families."""

    def __str__(self):
        return "-".join([self.source, self.file, *map(str, self.options.values())])


LIFTED = 4.0
"""Of a crop's camera lifted into the image's: the two see a joint 6 cm before the wrist, 18 m away,
apart by 6 cm / 18 m of its distance from the image's middle, up to 1,150 px for these hands of 700
px; their mean is a tenth of that."""

ACR_PIXELS = 20.0
"""ACR places hands by a camera of 1265 px on a canvas of 512, whose perspective at 1.5 m is not
that of its own weak camera: 5 cm / 1.5 m of 400 px."""

CASES = [
    Case("ihmr", weak.write_ihmr, "ihmr.pkl", given=("image_size", "annotations")),
    Case("interwild", weak.write_interwild, "interwild"),
    Case("interwild", weak.write_interwild, "interwild.pkl", {"layout": "output"}),
    Case("interwild", weak.write_interwild, "w.json", {"layout": "output", "name_key": None}),
    Case("hamer", hamer.write_hamer, "hamer.pkl", pixels=LIFTED),
    Case("hamer", hamer.write_hamer, "h.npz", {"layout": "single"}, far=True, pixels=LIFTED),
    Case(
        "wilor", hamer.write_wilor, "h.json", {"layout": "nested", "name_key": None}, pixels=LIFTED
    ),
    Case(
        "hamer", hamer.write_hamer, "bare.npy", {"optional": False, "scores": False}, pixels=LIFTED
    ),
    Case("wilor_mini", hamer.write_wilor_mini, "mini.pkl"),
    Case("wilor_mini", hamer.write_wilor_mini, "mini.json", {"layout": "lists"}),
    Case("wilor_mini", hamer.write_wilor_mini, "one.npy", {"layout": "list", "decoys": False}),
    Case("acr", weak.write_acr, "acr.pkl", pixels=ACR_PIXELS),
    Case(
        "acr", weak.write_acr, "acr.npz", {"layout": "one", "dtype": np.float32}, pixels=ACR_PIXELS
    ),
    Case(
        "acr", weak.write_acr, "a.npz", {"layout": "per_image", "empty": "list"}, pixels=ACR_PIXELS
    ),
    Case("dir", weak.write_dir, "dir.pkl"),
    Case("dir", weak.write_dir, "dir.npy", {"layout": "batches", "name_key": None}),
    Case("dir", weak.write_dir, "dir.npz", {"layout": "dict", "in_parts": True}),
    Case("frankmocap", weak.write_frankmocap, "mocap", scene={"zero_betas": True}, pixels=LIFTED),
    Case(
        "frankmocap",
        weak.write_frankmocap,
        "mocap",
        {"second_person": False, "depth_in_image": False},
        scene={"zero_betas": True},
        given=("image_size",),
        pixels=LIFTED,
    ),
    Case("s2hand", datasets.write_s2hand, "s2hand.pkl", scene={"components": 30}),
    Case("s2hand", datasets.write_s2hand, "s.npz", {"keypoints": False}, scene={"components": 30}),
    Case("interhand", datasets.write_interhand, "InterHand2.6M_test_MANO_NeuralAnnot.json"),
    Case("freihand", datasets.write_freihand, "freihand", scene={"focal": (1500.0, 1490.0)}),
    Case("freihand", datasets.write_freihand, "f", {"split": "evaluation", "nested": False}),
    Case("ho3d", datasets.write_ho3d, "ho3d"),
    Case("ho3d", datasets.write_ho3d, "ho3d", {"root_only": True}),
    Case("ho3d", datasets.write_h2o3d, "h2o3d", scene={"shared_betas": True}),
    Case("dexycb", datasets.write_dexycb, "dexycb", scene={"constant_betas": True}),
    Case("dexycb", datasets.write_dexycb, "d", {"side": "left"}, scene={"constant_betas": True}),
    Case("hot3d", datasets.write_hot3d, "hands.jsonl", scene={"components": 15}),
    Case("hot3d", datasets.write_hot3d, "h.jsonl", {"null_pose": True}, scene={"components": 15}),
]


@pytest.fixture(params=CASES, ids=str)
def case(request, tmp_path, hands):
    """The case, what was written and what was read."""
    case = request.param
    scene = (telephoto if case.far else make_scene)(3, **case.scene)
    written = case.write(tmp_path / case.file, scene, **case.options)
    given = {name: written.options[name] for name in case.given}
    conversion, taken = read_foreign(
        written.path, source=case.source, reading=Reading(hands, **given)
    )
    return case, written, conversion, taken


def paired(written, conversion):
    """Indices of written frames and of the frames that must equal them.

    Where an image has hands that cannot be joined, each is a frame of its own, and told.
    """
    ours, names = [], conversion.predictions.frame_id
    read = 0
    theirs = []
    for frame in range(len(written.hand_valid)):
        if frame in written.notes:
            stem = names[read].split("#")[0].rpartition("/0")[0] or names[read].split("#")[0]
            while read < len(names) and names[read].startswith(stem):
                read += 1
            continue
        theirs.append(frame)
        ours.append(read)
        read += 1
    assert read == len(names)
    return np.array(theirs), np.array(ours)


def posed(hands, predictions, tips):
    """Joints (N, 2, 21, 3) about the anchor wrist."""
    hands = tipped(hands, tips)
    joints = pose_joints_float64(hands, **predictions.parameters)
    joints = joints - joints[:, :, :1]
    if predictions.relative_transl is not None:
        tau = predictions.relative_transl.astype(float)
        both = predictions.hand_valid.all(1)
        joints[both, 1] += tau[both, None]
    return joints


def tipped(hands, tips):
    return replace(hands, tip_vertices=jnp.asarray(fingertip_vertices(TIP_SETS[tips])))


def test_frames_are_those_of_the_file(case):
    _, written, conversion, _ = case
    theirs, ours = paired(written, conversion)
    predictions = conversion.predictions
    np.testing.assert_array_equal(predictions.hand_valid[ours], written.hand_valid[theirs])
    if written.frame_id is not None:
        for frame, read in zip(theirs, ours, strict=True):
            assert predictions.frame_id[read].endswith(str(written.frame_id[frame]))


def test_parameters_come_back(case):
    _, written, conversion, _ = case
    theirs, ours = paired(written, conversion)
    p, there = conversion.predictions, written.hand_valid[theirs]
    close = max(written.atol, 1e-5)
    for name in ("global_orient", "hand_pose"):
        found, truth = getattr(p, name)[ours][there], getattr(written, name)[theirs][there]
        apart = Rotation.from_rotvec(found.reshape(-1, 3).astype(float)).inv()
        angle = (apart * Rotation.from_rotvec(truth.reshape(-1, 3))).magnitude()
        assert angle.max(initial=0) < close
    known = written.betas_known[theirs]
    np.testing.assert_allclose(p.betas[ours][known], written.betas[theirs][known], atol=close)
    assert not p.betas[ours][~there].any() and not p.hand_pose[ours][~there].any()


def test_places_come_back(case):
    _, written, conversion, taken = case
    theirs, ours = paired(written, conversion)
    p, both = conversion.predictions, written.hand_valid[theirs].all(1)
    close = max(written.atol, 1e-5)
    apart = taken.conventions.two_hands == "apart"
    if p.relative_transl is not None:
        tau, known = p.relative_transl[ours], p.relative_transl_known()[ours]
        assert not tau[~both].any()
        # Two crops of their own know x and y to a centimetre, and nothing of the depth between.
        expected = [True, True, False] if apart else written.relative_known[theirs][both]
        np.testing.assert_array_equal(known[both], np.broadcast_to(expected, known[both].shape))
        compared = known & written.relative_known[theirs] & both[:, None]
        error = np.abs(tau - written.relative_transl[theirs])[compared]
        assert error.max(initial=0) < (0.02 if apart else close)
    if written.root_exact and p.root_transl is not None:
        some = written.hand_valid[theirs].any(1)
        np.testing.assert_allclose(
            p.root_transl[ours][some], written.root_transl[theirs][some], atol=close
        )


def test_pixels_come_back(case, hands):
    case, written, conversion, _ = case
    theirs, ours = paired(written, conversion)
    p = conversion.predictions.frames(ours)
    if written.pixels is None or p.K is None or p.root_transl is None:
        return
    if not written.betas_known[theirs][written.hand_valid[theirs]].all() and case.source in (
        "ho3d",
        "dexycb",
    ):
        return  # A left hand of another shape space is not the same hand.
    joints = posed(hands, p, written.tips) + p.root_transl[:, None, None]
    seen = project(p.K[:, :1].astype(float), joints)
    there = written.hand_valid[theirs]
    assert np.abs(seen - written.pixels[theirs])[there].max(initial=0) < case.pixels


def test_weak_cameras_come_back(case):
    _, written, conversion, _ = case
    theirs, ours = paired(written, conversion)
    if conversion.predictions.weak_camera is None:
        return
    anchor = np.where(written.hand_valid[theirs, 0], 0, 1)
    truth = written.weak[theirs, anchor]
    np.testing.assert_allclose(conversion.predictions.weak_camera[ours], truth, atol=1e-5)


SINGLE = {"decoys": False, "second_person": False}
"""The writers' extra hands have another hand's joints."""


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_self_check_agrees(tmp_path, hands, case):
    """With the embedded hand, and with one that is not quite it and so is taken for genuine."""
    known = {k: v for k, v in SINGLE.items() if k in inspect.signature(case.write).parameters}
    scene = (telephoto if case.far else make_scene)(3, **case.scene)
    written = case.write(tmp_path / case.file, scene, **{**case.options, **known})
    given = {name: written.options[name] for name in case.given}
    for model in (hands, replace(hands, v_template=hands.v_template * 1.00001)):
        reading = Reading(model, **given)
        conversion, taken = read_foreign(written.path, source=case.source, reading=reading)
        check = check_conversion(conversion, taken.conventions, model)
        assert check.passed, check


def test_what_cannot_be_joined_is_told(case):
    _, written, conversion, _ = case
    crowded = [note for note in conversion.notes if "several hands" in note]
    wanted = any("hands" in what for what in written.notes.values())
    assert bool(crowded) == wanted


def test_the_true_focal_length_brings_hamer_to_true_depths(tmp_path, hands):
    """Crops see hands turned by the angle at which they look; the image's camera does not."""
    scene = make_scene(3)
    written = hamer.write_hamer(tmp_path / "hamer.pkl", scene, decoys=False)
    reading = Reading(hands, focal=1500.0)
    conversion, taken = read_foreign(written.path, source="hamer", reading=reading)
    p, frames = conversion.predictions, written.scene_frames
    anchor = np.where(scene.hand_valid[frames, 0], 0, 1)
    truth = scene.wrist[frames, anchor]
    # The crop's weak camera takes a hand before 0.6 m for one of its mean depth.
    assert np.abs(p.root_transl / truth - 1)[:, 2].max() < 0.15
    assert p.K[0, 0, 0, 0] == 1500 and p.root_transl[:, 2].max() < 1.0
    assert check_conversion(conversion, taken.conventions, hands).passed
    assert not any("made up" in note or "source's own" in note for note in conversion.notes)


@pytest.mark.parametrize("with_translation", [True, False])
def test_a_sign_that_hamers_demo_changed_is_put_right(tmp_path, hands, with_translation):
    """The demo negates a left hand's t_x within `out`, before most people save it."""
    written = hamer.write_hamer(tmp_path / "hamer.pkl", make_scene(3), decoys=False)
    reading = Reading(hands)
    truth = read_foreign(written.path, source="hamer", reading=reading)[0].predictions
    batches = pickle.loads(written.path.read_bytes())
    for batch in batches:
        s, x, y = batch["pred_cam"].T
        if with_translation:
            batch["pred_cam_t"] = np.stack([x, y, 2 * 5000 / (256 * s + 1e-9)], axis=1)
        batch["pred_cam"] = np.stack([s, (2 * batch["right"] - 1) * x, y], axis=1)
    written.path.write_bytes(pickle.dumps(batches))
    found = read_foreign(written.path, source="hamer", reading=reading)[0].predictions
    np.testing.assert_allclose(found.root_transl, truth.root_transl, atol=1e-4)
    np.testing.assert_allclose(found.relative_transl, truth.relative_transl, atol=1e-4)


@pytest.mark.parametrize(
    ("source", "empty"),
    [
        (
            "hamer",
            {
                "pred_mano_params": {
                    "global_orient": np.zeros((0, 1, 3, 3)),
                    "hand_pose": np.zeros((0, 15, 3, 3)),
                    "betas": np.zeros((0, 10)),
                },
                "pred_cam": np.zeros((0, 3)),
                "right": np.zeros(0),
                "box_center": np.zeros((0, 2)),
                "box_size": np.zeros(0),
                "img_size": np.zeros((0, 2)),
            },
        ),
        (
            "dir",
            {f"pd_mano_para_{s}": np.zeros((0, 64)) for s in ("left", "right")}
            | {"pd_offset": np.zeros((0, 3))},
        ),
        (
            "s2hand",
            {
                "theta": np.zeros((0, 30)),
                "beta": np.zeros((0, 10)),
                "rot": np.zeros((0, 3)),
                "scale": np.zeros((0, 1)),
                "trans": np.zeros((0, 3)),
                "Ks": np.zeros((0, 3, 3)),
            },
        ),
        ("ihmr", {}),
        ("acr", {"a.jpg": {}}),
        ("wilor_mini", [[], []]),
    ],
)
def test_a_file_without_a_hand_is_an_error(tmp_path, hands, source, empty):
    (tmp_path / "empty.pkl").write_bytes(pickle.dumps(empty))
    with pytest.raises(InputError, match="found none|no hand|expected"):
        read_foreign(tmp_path / "empty.pkl", source=source, reading=Reading(hands))


def test_options_that_a_format_has_no_use_for_are_refused(tmp_path, hands):
    written = weak.write_dir(tmp_path / "dir.pkl", make_scene(3))
    with pytest.raises(InputError, match="dir has no use for focal, which is for .*hamer"):
        read_foreign(written.path, source="dir", reading=Reading(hands, focal=1500.0))


def test_videos_in_one_folder_are_not_mixed(tmp_path, hands):
    """Two videos' images have the same names: their hands must not come together."""
    for i, name in enumerate(("first", "second")):
        weak.write_acr(tmp_path / "acr" / f"{name}.pkl", make_scene(i), decoys=False)
    found = read_foreign(tmp_path / "acr", source="acr", reading=Reading(hands))[0].predictions
    assert found.num_frames == 2 * make_scene(0).num_frames
    assert {name.split("/")[0] for name in found.frame_id} == {"first", "second"}


def test_ihmrs_images_are_told_apart_by_their_folders(tmp_path, hands):
    scene = make_scene(3)
    written = weak.write_ihmr(tmp_path / "ihmr.pkl", scene)
    images = pickle.loads(written.path.read_bytes())
    first = next(iter(images.values()))
    both = {f"test/{side}/image1.jpg": first for side in ("camA", "camB")}
    written.path.write_bytes(pickle.dumps(both))
    labels = tmp_path / "labels.pkl"

    def read(annotations):
        labels.write_bytes(pickle.dumps(annotations))
        reading = Reading(hands, annotations=labels)
        return read_foreign(written.path, source="ihmr", reading=reading)[0].predictions

    known = [
        {"img_path": "other/root/camA/image1.jpg", "hand_type": "right"},
        {"img_path": "other/root/camB/image1.jpg", "hand_type": "left"},
    ]
    assert read(known).hand_valid.tolist() == [[True, False], [False, True]]
    with pytest.raises(InputError, match="no annotation"):
        read(known[:1])
    with pytest.raises(InputError, match="is in .* too"):
        (tmp_path / "two").mkdir()
        for name in ("a.pkl", "b.pkl"):
            (tmp_path / "two" / name).write_bytes(written.path.read_bytes())
        read_foreign(tmp_path / "two", source="ihmr", reading=Reading(hands))


def test_a_video_that_begins_without_hands_is_recognised(tmp_path, hands):
    written = hamer.write_wilor_mini(tmp_path / "mini.pkl", make_scene(3), layout="lists")
    frames = pickle.loads(written.path.read_bytes())
    written.path.write_bytes(pickle.dumps([[]] * 9 + list(frames)))
    conversion, taken = read_foreign(written.path, source="auto", reading=Reading(hands))
    assert taken.name == "wilor_mini" and not conversion.predictions.hand_valid[:9].any()


def test_right_hands_of_dexycb_lose_nothing(tmp_path, hands):
    written = datasets.write_dexycb(tmp_path / "dexycb", make_scene(3, constant_betas=True))
    conversion, _ = read_foreign(written.path, source="dexycb", reading=Reading(hands))
    assert conversion.notes == ()


def test_names_that_are_no_text_are_an_error(tmp_path, hands):
    written = hamer.write_hamer(tmp_path / "hamer.json", make_scene(3), decoys=False)
    batches = json.loads(written.path.read_text())
    batches[0]["img_path"] = [None] * len(batches[0]["img_path"])
    written.path.write_text(json.dumps(batches))
    with pytest.raises(InputError, match="img_path: expected text, found None"):
        read_foreign(written.path, source="hamer", reading=Reading(hands))


@pytest.mark.parametrize("case", [c for c in CASES if not c.given][::3], ids=str)
def test_the_command_converts_every_kind_of_container(tmp_path, hands, case, capsys):
    written = case.write(tmp_path / case.file, make_scene(3, **case.scene), **case.options)
    convert_file(written.path, tmp_path / "out.npz", to="canonical")
    assert "taken for" in capsys.readouterr().out
    with_bones = read_predictions(tmp_path / "out.npz")
    assert with_bones.has_parameters and with_bones.num_frames >= 1
