"""HaMeR and WiLoR (one dictionary a batch of hand crops), and WiLoR-mini (one a hand)."""

import numpy as np

from .scene import (
    FLIP,
    MANO_TO_OP,
    M,
    cast,
    dump,
    expected,
    fit_hmr,
    hmr_lift,
    hmr_project,
    hmr_translation,
    known,
    models,
    pose_hand,
    project,
    rest_wrist,
    rotmat,
    rotvec,
    square_round,
)
from .scene import TIPS as TIP_SETS

TIPS = "A"


def default_camera(scene):
    """The full-image camera of both projects, whatever the true one: f, principal point."""
    W, H = scene.image_size
    return 5000 / 256 * max(W, H), np.array([W / 2, H / 2])


def seen(scene, frame, h, rng, *, factor, decoy=False):
    """One crop as a perfect network sees it.

    Returns the batch's entries with the network's own numbers (a left hand mirrored into the
    right model, in a flipped crop), the full-image pixels (21, 2) by the crop camera in MANO's
    order, and the wrist by the usual lift to the full image.
    """
    orient, pose = scene.global_orient[frame, h], scene.hand_pose[frame, h]
    betas, wrist = scene.betas[frame, h], scene.wrist[frame, h]
    if decoy:
        # Another hand of the same side, elsewhere and further away.
        orient, pose = orient[::-1], pose + 0.1 * rng.normal(size=(15, 3))
        wrist = wrist * [-1, -1, 1.5]
    args = (orient[None], pose[None], betas[None])
    model = models()[h]
    vertices, joints = (x[0] for x in pose_hand(model, *args, TIP_SETS[TIPS][h]))
    rest = rest_wrist(model, betas[None])[0]
    true = project(scene.K[frame], joints - rest + wrist)
    outline = project(scene.K[frame], vertices - rest + wrist)
    centre, side = square_round(outline, factor=factor, aside=rng.uniform(-0.05, 0.05, 2))

    # The crop of a left hand is flipped, and the right model explains it.
    flip, turn = (FLIP, M) if h else (np.ones(3), np.eye(3))
    halves = (true - centre) / side * flip[:2]
    pred_cam = fit_hmr(joints * flip, halves)
    keypoints = hmr_project(joints * flip, pred_cam)
    crop = {
        "pred_cam": pred_cam,
        "pred_cam_t": hmr_translation(pred_cam),
        "focal_length": np.array([5000.0, 5000.0]),
        "global_orient": (turn @ rotmat(orient) @ turn)[None],
        "hand_pose": turn @ rotmat(pose) @ turn,
        "betas": betas,
        "right": 1.0 - h,
        "box_center": centre,
        "box_size": side,
        "img_size": np.array(scene.image_size, float),
        "pred_keypoints_2d": keypoints[MANO_TO_OP],
        "pred_keypoints_3d": (joints * flip)[MANO_TO_OP],
        "pred_vertices": vertices * flip,
    }
    own = centre + side * keypoints * flip[:2]
    # Un-mirror, then lift: u = s (X + t) as in conventions.md section 5.
    s, tx, ty = pred_cam
    native = np.array([s, tx * flip[0], ty])
    return crop, own, rest, native


def write_hamer(
    path,
    scene,
    *,
    layout="batches",
    batch=3,
    name_key="img_path",
    scores=True,
    optional=True,
    decoys=True,
    dtype=np.float32,
):
    """HaMeR's (and WiLoR's) outputs merged with their batches.

    Args:
        path: .pkl, .npz, .npy or .json.
        scene: frames without a hand are left out: there is no detection to name them.
        layout: 'batches', a list of dictionaries; 'nested', a list of {'out', 'batch'};
            'single', one dictionary.
        batch: detections a dictionary, which splits images over two dictionaries; without
            names a dictionary is an image.
        name_key: 'img_path', 'imgname' or None.
        scores: with them a second hand of a side comes before the right one, with a lower
            score; without them after it, in a smaller box.
        optional: the keypoints and vertices.
        decoys: the first frame has a second right hand.
        dtype: precision of the arrays.
    """
    rng = scene.rng(1)
    f, principal = default_camera(scene)
    frames = scene.some
    pixels = np.full((len(frames), 2, 21, 2), np.nan)
    wrists = np.zeros((len(frames), 2, 3))
    weak, crop_box = np.zeros((2, len(frames), 2, 3))
    detections, notes = [], {}
    for i, frame in enumerate(frames):
        found = []
        for h in np.flatnonzero(scene.hand_valid[frame]):
            crop, own, rest, native = seen(scene, frame, h, rng, factor=rng.uniform(1.8, 2.2))
            crop["score"] = rng.uniform(0.7, 0.99)
            found.append(crop)
            pixels[i, h] = own
            lifted = hmr_lift(native, crop["box_center"], crop["box_size"], f, principal)
            wrists[i, h] = rest + lifted
            weak[i, h] = native + [0, *rest[:2]]
            crop_box[i, h] = [*crop["box_center"], crop["box_size"]]
        if decoys and i == 0:
            decoy, *_ = seen(scene, frame, 0, rng, factor=1.8, decoy=True)
            decoy["score"] = 0.4
            found = [decoy, *found] if scores else [*found, decoy]
            notes[i] = "two right hands"
        if i % 2:
            found = found[::-1]
        detections += [(scene.images[frame], crop) for crop in found]

    groups = [detections[i : i + batch] for i in range(0, len(detections), batch)]
    if layout == "single":
        groups = [detections]
    elif name_key is None:
        names = [scene.images[frame] for frame in frames]
        groups = [[d for d in detections if d[0] == name] for name in names]
    batches = [_batch(g, name_key, scores, optional, dtype, layout == "nested") for g in groups]
    dump(path, batches[0] if layout == "single" else batches)
    valid = scene.hand_valid[frames]
    K = np.tile(np.diag([f, f, 1.0]), (len(frames), 1, 1))
    K[:, :2, 2] = principal
    return expected(
        path,
        scene,
        frames,
        tips=TIPS,
        frame_id=[scene.images[frame] for frame in frames] if name_key else None,
        wrists=wrists,
        root_exact=False,
        relative_known=known(valid, (True, True, False)),
        pixels=pixels,
        keypoints=pixels if optional else None,
        K=K,
        weak=weak,
        crop=crop_box,
        lift_px=lift_error(K, wrists, scene, frames, pixels) + 0.5,
        atol=1e-5 if dtype == np.float32 else 1e-7,
        notes=notes,
    )


