"""Networks with a weak-perspective camera: IHMR, ACR, DIR, FrankMocap; and InterWild's own."""

import json
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from .scene import (
    INDEX1,
    MANO_TO_OP,
    MIDDLE1,
    SIDES,
    TIPS,
    boxed,
    cast,
    dump,
    expected,
    fit_weak,
    models,
    pose_hand,
    project,
    rotmat,
    square_round,
)


def nans(frames):
    return np.full((len(frames), 2, 21, 2), np.nan)


# ---- IHMR


def write_ihmr(path, scene, *, annotations=True, dtype=np.float32):
    """IHMR's prediction pickle, which always holds both hands.

    Args:
        path: .pkl.
        scene: frames without a hand are left out; hands that are not there get what the network
            makes up.
        annotations: beside it, ANNOTATIONS.pkl says which hands there are (`options`); without
            it only frames with both hands are written.
        dtype: precision of the arrays.
    """
    rng = scene.rng(3)
    frames = scene.some if annotations else scene.both
    b = float(max(scene.image_size))
    joints = scene.local("A")[1]
    true = scene.pixels(scene.joints("A"))
    predictions, listed, tips = {}, [], TIPS["A"]
    pixels, weak = nans(frames), np.zeros((len(frames), 2, 3))
    for i, frame in enumerate(frames):
        there = scene.hand_valid[frame]
        betas = scene.betas[frame].copy()
        pose = np.concatenate(
            [scene.global_orient[frame], scene.without_mean()[frame].reshape(2, 45)], axis=1
        )
        rel = scene.wrist[frame, 1] - scene.wrist[frame, 0]
        betas[~there] = 0.3 * rng.normal(size=((~there).sum(), 10))
        pose[~there] = 0.1 * rng.normal(size=((~there).sum(), 48))
        if not there.all():
            rel = 0.1 * rng.normal(size=3)
        # The origin is the right hand's: its wrist at J0_R, the left wrist away from it.
        right = models()[0]
        J0 = right.J_regressor[0] @ (right.v_template + right.shapedirs @ betas[0])
        X = joints[frame] + np.stack([J0, J0 + rel])[:, None]
        for h in np.flatnonzero(~there):
            fingers = (pose[h, 3:] + models()[h].pose_mean).reshape(1, 15, 3)
            made_up = pose_hand(models()[h], pose[h, None, :3], fingers, betas[h, None], tips[h])
            X[h] += made_up[1][0] - made_up[1][0, 0]
        s, dx, dy = fit_weak(X[there].reshape(-1, 3), true[frame][there].reshape(-1, 2) * 2 / b - 1)
        tx, ty = dx / s, dy / s
        u = s * (X[..., :2] + [tx, ty])
        pixels[i][there] = ((u + 1) * b / 2)[there]
        weak[i] = [[s, tx + w[0], ty + w[1]] for w in (J0, J0 + rel)]
        detected = np.where(there[:, None, None], true[frame], rng.uniform(0, b, (2, 21, 2)))
        name = f"Capture0/ROM04/cam400262/{Path(scene.images[frame]).name}"
        predictions[name] = cast(
            {
                "pred_cam_params": np.array([s, tx, ty]),
                "pred_shape_params": betas.ravel(),
                "pred_pose_params": pose.ravel(),
                "pred_hand_trans": rel,
                "joints_2d": detected.reshape(42, 2),
                "joints_3d": X.reshape(42, 3) - X[0, 0],
                "img_feat": rng.normal(size=8),
            },
            dtype,
        )
        kind = "interacting" if there.all() else SIDES[int(there[1])]
        listed.append({"img_path": name, "hand_type": kind, "hand_type_valid": 1.0})
        if i == 0:
            listed.insert(0, {"img_path": "Capture0/another.jpg", "hand_type": "left"})
    dump(path, predictions)
    options = {"image_size": scene.image_size}
    if annotations:
        options["annotations"] = dump(Path(path).parent / "ANNOTATIONS.pkl", listed)
    wrists = np.zeros((len(frames), 2, 3))
    valid = scene.hand_valid[frames]
    wrists[:, 1] = (scene.wrist[frames, 1] - scene.wrist[frames, 0]) * valid.all(1)[:, None]
    return expected(
        path,
        scene,
        frames,
        tips="A",
        frame_id=list(predictions),
        wrists=wrists,
        space="common",
        root_exact=False,
        pixels=pixels,
        keypoints=np.where(valid[..., None, None], true[frames], np.nan),
        K=None,
        weak=weak * valid[..., None],
        crop=np.tile([b / 2, b / 2, b], (len(frames), 2, 1)),
        options=options,
        atol=2e-6,
        lift_px=0.1,
    )


