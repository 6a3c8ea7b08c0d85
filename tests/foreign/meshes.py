"""Formats of meshes: IntagHand, Im2Hands."""

from pathlib import Path

import numpy as np

from .joints import no_parameters
from .scene import (
    MANO_TO_OP,
    MIDDLE1,
    SIDES,
    cast,
    dump,
    expected,
    fit_weak,
    known,
    models,
    square_round,
)


def write_intaghand(path, scene, *, layout="dict", name_key="img_path", dtype=np.float32):
    """IntagHand's vertex sets: each hand about its middle finger's base, of normalised size.

    `Written.scale` holds the file's lengths per metre, the same for both hands: their mean
    length from wrist to middle1 is 0.095 in the file. Only the frames with both hands are
    written.

    Args:
        path: .pkl, .npz, .npy or .json.
        scene: any.
        layout: 'dict' or 'list' (a dictionary a frame).
        name_key: 'img_path' or None.
        dtype: precision of the arrays.
    """
    frames = scene.both
    vertices, joints = (x[frames] for x in scene.local("B'"))
    true = scene.pixels(scene.joints("B'"))[frames]
    length = np.linalg.norm(joints[:, :, MIDDLE1], axis=-1).mean(1)
    factor = 0.095 / length
    count = len(frames)
    scale, trans = np.zeros((count, 2)), np.zeros((count, 2, 2))
    pixels, weak = np.zeros((count, 2, 21, 2)), np.zeros((count, 2, 3))
    meshes, flat = np.zeros((count, 2, 778, 3)), np.zeros((count, 2, 778, 2))
    wrists = np.zeros((count, 2, 3))
    for i in range(count):
        centre, side = square_round(true[i], factor=1.3)
        for h in (0, 1):
            middle = joints[i, h, MIDDLE1]
            X = factor[i] * (joints[i, h] - middle)
            meshes[i, h] = factor[i] * (vertices[i, h] - middle)
            s, dx, dy = fit_weak(X, (true[i, h] - centre) / side * 256)
            scale[i, h], trans[i, h] = s / 256, np.array([dx, dy]) / 128
            pixels[i, h] = 256 * scale[i, h] * X[:, :2] + 128 * trans[i, h] + 128
            flat[i, h] = 256 * scale[i, h] * meshes[i, h, :, :2] + 128 * trans[i, h] + 128
            # As in conventions.md section 5: s_h = 2 s, t_h = t / (2 s), all in true metres.
            t = trans[i, h] / (2 * scale[i, h]) / factor[i]
            weak[i, h] = [2 * scale[i, h] * factor[i], *(t - middle[:2])]
            wrists[i, h, :2] = weak[i, h, 1:]
    output = {
        "verts3d": {side: meshes[:, h] for h, side in enumerate(SIDES)},
        "verts2d": {side: flat[:, h] for h, side in enumerate(SIDES)},
        "scale": {side: scale[:, h] for h, side in enumerate(SIDES)},
        "trans2d": {side: trans[:, h] for h, side in enumerate(SIDES)},
    }
    output = cast(output, dtype)
    names = [scene.images[frame] for frame in frames]

    def at(rows):
        part = {key: {s: a[rows] for s, a in both.items()} for key, both in output.items()}
        return {**part, **({name_key: names[rows]} if name_key else {})}

    if layout == "dict":
        dump(path, at(slice(0, count)))
    else:
        dump(path, [at(slice(i, i + 1)) for i in range(count)])
    wrists -= wrists[:, :1]
    valid = scene.hand_valid[frames]
    return expected(
        path,
        scene,
        frames,
        tips="B'",
        **no_parameters(valid),
        frame_id=names if name_key else None,
        wrists=wrists,
        space="common",
        root_exact=False,
        relative_known=known(valid, (True, True, False)),
        pixels=pixels,
        crop_pixels=True,
        K=None,
        weak=weak,
        crop=np.tile([128.0, 128.0, 256.0], (count, 2, 1)),
        scale=np.repeat(factor[:, None], 2, axis=1),
        atol=2e-6,
        lift_px=0.1,
    )


def write_im2hands(path, scene, *, topology="mano", binary=False, keypoints=True):
    """Im2Hands' folder: NAME_{side}.obj in millimetres, NAME_{side}.ply of 21 points in metres.

    Both hands about the right wrist (alone, the left one). A network of implicit surfaces gives
    no MANO vertices: 'implicit' writes the surface as marching cubes would, other vertices in
    another order; 'mano' writes the 778.

    Args:
        path: the folder.
        scene: any; a hand that is not there has no files.
        topology: 'mano' or 'implicit'.
        binary: .ply in binary_little_endian.
        keypoints: the .ply files.
    """
    rng = scene.rng(12)
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    frames = scene.some
    anchor = np.where(scene.hand_valid[:, :1], scene.wrist[:, 0], scene.wrist[:, 1])
    wrists = (scene.wrist - anchor[:, None]) * scene.hand_valid[..., None]
    vertices, joints = scene.local("B'")
    vertices, joints = vertices + wrists[:, :, None], joints + wrists[:, :, None]
    for frame in frames:
        for h in np.flatnonzero(scene.hand_valid[frame]):
            stem = path / f"{scene.stems[frame]}_{SIDES[h]}"
            points, faces = vertices[frame, h], models()[h].faces
            if topology == "implicit":
                points = rng.permutation(points[faces].mean(1))
                faces = np.arange(len(points) // 3 * 3).reshape(-1, 3)
            text = "".join("v {:.9g} {:.9g} {:.9g}\n".format(*p) for p in 1000 * points)
            text += "".join("f {} {} {}\n".format(*f) for f in faces + 1)
            stem.with_name(stem.name + ".obj").write_text(text)
            if keypoints:
                ply(stem.with_name(stem.name + ".ply"), joints[frame, h][MANO_TO_OP], binary)
    valid = scene.hand_valid[frames]
    return expected(
        path,
        scene,
        frames,
        tips="B'",
        **no_parameters(valid),
        frame_id=[scene.stems[frame] for frame in frames],
        wrists=wrists[frames],
        space="common",
        root_exact=False,
        pixels=None,
        K=None,
        atol=1e-6,
    )


def ply(path, points, binary):
    kind = "binary_little_endian" if binary else "ascii"
    header = (
        f"ply\nformat {kind} 1.0\nelement vertex {len(points)}\n"
        "property float x\nproperty float y\nproperty float z\nend_header\n"
    )
    body = points.astype("<f4").tobytes()
    if not binary:
        body = "".join("{:.9g} {:.9g} {:.9g}\n".format(*p) for p in points).encode()
    path.write_bytes(header.encode() + body)
