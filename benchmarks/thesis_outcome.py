"""Everything that is known so far of a plan's comparisons, and how it is shown and written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from machine import write_report
from rich.console import Console
from rich.table import Table
from thesis_findings import Finding, findings, markdown
from thesis_plan import Comparison, Plan
from thesis_results import ResultRow, published_numbers, result_rows, table_cells
from thesis_variance import VarianceRow, variance_markdown, variance_rows

from szn_train.checkpoint import write_atomically
from szn_train.evaluate import Evaluation
from szn_train.metrics import Mode

__all__ = ["SEEDS", "Outcome"]

SEEDS = "seeds"
"""Name of the comparison whose variants differ in their seed alone."""


class Outcome:
    """Everything known so far, and how it is shown and written.

    Args:
        comparisons: In the order of printing.
        plan: Which they are of.
        mode: Reading of the metrics.
        words: Source of word vectors for the explained variance.
        files: "json" and "markdown" to their paths, as far as they are wanted.
        command: What was called, for the Markdown.
    """

    def __init__(
        self,
        comparisons: Sequence[Comparison],
        plan: Plan,
        mode: Mode,
        words: str,
        files: Mapping[str, Path],
        command: str,
    ) -> None:
        self._comparisons, self._mode, self._words, self._files = comparisons, mode, words, files
        self._command, self._published = command, published_numbers()
        # seeds are only known where their comparison is run, now or before
        self._seeds = next(
            (tuple(c.variants.values()) for c in plan.comparisons if c.name == SEEDS), ()
        )
        self.evaluations: dict[str, Evaluation | None] = {}
        self.not_run: dict[str, str] = {}
        self._variance: list[VarianceRow] | None = None

    def variance(self) -> list[VarianceRow]:
        """Explained variance of the words, computed once."""
        if self._variance is None:
            self._variance = variance_rows(self._words, self._published)
        return self._variance

    def of(self, comparison: Comparison) -> tuple[list[ResultRow], list[Finding]]:
        """Rows and findings of a comparison."""
        rows = result_rows(comparison, self.evaluations, self._mode, self._published)
        found = findings(comparison, self.evaluations, self._mode, self._published, self._seeds)
        return rows, found

    def save(self) -> None:
        """Write the files."""
        if "json" in self._files:
            results = []
            for comparison in self._comparisons:
                rows, found = self.of(comparison)
                results.append({
                    "comparison": comparison.name,
                    "title": comparison.title,
                    "rows": [row.to_dict() for row in rows],
                    "claims": [each.to_dict() for each in found],
                })  # fmt: skip
            variance = [row.to_dict() for row in self._variance or ()]
            write_report(
                self._files["json"], "thesis_tables", results,
                mode=self._mode, not_run=self.not_run, variance=variance,
            )  # fmt: skip
        if "markdown" in self._files:
            path = self._files["markdown"]
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, self._markdown().encode())

    def _markdown(self) -> str:
        parts = [f"`{self._command}`, {self._mode} metrics, percent:", ""]
        for comparison in self._comparisons:
            if not comparison.variants:
                parts.append(variance_markdown(comparison.title, self._variance or []))
                continue
            rows, found = self.of(comparison)
            if rows:
                parts.append(markdown(comparison, rows, found))
        parts += [f"Not run: {name}: {reason}" for name, reason in self.not_run.items()]
        return "\n".join(parts).rstrip() + "\n"

    def show(self, comparison: Comparison, console: Console) -> None:
        """Print a comparison's table and findings."""
        if not comparison.variants:
            table = Table(title=comparison.title)
            for name in ("j", "kept here", "thesis (300 dimensions)"):
                table.add_column(name, justify="right")
            for row in self.variance():
                table.add_row(*row.cells())
            console.print(table)
            return
        rows, found = self.of(comparison)
        if rows:
            header, *lines = table_cells(rows)
            table = Table(title=f"{comparison.title}; {self._mode} metrics, percent")
            for position, name in enumerate(header):
                table.add_column(name, justify="left" if position < 2 else "right")
            for line in lines:
                table.add_row(*line)
            console.print(table)
        if comparison.note:
            console.print(comparison.note, markup=False)
        for finding in found:
            console.print(f"- {finding}", markup=False, highlight=False)