# ---- InterWild


INTERWILD_K = np.array([[5000.0, 0, 128], [0, 5000, 128], [0, 0, 1]])


def write_interwild(path, scene, *, layout="json", name_key="img_path", dtype=np.float32):
    """InterWild's demo files, or its output dictionary with the camera.

    Args:
        path: a folder for 'json'; else .pkl, .npz, .npy or .json.
        scene: a json folder has no file for a frame without hands; the dictionary holds the
            frames with both hands only, since it cannot say otherwise.
        layout: 'json' (NAME_right.json, NAME_left.json) or 'output'.
        name_key: 'img_path' or None, for 'output'.
        dtype: precision, for 'output'.
    """
    path = Path(path)
    rel = scene.wrist[:, 1] - scene.wrist[:, 0]
    if layout == "json":
        path.mkdir(parents=True, exist_ok=True)
        frames = scene.some
        for frame in frames:
            for h in np.flatnonzero(scene.hand_valid[frame]):
                moved = np.zeros(3)
                if h:
                    # Alone, the network still says something.
                    both = scene.hand_valid[frame].all()
                    moved = rel[frame] if both else np.array([0.11, -0.02, 0.03])
                hand = {
                    "root_pose": scene.global_orient[frame, h].tolist(),
                    "hand_pose": scene.without_mean()[frame, h].tolist(),
                    "shape": scene.betas[frame, h].tolist(),
                    "root_trans": moved.tolist(),
                }
                file = path / f"{scene.stems[frame]}_{SIDES[h]}.json"
                file.write_text(json.dumps(hand))
        valid = scene.hand_valid[frames]
        wrists = np.zeros((len(frames), 2, 3))
        wrists[:, 1] = rel[frames] * valid.all(1)[:, None]
        return expected(
            path,
            scene,
            frames,
            tips="B''",
            frame_id=[scene.stems[frame] for frame in frames],
            wrists=wrists,
            space="common",
            root_exact=False,
            pixels=None,
            K=None,
        )

    frames = scene.both
    joints = scene.local("B''")[1][frames]
    true = scene.pixels(scene.joints("B''"))[frames]
    root = np.zeros((len(frames), 3))
    pixels = nans(frames)
    for i, frame in enumerate(frames):
        centre, side = square_round(true[i], factor=1.3)
        target = (true[i] - centre) / side * 256 + 128
        X = joints[i] + np.array([np.zeros(3), rel[frame]])[:, None]

        def residual(at, X=X, target=target):
            return (project(INTERWILD_K, X + at) - target).ravel()

        # 11.72 m * sigmoid is all the depth that the network can say.
        start = [0.0, 0.0, 9.0]
        root[i] = least_squares(residual, start, bounds=([-9, -9, 0.5], [9, 9, 11.7])).x
        pixels[i] = project(INTERWILD_K, X + root[i])
    output = {}
    for h, r in enumerate("rl"):
        output[f"{r}mano_root_pose"] = scene.global_orient[frames, h]
        output[f"{r}mano_hand_pose"] = scene.without_mean()[frames, h]
        output[f"{r}mano_shape"] = scene.betas[frames, h]
    output["rel_trans"] = rel[frames]
    output["rroot_cam"], output["lroot_cam"] = root, root + rel[frames]
    output = cast(output, dtype)
    if name_key:
        output[name_key] = [scene.images[frame] for frame in frames]
    dump(path, output)
    return expected(
        path,
        scene,
        frames,
        tips="B''",
        frame_id=[scene.images[frame] for frame in frames] if name_key else None,
        wrists=np.stack([root, root + rel[frames]], axis=1),
        pixels=pixels,
        crop_pixels=True,
        K=np.tile(INTERWILD_K, (len(frames), 1, 1)),
        lift_px=0.02,
        atol=2e-6,
    )


# ---- ACR


ACR_FOCAL, ACR_CANVAS = 1265.0, 512.0


