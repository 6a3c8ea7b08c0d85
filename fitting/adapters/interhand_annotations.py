"""InterHand2.6M's four JSON files as arrays of the images that are wanted.

`fitting.adapters.interhand` says what the values mean. Images (rows N) share time steps (T): the
joints and the hand parameters of a time step are the same for all the cameras that saw it.

A value of one image, time step or camera that makes no sense is a `Problems` entry and costs
nothing but that; a file that is no such file is an InputError.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from fitting.adapters.interhand_json import JsonStream
from fitting.errors import InputError
from mano_jax.joint_orders import permutation
from mano_jax.model import SIDES

_SUFFIXES: Final = ("_data.json", "_camera.json", "_joint_3d.json")
_MANO_SUFFIX: Final = "_MANO_NeuralAnnot.json"
_OLD_MANO_SUFFIX: Final = "_MANO.json"

_TO_MANO: Final = permutation("interhand21", "mano21")
_HANDS_OF_TYPE: Final = {
    "right": (True, False),
    "left": (False, True),
    "interacting": (True, True),
}
_CAMERA_SHAPES: Final = {"campos": (3,), "camrot": (3, 3), "focal": (2,), "princpt": (2,)}
_LARGEST_SKEW: Final = 1e-2
"""A rotation's R R^T differs from the identity by rounding only; the files have six digits."""

_LARGEST_FRAME: Final = 1 << 40
"""Frame numbers beyond this are garbage; below it they are safe in integer arithmetic."""

StepNumbers = Mapping[str, Mapping[str, int]]
"""Number of a time step by its capture and its frame, as the files spell them."""


@dataclass(frozen=True)
class InterHandSelection:
    """Which images of a split to read; all of them unless told."""

    captures: tuple[str, ...] = ()
    """Numbers of the captures; none given means all."""
    cameras: tuple[str, ...] = ()
    """Names of the cameras, for example 400262; none given means all."""
    hand_type: Literal["right", "left", "interacting"] | None = None
    """Only images that the data set labels so."""
    stride: int = 1
    """Every n-th time step of each sequence; all cameras keep the same ones."""
    limit: int | None = None
    """At most so many images, the first of the file."""

    def __post_init__(self) -> None:
        """Refuse what selects nothing.

        Raises:
            InputError: a stride or a limit below 1.
        """
        for name, value in (("stride", self.stride), ("limit", self.limit)):
            if value is not None and value < 1:
                raise InputError(f"{name}: expected at least 1, found {value}")


@dataclass(frozen=True)
class AnnotationFiles:
    """The files of one split."""

    data: Path
    """Images and their annotations, COCO."""
    camera: Path
    """Cameras of every capture."""
    joint_3d: Path
    """World joints of every time step."""
    mano: Path | None
    """NeuralAnnot's hand parameters of every time step, where there are any."""

    def expected_mano(self) -> Path:
        """What the file of hand parameters is called beside these."""
        return self.data.with_name(self.data.name.removesuffix(_SUFFIXES[0]) + _MANO_SUFFIX)


@dataclass
class Problems:
    """What is wrong with single images, time steps and cameras, counted by kind."""

    found: dict[str, tuple[str, int]] = field(default_factory=dict)
    """The first sentence of each kind, and how many there are."""

    def add(self, kind: str, sentence: str, count: int = 1) -> None:
        """Note a problem; one sentence a kind is kept."""
        first, before = self.found.get(kind, (sentence, 0))
        self.found[kind] = first, before + count

    def sentences(self) -> tuple[str, ...]:
        """One sentence a kind, with the number of cases."""
        return tuple(
            f"{first} (and {count - 1} more of this kind)" if count > 1 else first
            for first, count in self.found.values()
        )


