"""Hold a result against the truth: every metric of every frame, and what they amount to.

    result, truth (, what it was refined from)
        -> frames matched by frame_id -> chunks posed by one compiled program -> METRICS
        -> Evaluation (one number a frame and metric) -> summary -> table, JSON, CSV

Memory holds one chunk of meshes at a time and a few numbers a frame; a chunk has one shape, so
every program compiles once.
"""

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from tqdm import tqdm

from fitting.canonical import CanonicalFileError, predictions_from_arrays, read_arrays
from fitting.checks import all_reasons
from fitting.errors import InputError
from fitting.evaluation_summary import (
    LEVEL,
    Column,
    MetricSummary,
    summarise_columns,
    table_block,
    without_nan,
)
from fitting.metric_table import DEFAULT_METRICS, METRICS, NEEDS, Pair, has_need
from fitting.metrics import acceleration_error
from fitting.posed_frames import camera_kind, close_hands, pose_frames
from fitting.predictions import TwoHandPredictions
from fitting.refine import SKIPPED_INVALID
from mano_jax.model import Hands


@dataclass(frozen=True)
class Evaluation:
    """One number for each of N frames and M metrics."""

    metrics: tuple[str, ...]
    """Keys of `METRICS`."""
    units: dict[str, str]
    """Unit of each metric."""
    tolerances: dict[str, float]
    """A frame that is worse by more than this was made worse."""
    frame_id: Shaped[np.ndarray, "N"]
    """Names of the frames, in the result's order."""
    after: Float[np.ndarray, "N M"]
    """The result's metrics; NaN where a frame has nothing to measure."""
    before: Float[np.ndarray, "N M"] | None
    """The same of what the result was made from."""
    subsets: dict[str, Bool[np.ndarray, "N"]]
    """`all`, `interacting` (both hands in the truth), `close` (and near each other), `single`."""
    notes: tuple[str, ...]
    """What was left out, and why."""
    _summaries: dict[tuple[int, int], dict[str, dict[str, MetricSummary]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """Summaries by (resamples, seed): table and JSON show the same one."""

    @property
    def num_frames(self) -> int:
        """N."""
        return len(self.frame_id)

    def column(self, metric: str, *, before: bool = False) -> Float[np.ndarray, "N"]:
        """One metric of every frame.

        Raises:
            InputError: it was not measured, or there is nothing before.
        """
        values = self.before if before else self.after
        if metric not in self.metrics or values is None:
            raise InputError(
                f"{metric}{' before' if before else ''} was not measured; "
                f"measured: {', '.join(self.metrics)}{'' if values is not None else ', after only'}"
            )
        return values[:, self.metrics.index(metric)]

    def summary(
        self, *, resamples: int = 1000, seed: int = 0
    ) -> dict[str, dict[str, MetricSummary]]:
        """Statistics of every metric by subset; subsets without frames are left out.

        Where there is something before, both run over the frames that were measured in both.

        Intervals are percentiles of the means of frames drawn with replacement from the subset
        (Efron, 1979); frames of one video are not independent, which these do not know.

        Args:
            resamples: bootstrap samples.
            seed: of their draw.
        """
        if (resamples, seed) not in self._summaries:
            self._summaries[resamples, seed] = {
                name: self._summary_of(np.flatnonzero(mask), resamples, seed)
                for name, mask in self.subsets.items()
                if mask.any()
            }
        return {name: dict(found) for name, found in self._summaries[resamples, seed].items()}

    def to_table(self, *, resamples: int = 1000, seed: int = 0) -> str:
        """The summary as aligned text, one block a subset, and the notes."""
        summary = self.summary(resamples=resamples, seed=seed)
        # A subset of all frames would only repeat their table.
        whole = [name for name in summary if name != "all" and self.subsets[name].all()]
        blocks = [
            table_block(name, _frames(int(self.subsets[name].sum())), found, self.tolerances)
            for name, found in summary.items()
            if name not in whole
        ]
        if whole:
            blocks.append(f"{', '.join(whole)}: these are all frames")
        if self.notes:
            blocks.append("\n".join(f"note: {note}" for note in self.notes))
        return "\n\n".join(blocks)

    def to_json(self, *, resamples: int = 1000, seed: int = 0) -> str:
        """The summary, what the metrics are, and the notes; what is not a number is null."""
        record = {
            "frames": self.num_frames,
            "metrics": {
                key: {
                    "label": METRICS[key].label,
                    "unit": self.units[key],
                    "better": "higher" if METRICS[key].higher_is_better else "lower",
                    "worse_beyond": self.tolerances[key],
                }
                for key in self.metrics
            },
            "bootstrap": {"resamples": resamples, "seed": seed, "level": LEVEL},
            "subsets": {
                name: {
                    "frames": int(self.subsets[name].sum()),
                    "metrics": {key: asdict(one) for key, one in found.items()},
                }
                for name, found in self.summary(resamples=resamples, seed=seed).items()
            },
            "notes": list(self.notes),
        }
        return json.dumps(without_nan(record), indent=2, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """A row a frame: name, subsets (0 or 1) and metrics, empty where there is nothing."""
        flags = [name for name in self.subsets if name != "all"]
        columns = [np.where(self.subsets[name], "1", "0") for name in flags]
        header = ["frame_id", *flags, *self.metrics]
        columns += [_cells(self.after[:, i]) for i in range(len(self.metrics))]
        if self.before is not None:
            header += [f"{key}_before" for key in self.metrics]
            columns += [_cells(self.before[:, i]) for i in range(len(self.metrics))]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(zip(self.frame_id, *columns, strict=True))
        return text.getvalue()

    def _summary_of(self, rows: np.ndarray, resamples: int, seed: int) -> dict[str, MetricSummary]:
        columns = [
            Column(self.units[key], self.tolerances[key], METRICS[key].higher_is_better)
            for key in self.metrics
        ]
        before = None if self.before is None else self.before[rows]
        found = summarise_columns(self.after[rows], before, columns, resamples=resamples, seed=seed)
        return dict(zip(self.metrics, found, strict=True))


def evaluate(
    hands: Hands,
    predicted: TwoHandPredictions,
    truth: TwoHandPredictions,
    *,
    before: TwoHandPredictions | None = None,
    skipped: Bool[np.ndarray, "N"] | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    chunk: int = 32,
    progress: bool = False,
) -> Evaluation:
    """Measure every frame of a result against the truth.

    Frames are matched by `frame_id` where both files have one, else by position. Meshes, and the
    joints of a result, are posed from the parameters; without these, `vertices` and `joints_3d`
    are taken. True joints are `joints_3d` where the truth has them, measured ones for example,
    else posed. What a metric needs and the files lack leaves it out, with a note.

    Args:
        hands: the hand model of both files.
        predicted: the result.
        truth: the truth, which must not come from a fit of the same joints.
        before: what the result was made from; its frames are matched to the result's.
        skipped: frames of the result that were not refined because their input is broken; they
            count as not measured. `read_result` gives them.
        metrics: keys of `METRICS`.
        chunk: frames that are posed together.
        progress: show a progress bar.

    Raises:
        InputError: an unknown metric, no metric that can be measured, frames that cannot be
            matched, arrays that do not fit the hand model, or lengths that are not metres.
    """
    _check_keys(metrics)
    for file, role in ((predicted, "result"), (truth, "truth"), (before, "before")):
        if file is not None:
            _check_file(hands, file, role)
    rows, true_rows, notes = match_frames(predicted, truth)
    names = predicted.frame_names[rows]
    files = [predicted.frames(rows)]
    if before is not None:
        files.append(before.frames(_rows_before(predicted, before, rows)))
    truth = truth.frames(true_rows)
    left_out = np.zeros(len(rows), bool) if skipped is None else skipped[rows]
    if left_out.any():
        notes.append(f"{_frames(int(left_out.sum()))} of the result skipped, not measured")
        files = [replace(f, hand_valid=f.hand_valid & ~left_out[:, None]) for f in files]
    roles = ("the result", "what came before")[: len(files)]
    for file, role in zip((*files, truth), (*roles, "the truth"), strict=True):
        notes += _check_units(file, ~left_out, role)
    measured, omitted = _available(metrics, files[0], truth, "the result")
    if not measured:
        raise InputError(f"no metric can be measured; {'; '.join(omitted)}")
    notes += omitted
    keys = [measured]
    if before is not None:
        also, omitted = _available(measured, files[1], truth, "what came before")
        keys.append(also)
        notes += omitted
    of_metric = {key: _unit_and_tolerance(key, files[0], truth) for key in measured}
    tables, facts = _measure(hands, files, truth, keys, chunk, progress)
    wanted = truth.hand_valid & ~left_out[:, None]
    for i, (file, role) in enumerate(zip((*files, truth), (*roles, "the truth"), strict=True)):
        notes += _missing_hands(wanted, file, facts.measurable[i], truth, role)
    for i, (known, role) in enumerate(zip(keys, roles, strict=True)):
        empty = [k for k in known if not np.isfinite(tables[i][:, measured.index(k)]).any()]
        notes += _never_measured(empty, wanted, facts, i, role)
    if before is not None:
        notes += _unpaired(keys[1], measured, *tables)
    both = np.all(truth.hand_valid, axis=1)
    return Evaluation(
        metrics=measured,
        units={key: unit for key, (unit, _) in of_metric.items()},
        tolerances={key: tolerance for key, (_, tolerance) in of_metric.items()},
        frame_id=names,
        after=tables[0],
        before=tables[1] if before is not None else None,
        subsets={
            "all": np.ones(len(rows), bool),
            "interacting": both,
            "close": both & facts.close,
            "single": truth.hand_valid.sum(1) == 1,
        },
        notes=tuple(notes),
    )


def read_result(
    path: str | os.PathLike[str],
) -> tuple[TwoHandPredictions, Bool[np.ndarray, "N"]]:
    """Read a result, or any canonical `.npz` file, and which of its frames were skipped.

    Raises:
        CanonicalFileError: the file is missing or damaged, or its arrays make no predictions.
    """
    arrays = read_arrays(path)
    predictions = _predictions(path, arrays)
    frames = predictions.num_frames
    status = arrays.get("status", np.zeros(frames, np.uint8))
    if status.shape != (frames,) or not np.issubdtype(status.dtype, np.integer):
        raise CanonicalFileError(
            f"{path}: status: expected one integer for each of {frames} frames, found "
            f"{status.dtype} of shape {status.shape}; write the result again"
        )
    return predictions, status == SKIPPED_INVALID


def read_truth(path: str | os.PathLike[str]) -> TwoHandPredictions:
    """Read a truth: any canonical `.npz` file but a result, which is a fit.

    A result's `joints_3d` are the ones it was fitted to, a detector's: as a truth they would
    stand before its own hands.

    Raises:
        CanonicalFileError: the file is a result, missing or damaged, or its arrays make no
            predictions.
    """
    arrays = read_arrays(path)
    if found := [name for name in ("status", "energy_after") if name in arrays]:
        raise CanonicalFileError(
            f"{path}: found {' and '.join(found)}, so this is a result; a fit is no truth. Give "
            "the data set's annotations, or the file that the predictions were made from"
        )
    return _predictions(path, arrays)


def match_frames(
    predicted: TwoHandPredictions, truth: TwoHandPredictions
) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"], list[str]]:
    """Which rows of the result and of the truth are the same frames, and remarks.

    By `frame_id` where both have one: the result's order, frames of one file only left out with a
    remark. Else by position.

    Raises:
        InputError: a `frame_id` that is there twice, none in common, or different numbers of
            frames where one file has no `frame_id`.
    """
    if predicted.frame_id is None or truth.frame_id is None:
        if predicted.num_frames != truth.num_frames:
            lacking = "result" if predicted.frame_id is None else "truth"
            raise InputError(
                f"found {predicted.num_frames} frames in the result and {truth.num_frames} in the "
                f"truth, and no frame_id in the {lacking} to match them by: add frame_id to both, "
                "or give files with the same frames in the same order"
            )
        every = np.arange(predicted.num_frames)
        return every, every, []
    row_of = _rows_by_name(truth.frame_id, "truth")
    _rows_by_name(predicted.frame_id, "result")
    found = np.array([row_of.get(str(name), -1) for name in predicted.frame_id], np.int64)
    rows = np.flatnonzero(found >= 0)
    if len(rows) == 0:
        raise InputError(
            f"no frame_id is in both files: the result has {str(predicted.frame_id[0])!r}, ..., "
            f"the truth has {str(truth.frame_id[0])!r}, ...; give the truth of these frames"
        )
    notes = []
    if extra := predicted.num_frames - len(rows):
        notes.append(f"{_frames(extra)} of the result not in the truth, left out")
    if missing := truth.num_frames - len(rows):
        notes.append(f"{_frames(missing)} of the truth not in the result, left out")
    return rows, found[rows], notes


def _check_keys(keys: Sequence[str]) -> None:
    if unknown := [key for key in keys if key not in METRICS]:
        raise InputError(
            f"unknown metric {', '.join(map(repr, unknown))}; known: {', '.join(METRICS)}"
        )
    if not keys:
        raise InputError(f"expected at least one metric, found none; known: {', '.join(METRICS)}")


def _check_file(hands: Hands, file: TwoHandPredictions, role: str) -> None:
    if file.num_frames == 0:
        raise InputError(f"{role}: expected at least one frame, found none")
    if file.betas is not None and file.betas.shape[-1] != hands.num_betas:
        raise InputError(
            f"{role}: betas: expected {hands.num_betas} coefficients as the hand model has, found "
            f"{file.betas.shape[-1]}; load the model they belong to, or pad with zeros"
        )
    if (
        not file.has_parameters
        and file.vertices is not None
        and file.vertices.shape[-2] != hands.num_vertices
    ):
        raise InputError(
            f"{role}: vertices: expected {hands.num_vertices} a hand as the hand model has, found "
            f"{file.vertices.shape[-2]}; remove them, or load the model they belong to"
        )
    if not file.has_parameters and file.joints_3d is None:
        raise InputError(
            f"{role}: found nothing to measure: expected global_orient, hand_pose and betas, or "
            "joints_3d; add one or the other"
        )


def _check_units(file: TwoHandPredictions, kept: Bool[np.ndarray, "N"], role: str) -> list[str]:
    """Remarks on frames whose lengths are not metres or angles not radians.

    Raises:
        InputError: most frames are such: the unit is wrong, not a frame.
    """
    notes = []
    for bad, reason in all_reasons(file):
        found = int((bad & kept).sum())
        if not found or not any(unit in reason for unit in ("expected metres", "expected radians")):
            continue
        if 2 * found > kept.sum():
            raise InputError(f"{role}: {_frames(found)} of {int(kept.sum())}: {reason}")
        notes.append(f"{_frames(found)} of {role}: {reason}")
    return notes


def _missing_hands(
    wanted: Bool[np.ndarray, "N 2"],
    file: TwoHandPredictions,
    measurable: Bool[np.ndarray, "N 2"],
    truth: TwoHandPredictions,
    role: str,
) -> list[str]:
    """Remarks on hands of the truth that a file lacks, or has without numbers."""
    notes, total = [], int(truth.hand_valid.sum())
    for missing, what in (
        (wanted & ~file.hand_valid, f"are not in {role}"),
        (wanted & file.hand_valid & ~measurable, f"lack a finite wrist or mesh in {role}"),
    ):
        if count := int(missing.sum()):
            frames = _frames(int(missing.any(1).sum()))
            notes.append(f"{count} of the truth's {total} hands {what} ({frames}), not measured")
    return notes


def _never_measured(
    keys: Sequence[str], wanted: Bool[np.ndarray, "N 2"], facts: "_Facts", file: int, role: str
) -> list[str]:
    """Remarks on metrics that were measured in no frame of a file, by cause."""
    both = wanted.all(1)
    apart = [
        name
        for name, together in ((role, facts.together[file]), ("the truth", facts.together[-1]))
        if not together[both].any()
    ]
    by_cause: dict[str, list[str]] = {}
    for key in keys:
        cause = ""
        if not (wanted & facts.measurable[file] & facts.measurable[-1]).any():
            cause = f": {role} and the truth share no hand"
        elif METRICS[key].both_hands and not both.any():
            cause = ": no frame of the truth has both hands"
        elif METRICS[key].both_hands and apart:
            cause = (
                f": nothing says where the hands of {' and '.join(apart)} are to each other; add "
                "relative_transl or joints_3d"
            )
        elif key == "acceleration_error":
            cause = ": no three frames of a sequence follow each other"
        by_cause.setdefault(cause, []).append(key)
    return [
        f"{', '.join(found)}: could be measured in no frame of {role}{cause}"
        for cause, found in by_cause.items()
    ]


def _unpaired(
    keys: Sequence[str], measured: Sequence[str], after: np.ndarray, before: np.ndarray
) -> list[str]:
    """Remarks on frames that were measured on one side of the comparison only."""
    new, old = np.isfinite(after), np.isfinite(before)
    notes = []
    for only, what in (
        (old & ~new, "lost: {} measured before and not after, not compared: {}"),
        (new & ~old, "gained: {} measured after and not before, not compared: {}"),
    ):
        by_count: dict[int, list[str]] = {}
        for key in keys:
            if count := int(only[:, measured.index(key)].sum()):
                by_count.setdefault(count, []).append(key)
        notes += [what.format(_frames(n), ", ".join(found)) for n, found in by_count.items()]
    return notes


def _predictions(path: str | os.PathLike[str], arrays: dict[str, np.ndarray]) -> TwoHandPredictions:
    try:
        return predictions_from_arrays(arrays)
    except InputError as error:
        raise CanonicalFileError(f"{path}: {error}") from error


def _rows_by_name(names: np.ndarray, role: str) -> dict[str, int]:
    rows = {str(name): row for row, name in enumerate(names)}
    if len(rows) < len(names):
        unique, counts = np.unique(names, return_counts=True)
        raise InputError(
            f"{role}: frame_id {str(unique[counts.argmax()])!r} is there {counts.max()} times; "
            "expected every frame once: make the names unique"
        )
    return rows


def _rows_before(
    predicted: TwoHandPredictions, before: TwoHandPredictions, rows: np.ndarray
) -> np.ndarray:
    """Rows of `before` for these rows of the result."""
    if predicted.frame_id is None or before.frame_id is None:
        if predicted.num_frames != before.num_frames:
            raise InputError(
                f"before: found {before.num_frames} frames, but {predicted.num_frames} in the "
                "result, and no frame_id in both to match them by; give the file that was refined"
            )
        return rows
    row_of = _rows_by_name(before.frame_id, "before")
    names = [str(name) for name in predicted.frame_id[rows]]
    if lacking := [name for name in names if name not in row_of]:
        raise InputError(
            f"before: {_frames(len(lacking))} of the result are not in it, {lacking[0]!r} for "
            "one; give the file that was refined"
        )
    return np.array([row_of[name] for name in names], np.int64)


def _available(
    keys: Sequence[str], file: TwoHandPredictions, truth: TwoHandPredictions, role: str
) -> tuple[tuple[str, ...], list[str]]:
    """Metrics that can be measured of a file, and remarks about the others."""
    there = {need: has_need(need, file, truth) for need in NEEDS}
    measured, left_out = [], {}
    for key in dict.fromkeys(keys):
        lacking = [need for need in METRICS[key].needs if not there[need]]
        if lacking:
            left_out.setdefault(NEEDS[lacking[0]].format(file=role), []).append(key)
        else:
            measured.append(key)
    return tuple(measured), [f"{', '.join(k)} left out: {why}" for why, k in left_out.items()]


def _unit_and_tolerance(
    key: str, file: TwoHandPredictions, truth: TwoHandPredictions
) -> tuple[str, float]:
    metric = METRICS[key]
    if metric.unit != "image":
        return metric.unit, metric.tolerance
    pixels = (camera_kind(file) or camera_kind(truth)) == "perspective"
    return ("px", 0.1) if pixels else ("crop", metric.tolerance)


@dataclass(frozen=True)
class _Facts:
    """What the frames of each file, the truth last, and of the truth are like."""

    measurable: list[Bool[np.ndarray, "N 2"]]
    """`Posed.measurable`."""
    together: list[Bool[np.ndarray, "N"]]
    """`Posed.together`."""
    close: Bool[np.ndarray, "N"]
    """The truth's hands are near each other."""


def _measure(
    hands: Hands,
    files: Sequence[TwoHandPredictions],
    truth: TwoHandPredictions,
    keys: Sequence[tuple[str, ...]],
    chunk: int,
    progress: bool,
) -> tuple[list[np.ndarray], _Facts]:
    """Each file's metrics of every frame, and what the frames are like.

    A table (N, M) has the first file's M metrics; a column that another file lacks is NaN.
    """
    frames = truth.num_frames
    size = max(1, min(chunk, frames))
    tables = [np.full((frames, len(keys[0])), np.nan) for _ in files]
    tracks = [_Track(frames) if "acceleration_error" in known else None for known in keys]
    facts = _Facts(
        [np.zeros((frames, 2), bool) for _ in (*files, truth)],
        [np.zeros(frames, bool) for _ in (*files, truth)],
        np.zeros(frames, bool),
    )
    with tqdm(total=frames, unit="frame", disable=not progress, desc="measuring") as bar:
        for first in range(0, frames, size):
            rows = np.minimum(np.arange(first, first + size), frames - 1)
            real = slice(first, min(first + size, frames))
            count = real.stop - first
            true = pose_frames(hands, _chunk(truth, rows, count), measured_joints=True)
            pairs = [Pair(hands, pose_frames(hands, _chunk(f, rows, count)), true) for f in files]
            for pair, table, track, known in zip(pairs, tables, tracks, keys, strict=True):
                for key in known:
                    if (compute := METRICS[key].compute) is not None:
                        table[real, keys[0].index(key)] = compute(pair)[:count]
                if track is not None:
                    track.add(pair, real)
            for i, posed in enumerate((*(pair.predicted for pair in pairs), true)):
                facts.measurable[i][real] = posed.measurable[:count]
                facts.together[i][real] = posed.together[:count]
            facts.close[real] = close_hands(true)[:count]
            bar.update(count)
    for file, table, track in zip(files, tables, tracks, strict=True):
        if track is not None:
            column = keys[0].index("acceleration_error")
            table[:, column] = track.acceleration_error(file, truth)
    return tables, facts


class _Track:
    """The joints of all frames, for the one metric that looks at a frame's neighbours."""

    def __init__(self, frames: int) -> None:
        self.predicted = np.zeros((frames, 2, 21, 3), np.float32)
        self.truth = np.zeros((frames, 2, 21, 3), np.float32)
        self.valid = np.zeros((frames, 2, 21), bool)

    def add(self, pair: Pair, rows: slice) -> None:
        """Keep a chunk's joints."""
        count = rows.stop - rows.start
        self.predicted[rows] = pair.predicted.joints[:count]
        self.truth[rows] = pair.truth.joints[:count]
        self.valid[rows] = pair.joint_valid[:count]

    def acceleration_error(
        self, file: TwoHandPredictions, truth: TwoHandPredictions
    ) -> Float[np.ndarray, "N"]:
        """Measured in the order of time, answered in the order of the frames."""
        sequence = truth.sequence_id if truth.sequence_id is not None else file.sequence_id
        time = truth.timestamp if truth.timestamp is not None else file.timestamp
        assert sequence is not None, "needs a sequence"
        order = np.lexsort((np.arange(len(sequence)) if time is None else time, sequence))
        valid = self.valid[order]
        found = np.full(len(order), np.nan)
        found[order] = acceleration_error(
            self.predicted[order],
            self.truth[order],
            valid.any(-1),
            valid,
            sequence_id=sequence[order],
        )
        return found


def _chunk(file: TwoHandPredictions, rows: np.ndarray, count: int) -> TwoHandPredictions:
    """Some frames; the copies that fill the chunk up have no hands, so that they cost nothing."""
    part = file.frames(rows)
    return replace(part, hand_valid=part.hand_valid & (np.arange(len(rows)) < count)[:, None])


def _cells(values: np.ndarray) -> list[str]:
    return [f"{value:.6g}" if np.isfinite(value) else "" for value in values]


def _frames(count: int) -> str:
    return f"{count} frame" + ("" if count == 1 else "s")