def write_acr(
    path, scene, *, layout="pkl", dtype=np.float16, empty="missing", decoys=True, optional=True
):
    """ACR's results: every hand centred at its middle finger's base, placed twice.

    `pixels` are by the weak camera (`pj2d`); `wrists` by `cam_trans` in the camera `K`, ACR's
    fixed f = 1265 on the 512 canvas carried to the full image.

    Args:
        path: .pkl, or .npz for the layouts 'one' and 'per_image'.
        scene: any; frames without a hand are {}.
        layout: 'pkl', 'one' (an object entry `results`), 'per_image' (an object entry an image).
        dtype: float16 as released, or float32.
        empty: a side without hands is 'missing' or 'list'.
        decoys: the first frame has a second right hand, last.
        optional: vertices and 3D joints.
    """
    rng = scene.rng(4)
    W, H = scene.image_size
    a = max(W, H) / ACR_CANVAS
    pad = np.array([max(W, H) - W, max(W, H) - H]) / 2
    vertices, joints = scene.local("B")
    true = scene.pixels(scene.joints("B"))
    shape = (scene.num_frames, 2)
    pixels, weak = nans(scene.every), np.zeros((*shape, 3))
    wrists = np.zeros((*shape, 3))
    canvas_K = np.array([[ACR_FOCAL, 0, 256], [0, ACR_FOCAL, 256], [0, 0, 1]])
    results, notes = {}, {}
    for frame in scene.every:
        image = {}
        for h in np.flatnonzero(scene.hand_valid[frame]):
            centre = joints[frame, h, MIDDLE1]
            X = joints[frame, h] - centre
            u = (true[frame, h] + pad) / a / 256 - 1
            cam = fit_weak(X, u)
            pj2d = cam[0] * X[:, :2] + cam[1:]
            canvas = 256 * (pj2d + 1)

            def residual(t, X=X, canvas=canvas):
                return (project(canvas_K, X + t) - canvas).ravel()

            z = ACR_FOCAL / (256 * cam[0])
            start = [cam[1] / cam[0], cam[2] / cam[0], z]
            placed = least_squares(residual, start, xtol=1e-15).x
            pixels[frame, h] = a * canvas - pad
            wrists[frame, h] = placed - centre
            weak[frame, h] = [cam[0], *(cam[1:] / cam[0] - centre[:2])]
            hand = {
                "poses": np.concatenate(
                    [scene.global_orient[frame, h], scene.without_mean()[frame, h]]
                ),
                "betas": scene.betas[frame, h],
                "cam": cam,
                "cam_trans": placed,
                "pj2d": pj2d[MANO_TO_OP],
                "pj2d_org": pixels[frame, h][MANO_TO_OP],
            }
            if optional:
                hand["verts"] = vertices[frame, h] - centre
                hand["j3d"] = X[MANO_TO_OP]
            image[SIDES[h]] = [cast(hand, dtype)]
        if image and empty == "list":
            image = {side: image.get(side, []) for side in SIDES}
        if decoys and frame == 0:
            other = {k: v.copy() for k, v in image["right"][0].items()}
            other["poses"] = (other["poses"] + rng.normal(size=48)).astype(dtype)
            image["right"].append(other)
            notes[0] = "two right hands"
        results[scene.images[frame]] = image
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if layout == "pkl":
        dump(path, results)
    elif layout == "one":
        np.savez(path, results=boxed(results))
    else:
        dump(path, results)
    K = np.array([[ACR_FOCAL * a, 0, 256 * a - pad[0]], [0, ACR_FOCAL * a, 256 * a - pad[1]]])
    half = dtype == np.float16
    return expected(
        path,
        scene,
        scene.every,
        tips="B",
        frame_id=list(results),
        wrists=wrists,
        pixels=pixels,
        keypoints=pixels,
        K=np.tile(np.vstack([K, [0, 0, 1]]), (scene.num_frames, 1, 1)),
        weak=weak,
        crop=np.tile([W / 2, H / 2, max(W, H)], (*shape, 1)) * scene.hand_valid[..., None],
        # cam_trans of some metres at float16, against millimetres of the pose.
        atol=4e-3 if half else 2e-6,
        lift_px=2.5 if half else 0.05,
        options={"image_size": scene.image_size},
        notes=notes,
    )


# ---- DIR