def lift_error(K, wrists, scene, frames, pixels):
    """How far the plain lift of conventions.md section 5 reprojects from the crop's own pixels.

    It grows with the crop and with its distance from the principal point: 4 px for hands of
    300 px at the image's border.
    """
    joints = scene.local(TIPS)[1][frames] + wrists[:, :, None]
    joints = np.where(scene.hand_valid[frames][..., None, None], joints, np.nan)
    return float(np.nanmax(np.abs(project(K[:, None], joints) - pixels)))


def _batch(group, name_key, scores, optional, dtype, nested):
    crops = [crop for _, crop in group]
    merged = {key: np.stack([np.asarray(crop[key]) for crop in crops]) for key in crops[0]}
    parameters = {key: merged.pop(key) for key in ("global_orient", "hand_pose", "betas")}
    inputs = {key: merged.pop(key) for key in ("right", "box_center", "box_size", "img_size")}
    score = merged.pop("score")
    if not optional:
        for key in ("pred_keypoints_2d", "pred_keypoints_3d", "pred_vertices"):
            merged.pop(key)
    out = cast({**merged, "pred_mano_params": parameters}, dtype)
    inputs = cast({**inputs, **({"score": score} if scores else {})}, dtype)
    if name_key:
        inputs[name_key] = [name for name, _ in group]
    return {"out": out, "batch": inputs} if nested else {**out, **inputs}


def write_wilor_mini(path, scene, *, layout="dict", decoys=True, dtype=np.float32):
    """WiLoR-mini's list of hands, native left hands in axis-angle.

    Args:
        path: .pkl, .npz, .npy or .json.
        scene: in 'list' only the first frame with both hands is written.
        layout: 'dict' {image: detections}, 'lists' (a frame each), 'list' (one image).
        decoys: the first frame has a second right hand, in a smaller box, last.
        dtype: precision of the arrays.
    """
    rng = scene.rng(2)
    f, principal = default_camera(scene)
    frames = scene.both[:1] if layout == "list" else scene.every
    K = np.tile(np.diag([f, f, 1.0]), (len(frames), 1, 1))
    K[:, :2, 2] = principal
    pixels = np.full((len(frames), 2, 21, 2), np.nan)
    wrists = np.zeros((len(frames), 2, 3))
    images, notes = [], {}
    for i, frame in enumerate(frames):
        found = []
        hands = [(int(h), False) for h in np.flatnonzero(scene.hand_valid[frame])]
        if decoys and i == 0:
            hands.append((0, True))
            notes[i] = "two right hands"
        for h, decoy in hands:
            crop, own, rest, native = seen(scene, frame, h, rng, factor=2.5, decoy=decoy)
            flip = FLIP if h else np.ones(3)
            lifted = hmr_lift(native, crop["box_center"], crop["box_size"], f, principal)
            X = crop["pred_keypoints_3d"] * flip
            px = project(K[i], X + lifted)
            low, high = crop["box_center"] - np.array([[0.2], [-0.2]]) * crop["box_size"]
            orient, pose = crop["global_orient"], crop["hand_pose"]
            turn = M if h else np.eye(3)
            predicted = {
                "global_orient": rotvec(turn @ orient @ turn)[None],
                "hand_pose": rotvec(turn @ pose @ turn)[None],
                "betas": crop["betas"][None],
                "pred_cam": native[None],
                "pred_cam_t_full": lifted[None],
                "pred_keypoints_3d": X[None],
                "pred_keypoints_2d": px[None],
                "pred_vertices": (crop["pred_vertices"] * flip)[None],
            }
            predicted = cast(predicted, dtype)
            predicted["scaled_focal_length"] = float(f)
            found.append(
                {
                    "hand_bbox": [*low.tolist(), *high.tolist()],
                    "is_right": float(1 - h),
                    "wilor_preds": predicted,
                }
            )
            if not decoy:
                at_mano = np.empty((21, 2))
                at_mano[MANO_TO_OP] = px
                pixels[i, h], wrists[i, h] = at_mano, rest + lifted
        images.append(found)
    names = [scene.images[frame] for frame in frames]
    whole = dict(zip(names, images, strict=True)) if layout == "dict" else images
    dump(path, images[0] if layout == "list" else whole)
    return expected(
        path,
        scene,
        frames,
        tips=TIPS,
        frame_id=names if layout == "dict" else None,
        wrists=wrists,
        relative_known=known(scene.hand_valid[frames], (True, True, False)),
        pixels=pixels,
        keypoints=pixels,
        K=K,
        atol=2e-5 if dtype == np.float32 else 1e-7,
        lift_px=0.2 if dtype == np.float32 else 1e-2,
        options={"image_size": scene.image_size},
        notes=notes,
    )


write_wilor = write_hamer
