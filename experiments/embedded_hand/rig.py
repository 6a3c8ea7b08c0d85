"""What makes the mesh move: skinning weights, joint regressor and pose correctives."""

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int
from scipy.optimize import nnls
from scipy.sparse.linalg import splu
from scipy.spatial.transform import Rotation

from experiments.embedded_hand.posing import (
    RiggedHand,
    Vertices,
    bone_transforms,
    dual_quaternion_skin,
)
from experiments.embedded_hand.remesh import distance_to_segment
from experiments.embedded_hand.skeleton import FINGERS, MM, RADII_MM, Skeleton, first_joint, unit

Faces = Int[np.ndarray, "f 3"]
Weights = Float[np.ndarray, "v 16"]

# Half width over which a weight falls, metres. Narrower folds the skin at a bend; wider bends
# the phalanges like rubber.
_SPREAD_FINGER, _SPREAD_KNUCKLE, _SPREAD_PALM = 6.0 * MM, 7.0 * MM, 10.0 * MM
_SMALLEST_WEIGHT = 0.004
# A metacarpal counts as this thick when it competes with a finger for a vertex.
_METACARPAL_RADIUS = 14.5 * MM
# Skin between two fingers belongs to the palm up to this far past the knuckle.
_WEB_REACH, _WEB_SIDE = 9.5 * MM, 0.62
# Added to the relative distance of bones that may not have a vertex.
_FAR = 3.0
# Strength of the correctives: dual quaternions still thin a bend slightly.
_CORRECTIVE_GAIN = 1.1


def nearest_bones(vertices: Vertices, hand: Skeleton) -> Int[np.ndarray, "v"]:
    """One joint per vertex: the bone it lies nearest to, relative to that bone's thickness."""
    scores = np.full((len(vertices), 16), np.inf)
    for finger in FINGERS:
        points, start = hand.chain(finger), first_joint(finger)
        if finger != "thumb":
            carpus = 0.9 * hand.joints[0] + 0.1 * points[0]
            metacarpal = distance_to_segment(vertices, carpus, points[0]) / _METACARPAL_RADIUS
            scores[:, 0] = np.minimum(scores[:, 0], metacarpal)
        radii = 1.04 * np.array(RADII_MM[finger]) * MM
        for k in range(3):
            scores[:, start + k] = _relative_distance(vertices, points, radii, k)
        scores[:, start] += _FAR * _belongs_to_palm(vertices, points, radii, finger)
    parts = scores.argmin(1)
    for finger in FINGERS:
        _divide_at_bisectors(parts, vertices, hand.chain(finger), first_joint(finger))
    return parts


