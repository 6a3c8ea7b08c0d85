"""Data sets: S2HAND's outputs, HOT3D, FreiHAND, HO-3D, H2O-3D, DexYCB, InterHand2.6M."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from .scene import (
    MANO_TO_OP,
    MIDDLE1,
    MIDDLE2,
    S2H_TO_MANO,
    SIDES,
    cast,
    dump,
    expected,
    models,
    plain,
    rest_wrist,
    rotmat,
    rotvec,
)

RIGHT, LEFT = 0, 1


def quaternion_wxyz(matrix):
    """(w, x, y, z), w >= 0."""
    x, y, z, w = Rotation.from_matrix(matrix).as_quat(canonical=True)
    return np.array([w, x, y, z])


# ---- S2HAND


def write_s2hand(
    path, scene, *, name_key="img_path", keypoints=True, verts=True, joints=True, dtype=np.float32
):
    """S2HAND's outputs: right hands of PCA-30, turned about the origin after posing, scaled.

    The file's world is |scale| times the scene, so its camera sees the scene's pixels, and the
    scene's hand and wrist are the file's divided by |scale| (`Written.scale`).

    Args:
        path: .pkl, .npz, .npy or .json.
        scene: made with `components=30`; frames without a right hand are left out.
        name_key: 'img_path' or None.
        keypoints: OpenPose's detections.
        verts: the vertices.
        joints: the joints.
        dtype: precision of the arrays.
    """
    rng = scene.rng(7)
    frames = scene.having("right")
    count = len(frames)
    sign = np.where(np.arange(count) % 2, -1.0, 1.0)
    scale = sign * rng.uniform(0.6, 1.6, count)
    size = np.abs(scale)[:, None, None]
    # R = rod(rot) Rx(pi), and its own turn leaves J0 where rod(rot) takes it.
    turn = rotmat(scene.global_orient[frames, RIGHT]) @ np.diag([1.0, -1.0, -1.0])
    J0, wrist = scene.rest_wrists()[frames, RIGHT], scene.wrist[frames, RIGHT]
    trans = size[:, 0] * (wrist - np.einsum("nab,nb->na", turn, J0))
    in_file = np.empty((count, 21, 3))
    in_file[:, S2H_TO_MANO] = size * scene.joints("C")[frames, RIGHT]
    output = {
        "theta": scene.pca(30)[frames, RIGHT],
        "beta": scene.betas[frames, RIGHT],
        "rot": rotvec(turn),
        "scale": scale[:, None],
        "trans": trans,
        "Ks": scene.K[frames],
    }
    true = scene.pixels(scene.joints("C"))[frames]
    true[:, LEFT] = np.nan
    if joints:
        output["joints"] = in_file
    if verts:
        output["verts"] = size * scene.vertices()[frames, RIGHT]
    if keypoints:
        output["open_2dj"] = true[:, RIGHT][:, MANO_TO_OP]
        output["open_2dj_con"] = rng.uniform(0.2, 1, (count, 21, 1))
    output = cast(output, dtype)
    names = [scene.images[frame] for frame in frames]
    if name_key:
        output[name_key] = names
    dump(path, output)
    confidence = np.zeros((count, 2, 21))
    if keypoints:
        confidence[:, RIGHT, MANO_TO_OP] = output["open_2dj_con"][..., 0]
    return expected(
        path,
        scene,
        frames,
        hands=[RIGHT],
        tips="C",
        frame_id=names if name_key else None,
        keypoints=true if keypoints else None,
        confidence=confidence if keypoints else None,
        scale=np.stack([np.abs(scale), np.zeros(count)], axis=1),
        lift_px=0.02,
        atol=2e-6,
    )


# ---- HOT3D


def _in_world(scene, orient, wrist):
    """What of `Written` is in world axes."""
    R = scene.T_camera_world[:3, :3]
    vertices, joints = scene.local("A")
    return {
        "global_orient": orient,
        "wrists": wrist,
        "local_joints": joints @ R,
        "local_vertices": vertices @ R,
        "space": "world",
        "pixels": None,
        "K": None,
    }


def write_hot3d(path, scene, *, null_pose=False):
    """HOT3D's mano_hand_pose_trajectory.jsonl: world axes, PCA-15, '0' the left hand.

    Args:
        path: .jsonl.
        scene: made with `components=15`; a frame without hands is an empty record. HOT3D has one
            shape for both hands of a person, but each hand's record spells it out.
        null_pose: an absent hand is null, not missing.
    """
    orient, wrist = scene.in_world()
    pca, J0 = scene.pca(15), scene.rest_wrists()
    lines = []
    for frame in scene.every:
        hands = {}
        for h in (LEFT, RIGHT):
            key = "0" if h == LEFT else "1"
            if scene.hand_valid[frame, h]:
                hands[key] = {
                    "wrist_xform": {
                        "q_wxyz": quaternion_wxyz(rotmat(orient[frame, h])).tolist(),
                        "t_xyz": (wrist[frame, h] - J0[frame, h]).tolist(),
                    },
                    "pose": pca[frame, h].tolist(),
                    "betas": scene.betas[frame, h].tolist(),
                }
            elif null_pose:
                hands[key] = None
        stamp = 87_000_000_000 + 33_333_333 * int(frame)
        lines.append({"timestamp_ns": stamp, "hand_poses": hands})
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return expected(
        path,
        scene,
        scene.every,
        tips="A",
        frame_id=[str(line["timestamp_ns"]) for line in lines],
        **_in_world(scene, orient, wrist),
    )


# ---- FreiHAND


def write_freihand(path, scene, *, split="training", copies=4, optional=True, nested=True):
    """FreiHAND's folder of lists; its shots come once a background, so K is listed four times.

    The joint that uv_root and scale place is number 9 of the LBS joints (utils/mano_utils.py
    hands over `Jtr`), and its focal length is the mean of fx and fy (utils/model.py).

    Args:
        path: the folder.
        scene: frames without a right hand are left out.
        split: 'training' or 'evaluation'.
        copies: how many times K is listed.
        optional: joints and scales.
        nested: (N, 1, 61) as released, or (N, 61).
    """
    frames = scene.having("right")
    path = Path(path)
    joints = scene.joints("C")[frames, RIGHT]
    root, K = joints[:, MIDDLE1], scene.K[frames]
    focal = (K[:, 0, 0] + K[:, 1, 1]) / 2
    scale = focal / root[:, 2]
    uv = root[:, :2] * scale[:, None] + K[:, :2, 2]
    mano = np.concatenate(
        [
            scene.global_orient[frames, RIGHT],
            scene.without_mean()[frames, RIGHT],
            scene.betas[frames, RIGHT],
            uv,
            scale[:, None],
        ],
        axis=1,
    )
    dump(path / f"{split}_mano.json", mano[:, None] if nested else mano)
    dump(path / f"{split}_K.json", np.concatenate([K] * copies))
    if optional:
        dump(path / f"{split}_xyz.json", joints[:, MANO_TO_OP])
        bone = np.linalg.norm(joints[:, MIDDLE1] - joints[:, MIDDLE2], axis=1)
        dump(path / f"{split}_scale.json", bone)
    return expected(
        path,
        scene,
        frames,
        hands=[RIGHT],
        tips="C",
        frame_id=[f"{i:08d}" for i in range(len(frames))],
    )


# ---- HO-3D and H2O-3D


OPENGL = np.diag([1.0, -1.0, -1.0])


def _opengl(scene, h, hand_models):
    """Pose (N, 48), translation (N, 3) and joints (N, 21, 3) in OpenGL's axes."""
    orient = rotvec(OPENGL @ rotmat(scene.global_orient[:, h]))
    pose = np.concatenate([orient, scene.hand_pose[:, h].reshape(-1, 45)], axis=1)
    transl = scene.wrist[:, h] @ OPENGL - scene.rest_wrists(hand_models)[:, h]
    return pose, transl, scene.joints("D", hand_models)[:, h] @ OPENGL


