"""2D keypoints of hands: OpenPose, COCO-WholeBody, and `.pose` files.

Of OpenPose a folder of NAME_keypoints.json, a file a frame:

    people[i]                 hand_right_keypoints_2d, hand_left_keypoints_2d [63]: x, y, confidence
                              of 21 joints, pixels; zeros or an empty list for no hand

COCO-WholeBody's annotations, or a program's results in its layout:

    {images, annotations}     images: id, file_name, width, height; annotations: image_id,
                              righthand_kpts, lefthand_kpts [63], righthand_valid, lefthand_valid;
                              the third number is a visibility, 0 where a joint is not labelled
    [{image_id, keypoints}]   keypoints [399]: 133 joints, of them 91-111 the left hand, 112-132
                              the right one

`.pose` files of the package pose-format, which reads them: OpenPose's components, or MediaPipe
Holistic's, both in pixels.

A joint of confidence 0 is missing, a hand without joints absent, a frame without hands stays. Two
hands of one person are a frame. Nothing is known but the image: hands are placed by their size.

Sources: CMU-Perceptual-Computing-Lab/openpose, doc/02_output.md; jin-s13/COCO-WholeBody,
data_format.md; sign-language-processing/pose, docs/specs.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from fitting.adapters.containers import read_tree
from fitting.adapters.fields import entry, number_array
from fitting.adapters.formats import Conventions, Conversion, Format, Reading
from fitting.adapters.lifting import intrinsics
from fitting.adapters.records import files_of, unique_names
from fitting.errors import InputError
from fitting.initialise import LENGTH_PAIRS
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
    unit="px",
    joint_order="openpose21",
    two_hands="together",
)

SUFFIXES: Final = (".json", ".pose")

CROP_MARGIN: Final = 0.2
"""How much wider than its keypoints a frame's crop is."""

_WHOLE_BODY: Final = {"left": slice(91, 112), "right": slice(112, 133)}
"""Where the hands are among COCO-WholeBody's 133 joints."""

_COMPONENTS: Final = {
    "right": ("hand_right_keypoints_2d", "RIGHT_HAND_LANDMARKS"),
    "left": ("hand_left_keypoints_2d", "LEFT_HAND_LANDMARKS"),
}
"""Of a `.pose` file: OpenPose's and MediaPipe Holistic's names."""

_LONGEST_IN_IMAGE: Final = 80
"""Percentile: most bones look shorter than they are, the longest-looking ones only by chance. On
random hands the scale so found is off by 8 % (root mean square), with 70 or 90 by 10 and 8 %."""


@dataclass(frozen=True)
class _Frame:
    """An image and the hands of each person in it."""

    name: str
    people: list[np.ndarray]
    """(2, 21, 3) each, [right, left]: x, y, confidence; zeros where missing."""
    size: tuple[float, float] | None = None
    """Width and height, pixels."""
    seconds: float | None = None
    """Time in its video."""


def read_openpose(path: Path, reading: Reading) -> Conversion:
    """Read keypoints; several people in an image are frames of their own, FRAME/0, FRAME/1, ...

    With `reading.focal` and the image's size (the file's, or `reading.image_size`) the result has
    the image's camera and pixels; otherwise crop coordinates (`from_keypoints`).

    Raises:
        InputError: a file of another layout, a missing or misshapen entry, coordinates that are
            not finite, or a focal length without an image size.
    """
    frames = [frame for file in files_of(path, SUFFIXES) for frame in _read_file(file)]
    if not frames:
        raise InputError(f"{path}: expected keypoints of an image at least, found none")
    names: list[str] = []
    keypoints, sizes, times, crowded = [], [], [], 0
    for frame in frames:
        shown = {i: hands for i, hands in enumerate(frame.people) if np.any(hands[..., 2] > 0)}
        several = len(shown) > 1
        crowded += several
        for i, hands in (shown or {0: np.zeros((2, 21, 3))}).items():
            names.append(f"{frame.name}/{i}" if several else frame.name)
            keypoints.append(hands)
            sizes.append(frame.size or reading.image_size)
            times.append(frame.seconds)
    if not np.any(np.stack(keypoints)[..., 2] > 0):
        raise InputError(f"{path}: no hand in {len(frames)} images; was OpenPose run with --hand?")
    notes = []
    if crowded:
        notes.append(
            f"{crowded} images show the hands of several people: each person is a frame of their "
            "own, named FRAME/0, FRAME/1, ... as the file counts them"
        )
    fields = {}
    if None not in times and not crowded:
        fields["timestamp"] = np.array(times)
    points = np.stack(keypoints)[:, :, permutation(CONVENTIONS.joint_order, "mano21")]
    size = None if None in sizes else np.array(sizes, np.float64)
    return from_keypoints(path, unique_names(names), points, size, reading, notes, **fields)


