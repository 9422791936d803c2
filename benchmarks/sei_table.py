"""The rows of `sei.py` as a table and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

__all__ = ["table", "write_plot"]


def table(rows: Sequence[dict[str, Any]], dim: int) -> Table:
    """All rows, in milliseconds and ratios; "-" where a method was not run.

    Args:
        rows: Those of a frame and stride together.
        dim: Length j of an embedding.
    """
    result = Table(title=f"SEI, j = {dim}: ours on the grid against methods per pixel")
    for head in (
        "frame", "stride", "seenmask", "labels", "ours, ms", "frames/s", "PyTorch, ms", "ratio",
        "ONNX, ms", "ratio", "equal pixels",
    ):  # fmt: skip
        result.add_column(head, justify="right")

    def number(value: float | None, form: str, unit: str = "") -> str:
        return "-" if value is None else f"{value:{form}}{unit}"

    last = rows[0]
    for row in rows:
        if (row["size_hw"], row["stride"]) != (last["size_hw"], last["stride"]):
            result.add_section()
        last = row
        share = row["equal_share"]
        result.add_row(
            f"{row['size_hw'][0]}x{row['size_hw'][1]}",
            str(row["stride"]),
            row["seenmask"],
            f"{row['labels']:,}",
            number(row["ours_ms"], ".2f"),
            number(1000 / row["ours_ms"], ",.0f"),
            number(row["dense_ms"], ",.0f"),
            number(row["ratio"], ",.0f", "x"),
            number(row["onnx_ms"], ",.0f"),
            number(row["onnx_ratio"], ",.0f", "x"),
            number(None if share is None else 100 * share, ".4f", " %"),
        )
    return result


def write_plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Milliseconds over labels at 480 x 640, in a file of the kind its suffix says."""
    from szn_train.figures import new_figure

    figure, [[axes]] = new_figure(5, 3.5)
    first = [row for row in rows if row["size_hw"] == [480, 640] and row["stride"] == 32]
    for name, key, line in (
        ("PyTorch, per pixel", "dense_ms", "s--"),
        ("onnxruntime, per pixel", "onnx_ms", "^:"),
        ("ours, on the grid", "ours_ms", "o-"),
    ):
        run = [row for row in first if row["seenmask"] == "half" and row[key] is not None]
        axes.loglog([row["labels"] for row in run], [row[key] for row in run], line, label=name)
    axes.set_xlabel("labels")
    axes.set_ylabel("ms per frame of 480 x 640")
    axes.legend(loc="center right")
    figure.savefig(path)