@dataclass(frozen=True)
class Images:
    """The chosen images, in the file's order."""

    sequences: tuple[tuple[str, str, str], ...]
    """Capture, sequence name and camera of each sequence."""
    sequence: Int[np.ndarray, "N"]
    """Which sequence each image belongs to."""
    frame: Int[np.ndarray, "N"]
    """Frame number of each image."""
    steps: StepNumbers
    """Numbers of the time steps that the images show."""
    step: Int[np.ndarray, "N"]
    """Which time step each image shows."""
    labelled: Bool[np.ndarray, "N"]
    """Whether the data set vouches for the hand type."""
    hands: Bool[np.ndarray, "N 2"]
    """Which hands the hand type names."""
    in_image: Bool[np.ndarray, "N 2 21"]
    """Which joints are in the image, `mano21`."""

    @property
    def num_steps(self) -> int:
        """T."""
        return sum(map(len, self.steps.values()))


@dataclass(frozen=True)
class Cameras:
    """A camera for each sequence."""

    R: Float[np.ndarray, "S 3 3"]
    """World to camera."""
    centre: Float[np.ndarray, "S 3"]
    """Camera centre in the world, metres."""
    K: Float[np.ndarray, "S 3 3"]
    """Intrinsics, pixels."""
    sound: Bool[np.ndarray, "S"]
    """Whether there is one; the others are identities at the origin."""


@dataclass(frozen=True)
class Joints:
    """Triangulated joints of the time steps."""

    world: Float[np.ndarray, "T 2 21 3"]
    """Metres, `mano21`; zero where not valid."""
    valid: Bool[np.ndarray, "T 2 21"]
    """Which were triangulated."""
    there: Bool[np.ndarray, "T"]
    """Whether the file has joints of the time step, of the right shape."""


@dataclass(frozen=True)
class ManoParameters:
    """NeuralAnnot's parameters of the time steps, as the file has them; zeros where it has none."""

    global_orient: Float[np.ndarray, "T 2 3"]
    """Wrist rotation in the world, axis-angle."""
    hand_pose: Float[np.ndarray, "T 2 15 3"]
    """Finger rotations, axis-angle, without the mean pose."""
    betas: Float[np.ndarray, "T 2 S"]
    """Shape."""
    transl: Float[np.ndarray, "T 2 3"]
    """MANO's translation in the world, metres."""
    there: Bool[np.ndarray, "T 2"]
    """Which hands have parameters."""


# ---- files -------------------------------------------------------------------------------------


def find_files(path: Path) -> AnnotationFiles:
    """The files of the split that a folder, or any one of them, names.

    Raises:
        InputError: no set of files, or several in one folder.
    """
    if path.is_dir():
        path = _only_set(path)
    endings = (_MANO_SUFFIX, *_SUFFIXES)
    stems = [path.name.removesuffix(ending) for ending in endings if path.name.endswith(ending)]
    if not stems:
        found = "something else" if path.exists() else "no such file"
        raise InputError(
            f"{path}: expected a folder, or a file whose name ends in {', '.join(endings)}, "
            f"found {found}"
        )
    files = [path.with_name(stems[0] + suffix) for suffix in _SUFFIXES]
    for file in files:
        if not file.is_file():
            raise InputError(f"{file}: no such file; the three files belong together")
    mano = path.with_name(stems[0] + _MANO_SUFFIX)
    return AnnotationFiles(*files, mano=mano if mano.is_file() else None)


def is_of_a_split(file: Path) -> bool:
    """Whether a file is one of a split's, which are read together; NeuralAnnot's may be alone."""
    if file.name.endswith(_MANO_SUFFIX):
        stem = file.name.removesuffix(_MANO_SUFFIX)
        return any(file.with_name(stem + suffix).is_file() for suffix in _SUFFIXES)
    return file.name.endswith(_SUFFIXES)


def _only_set(folder: Path) -> Path:
    ending = _SUFFIXES[0]
    sets = sorted(folder.glob(f"*{ending}"))
    if len(sets) == 1:
        return sets[0]
    if sets:
        names = ", ".join(file.name for file in sets)
        raise InputError(f"{folder}: expected one *{ending}, found {names}; name the file")
    # The data set's root has its splits here; searching all of it would visit every image.
    below = [*folder.glob(f"*/*{ending}"), *folder.glob(f"annotations/*/*{ending}")]
    hint = "name the folder of a split"
    if below:
        hint = "name one of " + ", ".join(sorted({str(file.parent) for file in below}))
    raise InputError(f"{folder}: expected one *{ending} in the folder, found none; {hint}")


