"""Named 3D landmarks of two hands as joints: what every joints-only format comes down to."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from jaxtyping import Float

from fitting.predictions import TwoHandPredictions
from mano_jax.joint_orders import MANO21

UNITS: Final[dict[str, float]] = {"m": 1.0, "cm": 0.01, "mm": 0.001}
"""Metres in a unit of length."""


def from_landmarks(
    points: Float[np.ndarray, "N 2 K 3"],
    confidence: Float[np.ndarray, "N 2 K"],
    names: Sequence[str],
    **fields: np.ndarray,
) -> TwoHandPredictions:
    """Predictions that hold joints only; a hand without any landmark is absent.

    Args:
        points: metres, both hands in one right-handed frame; what is missing may hold anything.
        confidence: of each landmark, 0 for a missing one.
        names: the joint each landmark is (`MANO21`); others, a palm's centre say, are left out.
        fields: further fields of `TwoHandPredictions`.
    """
    seen = (confidence > 0) & np.isfinite(confidence) & np.isfinite(points).all(axis=-1)
    joints = np.zeros((*points.shape[:2], len(MANO21), 4), np.float32)
    for column, name in enumerate(names):
        if name not in MANO21:
            continue
        there = seen[..., column]
        joint = joints[:, :, MANO21.index(name)]
        joint[there, :3] = points[..., column, :][there]
        joint[there, 3] = confidence[..., column][there]
    valid = np.asarray(np.any(joints[..., 3] > 0, axis=-1))
    return TwoHandPredictions(hand_valid=valid, joints_3d=joints, **fields)
