"""True frames: two hands in contact, as a person could hold them.

    finger poses x placements --slide to contact--> settle --fingers close--> one true frame

The left hand comes to the right one from outside along a straight line, so that no frame is
interlocked through solid hands, and every frame leaves room for both forearms.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from experiments.benchmark.arrangements import CONTACT_TYPES, Arrangement, ContactType
from experiments.benchmark.closing import close_fingers
from experiments.benchmark.finger_poses import FingerPoses, draw_finger_poses
from experiments.benchmark.forearms import forearms_clear
from experiments.benchmark.pose import Frame, palm_axes, together, turned, unit
from experiments.benchmark.surfaces import Surface, depth_and_distance, exact_slide, rough_slide
from mano_jax.joint_orders import index
from mano_jax.model import Hands

TRUTH_GAP_MM: Final = 2.0
"""The true surfaces are nearer than this."""
TRUTH_MAX_P_MM: Final = 0.5
"""No true vertex is deeper than this in the other hand."""
NEAR_M: Final = 0.01
"""Skin this close to the other hand takes part in the contact."""

_RIM_CLEARANCE_M = 0.008
"""The true hands keep this far from each other's wrist opening, where inside and outside are a
matter of the cap: a depth there would jump."""
_RIM_PENALTY = 10
"""What a vertex near that opening costs, in near vertices."""
_UNCOUNTED_SHARE = 0.25
"""What skin that is near but does not count is worth: it leads towards contact that does."""
_PART_BONUS = 10
"""Several fingers in contact are worth more than one large patch: near vertices a bone."""
_GREATEST_TURN_DEG = 18
"""By which a hand may turn as it settles: further, it would be another arrangement."""
_GREATEST_SHIFT_M = 0.03
"""By which it may shift."""
_APART_M = 0.5
"""Half a metre back along its way the left hand is clear of the right one."""

# The search for one true frame: pose pairs, placements of each, those that settle, and the steps
# they take. More of each gives closer contact for more time.
_ROUNDS = 40
_POSE_PAIRS = 4
_PLACEMENTS = 18
_FINALISTS = 4
_SETTLING_STEPS = 100


@dataclass(frozen=True)
class _Pair:
    """Two posed hands with their wrists at the origin, before the left one is placed."""

    poses: FingerPoses
    betas: Float[np.ndarray, "2 S"]
    vertices: Float[np.ndarray, "2 V 3"]
    joints: Float[np.ndarray, "2 21 3"]
    right_skin: Float[np.ndarray, "P 3"]
    left_skin: Float[np.ndarray, "P 3"]
    right_tree: KDTree


@dataclass(frozen=True)
class _Placement:
    """Where the left hand is; the right one stays as it was posed."""

    R: Float[np.ndarray, "3 3"]
    wrist: Float[np.ndarray, "3"]
    direction: Float[np.ndarray, "3"]
    """The way in which it slides."""
    score: float
    """Near vertices, and the bonus for the bones that they belong to."""
    counted: int
    """Near vertices of the segments that count in this contact type."""
    centre: Float[np.ndarray, "3"]
    """Middle of the near vertices."""


def contact_type(number: int) -> ContactType:
    """The contact type of a frame, by its number."""
    return CONTACT_TYPES[number % len(CONTACT_TYPES)]


def draw_truth(
    hands: Hands, surface: Surface, rng: np.random.Generator, kind: ContactType
) -> Frame:
    """Two hands that touch in one way, seen from anywhere.

    Raises:
        ValueError: no contact found.
    """
    for _ in range(_ROUNDS):
        found = []
        for pair, placement in _candidates(hands, surface, rng, kind):
            settled = _settle(surface, rng, kind, pair, placement)
            if settled.counted < kind.least_counted:
                continue
            if (placed := _touch(hands, surface, rng, pair, settled)) is None:
                continue
            frame = _close(hands, surface, kind, pair, placed)
            if (near := _near_skin(hands, surface, frame)) >= kind.least_near:
                found.append((near, frame))
        if found:
            # The closest of them: hands that interact, not hands that happen to touch.
            frame = max(found, key=lambda entry: entry[0])[1]
            return turned(frame, Rotation.random(rng=rng))
    raise ValueError(
        f"found no contact for {kind.name!r} in {_ROUNDS} rounds: is this a hand model in metres?"
    )


# ---- candidates ---------------------------------------------------------------------------------


def _candidates(
    hands: Hands, surface: Surface, rng: np.random.Generator, kind: ContactType
) -> list[tuple[_Pair, _Placement]]:
    """The drawn placements with most skin near the other hand, best first."""
    found = []
    for _ in range(_POSE_PAIRS):
        pair = _draw_pair(hands, surface, rng, kind)
        for _ in range(_PLACEMENTS):
            arrangement = kind.arrangements[rng.integers(len(kind.arrangements))]
            found.append((pair, _slide(pair, surface, kind, *_place(rng, arrangement, pair))))
    found.sort(key=lambda entry: -entry[1].score)
    able = (entry for entry in found if _arms_clear(*entry))
    return [entry for entry, _ in zip(able, range(_FINALISTS), strict=False)]


def _draw_pair(
    hands: Hands, surface: Surface, rng: np.random.Generator, kind: ContactType
) -> _Pair:
    poses = draw_finger_poses(hands, rng, kind)
    # One person's hands: alike in shape, not the same.
    betas = rng.normal(0, 0.7, hands.num_betas) + rng.normal(0, 0.1, (2, hands.num_betas))
    vertices, joints = together(hands, Frame(np.zeros((2, 3)), poses.open, betas, np.zeros(3)))
    right, left = (surface.points(points, hand) for hand, points in enumerate(vertices))
    return _Pair(poses, betas, vertices, joints, right, left, KDTree(right))


def _place(
    rng: np.random.Generator, arrangement: Arrangement, pair: _Pair
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotation and wrist of the left hand well before contact, and its sliding direction."""
    right_axes, left_axes = (palm_axes(joints, hand) for hand, joints in enumerate(pair.joints))
    forward, palm, direction = (
        right_axes @ unit(np.array(v, float))
        for v in (arrangement.forward, arrangement.palm, arrangement.approach)
    )
    # A left hand's forward, thumb and palm axes are right-handed.
    target = np.stack([forward, np.cross(palm, forward), palm], axis=1)
    turn = np.deg2rad(rng.uniform(-1, 1) * arrangement.turn_deg)
    tilt = Rotation.from_rotvec(np.deg2rad(arrangement.tilt_deg) * rng.normal(size=3))
    R = (tilt * Rotation.from_rotvec(turn * direction)).as_matrix() @ target @ left_axes.T
    right_meets, left_meets = (
        rng.uniform(*span) * joints[index("middle_tip")]
        for joints, span in zip(pair.joints, arrangement.reach, strict=True)
    )
    aside = rng.choice((-1.0, 1.0)) * rng.uniform(*arrangement.aside_m) * right_axes[:, 1]
    return R, right_meets + aside - R @ left_meets - _APART_M * direction, direction


