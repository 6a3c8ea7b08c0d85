"""Which frames can be refined, why the others cannot, and what a file holds.

A file that contradicts itself or the hand model is an error. A frame that is broken is not: it
gets a reason, and comes back as it was.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Shaped

from fitting.errors import InputError
from fitting.initialise import LENGTH_PAIRS, MINIMUM_PALM_JOINTS, PALM
from fitting.predictions import TwoHandPredictions
from mano_jax.model import SIDES, Hands

LONGEST_BONE: Final = 0.5
"""A hand whose bones are longer than this (m, their median) is not in metres."""

FARTHEST_HAND: Final = 100.0
"""A wrist farther from the camera than this (m) is not in metres."""

FARTHEST_WRISTS: Final = 10.0
"""Wrists farther apart than this (m) are not in metres."""

LARGEST_ANGLE: Final = 25.0
"""Axis-angle components beyond this (rad, four turns) are degrees or garbage."""

LARGEST_BETA: Final = 50.0
"""Shape coefficients beyond this are garbage."""

LARGEST_CROP_COORDINATE: Final = 20.0
"""A hand as many half crops away from the crop's centre was measured in pixels."""

SMALLEST_PIXEL_COORDINATE: Final = 2.0
"""Keypoints that all lie as near to the image's corner (pixels) were normalised."""


@dataclass(frozen=True)
class TermUse:
    """In how many usable frames a term of the objective acts."""

    name: str
    """The term."""
    frames: int
    """Usable frames in which it acts."""
    remark: str = ""
    """Why it does not act in the others."""


@dataclass(frozen=True)
class BadFrames:
    """Frames that share a reason for not being refined."""

    reason: str
    """The reason."""
    count: int
    """How many."""
    examples: tuple[str, ...]
    """Names of the first few."""


@dataclass(frozen=True)
class InputSummary:
    """What `manofit check` says of a file; `str` of it is the report."""

    num_frames: int
    """All frames."""
    both_hands: int
    """Frames with two hands."""
    right_only: int
    """Frames with the right hand only."""
    left_only: int
    """Frames with the left hand only."""
    no_hand: int
    """Frames without a hand."""
    start: str
    """What a fit starts from."""
    usable: int
    """Frames that can be refined."""
    terms: tuple[TermUse, ...]
    """What will act."""
    bad_frames: tuple[BadFrames, ...]
    """What will be skipped, the commonest reason first."""

    def __str__(self) -> str:
        """The report, a few lines."""
        lines = [
            f"{_frames(self.num_frames)}: {self.both_hands} with both hands, "
            f"{self.right_only} right only, {self.left_only} left only, {self.no_hand} with none",
            f"start: {self.start}",
            f"usable: {self.usable} of {_frames(self.num_frames)}",
            "terms:",
        ]
        for term in self.terms:
            remark = f" ({term.remark})" if term.remark else ""
            lines.append(f"  {term.name}: {term.frames} of {_frames(self.usable)}{remark}")
        for bad in self.bad_frames:
            names = ", ".join(bad.examples) + (", ..." if bad.count > len(bad.examples) else "")
            lines.append(f"skipped: {_frames(bad.count)}: {bad.reason} [{names}]")
        return "\n".join(lines)


def check_file(predictions: TwoHandPredictions, hands: Hands) -> None:
    """Raise what no frame can be refined with.

    Raises:
        InputError: arrays that do not fit the hand model, keypoints without a camera, or nothing
            to start from.
    """
    p = predictions
    if p.betas is not None and p.betas.shape[-1] != hands.num_betas:
        raise InputError(
            f"betas: expected {hands.num_betas} coefficients as the hand model has, found "
            f"{p.betas.shape[-1]}; pad with zeros, or drop those beyond"
        )
    if p.vertices is not None and p.vertices.shape[-2] != hands.num_vertices:
        raise InputError(
            f"vertices: expected {hands.num_vertices} a hand as the hand model has, found "
            f"{p.vertices.shape[-2]}; remove them, or load the model they belong to"
        )
    if p.keypoints_2d is not None and p.weak_camera is None and p.K is None:
        raise InputError(
            "found keypoints_2d without a camera: add weak_camera (N, 3) if they are normalised "
            "crop coordinates, or K (N, C, 3, 3) if they are pixels"
        )
    if not p.has_parameters and p.joints_3d is None:
        raise InputError(
            "found nothing to start from: expected global_orient, hand_pose and betas, or "
            "joints_3d; add one or the other"
        )


