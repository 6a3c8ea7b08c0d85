"""Synthetic two-hand interactions with known truth, and a simulated regressor's view of them.

**Everything here is synthetic.** The hands are those of the model in use, in poses drawn from its
own samples; nobody was photographed.

    pose pairs x placements --slide to contact--> truth --errors of a regressor--> predictions

A *truth* frame has both hands in contact or nearly so: surfaces under 2 mm apart and no vertex
deeper than 0.5 mm. Its *prediction* has the errors that make refinement worth while: MPJPE
14-24 mm and MAX-P 9-18 mm, the size that IHMR (Rong et al., 3DV 2021) reports for its regressor on
closely interacting hands. Each frame has a random generator of its own, so frame i is the same
whatever the number of frames.
"""

from dataclasses import dataclass, fields, replace
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from fitting.errors import InputError
from fitting.metrics import mpjpe
from fitting.predictions import TwoHandPredictions
from mano_jax.joint_orders import index
from mano_jax.model import Hands, assemble, pose_hands
from objectives.collision import penetration_depth, search_exact, surface_distance

TRUTH_GAP_MM: Final = 2.0
"""The true surfaces are nearer than this."""
TRUTH_MAX_P_MM: Final = 0.5
"""No true vertex is deeper than this in the other hand."""
START_MPJPE_MM: Final = (14.0, 24.0)
"""MPJPE of every prediction."""
START_MAX_P_MM: Final = (9.0, 18.0)
"""MAX-P of every prediction."""

JOINT_NOISE_M: Final = 0.005
"""Standard deviation of the estimated 3D joints along each axis."""
KEYPOINT_NOISE: Final = 2 * 2 / 224
"""Standard deviation of the 2D keypoints: 2 px of a 224 px crop, in crop coordinates [-1, 1]."""
MISSING_JOINTS: Final = 0.05
"""Share of the joints that the simulated detector misses, in 2D and 3D alike."""

_CROP_FILL = 0.8
_NEAR_M = 0.01
_LEAST_NEAR_VERTICES = 100
"""Of 1556: fewer within 1 cm of the other hand is a graze, not an interaction."""
_RIM_CLEARANCE_M = 0.008
"""The true hands keep this far from each other's wrist opening, where inside and outside are a
matter of the cap: a depth there would jump."""
_RIM_PENALTY = 10
"""What a vertex near that opening costs, in near vertices."""
_PART_BONUS = 10
"""Several fingers in contact are worth more than one large patch: near vertices a bone."""

# The search for one true frame: pose pairs, placements of each, those that settle, and the steps
# they take. More of each gives closer contact for more time.
_ROUNDS = 6
_POSE_PAIRS = 4
_PLACEMENTS = 12
_FINALISTS = 2
_SETTLING_STEPS = 45

_ATTEMPTS = 16
"""Draws of a regressor's errors before a frame is given up."""
_SHIFT_M = (0.004, 0.004, 0.010)
"""Standard deviation of its relative translation: depth is the hard direction."""
_SHIFT_SIZES = (0.6, -0.6, 1.2, -1.2, 1.8, -1.8)
"""Multiples of one drawn translation error that are tried."""
_SHIFT_DRAWS = 3
_GREATEST_SHIFT_M = 0.035
"""A relative translation further off than this is no fit's starting point."""


@dataclass(frozen=True)
class _Arrangement:
    """How the left hand lies to the right one, in axes of the right palm.

    Axes: 0 forward (wrist to middle finger), 1 towards the thumb, 2 out of the palm.
    """

    forward: tuple[float, float, float]
    """Where the left hand's fingers point."""
    palm: tuple[float, float, float]
    """Where its palm faces."""
    approach: tuple[float, float, float]
    """The way in which it slides until it touches."""
    turn_deg: float
    """Greatest extra turn about `approach`, to either side."""
    reach: tuple[tuple[float, float], tuple[float, float]]
    """How far from the wrist to the middle fingertip the two meet: ranges for right and left."""


