"""InterHand2.6M annotations, its original JSON files.

Conventions (Moon et al., ECCV 2020; the data set's own loader and tools):

    files         `*_data.json` (COCO), `*_camera.json`, `*_joint_3d.json`, one set a split, and
                  `*_MANO_NeuralAnnot.json` where it was downloaded
    joints        world, millimetres; every finger from the tip inwards, the wrist last; the right
                  hand first, then the left; an absent hand's joints are garbage
    validity      `joint_valid` of the joint file: triangulated; of the COCO file: and in the
                  image. The first makes the confidence in 3D, both together that in 2D
    hands         those of `hand_type`, where `hand_type_valid`, else those with valid joints; a
                  hand without any valid joint is absent, whatever its label
    camera        X_camera = R (X_world - campos); campos in millimetres, no distortion
    2D            the projection of the 3D joints, which is how the data set defines it
    parameters    NeuralAnnot's MANO fits, one a time step: axis-angle without the mean pose,
                  world axes; MANO's translation in metres; null for a hand without
    keys          capture, frame and camera are strings in all files but the first

The joints were triangulated, so they are the targets; there is no prediction in these files. The
parameters were fitted to the joints: they are a truth to compare with, never an input.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Bool
from scipy.spatial.transform import Rotation

from fitting.adapters.formats import Conversion, Format, Reading
from fitting.adapters.interhand_annotations import (
    Cameras,
    Images,
    InterHandSelection,
    Joints,
    ManoParameters,
    Problems,
    find_files,
    is_of_a_split,
    mano_file,
    read_cameras,
    read_images,
    read_joints,
    read_mano,
)
from fitting.adapters.neural_annot import CONVENTIONS as NEURAL_ANNOT
from fitting.adapters.neural_annot import read_neural_annot
from fitting.errors import InputError
from fitting.initialise import pose_joints_float64
from fitting.predictions import TwoHandPredictions
from mano_jax.model import Hands

EVERY_IMAGE: Final = InterHandSelection()
"""The selection that leaves nothing out."""

_ROWS: Final = 1 << 15
"""Images computed together: float64 temporaries stay small beside the result."""

_NEAREST: Final = 1e-3
"""A joint nearer to the camera's plane than this (m), or behind it, has no image."""

_GENUINE_WRIST: Final = np.array([0.09566993, 0.00638343, 0.00618631])
"""Right wrist at rest of the official MANO file, metres: it tells whether that is in use."""

_CHECKED_IMAGES: Final = 256
_FIT_MM: Final = 15.0
"""The data set reports fits within about 5 mm, by a joint regressor of its own; MANO's joints and
fingertips add some millimetres. A pose without its mean is farther off."""


@dataclass(frozen=True)
class InterHandFrames:
    """What was read of a split, one frame an annotated image."""

    predictions: TwoHandPredictions
    """Targets: joints, keypoints and cameras, without parameters."""
    truth: TwoHandPredictions | None
    """The same frames with NeuralAnnot's parameters; None unless they were asked for."""
    notes: tuple[str, ...]
    """What a user should know: annotations that could not be used, and how many."""
    fit_mm: float | None
    """Mean distance of the posed truth's joints from the triangulated ones."""


def read_interhand(
    path: Path | str, *, selection: InterHandSelection = EVERY_IMAGE
) -> TwoHandPredictions:
    """Read one split: joints, keypoints and camera of every annotated image.

    What could not be used is warned of; `read_interhand_frames` hands it back instead.

    Args:
        path: a folder with one set of the files (`annotations/train`), or any of them.
        selection: which images.

    Raises:
        InputError: a file is missing or none of its kind, or not one image has a hand.
    """
    frames = read_interhand_frames(path, selection=selection)
    _warn(frames.notes)
    return frames.predictions


def read_interhand_truth(
    path: Path | str, hands: Hands, *, selection: InterHandSelection = EVERY_IMAGE
) -> TwoHandPredictions:
    """Read the frames that `read_interhand` gives, with NeuralAnnot's MANO parameters.

    An annotated hand without parameters has NaN for them: its joints are known, its mesh is not.
    `joints_3d` stay the triangulated ones, which differ from MANO's by some millimetres: joints
    are to be compared with them, meshes with the parameters'.

    Args:
        path: as for `read_interhand`; the file of parameters lies beside the others.
        hands: the hand model. The file has poses without the mean and translations of MANO's
            origin: only with the genuine hands do their mean and wrists make the data set's own.
        selection: which images.

    Raises:
        InputError: as for `read_interhand`, or there are no parameters.
    """
    frames = read_interhand_frames(path, hands=hands, selection=selection)
    _warn(frames.notes)
    assert frames.truth is not None
    return frames.truth


