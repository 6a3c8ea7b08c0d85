"""Which frames can be refined, why the others cannot, and what a file holds.

A file that contradicts itself or the hand model is an error. A frame that is broken is not: it
gets a reason, and comes back as it was.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Shaped

from fitting.errors import InputError
from fitting.initialise import LENGTH_PAIRS, MINIMUM_JOINTS
from fitting.initialise_keypoints import MINIMUM_HAND_KEYPOINTS
from fitting.initialise_vertices import MINIMUM_VERTICES
from fitting.predictions import TwoHandPredictions
from fitting.root_translation import MINIMUM_KEYPOINTS, root_is_solvable
from mano_jax.model import SIDES, Hands
from objectives.total import TERMS

LONGEST_BONE: Final = 0.5
"""A hand whose bones are longer than this (m, their median) is not in metres."""

FARTHEST_VERTEX: Final = 0.5
"""A mesh whose vertices are farther than this (m, their median) from its middle is not in metres;
a single vertex that is, is no target."""

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

START_SOURCES: Final = {
    "vertices": f"{MINIMUM_VERTICES} vertices",
    "joints_3d": f"{MINIMUM_JOINTS} joints in joints_3d",
    "keypoints_2d": f"{MINIMUM_HAND_KEYPOINTS} keypoints in a view of keypoints_2d",
}
"""What a frame without parameters can start from, and how much of each hand that takes; a frame
takes the first that shows enough of all its hands."""

_ONE_HAND_TERMS: Final = (
    "finger_twist",
    "joint_limits",
    "bone_scale",
    "shape_prior",
    "pose_prior",
)
"""Terms that need no more than a hand."""

_TARGET_TERMS: Final = ("keypoints_2d", "joints_3d", "relative_translation", "vertices")
"""Terms that hold the hands against something in the file."""

_TERMS_OF_ANY_STRATEGY: Final = (*_TARGET_TERMS, "collision", "shape_difference")
"""What a summary lists unless told: what the file decides about."""


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
        InputError: no frames, arrays that do not fit the hand model, keypoints without a camera,
            or nothing to start from.
    """
    p = predictions
    if p.num_frames == 0:
        raise InputError("hand_valid: expected at least one frame, found none")
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
    if not p.has_parameters and all(getattr(p, name) is None for name in START_SOURCES):
        raise InputError(
            "found nothing to start from: expected global_orient, hand_pose and betas, or "
            "vertices, or joints_3d, or keypoints_2d with a camera; add one of them"
        )


def frame_reasons(predictions: TwoHandPredictions, hands: Hands) -> Shaped[np.ndarray, "N"]:
    """Why each frame cannot be refined, "" where it can: the first reason that holds.

    Rows of absent hands are not looked at.

    Raises:
        InputError: as for `check_file`.
    """
    check_file(predictions, hands)
    reasons = np.full(predictions.num_frames, "", dtype=object)
    for bad, reason in all_reasons(predictions):
        reasons[bad & (reasons == "")] = reason
    return reasons.astype(str)


def summarise(
    predictions: TwoHandPredictions, hands: Hands, terms: Collection[str] | None = None
) -> InputSummary:
    """What the file holds, what will act on it and what will be skipped.

    Args:
        predictions: the file.
        hands: the hand model.
        terms: names of the terms that a strategy weighs; None lists those that depend on what
            the file holds.

    Raises:
        InputError: as for `check_file`, or a term that is none of the objective's.
    """
    if unknown := sorted(set(terms or ()) - set(TERMS)):
        raise InputError(f"unknown term {', '.join(unknown)}; known: {', '.join(TERMS)}")
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
        start=_start_in_words(predictions, usable),
        usable=int(usable.sum()),
        terms=tuple(_term_uses(predictions, usable, terms)),
        bad_frames=tuple(sorted(bad_frames, key=lambda bad: -bad.count)),
    )


def start_sources(predictions: TwoHandPredictions) -> Shaped[np.ndarray, "N"]:
    """What each frame starts from: "parameters", one of `START_SOURCES`, or "" where neither."""
    if predictions.has_parameters:
        return np.full(predictions.num_frames, "parameters")
    enough = _enough_to_start(predictions)
    every = {name: np.all(e | ~predictions.hand_valid, axis=-1) for name, e in enough.items()}
    return np.select(list(every.values()), list(every), "")