_ARRANGEMENTS: Final[dict[str, tuple[_Arrangement, ...]]] = {
    "palms facing": (
        _Arrangement((1, 0, 0), (0, 0, -1), (0, 0, -1), 40, ((0.3, 0.7), (0.3, 0.7))),
    ),
    "crossing fingers": (
        _Arrangement((0, 1, 0), (0, 0, -1), (0, 0, -1), 35, ((0.6, 0.8), (0.6, 0.8))),
        _Arrangement((-1, 0, 0), (0, 0, -1), (-1, 0, 0), 180, ((0.8, 1.0), (0.8, 1.0))),
        _Arrangement((-0.5, 0.85, 0), (0, 0, -1), (-0.6, 0, -0.8), 30, ((0.6, 0.9), (0.6, 0.9))),
    ),
    "fingertips to palm": (
        _Arrangement((0, 0, -1), (-1, 0, 0), (0, 0, -1), 180, ((0.3, 0.7), (0.8, 1.0))),
        _Arrangement((-0.5, 0, -0.85), (-0.85, 0, 0.5), (0, 0, -1), 60, ((0.4, 0.7), (0.8, 1.0))),
    ),
    "over the back": (_Arrangement((0, 1, 0), (0, 0, 1), (0, 0, 1), 90, ((0.2, 0.7), (0.3, 0.7))),),
    "side by side": (
        _Arrangement((1, 0, 0), (0, 0, 1), (0, 1, 0), 30, ((0.3, 0.8), (0.3, 0.8))),
        _Arrangement((1, 0, 0), (0, 0, 1), (0, -1, 0), 30, ((0.3, 0.8), (0.3, 0.8))),
    ),
}
"""Frame i takes arrangement i modulo their number; the variants of one are drawn."""


@dataclass(frozen=True)
class _Frame:
    """One frame's parameters, as NumPy arrays without a frame axis."""

    global_orient: Float[np.ndarray, "2 3"]
    hand_pose: Float[np.ndarray, "2 15 3"]
    betas: Float[np.ndarray, "2 S"]
    relative_transl: Float[np.ndarray, "3"]


def make_interactions(
    hands: Hands, *, frames: int, seed: int = 0
) -> tuple[TwoHandPredictions, TwoHandPredictions]:
    """Draw interactions and a regressor's predictions of them, both synthetic.

    Args:
        hands: the model whose pose samples, or mean pose and components, are used.
        frames: how many.
        seed: of all randomness.

    Returns:
        Truth (parameters, noise-free joints and keypoints of confidence 1) and predictions
        (parameters with errors, noisy joints and keypoints, some of confidence 0).

    Raises:
        InputError: no frame asked for, or a negative seed.
        ValueError: a hand model with which no contact can be found.
    """
    if frames < 1:
        raise InputError(f"--frames: expected at least one frame, found {frames}")
    if seed < 0:
        raise InputError(f"--seed: expected 0 or more, found {seed}")
    truths, starts, records = [], [], []
    for number in range(frames):
        rng = np.random.default_rng([seed, number])
        truth = _draw_truth(hands, rng, number)
        truths.append(truth)
        starts.append(_draw_prediction(hands, rng, truth))
        records.append(_observe(hands, rng, truth))
    names = np.array([f"synthetic-{seed}-{number:05d}" for number in range(frames)])
    exact, noisy = (
        {k: np.stack([r[i][k] for r in records]) for k in records[0][i]} for i in (0, 1)
    )
    return (
        TwoHandPredictions(**_stack(truths), **exact, frame_id=names),
        TwoHandPredictions(**_stack(starts), **noisy, frame_id=names),
    )


def _stack(frames: list[_Frame]) -> dict[str, np.ndarray]:
    stacked = {x.name: np.stack([getattr(f, x.name) for f in frames]) for x in fields(_Frame)}
    return {"hand_valid": np.ones((len(frames), 2), bool), **stacked}


# ---- truth: two hands in contact ---------------------------------------------------------------


