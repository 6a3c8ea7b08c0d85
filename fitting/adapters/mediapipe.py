"""MediaPipe's hands: results of Tasks and of the legacy solution, in JSON or as text protos.

    Tasks       handedness [[{categoryName or category_name, score}]]; landmarks, handLandmarks or
                hand_landmarks [[{x, y, z} * 21]]; worldLandmarks or hand_world_landmarks, if there.
                The label is the subject's hand
    legacy      multi_handedness [{classification: [{label, score}]}], multi_hand_landmarks
                [{landmark: [..]}], multi_hand_world_landmarks. The label is that of a mirrored
                image, so swapped here
    holistic    left_hand_landmarks, right_hand_landmarks and perhaps .._hand_world_landmarks
    .json, .jsonl             a result, or one a frame in a list or a line
    .pbtxt, .prototxt         a result as text: classifications, landmarks, world_landmarks; or a
                              holistic one; or landmarks alone, whose hand the file's name must say
    image landmarks           x and y over the image's width and height
    world landmarks           metres about the hand's own middle, x right, y down, z away

Each hand is fitted to its world landmarks, a skeleton that is not MANO's (3 mm remain on the real
hands we have). Where one hand is relative to the other is in the image alone: across by a common
scale, in depth not at all.

Sources: docs/solutions/hands.md, mediapipe/tasks/python/vision/hand_landmarker.py,
mediapipe/python/solutions/hands.py of google-ai-edge/mediapipe; its labels: issues 4785, 1374 and
mediapipe-samples 450.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from fitting.adapters.containers import read_tree
from fitting.adapters.fields import entry, number_array
from fitting.adapters.formats import Conventions, Conversion, Format, Reading
from fitting.adapters.found_hands import FoundHands, Frames, join
from fitting.adapters.lifting import intrinsics, place_by_pixels
from fitting.adapters.openpose import NEEDS_SIZE, from_keypoints, square_crop, to_crop
from fitting.adapters.poses import LEFT, RIGHT
from fitting.adapters.records import Record, files_of, unique_names
from fitting.adapters.text_protos import read_text_proto
from fitting.errors import InputError
from fitting.initialise import initialise_from_joints
from fitting.initialise_skeleton import pose_joints_float64
from fitting.predictions import TwoHandPredictions
from mano_jax.joint_orders import permutation
from mano_jax.model import SIDES, Hands

CONVENTIONS: Final = Conventions(
    rotations="none",
    mean="none",
    left="native",
    left_shapedirs="none",
    origin="none",
    camera="none",
    joint_order="openpose21",
    two_hands="apart",
)

SUFFIXES: Final = (".json", ".jsonl", ".pbtxt", ".prototxt")

_TEXT: Final = (".pbtxt", ".prototxt")
_LANDMARKS: Final = ("landmarks", "handLandmarks", "hand_landmarks")
_LEGACY: Final = ("multi_hand_landmarks", "multiHandLandmarks")
_WORLD: Final = (
    *("worldLandmarks", "world_landmarks", "handWorldLandmarks", "hand_world_landmarks"),
    *("multi_hand_world_landmarks", "multiHandWorldLandmarks"),
)
_SIDES: Final = (
    *("handedness", "handednesses", "classifications"),
    *("multi_handedness", "multiHandedness"),
)
_LABELS: Final = ("categoryName", "category_name", "label")
_OF_SIDE: Final = {
    side: (
        (f"{side}_hand_landmarks", f"{side}HandLandmarks"),
        (f"{side}_hand_world_landmarks", f"{side}HandWorldLandmarks"),
    )
    for side in SIDES
}
_OTHER_PARTS: Final = ("pose_landmarks", "poseLandmarks", "face_landmarks", "faceLandmarks")
"""What a holistic result without hands still has."""

_SIZES: Final = (("image_width", "image_height"), ("imageWidth", "imageHeight"))

_FITTED_TOGETHER: Final = 256
_LOOKED_AT: Final = 64
"""Frames in which the hands are also fitted as those of the other side."""

_OTHER_SIDE: Final = 0.8
"""Of what is left of a hand, what the other side would leave: 0.3 to 0.6 where the labels are
exchanged (0.7 with 5 mm of noise), beyond 1.3 where they are right."""


class _Hand(NamedTuple):
    """A hand of an image, joints in MediaPipe's order."""

    side: int
    landmarks: np.ndarray
    """(21, 2) over width and height."""
    world: np.ndarray | None
    """(21, 3) metres."""


