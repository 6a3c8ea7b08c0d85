"""Fingers that close until they touch the other hand."""

from typing import Final

import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree

from experiments.benchmark.pose import vertices_of_poses
from experiments.benchmark.surfaces import Surface
from experiments.render import vertex_normals
from mano_jax.model import Hands

_STEPS: Final = 17
"""Amounts of closing that are tried: a fingertip moves about 6 mm from one to the next, less than
half a finger's thickness, so that it cannot jump through one."""
_CLEARANCE_M: Final = 0.0012
"""Kept between the skins, by the nearest vertex and its normal: two triangles can be nearer."""
_LOOK_M: Final = 0.012
"""Beyond this the nearest vertex says nothing about the side."""
_FREE_SHARE: Final = 0.35
"""Of its way to the closed pose that a finger goes when it meets nothing: not into a fist."""
_THUMB_SHARE: Final = 0.5
"""Of a thumb's way to the closed pose that it may take: further, it would enter its own fingers."""


def close_fingers(
    hands: Hands,
    surface: Surface,
    *,
    hand: int,
    start: Float[np.ndarray, "2 15 3"],
    end: Float[np.ndarray, "15 3"],
    betas: Float[np.ndarray, "2 S"],
    R: Float[np.ndarray, "3 3"],
    wrist: Float[np.ndarray, "3"],
    other: Float[np.ndarray, "V 3"],
) -> Float[np.ndarray, "15 3"]:
    """The pose of one hand with each finger closed as far as the other hand lets it.

    Args:
        hands: the hand model.
        surface: its surface.
        hand: which hand closes: 0 right, 1 left.
        start: both hands' poses before.
        end: the pose towards which this hand's fingers move.
        betas: both hands' shapes.
        R: this hand's rotation.
        wrist: its wrist.
        other: the other hand's vertices in the same frame.
    """
    amounts = np.linspace(0, 1, _STEPS)
    poses = np.repeat(start[None], _STEPS, axis=0)
    poses[:, hand] += amounts[:, None, None] * (end - start[hand])
    moving = vertices_of_poses(hands, poses, betas)[:, hand] @ R.T + wrist
    tree, normals = KDTree(other), vertex_normals(other, surface.faces[1 - hand])

    pose = start[hand].copy()
    for finger in range(5):
        joints = slice(3 * finger, 3 * finger + 3)
        # The base segment moves with the palm and lies where it lay.
        mine = np.flatnonzero((surface.parts > 3 * finger) & (surface.parts <= 3 * finger + 3))
        distance, nearest = tree.query(moving[:, mine], distance_upper_bound=_LOOK_M)
        near = np.isfinite(distance)
        at = np.where(near, nearest, 0)
        height = np.sum((moving[:, mine] - other[at]) * normals[at], axis=-1)
        blocked = (near & (height < _CLEARANCE_M)).any(axis=1)
        share = amounts[max(blocked.argmax() - 1, 0)] if blocked.any() else _FREE_SHARE
        share *= _THUMB_SHARE if finger == 4 else 1.0
        pose[joints] += share * (end[joints] - start[hand][joints])
    return pose