def from_keypoints(
    path: Path,
    names: Sequence[str],
    keypoints: Float[np.ndarray, "N 2 21 3"],
    image_size: Float[np.ndarray, "N 2"] | None,
    reading: Reading,
    notes: Sequence[str] = (),
    **fields: np.ndarray,
) -> Conversion:
    """Frames of which nothing is known but keypoints.

    Args:
        path: the file, for messages.
        names: of the frames.
        keypoints: x, y (pixels, or any unit that is the same along both) and confidence, in
            `mano21` order.
        image_size: width and height in the same unit; None if unknown.
        reading: its focal length, if any, makes a perspective camera.
        notes: what there is to tell already.
        fields: further fields of `TwoHandPredictions`.

    Raises:
        InputError: a focal length without an image size.
    """
    seen = keypoints[..., 2] > 0
    if reading.focal is not None:
        if image_size is None:
            raise InputError(f"{path}: {NEEDS_SIZE}")
        focal = np.full(len(keypoints), float(reading.focal))
        fields["K"] = intrinsics(focal, image_size / 2)[:, None]
        told = "the camera has the focal length given and looks from the middle of the image"
        canonical = keypoints
    else:
        centre, half = square_crop(keypoints)
        canonical = keypoints.copy()
        canonical[..., :2] = to_crop(keypoints[..., :2], centre, half)
        fields["weak_camera"] = _camera_by_size(reading.hands, canonical)
        told = (
            "no camera is known (--focal and --image-size give one): coordinates are those of a "
            "square around each frame's keypoints, weak_camera is no more than a guess by the "
            "size of the hands, and a fit starts from the keypoints alone"
        )
    predictions = TwoHandPredictions(
        hand_valid=np.asarray(seen.any(-1)),
        keypoints_2d=np.where(seen[..., None], canonical, 0.0),
        frame_id=np.array(names, dtype=str),
        **fields,
    )
    return Conversion(predictions, (*notes, told))


NEEDS_SIZE: Final = (
    "expected the image's size beside the focal length, which looks from its middle; the file does "
    "not tell it: give --image-size WIDTH HEIGHT"
)


def square_crop(
    keypoints: Float[np.ndarray, "N 2 21 3"],
) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, "N"]]:
    """Centre and half side of a square around each frame's seen keypoints, with a margin."""
    seen = keypoints[..., 2:] > 0
    low = np.where(seen, keypoints[..., :2], np.inf).min((1, 2))
    high = np.where(seen, keypoints[..., :2], -np.inf).max((1, 2))
    some = np.isfinite(low)
    low, high = np.where(some, low, 0.0), np.where(some, high, 0.0)
    half = 0.5 * (1.0 + CROP_MARGIN) * (high - low).max(-1)
    return (low + high) / 2, np.where(half > 0, half, 1.0)