def joints_from_vertices(predictions: TwoHandPredictions) -> Bool[np.ndarray, "N"]:
    """Frames that start from vertices and have no 3D joint: the fitted ones stand for them.

    Without them nothing would hold such a frame where its vertices are in the strategies that
    weigh joints only.
    """
    from_vertices = start_sources(predictions) == "vertices"
    return from_vertices & ~np.any(joints_seen(predictions), axis=(1, 2))


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


def keypoints_used(predictions: TwoHandPredictions) -> Bool[np.ndarray, "N C 2 21"]:
    """Keypoints of frames whose hands have a place before the camera, or can be given one.

    With `K` that needs `root_transl`, or keypoints enough to solve it from.
    """
    return keypoints_seen(predictions) & _placeable(predictions)[:, None, None, None]


def vertices_seen(predictions: TwoHandPredictions) -> Bool[np.ndarray, "N 2 V"]:
    """Finite vertices, near enough to the others, of hands that are there."""
    if predictions.vertices is None:
        return np.zeros((predictions.num_frames, 2, 0), bool)
    distance, _ = _from_the_middle(predictions.vertices)
    return (distance <= FARTHEST_VERTEX) & predictions.hand_valid[..., None]


def sound_weak_cameras(weak_camera: Float[np.ndarray, "N 3"]) -> Bool[np.ndarray, "N"]:
    """Whether a weak camera can be used: finite, with a positive scale."""
    return np.all(np.isfinite(weak_camera), axis=-1) & (weak_camera[:, 0] > 0)


def sound_intrinsics(K: Float[np.ndarray, "N C 3 3"]) -> Bool[np.ndarray, "N C"]:
    """Whether intrinsics can be used: finite, with positive focal lengths."""
    return np.all(np.isfinite(K), axis=(-2, -1)) & (np.minimum(K[..., 0, 0], K[..., 1, 1]) > 0)


def rigid_transforms(T: Float[np.ndarray, "N C 4 4"]) -> Bool[np.ndarray, "N C"]:
    """Whether transforms are finite, and a rotation with a translation."""
    finite = np.all(np.isfinite(T), axis=(-2, -1))
    R = np.where(finite[..., None, None], T, np.eye(4, dtype=T.dtype))[..., :3, :3]
    R = R.astype(np.float64)
    error = np.abs(R @ np.swapaxes(R, -1, -2) - np.eye(3)).max((-2, -1))
    return finite & (error < 1e-3) & (np.linalg.det(R) > 0)


def _enough_to_start(p: TwoHandPredictions) -> dict[str, np.ndarray]:
    """Whether each hand (N, 2) can start from each source that the file has."""
    enough = {
        "vertices": vertices_seen(p).sum(-1) >= MINIMUM_VERTICES,
        "joints_3d": joints_seen(p).sum(-1) >= MINIMUM_JOINTS,
        "keypoints_2d": keypoints_seen(p).sum(-1).max(axis=1) >= MINIMUM_HAND_KEYPOINTS,
    }
    return {name: enough[name] for name in START_SOURCES if getattr(p, name) is not None}


def _start_in_words(p: TwoHandPredictions, usable: np.ndarray) -> str:
    if p.has_parameters:
        return "the predicted parameters"
    used = set(start_sources(p)[usable])
    return ", ".join(name for name in START_SOURCES if name in used) or "nothing"


def _seen(points: np.ndarray) -> np.ndarray:
    return np.all(np.isfinite(points), axis=-1) & (points[..., -1] > 0)


def _placeable(p: TwoHandPredictions) -> np.ndarray:
    """Frames whose hands have a place before the camera, or can be given one."""
    if p.K is None:
        return np.ones(p.num_frames, bool)
    given = np.zeros(p.num_frames, bool)
    if p.root_transl is not None:
        given = np.all(np.isfinite(p.root_transl), axis=-1)
    return given | root_is_solvable(keypoints_seen(p))