@dataclass(frozen=True)
class _Surface:
    """What both hands' surfaces have in common, by vertex numbers."""

    edges: Int[np.ndarray, "E 2"]
    parts: Int[np.ndarray, "V"]
    """The bone that each vertex follows most."""
    rim: Int[np.ndarray, "L"]
    """The wrist opening's vertices."""

    @classmethod
    def of(cls, hands: Hands) -> "_Surface":
        faces = np.asarray(hands.faces[0])
        pairs = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
        return cls(
            edges=np.unique(np.sort(pairs, axis=1), axis=0),
            parts=np.asarray(hands.lbs_weights[0]).argmax(axis=1),
            rim=np.unique(np.asarray(hands.cap_faces[0])),
        )


@dataclass(frozen=True)
class _Pair:
    """Two posed hands with their wrists at the origin, before the left one is placed."""

    hand_pose: Float[np.ndarray, "2 15 3"]
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
    centre: Float[np.ndarray, "3"]
    """Middle of the near vertices."""


def _draw_truth(hands: Hands, rng: np.random.Generator, number: int) -> _Frame:
    """Two hands that touch in an arrangement, seen from anywhere."""
    name = list(_ARRANGEMENTS)[number % len(_ARRANGEMENTS)]
    surface = _Surface.of(hands)
    for _ in range(_ROUNDS):
        for pair, placement in _candidates(hands, rng, _ARRANGEMENTS[name], surface):
            settled = _settle(rng, pair, placement, surface)
            frame = _touch(hands, rng, pair, settled, surface)
            if frame is not None:
                return _seen_from(frame, Rotation.random(rng=rng))
    raise ValueError(
        f"found no contact for {name!r} in {_ROUNDS} rounds: is this a hand model in metres?"
    )


def _candidates(
    hands: Hands,
    rng: np.random.Generator,
    variants: tuple[_Arrangement, ...],
    surface: _Surface,
) -> list[tuple[_Pair, _Placement]]:
    """The drawn placements with most skin near the other hand, best first."""
    found = []
    for _ in range(_POSE_PAIRS):
        pair = _draw_pair(hands, rng, surface)
        for _ in range(_PLACEMENTS):
            arrangement = variants[rng.integers(len(variants))]
            R, wrist, direction = _place(rng, arrangement, pair)
            found.append((pair, _slide(pair, R, wrist, direction, surface)))
    found.sort(key=lambda entry: -entry[1].score)
    return found[:_FINALISTS]


def _draw_pair(hands: Hands, rng: np.random.Generator, surface: _Surface) -> _Pair:
    pose = _draw_pose(hands, rng)
    # One person's hands: alike in shape, not the same.
    betas = rng.normal(0, 0.7, hands.num_betas) + rng.normal(0, 0.1, (2, hands.num_betas))
    unplaced = _Frame(np.zeros((2, 3)), pose, betas, np.zeros(3))
    vertices, joints = _together(hands, unplaced)
    right_skin, left_skin = (
        _skin_points(v, np.asarray(f), surface.edges)
        for v, f in zip(vertices, hands.faces, strict=True)
    )
    return _Pair(pose, betas, vertices, joints, right_skin, left_skin, KDTree(right_skin))


def _slide(
    pair: _Pair, R: np.ndarray, wrist: np.ndarray, direction: np.ndarray, surface: _Surface
) -> _Placement:
    """Move the left hand until it roughly touches, and count what is near."""
    wrist = wrist + direction * _rough_slide(
        pair.right_skin, pair.left_skin @ R.T + wrist, direction
    )
    vertices = pair.vertices[1] @ R.T + wrist
    distance, nearest = pair.right_tree.query(vertices, distance_upper_bound=_NEAR_M)
    near = np.isfinite(distance)
    at_rim = near & (np.isin(nearest, surface.rim) | np.isin(np.arange(len(near)), surface.rim))
    score = (
        np.count_nonzero(near)
        + _PART_BONUS * len(np.unique(surface.parts[near]))
        - _RIM_PENALTY * np.count_nonzero(at_rim)
    )
    centre = vertices[near].mean(axis=0) if near.any() else wrist
    return _Placement(R, wrist, direction, float(score), centre)


