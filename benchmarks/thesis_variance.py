"""Table 1 of the thesis: how much of the words' variance j dimensions keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from szn_train.variance import explained_variance
from szn_train.word_vectors import load_word_vectors

__all__ = ["VarianceRow", "variance_markdown", "variance_rows"]


@dataclass(frozen=True, kw_only=True)
class VarianceRow:
    """One number of dimensions.

    Attributes:
        j: Dimensions.
        dimensions: Of the words themselves.
        source: Name of the words.
        kept: Share of the variance that j principal components keep; None if j is more than there
            are.
        published: The thesis' share, for Google News' 300 dimensions, or None.
    """

    j: int
    dimensions: int
    source: str
    kept: float | None
    published: float | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    def cells(self) -> tuple[str, str, str]:
        """Of a table: j, ours, the thesis'."""
        shares = ("" if v is None else f"{100 * v:.1f} %" for v in (self.kept, self.published))
        kept, published = shares
        return str(self.j), kept, published


def variance_rows(source: str, published: Mapping[str, Any]) -> list[VarianceRow]:
    """Explained variance of a vocabulary, for the thesis' numbers of dimensions.

    Args:
        source: Of word vectors, as `szn_train.word_vectors.load_word_vectors` reads it.
        published: The thesis' tables.

    Raises:
        InputError: If the source has no vocabulary.
    """
    words = load_word_vectors(source)
    kept = explained_variance(words.vectors)
    table: Mapping[str, float] = published["table1_explained_variance"]
    return [
        VarianceRow(
            j=j,
            dimensions=len(kept),
            source=words.source,
            kept=float(kept[j - 1]) if j <= len(kept) else None,
            published=table.get(str(j)),
        )
        for j in sorted({*map(int, table), len(kept)})
    ]


def variance_markdown(title: str, rows: Sequence[VarianceRow]) -> str:
    """Table 1 as Markdown."""
    if not rows:
        return ""
    head = rows[0]
    lines = [
        f"### {title}",
        "",
        f"| j | {head.source}, {head.dimensions} dimensions | thesis: Google News, 300 |",
        "|---|---|---|",
        *(f"| {' | '.join(row.cells())} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"