def frame_reasons(predictions: TwoHandPredictions, hands: Hands) -> Shaped[np.ndarray, "N"]:
    """Why each frame cannot be refined, "" where it can: the first reason that holds.

    Rows of absent hands are not looked at.

    Raises:
        InputError: as for `check_file`.
    """
    check_file(predictions, hands)
    reasons = np.full(predictions.num_frames, "", dtype=object)
    for bad, reason in _all_reasons(predictions):
        reasons[bad & (reasons == "")] = reason
    return reasons.astype(str)


def summarise(predictions: TwoHandPredictions, hands: Hands) -> InputSummary:
    """What the file holds, what will act on it and what will be skipped.

    Raises:
        InputError: as for `check_file`.
    """
    reasons = frame_reasons(predictions, hands)
    usable = reasons == ""
    right, left = predictions.hand_valid[:, 0], predictions.hand_valid[:, 1]
    found, counts = np.unique(reasons[~usable], return_counts=True)
    bad_frames = [
        BadFrames(str(reason), int(count), tuple(predictions.frame_names[reasons == reason][:3]))
        for reason, count in zip(found, counts, strict=True)
    ]
    return InputSummary(
        num_frames=predictions.num_frames,
        both_hands=int((right & left).sum()),
        right_only=int((right & ~left).sum()),
        left_only=int((left & ~right).sum()),
        no_hand=int((~right & ~left).sum()),
        start="the predicted parameters" if predictions.has_parameters else "joints_3d",
        usable=int(usable.sum()),
        terms=tuple(_term_uses(predictions, usable)),
        bad_frames=tuple(sorted(bad_frames, key=lambda bad: -bad.count)),
    )


def joints_seen(predictions: TwoHandPredictions) -> Bool[np.ndarray, "N 2 21"]:
    """3D joints with finite coordinates and a confidence, of hands that are there."""
    joints = predictions.joints_with_confidence()
    if joints is None:
        return np.zeros((predictions.num_frames, 2, 21), bool)
    return _seen(joints) & predictions.hand_valid[..., None]


def keypoints_seen(predictions: TwoHandPredictions) -> Bool[np.ndarray, "N C 2 21"]:
    """2D keypoints with finite coordinates and a confidence, of hands that are there."""
    keypoints = predictions.keypoints_by_view()
    if keypoints is None:
        return np.zeros((predictions.num_frames, predictions.num_views, 2, 21), bool)
    return _seen(keypoints) & predictions.hand_valid[:, None, :, None]


def vertices_seen(predictions: TwoHandPredictions) -> Bool[np.ndarray, "N 2 V"]:
    """Finite vertices of hands that are there."""
    vertices = predictions.vertices
    if vertices is None:
        return np.zeros((predictions.num_frames, 2, 0), bool)
    return np.all(np.isfinite(vertices), axis=-1) & predictions.hand_valid[..., None]


def _seen(points: np.ndarray) -> np.ndarray:
    return np.all(np.isfinite(points), axis=-1) & (points[..., -1] > 0)


def _all_reasons(p: TwoHandPredictions) -> Iterator[tuple[np.ndarray, str]]:
    """Every way for a frame to be unusable: which frames, and the words for it."""
    yield ~np.any(p.hand_valid, axis=-1), "no hand"
    if p.has_parameters:
        yield from _parameter_reasons(p)
    yield from _joint_reasons(p)
    yield from _translation_reasons(p)
    yield from _camera_reasons(p)


