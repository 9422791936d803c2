"""What results say of a comparison's claims, and a comparison as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from thesis_plan import ALL_LABELS, BASELINE, PERFECT, SZN, Claim, Comparison, Side
from thesis_results import (
    TITLES,
    Evaluations,
    ResultRow,
    harmonic_of,
    model_name,
    published_number,
    scores_of,
    table_cells,
    variant_cells,
)

from szn_train.metrics import Mode

__all__ = ["Finding", "findings", "markdown", "spread"]

_EQUAL = 0.05
"""Points that no table shows: numbers so close are called equal."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A claim and what the results say of it.

    Attributes:
        claim: The claim.
        above: Number of the side that should be greater.
        below: Of the other.
        seeds: Range of the same number over runs that differ in their seed, the greater of the two
            sides'; of two models of one run the range of their difference; or None.
        published: The thesis' two numbers, or None.
    """

    claim: Claim
    above: float
    below: float
    seeds: float | None
    published: tuple[float, float] | None

    @property
    def difference(self) -> float:
        """How far the side that should be greater is above the other, in points."""
        return self.above - self.below

    @property
    def holds(self) -> bool:
        """Whether the side that should be is greater."""
        return self.difference > 0

    @property
    def decided(self) -> bool:
        """Whether the difference is more than another seed changes."""
        return abs(self.difference) > max(self.seeds or 0.0, _EQUAL)

    def __str__(self) -> str:
        claim = self.claim
        verdict = "not decided"
        if self.decided:
            verdict = "holds" if self.holds else "does not hold"
        of_group = "" if claim.metric == "harmonic" else claim.group + " "
        models = {_of_model(claim.above), _of_model(claim.below)} - {""}
        text = (
            f"{verdict}: {claim.above.name} is above {claim.below.name} in {of_group}"
            f"{TITLES[claim.metric]}{' of ' + models.pop() if len(models) == 1 else ''}: "
            f"{self.above:.1f} against {self.below:.1f}"
        )
        if abs(self.difference) <= _EQUAL:
            text += ", no difference"
        else:
            text += f", {self.difference:+.1f} points"
            if not self.decided:
                text += f", which is within the {self.seeds:.1f} that seeds change"
        if self.published is not None:
            text += " (thesis: {:.1f} against {:.1f})".format(*self.published)
        return text

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "text": str(self),
            "holds": self.holds,
            "decided": self.decided,
            "above": self.above,
            "below": self.below,
            "difference": self.difference,
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
        found.append(
            Finding(
                claim=claim,
                above=above,
                below=below,
                seeds=_seeds_change(claim, evaluations, mode, comparison.unseen, seeds),
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


def _seeds_change(
    claim: Claim,
    evaluations: Evaluations,
    mode: Mode,
    unseen: tuple[str, ...] | None,
    seeds: Sequence[str],
) -> float | None:
    """What a claim's difference is measured by; None if nothing is known or seeds do not matter."""
    sides = claim.above, claim.below
    if claim.above.variants != claim.below.variants:
        ranges = (spread(claim, s.model, evaluations, mode, unseen, seeds) for s in sides)
        return max((each for each in ranges if each is not None), default=None)
    # two models of one run share its chances
    models = claim.above.model, claim.below.model
    if models == (PERFECT, SZN) and (claim.group, claim.metric) == ("unseen", "pa"):
        return None  # a perfect seenmask keeps every pixel of U that is right without it
    differences = []
    for seed in seeds:
        above, below = (
            _best(claim, replace(side, variants=(seed,)), evaluations, mode, unseen)
            for side in sides
        )
        if above is not None and below is not None:
            differences.append(above - below)
    return max(differences) - min(differences) if len(differences) > 1 else None


def markdown(comparison: Comparison, rows: Sequence[ResultRow], found: Sequence[Finding]) -> str:
    """A comparison as Markdown: title, table, note, claims.

    Where there are published numbers the table has all of theirs, ours first, then the thesis';
    else those that tell most, and one line for each of more than two variants.
    """
    parts = [f"### {comparison.title}", ""]
    if rows:
        models = max(sum(row.text == text for row in rows) for text in {r.text for r in rows})
        many = models > 1 and len(comparison.variants) > 2
        plain = not any(row.published for row in rows)
        first = comparison.x or "variant"
        parts += [*_table(variant_cells(rows, first) if many and plain else table_cells(rows)), ""]
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
            numbers.append(harmonic_of(evaluation, model, mode, unseen))
        else:
            scores = scores_of(evaluation, model, claim.group, mode, unseen)
            numbers.append(float(getattr(scores, claim.metric)))
    best = max(numbers, default=math.nan)
    return best if math.isfinite(best) else None
