"""From predictions as they came to the finite arrays that a solver needs.

What is missing, not finite or of no confidence becomes a zero beside a zero confidence, and a
frame that cannot be refined becomes an empty one with no hand, so that it disturbs nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Shaped
from numpy.typing import DTypeLike

from fitting.checks import (
    frame_reasons,
    joints_from_vertices,
    joints_seen,
    keypoints_used,
    rigid_transforms,
    sound_intrinsics,
    sound_weak_cameras,
    start_sources,
    vertices_seen,
)
from fitting.initialise import initialise_from_joints
from fitting.initialise_keypoints import initialise_from_keypoints
from fitting.initialise_skeleton import pose_joints_float64
from fitting.initialise_vertices import initialise_from_vertices
from fitting.predictions import TwoHandPredictions
from fitting.relative_translation import completed_relative_transl, measured_relative_transl
from fitting.root_translation import solve_root_transl
from mano_jax.model import Hands
from objectives.problem import Observations, PerspectiveViews, TwoHandParams

_SMALLEST_PIXEL_SCALE = 10.0
"""Pixels: a keypoint box smaller than a hand ever is must not blow up the residuals."""


@dataclass(frozen=True)
class Prepared:
    """A solver's problem, one entry a frame, and what became of the frames.

    NumPy arrays: a solver takes to its device as many frames at a time as it wants.
    """

    params: TwoHandParams
    """Where the fit starts; zeros for absent hands and for frames that are skipped."""
    observations: Observations
    """What it is held against; a skipped frame has no hand."""
    reasons: Shaped[np.ndarray, "N"]
    """Why a frame is skipped; "" where it is not."""
    initialised: bool
    """The start was made from targets: the file has no predicted parameters."""
    root_known: Bool[np.ndarray, "N"]
    """Where `params.root_transl` is given or solved; nowhere without `K`. With `K`, no keypoint
    acts in the other frames, and their zeros mean nothing."""
    weak_camera_known: Bool[np.ndarray, "N"]
    """Where `params.weak_camera` is the file's; nowhere without `weak_camera`. With it, no
    keypoint acts in the other frames, and the camera there means nothing."""


def prepare(
    hands: Hands, predictions: TwoHandPredictions, *, dtype: DTypeLike = np.float32
) -> Prepared:
    """Check, complete and clean predictions for a solver.

    Without parameters the start comes from `vertices`, `joints_3d` or `keypoints_2d`, the first
    that shows enough of a frame's hands. From vertices alone, the fitted joints then stand for
    `joints_3d`; from keypoints alone, the weak camera is the fitted one. With `K`, a `root_transl`
    that is missing is solved from the keypoints; where they are too few, they are dropped.
    Without `relative_transl` it is the start's, or beside parameters the difference of the wrists
    in `joints_3d`.

    Args:
        hands: the hand model.
        predictions: what an adapter yields.
        dtype: of the arrays; solving in float64 needs JAX's x64 mode.

    Raises:
        InputError: the file as a whole cannot be used (`fitting.checks.check_file`).
    """
    p = predictions
    reasons = frame_reasons(p, hands)
    usable = reasons == ""
    hand_valid = p.hand_valid & usable[:, None]

    def floats(array: np.ndarray) -> Any:
        return _host(array, dtype)

    joints, joint_confidence = _targets(p.joints_with_confidence(), joints_seen(p), usable)
    keypoints, confidence = _targets(p.keypoints_by_view(), keypoints_used(p), usable)
    views = _views(p, keypoints, confidence, usable, floats)
    weak_camera, weak_camera_known = _weak_camera(p, usable)
    sources = np.where(usable, start_sources(p), "")
    if p.has_parameters:
        start = _predicted_start(p, hand_valid)
    else:
        start = _made_start(
            hands,
            p,
            sources,
            hand_valid,
            joints=(joints, joint_confidence),
            keypoints=(keypoints, confidence),
            camera=weak_camera if views is None else views,
        )
        weak_camera = start.pop("weak_camera")
        start["relative_transl"] = _relative_transl(p, start["relative_transl"], hand_valid)
        joints, joint_confidence = _stand_ins(
            hands, start, joints_from_vertices(p) & usable, hand_valid, joints, joint_confidence
        )
    root_transl, root_known = _root_transl(hands, p, start, keypoints, confidence, usable, views)
    if views is not None:
        keypoints, confidence = _only_in(root_known, keypoints), _only_in(root_known, confidence)

    vertices, vertex_seen = p.vertices, vertices_seen(p) & usable[:, None, None]
    has_vertices = vertices is not None
    params = TwoHandParams(
        **{name: floats(value) for name, value in start.items()},
        root_transl=floats(root_transl),
        weak_camera=floats(weak_camera),
    )
    return Prepared(
        params=params,
        observations=Observations(
            hand_valid=_host(hand_valid, bool),
            left_anchor=_host(_left_anchor(hand_valid), bool),
            keypoints_2d=None if keypoints is None else floats(keypoints),
            keypoints_2d_confidence=None if confidence is None else floats(confidence),
            views=views,
            joints_3d=None if joints is None else floats(joints),
            joints_3d_confidence=None if joint_confidence is None else floats(joint_confidence),
            vertices=floats(_where(vertex_seen[..., None], vertices)) if has_vertices else None,
            vertices_confidence=floats(vertex_seen) if has_vertices else None,
            predicted=_predicted(params, weak_camera_known) if p.has_parameters else None,
            predicted_tau_confidence=floats(_where(usable[:, None], _tau_confidence(p))),
        ),
        reasons=reasons,
        initialised=not p.has_parameters,
        root_known=root_known,
        weak_camera_known=weak_camera_known,
    )


def _host(array: np.ndarray, dtype: DTypeLike) -> Any:
    """A NumPy array for a record: its annotations speak of JAX arrays only, hence `Any`."""
    return np.asarray(array, dtype)


def _left_anchor(hand_valid: np.ndarray) -> np.ndarray:
    return ~hand_valid[:, 0] & hand_valid[:, 1]


def _where(keep: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.where(keep, values, 0.0)


def _only_in(frames: np.ndarray, values: np.ndarray | None) -> np.ndarray | None:
    if values is None:
        return None
    return _where(frames.reshape(-1, *[1] * (values.ndim - 1)), values)


def _targets(
    points: np.ndarray | None, seen: np.ndarray, usable: np.ndarray
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Coordinates and confidences, both zero wherever there is nothing to hold on to."""
    if points is None:
        return None, None
    seen = seen & usable.reshape(-1, *[1] * (seen.ndim - 1))
    return _where(seen[..., None], points[..., :-1]), _where(seen, points[..., -1])