def to_crop(points: np.ndarray, centre: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Points (N, 2, 21, 2) of the image in [-1, 1] of each frame's crop."""
    return (points - centre[:, None, None]) / half[:, None, None, None]


def _camera_by_size(hands: Hands, keypoints: np.ndarray) -> np.ndarray:
    """s, t_x, t_y of a weak camera under which the mean hand's bones look as long as these."""
    joints = np.concatenate(
        [
            np.asarray(hands.J_template, np.float64),
            np.asarray(hands.v_template, np.float64)[
                np.arange(2)[:, None], np.asarray(hands.tip_vertices)
            ],
        ],
        axis=1,
    )
    a, b = LENGTH_PAIRS.T
    lengths = np.linalg.norm(joints[:, b] - joints[:, a], axis=-1)
    seen = keypoints[..., 2] > 0
    shown = np.linalg.norm(keypoints[:, :, b, :2] - keypoints[:, :, a, :2], axis=-1) / lengths
    both = seen[..., a] & seen[..., b]
    some = both.any(-1)
    scale = np.ones(some.shape)
    scale[some] = np.nanpercentile(np.where(both, shown, np.nan)[some], _LONGEST_IN_IMAGE, axis=-1)
    some &= scale > 0
    logs = np.where(some, np.log(np.where(some, scale, 1.0)), 0.0).sum(1)
    common = np.exp(logs / np.maximum(some.sum(1), 1))

    anchor = np.where(seen[:, 0].any(-1), 0, 1)
    rows = np.arange(len(keypoints))
    points, there = keypoints[rows, anchor, :, :2], seen[rows, anchor, :, None]
    middle = (points * there).sum(1) / np.maximum(there.sum(1), 1)
    wrist = np.where(there[:, 0], points[:, 0], middle)
    return np.concatenate([common[:, None], wrist / common[:, None]], axis=1)


def _read_file(file: Path) -> list[_Frame]:
    """The frames of a file of any of the layouts."""
    if file.suffix.lower() == ".pose":
        return _read_pose(file)
    tree = read_tree(file)
    if isinstance(tree, dict) and "people" in tree:
        return [_of_people(file, tree["people"])]
    if isinstance(tree, dict) and "annotations" in tree:
        return _of_annotations(file, tree)
    if isinstance(tree, list) and tree and isinstance(tree[0], dict) and "keypoints" in tree[0]:
        return _of_results(file, tree)
    found = ", ".join(map(str, list(tree)[:6])) if isinstance(tree, dict) else type(tree).__name__
    raise InputError(
        f"{file}: expected OpenPose's 'people', COCO-WholeBody's 'images' and 'annotations', or a "
        f"list of its results with 'image_id' and 'keypoints'; found {found or 'nothing'}"
    )


def _of_people(file: Path, people: Any) -> _Frame:
    hands = []
    for i, person in enumerate(_list(people, "people", file)):
        where = f"people[{i}]"
        if isinstance(person, dict) and not any(
            f"hand_{side}_keypoints_2d" in person for side in SIDES
        ):
            raise InputError(
                f"{file}: {where}: no hand_right_keypoints_2d or hand_left_keypoints_2d; run "
                "OpenPose with --hand"
            )
        values = {s: entry(person, f"hand_{s}_keypoints_2d", where, file) for s in SIDES}
        hands.append(
            np.stack([_hand(values[s], f"{where}/hand_{s}_keypoints_2d", file) for s in SIDES])
        )
    return _Frame(file.stem.removesuffix("_keypoints"), hands)


def _of_annotations(file: Path, tree: dict[str, Any]) -> list[_Frame]:
    frames: dict[Any, _Frame] = {}
    for i, image in enumerate(_list(entry(tree, "images", "", file), "images", file)):
        where = f"images[{i}]"
        number = _number(image, where, file, key="id")
        size = number_array(
            [entry(image, key, where, file) for key in ("width", "height")],
            (2,),
            f"{where}/width, height",
            file,
        )
        if not np.all(np.isfinite(size) & (size > 0)):
            raise InputError(f"{file}: {where}: expected a width and height above 0, found {size}")
        name = entry(image, "file_name", where, file)
        frames[number] = _Frame(str(name), [], (float(size[0]), float(size[1])))
    for i, person in enumerate(_list(tree["annotations"], "annotations", file)):
        where = f"annotations[{i}]"
        number = _number(person, where, file)
        if number not in frames:
            raise InputError(f"{file}: {where}: image_id {number} is none of the images' ids")
        hands = np.zeros((2, 21, 3))
        for h, side in enumerate(SIDES):
            key = f"{side}hand_kpts"
            if person.get(f"{side}hand_valid", True):
                hands[h] = _hand(entry(person, key, where, file), f"{where}/{key}", file)
        # A labelled joint is known, hidden (1) or not (2).
        hands[..., 2] = hands[..., 2] > 0
        frames[number].people.append(hands)
    return list(frames.values())


def _of_results(file: Path, tree: list[Any]) -> list[_Frame]:
    frames: dict[Any, _Frame] = {}
    for i, person in enumerate(tree):
        where = f"[{i}]"
        number = _number(person, where, file)
        values = number_array(
            entry(person, "keypoints", where, file), (399,), f"{where}/keypoints", file
        ).reshape(133, 3)
        hands = [
            _hand(values[_WHOLE_BODY[side]].ravel(), f"{where}/keypoints", file) for side in SIDES
        ]
        frames.setdefault(number, _Frame(str(number), [])).people.append(np.stack(hands))
    return list(frames.values())


def _read_pose(file: Path) -> list[_Frame]:
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    try:
        reader = importlib.import_module("pose_format").Pose
    except ImportError as error:
        raise InputError(
            f"{file}: .pose files are read by the package pose-format, which is not installed; run "
            "pip install pose-format, or export the keypoints as OpenPose's JSON"
        ) from error
    try:
        pose = reader.read(file.read_bytes())
        header, body = pose.header, pose.body
        first = np.cumsum([0] + [len(part.points) for part in header.components])
        parts = {
            part.name: slice(start, start + len(part.points))
            for part, start in zip(header.components, first, strict=False)
        }
        points = np.ma.getdata(body.data)[..., :2].astype(np.float64)
        confidence = np.asarray(body.confidence, np.float64)
        size = float(header.dimensions.width), float(header.dimensions.height)
        rate = float(body.fps)
    # Another program's parser: a damaged file makes it raise nearly anything.
    except Exception as error:
        raise InputError(
            f"{file}: cannot be read by pose-format ({type(error).__name__}: {error}); is it "
            "truncated, or no .pose file?"
        ) from error
    hands = []
    for side in SIDES:
        name = next((name for name in _COMPONENTS[side] if name in parts), None)
        if name is None or parts[name].stop - parts[name].start != 21:
            raise InputError(
                f"{file}: expected a component {' or '.join(_COMPONENTS[side])} of 21 points, "
                f"found {', '.join(parts) or 'none'}"
            )
        hands.append(
            np.concatenate([points[:, :, parts[name]], confidence[:, :, parts[name], None]], -1)
        )
    frames = []
    known_size = size if min(size) > 0 else None
    for i, people in enumerate(np.stack(hands, axis=2)):
        where = f"frame {i}"
        shown = [np.stack([_hand(h.ravel(), where, file) for h in person]) for person in people]
        seconds = i / rate if np.isfinite(rate) and rate > 0 else None
        frames.append(_Frame(f"{file.stem}/{i:06d}", shown, known_size, seconds))
    return frames


def _hand(value: Any, where: str, file: Path) -> np.ndarray:
    """A hand's joints (21, 3), zeros where missing; an empty list is a hand without joints."""
    if isinstance(value, list | tuple) and len(value) == 0:
        return np.zeros((21, 3))
    hand = number_array(value, (63,), where, file).reshape(21, 3)
    bad = ~np.isfinite(hand[:, 2]) | ((hand[:, 2] > 0) & ~np.isfinite(hand).all(-1))
    if np.any(bad):
        joint = int(np.argmax(bad))
        raise InputError(
            f"{file}: {where}: expected finite x, y and confidence, found {hand[joint]} for joint "
            f"{joint}; a joint that is missing has confidence 0"
        )
    return np.where(hand[:, 2:] > 0, hand, 0.0)


def _list(value: Any, where: str, file: Path) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise InputError(f"{file}: {where}: expected a list, found {type(value).__name__}")
    return value


def _number(item: Any, where: str, file: Path, key: str = "image_id") -> int | str:
    value = entry(item, key, where, file)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InputError(
            f"{file}: {where}/{key}: expected a number or a name, found {type(value).__name__}"
        )
    return value


OPENPOSE: Final = Format(
    "openpose",
    "OpenPose's or COCO-WholeBody's 2D keypoints",
    read_openpose,
    suffixes=SUFFIXES,
    keys=(
        frozenset({"people", "hand_left_keypoints_2d"}),
        frozenset({"annotations", "lefthand_kpts"}),
        frozenset({"image_id", "keypoints", "score"}),
    ),
    names=("*_keypoints.json", "*.pose"),
    options=("image_size", "focal"),
    conventions=CONVENTIONS,
)
