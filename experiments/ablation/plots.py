"""Pictures of an ablation: bars by row, trade-offs, heat maps. They need the `plots` extra."""

import io
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from experiments.ablation.spec import AS_IT_IS, Spec, setting, strategy_name
from experiments.ablation.tables import BEFORE, Line, columns
from fitting.errors import InputError
from fitting.evaluation_summary import Interval

TRADE_OFF: Final = ("i_mpjpe", "ave_p")
"""The two that IHMR's table weighs against each other."""
_COLOURS: Final = ("#3b6fb6", "#d1495b", "#5b8c5a", "#8e6c8a", "#c98b2b", "#4f9d9d")


def check_drawable() -> None:
    """Refuse before anything has run what could not be drawn after it.

    Raises:
        InputError: matplotlib is not there.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise InputError(
            "pictures need matplotlib: install the 'plots' extra, or give --no-pictures"
        ) from error
    matplotlib.use("Agg")


def draw(spec: Spec, lines: Sequence[Line]) -> dict[str, bytes]:
    """PNG pictures by name.

    Raises:
        InputError: matplotlib is not there.
    """
    check_drawable()
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
    for metric, title in columns(spec).items():
        if len(spec.data) > 1:
            pictures[f"over the data {metric}"] = _over_data(lines, metric, title)
        if spec.values and not spec.grid:
            pictures[f"over the values {metric}"] = _over_values(spec, lines, metric, title)
    return pictures


def _over_data(lines: Sequence[Line], metric: str, title: str) -> bytes:
    """A curve a row, along the data in their order."""
    from matplotlib import pyplot

    names = list(dict.fromkeys(line.data for line in lines))
    figure, axes = pyplot.subplots(figsize=(9, 4), layout="constrained")
    for row in dict.fromkeys(line.name for line in lines):
        means = [line.mean[metric] for line in lines if line.name == row]
        colour = "#999999" if row == BEFORE else None
        (curve,) = axes.plot(names, [i.mean for i in means], "o-", label=row, color=colour)
        low, high = [i.low for i in means], [i.high for i in means]
        axes.fill_between(names, low, high, color=curve.get_color(), alpha=0.12, linewidth=0)
    axes.set(ylabel=title, ylim=(0, None))
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)
    return _png(figure)


def _over_values(spec: Spec, lines: Sequence[Line], metric: str, title: str) -> bytes:
    """A panel a setting: the metric at its values, dashed the strategy as it is."""
    from matplotlib import pyplot

    across = min(4, len(spec.values))
    down = -(-len(spec.values) // across)
    figure, panels = pyplot.subplots(
        down, across, figsize=(2.6 * across, 2.1 * down), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    by_name = {(line.data, line.strategy, line.row): line for line in lines}
    curves = list(dict.fromkeys((d, s) for d, s, row in by_name if row == AS_IT_IS))
    for axes, (path, values) in zip(panels.flat, spec.values.items(), strict=False):
        for number, (data, strategy) in enumerate(curves):
            colour = _COLOURS[number % len(_COLOURS)]
            means = [by_name[data, strategy, setting(path, v)].mean[metric] for v in values]
            label = strategy if len(spec.data) == 1 else f"{strategy}, {data}"
            ticks = [str(v) for v in values]
            axes.errorbar(
                ticks,
                [i.mean for i in means],
                yerr=_reach(means),
                fmt="o-",
                color=colour,
                label=label,
                elinewidth=0.6,
                markersize=4,
            )
            as_it_is = by_name[data, strategy, AS_IT_IS].mean[metric].mean
            axes.axhline(as_it_is, color=colour, linestyle="--", linewidth=0.8)
        axes.set_title(
            path.removesuffix("*") + (" times" if path.endswith("*") else ""), fontsize=8
        )
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
    for axes in panels.flat[len(spec.values) :]:
        axes.set_visible(False)
    figure.supylabel(title, fontsize=9)
    panels[0, 0].legend(fontsize=7)
    return _png(figure)


def _bars(lines: Sequence[Line], metric: str, title: str, data: str) -> bytes:
    from matplotlib import pyplot

    height = 0.9 + 0.28 * len(lines)
    figure, axes = pyplot.subplots(figsize=(7.5, height), layout="constrained")
    colours = _by_strategy(lines)
    for place, line in enumerate(reversed(lines)):
        mean = line.mean[metric]
        axes.barh(
            place,
            mean.mean,
            xerr=_reach([mean]),
            color=colours[line.strategy],
            capsize=2,
            height=0.7,
        )
    axes.set_yticks(range(len(lines)), [line.name for line in reversed(lines)], fontsize=8)
    axes.set(xlabel=title, title=data, xlim=(0, None))
    axes.grid(axis="x", alpha=0.3)
    return _png(figure)


def _trade_off(spec: Spec, lines: Sequence[Line], data: str) -> bytes:
    """Every row a numbered point; `before`, which is far away, is left to the bars."""
    from matplotlib import pyplot

    shown = [line for line in lines if line.row != BEFORE]
    height = max(4.6, 0.19 * len(shown))
    figure, axes = pyplot.subplots(figsize=(9, height), layout="constrained")
    across, up = TRADE_OFF
    colours = _by_strategy(lines)
    for number, line in enumerate(shown, start=1):
        x, y = line.mean[across], line.mean[up]
        axes.errorbar(
            x.mean,
            y.mean,
            xerr=_reach([x]),
            yerr=_reach([y]),
            fmt="s" if line.row == AS_IT_IS else "o",
            color=colours[line.strategy],
            elinewidth=0.4,
            label=f"{number}  {line.name}",
        )
        axes.annotate(
            str(number), (x.mean, y.mean), xytext=(4, 4), textcoords="offset points", fontsize=9
        )
    heights = [line.mean[up].mean for line in shown]
    if max(heights) > 5 * (middle := float(np.median(heights))) > 0:
        axes.set_yscale("symlog", linthresh=middle)  # one outlier would squeeze the others
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
        [[by_row[f"{setting(first, a)}, {setting(second, b)}"] for b in columns] for a in rows]
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


def _reach(intervals: Sequence[Interval]) -> list[list[float]]:
    """Of error bars; a bootstrap interval may leave out its own mean by a rounding."""
    down = [max(i.mean - i.low, 0.0) for i in intervals]
    return [down, [max(i.high - i.mean, 0.0) for i in intervals]]


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
