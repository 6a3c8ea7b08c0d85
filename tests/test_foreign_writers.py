"""The reference writers judge themselves: their files, read by the documented formulas alone."""

# Every written file has the fields that its test reads.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false
# pyright: reportArgumentType=false, reportCallIssue=false

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest

from tests.foreign import datasets, hamer, joints, meshes, weak
from tests.foreign.scene import (
    FLIP,
    MANO_TO_IH,
    MANO_TO_OP,
    OP_TO_MANO,
    S2H_TO_MANO,
    TIPS,
    M,
    make_scene,
    models,
    pose_hand,
    project,
    rest_wrist,
    rotmat,
    rotvec,
    telephoto,
)
from tests.reference_hand import pose_one_hand

RIGHT, LEFT = 0, 1
MEAN = [model.pose_mean for model in models()]


@pytest.fixture(scope="module")
def scene():
    return make_scene(3)


def load(path):
    return pickle.loads(path.read_bytes())


def posed(h, orient, pose, betas, tips):
    """Joints (21, 3) in MANO's frame from flat numbers as files hold them, the mean included."""
    args = (np.reshape(orient, (1, 3)), np.reshape(pose, (1, 15, 3)), np.reshape(betas, (1, 10)))
    return pose_hand(models()[h], *args, TIPS[tips][h])[1][0]


def hands_of(written):
    """Pairs (frame of the file, hand) that are there."""
    return [tuple(pair) for pair in np.argwhere(written.hand_valid)]


def reprojects(written, px):
    """The hands of `Written` in its own perspective camera are at its pixels."""
    points = np.where(written.hand_valid[..., None, None], written.joints, np.nan)
    found = project(written.K[:, None], points)
    np.testing.assert_allclose(found, written.pixels, atol=px)


def weakly_reprojects(written, px):
    """The same in its weak camera: u = s (X + t) of the crop."""
    u = written.weak[..., None, :1] * (written.local_joints[..., :2] + written.weak[..., None, 1:])
    found = written.crop[..., None, :2] + written.crop[..., None, 2:] / 2 * u
    there = written.hand_valid
    np.testing.assert_allclose(found[there], written.pixels[there], atol=px)


def misfit(written, scene):
    """Pixels between the source's own camera and the scene's true one."""
    true = scene.pixels(scene.joints(written.tips))[written.scene_frames]
    return np.nanmax(np.abs(true - written.pixels))


# ---- scenes


@pytest.mark.parametrize("h", [RIGHT, LEFT])
def test_posing_is_the_reference(scene, h):
    for frame in scene.having(("right", "left")[h])[:2]:
        vertices, at = pose_one_hand(
            models()[h],
            TIPS["B"][h],
            global_orient=scene.global_orient[frame, h],
            hand_pose=scene.hand_pose[frame, h],
            betas=scene.betas[frame, h],
            transl=scene.wrist[frame, h] - scene.rest_wrists()[frame, h],
        )
        np.testing.assert_allclose(scene.vertices()[frame, h], vertices, atol=1e-9)
        np.testing.assert_allclose(scene.joints("B")[frame, h], at, atol=1e-9)


def test_the_mirrored_left_hand_is_the_native_one(scene):
    orient, pose, betas = (x[:, LEFT] for x in (scene.global_orient, scene.hand_pose, scene.betas))
    args = (rotvec(M @ rotmat(orient) @ M), rotvec(M @ rotmat(pose) @ M), betas)
    vertices, at = pose_hand(models()[RIGHT], *args, TIPS["A"][RIGHT])
    native = pose_hand(models()[LEFT], orient, pose, betas, TIPS["A"][LEFT])
    np.testing.assert_allclose(vertices * FLIP, native[0], atol=1e-9)
    np.testing.assert_allclose(at * FLIP, native[1], atol=1e-9)


def test_scenes_are_as_promised(scene):
    assert scene.hand_valid.tolist() == [[1, 1], [1, 1], [1, 0], [0, 1], [0, 0], [1, 1]]
    there = scene.hand_valid
    depth = scene.wrist[there][:, 2]
    assert depth.min() > 0.3 and depth.max() < 0.9
    pixels = scene.pixels(scene.joints())[there]
    assert pixels.min() > -300 and pixels.max() < 2200
    assert np.all(scene.betas[there] != 0) and not scene.betas[~there].any()
    assert np.all(scene.betas[there.all(1)][:, 0] != scene.betas[there.all(1)][:, 1])
    for number in (15, 30, 45):
        assert make_scene(1, components=number).pca(number).shape == (6, 2, number)
    with pytest.raises(AssertionError):
        scene.pca(15)