def six_dimensions(R, rng):
    """Two vectors (..., 3) that DIR's symmetric rule turns into the rotations R (..., 3, 3).

    The rule gives both vectors unit length; their sum and difference are then orthogonal, p and
    q, and p + q and p - q are the directions of the first two columns. Neither the angle between
    the vectors nor their lengths matter.
    """
    x, y = R[..., 0], R[..., 1]
    shape = (*R.shape[:-2], 1)
    p, q = (x + y) / np.sqrt(2), (x - y) / np.sqrt(2)
    half = rng.uniform(0.35, 1.2, shape)
    a, b = rng.uniform(0.5, 2.0, (2, *shape))
    first, second = (np.cos(half) * p + sign * np.sin(half) * q for sign in (1, -1))
    return np.concatenate([a * first, b * second], axis=-1)


def symmetric_rotation(six):
    """The rule as DIR has it: (..., 6) to (..., 3, 3)."""

    def unit(v):
        return v / np.linalg.norm(v, axis=-1, keepdims=True)

    x, y = unit(six[..., :3]), unit(six[..., 3:])
    p, q = unit(x + y), unit(x - y)
    x, y = unit(p + q), unit(p - q)
    return np.stack([x, y, np.cross(x, y)], axis=-1)


def write_dir(
    path,
    scene,
    *,
    layout="stages",
    batch=2,
    name_key="img_path",
    in_parts=False,
    dtype=np.float32,
):
    """DIR's outputs: per hand a wrist-centred hand in the 256 crop, and the offset of the two.

    Args:
        path: .pkl, .npz, .npy or .json.
        scene: only frames with both hands are written.
        layout: 'dict' (one dictionary), 'stages' (four, of which the third is meant), 'batches'
            (a list of such fours).
        batch: frames in one of the 'batches'.
        name_key: 'img_path' or None.
        in_parts: pose and betas under keys of their own, not in `pd_mano_para`.
        dtype: precision of the arrays.
    """
    rng = scene.rng(5)
    frames = scene.both
    vertices, joints = scene.local("B")
    true = scene.pixels(scene.joints("B"))[frames]
    pca = scene.pca(45)
    pixels, weak = nans(frames), np.zeros((len(frames), 2, 3))
    proj = np.zeros((len(frames), 2, 3))
    for i, frame in enumerate(frames):
        centre, side = square_round(true[i], factor=1.3)
        for h in (0, 1):
            u = (true[i, h] - centre) / side * 2
            s, *t = proj[i, h] = fit_weak(joints[frame, h], u)
            pixels[i, h] = 128 * (s * joints[frame, h, :, :2] + t + 1)
            weak[i, h] = [s, *(np.array(t) / s)]
    output = {}
    for h, side in enumerate(SIDES):
        six = six_dimensions(rotmat(scene.global_orient[frames, h]), rng)
        pose, betas = np.concatenate([six, pca[frames, h]], axis=1), scene.betas[frames, h]
        whole = np.concatenate([pose, betas, proj[:, h]], axis=1)
        if in_parts:
            output |= {f"pd_mano_pose_{side}": pose, f"pd_mano_beta_{side}": betas}
        else:
            output |= {f"pd_mano_pose_{side}": pose, f"pd_mano_para_{side}": whole}
        output[f"pd_joint_xyz_{side}"] = joints[frames, h][:, MANO_TO_OP]
        output[f"pd_mesh_xyz_{side}"] = vertices[frames, h]
        output[f"pd_proj_{side}"] = proj[:, h]
    output["pd_offset"] = (scene.wrist[frames, 0] - scene.wrist[frames, 1]) / 0.15
    output = cast(output, dtype)
    names = [scene.images[frame] for frame in frames]

    def stages(at):
        final = {key: value[at] for key, value in output.items()}
        rough = {key: value + dtype(0.3) for key, value in final.items()}
        if name_key:
            final[name_key] = names[at]
        dense = {"dense": np.zeros((2, 3), dtype), "seg": np.zeros((2, 3), dtype)}
        return [dict(rough), rough, final, dense]

    everything = slice(0, len(frames))
    if layout == "dict":
        dump(path, stages(everything)[2])
    elif layout == "stages":
        dump(path, stages(everything))
    else:
        dump(path, [stages(slice(i, i + batch)) for i in range(0, len(frames), batch)])
    wrists = np.zeros((len(frames), 2, 3))
    wrists[:, 1] = scene.wrist[frames, 1] - scene.wrist[frames, 0]
    return expected(
        path,
        scene,
        frames,
        tips="B",
        frame_id=names if name_key else None,
        wrists=wrists,
        space="common",
        root_exact=False,
        pixels=pixels,
        crop_pixels=True,
        K=None,
        weak=weak,
        crop=np.tile([128.0, 128.0, 256.0], (len(frames), 2, 1)),
        atol=1e-5,
    )


