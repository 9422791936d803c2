"""The rows of `pipeline.py` as a table and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

__all__ = ["table", "write_plot"]


def table(rows: Sequence[dict[str, Any]], title: str) -> Table:
    """Frames per second of each row, and ratios."""
    result = Table(title=f"Frames per second, {title}")
    for name in (
        "backend",
        "labels",
        "encode",
        "network",
        "szn-run",
        "share",
        "decoded",
        "share",
        "plain script",
        "ratio",
        "thesis",
        "ratio",
    ):
        result.add_column(name, justify="left" if name == "backend" else "right")
    for row in rows:
        result.add_row(
            f"{row['backend']} {row['precision']}",
            f"{row['labels']:,}",
            "H.264" if row["encode"] else "no",
            f"{row['network_fps']:.0f}",
            f"{row['pipeline_fps']:.0f}",
            f"{row['share_of_network']:.1%}",
            f"{row['decoded_fps']:.0f}",
            f"{row['share_of_decoded']:.1%}",
            f"{row['plain_script_fps']:.2f}",
            f"{row['plain_ratio']:.1f}",
            f"{row['thesis_fps']:.2f}",
            f"{row['thesis_ratio']:.0f}",
        )
    return result


def write_plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Bars of the frames per second of each row, to a PNG, PDF or SVG file."""
    from szn_train.figures import new_figure

    names = ("network_fps", "pipeline_fps", "plain_script_fps", "thesis_fps")
    figure, [[axes]] = new_figure(8, 4)
    at = np.arange(len(rows))
    for offset, name in enumerate(names):
        label = name.removesuffix("_fps").replace("_", " ").replace("pipeline", "szn-run")
        axes.bar(at + 0.2 * offset, [row[name] for row in rows], 0.2, label=label)
    axes.set_yscale("log")
    axes.set_ylabel("frames per second")
    axes.set_xticks(
        at + 0.3,
        [
            f"{r['backend']} {r['precision']}\n"
            f"{r['labels']} labels{', H.264' if r['encode'] else ''}"
            for r in rows
        ],
        rotation=30,
        ha="right",
        fontsize=7,
    )
    axes.legend()
    figure.savefig(path)
