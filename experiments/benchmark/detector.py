"""A simulated detector: what it says of a frame's joints, in 3D and in the picture.

Its random numbers come from a stream of their own and are drawn in the same order whatever the
options, so that another noise level changes the size of an error and nothing else.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fitting.errors import InputError

CROP_PX = 224
"""Side of the crop that pixels refer to, as in IHMR."""
_CROP_FILL = 0.8


@dataclass(frozen=True)
class DetectorNoise:
    """Errors of the estimated joints. Confidence is 1 for whatever the detector found."""

    joint_noise_mm: float = 5.0
    """Standard deviation of the 3D joints along each axis."""
    keypoint_noise_px: float = 2.0
    """Standard deviation of the 2D keypoints along each axis, pixels of a 224 px crop."""
    missing: float = 0.05
    """Share of the joints that are not found, in 2D and 3D alike: confidence 0."""
    outliers: float = 0.0
    """Share of the joints that are mistaken for another one of the two hands, in 2D and 3D."""

    def __post_init__(self) -> None:
        for name in ("joint_noise_mm", "keypoint_noise_px"):
            if not 0 <= getattr(self, name) < np.inf:
                raise InputError(f"{name}: expected 0 or more, found {getattr(self, name)}")
        for name in ("missing", "outliers"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(
                    f"{name}: expected a share from 0 to below 1, found {getattr(self, name)}"
                )


def observe_exactly(
    joints: Float[np.ndarray, "2 21 3"], camera: Float[np.ndarray, "3"]
) -> dict[str, np.ndarray]:
    """The true joints and keypoints, each with confidence 1."""
    one = np.ones((2, 21, 1))
    return {
        "weak_camera": camera,
        "joints_3d": np.concatenate([joints, one], axis=-1),
        "keypoints_2d": np.concatenate([_project(joints, camera), one], axis=-1),
    }


def observe_with_noise(
    joints: Float[np.ndarray, "2 21 3"],
    camera: Float[np.ndarray, "3"],
    noise: DetectorNoise,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """What the detector says: `joints_3d` and `keypoints_2d`, zeros where it found nothing."""
    chances = rng.uniform(size=(2, 2, 21, 1))
    mistaken_for = rng.integers(1, 42, 42)
    unit_3d, unit_2d = rng.normal(size=(2, 21, 3)), rng.normal(size=(2, 21, 2))

    seen = (chances[0] >= noise.missing).astype(float)
    # Another joint of the pair: a neighbouring finger's, or the other hand's.
    others = ((np.arange(42) + mistaken_for) % 42).reshape(2, 21)
    elsewhere = joints.reshape(42, 3)[others]
    found = np.where(chances[1] < noise.outliers, elsewhere, joints)
    noisy = found + noise.joint_noise_mm / 1000 * unit_3d
    keypoints = _project(found, camera) + 2 / CROP_PX * noise.keypoint_noise_px * unit_2d
    return {
        "joints_3d": np.concatenate([noisy * seen, seen], axis=-1),
        "keypoints_2d": np.concatenate([keypoints * seen, seen], axis=-1),
    }


def fitting_camera(points: Float[np.ndarray, "P 3"]) -> Float[np.ndarray, "3"]:
    """Weak camera in which the points' longer side fills four fifths of the crop."""
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    return np.array([2 * _CROP_FILL / (high - low).max(), *(-(low + high) / 2)])


def _project(joints: np.ndarray, camera: np.ndarray) -> np.ndarray:
    return camera[0] * (joints[..., :2] + camera[1:])
