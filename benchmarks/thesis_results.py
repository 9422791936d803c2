"""Results of comparisons as rows of numbers, with the published ones beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thesis_plan import ALL_LABELS, BASELINE, PERFECT, SZN, Comparison

from szn_train.evaluate import GROUPS, Evaluation
from szn_train.metrics import Mode, Scores, harmonic_mean

__all__ = [
    "COLUMNS",
    "TITLES",
    "Evaluations",
    "ResultRow",
    "harmonic_of",
    "model_name",
    "published_number",
    "published_numbers",
    "result_rows",
    "scores_of",
    "table_cells",
    "variant_cells",
]

COLUMNS = ("pa", "ca", "miou", "wiou")
TITLES = {"pa": "PA", "ca": "CA", "miou": "mIoU", "wiou": "wIoU", "harmonic": "harmonic mIoU"}
_SHOWN = (
    ("overall", "pa"), ("overall", "miou"), ("train_seen", "pa"), ("train_seen", "miou"),
    ("unseen", "pa"), ("unseen", "miou"),
)  # fmt: skip
"""Of a table without published numbers."""
_OF_VARIANT = (
    (BASELINE, "overall", "pa"), (BASELINE, "overall", "miou"), (BASELINE, "train_seen", "miou"),
    (ALL_LABELS, "overall", "miou"), (ALL_LABELS, "unseen", "pa"),
    (SZN, "overall", "miou"), (SZN, "unseen", "pa"), (SZN, "overall", "harmonic"),
    (PERFECT, "overall", "miou"), (PERFECT, "unseen", "pa"), (PERFECT, "unseen", "miou"),
    (PERFECT, "overall", "harmonic"),
)  # fmt: skip
"""Model, group and metric, of a table with a line for each variant."""
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
        harmonic: Harmonic mean of train_seen and unseen mIoU of `scores`, NaN without either.
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
                    harmonic=harmonic_of(evaluation, model, mode, comparison.unseen),
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


def harmonic_of(
    evaluation: Evaluation, model: str, mode: Mode, unseen: tuple[str, ...] | None
) -> float:
    """Harmonic mean of train_seen mIoU and that of the labels which unseen scores are about."""
    train_seen, of_unseen = (
        scores_of(evaluation, model, group, mode, unseen).miou for group in ("train_seen", "unseen")
    )
    return harmonic_mean(train_seen, of_unseen)


def published_number(published: Mapping[str, Any], keys: Sequence[str]) -> float:
    """A single published number; the last key is the name of a column."""
    numbers = _at(published, keys[:-1])
    return float(numbers[published["columns"].index(keys[-1])])


def table_cells(rows: Sequence[ResultRow]) -> list[list[str]]:
    """Header and cells of a comparison's table, with a line for each row.

    Where all labels are seen only the overall scores are shown: the others are the same or none.
    """
    with_unseen = any(row.sizes[2] for row in rows)
    if any(row.published for row in rows):
        shown = _PUBLISHED
    else:
        shown = _SHOWN if with_unseen else tuple(("overall", column) for column in COLUMNS)
    cells = [["variant", "model", *(f"{group} {TITLES[column]}" for group, column in shown)]]
    for row in rows:
        line = [row.text, row.model]
        for group, column in shown:
            ours = _text(getattr(row.scores[group], column))
            numbers = row.published.get(group)
            theirs = "" if numbers is None else f" / {numbers[COLUMNS.index(column)]:.1f}"
            line.append(ours + theirs)
        cells.append(line)
    if with_unseen:
        harmonic = [TITLES["harmonic"], *(_text(row.harmonic) for row in rows)]
        for line, cell in zip(cells, harmonic, strict=True):
            line.append(cell)
    return cells


def variant_cells(rows: Sequence[ResultRow], first: str) -> list[list[str]]:
    """Header and cells of a table with a line for each variant: of each model what tells most.

    Args:
        rows: Of all variants.
        first: Title of the first column.
    """
    found: dict[str, dict[str, ResultRow]] = {}
    for row in rows:
        models = found.setdefault(row.text, {})
        chooses_all = row.model.endswith(f"({ALL_LABELS})")
        models[ALL_LABELS if chooses_all else row.model if models else BASELINE] = row
    baseline = " or ".join(dict.fromkeys(models[BASELINE].model for models in found.values()))
    header = [
        f"{baseline if model == BASELINE else model} "
        f"{'' if group == 'overall' else group + ' '}{TITLES[metric]}"
        for model, group, metric in _OF_VARIANT
    ]
    lines = []
    for text, models in found.items():
        line = [text]
        for model, group, metric in _OF_VARIANT:
            of_model = models.get(model)
            if of_model is None:
                line.append("")
            elif metric == "harmonic":
                line.append(_text(of_model.harmonic))
            else:
                line.append(_text(getattr(of_model.scores[group], metric)))
        lines.append(line)
    return [[first, *header], *lines]


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
