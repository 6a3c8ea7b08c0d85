"""A simulated regressor: what it says of a true frame, with errors as correlated as a network's.

White noise on every parameter would flatter a Gaussian prior. Here errors have causes:

    finger pose   shrunk towards the mean pose; curled or spread too little or too much as a whole
                  (the model's leading pose components); a finger that takes its neighbour's pose
    orientation   a twist that both hands share and one of each hand's own, out of the picture's
                  plane rather than in it
    shape         shrunk towards the average hand, both hands alike
    place         the way between the hands' middles, underestimated and noisy, most in depth
    hands         the one further from the camera, mostly hidden, is estimated worse; sometimes it
                  is lost, and drawn onto the other one

Two global knobs scale them; at 1 the errors are of the size that IHMR (Rong et al., 3DV 2021)
reports for its regressor on closely interacting hands. No frame is rejected or scaled to fit: some
predictions penetrate deeply, some graze, some leave the hands apart.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from experiments.benchmark.pose import Frame, together
from fitting.errors import InputError
from mano_jax.joint_orders import MANO16
from mano_jax.model import Hands

_TO_MEAN = (0.12, 0.37)
"""Range of the share of a pose's way to the mean that a regressor takes."""
_LEADING = 6
"""Pose components that err: a hand's curl, spread and thumb as a whole."""
_LEADING_RAD = 0.25
"""Standard deviation of the error along each of them."""
_WHITE_RAD = 0.025
"""Of what is left, at each angle."""
_CONFUSION = 0.3
"""Chance that two neighbouring fingers of a hand are mixed up."""
_CONFUSED_SHARE = (0.35, 0.75)
"""How much of its neighbour's pose a mixed-up finger takes."""
_NEIGHBOURS: Final = (("index", "middle"), ("middle", "ring"), ("ring", "pinky"))

_SHARED_TWIST_DEG: Final = np.array([5.0, 5.0, 2.5])
"""Standard deviation about the camera's axes: tilting out of the picture is hard to see."""
_OWN_TWIST_DEG: Final = np.array([6.5, 6.5, 3.3])
_SHRUNK_SHAPE = 0.6
"""Share of a shape that the regressor sees."""
_SHARED_SHAPE, _OWN_SHAPE = 0.25, 0.12

_PLACE_M: Final = np.array([0.008, 0.008, 0.015])
"""Standard deviation of where the left hand's middle is to the right one's, in camera axes."""
_PLACE_SHRUNK: Final = np.array([0.20, 0.20, 0.50])
"""Share by which the way between the two middles is underestimated, most of all in depth:
regression to the mean, and why a regressor's hands enter each other more often than they drift
apart."""
_LOST = 0.25
"""Share of frames in which the hidden hand is lost, and drawn onto the other one."""
_LOST_SHRUNK = 0.7
"""How far it is drawn."""
_FURTHEST = 2.5
"""Standard deviations at which that error is cut off: no fit starts from anywhere."""
_DIFFICULTY = 0.3
"""Standard deviation of the log of a frame's difficulty, which all its errors share."""
_UNEVEN = (1.3, 0.7)
"""Factors of the worse and the better hand's errors."""
_FURTHER_IS_WORSE = 0.75
"""Chance that the worse hand is the one further from the camera."""
_CAMERA_SCALE, _CAMERA_OFFSET = 1.0, 0.3
"""Errors of the weak camera for a `camera_error` of 1: of log s, and of the offset over the crop's
half side."""


@dataclass(frozen=True)
class RegressorErrors:
    """How large the simulated regressor's errors are."""

    error_scale: float = 1.0
    """Global knob: factor of all errors of finger pose, orientation and shape."""
    place_scale: float = 1.0
    """Global knob: factor of the error of where the hands are to each other, mostly in depth."""
    camera_error: float = 0.02
    """Standard deviation of the weak camera's log scale; its offset errs by 0.3 of that in crop
    coordinates. 0 gives the true camera."""

    def __post_init__(self) -> None:
        for name in ("error_scale", "place_scale", "camera_error"):
            if not 0 <= getattr(self, name) < np.inf:
                raise InputError(f"{name}: expected 0 or more, found {getattr(self, name)}")


