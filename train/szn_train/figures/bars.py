"""Bars that stand side by side: models, losses or splits against each other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from szn_train.figures.canvas import new_figure, save_figure, wrapped

__all__ = ["bars_figure"]


def bars_figure(
    series: Mapping[str, Mapping[str, float]],
    stem: Path,
    *,
    title: str,
    y: str = "percent",
    numbers: bool = True,
) -> list[Path]:
    """Draw a group of bars for each category and one bar in it for each series.

    Args:
        series: Name of each series to its categories and their values; a category that a series
            lacks, or whose value is NaN, gets no bar. Hatched are names that end with "(thesis)".
        stem: Of the files; the data is a CSV file with a row for each bar.
        title: Above the bars.
        y: What the height is.
        numbers: Whether the value stands on each bar.

    Returns:
        The files written.
    """
    categories = list(
        dict.fromkeys(
            name for values in series.values() for name, v in values.items() if math.isfinite(v)
        )
    )
    long = max((len(category) for category in categories), default=0) > 12 or len(categories) > 8
    width = 0.8 / max(len(series), 1)
    inches = 1.5 + 0.33 * len(categories) * max(len(series), 1.5)
    # the legend stands below, in two columns
    height = 3.4 + 0.2 * math.ceil(len(series) / 2) + (0.8 if long else 0)
    inches = min(max(inches, 4.5), 16)
    figure, [[axes]] = new_figure(inches, height)
    rows: list[dict[str, str | float]] = []
    for place, (name, values) in enumerate(series.items()):
        shown = [
            (position, category)
            for position, category in enumerate(categories)
            if math.isfinite(values.get(category, math.nan))
        ]
        bars = axes.bar(
            [position + (place - (len(series) - 1) / 2) * width for position, _ in shown],
            [values[category] for _, category in shown],
            width,
            label=name,
            hatch="//" if name.endswith("(thesis)") else None,
        )
        if numbers:
            axes.bar_label(bars, fmt="%.1f", fontsize=6, padding=1)
        rows += [{"series": name, "category": c, y: values[c]} for _, c in shown]
    axes.set_xticks(range(len(categories)), categories)
    if long:
        for label in axes.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")
    axes.set_ylabel(y)
    axes.set_title(wrapped(title, inches))
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    return save_figure(figure, stem, rows)
