"""Formats of joints alone: InterNet, OpenPose, COCO-WholeBody, MediaPipe."""

import json
from pathlib import Path

import numpy as np

from .scene import (
    MANO_TO_IH,
    MANO_TO_OP,
    SIDES,
    Scene,
    expected,
    plain,
)

RIGHT, LEFT = 0, 1


def no_parameters(written_valid):
    """What joints alone leave unknown."""
    shape = written_valid.shape
    return {
        "params_known": False,
        "global_orient": np.zeros((*shape, 3)),
        "hand_pose": np.zeros((*shape, 15, 3)),
        "betas": np.zeros((*shape, 10)),
        "betas_known": np.zeros(shape, bool),
    }


def _only_pixels(scene, frames):
    frames = np.asarray(frames, int)
    valid = scene.hand_valid[frames]
    return {
        **no_parameters(valid),
        "wrists": np.zeros((*valid.shape, 3)),
        "space": "own",
        "root_exact": False,
        "relative_known": np.zeros((len(valid), 3), bool),
    }


# ---- InterNet


def write_internet(path, scene: Scene, *, cameras="each", dtype=np.float32, tips="A"):
    """InterNet's arrays: pixels and root-relative depth in InterHand2.6M's order, right first.

    Args:
        path: .npz.
        scene: any; a hand that is not there has a probability below one half, and numbers all
            the same.
        cameras: focal and princpt 'each' (N, 2), or 'one' (2,).
        dtype: precision of the arrays.
        tips: fingertip set of the joints.
    """
    rng = scene.rng(8)
    number = scene.num_frames
    joints = scene.joints(tips)
    pixels = scene.pixels(joints)
    coordinates = np.concatenate([pixels, 1000 * (joints - joints[:, :, :1])[..., 2:]], axis=-1)
    made_up = np.concatenate(
        [rng.uniform(0, 1000, pixels.shape), rng.normal(0, 60, (*pixels.shape[:3], 1))], axis=-1
    )
    there = scene.hand_valid
    coordinates = np.where(there[..., None, None], coordinates, made_up)
    both = there.all(1)
    depth = 1000 * scene.wrist[..., 2]
    rel = np.where(both, depth[:, LEFT] - depth[:, RIGHT], rng.normal(0, 50, number))
    root = np.where(there[:, RIGHT], depth[:, RIGHT], depth[:, LEFT])
    root = np.where(there.any(1), root, 700.0)
    K = scene.K
    np.savez(
        path,
        joint_coord=coordinates[:, :, MANO_TO_IH].reshape(number, 42, 3).astype(dtype),
        rel_root_depth=rel[:, None].astype(dtype),
        hand_type=np.where(there, rng.uniform(0.6, 1, (number, 2)), rng.uniform(0, 0.4)).astype(
            dtype
        ),
        focal=(K[:, [0, 1], [0, 1]] if cameras == "each" else K[0, [0, 1], [0, 1]]).astype(dtype),
        princpt=(K[:, :2, 2] if cameras == "each" else K[0, :2, 2]).astype(dtype),
        root_depth=root.astype(dtype),
    )
    return expected(
        path,
        scene,
        scene.every,
        tips=tips,
        **no_parameters(there),
        keypoints=pixels,
        atol=1e-6,
        lift_px=0.01,
    )


# ---- OpenPose and COCO-WholeBody


def _detections(scene, tips, missing):
    """Pixels and confidences (N, 2, 21), some joints missing."""
    rng = scene.rng(9)
    pixels = scene.pixels(scene.joints(tips))
    confidence = rng.uniform(0.2, 0.95, pixels.shape[:3]) * scene.hand_valid[..., None]
    if missing:
        confidence[rng.uniform(size=confidence.shape) < 0.1] = 0
    return pixels, confidence


def _triples(pixels, confidence):
    """[x, y, c] * 21 in OpenPose's order; zeros where missing."""
    triples = np.concatenate([pixels, confidence[..., None]], axis=-1)
    return np.where(confidence[..., None] > 0, triples, 0.0)[MANO_TO_OP].ravel()