# ---- images ------------------------------------------------------------------------------------


def read_images(file: Path, selection: InterHandSelection, problems: Problems) -> Images:
    """The chosen images of `*_data.json`, one row for each of their annotations.

    Raises:
        InputError: no such file of images, or the selection finds none.
    """
    rows, sequences, sequence, frame = _choose_images(file, selection, problems)
    chosen, labelled, hands, in_image = array("q"), [], [], []
    with JsonStream(file) as stream:
        for annotation in _list(stream, "annotations"):
            row = _row_of(file, annotation, rows, problems)
            if row is None:
                continue
            hand_type = annotation.get("hand_type")
            if selection.hand_type is not None and hand_type != selection.hand_type:
                continue
            named = _HANDS_OF_TYPE.get(hand_type) if isinstance(hand_type, str) else None
            vouched = bool(annotation.get("hand_type_valid", 1))
            if named is None and vouched:
                problems.add("hand_type", _unknown_hand_type(file, annotation))
            chosen.append(row)
            labelled.append(named is not None and vouched)
            hands.append(named or (False, False))
            in_image.append(_flags_in_image(file, annotation, problems))
            if len(chosen) == selection.limit:
                break
    if not chosen:
        raise InputError(_nothing_chosen(file, selection, problems))
    picked = np.array(chosen)
    used, sequence = np.unique(sequence[picked], return_inverse=True)
    sequences, frame = tuple(sequences[i] for i in used), frame[picked]
    steps, step = _time_steps(sequences, sequence, frame)
    return Images(
        sequences=sequences,
        sequence=sequence,
        frame=frame,
        steps=steps,
        step=step,
        labelled=np.array(labelled),
        hands=np.array(hands),
        in_image=np.stack(in_image).reshape(-1, 2, 21)[..., _TO_MANO],
    )


def _choose_images(
    file: Path, selection: InterHandSelection, problems: Problems
) -> tuple[dict[str, int], tuple[tuple[str, str, str], ...], np.ndarray, np.ndarray]:
    """Row of each image by its id, -1 if it is not wanted; sequences; sequence and frame of rows.

    Raises:
        InputError: no list of images, or one without a capture or camera that is asked for.
    """
    rows: dict[str, int] = {}
    codes: dict[tuple[str, str, str], int] = {}
    sequence, frame = array("q"), array("q")
    cameras: dict[str, set[str]] = {}
    with JsonStream(file) as stream:
        for number, image in enumerate(_list(stream, "images")):
            try:
                key = str(image["capture"]), str(image.get("seq_name", "")), str(image["camera"])
                name, index = str(image["id"]), _frame_number(image["frame_idx"])
            except (AttributeError, KeyError, TypeError, ValueError):
                problems.add("image", _bad_image(file, number, image))
                continue
            cameras.setdefault(key[0], set()).add(key[2])
            rows[name] = -1
            if _among(key[0], selection.captures) and _among(key[2], selection.cameras):
                rows[name] = len(sequence)
                sequence.append(codes.setdefault(key, len(codes)))
                frame.append(index)
    _check_asked(file, "capture", selection.captures, cameras)
    available = {c for k, names in cameras.items() if _among(k, selection.captures) for c in names}
    _check_asked(file, "camera", selection.cameras, available)
    sequences = tuple(codes)
    numbers, frames = np.array(sequence, np.int64), np.array(frame, np.int64)
    if selection.stride > 1:
        wanted = _time_step_rank(sequences, numbers, frames) % selection.stride == 0
        rows = {name: row if row >= 0 and wanted[row] else -1 for name, row in rows.items()}
    return rows, sequences, numbers, frames


def _frame_number(value: Any) -> int:
    # Through its digits: int() alone would cut a fraction off.
    number = int(str(value))
    if not 0 <= number < _LARGEST_FRAME:
        raise ValueError(value)
    return number


def _among(name: str, asked: tuple[str, ...]) -> bool:
    return not asked or name in asked


