"""The objectives: pure per-frame energies and residuals of two posed hands."""

from objectives.problem import (
    Observations,
    PerspectiveViews,
    TwoHandParams,
    posed_hands,
    posed_joints,
)
from objectives.total import TERMS, Priors, make_priors, term_energies, weighted_sum

__all__ = [
    "TERMS",
    "Observations",
    "PerspectiveViews",
    "Priors",
    "TwoHandParams",
    "make_priors",
    "posed_hands",
    "posed_joints",
    "term_energies",
    "weighted_sum",
]
