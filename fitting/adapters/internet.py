"""InterNet's output, the baseline of InterHand2.6M: 2.5D joints of both hands.

    joint_coord (N, 42, 3)    right hand first; x, y in pixels of the image, z in millimetres
                              relative to the hand's own wrist
    rel_root_depth (N, 1)     z of the left wrist minus that of the right one, millimetres
    hand_type (N, 2)          probabilities that there is a right and a left hand; beyond one half
                              there is
    focal, princpt (2,) or (N, 2)
                              the camera, pixels; optional
    root_depth (N,)           z of the right wrist, of the left one where there is no right hand,
                              millimetres; optional

With camera and depth the joints are back-projected exactly. Without, the size of the palms says how
many metres a pixel is: the mean hand's palm, one scale a frame.

Sources: main/model.py, data/InterHand2.6M/dataset.py of facebookresearch/InterHand2.6M.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float

from fitting.adapters.formats import Conventions, Conversion, Format, Reading
from fitting.adapters.landmarks import UNITS, from_landmarks
from fitting.adapters.lifting import intrinsics
from fitting.adapters.openpose import NEEDS_SIZE, square_crop, to_crop
from fitting.adapters.records import Record, records, unique_names
from fitting.errors import InputError
from fitting.initialise import PALM
from mano_jax.joint_orders import MANO21, permutation
from mano_jax.model import Hands

CONVENTIONS: Final = Conventions(
    rotations="none",
    mean="none",
    left="native",
    left_shapedirs="none",
    origin="wrist",
    camera="perspective",
    unit="mm",
    joint_order="interhand21",
    two_hands="together",
)

HEATMAP_BINS: Final = 64
"""Of the network's own space along each axis: coordinates that are still there have no unit."""

_NEAREST_MM: Final = 20.0
"""A wrist nearer to the camera than this was not given in millimetres."""

_PAIRS: Final = np.array([(a, b) for i, a in enumerate(PALM) for b in PALM[i + 1 :]])


def read_internet(path: Path, reading: Reading) -> Conversion:
    """Read the joints of both hands into one camera frame.

    Raises:
        InputError: a missing or misshapen entry, numbers that are not finite, coordinates that are
            still bins of a heat map, or a focal length without an image size.
    """
    parts = [_read_record(record, reading) for record in records(path)]
    if len({frozenset(part) for part in parts}) > 1:
        raise InputError(f"{path}: only some of its parts have focal, princpt or root_depth")
    rows = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    there, order = rows["there"], permutation(CONVENTIONS.joint_order, "mano21")
    coordinates = rows["joint_coord"][:, :, order]
    pixels = coordinates[..., :2]
    # Depths of all joints from one wrist on: the right one, or the left one that is alone.
    z = coordinates[..., 2] * UNITS["mm"]
    z[:, 1] += np.where(there.all(1), rows["rel_root_depth"] * UNITS["mm"], 0.0)[:, None]
    seen = np.broadcast_to(there[..., None], z.shape).astype(np.float64)
    keypoints = np.concatenate([pixels * seen[..., None], seen[..., None]], axis=-1)

    fields: dict[str, np.ndarray] = {}
    lacking = [key for key in ("focal", "root_depth") if key not in rows]
    scale = _metres_per_pixel(reading.hands, pixels, z, there) if lacking else np.zeros(len(z))
    if "focal" in rows:
        focal = rows["focal"][:, None, None]
        z = z + _root_depth(rows, z, seen, scale)[:, None, None]
        if np.any(z[there] <= 0):
            raise InputError(
                f"{path}: expected joints in front of the camera, found some behind it: is "
                "root_depth the depth of the wrist, in millimetres?"
            )
        xy = (pixels - rows["princpt"][:, None, None]) / focal * z[..., None]
        fields["keypoints_2d"] = keypoints
        fields["K"] = intrinsics(focal[:, 0, 0, 0], rows["princpt"])[:, None]
        fields["K"][:, 0, 1, 1] = focal[:, 0, 0, 1]
    else:
        centre, half = square_crop(keypoints)
        xy = (pixels - centre[:, None, None]) * scale[:, None, None, None]
        in_crop = np.where(seen[..., None] > 0, to_crop(pixels, centre, half), 0.0)
        fields["keypoints_2d"] = np.concatenate([in_crop, seen[..., None]], axis=-1)
    points = np.concatenate([xy, z[..., None]], axis=-1)
    # Where the scale is not known, neither is anything else.
    seen = np.where(np.isfinite(points).all(-1), seen, 0.0)
    points = np.where(seen[..., None] > 0, points, 0.0)
    wrist = np.where(there[:, :1], points[:, 0, 0], points[:, 1, 0])
    if "focal" in rows:
        fields["root_transl"] = wrist
    else:
        s = 1.0 / np.where(np.isfinite(scale), scale * half, 1.0)
        fields["weak_camera"] = np.concatenate([s[:, None], wrist[:, :2]], axis=1)
    names = np.concatenate([part["names"] for part in parts])
    predictions = from_landmarks(
        points, seen, MANO21, frame_id=np.array(unique_names(names.tolist()), dtype=str), **fields
    )
    return Conversion(predictions, tuple(_notes(lacking, there & ~predictions.hand_valid)))


def _notes(lacking: list[str], lost: Bool[np.ndarray, "N 2"]) -> Iterator[str]:
    if lacking:
        yield (
            f"the file has no {' and no '.join(lacking)}: how large a pixel is at the hands was "
            "taken from the size of the mean hand's palm, one scale a frame"
        )
    if np.any(lost):
        yield (
            f"{lost.any(1).sum()} frames are deeper than a palm is large, so that nothing says how "
            "large a pixel is: they are left without hands"
        )