def _predicted(params: TwoHandParams, weak_camera_known: np.ndarray) -> TwoHandParams:
    """What the file says of the parameters; a camera that it does not give has no scale."""
    camera = np.where(
        weak_camera_known[:, None], params.weak_camera, np.zeros_like(params.weak_camera)
    )
    return replace(params, weak_camera=camera)


def _predicted_start(p: TwoHandPredictions, hand_valid: np.ndarray) -> dict[str, np.ndarray]:
    """Pose, shape and relative translation as they were predicted."""
    start = {
        name: _where(hand_valid.reshape(-1, 2, *[1] * (value.ndim - 2)), value)
        for name, value in p.parameters.items()
    }
    found = measured_relative_transl(p)
    return start | {"relative_transl": _relative_transl(p, found, hand_valid)}


def _relative_transl(p: TwoHandPredictions, found: np.ndarray, hand_valid: np.ndarray):
    """The file's own where it knows it, or else what was found; zero without both hands."""
    both = np.all(hand_valid, axis=-1, keepdims=True)
    return _where(both, completed_relative_transl(p, found))


def _tau_confidence(p: TwoHandPredictions) -> np.ndarray:
    known = p.relative_transl_known().astype(np.float64)
    given = p.relative_transl_confidence
    return known if given is None else known * given


def _made_start(
    hands: Hands,
    p: TwoHandPredictions,
    sources: np.ndarray,
    hand_valid: np.ndarray,
    *,
    joints: tuple[np.ndarray | None, np.ndarray | None],
    keypoints: tuple[np.ndarray | None, np.ndarray | None],
    camera: np.ndarray | PerspectiveViews,
) -> dict[str, np.ndarray]:
    """Pose, shape, relative translation and weak camera, each frame from its own source."""
    n = p.num_frames
    start = {
        "global_orient": np.zeros((n, 2, 3)),
        "hand_pose": np.zeros((n, 2, 15, 3)),
        "betas": np.zeros((n, 2, hands.num_betas)),
        "relative_transl": np.zeros((n, 3)),
        "weak_camera": camera.copy() if isinstance(camera, np.ndarray) else np.zeros((n, 3)),
    }
    for source in set(sources) - {""}:
        rows = np.flatnonzero(sources == source)
        there = hand_valid[rows]
        if source == "vertices":
            assert p.vertices is not None, "it is the frames' source"
            seen = vertices_seen(p)[rows] & there[..., None]
            made = initialise_from_vertices(hands, p.vertices[rows], seen)
        elif source == "joints_3d":
            points, confidence = (x[rows] for x in joints if x is not None)
            made = initialise_from_joints(hands, points, confidence, there)
        else:
            points, confidence = (x[rows] for x in keypoints if x is not None)
            made = initialise_from_keypoints(
                hands, points, confidence, there, jax.tree.map(lambda x, r=rows: x[r], camera)
            )
        for name, value in made._asdict().items():
            start[name][rows] = value
    return start