def test_orders_agree_with_each_other():
    names = ["wrist"] + [
        f"{finger}{i}" for finger in ("index", "middle", "pinky", "ring", "thumb") for i in "123"
    ]
    names += [f"{finger}4" for finger in ("thumb", "index", "middle", "ring", "pinky")]
    fingers = ("thumb", "index", "middle", "ring", "pinky")
    openpose = ["wrist"] + [f"{finger}{i}" for finger in fingers for i in "1234"]
    interhand = [f"{finger}{i}" for finger in fingers for i in "4321"] + ["wrist"]
    s2hand = ["wrist"] + [
        f"{finger}{i}" for finger in ("index", "middle", "pinky", "ring", "thumb") for i in "1234"
    ]
    assert [names[i] for i in MANO_TO_OP] == openpose
    assert [names[i] for i in MANO_TO_IH] == interhand
    assert [openpose[i] for i in OP_TO_MANO] == names
    assert [s2hand[i] for i in S2H_TO_MANO] == names


# ---- HaMeR, WiLoR, WiLoR-mini


def test_hamer_crops_show_the_pixels(tmp_path, scene):
    written = hamer.write_hamer(tmp_path / "hamer.pkl", scene)
    assert written.notes == {0: "two right hands"}
    rows = {name: i for i, name in enumerate(written.frame_id)}
    sizes, count = set(), 0
    for batch in load(written.path):
        for d, name in enumerate(batch["img_path"]):
            if batch["score"][d] < 0.5:
                continue
            i, h = rows[name], 1 - int(batch["right"][d])
            parameters = {key: x[d] for key, x in batch["pred_mano_params"].items()}
            orient, pose = (rotvec(parameters[key]) for key in ("global_orient", "hand_pose"))
            # All of it explains the crop by the right model; a left crop is flipped.
            X = posed(RIGHT, orient, pose, parameters["betas"], "A")
            np.testing.assert_allclose(X[MANO_TO_OP], batch["pred_keypoints_3d"][d], atol=1e-6)
            s, tx, ty = batch["pred_cam"][d]
            moved = X + [tx, ty, 2 * 5000 / (256 * s + 1e-9)]
            halves = 5000 / 256 * moved[:, :2] / moved[:, 2:]
            np.testing.assert_allclose(halves[MANO_TO_OP], batch["pred_keypoints_2d"][d], atol=1e-5)
            centre, side = batch["box_center"][d], batch["box_size"][d]
            px = centre + side * halves * (FLIP[:2] if h else 1)
            np.testing.assert_allclose(px, written.pixels[i, h], atol=0.01)
            sizes.add(float(side))
            count += 1
    assert count == len(hands_of(written)) == len(sizes)
    assert sum(len(batch["right"]) for batch in load(written.path)) == count + 1


def test_hamer_lifts_within_three_pixels(tmp_path):
    """Crops of some 200 px, as conventions.md has it; larger ones lift worse in proportion."""
    small = make_scene(3, focal=(600.0, 600.0), image_size=(640, 480), principal=(322.0, 238.0))
    written = hamer.write_hamer(tmp_path / "hamer.pkl", small)
    assert 100 < written.crop[written.hand_valid][:, 2].mean() < 300
    reprojects(written, 3.0)
    weakly_reprojects(written, 3.0)


def test_wilor_mini_is_native_and_exact(tmp_path, scene):
    written = hamer.write_wilor_mini(tmp_path / "wilor.pkl", scene)
    reprojects(written, 1e-6)
    W, H = scene.image_size
    images = load(written.path)
    assert list(images) == written.frame_id == scene.images
    for i, h in hands_of(written):
        hand = next(d for d in images[written.frame_id[i]] if d["is_right"] == 1 - h)
        p = hand["wilor_preds"]
        X = posed(h, p["global_orient"], p["hand_pose"], p["betas"], "A")
        moved = X + p["pred_cam_t_full"]
        px = p["scaled_focal_length"] * moved[:, :2] / moved[:, 2:] + [W / 2, H / 2]
        np.testing.assert_allclose(px[MANO_TO_OP], p["pred_keypoints_2d"][0], atol=0.1)
        np.testing.assert_allclose(moved[0], written.wrists[i, h], atol=2e-5)


