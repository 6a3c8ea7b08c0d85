"""What became of all frames of a result, in numbers: read chunk by chunk, so of any length."""

import heapq
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from fitting.fit_errors import FIT_ERRORS
from fitting.outcome import KEPT_INPUT, REFINED, SKIPPED_INVALID, RefinedHands
from objectives.total import TERMS

SUMMARY_NAMES: Final = (
    "frame_id",
    "status",
    "reason",
    "energy_before",
    "energy_after",
    "fit_error_before",
    "fit_error_after",
)
"""Arrays of a result that a summary is made from."""

WORST: Final = 10
"""Frames that are listed by name."""

_NUMBERS: Final = re.compile(r" from \S+ to \S+$")
"""What tells one frame's reason from another's."""


@dataclass(frozen=True)
class WorstFrame:
    """A frame that ends with a great energy."""

    frame_id: str
    """Its name, or its number."""
    energy_before: float
    """THE energy at the start."""
    energy_after: float
    """And at the end."""


@dataclass(frozen=True)
class ResultSummary:
    """What became of all frames; `str` of it is the report."""

    frames: int
    """All of them: the next three together."""
    refined: int
    """Frames whose energy fell."""
    kept_input: int
    """Frames given back as they came, for nothing better was found."""
    skipped_invalid: int
    """Frames that could not be refined."""
    kept_reasons: dict[str, int]
    """Why frames were kept, the commonest first."""
    skipped_reasons: dict[str, int]
    """Why frames were skipped, the commonest first."""
    energy_before: dict[str, float]
    """Mean of the frames that were not skipped: each term of THE energy, and the `total`."""
    energy_after: dict[str, float]
    """The same at the end."""
    fit_error_before: dict[str, float]
    """Each of `FIT_ERRORS`, its mean over the frames that have something to measure."""
    fit_error_after: dict[str, float]
    """The same at the end."""
    worst: tuple[WorstFrame, ...]
    """The frames of greatest energy at the end."""

    def __post_init__(self):
        """Account for every frame."""
        counted = self.refined + self.kept_input + self.skipped_invalid
        if counted != self.frames:
            raise AssertionError(f"{counted} of {self.frames} frames are accounted for")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    def to_json(self) -> str:
        """The summary for machines."""
        return json.dumps(self.to_dict(), indent=2)

    def __str__(self) -> str:
        """The report."""
        lines = [
            f"{self.frames} frames: {self.refined} refined, {self.kept_input} kept as they came, "
            f"{self.skipped_invalid} skipped"
        ]
        for word, reasons in (("kept", self.kept_reasons), ("skipped", self.skipped_reasons)):
            lines += [f"  {word}: {count} x {reason}" for reason, count in reasons.items()]
        for heading, before, after in (
            ("fit error, mean of frames", self.fit_error_before, self.fit_error_after),
            ("weighted energy, mean of frames", self.energy_before, self.energy_after),
        ):
            rows = [(name, start, after[name]) for name, start in before.items()]
            lines += _rows(heading, rows)
        worst = [(f.frame_id, f.energy_before, f.energy_after) for f in self.worst]
        return "\n".join(lines + _rows("greatest energy at the end", worst))


def summarise_chunks(
    chunks: Iterable[Mapping[str, np.ndarray]], *, frames: int, terms: Sequence[str]
) -> ResultSummary:
    """Sum up a result.

    Args:
        chunks: arrays `SUMMARY_NAMES` of consecutive frames; `frame_id` may be missing.
        frames: how many there must be in all.
        terms: the terms of THE energy; the others have no share in it.
    """
    counts, kept, skipped = np.zeros(3, np.int64), Counter(), Counter()
    before, after, seen = np.zeros(len(TERMS)), np.zeros(len(TERMS)), 0
    errors, measured = np.zeros((2, len(FIT_ERRORS))), np.zeros(len(FIT_ERRORS), np.int64)
    worst: list[tuple[float, int, WorstFrame]] = []
    for chunk in chunks:
        status, first = chunk["status"], seen
        seen += len(status)
        counts += np.bincount(status, minlength=3)
        kept.update(_NUMBERS.sub("", str(r)) for r in chunk["reason"][status == KEPT_INPUT])
        skipped.update(str(r) for r in chunk["reason"][status == SKIPPED_INVALID])
        done = np.flatnonzero(status != SKIPPED_INVALID)
        b, a = (chunk[f"energy_{when}"].astype(np.float64) for when in ("before", "after"))
        before += b[done].sum(0)
        after += a[done].sum(0)
        start_end = np.stack([chunk["fit_error_before"], chunk["fit_error_after"]])
        finite = np.isfinite(start_end).all(axis=0)
        errors += np.where(finite, start_end, 0.0).sum(axis=1, dtype=np.float64)
        measured += finite.sum(axis=0)
        for i in done[np.argsort(-a[done].sum(1), kind="stable")[:WORST]]:
            name = str(chunk["frame_id"][i]) if "frame_id" in chunk else str(first + i)
            frame = WorstFrame(name, float(b[i].sum()), float(a[i].sum()))
            # The earlier of two equal ones first; the number also spares comparing records.
            worst.append((frame.energy_after, -(first + int(i)), frame))
        worst = heapq.nlargest(WORST, worst)
    used = max(1, int(counts[REFINED] + counts[KEPT_INPUT]))

    def means(sums: np.ndarray) -> dict[str, float]:
        share = {t: float(s) / used for t, s in zip(TERMS, sums, strict=True) if t in terms}
        return share | {"total": float(sums.sum()) / used}

    def error_means(sums: np.ndarray) -> dict[str, float]:
        numbered = enumerate(FIT_ERRORS)
        return {name: float(sums[i] / measured[i]) for i, name in numbered if measured[i]}

    return ResultSummary(
        frames=frames,
        refined=int(counts[REFINED]),
        kept_input=int(counts[KEPT_INPUT]),
        skipped_invalid=int(counts[SKIPPED_INVALID]),
        kept_reasons=dict(kept.most_common()),
        skipped_reasons=dict(skipped.most_common()),
        energy_before=means(before) if counts[:2].any() else {},
        energy_after=means(after) if counts[:2].any() else {},
        fit_error_before=error_means(errors[0]),
        fit_error_after=error_means(errors[1]),
        worst=tuple(frame for _, _, frame in worst),
    )


def _rows(heading: str, rows: Sequence[tuple[str, float, float]]) -> list[str]:
    """Lines of a table of numbers before and after; none without rows."""
    table = [f"  {name:30s} {before:10.4f} {after:10.4f}" for name, before, after in rows]
    return [f"{heading:32s} {'before':>10s} {'after':>10s}", *table] if rows else []


def summarise_result(result: RefinedHands) -> ResultSummary:
    """Sum up a result in memory."""
    return summarise_chunks(
        [result.arrays()], frames=result.num_frames, terms=result.strategy.reported
    )