def _relative_distance(
    vertices: Vertices, points: Float[np.ndarray, "4 3"], radii: Float[np.ndarray, "4"], k: int
) -> Float[np.ndarray, "v"]:
    """Distance to a phalanx in units of its radius there."""
    a, b = points[k], points[k + 1]
    h = np.clip((vertices - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
    return distance_to_segment(vertices, a, b) / (radii[k] * (1 - h) + radii[k + 1] * h)


def _belongs_to_palm(
    vertices: Vertices, points: np.ndarray, radii: np.ndarray, finger: str
) -> Float[np.ndarray, "v"]:
    """1 for vertices behind a finger's base joint or in the web beside it, else 0."""
    a, b = points[0], points[1]
    along = (vertices - a) @ unit(b - a)
    behind = along < 0
    if finger == "thumb":
        return behind.astype(float)
    sideways = (vertices - a - along[:, None] * unit(b - a))[:, 2]
    web = np.zeros(len(vertices), bool)
    if finger != "index":
        web |= sideways > _WEB_SIDE * radii[0]
    if finger != "pinky":
        web |= sideways < -_WEB_SIDE * radii[0]
    return (behind | (web & (along < _WEB_REACH))).astype(float)


def _divide_at_bisectors(
    parts: Int[np.ndarray, "v"], vertices: Vertices, points: np.ndarray, start: int
) -> None:
    """Share a finger's vertices out again by the planes that halve its joints' angles."""
    own = (parts >= start) & (parts < start + 3)
    for k in (1, 2):
        normal = unit(unit(points[k] - points[k - 1]) + unit(points[k + 1] - points[k]))
        beyond = (vertices - points[k]) @ normal >= 0
        parts[own & (parts >= start + k) & ~beyond] = start + k - 1
        parts[own & (parts < start + k) & beyond] = start + k


def skinning_weights(vertices: Vertices, faces: Faces, hand: Skeleton) -> Weights:
    """Diffuse the nearest-bone labels over the skin by two implicit heat steps."""
    stiffness, mass = _heat_operators(vertices, faces, _spread(vertices, hand))
    solve = splu((sp.diags(mass) + 0.5 * stiffness).tocsc()).solve
    weights = np.eye(16)[nearest_bones(vertices, hand)]
    for _ in range(2):
        weights = solve(mass[:, None] * weights)
    weights[weights < _SMALLEST_WEIGHT] = 0
    return weights / weights.sum(1, keepdims=True)


def _spread(vertices: Vertices, hand: Skeleton) -> Float[np.ndarray, "v"]:
    """How far weights diffuse at each vertex, metres."""
    chains = [hand.chain(f)[(f == "thumb") :] for f in FINGERS]
    segments = [(a, b) for c in chains for a, b in zip(c[:-1], c[1:], strict=True)]
    to_finger = np.min([distance_to_segment(vertices, a, b) for a, b in segments], axis=0)
    far = np.clip((to_finger - 10 * MM) / (24 * MM), 0, 1)
    far = far**2 * (3 - 2 * far)
    spread = _SPREAD_FINGER + far * (_SPREAD_PALM - _SPREAD_FINGER)
    for finger in FINGERS[:4]:
        away = np.linalg.norm(vertices - hand.chain(finger)[0], axis=1)
        near = 1 - np.clip(away / (12 * MM) - 1, 0, 1)
        spread = np.maximum(spread, _SPREAD_FINGER + near * (_SPREAD_KNUCKLE - _SPREAD_FINGER))
    # The thumb's base swings widest of all joints.
    thumb = hand.chain("thumb")[:2].mean(0)
    near = 1 - np.clip(np.linalg.norm(vertices - thumb, axis=1) / (30 * MM), 0, 1)
    return np.maximum(spread, 4 * MM + near * (_SPREAD_PALM - 4 * MM))


def _heat_operators(
    vertices: Vertices, faces: Faces, spread: Float[np.ndarray, "v"]
) -> tuple[sp.csr_matrix, Float[np.ndarray, "v"]]:
    """Cotangent stiffness with conductivity spread^2, and lumped vertex areas."""
    count = len(vertices)
    mass, rows, columns, values = np.zeros(count), [], [], []
    conductivity = spread[faces].mean(1) ** 2
    for k in range(3):
        corner, u, v = faces[:, k], faces[:, (k + 1) % 3], faces[:, (k + 2) % 3]
        a, b = vertices[u] - vertices[corner], vertices[v] - vertices[corner]
        double_area = np.linalg.norm(np.cross(a, b), axis=1)
        np.add.at(mass, corner, double_area / 6)
        # Clamped: a negative weight would let the diffusion overshoot.
        cotangent = np.maximum((a * b).sum(1) / double_area, 0.05)
        rows += [u, v]
        columns += [v, u]
        values += [cotangent * conductivity / 2] * 2
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    adjacency = sp.csr_matrix(entries, shape=(count, count))
    return sp.diags(np.asarray(adjacency.sum(1)).ravel()) - adjacency, mass


def joint_regressor(
    vertices: Vertices, joints: Float[np.ndarray, "16 3"]
) -> Float[np.ndarray, "16 v"]:
    """Non-negative rows that sum to one and meet each joint, spread over the skin around it."""
    regressor = np.zeros((16, len(vertices)))
    for row, joint in enumerate(joints):
        away = np.linalg.norm(vertices - joint, axis=1)
        near = away.argsort(kind="stable")[: 36 if row else 60]
        # In mm: the position, the sum, and a ridge that grows with distance.
        system = np.vstack(
            [
                30 * (vertices[near] - joint).T / MM,
                np.full(len(near), 300.0),
                2 * np.diag(away[near] / away[near].min()),
            ]
        )
        target = np.zeros(len(system))
        target[3] = 300
        solution, _ = nnls(system, target)
        regressor[row, near] = solution / solution.sum()
    return regressor


def pose_correctives(
    vertices: Vertices, weights: Weights, joints: Float[np.ndarray, "16 3"], hand: Skeleton
) -> Float[np.ndarray, "v 3 135"]:
    """Offsets, linear in R - I, that bring linear blending near dual quaternion skinning.

    Fitted joint by joint with ridge regression over its flexions and some small random turns.
    """
    rng = np.random.default_rng(0)
    axes = hand.axes()
    directions = np.zeros((len(vertices), 3, 135))
    for joint in range(1, 16):
        flexions = np.radians([-20, -10, 10, 20, 30, 45, 60, 75, 90, 100])
        turns = [angle * axes[joint, 0] for angle in flexions]
        turns += [(rng.normal(size=3) * (0.2, 0.2, 0.15)) @ axes[joint] for _ in range(8)]
        features, offsets = [], []
        for turn in turns:
            rotations = np.tile(np.eye(3), (15, 1, 1))
            rotations[joint - 1] = Rotation.from_rotvec(turn).as_matrix()
            bones = bone_transforms(rotations, joints)
            features.append((rotations[joint - 1] - np.eye(3)).ravel())
            offsets.append(_unposed_difference(vertices, weights, bones).ravel())
        a, b = np.array(features), np.array(offsets)
        solution = np.linalg.solve(a.T @ a + 0.02 * np.eye(9), a.T @ b)
        block = solution.reshape(9, len(vertices), 3).transpose(1, 2, 0)
        directions[:, :, 9 * (joint - 1) : 9 * joint] = _CORRECTIVE_GAIN * block
    return directions


def _unposed_difference(
    vertices: Vertices, weights: Weights, bones: Float[np.ndarray, "16 3 4"]
) -> Vertices:
    """What to add at rest so that linear blending lands where dual quaternions would."""
    wanted = dual_quaternion_skin(vertices, weights, bones)
    blended = np.einsum("vj,jab->vab", weights, bones)
    back = np.linalg.solve(blended[:, :, :3], (wanted - blended[:, :, 3])[..., None])
    return back[..., 0] - vertices


def rig(vertices: Vertices, faces: Faces, hand: Skeleton) -> RiggedHand:
    """Weights, regressor and correctives for a numbered mesh; shape directions still zero."""
    weights = skinning_weights(vertices, faces, hand)
    regressor = joint_regressor(vertices, hand.joints)
    correctives = pose_correctives(vertices, weights, regressor @ vertices, hand)
    return RiggedHand(
        vertices, faces, weights, regressor, correctives, np.zeros((len(vertices), 3, 10))
    )
