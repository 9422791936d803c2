"""What the gate measured, for people and for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from szn_export.gate import Budget, Comparison, Flips
from szn_runtime._cv import cv2
from szn_runtime.labels import LabelSet
from szn_runtime.overlay import render

__all__ = ["Row", "flips_picture", "report_json", "report_markdown"]

OK, PAST, FAILED, NOT_RUN = "ok", "past its budget", "failed", "built, not run"
_WIDTH = 320
_RED_BGR = (40, 40, 230)


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One artefact in one runner.

    Args:
        artefact: File name, or what a runner makes of a file.
        runner: Library and precision that ran it.
        precision: That the budget is for.
        budget: What it may differ by.
        comparison: What was measured; None where nothing here can run it.
        problem: Why it is past its budget, why it failed, or why it did not run.
        failed: Whether it ran, or should have run, and did not succeed.
        own: Whether the runner computes in the precision that the file is made for.
        flips: The frames with the most flips, worst first.
    """

    artefact: str
    runner: str
    precision: str
    budget: Budget
    comparison: Comparison | None = None
    problem: str | None = None
    failed: bool = False
    own: bool = True
    flips: Sequence[Flips] = ()

    @property
    def verdict(self) -> str:
        """`ok`, `past its budget`, `failed` or `built, not run`."""
        if self.comparison is None:
            return FAILED if self.failed else NOT_RUN
        return PAST if self.failed else OK

    @property
    def refuses(self) -> bool:
        """Whether the file may not go into the bundle."""
        return self.own and self.failed

    def failing(self, problem: str) -> Row:
        """The same row with what is wrong."""
        return replace(self, problem=problem, failed=True)

    def measured(self, comparison: Comparison, flips: Sequence[Flips]) -> Row:
        """The same row with what was measured."""
        return replace(self, comparison=comparison, flips=flips)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a number that is none is null."""
        document = {
            "artefact": self.artefact,
            "runner": self.runner,
            "precision": self.precision,
            "budget": asdict(self.budget),
            "comparison": None if self.comparison is None else self.comparison.to_dict(),
            "verdict": self.verdict,
            "problem": self.problem,
        }
        cleaned = _without_nan(document)
        return cleaned if isinstance(cleaned, dict) else document


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def report_json(rows: Sequence[Row], **facts: Any) -> bytes:
    """All rows, and what else is known, as JSON."""
    values = {"rows": [row.to_dict() for row in rows], **facts}
    return (json.dumps(values, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def report_markdown(title: str, rows: Sequence[Row], *, notes: Sequence[str] = ()) -> bytes:
    """The same as a table, with notes as paragraphs below.

    Args:
        title: Of the model.
        rows: In the order of the table.
        notes: Markdown blocks, such as a table of layers.
    """
    measured = [row.comparison for row in rows if row.comparison is not None]
    scored = any(comparison.quality is not None for comparison in measured)
    head = ["artefact", "runs in", "largest difference", "mean difference", "label flips"]
    head += ["seenmask flips"]
    if scored:
        head += ["FCN-JE mIoU", "SZN harmonic", "SZN-PS harmonic"]
    head += ["budget", "verdict"]
    lines = [
        f"# Export of {title}",
        "",
        "Every artefact that can run here ran beside PyTorch on the same real images before it was "
        "written. mIoU is that of train_seen; harmonic is its harmonic mean with that of unseen.",
        "",
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
    ]
    lines += [f"| {' | '.join(_cells(row, scored))} |" for row in rows]
    lines.append("")
    if measured:
        first = measured[0]
        sizes = ", ".join(f"{h} x {w}" for h, w in first.sizes_hw)
        lines += [
            f"{first.images} images, {first.frames} frames, in batches of "
            f"{', '.join(map(str, first.batches))}, at input sizes {sizes}.",
            "",
        ]
        if scored and first.reference_quality is not None:
            scores = ", ".join(_scores(first.reference_quality.miou))
            lines += [f"PyTorch's own mIoU: {scores}.", ""]
    for row in rows:
        if row.problem is not None:
            lines += [f"{row.artefact} in {row.runner}, {row.verdict}: {row.problem}", ""]
    for note in notes:
        lines += [note, ""]
    return "\n".join(lines).encode()


def _cells(row: Row, scored: bool) -> list[str]:
    budget = f"{row.budget.label_flips:g} %"
    if row.budget.miou_points is not None:
        budget += f", {row.budget.miou_points:g} points"
    comparison = row.comparison
    if comparison is None:
        blank = [""] * (4 + 3 * scored)
        return [row.artefact, row.runner, *blank, budget, row.verdict]
    c = comparison
    cells = [
        row.artefact,
        row.runner,
        f"{c.embedding_max:.2g} of {c.embedding_scale:.2g}",
        f"{c.embedding_mean:.2g}",
        f"{c.label_flips:.4f} %",
        f"{c.seenmask_flips:.4f} %",
    ]
    if scored:
        shown = {} if c.quality is None else c.quality.miou
        pairs = (("FCN-JE", "train_seen"), ("SZN", "harmonic"), ("SZN-PS", "harmonic"))
        cells += [_score(shown.get(model, {}).get(group)) for model, group in pairs]
    return [*cells, budget, row.verdict]


def _score(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.2f}"


def _scores(miou: dict[str, dict[str, float]]) -> list[str]:
    return [
        f"{model} {group} {_score(value) or 'none'}"
        for model, groups in miou.items()
        for group, value in groups.items()
    ]


def flips_picture(flips: Sequence[Flips], labels: LabelSet) -> bytes:
    """Frames as rows: photo, PyTorch's labels, the artefact's, and the differing pixels in red.

    Returns:
        A PNG file.
    """
    rows = []
    for each in flips:
        height = max(1, round(each.image.shape[0] * _WIDTH / each.image.shape[1]))
        grey = cv2.cvtColor(cv2.cvtColor(each.image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
        differing = (grey // 2 + 100).astype(np.uint8)
        differing[each.reference != each.found] = _RED_BGR
        drawn = (
            render(each.image, maps, labels.names, labels.seen)
            for maps in (each.reference, each.found)
        )
        tiles = [_resized(tile, height) for tile in (each.image, *drawn, differing)]
        rows.append(np.hstack(tiles))
    picture = np.vstack(rows)
    return bytes(cv2.imencode(".png", picture)[1].tobytes())


def _resized(image: NDArray[np.uint8], height: int) -> NDArray[np.uint8]:
    resized: NDArray[np.uint8] = cv2.resize(
        image, (_WIDTH, height), interpolation=cv2.INTER_NEAREST
    )
    return resized