def _metas(path, sequence, metas):
    for i, meta in enumerate(metas):
        dump(Path(path) / sequence / "meta" / f"{i:04d}.pkl", meta)
    return Path(path) / sequence / "meta", [f"{sequence}/{i:04d}" for i in range(len(metas))]


def write_ho3d(path, scene, *, root_only=False, sequence="ABF10"):
    """HO-3D's meta/*.pkl: OpenGL axes, the mean pose included, right hands.

    Args:
        path: the folder above the sequence; `Written.path` is SEQUENCE/meta.
        scene: any; None stands for a hand that is not there.
        root_only: handJoints3D is the wrist alone, as in the evaluation split.
        sequence: its name.
    """
    pose, transl, joints = _opengl(scene, RIGHT, None)
    metas = []
    for frame in scene.every:
        there = scene.hand_valid[frame, RIGHT]
        at = joints[frame, 0] if root_only else joints[frame]
        metas.append(
            {
                "handPose": pose[frame] if there else None,
                "handTrans": transl[frame] if there else None,
                "handBeta": scene.betas[frame, RIGHT] if there else None,
                "handJoints3D": at if there else None,
                "camMat": scene.K[frame],
                "objName": "021_bleach_cleanser",
                "objLabel": 12,
                "objRot": np.array([[0.1], [0.2], [0.3]]),
                "objTrans": np.array([0.0, 0.1, -0.5]),
                "objCorners3D": None,
                "camIDList": ["0", "1"],
            }
        )
    folder, names = _metas(path, sequence, metas)
    return expected(folder, scene, scene.every, hands=[RIGHT], tips="D", frame_id=names)


