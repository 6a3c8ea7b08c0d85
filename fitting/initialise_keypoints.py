"""Where a fit starts when there are only 2D keypoints and a camera.

A hand of mean shape and pose is looked at from directions all around; for each, the turn, size and
shift in the image that fit the keypoints best are closed form. The likeliest views then settle:
they turn, shift and bend until they explain the keypoints, and the most likely one is kept.

A weak camera sees no depth: how far the left hand is in front of the right one stays 0. The size of
the hands before a perspective camera is that of the mean shape, and their depth with it.
"""

from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from fitting.initialise_settle import Hypothesis, Observe, Settling, best_of, place, settle
from fitting.root_translation import undistorted_rays
from mano_jax.model import Hands
from objectives.problem import PerspectiveViews

MINIMUM_HAND_KEYPOINTS: Final = 6
"""Of a hand in one view: a stiff hand's place has six unknowns, and fewer than twice as many
numbers would not tell a wrong place from a bent hand."""

_DIRECTIONS = 64
"""Directions to look from: about 25 degrees apart, and settling covers half of that."""

_TRIED = 8
"""Views that settle: a hand and its mirror image in depth, and their neighbours."""

_STEPS = 12

_TRUSTED_SCALE = 2.5
"""A weak camera whose scale is off the fitted one by more than this factor is a placeholder (the
fitted one is rough: a hand seen from its fingertips looks small)."""

_SCALE_FREEDOM = 1.25
"""How much larger or smaller than the mean hand a hand may look while views are compared."""

_DEPTHS = (0.1, 20.0)
"""Metres: where a hand before a perspective camera may be."""

_OUTLIER = 0.15
"""Image error, in half sizes of the hand in the image, where a keypoint begins to be doubted."""


class KeypointStart(NamedTuple):
    """A start made from keypoints; absent hands hold zeros."""

    global_orient: Float[np.ndarray, "N 2 3"]
    """Wrist rotation, axis-angle."""
    hand_pose: Float[np.ndarray, "N 2 15 3"]
    """Finger joint rotations, axis-angle."""
    betas: Float[np.ndarray, "N 2 S"]
    """Shape coefficients: the mean hand's zeros."""
    relative_transl: Float[np.ndarray, "N 3"]
    """Left wrist minus right wrist, metres; its z is 0 with a weak camera."""
    weak_camera: Float[np.ndarray, "N 3"]
    """s, t_x, t_y; zero with perspective cameras."""


