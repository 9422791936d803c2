"""An empty figure, and the files that a drawn one becomes."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from szn_runtime.errors import InputError, MissingDependencyError
from szn_train.checkpoint import write_atomically, write_csv, write_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["new_figure", "save_figure", "wrapped"]

_LETTERS = 10.5
"""Of a title that fit into an inch."""


def new_figure(
    width: float, height: float, *, rows: int = 1, columns: int = 1
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of `width` x `height` inches and its axes, `rows` x `columns`.

    It is made without pyplot, so nothing is kept after it, no window is opened and the user's
    backend stays as it is.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            "matplotlib is not installed", fix='pip install "szn[train]"'
        ) from error
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False).tolist()


def wrapped(title: str, width: float) -> str:
    """A title in as many lines as a figure `width` inches wide needs; brackets are not broken."""
    whole = re.sub(r"\([^()]*\)", lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), title)
    return textwrap.fill(whole, int(_LETTERS * width)).replace("\N{NO-BREAK SPACE}", " ")


def save_figure(
    figure: Figure, stem: Path, data: Mapping[str, Any] | Sequence[Mapping[str, Any]]
) -> list[Path]:
    """Write a figure as `stem`.png and `stem`.pdf and what it shows beside them.

    Args:
        figure: The figure.
        stem: Path without a suffix; folders are made if need be.
        data: A mapping is written as `stem`.json, rows with the same keys as `stem`.csv.

    Returns:
        The three paths.

    Raises:
        InputError: If there is no row.
    """
    if not data:
        raise InputError(f"figure {stem.name} has nothing to show")
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind, metadata in (("png", None), ("pdf", {"CreationDate": None})):
        content = io.BytesIO()
        # without a date the same figure is the same file
        figure.savefig(content, format=kind, dpi=150, metadata=metadata)
        paths.append(stem.with_name(f"{stem.name}.{kind}"))
        write_atomically(paths[-1], content.getvalue())
    if isinstance(data, Mapping):
        paths.append(stem.with_name(f"{stem.name}.json"))
        write_json(paths[-1], data)
    else:
        paths.append(stem.with_name(f"{stem.name}.csv"))
        write_csv(paths[-1], data)
    return paths
