"""Whether a conversion is right: the source's own joints and pixels must come back.

A wrong convention shows as hands that are posed otherwise than the source posed them. Where that
is so, the usual mistakes are tried one by one, and the one that explains it is named.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import jax.numpy as jnp
import numpy as np

from fitting.adapters.formats import Conventions, Conversion, Evidence
from fitting.adapters.poses import LEFT, MIRRORED
from fitting.alignment import procrustes
from fitting.initialise_skeleton import pose_joints_float64
from fitting.posed_frames import pose_frames
from fitting.predictions import TwoHandPredictions
from mano_jax.joint_orders import FINGERTIP_VERTICES, JOINT_ORDERS, fingertip_vertices, permutation
from mano_jax.kinematics import PARENTS
from mano_jax.model import Hands
from mano_jax.procedural import embedded_hand_model

JOINT_LIMIT_MM: Final = 1.0
"""For joints of the very hand model that the source used."""

SIMILAR_LIMIT_MM: Final = 15.0
BONE_LIMIT_DEG: Final = 15.0
"""For hands of another shape, as the embedded one is: up to a similarity, and of directions."""

VERTEX_LIMIT_MM: Final = 2.0
"""For meshes that a hand was fitted to: what no MANO hand explains is no MANO mesh."""

PIXEL_LIMIT: Final = 0.5
LIFTED_PIXEL_LIMIT: Final = 3.0
LIFTED_SHARE_LIMIT: Final = 0.03
"""For a camera that a crop was lifted into: the perspective within the crop is not the image's. It
moves a point by its depth within the hand over the hand's distance, so large hands move more: by a
share of their size."""

BOX_LIMIT: Final = 0.15
"""For hands of another shape: as a share of the hand's size in the image."""

_SAMPLE: Final = 256
"""Hands of each side to look at: a convention is wrong in all of them or in none."""

_EXPLAINS: Final = 0.5
"""A mistake is named if putting it right leaves less than this share of the error."""

_BONES: Final = np.array(
    [(p, j) for j, p in enumerate(PARENTS) if p >= 0]
    + [(parent, 16 + i) for i, parent in enumerate((15, 3, 6, 12, 9))]
)


@dataclass(frozen=True)
class SelfCheck:
    """What became of the source's own points; `str` of it is a line for a user."""

    figures: tuple[str, ...]
    """What was compared, how far it was off and how far it may be."""
    passed: bool
    """Whether all of it is within its limit; true where there was nothing to compare."""
    cause: str = ""
    """The mistake that would explain a failure, where one does."""

    def __str__(self) -> str:
        """One line."""
        if not self.figures:
            return "self-check: there is nothing in the file to hold its parameters against"
        said = "self-check: " + "; ".join(self.figures)
        if self.passed:
            return said
        cause = self.cause or "no usual mistake explains it"
        return f"{said}: FAILED, {cause}"


def check_conversion(
    conversion: Conversion, conventions: Conventions | None, hands: Hands
) -> SelfCheck:
    """Hold a conversion against what the source says itself.

    Args:
        conversion: what an adapter gave.
        conventions: the format's own, for its fingertips and its camera.
        hands: the hand model the parameters were converted for. If it is the embedded one, a
            genuine source's joints cannot come back: shapes are compared.
    """
    p, evidence = _sample(conversion)
    if not p.has_parameters or conventions is None:
        return SelfCheck((), True)
    hands = _with_tips(hands, conventions.fingertips)
    embedded = np.array_equal(
        np.asarray(hands.v_template[0]), embedded_hand_model().v_template.astype(np.float32)
    )
    figures, passed, cause = [], True, ""
    if evidence.joints is not None:
        ours = _posed(hands, p)
        for error, sides in _kinds(embedded, evidence.own_joints):
            found = error(ours[:, sides], evidence.joints[:, sides])
            if not np.isfinite(found[0]):
                continue
            figures.append(_joint_figure(found, error, embedded))
            if not _joints_pass(found, error):
                passed = False
                cause = cause or _cause(error, sides, found, p, evidence.joints, conventions, hands)
    joints_passed = passed
    if evidence.vertices is not None:
        distance = _vertex_mm(hands, p, evidence.vertices)
        figures.append(f"vertices to {distance:.2f} mm (limit {VERTEX_LIMIT_MM:g})")
        if distance > VERTEX_LIMIT_MM:
            passed, cause = False, "the meshes are not of this hand model, or of the other side"
    if evidence.pixels is not None and p.K is not None and p.root_transl is not None:
        off, share = _pixels_off(_posed(hands, p), p, evidence.pixels)
        lifted = conventions.two_hands == "apart" and conventions.camera != "perspective"
        limit = LIFTED_PIXEL_LIMIT if lifted else PIXEL_LIMIT
        if np.isfinite(off):
            other_shape = embedded or not all(evidence.own_joints)
            allowed = BOX_LIMIT if other_shape else LIFTED_SHARE_LIMIT if lifted else 0.0
            told = f" or {100 * allowed:g} % of the hand's size" if allowed else ""
            figures.append(f"pixels to {off:.2f} px (limit {limit:g}{told})")
            if off > limit and share > allowed:
                passed = False
                if joints_passed:
                    cause = "the joints agree, so it is the camera: image size or focal length"
    return SelfCheck(tuple(figures), passed, cause)