def _settle(
    rng: np.random.Generator, pair: _Pair, placement: _Placement, surface: _Surface
) -> _Placement:
    """Let the left hand nestle: small random turns and shifts, kept where more skin comes near."""
    for _ in range(_SETTLING_STEPS):
        turn = Rotation.from_rotvec(rng.normal(0, np.deg2rad(7), 3)).as_matrix()
        shift = rng.normal(0, 0.004, 3) - 0.1 * placement.direction
        # About the contact, so that a turn does not undo it.
        wrist = turn @ (placement.wrist - placement.centre) + placement.centre + shift
        moved = _slide(pair, turn @ placement.R, wrist, placement.direction, surface)
        if moved.score > placement.score:
            placement = moved
    return placement


def _draw_pose(hands: Hands, rng: np.random.Generator) -> Float[np.ndarray, "2 15 3"]:
    """Finger poses of both hands, independent of each other: no pair is a mirror image."""
    if hands.pose_samples is None:
        # Components are orthonormal; the first ten carry most of a hand's movement.
        weights = np.zeros((2, 45))
        weights[:, :10] = rng.normal(0, 0.5, (2, 10))
        offset = np.einsum("hk,hkp->hp", weights, np.asarray(hands.pose_components))
        return np.asarray(hands.pose_mean) + offset.reshape(2, 15, 3)
    poses = []
    for samples in hands.pose_samples:
        first, second = np.asarray(samples)[rng.integers(len(samples), size=2)]
        # A blend, so that no pose ever comes twice.
        poses.append(first + rng.uniform(0.02, 0.25) * (second - first))
    return np.stack(poses).astype(np.float64)


def _palm_axes(joints: Float[np.ndarray, "21 3"], hand: int) -> Float[np.ndarray, "3 3"]:
    """Columns: forward, towards the thumb, out of the palm."""
    forward = joints[index("middle1")] - joints[index("wrist")]
    across = joints[index("index1")] - joints[index("pinky1")]
    forward = forward / np.linalg.norm(forward)
    across = across - (across @ forward) * forward
    across = across / np.linalg.norm(across)
    palm = np.cross(across, forward) if hand == 0 else np.cross(forward, across)
    return np.stack([forward, across, palm], axis=1)


