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

from dataclasses import dataclass
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from fitting.metrics import max_p, mpjpe
from fitting.predictions import TwoHandPredictions
from mano_jax.cameras import project_weak
from mano_jax.joint_orders import index
from mano_jax.model import Hands, assemble, pose_hands, pose_joints
from objectives.collision import exact_depths, exact_distances

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
_BOTH = np.ones((1, 2), bool)


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
        ValueError: no frame asked for, or a hand model with which no contact can be found.
    """
    if frames < 1:
        raise ValueError(f"expected at least one frame, found {frames}")
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
    fields = ("global_orient", "hand_pose", "betas", "relative_transl")
    stacked = {name: np.stack([getattr(f, name) for f in frames]) for name in fields}
    return {"hand_valid": np.ones((len(frames), 2), bool), **stacked}


# ---- truth: two hands in contact ---------------------------------------------------------------


def _draw_truth(hands: Hands, rng: np.random.Generator, number: int) -> _Frame:
    """Two hands that touch in an arrangement, seen from anywhere."""
    names = list(_ARRANGEMENTS)
    variants = _ARRANGEMENTS[names[number % len(names)]]
    for _ in range(_ROUNDS):
        for frame, right, left, direction in _candidates(hands, rng, variants):
            touching = _touch(hands, rng, frame, right, left, direction)
            if touching is not None:
                return _seen_from(touching, Rotation.random(rng=rng))
    raise ValueError(
        f"found no contact for {names[number % len(names)]!r} in {_ROUNDS} rounds: "
        "is this a hand model in metres?"
    )


_ROUNDS = 6
_POSE_PAIRS = 6
_PLACEMENTS = 16
_FINALISTS = 4


def _candidates(hands: Hands, rng: np.random.Generator, variants: tuple[_Arrangement, ...]):
    """The placements with most skin near the other hand, best first.

    Yields frames without a contact yet: (frame, right vertices, left vertices, direction), the
    left hand at its roughly estimated contact. The right hand is not turned; the view is
    drawn later.
    """
    poses = np.stack([_draw_pose(hands, rng) for _ in range(_POSE_PAIRS)])
    shared = rng.normal(0, 0.7, (_POSE_PAIRS, 1, hands.num_betas))
    betas = shared + rng.normal(0, 0.1, (_POSE_PAIRS, 2, hands.num_betas))
    vertices, joints = _pose(hands, np.zeros((_POSE_PAIRS, 2, 3)), poses, betas)
    faces = np.asarray(hands.faces)
    found = []
    for pair in range(_POSE_PAIRS):
        right, left = vertices[pair] - joints[pair, :, None, 0]
        right_joints, left_joints = joints[pair] - joints[pair, :, :1]
        # Posed alone, a hand has no wrist rotation: these axes are its pose's.
        right_axes, left_axes = _palm_axes(right_joints, 0), _palm_axes(left_joints, 1)
        right_skin = _skin_points(right, faces[0])
        tree = cKDTree(right_skin)
        for _ in range(_PLACEMENTS):
            arrangement = variants[rng.integers(len(variants))]
            R, offset, direction = _place(
                rng, arrangement, right_axes, left_axes, right_joints, left_joints
            )
            turned = left @ R.T + offset
            skin = _skin_points(turned, faces[1])
            slide = _rough_slide(right_skin, skin, direction)
            moved = turned + slide * direction
            distance, _ = tree.query(moved, distance_upper_bound=_NEAR_M)
            near = np.isfinite(distance)
            frame = _Frame(
                global_orient=np.stack([np.zeros(3), Rotation.from_matrix(R).as_rotvec()]),
                hand_pose=poses[pair],
                betas=betas[pair],
                relative_transl=offset + slide * direction,
            )
            score = near.sum() + _PART_BONUS * len(np.unique(_parts(hands)[near]))
            found.append((score, frame, right, moved, direction))
    found.sort(key=lambda entry: -entry[0])
    for _, frame, right, moved, direction in found[:_FINALISTS]:
        yield frame, right, moved, direction


_PART_BONUS = 10
"""A contact of several fingers is worth more than one large one, in near vertices a bone."""


def _parts(hands: Hands) -> np.ndarray:
    """The bone that each vertex follows most."""
    return np.asarray(hands.lbs_weights[0]).argmax(axis=1)


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
    rng: np.random.Generator,
    arrangement: _Arrangement,
    right_axes: np.ndarray,
    left_axes: np.ndarray,
    right_joints: np.ndarray,
    left_joints: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotation and wrist of the left hand well before contact, and its sliding direction."""
    forward, palm, direction = (
        right_axes @ _unit(np.array(v, float))
        for v in (arrangement.forward, arrangement.palm, arrangement.approach)
    )
    # A left hand's forward, thumb and palm axes are right-handed.
    target = np.stack([forward, np.cross(palm, forward), palm], axis=1)
    turn = np.deg2rad(rng.uniform(-1, 1) * arrangement.turn_deg)
    tilt = Rotation.from_rotvec(np.deg2rad(10) * rng.normal(size=3))
    R = (tilt * Rotation.from_rotvec(turn * direction)).as_matrix() @ target @ left_axes.T
    meets = [
        _along_hand(joints, rng.uniform(*span), rng)
        for joints, span in zip((right_joints, left_joints), arrangement.reach, strict=True)
    ]
    return R, meets[0] - R @ meets[1] - 0.5 * direction, direction


