"""IntagHand's output: the vertices of two hands, and how each is seen in the crop.

A dictionary, or a list of them, with an entry a hand under right and left:

    verts3d (B, 778, 3)       about the middle finger's base; lengths such that the mean distance
                              from there to the wrist is 0.095 over the two hands
    scale (B,), trans2d (B, 2)
                              the crop: pixel = 256 scale X + 128 trans2d + 128
    img_path (B,)             names of the images, if there

MANO is fitted to the vertices. One weak camera stands for the two: its scale is the geometric mean
of theirs, and across the hands lie where theirs put the wrists. How far one hand is in front of
the other is not in the output, nor is how large the hands are.

Sources: models/decoder.py, utils/utils.py, core/loader.py, core/test_utils.py of
Dw1010/IntagHand.
"""

from pathlib import Path
from typing import Final

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from fitting.adapters.formats import Conventions, Conversion, Evidence, Format, Reading
from fitting.adapters.records import Record, records, unique_names
from fitting.errors import InputError
from fitting.initialise_vertices import initialise_from_vertices
from fitting.predictions import TwoHandPredictions
from mano_jax.model import SIDES, Hands, pose_hands

CONVENTIONS: Final = Conventions(
    rotations="none",
    mean="none",
    left="native",
    left_shapedirs="none",
    origin="middle1",
    camera="u = sX + t",
    joint_order="openpose21",
    fingertips="intaghand",
    two_hands="apart",
)

_PALM_LENGTH: Final = 0.095
"""Metres from the wrist to the middle finger's base, of every pair of hands."""

_FITTED_TOGETHER: Final = 256


def read_intaghand(path: Path, reading: Reading) -> Conversion:
    """Read both hands' vertices and fit MANO to them.

    Raises:
        InputError: a missing or misshapen entry, numbers that are not finite, a scale that is not
            positive, or a hand model of another topology.
    """
    hands, parts, names = reading.hands, [], []
    for record in records(path):
        part = _read_record(record, hands)
        count = len(part["scale"])
        named = record.image_names(count)
        names += named or [f"{record.path.stem}{record.where}/{i:06d}" for i in range(count)]
        parts.append(part)
    rows = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    vertices = rows["vertices"]
    if len(vertices) == 0:
        raise InputError(f"{path}: expected vertices of an image at least, found none")
    parameters, wrist, left_over = _fit(hands, vertices)

    # [-1, 1] of the crop: u = 2 s X + t, and the same under one scale.
    own, trans = 2.0 * rows["scale"], rows["trans2d"]
    scale = np.sqrt(own.prod(1))
    place = (own[..., None] * wrist[..., :2] + trans) / scale[:, None, None]
    tau = np.concatenate([place[:, 1] - place[:, 0], np.zeros((len(place), 1))], axis=1)
    predictions = TwoHandPredictions(
        hand_valid=np.ones((len(vertices), 2), bool),
        **parameters,
        relative_transl=tau,
        relative_transl_confidence=np.tile([1.0, 1.0, 0.0], (len(tau), 1)),
        weak_camera=np.concatenate([scale[:, None], place[:, 0]], axis=1),
        frame_id=np.array(unique_names(names), dtype=str),
    )
    notes = [
        f"MANO was fitted to the vertices: {1000 * left_over.mean():.2f} mm of a vertex remain on "
        f"average, {1000 * left_over.max():.2f} mm in the worst hand",
        f"hands have IntagHand's size, {_PALM_LENGTH:g} m from wrist to middle finger on average "
        "of each pair, which is not the person's",
        f"the two hands' own scales differ by {100 * _spread(own):.0f} % on average; they lie side "
        "by side under one between them, and the depth between them is unknown",
    ]
    return Conversion(predictions, tuple(notes), Evidence(vertices=vertices))


def _spread(own: np.ndarray) -> float:
    return float(np.mean(own.max(1) / own.min(1) - 1.0))


def _read_record(record: Record, hands: Hands) -> dict[str, np.ndarray]:
    """One dictionary's vertices (B, 2, 778, 3), scales and translations."""
    count = len(record.needed(f"verts3d/{SIDES[0]}", ("B", "V", 3)))
    shapes = {"verts3d": (count, "V", 3), "scale": (count,), "trans2d": (count, 2)}
    found = {}
    for key, shape in shapes.items():
        found[key] = np.stack([record.needed(f"{key}/{side}", shape) for side in SIDES], axis=1)
        if not np.isfinite(found[key]).all():
            raise InputError(
                f"{record.path}: {record.where}{key}: expected finite numbers, found "
                f"{(~np.isfinite(found[key])).sum()} that are not"
            )
    number = found["verts3d"].shape[2]
    if number != hands.num_vertices:
        raise InputError(
            f"{record.path}: {record.where}verts3d: expected the {hands.num_vertices} vertices of "
            f"the hand model, found {number}"
        )
    if np.any(found["scale"] <= 0):
        raise InputError(f"{record.path}: {record.where}scale: expected numbers above 0")
    return {
        "vertices": found["verts3d"].astype(np.float32),
        "scale": found["scale"],
        "trans2d": found["trans2d"],
    }


def _fit(
    hands: Hands, vertices: Float[np.ndarray, "N 2 V 3"]
) -> tuple[dict[str, np.ndarray], Float[np.ndarray, "N 2 3"], Float[np.ndarray, "N 2"]]:
    """Parameters, wrists in the vertices' frames, and how far a vertex is off on average."""
    parts = []
    for first in range(0, len(vertices), _FITTED_TOGETHER):
        target = vertices[first : first + _FITTED_TOGETHER]
        start = initialise_from_vertices(hands, target, np.ones(target.shape[:3], bool))
        dtype = hands.v_template.dtype
        posed = pose_hands(
            hands,
            global_orient=jnp.asarray(start.global_orient, dtype),
            hand_pose=jnp.asarray(start.hand_pose, dtype),
            betas=jnp.asarray(start.betas, dtype),
        )
        mesh = np.asarray(posed.vertices, np.float64)
        offset = (target - mesh).mean(2)
        wrist = np.asarray(posed.joints, np.float64)[:, :, 0] + offset
        left_over = np.linalg.norm(mesh + offset[:, :, None] - target, axis=-1).mean(-1)
        parts.append((start.global_orient, start.hand_pose, start.betas, wrist, left_over))
    orient, pose, betas, wrist, left_over = (np.concatenate(x) for x in zip(*parts, strict=True))
    return {"global_orient": orient, "hand_pose": pose, "betas": betas}, wrist, left_over


INTAGHAND: Final = Format(
    "intaghand",
    "IntagHand's vertices of two hands",
    read_intaghand,
    keys=(frozenset({"verts3d", "scale", "trans2d"}),),
    conventions=CONVENTIONS,
)