def read_interhand_frames(
    path: Path | str, *, hands: Hands | None = None, selection: InterHandSelection = EVERY_IMAGE
) -> InterHandFrames:
    """Read one split, with or without its MANO parameters, and say what could not be used.

    Args:
        path: as for `read_interhand`.
        hands: the hand model for the truth, see `read_interhand_truth`; None reads no truth.
        selection: which images.

    Raises:
        InputError: as for `read_interhand` and, with a hand model, `read_interhand_truth`.
    """
    files, problems = find_files(Path(path)), Problems()
    parameters_file = None if hands is None else mano_file(files)
    images = read_images(files.data, selection, problems)
    cameras = read_cameras(files.camera, images.sequences, problems)
    joints = read_joints(files.joint_3d, images, problems)
    predictions = _predictions(images, cameras, joints, problems)
    if not predictions.hand_valid.any():
        raise InputError(
            " ".join(problems.sentences()[:1]) or f"{files.data}: no chosen image has a hand"
        )
    truth, fit_mm = None, None
    if hands is not None and parameters_file is not None:
        parameters = read_mano(parameters_file, images, hands.num_betas, problems)
        truth = _truth(hands, predictions, images, cameras, parameters)
        if not _fitted_hands(truth).any():
            raise InputError(
                f"{parameters_file}: no parameters for any hand of the "
                f"{predictions.num_frames} images; do the files belong to the same split? "
                + " ".join(problems.sentences()[-1:])
            )
        fit_mm = _fit_mm(hands, truth)
        _note_truth(parameters_file, hands, truth, fit_mm, problems)
    return InterHandFrames(predictions, truth, problems.sentences(), fit_mm)


def _fitted_hands(truth: TwoHandPredictions) -> Bool[np.ndarray, "N 2"]:
    """Which hands of a truth have parameters."""
    return truth.hand_valid & np.isfinite(truth.parameters["betas"]).all(-1)


def _predictions(
    images: Images, cameras: Cameras, joints: Joints, problems: Problems
) -> TwoHandPredictions:
    """Joints in camera axes and their projections."""
    number = len(images.step)
    joints_3d = np.zeros((number, 2, 21, 4), np.float32)
    keypoints_2d = np.zeros((number, 1, 2, 21, 3), np.float32)
    readable = joints.there[images.step] & cameras.sound[images.sequence]
    valid = joints.valid[images.step] & readable[:, None, None]
    annotated = valid.any(-1)
    named = np.where(images.labelled[:, None], images.hands, annotated)
    if missing := np.count_nonzero(named & ~annotated & readable[:, None]):
        problems.add("unseen", f"{missing} hands that hand_type names have no valid joint: absent")
    hand_valid = named & annotated
    for rows in _slices(number):
        camera, seen = images.sequence[rows], valid[rows] & hand_valid[rows][..., None]
        points = _to_camera(cameras, camera, joints.world[images.step[rows]].reshape(-1, 42, 3))
        points = points.reshape(-1, 2, 21, 3)
        in_image = seen & images.in_image[rows] & (points[..., 2] > _NEAREST)
        depth = np.where(in_image, points[..., 2], 1.0)[..., None]
        pixels = np.einsum("nij,nhkj->nhki", cameras.K[camera][:, :2], points / depth)
        joints_3d[rows] = _with_confidence(points, seen)
        keypoints_2d[rows, 0] = _with_confidence(pixels, in_image)
    T = np.tile(np.eye(4), (len(cameras.R), 1, 1))
    T[:, :3, :3], T[:, :3, 3] = cameras.R, -np.einsum("sij,sj->si", cameras.R, cameras.centre)
    names = np.array([f"capture{c}/{s}/cam{v}" for c, s, v in images.sequences])
    _, sequence_id = np.unique(names, return_inverse=True)
    return TwoHandPredictions(
        hand_valid=hand_valid,
        joints_3d=joints_3d,
        keypoints_2d=keypoints_2d,
        K=cameras.K[images.sequence][:, None],
        T_camera_world=T[images.sequence][:, None],
        frame_id=np.char.add(np.char.add(names[images.sequence], "/"), images.frame.astype(str)),
        sequence_id=sequence_id[images.sequence],
    )


