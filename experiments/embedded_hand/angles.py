"""Poses as 22 anatomical angles in degrees, and their way into MANO's 45 axis-angle numbers.

A flat vector, so that poses blend and solvers can move them.
"""

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation

from experiments.embedded_hand.posing import Pose
from experiments.embedded_hand.skeleton import FINGERS

Angles = Float[np.ndarray, "22"]

# Layout of the angles. Flexion of base, middle and end joint of index, middle, little and ring
# finger; abduction of the same four towards the thumb; then the thumb: opposition (its metacarpal
# swings in front of the palm), flexion of the base, pronation (the pad turns towards the
# fingers), lift out of the plane of flexion, and flexion of the middle and of the end joint.
FLEXION, ABDUCTION, THUMB = slice(0, 12), slice(12, 16), slice(16, 22)

# Range of each angle: what a healthy adult reaches without help.
LOWEST = np.array([-20.0, 0, 0] * 4 + [-20.0] * 4 + [-10, -18, -15, -15, -12, -15])
HIGHEST = np.array([92.0, 102, 72] * 4 + [20.0] * 4 + [66, 28, 46, 18, 55, 72])


def angles(
    index: tuple[float, float, float] = (0, 0, 0),
    middle: tuple[float, float, float] = (0, 0, 0),
    ring: tuple[float, float, float] = (0, 0, 0),
    pinky: tuple[float, float, float] = (0, 0, 0),
    *,
    spread: tuple[float, float, float, float] = (0, 0, 0, 0),
    thumb: tuple[float, float, float, float, float, float] = (0, 0, 0, 0, 0, 0),
) -> Angles:
    """Write a pose down, degrees.

    Args:
        index: flexion of its base, middle and end joint.
        middle: likewise.
        ring: likewise.
        pinky: likewise.
        spread: abduction towards the thumb of index, middle, ring and little finger.
        thumb: opposition, base flexion, pronation, lift, middle and end flexion.
    """
    to_thumb = (spread[0], spread[1], spread[3], spread[2])
    return np.array([*index, *middle, *pinky, *ring, *to_thumb, *thumb], float)


def columns_of(finger: str) -> Int[np.ndarray, "n"]:
    """Which of the 22 angles move a finger."""
    row = FINGERS.index(finger)
    if finger == "thumb":
        return np.arange(THUMB.start, THUMB.stop)
    return np.array([3 * row, 3 * row + 1, 3 * row + 2, ABDUCTION.start + row])


def joint_rotations(degrees: Angles, axes: Float[np.ndarray, "16 3 3"]) -> Rotation:
    """The 15 local rotations of a pose.

    At the finger bases flexion is applied first and abduction after it, about the palm's normal:
    the other order would fan the fingers of a fist out.
    """
    radians = np.radians(degrees)
    turns = np.zeros((15, 3))
    turns[:12] = radians[FLEXION, None] * axes[1:13, 0]
    turns[13:] = radians[20:22, None] * axes[14:16, 0]
    rotations = Rotation.from_rotvec(turns).as_matrix()
    sideways = Rotation.from_rotvec(-radians[ABDUCTION, None] * axes[1:13:3, 1]).as_matrix()
    rotations[:12:3] = sideways @ rotations[:12:3]
    opposition, flexion, pronation, lift = radians[16:20]
    flex_axis, lift_axis, along = axes[13]
    base = [[opposition, 0, 0], flexion * flex_axis, lift * lift_axis, -pronation * along]
    swing, bend, raised, twist = Rotation.from_rotvec(base).as_matrix()
    rotations[12] = swing @ bend @ raised @ twist
    return Rotation.from_matrix(rotations)


def to_pose(degrees: Angles, axes: Float[np.ndarray, "16 3 3"]) -> Pose:
    """Axis-angle rotations of the 15 joints, radians."""
    return joint_rotations(degrees, axes).as_rotvec()
