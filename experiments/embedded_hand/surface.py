"""The skin as a signed distance field: negative inside, metres.

Distances are approximate (round cones and ellipsoids, smoothly joined), which is enough: the
mesher only needs the zero level and a gradient that points outwards.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from experiments.embedded_hand.skeleton import FINGERS, MM, RADII_MM, Skeleton, unit

Points = Float[np.ndarray, "n 3"]
Distances = Float[np.ndarray, "n"]
Field = Callable[[Points], Distances]

# The forearm is cut here, and the mesh left open.
CUT_X = 0.1115


def round_cone(
    p: Points,
    a: np.ndarray,
    b: np.ndarray,
    radius_a: float,
    radius_b: float,
    *,
    squash: tuple[np.ndarray, float] | None = None,
) -> Distances:
    """Distance to a capsule whose radius runs linearly from `a` to `b`.

    Args:
        p: query points.
        a: one end of the axis, metres.
        b: the other end.
        radius_a: metres.
        radius_b: metres.
        squash: a unit vector and the factor by which the section is scaled along it.
    """
    q, axis = p - a, b - a
    if squash is not None:
        normal, factor = squash
        stretch = np.eye(3) + np.outer(normal, normal) * (1 / factor - 1)
        q, axis = q @ stretch, stretch @ axis
    h = np.clip(q @ axis / (axis @ axis), 0, 1)
    return np.linalg.norm(q - h[:, None] * axis, axis=1) - (radius_a + (radius_b - radius_a) * h)


def sphere(p: Points, centre: np.ndarray, radius: float) -> Distances:
    """Distance to a sphere."""
    return np.linalg.norm(p - centre, axis=1) - radius


def ellipsoid(p: Points, centre: Sequence[float], radii: Sequence[float]) -> Distances:
    """First-order distance to an axis-aligned ellipsoid."""
    q, r = p - np.asarray(centre), np.asarray(radii)
    k0 = np.linalg.norm(q / r, axis=1)
    k1 = np.linalg.norm(q / r**2, axis=1)
    return k0 * (k0 - 1) / np.maximum(k1, 1e-9)


def soft_union(distances: Sequence[Distances], width: float) -> Distances:
    """Log-sum-exp minimum: every part swells its neighbours a little, order does not matter."""
    stack = np.stack(distances)
    least = stack.min(0)
    return least - width * np.log(np.exp(-(stack - least) / width).sum(0))


def blend(a: Distances, b: Distances, width: float) -> Distances:
    """Polynomial minimum: exact where the two differ by more than `width`."""
    h = np.clip(0.5 + 0.5 * (b - a) / width, 0, 1)
    return b + (a - b) * h - width * h * (1 - h)


def intersect(a: Distances, b: Distances, width: float) -> Distances:
    """What lies in both `a` and `b`, with a rounded edge."""
    return -blend(-a, -b, width)


def finger_field(p: Points, hand: Skeleton, finger: str) -> Distances:
    """One finger: waisted phalanges with pads, ending in a flattened, round tip."""
    points = hand.chain(finger)
    radii = np.array(RADII_MM[finger]) * MM
    parts = []
    for phalanx in range(2):
        parts += _phalanx(p, points, radii, phalanx, hand.palmar(finger, phalanx))
    parts += _fingertip(p, points, radii, hand.palmar(finger, 2))
    for joint in (1, 2):
        # Knuckles sit on the back of the finger.
        back = -hand.palmar(finger, joint)
        parts.append(sphere(p, points[joint] + 0.10 * radii[joint] * back, 0.84 * radii[joint]))
    # A soft union swells; 1.2 mm of width is won back by the waists.
    return soft_union(parts, 1.2 * MM) + 0.3 * MM


def _phalanx(
    p: Points, points: np.ndarray, radii: np.ndarray, phalanx: int, palmar: np.ndarray
) -> list[Distances]:
    """Two cones that meet at a waist, and a pad on the palm's side."""
    a, b = points[phalanx], points[phalanx + 1]
    middle, waist = (a + b) / 2, 0.945 * (radii[phalanx] + radii[phalanx + 1]) / 2
    pad_centre, reach = middle + 0.24 * waist * palmar, 0.20 * (b - a)
    return [
        round_cone(p, a, middle, 0.95 * radii[phalanx], waist),
        round_cone(p, middle, b, waist, 0.95 * radii[phalanx + 1]),
        round_cone(p, pad_centre - reach, pad_centre + reach, 0.94 * waist, 0.92 * waist),
    ]


def _fingertip(
    p: Points, points: np.ndarray, radii: np.ndarray, palmar: np.ndarray
) -> list[Distances]:
    """The last phalanx: flatter than wide, a pad below, a nail bed planed off above."""
    joint, tip, r = points[2], points[3], radii[3]
    along = unit(tip - joint)
    end = tip - 0.97 * r * along
    core = round_cone(p, joint, end, 0.94 * radii[2], 0.98 * r, squash=(palmar, 0.90))
    pad_centre = joint + 0.66 * (end - joint) + 0.26 * r * palmar
    pad = round_cone(
        p, pad_centre - 0.2 * r * along, pad_centre + 0.35 * r * along, 0.93 * r, 0.82 * r
    )
    # The nail's plane falls towards the tip, where the finger is thinnest.
    nail_normal = unit(-palmar + 0.16 * along)
    nail_plane = (p - (end - 0.78 * r * palmar)) @ nail_normal
    # Behind the nail the plane rises clear of the finger.
    behind_nail = joint + 0.30 * (end - joint)
    away = np.clip((behind_nail - p) @ along / (4 * MM), 0, 1)
    core = intersect(core, nail_plane - 3 * MM * away, 1.5 * MM)
    return [core, pad]