def _sample(conversion: Conversion) -> tuple[TwoHandPredictions, Evidence]:
    """Frames spread over the file that have a hand, as many with each side as there can be."""
    p, e = conversion.predictions, conversion.evidence
    chosen: np.ndarray = np.zeros(0, int)
    for side in range(2):
        there = np.flatnonzero(p.hand_valid[:, side])
        spread = np.unique(np.linspace(0, max(len(there) - 1, 0), _SAMPLE).astype(int))
        chosen = np.union1d(chosen, there[spread] if len(there) else there)

    def some(points: np.ndarray | None) -> np.ndarray | None:
        return None if points is None else points[chosen]

    return p.frames(chosen), replace(
        e, joints=some(e.joints), pixels=some(e.pixels), vertices=some(e.vertices)
    )


def _kinds(embedded: bool, own: tuple[bool, bool]) -> Iterator[tuple[Callable, list[int]]]:
    """How to compare the joints of which sides."""
    same = [side for side in range(2) if own[side] and not embedded]
    alike = [side for side in range(2) if side not in same]
    for error, sides in ((_joint_mm, same), (_similar, alike)):
        if sides:
            yield error, sides


def _with_tips(hands: Hands, fingertips: str) -> Hands:
    return replace(hands, tip_vertices=jnp.asarray(fingertip_vertices(fingertips)))


def _posed(hands: Hands, p: TwoHandPredictions, **changes: np.ndarray) -> np.ndarray:
    """Joints of every hand about its wrist, (N, 2, 21, 3), metres; NaN where there is none."""
    values = {name: np.nan_to_num(value) for name, value in (p.parameters | changes).items()}
    joints = pose_joints_float64(hands, **values)
    return np.where(p.hand_valid[..., None, None], joints - joints[..., :1, :], np.nan)