def _place(
    rng: np.random.Generator, arrangement: _Arrangement, pair: _Pair
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotation and wrist of the left hand well before contact, and its sliding direction."""
    right_axes, left_axes = (_palm_axes(joints, hand) for hand, joints in enumerate(pair.joints))
    forward, palm, direction = (
        right_axes @ _unit(np.array(v, float))
        for v in (arrangement.forward, arrangement.palm, arrangement.approach)
    )
    # A left hand's forward, thumb and palm axes are right-handed.
    target = np.stack([forward, np.cross(palm, forward), palm], axis=1)
    turn = np.deg2rad(rng.uniform(-1, 1) * arrangement.turn_deg)
    tilt = Rotation.from_rotvec(np.deg2rad(10) * rng.normal(size=3))
    R = (tilt * Rotation.from_rotvec(turn * direction)).as_matrix() @ target @ left_axes.T
    right_meets, left_meets = (
        _along_hand(joints, rng.uniform(*span), rng)
        for joints, span in zip(pair.joints, arrangement.reach, strict=True)
    )
    return R, right_meets - R @ left_meets - 0.5 * direction, direction


def _along_hand(joints: np.ndarray, reach: float, rng: np.random.Generator) -> np.ndarray:
    """A point between the wrist (0) and the middle fingertip (1), up to 15 mm beside the line."""
    tip = joints[index("middle_tip")]
    return reach * tip + rng.uniform(-0.015, 0.015, 3)


def _skin_points(vertices: np.ndarray, faces: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Vertices, edge midpoints and face centres: points some 2 mm apart."""
    return np.concatenate([vertices, vertices[edges].mean(1), vertices[faces].mean(1)])


def _rough_slide(
    fixed: np.ndarray, moving: np.ndarray, direction: np.ndarray, cell: float = 0.003
) -> float:
    """How far `moving` can go along `direction` before it meets `fixed`: height maps of both."""
    across = _unit(np.cross(direction, np.eye(3)[np.abs(direction).argmin()]))
    axes = np.stack([across, np.cross(direction, across), direction])
    near, far = moving @ axes.T, fixed @ axes.T
    low = np.minimum(near[:, :2].min(0), far[:, :2].min(0))
    size = np.ceil((np.maximum(near[:, :2].max(0), far[:, :2].max(0)) - low) / cell).astype(int) + 1
    front = np.full(size[0] * size[1], -np.inf)
    back = np.full(size[0] * size[1], np.inf)
    cells = [(np.floor((p[:, :2] - low) / cell).astype(int) @ [size[1], 1]) for p in (near, far)]
    np.maximum.at(front, cells[0], near[:, 2])
    np.minimum.at(back, cells[1], far[:, 2])
    travel = (back - front).min()
    # Hands that pass each other are far apart for any score.
    return float(travel) if np.isfinite(travel) else 0.0


def _touch(
    hands: Hands,
    rng: np.random.Generator,
    pair: _Pair,
    placement: _Placement,
    surface: _Surface,
) -> _Frame | None:
    """Slide the left hand to its exact contact less a small gap; None if that is not clean."""
    gap = rng.uniform(0.0003, 0.001)
    # Half a metre back the hands are apart, whatever the rough slide missed.
    start = placement.wrist - 0.5 * placement.direction
    across = _unit(np.cross(placement.direction, np.eye(3)[np.abs(placement.direction).argmin()]))
    axes = np.stack([placement.direction, across, np.cross(placement.direction, across)])
    right, left = pair.vertices[0], pair.vertices[1] @ placement.R.T + start
    # Vertices come first, then edge midpoints: with both, edges can hardly cross edges unseen.
    count = len(right) + len(surface.edges)
    skins = pair.right_skin[:count], pair.left_skin[:count] @ placement.R.T + start
    turned = (jnp.asarray(points @ axes.T, jnp.float32) for points in skins)
    travel = float(_first_contact(hands, *turned))
    if not np.isfinite(travel):
        return None
    shift = (travel - gap) * placement.direction
    depth, distance = _measure(hands, np.stack([right, left + shift]))
    if (
        depth.max() * 1000 > 0.8 * TRUTH_MAX_P_MM
        or distance.min() * 1000 > 0.75 * TRUTH_GAP_MM
        or distance[:, surface.rim].min() < _RIM_CLEARANCE_M
        or np.count_nonzero(distance < _NEAR_M) < _LEAST_NEAR_VERTICES
    ):
        return None
    orient = np.stack([np.zeros(3), Rotation.from_matrix(placement.R).as_rotvec()])
    return _Frame(orient, pair.hand_pose, pair.betas, start + shift)


@jax.jit
def _first_contact(
    hands: Hands, right: Float[Array, "P 3"], left: Float[Array, "P 3"]
) -> Float[Array, ""]:
    """How far the left hand goes along the first axis until points of either meet the other.

    It must start wholly before the right hand. The points are the vertices, in front, and others
    of the surface. Edges that meet between two points are not seen: they may overlap by a few
    hundredths of a millimetre, far less than the gap left afterwards.
    """
    forth = _heights_over(left, right[hands.faces[0]])
    back = _heights_over(right, left[hands.faces[1]])
    return jnp.minimum(
        jnp.min(jnp.where(jnp.isnan(forth), jnp.inf, forth)),
        jnp.min(jnp.where(jnp.isnan(back), jnp.inf, -back)),
    )


def _heights_over(
    points: Float[Array, "Q 3"], triangles: Float[Array, "F 3 3"]
) -> Float[Array, "Q F"]:
    """Along the first axis, from each point to each triangle it would hit; NaN where it misses."""
    (ay, az), (by, bz), (cy, cz) = ((triangles[:, i, 1], triangles[:, i, 2]) for i in range(3))
    y, z = points[:, None, 1], points[:, None, 2]
    area = (by - ay) * (cz - az) - (cy - ay) * (bz - az)
    safe = jnp.where(area == 0, 1.0, area)
    first = ((by - y) * (cz - z) - (cy - y) * (bz - z)) / safe
    second = ((cy - y) * (az - z) - (ay - y) * (cz - z)) / safe
    third = 1 - first - second
    height = first * triangles[:, 0, 0] + second * triangles[:, 1, 0] + third * triangles[:, 2, 0]
    hit = (first >= 0) & (second >= 0) & (third >= 0) & (area != 0)
    return jnp.where(hit, height - points[:, None, 0], jnp.nan)


def _seen_from(frame: _Frame, view: Rotation) -> _Frame:
    """The same hands turned together about the right wrist."""
    return _Frame(
        global_orient=(view * Rotation.from_rotvec(frame.global_orient)).as_rotvec(),
        hand_pose=frame.hand_pose,
        betas=frame.betas,
        relative_transl=view.apply(frame.relative_transl),
    )


# ---- predictions: what a regressor would say ---------------------------------------------------


def _draw_prediction(hands: Hands, rng: np.random.Generator, truth: _Frame) -> _Frame:
    """Parameters with a regressor's errors, of a size within the stated bounds.

    Pose, orientation and shape errors are scaled to a drawn MPJPE; of several errors of the
    relative translation, mostly in depth, the one nearest to a drawn MAX-P is taken.
    """
    low, high = START_MAX_P_MM
    for _ in range(_ATTEMPTS):
        errors = _draw_errors(hands, rng, truth)
        wanted = rng.uniform(START_MPJPE_MM[0] + 1, START_MPJPE_MM[1] - 1)
        wanted_depth = rng.uniform(low + 2, high - 1)
        amount = _scale_to(hands, truth, errors, wanted)
        if amount is None:
            continue
        base = _with_errors(truth, errors, amount)
        draws = rng.normal(size=(_SHIFT_DRAWS, 3)) * _SHIFT_M
        shifts = np.multiply.outer(np.array(_SHIFT_SIZES), draws).reshape(-1, 3)
        shifts = np.concatenate([np.zeros((1, 3)), shifts])
        tried = [replace(base, relative_transl=base.relative_transl + s) for s in shifts]
        tried = [frame for frame in tried if _shift_m(frame, truth) < _GREATEST_SHIFT_M]
        if not tried:
            continue
        depth = np.array([_penetration_mm(hands, frame) for frame in tried])
        best = np.abs(depth - wanted_depth).argmin()
        if low + 0.3 < depth[best] < high - 0.3:
            return tried[best]
    raise ValueError(
        f"no simulated error gave a penetration of {START_MAX_P_MM} mm in {_ATTEMPTS} attempts"
    )


def _shift_m(frame: _Frame, truth: _Frame) -> float:
    return float(np.linalg.norm(frame.relative_transl - truth.relative_transl))


def _draw_errors(hands: Hands, rng: np.random.Generator, truth: _Frame) -> dict[str, np.ndarray]:
    """Unscaled errors: regression to the mean pose, a confused finger pose, twists."""
    mean = np.asarray(hands.pose_mean, np.float64)
    elsewhere = _draw_pose(hands, rng)
    to_mean = rng.uniform(0.15, 0.45, (2, 1, 1)) * (mean - truth.hand_pose)
    # Fingers of one hand err together, as an ambiguous image makes them.
    confused = rng.uniform(0.05, 0.3, (2, 1, 1)) * (elsewhere - truth.hand_pose)
    return {
        "pose": to_mean + confused + rng.normal(0, 0.04, (2, 15, 3)),
        "shared_twist": rng.normal(0, np.deg2rad(3), 3),
        "twist": rng.normal(0, np.deg2rad(6), (2, 3)),
        "betas": -0.5 * truth.betas + rng.normal(0, 0.4, truth.betas.shape),
    }


def _with_errors(truth: _Frame, errors: dict[str, np.ndarray], amount: float) -> _Frame:
    shared = Rotation.from_rotvec(amount * errors["shared_twist"])
    own = Rotation.from_rotvec(amount * errors["twist"])
    return _Frame(
        global_orient=(shared * own * Rotation.from_rotvec(truth.global_orient)).as_rotvec(),
        hand_pose=truth.hand_pose + amount * errors["pose"],
        betas=truth.betas + amount * errors["betas"],
        relative_transl=shared.apply(truth.relative_transl),
    )


def _scale_to(
    hands: Hands, truth: _Frame, errors: dict[str, np.ndarray], wanted_mm: float
) -> float | None:
    """How much of the errors gives this MPJPE, by interpolation; None if twice is not enough."""
    amounts = np.linspace(0, 2, 9)
    joints = np.stack([_together(hands, _with_errors(truth, errors, a))[1] for a in amounts])
    true_joints = np.broadcast_to(joints[:1], joints.shape)
    found = mpjpe(joints, true_joints, np.ones((len(amounts), 2), bool))
    beyond = np.flatnonzero(found >= wanted_mm)
    if not len(beyond):
        return None
    i = beyond[0]
    share = (wanted_mm - found[i - 1]) / (found[i] - found[i - 1])
    return float(amounts[i - 1] + share * (amounts[i] - amounts[i - 1]))


# ---- observations ------------------------------------------------------------------------------


def _observe(
    hands: Hands, rng: np.random.Generator, truth: _Frame
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Camera, joints and keypoints: exact ones for the truth, noisy ones for the predictions."""
    vertices, joints = _together(hands, truth)
    camera = _fitting_camera(vertices.reshape(-1, 3))
    pixels = camera[0] * (joints[..., :2] + camera[1:])
    one = np.ones((2, 21, 1))
    exact = {
        "weak_camera": camera,
        "joints_3d": np.concatenate([joints, one], axis=-1),
        "keypoints_2d": np.concatenate([pixels, one], axis=-1),
    }
    seen = (rng.uniform(size=(2, 21, 1)) >= MISSING_JOINTS).astype(float)
    noisy_joints = joints + rng.normal(0, JOINT_NOISE_M, joints.shape)
    noisy_pixels = pixels + rng.normal(0, KEYPOINT_NOISE, pixels.shape)
    noisy = {
        "weak_camera": camera,
        "joints_3d": np.concatenate([noisy_joints * seen, seen], axis=-1),
        "keypoints_2d": np.concatenate([noisy_pixels * seen, seen], axis=-1),
    }
    return exact, noisy


def _fitting_camera(points: Float[np.ndarray, "P 3"]) -> Float[np.ndarray, "3"]:
    """Weak camera in which the points' longer side fills four fifths of the crop."""
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    return np.array([2 * _CROP_FILL / (high - low).max(), *(-(low + high) / 2)])


# ---- the hand model, one frame at a time -------------------------------------------------------


def _together(hands: Hands, frame: _Frame) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and joints of both hands, origin at the right wrist."""
    parameters = {f.name: jnp.asarray(getattr(frame, f.name), jnp.float32) for f in fields(frame)}
    vertices, joints = _assembled(hands, **parameters)
    return np.asarray(vertices, np.float64), np.asarray(joints, np.float64)


@jax.jit
def _assembled(hands: Hands, *, relative_transl: Array, **pose: Array) -> tuple[Array, Array]:
    posed = pose_hands(hands, **pose)
    wrists, right_anchor = posed.joints[:, 0], jnp.zeros((), bool)
    return (
        assemble(posed.vertices, wrists, relative_transl, right_anchor),
        assemble(posed.joints, wrists, relative_transl, right_anchor),
    )


def _penetration_mm(hands: Hands, frame: _Frame) -> float:
    """MAX-P by the exact engine."""
    depth, _ = _measure(hands, _together(hands, frame)[0])
    return 1000 * float(depth.max())


def _measure(hands: Hands, vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depth and unsigned distance of each vertex to the other hand, metres, (2, V) both."""
    measured = _measured(hands, jnp.asarray(vertices[None], jnp.float32))
    depth, distance = (np.asarray(x[0], np.float64) for x in measured)
    return depth, distance


@jax.jit
def _measured(hands: Hands, vertices: Array) -> tuple[Array, Array]:
    found = search_exact(hands, vertices, jnp.ones(1, bool), everywhere=True)
    return penetration_depth(hands, vertices, found), surface_distance(hands, vertices, found)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