def _slide(
    pair: _Pair,
    surface: Surface,
    kind: ContactType,
    R: np.ndarray,
    wrist: np.ndarray,
    direction: np.ndarray,
) -> _Placement:
    """Move the left hand until it roughly touches, and count what is near."""
    travel = rough_slide(pair.right_skin, pair.left_skin @ R.T + wrist, direction)
    wrist = wrist + direction * travel
    vertices = pair.vertices[1] @ R.T + wrist
    distance, nearest = pair.right_tree.query(vertices, distance_upper_bound=NEAR_M)
    knuckles = pair.joints[:, index("middle1")]
    near = np.isfinite(distance)
    # The rough skin's first points are the vertices; the tree knows edges and faces too.
    nearest = np.where(near, nearest, 0)
    part = surface.point_parts[nearest]
    counts = np.isin(surface.segments, kind.segments)
    counted = near & counts[surface.parts] & counts[part]
    at_rim = near & (surface.at_rim[nearest] | surface.at_rim[: len(vertices)])
    score = (
        np.count_nonzero(counted)
        + _UNCOUNTED_SHARE * np.count_nonzero(near)
        + _PART_BONUS * len(np.unique(surface.parts[counted]))
        - _RIM_PENALTY * np.count_nonzero(at_rim)
        - kind.pull * 1000 * float(np.linalg.norm(knuckles[0] - R @ knuckles[1] - wrist))
    )
    centre = vertices[near].mean(axis=0) if near.any() else wrist
    return _Placement(R, wrist, direction, float(score), int(np.count_nonzero(counted)), centre)