def _read_record(record: Record, reading: Reading) -> dict[str, np.ndarray]:
    """One dictionary's rows, with the camera if it, or the user, gives one."""
    coordinates = record.needed("joint_coord", ("N", 42, 3))
    count = len(coordinates)
    coordinates = coordinates.reshape(count, 2, 21, 3)
    probability = record.needed("hand_type", (count, 2))
    depth = record.needed("rel_root_depth", (count, 1))[:, 0]
    there = probability > 0.5
    _finite(record, "hand_type", probability)
    _finite(record, "joint_coord", coordinates[there])
    _finite(record, "rel_root_depth", depth[there.all(1)])
    used = coordinates[there]
    if used.size and np.all((used >= 0) & (used <= HEATMAP_BINS)):
        raise InputError(
            f"{record.path}: {record.where}joint_coord: expected pixels of the image and "
            f"millimetres, found all numbers within 0 and {HEATMAP_BINS}: they are still bins of "
            "the heat map. Save them as main/test.py's evaluation turns them: x and y by the "
            "inverse of the crop's transformation, z / 64 * 2 - 1 times 200 mm"
        )
    named = record.image_names(count)
    rows = {
        "joint_coord": coordinates,
        "there": there,
        "rel_root_depth": depth,
        "names": np.array(
            named or [f"{record.path.stem}{record.where}/{i:06d}" for i in range(count)], dtype=str
        ),
    }
    return rows | _camera(record, count, reading) | _given_depth(record, there)


def _camera(record: Record, count: int, reading: Reading) -> dict[str, np.ndarray]:
    if "focal" not in record.values:
        if reading.focal is None:
            return {}
        if reading.image_size is None:
            raise InputError(f"{record.path}: {NEEDS_SIZE}")
        middle = np.tile(np.array(reading.image_size) / 2, (count, 1))
        return {"focal": np.full((count, 2), float(reading.focal)), "princpt": middle}
    rows = {}
    for key in ("focal", "princpt"):
        values = record.needed(key, (2,) if _is_one(record.values.get(key)) else (count, 2))
        rows[key] = np.array(np.broadcast_to(values, (count, 2)))
        _finite(record, key, values)
    if np.any(rows["focal"] <= 0):
        raise InputError(f"{record.path}: {record.where}focal: expected pixels, above 0")
    if reading.focal is not None:
        rows["focal"][:] = reading.focal
    return rows


def _is_one(value: Any) -> bool:
    """Whether it is one camera's pair of numbers, not one for each frame."""
    if isinstance(value, np.ndarray):
        return value.ndim == 1
    return isinstance(value, list | tuple) and not any(isinstance(x, list | tuple) for x in value)


def _given_depth(record: Record, there: np.ndarray) -> dict[str, np.ndarray]:
    if "root_depth" not in record.values:
        return {}
    depth = record.needed("root_depth", (len(there),))
    used = depth[there.any(1)]
    _finite(record, "root_depth", used)
    if np.any(used < _NEAREST_MM):
        raise InputError(
            f"{record.path}: {record.where}root_depth: expected millimetres from the camera, found "
            f"{used.min():g}; are they metres?"
        )
    return {"root_depth": depth}


def _finite(record: Record, key: str, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise InputError(
            f"{record.path}: {record.where}{key}: expected finite numbers for the hands that are "
            f"there, found {(~np.isfinite(values)).sum()} that are not"
        )


def _root_depth(
    rows: dict[str, np.ndarray], z: np.ndarray, seen: np.ndarray, scale: np.ndarray
) -> np.ndarray:
    """Depth (N,) that the joints' depths count from, metres."""
    if "root_depth" in rows:
        # Frames without hands may hold anything.
        there = rows["there"].any(1)
        return np.where(there, rows["root_depth"], 0.0) * UNITS["mm"]
    # The scale is that of the hands' middle.
    middle = (z * seen).sum((1, 2)) / np.maximum(seen.sum((1, 2)), 1.0)
    return rows["focal"].mean(1) * scale - middle


def _metres_per_pixel(
    hands: Hands,
    pixels: Float[np.ndarray, "N 2 21 2"],
    z: Float[np.ndarray, "N 2 21"],
    there: Bool[np.ndarray, "N 2"],
) -> Float[np.ndarray, "N"]:
    """What a pixel is at the hands if their palms are the mean hand's; NaN where nothing says it.

    A palm's bone of length l between depths that differ by d looks sqrt(l^2 - d^2) long.
    """
    a, b = _PAIRS.T
    rest = np.asarray(hands.J_template, np.float64)
    lengths = ((rest[:, b] - rest[:, a]) ** 2).sum(-1)
    shown = ((pixels[:, :, b] - pixels[:, :, a]) ** 2).sum(-1)
    across = lengths - (z[:, :, b] - z[:, :, a]) ** 2
    squares = [np.where(there[..., None], part, 0.0).sum((1, 2)) for part in (across, shown)]
    sound = (squares[0] > 0) & (squares[1] > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sound, np.sqrt(np.maximum(squares[0], 0.0) / squares[1]), np.nan)


INTERNET: Final = Format(
    "internet",
    "InterNet's 2.5D joints of both hands",
    read_internet,
    keys=(frozenset({"joint_coord", "rel_root_depth", "hand_type"}),),
    options=("focal",),
    conventions=CONVENTIONS,
)
