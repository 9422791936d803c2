"""What a plan of training runs and comparisons is made of, for `thesis_tables.py`.

A variant is a class split and the few values that it changes in the recipe; all else is equal, so
that a difference between two variants has one cause. A comparison is some variants side by side,
and claims about them that are computed from the results.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from szn_runtime.errors import UsageError

__all__ = [
    "ALL_LABELS",
    "BASELINE",
    "PERFECT",
    "SZN",
    "Claim",
    "Comparison",
    "Figure",
    "Plan",
    "Side",
    "Variant",
    "between",
    "figures",
    "merged",
    "szn_claims",
]

BASELINE, ALL_LABELS, SZN, PERFECT = "baseline", "all labels", "SZN", "SZN-PS"
"""Models as claims name them: the baseline is FCN-S or FCN-JE, as the variant was trained, and it
chooses among train_seen or among all labels."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A training run.

    Args:
        split: Key of the plan's splits.
        changes: Values that replace those of the recipe; of a step only those that are named.
    """

    split: str
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of a claim.

    Args:
        name: What the claim calls it.
        variants: Names of variants; the best of them counts, so that both sides of a claim about
            optimisers may have a choice of learning rates.
        model: "baseline", "all labels", "SZN" or "SZN-PS".
        published: Keys into the published numbers, down to a list, and the column; or nothing.
        value: A number to compare with in place of variants.
    """

    name: str
    variants: tuple[str, ...] = ()
    model: str = BASELINE
    published: tuple[str, ...] = ()
    value: float | None = None


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One side is above the other, as the thesis found or chose; the results say whether it holds.

    Args:
        above: The side with the greater number.
        below: The other.
        metric: "pa", "ca", "miou" or "wiou", or "harmonic" with any group.
        group: One of `szn_train.evaluate.GROUPS`.
    """

    above: Side
    below: Side
    metric: str
    group: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Variants side by side.

    Args:
        name: For `--only`.
        title: Of the table.
        variants: Text of the first column to the name of a variant.
        table: Number of the thesis' table that asks the same, or None.
        unseen: Labels that the unseen scores are about; by default each variant's own U.
        published: Text of the first column and name of a model (or "baseline") to keys into the
            published numbers: of a list, which is overall, or of groups of lists.
        claims: What is computed from the results.
        x: Where the first column is a number, what it is: the figure is then a curve.
        note: A sentence below the table.
    """

    name: str
    title: str
    variants: Mapping[str, str] = field(default_factory=dict)
    table: int | None = None
    unseen: tuple[str, ...] | None = None
    published: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    x: str | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure of one run.

    Args:
        kind: "predictions" (two rows, section 6.4) or "confusion".
        variant: Name of the variant.
        model: "baseline", "SZN" or "SZN-PS".
    """

    kind: str
    variant: str
    model: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that is trained and compared on a data set.

    Args:
        recipe: Values of `TrainConfig` that all variants start from.
        splits: Name to values of `TrainConfig` about data and classes.
        variants: Name to variant.
        comparisons: In the order of printing.
        figures: Number to figure.
        same_images: Whether epochs are scaled so that every split trains on as many images as the
            one with the most; else a split with few images would also be trained less.
    """

    recipe: Mapping[str, Any]
    splits: Mapping[str, Mapping[str, Any]]
    variants: Mapping[str, Variant]
    comparisons: tuple[Comparison, ...]
    figures: Mapping[int, Figure]
    same_images: bool

    def values(
        self, variant: str, *, words: str | None = None, sizes: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Values of a variant's `TrainConfig`, but for `data`.

        Args:
            variant: Its name.
            words: Source of the embeddings in the recipe, if it is not the recipe's own.
            sizes: Values that all variants get, whatever they change: lengths and sizes.
        """
        chosen = self.variants[variant]
        recipe = merged(self.recipe, {} if words is None else {"embeddings": words})
        return merged(merged(merged(recipe, self.splits[chosen.split]), chosen.changes), sizes)

    def comparison(self, name: str) -> Comparison:
        """A comparison by its name.

        Raises:
            UsageError: If there is none.
        """
        for comparison in self.comparisons:
            if comparison.name == name:
                return comparison
        raise UsageError(
            f"no comparison {name!r}", expected=", ".join(c.name for c in self.comparisons)
        )


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Values with some replaced; tables, which are the training steps, are merged themselves."""
    result = dict(values)
    for key, value in changes.items():
        old = result.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            result[key] = merged(old, value)
        else:
            result[key] = value
    return result


def szn_claims(variant: str, published: str, suffix: str = "") -> tuple[Claim, ...]:
    """What the thesis found in each of its tables 3 to 5, whose FCN-JE chooses among all labels.

    Args:
        variant: Name of the variant.
        published: Key of the thesis' table.
        suffix: Of the models' names, where claims about several variants stand together.
    """
    baseline, szn, perfect = (
        Side(name=name + suffix, variants=(variant,), model=model)
        for name, model in (
            ("FCN-JE (all labels)", ALL_LABELS),
            ("SZN", SZN),
            ("SZN-PS", PERFECT),
        )
    )

    def with_numbers(side: Side, group: str, column: str) -> Side:
        row = side.name.removesuffix(suffix).removesuffix(" (all labels)")
        return replace(side, published=(published, row, group, column))

    return tuple(
        Claim(
            above=with_numbers(above, group, column),
            below=with_numbers(below, group, column),
            metric=column.lower(),
            group=group,
        )
        for above, below in ((szn, baseline), (perfect, szn))
        for group, column in (("unseen", "PA"), ("overall", "mIoU"))
    )


def between(
    above: tuple[str, tuple[str, ...]],
    below: tuple[str, tuple[str, ...]],
    *measures: tuple[str, str, str],
) -> tuple[Claim, ...]:
    """Claims that one side is above another by several measures (model, group, metric)."""
    return tuple(
        Claim(
            above=Side(name=above[0], variants=above[1], model=model),
            below=Side(name=below[0], variants=below[1], model=model),
            metric=metric,
            group=group,
        )
        for model, group, metric in measures
    )


def figures(predictions: tuple[str, str, str], baselines: tuple[str, str]) -> dict[int, Figure]:
    """Figures 8 to 18 of a plan.

    The thesis shows these two kinds of figures; which number shows what is this project's choice.

    Args:
        predictions: Three variants with unseen classes.
        baselines: FCN-S and FCN-JE with all classes seen.
    """
    listed = [Figure(kind="predictions", variant=name, model=SZN) for name in predictions]
    listed += [Figure(kind="confusion", variant=name, model=BASELINE) for name in baselines]
    listed += [
        Figure(kind="confusion", variant=name, model=model)
        for model in (SZN, PERFECT)
        for name in predictions
    ]
    return dict(enumerate(listed, start=8))