def _parameter_reasons(p: TwoHandPredictions) -> Iterator[tuple[np.ndarray, str]]:
    for name, array in p.parameters.items():
        for hand, side in enumerate(SIDES):
            there = p.hand_valid[:, hand]
            rows = array[:, hand].reshape(len(array), -1)
            finite = np.all(np.isfinite(rows), axis=-1)
            yield there & ~finite, f"{name} of the {side} hand is not finite"
            limit = LARGEST_BETA if name == "betas" else LARGEST_ANGLE
            hint = "" if name == "betas" else "; expected radians"
            large = np.abs(np.where(np.isfinite(rows), rows, 0.0)).max(-1, initial=0.0) > limit
            yield there & large, f"{name} of the {side} hand is beyond {limit:g}{hint}"


def _joint_reasons(p: TwoHandPredictions) -> Iterator[tuple[np.ndarray, str]]:
    joints = p.joints_with_confidence()
    if joints is None:
        return
    seen = joints_seen(p)
    a, b = LENGTH_PAIRS.T
    for hand, side in enumerate(SIDES):
        there = p.hand_valid[:, hand]
        if not p.has_parameters:
            few = seen[:, hand][:, PALM].sum(-1) < MINIMUM_PALM_JOINTS
            yield (
                there & few,
                f"no prediction, and fewer than {MINIMUM_PALM_JOINTS} of the {side} hand's wrist "
                "and finger base joints in joints_3d",
            )
        known = seen[:, hand][:, a] & seen[:, hand][:, b]
        points = np.where(seen[:, hand, :, None], joints[:, hand, :, :3], 0.0).astype(np.float64)
        lengths = np.linalg.norm(points[:, b] - points[:, a], axis=-1)
        # The median of the lengths that are known: one joint gone astray is no wrong unit.
        long = (known & (lengths > LONGEST_BONE)).sum(-1) > 0.5 * known.sum(-1)
        yield (
            there & long,
            f"joints_3d of the {side} hand have bones longer than {LONGEST_BONE:g} m; expected "
            "metres, are they millimetres?",
        )


def _translation_reasons(p: TwoHandPredictions) -> Iterator[tuple[np.ndarray, str]]:
    both = np.all(p.hand_valid, axis=-1)
    if p.relative_transl is not None:
        finite, large = _finite_and_large(p.relative_transl, FARTHEST_WRISTS)
        yield both & ~finite, "relative_transl is not finite"
        yield (
            both & large,
            f"relative_transl is longer than {FARTHEST_WRISTS:g} m; expected metres, is it "
            "millimetres?",
        )
    elif p.has_parameters:
        wrists = np.all(joints_seen(p)[..., 0], axis=-1)
        yield both & ~wrists, "no relative_transl, and joints_3d lack a wrist to take it from"
    if p.root_transl is not None and p.K is not None:
        finite, large = _finite_and_large(p.root_transl, FARTHEST_HAND)
        yield ~finite, "root_transl is not finite"
        yield (
            large,
            f"root_transl is longer than {FARTHEST_HAND:g} m; expected metres, is it millimetres?",
        )