def _stand_ins(
    hands: Hands,
    start: dict[str, np.ndarray],
    frames: np.ndarray,
    hand_valid: np.ndarray,
    joints: np.ndarray | None,
    confidence: np.ndarray | None,
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """3D joints, and in some frames those of the start."""
    if not np.any(frames):
        return joints, confidence
    fitted = _anchored_joints(hands, start, _left_anchor(hand_valid))
    seen = np.broadcast_to((frames[:, None] & hand_valid)[..., None], fitted.shape[:-1])
    joints = np.zeros_like(fitted) if joints is None else joints
    confidence = np.zeros(seen.shape) if confidence is None else confidence
    return np.where(seen[..., None], fitted, joints), np.where(seen, 1.0, confidence)


def _weak_camera(p: TwoHandPredictions, usable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The weak camera, with a harmless one where it cannot be used, and where it can."""
    if p.weak_camera is None:
        return np.zeros((p.num_frames, 3)), np.zeros(p.num_frames, bool)
    known = usable & sound_weak_cameras(p.weak_camera)
    return np.where(known[:, None], p.weak_camera, [1.0, 0.0, 0.0]), known


def _views(
    p: TwoHandPredictions,
    keypoints: np.ndarray | None,
    confidence: np.ndarray | None,
    usable: np.ndarray,
    floats: Callable[[np.ndarray], Any],
) -> PerspectiveViews | None:
    """The cameras, with harmless ones where a frame or a view is not used.

    Each part of a camera stands for itself: the first view's place relates all the others to the
    hands, even where its own K is of no use.
    """
    if p.K is None:
        return None
    shape = p.K.shape[:2]
    usable = usable[:, None]
    distortion = np.zeros((*shape, 0)) if p.distortion is None else p.distortion
    sound_distortion = usable & np.all(np.isfinite(distortion), axis=-1)
    T = np.broadcast_to(np.eye(4), (*shape, 4, 4))
    if p.T_camera_world is not None and p.num_views > 1:
        sound_T = usable & rigid_transforms(p.T_camera_world)
        T = np.where(sound_T[..., None, None], p.T_camera_world, np.eye(4)).astype(np.float64)
        T[..., 3, :] = [0.0, 0.0, 0.0, 1.0]
    scale = np.ones(shape)
    if keypoints is not None and confidence is not None:
        scale = _pixel_scale(keypoints, confidence)
    sound_K = usable & sound_intrinsics(p.K)
    return PerspectiveViews(
        K=floats(np.where(sound_K[..., None, None], p.K, np.eye(3))),
        distortion=floats(_where(sound_distortion[..., None], distortion)),
        T_view_camera=floats(T @ np.linalg.inv(T[:, :1])),
        pixel_scale=floats(scale),
    )


def _pixel_scale(keypoints: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Half the longer side of the box around each view's keypoints, pixels (N, C)."""
    seen = (confidence > 0)[..., None]
    high = np.where(seen, keypoints, -np.inf).max((2, 3))
    low = np.where(seen, keypoints, np.inf).min((2, 3))
    half = 0.5 * np.where(np.isfinite(high), high - low, 0.0).max(-1)
    return np.maximum(half, _SMALLEST_PIXEL_SCALE)


def _root_transl(
    hands: Hands,
    p: TwoHandPredictions,
    start: dict[str, np.ndarray],
    keypoints: np.ndarray | None,
    confidence: np.ndarray | None,
    usable: np.ndarray,
    views: PerspectiveViews | None,
) -> tuple[np.ndarray, np.ndarray]:
    """The anchor wrist in the first camera's frame, and where it is known; zero elsewhere."""
    root_transl = np.full((p.num_frames, 3), np.nan)
    if views is not None and p.root_transl is not None:
        root_transl = p.root_transl.astype(np.float64)
    known = np.all(np.isfinite(root_transl), axis=-1)
    if views is not None and keypoints is not None and confidence is not None and not known.all():
        hand_valid = p.hand_valid & usable[:, None]
        joints = _anchored_joints(hands, start, _left_anchor(hand_valid))
        solved = solve_root_transl(joints, hand_valid, keypoints, confidence, views)
        root_transl = np.where(known[:, None], root_transl, solved)
    known = usable & np.all(np.isfinite(root_transl), axis=-1)
    return _where(known[:, None], root_transl), known


def _anchored_joints(
    hands: Hands, start: dict[str, np.ndarray], left_anchor: np.ndarray
) -> np.ndarray:
    """Joints of the start relative to the anchor wrist, (N, 2, 21, 3)."""
    joints = pose_joints_float64(hands, start["global_orient"], start["hand_pose"], start["betas"])
    joints = joints - joints[..., :1, :]
    offset, left_anchor = start["relative_transl"][:, None], left_anchor[:, None, None]
    right = joints[:, 0] + np.where(left_anchor, -offset, 0.0)
    left = joints[:, 1] + np.where(left_anchor, 0.0, offset)
    return np.stack([right, left], axis=1)
