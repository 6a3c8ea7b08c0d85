"""Histograms of a result: how far it is from what was seen, and THE energy, before and after."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from fitting.errors import InputError
from fitting.fit_errors import FIT_ERRORS
from fitting.outcome import SKIPPED_INVALID
from mano_jax.files import write_whole
from objectives.total import TERMS


def draw_histograms(
    chunks: Iterable[Mapping[str, np.ndarray]], terms: Sequence[str], out: Path, *, title: str
) -> None:
    """Draw the histograms of a result's fit errors and energies; needs the `plots` extra.

    Args:
        chunks: `status`, `fit_error_before`, `energy_before` and their `_after` of consecutive
            frames.
        terms: the terms of THE energy, each of which gets a picture beside the sum's.
        out: picture to write (.png).
        title: above it.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(
            "histograms need matplotlib: pip install 'manofit[plots]', or leave --plot out"
        ) from error
    columns = [list(TERMS).index(term) for term in terms]
    errors, energies = _before_and_after(chunks, ("fit_error", "energy"))
    measured = np.asarray(np.isfinite(errors).all(axis=0))
    shown = {
        name: errors[:, measured[:, i], i]
        for i, name in enumerate(FIT_ERRORS)
        if measured[:, i].any()
    }
    shown["energy"] = energies.sum(-1)
    for term, column in zip(terms, columns, strict=True):
        shown[f"energy: {term}"] = energies[..., column]
    wide = 3
    high = -(-(len(shown)) // wide)
    figure = Figure(figsize=(4.2 * wide, 2.8 * high), layout="constrained")
    figure.suptitle(f"{title}: {energies.shape[1]} frames, weighted energies")
    for axes, (name, (before, after)) in zip(
        figure.subplots(high, wide, squeeze=False).flat, shown.items(), strict=False
    ):
        bins = _bins(np.concatenate([before, after]), logarithmic=name not in FIT_ERRORS)
        for values, label in ((before, "before"), (after, "after")):
            axes.hist(np.clip(values, bins[0], bins[-1]), bins=bins, alpha=0.55, label=label)
        if name not in FIT_ERRORS:
            axes.set_xscale("log")
            axes.tick_params(axis="x", which="minor", labelsize=6, labelrotation=45)
        axes.set_title(name)
        axes.legend()
    for axes in figure.axes[len(shown) :]:
        axes.set_visible(False)
    write_whole(out, lambda file: figure.savefig(file, format="png", dpi=110))


def _bins(values: np.ndarray, *, logarithmic: bool) -> np.ndarray:
    """Edges of forty bins that hold all values; the lowest of logarithmic ones holds zeros too."""
    if not logarithmic:
        return np.linspace(0.0, max(values.max(), 1e-6) * 1.01, 41)
    positive = values[values > 0]
    low, top = (positive.min(), positive.max()) if len(positive) else (1e-3, 1.0)
    return np.geomspace(max(low, top * 1e-6), max(top, low * 1.01) * 1.01, 41)


def _before_and_after(
    chunks: Iterable[Mapping[str, np.ndarray]], names: Sequence[str]
) -> list[np.ndarray]:
    """Each array of all frames that were not skipped, (before and after, frames, columns)."""
    parts: list[list[np.ndarray]] = [[] for _ in names]
    for chunk in chunks:
        used = chunk["status"] != SKIPPED_INVALID
        for part, name in zip(parts, names, strict=True):
            part.append(np.stack([chunk[f"{name}_before"], chunk[f"{name}_after"]])[:, used])
    return [np.concatenate(part, axis=1).astype(np.float64) for part in parts]
