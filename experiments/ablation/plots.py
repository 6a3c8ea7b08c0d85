"""Pictures of an ablation: bars by row, trade-offs, heat maps. They need the `plots` extra."""

import io
import json
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from experiments.ablation.spec import AS_IT_IS, Spec, strategy_name
from experiments.ablation.tables import BEFORE, Line, columns
from fitting.errors import InputError

TRADE_OFF: Final = ("i_mpjpe", "ave_p")
"""The two that IHMR's table weighs against each other."""
_COLOURS: Final = ("#3b6fb6", "#d1495b", "#5b8c5a", "#8e6c8a", "#c98b2b", "#4f9d9d")


def draw(spec: Spec, lines: Sequence[Line]) -> dict[str, bytes]:
    """PNG pictures by name.

    Raises:
        InputError: matplotlib is not there.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise InputError(
            "pictures need matplotlib: install the 'plots' extra, or ask for no pictures"
        ) from error
    matplotlib.use("Agg")
    pictures = {}
    for data in dict.fromkeys(line.data for line in lines):
        here = [line for line in lines if line.data == data]
        prefix = "" if len(spec.data) == 1 else f"{data} "
        for metric, title in columns(spec).items():
            pictures[f"{prefix}bars {metric}"] = _bars(here, metric, title, data)
        if set(TRADE_OFF) <= set(spec.metrics):
            pictures[f"{prefix}trade-off"] = _trade_off(spec, here, data)
        if spec.grid and len(spec.values) == 2:
            for strategy in map(strategy_name, spec.strategies):
                some = [line for line in here if line.strategy == strategy]
                for metric, title in columns(spec).items():
                    name = f"{prefix}heat map {metric} {strategy}"
                    pictures[name] = _heat_map(spec, some, metric, f"{strategy}: {title}")
    return pictures


def _bars(lines: Sequence[Line], metric: str, title: str, data: str) -> bytes:
    from matplotlib import pyplot

    height = 0.9 + 0.28 * len(lines)
    figure, axes = pyplot.subplots(figsize=(7.5, height), layout="constrained")
    colours = _by_strategy(lines)
    for place, line in enumerate(reversed(lines)):
        mean = line.mean[metric]
        reach = [[max(mean.mean - mean.low, 0)], [max(mean.high - mean.mean, 0)]]
        axes.barh(place, mean.mean, xerr=reach, color=colours[line.strategy], capsize=2, height=0.7)
    axes.set_yticks(range(len(lines)), [line.name for line in reversed(lines)], fontsize=8)
    axes.set(xlabel=title, title=data, xlim=(0, None))
    axes.grid(axis="x", alpha=0.3)
    return _png(figure)


def _trade_off(spec: Spec, lines: Sequence[Line], data: str) -> bytes:
    """Every row a numbered point; `before`, which is far away, is left to the bars."""
    from matplotlib import pyplot

    shown = [line for line in lines if line.row != BEFORE]
    figure, axes = pyplot.subplots(figsize=(9, 4.6), layout="constrained")
    across, up = TRADE_OFF
    colours = _by_strategy(lines)
    for number, line in enumerate(shown, start=1):
        x, y = line.mean[across], line.mean[up]
        reach = [[[max(i.mean - i.low, 0)], [max(i.high - i.mean, 0)]] for i in (x, y)]
        axes.errorbar(
            x.mean,
            y.mean,
            xerr=reach[0],
            yerr=reach[1],
            fmt="s" if line.row == AS_IT_IS else "o",
            color=colours[line.strategy],
            elinewidth=0.4,
            label=f"{number}  {line.name}",
        )
        axes.annotate(
            str(number), (x.mean, y.mean), xytext=(4, 4), textcoords="offset points", fontsize=9
        )
    axes.set(
        xlabel=columns(spec)[across],
        ylabel=columns(spec)[up],
        title=f"{data}: nearer to the corner is better",
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)
    return _png(figure)


def _heat_map(spec: Spec, lines: Sequence[Line], metric: str, title: str) -> bytes:
    from matplotlib import pyplot

    (first, rows), (second, columns) = spec.values.items()
    by_row = {line.row: line.mean[metric].mean for line in lines}
    table = np.array(
        [
            [by_row[f"{first}={json.dumps(a)}, {second}={json.dumps(b)}"] for b in columns]
            for a in rows
        ]
    )
    size = (2.2 + 0.9 * len(columns), 1.4 + 0.5 * len(rows))
    figure, axes = pyplot.subplots(figsize=size, layout="constrained")
    axes.imshow(table, cmap="viridis_r", aspect="auto")
    axes.set_xticks(range(len(columns)), [str(b) for b in columns])
    axes.set_yticks(range(len(rows)), [str(a) for a in rows])
    middle = (np.nanmin(table) + np.nanmax(table)) / 2
    for (i, j), value in np.ndenumerate(table):
        colour = "white" if value > middle else "black"
        axes.text(j, i, f"{value:.3g}", ha="center", va="center", color=colour, fontsize=8)
    axes.set(xlabel=second, ylabel=first, title=title)
    return _png(figure)


def _by_strategy(lines: Sequence[Line]) -> dict[str, str]:
    names = [name for name in dict.fromkeys(line.strategy for line in lines) if name]
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names)}
    return {"": "#999999", **colours}


def _png(figure: Any) -> bytes:
    from matplotlib import pyplot

    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    pyplot.close(figure)
    return content.getvalue()