@dataclass(frozen=True)
class _Image:
    """A result."""

    name: str
    hands: list[_Hand]
    size: tuple[float, float] | None
    """Width and height, pixels, where the result says it."""


def read_mediapipe(path: Path, reading: Reading) -> Conversion:
    """Read results; hands that have world landmarks are fitted to them.

    With `reading.focal` and the image's size the result has the image's camera and pixels,
    otherwise a weak camera of a square around each frame's hands. Without world landmarks the
    keypoints are all there is (`fitting.adapters.openpose.from_keypoints`).

    Raises:
        InputError: a file of another layout, a missing or misshapen entry, numbers that are not
            finite, a hand without a side, or a focal length without an image size.
    """
    images, notes = _read_images(path)
    hands = [hand for image in images for hand in image.hands]
    size = [image.size or reading.image_size for image in images]
    names = unique_names([image.name for image in images])
    if None in size:
        size = [None] * len(size)
        if reading.focal is not None:
            raise InputError(f"{path}: {NEEDS_SIZE}")
        notes.append(
            "the image's size is not known, so the image is taken for a square one: if it is not, "
            "hands are stretched; give --image-size WIDTH HEIGHT"
        )
    if not hands:
        raise InputError(f"{path}: no hand in {len(images)} images")
    frames = join(_found(images, names))
    notes += frames.notes
    # A frame without hands has any image's size: nothing is there to be scaled.
    of_image = frames.anchored(np.repeat(np.arange(len(images)), [len(i.hands) for i in images]))
    size_of_frame = np.array([s or (1.0, 1.0) for s in size], np.float64)[of_image]
    order = permutation(CONVENTIONS.joint_order, "mano21")
    landmarks = np.array([hand.landmarks[order] for hand in hands]).reshape(-1, 21, 2)
    keypoints = np.concatenate(
        [
            frames.spread(landmarks) * size_of_frame[:, None, None],
            np.broadcast_to(frames.valid[..., None, None], (*frames.row.shape, 21, 1)),
        ],
        axis=-1,
    )
    known_size = None if None in size else size_of_frame
    without = [hand for hand in hands if hand.world is None]
    if len(without) == len(hands):
        notes.append("no world landmarks: only where the hands are in the image is known")
        return from_keypoints(path, frames.name.tolist(), keypoints, known_size, reading, notes)
    if without:
        raise InputError(
            f"{path}: expected world landmarks of every hand or of none, found {len(hands)} hands "
            f"and {len(without)} of them without; convert those files by themselves"
        )
    world = np.array([np.asarray(hand.world)[order] for hand in hands])
    return _with_world(reading, frames, keypoints, frames.spread(world), known_size, notes)


def _found(images: list[_Image], names: list[str]) -> FoundHands:
    """The hands as `join` wants them; their poses are not known yet."""
    side = np.array([hand.side for image in images for hand in image.hands], np.int64)
    count = len(side)
    return FoundHands(
        image=np.array([n for n, i in zip(names, images, strict=True) for _ in i.hands], dtype=str),
        side=side,
        global_orient=np.zeros((count, 3)),
        hand_pose=np.zeros((count, 15, 3)),
        betas=np.zeros((count, 1)),
        images=tuple(names),
    )


