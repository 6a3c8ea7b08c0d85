"""Whether two hands leave room for their forearms, which the hand model does not have."""

from itertools import product
from typing import Final

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from experiments.benchmark.pose import palm_axes

RADIUS_M: Final = 0.028
"""Of a forearm near the wrist."""
_ALONG_M: Final = np.linspace(0.03, 0.20, 7)
"""Where along the forearm it is looked at, from the wrist."""
_BENDS_DEG: Final = tuple(product((-45, 0, 45), (-20, 0, 20)))
"""Flexion and deviation of the wrist that are tried; a wrist can do more of either alone."""


def forearms_clear(
    vertices: Float[np.ndarray, "2 V 3"], joints: Float[np.ndarray, "2 21 3"]
) -> bool:
    """Whether both wrists can bend so that no forearm is in the way of the other arm.

    Args:
        vertices: both hands in one frame, metres.
        joints: their joints in `mano21` order.
    """
    lines = [_free_forearms(joints[h], h, vertices[1 - h]) for h in (0, 1)]
    if not len(lines[0]) or not len(lines[1]):
        return False
    apart = lines[0][:, None, :, None] - lines[1][None, :, None, :]
    nearest = np.linalg.norm(apart, axis=-1).min(axis=(2, 3))
    return bool(nearest.max() > 2 * RADIUS_M)


def _free_forearms(
    joints: np.ndarray, hand: int, other: Float[np.ndarray, "V 3"]
) -> Float[np.ndarray, "B P 3"]:
    """Middle lines of those bent forearms that keep clear of the other hand."""
    forward, across, palm = palm_axes(joints, hand).T
    back = [
        (Rotation.from_rotvec(np.deg2rad(flex) * across + np.deg2rad(side) * palm)).apply(-forward)
        for flex, side in _BENDS_DEG
    ]
    lines = joints[0] + np.multiply.outer(_ALONG_M, np.stack(back)).transpose(1, 0, 2)
    # |a - b|^2 by its three products: no array of differences.
    squared = (
        (lines**2).sum(-1)[..., None]
        + (other**2).sum(-1)
        - 2 * np.einsum("bpc,vc->bpv", lines, other)
    )
    return lines[squared.min(axis=(1, 2)) > RADIUS_M**2]
