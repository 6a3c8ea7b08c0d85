"""From predictions as they came to the finite arrays that a solver needs.

What is missing, not finite or of no confidence becomes a zero beside a zero confidence, and a
frame that cannot be refined becomes an empty one with no hand, so that it disturbs nothing.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Shaped

from fitting.checks import frame_reasons, joints_seen, keypoints_seen, vertices_seen
from fitting.initialise import initialise_from_joints, pose_joints_float64, solve_root_transl
from fitting.predictions import TwoHandPredictions
from mano_jax.model import Hands
from objectives.problem import Observations, PerspectiveViews, TwoHandParams

_SMALLEST_PIXEL_SCALE = 10.0
"""Pixels: a keypoint box smaller than a hand ever is must not blow up the residuals."""


@dataclass(frozen=True)
class Prepared:
    """A solver's problem, one entry a frame, and what became of the frames."""

    params: TwoHandParams
    """Where the fit starts; zeros for absent hands and for frames that are skipped."""
    observations: Observations
    """What it is held against; a skipped frame has no hand."""
    reasons: Shaped[np.ndarray, "N"]
    """Why a frame is skipped; "" where it is not."""
    initialised: bool
    """The start was made from joints: the file has no predicted parameters."""


def prepare(
    hands: Hands, predictions: TwoHandPredictions, *, dtype: DTypeLike = jnp.float32
) -> Prepared:
    """Check, complete and clean predictions for a solver.

    Without parameters the start comes from `joints_3d`. With `K` and no `root_transl`, that is
    solved from the keypoints. Without `relative_transl` it is the difference of the wrists in
    `joints_3d`.

    Args:
        hands: the hand model.
        predictions: what an adapter yields.
        dtype: of the arrays; float64 needs JAX's x64 mode.

    Raises:
        InputError: the file as a whole cannot be used (`fitting.checks.check_file`).
    """
    p = predictions
    reasons = frame_reasons(p, hands)
    usable = reasons == ""
    hand_valid = p.hand_valid & usable[:, None]

    def floats(array: np.ndarray) -> Array:
        return jnp.asarray(array, dtype)

    joints, joint_confidence = _targets(p.joints_with_confidence(), joints_seen(p), usable)
    keypoints, confidence = _targets(p.keypoints_by_view(), keypoints_seen(p), usable)
    start = _start(hands, p, joints, joint_confidence, hand_valid)
    views = _views(p, keypoints, confidence, usable, floats)
    root_transl = _root_transl(hands, p, start, keypoints, confidence, hand_valid, views)
    weak_camera = np.zeros((p.num_frames, 3))
    if p.weak_camera is not None:
        weak_camera = np.where(usable[:, None], p.weak_camera, [1.0, 0.0, 0.0])

    vertices, vertex_seen = p.vertices, vertices_seen(p) & usable[:, None, None]
    has_vertices = vertices is not None
    return Prepared(
        params=TwoHandParams(
            **{name: floats(value) for name, value in start.items()},
            root_transl=floats(root_transl),
            weak_camera=floats(weak_camera),
        ),
        observations=Observations(
            hand_valid=jnp.asarray(hand_valid),
            left_anchor=jnp.asarray(_left_anchor(hand_valid)),
            keypoints_2d=None if keypoints is None else floats(keypoints),
            keypoints_2d_confidence=None if confidence is None else floats(confidence),
            views=views,
            joints_3d=None if joints is None else floats(joints),
            joints_3d_confidence=None if joint_confidence is None else floats(joint_confidence),
            vertices=floats(_where(vertex_seen[..., None], vertices)) if has_vertices else None,
            vertices_confidence=floats(vertex_seen) if has_vertices else None,
        ),
        reasons=reasons,
        initialised=not p.has_parameters,
    )


def _left_anchor(hand_valid: np.ndarray) -> np.ndarray:
    return ~hand_valid[:, 0] & hand_valid[:, 1]