def _camera_reasons(p: TwoHandPredictions) -> Iterator[tuple[np.ndarray, str]]:
    yield from _unit_reasons(p)
    if p.weak_camera is not None:
        yield ~np.all(np.isfinite(p.weak_camera), axis=-1), "weak_camera is not finite"
        yield p.weak_camera[:, 0] <= 0, "the scale of weak_camera is not positive"
    if p.K is None:
        return
    # A view that sees nothing of a frame is not used there, so it may be anything.
    used = np.any(keypoints_seen(p), axis=(-2, -1))
    yield (used & ~np.all(np.isfinite(p.K), axis=(-2, -1))).any(-1), "K is not finite"
    focal = np.minimum(p.K[..., 0, 0], p.K[..., 1, 1])
    yield (used & (focal <= 0)).any(-1), "a focal length in K is not positive"
    if p.distortion is not None:
        yield (
            (used & ~np.all(np.isfinite(p.distortion), axis=-1)).any(-1),
            "distortion is not finite",
        )
    if p.T_camera_world is not None and p.num_views > 1:
        T = p.T_camera_world
        needed = used.copy()
        needed[:, 0] |= np.any(used, axis=-1)
        finite = np.all(np.isfinite(T), axis=(-2, -1))
        yield (needed & ~finite).any(-1), "T_camera_world is not finite"
        R = np.where(finite[..., None, None], T, np.eye(4, dtype=T.dtype))[..., :3, :3]
        error = np.abs(R @ np.swapaxes(R, -1, -2) - np.eye(3)).max((-2, -1))
        rigid = (error < 1e-3) & (np.linalg.det(R) > 0)
        yield (needed & ~rigid).any(-1), "T_camera_world is not a rotation and a translation"


def _unit_reasons(p: TwoHandPredictions) -> Iterator[tuple[np.ndarray, str]]:
    """Pixels taken for crop coordinates, and the other way round."""
    keypoints, seen = p.keypoints_by_view(), keypoints_seen(p)
    if keypoints is None:
        return
    coordinates = np.where(seen[..., None], np.abs(keypoints[..., :2]), np.nan)
    coordinates = coordinates.reshape(p.num_frames, -1)
    any_seen = np.any(np.isfinite(coordinates), axis=-1)
    if p.weak_camera is not None:
        # Most of them: a single wild keypoint is no wrong unit.
        wild = (coordinates > LARGEST_CROP_COORDINATE).sum(-1)
        many = wild > 0.5 * np.isfinite(coordinates).sum(-1)
        yield (
            many,
            "keypoints_2d are far outside the crop; expected [-1, 1] with weak_camera, are they "
            "pixels?",
        )
    else:
        small = any_seen & ~(coordinates > SMALLEST_PIXEL_COORDINATE).any(-1)
        yield small, "keypoints_2d are all within 2; expected pixels with K, are they normalised?"


def _finite_and_large(vectors: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray]:
    finite = np.all(np.isfinite(vectors), axis=-1)
    safe = np.where(finite[:, None], vectors, 0.0).astype(np.float64)
    return finite, np.linalg.norm(safe, axis=-1) > limit


def _term_uses(p: TwoHandPredictions, usable: np.ndarray) -> Iterator[TermUse]:
    keypoints, joints = np.any(keypoints_seen(p), axis=(1, 2, 3)), joints_seen(p)
    both = np.all(p.hand_valid, axis=-1)
    yield _use("keypoints_2d", keypoints, usable, p.keypoints_2d is None, "no keypoint is valid")
    yield _use(
        "joints_3d", np.any(joints, axis=(1, 2)), usable, p.joints_3d is None, "no joint is valid"
    )
    yield _use(
        "relative_translation",
        np.all(joints[..., 0], axis=-1),
        usable,
        p.joints_3d is None,
        "it needs the wrists of both hands in joints_3d",
        source="joints_3d",
    )
    yield _use(
        "vertices", np.any(vertices_seen(p), axis=(1, 2)), usable, p.vertices is None, "none finite"
    )
    yield _use("collision", both, usable, False, "it needs both hands")
    yield _use("shape_difference", both, usable, False, "it needs both hands")


def _use(
    name: str,
    acts: np.ndarray,
    usable: np.ndarray,
    absent: bool,
    otherwise: str,
    *,
    source: str | None = None,
) -> TermUse:
    count = int((acts & usable).sum())
    if absent:
        return TermUse(name, 0, f"the file has no {source or name}")
    missing = int(usable.sum()) - count
    return TermUse(name, count, f"not in {missing}: {otherwise}" if missing else "")


def _frames(count: int) -> str:
    return f"{count} frame" + ("" if count == 1 else "s")
