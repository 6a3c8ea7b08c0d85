"""Synthetic two-hand interactions with known truth, and a simulated regressor's view of them.

**Everything here is synthetic.** The hands are those of the model in use, in poses drawn from its
own samples; nobody was photographed.

    interactions.py   true frames: two hands in contact, five contact types (arrangements.py)
    regressor.py      predictions: correlated errors of the published size
    detector.py       estimates of the joints: noise, outliers, missing joints
    make.py           both together, in memory or as files
"""

from experiments.benchmark.arrangements import TYPE_NAMES
from experiments.benchmark.detector import DetectorNoise
from experiments.benchmark.interactions import TRUTH_GAP_MM, TRUTH_MAX_P_MM
from experiments.benchmark.make import (
    frame_type,
    make_interactions,
    observed_again,
    predicted_again,
    write_benchmark,
)
from experiments.benchmark.regressor import RegressorErrors

__all__ = [
    "TRUTH_GAP_MM",
    "TRUTH_MAX_P_MM",
    "TYPE_NAMES",
    "DetectorNoise",
    "RegressorErrors",
    "frame_type",
    "make_interactions",
    "observed_again",
    "predicted_again",
    "write_benchmark",
]
