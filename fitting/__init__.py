"""Fitting: from a regressor's predictions to refined hands."""

from fitting.adapters import read_input
from fitting.canonical import read_predictions, write_arrays, write_predictions
from fitting.checks import InputSummary, summarise
from fitting.driver import refine_stream
from fitting.errors import InputError
from fitting.evaluation import Evaluation, evaluate, read_result, read_truth
from fitting.predictions import TwoHandPredictions
from fitting.prepare import Prepared, prepare
from fitting.refine import STATUS_NAMES, RefinedHands, refine
from fitting.strategy import (
    Acceptance,
    Stage,
    Strategy,
    load_strategy,
    override,
    preset_names,
    strategy_from_toml,
    strategy_to_toml,
)

__all__ = [
    "STATUS_NAMES",
    "Acceptance",
    "Evaluation",
    "InputError",
    "InputSummary",
    "Prepared",
    "RefinedHands",
    "Stage",
    "Strategy",
    "TwoHandPredictions",
    "evaluate",
    "load_strategy",
    "override",
    "prepare",
    "preset_names",
    "read_input",
    "read_predictions",
    "read_result",
    "read_truth",
    "refine",
    "refine_stream",
    "strategy_from_toml",
    "strategy_to_toml",
    "summarise",
    "write_arrays",
    "write_predictions",
]
