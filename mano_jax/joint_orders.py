"""Joint orders and fingertip vertices by name: the one place where their numbers live.

The canonical order is `mano21`: MANO's sixteen joints (wrist, then three each of index, middle,
pinky, ring, thumb) and five fingertips (thumb, index, middle, ring, pinky), the order of smplx
with tips, IHMR and HO-3D. Every other order is a permutation of it.
"""

from typing import Final

import numpy as np

FINGERS: Final = ("thumb", "index", "middle", "ring", "pinky")
"""From the thumb outwards: the order of every fingertip list."""

_MANO_FINGERS: Final = ("index", "middle", "pinky", "ring", "thumb")


def _inwards(finger: str) -> list[str]:
    return [f"{finger}_tip", f"{finger}3", f"{finger}2", f"{finger}1"]


MANO16: Final = ("wrist", *(f"{f}{i}" for f in _MANO_FINGERS for i in (1, 2, 3)))
"""The model's own joints, as in its kinematic tree, pose and regressor."""

MANO21: Final = (*MANO16, *(f"{f}_tip" for f in FINGERS))

JOINT_ORDERS: Final[dict[str, tuple[str, ...]]] = {
    "mano21": MANO21,
    # OpenPose, FreiHAND, HaMeR, WiLoR, manopth, DexYCB; MediaPipe (CMC, MCP, IP, TIP = thumb1..).
    "openpose21": ("wrist", *(j for f in FINGERS for j in reversed(_inwards(f)))),
    # InterHand2.6M: every finger from the tip inwards, the wrist last.
    "interhand21": (*(j for f in FINGERS for j in _inwards(f)), "wrist"),
    # S2HAND and Boukhayma et al.: MANO's finger order, tips inline.
    "s2hand21": ("wrist", *(j for f in _MANO_FINGERS for j in reversed(_inwards(f)))),
    # Rendered Hand Dataset: wrist first, every finger from the tip inwards.
    "rhd21": ("wrist", *(j for f in FINGERS for j in _inwards(f))),
    # HALO's biomechanical order: by level, thumb to pinky.
    "biomech21": (
        "wrist",
        *(f"{f}{i}" for i in (1, 2, 3) for f in FINGERS),
        *(f"{f}_tip" for f in FINGERS),
    ),
}
"""Joint names in each convention's order."""

FINGERTIP_VERTICES: Final[dict[str, dict[str, tuple[int, ...]]]] = {
    # smplx, otaheri, IHMR, HaMeR, WiLoR, HOT3D
    "smplx": {"right": (744, 320, 443, 554, 671), "left": (744, 320, 443, 554, 671)},
    # manopth, manotorch, ACR, DexYCB, DIR's layer: the left middle fingertip differs
    "manopth": {"right": (745, 317, 444, 556, 673), "left": (745, 317, 445, 556, 673)},
    # IntagHand, DIR's evaluation
    "intaghand": {"right": (745, 317, 444, 556, 673), "left": (745, 317, 444, 556, 673)},
    "interwild": {"right": (745, 317, 445, 556, 673), "left": (745, 317, 445, 556, 673)},
    # FreiHAND, S2HAND: right hands only; the left list serves mirrored data
    "freihand": {"right": (744, 320, 443, 555, 672), "left": (744, 320, 443, 555, 672)},
    # HO-3D, H2O-3D
    "ho3d": {"right": (744, 333, 444, 555, 672), "left": (744, 333, 444, 555, 672)},
    # IntagHand's local frame
    "intaghand_frame": {"right": (744, 320, 444, 555, 672), "left": (744, 320, 444, 555, 672)},
}
"""Vertices taken for the fingertips (thumb, index, middle, ring, pinky), by set and side."""

DEFAULT_FINGERTIPS: Final = "smplx"


def index(name: str, order: str = "mano21") -> int:
    """Position of a joint in an order, e.g. `index("thumb_tip")`.

    Raises:
        ValueError: the order has no such joint; the message lists those it has.
    """
    names = _names(order)
    if name not in names:
        raise ValueError(f"joint order {order!r} has no joint {name!r}; it has {', '.join(names)}")
    return names.index(name)


def permutation(source: str, target: str) -> np.ndarray:
    """Indices p with `x_target = x_source[..., p, :]`.

    Args:
        source: name of the order that the data is in.
        target: name of the order wanted.

    Raises:
        ValueError: an unknown order; the message lists the known ones.
    """
    names = _names(source)
    return np.array([names.index(name) for name in _names(target)])


def fingertip_vertices(fingertips: str = DEFAULT_FINGERTIPS) -> np.ndarray:
    """Fingertip vertices of both hands, (2, 5): [right, left] by thumb to pinky.

    Raises:
        ValueError: an unknown set; the message lists the known ones.
    """
    if fingertips not in FINGERTIP_VERTICES:
        known = ", ".join(FINGERTIP_VERTICES)
        raise ValueError(f"unknown fingertip set {fingertips!r}; known: {known}")
    return np.array([FINGERTIP_VERTICES[fingertips][side] for side in ("right", "left")])


def _names(order: str) -> tuple[str, ...]:
    if order not in JOINT_ORDERS:
        raise ValueError(f"unknown joint order {order!r}; known: {', '.join(JOINT_ORDERS)}")
    return JOINT_ORDERS[order]
