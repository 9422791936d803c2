"""Results of comparisons as rows of numbers, with the published ones beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thesis_plan import ALL_LABELS, BASELINE, Comparison

from szn_train.evaluate import GROUPS, Evaluation
from szn_train.metrics import Mode, Scores

__all__ = [
    "COLUMNS",
    "TITLES",
    "Evaluations",
    "ResultRow",
    "model_name",
    "published_number",
    "published_numbers",
    "result_rows",
    "scores_of",
    "table_cells",
]

COLUMNS = ("pa", "ca", "miou", "wiou")
TITLES = {"pa": "PA", "ca": "CA", "miou": "mIoU", "wiou": "wIoU", "harmonic": "harmonic mIoU"}
_SHOWN = (
    ("overall", "pa"), ("overall", "miou"), ("train_seen", "pa"), ("train_seen", "miou"),
    ("unseen", "pa"), ("unseen", "miou"),
)  # fmt: skip
"""Of a table without published numbers."""
_PUBLISHED = tuple((group, column) for group in ("overall", "seen", "unseen") for column in COLUMNS)

Evaluations = Mapping[str, Evaluation | None]
"""Name of a variant to its evaluation, None if it could not be trained; others are to come."""


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One model of one variant.

    Attributes:
        text: Of the comparison's first column.
        variant: Its name.
        model: Name of the model.
        sizes: (|train_seen|, |train_unseen|, |U|).
        scores: Group to scores.
        harmonic: Harmonic mean of train_seen and unseen mIoU, NaN without either.
        published: Group to the thesis' four numbers, where there are some.
    """

    text: str
    variant: str
    model: str
    sizes: tuple[int, int, int]
    scores: Mapping[str, Scores]
    harmonic: float
    published: Mapping[str, Sequence[float]]

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it; None where there is no number."""
        return {
            "text": self.text,
            "variant": self.variant,
            "model": self.model,
            "sizes": list(self.sizes),
            **{group: _finite(found.to_dict()) for group, found in self.scores.items()},
            "harmonic_miou": self.harmonic if math.isfinite(self.harmonic) else None,
            "published": {group: list(numbers) for group, numbers in self.published.items()},
        }


def published_numbers() -> dict[str, Any]:
    """The thesis' tables 1 to 6, from `thesis_tables.json` beside this file."""
    path = Path(__file__).with_name("thesis_tables.json")
    numbers: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return numbers


def model_name(evaluation: Evaluation, model: str) -> str | None:
    """Name in the evaluation of a model as claims call it, or None if the run has no such model."""
    names = list(evaluation.confusions)
    if model == BASELINE:
        return names[0]
    if model == ALL_LABELS:
        model = f"{names[0]} (all labels)"
    return model if model in names else None


def result_rows(
    comparison: Comparison, evaluations: Evaluations, mode: Mode, published: Mapping[str, Any]
) -> list[ResultRow]:
    """Rows of the variants that have been evaluated.

    Args:
        comparison: The comparison.
        evaluations: Results so far.
        mode: Reading of the metrics.
        published: What `published_numbers` returns.
    """
    rows = []
    for text, variant in comparison.variants.items():
        evaluation = evaluations.get(variant)
        if evaluation is None:
            continue
        for number, model in enumerate(evaluation.confusions):
            keys = comparison.published.get((text, BASELINE if number == 0 else model), ())
            numbers = _at(published, keys) if keys else {}
            rows.append(
                ResultRow(
                    text=text,
                    variant=variant,
                    model=model,
                    sizes=evaluation.split.sizes,
                    scores={
                        group: scores_of(evaluation, model, group, mode, comparison.unseen)
                        for group in GROUPS
                    },
                    harmonic=evaluation.harmonic_miou(model, mode),
                    published=numbers if isinstance(numbers, Mapping) else {"overall": numbers},
                )
            )
    return rows


def scores_of(
    evaluation: Evaluation, model: str, group: str, mode: Mode, unseen: tuple[str, ...] | None
) -> Scores:
    """Scores of a group; those of `unseen` are about other labels than U if some are given."""
    if group == "unseen" and unseen is not None:
        return evaluation.scores_of(model, unseen, mode)
    return evaluation.scores(model, group, mode)


def published_number(published: Mapping[str, Any], keys: Sequence[str]) -> float:
    """A single published number; the last key is the name of a column."""
    numbers = _at(published, keys[:-1])
    return float(numbers[published["columns"].index(keys[-1])])


def table_cells(rows: Sequence[ResultRow]) -> list[list[str]]:
    """Header and cells of a comparison's table."""
    shown = _PUBLISHED if any(row.published for row in rows) else _SHOWN
    header = ["variant", "model"]
    header += [f"{group.replace('_', ' ')} {TITLES[column]}" for group, column in shown]
    cells = [[*header, "harmonic mIoU"]]
    for row in rows:
        line = [row.text, row.model]
        for group, column in shown:
            ours = _text(getattr(row.scores[group], column))
            numbers = row.published.get(group)
            theirs = "" if numbers is None else f" / {numbers[COLUMNS.index(column)]:.1f}"
            line.append(ours + theirs)
        cells.append([*line, _text(row.harmonic)])
    return cells


def _text(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else ""


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in values.items()}


def _at(published: Mapping[str, Any], keys: Sequence[str]) -> Any:
    """What stands in the published numbers under some keys."""
    value: Any = published
    for key in keys:
        value = value[key]
    return value