def _check_asked(file: Path, what: str, asked: tuple[str, ...], known: Iterable[str]) -> None:
    known = sorted(known, key=lambda name: (len(name), name))
    if missing := [name for name in asked if name not in known]:
        raise InputError(
            f"{file}: no image of {what} {', '.join(missing)}; the file has {', '.join(known)}"
        )


def _time_step_rank(
    sequences: tuple[tuple[str, str, str], ...], sequence: np.ndarray, frame: np.ndarray
) -> np.ndarray:
    """Which time step of its sequence each image shows, counted over all the cameras."""
    clips: dict[tuple[str, str], int] = {}
    clip_of = [clips.setdefault((capture, name), len(clips)) for capture, name, _ in sequences]
    clip = np.array(clip_of, np.int64)[sequence]
    order = np.lexsort((frame, clip))
    first = np.ones(len(order), bool)
    first[1:] = np.diff(clip[order]) != 0
    new = first.copy()
    new[1:] |= np.diff(frame[order]) != 0
    count = np.cumsum(new)
    rank = np.empty(len(order), np.int64)
    rank[order] = count - np.maximum.accumulate(np.where(first, count, 0))
    return rank


def _time_steps(
    sequences: tuple[tuple[str, str, str], ...], sequence: np.ndarray, frame: np.ndarray
) -> tuple[StepNumbers, np.ndarray]:
    captures = np.array([capture for capture, _, _ in sequences])
    names, capture = np.unique(captures[sequence], return_inverse=True)
    # One integer for both: unique pairs take ten times as long.
    span = int(frame.max()) + 1
    pairs, step = np.unique(capture * span + frame, return_inverse=True)
    steps: dict[str, dict[str, int]] = {str(name): {} for name in names}
    for number, pair in enumerate(pairs.tolist()):
        steps[str(names[pair // span])][str(pair % span)] = number
    return steps, step


def _row_of(file: Path, annotation: Any, rows: Mapping[str, int], problems: Problems) -> int | None:
    """Row of an annotation's image; None where it is not wanted or not there."""
    if not isinstance(annotation, dict) or "image_id" not in annotation:
        problems.add(
            "annotation",
            f"{file}: annotations: expected objects with an image_id, found "
            f"{_shown(annotation)}; it is left out",
        )
        return None
    row = rows.get(str(annotation["image_id"]))
    if row is None:
        problems.add(
            "image_id",
            f"{file}: annotation of image {annotation['image_id']}: expected an image with the id "
            "in the list of images, found none; it is left out",
        )
        return None
    return row if row >= 0 else None


def _flags_in_image(file: Path, annotation: dict[str, Any], problems: Problems) -> np.ndarray:
    flags = _flags(annotation.get("joint_valid"))
    if flags is not None:
        return flags
    problems.add(
        "in image",
        f"{file}: annotation of image {annotation['image_id']}: joint_valid: expected 42 numbers, "
        f"one a joint, found {_shown(annotation.get('joint_valid'))}; it has no keypoints",
    )
    return np.zeros(42, bool)


def _unknown_hand_type(file: Path, annotation: dict[str, Any]) -> str:
    return (
        f"{file}: annotation of image {annotation['image_id']}: hand_type: expected "
        f"{', '.join(_HANDS_OF_TYPE)}, found {annotation.get('hand_type')!r}; its hands are those "
        "with valid joints"
    )


def _bad_image(file: Path, number: int, image: Any) -> str:
    return (
        f"{file}: images[{number}]: expected an object with id, capture, camera and a whole "
        f"frame_idx, found {_shown(image)}; it is left out"
    )


def _nothing_chosen(file: Path, selection: InterHandSelection, problems: Problems) -> str:
    if problems.found:
        return problems.sentences()[0]
    if selection != InterHandSelection():
        return f"{file}: no annotated image is left by {selection}; ask for more"
    return f"{file}: expected at least one annotation, found none"


# ---- cameras -----------------------------------------------------------------------------------


def read_cameras(
    file: Path, sequences: tuple[tuple[str, str, str], ...], problems: Problems
) -> Cameras:
    """The cameras of the sequences from `*_camera.json`.

    Raises:
        InputError: no such file of cameras.
    """
    captures = {capture for capture, _, _ in sequences}
    with JsonStream(file) as stream:
        # Names of the others too, for the message.
        found: dict[str, Any] = {}
        for name in stream.members("the captures"):
            if name in captures:
                found[name] = stream.value()
            else:
                stream.skip()
                found[name] = None
    number = len(sequences)
    R, K = np.tile(np.eye(3), (number, 1, 1)), np.tile(np.eye(3), (number, 1, 1))
    centre, sound = np.zeros((number, 3)), np.zeros(number, bool)
    for i, (capture, _, name) in enumerate(sequences):
        try:
            camera = _camera(found, capture, name)
        except ValueError as error:
            problems.add("camera", f"{file}: {error}; its images have no hands")
            continue
        R[i], centre[i], sound[i] = camera["camrot"], camera["campos"] / 1000, True
        K[i, [0, 1], [0, 1]], K[i, :2, 2] = camera["focal"], camera["princpt"]
    return Cameras(R=R, centre=centre, K=K, sound=sound)


def _camera(captures: Mapping[str, Any], capture: str, name: str) -> dict[str, np.ndarray]:
    """The four values of a camera; ValueError says which is none."""
    where = f"camera {name} of capture {capture}"
    camera = {}
    for key, shape in _CAMERA_SHAPES.items():
        inner = captures
        for part, what in ((capture, "the capture"), (key, "the key"), (name, f"its {key}")):
            if not isinstance(inner, Mapping) or part not in inner:
                raise ValueError(f"{where}: expected {what} {part!r}, found {_shown(inner)}")
            inner = inner[part]
        camera[key] = value = _numbers(inner)
        if value.shape != shape or not np.isfinite(value).all():
            raise ValueError(
                f"{where}: {key}: expected numbers of shape {shape}, found {_shown(inner)}"
            )
    R = camera["camrot"]
    if np.abs(R @ R.T - np.eye(3)).max() > _LARGEST_SKEW or np.linalg.det(R) < 0:
        raise ValueError(f"{where}: camrot: expected a rotation, found {R.tolist()}")
    if not (camera["focal"] > 0).all():
        raise ValueError(
            f"{where}: focal: expected positive numbers, found {camera['focal'].tolist()}"
        )
    return camera


# ---- time steps --------------------------------------------------------------------------------


def read_joints(file: Path, images: Images, problems: Problems) -> Joints:
    """The world joints of the images' time steps from `*_joint_3d.json`.

    Raises:
        InputError: no such file of joints.
    """
    world = np.zeros((images.num_steps, 42, 3))
    valid = np.zeros((images.num_steps, 42), bool)
    listed, there = np.zeros((2, images.num_steps), bool)
    for step, where, value in _values_of_steps(file, images.steps):
        listed[step] = True
        entry = value if isinstance(value, dict) else {}
        world_mm, flags = _numbers(entry.get("world_coord")), _flags(entry.get("joint_valid"))
        if world_mm.shape != (42, 3) or flags is None:
            key, shape = ("joint_valid", 42) if flags is None else ("world_coord", (42, 3))
            problems.add(
                "joints",
                f"{file}: {where}: {key}: expected numbers of shape {shape}, found "
                f"{_shown(entry.get(key))}; its hands count as absent",
            )
            continue
        there[step] = True
        valid[step] = flags & np.isfinite(world_mm).all(-1)
        world[step] = np.where(valid[step][:, None], world_mm, 0.0) / 1000
    if missing := np.count_nonzero(~listed[images.step]):
        problems.add(
            "no joints",
            f"{file}: no joints for {missing} of {len(images.step)} images; they have no hands. "
            "The data set leaves out what it failed to annotate: many mean that the files belong "
            "to different splits",
        )
    return Joints(
        world=world.reshape(-1, 2, 21, 3)[:, :, _TO_MANO],
        valid=valid.reshape(-1, 2, 21)[:, :, _TO_MANO],
        there=there,
    )


def read_mano(file: Path, images: Images, num_betas: int, problems: Problems) -> ManoParameters:
    """The hand parameters of the images' time steps from `*_MANO_NeuralAnnot.json`.

    Raises:
        InputError: no such file of parameters.
    """
    shapes = {"pose": (48,), "shape": (num_betas,), "trans": (3,)}
    values = {name: np.zeros((images.num_steps, 2, *shape)) for name, shape in shapes.items()}
    there = np.zeros((images.num_steps, 2), bool)
    for step, where, entry in _values_of_steps(file, images.steps):
        for hand, side in enumerate(SIDES):
            given = entry.get(side) if isinstance(entry, dict) else entry
            if given is None:
                continue
            found = {
                name: _numbers(given.get(name) if isinstance(given, dict) else None)
                for name in shapes
            }
            bad = [
                name
                for name, shape in shapes.items()
                if found[name].shape != shape or not np.isfinite(found[name]).all()
            ]
            if bad:
                value = given.get(bad[0]) if isinstance(given, dict) else given
                problems.add(
                    "mano",
                    f"{file}: {where}: {side}/{bad[0]}: expected numbers of shape "
                    f"{shapes[bad[0]]}, found {_shown(value)}; the hand has no parameters",
                )
                continue
            there[step, hand] = True
            for name, array_ in values.items():
                array_[step, hand] = found[name]
    return ManoParameters(
        global_orient=values["pose"][..., :3],
        hand_pose=values["pose"][..., 3:].reshape(-1, 2, 15, 3),
        betas=values["shape"],
        transl=values["trans"],
        there=there,
    )


def mano_file(files: AnnotationFiles) -> Path:
    """The file of hand parameters.

    Raises:
        InputError: there is none.
    """
    if files.mano is not None:
        return files.mano
    expected = files.expected_mano()
    old = expected.with_name(expected.name.replace(_MANO_SUFFIX, _OLD_MANO_SUFFIX))
    found = "no such file"
    if old.is_file():
        found = f"only the older {old.name}, which NeuralAnnot's has replaced"
    raise InputError(
        f"{expected}: {found}; download NeuralAnnot's parameters, or take the converted "
        "predictions as truth: their joints_3d are the data set's own"
    )


def _values_of_steps(file: Path, steps: StepNumbers) -> Iterator[tuple[int, str, Any]]:
    """Number, name and value of the wanted time steps of a file by capture and frame."""
    with JsonStream(file) as stream:
        for capture in stream.members("the captures"):
            wanted = steps.get(capture)
            if wanted is None:
                stream.skip()
                continue
            for frame in stream.members(f"capture {capture}"):
                value = stream.value()
                if frame in wanted:
                    yield wanted[frame], f"frame {frame} of capture {capture}", value


# ---- values ------------------------------------------------------------------------------------


def _list(stream: JsonStream, key: str) -> Iterator[Any]:
    """Elements of the list under a key of the outermost object."""
    others = []
    for name in stream.members("the file"):
        if name == key:
            yield from stream.elements(key)
            return
        others.append(name)
        stream.skip()
    raise InputError(
        f"{stream.file}: expected the key {key!r}, found {', '.join(others) or 'nothing'}; is it "
        "the data set's own file, and whole?"
    )


def _flags(value: Any) -> np.ndarray | None:
    """`joint_valid`: 42 booleans, whether it has one or two axes; None where it is none."""
    numbers = _numbers(value)
    return numbers.reshape(42) > 0 if numbers.size == 42 else None


def _numbers(value: Any) -> np.ndarray:
    """A nest of lists as numbers; an empty array where it is none of numbers."""
    if not isinstance(value, list):
        return np.zeros(0)
    try:
        return np.asarray(value, np.float64)
    except (ValueError, TypeError):
        return np.zeros(0)


def _shown(value: Any) -> str:
    """A value in a few words, for a message."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        some = ", ".join(map(str, list(value)[:5]))
        return (some or "an empty object") + (", ..." if len(value) > 5 else "")
    if isinstance(value, list):
        numbers = _numbers(value)
        if not numbers.size:
            return "a list that is no array of numbers"
        finite = "" if np.isfinite(numbers).all() else ", not all finite"
        return f"shape {numbers.shape}{finite}"
    return f"{type(value).__name__} {str(value)[:40]!r}"
