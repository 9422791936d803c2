"""Figures of comparisons and runs, through `szn_train.figures`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from thesis_plan import BASELINE, Comparison, Figure
from thesis_results import COLUMNS, ResultRow, model_name
from thesis_runs import Runs
from thesis_variance import VarianceRow

from szn_train.evaluate import open_split
from szn_train.figures import bars_figure, confusion_figure, draw_predictions, line_figure

__all__ = ["draw_comparison", "draw_numbered"]

_MEASURES = (
    ("overall", "pa", "overall PA"),
    ("overall", "miou", "overall mIoU"),
    ("train_seen", "miou", "train_seen mIoU"),
    ("unseen", "pa", "unseen PA"),
    ("unseen", "miou", "unseen mIoU"),
)
_IMAGES = 4  # of a numbered figure of predictions


def draw_comparison(
    comparison: Comparison,
    rows: Sequence[ResultRow],
    variance: Callable[[], list[VarianceRow]],
    folder: Path,
) -> list[Path]:
    """Draw a comparison: bars, or curves where its first column is a number.

    Args:
        comparison: The comparison.
        rows: Its results; without any nothing is drawn.
        variance: Gives table 1, for the comparison that has no variants.
        folder: Where the files go.

    Returns:
        The files written.
    """
    stem = folder / comparison.name
    if not comparison.variants:
        found = variance()
        ours = [(row.j, 100 * row.kept) for row in found if row.kept is not None]
        theirs = [(row.j, 100 * row.published) for row in found if row.published is not None]
        return line_figure(
            {found[0].source: ours, "Google News, 300 dimensions (thesis)": theirs},
            stem, title=comparison.title, x="j", y="percent of the variance", logarithmic=True,
        )  # fmt: skip
    if not rows:
        return []
    if comparison.x is not None:
        series: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            for group, column, name in _MEASURES:
                value = float(getattr(row.scores[group], column))
                if math.isfinite(value) and _tells(row, group):
                    series.setdefault(f"{row.model} {name}", []).append((float(row.text), value))
        return line_figure(
            series, stem, title=comparison.title, x=comparison.x, y="percent", logarithmic=True
        )
    return bars_figure(_bars(rows, several=len(comparison.variants) > 1), stem,
                       title=comparison.title)  # fmt: skip


def _bars(rows: Sequence[ResultRow], *, several: bool) -> dict[str, dict[str, float]]:
    """Series of bars: the models of a variant, or several variants by what tells most of each.

    The thesis' numbers, where there are some, are series of their own.
    """
    bars: dict[str, dict[str, float]] = {}
    for row in rows:
        name = row.text if several else row.model
        for group, column, measure in _MEASURES:
            if several and not _tells(row, group):
                continue
            if group == "train_seen" and not any(row.sizes[1:]):  # the same as overall
                continue
            label = f"{measure}, {row.model}" if several and group == "unseen" else measure
            ours = float(getattr(row.scores[group], column))
            bars.setdefault(name, {})[label] = ours
            numbers = row.published.get(group)
            if numbers is not None:
                theirs = float(numbers[COLUMNS.index(column)])
                bars.setdefault(f"{name} (thesis)", {})[label] = theirs
    return bars


def _tells(row: ResultRow, group: str) -> bool:
    """Whether a measure of a model is worth a curve.

    Of U those of SZN and SZN-PS, of the rest those of the baseline: the others are zero or follow
    from these.
    """
    has_seenmask = row.model in {"SZN", "SZN-PS"}
    return has_seenmask if group == "unseen" else not has_seenmask and "(" not in row.model


def draw_numbered(number: int, figure: Figure, runs: Runs, folder: Path) -> list[Path]:
    """Draw one of figures 8 to 18.

    Args:
        number: Its number.
        figure: What it shows.
        runs: Where its run is found.
        folder: Where the files go.

    Returns:
        The files written.
    """
    run, evaluation = runs.run(figure.variant), runs.evaluation(figure.variant)
    model = model_name(evaluation, figure.model) or model_name(evaluation, BASELINE) or ""
    if figure.kind == "confusion":
        return confusion_figure(
            evaluation.confusions[model],
            run.split,
            folder / f"figure-{number}",
            title=f"{model} {run.split.sizes}",
        )
    return draw_predictions(
        run, open_split(run), folder / f"figure-{number}", images=_IMAGES, model=model
    )