def write_h2o3d(path, scene, *, sequence="MBC2"):
    """H2O-3D's meta/*.pkl: as HO-3D with both hands and one shape.

    Its set-up negates all of the official (unmirrored) left shapedirs: in x that mirrors them, in
    y and z it bends the shape the other way, so a left hand's betas do not come back.

    Args:
        path: the folder above the sequence; `Written.path` is SEQUENCE/meta.
        scene: made with `shared_betas`.
        sequence: its name.
    """
    right, left = models()
    pair = (right, replace(left, shapedirs=-right.shapedirs))
    both = [_opengl(scene, h, pair) for h in (RIGHT, LEFT)]
    metas = []
    for frame in scene.every:
        meta = {"camMat": scene.K[frame], "objName": "003_cracker_box", "handBeta": None}
        for h in (RIGHT, LEFT):
            there = scene.hand_valid[frame, h]
            for name, values in zip(("Pose", "Trans", "Joints3D"), both[h], strict=True):
                meta[f"{SIDES[h]}Hand{name}"] = values[frame] if there else None
            if there:
                meta["handBeta"] = scene.betas[frame, h]
        metas.append(meta)
    folder, names = _metas(path, sequence, metas)
    vertices, joints = scene.local("D", pair)
    return expected(
        folder,
        scene,
        scene.every,
        tips="D",
        frame_id=names,
        betas_known=scene.hand_valid & [True, False],
        local_joints=joints,
        local_vertices=vertices,
        pixels=scene.pixels(scene.joints("D", pair)),
    )


# ---- DexYCB