def _with_world(
    reading: Reading,
    frames: Frames,
    keypoints: np.ndarray,
    world: np.ndarray,
    size: np.ndarray | None,
    notes: list[str],
) -> Conversion:
    """Hands fitted to world landmarks, and placed by what the image shows of them."""
    valid = frames.valid
    both = np.all(valid, axis=1)
    parameters, joints, residual = _fit(reading.hands, world, valid)
    notes.append(
        "each hand was fitted to its world landmarks, which are not MANO's joints: "
        f"{1000 * residual[valid].mean():.1f} mm of a joint remain on average, "
        f"{1000 * residual[valid].max():.1f} mm in the worst hand"
    )
    notes += _other_side(reading.hands, world, valid, residual)
    fields: dict[str, np.ndarray] = {}
    if reading.focal is not None and size is not None:
        focal = np.full(len(valid), float(reading.focal))
        wrist = np.zeros((*valid.shape, 3))
        frame = np.nonzero(valid)[0]
        wrist[valid] = place_by_pixels(
            joints[valid], keypoints[..., :2][valid], focal[frame], size[frame] / 2
        )
        fields["K"] = intrinsics(focal, size / 2)[:, None]
        fields["root_transl"] = np.where(valid[:, :1], wrist[:, RIGHT], wrist[:, LEFT])
        notes.append("the camera has the focal length given and looks from the middle of the image")
    else:
        centre, half = square_crop(keypoints)
        keypoints[..., :2] = to_crop(keypoints[..., :2], centre, half)
        scale, wrist = _weak_places(joints[..., :2], keypoints[..., :2], valid)
        anchor = np.where(valid[:, :1], wrist[:, RIGHT], wrist[:, LEFT])
        fields["weak_camera"] = np.concatenate([scale[:, None], anchor[:, :2]], axis=1)
    if np.any(both):
        notes.append(
            "how far one hand is in front of the other is unknown: each was found by itself"
            + ("" if "K" in fields else ", and one weak camera's scale stands for that of both")
        )
    tau = np.where(both[:, None], wrist[:, LEFT] - wrist[:, RIGHT], 0.0)
    predictions = TwoHandPredictions(
        hand_valid=valid,
        **parameters,
        relative_transl=tau,
        relative_transl_confidence=np.tile([1.0, 1.0, 0.0], (len(valid), 1)),
        keypoints_2d=np.where(valid[..., None, None], keypoints, 0.0),
        frame_id=frames.name,
        **fields,
    )
    return Conversion(predictions, tuple(notes))


def _fit(
    hands: Hands, world: Float[np.ndarray, "N 2 21 3"], valid: Bool[np.ndarray, "N 2"]
) -> tuple[dict[str, np.ndarray], Float[np.ndarray, "N 2 21 3"], Float[np.ndarray, "N 2"]]:
    """Parameters of each hand, its joints about its wrist, and the mean distance they leave."""
    there = valid[..., None, None]
    parts = []
    for first in range(0, len(world), _FITTED_TOGETHER):
        rows = slice(first, first + _FITTED_TOGETHER)
        confidence = np.broadcast_to(valid[rows, :, None], (*valid[rows].shape, 21))
        start = initialise_from_joints(
            hands, world[rows], confidence.astype(np.float64), valid[rows]
        )
        joints = pose_joints_float64(hands, start.global_orient, start.hand_pose, start.betas)
        parts.append((start.global_orient, start.hand_pose, start.betas, joints))
    orient, pose, betas, joints = (np.concatenate(x) for x in zip(*parts, strict=True))
    offset = (joints - world).mean(2, keepdims=True)
    residual = np.linalg.norm(joints - offset - world, axis=-1).mean(-1)
    parameters = {"global_orient": orient, "hand_pose": pose, "betas": betas}
    return parameters, np.where(there, joints - joints[:, :, :1], 0.0), residual


def _other_side(
    hands: Hands, world: np.ndarray, valid: np.ndarray, residual: np.ndarray
) -> Iterator[str]:
    """A note where the hands are shaped like those of the other side."""
    frames = np.flatnonzero(valid.any(1))
    frames = frames[np.unique(np.linspace(0, len(frames) - 1, _LOOKED_AT).astype(int))]
    there = valid[frames]
    exchanged = _fit(hands, world[frames][:, ::-1], there[:, ::-1])[2][:, ::-1]
    ratio = float(np.median(exchanged[there] / np.maximum(residual[frames][there], 1e-9)))
    if ratio < _OTHER_SIDE:
        yield (
            "the hands are shaped like those of the other side, which would leave "
            f"{100 * ratio:.0f} % of that: the labels of this version of MediaPipe, or an image "
            "that was mirrored, mean the other hand; exchange them"
        )