def predict(
    hands: Hands,
    rng: np.random.Generator,
    truth: Frame,
    true_joints: Float[np.ndarray, "2 21 3"],
    errors: RegressorErrors,
) -> Frame:
    """A regressor's parameters for a true frame.

    Args:
        hands: the hand model.
        rng: the frame's own; what it yields does not depend on the knobs.
        truth: the true parameters.
        true_joints: the true joints, camera axes, metres.
        errors: the knobs.
    """
    difficulty = np.exp(_DIFFICULTY * np.clip(rng.normal(), -2, 2))
    error_scale, place_scale = difficulty * errors.error_scale, difficulty * errors.place_scale
    uneven = error_scale * _uneven(rng, true_joints)
    pose_error = _pose_error(hands, rng, truth.hand_pose)
    shared_twist = np.deg2rad(_SHARED_TWIST_DEG) * rng.normal(size=3)
    own_twist = np.deg2rad(_OWN_TWIST_DEG) * rng.normal(size=(2, 3))
    shape_error = (
        (_SHRUNK_SHAPE - 1) * truth.betas
        + _SHARED_SHAPE * rng.normal(size=truth.betas.shape[1])
        + _OWN_SHAPE * rng.normal(size=truth.betas.shape)
    )
    place_error = _PLACE_M * np.clip(rng.normal(size=3), -_FURTHEST, _FURTHEST)
    lost = rng.uniform() < _LOST

    shared = Rotation.from_rotvec(error_scale * shared_twist)
    own = Rotation.from_rotvec(uneven[:, None] * own_twist)
    guess = Frame(
        global_orient=(shared * own * Rotation.from_rotvec(truth.global_orient)).as_rotvec(),
        hand_pose=truth.hand_pose + uneven[:, None, None] * pose_error,
        betas=truth.betas + errors.error_scale * shape_error,
        relative_transl=np.zeros(3),
    )
    # A hand's middle is what can be seen of its place; its wrist follows from the pose.
    middles = together(hands, guess)[1].mean(axis=1)
    true_middles = true_joints.mean(axis=1)
    apart = shared.apply(true_middles[1] - true_middles[0])
    shrinks = np.maximum(_LOST_SHRUNK * lost, difficulty * _PLACE_SHRUNK)
    shrunk = np.minimum(errors.place_scale * shrinks, 1.0) * apart
    wanted = apart - shrunk + place_scale * place_error
    return Frame(
        guess.global_orient, guess.hand_pose, guess.betas, wanted - (middles[1] - middles[0])
    )


def camera_with_error(
    rng: np.random.Generator, camera: Float[np.ndarray, "3"], errors: RegressorErrors
) -> Float[np.ndarray, "3"]:
    """The weak camera that the regressor gives: scale and offset both off."""
    scale, *offset = errors.camera_error * rng.normal(size=3)
    s = camera[0] * np.exp(_CAMERA_SCALE * scale)
    return np.array([s, *(camera[1:] + _CAMERA_OFFSET * np.array(offset) / s)])


def _uneven(rng: np.random.Generator, joints: np.ndarray) -> Float[np.ndarray, "2"]:
    """Factor of each hand's errors: one hand is worse than the other."""
    further = int(joints[1, :, 2].mean() > joints[0, :, 2].mean())
    worse = further if rng.uniform() < _FURTHER_IS_WORSE else 1 - further
    factors = np.array(_UNEVEN)
    return factors if worse == 0 else factors[::-1]


def _pose_error(
    hands: Hands, rng: np.random.Generator, pose: Float[np.ndarray, "2 15 3"]
) -> Float[np.ndarray, "2 15 3"]:
    mean = np.asarray(hands.pose_mean, np.float64)
    to_mean = rng.uniform(*_TO_MEAN, (2, 1, 1)) * (mean - pose)
    components = np.asarray(hands.pose_components, np.float64)[:, :_LEADING]
    weights = _LEADING_RAD * rng.normal(size=(2, _LEADING))
    leading = np.einsum("hk,hkp->hp", weights, components).reshape(2, 15, 3)
    confused = np.zeros_like(pose)
    for hand in (0, 1):
        first, second = (_joints_of(f) for f in _NEIGHBOURS[rng.integers(len(_NEIGHBOURS))])
        share = rng.uniform(*_CONFUSED_SHARE) * (rng.uniform() < _CONFUSION)
        confused[hand, first] = share * (pose[hand, second] - pose[hand, first])
        confused[hand, second] = -confused[hand, first]
    return to_mean + leading + confused + _WHITE_RAD * rng.normal(size=pose.shape)


def _joints_of(finger: str) -> slice:
    first = MANO16.index(f"{finger}1") - 1
    return slice(first, first + 3)