def write_dexycb(path, scene, *, side="right", serial="836212060125", dtype=np.float32):
    """DexYCB: one camera's labels of a sequence of one hand, with calibrations above it.

    A left hand is posed with the official shapedirs, which are the right hand's, unmirrored: its
    betas do not come back.

    Args:
        path: the data set's root; `Written.path` is SUBJECT/SEQUENCE/SERIAL.
        scene: made with `constant_betas`; absent hands are zeros.
        side: 'right' or 'left'.
        serial: the camera's.
        dtype: precision of the labels.
    """
    h = SIDES.index(side)
    right, left = models()
    pair = (right, replace(left, shapedirs=right.shapedirs))
    path = Path(path)
    sequence = path / "20200709-subject-01" / "20200709_141754"
    calibration = f"20200709-subject-01_{side}"
    there = scene.hand_valid[:, h]
    betas = scene.betas[there, h]
    np.testing.assert_array_equal(betas, betas[:1].repeat(len(betas), axis=0))
    J0 = rest_wrist(pair[h], scene.betas[:, h])
    pose = np.concatenate(
        [scene.global_orient[:, h], scene.pca(45)[:, h], scene.wrist[:, h] - J0], axis=1
    )
    vertices, local = scene.local("B", pair)
    joints = scene.joints("B", pair)
    pixels = scene.pixels(joints)
    folder = sequence / serial
    folder.mkdir(parents=True)
    for frame in scene.every:
        seen = there[frame]
        missing = np.full((21, 3), -1.0)
        np.savez(
            folder / f"labels_{frame:06d}.npz",
            seg=np.zeros((4, 6), np.uint8),
            pose_y=np.zeros((1, 3, 4), dtype),
            pose_m=(pose[frame] if seen else np.zeros(51))[None].astype(dtype),
            joint_3d=(joints[frame, h][MANO_TO_OP] if seen else missing)[None].astype(dtype),
            joint_2d=(pixels[frame, h][MANO_TO_OP] if seen else missing[:, :2])[None].astype(dtype),
        )
    (sequence / "meta.yml").write_text(
        f"serials:\n- '{serial}'\n- '839512060362'\nnum_frames: {scene.num_frames}\n"
        "extrinsics: '20200702_151821'\nycb_ids:\n- 5\n- 11\nycb_grasp_ind: 0\n"
        f"mano_sides:\n- {side}\nmano_calib:\n- {calibration}\n"
    )
    mano = path / "calibration" / f"mano_{calibration}"
    mano.mkdir(parents=True)
    numbers = "".join(f"- {float(b)!r}\n" for b in betas[0])
    (mano / "mano.yml").write_text(f"betas:\n{numbers}")
    intrinsics = path / "calibration" / "intrinsics"
    intrinsics.mkdir()
    K = scene.K[0]
    np.testing.assert_array_equal(scene.K, K[None].repeat(scene.num_frames, axis=0))
    values = (("fx", K[0, 0]), ("fy", K[1, 1]), ("ppx", K[0, 2]), ("ppy", K[1, 2]))
    (intrinsics / f"{serial}_640x480.yml").write_text(
        "color:\n"
        + "".join(f"  {name}: {float(x)!r}\n" for name, x in values)
        + "depth:\n"
        + "".join(f"  {name}: {float(x) + 3!r}\n" for name, x in values)
    )
    here = np.zeros((scene.num_frames, 2), bool)
    here[:, h] = there
    shown = here[..., None, None]
    return expected(
        folder,
        scene,
        scene.every,
        hands=[h],
        tips="B",
        frame_id=[f"labels_{frame:06d}" for frame in scene.every],
        betas_known=here & (side == "right"),
        local_joints=local * shown,
        local_vertices=vertices * shown,
        pixels=np.where(shown, pixels, np.nan),
        keypoints=np.where(shown, pixels, np.nan),
        lift_px=0.02,
        atol=2e-6,
    )


# ---- InterHand2.6M


def write_interhand(path, scene):
    """InterHand2.6M's MANO_NeuralAnnot.json of two captures: world axes, metres.

    Args:
        path: the file, *_MANO_NeuralAnnot.json.
        scene: any; absent hands are null.
    """
    orient, wrist = scene.in_world()
    J0 = scene.rest_wrists()
    captures, names = {}, []
    for frame in scene.every:
        hands = {}
        for h, side in enumerate(SIDES):
            hands[side] = None
            if scene.hand_valid[frame, h]:
                hands[side] = plain(
                    {
                        "pose": np.concatenate([orient[frame, h], scene.without_mean()[frame, h]]),
                        "shape": scene.betas[frame, h],
                        "trans": wrist[frame, h] - J0[frame, h],
                    }
                )
        capture = "0" if frame < 4 else "1"
        number = str(12_000 + 3 * frame)
        captures.setdefault(capture, {})[number] = hands
        names.append(f"{capture}/{number}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(captures))
    return expected(
        path,
        scene,
        scene.every,
        tips="A",
        frame_id=names,
        **_in_world(scene, orient, wrist),
    )