def _where(keep: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.where(keep, values, 0.0)


def _targets(
    points: np.ndarray | None, seen: np.ndarray, usable: np.ndarray
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Coordinates and confidences, both zero wherever there is nothing to hold on to."""
    if points is None:
        return None, None
    seen = seen & usable.reshape(-1, *[1] * (seen.ndim - 1))
    return _where(seen[..., None], points[..., :-1]), _where(seen, points[..., -1])


def _start(
    hands: Hands,
    p: TwoHandPredictions,
    joints: np.ndarray | None,
    confidence: np.ndarray | None,
    hand_valid: np.ndarray,
) -> dict[str, np.ndarray]:
    """Pose, shape and relative translation: predicted, or made from joints."""
    if p.has_parameters:
        start = {
            name: _where(hand_valid.reshape(-1, 2, *[1] * (value.ndim - 2)), value)
            for name, value in p.parameters.items()
        }
        wrists = np.zeros((p.num_frames, 2, 3)) if joints is None else joints[..., 0, :]
        relative_transl = wrists[:, 1] - wrists[:, 0]
    else:
        assert joints is not None and confidence is not None, "check_file saw to it"
        start = initialise_from_joints(hands, joints, confidence, hand_valid)._asdict()
        relative_transl = start["relative_transl"]
    if p.relative_transl is not None:
        relative_transl = p.relative_transl
    both = np.all(hand_valid, axis=-1, keepdims=True)
    return start | {"relative_transl": _where(both, relative_transl)}


def _views(
    p: TwoHandPredictions,
    keypoints: np.ndarray | None,
    confidence: np.ndarray | None,
    usable: np.ndarray,
    floats,
) -> PerspectiveViews | None:
    """The cameras, with harmless ones where a frame or a view is not used."""
    if p.K is None:
        return None
    shape = p.K.shape[:2]
    distortion = np.zeros((*shape, 0)) if p.distortion is None else p.distortion
    T_camera_world = np.broadcast_to(np.eye(4), (*shape, 4, 4))
    if p.T_camera_world is not None and p.num_views > 1:
        T_camera_world = p.T_camera_world
    finite = np.all(np.isfinite(p.K), axis=(-2, -1)) & (p.K[..., 0, 0] > 0) & (p.K[..., 1, 1] > 0)
    finite &= np.all(np.isfinite(distortion), axis=-1) & np.all(
        np.isfinite(T_camera_world), axis=(-2, -1)
    )
    finite &= usable[:, None]
    T = np.where(finite[..., None, None], T_camera_world, np.eye(4)).astype(np.float64)
    scale = np.ones(shape)
    if keypoints is not None and confidence is not None:
        scale = _pixel_scale(keypoints, confidence)
    return PerspectiveViews(
        K=floats(np.where(finite[..., None, None], p.K, np.eye(3))),
        distortion=floats(_where(finite[..., None], distortion)),
        T_view_camera=floats(T @ _inverse(T[:, :1])),
        pixel_scale=floats(scale),
    )


def _inverse(T: np.ndarray) -> np.ndarray:
    """Inverse of rigid transforms."""
    R_inverse = np.swapaxes(T[..., :3, :3], -1, -2)
    inverse = np.zeros_like(T)
    inverse[..., :3, :3] = R_inverse
    inverse[..., :3, 3:] = -R_inverse @ T[..., :3, 3:]
    inverse[..., 3, 3] = 1.0
    return inverse


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
    hand_valid: np.ndarray,
    views: PerspectiveViews | None,
) -> np.ndarray:
    """The anchor wrist in the first camera's frame; zero without a perspective camera."""
    if views is None:
        return np.zeros((p.num_frames, 3))
    if p.root_transl is not None:
        return _where(np.any(hand_valid, axis=-1, keepdims=True), p.root_transl)
    if keypoints is None or confidence is None:
        return np.zeros((p.num_frames, 3))
    joints = pose_joints_float64(hands, start["global_orient"], start["hand_pose"], start["betas"])
    joints = joints - joints[..., :1, :]
    offset = start["relative_transl"][:, None]
    left_anchor = _left_anchor(hand_valid)[:, None, None]
    anchored = np.stack(
        [
            joints[:, 0] + np.where(left_anchor, -offset, 0.0),
            joints[:, 1] + np.where(left_anchor, 0.0, offset),
        ],
        axis=1,
    )
    return solve_root_transl(anchored, hand_valid, keypoints, confidence, views)
