"""The rows of `preprocess.py` as a table and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from preprocess_preparations import OURS
from rich.table import Table

from szn_runtime.backends.base import usable_cores

__all__ = ["table", "write_plot"]


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """All rows, those of a frame, backend and precision together.

    Args:
        rows: In that order.
    """
    result = Table(title=f"From a frame to the grids, ms; {usable_cores()} threads")
    result.add_column("frame, input (height x width)")
    result.add_column("backend")
    result.add_column("variant")
    for name in ("preprocess", "network", "sum", "ratio", "difference"):
        result.add_column(name, justify="right")
    before = None
    for row in rows:
        group = (row["frame_hw"], row["backend"], row["precision"])
        if before not in (None, group):
            result.add_section()
        before = group
        result.add_row(
            "{} x {}, {} x {}".format(*row["frame_hw"], *row["input_hw"]),
            f"{row['backend']} {row['precision']}",
            row["variant"],
            *(f"{row[key]:.2f}" for key in ("preprocess_ms", "network_ms", "sum_ms", "ratio")),
            f"{row['difference']:.1e}" if row["variant"] != OURS else "",
        )
    return result


def write_plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Milliseconds before and in the graph, a bar a row, in a file of the kind its suffix says."""
    from szn_train.figures import new_figure

    sizes = list(dict.fromkeys(tuple(row["frame_hw"]) for row in rows))
    figure, panels = new_figure(7, 1 + 0.25 * len(rows), rows=len(sizes))
    for [axes], size in zip(panels, sizes, strict=True):
        shown = [row for row in rows if tuple(row["frame_hw"]) == size]
        names = ["{backend} {precision}: {variant}".format(**row) for row in shown]
        before = [row["preprocess_ms"] for row in shown]
        inside = [row["network_ms"] for row in shown]
        axes.barh(names, before, label="before the graph")
        axes.barh(names, inside, left=before, label="in the graph")
        axes.tick_params(axis="y", labelsize="small")
        axes.invert_yaxis()
        axes.set_title(f"{size[1]} x {size[0]}")
        axes.set_xlabel("ms per frame")
        axes.legend()
    figure.savefig(path)
