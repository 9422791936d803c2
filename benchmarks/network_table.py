"""The rows of `network.py` as a table and as a plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

__all__ = ["table", "write_plot"]


def table(rows: Sequence[dict[str, Any]], hint: str, threads: int) -> Table:
    """Rows of a hint, in milliseconds.

    Args:
        rows: With their shares of the peak.
        hint: "latency" or "throughput".
        threads: CPU threads in all.
    """
    per = "frame, several calls at a time" if hint == "throughput" else "call"
    result = Table(title=f"{hint}: ms per {per}; {threads} threads")
    for name in (
        "model", "input", "backend", "precision", "batch", "ours", "vendor's tool", "ratio",
        "(range)", "unpinned", "GMAC a frame", "share of peak",
    ):  # fmt: skip
        result.add_column(name, justify="right")
    for row in rows:
        compared = row["vendor_ms"] is not None
        share = row["peak_share"]
        result.add_row(
            row["model"],
            "{} x {}".format(*row["input_hw"]),
            row["backend"],
            row["precision"],
            str(row["batch"]),
            f"{row['ours_ms']:.2f}",
            f"{row['vendor_ms']:.2f}" if compared else "not run",
            f"{row['ratio']:.2f}" if compared else "",
            "{:.2f}-{:.2f}".format(*row["ratio_range"]) if compared else "",
            f"{row['ratio_unpinned']:.2f}" if "ratio_unpinned" in row else "",
            f"{row['gmacs']:.2f}",
            f"{100 * share:.0f} %" if share is not None else "",
        )
    return result


def write_plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Ours and the vendor's milliseconds, a line a row, in a file of the kind its suffix says."""
    from szn_train.figures import new_figure

    figure, [[axes]] = new_figure(8, 1 + 0.3 * len(rows))
    names = [
        "{model} {1} x {0}, {backend} {precision}, batch {batch}, ms per {ms_per}".format(
            *row["input_hw"], **row
        )
        for row in rows
    ]
    axes.plot([row["ours_ms"] for row in rows], names, "o", label="ours")
    theirs = [row["vendor_ms"] or math.nan for row in rows]
    axes.plot(theirs, names, "|", markersize=14, label="vendor's tool")
    axes.grid(axis="y", alpha=0.3)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("ms")
    axes.legend()
    figure.savefig(path)
