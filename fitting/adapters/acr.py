"""ACR's results, saved with `--save_dict_results`.

A dictionary of images, in a pickle or as an object in an .npz, each {"left": [...], "right": [...]}
with a dictionary a hand, or {} where nothing was found; float16 or float32:

    poses (48,)               wrist, fingers
    betas (10,)
    cam_trans (3,)            where the middle finger's base is in a camera of f = 1265 on the
                              512 canvas (the image, padded to a square and scaled)
    j3d (21, 3)               joints about the middle finger's base, metres
    pj2d (21, 2), pj2d_org (21, 2)
                              their projection in [-1, 1] of the canvas, and in pixels of the image

Each hand's cam_trans is found by itself, so the depth between two hands is unknown.

Sources: acr/main.py, acr/mano_wrapper.py, acr/utils.py, mano/manolayer.py of
ZhengdiYu/Arbitrary-Hands-3D-Reconstruction.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from fitting.adapters.containers import read_tree
from fitting.adapters.fields import text
from fitting.adapters.formats import Conventions, Conversion, Format, Reading
from fitting.adapters.found_hands import FoundHands, join, to_predictions
from fitting.adapters.lifting import intrinsics
from fitting.adapters.poses import canonical_betas, canonical_pose, posed_joints
from fitting.adapters.records import Record, files_of
from fitting.errors import InputError
from mano_jax.joint_orders import index, permutation
from mano_jax.model import SIDES

CONVENTIONS: Final = Conventions(
    rotations="axis-angle",
    mean="excluded",
    left="native",
    left_shapedirs="mirrored",
    origin="middle1",
    camera="u = sX + t",
    joint_order="openpose21",
    fingertips="manopth",
    two_hands="apart",
)

CANVAS_PIXELS: Final = 512
CANVAS_FOCAL: Final = 1265.0

_SHAPES: Final = {"poses": (48,), "betas": (10,), "cam_trans": (3,)}
_POINTS: Final = {"j3d": (21, 3), "pj2d": (21, 2), "pj2d_org": (21, 2)}


def read_acr(path: Path, reading: Reading) -> Conversion:
    """Read results and join their hands by image; each image's camera is in its own pixels.

    Raises:
        InputError: a missing or misshapen entry.
    """
    rows: dict[str, list] = {key: [] for key in (*_SHAPES, *_POINTS, "image", "side")}
    images = []
    for file, image, hands in _images(path):
        images.append(image)
        for side, name in enumerate(SIDES):
            listed = hands.get(name, ())
            if not isinstance(listed, list | tuple):
                raise InputError(
                    f"{file}: {image}/{name}: expected a list of hands, found "
                    f"{type(listed).__name__}"
                )
            for i, hand in enumerate(listed):
                where = f"{image}/{name}[{i}]"
                if not isinstance(hand, dict):
                    raise InputError(f"{file}: {where}: expected a dictionary of arrays")
                record = Record(file, where, hand)
                for key, shape in _SHAPES.items():
                    rows[key].append(record.needed(key, shape))
                for key, shape in _POINTS.items():
                    given = record.array(key, shape, optional=True)
                    rows[key].append(np.full(shape, np.nan) if given is None else given)
                rows["image"].append(image)
                rows["side"].append(side)
    if not rows["image"]:
        raise InputError(f"{path}: no hand in {len(images)} images")
    side = np.array(rows["side"])
    parts = {key: np.stack(rows[key]) for key in (*_SHAPES, *_POINTS)}

    model, poses = reading.hands, parts["poses"]
    orient, pose = canonical_pose(CONVENTIONS, model, side, poses[:, :3], poses[:, 3:])
    betas, _ = canonical_betas(CONVENTIONS, model, side, parts["betas"])
    ours = posed_joints(model, side, orient, pose, betas)
    wrist = parts["cam_trans"] + ours[:, 0] - ours[:, index("middle1")]
    scale, offset = _canvas_to_image(parts["pj2d"], parts["pj2d_org"])
    half = CANVAS_PIXELS / 2
    order = permutation(CONVENTIONS.joint_order, "mano21")
    canvas = half * (parts["pj2d"][:, order] + 1)
    found = FoundHands(
        image=np.array(rows["image"], dtype=str),
        side=side,
        global_orient=orient,
        hand_pose=pose,
        betas=betas,
        wrist=wrist,
        K=intrinsics(CANVAS_FOCAL * scale, half * scale[:, None] + offset),
        joints=parts["j3d"][:, order],
        pixels=scale[:, None, None] * canvas + offset[:, None],
        images=tuple(images),
    )
    frames = join(found)
    predictions, evidence = to_predictions(CONVENTIONS, found, frames)
    notes = list(frames.notes)
    if np.isnan(parts["pj2d_org"]).all():
        notes.append("no pj2d_org: pixels are those of ACR's 512 canvas, not of the image")
    return Conversion(predictions, tuple(notes), evidence)


def _canvas_to_image(canvas: np.ndarray, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale and offset from pixels of the canvas to those of the image, by least squares.

    Identity where a hand lacks either; both are ACR's own, so the fit is exact up to their
    rounding.
    """
    canvas = CANVAS_PIXELS / 2 * (canvas + 1)
    a, b = canvas - canvas.mean(1, keepdims=True), image - image.mean(1, keepdims=True)
    scale = np.sum(a * b, axis=(1, 2)) / np.sum(a * a, axis=(1, 2))
    offset = image.mean(1) - scale[:, None] * canvas.mean(1)
    sound = np.isfinite(offset).all(1) & (scale > 0)
    return np.where(sound, scale, 1.0), np.where(sound[:, None], offset, 0.0)


def _images(path: Path) -> Iterator[tuple[Path, str, dict[str, Any]]]:
    """Every image's hands."""
    files = files_of(path)
    for file in files:
        # Each file is a video of its own, which may name its images as another one does.
        inside = f"{file.stem}/" if len(files) > 1 else ""
        tree = read_tree(file)
        # An .npz with the one dictionary under some name.
        if isinstance(tree, dict) and len(tree) == 1:
            (inner,) = tree.values()
            if isinstance(inner, dict) and not set(inner) & set(SIDES) and inner:
                tree = inner
        if not isinstance(tree, dict):
            raise InputError(
                f"{file}: expected a dictionary of images, found {type(tree).__name__}"
            )
        for name, hands in tree.items():
            if not isinstance(hands, dict) or not set(hands) <= set(SIDES):
                raise InputError(
                    f"{file}: {name}: expected a dictionary with left and right, or an empty one"
                )
            yield file, inside + text(name, "a key", file), hands


ACR: Final = Format(
    "acr",
    "ACR's saved results, a dictionary of images",
    read_acr,
    suffixes=(".pkl", ".pickle", ".npz", ".npy"),
    keys=(frozenset({"poses", "cam_trans", "betas"}),),
    conventions=CONVENTIONS,
)