def initialise_from_keypoints(
    hands: Hands,
    keypoints_2d: Float[np.ndarray, "N C 2 21 2"],
    confidence: Float[np.ndarray, "N C 2 21"],
    hand_valid: Bool[np.ndarray, "N 2"],
    camera: Float[np.ndarray, "N 3"] | PerspectiveViews,
) -> KeypointStart:
    """Both hands and their places from keypoints.

    Args:
        hands: the hand model.
        keypoints_2d: crop coordinates with a weak camera, pixels with perspective ones.
        confidence: of each keypoint; 0 for a missing one, whose values are not read.
        hand_valid: which hands are there.
        camera: a weak camera, whose s is kept where it is anywhere near what the keypoints say, or
            perspective ones.
    """
    settling = Settling.of(hands)
    weight = np.where(hand_valid[:, None, :, None], confidence, 0.0).astype(np.float64)
    image = np.where(weight[..., None] > 0, keypoints_2d, 0.0).astype(np.float64)
    weak = isinstance(camera, np.ndarray)
    if isinstance(camera, PerspectiveViews):
        image = undistorted_rays(image, camera)
        known = np.all(np.isfinite(image), axis=-1)
        image, weight = np.where(known[..., None], image, 0.0), np.where(known, weight, 0.0)
        T = np.asarray(camera.T_view_camera, np.float64)
    else:
        T = np.broadcast_to(np.eye(4), (*image.shape[:2], 4, 4))

    # The view that sees most of a hand chooses the directions; all views judge them.
    view = np.argmax((weight > 0).sum(-1), axis=1)
    frame, hand = np.arange(len(image))[:, None], np.arange(2)
    seen, seen_weight = image[frame, view, hand], weight[frame, view, hand]
    a, shape = _looks(settling, seen, seen_weight)
    if isinstance(camera, PerspectiveViews):
        scale = np.full(len(image), np.nan)
        low, high = 1.0 / _DEPTHS[1], 1.0 / _DEPTHS[0]
    else:
        scale = _common_scale(a, shape, seen, seen_weight, camera[:, 0])
        low = (scale / _SCALE_FREEDOM)[:, None, None]
        high = (scale * _SCALE_FREEDOM)[:, None, None]
    size = np.clip(np.abs(a), low, high)
    error = _errors(a * size / np.maximum(np.abs(a), 1e-12), shape, seen, seen_weight)
    tried = np.argsort(error, axis=1, kind="stable")[:, :_TRIED]
    start = _hypotheses(settling, tried, a, size, seen, seen_weight, T, frame, view, weak)

    if weak:
        # Crop coordinates as metres: X + t = u / s.
        image = image / scale[:, None, None, None, None]
    betas = np.zeros((*start.wrist.shape[:-1], hands.num_betas))
    observe = _observer(image, weight, T, weak=weak)
    joint_weight = np.broadcast_to(
        np.any(weight > 0, axis=1)[:, None], (*start.wrist.shape[:-1], 21)
    ).astype(np.float64)
    settled, energy = settle(settling, start, betas, joint_weight, observe, steps=_STEPS)
    best, _ = best_of(settled, energy)

    there = hand_valid[..., None]
    both = np.all(hand_valid, axis=-1, keepdims=True)
    anchor = np.where(hand_valid[:, :1], best.wrist[:, 0], best.wrist[:, 1])
    weak_camera = np.concatenate([scale[:, None], anchor[:, :2]], axis=-1)
    return KeypointStart(
        global_orient=np.where(there, best.axis_angle, 0.0),
        hand_pose=np.where(there[..., None], best.hand_pose, 0.0),
        betas=np.zeros((*hand_valid.shape, hands.num_betas)),
        relative_transl=np.where(both, best.wrist[:, 1] - best.wrist[:, 0], 0.0)
        * ([1.0, 1.0, 0.0] if weak else 1.0),
        weak_camera=weak_camera if weak else np.zeros_like(weak_camera),
    )


def _view_rotations() -> np.ndarray:
    """Rotations that bring directions all around in front of the camera, (D, 3, 3)."""
    k = np.arange(_DIRECTIONS) + 0.5
    z, angle = 1.0 - 2.0 * k / _DIRECTIONS, np.pi * (1.0 + np.sqrt(5.0)) * k
    radius = np.sqrt(1.0 - z**2)
    front = np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=-1)
    # Any axis that is not parallel will do: the turn in the image is solved.
    least = np.eye(3)[np.argmin(np.abs(front), axis=-1)]
    right = np.cross(least, front)
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    return np.stack([right, np.cross(front, right), front], axis=-2)


def _mean_hand(settling: Settling) -> np.ndarray:
    """Joints of the mean shape and pose relative to the wrist, (2, 21, 3)."""
    relaxed = Hypothesis(
        np.broadcast_to(np.eye(3), (2, 3, 3)),
        settling.pose_mean.reshape(2, 15, 3),
        np.zeros((2, 3)),
    )
    count = settling.skeleton.shapedirs.shape[-1]
    return place(settling, relaxed, np.zeros((2, count)))


def _centred(points: np.ndarray, weight: np.ndarray) -> np.ndarray:
    total = np.maximum(weight.sum(-1), 1e-12)[..., None, None]
    return points - (weight[..., None] * points).sum(-2, keepdims=True) / total


