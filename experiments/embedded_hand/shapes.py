"""Ten shape components with names, each one standard deviation of a plain bodily difference."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from experiments.embedded_hand.posing import RiggedHand, Vertices
from experiments.embedded_hand.skeleton import FINGERS, MM, Skeleton, first_joint, unit
from experiments.render import vertex_normals

Five = tuple[float, float, float, float, float]


def _alike(factor: float) -> Five:
    """The same factor for all fingers."""
    return (factor, factor, factor, factor, factor)


_SAME = _alike(1.0)


@dataclass(frozen=True)
class Stretch:
    """Factors on the rest hand; five-tuples go index, middle, little, ring finger, thumb.

    Attributes:
        size: everything.
        length: along each finger's phalanges.
        girth: across them.
        taper: added to the girth at the base, taken from it at the tip.
        palm: along x, y, z, about the wrist.
        pads_mm: how far the palm's cushions come forward.
        wrist: across the wrist and forearm.
    """

    size: float = 1.0
    length: Five = _SAME
    girth: Five = _SAME
    taper: float = 0.0
    palm: tuple[float, float, float] = (1, 1, 1)
    pads_mm: float = 0.0
    wrist: float = 1.0


# One standard deviation each. Their spread lets 3 sigma of size run from a small woman's hand to
# a large man's.
COMPONENTS = {
    "size": Stretch(size=1.042),
    "long fingers, short palm": Stretch(length=(1.05, 1.05, 1.05, 1.05, 1.04), palm=(0.975, 1, 1)),
    "thickness": Stretch(girth=_alike(1.045), palm=(1, 1.05, 1.02)),
    "broad palm": Stretch(palm=(1, 1, 1.05)),
    "stout fingers": Stretch(girth=_alike(1.055)),
    "blunt fingers": Stretch(taper=-0.05),
    "thumb": Stretch(length=(1, 1, 1, 1, 1.06), girth=(1, 1, 1, 1, 1.05)),
    "index over ring finger": Stretch(length=(1.035, 1, 1, 0.965, 1)),
    "little finger": Stretch(length=(1, 1, 1.06, 1, 1)),
    "cushions and wrist": Stretch(pads_mm=2.0, wrist=1.035),
}


def shape_directions(hand: RiggedHand, skeleton: Skeleton) -> Float[np.ndarray, "v 3 10"]:
    """Vertex offsets in metres per standard deviation."""
    shaped = [stretched(hand, skeleton, stretch) for stretch in COMPONENTS.values()]
    return np.stack(shaped, axis=2) - hand.v_template[:, :, None]


def stretched(hand: RiggedHand, skeleton: Skeleton, stretch: Stretch) -> Vertices:
    """The rest hand after a change of build."""
    vertices = _stretch_bones(hand, skeleton, stretch)
    vertices = vertices + _raise_pads(hand, stretch.pads_mm) + _widen_wrist(hand, stretch.wrist)
    return stretch.size * vertices


def _stretch_bones(hand: RiggedHand, skeleton: Skeleton, stretch: Stretch) -> Vertices:
    """Scale every bone along and across itself, blended by the skinning weights."""
    joints = skeleton.joints
    moved, scale = joints.copy(), np.tile(np.eye(3), (16, 1, 1))
    scale[0] = np.diag(stretch.palm)
    for row, finger in enumerate(FINGERS):
        start, points = first_joint(finger), skeleton.chain(finger)
        moved[start] = joints[0] + scale[0] @ (joints[start] - joints[0])
        for k in range(3):
            along = unit(points[k + 1] - points[k])
            girth = stretch.girth[row] * (1 + stretch.taper * (k - 1))
            lengthen = (stretch.length[row] - girth) * np.outer(along, along)
            scale[start + k] = girth * np.eye(3) + lengthen
            if k < 2:
                bone = joints[start + k + 1] - joints[start + k]
                moved[start + k + 1] = moved[start + k] + scale[start + k] @ bone
    offsets = hand.v_template[:, None] - joints
    placed = moved + np.einsum("jab,vjb->vja", scale, offsets)
    return np.einsum("vj,vja->va", hand.weights, placed)


def _raise_pads(hand: RiggedHand, height_mm: float) -> Vertices:
    """Push the skin that looks out of the palm along its normals."""
    normals = vertex_normals(hand.v_template, hand.faces)
    x = hand.v_template[:, 0]
    facing = np.clip(-normals[:, 1], 0, 1) ** 1.5
    palm = (hand.weights[:, 0] + hand.weights[:, first_joint("thumb")]) * facing
    inside = np.clip((0.100 - x) / 0.03, 0, 1) * np.clip(x / 0.02, 0, 1)
    return height_mm * MM * (palm * inside)[:, None] * normals


def _widen_wrist(hand: RiggedHand, factor: float) -> Vertices:
    """Scale the forearm across its length, fading out over the palm."""
    fade = np.clip((hand.v_template[:, 0] - 0.055) / 0.04, 0, 1)
    fade = fade**2 * (3 - 2 * fade) * hand.weights[:, 0]
    loop = hand.v_template[:, 0] > hand.v_template[:, 0].max() - 1e-6
    across = hand.v_template - hand.v_template[loop].mean(0)
    return (factor - 1) * fade[:, None] * across * (0, 1, 1)