# ---- FrankMocap


def write_frankmocap(path, scene, *, second_person=True, depth_in_image=True, dtype=np.float32):
    """FrankMocap's folder of NAME_prediction_result.pkl.

    Its betas are SMPL-X's, to be dropped: draw the scene with `zero_betas`, since the hands are
    posed here with the average shape whatever the scene says.

    Args:
        path: the folder.
        scene: any; a frame without a hand has no person.
        second_person: the first frame shows another person's left hand, last.
        depth_in_image: `pred_joints_img` has three columns.
        dtype: precision of the arrays.
    """
    rng = scene.rng(6)
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    joints, true = scene.local("A")[1], scene.pixels(scene.joints("A"))
    assert not scene.betas.any(), "positions are those of hands of zero betas"
    shape = (scene.num_frames, 2)
    pixels, weak, crop = nans(scene.every), np.zeros((*shape, 3)), np.zeros((*shape, 3))
    notes = {}
    for frame in scene.every:
        person: dict = {"left_hand": {}, "right_hand": {}}
        boxes: dict = {"left_hand": None, "right_hand": None}
        for h in np.flatnonzero(scene.hand_valid[frame]):
            centre, side = square_round(
                true[frame, h], factor=rng.uniform(1.1, 1.4), aside=rng.uniform(-0.05, 0.05, 2)
            )
            top_left = centre - side / 2
            X = joints[frame, h] - joints[frame, h, INDEX1]
            s, dx, dy = fit_weak(X, (true[frame, h] - centre) / side * 2)
            t = np.array([dx, dy]) / s
            u = s * (X[:, :2] + t)
            ratio = 224 / side
            px = top_left + (u + 1) / 2 * 224 / ratio
            pixels[frame, h] = px
            weak[frame, h] = [s, *(t - joints[frame, h, INDEX1, :2])]
            crop[frame, h] = [*centre, side]
            image = np.concatenate([px, s * X[:, 2:] * side / 2], axis=1)
            hand = {
                "pred_vertices_smpl": np.zeros((778, 3)),
                "pred_joints_smpl": X[MANO_TO_OP],
                "pred_joints_img": image[MANO_TO_OP][:, : 3 if depth_in_image else 2],
                "pred_camera": np.array([s, *t]),
                "bbox_top_left": top_left,
                "pred_hand_pose": np.concatenate(
                    [scene.global_orient[frame, h], scene.without_mean()[frame, h]]
                )[None],
                "pred_hand_betas": rng.normal(size=(1, 10)),
            }
            hand = cast(hand, dtype)
            hand["bbox_scale_ratio"] = float(ratio)
            person[f"{SIDES[h]}_hand"] = hand
            boxes[f"{SIDES[h]}_hand"] = np.array([*top_left, side, side], dtype)
        people = [person] if scene.hand_valid[frame].any() else []
        if second_person and frame == 0:
            other = dict(person["left_hand"])
            other["pred_hand_pose"] = other["pred_hand_pose"] + dtype(0.3)
            people.append({"left_hand": other, "right_hand": {}})
            notes[0] = "two people"
        record = {
            "image_path": scene.images[frame],
            "demo_type": "hand",
            "smpl_type": "smplx",
            "save_mesh": False,
            "hand_bbox_list": [boxes] if people else [],
            "body_bbox_list": [],
            "pred_output_list": people,
        }
        dump(path / f"{scene.stems[frame]}_prediction_result.pkl", record)
    return expected(
        path,
        scene,
        scene.every,
        tips="A",
        frame_id=list(scene.images),
        betas=np.zeros((*shape, 10)),
        betas_known=np.zeros(shape, bool),
        wrists=np.zeros((*shape, 3)),
        space="own",
        root_exact=False,
        relative_known=np.zeros((scene.num_frames, 3), bool),
        pixels=pixels,
        keypoints=pixels,
        K=None,
        weak=weak,
        crop=crop,
        atol=2e-6,
        lift_px=0.05,
        options={"image_size": scene.image_size},
        notes=notes,
    )