def _of_pixels(path, scene, frames, pixels, confidence, tips, **changes):
    frames = np.asarray(frames, int)
    return expected(
        path,
        scene,
        frames,
        tips=tips,
        **_only_pixels(scene, frames),
        keypoints=np.where(confidence[frames][..., None] > 0, pixels[frames], np.nan),
        confidence=confidence[frames],
        options={"image_size": scene.image_size, "focal": float(scene.K[0, 0, 0])},
        **changes,
    )


def write_openpose(path, scene, *, absent="zeros", second_person=True, missing=True, tips="A"):
    """OpenPose's folder of *_keypoints.json.

    Args:
        path: the folder.
        scene: any; a frame without hands has no people.
        absent: what stands for a hand that is not there: 'zeros' or 'empty' (a list of none).
        second_person: another person with weaker hands, first in the first frame's list.
        missing: one joint in ten is missing.
        tips: fingertip set of the keypoints.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    pixels, confidence = _detections(scene, tips, missing)
    names, notes = [], {}
    for frame in scene.every:
        person = {"person_id": [-1], "pose_keypoints_2d": [1.0] * 75, "face_keypoints_2d": []}
        for h, side in enumerate(SIDES):
            values = _triples(pixels[frame, h], confidence[frame, h]).tolist()
            if absent == "empty" and not scene.hand_valid[frame, h]:
                values = []
            person[f"hand_{side}_keypoints_2d"] = values
        people = [person] if scene.hand_valid[frame].any() else []
        if second_person and frame == 0:
            other = dict(person)
            for side in SIDES:
                key = f"hand_{side}_keypoints_2d"
                weak = np.reshape(person[key], (21, 3)) * [0.5, 0.5, 0.2]
                other[key] = weak.ravel().tolist()
            people = [other, *people]
            notes[0] = "two people"
        names.append(scene.stems[frame])
        whole = {"version": 1.3, "people": people}
        (path / f"{names[-1]}_keypoints.json").write_text(json.dumps(whole))
    return _of_pixels(
        path, scene, scene.every, pixels, confidence, tips, frame_id=names, notes=notes
    )


def write_coco_wholebody(path, scene, *, results=False, second_person=True, missing=True, tips="A"):
    """COCO-WholeBody: annotations with images, or detection results without.

    In annotations the third number is a visibility, 2 seen, 1 hidden, 0 missing, told here as
    confidence 1, 1, 0.

    Args:
        path: .json.
        scene: any; with `results` a frame without hands has no entry at all.
        results: [{image_id, keypoints [399], score}], hands at 91-111 (left) and 112-132 (right).
        second_person: the first image has another person with weaker hands (a smaller score),
            first in the file.
        missing: one joint in ten is missing.
        tips: fingertip set of the keypoints.
    """
    rng = scene.rng(10)
    pixels, confidence = _detections(scene, tips, missing)
    frames = scene.some if results else scene.every
    ids = [397133 + 11 * int(frame) for frame in scene.every]
    W, H = scene.image_size
    notes, entries = {}, []
    if not results:
        visible = np.where(confidence > 0, rng.integers(1, 3, confidence.shape), 0)
        confidence = np.minimum(visible, 1).astype(float)
    for i, frame in enumerate(frames):
        if not scene.hand_valid[frame].any():
            continue
        shown = confidence if results else visible.astype(float)
        hands = [_triples(pixels[frame, h], shown[frame, h]) for h in (RIGHT, LEFT)]
        if results:
            body = np.tile([1.0, 2.0, 0.9], 91)
            entry = {
                "image_id": ids[frame],
                "category_id": 1,
                "keypoints": np.concatenate([body, hands[LEFT], hands[RIGHT]]).tolist(),
                "score": 0.8,
            }
        else:
            entry = {
                "id": 1000 + int(frame),
                "image_id": ids[frame],
                "category_id": 1,
                "keypoints": [0] * 51,
                "lefthand_kpts": hands[LEFT].tolist(),
                "righthand_kpts": hands[RIGHT].tolist(),
                "lefthand_valid": bool(scene.hand_valid[frame, LEFT]),
                "righthand_valid": bool(scene.hand_valid[frame, RIGHT]),
            }
        if second_person and i == 0:
            other = json.loads(json.dumps(entry))
            notes[0] = "two people"
            if results:
                triples = np.reshape(other["keypoints"], (133, 3)) * [0.5, 0.5, 0.2]
                other |= {"keypoints": triples.ravel().tolist(), "score": 0.3}
            else:
                # Only its left hand, of which half is labelled: fewer joints than the other's.
                left = np.reshape(other["lefthand_kpts"], (21, 3)) * [0.5, 0.5, 1]
                left[10:] = 0
                other |= {"lefthand_kpts": left.ravel().tolist(), "righthand_kpts": [0] * 63}
                other |= {"righthand_valid": False, "id": 1}
            entries.append(other)
        entries.append(entry)
    whole = entries
    if not results:
        images = [
            {"id": ids[f], "file_name": Path(scene.images[f]).name, "width": W, "height": H}
            for f in scene.every
        ]
        whole = {"images": images, "annotations": entries, "categories": [{"id": 1}]}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(whole))
    names = [str(ids[f]) if results else Path(scene.images[f]).name for f in frames]
    return _of_pixels(path, scene, frames, pixels, confidence, tips, frame_id=names, notes=notes)


# ---- MediaPipe


def landmarks(scene, tips):
    """Normalised landmarks and world landmarks (N, 2, 21, 3) in MediaPipe's (OpenPose's) order.

    x and y over the image's width and height; z about at x's scale, zero at the wrist, smaller
    nearer. World: metres about the hand's centre, image-aligned axes.
    """
    joints = scene.joints(tips)
    local = scene.local(tips)[1]
    pixels = scene.pixels(joints)
    W, H = scene.image_size
    depth = np.where(scene.hand_valid, scene.wrist[..., 2], 1.0)
    per_metre = scene.K[:, 0, 0, None] / depth / W
    z = local[..., 2] * per_metre[..., None]
    image = np.stack([pixels[..., 0] / W, pixels[..., 1] / H, z], axis=-1)
    low, high = local.min(2, keepdims=True), local.max(2, keepdims=True)
    return image[:, :, MANO_TO_OP], (local - (low + high) / 2)[:, :, MANO_TO_OP]


def _xyz(points, extra):
    return [
        {**dict(zip("xyz", point, strict=True)), **extra} for point in np.asarray(points).tolist()
    ]


def _proto(points, indent=2):
    pad = " " * indent
    lines = []
    for point in np.asarray(points, np.float32):
        lines.append(f"{pad}landmark {{\n")
        lines += [
            f"{pad}  {name}: {x!s}\n" for name, x in zip("xyz"[: len(point)], point, strict=True)
        ]
        lines.append(f"{pad}}}\n")
    return "".join(lines)


def write_mediapipe(path, scene, *, layout="camel", world=True, decoys=True, tips="A"):
    """MediaPipe's hands of a normal (not mirrored) image.

    Args:
        path: .json, .jsonl for the layout 'lines', a folder for the protos.
        scene: any; a frame without hands has empty lists. Protos leave such frames out.
        layout: 'camel' (Tasks of JavaScript: handedness, landmarks, worldLandmarks), 'hand' (the
            same with handLandmarks), 'snake' (Python: hand_landmarks, hand_world_landmarks,
            category_name), 'lines' (snake, one record a line), 'one' (camel, one record: the
            first frame), 'legacy' (multi_hand_landmarks; its labels are those of a mirrored
            image, so swapped), 'detection' (a .pbtxt a frame of one hand: classifications,
            landmarks, world_landmarks), 'holistic' (a .pbtxt a frame: left_hand_landmarks,
            right_hand_landmarks, no world).
        world: the world landmarks.
        decoys: the first frame's list starts with another right hand of a lower score (not in
            protos).
        tips: fingertip set; MediaPipe's own tips are on the skin and none of MANO's vertices.
    """
    rng = scene.rng(11)
    path = Path(path)
    image, metric = landmarks(scene, tips)
    frames = scene.every
    if layout == "one":
        frames = frames[:1]
    elif layout == "holistic":
        frames = scene.some
    elif layout == "detection":
        frames = np.flatnonzero(scene.hand_valid.sum(1) == 1)
    notes, records = {}, []
    names = [scene.stems[frame] for frame in frames]
    for i, frame in enumerate(frames):
        found = [
            (h, rng.uniform(0.8, 0.99), image[frame, h], metric[frame, h])
            for h in np.flatnonzero(scene.hand_valid[frame])
        ]
        if layout in ("detection", "holistic"):
            path.mkdir(parents=True, exist_ok=True)
            (path / f"{names[i]}.pbtxt").write_text(_text(found, layout, world))
            continue
        if i % 2:
            found = found[::-1]
        if decoys and i == 0 and scene.hand_valid[frame, RIGHT]:
            there = image[frame, RIGHT]
            found = [(RIGHT, 0.6, there * [0.5, 0.5, 1], metric[frame, RIGHT] * 1.1), *found]
            notes[0] = "two right hands"
        records.append(_record(found, layout, world))
    if layout not in ("detection", "holistic"):
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = records[0] if layout == "one" else records
        lines = "".join(json.dumps(plain(record)) + "\n" for record in records)
        path.write_text(lines if layout == "lines" else json.dumps(plain(whole)))
    pixels = scene.pixels(scene.joints(tips))[frames]
    return expected(
        path,
        scene,
        frames,
        tips=tips,
        **_only_pixels(scene, frames),
        frame_id=names if layout in ("detection", "holistic") else None,
        keypoints=pixels,
        options={"image_size": scene.image_size, "focal": float(scene.K[0, 0, 0])},
        # The protos hold nine digits of single precision.
        lift_px=1e-2,
        notes=notes,
    )


def _record(found, layout, world):
    names = [SIDES[h].capitalize() for h, *_ in found]
    if layout == "legacy":
        swapped = ["Left" if name == "Right" else "Right" for name in names]
        record = {
            "multi_hand_landmarks": [{"landmark": _xyz(p, {})} for _, _, p, _ in found],
            "multi_handedness": [
                {"classification": [{"index": int(label == "Right"), "score": s, "label": label}]}
                for label, (_, s, _, _) in zip(swapped, found, strict=True)
            ],
        }
        if world:
            record["multi_hand_world_landmarks"] = [
                {"landmark": _xyz(p, {})} for _, _, _, p in found
            ]
        return record
    snake = layout in ("snake", "lines")
    name, shown = ("category_name", "display_name") if snake else ("categoryName", "displayName")
    handedness = [
        [{"score": s, "index": int(label == "Left"), name: label, shown: label}]
        for label, (_, s, _, _) in zip(names, found, strict=True)
    ]
    extra = {"visibility": 0.0, "presence": 0.0} if snake else {"visibility": 0}
    keys = {
        "snake": ("hand_landmarks", "hand_world_landmarks"),
        "lines": ("hand_landmarks", "hand_world_landmarks"),
        "hand": ("handLandmarks", "worldLandmarks"),
    }.get(layout, ("landmarks", "worldLandmarks"))
    record = {"handedness": handedness, keys[0]: [_xyz(p, extra) for _, _, p, _ in found]}
    if world:
        record[keys[1]] = [_xyz(p, extra) for _, _, _, p in found]
    return record


def _text(found, layout, world):
    if layout == "holistic":
        return "# proto-message: HolisticResult\n" + "".join(
            f"{SIDES[h]}_hand_landmarks {{\n{_proto(points)}}}\n" for h, _, points, _ in found
        )
    ((h, score, points, metric),) = found
    label = SIDES[h].capitalize()
    text = (
        f"classifications {{\n  classification {{\n    score: {score}\n"
        f'    label: "{label}"\n    display_name: "{label}"\n  }}\n}}\n\n'
        f"landmarks {{\n{_proto(points)}}}\n"
    )
    return text + (f"\nworld_landmarks {{\n{_proto(metric)}}}\n" if world else "")