def _weak_places(
    points: Float[np.ndarray, "N 2 21 2"],
    image: Float[np.ndarray, "N 2 21 2"],
    valid: Bool[np.ndarray, "N 2"],
) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N 2 3"]]:
    """One scale for both hands, and where it sees their wrists, at no depth."""

    def size(values: np.ndarray) -> np.ndarray:
        return np.sqrt(((values - values.mean(2, keepdims=True)) ** 2).sum((2, 3)))

    own, shown = size(points), size(image)
    some = valid & (own > 0) & (shown > 0)
    logs = np.where(some, np.log(np.where(some, shown, 1.0) / np.where(some, own, 1.0)), 0.0)
    scale = np.exp(logs.sum(1) / np.maximum(some.sum(1), 1))
    place = image.mean(2) / scale[:, None, None] - points.mean(2)
    wrist = np.concatenate([place, np.zeros((*valid.shape, 1))], axis=-1)
    return scale, np.where(valid[..., None], wrist, 0.0)


# ---- results


def _read_images(path: Path) -> tuple[list[_Image], list[str]]:
    """Every result, and what was assumed of their sides."""
    images, legacy, named, tasks = [], 0, [], 0
    for file in files_of(path, SUFFIXES):
        tree = read_text_proto(file) if file.suffix.lower() in _TEXT else read_tree(file)
        alone = isinstance(tree, dict)
        results = [tree] if alone else tree
        if not isinstance(results, list) or not results:
            raise InputError(f"{file}: expected a result of MediaPipe, or a list of them")
        for i, result in enumerate(results):
            where = "" if alone else f"[{i}]"
            if not isinstance(result, dict):
                raise InputError(
                    f"{file}: {where}: expected a result of MediaPipe, found "
                    f"{type(result).__name__}"
                )
            if "landmark" in result:
                result = {f"{_side_of_name(file)}_hand_landmarks": result["landmark"]}
                named.append(file.name)
            legacy += any(key in result for key in _LEGACY)
            tasks += any(key in result for key in _LANDMARKS)
            record = Record(file, where, result)
            name = record.image_names(1) or [file.stem if alone else f"{file.stem}/{i:06d}"]
            images.append(_Image(name[0], list(_hands_of(record)), _size_of(record)))
    notes = []
    if legacy:
        notes.append(
            "labels of the legacy solution mean the hand of a mirrored image: right and left were "
            "exchanged"
        )
    if tasks:
        notes.append("labels are taken for the subject's own hands, in an image not mirrored")
    if named:
        notes.append(f"no label in {', '.join(named[:3])}: the file's name says which hand it is")
    return images, notes


def _hands_of(record: Record) -> Iterator[_Hand]:
    """The hands of one result."""
    values = record.values
    key = _first(values, (*_LANDMARKS, *_LEGACY))
    if key is None:
        by_side = [_first(values, _OF_SIDE[side][0]) for side in SIDES]
        if not any(by_side) and _first(values, _OTHER_PARTS) is None:
            raise InputError(
                f"{_place(record)}expected hand_landmarks, multi_hand_landmarks or "
                f"left_hand_landmarks; found {', '.join(map(str, list(values)[:6])) or 'nothing'}. "
                "Is it a result of MediaPipe?"
            )
        for side, (key, name) in enumerate(zip(by_side, SIDES, strict=True)):
            if key is not None and (points := _inner(values[key])):
                world_key = _first(values, _OF_SIDE[name][1])
                world = _inner(values[world_key]) if world_key else None
                yield _hand(record, side, key, points, world)
        return
    hands = _listed(record, key)
    if not hands:
        return
    side_key, world_key = _first(values, _SIDES), _first(values, _WORLD)
    if side_key is None:
        raise InputError(
            f"{_place(record)}no handedness, so nothing says which hand is a right one; save it "
            "beside the landmarks"
        )
    labels = _listed(record, side_key)
    world = _listed(record, world_key) if world_key else []
    if len(labels) != len(hands) or len(world) not in (0, len(hands)):
        raise InputError(
            f"{_place(record)}expected as many labels and world landmarks as hands, found "
            f"{len(hands)} hands, {len(labels)} labels and {len(world)} world landmarks"
        )
    for i, points in enumerate(hands):
        side = _side(record, f"{side_key}[{i}]", labels[i])
        if key in _LEGACY:
            side = LEFT if side == RIGHT else RIGHT
        yield _hand(record, side, f"{key}[{i}]", points, world[i] if world else None)


