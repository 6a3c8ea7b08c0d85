"""Cells fitted one by one, each a line of `results.jsonl`; what is there is not repeated."""

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from experiments.ablation.spec import Cell, Spec, cells
from experiments.benchmark import (
    DetectorNoise,
    RegressorErrors,
    make_interactions,
    predicted_again,
)
from experiments.json_lines import append_line, read_lines
from experiments.records import provenance
from fitting.canonical import read_predictions
from fitting.errors import InputError
from fitting.evaluation import evaluate, read_truth
from fitting.predictions import TwoHandPredictions
from fitting.refine import SKIPPED_INVALID, STATUS_NAMES, refine
from fitting.strategy import strategy_to_toml
from mano_jax.model import Hands

RESULTS = "results.jsonl"


@dataclass(frozen=True)
class Result:
    """What one fit came to."""

    strategy: str
    """Preset or file."""
    row: str
    """Row of settings."""
    data: str
    """Which data."""
    seed: int
    """Which draw of them."""
    metrics: dict[str, list[float | None]]
    """One number a frame by metric; None where there is nothing to measure."""
    before: dict[str, list[float | None]]
    """The same of the predictions."""
    status: dict[str, int]
    """What became of the frames."""
    seconds: float
    """How long the fit took, with its share of compiling."""
    fingerprint: str
    """Of everything that decides the figures."""
    provenance: dict[str, Any]
    """Command, commit, device, versions."""

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What tells it from the others."""
        return self.strategy, self.row, self.data, self.seed


def run_cells(
    spec: Spec, hands: Hands, folder: Path, *, hand_model: str = "", progress: bool = False
) -> list[Result]:
    """Fit what is not in the folder's results yet; all results of this spec, in its order.

    A line is added when its fit is done, so an interrupted ablation loses the fit at hand. Lines
    of other settings, data or hands stay in the file and are not used.

    Args:
        spec: what to compare.
        hands: the hand model.
        folder: where `results.jsonl` is, or is to be.
        hand_model: fingerprint of the hand model.
        progress: show a progress bar.

    Raises:
        InputError: a strategy, setting or file that cannot be used.
    """
    plan = cells(spec)
    path = folder / RESULTS
    path.parent.mkdir(parents=True, exist_ok=True)
    there = {result.fingerprint: result for result in read_results(path)}
    prints = {cell.key: fingerprint(spec, cell, hand_model) for cell in plan}
    load = _Loader(spec, hands)
    missing = [cell for cell in plan if prints[cell.key] not in there]
    for cell in tqdm(missing, unit="fit", disable=not progress, desc="ablating"):
        result = _fit(spec, hands, cell, *load(cell), prints[cell.key])
        append_line(path, asdict(result))
        there[result.fingerprint] = result
    return [there[prints[cell.key]] for cell in plan]


def read_results(path: Path) -> list[Result]:
    """The lines of a file of results.

    Raises:
        InputError: a line is no result.
    """
    found = []
    for number, line in enumerate(read_lines(path), start=1):
        try:
            found.append(Result(**line))
        except TypeError as error:
            raise InputError(
                f"{path}, line {number}: no result of an ablation ({error}); take the line out"
            ) from error
    return found


def fingerprint(spec: Spec, cell: Cell, hand_model: str) -> str:
    """Of what decides a cell's figures: strategy as it runs, frames, data, metrics, hand model."""
    data = [asdict(d) for d in spec.data if d.name == cell.data]
    files = None if spec.files is None else [_digest(Path(p)) for p in asdict(spec.files).values()]
    decisive = (
        strategy_to_toml(cell.plan),
        *(cell.strategy, cell.row, cell.data, cell.seed),
        *(spec.frames, spec.metrics, data, files, hand_model),
    )
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


class _Loader:
    """Truth and predictions of a cell; the interactions of a seed are drawn once."""

    def __init__(self, spec: Spec, hands: Hands):
        self._data = {data.name: data for data in spec.data}
        self._spec = spec
        self._hands = hands
        self._truth = lru_cache(maxsize=None)(
            lambda seed: make_interactions(hands, frames=spec.frames, seed=seed)[0]
        )

    def __call__(self, cell: Cell) -> tuple[TwoHandPredictions, TwoHandPredictions]:
        spec = self._spec
        if spec.files is not None:
            predictions = read_predictions(Path(spec.files.predictions))
            truth, first = read_truth(spec.files.truth), slice(spec.frames)
            # Frames without names are matched by their position.
            named = predictions.frame_id is not None and truth.frame_id is not None
            return truth if named else truth.frames(first), predictions.frames(first)
        truth, data = self._truth(cell.seed), self._data[cell.data]
        predictions = predicted_again(
            self._hands,
            truth,
            regressor=RegressorErrors(**data.regressor),
            detector=DetectorNoise(**data.detector),
            seed=cell.seed,
        )
        return truth, predictions


def _fit(
    spec: Spec,
    hands: Hands,
    cell: Cell,
    truth: TwoHandPredictions,
    predictions: TwoHandPredictions,
    print_: str,
) -> Result:
    begin = time.perf_counter()
    result = refine(hands, predictions, cell.plan)
    seconds = time.perf_counter() - begin
    found = evaluate(
        hands,
        result.predictions,
        truth,
        before=predictions,
        skipped=result.status == SKIPPED_INVALID,
        metrics=spec.metrics,
    )
    after, before = (
        {name: _numbers(found.column(name, before=b)) for name in spec.metrics}
        for b in (False, True)
    )
    return Result(
        *cell.key,
        metrics=after,
        before=before,
        status={name: result.count(i) for i, name in enumerate(STATUS_NAMES)},
        seconds=seconds,
        fingerprint=print_,
        provenance=provenance("experiments.cli"),
    )


def _numbers(values: np.ndarray) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values]
