"""The bones: lengths, directions, radii and joint axes of the embedded hand.

Frame: MANO's right template. Metres; the fingers point along -x, the palm looks along -y, the
thumb lies on the +z side, and the wrist joint is off the origin.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

MM = 1e-3

# Order of the finger chains in MANO's rows: the little finger comes before the ring finger.
FINGERS = ("index", "middle", "pinky", "ring", "thumb")
PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)

WRIST = np.array([0.0950, 0.0060, 0.0060])

# Wrist to base joint, then the three phalanges, the last one to the fingertip's skin. Chosen for
# an average adult; tests hold them to the published template's within 15 %.
BONE_LENGTHS_MM = {
    "thumb": (40.5, 32.5, 28.5, 32.5),
    "index": (88.0, 35.0, 23.5, 24.5),
    "middle": (91.5, 35.5, 25.5, 25.2),
    "ring": (85.0, 32.5, 24.5, 24.8),
    "pinky": (78.5, 23.8, 19.6, 21.6),
}

# Direction from the wrist to the base joint: degrees from -x towards the thumb, and the rise
# towards the back of the hand in mm. The rises draw the transverse arch of the knuckles.
_BASE_YAW_DEG = {"thumb": 46.0, "index": 13.4, "middle": -1.6, "ring": -15.8, "pinky": -29.2}
_BASE_RISE_MM = {"thumb": -15.0, "index": -4.2, "middle": -1.2, "ring": -3.6, "pinky": -9.4}

# Per phalanx: yaw in degrees as above, and the slope along y of the unit direction. A resting
# hand's fingers fan out a little and curl a little towards the palm.
_PHALANX_YAW_SLOPE = {
    "index": ((0.5, 0.04), (-2.0, -0.05), (-3.5, -0.12)),
    "middle": ((-7.5, 0.05), (-8.5, -0.05), (-8.5, -0.13)),
    "ring": ((-17.0, 0.03), (-16.5, -0.06), (-15.5, -0.14)),
    "pinky": ((-28.0, 0.02), (-27.0, -0.06), (-26.0, -0.14)),
    "thumb": ((48.0, -0.22), (37.0, -0.17), (28.0, -0.12)),
}

# Half thickness at base joint, middle joint, end joint and tip (thumb: CMC, MCP, IP, tip).
RADII_MM = {
    "index": (10.6, 9.5, 8.5, 7.5),
    "middle": (10.8, 9.7, 8.7, 7.7),
    "ring": (10.2, 9.2, 8.2, 7.3),
    "pinky": (9.1, 8.1, 7.3, 6.5),
    "thumb": (13.6, 11.2, 10.3, 9.5),
}

PALMAR = np.array([0.0, -1.0, 0.0])
# The thumb's pad looks across the palm: its plane of flexion is turned by about 40 degrees.
THUMB_PALMAR = np.array([-0.15, -0.75, -0.62])


def unit(v: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
    """Scale vectors to length one."""
    v = np.asarray(v, float)
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def first_joint(finger: str) -> int:
    """Row of a finger's base joint among the 16 joints."""
    return 1 + 3 * FINGERS.index(finger)


@dataclass(frozen=True)
class Skeleton:
    """Rest joints and fingertips, metres.

    Attributes:
        joints: the 16 joints in MANO's row order.
        tips: where each fingertip's skin ends, in the order of `FINGERS`.
    """

    joints: Float[np.ndarray, "16 3"]
    tips: Float[np.ndarray, "5 3"]

    def chain(self, finger: str) -> Float[np.ndarray, "4 3"]:
        """Base, middle and end joint of a finger, then its tip."""
        start = first_joint(finger)
        return np.vstack([self.joints[start : start + 3], self.tips[FINGERS.index(finger)]])

    def palmar(self, finger: str, phalanx: int) -> Float[np.ndarray, "3"]:
        """Unit vector across a phalanx (0..2) towards its pad."""
        points = self.chain(finger)
        along = unit(points[phalanx + 1] - points[phalanx])
        side = THUMB_PALMAR if finger == "thumb" else PALMAR
        return unit(side - along * (side @ along))

    def axes(self) -> Float[np.ndarray, "16 3 3"]:
        """Rotation axes of each joint, as rows: flexion, abduction (away from +z), twist.

        The wrist's are zero. Positive flexion closes the hand.
        """
        axes = np.zeros((16, 3, 3))
        for finger in FINGERS:
            points = self.chain(finger)
            for phalanx in range(3):
                along = unit(points[phalanx + 1] - points[phalanx])
                across = self.palmar(finger, phalanx)
                flexion = np.cross(along, across)
                axes[first_joint(finger) + phalanx] = flexion, across, along
        return axes


def _direction(yaw_deg: float, slope: float) -> Float[np.ndarray, "3"]:
    """Unit vector near -x: yaw towards +z, then a slope along y."""
    yaw = np.radians(yaw_deg)
    return unit(np.array([-np.cos(yaw), slope, np.sin(yaw)]))


def rest_skeleton() -> Skeleton:
    """Lay the bones out along their rest directions."""
    joints, tips = np.zeros((16, 3)), np.zeros((5, 3))
    joints[0] = WRIST
    for row, finger in enumerate(FINGERS):
        to_base, *phalanges = (length * MM for length in BONE_LENGTHS_MM[finger])
        slope = _BASE_RISE_MM[finger] * MM / to_base
        level = np.sqrt(1 - slope**2)
        yaw = np.radians(_BASE_YAW_DEG[finger])
        point = WRIST + to_base * np.array([-level * np.cos(yaw), slope, level * np.sin(yaw)])
        for phalanx, length in enumerate(phalanges):
            joints[first_joint(finger) + phalanx] = point
            point = point + length * _direction(*_PHALANX_YAW_SLOPE[finger][phalanx])
        tips[row] = point
    return Skeleton(joints, tips)