def _arms_clear(pair: _Pair, placement: _Placement) -> bool:
    def placed(points: np.ndarray) -> np.ndarray:
        return np.stack([points[0], points[1] @ placement.R.T + placement.wrist])

    return forearms_clear(placed(pair.vertices), placed(pair.joints))


# ---- from a candidate to a frame ----------------------------------------------------------------


def _settle(
    surface: Surface,
    rng: np.random.Generator,
    kind: ContactType,
    pair: _Pair,
    placement: _Placement,
) -> _Placement:
    """Let the left hand nestle: small random turns and shifts, kept where more skin comes near."""
    start = placement
    for _ in range(_SETTLING_STEPS):
        turn = Rotation.from_rotvec(rng.normal(0, np.deg2rad(6), 3)).as_matrix()
        shift = rng.normal(0, 0.004, 3) - 0.1 * placement.direction
        # About the contact, so that a turn does not undo it.
        wrist = turn @ (placement.wrist - placement.centre) + placement.centre + shift
        moved = _slide(pair, surface, kind, turn @ placement.R, wrist, placement.direction)
        if moved.score > placement.score and _is_near(moved, start):
            placement = moved
    return placement


def _is_near(placement: _Placement, start: _Placement) -> bool:
    turn = Rotation.from_matrix(placement.R @ start.R.T).magnitude()
    shift = np.linalg.norm(placement.wrist - start.wrist)
    return bool(turn < np.deg2rad(_GREATEST_TURN_DEG) and shift < _GREATEST_SHIFT_M)


def _touch(
    hands: Hands, surface: Surface, rng: np.random.Generator, pair: _Pair, placement: _Placement
) -> _Placement | None:
    """Slide the left hand to its exact contact less a small gap; None if it never touches."""
    gap = rng.uniform(0.0003, 0.001)
    # Back to where the hands are apart, whatever the rough slide missed.
    start = placement.wrist - _APART_M * placement.direction
    # Vertices come first, then edge midpoints: with both, edges can hardly cross edges unseen.
    count = len(pair.vertices[0]) + len(surface.edges)
    right, left = pair.right_skin[:count], pair.left_skin[:count] @ placement.R.T + start
    travel = exact_slide(hands, right, left, placement.direction)
    if not np.isfinite(travel):
        return None
    return replace(placement, wrist=start + (travel - gap) * placement.direction)


def _close(
    hands: Hands, surface: Surface, kind: ContactType, pair: _Pair, placement: _Placement
) -> Frame:
    """Close the fingers that close in this contact type."""
    pose = pair.poses.open.copy()
    orient = np.stack([np.zeros(3), Rotation.from_matrix(placement.R).as_rotvec()])
    frame = Frame(orient, pose, pair.betas, placement.wrist)
    places = ((np.eye(3), np.zeros(3)), (placement.R, placement.wrist))
    for hand in kind.closing:
        other = together(hands, frame)[0][1 - hand]
        R, wrist = places[hand]
        pose = frame.hand_pose.copy()
        pose[hand] = close_fingers(
            hands,
            surface,
            hand=hand,
            start=frame.hand_pose,
            end=pair.poses.closed[hand],
            betas=pair.betas,
            R=R,
            wrist=wrist,
            other=other,
        )
        frame = replace(frame, hand_pose=pose)
    return frame


def _near_skin(hands: Hands, surface: Surface, frame: Frame) -> int:
    """How many vertices are near the other hand; 0 if the frame breaks a promise.

    The hands must touch, nowhere enter each other, and leave room for the forearms.
    """
    vertices, joints = together(hands, frame)
    if not forearms_clear(vertices, joints):
        return 0
    depth, distance = depth_and_distance(hands, vertices)
    # A little inside the stated limits: another device rounds differently.
    kept = (
        depth.max() * 1000 < 0.8 * TRUTH_MAX_P_MM
        and distance.min() * 1000 < 0.75 * TRUTH_GAP_MM
        and distance[:, surface.rim].min() > _RIM_CLEARANCE_M
    )
    return int(np.count_nonzero(distance < NEAR_M)) if kept else 0
