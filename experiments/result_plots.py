"""Histograms of a result: THE energy before and after, and by how much it fell."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from fitting.errors import InputError
from fitting.outcome import SKIPPED_INVALID
from mano_jax.files import write_whole
from objectives.total import TERMS


def draw_histograms(
    chunks: Iterable[Mapping[str, np.ndarray]], terms: Sequence[str], out: Path, *, title: str
) -> None:
    """Draw the histograms of a result's energies; needs the `plots` extra.

    Args:
        chunks: `status`, `energy_before` and `energy_after` of consecutive frames.
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
    parts = [
        np.stack([c["energy_before"], c["energy_after"]])[:, c["status"] != SKIPPED_INVALID]
        for c in chunks
    ]
    energies = np.concatenate(parts, axis=1).astype(np.float64)
    shown = {"total": energies.sum(-1)} | {
        term: energies[..., column] for term, column in zip(terms, columns, strict=True)
    }
    wide = 3
    high = -(-(len(shown)) // wide)
    figure = Figure(figsize=(4.2 * wide, 2.8 * high), layout="constrained")
    figure.suptitle(f"{title}: weighted energy of {energies.shape[1]} frames")
    for axes, (name, (before, after)) in zip(
        figure.subplots(high, wide, squeeze=False).flat, shown.items(), strict=False
    ):
        positive = np.concatenate([before, after])
        positive = positive[positive > 0]
        low, top = (positive.min(), positive.max()) if len(positive) else (1e-3, 1.0)
        bins = np.geomspace(max(low, top * 1e-6), max(top, low * 1.01) * 1.01, 41)
        for values, label in ((before, "before"), (after, "after")):
            axes.hist(np.clip(values, bins[0], bins[-1]), bins=bins, alpha=0.55, label=label)
        axes.set_xscale("log")
        axes.set_title(name)
        axes.legend()
    for axes in figure.axes[len(shown) :]:
        axes.set_visible(False)
    write_whole(out, lambda file: figure.savefig(file, format="png", dpi=110))
