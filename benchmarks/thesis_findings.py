"""What results say of a comparison's claims, and a comparison as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thesis_plan import ALL_LABELS, BASELINE, Claim, Comparison, Side
from thesis_results import (
    TITLES,
    Evaluations,
    ResultRow,
    model_name,
    published_number,
    scores_of,
    table_cells,
)

from szn_train.metrics import Mode

__all__ = ["Finding", "findings", "markdown", "spread"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A claim and what the results say of it.

    Attributes:
        claim: The claim.
        above: Number of the side that should be greater.
        below: Of the other.
        seeds: Range of the same number over runs that differ in their seed, or None.
        published: The thesis' two numbers, or None.
    """

    claim: Claim
    above: float
    below: float
    seeds: float | None
    published: tuple[float, float] | None

    @property
    def holds(self) -> bool:
        """Whether the side that should be is greater."""
        return self.above > self.below

    def __str__(self) -> str:
        claim, difference = self.claim, self.above - self.below
        metric = TITLES[claim.metric]
        of_group = "" if claim.metric == "harmonic" else claim.group.replace("_", " ") + " "
        models = {_of_model(claim.above), _of_model(claim.below)} - {""}
        text = (
            f"{'holds' if self.holds else 'does not hold'}: {claim.above.name} is above "
            f"{claim.below.name} in {of_group}{metric}"
            f"{' of ' + models.pop() if len(models) == 1 else ''}: {self.above:.1f} against "
            f"{self.below:.1f}, {difference:+.1f} points"
        )
        if self.seeds is not None and abs(difference) <= self.seeds:
            text += f", which is within the {self.seeds:.1f} that seeds change"
        if self.published is not None:
            text += " (thesis: {:.1f} against {:.1f})".format(*self.published)
        return text

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "text": str(self),
            "holds": self.holds,
            "above": self.above,
            "below": self.below,
            "difference": self.above - self.below,
            "seeds": self.seeds,
            "published": None if self.published is None else list(self.published),
        }


def findings(
    comparison: Comparison,
    evaluations: Evaluations,
    mode: Mode,
    published: Mapping[str, Any],
    seeds: Sequence[str] = (),
) -> list[Finding]:
    """What the results say of the claims whose variants are all done.

    Args:
        comparison: The comparison.
        evaluations: Results so far.
        mode: Reading of the metrics.
        published: What `published_numbers` returns.
        seeds: Variants that differ in their seed alone.
    """
    found = []
    for claim in comparison.claims:
        above, below = (
            _best(claim, side, evaluations, mode, comparison.unseen)
            for side in (claim.above, claim.below)
        )
        if above is None or below is None:
            continue
        numbers = tuple(
            float(published_number(published, side.published))
            for side in (claim.above, claim.below)
            if side.published
        )
        ranges = [
            spread(claim, side.model, evaluations, mode, comparison.unseen, seeds)
            for side in (claim.above, claim.below)
        ]
        known = [each for each in ranges if each is not None]
        found.append(
            Finding(
                claim=claim,
                above=above,
                below=below,
                seeds=max(known) if known else None,
                published=(numbers[0], numbers[1]) if len(numbers) == 2 else None,
            )
        )
    return found


def spread(
    claim: Claim,
    model: str,
    evaluations: Evaluations,
    mode: Mode,
    unseen: tuple[str, ...] | None,
    seeds: Sequence[str],
) -> float | None:
    """Range of a claim's number over seeds; None unless two or more have been evaluated."""
    sides = (Side(name=seed, variants=(seed,), model=model) for seed in seeds)
    numbers = [_best(claim, side, evaluations, mode, unseen) for side in sides]
    known = [number for number in numbers if number is not None]
    return max(known) - min(known) if len(known) > 1 else None


def markdown(comparison: Comparison, rows: Sequence[ResultRow], found: Sequence[Finding]) -> str:
    """A comparison as Markdown: title, table, note, claims.

    Where there are published numbers the table has all of theirs, ours first, then the thesis';
    else those that tell most.
    """
    parts = [f"### {comparison.title}", ""]
    if rows:
        parts += [*_table(table_cells(rows)), ""]
    if comparison.note:
        parts += [comparison.note, ""]
    parts += [f"- {finding}" for finding in found]
    return "\n".join(parts).rstrip() + "\n"


def _table(cells: Sequence[Sequence[str]]) -> Iterator[str]:
    header, *lines = cells
    for number, line in enumerate([header, ["---"] * len(header), *lines]):
        yield "|" + "|".join(line if number == 1 else [f" {cell} " for cell in line]) + "|"


def _of_model(side: Side) -> str:
    """The model of a side, where its name does not say it already."""
    told = side.model in {BASELINE, ALL_LABELS} or side.name.startswith(side.model)
    return "" if told else side.model


def _best(
    claim: Claim,
    side: Side,
    evaluations: Evaluations,
    mode: Mode,
    unseen: tuple[str, ...] | None,
) -> float | None:
    """The claim's number of the best variant of a side, of those that could be trained.

    None if there is none, or some are still to come.
    """
    if side.value is not None:
        return side.value
    if not set(side.variants) <= set(evaluations):
        return None
    numbers = []
    for variant in side.variants:
        evaluation = evaluations[variant]
        model = None if evaluation is None else model_name(evaluation, side.model)
        if evaluation is None or model is None:
            continue
        if claim.metric == "harmonic":
            numbers.append(evaluation.harmonic_miou(model, mode))
        else:
            scores = scores_of(evaluation, model, claim.group, mode, unseen)
            numbers.append(float(getattr(scores, claim.metric)))
    best = max(numbers, default=math.nan)
    return best if math.isfinite(best) else None
