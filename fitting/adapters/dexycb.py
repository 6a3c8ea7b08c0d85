"""DexYCB's labels: a `labels_*.npz` a frame, in SUBJECT/SEQUENCE/CAMERA.

    pose_m (1, 51)            wrist 3, 45 PCA coefficients, translation 3; zeros for no hand
    joint_3d (1, 21, 3), joint_2d (1, 21, 2)
                              the conversion is checked against them; -1 for no hand
    ../meta.yml               mano_sides: whose hand; mano_calib: whose shape
    calibration/mano_NAME/mano.yml, calibration/intrinsics/CAMERA_640x480.yml
                              in a folder above

Left hands were fitted with the official left file as it is, whose shapedirs are not mirrored: their
betas are converted by least squares, and what that loses is told.

Sources: dex_ycb_toolkit/dex_ycb.py, layers/mano_layer.py of NVlabs/dex-ycb-toolkit; its issue 28.
"""

import re
from pathlib import Path
from typing import Final

import numpy as np

from fitting.adapters.containers import read_tree
from fitting.adapters.formats import Conventions, Conversion, Evidence, Format, Reading
from fitting.adapters.lifting import intrinsics
from fitting.adapters.poses import rest_wrists, two_hand_parameters
from fitting.adapters.records import Record, files_of
from fitting.errors import InputError
from fitting.predictions import TwoHandPredictions
from mano_jax.joint_orders import permutation
from mano_jax.model import SIDES

CONVENTIONS: Final = Conventions(
    rotations="axis-angle and PCA",
    mean="excluded",
    left="native",
    left_shapedirs="raw",
    origin="MANO",
    camera="perspective",
    joint_order="openpose21",
    fingertips="manopth",
    two_hands="one",
)

_NUMBER: Final = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


def read_dexycb(path: Path, reading: Reading) -> Conversion:
    """Read the labels of one camera of one sequence.

    Raises:
        InputError: missing labels, or a meta.yml or calibration that cannot be found or read.
    """
    files = files_of(Path(path).resolve(), (".npz",))
    files = [file for file in files if file.stem.startswith("labels_")] or files
    camera = files[0].parent
    meta = _text(camera.parent / "meta.yml")
    side = SIDES.index(_item(camera.parent / "meta.yml", meta, "mano_sides"))
    calibration = _calibration(camera)
    betas = _betas(calibration, _item(camera.parent / "meta.yml", meta, "mano_calib"))
    frames = [_read_frame(file) for file in files]
    rows = {key: np.stack([frame[key] for frame in frames]) for key in frames[0]}
    count, hands = len(files), reading.hands

    valid = np.zeros((count, 2), bool)
    valid[:, side] = np.any(rows["pose"] != 0, axis=1)
    pose = np.zeros((count, 2, 48))
    pose[:, side] = rows["pose"][:, :48]
    both_betas = np.tile(betas, (count, 2, 1))
    parameters, lost = two_hand_parameters(
        CONVENTIONS, hands, valid, pose[..., :3], pose[..., 3:], both_betas
    )
    sides = np.full(count, side)
    wrist = rows["pose"][:, 48:] + rest_wrists(CONVENTIONS, hands, sides, both_betas[:, side])
    joints = np.full((count, 2, 21, 3), np.nan)
    joints[:, side] = rows["joints"]
    pixels = np.full((count, 2, 21, 2), np.nan)
    pixels[:, side] = rows["pixels"]
    predictions = TwoHandPredictions(
        hand_valid=valid,
        **parameters,
        relative_transl=np.zeros((count, 3)),
        root_transl=wrist,
        K=np.tile(_intrinsics(calibration, camera.name), (count, 1, 1, 1)),
        frame_id=np.array(["/".join([*camera.parts[-3:], file.stem]) for file in files]),
        sequence_id=np.zeros(count, np.int64),
    )
    notes = []
    if lost > 0:
        notes.append(
            "DexYCB's left hands have the official file's shape space, which is not mirrored: "
            f"their betas are the nearest ones, {1000 * lost:.2f} mm off a vertex (root mean "
            "square)"
        )
    return Conversion(predictions, tuple(notes), Evidence(joints, (True, False), pixels))


def _read_frame(file: Path) -> dict[str, np.ndarray]:
    tree = read_tree(file)
    if not isinstance(tree, dict):
        raise InputError(f"{file}: expected an archive of arrays, found {type(tree).__name__}")
    record = Record(file, "", tree)
    order = permutation(CONVENTIONS.joint_order, "mano21")
    points = {}
    for name, key, width in (("joints", "joint_3d", 3), ("pixels", "joint_2d", 2)):
        given = record.array(key, (1, 21, width), optional=True)
        points[name] = np.full((21, width), np.nan)
        if given is not None and np.any(given != -1):
            points[name] = given[0][order]
    return points | {"pose": record.needed("pose_m", (1, 51))[0]}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file}: cannot be read ({error}); labels are read where DexYCB has them, in "
            "SUBJECT/SEQUENCE/CAMERA with meta.yml above and calibration/ beside SUBJECT"
        ) from error


def _item(file: Path, text: str, key: str) -> str:
    """The first entry of a list in one of the data set's YAML files."""
    found = re.search(rf"^{key}:\s*\[?\s*(?:-\s*)?['\"]?([\w.-]+)", text, re.MULTILINE)
    if not found or (key == "mano_sides" and found[1] not in SIDES):
        raise InputError(f"{file}: expected {key} with an entry, found {found and found[1]}")
    return found[1]


def _calibration(camera: Path) -> Path:
    for folder in camera.parents:
        if (folder / "calibration").is_dir():
            return folder / "calibration"
    raise InputError(
        f"{camera}: no folder calibration above it, which has the hand's shape and the cameras"
    )


def _betas(calibration: Path, name: str) -> np.ndarray:
    file = calibration / f"mano_{name}" / "mano.yml"
    if not file.is_file():
        file = calibration / name / "mano.yml"
    _, _, listed = _text(file).partition("betas:")
    numbers = re.findall(_NUMBER, listed)
    if len(numbers) != 10:
        raise InputError(f"{file}: expected 10 numbers under betas, found {len(numbers)}")
    return np.array(numbers, np.float64)


def _intrinsics(calibration: Path, camera: str) -> np.ndarray:
    file = calibration / "intrinsics" / f"{camera}_640x480.yml"
    _, _, colour = _text(file).partition("color:")
    values = []
    for key in ("fx", "fy", "ppx", "ppy"):
        found = re.search(rf"\b{key}:\s*({_NUMBER})", colour)
        if not found:
            raise InputError(f"{file}: expected {key} under color, found none")
        values.append(float(found[1]))
    K = intrinsics(np.array(values[:1]), np.array([values[2:]]))[0]
    K[1, 1] = values[1]
    return K


DEXYCB: Final = Format(
    "dexycb",
    "DexYCB's labels, a folder of one camera",
    read_dexycb,
    suffixes=(".npz",),
    keys=(frozenset({"pose_m", "joint_3d", "joint_2d"}),),
    conventions=CONVENTIONS,
)