# ---- weak-perspective networks


def test_ihmr_shows_both_hands_in_one_camera(tmp_path, scene):
    written = weak.write_ihmr(tmp_path / "ihmr.pkl", scene)
    weakly_reprojects(written, 1e-6)
    kinds = {a["img_path"]: a["hand_type"] for a in load(written.options["annotations"])}
    b = max(scene.image_size)
    for i, (name, p) in enumerate(load(written.path).items()):
        assert name == written.frame_id[i]
        pose = np.asarray(p["pred_pose_params"], float).reshape(2, 48)
        betas = np.asarray(p["pred_shape_params"], float).reshape(2, 10)
        s, tx, ty = p["pred_cam_params"]
        right, left = (
            posed(h, pose[h, :3], pose[h, 3:] + MEAN[h], betas[h], "A") for h in (RIGHT, LEFT)
        )
        left = left - left[0] + right[0] + p["pred_hand_trans"]
        there = written.hand_valid[i]
        kind = "interacting" if there.all() else "right" if there[RIGHT] else "left"
        assert kinds[name] == kind
        for h, X in enumerate((right, left)):
            px = (s * (X[:, :2] + [tx, ty]) + 1) * b / 2
            if there[h]:
                np.testing.assert_allclose(px, written.pixels[i, h], atol=0.01)
        np.testing.assert_allclose(
            p["joints_3d"], np.concatenate([right, left]) - right[0], atol=1e-6
        )