def _joint_mm(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Distance of the farthest joint about the wrist, mm, of the hand that is worst but a few."""
    there = _both(ours, theirs)
    there = there & there[..., :1]
    distance = np.linalg.norm(ours - (theirs - theirs[..., :1, :]), axis=-1)
    farthest = np.where(there, distance, 0.0).max(axis=-1)
    return 1000 * _worst(np.where(there.any(axis=-1), farthest, np.nan)), 0.0


def _vertex_mm(hands: Hands, p: TwoHandPredictions, theirs: np.ndarray) -> float:
    """Mean distance of the vertices about their middle, mm, of the hand that is worst but a few."""
    ours = pose_frames(hands, p).mesh

    def about_the_middle(points: np.ndarray) -> np.ndarray:
        return points - points.mean(axis=-2, keepdims=True)

    distance = np.linalg.norm(about_the_middle(ours) - about_the_middle(theirs), axis=-1)
    return 1000 * _worst(distance.mean(axis=-1))


def _similar(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """The same after a similarity, and the mean angle (degrees) between the bones before it."""
    a, b = _BONES.T
    there = _both(ours, theirs)
    enough = there.sum(-1) >= 4
    shape = (-1, *ours.shape[-2:])
    ours, theirs = np.where(there[..., None], ours, 0.0), np.where(there[..., None], theirs, 0.0)
    aligned = procrustes(ours.reshape(shape), theirs.reshape(shape), there.reshape(-1, 21))
    distance = np.linalg.norm(aligned.reshape(ours.shape) - theirs, axis=-1)
    # A mirrored hand and a turned one look alike after a similarity; directions tell them apart.
    bones, found = ours[..., b, :] - ours[..., a, :], theirs[..., b, :] - theirs[..., a, :]
    cosine = np.sum(bones * found, -1) / np.maximum(
        np.linalg.norm(bones, axis=-1) * np.linalg.norm(found, axis=-1), 1e-12
    )
    angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    both = there[..., a] & there[..., b] & enough[..., None]
    return (
        1000 * _worst(_mean(distance, there & enough[..., None])),
        _worst(_mean(angle, both)),
    )


def _both(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Which points both sides have."""
    return np.all(np.isfinite(ours) & np.isfinite(theirs), axis=-1)


def _mean(values: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is there; NaN where nothing is."""
    count = there.sum(-1)
    total = np.where(there, values, 0.0).sum(-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _worst(of_hands: np.ndarray) -> float:
    """The 95th percentile of each side's hands (N, sides), and of them the worse.

    A single hand that the source got wrong is no wrong convention, all of a side are.
    """
    sides = [column[np.isfinite(column)] for column in of_hands.T]
    return max((float(np.percentile(side, 95)) for side in sides if len(side)), default=np.nan)


def _joints_pass(found: tuple[float, float], error: Callable) -> bool:
    distance, angle = found
    limit = SIMILAR_LIMIT_MM if error is _similar else JOINT_LIMIT_MM
    return distance <= limit and angle <= BONE_LIMIT_DEG


def _joint_figure(found: tuple[float, float], error: Callable, embedded: bool) -> str:
    distance, angle = found
    if error is _joint_mm:
        return f"joints to {distance:.2f} mm (limit {JOINT_LIMIT_MM:g})"
    whose = "with the embedded hand, whose shape is its own" if embedded else "of another shape"
    return (
        f"joints {whose}, to {distance:.1f} mm after a similarity (limit {SIMILAR_LIMIT_MM:g}) and "
        f"bones to {angle:.1f} degrees (limit {BONE_LIMIT_DEG:g})"
    )


def _pixels_off(ours: np.ndarray, p: TwoHandPredictions, theirs: np.ndarray) -> tuple[float, float]:
    """Mean distance in pixels, and as a share of the hand's size in the image."""
    assert p.K is not None and p.root_transl is not None, "there is a camera"
    tau = np.zeros((p.num_frames, 3)) if p.relative_transl is None else p.relative_transl
    left = p.root_transl + np.where(p.hand_valid[:, :1], tau, 0.0)
    points = ours + np.stack([p.root_transl, left], axis=1)[:, :, None]
    K = p.K[:, None, 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        seen = points[..., :2] / points[..., 2:]
    pixels = seen * K[..., [0, 1], [0, 1]][:, :, None] + K[..., :2, 2][:, :, None]
    there = _both(pixels, theirs)
    distance = _mean(np.linalg.norm(pixels - theirs, axis=-1), there)
    safe = np.where(there[..., None], theirs, np.nan)
    size = np.full(there.shape[:2], np.nan)
    some = there.any(-1)
    size[some] = (np.nanmax(safe[some], axis=1) - np.nanmin(safe[some], axis=1)).max(-1)
    return _worst(distance), _worst(distance / np.maximum(size, 1.0))


def _cause(
    error: Callable,
    sides: list[int],
    found: tuple[float, float],
    p: TwoHandPredictions,
    joints: np.ndarray,
    conventions: Conventions,
    hands: Hands,
) -> str:
    """The usual mistake that explains the error best, in words."""

    def score(pair: tuple[float, float]) -> float:
        distance, angle = pair
        return distance / SIMILAR_LIMIT_MM + angle / BONE_LIMIT_DEG

    tried = [
        (score(error(posed[:, sides], theirs[:, sides])), words)
        for words, posed, theirs in _mistakes(p, joints, conventions, hands)
    ]
    best, words = min(tried)
    return words if best < _EXPLAINS * score(found) else ""


def _mistakes(
    p: TwoHandPredictions, joints: np.ndarray, conventions: Conventions, hands: Hands
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Words, our joints and theirs, as if each usual mistake had been made."""
    mean = np.asarray(hands.pose_mean, np.float64)
    ours, pose = _posed(hands, p), p.parameters["hand_pose"]
    without, again = (_posed(hands, p, hand_pose=pose + sign * mean) for sign in (-1, 1))
    yield "the mean pose is in the file's values already", without, joints
    yield "the file's values lack the mean pose", again, joints
    flipped = {}
    for name in ("global_orient", "hand_pose"):
        value = p.parameters[name].astype(np.float64)
        value[:, LEFT] *= MIRRORED
        flipped[name] = value
    mirrored = _posed(hands, p, **flipped)
    yield "left hands are mirrored where they should not be, or the reverse", mirrored, joints
    yield "right and left hands are exchanged", ours, joints[:, ::-1]
    yield "the source's joints are mirrored", ours, joints * [-1.0, 1.0, 1.0]
    yield "the source's axes are OpenGL's (y up)", ours, joints * [1.0, -1.0, -1.0]
    yield "the source's joints are in millimetres", ours, joints / 1000
    as_read = joints[:, :, permutation("mano21", conventions.joint_order)]
    for order in set(JOINT_ORDERS) - {conventions.joint_order}:
        reordered = as_read[:, :, permutation(order, "mano21")]
        yield f"the source's joints are in the order {order}", ours, reordered
    for tips in set(FINGERTIP_VERTICES) - {conventions.fingertips}:
        tipped = _posed(_with_tips(hands, tips), p)
        yield f"the source's fingertips are those of {tips}", tipped, joints
