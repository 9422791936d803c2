"""Curves: a run's loss and mIoU over its epochs, and any other series of numbers."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from szn_runtime.errors import InputError
from szn_train.figures.canvas import new_figure, save_figure, wrapped

__all__ = ["history_figure", "line_figure"]

Points = Sequence[tuple[float, float]]


def history_figure(history: Path, stem: Path, *, title: str) -> list[Path]:
    """Draw loss and, where the run validated its epochs, the score over the epochs of both steps.

    The score is what early stop looks at: mIoU of train_seen, or for the seenmask the harmonic mean
    of train_seen and train_unseen mIoU.

    Args:
        history: A run's `history.csv`.
        stem: Of the files; the data is a copy of the history's numbers as CSV.
        title: Above the curves.

    Returns:
        The files written.

    Raises:
        InputError: If the file is missing, has no epoch, or a number of it is none.
    """
    try:
        with history.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise InputError(
            f"{history} is missing", expected="the table of epochs that szn-train writes"
        ) from None
    if not rows:
        raise InputError(f"{history} has no epoch")
    losses = _series(history, rows, "loss")
    mious = _series(history, rows, "score") if "score" in rows[0] else {}
    panels = [("loss", losses)] + ([("score (mIoU), percent", mious)] if mious else [])
    figure, [axes] = new_figure(5 * len(panels), 3.4, columns=len(panels))
    for panel, (name, series) in zip(axes, panels, strict=True):
        for label, points in series.items():
            panel.plot(*zip(*points, strict=True), marker=".", label=label)
        panel.set_xlabel("epoch")
        panel.set_ylabel(name)
        panel.grid(alpha=0.3)
        panel.legend()
    figure.suptitle(title)
    return save_figure(figure, stem, rows)


def _series(history: Path, rows: Sequence[Mapping[str, str]], key: str) -> dict[str, Points]:
    """Points (epoch, value) of a column for each step; cells that are empty have none."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        try:
            if row[key]:
                point = (float(row["epoch"]), float(row[key]))
                series.setdefault(row["step"], []).append(point)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{history} is damaged", got=f"{key} {row.get(key)}") from error
    return dict(series)


def line_figure(
    series: Mapping[str, Points],
    stem: Path,
    *,
    title: str,
    x: str,
    y: str,
    logarithmic: bool = False,
) -> list[Path]:
    """Draw lines, such as the explained variance over the dimensions (thesis table 1).

    Args:
        series: Name of each line to its points (x, y); a dashed line is drawn for names that
            end with "(thesis)".
        stem: Of the files; the data is a CSV file with a row for each point.
        title: Above the lines.
        x: What the horizontal axis shows.
        y: What the vertical axis shows.
        logarithmic: Whether the horizontal axis is; the points' own positions are its ticks.

    Returns:
        The files written.
    """
    inches = 5.5
    figure, [[axes]] = new_figure(inches, 3.6)
    for name, points in series.items():
        style = "--" if name.endswith("(thesis)") else "-"
        axes.plot(*zip(*points, strict=True), style, marker="o", label=name)
    if logarithmic:
        axes.set_xscale("log")
        positions = sorted({position for points in series.values() for position, _ in points})
        axes.set_xticks(positions, [f"{position:g}" for position in positions])
        axes.set_xticks([], minor=True)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(wrapped(title, inches))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    rows = [
        {"series": name, x: position, y: value}
        for name, points in series.items()
        for position, value in points
    ]
    return save_figure(figure, stem, rows)