def test_interwild_in_both_layouts(tmp_path, scene):
    written = weak.write_interwild(tmp_path / "demo", scene)
    assert len(list(written.path.iterdir())) == written.hand_valid.sum()
    for i, h in hands_of(written):
        side = ("right", "left")[h]
        hand = json.loads((written.path / f"{written.frame_id[i]}_{side}.json").read_text())
        X = posed(h, hand["root_pose"], hand["hand_pose"] + MEAN[h], hand["shape"], "B''")
        np.testing.assert_allclose(X - X[0], written.local_joints[i, h], atol=1e-9)
        if written.hand_valid[i].all():
            np.testing.assert_allclose(hand["root_trans"], written.wrists[i, h], atol=1e-12)

    written = weak.write_interwild(tmp_path / "out.npz", scene, layout="output")
    reprojects(written, 1e-6)
    with np.load(written.path, allow_pickle=True) as out:
        assert np.all((out["rroot_cam"][:, 2] > 0) & (out["rroot_cam"][:, 2] < 11.72))
        np.testing.assert_allclose(out["rroot_cam"] + out["rel_trans"], out["lroot_cam"], atol=1e-6)
        np.testing.assert_allclose(out["rel_trans"], written.relative_transl, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_acr_places_hands_twice(tmp_path, scene, dtype):
    written = weak.write_acr(tmp_path / "acr.pkl", scene, dtype=dtype)
    weakly_reprojects(written, 1e-6)
    results = load(written.path)
    assert list(results) == scene.images and results[scene.images[4]] == {}
    assert [len(results[scene.images[0]][side]) for side in ("right", "left")] == [2, 1]
    W, H = scene.image_size
    half = dtype == np.float16
    for i, h in hands_of(written):
        hand = results[written.frame_id[i]][("right", "left")[h]][0]
        assert {x.dtype for x in hand.values()} == {np.dtype(dtype)}
        p = np.asarray(hand["poses"], float)
        X = posed(h, p[:3], p[3:] + MEAN[h], np.asarray(hand["betas"], float), "B")
        # OpenPose joint 9 is MANO's fifth: the base of the middle finger.
        np.testing.assert_allclose((X - X[4])[MANO_TO_OP], hand["j3d"], atol=written.atol)
        u = hand["cam"][0] * hand["j3d"][:, :2] + hand["cam"][1:]
        np.testing.assert_allclose(u, hand["pj2d"], atol=2e-3 if half else 1e-6)
        a = max(W, H) / 512
        px = a * 256 * (np.asarray(hand["pj2d"], float) + 1) - [0, (max(W, H) - H) / 2]
        px_of_image = 1.0 if half else 0.001
        np.testing.assert_allclose(px, written.pixels[i, h][MANO_TO_OP], atol=px_of_image)
        np.testing.assert_allclose(px, hand["pj2d_org"], atol=2 * px_of_image)
        wrist = np.asarray(hand["j3d"][0], float) + hand["cam_trans"]
        np.testing.assert_allclose(wrist, written.wrists[i, h], atol=written.atol)


def test_dir_turns_by_the_symmetric_rule(tmp_path, scene):
    written = weak.write_dir(tmp_path / "dir.pkl", scene)
    weakly_reprojects(written, 1e-6)
    _, rough, final, dense = load(written.path)
    assert "pd_mano_pose_left" in rough and "pd_mano_pose_left" not in dense
    for h, side in enumerate(("right", "left")):
        six = np.asarray(final[f"pd_mano_pose_{side}"][:, :6])
        R = weak.symmetric_rotation(six)
        np.testing.assert_allclose(R, rotmat(written.global_orient[:, h]), atol=1e-5)
        x, y = six[:, :3], six[:, 3:]
        assert np.all(np.abs(np.linalg.norm(x, axis=1) - 1) > 0.01)
        assert np.all(np.abs((x * y).sum(1)) > 1e-3)
        # Gram-Schmidt would be told apart.
        first = x / np.linalg.norm(x, axis=1, keepdims=True)
        assert np.abs(first - R[..., 0]).max(1).min() > 0.01
        pose = final[f"pd_mano_pose_{side}"][:, 6:] @ models()[h].pose_components + MEAN[h]
        np.testing.assert_allclose(pose.reshape(-1, 15, 3), written.hand_pose[:, h], atol=1e-6)
        X = final[f"pd_joint_xyz_{side}"]
        proj = final[f"pd_proj_{side}"]
        px = 128 * (proj[:, None, :1] * X[..., :2] + proj[:, None, 1:] + 1)
        np.testing.assert_allclose(px[:, OP_TO_MANO], written.pixels[:, h], atol=1e-3)
    np.testing.assert_allclose(final["pd_offset"] * -0.15, written.relative_transl, atol=1e-6)


def test_frankmocap_is_about_the_index_finger(tmp_path):
    scene = make_scene(3, zero_betas=True)
    written = weak.write_frankmocap(tmp_path / "mocap", scene)
    weakly_reprojects(written, 1e-6)
    files = sorted(written.path.glob("*_prediction_result.pkl"))
    assert [load(file)["image_path"] for file in files] == written.frame_id
    assert written.notes == {0: "two people"} and len(load(files[0])["pred_output_list"]) == 2
    for i, h in hands_of(written):
        hand = load(files[i])["pred_output_list"][0][("right_hand", "left_hand")[h]]
        p = np.asarray(hand["pred_hand_pose"][0], float)
        X = posed(h, p[:3], p[3:] + MEAN[h], np.zeros(10), "A")
        np.testing.assert_allclose((X - X[1])[MANO_TO_OP], hand["pred_joints_smpl"], atol=1e-6)
        s, tx, ty = hand["pred_camera"]
        u = s * (hand["pred_joints_smpl"][:, :2] + [tx, ty])
        px = hand["bbox_top_left"] + (u + 1) / 2 * 224 / hand["bbox_scale_ratio"]
        np.testing.assert_allclose(px, hand["pred_joints_img"][:, :2], atol=1e-3)
        np.testing.assert_allclose(px, written.pixels[i, h][MANO_TO_OP], atol=1e-3)


# ---- perfect networks


@pytest.mark.parametrize(
    ("write", "near", "far"),
    [
        (hamer.write_hamer, 60, 8),
        (hamer.write_wilor_mini, 60, 8),
        (weak.write_ihmr, 120, 14),
        (weak.write_acr, 60, 8),
        (weak.write_frankmocap, 60, 8),
    ],
)
def test_networks_see_the_scene_as_well_as_their_camera_can(tmp_path, write, near, far):
    """A crop camera knows no perspective: through a telephoto lens it errs a tenth as much."""
    for at, bound in ((make_scene, near), (telephoto, far)):
        scene = at(3, zero_betas=True)
        assert misfit(write(tmp_path / f"{at.__name__}.pkl", scene), scene) < bound


# ---- data sets


def test_s2hand_turns_after_posing(tmp_path):
    scene = make_scene(3, components=30)
    written = datasets.write_s2hand(tmp_path / "s2hand.npz", scene)
    reprojects(written, 1e-6)
    with np.load(written.path, allow_pickle=True) as out:
        file = {key: out[key] for key in out.files}
    assert np.any(file["scale"] < 0) and np.all(np.abs(np.abs(file["scale"]) - 1) > 1e-3)
    for i in range(len(written.frame_id)):
        pose = file["theta"][i] @ models()[RIGHT].pose_components[:30] + MEAN[RIGHT]
        X = posed(RIGHT, [np.pi, 0, 0], pose, file["beta"][i], "C")
        X = file["trans"][i] + np.abs(file["scale"][i]) * (X @ rotmat(file["rot"][i]).T)
        np.testing.assert_allclose(file["joints"][i][S2H_TO_MANO], X, atol=2e-6)
        size = written.scale[i, RIGHT]
        np.testing.assert_allclose(X / size, written.joints[i, RIGHT], atol=2e-6)
        px = project(file["Ks"][i], X)
        np.testing.assert_allclose(px[MANO_TO_OP], file["open_2dj"][i], atol=0.02)


def test_world_formats_turn_about_the_wrist(tmp_path):
    scene = make_scene(3, components=15)
    T = scene.T_camera_world
    R, t = T[:3, :3], T[:3, 3]
    hot3d = datasets.write_hot3d(tmp_path / "hands.jsonl", scene)
    interhand = datasets.write_interhand(tmp_path / "val_MANO_NeuralAnnot.json", scene)
    for written in (hot3d, interhand):
        there = written.hand_valid[..., None, None]
        np.testing.assert_allclose(
            (written.joints @ R.T + t) * there, scene.joints("A") * there, atol=1e-12
        )
    lines = [json.loads(line) for line in hot3d.path.read_text().splitlines()]
    captures = json.loads(interhand.path.read_text())
    assert lines[4]["hand_poses"] == {}
    for i, h in hands_of(hot3d):
        hand = lines[i]["hand_poses"]["10"[h]]
        pose = hand["pose"] @ models()[h].pose_components[:15] + MEAN[h]
        w, x, y, z = hand["wrist_xform"]["q_wxyz"]
        half = np.arctan2(np.linalg.norm([x, y, z]), w)
        orient = np.array([x, y, z]) / np.sin(half) * 2 * half
        X = posed(h, orient, pose, hand["betas"], "A") + hand["wrist_xform"]["t_xyz"]
        np.testing.assert_allclose(X, hot3d.joints[i, h], atol=1e-8)

        capture, frame = interhand.frame_id[i].split("/")
        hand = captures[capture][frame][("right", "left")[h]]
        pose = np.array(hand["pose"])
        X = posed(h, pose[:3], pose[3:] + MEAN[h], hand["shape"], "A") + hand["trans"]
        np.testing.assert_allclose(X, interhand.joints[i, h], atol=1e-8)


def test_freihand_places_the_middle_finger(tmp_path):
    scene = make_scene(3, varying_camera=True, focal=(1500.0, 1520.0))
    written = datasets.write_freihand(tmp_path, scene)
    reprojects(written, 1e-6)
    mano, K, xyz, scale = (
        np.array(json.loads((tmp_path / f"training_{name}.json").read_text()))
        for name in ("mano", "K", "xyz", "scale")
    )
    count = len(written.frame_id)
    assert mano.shape == (count, 1, 61) and K.shape == (4 * count, 3, 3)
    for i in range(count):
        row = mano[i, 0]
        X = posed(RIGHT, row[:3], row[3:48] + MEAN[RIGHT], row[48:58], "C")[MANO_TO_OP]
        camera = K[i + 2 * count]
        focal = (camera[0, 0] + camera[1, 1]) / 2
        root = np.array([*(row[58:60] - camera[:2, 2]), focal]) / row[60]
        X = X - X[9] + root
        np.testing.assert_allclose(X, xyz[i], atol=1e-9)
        np.testing.assert_allclose(X[OP_TO_MANO], written.joints[i, RIGHT], atol=1e-9)
        np.testing.assert_allclose(np.linalg.norm(X[9] - X[10]), scale[i], atol=1e-9)


@pytest.mark.parametrize("both", [False, True])
def test_ho3d_axes_are_opengl(tmp_path, both):
    scene = make_scene(3, shared_betas=True)
    write = datasets.write_h2o3d if both else datasets.write_ho3d
    written = write(tmp_path, scene)
    reprojects(written, 1e-6)
    files = sorted(written.path.iterdir())
    assert [f"{written.path.parent.name}/{file.stem}" for file in files] == written.frame_id
    right, left = models()
    # The left set-up negates the official shapedirs, which are the right hand's.
    pair = (right, replace(left, shapedirs=-right.shapedirs))
    for i, h in hands_of(written):
        meta = load(files[i])
        key = f"{('right', 'left')[h]}Hand" if both else "hand"
        pose = meta[f"{key}Pose"]
        args = (pose[None, :3], pose[3:].reshape(1, 15, 3), meta["handBeta"][None])
        X = pose_hand(pair[h], *args, TIPS["D"][h])[1][0] + meta[f"{key}Trans"]
        np.testing.assert_allclose(X, meta[f"{key}Joints3D"], atol=1e-9)
        np.testing.assert_allclose(X * [1, -1, -1], written.joints[i, h], atol=1e-9)
        assert np.all(X[:, 2] < 0)
    if not both:
        assert load(files[3])["handPose"] is None


@pytest.mark.parametrize("h", [RIGHT, LEFT])
def test_dexycb_left_hands_keep_raw_shapes(tmp_path, h):
    scene = make_scene(3, constant_betas=True)
    side = ("right", "left")[h]
    written = datasets.write_dexycb(tmp_path, scene, side=side)
    reprojects(written, 1e-6)
    right, left = models()
    model = (right, replace(left, shapedirs=right.shapedirs))[h]
    text = (tmp_path / "calibration" / f"mano_20200709-subject-01_{side}" / "mano.yml").read_text()
    betas = np.array([[float(line[2:]) for line in text.splitlines()[1:]]])
    for i, file in enumerate(sorted(written.path.iterdir())):
        with np.load(file) as labels:
            pose, at = np.asarray(labels["pose_m"][0], float), labels["joint_3d"][0]
        if not written.hand_valid[i, h]:
            assert not pose.any() and np.all(at == -1)
            continue
        fingers = (pose[3:48] @ model.pose_components + MEAN[h]).reshape(1, 15, 3)
        X = pose_hand(model, pose[None, :3], fingers, betas, TIPS["B"][h])[1][0] + pose[48:]
        np.testing.assert_allclose(X[MANO_TO_OP], at, atol=2e-6)
        np.testing.assert_allclose(X, written.joints[i, h], atol=2e-6)
    # The raw shape is no hand of ours, but near one.
    wrong = np.abs(written.joints - scene.joints("B") * written.hand_valid[..., None, None]).max()
    assert (wrong > 1e-4) == (h == LEFT) and wrong < 0.03
    assert written.betas_known.any() == (h == RIGHT)
    J0 = rest_wrist(model, betas)
    assert np.abs(J0[0]).max() < 0.2


# ---- joints and meshes


def test_internet_goes_back_through_the_camera(tmp_path, scene):
    written = joints.write_internet(tmp_path / "internet.npz", scene)
    reprojects(written, 1e-6)
    with np.load(written.path) as file:
        for i, h in hands_of(written):
            at = np.asarray(file["joint_coord"][i, 21 * h : 21 * h + 21])
            root = file["root_depth"][i]
            if h == LEFT and written.hand_valid[i, RIGHT]:
                root = root + file["rel_root_depth"][i, 0]
            z = (at[:, 2:] + root) / 1000
            X = np.concatenate([(at[:, :2] - file["princpt"][i]) / file["focal"][i] * z, z], axis=1)
            np.testing.assert_allclose(X, written.joints[i, h][MANO_TO_IH], atol=1e-6)
        np.testing.assert_array_equal(file["hand_type"] > 0.5, written.hand_valid)


@pytest.mark.parametrize("write", [joints.write_openpose, joints.write_coco_wholebody])
def test_keypoints_are_the_pixels(tmp_path, scene, write):
    written = write(tmp_path / "keypoints.json", scene)
    seen = written.confidence > 0
    assert 0.8 < seen[written.hand_valid].mean() < 1 and not seen[~written.hand_valid].any()
    np.testing.assert_allclose(written.keypoints[seen], written.pixels[seen], atol=1e-9)
    np.testing.assert_array_equal(np.isfinite(written.keypoints).all(-1), seen)


def test_keypoints_lie_where_the_formats_say(tmp_path, scene):
    written = joints.write_openpose(tmp_path / "openpose", scene)
    whole = joints.write_coco_wholebody(tmp_path / "a.json", scene)
    results = joints.write_coco_wholebody(tmp_path / "r.json", scene, results=True)
    annotations = {a["image_id"]: a for a in json.loads(whole.path.read_text())["annotations"]}
    images = json.loads(whole.path.read_text())["images"]
    detections = {d["image_id"]: d for d in json.loads(results.path.read_text())}
    for i, h in hands_of(written):
        file = written.path / f"{written.frame_id[i]}_keypoints.json"
        person = json.loads(file.read_text())["people"][-1]
        side = ("right", "left")[h]
        flat = np.reshape(person[f"hand_{side}_keypoints_2d"], (21, 3))
        annotation = annotations[images[i]["id"]]
        assert images[i]["file_name"] == whole.frame_id[i]
        shown = np.reshape(annotation[f"{side}hand_kpts"], (21, 3))
        at = 112 if h == RIGHT else 91
        row = np.reshape(detections[images[i]["id"]]["keypoints"], (133, 3))[at : at + 21]
        true = np.nan_to_num(written.keypoints[i, h])[MANO_TO_OP]
        for found in (flat, shown, row):
            np.testing.assert_allclose(found[:, :2], true, atol=1e-9)
        np.testing.assert_allclose(flat[:, 2], written.confidence[i, h][MANO_TO_OP])
        np.testing.assert_allclose(row[:, 2], flat[:, 2])
    assert len(json.loads((written.path / "frame_00012_keypoints.json").read_text())["people"]) == 2


def test_mediapipe_labels(tmp_path, scene):
    wrists = scene.pixels(scene.joints())[:, :, 0] / scene.image_size

    def labels(layout):
        written = joints.write_mediapipe(tmp_path / f"{layout}.json", scene, layout=layout)
        return json.loads(written.path.read_text())

    for frame, there in enumerate(scene.hand_valid):
        tasks, snake = labels("camel")[frame], labels("snake")[frame]
        legacy = labels("legacy")[frame]
        assert len(tasks["handedness"]) == there.sum() + (frame == 0)
        for k, ((hand,), points) in enumerate(
            zip(tasks["handedness"], tasks["landmarks"], strict=True)
        ):
            if frame or k:
                h = ("Right", "Left").index(hand["categoryName"])
                np.testing.assert_allclose([points[0]["x"], points[0]["y"]], wrists[frame, h])
            assert points[0]["z"] == 0
            assert snake["handedness"][k][0]["category_name"] == hand["categoryName"]
            other = legacy["multi_handedness"][k]["classification"][0]["label"]
            assert {other, hand["categoryName"]} == {"Left", "Right"}
            assert legacy["multi_hand_landmarks"][k]["landmark"][0]["x"] == points[0]["x"]
            world = np.array([[p[a] for a in "xyz"] for p in tasks["worldLandmarks"][k]])
            assert np.abs(world).max() < 0.2


def test_mediapipe_protos(tmp_path, scene):
    single = joints.write_mediapipe(tmp_path / "one", scene, layout="detection")
    files = sorted(single.path.iterdir())
    assert [file.stem for file in files] == single.frame_id and len(files) == 2
    for i, (file, label) in enumerate(zip(files, ("Right", "Left"), strict=True)):
        text = file.read_text()
        assert f'label: "{label}"' in text and text.count("landmark {") == 42
        x = float(text.split("x: ")[1].split()[0])
        at = single.keypoints[i, ("Right", "Left").index(label), 0, 0]
        np.testing.assert_allclose(x * scene.image_size[0], at, atol=1e-3)
    holistic = joints.write_mediapipe(tmp_path / "two", scene, layout="holistic")
    text = sorted(holistic.path.iterdir())[0].read_text()
    assert "left_hand_landmarks {" in text and "right_hand_landmarks {" in text


def test_intaghand_is_normalised(tmp_path, scene):
    written = meshes.write_intaghand(tmp_path / "intag.pkl", scene)
    weakly_reprojects(written, 1e-6)
    file = load(written.path)
    for h, side in enumerate(("right", "left")):
        X = file["verts3d"][side]
        s, t = file["scale"][side], file["trans2d"][side]
        px = 256 * s[:, None, None] * X[..., :2] + 128 * t[:, None] + 128
        np.testing.assert_allclose(px, file["verts2d"][side], atol=1e-3)
        tips = list(TIPS["B'"][h])
        np.testing.assert_allclose(px[:, tips], written.pixels[:, h, 16:], atol=1e-3)
        size = written.scale[:, h, None, None]
        # Up to its size and place, the file's hand is the scene's.
        own = X / size - (X / size)[:, :1]
        true = written.local_vertices[:, h] - written.local_vertices[:, h, :1]
        np.testing.assert_allclose(own, true, atol=1e-6)
    bones = np.linalg.norm(written.local_joints[:, :, 4], axis=-1) * written.scale
    np.testing.assert_allclose(bones.mean(1), 0.095, atol=1e-9)


@pytest.mark.parametrize("binary", [False, True])
def test_im2hands_units(tmp_path, scene, binary):
    written = meshes.write_im2hands(tmp_path, scene, binary=binary)
    assert len(list(tmp_path.iterdir())) == 2 * written.hand_valid.sum()
    for i, h in hands_of(written):
        stem = f"{written.frame_id[i]}_{('right', 'left')[h]}"
        lines = (tmp_path / f"{stem}.obj").read_text().splitlines()
        obj = np.array([line.split()[1:] for line in lines if line.startswith("v ")], float)
        np.testing.assert_allclose(obj / 1000, written.vertices[i, h], atol=1e-7)
        body = (tmp_path / f"{stem}.ply").read_bytes().split(b"end_header\n", 1)[1]
        points = np.frombuffer(body, "<f4") if binary else np.array(body.split(), float)
        np.testing.assert_allclose(
            points.reshape(21, 3), written.joints[i, h][MANO_TO_OP], atol=1e-6
        )


# ---- options


def test_every_option_writes(tmp_path, scene):
    """Layouts that the tests above leave out; each must load again as what it claims to be."""
    zero, thirty = make_scene(3, zero_betas=True), make_scene(3, components=30)
    cases = [
        (hamer.write_hamer, "a.json", scene, {"layout": "nested", "scores": False}),
        (hamer.write_hamer, "b.npz", scene, {"layout": "single", "name_key": "imgname"}),
        (hamer.write_hamer, "c.npy", scene, {"name_key": None, "optional": False}),
        (hamer.write_wilor_mini, "d.npz", scene, {"layout": "dict"}),
        (hamer.write_wilor_mini, "e.pkl", scene, {"layout": "lists"}),
        (hamer.write_wilor_mini, "f.json", scene, {"layout": "list"}),
        (weak.write_ihmr, "g.pkl", scene, {"annotations": False}),
        (weak.write_interwild, "h.json", scene, {"layout": "output", "name_key": None}),
        (weak.write_acr, "i.npz", scene, {"layout": "one", "empty": "list"}),
        (weak.write_acr, "j.npz", scene, {"layout": "per_image", "optional": False}),
        (weak.write_dir, "k.npz", scene, {"layout": "dict"}),
        (weak.write_dir, "l.json", scene, {"layout": "batches", "name_key": None}),
        (weak.write_frankmocap, "m", zero, {"depth_in_image": False, "second_person": False}),
        (datasets.write_s2hand, "n.json", thirty, {"keypoints": False, "verts": False}),
        (datasets.write_ho3d, "o", scene, {"root_only": True}),
        (datasets.write_freihand, "p", scene, {"nested": False, "split": "evaluation"}),
        (joints.write_internet, "q.npz", scene, {"cameras": "one"}),
        (joints.write_openpose, "r", scene, {"absent": "empty"}),
        (joints.write_mediapipe, "s.jsonl", scene, {"layout": "lines"}),
        (joints.write_mediapipe, "t.json", scene, {"layout": "one", "world": False}),
        (meshes.write_intaghand, "u.json", scene, {"layout": "list", "name_key": None}),
        (meshes.write_im2hands, "v", scene, {"topology": "implicit", "keypoints": False}),
    ]
    for write, name, drawn, options in cases:
        written = write(tmp_path / name, drawn, **options)
        assert written.path.exists(), name
        count = len(written.scene_frames)
        assert written.hand_valid.shape == (count, 2)
        assert written.joints.shape == (count, 2, 21, 3)
        assert written.frame_id is None or len(written.frame_id) == count
        assert not written.joints[~written.hand_valid].any()