def palm_field(p: Points, hand: Skeleton) -> Distances:
    """Palm, wrist and the muscle of the thumb; the fingers are joined to it later."""
    palm = soft_union([*_metacarpals(p, hand), *_webs(p, hand), *_palm_pads(p)], 2.6 * MM)
    forearm = round_cone(
        p,
        np.array([0.092, 0.0012, 0.0042]),
        np.array([0.160, 0.0020, 0.0055]),
        15.8 * MM,
        17.0 * MM,
        squash=(np.array([0.0, 0.0, 1.0]), 1.58),
    )
    palm = blend(palm, forearm, 20 * MM)
    palm = blend(palm, _thenar(p, hand), 13 * MM)
    palm = blend(palm, _thumb_web(p, hand), 10 * MM)
    hollow = ellipsoid(p, (0.047, -0.0255, 0.001), (0.026, 0.0115, 0.014))
    return intersect(palm, -hollow, 8 * MM)


def _metacarpals(p: Points, hand: Skeleton) -> list[Distances]:
    """Four bones from the carpus to the knuckles, each knuckle a bump of its own."""
    carpus_z = {"index": 0.0140, "middle": 0.0060, "ring": -0.0025, "pinky": -0.0100}
    radii = {
        "index": (12.4, 10.9),
        "middle": (12.8, 11.0),
        "ring": (12.3, 10.5),
        "pinky": (11.2, 9.8),
    }
    knuckle = {"index": 7.2, "middle": 7.5, "ring": 6.9, "pinky": 6.3}
    parts = []
    for finger, (carpal, distal) in radii.items():
        base = hand.chain(finger)[0]
        start = np.array([0.080, 0.0003, carpus_z[finger]])
        parts.append(round_cone(p, start, base + (0.003, -0.0026, 0.0), carpal * MM, distal * MM))
        # The knuckle runs out backwards into the ridge of its tendon.
        top, back = base + (0.001, 0.0042, 0.0), 0.72 * base + 0.28 * start + (0.0, 0.0052, 0.0)
        parts.append(round_cone(p, top, back, knuckle[finger] * MM, 5.0 * MM))
    return parts


def _webs(p: Points, hand: Skeleton) -> list[Distances]:
    """Short skin folds between neighbouring fingers, on the palm's side."""
    along, radius, drop = 0.15, 6.4 * MM, np.array([0.0, -0.0046, 0.0])
    parts = []
    for finger, neighbour in (("index", "middle"), ("middle", "ring"), ("ring", "pinky")):
        ends = []
        for name in (finger, neighbour):
            base, middle = hand.chain(name)[:2]
            ends.append(base + along * (middle - base) + drop)
        parts.append(round_cone(p, ends[0], ends[1], radius, radius))
    return parts


def _palm_pads(p: Points) -> list[Distances]:
    """The little finger's muscle, and the filling of the palm."""
    return [
        ellipsoid(p, (0.054, -0.0078, -0.0200), (0.034, 0.0142, 0.0132)),
        ellipsoid(p, (0.046, -0.0035, 0.0010), (0.042, 0.0125, 0.0320)),
    ]


def _thenar(p: Points, hand: Skeleton) -> Distances:
    """The ball of the thumb."""
    base, middle = hand.chain("thumb")[:2]
    inner = 0.55 * base + 0.45 * middle + (-0.002, -0.001, -0.010)
    return soft_union(
        [
            round_cone(p, base + (0.004, 0.001, -0.006), middle, 15.6 * MM, 11.6 * MM),
            round_cone(p, inner, base + (0.002, 0.002, -0.012), 14.4 * MM, 14.4 * MM),
        ],
        3 * MM,
    )


def _thumb_web(p: Points, hand: Skeleton) -> Distances:
    """The fold between thumb and index finger."""
    base, middle = hand.chain("thumb")[:2]
    start = 0.38 * base + 0.62 * middle + (-0.004, 0.003, -0.004)
    return round_cone(p, start, hand.chain("index")[0] + (0.024, -0.003, 0.001), 8.0 * MM, 9.0 * MM)


def skin_field(hand: Skeleton) -> Field:
    """The whole hand as one function of points (n, 3) in metres.

    Every finger is blended into the palm alone; between fingers the minimum is hard, so that
    neighbours never web together however close they lie.
    """
    widths = {"index": 6, "middle": 6, "ring": 6, "pinky": 6, "thumb": 7}

    def field(p: Points) -> Distances:
        palm = palm_field(p, hand)
        joined = [
            blend(palm, finger_field(p, hand, finger), widths[finger] * MM) for finger in FINGERS
        ]
        return np.min(joined, axis=0)

    return field