def _looks(
    settling: Settling, seen: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Turn and size in the image of every look of the mean hand that fit best.

    As complex numbers: a = s exp(i angle) takes the look's points p to the image's z,
    a = sum w conj(p) z / sum w |p|^2. Returns a (N, D, 2), and the looks (D, 2, 21, 2).
    """
    looks = np.einsum("drc,hjc->dhjr", _view_rotations()[:, :2], _mean_hand(settling))
    p, z = _complex(_centred(looks, weight[:, None])), _complex(_centred(seen, weight))[:, None]
    w = weight[:, None]
    a = (w * np.conj(p) * z).sum(-1) / np.maximum((w * np.abs(p) ** 2).sum(-1), 1e-12)
    return a, looks


def _complex(points: np.ndarray) -> np.ndarray:
    return points[..., 0] + 1j * points[..., 1]


def _errors(a: np.ndarray, looks: np.ndarray, seen: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """What each look leaves of the keypoints, robust, (N, D, 2)."""
    p, z = _complex(_centred(looks, weight[:, None])), _complex(_centred(seen, weight))
    w = weight[:, None]
    total = np.maximum(weight.sum(-1), 1e-12)
    half_size = np.sqrt((weight * np.abs(z) ** 2).sum(-1) / total)
    scale = np.maximum(_OUTLIER * half_size, 1e-12)[:, None, :, None]
    squared = np.abs(a[..., None] * p - z[:, None]) ** 2 / scale**2
    return (w * np.log1p(squared)).sum(-1)


def _common_scale(
    a: np.ndarray, looks: np.ndarray, seen: np.ndarray, weight: np.ndarray, given: np.ndarray
) -> np.ndarray:
    """The camera's scale, or the hands' own where the two have nothing in common, (N,)."""
    best = np.argmin(_errors(a, looks, seen, weight), axis=1)[:, None]
    size = np.take_along_axis(np.abs(a), best, axis=1)[:, 0]
    there = (weight > 0).sum(-1) >= MINIMUM_HAND_KEYPOINTS
    logs = np.where(there, np.log(np.maximum(size, 1e-9)), 0.0)
    fitted = np.exp(logs.sum(-1) / np.maximum(there.sum(-1), 1))
    sound = np.isfinite(given) & (given > 0)
    ratio = np.where(sound, given, 1.0) / fitted
    trusted = sound & (np.abs(np.log(ratio)) < np.log(_TRUSTED_SCALE))
    return np.where(trusted, np.where(sound, given, 1.0), fitted)


def _hypotheses(
    settling: Settling,
    tried: np.ndarray,
    a: np.ndarray,
    size: np.ndarray,
    seen: np.ndarray,
    weight: np.ndarray,
    T: np.ndarray,
    frame: np.ndarray,
    view: np.ndarray,
    weak: bool,
) -> Hypothesis:
    """The looks that are tried, placed in the first camera's axes, (N, H, 2, ...)."""
    a, size = (np.take_along_axis(x, tried, axis=1) for x in (a, size))
    angle = np.angle(a)
    turn = np.zeros((*angle.shape, 3, 3))
    turn[..., 0, 0] = turn[..., 1, 1] = np.cos(angle)
    turn[..., 1, 0] = np.sin(angle)
    turn[..., 0, 1] = -turn[..., 1, 0]
    turn[..., 2, 2] = 1.0
    R = turn @ _view_rotations()[tried]
    joints = np.einsum("nhsrc,sjc->nhsjr", R, _mean_hand(settling))
    w = weight[:, None, :, :, None]
    total = np.maximum(w.sum(-2), 1e-12)
    middle, target = (w * joints).sum(-2) / total, (w * seen[:, None]).sum(-2) / total
    depth = np.zeros_like(size) if weak else 1.0 / size
    position = np.concatenate([target / size[..., None], depth[..., None]], axis=-1)
    if weak:
        middle = middle * [1.0, 1.0, 0.0]
    wrist = position - middle
    # From the view's axes to the first camera's.
    T = T[frame, view][:, None]
    back = np.swapaxes(T[..., :3, :3], -1, -2)
    wrist = (back @ (wrist - T[..., :3, 3])[..., None])[..., 0]
    pose = np.broadcast_to(settling.pose_mean.reshape(2, 15, 3), (*size.shape, 15, 3))
    return Hypothesis(back @ R, pose, wrist)


def _observer(image: np.ndarray, weight: np.ndarray, T: np.ndarray, *, weak: bool) -> Observe:
    """Keypoint errors of all views, in metres at the hand."""
    # Axes: frame, hypothesis, hand, joint, then view.
    ray = np.moveaxis(image, 1, -2)[:, None]
    root = np.sqrt(np.moveaxis(weight, 1, -1))[:, None, ..., None]
    R, t = (x[:, None, None, None] for x in (T[..., :3, :3], T[..., :3, 3]))
    rows = np.broadcast_to(R[..., :2, :], (*ray.shape, 3))
    if not weak:
        rows = rows - ray[..., None] * R[..., 2:, :]
    rows = rows * root[..., None]
    offset = ray if weak else ray * t[..., 2:] - t[..., :2]
    offset = offset * root
    flat = (*ray.shape[:-2], -1)
    rows, offset = rows.reshape(*flat, 3), offset.reshape(flat)

    def observe(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (rows @ X[..., None])[..., 0] - offset, rows

    return observe