def _from_the_middle(vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each vertex's distance to the median of its hand's, NaN where not finite; the medians."""
    finite = np.all(np.isfinite(vertices), axis=-1, keepdims=True)
    # Sorted by coordinate, the finite ones first; a hand without any has an infinite median.
    ordered = np.sort(np.where(finite, vertices, np.inf), axis=-2)
    half = np.maximum(finite.sum(-2, keepdims=True) - 1, 0) // 2
    middle = np.take_along_axis(ordered, half, axis=-2).astype(np.float64)
    distance = np.linalg.norm(np.where(finite, vertices, 0.0) - middle, axis=-1)
    return np.where(finite[..., 0], distance, np.nan), middle[..., 0, :]


def all_reasons(p: TwoHandPredictions) -> Iterator[tuple[np.ndarray, str]]:
    """Every way for a frame to be unusable: which frames, and the words for it."""
    yield ~np.any(p.hand_valid, axis=-1), "no hand"
    if p.has_parameters:
        yield from _parameter_reasons(p)
    else:
        yield from _start_reasons(p)
    yield from _joint_reasons(p)
    yield from _vertex_reasons(p)
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


def _start_reasons(p: TwoHandPredictions) -> Iterator[tuple[np.ndarray, str]]:
    enough = _enough_to_start(p)
    needs = " or ".join(START_SOURCES[name] for name in enough)
    some = np.any(list(enough.values()), axis=0)
    for hand, side in enumerate(SIDES):
        yield (
            p.hand_valid[:, hand] & ~some[:, hand],
            f"no prediction, and too little of the {side} hand to start from: expected at least "
            f"{needs}",
        )
    yield (
        start_sources(p) == "",
        f"no prediction, and neither {' nor '.join(enough)} shows enough of both hands",
    )


def _joint_reasons(p: TwoHandPredictions) -> Iterator[tuple[np.ndarray, str]]:
    joints = p.joints_with_confidence()
    if joints is None:
        return
    seen = joints_seen(p)
    a, b = LENGTH_PAIRS.T
    for hand, side in enumerate(SIDES):
        there = p.hand_valid[:, hand]
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


def _vertex_reasons(p: TwoHandPredictions) -> Iterator[tuple[np.ndarray, str]]:
    if p.vertices is None:
        return
    distance, middle = _from_the_middle(p.vertices)
    far = (distance > FARTHEST_VERTEX).sum(-1) > 0.5 * np.isfinite(distance).sum(-1)
    away = np.any(np.isfinite(distance), axis=-1) & (
        np.linalg.norm(middle, axis=-1) > FARTHEST_HAND
    )
    for hand, side in enumerate(SIDES):
        there = p.hand_valid[:, hand]
        yield (
            there & far[:, hand],
            f"vertices of the {side} hand are farther than {FARTHEST_VERTEX:g} m from its middle; "
            "expected metres, are they millimetres?",
        )
        yield (
            there & away[:, hand],
            f"vertices of the {side} hand are farther than {FARTHEST_HAND:g} m from the origin; "
            "expected metres",
        )


def _translation_reasons(p: TwoHandPredictions) -> Iterator[tuple[np.ndarray, str]]:
    both = np.all(p.hand_valid, axis=-1)
    if p.relative_transl is not None:
        finite = np.all(np.isfinite(p.relative_transl), axis=-1)
        yield both & ~finite, "relative_transl is not finite"
        known = np.where(p.relative_transl_known(), p.relative_transl, 0.0)
        _, large = _finite_and_large(known, FARTHEST_WRISTS)
        yield (
            both & large,
            f"relative_transl is longer than {FARTHEST_WRISTS:g} m; expected metres, is it "
            "millimetres?",
        )
    elif p.has_parameters:
        wrists = np.all(joints_seen(p)[..., 0], axis=-1)
        yield both & ~wrists, "no relative_transl, and joints_3d lack a wrist to take it from"
    if p.root_transl is not None and p.K is not None:
        _, large = _finite_and_large(p.root_transl, FARTHEST_HAND)
        yield (
            large,
            f"root_transl is longer than {FARTHEST_HAND:g} m; expected metres, is it millimetres?",
        )


def _camera_reasons(p: TwoHandPredictions) -> Iterator[tuple[np.ndarray, str]]:
    yield from _unit_reasons(p)
    # A camera that nothing of a frame is seen by is not used there, so it may be anything.
    used = np.any(keypoints_used(p), axis=(-2, -1))
    if p.weak_camera is not None:
        finite = np.all(np.isfinite(p.weak_camera), axis=-1)
        yield used[:, 0] & ~finite, "weak_camera is not finite"
        sound = sound_weak_cameras(p.weak_camera)
        yield used[:, 0] & ~sound, "the scale of weak_camera is not positive"
    if p.K is None:
        return
    yield (used & ~np.all(np.isfinite(p.K), axis=(-2, -1))).any(-1), "K is not finite"
    yield (used & ~sound_intrinsics(p.K)).any(-1), "a focal length in K is not positive"
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
        rigid = rigid_transforms(T)
        yield (needed & ~rigid).any(-1), "T_camera_world is not a rotation and a translation"


def _unit_reasons(p: TwoHandPredictions) -> Iterator[tuple[np.ndarray, str]]:
    """Pixels taken for crop coordinates, and the other way round."""
    keypoints, seen = p.keypoints_by_view(), keypoints_used(p)
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


def _term_uses(
    p: TwoHandPredictions, usable: np.ndarray, terms: Collection[str] | None
) -> Iterator[TermUse]:
    """How often each of the terms acts, and which targets none of them looks at."""
    weighed = _TERMS_OF_ANY_STRATEGY if terms is None else terms
    for name in TERMS:
        use = _term_use(name, p, usable)
        if name in weighed:
            yield use
        elif name in _TARGET_TERMS and use.frames > 0:
            yield TermUse(name, 0, "not weighed by this strategy")


def _term_use(name: str, p: TwoHandPredictions, usable: np.ndarray) -> TermUse:
    if name in _ONE_HAND_TERMS:
        return TermUse(name, int(usable.sum()))
    if name == "keypoints_2d":
        return _keypoint_use(p, usable)
    if name == "joints_3d":
        acts = np.any(joints_seen(p), axis=(1, 2)) | joints_from_vertices(p)
        otherwise = "no joint is valid"
    elif name == "relative_translation":
        stand_in = joints_from_vertices(p) & np.all(p.hand_valid, axis=-1)
        acts = np.all(joints_seen(p)[..., 0], axis=-1) | stand_in
        otherwise = "it needs the wrists of both hands in joints_3d"
    elif name.startswith("predicted_"):
        return _prediction_use(name, p, usable)
    elif name == "vertices":
        acts, otherwise = np.any(vertices_seen(p), axis=(1, 2)), "no vertex is valid"
    else:
        acts, otherwise = np.all(p.hand_valid, axis=-1), "it needs both hands"
    source = "joints_3d" if name == "relative_translation" else name
    if source == "joints_3d" and p.joints_3d is None and np.any(acts & usable):
        return TermUse(name, int((acts & usable).sum()), "of the joints fitted to the vertices")
    if name in _TARGET_TERMS and getattr(p, source) is None:
        return TermUse(name, 0, f"the file has no {source}")
    return TermUse(name, int((acts & usable).sum()), _missing(usable & ~acts, otherwise))


_PREDICTED_FIELDS: Final = {
    "predicted_orientation": "global_orient",
    "predicted_pose": "hand_pose",
    "predicted_shape": "betas",
    "predicted_translation": "relative_transl",
    "predicted_depth": "relative_transl",
    "predicted_camera": "weak_camera",
}


def _prediction_use(name: str, p: TwoHandPredictions, usable: np.ndarray) -> TermUse:
    source = _PREDICTED_FIELDS[name]
    if not p.has_parameters or getattr(p, source) is None:
        return TermUse(name, 0, f"the file has no {source}")
    if source != "relative_transl":
        return TermUse(name, int(usable.sum()))
    both = np.all(p.hand_valid, axis=-1)
    axes = slice(2, 3) if name == "predicted_depth" else slice(0, 2)
    known = p.relative_transl_known()[:, axes].any(-1)
    remarks = (
        _missing(usable & ~both, "it needs both hands"),
        _missing(usable & both & ~known, "relative_transl_confidence is 0"),
    )
    return TermUse(name, int((both & known & usable).sum()), "; ".join(filter(None, remarks)))


def _keypoint_use(p: TwoHandPredictions, usable: np.ndarray) -> TermUse:
    name = "keypoints_2d"
    if p.keypoints_2d is None:
        return TermUse(name, 0, f"the file has no {name}")
    seen, used = (np.any(k(p), axis=(1, 2, 3)) for k in (keypoints_seen, keypoints_used))
    remarks = (
        _missing(usable & ~seen, "no keypoint is valid"),
        _missing(
            usable & seen & ~used,
            f"no view has {MINIMUM_KEYPOINTS} keypoints to solve root_transl from",
        ),
    )
    return TermUse(name, int((used & usable).sum()), "; ".join(filter(None, remarks)))


def _missing(frames: np.ndarray, reason: str) -> str:
    count = int(frames.sum())
    return f"not in {count}: {reason}" if count else ""


def _frames(count: int) -> str:
    return f"{count} frame" + ("" if count == 1 else "s")