def _along_hand(joints: np.ndarray, reach: float, rng: np.random.Generator) -> np.ndarray:
    """A point between the wrist (0) and the middle fingertip (1), up to 15 mm beside the line."""
    tip = joints[index("middle_tip")]
    return reach * tip + rng.uniform(-0.015, 0.015, 3)


def _skin_points(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Vertices, edge midpoints (twice) and face centres: points some 2 mm apart."""
    corners = vertices[faces]
    middles = (corners + np.roll(corners, 1, axis=1)) / 2
    return np.concatenate([vertices, middles.reshape(-1, 3), corners.mean(1)])


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
    frame: _Frame,
    right: np.ndarray,
    left: np.ndarray,
    direction: np.ndarray,
) -> _Frame | None:
    """Slide the left hand to its exact contact less a small gap; None if that is not clean."""
    # Half a metre back the hands are apart, whatever the rough slide missed.
    back = left - 0.5 * direction
    travel = float(_first_contact(hands, jnp.asarray(right), jnp.asarray(back), direction))
    if not np.isfinite(travel):
        return None
    shift = (travel - 0.5 - rng.uniform(0.0005, 0.0012)) * direction
    pair = jnp.asarray(np.stack([right, left + shift])[None], jnp.float32)
    depth, distance = (np.asarray(x) for x in _depths_and_distances(hands, pair))
    contact = (
        depth.max() * 1000 < 0.8 * TRUTH_MAX_P_MM
        and distance.min() * 1000 < 0.75 * TRUTH_GAP_MM
        and np.count_nonzero(distance < _NEAR_M) >= _LEAST_NEAR_VERTICES
    )
    if not contact:
        return None
    return _Frame(frame.global_orient, frame.hand_pose, frame.betas, frame.relative_transl + shift)


_LEAST_NEAR_VERTICES = 80
"""Of 1556: fewer within 1 cm is a graze, not an interaction."""


@jax.jit
def _first_contact(
    hands: Hands,
    right: Float[Array, "V 3"],
    left: Float[Array, "V 3"],
    direction: Float[Array, "3"],
) -> Float[Array, ""]:
    """Distance that the left hand travels until a vertex of either meets a face of the other.

    It must start wholly before the right hand. Edges that meet edges first are not seen: they
    may overlap by a few tenths of a millimetre, less than the gap left afterwards.
    """
    axes = jnp.linalg.qr(jnp.column_stack([direction, jnp.eye(3)[:, :2]]))[0].T
    # QR may flip the first axis.
    axes = axes.at[0].multiply(jnp.sign(jnp.dot(axes[0], direction)))
    turned_right, turned_left = right @ axes.T, left @ axes.T
    forth = _heights_over(turned_left, turned_right[hands.faces[0]])
    back = _heights_over(turned_right, turned_left[hands.faces[1]])
    return jnp.minimum(
        jnp.min(jnp.where(jnp.isnan(forth), jnp.inf, forth)),
        jnp.min(jnp.where(jnp.isnan(back), jnp.inf, -back)),
    )


def _heights_over(points: Float[Array, "Q 3"], triangles: Float[Array, "F 3 3"]):
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


_SIZES = 7
_DIRECTIONS = 3
_ATTEMPTS = 12


def _draw_prediction(hands: Hands, rng: np.random.Generator, truth: _Frame) -> _Frame:
    """Parameters with a regressor's errors, of a size within the stated bounds.

    Pose, orientation and shape errors are scaled to a drawn MPJPE; then errors of the relative
    translation, mostly in depth, are tried until the penetration is that of a regressor too.
    """
    true_joints = _joints(hands, [truth])
    for _ in range(_ATTEMPTS):
        errors = _draw_errors(hands, rng, truth)
        wanted = rng.uniform(START_MPJPE_MM[0] + 1, START_MPJPE_MM[1] - 1)
        amount = _scale_to(hands, truth, true_joints, errors, wanted)
        if amount is None:
            continue
        base = _with_errors(truth, errors, amount)
        # One standard deviation of a monocular regressor: 5 mm across, 12 mm in depth.
        across = rng.normal(size=(_DIRECTIONS, 3)) * [0.005, 0.005, 0.012]
        sizes = np.array([0.0, 0.5, -0.5, 1.0, -1.0, 1.6, -1.6])
        shifts = (sizes[:, None, None] * across).reshape(-1, 3)
        tried = [
            _Frame(base.global_orient, base.hand_pose, base.betas, base.relative_transl + s)
            for s in shifts
        ]
        depth = _penetration_mm(hands, tried)
        low, high = START_MAX_P_MM
        fits = np.flatnonzero((depth > low + 0.3) & (depth < high - 0.3))
        if len(fits):
            return tried[int(rng.choice(fits))]
    raise ValueError(
        f"no simulated error gave a penetration of {START_MAX_P_MM} mm in {_ATTEMPTS} attempts"
    )


def _draw_errors(hands: Hands, rng: np.random.Generator, truth: _Frame) -> dict[str, np.ndarray]:
    """Unscaled errors: regression to the mean pose, a confused finger pose, twists."""
    mean = np.asarray(hands.pose_mean, np.float64)
    elsewhere = _draw_pose(hands, rng)
    to_mean = rng.uniform(0.15, 0.45, (2, 1, 1)) * (mean - truth.hand_pose)
    # Fingers of one hand err together, as an ambiguous image makes them.
    confused = rng.uniform(0.05, 0.3, (2, 1, 1)) * (elsewhere - truth.hand_pose)
    return {
        "pose": to_mean + confused + rng.normal(0, 0.04, (2, 15, 3)),
        "shared_twist": rng.normal(0, np.deg2rad(5), 3),
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
    hands: Hands,
    truth: _Frame,
    true_joints: np.ndarray,
    errors: dict[str, np.ndarray],
    wanted_mm: float,
) -> float | None:
    """How much of the errors gives this MPJPE, by interpolation; None if twice is not enough."""
    amounts = np.linspace(0, 2, 17)
    joints = _joints(hands, [_with_errors(truth, errors, a) for a in amounts])
    valid = np.ones((len(amounts), 2), bool)
    found = mpjpe(joints, np.broadcast_to(true_joints, joints.shape), valid)
    beyond = np.flatnonzero(found >= wanted_mm)
    if not len(beyond):
        return None
    i = beyond[0]
    share = (wanted_mm - found[i - 1]) / (found[i] - found[i - 1])
    return float(amounts[i - 1] + share * (amounts[i] - amounts[i - 1]))


# ---- observations ------------------------------------------------------------------------------


def _observe(hands: Hands, rng: np.random.Generator, truth: _Frame):
    """Camera, joints and keypoints: exact ones for the truth, noisy ones for the predictions."""
    vertices, joints = _together(hands, [truth])
    camera = _fitting_camera(vertices[0].reshape(-1, 3)).astype(np.float32)
    joints = joints[0]
    pixels = project_weak(jnp.asarray(joints, jnp.float32), jnp.asarray(camera)[None])
    one = np.ones((2, 21, 1))
    exact = {
        "weak_camera": camera,
        "joints_3d": np.concatenate([joints, one], axis=-1),
        "keypoints_2d": np.concatenate([np.asarray(pixels), one], axis=-1),
    }
    seen = (rng.uniform(size=(2, 21, 1)) >= MISSING_JOINTS).astype(float)
    noisy_joints = joints + rng.normal(0, JOINT_NOISE_M, joints.shape)
    noisy_pixels = np.asarray(pixels) + rng.normal(0, KEYPOINT_NOISE, pixels.shape)
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


# ---- the hand model, for lists of frames -------------------------------------------------------


def _arrays(frames: list[_Frame]) -> dict[str, Array]:
    """Stacked parameters, single precision."""
    names = ("global_orient", "hand_pose", "betas", "relative_transl")
    return {n: jnp.asarray(np.stack([getattr(f, n) for f in frames]), jnp.float32) for n in names}


def _pose(hands: Hands, orient, pose, betas) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and joints of each hand in its own frame."""
    posed = _pose_hands(hands, *(jnp.asarray(x, jnp.float32) for x in (orient, pose, betas)))
    return np.asarray(posed.vertices, np.float64), np.asarray(posed.joints, np.float64)


@jax.jit
def _pose_hands(hands: Hands, global_orient: Array, hand_pose: Array, betas: Array):
    return pose_hands(hands, global_orient=global_orient, hand_pose=hand_pose, betas=betas)


def _together(hands: Hands, frames: list[_Frame]) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and joints of both hands, origin at the right wrist."""
    vertices, joints = _assembled(hands, **_arrays(frames))
    return np.asarray(vertices, np.float64), np.asarray(joints, np.float64)


@jax.jit
def _assembled(hands: Hands, *, relative_transl: Array, **pose: Array) -> tuple[Array, Array]:
    posed = pose_hands(hands, **pose)
    wrists = posed.joints[..., 0, :]
    right_anchor = jnp.zeros(relative_transl.shape[:-1], bool)
    return (
        assemble(posed.vertices, wrists, relative_transl, right_anchor),
        assemble(posed.joints, wrists, relative_transl, right_anchor),
    )


def _joints(hands: Hands, frames: list[_Frame]) -> np.ndarray:
    """Joints of each hand in its own frame, without its surface."""
    arrays = _arrays(frames)
    del arrays["relative_transl"]
    return np.asarray(_joints_of(hands, **arrays), np.float64)


@jax.jit
def _joints_of(hands: Hands, **pose: Array) -> Array:
    return pose_joints(hands, **pose)


def _penetration_mm(hands: Hands, frames: list[_Frame]) -> np.ndarray:
    """MAX-P of each frame."""
    vertices, _ = _assembled(hands, **_arrays(frames))
    valid = np.ones((len(frames), 2), bool)
    return max_p(_depths(hands, vertices), valid)


@jax.jit
def _depths(hands: Hands, vertices: Array) -> Array:
    return exact_depths(hands, vertices, jnp.ones(len(vertices), bool))


@jax.jit
def _depths_and_distances(hands: Hands, vertices: Array) -> tuple[Array, Array]:
    active = jnp.ones(len(vertices), bool)
    return exact_depths(hands, vertices, active), exact_distances(hands, vertices, active)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