def _truth(
    hands: Hands,
    predictions: TwoHandPredictions,
    images: Images,
    cameras: Cameras,
    parameters: ManoParameters,
) -> TwoHandPredictions:
    """The frames with the parameters in camera axes, absolute.

    MANO turns about the wrist, J0(betas): the wrist moves as a point and the rotation about it is
    multiplied by the camera's, which is exact; the translation would depend on both.
    """
    J_template = np.asarray(hands.J_template, np.float64)[:, 0]
    J_shapedirs = np.asarray(hands.J_shapedirs, np.float64)[:, 0]
    wrists = J_template + np.einsum("hcs,ths->thc", J_shapedirs, parameters.betas)
    wrists = wrists + parameters.transl
    hand_pose = parameters.hand_pose + np.asarray(hands.pose_mean, np.float64)
    hand_pose = hand_pose.astype(np.float32)
    there = parameters.there[images.step] & predictions.hand_valid
    global_orient = np.zeros((len(images.step), 2, 3), np.float32)
    wrists_camera = np.zeros((len(images.step), 2, 3))
    for rows in _slices(len(images.step)):
        camera, step = images.sequence[rows], images.step[rows]
        wrists_camera[rows] = _to_camera(cameras, camera, wrists[step])
        turn = Rotation.from_matrix(np.repeat(cameras.R[camera], 2, axis=0))
        orient = Rotation.from_rotvec(parameters.global_orient[step].reshape(-1, 3))
        global_orient[rows] = (turn * orient).as_rotvec().reshape(-1, 2, 3)
    annotated = predictions.hand_valid
    both, right = annotated.all(-1, keepdims=True), annotated[:, :1]
    # Parameters that nobody fitted are NaN; where there is no hand, zeros.
    unknown = np.where(annotated, np.where(there, 0.0, np.nan), 0.0).astype(np.float32)
    wrists_camera += unknown[..., None]
    anchor = np.where(right, wrists_camera[:, 0], wrists_camera[:, 1])

    def filled(values: np.ndarray) -> np.ndarray:
        rest = [1] * (values.ndim - 2)
        return np.where(there.reshape(-1, 2, *rest), values, unknown.reshape(-1, 2, *rest))

    return replace(
        predictions,
        global_orient=filled(global_orient),
        hand_pose=filled(hand_pose[images.step]),
        betas=filled(parameters.betas[images.step]),
        relative_transl=np.where(both, wrists_camera[:, 1] - wrists_camera[:, 0], 0.0),
        root_transl=np.where(annotated.any(-1, keepdims=True), anchor, 0.0),
    )


def _fit_mm(hands: Hands, truth: TwoHandPredictions) -> float | None:
    """Mean distance of the posed joints from the triangulated ones, over some of the images."""
    rows = np.flatnonzero(_fitted_hands(truth).any(-1))
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), _CHECKED_IMAGES)).astype(int)]
    arrays = truth.frames(rows).arrays()
    parameters = (np.nan_to_num(arrays[name]) for name in ("global_orient", "hand_pose", "betas"))
    posed = pose_joints_float64(hands, *parameters)
    anchor, tau = arrays["root_transl"], arrays["relative_transl"]
    right = arrays["hand_valid"][:, :1]
    wrists = np.stack([anchor, np.where(right, anchor + tau, anchor)], axis=1)
    moved = posed - posed[:, :, :1] + wrists[:, :, None]
    distance = np.linalg.norm(moved - arrays["joints_3d"][..., :3], axis=-1)
    seen = (arrays["joints_3d"][..., 3] > 0) & np.isfinite(distance)
    return float(1000 * distance[seen].mean()) if seen.any() else None


def _note_truth(
    file: Path,
    hands: Hands,
    truth: TwoHandPredictions,
    fit_mm: float | None,
    problems: Problems,
) -> None:
    if missing := np.count_nonzero(truth.hand_valid & ~_fitted_hands(truth)):
        problems.add(
            "no parameters",
            f"{file}: no parameters for {missing} of {np.count_nonzero(truth.hand_valid)} "
            "annotated hands: NaN in the truth, which has their joints but no meshes of them",
        )
    far = "" if fit_mm is None else f"; posed, they lie {fit_mm:.1f} mm from the annotated joints"
    if np.abs(np.asarray(hands.J_template)[0, 0] - _GENUINE_WRIST).max() > 1e-4:
        problems.add(
            "hand model",
            f"{file}: the parameters belong to MANO, but the hand model in use has another mean "
            f"pose, wrist and shape{far}; name the genuine files with --hands",
        )
    elif fit_mm is not None and fit_mm > _FIT_MM:
        problems.add(
            "far off",
            f"{file}: the parameters do not explain the annotated joints{far}, where about 5 mm "
            "is usual; does the file belong to this split, and is the hand model whole?",
        )


def _to_camera(cameras: Cameras, camera: np.ndarray, points: np.ndarray) -> np.ndarray:
    """World points (n, P, 3) in the axes of each row's camera."""
    offset = points - cameras.centre[camera][:, None]
    return offset @ np.swapaxes(cameras.R[camera], -1, -2)


def _with_confidence(points: np.ndarray, seen: np.ndarray) -> np.ndarray:
    return np.concatenate([np.where(seen[..., None], points, 0.0), seen[..., None]], axis=-1)


def _slices(number: int) -> Iterator[slice]:
    for start in range(0, number, _ROWS):
        yield slice(start, min(start + _ROWS, number))


def _warn(notes: tuple[str, ...]) -> None:
    for note in notes:
        warnings.warn(note, stacklevel=3)


def _read(path: Path, reading: Reading) -> Conversion:
    """Annotations of a split, or a file of hands in NeuralAnnot's format that stands alone."""
    alone = path.is_file() and not is_of_a_split(path)
    if alone:
        return read_neural_annot(path, reading)
    read = read_interhand_frames(path)
    return Conversion(read.predictions, read.notes)


INTERHAND: Final = Format(
    "interhand",
    "InterHand2.6M's annotations, or hands in NeuralAnnot's format",
    _read,
    suffixes=(".json",),
    names=("*_joint_3d.json", "*_MANO_NeuralAnnot.json"),
    keys=(frozenset({"pose", "shape", "trans"}),),
    conventions=NEURAL_ANNOT,
)