def _hand(record: Record, side: int, where: str, points: Any, world: Any) -> _Hand:
    landmarks = _coordinates(record, where, _inner(points), "xy")
    metres = None
    if world:
        metres = _coordinates(record, f"world landmarks of {where}", _inner(world), "xyz")
    return _Hand(side, landmarks, metres)


def _coordinates(record: Record, where: str, points: Any, axes: str) -> np.ndarray:
    """Coordinates (21, 2) or (21, 3) of a hand."""
    where = f"{record.where}/{where}" if record.where else where
    if not isinstance(points, list | tuple):
        raise InputError(f"{record.path}: {where}: expected a list of 21 landmarks")
    rows = [
        [entry(point, axis, f"{where}[{i}]", record.path) for axis in axes]
        for i, point in enumerate(points)
    ]
    array = number_array(rows, (21, len(axes)), where, record.path)
    if not np.isfinite(array).all():
        raise InputError(
            f"{record.path}: {where}: expected finite numbers, found some that are not; leave a "
            "hand that was not found out of the lists"
        )
    return array


def _inner(value: Any) -> Any:
    """The list of points, out of {landmark: [..]} or lists of one."""
    while True:
        if isinstance(value, dict) and "landmark" in value:
            value = value["landmark"]
        elif (
            isinstance(value, list)
            and len(value) == 1
            and (
                isinstance(value[0], list)
                or (isinstance(value[0], dict) and "landmark" in value[0])
            )
        ):
            value = value[0]
        else:
            return value


def _side(record: Record, where: str, label: Any) -> int:
    """0 for Right, 1 for Left, of a category, a list of categories or a classification."""
    best = label
    while True:
        if isinstance(best, list | tuple) and best:
            best = best[0]
        elif isinstance(best, dict) and "classification" in best:
            best = best["classification"]
        else:
            break
    key = _first(best, _LABELS) if isinstance(best, dict) else None
    name = str(best[key]).casefold() if isinstance(best, dict) and key else ""
    if name not in SIDES:
        raise InputError(
            f"{_place(record)}{where}: expected a category named Left or Right, found "
            f"{repr(name) if name else 'none'}"
        )
    return SIDES.index(name)


def _side_of_name(file: Path) -> str:
    words = set(re.split(r"[^a-z]+", file.stem.lower())) & set(SIDES)
    if len(words) != 1:
        raise InputError(
            f"{file}: landmarks without a label, so nothing says whether they are those of a right "
            "or a left hand; put one of these words into the file's name, such as "
            f"{file.stem}_right{file.suffix}"
        )
    return words.pop()


def _size_of(record: Record) -> tuple[float, float] | None:
    for keys in _SIZES:
        if all(key in record.values for key in keys):
            width, height = (float(record.needed(key, ())) for key in keys)
            if not (0 < width < np.inf and 0 < height < np.inf):
                raise InputError(f"{_place(record)}{keys[0]}: expected a size in pixels, above 0")
            return width, height
    return None


def _listed(record: Record, key: str) -> list[Any]:
    value = record.values[key]
    if not isinstance(value, list | tuple):
        raise InputError(
            f"{_place(record)}{key}: expected a list, an item a hand, found {type(value).__name__}"
        )
    return list(value)


def _first(values: dict[str, Any], keys: tuple[str, ...]) -> str | None:
    """The first of these keys that holds anything."""
    return next((key for key in keys if values.get(key) is not None), None)


def _place(record: Record) -> str:
    return f"{record.path}: {record.where}: " if record.where else f"{record.path}: "


MEDIAPIPE: Final = Format(
    "mediapipe",
    "MediaPipe's hand landmarks",
    read_mediapipe,
    suffixes=SUFFIXES,
    keys=(
        *(frozenset({key, sides}) for key in _LANDMARKS for sides in _SIDES[:2]),
        *(frozenset({key}) for key in _LEGACY),
        *(frozenset({key}) for side in SIDES for key in _OF_SIDE[side][0]),
    ),
    names=("*.pbtxt", "*.prototxt"),
    options=("image_size", "focal"),
    conventions=CONVENTIONS,
)
