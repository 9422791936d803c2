"""An evaluation as files of the run folder and as tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from szn_train.checkpoint import write_csv, write_json
from szn_train.evaluate import GROUPS, MODES, Evaluation
from szn_train.metrics import Mode, row_percent
from szn_train.mistakes import destinations, role

__all__ = ["confusion_rows", "mistake_rows", "print_mistakes", "print_scores", "write_report"]


def write_report(evaluation: Evaluation, folder: Path, split: str) -> None:
    """Write the files of an evaluation; those of an earlier one of the split are replaced.

    Args:
        evaluation: What to write.
        folder: The run folder, which gets `eval-SPLIT.json` with everything, and as tables
            `eval-SPLIT.csv` (scores), `eval-SPLIT.classes.csv` (scores of each class),
            `eval-SPLIT.confusion.csv` (confusion matrices in percent of each row) and
            `eval-SPLIT.errors.csv` (where the pixels of each class went), the last also as JSON.
        split: Name of the split.
    """
    mistakes = mistake_rows(evaluation)
    write_json(folder / f"eval-{split}.json", evaluation.to_dict())
    write_csv(folder / f"eval-{split}.csv", evaluation.rows())
    write_csv(folder / f"eval-{split}.classes.csv", evaluation.class_rows())
    write_csv(folder / f"eval-{split}.confusion.csv", confusion_rows(evaluation))
    if mistakes:
        write_csv(folder / f"eval-{split}.errors.csv", mistakes)
    write_json(folder / f"eval-{split}.errors.json", _nested(mistakes))


def confusion_rows(evaluation: Evaluation) -> list[dict[str, str | float]]:
    """A row for each model and class: what percent of its pixels received each label."""
    labels = evaluation.split.labels
    return [
        {"model": model, "truth": label, **dict(zip(labels, row.tolist(), strict=True))}
        for model, confusion in evaluation.confusions.items()
        for label, row in zip(labels, row_percent(confusion), strict=True)
    ]


def mistake_rows(evaluation: Evaluation) -> list[dict[str, str | int | float]]:
    """A row for each model, class and label that its pixels received, most pixels first."""
    split = evaluation.split
    return [
        {
            "model": model,
            "class": label,
            "set": role(split, label),
            "received": found.label,
            "received_set": role(split, found.label),
            "pixels": found.pixels,
            "percent": found.percent,
        }
        for model, confusion in evaluation.confusions.items()
        for label in split.labels
        for found in destinations(confusion, split.labels, label)
    ]


def _nested(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The rows of `mistake_rows` as model to class to labels received."""
    nested: dict[str, Any] = {}
    for row in rows:
        received = nested.setdefault(row["model"], {}).setdefault(row["class"], [])
        received.append(
            {"label": row["received"], "pixels": row["pixels"], "percent": row["percent"]}
        )
    return nested


def print_scores(evaluation: Evaluation, split: str, console: Console) -> None:
    """Print a table for each metric mode, and the seenmask's accuracy."""
    for mode in MODES:
        console.print(_scores_table(evaluation, split, mode))
    if evaluation.seenmask_accuracy is not None:
        console.print(f"seenmask accuracy {evaluation.seenmask_accuracy:.1f} %")


def _scores_table(evaluation: Evaluation, split: str, mode: Mode) -> Table:
    table = Table(title=f"{split}, {evaluation.images} images, {mode} metrics, percent")
    table.add_column("model")
    table.add_column("group")
    for name in ("PA", "CA", "mIoU", "wIoU", "harmonic mIoU"):
        table.add_column(name, justify="right")
    for model in evaluation.confusions:
        for group in GROUPS:
            s = evaluation.scores(model, group, mode)
            harmonic = evaluation.harmonic_miou(model, mode) if group == "overall" else None
            table.add_row(
                model,
                group,
                *(f"{value:.1f}" for value in (s.pa, s.ca, s.miou, s.wiou)),
                "" if harmonic is None else f"{harmonic:.1f}",
            )
        table.add_section()
    return table


def print_mistakes(evaluation: Evaluation, label: str, console: Console, most: int = 10) -> None:
    """Print where the pixels of a class went, for each model.

    Args:
        evaluation: The evaluation.
        label: The class.
        console: Where to print.
        most: Labels a model at most; a last row sums up the others.

    Raises:
        InputError: If `label` is no label.
    """
    split = evaluation.split
    table = Table()
    for name in ("model", "received", "of"):
        table.add_column(name)
    for name in ("pixels", "percent"):
        table.add_column(name, justify="right")
    for model, confusion in evaluation.confusions.items():
        found = destinations(confusion, split.labels, label)
        for one in found[:most]:
            table.add_row(
                model,
                one.label + (" (right)" if one.right else ""),
                role(split, one.label),
                f"{one.pixels:,}",
                f"{one.percent:.1f}",
            )
        others = found[most:]
        if others:
            pixels, percent = sum(o.pixels for o in others), sum(o.percent for o in others)
            table.add_row(model, f"{len(others)} others", "", f"{pixels:,}", f"{percent:.1f}")
        if not found:
            table.add_row(model, "no pixels", "", "0", "")
        table.add_section()
    table.title = f"where the pixels of {label} ({role(split, label)}) went"
    console.print(table)
