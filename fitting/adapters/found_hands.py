"""Hands that were found one by one, joined into frames by image and side."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from fitting.adapters.formats import Conventions, Evidence
from fitting.adapters.poses import placed
from fitting.errors import InputError
from fitting.predictions import TwoHandPredictions


@dataclass(frozen=True)
class FoundHands:
    """D hands, each with the image it was found in; canonical poses, camera axes, metres."""

    image: Shaped[np.ndarray, "D"]
    """Names of images, strings."""
    side: Int[np.ndarray, "D"]
    """0 right, 1 left."""
    global_orient: Float[np.ndarray, "D 3"]
    hand_pose: Float[np.ndarray, "D 15 3"]
    betas: Float[np.ndarray, "D S"]
    wrist: Float[np.ndarray, "D 3"] | None = None
    """In the camera's frame."""
    K: Float[np.ndarray, "D 3 3"] | None = None
    """Intrinsics of the image, pixels."""
    keypoints_2d: Float[np.ndarray, "D 21 3"] | None = None
    """Measured ones, pixels of the image with confidence: targets of a fit."""
    joints: Float[np.ndarray, "D 21 3"] | None = None
    """The source's own joints, evidence only."""
    pixels: Float[np.ndarray, "D 21 2"] | None = None
    """The source's own projection in pixels of the image, evidence only."""
    images: tuple[str, ...] = ()
    """All images in the file's order, with those that show no hand; empty: those of `image`."""

    @classmethod
    def concatenate(cls, parts: Sequence["FoundHands"]) -> "FoundHands":
        """Hands one after the other; every part has the same fields.

        Raises:
            InputError: no parts.
        """
        if not parts:
            raise InputError("expected a hand at least, found none")
        joined = {
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(cls)
            if isinstance(getattr(parts[0], field.name), np.ndarray)
        }
        images = tuple(name for part in parts for name in part.images)
        return cls(images=images, **joined)


@dataclass(frozen=True)
class Frames:
    """Which found hand is whose in N frames."""

    name: Shaped[np.ndarray, "N"]
    """Names of the frames."""
    row: Int[np.ndarray, "N 2"]
    """The detection that is a frame's right and left hand; -1 for none."""
    notes: tuple[str, ...]
    """What could not be joined."""

    @property
    def valid(self) -> Bool[np.ndarray, "N 2"]:
        """Which hands each frame has."""
        return self.row >= 0

    def spread(self, values: np.ndarray, fill: float = 0.0) -> np.ndarray:
        """Rows of detections (D, ...) as frames' hands (N, 2, ...)."""
        if len(values) == 0:
            return np.full((*self.row.shape, *values.shape[1:]), fill)
        there = self.valid.reshape(*self.row.shape, *[1] * (values.ndim - 1))
        return np.where(there, values[np.maximum(self.row, 0)], fill)

    def anchored(self, values: np.ndarray) -> np.ndarray:
        """Each frame's anchor row (N, ...): the right hand's, or the left one's without it."""
        anchor = np.where(self.row[:, 0] >= 0, self.row[:, 0], self.row[:, 1])
        return values[np.maximum(anchor, 0)]


def join(found: FoundHands) -> Frames:
    """Join hands by image and side.

    One right hand, one left hand, or one of each in an image are a frame. Where an image shows
    several hands of a side, which belong together is not known: each becomes a frame of its own,
    IMAGE#0, IMAGE#1, ... in the order of the file, and a note says so.
    """
    images = list(dict.fromkeys(found.images or found.image.tolist()))
    number = {name: i for i, name in enumerate(images)}
    which = np.array([number[name] for name in found.image.tolist()], np.int64)
    count = np.zeros((len(images), 2), np.int64)
    np.add.at(count, (which, found.side), 1)
    crowded = np.any(count > 1, axis=1)

    row = np.full((len(images), 2), -1)
    plain = ~crowded[which]
    row[which[plain], found.side[plain]] = np.flatnonzero(plain)
    names, rows = [], []
    # Detections by image, in the file's order within each.
    order = np.argsort(which, kind="stable")
    first = np.searchsorted(which[order], np.arange(len(images) + 1))
    for i, name in enumerate(images):
        if not crowded[i]:
            names.append(name)
            rows.append(row[i])
            continue
        for k, detection in enumerate(order[first[i] : first[i + 1]]):
            alone = np.full(2, -1)
            alone[found.side[detection]] = detection
            names.append(f"{name}#{k}")
            rows.append(alone)
    notes = ()
    if np.any(crowded):
        some = [images[i] for i in np.flatnonzero(crowded)[:3]] + ["..."] * int(crowded.sum() > 3)
        notes = (
            f"several hands of one side in {crowded.sum()} of {len(images)} images "
            f"({', '.join(some)}): which belong together is not known, so their "
            f"{int(count[crowded].sum())} hands are frames of their own, named IMAGE#0, IMAGE#1, "
            "...",
        )
    return Frames(np.array(names, dtype=str), np.array(rows).reshape(-1, 2), notes)


def to_predictions(
    conventions: Conventions, found: FoundHands, frames: Frames
) -> tuple[TwoHandPredictions, Evidence]:
    """The joined hands as canonical predictions, and the source's own points beside them."""
    given: dict[str, np.ndarray] = {}
    if found.wrist is not None:
        given |= placed(frames.spread(found.wrist), frames.valid)
        if conventions.two_hands == "apart":
            unknown = np.tile([1.0, 1.0, 0.0], (len(frames.valid), 1))
            given["relative_transl_confidence"] = unknown
    if found.K is not None:
        given["K"] = frames.anchored(found.K)[:, None]
    if found.keypoints_2d is not None:
        given["keypoints_2d"] = frames.spread(found.keypoints_2d)
    predictions = TwoHandPredictions(
        hand_valid=frames.valid,
        global_orient=frames.spread(found.global_orient),
        hand_pose=frames.spread(found.hand_pose),
        betas=frames.spread(found.betas),
        frame_id=frames.name,
        **given,
    )
    evidence = Evidence(
        joints=None if found.joints is None else frames.spread(found.joints, np.nan),
        pixels=None if found.pixels is None else frames.spread(found.pixels, np.nan),
    )
    return predictions, evidence
